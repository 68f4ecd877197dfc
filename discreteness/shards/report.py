"""shards -> what is in them, and what is wrong with them, every token read."""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import numpy as np
from speedrun.data.shards import BOS, SCAN_TOKENS, open_shard, token_count
from speedrun.data.supply import measure
from speedrun.tracks import Track

MIB = 2**20


@dataclass(frozen=True)
class ShardReport:
    """One shard."""

    path: Path
    tokens: int
    documents: int
    longest_document: int
    problems: tuple[str, ...]


def report_shards(paths: Iterable[str | Path]) -> Iterator[ShardReport]:
    """A report of each shard, as `shard_paths` finds them."""
    for path in shard_paths(paths):
        try:
            tokens = open_shard(path)
        except ValueError as error:
            yield ShardReport(path, 0, 0, 0, (str(error),))
            continue
        starts, largest = [], 0
        for at in range(0, len(tokens), SCAN_TOKENS):
            part = tokens[at : at + SCAN_TOKENS]
            largest = max(largest, int(part.max()))
            starts.append(np.flatnonzero(part == BOS) + at)
        begins = np.concatenate(starts)
        problems = []
        if largest > BOS:
            problems.append(f"shard {path} holds id {largest}, beyond GPT-2's last id {BOS}: fetch or write it again")
        if not len(begins):
            problems.append(f"shard {path} has no document: {BOS} must stand before each; fetch or write it again")
        longest = int(np.diff(begins, append=len(tokens)).max()) if len(begins) else 0
        yield ShardReport(path, len(tokens), len(begins), longest, tuple(problems))


def report_supply(paths: Iterable[Path], recipe: Track, world_size: int) -> Iterator[str]:
    """A line for each folder with training shards of the track among `paths`: what a seed's training, by `world_size`
    workers in the order of the files, takes of them, counted as the sampler takes it."""
    named = [path for path in paths if fnmatch(path.name, Path(recipe.data.train_glob).name)]
    if not named:
        yield f"no training shard of track {recipe.name} among them, which would be a {recipe.data.train_glob}"
    for folder in sorted({path.parent for path in named}):
        training = sorted(path for path in named if path.parent == folder)
        supply = measure(training, recipe, world_size, beyond=True)
        passes = str(supply.passes) if supply.passes else f"none is enough: {supply.error}"
        yield (
            f"track {recipe.name} in {folder}: a seed needs {supply.needed:,} tokens for {supply.updates:,} updates; "
            f"{supply.words()}; passes needed: {passes}"
        )


def shard_paths(paths: Iterable[str | Path]) -> list[Path]:
    """The files among `paths`, and all `*.bin` below the folders among them. Raises ValueError if nothing is named, if
    a path is not there, or if a folder has no shard."""
    named = [Path(path) for path in paths]
    if not named:
        raise ValueError("no shard is named: give shards, or the folder that they are in")
    found: list[Path] = []
    for path in named:
        if not path.exists():
            raise ValueError(f"{path} is not there: give shards, or the folder that they are in")
        below = sorted(path.rglob("*.bin")) if path.is_dir() else [path]
        if not below:
            raise ValueError(f"no .bin file under {path}: give shards, or the folder that they are in")
        found += below
    return found


def data_identity(paths: Iterable[str | Path]) -> list[dict[str, Any]]:
    """Name, bytes, tokens (from the shard's header) and hash of the first MiB of each shard, in the order given. Raises
    ShardError if one of them is not a shard.
    """
    shards = []
    for path in map(Path, paths):
        tokens = token_count(path)
        with path.open("rb") as file:
            first_mib = hashlib.sha256(file.read(MIB)).hexdigest()
        shards.append({"name": path.name, "bytes": path.stat().st_size, "tokens": tokens, "first_mib": first_mib})
    return shards
