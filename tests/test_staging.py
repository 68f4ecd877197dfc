"""Staging: the bytes are those of the weights at the call, buffers are reused only when done with, errors come out."""

import gc
import threading
import weakref

import numpy as np
import pytest
import torch
from speedrun.model import GPT

from discreteness.checkpoint import CheckpointLayout
from discreteness.staging import NUM_BUFFERS, Staging
from tests.golden_case import init_weights
from tests.quick_track import quick


@pytest.fixture
def model():
    model = GPT(quick.model, torch.float32, "cpu")
    init_weights(model, 0)
    return model


@pytest.fixture
def layout(model):
    return CheckpointLayout.of(model)


@pytest.fixture
def staging(model, layout):
    return Staging(model, layout)


@torch.no_grad()
def train(model):
    for parameter in model.parameters():
        parameter.add_(1)


@pytest.mark.parametrize("tied", [True, False])
def test_the_bytes_are_the_weights_at_the_call_however_late_they_are_used(model, layout, staging, tied):
    go = threading.Event()
    expected, sent = [], []

    def use(data):
        assert go.wait(60)
        return data.copy()

    for _ in range(NUM_BUFFERS):
        expected.append(layout.pack(model, tied))
        sent.append(staging.send(tied, use))
        train(model)
    assert not any(one.done() for one in sent)
    go.set()
    for one, bytes_then in zip(sent, expected, strict=True):
        assert np.array_equal(one.result(60), bytes_then)


def test_a_buffer_is_free_again_only_when_its_use_has_ended(staging):
    gates = [threading.Event() for _ in range(NUM_BUFFERS)]
    assert staging.ready(0)
    for gate in gates:
        staging.send(True, lambda data, gate=gate: gate.wait(60))
    assert not staging.ready(0)
    gates[0].set()
    assert staging.ready(60)
    staging.send(True, len)
    assert not staging.ready(0)
    gates[1].set()
    assert staging.ready(60)


def test_a_send_without_a_free_buffer_waits_and_spoils_nothing(model, layout, staging):
    expected, sent = [], []
    for _ in range(20):
        expected.append(layout.pack(model, True))
        sent.append(staging.send(True, np.copy))
        train(model)
    for one, bytes_then in zip(sent, expected, strict=True):
        assert np.array_equal(one.result(60), bytes_then)


def test_an_error_is_the_futures_and_frees_the_buffer(model, layout, staging):
    def fail(data):
        raise MemoryError("the object store is full")

    for _ in range(2 * NUM_BUFFERS):
        with pytest.raises(MemoryError, match="object store is full"):
            staging.send(True, fail).result(60)
    assert np.array_equal(staging.send(True, np.copy).result(60), layout.pack(model, True))


def test_checkpoints_are_used_in_the_order_of_the_calls(staging):
    order = []
    sent = [staging.send(True, lambda data, number=number: order.append(number)) for number in range(50)]
    for one in sent:
        one.result(60)
    assert order == list(range(50))


def test_what_a_use_returns_is_not_kept(staging):
    class Reference:
        pass

    references = []

    def use(data):
        reference = Reference()
        references.append(weakref.ref(reference))
        return reference

    future = staging.send(True, use)
    assert future.result(60) is references[0]()
    del future
    staging.send(True, len).result(60)  # the thread has let go of the first
    gc.collect()
    assert references[0]() is None
