"""A vocabulary: which row of a track's tables each GPT-2 id has, and which ids have one of their own."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from speedrun.data.shards import BOS, NUM_IDS
from speedrun.tracks import Track


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """GPT-2 id -> row of the tables. A small model has rows for listed ids only; all others share one."""

    row_of_id: np.ndarray
    """(50257,) int32"""
    num_rows: int
    """Rows in use; the tables may be padded beyond them."""
    shared_row: int | None
    """Row of every id without its own; None if every id has one."""

    @classmethod
    def identity(cls) -> Vocabulary:
        """Every GPT-2 id is its own row."""
        return cls(np.arange(NUM_IDS, dtype=np.int32), NUM_IDS, shared_row=None)

    @classmethod
    def load(cls, path: str | Path | None) -> Vocabulary:
        """Vocabulary of a file of ascending ids, one per line: BOS gets row 0, row 1 is shared, the ids follow.

        A relative path starts at this package; None is the identity.
        """
        if path is None:
            return cls.identity()
        path = Path(__file__).parent / path
        try:
            ids = np.array(path.read_text().split(), dtype=np.int64)
        except ValueError as error:
            raise ValueError(f"vocabulary {path}: {error}; expected one GPT-2 id per line") from None
        if ids.size == 0 or (np.diff(ids) <= 0).any() or ids[0] < 0 or ids[-1] >= NUM_IDS:
            raise ValueError(f"vocabulary {path}: expected ascending GPT-2 ids of 0..{NUM_IDS - 1}, one per line")
        ids = ids[ids != BOS]
        row_of_id = np.full(NUM_IDS, 1, dtype=np.int32)
        row_of_id[BOS] = 0
        row_of_id[ids] = np.arange(2, 2 + len(ids))
        return cls(row_of_id, 2 + len(ids), shared_row=1)

    def rows(self, ids: np.ndarray) -> np.ndarray:
        """Rows of `ids`: same shape, int32."""
        return self.row_of_id[ids]

    def contains(self, ids: np.ndarray | int) -> bool:
        """Whether every id has a row of its own."""
        return self.shared_row is None or bool((self.row_of_id[ids] != self.shared_row).all())


def vocabulary_of(track: Track) -> Vocabulary:
    """GPT-2 ids -> rows of this track's tables."""
    return Vocabulary.load(track.data.vocabulary)
