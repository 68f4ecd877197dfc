"""a checkpoint of the hub -> its files in a folder of ours, each checked against the hub's hash.

- What the hub's cache on this machine has already is used where it lies and is never removed.
- What is downloaded lies in a scratch folder. It is removed when the checkpoint is loaded, and after a process that was
  killed by the next one that starts here.
- A download that stalls ends and goes on behind its last byte; a hub that is busy is waited for within bounds.
"""

import errno
import fcntl
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from speedrun.least_rate import demand_least_rate

from discreteness.series.hub import cached
from discreteness.series.patience import patiently
from discreteness.series.stored import StoredCheckpoint, StoredFile, Unreadable

SCRATCH = "discreteness-series-"
TRIES = 2
"""Of a file whose bytes are not what the hub says: once they may have been damaged on the way."""

LOST_BYTES = 1 << 20
"""What the client gathers before it writes, and loses when a download ends early; by itself it takes ten times that."""


class Damaged(Exception):
    """What came is not what the hub says it is."""


@contextmanager
def scratch() -> Iterator[Path]:
    """A folder for downloads, below TMPDIR, as long as the context lasts; those of killed processes are removed."""
    root = Path(tempfile.gettempdir())
    for left in root.glob(f"{SCRATCH}*"):
        with suppress(OSError), _held(left):
            shutil.rmtree(left, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix=SCRATCH))
    try:
        with _held(folder):
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def local_files(checkpoint: StoredCheckpoint, files: tuple[StoredFile, ...], scratch: Path) -> Iterator[Path]:
    """A folder that holds these files of the checkpoint while the context lasts: its own, or one in `scratch`.

    Raises Unreadable if the hub has other bytes than it says, or lacks a file; OSError if the disk is full, or if the
    hub did not give it within the bounds of `patiently`.
    """
    if checkpoint.folder:
        yield Path(checkpoint.folder)
        return
    folder = scratch / f"{checkpoint.commit[:12]}-{checkpoint.step}"
    folder.mkdir(exist_ok=True)
    try:
        there = {file.name: cached(checkpoint.model, checkpoint.commit, file.name) for file in files}
        _demand_room(checkpoint, sum(file.num_bytes for file in files if not there[file.name]), scratch)
        for file in files:
            if path := there[file.name]:
                (folder / file.name).symlink_to(path.resolve())
            else:
                _fetch(checkpoint, file, folder / file.name)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _fetch(checkpoint: StoredCheckpoint, file: StoredFile, path: Path) -> None:
    from huggingface_hub.errors import EntryNotFoundError, HTTPError

    what = f"{file.name} of {checkpoint}"
    for left in reversed(range(TRIES)):
        try:
            patiently(what, lambda: _go_on(checkpoint, file, path))
            _check(file, path)
            return
        except Damaged as damage:
            path.unlink()  # going on with it would never help
            if not left:
                raise Unreadable(f"{what}: {damage}") from damage
        except EntryNotFoundError as error:
            raise Unreadable(f"{what}: the hub lists it and does not have it") from error
        except OSError as error:
            if error.errno == errno.ENOSPC:
                raise OSError(_no_room(what, file.num_bytes, path.parent)) from error
            if isinstance(error, HTTPError):
                raise Unreadable(f"{what}: the hub refuses it: {' '.join(str(error).split())}") from error
            raise


def _go_on(checkpoint: StoredCheckpoint, file: StoredFile, path: Path) -> None:
    """Downloads what is still to come of a file."""
    from huggingface_hub import constants, get_token, hf_hub_url
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import build_hf_headers

    constants.DOWNLOAD_CHUNK_SIZE = LOST_BYTES
    demand_least_rate()
    url = hf_hub_url(checkpoint.model, file.name, revision=checkpoint.commit)
    with path.open("ab") as sink:
        if sink.tell() > file.num_bytes:
            raise Damaged(f"it has more than the {file.num_bytes} bytes that the hub says")
        try:
            http_get(
                url,
                sink,
                resume_size=sink.tell(),
                headers=build_hf_headers(token=get_token()),
                expected_size=file.num_bytes,
                displayed_filename=file.name,
                tqdm_class=_Silent,
            )
        except OSError as error:
            if "Consistency check failed" in str(error):
                raise Damaged(f"it has {sink.tell()} bytes, the hub says {file.num_bytes}") from error
            raise


def _check(file: StoredFile, path: Path) -> None:
    """Raises Damaged if the bytes do not have the hash of the hub's listing."""
    found = file_hash(path, file.hash)
    if found != file.hash:
        raise Damaged(f"its hash is {found}, the hub says {file.hash}")


def file_hash(path: Path, like: str = "") -> str:
    """SHA-256 in hex; where `like` has the 40 digits of a blob id of git, that one."""
    with path.open("rb") as content:
        if len(like) != 40:
            return hashlib.file_digest(content, "sha256").hexdigest()
        sha = hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)
        while piece := content.read(1 << 20):
            sha.update(piece)
        return sha.hexdigest()


def _demand_room(checkpoint: StoredCheckpoint, num_bytes: int, folder: Path) -> None:
    if shutil.disk_usage(folder).free < num_bytes:
        raise OSError(_no_room(str(checkpoint), num_bytes, folder))


def _no_room(what: str, num_bytes: int, folder: Path) -> str:
    free = shutil.disk_usage(folder).free
    return (
        f"{what}: needs {num_bytes / 1e9:.3f} GB, and the disk of {folder} has {free / 1e9:.3f} GB free; make room, or "
        "set TMPDIR to a folder on a larger disk. The same command goes on from what is committed"
    )


@contextmanager
def _held(folder: Path) -> Iterator[None]:
    """Locks a folder, which ends with the process. Raises OSError if another process holds it."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


class _Silent:
    """In place of the client's progress bar: the run has lines of its own."""

    def __init__(self, *_arguments: object, **_options: object):
        pass

    def update(self, _count: int) -> None:
        pass

    def __enter__(self) -> "_Silent":
        return self

    def __exit__(self, *_exception: object) -> None:
        pass
