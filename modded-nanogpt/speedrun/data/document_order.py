"""Training documents: where they lie in the shards, and the order in which they are taken, of the files or of a seed.

- The order of a seed is decided by the seed and the number of documents alone: it is the same on every rank and machine
  and with every version of NumPy, whose own shuffles promise that for one version only.
- In memory is the index, 12 bytes per document, and per order 16 more; the tokens stay in the mapped files.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from speedrun.data.shards import bos_positions, open_shard

GAMMA = 0x9E3779B97F4A7C15
"""Of SplitMix64: 2^64 divided by the golden ratio."""


def shuffled(count: int, seed: int, epoch: int = 0) -> np.ndarray:
    """The numbers 0 to count - 1 in an order of the seed and the pass, int64 (count,). The first pass is epoch 0.

    Number i has the rank of output i of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014), begun from output `epoch` of
    its generator for `seed`; the low bits of the output are replaced by i itself, so that no two are equal.
    """
    numbers = np.arange(count, dtype=np.uint64)
    begin = _mixed(np.array([(seed + (epoch + 1) * GAMMA) % 2**64], np.uint64))
    keys = _mixed(begin + (numbers + np.uint64(1)) * np.uint64(GAMMA))
    low = np.uint64((1 << count.bit_length()) - 1)
    keys = keys & ~low | numbers
    keys.sort()
    return (keys & low).view(np.int64)


def _mixed(state: np.ndarray) -> np.ndarray:
    """SplitMix64: states -> outputs, uint64."""
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))


class DocumentIndex:
    """Where the documents of some shards lie, each cut at a cap, file after file."""

    def __init__(self, paths: Sequence[Path], max_document_tokens: int):
        """Reads every token once. Raises ShardError if a shard is missing or bad."""
        self.shards = [np.asarray(open_shard(path)) for path in paths]  # plain: slices of a memmap cost ten times more
        starts = [bos_positions(path, tokens) for path, tokens in zip(paths, self.shards, strict=True)]
        lengths = [np.diff(at, append=len(tokens)) for at, tokens in zip(starts, self.shards, strict=True)]
        self.starts = np.concatenate(starts)
        self.lengths = np.minimum(np.concatenate(lengths), max_document_tokens).astype(np.int32)
        self.shard_ends = np.cumsum([len(at) for at in starts])

    def __len__(self) -> int:
        return len(self.starts)

    def spans(self, documents: np.ndarray, lengths: np.ndarray) -> list[np.ndarray]:
        """The first tokens of these documents, as many as `lengths` says of each, uint16."""
        starts = self.starts[documents]
        shards = np.searchsorted(self.shard_ends, documents, side="right")
        places = zip(shards.tolist(), starts.tolist(), (starts + lengths).tolist(), strict=True)
        return [self.shards[shard][start:stop] for shard, start, stop in places]


class DocumentOrder:
    """Documents one after another: which they are, how many tokens the first j keep."""

    def __init__(self, index: DocumentIndex, seed: int | None = None, epoch: int = 0):
        """`seed`, `epoch`: of the shuffle; None: as the files have them."""
        self.index = index
        self.documents = np.arange(len(index)) if seed is None else shuffled(len(index), seed, epoch)
        self.kept = np.zeros(len(index) + 1, np.int64)
        np.cumsum(index.lengths[self.documents], out=self.kept[1:])

    def assign(self, first: int, num_ranks: int, budget: int) -> list[int] | None:
        """First place of each rank, then of the next call, with `budget` tokens per rank; None if there are too
        few."""
        bounds = [first]
        for _ in range(num_ranks):
            end = int(self.kept.searchsorted(self.kept[bounds[-1]] + budget))
            if end == len(self.kept):
                return None
            bounds.append(end)
        return bounds

    def take(self, first: int, end: int, budget: int) -> list[np.ndarray]:
        """Tokens of the documents at places [first, end), uint16 each, the last cut so that there are `budget`."""
        lengths = np.diff(self.kept[first : end + 1])
        lengths[-1] -= lengths.sum() - budget
        return self.index.spans(self.documents[first:end], lengths)
