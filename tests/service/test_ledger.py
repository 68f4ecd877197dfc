"""Who holds which seed, whatever happens in whatever order: the ledger against a model of its rules."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from discreteness.service.ledger import MAX_TRAINER_FAILURES, Ledger

SEEDS = tuple(range(5))
NAMES = ("a", "b", "c")
MAX_ATTEMPTS = 3


class Bookkeeping(RuleBasedStateMachine):
    """Trainers come, go, are preempted, fail and fall silent; their attempts are lost, rejected and committed."""

    def __init__(self):
        super().__init__()
        self.lost = []
        self.ledger = Ledger(
            SEEDS, MAX_ATTEMPTS, given_up=lambda: "", on_lost=self.note, update_flop=lambda record: 0.0
        )
        self.held = {}
        """Attempt -> (seed, trainer) of those that are current."""
        self.over = set()
        self.failures = dict.fromkeys(NAMES, 0)
        self.counted = dict.fromkeys(SEEDS, 0)
        self.hopeless = set()
        """Seeds whose every attempt would meet the same error."""

    def note(self, attempt, record):
        self.lost.append(record)
        assert (record["seed"], record["attempt"]) == (attempt.seed, attempt.id)
        if not attempt.trainer.leaving or record.get("final"):
            assert "preempted" not in record
            self.counted[attempt.seed] += 1
        assert record.get("final", False) == (attempt.seed in self.hopeless)
        seed, _ = self.held.pop(attempt.id)
        assert seed == attempt.seed
        self.over.add(attempt.id)

    def held_by(self, name):
        return [attempt for attempt, (_, trainer) in self.held.items() if trainer == name]

    @rule(name=st.sampled_from(NAMES))
    def processes_come(self, name):
        trainer = self.ledger.trainer(name)
        starts, failed = trainer.starts, trainer.inside and not trainer.leaving
        assert self.ledger.enter(name, None) is trainer
        self.failures[name] += failed
        assert (trainer.starts, trainer.leaving) == (starts + 1, False)
        assert not self.held_by(name)

    @rule(name=st.sampled_from(NAMES))
    def a_seed_is_asked_for(self, name):
        trainer = self.ledger.trainer(name)
        if not trainer.inside:
            return
        first = next(iter(self.ledger.waiting), None)
        lease = self.ledger.lease(trainer)
        if self.ledger.done() or self.failures[name] >= MAX_TRAINER_FAILURES:
            assert lease.order == "stop"
        elif first is None:
            assert lease.order == "wait"
        else:
            assert (lease.order, lease.seed) == ("train", first)
            assert lease.attempt not in self.over | self.held.keys()
            self.held[lease.attempt] = (lease.seed, name)

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def an_attempt_is_rejected(self, data):
        attempt = list(self.held)[data.draw(st.integers(0, len(self.held) - 1))]
        self.ledger.lose(self.ledger.attempts[attempt], "its losses differ")
        assert attempt in self.over

    @precondition(lambda self: self.held)
    @rule(data=st.data(), ends=st.sampled_from(["seed", "job"]))
    def an_attempt_meets_what_every_attempt_would(self, data, ends):
        attempt = list(self.held)[data.draw(st.integers(0, len(self.held) - 1))]
        self.hopeless |= {self.held[attempt][0]} if ends == "seed" else set(SEEDS) - self.ledger.committed
        self.ledger.lose(self.ledger.attempts[attempt], "no more documents", ends)
        assert attempt in self.over
        assert self.ledger.done() or ends == "seed"

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def an_attempt_is_committed(self, data):
        attempt = list(self.held)[data.draw(st.integers(0, len(self.held) - 1))]
        seed, name = self.held.pop(attempt)
        self.ledger.commit(self.ledger.attempts[attempt], num_bytes=10)
        self.over.add(attempt)
        assert seed in self.ledger.committed
        self.failures[name] = 0

    @rule(name=st.sampled_from(NAMES))
    def a_machine_is_about_to_go(self, name):
        self.ledger.announce_departure(name)

    @rule(name=st.sampled_from(NAMES), reason=st.sampled_from(["", "no place"]))
    def all_processes_have_ended(self, name, reason):
        trainer = self.ledger.trainer(name)
        entered, leaving = trainer.inside, trainer.leaving
        may_go_on = not self.ledger.done() and self.failures[name] < MAX_TRAINER_FAILURES
        again = self.ledger.leave(name, reason)
        if leaving and may_go_on:
            assert again
        else:
            self.failures[name] += reason != ""
            assert not again or (entered and reason)
        assert trainer.leaving is False

    @invariant()
    def a_seed_is_in_one_place(self):
        places = [*self.ledger.waiting, *(seed for seed, _ in self.held.values())]
        places += [*self.ledger.committed, *self.ledger.failed]
        assert sorted(places) == list(SEEDS)

    @invariant()
    def what_is_current_is_what_is_held(self):
        assert self.ledger.attempts.keys() == self.held.keys()

    @invariant()
    def a_seed_fails_with_its_last_attempt_and_not_before(self):
        assert self.ledger.lost == self.counted
        for seed in SEEDS:
            tried_enough = self.counted[seed] == MAX_ATTEMPTS
            assert (seed in self.ledger.failed) == (tried_enough or seed in self.hopeless)

    @invariant()
    def failures_are_those_in_a_row(self):
        assert {name: self.ledger.trainer(name).failures for name in NAMES} == self.failures

    @invariant()
    def counts_are_of_what_happened(self):
        counts = self.ledger.counted()
        assert (counts.attempts_lost, counts.bytes_committed) == (len(self.lost), 10 * len(self.ledger.committed))


TestBookkeeping = Bookkeeping.TestCase
TestBookkeeping.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)


@pytest.fixture
def ledger():
    return Ledger(
        SEEDS, MAX_ATTEMPTS, given_up=lambda: "", on_lost=lambda attempt, record: None, update_flop=lambda record: 0.0
    )


def test_a_seed_that_has_a_name_is_told_with_it(ledger):
    ledger.names = {0: "o/m1"}
    for ends in "attempt", "seed":
        lease = ledger.lease(ledger.enter("a", None))
        ledger.lose(ledger.attempts[lease.attempt], "no disk", ends)
    ledger.lease(ledger.trainer("a"))
    told = [event.message for event in ledger.events if event.seed is not None]
    assert [message.startswith("seed 0 (o/m1) ") for message in told] == [True] * 4 + [False]
    assert told[-1].startswith("seed 1 leased")


def test_what_dead_processes_say_late_is_not_told_of_the_next(ledger):
    first = ledger.enter("a", None).starts
    second = ledger.enter("a", None).starts
    ledger.trouble("a", first, "rank 1: no shard")
    ledger.enter("a", None)
    assert ledger.trainer("a").last_failure == "2 failures in a row, the last: its processes were restarted"
    ledger.trouble("a", second + 1, "rank 0: no memory")
    ledger.leave("a", "")
    ledger.enter("a", None)
    assert ledger.trainer("a").last_failure == "3 failures in a row, the last: rank 0: no memory"


def test_nothing_is_told_twice_and_no_trainer_without_a_word(ledger):
    ledger.enter("a", None)
    lease = ledger.lease(ledger.trainer("a"))
    ledger.lose(ledger.attempts[lease.attempt], "nan")
    ledger.announce_departure("a")
    ledger.announce_departure("a")
    told = [(event.event, event.trainer, event.seed) for event in ledger.events]
    assert told == [("seed leased", "a", 0), ("attempt lost", "a", 0), ("preemption notice", "a", None)]


def test_what_comes_for_a_seed_that_is_being_committed_does_not_lose_it(ledger):
    trainer = ledger.enter("a", None)
    attempt = ledger.attempts[ledger.lease(trainer).attempt]
    attempt.committing = True
    ledger.enter("a", None)
    assert ledger.attempts == {attempt.id: attempt}
    ledger.commit(attempt, num_bytes=1)
    assert ledger.committed == {0} and trainer.failures == 0


def test_what_a_trainer_does_before_its_first_seed_is_known_until_it_has_one(ledger):
    trainer = ledger.enter("a", None)
    ledger.prepare("a", trainer.starts, "compiling its model")
    ledger.prepare("a", trainer.starts + 1, "of another start")
    (told,) = ledger.preparing()
    assert (told.trainer, told.what) == ("a", "compiling its model") and 0 <= told.for_s < 60
    ledger.lease(trainer)
    assert ledger.preparing() == []


def test_a_trainer_that_waits_for_a_seed_or_has_begun_again_prepares_nothing(ledger):
    first, second = ledger.enter("a", None), ledger.enter("b", None)
    for _ in SEEDS:
        ledger.lease(first)
    ledger.prepare("b", second.starts, "building its model")
    assert ledger.lease(second).order == "wait" and ledger.preparing() == []
    ledger.prepare("b", second.starts, "building its model")
    ledger.enter("b", None)
    assert ledger.preparing() == []


def test_an_error_that_would_come_again_ends_a_trainer_at_once(ledger):
    """Whether Ray Train has started its processes again by then, or they ended in order."""
    for name, started_again in (("a", True), ("b", False)):
        start = ledger.enter(name, None).starts
        ledger.trouble(name, start, "rank 1: ValueError: too little memory", permanent=True)
        assert ledger.events[-1].message == f"{name} failed: rank 1: ValueError: too little memory"
        ledger.trouble(name, start, "rank 0: RuntimeError: connection closed by peer")  # of which it then dies
        ledger.trouble(name, start, "rank 2: ValueError: too little memory", permanent=True)
        if started_again:
            ledger.enter(name, None)
        assert not ledger.leave(name, "")
        assert ledger.trainer(name).ended == "rank 1: ValueError: too little memory"
        assert ledger.lease(ledger.trainer(name)).order == "stop"
    told = [event.message for event in ledger.events if event.event == "trainer failed"]
    assert told == [f"{name} failed: rank 1: ValueError: too little memory" for name in ("a", "b")]


def test_what_is_wrong_with_a_machine_that_is_taken_away_is_not_held_against_the_next(ledger):
    start = ledger.enter("a", None).starts
    ledger.trouble("a", start, "ValueError: its shards differ", permanent=True)
    ledger.announce_departure("a")
    assert ledger.leave("a", "")
    ledger.enter("a", None)
    assert ledger.lease(ledger.trainer("a")).order == "train"


def test_the_end_of_all_seeds_keeps_what_is_being_committed(ledger):
    first, second = (ledger.attempts[ledger.lease(ledger.enter(name, None)).attempt] for name in "ab")
    first.committing = True
    ledger.lose(second, "no more documents", ends="job")
    assert set(ledger.failed) == set(SEEDS) - {first.seed} and not ledger.done()
    ledger.commit(first, num_bytes=10)
    assert ledger.done() and ledger.committed == {first.seed}
    assert [event.event for event in ledger.events][-3:] == ["seed failed", "seeds given up", "seed committed"]
