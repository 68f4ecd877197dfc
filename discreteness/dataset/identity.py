"""what decides the numbers of an experiment -> one hash, and what differs between two.

An identity is plain JSON: equal identities, and only those, may share a dataset directory.
"""

import ast
import dataclasses
import hashlib
import json
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

SHARD_MAGIC = 20240520
MIB = 2**20
LONGEST_VALUE = 100
"""Characters of one value in an error message."""
MOST_FIELDS = 20
"""Fields named in an error message."""


class IdentityMismatch(ValueError):
    """The directory holds an experiment of another identity. `differing`: (dotted field, value there, value
    here).
    """

    def __init__(self, directory: str, differing: list[tuple[str, Any, Any]]):
        self.directory = directory
        self.differing = differing
        shown = [f"{name}: {_short(old)} there, {_short(new)} here" for name, old, new in differing[:MOST_FIELDS]]
        more = [f"and {len(differing) - MOST_FIELDS} more fields"] if len(differing) > MOST_FIELDS else []
        fields = "; ".join(shown + more)
        ways = "give another --output, or that experiment's settings"
        if only_sources(differing):
            ways = "give another --output, or --allow-code-change if the change cannot change losses"
        super().__init__(f"{directory} holds another experiment ({fields}); {ways}")

    def __reduce__(
        self,
    ):  # otherwise it could not come back from another process: it would be made from its message
        return IdentityMismatch, (self.directory, self.differing)


class _Absent:
    """Value of a field that one of two identities does not have."""

    def __repr__(self) -> str:
        return "absent"


ABSENT = _Absent()


def as_plain(value: Any) -> Any:
    """`value` as it is after a trip through JSON: dataclasses become dicts, tuples become lists.

    TypeError or ValueError: a value that JSON cannot express, NaN included.
    """
    return json.loads(_canonical(value))


def identity_hash(identity: dict[str, Any]) -> str:
    """SHA-256, in hex, of the canonical JSON text; the order of keys does not matter."""
    return hashlib.sha256(_canonical(identity).encode()).hexdigest()


def differing_fields(old: Any, new: Any) -> list[tuple[str, Any, Any]]:
    """Every leaf where two identities differ: (dotted field, old value, new value), `ABSENT` for a missing
    one.

    Empty exactly when the hashes are equal (so 1, 1.0 and true are three values). Lists of dicts of equal
    length are compared entry by entry, other lists as a whole.
    """
    return list(_differing("", as_plain(old), as_plain(new)))


def only_sources(differing: list[tuple[str, Any, Any]]) -> bool:
    """The sources changed and nothing else did."""
    return bool(differing) and all(name.split(".")[0] == "sources" for name, _, _ in differing)


def sources_hash(roots: Iterable[str | Path]) -> str:
    """SHA-256, in hex, of sources: files, or folders with all files below them but Markdown and what Python caches.

    A file counts with its path below its root, so where a package lies does not matter, and with its content: a Python
    file with its syntax tree without docstrings and positions, so that a comment or another line break changes nothing.
    ValueError: a root without any Python file, or a file that is not Python.
    """
    digest = hashlib.sha256()
    for root in map(Path, roots):
        files = _files_below(root) if root.is_dir() else [root]
        if not any(path.suffix == ".py" for path in files):
            raise ValueError(f"{root} is neither a .py file nor a folder of them, so it has no sources to hash")
        for path in files:
            content = _meaning(path) if path.suffix == ".py" else path.read_bytes()
            digest.update(f"{path.relative_to(root.parent).as_posix()}\0{len(content)}\0".encode())
            digest.update(content)
    return digest.hexdigest()


def _files_below(folder: Path) -> list[Path]:
    """Sorted: the order in which a folder is listed is the file system's own."""
    return sorted(
        path
        for path in folder.rglob("*")
        if path.is_file() and path.suffix != ".md" and "__pycache__" not in path.relative_to(folder).parts
    )


def _meaning(path: Path) -> bytes:
    """What a Python file does, as text."""
    try:
        return repr(_tree(ast.parse(path.read_bytes()))).encode()
    except (SyntaxError, ValueError) as error:
        raise ValueError(f"{path} is not Python, so it cannot be part of an identity: {error}") from None


def _tree(node: Any) -> Any:
    """Nested tuples of a syntax tree. Empty fields are left out: another version of Python may have further ones."""
    if isinstance(node, ast.AST):
        fields = ((name, _tree(value)) for name, value in ast.iter_fields(node))
        return type(node).__name__, *((name, value) for name, value in fields if value not in (None, ()))
    if isinstance(node, list):
        return tuple(_tree(one) for one in node if not _is_docstring(one))
    return node if node is None else f"{type(node).__name__} {node!r}"


def _is_docstring(node: Any) -> bool:
    """A string that stands alone, below a field too: it does nothing."""
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def data_identity(paths: Iterable[str | Path]) -> list[dict[str, Any]]:
    """Name, bytes, tokens (from the shard's header) and hash of the first MiB of each shard, in the order
    given. ValueError: one of them is none.
    """
    shards = []
    for path in map(Path, paths):
        if not path.is_file():  # a pipe would be waited for
            raise ValueError(f"{path} is not a file; take it out of the data folder or download it again")
        with path.open("rb") as file:
            start = file.read(MIB)
        if len(start) < 12 or struct.unpack("<i", start[:4])[0] != SHARD_MAGIC:
            raise ValueError(f"{path} is not a token shard (its first number is not {SHARD_MAGIC}); download it again")
        shards.append(
            {
                "name": path.name,
                "bytes": path.stat().st_size,
                "tokens": struct.unpack("<i", start[8:12])[0],
                "first_mib": hashlib.sha256(start).hexdigest(),
            }
        )
    return shards


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False, default=_dataclass_fields)


def _dataclass_fields(value: Any) -> dict[str, Any]:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    raise TypeError(f"{value!r} in the identity is a {type(value).__name__}, which JSON cannot express")


def _differing(name: str, old: Any, new: Any) -> Iterator[tuple[str, Any, Any]]:
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted(old.keys() | new.keys()):
            yield from _differing(f"{name}.{key}" if name else key, old.get(key, ABSENT), new.get(key, ABSENT))
    elif _is_table(old) and _is_table(new) and len(old) == len(new):
        for index, (left, right) in enumerate(zip(old, new, strict=True)):
            yield from _differing(f"{name}.{index}" if name else str(index), left, right)
    elif old is ABSENT or new is ABSENT or _canonical(old) != _canonical(new):
        yield name, old, new


def _is_table(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(entry, dict) for entry in value)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= LONGEST_VALUE else text[: LONGEST_VALUE - 3] + "..."
