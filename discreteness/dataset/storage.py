"""Storage: files below one folder or prefix, each of which appears complete or not at all.

- On a local disk or NFS a file is written in `_staging`, flushed and renamed, and then its folder is flushed.
- On an object store it is one upload, which the store applies as a whole or not at all. No exception completes one:
  see `_upload`.
- No name leads out of the folder, and nothing is written or swept where a link leads out of it.
- Contents go through `pyarrow.fs`, except for ranges of local files, which the system's own calls read faster.
"""

import ctypes
import os
import pkgutil
import re
import stat
import time
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryFile

import pyarrow as pa
from pyarrow.fs import FileInfo, FileSelector, FileSystem, FileType, LocalFileSystem

from discreteness.dataset.hub import with_errors_of_a_disk
from discreteness.dataset.paths import STAGING

READS_AT_ONCE = 16
NEAR_BYTES = {"local": (2**12, 3 * 2**15), "object": (2**16, 2**20)}
"""Ranges with no more than the first between them are read as one piece, of the second at most: a disk answers a small
read quickly, an object store takes as long for 64 KiB as for one byte.
"""
PIECES_AHEAD = 64
"""Pieces that an object store is asked for before the first of them is used; they are in memory together."""
ABANDONED_S = 3600
"""Age at which a file in `_staging` belongs to a process that died: no write takes that long."""
OTHER_STORAGES = {"hf://datasets/": "discreteness.dataset.hub_storage:HubStorage"}
"""Beginning of a URI -> the class that opens it, by name, as in fsspec's registry: it builds on this module."""
STAGED = re.compile(r"[0-9a-f]{32}-.*", re.DOTALL)


class Storage:
    """Files below one folder, named by their path relative to it, such as `losses/seed=00000.parquet`.

    `renames`: the file system is local or NFS, where `root` is a path of the operating system and rename is
    atomic. `uri` is how the folder is called in messages.
    """

    def __init__(self, filesystem: FileSystem, root: str, renames: bool, uri: str):
        self.filesystem = filesystem
        self.root = root
        self.renames = renames
        self.uri = uri

    def path(self, name: str) -> str:
        """The file's path within `filesystem`. Raises ValueError if the name would leave the folder."""
        if name.startswith("/") or ".." in name.split("/") or "\0" in name:
            raise ValueError(f"{name!r} is not the name of a file below {self.uri}")
        return f"{self.root}/{name}"

    def open(self, name: str) -> pa.NativeFile:
        """For reading any part of it, in a `with`. Raises FileNotFoundError if there is no such file."""
        self._expect_file(name)
        return self.filesystem.open_input_file(self.path(name))

    def read(self, name: str) -> bytes:
        """The file's bytes. Raises FileNotFoundError if there is no such file."""
        with self.open(name) as file:
            return file.read()

    def read_tail(self, name: str, num_bytes: int) -> bytes:
        """The last `num_bytes` bytes of a file, all of it where it is shorter."""
        with self.open(name) as file:
            size = file.size()
            file.seek(max(0, size - num_bytes))
            return file.read()

    def read_ranges(self, name: str, ranges: Sequence[tuple[int, int]]) -> Iterator[memoryview]:
        """Pieces of a file, each an offset and a length, ascending and apart. They are asked for at once, near ones as
        one: a disk and an object store answer many in hardly more time than one.

        Raises FileNotFoundError if there is no such file. A piece that reaches beyond the file's end is cut short.
        """
        gap, most = NEAR_BYTES["local" if self.renames else "object"]
        pieces: list[list[int]] = []
        for offset, length in ranges:
            if pieces and offset - pieces[-1][1] <= gap and offset + length - pieces[-1][0] <= most:
                pieces[-1][1] = offset + length
            else:
                pieces.append([offset, offset + length])
        contents = self._read_local(name, pieces) if self.renames else self._read_remote(name, pieces)
        begin, end, content = 0, -1, memoryview(b"")
        for offset, length in ranges:
            if offset + length > end:
                begin, end, content = next(contents)
            yield content[offset - begin : offset - begin + length]

    def _read_local(self, name: str, pieces: Sequence[Sequence[int]]) -> Iterator[tuple[int, int, memoryview]]:
        path = self.path(name)
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # of a pipe, too, without waiting
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise FileNotFoundError(f"{path} is not a file")
            if hasattr(os, "posix_fadvise") and len(pieces) > 1:
                for begin, end in pieces:
                    os.posix_fadvise(descriptor, begin, end - begin, os.POSIX_FADV_WILLNEED)
            for begin, end in pieces:
                yield begin, end, memoryview(os.pread(descriptor, end - begin, begin))
        finally:
            os.close(descriptor)

    def _read_remote(self, name: str, pieces: Sequence[Sequence[int]]) -> Iterator[tuple[int, int, memoryview]]:
        with self.open(name) as file, ThreadPoolExecutor(READS_AT_ONCE) as pool:
            size = file.size()

            def read(piece: Sequence[int]) -> bytes:
                begin, end = piece[0], min(piece[1], size)  # a store refuses what lies beyond the end
                return file.read_at(end - begin, begin) if begin < end else b""

            for first in range(0, len(pieces), PIECES_AHEAD):
                some = pieces[first : first + PIECES_AHEAD]
                for (begin, end), content in zip(some, pool.map(read, some), strict=True):
                    yield begin, end, memoryview(content)

    def exists(self, name: str) -> bool:
        return self.filesystem.get_file_info(self.path(name)).type == FileType.File

    def size(self, name: str) -> int:
        """Bytes of a file; 0 where there is none."""
        return self.filesystem.get_file_info(self.path(name)).size or 0

    def list(self, folder: str = "", recursive: bool = False) -> list[FileInfo]:
        """What is in a folder, by name; empty where it does not exist."""
        path = self.path(folder) if folder else self.root
        return sorted(
            self.filesystem.get_file_info(FileSelector(path, recursive=recursive, allow_not_found=True)),
            key=lambda info: info.path,
        )

    def write(self, name: str, content: bytes | pa.Buffer, durable: bool = True) -> None:
        """Makes a file appear whole, in place of an older one of that name.

        `durable=False` skips the fsyncs, for what may be lost when the machine dies. After an OSError nothing was
        changed, or all of it was (if the folder's flush failed, or an object store's answer was lost). The same holds
        for any other exception, also one that comes while the write is going on (KeyboardInterrupt).
        """
        if not self.renames:
            with ThreadPoolExecutor(1) as uploader:  # signals interrupt the main thread alone, and that one waits here
                uploader.submit(_upload, self.filesystem, self.path(name), content).result()
            return
        final = self.path(name)
        staged = self.path(f"{STAGING}/{uuid.uuid4().hex}-{Path(name).name}")
        for folder in STAGING, str(Path(name).parent):
            self._expect_inside(folder)
            self.filesystem.create_dir(self.path(folder), recursive=True)
        try:
            with self.filesystem.open_output_stream(staged) as file:
                file.write(content)
            if durable:
                _fsync(staged)
            self.filesystem.move(staged, final)
        except BaseException:
            with suppress(OSError):
                self.filesystem.delete_file(staged)
            raise
        if durable:
            _fsync(str(Path(final).parent))

    def check_writable(self) -> Path | None:
        """Raises OSError if nothing can be written here. Leaves nothing behind.

        Local and NFS storage: tries it in the folder, or in the nearest one above it that exists, which is returned.
        Object stores: a small object is written, read and deleted.
        """
        if self.renames:
            folder = Path(self.root)
            while not folder.exists():
                folder = folder.parent
            if not folder.is_dir():
                raise NotADirectoryError(f"{folder} is not a folder")
            with TemporaryFile(dir=folder) as file:
                file.write(b"discreteness")
                file.flush()
                os.fsync(file.fileno())
            return folder
        name = f"_probe-{uuid.uuid4().hex}"
        self.write(name, b"discreteness")
        if self.read(name) != b"discreteness":
            raise OSError(f"{self.path(name)} does not hold what was written")
        self.delete(name)
        return None

    def delete(self, name: str) -> None:
        self.filesystem.delete_file(self.path(name))

    def make_folders(self, *names: str) -> None:
        """Creates folders for good; object stores have none."""
        if self.renames:
            for name in names:
                self.filesystem.create_dir(self.path(name), recursive=True)
            _fsync(self.root)

    def sweep_staging(self) -> None:
        """Deletes what killed writers left behind, and nothing that `write` has not named."""
        self._expect_inside(STAGING)
        for info in self.list(STAGING):
            if not STAGED.fullmatch(info.base_name) or info.mtime is None:
                continue
            if time.time() - info.mtime.timestamp() > ABANDONED_S:
                with suppress(FileNotFoundError):
                    self.filesystem.delete_file(info.path)

    def _expect_file(self, name: str) -> None:
        """On a disk a name may also be a pipe or a device, and opening one can wait for ever."""
        path = Path(self.path(name))
        if self.renames and path.exists() and not path.is_file():
            raise FileNotFoundError(f"{path} is not a file")

    def _expect_inside(self, folder: str) -> None:
        """A dataset made by others may hold a link: nothing is written or swept where it leads."""
        path, root = Path(self.path(folder)), Path(self.root)
        if self.renames and not path.resolve().is_relative_to(root.resolve()):
            raise PermissionError(f"{path} is a link that leads out of the dataset, to {path.resolve()}; take it out")


def open_storage(uri: "str | os.PathLike[str] | Storage") -> Storage:
    """Storage at a local path (relative ones made absolute) or a URI such as s3://bucket/folder or
    gs://bucket/folder.

    A `Storage` is returned as it is. Raises ValueError if no file system is known for the URI, or if it carries
    credentials.
    """
    if isinstance(uri, Storage):
        return uri
    text = os.fspath(uri)
    if not text:
        raise ValueError("the dataset's name is empty; give a directory or a URI such as s3://bucket/folder")
    if "://" in text:
        refuse_credentials(text)
        for beginning, name in OTHER_STORAGES.items():
            if text.startswith(beginning):
                return pkgutil.resolve_name(name)(text)
        try:
            filesystem, root = FileSystem.from_uri(text)
        except (pa.ArrowException, NotImplementedError) as error:
            raise ValueError(f"{text} cannot be opened: {error}; use a path, s3://bucket/folder or gs://...") from None
        if text.startswith("hf://"):
            filesystem = with_errors_of_a_disk(filesystem)
    else:
        try:
            filesystem, root = LocalFileSystem(), str(Path(text).expanduser().absolute())
        except RuntimeError:
            raise ValueError(f"{text} begins with a user whose home is not known; give a full path") from None
    local = isinstance(filesystem, LocalFileSystem)
    return Storage(filesystem, root, renames=local, uri=root if local else text.rstrip("/"))


def refuse_credentials(uri: str) -> None:
    """Raises ValueError, which does not repeat them, for s3://KEY:SECRET@bucket and for secrets in the query."""
    if re.match(r"\w+://[^/@]*:[^@]*@", uri) or re.search(r"[?&][^=&]*(secret|token|key|password)[^=&]*=", uri, re.I):
        raise ValueError(
            "the URI carries credentials, which lists of processes and jobs and the log would show; take them out and "
            "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or use the machine's role (docs/security.md)"
        )


def _upload(filesystem: FileSystem, path: str, content: bytes | pa.Buffer) -> None:
    """Makes an object appear, by a single write.

    pyarrow cannot abort an upload: closing one completes it with what has come so far, and so does letting go of it.
    Only an error of the store itself prevents that. After any other this process never lets go of the upload, which
    costs it a few MiB.
    """
    file = filesystem.open_output_stream(path)
    try:
        file.write(content)
        file.close()
    except OSError:
        raise
    except BaseException:
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(file))
        raise


def _fsync(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
