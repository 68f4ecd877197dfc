"""The lock of a dataset: one driver at a time, best effort.

- On a local disk or NFS it is `_lock.json`, created exclusively. A holder that died on this host is replaced without
  asking.
- On an object store it is the same object, refreshed while its holder lives.
- On both, a holder checks every HEARTBEAT_S whether the lock is still its own, and says so when it is not.
- Safety does not rest on it, because a seed is one whole file: two drivers would waste work, not mix rows.
"""

import errno
import fcntl
import json
import logging
import os
import socket
import subprocess
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from discreteness.dataset.paths import LOCK_FILE
from discreteness.dataset.storage import Storage, open_storage

HEARTBEAT_S = 15.0
FRESH_S = 60.0
"""Age up to which a heartbeat means a living holder. Clocks of hosts may differ by far less than that."""
BEAT_BYTES = 1024
"""Size of a heartbeat's object, filled up with blanks."""

logger = logging.getLogger(__name__)


class OtherDriver(OSError):
    """Another driver works on the dataset. `holder`: content of its lock file."""

    text = ""

    def __init__(self, root: str, holder: dict[str, Any]):
        self.root = root
        self.holder = holder
        super().__init__(self.text.format(root=root, holder=describe(holder)))

    def __reduce__(self):  # made from its parts again when it comes from another process
        return type(self), (self.root, self.holder)


class LockHeld(OtherDriver):
    """It was there first."""

    text = "{root} is in use by {holder}; wait for it, or pass --take-over if it is gone"


class LockLost(OtherDriver):
    """It has taken the dataset over."""

    text = "{root} was taken over by {holder}; what is committed is kept"


class DatasetLock:
    """`with DatasetLock(uri):` holds the dataset for this process; `check` says when another driver has taken it over.

    Entering raises LockHeld if another process holds it, and PermissionError if the place cannot be written.
    """

    def __init__(self, uri: str | os.PathLike[str] | Storage, *, job: str = "", take_over: bool = False):
        self.storage = open_storage(uri)
        self.take_over = take_over
        self._new_holder: dict[str, Any] = {}
        """The process that has taken the dataset over from this one; empty while none has."""
        self._taken_from: set[str] = set()
        """Tokens of holders whose place this process took: one of them may have had a beat on its way."""
        self._released = threading.Event()
        self._heart: threading.Thread | None = None
        self._content: dict[str, Any] = {
            "token": uuid.uuid4().hex,
            "host": socket.gethostname(),
            "pid_namespace": _pid_namespace(),
            "pid": os.getpid(),
            "process_start": process_start(os.getpid()),
            "job": job,
            "since": datetime.now(UTC).isoformat(timespec="seconds"),
        }

    def __enter__(self) -> "DatasetLock":
        self._released.clear()
        try:
            if self.storage.renames:
                self._acquire_file()
            else:
                self._acquire_heartbeat()
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.ENOTDIR):
                where = self.storage.path(LOCK_FILE)
                raise PermissionError(f"{where} cannot be written ({error.strerror}); give another --output") from None
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        self._released.set()
        if self._heart is not None:
            self._heart.join()
        with suppress(OSError), self._alone():
            if self._holder() and not self._other_holder():
                self.storage.delete(LOCK_FILE)

    def check(self) -> None:
        """Raises LockLost if another driver has taken the dataset over; it is noticed within HEARTBEAT_S."""
        if self._new_holder:
            raise LockLost(self.storage.uri, self._new_holder)

    def _alone(self) -> AbstractContextManager:
        """Where folders can be locked, no other process takes the lock over between a look at it and what follows."""
        return _one_at_a_time(Path(self.storage.root)) if self.storage.renames else nullcontext()

    def _acquire_file(self) -> None:
        path = Path(self.storage.path(LOCK_FILE))
        path.parent.mkdir(parents=True, exist_ok=True)
        with self._alone():
            if path.exists():
                holder = self._holder()
                if not (self.take_over or self._is_dead(path, holder)):
                    raise LockHeld(self.storage.uri, holder)
                logger.warning("taking over %s from %s", self.storage.uri, describe(holder))
                path.unlink(missing_ok=True)
            try:
                descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
            except FileExistsError:  # where folders cannot be locked: another one was faster
                raise LockHeld(self.storage.uri, self._holder()) from None
            try:
                with os.fdopen(descriptor, "w") as file:
                    json.dump(self._content, file)
            except BaseException:
                path.unlink()
                raise
        self._start_heart()

    def _is_dead(self, path: Path, holder: dict[str, Any]) -> bool:
        if not holder:  # killed between creating the file and writing it; or about to write it
            with suppress(FileNotFoundError):
                return time.time() - path.stat().st_mtime > FRESH_S
            return True
        return has_ended(holder)

    def _acquire_heartbeat(self) -> None:
        holder = self._holder()
        if holder and time.time() - holder.get("beat_s", 0.0) < FRESH_S and not self.take_over:
            raise LockHeld(self.storage.uri, holder)
        if holder:
            logger.warning("taking over %s from %s", self.storage.uri, describe(holder))
            self._taken_from.add(holder["token"])
        elif self.storage.exists(LOCK_FILE):
            logger.warning("%s is not whole, and is replaced", self.storage.path(LOCK_FILE))
        self._beat()
        if other := self._other_holder():
            raise LockHeld(self.storage.uri, other)
        self._start_heart()

    def _start_heart(self) -> None:
        self._heart = threading.Thread(target=self._keep_beating, name="dataset-lock", daemon=True)
        self._heart.start()

    def _beat(self) -> None:
        content = {**self._content, "beat_s": time.time()}
        # All of one length: a reader that asks an object store for the size first may get the next beat's bytes.
        self.storage.write(LOCK_FILE, json.dumps(content).ljust(BEAT_BYTES).encode())

    def _keep_beating(self) -> None:
        while not self._released.wait(HEARTBEAT_S):
            try:
                if other := self._other_holder():
                    self._new_holder = other
                    logger.error("%s was taken over by %s", self.storage.uri, describe(other))
                    return
                if not self.storage.renames:  # a file stays as it is
                    self._beat()
            except OSError as error:
                logger.warning("the lock of %s could not be refreshed: %s", self.storage.uri, error)

    def _other_holder(self) -> dict[str, Any]:
        """The process that holds the dataset instead of this one; empty if this one does, or none.

        An old holder looks before it beats, but its beat may arrive after the take-over. That does not make it the
        holder again: this process's next beat tells it.
        """
        holder = self._holder()
        return {} if holder.get("token") in {None, self._content["token"], *self._taken_from} else holder

    def _holder(self) -> dict[str, Any]:
        return read_holder(self.storage)


def read_holder(storage: Storage) -> dict[str, Any]:
    """Content of the lock file; empty if it is absent, half written or not ours."""
    try:
        return _parse(storage.read(LOCK_FILE))
    except FileNotFoundError:
        return {}


@contextmanager
def _one_at_a_time(folder: Path) -> Iterator[None]:
    """Of several processes that find a dead holder, only one looks and replaces it at a time. Some network file systems
    cannot lock a folder; there the exclusive creation alone decides.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)  # and with it the lock


def describe(holder: dict[str, Any]) -> str:
    """'pid 7 on host a (job b) since ...'."""
    if not holder:
        return "a process that has not said who it is"
    job = f" (job {holder['job']})" if holder["job"] else ""
    return f"pid {holder['pid']} on host {holder['host']}{job} since {holder['since']}"


def has_ended(holder: dict[str, Any]) -> bool:
    """Whether it was a process of this host that runs no more; False where that cannot be known from here."""
    here = holder.get("host") == socket.gethostname() and holder.get("pid_namespace") == _pid_namespace()
    return here and process_start(holder["pid"]) != holder.get("process_start")


def process_start(pid: int) -> str | None:
    """When a process of this host started, so that a pid used again is not mistaken for it; None if it is not
    running.
    """
    stat = Path(f"/proc/{pid}/stat")
    if Path("/proc/self/stat").exists():
        try:
            state, *fields = stat.read_text().rpartition(")")[2].split()  # the name before it may hold blanks
        except (FileNotFoundError, ProcessLookupError):
            return None
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return None if state in "ZX" else f"{boot}:{fields[18]}"
    listing = subprocess.run(["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return listing.stdout.strip() or None


def _pid_namespace() -> str:
    with suppress(OSError):
        return str(Path("/proc/self/ns/pid").readlink())
    return ""


def _parse(content: bytes) -> dict[str, Any]:
    try:
        value = json.loads(content)
    except (ValueError, RecursionError):
        return {}
    texts = ("token", "host", "job", "since")
    # Printable: they end in messages, on terminals that obey escapes and in files that are UTF-8.
    ours = isinstance(value, dict) and all(_is_printable(value.get(name)) for name in texts)
    ours = ours and type(value.get("pid")) is int and type(value.get("beat_s", 0.0)) is float
    return value if ours else {}


def _is_printable(value: Any) -> bool:
    return isinstance(value, str) and value.isprintable()
