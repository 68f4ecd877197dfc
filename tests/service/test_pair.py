"""A pair that is not the speedrun's, sound and broken in each way: what is told, and what stands in the dataset.

The worker, the publisher, the dispatcher, the ledger and the writer are the real ones, without Ray and without torch's
part in any of it. test_pair_job.py runs the same pair on Ray.
"""

import re

import numpy as np
import pytest

from discreteness.dataset.reader import open as open_reader
from discreteness.dataset.verify import verify
from tests.support.threaded_ray import dispatching, train
from tests.support.unigram_pair import DOCUMENTS, PLAN, RECORDING, UnigramPair, open_dataset, truth


def run(folder, faults, times=1, **how):
    """(progress, errors that ended the processes, {committed seed: float32 [steps, losses]})"""
    dataset = open_dataset(folder)
    with dispatching(RECORDING, UnigramPair(faults=faults), dataset, **how) as (spec, dispatcher):
        errors = train(spec, times)
        progress = dispatcher.progress.remote(0).result(60)
    assert verify(folder) == []
    found = {}
    if dataset.committed():
        reader = open_reader(folder)
        for seed in reader.seeds:
            found[seed] = np.concatenate([reader.losses(text.name, seeds=[seed])[0] for text in DOCUMENTS], axis=1)
    return progress, errors, found


def assert_true(found):
    for seed, losses in found.items():
        assert losses.tobytes() == truth(seed).tobytes(), seed


def test_seeds_of_another_pair_are_leased_scored_and_committed_to_the_bit(tmp_path):
    progress, errors, found = run(tmp_path / "set", {})
    assert (sorted(found), errors, progress.failed, progress.done) == ([5, 6, 7], [], {}, True)
    assert_true(found)
    assert len({losses.tobytes() for losses in found.values()}) == 3
    counts = progress.counts
    assert (counts.published, counts.checkpoints, counts.attempts_lost) == (3 * len(PLAN), 3 * len(PLAN), 0)
    assert (counts.updates, counts.tokens, counts.flop) == (3 * PLAN[-1], 3 * PLAN[-1] * 8, 3 * PLAN[-1] * 128.0)
    runs = open_reader(tmp_path / "set").runs(6)
    assert runs["step"].to_pylist() == list(range(PLAN[-1] + 1))  # those of signs of life too


WRONG = {
    "twice": r"the source of seed 6 gave step 4 twice",
    "back": r"the source of seed 6 gave step 3 after step 4",
    "forgets": r"the source of seed 6 left out step 4: it gave step 5 next",
    "ends early": r"the source of seed 6 ended before step 6",
    "lies": r"the source of seed 6 sent uint8\[256\] at step 6, and announced uint8\[257\]",
    "impossible": r"its weights are no weights",
    "float64": r"the scorer gave float64\[6\] for step 4 of seed 6, not float32\[6\]",
    "too few": r"the scorer gave float32\[5\] for step 4 of seed 6, not float32\[6\]",
    "a list": r"the scorer gave list for step 4 of seed 6, not float32\[6\]",
    "scorer impossible": r"step 4: its pickle holds code",
}
"""What no other attempt would mend."""


@pytest.mark.parametrize("fault", WRONG)
def test_what_is_wrong_for_good_ends_its_seed_at_once_by_name_and_no_other(tmp_path, fault):
    progress, errors, found = run(tmp_path / "set", {6: fault})
    assert (sorted(found), errors) == ([5, 7], [])
    assert_true(found)
    assert progress.failed.keys() == {6} and progress.counts.attempts_lost == 1
    assert re.fullmatch(WRONG[fault], progress.failed[6]), progress.failed[6]


TRIED = {
    "passing thrice": "the hub is busy",
    "shrinks": "step 6 cannot be scored: 128 bytes of 'unigram of 64 classes, float32'",
    "not finite": "the loss of seed 6 at step 4, document 'a.txt', token 1 is nan",
}


@pytest.mark.parametrize("fault", TRIED)
def test_what_may_pass_is_tried_three_times(tmp_path, fault):
    progress, errors, found = run(tmp_path / "set", {6: fault})
    assert (sorted(found), errors) == ([5, 7], [])
    assert_true(found)
    assert progress.counts.attempts_lost == 3 and progress.failed[6].startswith(TRIED[fault])


def test_what_has_passed_leaves_no_trace_in_the_curve(tmp_path):
    progress, errors, found = run(tmp_path / "set", {6: "passing"})
    assert (sorted(found), errors, progress.failed) == ([5, 6, 7], [], {})
    assert progress.counts.attempts_lost == 1
    assert_true(found)


@pytest.mark.parametrize(
    ("fault", "text"),
    [("impossible for all", "no tokenizer"), ("scorer impossible for all", "step 4: no transformers here")],
)
def test_what_every_seed_would_meet_ends_all_and_keeps_what_is_committed(tmp_path, fault, text):
    progress, errors, found = run(tmp_path / "set", {6: fault})
    assert (sorted(found), errors, progress.failed) == ([5], [], {6: text, 7: text})
    assert_true(found)


def test_a_machine_that_cannot_ends_its_trainer_and_not_the_seed(tmp_path):
    progress, errors, found = run(tmp_path / "set", {6: "unfit"}, times=3)
    assert (sorted(found), errors, progress.failed, progress.waiting) == ([5], [], {}, 2)
    (told,) = [event.message for event in progress.events if event.event == "trainer failed"]
    assert told == "trainer-0 failed: rank 0: the disk of this machine is gone"


def test_any_other_error_of_a_source_ends_its_processes_until_the_trainer_is_given_up(tmp_path):
    progress, errors, found = run(tmp_path / "set", {6: "broken"}, times=4)
    assert [type(error) for error in errors] == [ZeroDivisionError] * 3
    assert progress.failed == {6: "trainer-0 rank 0: ZeroDivisionError: by nothing"}
    assert (sorted(found), progress.waiting) == ([5], 1)  # nobody is left for seed 7


def test_a_source_that_does_not_score_cannot_be_verified_and_says_so(tmp_path):
    progress, _, found = run(tmp_path / "set", {}, verify_every=2)
    text = "--verify-every: this source does not score its own checkpoints; leave it out"
    assert (found, progress.failed) == ({}, dict.fromkeys((5, 6, 7), text))
