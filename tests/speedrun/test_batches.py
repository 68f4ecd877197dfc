"""Joined micro-batches against the sampler slot by slot; the thread's errors, restarts and end."""

import threading

import numpy as np
import pytest
import torch
from speedrun.data import batches as module
from speedrun.data.batches import BatchStream, join_offsets, shorter_passes, slots_joined
from speedrun.data.sampler import TrainingBatches
from speedrun.data.shards import BOS, ShardError, write_shard
from speedrun.data.vocabulary import Vocabulary
from speedrun.schedules import step_settings
from speedrun.tracks import ScheduleConfig, small

NUM_SLOTS, CAP = 4, 40
SCHEDULE = ScheduleConfig(
    scheduled_steps=6,
    extension_steps=1,
    batch_tokens=(4 * 32, 4 * 64, 4 * 96),
    long_window_blocks=(1,),
    extension_window_blocks=1,
    final_validation_window_blocks=1,
    lr_peaks=(1.0,),
    momentum_warmup_steps=1,
    momentum_cooldown_steps=1,
    mtp_steps=6,
    untie_fraction=0.5,
)


def write_documents(path, num_tokens, seed):
    """Documents of 1 to 60 tokens, many of a single one."""
    random = np.random.default_rng(seed)
    tokens = random.integers(0, 50000, num_tokens)
    lengths = np.minimum(random.integers(1, 61, num_tokens), random.integers(1, 200, num_tokens))
    borders = np.cumsum(lengths)
    tokens[borders[borders < num_tokens]] = BOS
    write_shard(path, tokens)
    return path


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    folder = tmp_path_factory.mktemp("batches")
    return [write_documents(folder / f"{k}.bin", 1800, k) for k in range(2)]


def sampler(paths, rank=0, world_size=1):
    return TrainingBatches(paths, rank, world_size, NUM_SLOTS, CAP)


@pytest.fixture
def stream():
    opened = []

    def open_stream(batches, micro_batch_tokens=128, vocabulary=None):
        vocabulary = vocabulary or Vocabulary.identity()
        opened.append(BatchStream(batches, vocabulary, SCHEDULE, "cpu", micro_batch_tokens))
        return opened[-1]

    yield open_stream
    for one in opened:
        one.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "batches"]


def assert_holds_slots(packed, slots, vocabulary):
    """Every field of a micro-batch, slot by slot, from what the sampler gave."""
    num_tokens = len(slots[0][0])
    total = num_tokens * len(slots)
    assert packed.ids.dtype == torch.int32 and packed.targets.shape == (total, 3)
    assert packed.ids.tolist() == [row for inputs, _, _ in slots for row in vocabulary.rows(inputs)]
    assert packed.positions.tolist() == list(range(num_tokens)) * len(slots)
    assert packed.starts.tolist() == ([True] + [False] * (num_tokens - 1)) * len(slots)
    for number, (_, targets, _) in enumerate(slots):
        rows = [*vocabulary.rows(targets).tolist(), -1, -1]
        found = packed.targets[number * num_tokens : (number + 1) * num_tokens].tolist()
        assert found == [rows[t : t + 3] for t in range(num_tokens)]
    borders = sorted({s * num_tokens + int(end) for s, (_, _, offsets) in enumerate(slots) for end in offsets})
    assert packed.cu_seqlens.dtype == torch.int32
    assert packed.cu_seqlens.tolist() == borders
    assert packed.max_seqlen.dtype == torch.int64 and packed.max_seqlen.device.type == "cpu"
    assert packed.cu_seqlens.diff().max() <= packed.max_seqlen == CAP
    assert torch.equal(packed.order, packed.ids.argsort(stable=True))


@pytest.mark.parametrize("world_size", [1, 2, 4])
@pytest.mark.parametrize("micro_batch_tokens", [1, 128, 10000])
def test_equals_sampler(shards, stream, world_size, micro_batch_tokens):
    vocabulary = Vocabulary.identity()
    for rank in range(world_size):
        made, reference = sampler(shards, rank, world_size), sampler(shards, rank, world_size)
        found = stream(made, micro_batch_tokens)
        for _ in range(2):  # the second time after a restart
            found.start()
            reference.rewind()
            for step in range(SCHEDULE.last_step):
                batch_tokens = step_settings(SCHEDULE, step).batch_tokens
                slots = [reference.next(batch_tokens) for _ in range(NUM_SLOTS // world_size)]
                micro_batches = found.step(step)
                joined = len(slots) // len(micro_batches)
                assert joined == max(
                    k for k in (1, 2, 4) if k <= len(slots) and (k == 1 or k * len(slots[0][0]) <= micro_batch_tokens)
                )
                for number, packed in enumerate(micro_batches):
                    assert_holds_slots(packed, slots[number * joined : (number + 1) * joined], vocabulary)
            assert reference.shard_index == made.shard_index == 1  # a border was crossed


def test_rows_of_a_small_vocabulary(shards, stream, tmp_path):
    (tmp_path / "ids.txt").write_text("\n".join(map(str, range(0, 50000, 7))))
    vocabulary = Vocabulary.load(tmp_path / "ids.txt")
    found = stream(sampler(shards), vocabulary=vocabulary)
    found.start()
    reference = sampler(shards)
    assert_holds_slots(found.step(0)[0], [reference.next(128) for _ in range(4)], vocabulary)


def test_start_midway_has_that_step_s_sizes_and_the_first_documents(shards, stream):
    found = stream(sampler(shards))
    for first_step, num_tokens in ((4, 96), (2, 64), (0, 32)):
        found.start(first_step)
        packed = found.step(first_step)[0]
        assert packed.ids[:num_tokens].tolist() == sampler(shards).next(NUM_SLOTS * num_tokens)[0].tolist()
        found.step(first_step + 1)


def test_shards_that_end_are_reported_at_the_same_step_by_every_rank(shards, stream):
    failed_at = []
    for rank in range(2):
        found = stream(sampler(shards[:1], rank, 2))
        found.start()
        with pytest.raises(ShardError, match=r"training shards .* ran out"):
            for step in range(SCHEDULE.last_step):
                found.step(step)
        failed_at.append(step)
        with pytest.raises(AssertionError, match="start"):
            found.step(step)
        found.start()
        assert found.step(0)
    assert failed_at[0] == failed_at[1] > 0


def test_a_bad_next_shard_is_reported_only_when_it_is_needed(shards, stream, tmp_path):
    bad = tmp_path / "bad.bin"
    bad.write_bytes(b"no shard")
    found = stream(sampler([shards[0], bad]))
    found.start()
    assert found.step(0) and found.step(1)
    with pytest.raises(ShardError, match=r"bad\.bin has 8 bytes"):
        for step in range(2, SCHEDULE.last_step):
            found.step(step)
    write_documents(bad, 1800, seed=5)  # mended
    found.start()
    for step in range(SCHEDULE.last_step):
        found.step(step)


def test_steps_come_in_turn(shards, stream):
    found = stream(sampler(shards))
    with pytest.raises(AssertionError, match="not running"):
        found.step(0)
    found.start()
    with pytest.raises(AssertionError, match="step 1 asked for, 0 is next"):
        found.step(1)
    for step in range(SCHEDULE.last_step):
        found.step(step)
    with pytest.raises(AssertionError):
        found.step(SCHEDULE.last_step)


def test_makes_no_more_than_depth_steps_ahead(shards, stream, monkeypatch):
    made, waiting = [], threading.Event()
    real = module.step_settings

    def note(schedule, step):
        made.append(step)
        if step == 1:
            waiting.set()
        return real(schedule, step)

    monkeypatch.setattr(module, "step_settings", note)
    found = stream(sampler(shards))
    found.start()
    assert waiting.wait(10)
    found._thread.join(0.2)
    assert made == [0, 1] and found._thread.is_alive()


def test_unexpected_errors_arrive_too(shards, stream, monkeypatch):
    found = stream(sampler(shards))
    monkeypatch.setattr(found, "_pack", lambda slots: 1 / 0)
    found.start()
    with pytest.raises(ZeroDivisionError):
        found.step(0)


@pytest.mark.parametrize(
    ("num_slots", "slot_tokens", "expected"),
    [
        (8, 16384, 4),
        (8, 32768, 2),
        (8, 49152, 1),
        (4, 16384, 4),
        (2, 16384, 2),
        (1, 49152, 1),
        (6, 13000, 3),
        (8, 99999, 1),
    ],
)
def test_slots_joined(num_slots, slot_tokens, expected):
    assert slots_joined(num_slots, slot_tokens, 65536) == expected


@pytest.mark.parametrize(
    ("world_size", "given", "expected"),
    [
        (1, 65536, "give --micro-batch-tokens 49152, the length of the longest slot (now 65536)"),
        (1, 49152, "its longest pass has 49152 tokens, one slot, and cannot be shorter: use a GPU with more memory"),
        (1, 16, "its longest pass has 49152 tokens, one slot, and cannot be shorter: use a GPU with more memory"),
        (8, 65536, "its longest pass has 49152 tokens, one slot, and cannot be shorter: use a GPU with more memory"),
    ],
)
def test_what_takes_less_memory(world_size, given, expected):
    """Of `small`: 131,072, 262,144 and 393,216 tokens in eight slots; one of eight ranks has one slot."""
    assert shorter_passes(small.schedule.batch_tokens, small.data.num_slots, world_size, given) == expected


def test_join_offsets_by_hand():
    # The last document of the first slot is empty: its span was one token long.
    parts = [np.array([0, 3, 8, 8, 8], np.int32), np.array([0, 1, 2, 5, 8], np.int32)]
    assert join_offsets(parts, 8).tolist() == [0, 3, 8, 9, 10, 13, 16]
