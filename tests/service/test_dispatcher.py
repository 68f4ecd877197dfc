"""The control path with a real trainer and real scoring, but without Ray: attempts, fencing, retries, verification."""

import asyncio
import json
import threading
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors import safe_open
from speedrun.schedules import forward_state, step_settings
from speedrun.training import Trainer

from discreteness.checkpoint.header import CheckpointHeader
from discreteness.checkpoint.layout import CheckpointLayout
from discreteness.cluster.flops import flop_per_token
from discreteness.dataset.reader import open as open_reader
from discreteness.dataset.runs_file import LIBRARIES, trainers_library, with_libraries
from discreteness.dataset.status import status as status_of
from discreteness.dataset.verify import verify
from discreteness.experiment.config import RunConfig
from discreteness.experiment.prepare import open_dataset
from discreteness.scoring.evaluator import Evaluator
from discreteness.scoring.scorer import Scorer
from discreteness.service.dispatcher import Dispatcher
from discreteness.service.evaluator_pool import CheckpointLost, CheckpointRejected
from discreteness.service.speedrun_pair import SpeedrunPair
from discreteness.service.timeouts import LEASE_DEADLINE_S
from tests.support.job_case import a_job, prepared
from tests.support.quick_track import quick as QUICK

PLAN = "0,3,11,20"


class LocalPool:
    """The pool's contract in this process: what is a reference there is the array itself here."""

    def __init__(self, experiment):
        self.evaluator = Evaluator(SpeedrunPair(experiment), "cpu")
        self.replaced = 0
        self.given_up = ""
        self.on_event = print
        self.nodes = {}
        self.libraries = []
        self.gate = asyncio.Event()
        self.gate.set()

    def place_beside(self, trainer, node_id):
        self.nodes[trainer] = node_id

    def ready(self):
        return 1

    def busy_s(self):
        return 0.0

    async def score(self, trainer, reference, header):
        await self.gate.wait()
        if reference is None:
            raise CheckpointLost("the owner is gone")
        try:
            return self.evaluator.score(reference, header)
        except ValueError as error:
            raise CheckpointRejected(str(error)) from None

    async def fetch(self, reference):
        return reference

    async def validate(self, trainer, reference, header, chunk):
        return self.evaluator.validate(reference, header, chunk)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Every checkpoint of one real seed: [(step, bytes, state, records, the trainer's own losses)]."""
    torch.set_num_threads(1)
    settings = dict(
        track="tests.support.quick_track:quick",
        checkpoints=PLAN,
        data=str(tmp_path_factory.getbasetemp() / "data"),
        seeds="5-6",
        keep_weights="3,20",
    )
    experiment = prepared(**settings)
    trainer = Trainer(experiment.track, experiment.data_root)
    layout, scorer = CheckpointLayout.from_model(trainer.model), Scorer.for_experiment(experiment, trainer.model)
    checkpoints = []
    for checkpoint in trainer.train(5, experiment.published_steps):
        data = layout.pack(trainer.model, checkpoint.state.tied)
        checkpoints.append(
            (checkpoint.step, data, checkpoint.state, checkpoint.records, scorer.score(checkpoint.state))
        )
    return experiment, layout, checkpoints


@pytest.fixture
def job(trained, tmp_path):
    """A dispatcher on a fresh dataset, and a way to publish the n-th checkpoint for an attempt."""
    experiment, layout, checkpoints = trained
    dataset = open_dataset(experiment, RunConfig(output=str(tmp_path / "set")))
    pool = LocalPool(experiment)
    dispatcher = Dispatcher(a_job(experiment, [5, 6]), dataset, pool)

    def publish(lease, number, data="right", expected=None, stall_s=0.0):
        step, right, state, records, _ = checkpoints[number]
        header = CheckpointHeader(
            seed=lease.seed,
            attempt=lease.attempt,
            step=step,
            layout=layout.fingerprint,
            state=state,
            num_bytes=right.nbytes,
        )
        references = [right if isinstance(data, str) else data]
        return dispatcher.publish(header, references, records, expected, stall_s)

    return dispatcher, publish, checkpoints, dataset


async def finish(dispatcher, publish, checkpoints, lease):
    for number in range(len(checkpoints)):
        assert await publish(lease, number) is None
    return await dispatcher.finish(lease.attempt, [], 0.0)


def test_a_seed_is_committed_whole_and_equals_the_trainers_losses(job):
    dispatcher, publish, checkpoints, dataset = job

    async def scenario():
        await dispatcher.enter("g", "node")
        for seed in (5, 6):
            lease = await dispatcher.lease("g")
            assert (lease.order, lease.seed) == ("train", seed)
            assert await finish(dispatcher, publish, checkpoints, lease) is None
        assert (await dispatcher.lease("g")).order == "stop"
        return await dispatcher.progress(0)

    progress = asyncio.run(scenario())
    assert progress.done
    assert progress.committed == 2
    assert progress.in_flight == 0
    assert (progress.counts.published, progress.counts.checkpoints, sum(progress.counts.ages)) == (8, 8, 8)
    assert (progress.counts.updates, progress.training) == (2 * 20, [])
    windows = Counter()
    for step in range(20):
        state = forward_state(QUICK, step)
        windows[state.short_window, state.long_window] += 2 * step_settings(QUICK.schedule, step).batch_tokens
    flop = sum(flop_per_token(QUICK.model, *pair) * tokens for pair, tokens in windows.items())
    assert (progress.counts.tokens, progress.counts.flop) == (windows.total(), flop) and len(windows) > 1
    files = [path for folder in ("losses", "runs") for path in (Path(dataset.uri) / folder).iterdir()]
    assert progress.counts.bytes_committed == sum(path.stat().st_size for path in files) > 0
    reader = open_reader(dataset.storage.uri)
    assert reader.seeds == [5, 6]
    assert reader.steps == [0, 3, 11, 20]
    ours = np.concatenate([reader.losses(d.name, seeds=[5])[0] for d in reader.documents], axis=1)
    theirs = np.stack([losses for step, *_, losses in checkpoints if step in reader.steps])
    assert np.array_equal(ours.view(np.uint32), theirs.view(np.uint32))
    runs = reader.runs(5).to_pydict()
    assert runs["step"] == list(range(21))
    validated = [step for step, loss in zip(runs["step"], runs["val_loss"], strict=True) if loss is not None]
    assert validated == [0, 10, 20]
    assert runs["train_loss"][0] is None
    assert all(loss > 0 for loss in runs["train_loss"][1:])
    assert verify(dataset.storage.uri) == []
    kept = sorted(Path(dataset.storage.uri, "weights").rglob("*.safetensors"))
    assert [path.name for path in kept] == 2 * ["step=000003.safetensors", "step=000020.safetensors"]
    with safe_open(kept[1], "pt") as weights:
        assert weights.metadata()["attempt"] == dataset.committed()[5].attempt
        data, state = next((data, state) for step, data, state, *_ in checkpoints if step == 20)
        named = {slot.name: slot for slot in dispatcher.pool.evaluator.scorer.model.layout}
        assert set(weights.keys()) == set(named)
        slot = named["blocks.2.attn.qkvo_w"]
        expected = np.frombuffer(data, np.float32, slot.numel, 4 * slot.offset).reshape(slot.shape)
        assert np.array_equal(weights.get_tensor(slot.name).numpy(), expected)
        assert json.loads(weights.metadata()["state"])["tied"] is state.tied is False


def test_rows_of_an_attempt_that_is_over_are_dropped(job):
    dispatcher, publish, checkpoints, dataset = job

    async def scenario():
        await dispatcher.enter("g", "node")
        first = await dispatcher.lease("g")
        assert await publish(first, 0) is None
        await dispatcher.enter("g", "node")  # the trainer's processes died and are back
        second = await dispatcher.lease("g")
        assert second.seed == first.seed
        assert second.attempt != first.attempt
        assert "is over" in await publish(first, 1)
        assert "is over" in await dispatcher.finish(first.attempt, [], 0.0)
        assert await finish(dispatcher, publish, checkpoints, second) is None
        return second

    second = asyncio.run(scenario())
    assert dataset.committed()[5].attempt == second.attempt
    assert verify(dataset.storage.uri) == []


def test_a_row_under_way_when_its_attempt_ends_is_not_counted(job):
    dispatcher, publish, _, dataset = job

    async def scenario():
        await dispatcher.enter("g", "node")
        lease = await dispatcher.lease("g")
        dispatcher.pool.gate.clear()
        under_way = asyncio.ensure_future(publish(lease, 1))
        await asyncio.sleep(0)
        await dispatcher.fail(lease.attempt, "rank 1: died")
        dispatcher.pool.gate.set()
        assert "is over" in await under_way
        progress = await dispatcher.progress(0)
        assert (progress.counts.checkpoints, progress.in_flight, progress.waiting) == (0, 0, 2)

    asyncio.run(scenario())
    assert dataset.committed() == {}


def test_waits_and_losses_are_known_while_a_seed_trains_and_waits_outlive_its_attempt(job):
    dispatcher, publish, checkpoints, _ = job

    async def scenario():
        await dispatcher.enter("g", "node")
        lost = await dispatcher.lease("g")
        for number, stall_s in enumerate((0.5, 2.0, 0.7)):  # of three ranks: the others wait for the slowest
            assert await publish(lost, number, stall_s=stall_s) is None
        newest = max(checkpoints[2][3], key=lambda record: record["step"])
        progress = await dispatcher.progress(0)
        assert (progress.counts.stall_s, progress.counts.updates) == (2.0, 10)  # the newest is still on the device
        assert [one.train_loss for one in progress.training] == [newest["train_loss"]]
        await dispatcher.fail(lost.attempt, "rank 1: died")
        lease = await dispatcher.lease("g")
        for number in range(len(checkpoints)):
            assert await publish(lease, number, stall_s=1.0) is None
        progress = await dispatcher.progress(0)
        assert (progress.counts.stall_s, progress.counts.updates) == (3.0, 30)
        assert await dispatcher.finish(lease.attempt, [], 1.5) is None
        progress = await dispatcher.progress(0)
        assert (progress.counts.stall_s, progress.counts.updates, progress.training) == (3.5, 30, [])

    asyncio.run(scenario())


def test_a_seed_keeps_the_libraries_with_which_it_was_trained_and_scored(job):
    dispatcher, publish, checkpoints, dataset = job
    library, moved = ({"source": f"owner/name@{digit * 40}", "sha256": digit * 64} for digit in "01")

    async def scenario():
        await dispatcher.enter("g", "node")
        for given, scorers in ((None, []), (library, [library, moved])):
            dispatcher.pool.libraries = scorers
            lease = await dispatcher.lease("g")
            for number in range(len(checkpoints)):
                assert await publish(lease, number) is None
            assert await dispatcher.finish(lease.attempt, [], 0.0, given) is None

    asyncio.run(scenario())
    reader = open_reader(dataset.storage)
    without, with_both = (reader.runs(seed) for seed in (5, 6))
    assert without.schema.metadata is None and trainers_library(without) is None
    kept = json.loads(with_both.schema.metadata[LIBRARIES])
    assert kept == {"flash_attention_3": {"trainer": library, "evaluators": [library, moved]}}
    again = with_libraries(with_both, trainers_library(with_both), [moved])  # as a rescoring does
    assert json.loads(again.schema.metadata[LIBRARIES])["flash_attention_3"] == {
        "trainer": library,
        "evaluators": [moved],
    }
    assert verify(dataset.storage) == []


def test_an_attempt_with_a_missing_row_is_not_committed(job):
    dispatcher, publish, _, dataset = job

    async def scenario():
        await dispatcher.enter("g", "node")
        lease = await dispatcher.lease("g")
        assert await publish(lease, 0) is None
        reason = await dispatcher.finish(lease.attempt, [], 0.0)
        assert reason
        assert (await dispatcher.progress(0)).waiting == 2

    asyncio.run(scenario())
    assert dataset.committed() == {}


def test_verification_names_step_document_token_and_both_values(job):
    dispatcher, publish, checkpoints, dataset = job
    step, data, _, _, expected = checkpoints[-1]
    corrupted = data.copy()
    slot = next(slot for slot in dispatcher.pool.evaluator.scorer.model.layout if slot.name == "blocks.0.mlp.c_fc")
    corrupted[4 * slot.offset + 3] ^= 0x04  # one exponent bit of one weight

    async def scenario():
        await dispatcher.enter("g", "node")
        lease = await dispatcher.lease("g")
        assert await publish(lease, -1, expected=expected) is None
        return await publish(lease, -1, data=corrupted, expected=expected)

    reason = asyncio.run(scenario())
    assert f"step {step}" in reason
    assert "document " in reason
    assert "token " in reason
    assert "!=" in reason
    assert dataset.committed() == {}


def test_a_lost_checkpoint_ends_its_attempt_and_the_seed_is_trained_again(job):
    dispatcher, publish, checkpoints, _ = job

    async def scenario():
        await dispatcher.enter("g", "node")
        lease = await dispatcher.lease("g")
        assert "gone" in await publish(lease, 0, data=None)
        again = await dispatcher.lease("g")
        assert again.seed == lease.seed
        assert await finish(dispatcher, publish, checkpoints, again) is None

    asyncio.run(scenario())


def test_three_failed_attempts_fail_the_seed_and_the_others_go_on(job):
    dispatcher, publish, checkpoints, dataset = job

    async def scenario():
        await dispatcher.enter("g", "node")
        for _ in range(3):
            lease = await dispatcher.lease("g")
            assert lease.seed == 5
            await dispatcher.fail(lease.attempt, "the training loss is nan in the update to step 3")
        lease = await dispatcher.lease("g")
        assert lease.seed == 6
        assert await finish(dispatcher, publish, checkpoints, lease) is None
        assert (await dispatcher.lease("g")).order == "stop"
        return await dispatcher.progress(0)

    progress = asyncio.run(scenario())
    assert progress.done
    assert progress.failed == {5: "the training loss is nan in the update to step 3"}
    assert list(dataset.committed()) == [6]


def test_a_trainer_that_fails_three_times_in_a_row_is_given_up(job):
    dispatcher, *_ = job

    async def scenario():
        await dispatcher.enter("g", "node")
        for _ in range(3):
            assert (await dispatcher.lease("g")).order == "train"
            await dispatcher.enter("g", "node")
        assert (await dispatcher.lease("g")).order == "stop"
        await dispatcher.trouble("g", 4, "rank 1: ShardError: no shard matches")
        assert not await dispatcher.enter("g", "node")  # told to leave before it builds anything
        assert not await dispatcher.leave("g", "")
        return await dispatcher.progress(0)

    progress = asyncio.run(scenario())
    assert "4 failures in a row, the last: rank 1: ShardError: no shard matches" in progress.trainers_ended["g"]


def test_a_full_disk_delays_a_commit_and_loses_nothing(job, monkeypatch):
    dispatcher, publish, checkpoints, dataset = job
    monkeypatch.setattr("discreteness.service.dispatcher.COMMIT_RETRY_S", 0.01)
    real, failures = dataset.commit, []

    def commit(*arguments):
        if len(failures) < 3:
            failures.append(1)
            raise OSError(28, "No space left on device")
        return real(*arguments)

    monkeypatch.setattr(dataset, "commit", commit)

    async def scenario():
        await dispatcher.enter("g", "node")
        lease = await dispatcher.lease("g")
        assert await finish(dispatcher, publish, checkpoints, lease) is None
        return await dispatcher.progress(0)

    progress = asyncio.run(scenario())
    assert sum("cannot be written yet" in event.message for event in progress.events) == 3
    assert list(dataset.committed()) == [5]


def test_a_second_trainer_waits_while_the_first_may_still_give_its_seed_back(job, monkeypatch):
    dispatcher, *_ = job
    monkeypatch.setattr("discreteness.service.dispatcher.LEASE_POLL_S", 0.05)

    async def scenario():
        for trainer in ("a", "b", "c"):
            await dispatcher.enter(trainer, "node")
        first, second = await dispatcher.lease("a"), await dispatcher.lease("b")
        assert (first.seed, second.seed) == (5, 6)
        assert (await dispatcher.lease("c")).order == "wait"
        waiting = asyncio.ensure_future(dispatcher.lease("c"))
        await asyncio.sleep(0)
        await dispatcher.fail(second.attempt, "died")
        third = await waiting
        assert (third.order, third.seed) == ("train", 6)

    asyncio.run(scenario())


def test_one_failed_fit_counts_once_and_the_trainer_may_come_back(job):
    dispatcher, *_ = job

    async def scenario():
        for _ in range(2):
            await dispatcher.enter("g", "node")
            assert await dispatcher.leave("g", "the controller died")
        assert await dispatcher.enter("g", "node")
        assert not await dispatcher.leave("never placed", "no room within 5 s")
        return dispatcher.ledger.trainers["g"].failures

    assert asyncio.run(scenario()) == 2


def test_what_a_preempted_machine_ends_is_no_failure(job):
    dispatcher, publish, checkpoints, dataset = job

    async def scenario():
        for number in range(4):  # more often than a seed or a trainer may fail
            assert await dispatcher.enter("g", f"node-{number}")
            lease = await dispatcher.lease("g")
            assert (lease.order, lease.seed) == ("train", 5)
            assert await publish(lease, 0) is None
            await dispatcher.preempted("g")
            if number % 2:  # the checkpoint's owner is missed first
                assert "the owner is gone" in await publish(lease, 1, data=None)
            if number > 1:  # its fit() ended, in order or not; before, Ray Train restarted its processes by itself
                assert await dispatcher.leave("g", "the machine is gone" if number == 2 else "")
        await dispatcher.enter("g", "node-4")
        assert "over" in await publish(lease, 2)
        lease = await dispatcher.lease("g")
        await dispatcher.preempted("g")  # time enough to end its seed
        assert await finish(dispatcher, publish, checkpoints, lease) is None
        assert await dispatcher.leave("g", "")
        await dispatcher.enter("g", "node-5")
        assert await finish(dispatcher, publish, checkpoints, await dispatcher.lease("g")) is None
        await dispatcher.preempted("g")
        assert not await dispatcher.leave("g", "")  # nothing is left to train
        return await dispatcher.progress(0)

    progress = asyncio.run(scenario())
    assert (progress.committed, progress.failed, progress.counts.attempts_lost) == (2, {}, 4)
    assert dispatcher.ledger.lost == {5: 0, 6: 0} and dispatcher.ledger.trainers["g"].failures == 0
    assert progress.trainers_ended == {"g": ""}
    assert status_of(dataset.storage).failed_attempts == ()
    events = [json.loads(path.read_text()) for path in Path(dataset.storage.uri, "log").glob("*.json")]
    lost = [event["preempted"] for event in events if event["event"] == "attempt lost"]
    assert sorted(lost) == 2 * ["g: its machine was taken away"] + 2 * ["the owner is gone"]


def test_a_lease_asked_by_processes_that_have_died_is_not_granted(job, monkeypatch):
    dispatcher, *_ = job
    monkeypatch.setattr("discreteness.service.dispatcher.LEASE_POLL_S", 5)

    async def scenario():
        for trainer in ("a", "b", "c"):
            await dispatcher.enter(trainer, "node")
        await dispatcher.lease("a")
        second = await dispatcher.lease("b")
        ghost = asyncio.ensure_future(dispatcher.lease("c"))
        await asyncio.sleep(0)
        await dispatcher.enter("c", "node")
        alive = asyncio.ensure_future(dispatcher.lease("c"))
        await asyncio.sleep(0)
        await dispatcher.fail(second.attempt, "died")
        assert (await ghost).order == "stop"
        assert (await alive).seed == 6

    asyncio.run(scenario())


def test_a_trainer_that_dies_during_its_commit_loses_nothing(job, monkeypatch):
    dispatcher, publish, checkpoints, dataset = job
    real = dataset.commit

    def slow_commit(*arguments):
        time.sleep(0.3)
        return real(*arguments)

    monkeypatch.setattr(dataset, "commit", slow_commit)

    async def scenario():
        await dispatcher.enter("g", "node")
        lease = await dispatcher.lease("g")
        committing = asyncio.ensure_future(finish(dispatcher, publish, checkpoints, lease))
        while not dispatcher.ledger.attempts[lease.attempt].committing:
            await asyncio.sleep(0.01)
        await dispatcher.enter("g", "node")
        assert await committing is None
        return await dispatcher.progress(0)

    progress = asyncio.run(scenario())
    assert (progress.committed, progress.waiting, progress.failed, progress.counts.attempts_lost) == (1, 1, {}, 0)
    assert list(dataset.committed()) == [5]


def test_signs_of_life_carry_records_and_no_rows(job):
    dispatcher, *_ = job

    async def scenario():
        await dispatcher.enter("g", "node")
        lease = await dispatcher.lease("g")
        before = dispatcher.ledger.attempts[lease.attempt].heard_s
        await asyncio.sleep(0.01)
        await dispatcher.hear(lease.attempt, 9, [{"step": 9, "train_loss": 3.5}])
        attempt = dispatcher.ledger.attempts[lease.attempt]
        assert attempt.heard_s > before
        assert attempt.newest_step == 9
        assert attempt.rows.records[9]["train_loss"] == 3.5
        assert attempt.rows.losses == {}

    asyncio.run(scenario())


def read_once(path):
    """By one opening: it is replaced while it is read."""
    return pq.ParquetFile(pa.BufferReader(path.read_bytes())).read()


def test_rows_of_a_running_seed_are_shown_until_it_is_committed(job, monkeypatch):
    dispatcher, publish, checkpoints, dataset = job
    monkeypatch.setattr("discreteness.service.dispatcher.WATCH_S", 0.01)
    shown = Path(dataset.storage.uri, "_running", "seed=00005.parquet")

    async def scenario():
        await dispatcher.enter("g", "node")
        lease = await dispatcher.lease("g")
        assert await publish(lease, 0) is None
        assert await publish(lease, 1) is None
        while not shown.exists() or len(set(read_once(shown)["step"].to_pylist())) < 2:
            await asyncio.sleep(0.01)
        rows = read_once(shown).sort_by([("step", "ascending"), ("doc_id", "ascending")])
        losses = np.concatenate(rows["losses"].to_numpy())
        expected = np.concatenate([losses for *_, losses in checkpoints[:2]])
        assert np.array_equal(losses.view(np.uint32), expected.view(np.uint32))
        for number in range(2, len(checkpoints)):
            assert await publish(lease, number) is None
        assert await dispatcher.finish(lease.attempt, [], 0.0) is None
        await asyncio.sleep(0.1)

    asyncio.run(scenario())
    assert not shown.exists()


def test_silence_is_noticed_while_rows_are_being_written(job, monkeypatch):
    dispatcher, publish, _, dataset = job
    monkeypatch.setattr("discreteness.service.dispatcher.WATCH_S", 0.01)
    monkeypatch.setattr("discreteness.service.dispatcher.LEASE_DEADLINE_S", 0.2)
    ended = threading.Event()
    real, writing = dataset.write_running, threading.Event()

    def slow_write(*arguments):
        writing.set()
        assert ended.wait(60)
        real(*arguments)

    monkeypatch.setattr(dataset, "write_running", slow_write)

    async def scenario():
        await dispatcher.enter("g", "node")
        lease = await dispatcher.lease("g")
        assert await publish(lease, 0) is None
        while dispatcher.ledger.attempts:
            await asyncio.sleep(0.01)
        assert writing.is_set()
        ended.set()
        assert "is over" in await publish(lease, 1)
        return await dispatcher.progress(0)

    progress = asyncio.run(scenario())
    assert (progress.waiting, progress.counts.attempts_lost) == (2, 1)
    assert any("g sent nothing for 0.2 s" in event.message for event in progress.events)


def test_a_silent_trainer_loses_its_seed_and_its_processes(job, monkeypatch):
    """Hung where no collective times out, or while it builds its trainer: it would hold its machine for ever."""
    dispatcher, publish, checkpoints, _ = job
    monkeypatch.setattr("discreteness.service.dispatcher.WATCH_S", 0.01)
    monkeypatch.setattr("discreteness.service.dispatcher.LEASE_DEADLINE_S", 0.3)
    ended = []

    async def scenario():
        await dispatcher.enter("hung", "node", lambda: ended.append("hung"))
        lease = await dispatcher.lease("hung")
        await dispatcher.enter("building", "node", lambda: ended.append("building"))
        while dispatcher.ledger.attempts or len(ended) < 2:
            await asyncio.sleep(0.01)
        monkeypatch.setattr("discreteness.service.dispatcher.LEASE_DEADLINE_S", 60)
        await dispatcher.enter("hung", "node", lambda: ended.append("again"))
        again = await dispatcher.lease("hung")
        assert again.seed == lease.seed
        dispatcher.ledger.trainers["hung"].heard_s -= 1000  # as long as it speaks it is left alone
        for number in range(len(checkpoints)):
            dispatcher.ledger.attempts[again.attempt].heard_s -= 40
            await asyncio.sleep(0.05)
            assert await publish(again, number) is None
        assert await dispatcher.finish(again.attempt, [], 0.0) is None
        await asyncio.sleep(0.05)  # and until it asks for its next seed
        return await dispatcher.progress(0)

    progress = asyncio.run(scenario())
    assert sorted(ended) == ["building", "hung"]
    assert (progress.committed, progress.counts.attempts_lost) == (1, 1)
    assert "hung failed: it sent nothing for 0.3 s and was ended" in [event.message for event in progress.events]


def test_a_rejected_attempts_trainer_is_not_taken_for_silent(job, monkeypatch):
    """It trains on until its next checkpoint, however long ago it asked for work."""
    dispatcher, *_ = job
    monkeypatch.setattr("discreteness.service.dispatcher.WATCH_S", 0.01)
    ended = []

    async def scenario():
        await dispatcher.enter("g", "node", lambda: ended.append("g"))
        lease = await dispatcher.lease("g")
        dispatcher.ledger.trainers["g"].heard_s -= 2 * LEASE_DEADLINE_S
        await dispatcher.fail(lease.attempt, "a checkpoint was lost")
        await asyncio.sleep(0.1)

    asyncio.run(scenario())
    assert ended == []


def test_validation_that_does_not_come_ends_the_attempt_and_says_so(job, monkeypatch):
    dispatcher, publish, checkpoints, dataset = job
    monkeypatch.setattr("discreteness.service.dispatcher.TAIL_PATIENCE_S", 0.2)

    async def never(*arguments):
        await asyncio.sleep(60)

    monkeypatch.setattr(dispatcher.pool, "validate", never)

    async def scenario():
        await dispatcher.enter("g", "node")
        lease = await dispatcher.lease("g")
        assert "is over" in await finish(dispatcher, publish, checkpoints, lease)
        return await dispatcher.progress(0)

    progress = asyncio.run(scenario())
    assert any("its validation losses did not come within 0.2 s" in event.message for event in progress.events)
    assert (progress.waiting, progress.counts.attempts_lost) == (2, 1)
    assert dataset.committed() == {}


def test_a_disk_that_hangs_does_not_hold_the_control_path(job, monkeypatch):
    dispatcher, *_, dataset = job
    hangs = threading.Event()
    monkeypatch.setattr(dataset, "log", lambda event: hangs.wait(60))
    monkeypatch.setattr(dataset, "remove_running", lambda seed: hangs.wait(60))

    async def scenario():
        await dispatcher.enter("g", "node")
        for _ in range(3):
            lease = await dispatcher.lease("g")
            await dispatcher.fail(lease.attempt, "died")
        progress = await dispatcher.progress(0)
        hangs.set()
        return progress

    assert asyncio.run(scenario()).failed == {5: "died"}


def test_no_evaluator_left_ends_every_trainer_with_the_reason(job):
    dispatcher, *_ = job

    async def scenario():
        await dispatcher.enter("g", "node")
        lease = await dispatcher.lease("g")
        dispatcher.pool.given_up = "no evaluator can start: no device"
        await dispatcher.fail(lease.attempt, dispatcher.pool.given_up)
        assert (await dispatcher.lease("g")).order == "stop"
        assert not await dispatcher.leave("g", "")
        return await dispatcher.progress(0)

    assert asyncio.run(scenario()).trainers_ended == {"g": "no evaluator can start: no device"}
