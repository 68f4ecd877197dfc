"""The whole job with its real parts: Ray, Ray Train, evaluator actors, object store, dataset, Prometheus.

Starting Ray is most of what these tests cost, so one experiment goes through all that can happen to it, a fixture a
command, and the tests look at what each has left. The inline run says what every loss has to be, to the bit.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import time
import urllib.parse
import urllib.request
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from discreteness.dataset.reader import open as open_reader
from discreteness.dataset.status import status
from discreteness.dataset.verify import verify
from tests.chaos.campaign import TEXTS
from tests.conftest import PATIENCE_S, ROOT, Program, with_ray
from tests.service.test_jobs import free_port
from tests.service.test_metrics import ALERTS, NEEDS_A_GPU, PROMETHEUS, QUERIES, selectors
from tests.support import skips
from tests.support.processes import descendants, gone, named

pytestmark = [pytest.mark.ray, pytest.mark.slow]

SEEDS = range(6)
STEPS = 11
"""Of a seed, with a checkpoint every 2 of 20 updates."""


def all_losses(path, seeds):
    reader = open_reader(str(path))
    return np.concatenate(
        [reader.losses(d.name, seeds=seeds).reshape(len(seeds), -1) for d in reader.documents], axis=1
    )


def attempts(path):
    """{committed seed: its attempt}."""
    return {seed.seed: seed.attempt for seed in status(str(path)).committed}


def lost(path):
    """Seeds of the attempts that are lost so far, in order."""
    return [event["seed"] for event in status(str(path)).failed_attempts]


@pytest.fixture(scope="module")
def folder(tmp_path_factory, private_home):
    """Where everything of this file lies: the documents, the datasets `set` and `truth`, what the programs say."""
    folder = tmp_path_factory.mktemp("service")
    (folder / "documents").mkdir()
    for name, text in TEXTS.items():
        (folder / "documents" / name).write_text(text)
    return folder


def common(folder):
    return [
        "--track",
        "tests.support.quick_track:quick",
        "--checkpoints",
        "every:2",
        "--documents",
        folder / "documents",
    ]


def start(folder, name, *more, **environment):
    """The service on this machine, one trainer of two workers and one evaluator, into the one dataset."""
    arguments = ["jobs/run_seeds.py", *common(folder), "--workers-per-trainer", 2, "--trainers", 1, "--evaluators", 1]
    arguments += ["--output", folder / "set", *more]
    return with_ray(arguments, folder / f"{name}.txt", **environment)


@pytest.fixture(scope="module")
def truth(folder):
    """All seeds trained and scored in the loop, by torchrun with the same world size, without Ray."""
    arguments = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m", "discreteness"]
    arguments += ["run", "--inline", *common(folder), "--seeds", f"0-{SEEDS[-1]}", "--output", folder / "truth"]
    inline = Program(list(map(str, arguments)), folder / "truth.txt")
    assert inline.wait() == 0, inline.output
    assert verify(str(folder / "truth")) == []
    return folder / "truth"


@pytest.fixture(scope="module")
def prometheus(folder):
    """Prometheus, where it is installed, by the files in deploy/ with shorter intervals: a way to ask it, and where
    the Ray that it looks for has to keep its files."""
    rays = Path("/tmp", f"dm{free_port()}")  # short: Ray's sockets lie below it
    rays.mkdir()
    port = free_port()

    def ask(what, **parameters):
        url = f"http://127.0.0.1:{port}/api/v1/{what}?{urllib.parse.urlencode(parameters)}"
        return json.load(urllib.request.urlopen(url, timeout=30))["data"]

    text = (ROOT / "deploy/prometheus/prometheus.yml").read_text()
    (folder / "prometheus.yml").write_text(text.replace("/tmp/ray/", f"{rays}/ray/").replace("10s", "1s"))
    shutil.copy(ALERTS, folder)
    command = [PROMETHEUS, f"--config.file={folder / 'prometheus.yml'}", f"--storage.tsdb.path={folder / 'tsdb'}"]
    command += [f"--web.listen-address=127.0.0.1:{port}"]
    with (folder / "prometheus.txt").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT) if PROMETHEUS else None

    def settle():
        """Until it has seen that the job has ended, which is what one of the alerts is about."""
        deadline_s = time.monotonic() + PATIENCE_S
        while process and ask("query", query="ray_discreteness_seeds")["result"]:
            assert time.monotonic() < deadline_s, "Prometheus still sees the job"
            time.sleep(0.2)

    yield SimpleNamespace(ask=ask, rays=rays, settle=settle)
    if process:
        with suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
        process.wait(30)
    shutil.rmtree(rays, ignore_errors=True)


def ended(folder, name, signum, wait_for, *more, **environment):
    """The command for all seeds, which gets a signal when `wait_for(job)` returns."""
    began_s = time.time()
    job = start(folder, name, "--seeds", f"0-{SEEDS[-1]}", *more, **environment)
    wait_for(job)
    children = descendants(job.process.pid)
    os.kill(job.process.pid, signum)
    code = job.wait()
    left = gone(children)  # after SIGKILL two of Ray's own agents need about a minute to see that their node is gone
    return SimpleNamespace(
        output=job.output,
        code=code,
        left={pid: children[pid] for pid in left},
        attempts=attempts(folder / "set"),
        lost=lost(folder / "set"),
        began_s=began_s,
    )


@pytest.fixture(scope="module")
def stopped(folder, prometheus):
    """Seeds 0 and 1 undisturbed, every checkpoint compared with the trainer's own losses, the last one's weights kept;
    SIGTERM while seed 2 is trained. Ctrl-C goes the same way."""

    def wait_for(job):
        job.wait_for("seed 1 committed")
        job.wait_for("seed 2 leased")
        time.sleep(0.5)

    more = ("--verify-every", 1, "--keep-weights", "last")
    environment = {"RAY_TMPDIR": prometheus.rays, "RAY_metrics_report_interval_ms": 1000}
    stopped = ended(folder, "stopped", signal.SIGTERM, wait_for, *more, **environment)
    prometheus.settle()
    stopped.ended_s = time.time()
    return stopped


@pytest.fixture(scope="module")
def killed(folder, stopped):
    """SIGKILL as soon as a seed more is there: the next ones are not yet."""
    seed = next(seed for seed in SEEDS if seed not in stopped.attempts)
    killed = ended(folder, "killed", signal.SIGKILL, lambda job: job.wait_for(f"seed {seed} committed"))
    killed.seed = seed
    return killed


@pytest.fixture(scope="module")
def completed(folder, killed):
    """The same command once more; its evaluator is killed before it scores, and a worker in the second seed."""
    first, second, *_ = (seed for seed in SEEDS if seed not in killed.attempts)
    before = lost(folder / "set")  # a dispatcher that outlives its driver by a moment sees the workers go
    job = start(folder, "completed", "--seeds", f"0-{SEEDS[-1]}")
    job.wait_for("evaluator 0 ready")
    os.kill(named(job.process.pid, "ray::Evaluator")[0], signal.SIGKILL)
    job.wait_for("evaluator 0 lost")
    job.wait_for(f"seed {first} committed")
    job.wait_for(f"seed {second} leased")
    os.kill(named(job.process.pid, "ray::RayTrainWorker")[1], signal.SIGKILL)
    assert job.wait() == 0, job.output
    now_lost = lost(folder / "set")[len(before) :]
    seen = {"attempts": attempts(folder / "set"), "lost": now_lost}
    return SimpleNamespace(output=job.output, first=first, second=second, **seen)


def test_streamed_losses_equal_the_inline_runs_bitwise(folder, stopped, truth):
    ours, theirs = all_losses(folder / "set", [0, 1]), all_losses(truth, [0, 1])
    assert np.array_equal(ours.view(np.uint32), theirs.view(np.uint32))
    runs, inline_runs = (open_reader(str(path)).runs(1).to_pydict() for path in (folder / "set", truth))
    for name in ("step", "train_loss", "val_loss", "lr_multiplier", "long_window"):
        assert runs[name] == inline_runs[name], name
    for seed, attempt in stopped.attempts.items():
        assert len(list((folder / f"set/weights/seed={seed:05d}-{attempt}").glob("*.safetensors"))) == 1
    assert stopped.lost == []


@pytest.mark.skipif(not PROMETHEUS, reason=skips.PROMETHEUS)
def test_a_real_prometheus_has_an_answer_to_every_query(folder, prometheus, stopped):
    assert (Path.home() / ".ray/auth_token").is_file()  # Ray asks for a token, but not at these ports
    span = {"start": stopped.began_s, "end": stopped.ended_s, "step": "1s"}
    names = set(prometheus.ask("label/__name__/values"))
    silent = []
    for query in QUERIES:
        if NEEDS_A_GPU & {name for name, _ in selectors(query)} - names:
            continue
        query = query.replace("$dataset", str(folder / "set"))
        for name, matchers in selectors(query):
            if not prometheus.ask("query_range", query=name + matchers, **span)["result"]:
                silent.append(name + matchers)
        # What an alert compares is there, whether or not it fires.
        shown = re.sub(r"\s(==|>)\s[\d.]+", "", query).replace("$__rate_interval", "10s")
        if not prometheus.ask("query_range", query=shown, **span)["result"]:
            silent.append(shown)
    assert silent == []
    newest = {}
    last = {"query": 'last_over_time({__name__=~"ray_discreteness.*"}[10m])', "time": stopped.ended_s}
    for series in prometheus.ask("query", **last)["result"]:
        labels = series["metric"]
        name = labels["__name__"].removeprefix("ray_discreteness_")
        newest[name, labels.get("state", labels.get("le"))] = float(series["value"][1])
    # The job's last seconds may be missing: Ray's processes report once a second here, and the driver does not wait.
    assert 20 <= newest["updates_total", None] <= 60
    assert newest["checkpoints_scored_total", None] == newest["checkpoint_age_seconds_bucket", "+Inf"] >= STEPS
    assert newest["rows_committed_total", None] in [seeds * STEPS * len(TEXTS) for seeds in (1, 2, 3)]
    assert newest["attempts_lost_total", None] < 1e-300
    assert newest["evaluator_busy_seconds_total", None] > 0
    assert 0 < newest["stall_seconds_total", None] < stopped.ended_s - stopped.began_s
    assert sum(newest["seeds", state] for state in ("committed", "training", "waiting", "failed")) == len(SEEDS)


def test_whatever_ends_the_driver_the_same_command_goes_on(stopped, killed, completed):
    assert f"{killed.seed} of 6 seeds are committed already" in killed.output
    assert (stopped.code, killed.code) == (128 + signal.SIGTERM, -signal.SIGKILL)
    assert (stopped.left, killed.left) == ({}, {})
    assert "the same command goes on from there" in stopped.output
    assert killed.seed in killed.attempts and len(killed.attempts) < len(SEEDS)
    committed = [stopped.attempts, killed.attempts, completed.attempts]
    for earlier, later in pairwise(committed):
        assert earlier.items() <= later.items()  # what is committed is never trained again


def test_a_killed_evaluator_costs_nothing_and_a_killed_worker_one_attempt(completed):
    assert "attempts lost 1; evaluators lost 1" in completed.output
    assert completed.output.count(f"seed {completed.first} leased") == 1
    assert completed.output.count(f"seed {completed.second} leased") == 2
    assert completed.lost == [completed.second]


def test_the_experiment_is_what_it_would_be_without_all_that(folder, completed, truth):
    assert sorted(completed.attempts) == list(SEEDS)
    assert verify(str(folder / "set")) == []
    ours, theirs = all_losses(folder / "set", list(SEEDS)), all_losses(truth, list(SEEDS))
    assert np.array_equal(ours.view(np.uint32), theirs.view(np.uint32))


def test_a_finished_experiment_has_nothing_to_do(folder, completed):
    again = start(folder, "again", "--seeds", f"0-{SEEDS[-1]}")
    assert again.wait() == 0, again.output
    assert "nothing to do" in again.output
