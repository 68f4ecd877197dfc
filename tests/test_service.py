"""The whole job with its real parts: Ray, Ray Train, evaluator actors, object store, dataset."""

import json
import os
import re
import signal
import time

import numpy as np
import pytest

from discreteness.cli import Status
from discreteness.problems import verify
from discreteness.reading import open as open_reader
from discreteness.status import status
from tests.processes import descendants, gone, named

pytestmark = [pytest.mark.ray, pytest.mark.slow]

COMMON = ["--track", "tests.quick_track:quick", "--checkpoints", "every:2"]
SERVICE = ["jobs/run_seeds.py", *COMMON, "--workers-per-trainer", 2, "--trainers", 1, "--evaluators", 1]


def all_losses(path, seeds):
    reader = open_reader(str(path))
    return np.concatenate(
        [reader.losses(d.name, seeds=seeds).reshape(len(seeds), -1) for d in reader.documents], axis=1
    )


@pytest.fixture(scope="module")
def truth(tmp_path_factory, private_home):
    """Seeds 0 to 2 trained and scored in the loop, by torchrun with the same world size, without Ray."""
    from tests.conftest import Program

    folder = tmp_path_factory.mktemp("inline")
    arguments = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m", "discreteness"]
    arguments += ["run", "--inline", *COMMON, "--seeds", "0-2", "--output", folder / "set"]
    inline = Program(list(map(str, arguments)), folder / "output.txt")
    assert inline.wait() == 0, inline.output
    assert verify(str(folder / "set")) == []
    return folder / "set"


def test_streamed_losses_equal_the_inline_runs_bitwise(program, truth, tmp_path):
    job = program(
        *SERVICE, "--seeds", "0-1", "--verify-every", 1, "--keep-weights", "last", "--output", tmp_path / "set"
    )
    assert job.wait() == 0, job.output
    assert verify(str(tmp_path / "set")) == []
    ours, theirs = all_losses(tmp_path / "set", [0, 1]), all_losses(truth, [0, 1])
    assert np.array_equal(ours.view(np.uint32), theirs.view(np.uint32))
    runs, inline_runs = (open_reader(str(path)).runs(1).to_pydict() for path in (tmp_path / "set", truth))
    for name in ("step", "train_loss", "val_loss", "lr_multiplier", "long_window"):
        assert runs[name] == inline_runs[name], name
    assert "checkpoints scored 22" in job.output
    # A finished experiment: nothing to do; then one more seed.
    again = program(*SERVICE, "--seeds", "0-1", "--output", tmp_path / "set")
    assert again.wait() == 0, again.output
    assert "nothing to do" in again.output
    more = program(*SERVICE, "--seeds", "0-2", "--output", tmp_path / "set")
    assert more.wait() == 0, more.output
    assert "2 of 3 seeds are committed already" in more.output
    assert np.array_equal(all_losses(tmp_path / "set", [0, 1, 2]), all_losses(truth, [0, 1, 2]))


def test_whatever_ends_the_driver_the_same_command_completes_the_experiment(program, truth, tmp_path):
    seen = {}
    for signum, moment in (
        (signal.SIGTERM, "seed 0 leased"),  # Ctrl-C goes the same way
        (signal.SIGKILL, "seed 0 committed"),
    ):
        job = program(*SERVICE, "--seeds", "0-2", "--output", tmp_path / "set")
        job.wait_for(moment)
        time.sleep(0.5)
        children = descendants(job.process.pid)
        os.kill(job.process.pid, signum)
        code = job.wait(60)
        assert code == (-9 if signum == signal.SIGKILL else 128 + signum), job.output
        # After SIGKILL two of Ray's own agents notice within about a minute that their node is gone.
        left = gone(children, timeout_s=120 if signum == signal.SIGKILL else 30)
        assert left == [], {pid: children[pid] for pid in left}
        if signum != signal.SIGKILL:
            assert "the same command goes on from there" in job.output
        for seed, committed in {s.seed: s.attempt for s in status(str(tmp_path / "set")).committed}.items():
            assert seen.setdefault(seed, committed) == committed  # never trained again
    assert 0 in seen
    job = program(*SERVICE, "--seeds", "0-2", "--output", tmp_path / "set")
    assert job.wait() == 0, job.output
    committed = {s.seed: s.attempt for s in status(str(tmp_path / "set")).committed}
    assert all(committed[seed] == attempt for seed, attempt in seen.items())
    assert verify(str(tmp_path / "set")) == []
    assert np.array_equal(all_losses(tmp_path / "set", [0, 1, 2]), all_losses(truth, [0, 1, 2]))


def test_a_killed_evaluator_costs_nothing_and_a_killed_worker_one_attempt(program, truth, tmp_path):
    job = program(*SERVICE, "--seeds", "0-2", "--output", tmp_path / "set")
    job.wait_for("evaluator 0 ready")
    os.kill(named(job.process.pid, "ray::Evaluator")[0], signal.SIGKILL)
    job.wait_for("evaluator 0 lost")
    job.wait_for("seed 0 committed")
    job.wait_for("seed 1 leased")
    os.kill(named(job.process.pid, "ray::RayTrainWorker")[1], signal.SIGKILL)
    assert job.wait() == 0, job.output
    assert "attempts lost 1; evaluators lost 1" in job.output
    assert job.output.count("seed 0 leased") == 1
    assert job.output.count("seed 1 leased") == 2
    state = status(str(tmp_path / "set"))
    assert [event["seed"] for event in state.failed_attempts] == [1]
    assert verify(str(tmp_path / "set")) == []
    assert np.array_equal(all_losses(tmp_path / "set", [0, 1, 2]), all_losses(truth, [0, 1, 2]))


def test_a_seed_that_always_fails_ends_the_job_with_its_reason(program, tmp_path, capsys):
    arguments = [
        "jobs/run_seeds.py",
        "--track",
        "tests.quick_track:poisoned",
        "--checkpoints",
        "every:5",
        "--seeds",
        "4",
    ]
    job = program(*arguments, "--max-attempts", 2, "--log-format", "json", "--output", tmp_path / "set")
    assert job.wait() == 1, job.output
    assert "seed 4 FAILED: the training loss is" in job.output
    told = [json.loads(line) for line in job.output.splitlines() if line.startswith("{")]  # Ray's are on stderr
    attempts = [event["attempt"] for event in told if event["event"] == "seed leased"]
    assert len(set(attempts)) == 2
    lost, failed = (event for event in told if event["event"] in ("attempt lost", "seed failed") and "attempt" in event)
    assert [lost["attempt"], failed["attempt"]] == attempts
    assert (failed["level"], failed["seed"], failed["group"]) == ("error", 4, "trainer-0")
    assert len(status(str(tmp_path / "set")).failed_attempts) == 2
    assert status(str(tmp_path / "set")).committed == ()
    Status(str(tmp_path / "set"))()
    shown = capsys.readouterr().out
    assert len(re.findall(r"lost attempt \w+ of seed 4: the training loss is", shown)) == 2
