"""training shards + pairs of tokens -> how often tokens and pairs occur, and the losses of models that know no more.

- The unigram model gives each token its share of the corpus, with one added to every count.
- The bigram model is a hierarchical Dirichlet language model (MacKay & Peto 1995): p(b | a) = (count(a b) + s p(b)) /
  (count(a) + s), which is the unigram model where `a` was hardly ever seen.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from speedrun.data.shards import NUM_IDS, SCAN_TOKENS, ShardError, open_shard

STRENGTHS = 10.0 ** np.arange(-1, 5.5, 0.5)
"""Of the prior, in tokens: what `bigram_losses` chooses from."""


@dataclass(frozen=True, kw_only=True)
class NgramCounts:
    """`pairs` int64 [n], of those that were asked for; the others int64 [NUM_IDS]. `firsts`: how often a token has
    another behind it, which is less than its count where a shard ends with it."""

    unigrams: np.ndarray
    firsts: np.ndarray
    pairs: np.ndarray

    @property
    def tokens(self) -> int:
        return int(self.unigrams.sum())


def count(paths: Iterable[Path], pairs: np.ndarray) -> NgramCounts:
    """Counts every token of the shards, and the pairs [n, 2] of GPT-2 ids, at least one, that stand side by side there.

    Memory is bounded whatever the shards' size. Raises ShardError where a shard is missing or damaged.
    """
    kinds, place_of = np.unique(_keys(pairs[:, 0], pairs[:, 1]), return_inverse=True)
    is_first = np.zeros(NUM_IDS, bool)
    is_first[pairs[:, 0]] = True
    unigrams, firsts = np.zeros(NUM_IDS, np.int64), np.zeros(NUM_IDS, np.int64)
    found = np.zeros(len(kinds), np.int64)
    for path in paths:
        tokens = open_shard(path)
        for start in range(0, len(tokens), SCAN_TOKENS):
            part = np.asarray(tokens[start : start + SCAN_TOKENS + 1])  # and the first of the next, as second of a pair
            if part.max() >= NUM_IDS:
                raise ShardError(f"shard {path} holds id {part.max()}, beyond GPT-2's last id: write it again")
            own = part[:SCAN_TOKENS]
            unigrams += np.bincount(own, minlength=NUM_IDS)
            first, second = part[:-1], part[1:]
            firsts += np.bincount(first, minlength=NUM_IDS)
            asked = np.flatnonzero(is_first[first])
            keys = _keys(first[asked], second[asked])
            places = np.minimum(np.searchsorted(kinds, keys), len(kinds) - 1)
            found += np.bincount(places[kinds[places] == keys], minlength=len(kinds))
    return NgramCounts(unigrams=unigrams, firsts=firsts, pairs=found[place_of.reshape(-1)])


def unigram_losses(counts: NgramCounts, ids: np.ndarray) -> np.ndarray:
    """float64 [n], nats, of these tokens."""
    return -np.log((counts.unigrams[ids] + 1) / (counts.tokens + NUM_IDS))


def bigram_losses(counts: NgramCounts, pairs: np.ndarray) -> tuple[np.ndarray, float]:
    """float64 [n], nats, of the second token of each pair that was counted, and the strength of the prior: the one of
    STRENGTHS with the least mean loss, which is one number for all of them."""
    prior = np.exp(-unigram_losses(counts, pairs[:, 1]))
    strength = STRENGTHS[:, None]
    losses = -np.log((counts.pairs + strength * prior) / (counts.firsts[pairs[:, 0]] + strength))
    best = int(losses.mean(axis=1).argmin())
    return losses[best], float(STRENGTHS[best])


def _keys(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    return first.astype(np.int64) * NUM_IDS + second
