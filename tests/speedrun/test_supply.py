"""What shards give to a schedule, against the loader itself, step by step until its documents run out."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from speedrun.data.batches import BatchStream
from speedrun.data.sampler import SamplingError, TrainingBatches
from speedrun.data.shards import BOS, ShardError, write_shard
from speedrun.data.supply import measure
from speedrun.data.vocabulary import Vocabulary
from speedrun.schedules import step_settings

from tests.support.brief_track import brief


def track_of(sizes, num_slots, cap, extension_steps=1):
    """A track that takes these tokens per slot, one value per stage of two steps."""
    schedule = replace(
        brief.schedule,
        scheduled_steps=2 * len(sizes),
        extension_steps=extension_steps,
        batch_tokens=tuple(num_slots * tokens for tokens in sizes),
    )
    data = replace(brief.data, num_slots=num_slots, max_document_tokens=cap, val_tokens=512)
    return replace(brief, schedule=schedule, data=data)


def write_documents(folder, gaps, head=0):
    """A shard for each list of lengths, `head` tokens before its first document. Paths."""
    paths = []
    for k, lengths in enumerate(gaps):
        tokens = np.arange(head + sum(lengths)) % 50000
        tokens[head + np.cumsum([0, *lengths[:-1]])] = BOS
        paths.append(folder / f"{k}.bin")
        write_shard(paths[-1], tokens)
    return paths


def trained_updates(paths, track, world_size, rank, shuffled, seed, epochs):
    """Updates for which the stream that the trainer reads has batches, and what it said in the end."""
    data = track.data
    sampler = TrainingBatches(paths, rank, world_size, data.num_slots, data.max_document_tokens, shuffled, epochs)
    stream = BatchStream(sampler, Vocabulary.load(None), track.schedule, "cpu", 64)
    stream.start(seed=seed)
    try:
        for step in range(track.schedule.last_step):
            taken = sum(len(packed.ids) for packed in stream.step(step))
            assert taken == step_settings(track.schedule, step).batch_tokens // world_size
    except SamplingError as error:
        return step, str(error)
    finally:
        stream.close()
    return track.schedule.last_step, ""


GAPS = st.lists(st.lists(st.integers(1, 60), min_size=1, max_size=40), min_size=1, max_size=3)


@settings(max_examples=60, deadline=None)
@given(
    gaps=GAPS,
    head=st.integers(0, 5),
    sizes=st.lists(st.sampled_from([16, 32, 48]), min_size=3, max_size=3),
    world_size=st.sampled_from([1, 2, 4]),
    cap=st.integers(1, 80),
    shuffled=st.booleans(),
    seed=st.integers(0, 2**31),
    epochs=st.integers(1, 3),
)
@example([[60] * 40] * 3, 0, [16, 32, 48], 4, 80, False, 0, 1)  # more than enough
@example([[17] * 4 * 2 * 2 + [33] * 4 * 2 * 2 + [49] * 4 * 3 * 2], 0, [16, 32, 48], 1, 80, False, 0, 1)  # and enough
@example([[1] * 40], 0, [48, 48, 48], 1, 80, False, 0, 3)  # not one call in any number of passes
@example([[40] * 6], 2, [16, 16, 16], 4, 30, False, 0, 3)  # passes of a call each
def test_training_runs_out_exactly_where_the_count_says(
    tmp_path_factory, gaps, head, sizes, world_size, cap, shuffled, seed, epochs
):
    paths = write_documents(tmp_path_factory.mktemp("supply"), gaps, head)
    track = track_of(sizes, 4, cap)
    supply = measure(paths, track, world_size, shuffled=shuffled, seeds=[seed])
    for rank in range(world_size):
        updates, said = trained_updates(paths, track, world_size, rank, shuffled, seed, 1)
        assert updates == supply.usable_updates
        assert supply.usable == sum(step_settings(track.schedule, step).batch_tokens for step in range(updates))
        assert said == supply.error or supply.passes == 0
        updates, _ = trained_updates(paths, track, world_size, rank, shuffled, seed, epochs)
        admitted = supply.shortage(epochs) == ""
        assert admitted == (updates == track.schedule.last_step)
        if supply.any_order:
            other, _ = trained_updates(paths, track, world_size, rank, shuffled, seed + 1, 1)
            assert other == track.schedule.last_step


def test_every_seed_is_counted_where_its_order_decides(tmp_path):
    """Documents of 2 and of 40 tokens: which of them end a slot is the order's."""
    paths = write_documents(tmp_path, [[2, 40] * 38])
    track = track_of([16, 32, 48], 4, 80)
    alone = {seed: measure(paths, track, 1, shuffled=True, seeds=[seed]) for seed in range(40)}
    short = {seed for seed, supply in alone.items() if supply.passes > 1}
    assert 0 < len(short) < 40, "some run out and some do not"
    refused = measure(paths, track, 1, shuffled=True, seeds=range(40))
    assert refused.seed == min(short) and not refused.any_order
    assert refused.shortage(1).startswith(f"seed {min(short)} of track brief needs ")
    fitting = sorted(set(range(40)) - short)
    admitted = measure(paths, track, 1, shuffled=True, seeds=fitting)
    assert (admitted.seed, admitted.passes, admitted.any_order) == (fitting[-1], 1, False)
    assert measure(paths, track, 1, shuffled=True, seeds=range(40), epochs=2).seed == 39


def test_where_one_pass_is_enough_in_any_order_one_seed_is_counted(tmp_path):
    track = track_of([16, 16, 16], 4, 40)
    needed = 7 * 4 * (16 + 40)  # updates, slots, what a slot may use up at most
    exact = write_documents(tmp_path, [[40] * (needed // 40), [needed % 40]])
    supply = measure(exact, track, 2, shuffled=True, seeds=range(10**9))
    assert supply.any_order and supply.seed == 0
    short = write_documents(tmp_path, [[40] * (needed // 40), [needed % 40 - 1]])
    assert not measure(short, track, 2, shuffled=True, seeds=range(3)).any_order


def test_the_arithmetic_of_a_refusal(tmp_path):
    """By hand: slots of 16 + 1 tokens use up two documents of 10 each, cut from 12; 100 documents are 50 slots."""
    paths = write_documents(tmp_path, [[12] * 100], head=7)
    supply = measure(paths, track_of([16, 16, 16], 4, 10, extension_steps=20), 1)
    assert (supply.tokens, supply.tails) == (1207, 207)
    assert (supply.usable_updates, supply.usable) == (12, 768)  # of 12.5
    assert (supply.updates, supply.needed, supply.passes) == (26, 1664, 3)  # 104 slots
    assert supply.shortage(3) == ""
    for epochs in (1, 2):
        assert supply.shortage(epochs) == (
            "a seed of track brief needs 1,664 training tokens for 26 updates, and one pass over 1 shard of 1,207 "
            "gives 768, 12 updates (207 lie beyond token 10 of their documents, and 232 are rests of documents at the "
            "ends of slots or of shards): add shards, split long documents (`discreteness data make` does), or give "
            "--epochs 3, which reads the shards 3 times and changes what is learned"
        )


def test_beyond_the_schedule_the_last_batch_size_goes_on(tmp_path):
    paths = write_documents(tmp_path, [[12] * 100])
    track = track_of([16, 16, 16], 4, 10, extension_steps=3)
    within, beyond = (measure(paths, track, 1, beyond=further) for further in (False, True))
    assert (within.usable_updates, within.passes) == (9, 1) == (beyond.updates, beyond.passes)
    assert (beyond.usable_updates, beyond.usable) == (12, 768)


def test_no_number_of_passes_is_enough(tmp_path):
    short = measure(write_documents(tmp_path, [[30], [40]]), track_of([48, 48, 48], 4, 100), 1)
    assert (short.passes, short.usable) == (0, 0)
    assert "no number of passes is enough: the 2 training shards from " in short.shortage(10**6)
    many = measure(write_documents(tmp_path, [[2] * 400]), track_of([400, 400, 400], 1, 100), 1)
    assert "no number of passes is enough: shard " in many.shortage(1) and "packs 201 documents" in many.shortage(1)


def test_a_shard_that_is_needed_and_bad_is_named_and_one_that_is_not_needed_is_not_read(tmp_path):
    paths = write_documents(tmp_path, [[12] * 100, [12] * 100])
    paths[1].write_bytes(paths[1].read_bytes()[:-2])
    assert measure(paths, track_of([16, 16, 16], 4, 10, extension_steps=3), 1).passes == 1
    with pytest.raises(ShardError, match=r"1\.bin has .* bytes, expected"):
        measure(paths, track_of([16, 16, 16], 4, 10, extension_steps=20), 1)


def test_a_further_pass_shuffles_anew_and_repeats_the_files(tmp_path):
    paths = write_documents(tmp_path, [list(range(20, 40)), list(range(20, 45))])
    passes = {}
    for shuffled in (False, True):
        batches = TrainingBatches(paths, 0, 1, 4, 100, shuffled, epochs=2)
        batches.rewind(5)
        taken = []
        with pytest.raises(SamplingError, match="ran out after 2 passes: a call"):
            while True:
                documents, bounds, _ = batches.advance(4 * 30)
                taken.append((batches.shard_index, documents.documents[bounds[0] : bounds[1]].tolist()))
        halves = [[one for part, one in taken if part // (1 if shuffled else 2) == half] for half in (0, 1)]
        passes[shuffled] = halves
    assert passes[False][0] == passes[False][1]
    first, second = ([document for call in half for document in call] for half in passes[True])
    assert first != second and len(set(first)) == len(first) and len(set(second)) == len(second)
    fresh = TrainingBatches(paths, 0, 1, 4, 100, True, epochs=2)
    for one in (batches, fresh):  # which has made both passes of seed 5, and which has made none
        one.rewind(6)
    for _ in range(len(passes[True][0]) + 5):
        (ours, _, _), (theirs, _, _) = batches.advance(4 * 30), fresh.advance(4 * 30)
        assert ours.documents.tolist() == theirs.documents.tolist()
    assert batches.shard_index == fresh.shard_index == 1
