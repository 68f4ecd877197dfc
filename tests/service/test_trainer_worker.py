"""What a trainer's ranks do together: leases, votes, seeds one after another; whom they tell of what goes wrong."""

from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from inspect import signature
from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
from speedrun.data.shards import ShardError
from speedrun.model.gpt import GPT
from speedrun.schedules import forward_state
from speedrun.tracks import tiny
from speedrun.training import Checkpoint, SeedFailed, Trainer

from discreteness.checkpoint.seam import ContractBroken
from discreteness.experiment import documents
from discreteness.scoring.comparison import first_difference
from discreteness.scoring.evaluator import Evaluator
from discreteness.service import inline, publisher, speedrun_source, trainer_worker
from discreteness.service.job import TrainerSpec
from discreteness.service.messages import Lease
from discreteness.service.speedrun_pair import SpeedrunPair
from discreteness.service.speedrun_source import HEARTBEAT_STEPS
from discreteness.service.timeouts import LEASE_POLL_S
from discreteness.service.trainer_worker import train_seeds
from tests.cluster.test_topology import experiment as planned
from tests.support import gloo
from tests.support.brief_track import brief, write_shards
from tests.support.job_case import a_job, prepared
from tests.support.plain_ray import Actor, AtOnce, Clock, PlainRay

LAST = tiny.schedule.last_step
FAR = (0, 120, 240, LAST)
"""Checkpoints between which there are signs of life."""
long = replace(brief, name="long", schedule=replace(brief.schedule, extension_steps=8))
"""More updates than its shards have tokens for."""
MODEL = GPT(replace(tiny.model, vocab_size=64, num_heads=1, head_dim=16), torch.float32, "cpu")


def lease(seed, next_seed=-1):
    return Lease(order="train", seed=seed, attempt=f"{seed:012x}", next_seed=next_seed)


class Dispatcher:
    """Hands out these leases, then "stop". It notes what it is told, in order, as (what, about, ...)."""

    def __init__(self, clock, leases=(), *, no_from=None, accepts_s=0, finishes_s=0, lets_in=True):
        self.clock, self.leases = clock, [*leases, Lease(order="stop")]
        self.no_from, self.accepts_s, self.finishes_s, self.lets_in = no_from, accepts_s, finishes_s, lets_in
        self.told, self.records, self.open, self.prepared = [], [], 0, []

    def enter(self, trainer, node_id, end):
        self.told.append(("enter", trainer, node_id))
        self.end = end
        return self.lets_in

    def lease(self, trainer):
        self.told.append(("lease", trainer))
        return self.leases.pop(0)

    def publish(self, header, references, records, expected, stall_s):
        self.told.append(("publish", header.attempt, header.step))
        self.records += records
        no = self.no_from is not None and header.step >= self.no_from
        answer = self.clock.later(self.accepts_s, f"attempt {header.attempt} is over" if no else None)
        self.open += 1
        answer.add_done_callback(lambda _: setattr(self, "open", self.open - 1))
        return answer

    def hear(self, attempt, step, records):
        self.told.append(("hear", attempt, step))
        self.records += records

    def finish(self, attempt, records, stall_s, library):
        self.told.append(("finish", attempt, self.open))
        self.records += records
        return self.clock.later(self.finishes_s, None)

    def fail(self, attempt, error, ends="attempt"):
        self.told.append(("fail", attempt, error, *([ends] if ends != "attempt" else [])))

    def prepare(self, trainer, start, what):
        self.prepared.append((trainer, start, what))

    def trouble(self, trainer, start, error, permanent):
        self.told.append(("trouble", trainer, start, error, permanent))

    def preempted(self, trainer):
        self.told.append(("preempted", trainer))

    def of(self, *kinds):
        return [one for one in self.told if one[0] in kinds]


class WorkerRay(PlainRay):
    """What a worker of Ray Train sees of itself. Its machine is about to be taken away from moment `notice` on."""

    def __init__(self, clock, rank=0, notice=None):
        super().__init__(clock)
        self.rank, self.notice = rank, notice
        self.killed, self.asked = [], 0
        self.train = SimpleNamespace(
            get_context=lambda: SimpleNamespace(get_world_rank=lambda: rank),
            get_preemption_info=self.preemption,
        )

    def get_runtime_context(self):
        return SimpleNamespace(current_actor=f"worker {self.rank}", get_node_id=lambda: "node 7")

    def kill(self, actor):
        self.killed.append(actor)

    def preemption(self):
        self.asked += 1
        return None if self.notice is None or self.asked <= self.notice else object()


class Training:
    """Stands for the trainer: a checkpoint at each step that is asked for, without the work between."""

    def __init__(self, process_group=None, fails=None):
        self.model, self.process_group = MODEL, process_group
        self.rank = dist.get_rank(process_group) if process_group else 0
        self.world_size = dist.get_world_size(process_group) if process_group else 1
        self.fails = fails or {}
        self.did = []

    def prepare(self, seed):
        self.did.append(("prepare", seed))

    def train(self, seed, plan):
        step = -1
        try:
            for step in sorted(plan):
                if error := self.fails.get((seed, step)):
                    raise error
                yield Checkpoint(step, forward_state(tiny, step), [{"seed": seed, "step": step}])
            self.did.append(("trained", seed))
        except GeneratorExit:
            self.did.append(("closed", seed, step))
            raise


def experiment(plan=FAR, world_size=1):
    one_document = tuple(documents.built_in()[:1])
    return replace(planned(tiny, world_size, seeds=1, plan=plan), documents=one_document)


@contextmanager
def worker(clock, training, ray=None, build=None):
    """train_seeds with plain objects where Ray, the shards and the trainer would be."""
    with pytest.MonkeyPatch.context() as patch:
        ray = ray or WorkerRay(clock, training.rank)
        for module in (publisher, trainer_worker):
            patch.setattr(module, "ray", ray)
        patch.setattr(publisher, "time", clock)
        patch.setattr(speedrun_source, "ensure_tiny_corpus", lambda root: None)
        patch.setattr(speedrun_source, "check_shards", lambda experiment, *globs: None)
        patch.setattr(speedrun_source, "Trainer", lambda *arguments: build() if build else training)
        patch.setattr(speedrun_source, "Staging", lambda model, layout: AtOnce(model, clock))
        yield


def spec_of(dispatcher, experiment, verify_every=0):
    return TrainerSpec(
        name="trainer-0",
        dispatcher=Actor(dispatcher),
        job=a_job(experiment, experiment.seeds, verify_every=verify_every),
    )


def run(dispatcher, training, plan=FAR, ray=None, build=None):
    with worker(dispatcher.clock, training, ray, build):
        train_seeds(spec_of(dispatcher, experiment(plan, training.world_size)))


# ---- one rank ----


def test_a_trainer_enters_trains_seed_after_seed_and_finishes_each_when_all_is_accepted():
    clock = Clock()
    dispatcher, training = Dispatcher(clock, [lease(5), lease(7)], accepts_s=10, finishes_s=50), Training()
    run(dispatcher, training)
    assert dispatcher.of("enter") == [("enter", "trainer-0", "node 7")]
    assert dispatcher.prepared == [("trainer-0", 1, "checking its shards"), ("trainer-0", 1, "building its model")]
    assert training.did == [("trained", 5), ("trained", 7)]
    assert dispatcher.of("lease", "finish") == [
        ("lease", "trainer-0"),
        ("finish", lease(5).attempt, 0),  # nothing is still to be accepted
        ("lease", "trainer-0"),
        ("finish", lease(7).attempt, 0),
        ("lease", "trainer-0"),
    ]
    assert [one[2] for one in dispatcher.of("publish")] == [*FAR, *FAR]
    asked = sorted({*FAR, *range(0, LAST, HEARTBEAT_STEPS)})
    assert [(record["seed"], record["step"]) for record in dispatcher.records] == [
        (seed, step) for seed in (5, 7) for step in asked
    ]


def test_the_trainer_is_built_for_what_the_seeds_vary():
    clock = Clock()
    dispatcher, training, given = Dispatcher(clock, []), Training(), []
    with worker(clock, training), pytest.MonkeyPatch.context() as patch:
        patch.setattr(speedrun_source, "Trainer", lambda *arguments: given.append(arguments) or training)
        train_seeds(spec_of(dispatcher, replace(experiment(), vary="both")))
    (arguments,) = given
    assert signature(Trainer).bind(*arguments).arguments["vary"] == "both"


def test_the_call_that_ends_a_silent_trainer_kills_its_rank_0():
    clock = Clock()
    dispatcher, ray = Dispatcher(clock), WorkerRay(clock)
    run(dispatcher, Training(), ray=ray)
    dispatcher.end()
    assert ray.killed == ["worker 0"]


def test_a_trainer_that_is_not_let_in_builds_and_asks_nothing():
    dispatcher = Dispatcher(Clock(), [lease(5)], lets_in=False)
    training = Training()
    run(dispatcher, training)
    assert dispatcher.told == [("enter", "trainer-0", "node 7")]
    assert training.did == []


def test_no_two_signs_of_life_are_more_updates_apart_than_promised():
    dispatcher = Dispatcher(Clock(), [lease(5)])
    run(dispatcher, Training(), plan=(0, 3, 99, LAST))
    steps = [one[2] for one in dispatcher.of("publish", "hear")]
    assert steps == sorted(set(steps))
    assert max(later - earlier for earlier, later in pairwise(steps)) == HEARTBEAT_STEPS
    assert {step for _, _, step in dispatcher.of("publish")} == {0, 3, 99, LAST}


def test_the_seed_that_is_probably_next_is_prepared_once_and_only_if_there_is_one():
    training = Training()
    run(Dispatcher(Clock(), [lease(5, next_seed=9), lease(9), lease(1, next_seed=0)]), training)
    assert training.did == [("prepare", 9), ("trained", 5), ("trained", 9), ("prepare", 0), ("trained", 1)]


def test_a_failed_seed_is_told_with_its_reason_and_the_next_one_is_trained():
    training = Training(fails={(5, 120): SeedFailed("the training loss is nan")})
    dispatcher = Dispatcher(Clock(), [lease(5), lease(7)])
    run(dispatcher, training)
    assert dispatcher.of("fail", "finish") == [
        ("fail", lease(5).attempt, "the training loss is nan"),
        ("finish", lease(7).attempt, 0),
    ]


def test_any_other_error_is_told_with_its_rank_and_then_ends_the_trainer():
    training = Training(fails={(5, 120): ZeroDivisionError("by nothing")})
    dispatcher = Dispatcher(Clock(), [lease(5), lease(7)])
    with pytest.raises(ZeroDivisionError):
        run(dispatcher, training)
    assert dispatcher.of("fail", "finish", "lease")[1:] == [
        ("fail", lease(5).attempt, "trainer-0 rank 0: ZeroDivisionError: by nothing")
    ]


def test_a_seed_whose_finish_breaks_the_dispatcher_ends_the_trainer():
    dispatcher = Dispatcher(Clock(), [lease(5), lease(7)])
    dispatcher.finish = lambda attempt, records, stall_s, library: 1 / 0
    with pytest.raises(ZeroDivisionError):
        run(dispatcher, Training())
    assert len(dispatcher.of("lease")) == 1


def test_a_dispatcher_that_is_silent_holds_no_error_back():
    clock = Clock()
    dispatcher = Dispatcher(clock, [lease(5)])
    dispatcher.fail = lambda attempt, error, ends="attempt": clock.later(1e9, None)
    with pytest.raises(ZeroDivisionError):
        run(dispatcher, Training(fails={(5, 0): ZeroDivisionError()}))
    assert clock.now_s <= 60


def test_what_keeps_a_trainer_from_its_first_lease_is_told_and_ends_it():
    dispatcher = Dispatcher(Clock(), [lease(5)])
    with pytest.raises(ZeroDivisionError):
        run(dispatcher, Training(), build=lambda: 1 / 0)
    assert dispatcher.told[1:] == [("trouble", "trainer-0", 1, "rank 0: ZeroDivisionError: division by zero", False)]


@pytest.mark.parametrize("ends", ["seed", "job"])
def test_what_a_failure_is_the_end_of_is_told_and_the_trainer_stays(ends):
    training = Training(fails={(5, 120): SeedFailed("documents ran out", ends)})
    dispatcher = Dispatcher(Clock(), [lease(5), lease(7)])
    run(dispatcher, training)
    assert dispatcher.of("fail") == [("fail", lease(5).attempt, "documents ran out", ends)]
    assert training.did == [("trained", 7)] and len(dispatcher.of("enter")) == 1


@pytest.mark.parametrize("error", [ValueError("too few shards"), torch.OutOfMemoryError("2 GiB"), ShardError("short")])
def test_what_it_would_meet_again_before_its_first_lease_ends_a_trainer_in_order(error):
    """So that nothing starts it again."""

    def build():
        raise error

    dispatcher = Dispatcher(Clock(), [lease(5)])
    run(dispatcher, Training(), build=build)
    text = f"rank 0: {type(error).__name__}: {error}"
    assert dispatcher.told[1:] == [("trouble", "trainer-0", 1, text, True)]


def test_a_bad_shard_that_comes_to_be_needed_costs_one_attempt_and_ends_the_trainer_of_this_machine():
    dispatcher = Dispatcher(Clock(), [lease(5), lease(7)])
    run(dispatcher, Training(fails={(5, 120): ShardError("9.bin is short")}))
    assert dispatcher.of("fail", "trouble") == [
        ("fail", lease(5).attempt, "trainer-0 rank 0: ShardError: 9.bin is short"),
        ("trouble", "trainer-0", 1, "rank 0: ShardError: 9.bin is short", True),
    ]
    assert len(dispatcher.of("lease")) == 1


def test_documents_that_run_out_end_all_seeds_and_leave_the_real_trainer_warm(tmp_path, private_home):
    """It may read the shards once, where the check had let it read them several times."""
    data = str(write_shards(tmp_path))
    settings = dict(track="tests.service.test_trainer_worker:long", checkpoints="0", val_tokens=0, data=data, epochs=9)
    admitted = prepared(**settings, seeds="5,6")
    usable, passes = admitted.supply.usable_updates, admitted.supply.passes
    assert passes > 1 and usable < long.schedule.last_step
    starved = replace(admitted, documents=tuple(documents.built_in()[:1]), epochs=1)
    clock = Clock()
    dispatcher = Dispatcher(clock, [lease(5), lease(6)])
    with pytest.MonkeyPatch.context() as patch:
        for module in (publisher, trainer_worker):
            patch.setattr(module, "ray", WorkerRay(clock))
        train_seeds(spec_of(dispatcher, starved))
    told = dispatcher.of("enter", "fail", "trouble", "finish")
    assert [one[0] for one in told] == ["enter", "fail", "fail"]
    for seed, (_, attempt, text, ends) in zip((5, 6), told[1:], strict=True):
        assert (attempt, ends) == (lease(seed).attempt, "job")
        assert text.startswith(f"in the update to step {usable + 1} of {long.schedule.last_step} the 1 training shards")


def test_a_preempted_trainer_goes_on_with_its_seed_and_takes_no_other():
    clock = Clock()
    dispatcher, training = Dispatcher(clock, [lease(5), lease(7)]), Training()
    run(dispatcher, training, ray=WorkerRay(clock, notice=3))
    assert training.did == [("trained", 5)]
    assert len(dispatcher.of("lease")) == 1
    assert dispatcher.of("finish") == [("finish", lease(5).attempt, 0)]
    # Told at once, at a sign of life: what the loss of the machine ends is then no failure.
    assert dispatcher.told.index(("preempted", "trainer-0")) < dispatcher.told.index(("hear", lease(5).attempt, 150))


def test_a_preempted_trainer_without_a_seed_takes_none():
    clock = Clock()
    dispatcher = Dispatcher(clock, [lease(5)])
    run(dispatcher, Training(), ray=WorkerRay(clock, notice=0))
    assert dispatcher.of("lease", "preempted") == [("preempted", "trainer-0")]


def test_a_refused_attempt_is_trained_no_further_and_not_finished():
    dispatcher, training = Dispatcher(Clock(), [lease(5), lease(7)], no_from=120), Training()
    run(dispatcher, training)
    assert training.did[0] == ("closed", 5, 150)  # the answer is seen at the next sign of life
    assert dispatcher.of("finish") == []
    assert len(dispatcher.of("lease")) == 3


def test_an_attempt_that_is_refused_at_its_last_checkpoint_is_not_finished():
    dispatcher = Dispatcher(Clock(), [lease(5)], no_from=LAST, accepts_s=20)
    run(dispatcher, Training())
    assert dispatcher.of("finish") == []


def test_what_is_verified_is_the_trainers_own_losses_to_the_bit(tmp_path, private_home):
    """With the real trainer, and a real evaluator where the dispatcher would ask one."""
    settings = dict(track="tests.support.brief_track:brief", checkpoints="every:1", val_tokens=0)
    whole = prepared(**settings, data=str(write_shards(tmp_path)))
    brief_experiment = replace(whole, documents=tuple(documents.built_in()[:3]))
    evaluator = Evaluator(SpeedrunPair(brief_experiment), "cpu")
    different, verified, clock = [], [], Clock()

    class Verifying(Dispatcher):
        def publish(self, header, references, records, expected, stall_s):
            if expected is not None:
                losses = evaluator.score(references[0].data, header)
                different.append(first_difference(losses, expected, brief_experiment.documents))
                verified.append((header.step, expected.tobytes()))
            return super().publish(header, references, records, expected, stall_s)

    dispatcher = Verifying(clock, [lease(5), lease(6)])
    with pytest.MonkeyPatch.context() as patch:
        for module in (publisher, trainer_worker):
            patch.setattr(module, "ray", WorkerRay(clock))
        torch.set_num_threads(3)
        train_seeds(spec_of(dispatcher, brief_experiment, verify_every=2))
    assert torch.get_num_threads() == 1  # else sums are taken in another order on each machine
    assert different == [None] * 6
    assert [step for step, _ in verified] == [0, 2, 4, 0, 2, 4]
    assert len({losses for _, losses in verified}) == 6  # each of its own weights
    assert dispatcher.of("finish") == [("finish", lease(5).attempt, 0), ("finish", lease(6).attempt, 0)]
    records = [record["step"] for record in dispatcher.records if "train_loss" in record]
    assert records == [1, 2, 3, 4, 5] * 2


# ---- two ranks ----


def together(process_group, scenario):
    """What a scenario gives on this rank, its collectives, and its error if it has one."""
    small = dist.new_group(timeout=timedelta(seconds=60))
    result, error = {}, ""
    try:
        with gloo.in_step(small) as entered:
            scenario(small, result)
    except Exception as wrong:
        error = f"{type(wrong).__name__}: {wrong}"
    dist.barrier(process_group)
    return result | {"entered": entered, "error": error}


def leases_of_two(process_group, result):
    """Two leases after a wait, the second of an attempt and a seed as large as they get."""
    given = [
        Lease(order="wait"),
        Lease(order="wait"),
        Lease(order="train", seed=3, attempt="00000000000a", next_seed=8),
        Lease(order="train", seed=2**31, attempt="ffffffffffff", next_seed=-1),
        Lease(order="stop"),
    ]
    rank, clock = dist.get_rank(process_group), Clock()
    dispatcher = Dispatcher(clock, given if rank == 0 else [])
    with worker(clock, Training(process_group)):
        spec = spec_of(dispatcher, experiment())
        got = []
        while (one := trainer_worker._next_lease(spec, rank, process_group)) is not None:
            got.append([one.order, one.seed, one.attempt, one.next_seed])
    result |= {"leases": got, "asked": len(dispatcher.of("lease"))}


def votes_of_two(process_group, result):
    """When six checkpoints stop, where rank r says yes at checkpoint yes[r] (None: never) and at all later ones."""
    for name, yes in {
        "nobody": (None, None),
        "rank 0 first": (0, None),
        "rank 1 in between": (None, 2),
        "both": (3, 2),
        "rank 1 last": (None, 5),
        "after the last": (None, 6),
    }.items():
        votes, mine = trainer_worker._Votes(process_group), yes[dist.get_rank(process_group)]
        stopped = None
        for number in range(6):
            if votes.stop(mine is not None and number >= mine):
                stopped = number
                break
        result[name] = [stopped, votes.now(mine == 6)]


def announcements_of_two(process_group, result):
    """What rank 0 of an inline run says; rank 1's own number is not heard."""
    trainer = SimpleNamespace(process_group=process_group, device="cpu")
    mine = (3, 2**31, -1) if dist.get_rank(process_group) == 0 else (0, 0, 0)
    result["seeds"] = [inline._announce(trainer, seed) for seed in mine]


def seeds_of_two(
    process_group,
    result,
    *,
    refuses=None,
    no_from=None,
    notice=None,
    fails=None,
    broken=None,
    error=None,
    lets_in=True,
):
    """The whole loop on two ranks, each with a dispatcher of its own; that of rank `refuses` says no."""
    rank, clock = dist.get_rank(process_group), Clock()
    given = [lease(5, next_seed=7), lease(7)] if rank == 0 else []
    no_from = no_from if rank == refuses else None
    accepts_s = 0 if no_from == 120 else 20
    dispatcher = Dispatcher(
        clock, given, no_from=no_from, accepts_s=accepts_s, finishes_s=2.5 * LEASE_POLL_S, lets_in=lets_in
    )
    training = Training(process_group, fails={(5, 120): SeedFailed("nan")} if fails else {})
    if rank == broken:
        training.fails[5, 120] = error or ZeroDivisionError("by nothing")
    world, dist.group.WORLD = dist.group.WORLD, process_group
    try:
        run(dispatcher, training, ray=WorkerRay(clock, rank, notice))
    finally:
        dist.group.WORLD = world
        result |= {"told": dispatcher.told, "did": training.did, "records": dispatcher.records}


def two_ranks(process_group):
    torch.set_num_threads(1)
    settings = {
        "seeds": {},
        "rank 0 is refused": {"refuses": 0, "no_from": 120},
        "rank 1 is refused": {"refuses": 1, "no_from": 120},
        "rank 1 is refused at the end": {"refuses": 1, "no_from": LAST},
        "a seed fails": {"fails": True},
        "rank 1 breaks": {"broken": 1},
        "rank 1 has a bad shard": {"broken": 1, "error": ShardError("9.bin is short")},
        "rank 1 breaks the contract": {"broken": 1, "error": ContractBroken("step 120 twice")},
        "the machine goes": {"notice": 3},
        "not let in": {"lets_in": False},
    }
    parts = {"leases": leases_of_two, "votes": votes_of_two, "announcements": announcements_of_two}
    results = {name: together(process_group, scenario) for name, scenario in parts.items()}
    for name, changes in settings.items():
        results[name] = together(
            process_group, lambda small, result, changes=changes: seeds_of_two(small, result, **changes)
        )
    return results


@pytest.fixture(scope="module")
def both(private_home):
    """Scenario -> its results on rank 0 and on rank 1."""
    first, second = gloo.run(two_ranks, 2)
    return {name: (first[name], second[name]) for name in first}


def told(result, *kinds):
    return [one for one in result["told"] if one[0] in kinds]


@pytest.mark.parametrize(
    "scenario",
    [
        *("leases", "votes", "announcements", "seeds", "a seed fails", "the machine goes", "not let in"),
        *("rank 0 is refused", "rank 1 is refused", "rank 1 is refused at the end"),
    ],
)
def test_no_rank_waits_for_another_in_vain(both, scenario):
    first, second = both[scenario]
    assert (first["error"], second["error"]) == ("", "")
    assert first["entered"] == second["entered"]


def test_rank_0_asks_for_leases_and_both_ranks_get_the_same(both):
    first, second = both["leases"]
    assert (
        first["leases"]
        == second["leases"]
        == [
            ["train", 3, "00000000000a", 8],
            ["train", 2**31, "ffffffffffff", -1],
        ]
    )
    assert (first["asked"], second["asked"]) == (5, 0)


def test_ranks_of_an_inline_run_hear_of_rank_0s_seed(both):
    assert both["announcements"][0]["seeds"] == both["announcements"][1]["seeds"] == [3, 2**31, -1]


def test_a_yes_of_any_rank_stops_both_at_the_next_checkpoint_and_no_vote_is_lost(both):
    first, second = both["votes"]
    stops = {
        "nobody": [None, False],
        "rank 0 first": [1, False],
        "rank 1 in between": [3, False],
        "both": [3, False],
        "rank 1 last": [None, True],  # still under way when the seed ends
        "after the last": [None, True],
    }
    for name, expected in stops.items():
        assert first[name] == second[name] == expected, name


def test_ranks_share_the_checkpoints_and_rank_0_alone_tells_the_rest(both):
    first, second = both["seeds"]
    attempts = [lease(5).attempt, lease(7).attempt]
    assert told(first, "publish") == [("publish", attempt, step) for attempt in attempts for step in FAR[::2]]
    assert second["told"] == [("publish", attempt, step) for attempt in attempts for step in FAR[1::2]]
    assert told(first, "finish") == [("finish", attempt, 0) for attempt in attempts]
    assert second["records"] == []
    steps = sorted({*FAR, *range(0, LAST, HEARTBEAT_STEPS)})
    assert [record["step"] for record in first["records"]] == [*steps, *steps]
    assert first["did"] == second["did"] == [("prepare", 7), ("trained", 5), ("trained", 7)]


def test_the_others_hear_of_rank_0_while_it_waits_for_a_commit(both):
    """A commit of 2.5 times LEASE_POLL_S: two looks in vain and one that has it; then the next lease."""
    _, second = both["seeds"]
    checkpoints = len({*FAR, *range(0, LAST, HEARTBEAT_STEPS)})
    seed = ["broadcast", *["all_reduce"] * (checkpoints + 1), *["broadcast"] * 3]
    assert second["entered"] == ["broadcast", *seed, *seed, "broadcast", "the end"]


@pytest.mark.parametrize("scenario", ["rank 0 is refused", "rank 1 is refused"])
def test_where_one_rank_is_refused_both_stop_at_one_checkpoint_and_go_on_to_the_next_seed(both, scenario):
    first, second = both[scenario]
    assert first["did"] == second["did"]
    assert [did[:2] for did in first["did"]] == [("prepare", 7), ("closed", 5), ("closed", 7)]
    assert told(first, "finish") == []
    assert len(told(first, "lease")) == 3


def test_a_refusal_at_the_very_end_keeps_both_from_finishing(both):
    first, second = both["rank 1 is refused at the end"]
    assert first["did"] == second["did"] == [("prepare", 7), ("trained", 5), ("trained", 7)]
    assert told(first, "finish") == []


def test_a_failed_seed_is_told_by_rank_0_alone(both):
    first, second = both["a seed fails"]
    assert told(first, "fail") == [("fail", lease(5).attempt, "nan")]
    assert told(second, "fail") == []
    assert first["did"] == second["did"] == [("prepare", 7), ("trained", 7)]


def test_an_error_is_told_by_the_rank_that_has_it(both):
    first, second = both["rank 1 breaks"]
    assert second["error"] == "ZeroDivisionError: by nothing"
    assert told(second, "fail") == [("fail", lease(5).attempt, "trainer-0 rank 1: ZeroDivisionError: by nothing")]
    assert "OutOfStep" in first["error"]  # where there is Ray Train, it ends the other ranks


def test_a_rank_of_several_that_would_meet_its_error_again_says_so_and_fails(both):
    """In order it must not end: the other ranks would wait for it."""
    _, second = both["rank 1 has a bad shard"]
    assert second["error"] == "MachineUnfit: ShardError: 9.bin is short"
    assert told(second, "trouble") == [("trouble", "trainer-0", 1, "rank 1: ShardError: 9.bin is short", True)]


def test_a_rank_of_several_that_finds_the_contract_broken_ends_the_seed_and_fails(both):
    """Its others may have found nothing, and would wait for it."""
    _, second = both["rank 1 breaks the contract"]
    assert second["error"] == "ContractBroken: step 120 twice"
    assert told(second, "fail", "trouble") == [("fail", lease(5).attempt, "step 120 twice", "seed")]


def test_both_ranks_of_a_preempted_trainer_leave_after_their_seed_and_rank_0_says_so(both):
    first, second = both["the machine goes"]
    assert first["did"] == second["did"] == [("prepare", 7), ("trained", 5)]
    assert len(told(first, "lease")) == 1
    assert told(first, "preempted") and not told(second, "preempted")


def test_both_ranks_of_a_trainer_that_is_not_let_in_leave(both):
    first, second = both["not let in"]
    assert first["did"] == second["did"] == []
    assert (len(first["told"]), second["told"]) == (1, [])
