"""An evaluator: each call its own weights, in the order in which they came; the next comes in while one is scored."""

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch
from speedrun.model.gpt import GPT
from speedrun.schedules import forward_state, validation_state
from speedrun.validation import Validator

from discreteness.checkpoint.header import CheckpointHeader
from discreteness.checkpoint.layout import CheckpointLayout
from discreteness.experiment import documents
from discreteness.scoring.evaluator import Evaluator
from discreteness.service.speedrun_pair import SpeedrunPair
from tests.support.brief_track import brief, write_shards
from tests.support.golden_case import init_weights
from tests.support.job_case import prepared

LAST = brief.schedule.last_step


@pytest.fixture(scope="module")
def experiment(tmp_path_factory, private_home):
    root = write_shards(tmp_path_factory.mktemp("shards"))
    whole = prepared(track="tests.support.brief_track:brief", data=str(root), checkpoints="every:1")
    return replace(whole, documents=tuple(documents.built_in()[:1]))


@pytest.fixture
def evaluator(experiment):
    return Evaluator(SpeedrunPair(experiment), "cpu")


def checkpoint(step, seed=0):
    """Bytes and header of weights that are not those of a beginning: there all windows give the same losses."""
    model = GPT(brief.model, torch.float32, "cpu")
    init_weights(model, seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    layout, state = CheckpointLayout.from_model(model), forward_state(brief, step)
    data = layout.pack(model, state.tied)
    header = CheckpointHeader(
        seed=seed, attempt="a" * 12, step=step, layout=layout.fingerprint, state=state, num_bytes=data.nbytes
    )
    return data, header


class Noting:
    """Stands before an evaluator's loader and notes the steps that go through it; each fetch is an event."""

    def __init__(self, loader):
        self.loader, self.notes, self.fetched = loader, [], {step: threading.Event() for step in range(LAST + 1)}

    def fetch(self, data, header):
        self.loader.fetch(data, header)
        self.step = header.step
        self.notes.append(("fetched", header.step))
        self.fetched[header.step].set()

    def copy_into_model(self):
        self.loader.copy_into_model()
        self.notes.append(("placed", self.step))


def test_the_next_checkpoint_comes_in_while_one_is_scored_and_nobody_overtakes(evaluator):
    loader = evaluator.scorer.loader = Noting(evaluator.scorer.loader)
    scoring, go = threading.Event(), threading.Event()
    score = evaluator.scorer.documents.score

    def slowly(state):
        scoring.set()
        assert go.wait(60)
        return score(state)

    evaluator.scorer.documents.score = slowly
    with ThreadPoolExecutor(3) as threads:
        try:
            calls = [threads.submit(evaluator.score, *checkpoint(0))]
            assert scoring.wait(60)
            calls.append(threads.submit(evaluator.score, *checkpoint(1)))
            assert loader.fetched[1].wait(60)
            calls.append(threads.submit(evaluator.score, *checkpoint(2)))
            loader.fetched[2].wait(0.2)  # in vain: it would take the place of the second before that is the model's
            assert loader.notes == [("fetched", 0), ("placed", 0), ("fetched", 1)]
        finally:
            go.set()
        losses = [call.result(60) for call in calls]
    assert loader.notes[3:] == [("placed", 1), ("fetched", 2), ("placed", 2)]
    assert [one.tobytes() for one in losses] == [score(forward_state(brief, step)).tobytes() for step in range(3)]


def test_an_error_gives_the_model_back(evaluator):
    score, evaluator.scorer.score = evaluator.scorer.score, None  # no scorer: a TypeError
    with pytest.raises(TypeError):
        evaluator.score(*checkpoint(1))
    assert not evaluator._model.locked() and not evaluator._next.locked()  # else the next call would wait for ever
    data, header = checkpoint(1)
    with pytest.raises(ValueError, match="trainer and evaluator run different code"):
        evaluator.score(data[1:], header)
    assert not evaluator._model.locked() and not evaluator._next.locked()
    evaluator.scorer.score = score
    assert np.isfinite(evaluator.score(data, header)).all()


def test_the_last_steps_validation_alone_has_the_longest_window(evaluator, experiment):
    validator = Validator(evaluator.scorer.model, brief, experiment.data_root, experiment.val_tokens)
    assert experiment.num_validation_chunks == 4
    for step in (0, LAST - 1, LAST):
        data, header = checkpoint(step)
        losses = [evaluator.validate(data, header, chunk) for chunk in range(4)]
        state = validation_state(brief, step, header.state)
        assert losses == [validator.chunk_loss(chunk, state) for chunk in range(4)]  # the model holds these weights
        assert len(set(losses)) == 4
    assert losses != [validator.chunk_loss(chunk, header.state) for chunk in range(4)]


def test_losses_do_not_depend_on_the_last_checkpoint_being_validated(evaluator):
    """The final window is of the validation only."""
    data, header = checkpoint(LAST)
    before = evaluator.score(data, header)
    evaluator.validate(data, header, 0)
    assert evaluator.score(data, header).tobytes() == before.tobytes()


def test_an_evaluator_on_a_cpu_adds_in_one_thread_and_validates_only_what_it_was_made_for(experiment):
    torch.set_num_threads(3)
    evaluator = Evaluator(SpeedrunPair(replace(experiment, val_tokens=0)), "cpu")
    assert torch.get_num_threads() == 1
    with pytest.raises(AssertionError, match="validation was switched off"):
        evaluator.validate(*checkpoint(0), 0)
