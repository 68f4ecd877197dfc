"""The folder in which a Ray started here keeps sockets and logs, and a small object store: each is tried beforehand.

- Ray itself tells of a full disk as a timeout, of another user's folder with its path alone, and of a long path by a
  socket's name.
- Nothing is left behind.
"""

import mmap
import os
import shutil
import socket
import sys
import tempfile
from pathlib import Path

from discreteness import allowance

WAY = "give Ray another folder: RAY_TMPDIR=DIR"
LONGEST_SOCKET = f"session_2026-11-30_23-59-59_999999_{os.getpid()}/sockets/dash_MetricsHead"
"""Of those that Ray 2.60 makes below its folder. Without this one the dashboard does not start."""
MAX_SOCKET_BYTES = 103 if sys.platform == "darwin" else 107
"""Of a socket's whole path, as the system has it."""
LEAST_FREE_BYTES = 50 * 10**6
"""A session of a few minutes writes 2 to 6 MB, and a long one more."""
FULL_FROM = 0.95
"""Share of a disk in use from which Ray puts no object on it."""
MIN_STORE_BYTES = 75 * 2**20
"""Ray refuses less."""
MAX_STORE_BYTES_ON_DISK = 10**10
"""Ray refuses more where /dev/shm is too small for it."""
TRIED_BYTES = 2**20


def rays_folder() -> Path:
    """Where Ray keeps the sockets and logs of its sessions; the rule is that of Ray 2.60."""
    linux_only = os.environ.get("TMPDIR") if sys.platform == "linux" else None
    return Path(os.environ.get("RAY_TMPDIR") or linux_only or "/tmp", "ray")


def nearest_folder(path: Path) -> Path:
    """The path, or what exists above it. Raises NotADirectoryError if that is not a folder."""
    while not path.exists() and path != path.parent:
        path = path.parent
    if not path.is_dir():
        raise NotADirectoryError(20, "Not a folder", str(path))
    return path


def try_writing(folder: Path) -> None:
    """Whether a file can be made in a folder, which itself may still have to be made. Raises OSError if not."""
    with tempfile.TemporaryFile(dir=nearest_folder(folder)) as file:
        file.write(b"discreteness")
        file.flush()


def try_folder() -> str:
    """Makes a folder and binds a socket where Ray will, and looks for room; what was found, in words. Raises OSError
    with what to do."""
    folder = rays_folder()
    too_long = len(os.fsencode(folder / LONGEST_SOCKET)) - MAX_SOCKET_BYTES
    if too_long > 0:
        raise OSError(
            f"Ray's sockets below {folder} would have paths {too_long} bytes longer than the system takes "
            f"({MAX_SOCKET_BYTES}): give Ray a folder with a shorter path: RAY_TMPDIR=DIR"
        )
    try:
        there = nearest_folder(folder)
        with tempfile.TemporaryDirectory(prefix="try-", dir=there) as tried, socket.socket(socket.AF_UNIX) as one:
            (Path(tried) / "log").write_bytes(bytes(TRIED_BYTES))
            one.bind(f"{tried}/s")
        free = shutil.disk_usage(there).free
    except OSError as error:
        raise OSError(f"Ray cannot use its folder {folder} ({error.strerror}{_owner(folder)}): {WAY}") from None
    if free < LEAST_FREE_BYTES:
        raise OSError(f"the disk of Ray's folder {folder} has {free / 1e6:.0f} MB free: make room there, or {WAY}")
    return f"{folder} takes sockets, {free / 1e9:.1f} GB free"


def try_store(store_bytes: int) -> str:
    """Makes a small piece of shared memory where an object store of that size will lie; where that is, in words.

    Raises OSError with what to do.
    """
    shared = allowance.shared_memory_bytes()
    if store_bytes < MIN_STORE_BYTES:
        raise OSError(
            f"an object store of {store_bytes / 1e6:.0f} MB is less than Ray takes ({MIN_STORE_BYTES / 1e6:.0f} MB); "
            f"free are {allowance.memory_bytes() / 1e6:.0f} MB of memory, {(shared or 0) / 1e6:.0f} in /dev/shm and "
            f"{room_for_a_store() / 1e6:.0f} on the disk of {rays_folder()}: make room, or {WAY}"
        )
    in_memory = shared is not None and shared >= store_bytes
    folder = allowance.SHARED_MEMORY if in_memory else rays_folder()
    if not in_memory and sys.platform == "linux":
        _check_file(store_bytes, shared or 0)
    try:
        with tempfile.TemporaryFile(dir=nearest_folder(folder)) as file:
            file.write(bytes(TRIED_BYTES))  # before it is mapped: there a full disk would end the process
            file.flush()
            with mmap.mmap(file.fileno(), TRIED_BYTES) as memory:
                memory[-1] = 1
    except OSError as error:
        way = WAY if folder != allowance.SHARED_MEMORY else "mount one that this user may write"
        raise OSError(f"no object store can be made in {folder} ({error.strerror}): {way}") from None
    return f"{store_bytes / 1e9:.2f} GB in {folder}"


def room_for_a_store() -> int:
    """Bytes that an object store in a file of Ray's folder may have: Ray leaves a share of the disk free. 0 where there
    is no such folder."""
    try:
        disk = shutil.disk_usage(nearest_folder(rays_folder()))
    except OSError:
        return 0
    return max(0, disk.free - int((1 - FULL_FROM) * disk.total))


def _check_file(store_bytes: int, shared: int) -> None:
    """Whether Ray puts a store of that size into a file, and the disk has room for it."""
    in_a_file = f"an object store of {store_bytes / 1e9:.2f} GB does not fit into /dev/shm ({shared / 1e9:.2f} GB free)"
    larger = "a smaller --object-store-gb, or a larger /dev/shm (docker run --shm-size)"
    if store_bytes > MAX_STORE_BYTES_ON_DISK:
        raise OSError(f"{in_a_file}, and Ray puts at most {MAX_STORE_BYTES_ON_DISK / 1e9:.0f} GB in a file: {larger}")
    if store_bytes > (room := room_for_a_store()):
        raise OSError(f"{in_a_file} nor on the disk of {rays_folder()} ({room / 1e9:.2f} GB): {larger}, or {WAY}")


def _owner(folder: Path) -> str:
    """Whose folder it is, where that is another user's."""
    try:
        owner = folder.stat().st_uid
    except OSError:
        return ""
    return f"; it belongs to user {owner}, this is {os.getuid()}" if owner != os.getuid() else ""
