"""An evaluator: which state it validates in; two threads that load beside each other and score one after the other."""

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
import torch
from speedrun.execution import Execution
from speedrun.model import GPT
from speedrun.schedules import final_validation_state, forward_state

from discreteness import documents
from discreteness.checkpoint import CheckpointHeader, CheckpointLayout
from discreteness.evaluators import Evaluator
from tests.golden_case import init_weights
from tests.quick_track import quick

LAST = quick.schedule.last_step
EXPERIMENT = SimpleNamespace(
    track=quick,
    documents=documents.built_in()[:1],
    packing="isolated",
    score_tokens=16_384,
    execution=Execution().on("cpu", torch.float32),
    val_tokens=0,
    data_root="nowhere",
)


@pytest.fixture
def evaluator():
    torch.set_num_threads(2)
    return Evaluator(EXPERIMENT, "cpu")


def checkpoint(seed, step):
    model = GPT(quick.model, torch.float32, "cpu")
    init_weights(model, seed)
    layout, state = CheckpointLayout.of(model), forward_state(quick, step)
    if state.tied:
        model.tie()
    data = layout.pack(model, state.tied)
    header = CheckpointHeader(
        seed=seed, attempt="a" * 12, step=step, layout=layout.fingerprint, state=state, num_bytes=data.nbytes
    )
    return model, data, header


@pytest.mark.parametrize("step", [0, LAST - 1, LAST])
def test_the_last_step_is_validated_with_the_final_window_and_no_other(evaluator, step):
    model, data, header = checkpoint(1, step)
    asked = []

    class Chunks:
        def chunk_loss(self, chunk, state):
            pairs = zip(evaluator.model.parameters(), model.parameters(), strict=True)
            asked.append((chunk, state, all(torch.equal(held, brought) for held, brought in pairs)))
            return 3.5

    evaluator.validator = Chunks()
    assert evaluator.validate(data, header, 7) == 3.5
    assert asked == [(7, final_validation_state(quick) if step == LAST else header.state, True)]
    assert final_validation_state(quick) != forward_state(quick, LAST)


def test_an_evaluator_on_a_cpu_adds_in_one_order_and_says_which_process_it_is(evaluator):
    assert torch.get_num_threads() == 1
    assert evaluator.ready() == os.getpid()


def test_an_evaluator_made_without_validation_refuses_to_validate(evaluator):
    _, data, header = checkpoint(1, 0)
    with pytest.raises(AssertionError, match="validation was switched off"):
        evaluator.validate(data, header, 0)


def test_the_next_checkpoint_comes_in_while_one_is_scored_but_is_placed_only_after_it(evaluator, monkeypatch):
    """Both threads are inside: the second has fetched its bytes when the first is let go on."""
    told, fetched, begun, placed = [], threading.Event(), threading.Event(), threading.Event()
    fetch, place = evaluator.loader.fetch, evaluator.loader.place

    def fetch_and_tell(data, header):
        fetch(data, header)
        told.append(f"fetched {header.seed}")
        if header.seed == 2:
            fetched.set()

    def place_and_tell():
        place()
        told.append("placed")
        if begun.is_set():
            placed.set()

    def score(state):
        told.append("scoring")
        begun.set()
        assert fetched.wait(20), "the second was not let in"
        if told.count("placed") == 1:
            assert not placed.wait(0.3), "the second took the model from under the first"
        held = next(evaluator.model.parameters()).clone()
        told.append("scored")
        return held

    monkeypatch.setattr(evaluator.loader, "fetch", fetch_and_tell)
    monkeypatch.setattr(evaluator.loader, "place", place_and_tell)
    monkeypatch.setattr(evaluator.scorer, "score", score)
    (first, *of_first), (second, *of_second) = checkpoint(1, 0), checkpoint(2, 0)
    with ThreadPoolExecutor(2) as threads:
        one = threads.submit(evaluator.score, *of_first)
        assert begun.wait(20)
        two = threads.submit(evaluator.score, *of_second)
        assert torch.equal(one.result(), next(first.parameters()))
        assert torch.equal(two.result(), next(second.parameters()))
    assert told.index("fetched 2") < told.index("scored")
    assert [word for word in told if not word.startswith("fetched")] == 2 * ["placed", "scoring", "scored"]


def test_bytes_that_are_refused_free_the_evaluator_for_the_next(evaluator, monkeypatch):
    monkeypatch.setattr(evaluator.scorer, "score", lambda state: state)
    _, data, header = checkpoint(1, 0)
    for _ in range(2):
        with pytest.raises(ValueError, match="seed 1 step 0"):
            evaluator.score(data[:-1], header)
    assert evaluator.score(data, header) == header.state
