"""what decides the numbers of an experiment -> one hash, and what differs between two.

An identity is plain JSON. Experiments share a dataset directory if their identities are equal, and only then.
"""

import dataclasses
import hashlib
import json
from collections.abc import Iterator
from typing import Any


class _Absent:
    """Value of a field that one of two identities does not have."""

    def __repr__(self) -> str:
        return "absent"


ABSENT = _Absent()


def as_plain(value: Any) -> Any:
    """`value` as it is after a trip through JSON: dataclasses become dicts, tuples become lists.

    Raises TypeError or ValueError if a value cannot be expressed in JSON, NaN included.
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
