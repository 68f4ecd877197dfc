"""two experiments -> what a person reads of how they differ, for a command that would mix them in one dataset."""

import re
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import pyarrow as pa

from discreteness.dataset.identity import as_plain, only_sources
from discreteness.dataset.manifest import Manifest, listed

LONGEST_VALUE = 100
"""Characters of one value in an error message."""
MOST_FIELDS = 20
"""Differences named in an error message."""
MOST_NAMES = 5
"""Documents or shards named of each kind of change."""


class IdentityMismatch(ValueError):
    """The directory holds another experiment. `differing`: a phrase per difference. `sources_alone`: only the code that
    trains or scores has changed."""

    def __init__(self, directory: str, differing: Sequence[str], sources_alone: bool):
        self.directory = directory
        self.differing = tuple(differing)
        self.sources_alone = sources_alone
        ways = "give another --output, or that experiment's settings"
        if sources_alone:
            ways = "give another --output, or --allow-code-change if the change cannot change losses"
        super().__init__(f"{directory} holds another experiment ({joined(differing)}); {ways}")

    def __reduce__(self):  # made from its parts again when it comes from another process
        return IdentityMismatch, (self.directory, self.differing, self.sources_alone)


def mismatch(
    directory: str,
    fields: list[tuple[str, Any, Any]],
    there: Manifest,
    here: Manifest,
    words_there: pa.Table | None,
    words_here: pa.Table,
) -> IdentityMismatch:
    """The error for a dataset `there` and a command's experiment `here`, whose identities differ in `fields`. Words:
    documents.parquet of each, None if it cannot be read."""
    phrases = {
        "track": _track(there.identity.get("track"), here.identity.get("track")),
        "checkpoints": _checkpoints(there, here),
        "documents": _documents(there, here, words_there, words_here),
        "data": _shards(there.identity.get("data"), here.identity.get("data")),
    }
    told = [f"{name}: {phrase}" for name, phrase in phrases.items() if phrase]
    others = [field for field in fields if not phrases.get(field[0].split(".")[0])]
    told += [f"{name}: {_short(old)} there, {_short(new)} here" for name, old, new in others]
    return IdentityMismatch(directory, told, only_sources(fields) and len(told) == len(others))


def joined(differing: Sequence[str]) -> str:
    """The first MOST_FIELDS differences, and how many more there are."""
    more = [f"and {len(differing) - MOST_FIELDS} more fields"] if len(differing) > MOST_FIELDS else []
    return "; ".join([*differing[:MOST_FIELDS], *more])


def content_of(manifest: Manifest) -> dict[str, Any]:
    """What of an experiment is not in its identity and has to be the same in one dataset: steps and documents."""
    documents = {document.name: asdict(document) for document in manifest.documents}
    return as_plain({"steps": manifest.steps, "documents_table": manifest.documents_hash, "document": documents})


def describe_steps(manifest: Manifest) -> str:
    """'log:48 (48 steps from 0 to 360)'; without an expression, or with a long list for one, only the latter."""
    steps = manifest.steps
    size = f"{len(steps)} steps from {steps[0]} to {steps[-1]}"
    return f"{manifest.plan} ({size})" if 0 < len(manifest.plan) <= LONGEST_VALUE // 2 else size


def _track(there: Any, here: Any) -> str:
    """Of another track only the names: all its numbers differ. Of one that was changed its fields are named."""
    names = [track.get("name") if isinstance(track, dict) else None for track in (there, here)]
    return f"{names[0]} there, {names[1]} here" if names[0] != names[1] else ""


def _checkpoints(there: Manifest, here: Manifest) -> str:
    if there.steps == here.steps:
        return ""
    old, new = describe_steps(there), describe_steps(here)
    if old != new:
        return f"{old} there, {new} here"
    return f"{old}; {_named(dict.fromkeys(there.steps), dict.fromkeys(here.steps), '')}"


def _documents(there: Manifest, here: Manifest, words_there: pa.Table | None, words_here: pa.Table) -> str:
    if there.documents_hash == here.documents_hash:
        return ""
    if words_there is not None:
        differing = _named(_words(words_there), _words(words_here), "with other text or answers")
    else:
        differing = _named(_lengths(there), _lengths(here), "of another length")
    return differing or "other tokens, or the same documents under other numbers"


def _words(table: pa.Table) -> dict[str, list[tuple]]:
    """By name what decides a document's losses and their meaning. Not its number: a new document moves the others'."""
    documents: dict[str, list[tuple]] = {}
    columns = ("name", "category", "token_id", "answer", "in_vocabulary")
    for name, *row in zip(*(table[column].to_pylist() for column in columns), strict=True):
        documents.setdefault(name, []).append(tuple(row))
    return documents


def _lengths(manifest: Manifest) -> dict[str, int]:
    return {document.name: document.num_losses for document in manifest.documents}


def _shards(there: Any, here: Any) -> str:
    if there == here or not (isinstance(there, list) and isinstance(here, list)):
        return ""
    try:
        old, new = ({shard["name"]: shard for shard in shards} for shards in (there, here))
    except (KeyError, TypeError):  # a damaged experiment.json: its fields are named one by one
        return ""
    return _named(old, new, "with other content")


def _named(there: dict, here: dict, changed: str) -> str:
    """'only there a, b; only here c; with other text d'; nothing of what is equal. `changed`: said of names in both."""
    kinds = {
        "only there": [name for name in there if name not in here],
        "only here": [name for name in here if name not in there],
        changed: [name for name in there if name in here and there[name] != here[name]],
    }
    return ", ".join(f"{kind} {listed(names, MOST_NAMES)}" for kind, names in kinds.items() if names)


def _short(value: Any) -> str:
    if isinstance(value, str) and re.fullmatch(r"[0-9a-f]{64}", value):
        return f"{value[:12]}..."  # a hash: nobody compares all of it
    text = repr(value)
    return text if len(text) <= LONGEST_VALUE else text[: LONGEST_VALUE - 3] + "..."
