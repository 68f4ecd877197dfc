"""The inline run: what a seed's rows are, seeds that fail, seeds that are there."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from speedrun.model.gpt import GPT
from speedrun.training import SeedFailed, Trainer

from discreteness.checkpoint.layout import CheckpointLayout
from discreteness.checkpoint.safetensors_file import WeightsFormat
from discreteness.cluster.machines import Cluster, Node
from discreteness.dataset.lock import DatasetLock, LockHeld
from discreteness.dataset.reader import open as open_reader
from discreteness.dataset.status import status
from discreteness.dataset.verify import verify
from discreteness.experiment.prepare import open_dataset, prepare
from discreteness.scoring.evaluator import Evaluator
from discreteness.service import inline, speedrun_source
from discreteness.service.log import Log
from discreteness.service.speedrun_pair import SpeedrunPair
from tests.support import skips
from tests.support.brief_track import brief, write_shards
from tests.support.job_case import job_config

LAST = brief.schedule.last_step
STEPS = (0, 3, LAST)
"""Tied, tied, untied. Validation is at 0, 2, 4 and the last."""


class Unlucky(Trainer):
    """Its seed 1 fails at its second checkpoint, on every rank, as a loss that is not finite does."""

    def train(self, seed, plan, validate=False):
        for number, checkpoint in enumerate(super().train(seed, plan, validate)):
            if (seed, number) == (1, 1):
                raise SeedFailed("the training loss is nan")
            yield checkpoint


@pytest.fixture(scope="module")
def config(tmp_path_factory, private_home):
    folder = tmp_path_factory.mktemp("inline")
    (folder / "documents").mkdir()
    (folder / "documents/a.txt").write_text("The sun comes up.")
    (folder / "documents/b.txt").write_text("one two three four five six seven eight nine ten " * 4)
    return job_config(
        track="tests.support.brief_track:brief",
        data=str(write_shards(folder / "shards")),
        documents=str(folder / "documents"),
        checkpoints="0,3,5",
        seeds="0-2",
        keep_weights="0,5",
        output=str(folder / "set"),
    )


@pytest.fixture(scope="module")
def two_jobs(config):
    """(code, events, attempts committed by then) of a job whose seed 1 fails, and of the same command again."""
    jobs = []
    torch.set_num_threads(3)
    for trainer in (Unlucky, Trainer):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(speedrun_source, "Trainer", trainer)
            code = inline.run_inline(config)
        jobs.append((code, {seed.seed: seed.attempt for seed in status(config.run.output).committed}))
    assert torch.get_num_threads() == 1  # sums in one order, whatever the machine
    return jobs


def test_a_failed_seed_makes_the_code_1_and_the_next_one_is_trained(config, two_jobs):
    code, committed = two_jobs[0]
    assert code == 1
    assert set(committed) == {0, 2}
    (lost,) = status(config.run.output).failed_attempts
    assert (lost["seed"], lost["error"]) == (1, "the training loss is nan")
    assert lost["attempt"] not in committed.values()


def test_the_same_command_trains_what_is_missing_and_nothing_else(config, two_jobs):
    (_, before), (code, after) = two_jobs
    assert code == 0
    assert set(after) == {0, 1, 2}
    assert {seed: after[seed] for seed in before} == before
    assert len(set(after.values())) == 3
    assert verify(config.run.output) == []


def test_rows_are_what_an_evaluator_makes_of_the_checkpoints(config, two_jobs):
    """To the bit; with the records of every update, and the validation of the last step under its own window."""
    experiment = prepare(config.experiment, config.run, config.experiment.track)
    trainer, evaluator = Trainer(brief, experiment.data_root), Evaluator(SpeedrunPair(experiment), "cpu")
    layout, reader = CheckpointLayout.from_model(trainer.model), open_reader(config.run.output)
    rows = {name: reader.losses(name, seeds=[2])[0] for name in ("a.txt", "b.txt")}
    runs = {row["step"]: row for row in reader.runs(2).to_pylist()}
    assert reader.steps == list(STEPS)
    assert sorted(runs) == list(range(LAST + 1))
    assert [step for step in sorted(runs) if runs[step]["val_loss"] is not None] == [0, 2, 4, LAST]
    for checkpoint in trainer.train(2, experiment.published_steps, validate=True):
        header = inline.CheckpointHeader(
            seed=2,
            attempt="a",
            step=checkpoint.step,
            layout=layout.fingerprint,
            state=checkpoint.state,
            num_bytes=layout.num_bytes(checkpoint.state.tied),
        )
        data = layout.pack(trainer.model, checkpoint.state.tied)
        for record in checkpoint.records:
            for name in ("train_loss", "batch_tokens", "long_window", "val_loss"):
                assert runs[record["step"]][name] == record.get(name, runs[record["step"]][name])
        means = [evaluator.validate(data, header, chunk) for chunk in range(4)]
        if checkpoint.step in experiment.validation_steps:
            assert runs[checkpoint.step]["val_loss"] == float(np.mean(means))
        if checkpoint.step in STEPS:
            losses = np.concatenate([rows[name][STEPS.index(checkpoint.step)] for name in ("a.txt", "b.txt")])
            assert losses.tobytes() == evaluator.score(data, header).tobytes()


def test_weights_are_kept_at_the_steps_asked_for_with_their_attempt(config, two_jobs):
    for seed, attempt in two_jobs[1][1].items():
        folder = Path(config.run.output) / f"weights/seed={seed:05d}-{attempt}"
        assert sorted(path.name for path in folder.iterdir()) == ["step=000000.safetensors", "step=000005.safetensors"]
        _, header = WeightsFormat(brief).read((folder / "step=000005.safetensors").read_bytes())
        assert (header.seed, header.attempt, header.step, header.state.tied) == (seed, attempt, LAST, False)


def test_a_dataset_that_another_driver_holds_is_not_touched(config, two_jobs):
    with DatasetLock(config.run.output), pytest.raises(LockHeld):
        inline.run_inline(replace(config, run=replace(config.run, seeds="0-7")))
    assert len(status(config.run.output).committed) == 3


class Announced:
    """Stands for the trainer of a rank: notes what it trains; its seed 1 fails."""

    def __init__(self, model=None):
        self.model, self.trained = model, []

    def train(self, seed, plan):
        self.trained.append(seed)
        if seed == 1:
            raise SeedFailed("the training loss is nan")
        yield from ()


def test_the_other_ranks_train_what_rank_0_announces_also_after_a_failed_seed(config, monkeypatch):
    announced = iter([0, 1, 2, -1])
    monkeypatch.setattr(inline, "_announce", lambda trainer, seed: next(announced))
    trainer = Announced()
    assert inline._follow(prepare(config.experiment, config.run, config.experiment.track), trainer) == 0
    assert trainer.trained == [0, 1, 2]


def test_rank_0_announces_each_seed_that_is_missing_and_then_the_end(config, two_jobs, monkeypatch):
    announced = []
    monkeypatch.setattr(inline, "_announce", lambda trainer, seed: announced.append(seed))
    more = replace(config.run, seeds="0-4")
    experiment = prepare(config.experiment, more, config.experiment.track)
    trainer = Announced(GPT(brief.model, torch.float32, "cpu"))
    with Log("text") as log, pytest.raises(ValueError, match="seed 3"):  # which trained nothing: the commit refuses it
        inline._lead(experiment, trainer, open_dataset(experiment, more), DatasetLock(more.output), log)
    assert announced == [3]
    with Log("text") as log:
        experiment = prepare(config.experiment, config.run, config.experiment.track)
        assert (
            inline._lead(experiment, trainer, open_dataset(experiment, config.run), DatasetLock(config.run.output), log)
            == 0
        )
    assert announced == [3, -1]


def test_what_every_seed_would_meet_ends_the_run_with_the_first(config, two_jobs, monkeypatch, capsys):
    announced = []
    monkeypatch.setattr(inline, "_announce", lambda trainer, seed: announced.append(seed))
    more = replace(config.run, seeds="0-9")
    experiment = prepare(config.experiment, more, config.experiment.track)
    trainer = Announced(GPT(brief.model, torch.float32, "cpu"))
    trainer.train = lambda seed, plan: (_ for _ in ()).throw(SeedFailed("documents ran out", "job"))
    with Log("text") as log:
        dataset, lock = open_dataset(experiment, more), DatasetLock(more.output)
        assert inline._lead(experiment, trainer, dataset, lock, log) == 1
    assert announced == [3, -1]
    told = capsys.readouterr().out
    assert "seed 3 FAILED: documents ran out" in told and "seed 4" not in told
    assert "no further seed is trained, as each would meet the same" in told


def test_the_world_size_is_torchruns(config, monkeypatch):
    seen = []
    monkeypatch.setattr(inline, "_run", lambda *arguments: seen.append(arguments) or 0)
    monkeypatch.setenv("WORLD_SIZE", "4")
    inline.run_inline(config)
    assert seen[0][0].workers_per_trainer == 4


@pytest.mark.skipif(torch.cuda.is_available(), reason=skips.NO_GPU)
def test_a_track_for_gpus_is_refused_where_there_is_none(config, monkeypatch):
    experiment = prepare(config.experiment, config.run, config.experiment.track)
    on_gpus = replace(experiment, track=replace(brief, needs_gpu=True))
    monkeypatch.setattr(inline, "prepare", lambda config, run, name: on_gpus)
    with pytest.raises(ValueError, match="it needs a GPU and this machine has none"):
        inline.run_inline(config)


def test_a_track_is_chosen_for_this_machine_as_the_service_chooses_it(config, monkeypatch):
    old = Cluster((Node(16.0, 2.0, "A100", 10**10),), local=True)
    monkeypatch.setattr(inline, "this_machine", lambda: old)
    asked = replace(config, experiment=replace(config.experiment, track="auto"))
    with pytest.raises(ValueError, match=r"--track auto: GPUs are of type \['A100'\], not Hopper; name the track"):
        inline.run_inline(asked)
