"""files of token shards <-> arrays of GPT-2 ids, and where their documents begin.

A shard is a header of 256 little-endian int32 (magic, version, token count, zeros) and then that many
uint16 GPT-2 ids, each document preceded by BOS: the format of the public set `kjj0/fineweb10B-gpt2`.
"""

from __future__ import annotations

import uuid
from pathlib import Path

import numpy as np

BOS = 50256
NUM_IDS = 50257
MAGIC = 20240520
VERSION = 1
HEADER_INTS = 256
HEADER_BYTES = 4 * HEADER_INTS
SCAN_TOKENS = 1 << 22  # bounds the memory of one step of the search for BOS (the shards have 10^8 tokens)


class ShardError(ValueError):
    """A shard that is missing, malformed or too short for what was asked."""


def find_shards(data_root: str | Path, glob: str) -> list[Path]:
    """Sorted paths of the shards `glob` under `data_root`. Raises ShardError if there is none."""
    paths = sorted(Path(data_root).glob(glob))
    if not paths:
        raise ShardError(
            f"no shard matches {glob!r} under {Path(data_root).resolve()}: name the right data folder or "
            "fill it (modded-nanogpt/data/cached_fineweb10B.py, or `discreteness data make` with text of your own)"
        )
    return paths


def token_count(path: str | Path) -> int:
    """Tokens of a shard, as its header says. Raises ShardError if there is no such header."""
    path = Path(path)
    if not path.is_file():  # a pipe would be waited for
        raise ShardError(f"{path} is not a file: expected a shard of tokens; fetch or write it again")
    num_bytes = path.stat().st_size
    if num_bytes < HEADER_BYTES:
        raise _malformed(path, f"{num_bytes} bytes", f"a header of {HEADER_BYTES} bytes")
    magic, version, count = (int(x) for x in np.fromfile(path, dtype="<i4", count=3))
    if magic != MAGIC:
        raise _malformed(path, f"magic {magic}", f"{MAGIC}")
    if version != VERSION:
        raise _malformed(path, f"version {version}", f"{VERSION}")
    if count < 1:
        raise _malformed(path, f"a token count of {count}", "at least 1")
    return count


def open_shard(path: str | Path) -> np.ndarray:
    """Tokens of a shard, (count,) uint16, mapped read-only. Raises ShardError if header or file length is wrong."""
    path, count = Path(path), token_count(path)
    num_bytes = path.stat().st_size
    if num_bytes != HEADER_BYTES + 2 * count:
        expected = f"{HEADER_BYTES + 2 * count} for the {count} tokens of its header"
        raise _malformed(path, f"{num_bytes} bytes", expected)
    return np.memmap(path, dtype="<u2", mode="r", offset=HEADER_BYTES, shape=(count,))


def _malformed(path: Path, found: str, expected: str) -> ShardError:
    return ShardError(f"shard {path} has {found}, expected {expected}: fetch or write it again")


def write_shard(path: str | Path, tokens: np.ndarray) -> None:
    """Write ids (count,) of 0..65535 as a shard; it appears whole or not at all, also with many writers."""
    path, tokens = Path(path), np.asarray(tokens)
    if tokens.ndim != 1 or tokens.size == 0 or tokens.dtype.kind not in "iu":
        raise ShardError(f"{path}: a shard needs a vector of integers, got shape {tokens.shape} of {tokens.dtype}")
    if tokens.min() < 0 or tokens.max() > 65535:
        raise ShardError(f"{path}: ids {tokens.min()}..{tokens.max()} do not fit into uint16, 0..65535")
    header = np.zeros(HEADER_INTS, dtype="<i4")
    header[:3] = MAGIC, VERSION, tokens.size
    temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(header.tobytes())
            file.write(np.ascontiguousarray(tokens, "<u2").data)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def bos_positions(path: Path, tokens: np.ndarray) -> np.ndarray:
    found = []
    for start in range(0, len(tokens), SCAN_TOKENS):
        part = tokens[start : start + SCAN_TOKENS]
        high = np.flatnonzero(part >= BOS)
        if (part[high] > BOS).any():
            raise ShardError(f"shard {path} holds id {part.max()}, beyond GPT-2's last id {BOS}: write it again")
        found.append(high + start)
    return np.concatenate(found)
