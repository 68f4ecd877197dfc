"""File systems that fail at a chosen operation or answer late, and an object store in memory that cannot rename."""

import errno
import os
import random
from dataclasses import dataclass, field
from datetime import UTC, datetime

import pyarrow as pa
from pyarrow.fs import FileInfo, FileSelector, FileSystemHandler, FileType, LocalFileSystem, PyFileSystem

from discreteness.dataset.storage import Storage


class Cut(OSError):
    """The injected failure."""


@dataclass
class Faults:
    """Raises at operation `at` (from 1), before it, after half of it (a write), or after it was done."""

    at: int | None = None
    mode: str = "before"
    count: int = 0
    names: list[str] = field(default_factory=list)

    def run(self, name, operation, half=None):
        self.count += 1
        self.names.append(name)
        if self.count != self.at:
            return operation()
        if self.mode == "half" and half is not None:
            half()
        if self.mode == "after":
            operation()
        raise Cut(f"injected {self.mode} operation {self.count}: {name}")


class _Upload:
    """Python file object; each write, and the close, is an operation, and a write can fail half way."""

    def __init__(self, faults, path, write, close):
        self.faults, self.path, self._write, self._close = faults, path, write, close
        self.closed = False

    def write(self, data):
        data = bytes(data)
        self.faults.run(
            f"write {self.path}",
            lambda: self._write(data),
            half=lambda: self._write(data[: len(data) // 2]),
        )
        return len(data)

    def flush(self):
        pass

    def close(self):
        if not self.closed:
            self.closed = True
            self.faults.run(f"close {self.path}", self._close)


class _Handler(FileSystemHandler):
    """Every call of the FileSystem interface is an operation of `faults`."""

    def __init__(self, faults):
        self.faults = faults

    def get_type_name(self):
        return "faulty"

    def normalize_path(self, path):
        return path

    def _unused(self, *arguments):
        raise NotImplementedError("this file system cannot do that")

    delete_dir = delete_dir_contents = delete_root_dir_contents = copy_file = open_append_stream = _unused


class FaultyLocal(_Handler):
    """The local file system."""

    def __init__(self, faults):
        super().__init__(faults)
        self.base = LocalFileSystem()

    def get_file_info(self, paths):
        return self.faults.run(f"stat {paths}", lambda: self.base.get_file_info(paths))

    def get_file_info_selector(self, selector):
        return self.faults.run(f"list {selector.base_dir}", lambda: self.base.get_file_info(selector))

    def create_dir(self, path, recursive):
        self.faults.run(f"mkdir {path}", lambda: self.base.create_dir(path, recursive=recursive))

    def delete_file(self, path):
        self.faults.run(f"delete {path}", lambda: self.base.delete_file(path))

    def move(self, source, target):
        self.faults.run(f"move {source} {target}", lambda: self.base.move(source, target))

    def open_input_stream(self, path):
        return self.faults.run(f"open {path}", lambda: self.base.open_input_stream(path))

    def open_input_file(self, path):
        return self.faults.run(f"open {path}", lambda: self.base.open_input_file(path))

    def open_output_stream(self, path, metadata):
        stream = self.faults.run(f"create {path}", lambda: self.base.open_output_stream(path))
        return pa.PythonFile(_Upload(self.faults, path, stream.write, stream.close), mode="w")


class NfsClient(FaultyLocal):
    """A local folder as one client of a network file system may see it.

    `stale`: share of calls that fail with ESTALE. `late`: share of calls that are answered from what this client saw
    before: old listings, and files of others that are not there yet. A move is a copy in two halves, then a delete.
    """

    def __init__(self, chance: random.Random, faults: Faults | None = None, stale: float = 0.05, late: float = 0.5):
        super().__init__(faults or Faults())
        self.chance, self.stale, self.late = chance, stale, late
        self.seen = {}

    def _answer(self, key, look):
        self._trip()
        if key not in self.seen or self.chance.random() >= self.late:
            self.seen[key] = look()
        return self.seen[key]

    def _trip(self):
        if self.chance.random() < self.stale:
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))

    def get_file_info(self, paths):
        return [self._answer(path, lambda path=path: self.base.get_file_info(path)) for path in paths]

    def get_file_info_selector(self, selector):
        return self._answer(("list", selector.base_dir), lambda: self.base.get_file_info(selector))

    def open_input_file(self, path):
        self._trip()
        return super().open_input_file(path)

    def open_output_stream(self, path, metadata):
        self._trip()
        return super().open_output_stream(path, metadata)

    def move(self, source, target):
        self._trip()
        with self.base.open_input_file(source) as file:
            content = file.read()
        # Each client copies to a name of its own first: a half that another finishes would be a file of two.
        for name, part in ("half move", content[: len(content) // 2]), ("move", content):
            self.faults.run(f"{name} {target}", lambda part=part: self._put(target, part))
        self.base.delete_file(source)
        self.seen.clear()  # what a client wrote itself it sees

    def _put(self, target, content):
        hidden = f"{target.rpartition('/')[0]}/.nfs{self.chance.random()}"
        with self.base.open_output_stream(hidden) as file:
            file.write(content)
        self.base.move(hidden, target)


class _ObjectUpload(_Upload):
    """An upload whose part failed cannot be completed: closing it leaves no object."""

    def __init__(self, faults, path, objects):
        parts = []

        def appear():
            objects[path] = (b"".join(parts), datetime.now(UTC).timestamp())

        super().__init__(faults, path, parts.append, appear)

    def write(self, data):
        try:
            return super().write(data)
        except Cut:
            self.closed = True
            raise


class ObjectStore(_Handler):
    """Objects in a dict: no folders, no rename; an object appears when its upload is closed without error."""

    def __init__(self, faults):
        super().__init__(faults)
        self.objects = {}

    def _info(self, path):
        if path in self.objects:
            content, seconds = self.objects[path]
            return FileInfo(path, FileType.File, size=len(content), mtime=datetime.fromtimestamp(seconds, UTC))
        return FileInfo(path, FileType.NotFound)

    def get_file_info(self, paths):
        return self.faults.run(f"stat {paths}", lambda: [self._info(path) for path in paths])

    def get_file_info_selector(self, selector: FileSelector):
        prefix = f"{selector.base_dir}/"
        names = {path for path in self.objects if path.startswith(prefix)}
        if not selector.recursive:
            names = {prefix + path.removeprefix(prefix).split("/")[0] for path in names}

        def listing():
            infos = [self._info(path) for path in names]
            return [i if i.type == FileType.File else FileInfo(i.path, FileType.Directory) for i in infos]

        return self.faults.run(f"list {selector.base_dir}", listing)

    def create_dir(self, path, recursive):
        raise NotImplementedError("an object store has no folders")

    def move(self, source, target):
        raise NotImplementedError("an object store has no rename")

    def delete_file(self, path):
        if path not in self.objects:
            raise FileNotFoundError(path)
        self.faults.run(f"delete {path}", lambda: self.objects.pop(path))

    def open_input_stream(self, path):
        return self.open_input_file(path)

    def open_input_file(self, path):
        if path not in self.objects:
            raise FileNotFoundError(path)
        return self.faults.run(f"open {path}", lambda: pa.BufferReader(self.objects[path][0]))

    def open_output_stream(self, path, metadata):
        self.faults.run(f"create {path}", lambda: None)
        return pa.PythonFile(_ObjectUpload(self.faults, path, self.objects), mode="w")


def local_storage(root, faults):
    """Storage as on a local disk (stage, fsync, rename), on a file system with faults."""
    return Storage(PyFileSystem(FaultyLocal(faults)), str(root), renames=True, uri=str(root))


def nfs_storage(root, client):
    """Storage of one client of a network file system."""
    return Storage(PyFileSystem(client), str(root), renames=True, uri=str(root))


def object_storage(faults=None):
    """Storage as on an object store (one PUT), empty, in memory."""
    return Storage(
        PyFileSystem(ObjectStore(faults or Faults())), "bucket/run", renames=False, uri="memory://bucket/run"
    )
