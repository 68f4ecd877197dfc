"""Orders of training documents: the published generator, properties of every shuffle, the stream that ranks share."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from speedrun.data import document_order
from speedrun.data.document_order import DocumentIndex, DocumentOrder, shuffled
from speedrun.data.sampler import TrainingBatches
from speedrun.data.shards import BOS, ShardError, write_shard

MASK = 2**64 - 1


def outputs(state):
    """SplitMix64 in whole numbers of Python, as its paper prints it."""
    while True:
        state = (state + 0x9E3779B97F4A7C15) & MASK
        z = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
        yield z ^ (z >> 31)


def test_the_generator_is_the_published_one():
    """Its first outputs for the seed 1234567, as they stand beside the reference implementations."""
    known = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431, 16408922859458223821]
    random = outputs(1234567)
    assert [next(random) for _ in known] == known
    states = (1234567 + np.arange(1, 6, dtype=np.uint64) * np.uint64(document_order.GAMMA)).astype(np.uint64)
    assert document_order._mixed(states).tolist() == known


@pytest.mark.parametrize("seed", [0, 1, 2**31 - 1, 2**64 - 1, -1])
@pytest.mark.parametrize("count", [1, 2, 255, 256, 1000])
def test_an_order_is_that_of_the_outputs(count, seed):
    random = outputs(next(outputs(seed % 2**64)))
    bits = count.bit_length()
    ranks = [next(random) >> bits for _ in range(count)]
    assert shuffled(count, seed).tolist() == sorted(range(count), key=lambda i: (ranks[i], i))


def test_orders_stay_what_they_are():
    """These two are part of every dataset whose seeds vary the data: a change needs other datasets."""
    assert shuffled(10, 0).tolist() == [5, 7, 8, 2, 9, 0, 3, 1, 6, 4]
    assert shuffled(10, 1).tolist() == [2, 8, 4, 9, 7, 0, 6, 5, 3, 1]


def test_a_shuffle_has_no_preference():
    """Over 2,000 seeds each of 8 documents comes first, and each follows each, about as often as any other."""
    orders = np.array([shuffled(8, seed) for seed in range(2000)])
    places = np.array([np.bincount(column, minlength=8) for column in orders.T])
    assert abs(places - 250).max() < 5 * 250**0.5
    pairs = np.zeros((8, 8), int)
    np.add.at(pairs, (orders[:, :-1].ravel(), orders[:, 1:].ravel()), 1)
    assert pairs.trace() == 0
    assert abs(pairs[~np.eye(8, dtype=bool)] - 250).max() < 5 * 250**0.5


def write_documents(folder, gaps, head):
    """Shards whose every id but BOS occurs once, `head` of them before the first document. Paths, and the documents'
    tokens file after file."""
    paths, documents = [], []
    for k, lengths in enumerate(gaps):
        starts = head + np.cumsum([0, *lengths[:-1]])
        tokens = (np.arange(head + sum(lengths)) + 10_000 * k).astype(np.uint16)
        tokens[starts] = BOS
        paths.append(folder / f"{k}.bin")
        write_shard(paths[-1], tokens)
        documents += [part.tolist() for part in np.split(tokens, starts)[1:]]
    return paths, documents


@settings(max_examples=60, deadline=None)
@given(
    gaps=st.lists(st.lists(st.integers(1, 40), min_size=1, max_size=60), min_size=1, max_size=3),
    head=st.integers(0, 5),
    world_size=st.sampled_from([1, 2, 4, 8]),
    n=st.integers(1, 60),
    cap=st.integers(1, 30),
    seed=st.integers(0, 2**31),
)
def test_ranks_share_one_order_of_all_documents(tmp_path_factory, gaps, head, world_size, n, cap, seed):
    """Every document at most once per pass, in the order of the seed, across files; ranks have different ones; what is
    left at the end would not have filled another call."""
    paths, documents = write_documents(tmp_path_factory.mktemp("order"), gaps, head)
    order = DocumentOrder(DocumentIndex(paths, cap), seed)
    assert sorted(order.documents.tolist()) == list(range(len(documents)))
    expected = [documents[i][:cap] for i in order.documents]
    samplers = [TrainingBatches(paths, rank, world_size, 8, cap, shuffled=True) for rank in range(world_size)]
    streams = []
    for _ in range(2):
        for sampler in samplers:
            sampler.rewind(seed)
        calls, place = [], 0
        with pytest.raises(ShardError, match=rf"ran out: a call needs {world_size} x {n + 1} tokens in documents; add"):
            while True:
                for sampler in samplers:
                    inputs, targets, offsets = sampler.next(8 * n)
                    calls.append([*inputs.tolist(), int(targets[-1])])
                    spans = np.split(inputs, offsets[1:][offsets[1:] < n])
                    taken = []
                    for document in expected[place:]:
                        taken += document
                        place += 1
                        if len(taken) > n:
                            break
                    assert calls[-1] == taken[: n + 1]
                    assert all(span[0] == BOS for span in spans)
                assert {sampler.document_index for sampler in samplers} == {place}
        # Every rank's last document may be cut to nothing but its first token.
        left = order.kept[-1] - order.kept[place]
        assert order.assign(place, world_size, n + 1) is None and left < world_size * (n + cap)
        streams.append(calls)
    assert streams[0] == streams[1]


def small_documents(tmp_path, num_shards=3):
    paths, _ = write_documents(tmp_path, [[20] * 50] * num_shards, head=0)
    return paths


def pass_of(batches, calls=8):
    return [batches.next(8 * 40)[0].tolist() for _ in range(calls)]


def test_seeds_read_from_all_shards_in_orders_of_their_own(tmp_path):
    batches = TrainingBatches(small_documents(tmp_path), 0, 1, 8, 20, shuffled=True)
    passes = {}
    for seed in (0, 1, 2):
        batches.rewind(seed)
        passes[seed] = pass_of(batches)
        shards = {token // 10_000 for call in passes[seed] for token in call if token != BOS}
        assert shards == {0, 1, 2}
    assert passes[0] != passes[1] != passes[2] != passes[0]


def test_an_order_prepared_ahead_does_not_disturb_the_one_in_use(tmp_path):
    paths = small_documents(tmp_path)
    alone, ahead = (TrainingBatches(paths, 0, 1, 8, 20, shuffled=True) for _ in range(2))
    expected = {}
    for seed in (3, 4, 5):
        alone.rewind(seed)
        expected[seed] = pass_of(alone)
    ahead.rewind(3)
    first = pass_of(ahead, 2)
    ahead.prepare(5)  # another one comes than was expected
    assert first + pass_of(ahead, 6) == expected[3]
    ahead.rewind(4)
    assert pass_of(ahead) == expected[4]
    ahead.prepare(5)
    ahead.rewind(5)
    assert pass_of(ahead) == expected[5]


def test_a_seed_changes_nothing_in_the_order_of_the_files(tmp_path):
    paths = small_documents(tmp_path)
    plain, seeded = TrainingBatches(paths, 0, 1, 8, 20), TrainingBatches(paths, 0, 1, 8, 20)
    seeded.prepare(7)
    seeded.rewind(7)
    assert pass_of(plain) == pass_of(seeded)
    assert list(DocumentOrder(DocumentIndex(paths, 20)).documents) == list(range(150))


def test_the_index_finds_every_document_with_its_cap(tmp_path):
    paths, documents = write_documents(tmp_path, [[3, 9, 1], [5], [40, 2]], head=2)
    order = DocumentOrder(DocumentIndex(paths, 8))
    assert order.kept.tolist() == [0, 3, 11, 12, 17, 25, 27]
    assert [span.tolist() for span in order.take(0, 6, 27)] == [document[:8] for document in documents]
    assert [span.tolist() for span in order.take(1, 5, 15)] == [documents[1][:8], [BOS], documents[3], [BOS]]


def test_a_bad_shard_is_named_before_a_shuffled_stream_begins(tmp_path):
    paths = small_documents(tmp_path)
    write_shard(paths[2], np.array([BOS, 1, 50300, 2]))
    with pytest.raises(ShardError, match=r"2\.bin holds id 50300"):
        TrainingBatches(paths, 0, 1, 8, 20, shuffled=True)
    paths[1].write_bytes(b"no shard")
    with pytest.raises(ShardError, match=r"1\.bin has 8 bytes"):
        TrainingBatches(paths, 0, 1, 8, 20, shuffled=True)


def test_too_many_documents_name_all_shards(tmp_path):
    paths, _ = write_documents(tmp_path, [[2] * 200] * 2, head=0)
    with pytest.raises(ShardError, match=r"shuffled, the shards from .*0.bin to .*1.bin pack 128 documents into 255"):
        TrainingBatches(paths, 0, 1, 1, 100, shuffled=True).next(255)
