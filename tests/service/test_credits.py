"""The publisher by rule: turns, credits, bounds, records, verification, refusals; without Ray, and in no real time."""

import weakref
from concurrent.futures import Future
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from speedrun.model.gpt import GPT
from speedrun.schedules import forward_state
from speedrun.training import Checkpoint

from discreteness.checkpoint.layout import CheckpointLayout
from discreteness.service import publisher as publisher_module
from discreteness.service.publisher import Publisher
from discreteness.service.speedrun_source import Staged
from discreteness.service.timeouts import WAIT_TIMEOUT_S
from tests.support.golden_case import init_weights
from tests.support.plain_ray import Actor, AtOnce, Clock, PlainRay
from tests.support.quick_track import quick

LAST = quick.schedule.last_step
MODEL = GPT(replace(quick.model, vocab_size=64, num_heads=1, head_dim=16), torch.float32, "cpu")
init_weights(MODEL, 0)
LAYOUT = CheckpointLayout.from_model(MODEL)


class Dispatcher:
    """Notes what it is told. It accepts a checkpoint after `takes_s(step)`, or says `no(step)`."""

    def __init__(self, clock, takes_s=lambda step: 0, no=lambda step: None):
        self.clock, self.takes_s, self.no = clock, takes_s, no
        self.published, self.heard, self.records, self.unanswered = [], [], [], 0

    def publish(self, header, references, records, expected, stall_s):
        (reference,) = references
        self.published.append(SimpleNamespace(header=header, data=reference.data, expected=expected, stall_s=stall_s))
        self.records += records
        return self.clock.later(self.takes_s(header.step), self.no(header.step))

    def hear(self, attempt, step, records):
        self.heard.append((attempt, step))
        self.records += records

    def progress(self, events_from):
        return SimpleNamespace(evaluators_ready=1, evaluators_lost=4)

    @property
    def steps(self):
        return [one.header.step for one in self.published]


class Scorer:
    """The trainer's own losses: here the state's window, so that each is known by its state."""

    def __init__(self):
        self.calls = 0

    def score(self, state):
        self.calls += 1
        return np.array([state.long_window, self.calls], np.float32)


@pytest.fixture
def clock(monkeypatch):
    return set_clock(monkeypatch)


def set_clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(publisher_module, "ray", PlainRay(clock))
    monkeypatch.setattr(publisher_module, "time", clock)
    monkeypatch.setattr(publisher_module, "wait", clock.wait)
    return clock


def ranks(dispatcher, staging=None, world_size=1, published=range(LAST + 1), max_in_flight=8, verify_every=0):
    """A publisher for each rank of one attempt, with the source whose checkpoints it is offered."""
    source = SimpleNamespace(staging=staging or AtOnce(MODEL, dispatcher.clock), scorer=Scorer())
    publishers = [
        Publisher(
            Actor(dispatcher),
            rank=rank,
            world_size=world_size,
            seed=3,
            attempt="a",
            published_steps=frozenset(published),
            max_in_flight=max_in_flight,
            verify_every=verify_every,
        )
        for rank in range(world_size)
    ]
    for publisher in publishers:
        publisher.source = source
    return publishers


def offer(publishers, steps=range(LAST + 1)):
    for step in steps:
        for publisher in publishers:
            one = Checkpoint(step, forward_state(quick, step), [{"step": step, "rank": publisher.rank}])
            publisher.offer(Staged.of(one, publisher.source))


def drain(publishers):
    return [record for publisher in publishers for record in publisher.drain()]


def test_what_is_published_is_whole_and_says_what_it_is(clock):
    dispatcher = Dispatcher(clock)
    offer(ranks(dispatcher))
    for one in dispatcher.published:
        state = forward_state(quick, one.header.step)
        assert (one.header.seed, one.header.attempt, one.header.state) == (3, "a", state)
        assert np.array_equal(one.data, LAYOUT.pack(MODEL, state.tied))
        LAYOUT.check(one.data, one.header)
        assert one.header.num_bytes == len(one.data)
    assert {one.header.state.tied for one in dispatcher.published} == {True, False}


@pytest.mark.parametrize(
    ("max_in_flight", "world_size", "each"), [(1, 1, 1), (5, 1, 5), (8, 2, 4), (9, 4, 2), (8, 8, 1), (2, 8, 1)]
)
def test_the_credits_of_a_trainer_are_divided_among_its_ranks(clock, max_in_flight, world_size, each):
    dispatcher = Dispatcher(clock, takes_s=lambda step: 1e9)  # never accepts
    (first, *_) = ranks(dispatcher, world_size=world_size, max_in_flight=max_in_flight, published=range(LAST + 1))
    steps = iter(range(LAST + 1))
    with pytest.raises(TimeoutError):
        for step in steps:
            offer([first], [step])
    assert len(dispatcher.published) == each
    assert step == each * world_size  # the checkpoint that found no credit is this rank's next


def test_a_checkpoint_that_is_still_leaving_has_its_credit_too(clock):
    staging = AtOnce(MODEL, clock, full=True)
    with pytest.raises(TimeoutError):
        offer(ranks(Dispatcher(clock), staging, max_in_flight=3))
    assert len(staging.sent_s) == 3


def test_a_credit_is_waited_for_before_the_copy_and_no_longer_than_needed(clock):
    """Else a checkpoint would hold a staging buffer while it waits."""
    dispatcher, staging = Dispatcher(clock, takes_s=lambda step: 2.5), AtOnce(MODEL, clock)
    publishers = ranks(dispatcher, staging, max_in_flight=2)
    offer(publishers, range(6))
    assert staging.sent_s == [0, 0, 2.5, 2.5, 5, 5]


def test_waits_for_credits_and_for_buffers_are_metered_apart_and_told_with_each_checkpoint(clock):
    dispatcher, staging = Dispatcher(clock, takes_s=lambda step: 7), AtOnce(MODEL, clock)
    (publisher,) = publishers = ranks(dispatcher, staging, max_in_flight=1)
    offer(publishers, [0])
    offer(publishers, [1])
    assert (publisher.credit_stall_s, publisher.staging_stall_s) == (7, 0)
    clock.sleep(100)  # training, during which the row is accepted
    staging.looks = 3
    offer(publishers, [2])
    assert (publisher.credit_stall_s, publisher.staging_stall_s, publisher.stall_s) == (7, 3, 10)
    assert [one.stall_s for one in dispatcher.published] == [0, 7, 10]


def test_the_wait_for_a_credit_is_bounded_and_the_error_says_what_it_waits_for(clock):
    publishers = ranks(Dispatcher(clock, takes_s=lambda step: 1e9), world_size=2, max_in_flight=4)
    message = (
        rf"seed 3: no checkpoint was accepted for {WAIT_TIMEOUT_S} s; steps in flight \[0, 2\], not yet in the "
        r"object store \[\], 1 evaluators ready, 4 lost"
    )
    with pytest.raises(TimeoutError, match=message):
        offer(publishers)
    assert WAIT_TIMEOUT_S < clock.now_s <= WAIT_TIMEOUT_S + 2


def test_the_wait_for_a_buffer_is_bounded_and_the_error_says_what_it_waits_for(clock):
    staging = AtOnce(MODEL, clock, full=True)
    publishers = ranks(Dispatcher(clock), staging)
    offer(publishers, [0, 1])
    staging.looks = 10_000
    with pytest.raises(TimeoutError, match=r"in flight \[\], not yet in the object store \[0, 1\]"):
        offer(publishers, [2])
    assert WAIT_TIMEOUT_S < clock.now_s <= WAIT_TIMEOUT_S + 2


def test_a_dispatcher_that_does_not_even_say_how_many_evaluators_there_are_is_named(clock):
    dispatcher = Dispatcher(clock, takes_s=lambda step: 1e9)
    dispatcher.progress = lambda events_from: clock.later(1e9, None)
    publishers = ranks(dispatcher, max_in_flight=1)
    with pytest.raises(TimeoutError, match=r"steps in flight \[0\].*the dispatcher does not answer"):
        offer(publishers)
    assert clock.now_s < WAIT_TIMEOUT_S + 100  # within the collectives' 600 s


def test_the_drain_waits_for_all_and_as_long_as_one_is_accepted_within_the_bound(clock):
    dispatcher = Dispatcher(clock, takes_s=lambda step: 299 * (step + 1))
    (publisher,) = publishers = ranks(dispatcher)
    offer(publishers, range(4))
    drain(publishers)
    assert clock.now_s == 4 * 299
    assert not publisher.leaving and not publisher.pending
    offer(publishers, [4])
    dispatcher.takes_s = lambda step: 1e9
    offer(publishers, [5])
    with pytest.raises(TimeoutError, match=r"steps in flight \[4, 5\]"):
        drain(publishers)


def test_a_rank_that_is_told_no_publishes_no_more_and_does_not_wait_either(clock):
    dispatcher = Dispatcher(clock, no=lambda step: f"over at {step}" if step >= 4 else None)
    (publisher,) = publishers = ranks(dispatcher, max_in_flight=2, verify_every=1)
    offer(publishers, range(5))
    assert publisher.rejection == ""  # of steps 0 to 3
    dispatcher.takes_s = lambda step: 1e9
    offer(publishers)
    assert dispatcher.steps == [*range(5)]
    assert publisher.rejection == "over at 4"
    assert (clock.now_s, publisher.source.scorer.calls) == (0, 5)
    drain(publishers)


def test_the_first_refusal_is_the_one_that_is_kept(clock):
    dispatcher = Dispatcher(clock, takes_s=lambda step: step, no=lambda step: f"no to {step}")
    (publisher,) = publishers = ranks(dispatcher)
    offer(publishers, [2, 3, 4])
    drain(publishers)
    assert publisher.rejection == "no to 2"
    assert clock.now_s == 4  # the others are answered as well: nothing is left behind


def test_a_refusal_that_comes_while_a_credit_is_waited_for_ends_the_wait_and_the_checkpoint_stays(clock):
    dispatcher = Dispatcher(clock, takes_s=lambda step: 5, no=lambda step: "over")
    (publisher,) = publishers = ranks(dispatcher, max_in_flight=1)
    offer(publishers, [0, 1])
    assert dispatcher.steps == [0]
    assert (clock.now_s, publisher.rejection) == (5, "over")


@pytest.mark.parametrize("then", ["offer", "drain"])
def test_an_error_in_the_background_or_of_a_call_is_raised_at_the_next_look(clock, then):
    for where in ("object store", "dispatcher"):
        dispatcher = Dispatcher(clock)
        (publisher,) = publishers = ranks(dispatcher)
        offer(publishers, [0])
        failed = Future()
        failed.set_exception(MemoryError(f"the {where} is full"))
        if where == "dispatcher":
            publisher.pending[failed] = (1, None)
        else:
            publisher.leaving.append((1, failed))
        with pytest.raises(MemoryError, match=where):
            offer(publishers, [2]) if then == "offer" else drain(publishers)


def test_a_reference_lives_until_its_row_is_accepted_and_no_longer(clock):
    dispatcher = Dispatcher(clock, takes_s=lambda step: 10)
    (publisher,) = publishers = ranks(dispatcher)
    offer(publishers, [0])
    offer(publishers, [1])  # the first has left for the dispatcher
    dispatcher.published.clear()
    (held,) = [weakref.ref(reference) for _, reference in publisher.pending.values()]
    assert held() is not None
    drain(publishers)
    assert held() is None


def test_records_of_other_ranks_turns_go_with_rank_0s_next_word_and_the_rest_with_the_end(clock):
    dispatcher = Dispatcher(clock)
    first, second = ranks(dispatcher, world_size=2, published=[0, 1, 2, 5, 6])
    seen = []
    for step in range(8):
        offer([first, second], [step])
        seen.append(len(dispatcher.records))
    assert seen == [1, 1, 3, 4, 5, 5, 7, 8]  # 1 and 5 are rank 1's; 3, 4 and 7 are signs of life
    offer([first, second], [6])  # nobody's turn but rank 1's
    assert first.drain() == [{"step": 6, "rank": 0}]
    assert first.drain() == second.drain() == []


def test_all_answers_that_are_there_are_taken_at_one_look(clock):
    dispatcher = Dispatcher(clock, takes_s=lambda step: 1)
    (publisher,) = publishers = ranks(dispatcher)
    offer(publishers, range(5))
    clock.sleep(1)
    offer(publishers, [5])
    assert [step for step, _ in publisher.leaving] == [5]
    assert publisher.pending == {}


@settings(deadline=None)  # on a busy machine
@given(
    world_size=st.sampled_from([1, 2, 3, 4, 8]),
    published=st.sets(st.integers(0, LAST), min_size=1).map(sorted),
    others=st.sets(st.integers(0, LAST)),
    verify_every=st.integers(0, 4),
)
def test_rank_n_mod_w_publishes_the_nth_planned_checkpoint_once_and_verifies_every_kth(
    world_size, published, others, verify_every
):
    """And every record of every step arrives once, whatever lies between."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        dispatcher = Dispatcher(set_clock(monkeypatch))
        each = ranks(dispatcher, world_size=world_size, published=published, verify_every=verify_every)
        asked = sorted(others | set(published))
        for step in asked:
            for publisher in each:
                before = len(dispatcher.published)
                offer([publisher], [step])
                turn = step in published and published.index(step) % world_size == publisher.rank
                assert len(dispatcher.published) - before == turn
        left = drain(each)
        assert dispatcher.steps == published
        assert dispatcher.heard == [("a", step) for step in asked if step not in published]
        assert sorted(record["step"] for record in dispatcher.records + left) == asked
        assert {record["rank"] for record in dispatcher.records + left} == {0}  # they are the same on every rank
        verified = [number for number, one in enumerate(dispatcher.published) if one.expected is not None]
        assert verified == (list(range(0, len(published), verify_every)) if verify_every else [])
        for number in verified:
            one = dispatcher.published[number]
            assert one.expected.dtype == np.float32
            assert one.expected[0] == forward_state(quick, one.header.step).long_window
