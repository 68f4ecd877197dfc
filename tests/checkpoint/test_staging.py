"""Staging: the bytes are those of the weights at the call, buffers are reused only when done with, errors come out."""

import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor, wait

import numpy as np
import pytest
import torch
from speedrun.model.gpt import GPT

from discreteness.checkpoint.layout import CheckpointLayout
from discreteness.checkpoint.staging import NUM_BUFFERS, Staging
from tests.support.golden_case import init_weights
from tests.support.quick_track import quick


@pytest.fixture
def model():
    model = GPT(quick.model, torch.float32, "cpu")
    init_weights(model, 0)
    return model


@pytest.fixture
def layout(model):
    return CheckpointLayout.from_model(model)


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
    go = threading.Event()

    def use(data):
        assert go.wait(60)
        return data.copy()

    expected, sent = [], []
    for _ in range(NUM_BUFFERS):
        expected.append(layout.pack(model, True))
        sent.append(staging.send(True, use))
        train(model)
    with ThreadPoolExecutor(1) as training:
        one_more = training.submit(staging.send, True, np.copy)
        wait([one_more], 0.2)  # in vain
        go.set()
        sent.append(one_more.result(60))
    expected.append(layout.pack(model, True))
    for one, bytes_then in zip(sent, expected, strict=True):
        assert np.array_equal(one.result(60), bytes_then)


def test_an_error_is_the_futures_and_frees_the_buffer(model, layout, staging):
    def fail(data):
        raise MemoryError("the object store is full")

    for _ in range(2 * NUM_BUFFERS):
        assert staging.ready(0)
        with pytest.raises(MemoryError, match="object store is full"):
            staging.send(True, fail).result(60)
    assert np.array_equal(staging.send(True, np.copy).result(60), layout.pack(model, True))


def test_checkpoints_are_used_one_by_one_in_the_order_of_the_calls(staging):
    go, second = threading.Event(), threading.Event()
    first = staging.send(True, lambda data: go.wait(60))
    staging.send(True, lambda data: second.set())
    assert not second.wait(0.2)
    go.set()
    assert first.result(60)
    order = []
    for one in [staging.send(True, lambda data, number=number: order.append(number)) for number in range(50)]:
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

    assert staging.send(True, use).result(60) is not None
    deadline_s = time.monotonic() + 60
    while references[0]() is not None:  # the thread lets go of it a moment later than it hands it over
        assert time.monotonic() < deadline_s
        time.sleep(0.001)
