"""A series on real Ray, its evaluator and its driver killed on the way: the bits of an inline run."""

import os
import signal
from contextlib import contextmanager
from types import SimpleNamespace

import pytest

import discreteness
from discreteness.dataset.verify import verify
from discreteness.service.inline_series import score_series_inline
from tests.conftest import ROOT, Program
from tests.support.processes import descendants, gone, named
from tests.support.series_case import STEPS, held_back, series_config, write_series, write_texts

pytestmark = [pytest.mark.ray, pytest.mark.slow]

MODELS = 3


def attempts(dataset):
    return {seed: dataset.runs(seed)["attempt"][0].as_py() for seed in dataset.seeds}


@contextmanager
def started(command, log, model):
    """The command, whose last checkpoint of `model` cannot be read as long as the context lasts."""
    job = Program(list(map(str, command)), log)
    job.wait_for("starting Ray on this machine")
    with held_back(model / f"checkpoint-{STEPS[-1]}/model.safetensors", log.with_suffix(".gate")):
        yield job


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The same models inline, and on Ray by two commands: the first is killed, the second loses its evaluator."""
    folder = tmp_path_factory.mktemp("series")
    write_series(folder / "models", models=MODELS)
    write_texts(folder / "texts")
    models = f"{folder}/models/seed-*"
    assert score_series_inline(series_config(folder, models=(models,), output=str(folder / "inline"))) == 0
    command = [ROOT / "jobs/score_checkpoints.py", "--models", models, "--documents", folder / "texts"]
    command += ["--output", folder / "set", "--models-at-once", 1, "--evaluators", 1, "--device", "cpu"]
    # However busy the machine: model 1 cannot be read to its end before the driver is killed, nor model 2 before the
    # evaluator is. The files are held back once they are listed.
    with started(command, folder / "killed.txt", folder / "models/seed-1") as killed:
        killed.wait_for(f"seed 0 ({folder}/models/seed-0) committed: {len(STEPS)} checkpoints")
        children = descendants(killed.process.pid)
        os.kill(killed.process.pid, signal.SIGKILL)
        assert killed.wait() == -signal.SIGKILL and not gone(children)
    before = attempts(discreteness.open(str(folder / "set")))
    with started(command, folder / "completed.txt", folder / "models/seed-2") as completed:
        completed.wait_for("evaluator 0 ready")
        os.kill(named(completed.process.pid, "ray::Evaluator")[0], signal.SIGKILL)
    assert completed.wait() == 0, completed.output
    return SimpleNamespace(folder=folder, before=before, output=completed.output)


def test_every_model_is_committed_to_the_bit_of_the_inline_run(runs):
    inline, ours = (discreteness.open(str(runs.folder / name)) for name in ("inline", "set"))
    assert ours.seeds == list(range(MODELS)) and ours.steps == list(STEPS)
    assert ours.names == inline.names
    for seed in ours.seeds:
        assert ours.seed(seed).tobytes() == inline.seed(seed).tobytes()
        for column in "step", "checkpoint", "weights":
            assert ours.runs(seed)[column].to_pylist() == inline.runs(seed)[column].to_pylist()
    assert ours.experiment["identity_hash"] == inline.experiment["identity_hash"]
    assert verify(str(runs.folder / "set")) == []


def test_what_the_killed_driver_had_committed_is_not_scored_again_and_no_attempt_is_lost(runs):
    dataset = discreteness.open(str(runs.folder / "set"))
    assert list(runs.before) == [0]
    assert runs.before.items() <= attempts(dataset).items()
    assert f"{len(runs.before)} of {MODELS} seeds are committed already" in runs.output
    assert "evaluator 0 lost" in runs.output and "attempts lost 0; evaluators lost 1" in runs.output
