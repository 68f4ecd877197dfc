"""Loading beside scoring: every byte arrives, only when it is asked for, and every score is of its own weights."""

import dataclasses
import weakref
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from speedrun.data.vocabulary import vocabulary_of
from speedrun.execution import Execution
from speedrun.model.gpt import GPT
from speedrun.schedules import forward_state
from speedrun.tracks import tiny

from discreteness.checkpoint.header import CheckpointHeader
from discreteness.checkpoint.layout import CheckpointLayout
from discreteness.checkpoint.loading import Incoming, Loader, pieces
from discreteness.experiment import documents as documents_module
from discreteness.scoring.comparison import first_difference
from discreteness.scoring.evaluator import Evaluator
from discreteness.scoring.scorer import Scorer
from discreteness.service.speedrun_pair import SpeedrunPair
from tests.support import skips
from tests.support.golden_case import init_weights

DOCUMENTS = documents_module.built_in()[:2]
LAST = tiny.schedule.last_step
EXPERIMENT = SimpleNamespace(
    track=tiny,
    documents=DOCUMENTS,
    packing="isolated",
    score_tokens=16_384,
    execution=Execution().on("cpu", torch.float32),
    val_tokens=0,
)
gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason=skips.GPU)


def checkpoint(model, layout, seed, step):
    """Trained-like weights, as bytes and with their header; `model` holds them afterwards."""
    init_weights(model, seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=generator))
    state = forward_state(tiny, step)
    if state.tied:
        model.tie()
    data = layout.pack(model, state.tied)
    data.flags.writeable = False  # as object-store pages are
    return data, CheckpointHeader(
        seed=seed, attempt="a" * 12, step=step, layout=layout.fingerprint, state=state, num_bytes=data.nbytes
    )


@pytest.fixture
def trained():
    torch.set_num_threads(1)
    model = GPT(tiny.model, torch.float32, "cpu")
    return model, CheckpointLayout.from_model(model)


@pytest.mark.parametrize("num_bytes", [0, 1, 63, 64, 65, 1000])
def test_pieces_are_every_byte_once(num_bytes):
    source = np.random.default_rng(0).integers(0, 256, num_bytes, np.uint8)
    target = torch.zeros(num_bytes, dtype=torch.uint8)
    lengths = []
    for data, place in pieces(source, target, 64):
        place.add_(torch.from_numpy(data))
        lengths.append(len(data))
    assert np.array_equal(target.numpy(), source)
    assert all(length == 64 for length in lengths[:-1])
    assert sum(lengths) == num_bytes


@pytest.mark.parametrize("step", [0, LAST])
def test_a_fetched_checkpoint_is_the_models_once_it_is_placed(trained, step):
    model, layout = trained
    data, header = checkpoint(model, layout, 1, step)
    other = GPT(tiny.model, torch.float32, "cpu")
    init_weights(other, 2)
    before = {dtype: buffer.clone() for dtype, buffer in other.buffers_by_dtype.items()}
    loader = Loader(other, layout)
    loader.fetch(data, header)
    assert all(torch.equal(buffer, before[dtype]) for dtype, buffer in other.buffers_by_dtype.items())
    loader.copy_into_model()
    assert all(torch.equal(buffer, model.buffers_by_dtype[dtype]) for dtype, buffer in other.buffers_by_dtype.items())


def test_bytes_of_another_layout_are_refused_by_name(trained):
    model, layout = trained
    data, header = checkpoint(model, layout, 1, 0)
    loader = Loader(model, layout)
    with pytest.raises(ValueError, match=r"seed 1 step 0 is uint8\[\d+\].* trainer and evaluator run different"):
        loader.fetch(data[:-1], header)
    with pytest.raises(ValueError, match="layout 0000"):
        loader.fetch(data, dataclasses.replace(header, layout="0000"))
    loader.fetch(data, header)


def test_a_refused_fetch_counts_for_nothing(trained):
    """Not even for what it says of being tied: what was fetched before it is placed as it is."""
    model, layout = trained
    untied, header = checkpoint(model, layout, 1, LAST)
    other = GPT(tiny.model, torch.float32, "cpu")
    loader = Loader(other, layout)
    loader.fetch(untied, header)
    with pytest.raises(ValueError):
        loader.fetch(untied, dataclasses.replace(header, state=forward_state(tiny, 0)))
    loader.copy_into_model()
    assert all(torch.equal(buffer, model.buffers_by_dtype[dtype]) for dtype, buffer in other.buffers_by_dtype.items())


def test_the_object_stores_pages_are_let_go_once_they_are_placed(trained):
    model, layout = trained
    data, header = checkpoint(model, layout, 1, 0)
    pages = weakref.ref(data)
    loader = Loader(model, layout)
    loader.fetch(data, header)
    del data
    assert pages() is not None
    loader.copy_into_model()
    assert pages() is None


def test_scores_of_two_threads_are_those_of_their_own_weights(trained):
    model, layout = trained
    scorer = Scorer(model, DOCUMENTS, vocabulary_of(tiny))
    work, expected = [], []
    for seed, step in enumerate([0, LAST, 200, LAST, 0, 200, LAST]):
        work.append(checkpoint(model, layout, seed, step))
        expected.append(scorer.score(work[-1][1].state))
    work.insert(3, (work[0][0][:-1], work[0][1]))  # one that is refused stops none of the others
    expected.insert(3, None)
    evaluator = Evaluator(SpeedrunPair(EXPERIMENT), "cpu")

    def score(pair):
        torch.set_num_threads(1)  # a new thread may add in more than one
        return evaluator.score(*pair)

    with ThreadPoolExecutor(2) as threads:
        runs = [threads.submit(score, pair) for pair in work]
    for run, losses in zip(runs, expected, strict=True):
        if losses is None:
            with pytest.raises(ValueError, match="seed 0 step 0"):
                run.result()
        else:
            assert first_difference(run.result(), losses, DOCUMENTS) is None
    assert len({losses.tobytes() for losses in expected if losses is not None}) == 7


@gpu
@pytest.mark.parametrize("num_threads", [1, 3, 8])
def test_pinned_pieces_arrive_on_the_device_in_their_places(num_threads):
    generator = np.random.default_rng(0)
    incoming = Incoming(200_000_001, torch.device("cuda"), num_threads)
    for num_bytes in (200_000_001, 1, 50 << 20):
        data = generator.integers(0, 256, num_bytes, np.uint8)
        filled = incoming.fill(data)
        incoming.await_filled()
        assert np.array_equal(filled.cpu().numpy(), data)
        incoming.release()
