"""Counts of tokens and pairs in shards against a plain loop, and the losses of the two models by hand."""

from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from speedrun.data.shards import BOS, NUM_IDS, ShardError, write_shard

from discreteness.shards import ngrams
from discreteness.shards.ngrams import STRENGTHS, NgramCounts, bigram_losses, count, unigram_losses

IDS = st.sampled_from([0, 1, 2, 300, BOS])


@settings(max_examples=60)
@given(
    shards=st.lists(st.lists(IDS, min_size=1, max_size=40), min_size=1, max_size=3),
    asked=st.lists(st.tuples(IDS, IDS), min_size=1, max_size=30),
    at_once=st.integers(1, 50),
)
def test_counts_are_those_of_a_plain_loop_however_the_shards_are_read(tmp_path_factory, shards, asked, at_once):
    folder = tmp_path_factory.mktemp("shards")
    paths = [folder / f"{number}.bin" for number in range(len(shards))]
    for path, tokens in zip(paths, shards, strict=True):
        write_shard(path, np.array(tokens))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ngrams, "SCAN_TOKENS", at_once)
        counts = count(paths, np.array(asked))
    unigrams = Counter(token for tokens in shards for token in tokens)
    pairs = Counter(pair for tokens in shards for pair in pairwise(tokens))
    firsts = Counter(pair[0] for tokens in shards for pair in pairwise(tokens))
    assert counts.tokens == sum(map(len, shards))
    assert all(counts.unigrams[token] == unigrams[token] for token in range(NUM_IDS))
    assert all(counts.firsts[token] == firsts[token] for token in range(NUM_IDS))
    assert counts.pairs.tolist() == [pairs[pair] for pair in asked]


def test_a_shard_with_ids_beyond_gpt2_is_refused_by_name(tmp_path):
    write_shard(tmp_path / "other.bin", np.array([1, 60_000]))
    with pytest.raises(ShardError, match=r"other\.bin holds id 60000, beyond GPT-2's last id"):
        count([tmp_path / "other.bin"], np.array([[1, 2]]))


def counts_of(unigrams, firsts, pairs):
    def table(values):
        found = np.zeros(NUM_IDS, np.int64)
        for token, number in values.items():
            found[token] = number
        return found

    return NgramCounts(unigrams=table(unigrams), firsts=table(firsts), pairs=np.array(pairs))


def test_losses_by_hand():
    """10 tokens, 7 of which are followed by another; token 3 stands 4 times, 2 of them behind token 5."""
    counts = counts_of({3: 4, 5: 6}, {5: 5, 3: 2}, pairs=[2, 0])
    pairs = np.array([[5, 3], [7, 3]])
    p = 5 / (10 + NUM_IDS)
    assert np.allclose(unigram_losses(counts, pairs[:, 1]), -np.log([p, p]))
    losses, strength = bigram_losses(counts, pairs)
    assert np.allclose(losses, -np.log([(2 + strength * p) / (5 + strength), p]))  # nothing is known of token 7
    by_hand = [-np.log((2 + s * p) / (5 + s)) for s in STRENGTHS]
    assert strength == STRENGTHS[np.argmin(by_hand)] == STRENGTHS[0]


def test_the_probabilities_of_all_tokens_sum_to_one():
    counts = counts_of({1: 3, 2: 2, 4: 1}, {1: 3, 2: 2}, pairs=np.bincount([2, 2, 4], minlength=NUM_IDS))
    everything = np.stack([np.full(NUM_IDS, 1), np.arange(NUM_IDS)], axis=1)
    assert np.isclose(np.exp(-unigram_losses(counts, everything[:, 1])).sum(), 1)
    assert np.isclose(np.exp(-bigram_losses(counts, everything)[0]).sum(), 1)
