"""The dispatcher's rules on a clock that jumps: fencing, credits, retries, silence, commits, all to the second."""

import asyncio
import json
from collections import Counter
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from speedrun.execution import Execution
from speedrun.schedules import forward_state

from discreteness.checkpoint.header import CheckpointHeader
from discreteness.cluster.flops import flop_per_token
from discreteness.experiment.prepare import Experiment
from discreteness.service.dispatcher import Dispatcher
from discreteness.service.speedrun_pair import SpeedrunPair
from tests.support.dataset_case import DOCUMENTS, IDENTITY, STEPS, create, losses
from tests.support.fake_actors import HERE, FakeRay, Reference, Script, a_pool, lost, now_s, until
from tests.support.job_case import a_job
from tests.support.quick_track import quick

CHUNKS = 4
FULL = OSError(28, "No space left on device")
EXPERIMENT = Experiment(
    track=quick,
    data_root="",
    documents=DOCUMENTS,
    vary="init",
    packing="isolated",
    score_tokens=16,
    world_size=1,
    execution=Execution(),
    plan=STEPS,
    validation_steps=frozenset({0, 10, 20}),
    val_tokens=CHUNKS * quick.data.val_chunk_tokens,
    kept_steps=frozenset(),
    seeds=(5, 6, 7),
    identity=IDENTITY,
)


class Pair(SpeedrunPair):
    """Keeps the bytes themselves as the file. The real format is tested with real weights in test_dispatcher.py."""

    def weights_file(self, data, header):
        return f"weights/step={header.step}", data


class Job:
    """A dispatcher with its pool, on a real dataset, and what a trainer would send it."""

    def __init__(self, folder, max_attempts=3, seeds=(5, 6, 7), num_evaluators=1, **changes):
        self.stage = FakeRay()
        self.dataset = create(folder / "set")
        self.experiment = replace(EXPERIMENT, **changes)
        self.script = Script(losses=lambda header: losses(header.seed, (header.step,))[0])
        pool = a_pool(self.script, {}, num_evaluators, num_trainers=1)
        described = a_job(self.experiment, seeds, pair=Pair(self.experiment), max_attempts=max_attempts)
        self.dispatcher = Dispatcher(described, self.dataset, pool)
        self.ended = []

    def run(self, scenario):
        return self.stage.run(scenario)

    async def enter(self, trainer="g"):
        """A trainer comes, and asks for its first lease."""
        assert await self.dispatcher.enter(trainer, HERE, partial(self.ended.append, trainer))
        return await self.dispatcher.lease(trainer)

    def publish(self, lease, step, reference=None, **more):
        header = CheckpointHeader(
            seed=lease.seed,
            attempt=lease.attempt,
            step=step,
            layout="",
            state=forward_state(quick, step),
            num_bytes=100 + step,
        )
        records = [{"step": step, "train_loss": 9.0 - step}]
        call = self.dispatcher.publish(header, [reference or Reference()], records, **more)
        return asyncio.ensure_future(call)

    async def publish_all(self, lease, but_last=0):
        """Published, accepted and validated; `but_last` steps are left out at the end."""
        steps = sorted(self.experiment.published_steps)
        for step in steps[: len(steps) - but_last]:
            assert await self.publish(lease, step) is None
        await until(lambda: not self.dispatcher.ledger.attempts[lease.attempt].work)

    async def train(self, lease):
        """What `finish` answers after everything was published and accepted, with validation still to come."""
        for step in sorted(self.experiment.published_steps):
            assert await self.publish(lease, step) is None
        return await self.dispatcher.finish(lease.attempt, [], 0.0)

    async def progress(self):
        return await self.dispatcher.progress(0)

    def messages(self, kind):
        return [event.message for event in self.dispatcher.ledger.events if event.event == kind]

    def logged(self):
        found = [json.loads(path.read_text()) for path in Path(self.dataset.uri, "log").glob("*.json")]
        return [event for event in found if event["event"] == "attempt lost"]

    def runs(self, seed):
        return pq.read_table(Path(self.dataset.uri, self.dataset.committed()[seed].runs_path)).to_pydict()


@pytest.fixture
def job(tmp_path):
    return Job(tmp_path)


# ---- fencing ----


def test_nothing_that_an_attempt_sends_after_its_end_changes_anything(job):
    async def scenario():
        old = await job.enter()
        await job.dispatcher.fail(old.attempt, "died")
        current = await job.dispatcher.lease("g")
        assert current.seed == old.seed and current.attempt != old.attempt
        before = await job.progress()
        assert await job.publish(old, 0) == f"attempt {old.attempt} is over"
        await job.dispatcher.hear(old.attempt, 19, [{"step": 19, "train_loss": 1.0}])
        await job.dispatcher.fail(old.attempt, "died once more")
        assert await job.dispatcher.finish(old.attempt, [{"step": 20}], 99.0) == f"attempt {old.attempt} is over"
        assert await job.progress() == before
        assert await job.train(current) is None
        return current

    current = job.run(scenario())
    assert job.dataset.committed()[5].attempt == current.attempt
    assert set(job.runs(5)["step"]) == {0, 1, 5, 10, 20}
    assert [step for _, step, *chunk in job.script.began if not chunk] == list(STEPS)


def test_rows_on_their_way_when_an_attempt_ends_never_arrive_and_free_their_places(job):
    async def scenario():
        lease = await job.enter()
        calls = [job.publish(lease, step) for step in STEPS]
        await asyncio.sleep(0.5)  # the first is scored
        await job.dispatcher.fail(lease.attempt, "died")
        assert {await call for call in calls} == {f"attempt {lease.attempt} is over"}
        await asyncio.sleep(100)
        again = await job.dispatcher.lease("g")
        assert await job.train(again) is None
        return await job.progress()

    progress = job.run(scenario())
    assert progress.counts.checkpoints == len(STEPS)
    assert {step for _, step, *chunk in job.script.began[:2] if not chunk} <= {0, 1}  # what waited was never begun


def test_what_happens_to_one_trainer_leaves_the_attempts_of_the_others_alone(job):
    async def scenario():
        mine, others = await job.enter("g"), await job.enter("h")
        assert {mine.seed, others.seed} == {5, 6} and mine.attempt != others.attempt
        await job.enter("h")
        await job.dispatcher.preempted("h")
        await job.dispatcher.leave("h", "")
        assert await job.train(mine) is None

    job.run(scenario())
    assert list(job.dataset.committed()) == [5]


def test_a_lost_seed_is_the_next_that_is_leased(job):
    async def scenario():
        first = await job.enter("g")
        await job.enter("h")
        await job.dispatcher.fail(first.attempt, "died")
        return [(await job.dispatcher.lease(trainer)).seed for trainer in ("i", "j")]

    assert job.run(scenario()) == [5, 7]


def test_a_seed_is_tried_max_attempts_times_and_then_no_more(job):
    async def scenario():
        lease = await job.enter()
        for number in range(3):
            assert lease.seed == 5
            assert (await job.progress()).failed == {}
            await job.publish(lease, 0)
            await job.dispatcher.fail(lease.attempt, f"error {number}")
            lease = await job.dispatcher.lease("g")
        assert lease.seed == 6
        await asyncio.sleep(1)
        return await job.progress()

    progress = job.run(scenario())
    assert (progress.failed, progress.waiting) == ({5: "error 2"}, 1)
    assert progress.counts.attempts_lost == len(job.logged()) == 3
    assert (len(job.messages("attempt lost")), len(job.messages("seed failed"))) == (2, 1)
    assert {(one["seed"], one["checkpoints"]) for one in job.logged()} == {(5, 1)}
    assert {one["error"] for one in job.logged()} == {"error 0", "error 1", "error 2"}


def test_what_every_attempt_of_a_seed_would_meet_ends_it_at_once_and_no_other(job):
    async def scenario():
        lease = await job.enter()
        await job.publish(lease, 0)
        await job.dispatcher.fail(lease.attempt, "documents of seed 5 ran out", "seed")
        following = await job.dispatcher.lease("g")
        await asyncio.sleep(1)
        return following, await job.progress()

    following, progress = job.run(scenario())
    assert (following.order, following.seed) == ("train", 6)
    assert progress.failed == {5: "documents of seed 5 ran out"} and not progress.done
    (logged,) = job.logged()
    assert (logged["seed"], logged["final"], logged["checkpoints"]) == (5, True, 1)
    assert job.messages("seed failed") == [
        "seed 5 failed, and would in every attempt: documents of seed 5 ran out",
    ]


def test_what_every_seed_would_meet_ends_the_job_at_once(job):
    async def scenario():
        first, second = await job.enter("g"), await job.enter("h")
        await job.publish(second, 0)
        waits = asyncio.ensure_future(job.publish(second, 1))
        await asyncio.sleep(0)
        await job.dispatcher.fail(first.attempt, "documents ran out", "job")
        assert await waits == f"attempt {second.attempt} is over"
        assert [(await job.dispatcher.lease(trainer)).order for trainer in ("g", "h")] == ["stop", "stop"]
        assert not await job.dispatcher.leave("g", "")
        await asyncio.sleep(1)
        return await job.progress()

    progress = job.run(scenario())
    assert progress.done and progress.trainers_ended == {"g": ""}
    assert progress.failed == dict.fromkeys((5, 6, 7), "documents ran out")
    assert sorted((one["seed"], one["final"]) for one in job.logged()) == [(5, True), (6, True)]
    assert job.messages("seeds given up") == ["no further seed is trained, as each would meet the same"]


# ---- credits ----


def test_publish_answers_when_the_row_is_accepted_and_is_in_flight_until_then(job):
    async def scenario():
        lease = await job.enter()
        began_s = now_s()
        calls = [job.publish(lease, step) for step in (1, 5)]
        await asyncio.sleep(0.5)
        progress = await job.progress()
        assert (progress.in_flight, progress.in_flight_bytes, progress.lag_steps) == (2, 101 + 105, 4)
        assert (progress.counts.published, progress.counts.checkpoints) == (2, 0)
        await calls[0]
        assert now_s() - began_s == pytest.approx(1, abs=0.1)
        progress = await job.progress()
        assert (progress.in_flight, progress.in_flight_bytes, progress.lag_steps) == (1, 105, 0)
        await calls[1]
        progress = await job.progress()
        assert (progress.in_flight, progress.counts.published, progress.counts.checkpoints) == (0, 2, 2)

    job.run(scenario())


def test_a_step_that_is_only_validated_holds_no_credit(job):
    async def scenario():
        lease = await job.enter()
        began_s = now_s()
        assert await job.publish(lease, 10) is None
        assert now_s() - began_s < 0.01
        progress = await job.progress()
        assert (progress.counts.published, progress.in_flight) == (0, 0)

    job.run(scenario())


def test_a_checkpoint_is_scored_and_counted_once_however_its_step_is_validated(job):
    async def scenario():
        assert await job.train(await job.enter()) is None
        return await job.progress()

    progress = job.run(scenario())
    assert (progress.counts.published, progress.counts.checkpoints, sum(progress.counts.ages)) == (4, 4, 4)
    assert Counter(step for _, step, *chunk in job.script.began if chunk) == {0: CHUNKS, 10: CHUNKS, 20: CHUNKS}
    assert Counter(step for _, step, *chunk in job.script.began if not chunk) == dict.fromkeys(STEPS, 1)


def test_ages_are_counted_in_the_class_whose_upper_bound_they_do_not_pass(tmp_path):
    ages_s = (0.05, 0.2, 0.9, 2, 9, 29)
    job = Job(tmp_path, plan=tuple(range(6)), validation_steps=frozenset())

    async def scenario():
        lease = await job.enter()
        for step, age_s in enumerate(ages_s):
            job.script.call_s = age_s
            assert await job.publish(lease, step) is None
        return await job.progress()

    assert job.run(scenario()).counts.ages == [1, 1, 1, 1, 1, 1, 0, 0, 0, 0]


# ---- verification ----


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda losses: np.nextafter(losses, np.float32(np.inf)), "one step of the last bit"),
        (lambda losses: -losses, "another sign"),
    ],
    ids=["last bit", "sign"],
)
def test_verification_compares_every_bit_of_every_token(job, change, what):
    async def scenario():
        lease = await job.enter()
        ours = losses(5, (0,))[0]
        assert await job.publish(lease, 0, expected=ours.copy()) is None
        other = ours.copy()
        other[-1:] = change(other[-1:])
        answer = await job.publish(lease, 0, expected=other)
        assert "verification failed at step 0, evaluator != trainer: document c token 2" in answer
        assert await job.publish(lease, 1) == f"attempt {lease.attempt} is over"
        return await job.progress()

    progress = job.run(scenario())
    assert (progress.counts.attempts_lost, progress.counts.checkpoints, progress.waiting) == (1, 1, 3)
    assert progress.counts.verified == 1
    assert "verification failed" in job.messages("attempt lost")[0]


def test_a_zero_is_not_a_negative_zero(job):
    job.script.losses = lambda header: np.zeros(6, np.float32)

    async def scenario():
        return await job.publish(await job.enter(), 1, expected=-np.zeros(6, np.float32))

    assert "(6 of 6 losses differ)" in job.run(scenario())


# ---- validation ----


def test_the_validation_loss_of_a_step_is_the_mean_of_its_chunks(job):
    job.script.val_loss = lambda header, chunk: header.step + chunk / 4

    async def scenario():
        assert await job.train(await job.enter()) is None

    job.run(scenario())
    runs = job.runs(5)
    found = dict(zip(runs["step"], runs["val_loss"], strict=True))
    mean = np.mean([chunk / 4 for chunk in range(CHUNKS)])
    assert found == {0: mean, 1: None, 5: None, 10: 10 + mean, 20: 20 + mean}


@pytest.mark.parametrize("error", [ValueError("bytes"), lost(), AssertionError("a defect"), OSError("a defect")])
def test_a_validation_that_fails_ends_the_attempt_and_no_null_is_committed(job, error):
    real = job.dispatcher.pool.validate

    async def validate(trainer, reference, header, chunk):
        if header.step == 10 and chunk == 2:
            await asyncio.sleep(3)
            if isinstance(error, AssertionError | OSError):
                raise error
            job.script.does[10] = error
        return await real(trainer, reference, header, chunk)

    job.dispatcher.pool.validate = validate

    async def scenario():
        lease = await job.enter()
        answers = [await job.publish(lease, step) for step in sorted(job.experiment.published_steps)]
        answers.append(await job.dispatcher.finish(lease.attempt, [], 0.0))
        await asyncio.sleep(1)
        return answers, await job.progress()

    answers, progress = job.run(scenario())
    assert answers[-1]
    assert (progress.counts.attempts_lost, progress.committed, progress.waiting) == (1, 0, 3)
    assert job.dataset.committed() == {}


def test_a_step_whose_validation_never_came_is_not_committed_with_a_null(job):
    async def scenario():
        lease = await job.enter()
        for step in STEPS:  # 10 is forgotten
            assert await job.publish(lease, step) is None
        return await job.dispatcher.finish(lease.attempt, [], 0.0)

    assert "no validation loss at steps [10]" in job.run(scenario())
    assert job.dataset.committed() == {}


def test_a_chunk_that_fails_takes_its_brothers_back(tmp_path):
    job = Job(tmp_path, val_tokens=50 * quick.data.val_chunk_tokens)
    job.script.does = {10: ValueError("bytes")}

    async def scenario():
        lease = await job.enter()
        await job.publish(lease, 10)
        await asyncio.sleep(50)
        return await job.progress()

    assert job.run(scenario()).counts.attempts_lost == 1
    assert len(job.script.began) <= 3


@pytest.mark.parametrize(("takes_s", "ended"), [(890, False), (910, True)])
def test_a_trained_seed_waits_900_s_for_its_validation(job, takes_s, ended):
    async def validate(trainer, reference, header, chunk):
        await asyncio.sleep(takes_s)
        return 1.0

    job.dispatcher.pool.validate = validate

    async def scenario():
        lease = await job.enter()
        calls = [job.publish(lease, step) for step in sorted(job.experiment.published_steps)]
        await asyncio.gather(*calls)
        began_s = now_s()
        answer = await job.dispatcher.finish(lease.attempt, [], 0.0)
        return answer, now_s() - began_s

    answer, waited_s = job.run(scenario())
    assert bool(answer) == ended
    assert waited_s == pytest.approx(900 if ended else 886, abs=2)
    if ended:
        (message,) = job.messages("attempt lost")
        assert "its validation losses did not come within 900 s (6 pieces of work, 1 evaluators ready)" in message


# ---- commits ----


def failing(monkeypatch, job, path, until_s, error=FULL):
    """Writes below `path` fail until that moment; the list of when they were tried."""
    real, tried = job.dataset.storage.write, []

    def write(name, *arguments, **options):
        if name.startswith(path):
            tried.append(now_s())
            assert len(tried) < 100, "tried again without a pause"
            if now_s() < until_s():
                raise error
        return real(name, *arguments, **options)

    monkeypatch.setattr(job.dataset.storage, "write", write)
    return tried


@pytest.mark.parametrize("what", ["losses", "weights"])
@pytest.mark.parametrize(("full_s", "lost_attempts"), [(295, 0), (310, 1)])
def test_a_full_disk_is_tried_every_5_s_for_300_s_in_all(tmp_path, monkeypatch, what, full_s, lost_attempts):
    job = Job(tmp_path, kept_steps=frozenset({20}))
    free_s = [0.0]
    tried = failing(monkeypatch, job, what, lambda: free_s[0])

    async def scenario():
        lease = await job.enter()
        await job.publish_all(lease, but_last=1)
        began_s = now_s()
        free_s[0] = began_s + full_s
        answer = await job.publish(lease, 20, Reference(b"weights"))
        answer = answer or await job.dispatcher.finish(lease.attempt, [], 0.0)
        return answer, now_s() - began_s, await job.progress()

    answer, took_s, progress = job.run(scenario())
    assert (progress.counts.attempts_lost, progress.committed) == (lost_attempts, 1 - lost_attempts)
    assert took_s == pytest.approx(305 if lost_attempts else 299, abs=6)
    assert len(tried) > 50 and np.diff(tried) == pytest.approx(5, abs=0.1)
    told = job.messages("write failed")
    assert len(told) == len(tried) - 1
    named = "weights of seed 5" if what == "weights" else "seed 5"
    assert told[0] == f"{named} cannot be written yet: {FULL}; trying again in 5 s"
    if lost_attempts:
        assert answer == f"{named} could not be written: {FULL}"
    else:
        assert answer is None
        assert [path.read_bytes() for path in Path(job.dataset.uri, "weights").iterdir()] == [b"weights"]


def test_only_the_weights_of_kept_steps_are_fetched_and_written(tmp_path):
    job = Job(tmp_path, kept_steps=frozenset({1, 20}))

    async def scenario():
        assert await job.train(await job.enter()) is None

    job.run(scenario())
    assert sorted(path.name for path in Path(job.dataset.uri, "weights").iterdir()) == ["step=1", "step=20"]


def test_a_checkpoint_to_keep_whose_bytes_are_lost_ends_its_attempt(tmp_path):
    job = Job(tmp_path, kept_steps=frozenset({1}))
    reference = Reference(b"")

    async def scenario():
        lease = await job.enter()
        call = job.publish(lease, 1, reference)
        await asyncio.sleep(0.5)
        reference.data = lost()
        return await call, await job.progress()

    answer, progress = job.run(scenario())
    assert "a checkpoint to keep is gone" in answer
    assert (progress.counts.checkpoints, progress.counts.attempts_lost) == (0, 1)


def test_what_the_dataset_refuses_is_not_tried_again(job):
    job.script.losses = lambda header: np.full(6, np.nan, np.float32)

    async def scenario():
        lease = await job.enter()
        answer = await job.train(lease)
        return answer, await job.progress()

    answer, progress = job.run(scenario())
    assert "a seed with such a loss is not committed" in answer
    assert (progress.counts.attempts_lost, progress.committed, job.messages("write failed")) == (1, 0, [])


def test_four_seeds_are_written_at_once(tmp_path):
    job = Job(tmp_path, seeds=tuple(range(10, 20)), num_evaluators=8)

    async def scenario():
        leases = [await job.enter(f"g{number}") for number in range(10)]
        await asyncio.gather(*(job.publish_all(lease) for lease in leases))
        loop = asyncio.get_running_loop()
        loop.most_in_threads, loop.thread_s = 0, 7
        calls = [asyncio.ensure_future(job.dispatcher.finish(lease.attempt, [], 0.0)) for lease in leases]
        assert set(await asyncio.gather(*calls)) == {None}
        return loop.most_in_threads

    assert job.run(scenario()) == 4
    assert len(job.dataset.committed()) == 10


@pytest.mark.parametrize("works", [True, False])
def test_the_end_of_a_trainer_during_its_commit_costs_nothing_unless_the_commit_fails(job, monkeypatch, works):
    async def scenario():
        lease = await job.enter()
        await job.publish_all(lease)
        asyncio.get_running_loop().thread_s = 30
        if not works:
            monkeypatch.setattr(job.dataset, "commit", lambda *_: (_ for _ in ()).throw(ValueError("not whole")))
        committing = asyncio.ensure_future(job.dispatcher.finish(lease.attempt, [], 0.0))
        await asyncio.sleep(10)
        await job.dispatcher.enter("g", HERE)
        await job.dispatcher.fail(lease.attempt, "rank 1: died")
        answer = await committing
        return answer, await job.progress()

    answer, progress = job.run(scenario())
    assert (progress.committed, progress.counts.attempts_lost) == ((1, 0) if works else (0, 1))
    assert answer is None if works else answer == "not whole"
    assert progress.waiting == (2 if works else 3)


def test_trainers_that_wait_hear_of_the_last_commit_at_once(tmp_path):
    job = Job(tmp_path, seeds=(5,))

    async def waits():
        lease = await job.enter("h")
        while lease.order == "wait":
            lease = await job.dispatcher.lease("h")
        return lease.order, now_s()

    async def scenario():
        lease = await job.enter("g")
        waiting = asyncio.ensure_future(waits())
        assert await job.train(lease) is None
        committed_s = now_s()
        order, heard_s = await waiting
        assert (order, (await job.dispatcher.lease("g")).order) == ("stop", "stop")
        assert heard_s - committed_s < 0.1
        return await job.progress()

    progress = job.run(scenario())
    assert progress.done and progress.counts.bytes_committed > 0


# ---- trainers ----


def test_a_commit_forgives_a_trainers_failures(tmp_path):
    job = Job(tmp_path, max_attempts=99)

    async def scenario():
        lease = await job.enter()
        for _ in range(3):
            for _ in range(2):
                lease = await job.enter()
            assert await job.train(lease) is None
            lease = await job.dispatcher.lease("g")
        return await job.progress()

    assert job.run(scenario()).committed == 3
    assert job.messages("trainer failed") == 6 * ["g failed: its processes were restarted"]


def test_three_failures_of_a_trainer_in_a_row_end_it_whatever_the_others_commit(tmp_path):
    job = Job(tmp_path, seeds=tuple(range(5, 15)), max_attempts=99)

    async def scenario():
        others = await job.enter("h")
        await job.enter("g")
        for number in range(3):
            assert not job.dispatcher.ledger.why_stop(job.dispatcher.ledger.trainer("g"))
            await job.dispatcher.trouble("g", job.dispatcher.ledger.trainers["g"].starts, f"error {number}")
            await job.dispatcher.enter("g", HERE)
        assert await job.train(others) is None
        assert (await job.dispatcher.lease("g")).order == "stop"
        assert (await job.dispatcher.lease("h")).order == "train"
        assert not await job.dispatcher.leave("g", "")
        return await job.progress()

    assert job.run(scenario()).trainers_ended == {"g": "3 failures in a row, the last: error 2"}


def test_a_trainers_error_is_told_once_with_the_failure_that_it_explains(job):
    async def scenario():
        await job.enter()
        await job.dispatcher.trouble("g", job.dispatcher.ledger.trainers["g"].starts, "ShardError: no shard")
        await job.dispatcher.enter("g", HERE)
        await job.dispatcher.enter("g", HERE)

    job.run(scenario())
    told = [f"g failed: {why}" for why in ("ShardError: no shard", "its processes were restarted")]
    assert job.messages("trainer failed") == told


def test_an_error_of_a_fit_that_has_ended_is_not_told_of_the_next(job):
    async def scenario():
        await job.enter()
        await job.dispatcher.trouble("g", job.dispatcher.ledger.trainers["g"].starts, "ShardError: no shard")
        assert await job.dispatcher.leave("g", "the controller died")
        await job.enter()
        await job.dispatcher.enter("g", HERE)

    job.run(scenario())
    assert [message.split(":")[0] for message in job.messages("trainer failed")] == ["g failed", "g failed"]
    assert "its processes were restarted" in job.messages("trainer failed")[1]


def test_a_trainer_whose_fit_ended_may_start_again_only_where_there_is_work_for_it(tmp_path):
    job = Job(tmp_path, seeds=(5,))
    leave = job.dispatcher.leave

    async def scenario():
        assert not await leave("never placed", "no place within 600 s")
        lease = await job.enter("g")
        assert await leave("g", "the controller died")
        assert not await leave("never entered", "")
        lease = await job.enter("g")
        assert await job.train(lease) is None
        assert not await leave("g", "the controller died")
        return await job.progress()

    progress = job.run(scenario())
    assert progress.counts.attempts_lost == 1
    ended = {"never placed": "no place within 600 s", "never entered": "", "g": "the controller died"}
    assert progress.trainers_ended == ended


def test_a_preempted_trainer_is_told_of_once_and_takes_its_seed_elsewhere(job):
    async def scenario():
        lease = await job.enter()
        for _ in range(3):
            await job.dispatcher.preempted("g")
        again = await job.enter()
        assert again.seed == lease.seed
        await job.dispatcher.fail(again.attempt, "its own fault")  # on its new machine it has faults again
        await job.dispatcher.enter("g", HERE)
        await asyncio.sleep(1)

    job.run(scenario())
    assert len(job.messages("preemption notice")) == 1
    assert job.dispatcher.ledger.lost == {5: 1, 6: 0, 7: 0}
    assert job.dispatcher.ledger.trainers["g"].failures == 1
    assert sorted("preempted" in one for one in job.logged()) == [False, True]


# ---- leases ----


def test_a_trainer_that_asks_in_vain_is_answered_after_20_s(tmp_path):
    """Not later: the other ranks wait for it. Not at once: it would ask again and again."""
    job = Job(tmp_path, seeds=(5,))

    async def scenario():
        lease = await job.enter("g")
        await job.dispatcher.fail(lease.attempt, "died")
        await job.dispatcher.lease("g")
        began_s = now_s()
        lease = await job.enter("h")
        assert lease.order == "wait"
        return now_s() - began_s

    assert job.run(scenario()) == pytest.approx(20, abs=0.1)


def test_a_lease_asked_for_by_processes_that_have_died_is_not_granted(tmp_path):
    job = Job(tmp_path, seeds=(5,))

    async def scenario():
        lease = await job.enter("g")
        ghost = asyncio.ensure_future(job.enter("h"))
        await asyncio.sleep(1)
        alive = asyncio.ensure_future(job.enter("h"))
        await asyncio.sleep(1)
        await job.dispatcher.fail(lease.attempt, "died")
        return (await ghost).order, (await alive).order

    assert job.run(scenario()) == ("stop", "train")


def test_a_seed_that_comes_back_goes_to_one_of_those_who_wait(tmp_path):
    job = Job(tmp_path, seeds=(5,))

    async def scenario():
        lease = await job.enter("g")
        waiting = [asyncio.ensure_future(job.enter(trainer)) for trainer in ("h", "i")]
        await asyncio.sleep(5)
        began_s = now_s()
        await job.dispatcher.fail(lease.attempt, "died")
        orders = [one.order for one in await asyncio.gather(*waiting)]
        return sorted(orders), now_s() - began_s

    orders, waited_s = job.run(scenario())
    assert orders == ["train", "wait"]
    assert waited_s < 16


def test_a_lease_guesses_the_seed_that_the_trainer_trains_next(tmp_path):
    job = Job(tmp_path, seeds=tuple(range(10)))

    async def scenario():
        for trainer in ("a", "b", "c"):
            await job.dispatcher.enter(trainer, HERE)
        leases = [await job.dispatcher.lease(trainer) for trainer in ("a", "b", "c", "a", "b", "c", "a", "b", "c", "a")]
        return [(lease.seed, lease.next_seed) for lease in leases]

    pairs = job.run(scenario())
    assert pairs[:7] == [(0, 3), (1, 4), (2, 5), (3, 6), (4, 7), (5, 8), (6, 9)]
    assert pairs[7:] == [(7, 9), (8, 9), (9, -1)]


# ---- silence ----


def test_an_attempt_that_sends_nothing_for_900_s_is_over_and_its_trainer_ended_once(job):
    async def scenario():
        lease = await job.enter()
        began_s = now_s()
        await until(lambda: not job.dispatcher.ledger.attempts)
        over_s = now_s() - began_s
        await asyncio.sleep(30)
        assert job.ended == ["g"]
        await asyncio.sleep(3000)
        assert await job.publish(lease, 0) == f"attempt {lease.attempt} is over"
        return over_s

    assert job.run(scenario()) == pytest.approx(915, abs=16)  # looked at every 30 s
    assert job.ended == ["g"]
    assert "g sent nothing for 900 s" in job.messages("attempt lost")[0]
    assert job.dispatcher.ledger.lost[5] == 1


@pytest.mark.parametrize("sign", ["hear", "publish", "publish to validate"])
def test_a_sign_of_life_every_800_s_is_enough(job, sign):
    async def scenario():
        lease = await job.enter()
        for _ in range(5):
            await asyncio.sleep(800)
            if sign == "hear":
                await job.dispatcher.hear(lease.attempt, 3, [])
            else:
                assert await job.publish(lease, 1 if sign == "publish" else 10) is None
        assert lease.attempt in job.dispatcher.ledger.attempts

    job.run(scenario())
    assert job.ended == []


def test_a_trainer_is_not_silent_while_its_checkpoint_waits_for_an_evaluator(job):
    real = job.dispatcher.pool.score

    async def score(*arguments):
        await asyncio.sleep(2000)
        return await real(*arguments)

    job.dispatcher.pool.score = score

    async def scenario():
        lease = await job.enter()
        assert await job.publish(lease, 1) is None
        await asyncio.sleep(840)
        assert lease.attempt in job.dispatcher.ledger.attempts

    job.run(scenario())
    assert job.ended == []


def test_a_trainer_that_builds_its_trainer_for_900_s_is_ended_with_a_reason(job):
    async def scenario():
        await job.dispatcher.enter("g", HERE, partial(job.ended.append, "g"))
        began_s = now_s()
        await until(lambda: job.ended)
        over_s = now_s() - began_s
        await job.enter("g")
        await asyncio.sleep(800)
        return over_s

    assert job.run(scenario()) == pytest.approx(915, abs=16)
    assert job.ended == ["g"]
    assert job.messages("trainer failed") == ["g failed: it sent nothing for 900 s and was ended"]


def test_trainers_that_wait_for_work_or_have_left_are_not_silent(tmp_path):
    job = Job(tmp_path, seeds=(5,))

    async def scenario():
        lease = await job.enter("g")
        await job.dispatcher.enter("left", HERE, partial(job.ended.append, "left"))
        await job.dispatcher.leave("left", "")
        assert (await job.enter("h")).order == "wait"
        for _ in range(100):
            assert (await job.dispatcher.lease("h")).order == "wait"
            await job.dispatcher.hear(lease.attempt, 3, [])

    job.run(scenario())
    assert job.ended == []


def test_a_trainer_has_900_s_again_after_its_commit_and_after_a_rejection(job):
    async def scenario():
        lease = await job.enter()
        for _ in range(3):
            await asyncio.sleep(800)
            await job.dispatcher.hear(lease.attempt, 3, [])
        assert await job.train(lease) is None
        await asyncio.sleep(840)
        assert job.ended == []
        lease = await job.dispatcher.lease("g")
        for _ in range(3):
            await asyncio.sleep(800)
            await job.dispatcher.hear(lease.attempt, 3, [])
        await job.dispatcher.fail(lease.attempt, "rejected")
        await asyncio.sleep(840)
        assert job.ended == []
        await asyncio.sleep(100)
        assert job.ended == ["g"]

    job.run(scenario())


# ---- what is told and shown ----


def test_work_in_the_background_that_ends_is_told(job, monkeypatch):
    monkeypatch.setattr(job.dataset, "write_running", lambda *_: (_ for _ in ()).throw(TypeError("a defect")))

    async def scenario():
        lease = await job.enter()
        await job.publish(lease, 0)
        await asyncio.sleep(100)

    job.run(scenario())
    (told,) = job.messages("internal error")
    assert "_show_running" in told and "TypeError: a defect" in told


def test_no_evaluator_left_ends_every_trainer_with_the_reason(job):
    job.script.starts = [RuntimeError("no device")] * 99

    async def scenario():
        lease = await job.enter()
        answer = await job.publish(lease, 0)
        assert (await job.dispatcher.lease("g")).order == "stop"
        assert not await job.dispatcher.enter("h", HERE)
        assert not await job.dispatcher.leave("h", "")
        return answer, await job.progress()

    answer, progress = job.run(scenario())
    reason = "no evaluator can start: RuntimeError: no device"
    assert answer == progress.trainers_ended["h"] == reason


def test_rows_are_shown_every_30_s_or_as_seldom_as_a_tenth_of_a_core_allows(job, monkeypatch):
    shown = []
    monkeypatch.setattr(job.dataset, "write_running", lambda *_: shown.append(now_s()))

    async def scenario():
        lease = await job.enter()
        await job.publish(lease, 0)
        await asyncio.sleep(100)
        assert np.diff(shown) == pytest.approx(30, abs=0.1)
        shown.clear()
        asyncio.get_running_loop().thread_s = 20
        await asyncio.sleep(800)
        assert np.diff(shown) == pytest.approx(220, abs=0.1)

    job.run(scenario())


def test_rows_shown_too_late_are_taken_away_again(job):
    shown = Path(job.dataset.uri, "_running", "seed=00005.parquet")

    async def scenario():
        lease = await job.enter()
        await job.publish_all(lease)
        assert not shown.exists()
        loop = asyncio.get_running_loop()
        loop.thread_s = 5
        await until(lambda: loop.in_threads)
        loop.thread_s = 0.001
        assert await job.dispatcher.finish(lease.attempt, [], 0.0) is None
        assert loop.in_threads == 1
        await asyncio.sleep(6)

    job.run(scenario())
    assert 5 in job.dataset.committed()
    assert not shown.exists()


def test_a_failed_seeds_rows_are_no_longer_shown(tmp_path):
    job = Job(tmp_path, max_attempts=1)
    shown = Path(job.dataset.uri, "_running", "seed=00005.parquet")

    async def scenario():
        lease = await job.enter()
        await job.publish(lease, 0)
        await asyncio.sleep(40)
        assert shown.exists()
        await job.dispatcher.fail(lease.attempt, "nan")
        await asyncio.sleep(1)

    job.run(scenario())
    assert not shown.exists()


def test_updates_tokens_and_waits_are_counted_also_of_lost_attempts(job):
    def update(step, tokens):
        return {
            "step": step,
            "train_loss": 5.0 - step,
            "batch_tokens": tokens,
            "short_window": 1,
            "long_window": step,
            "train_s": 10.0 * step,
        }

    async def scenario():
        lease = await job.enter()
        await job.dispatcher.hear(lease.attempt, 2, [update(2, 100)])
        await job.dispatcher.hear(lease.attempt, 1, [update(1, 10), {"step": 1, "val_loss": 3.0}])
        progress = await job.progress()  # messages overtake each other
        assert (progress.training[0].train_loss, progress.training[0].step) == (3.0, 2)
        assert await job.publish(lease, 5, stall_s=4.0) is None
        assert await job.publish(lease, 1, stall_s=3.0) is None
        progress = await job.progress()
        counts = progress.counts
        assert (counts.updates, counts.tokens, counts.stall_s) == (2, 110, 4.0)
        assert counts.flop == 100 * flop_per_token(quick.model, 1, 2) + 10 * flop_per_token(quick.model, 1, 1)
        assert progress.training[0].train_loss == 4.0
        (running,) = progress.training
        assert (running.seed, running.trainer, running.step) == (5, "g", 5)
        await job.dispatcher.fail(lease.attempt, "died")
        lease = await job.dispatcher.lease("g")
        await job.dispatcher.hear(lease.attempt, 1, [update(1, 10)])
        progress = await job.progress()
        counts = progress.counts
        assert (counts.updates, counts.tokens, counts.stall_s) == (3, 120, 4.0)
        await asyncio.sleep(1)

    job.run(scenario())
    assert [one["train_s"] for one in job.logged()] == [20.0]


def test_what_a_committed_seed_has_waited_stays_counted(job):
    async def scenario():
        lease = await job.enter()
        await job.publish_all(lease)
        assert await job.dispatcher.finish(lease.attempt, [], 2.5) is None
        return await job.progress()

    progress = job.run(scenario())
    assert (progress.committed, progress.counts.stall_s) == (1, 2.5)


def test_events_are_handed_out_from_where_the_driver_stands(job):
    async def scenario():
        await job.enter()
        first = (await job.dispatcher.progress(0)).events
        lease = await job.enter("h")
        later = (await job.dispatcher.progress(len(first))).events
        return first, later, lease

    first, later, lease = job.run(scenario())
    assert [event.seed for event in first if event.event == "seed leased"] == [5]
    (leased,) = [event for event in later if event.event == "seed leased"]
    assert (leased.seed, leased.attempt, leased.trainer) == (lease.seed, lease.attempt, "h")
    assert first + later == job.dispatcher.ledger.events
