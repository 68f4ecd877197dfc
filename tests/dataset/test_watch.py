"""What is told of a dataset, complete, growing, failed, empty or damaged: states, pace, time left, JSON, the screen."""

import io
import json
import os
import signal
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from discreteness.cli.dataset_commands import Status, Watch
from discreteness.dataset import watch as watching
from discreteness.dataset.lock import DatasetLock
from discreteness.dataset.paths import LOCK_FILE
from discreteness.dataset.status import as_json, job_status, ranges
from discreteness.dataset.watch import picture, watch
from tests.conftest import ROOT
from tests.support.dataset_case import IDENTITY, STEPS, commit, create, losses
from tests.support.faulty_filesystem import object_storage

BEGAN_S = 1_700_000_000.0


def begin(dataset, seeds, max_attempts=2):
    """A job that began at BEGAN_S."""
    dataset.log_job(seeds, max_attempts)
    (path,) = dataset.storage.list("log")
    name = f"log/{path.base_name}"
    event = json.loads(dataset.storage.read(name))
    event["time"] = datetime.fromtimestamp(BEGAN_S, UTC).isoformat()
    dataset.storage.write(name, json.dumps(event).encode())


def commit_at(dataset, seed, seconds):
    commit(dataset, seed)
    path = dataset.storage.path(f"losses/seed={seed:05d}.parquet")
    os.utime(path, (BEGAN_S + seconds, BEGAN_S + seconds))


def lose(dataset, seed, error):
    dataset.log({"event": "attempt lost", "seed": seed, "attempt": "one", "error": error})


def trained(dataset, seed, attempt, seconds):
    """Writes the runs file of a seed anew, with the time of its updates."""
    table = pa.table({"step": [0, 1, 2], "train_s": [None, seconds / 2, seconds]})
    with pa.BufferOutputStream() as sink:
        pq.write_table(table, sink)
        dataset.storage.write(f"runs/seed={seed:05d}-{attempt}.parquet", sink.getvalue())


def drawn(seen, trouble=""):
    console = Console(width=150, file=io.StringIO())
    console.print(picture(seen, trouble))
    return console.file.getvalue()


@pytest.fixture
def growing(tmp_path):
    """Of seeds 0 to 5: two committed after 100 and 200 s, one running, one failed, one lost once, one untouched."""
    dataset = create(tmp_path / "set")
    begin(dataset, range(6))
    commit_at(dataset, 0, 100)
    commit_at(dataset, 1, 200)
    dataset.write_running(2, "one", np.array(STEPS[:3]), losses(2)[:3])
    lose(dataset, 3, "first")
    lose(dataset, 3, "[red]NaN[/red] at\nstep 5")
    lose(dataset, 4, "node gone")
    return dataset


def test_each_seed_has_one_state_and_time_left_is_that_of_the_commits(growing):
    with DatasetLock(growing.uri):
        seen = job_status(growing.uri, now_s=BEGAN_S + 250)
    assert seen.planned == (0, 1, 2, 3, 4, 5)
    assert [seed.seed for seed in seen.status.committed] == [0, 1]
    assert [(seed.seed, seed.steps) for seed in seen.status.running] == [(2, 3)]
    assert seen.failed == {3: "[red]NaN[/red] at\nstep 5"}
    assert seen.waiting == (4, 5)
    assert seen.seeds_per_hour == pytest.approx(36)  # two in 200 s
    assert seen.left_s == pytest.approx(200 + 3 * 100 - 250)  # seeds 2, 4 and 5, since the last commit
    assert not seen.settled
    text = drawn(seen)
    for part in ("2: 3 of 4", "3: [red]NaN[/red] at step 5", "36 seeds/h", "0:04:10 left", "held by pid", "running"):
        assert part in text


def test_a_seed_that_would_fail_in_every_attempt_has_failed_with_the_first(growing):
    growing.log({"event": "attempt lost", "seed": 5, "attempt": "two", "error": "documents ran out", "final": True})
    seen = job_status(growing.uri)
    assert seen.failed[5] == "documents ran out" and seen.waiting == (4,)


def test_gpu_hours_are_those_of_committed_seeds_and_of_lost_attempts(tmp_path, capsys):
    track = {**IDENTITY["track"], "needs_gpu": True}
    dataset = create(tmp_path / "set", identity={**IDENTITY, "track": track, "world_size": 8})
    commit(dataset, 0)
    commit(dataset, 1)
    assert job_status(dataset.uri).device_hours is None  # no file tells: not 0
    trained(dataset, 0, "one", 900.0)
    trained(dataset, 1, "one", 1200.0)
    dataset.log({"event": "attempt lost", "seed": 2, "attempt": "two", "error": "gone", "train_s": 250.0})
    dataset.log({"event": "attempt lost", "seed": 2, "attempt": "three", "preempted": "gone", "train_s": 50.0})
    dataset.log({"event": "attempt lost", "seed": 2, "attempt": "four", "error": "at once", "train_s": None})
    seen = job_status(dataset.uri)
    assert (seen.device, seen.device_hours) == ("GPU", pytest.approx(8 * 2400 / 3600))
    assert "5.33 GPU-hours trained" in drawn(seen)
    assert Status(dataset.uri)() == 0
    assert "trained: 5.33 GPU-hours" in capsys.readouterr().out
    told = json.loads(as_json(seen))
    assert (told["device"], told["device_hours"]) == ("GPU", seen.device_hours)
    Path(dataset.storage.path("runs/seed=00001-one.parquet")).write_bytes(b"damaged")
    assert job_status(dataset.uri).device_hours == pytest.approx(8 * 1200 / 3600)


def test_without_a_job_at_work_no_time_is_left_to_tell(growing):
    seen = job_status(growing.uri)
    assert seen.holder is None and seen.left_s is None
    text = drawn(seen, "cannot be read now")
    for part in ("begun", "no job holds it", "cannot be read now"):
        assert part in text


def test_only_commits_of_the_newest_job_set_its_pace(growing):
    """Seeds 0 and 1 were committed 100 s and 200 s after BEGAN_S; a job that begins at 150 s has done one."""
    event = {"event": "job began", "seeds": list(range(8)), "max_attempts": 2}
    event["time"] = datetime.fromtimestamp(BEGAN_S + 150, UTC).isoformat()
    growing.storage.write("log/9.json", json.dumps(event).encode())
    with DatasetLock(growing.uri):
        seen = job_status(growing.uri, now_s=BEGAN_S + 210)
        late = job_status(growing.uri, now_s=BEGAN_S + 10_000)
    assert seen.seeds_per_hour == pytest.approx(72)  # one in 50 s
    assert seen.waiting == (4, 5, 6, 7)
    assert seen.left_s == pytest.approx(200 + 5 * 50 - 210)
    assert late.left_s == 0


def test_a_long_look_is_followed_by_a_longer_pause(growing, monkeypatch):
    """An object store answers slowly and counts requests: at most a fifth of the time is spent looking."""
    clock, pauses, real = [0.0], [], watching.job_status

    def slow(uri):
        clock[0] += 10
        return real(uri)

    def pause(seconds):
        pauses.append(seconds)
        if len(pauses) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(watching, "job_status", slow)
    monkeypatch.setattr(watching.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(watching.time, "sleep", pause)
    assert watch(growing.uri, Console(file=io.StringIO())) == 130
    assert pauses == [watching.REFRESH_S, 50, 50]


def test_a_damaged_event_hides_none_after_it(growing):
    growing.storage.write("log/0.json", b"{")
    growing.storage.write("log/00.json", b"[" * 100_000)
    growing.storage.write("log/000.json", b"null")
    assert job_status(growing.uri).failed.keys() == {3}


def test_only_what_was_lost_since_the_newest_job_counts(growing):
    growing.log_job((3, 4), 2)
    seen = job_status(growing.uri)
    assert (seen.planned, seen.failed, seen.waiting, seen.seeds_per_hour) == ((3, 4), {}, (3, 4), None)


def test_json_says_it_all_and_null_for_what_is_not_known(growing, capsys):
    assert Status(growing.uri, json=True)() == 0
    told = json.loads(capsys.readouterr().out)
    assert told["committed"] == [0, 1] and told["waiting"] == [4, 5]
    assert told["running"] == [{"seed": 2, "attempt": "one", "steps": 3}]
    assert told["failed"] == [{"seed": 3, "error": "[red]NaN[/red] at\nstep 5"}]
    assert [event["error"] for event in told["lost_attempts"]][0::2] == ["first", "node gone"]
    assert told["rows"] == 2 * 4 * 3 and told["left_s"] is None
    empty = create(growing.uri + "-empty")
    told = json.loads(as_json(job_status(empty.uri)))
    assert told["planned"] is told["seeds_per_hour"] is told["left_s"] is told["holder"] is None
    assert told["committed"] == told["running"] == told["failed"] == told["waiting"] == []


def test_status_names_failed_and_waiting_seeds(growing, capsys):
    assert Status(growing.uri)() == 0
    text = capsys.readouterr().out
    assert "seed 3 failed: [red]NaN" in text and "waiting: 2 seeds: 4-5" in text
    assert "seed 2 in training: 3 checkpoints" in text


def test_a_seed_in_training_is_waited_for_unless_no_job_planned_it(growing):
    growing.write_running(9, "theirs", np.array(STEPS[:1]), losses(9)[:1])
    for seed in 3, 4, 5:
        commit(growing, seed)
    seen = job_status(growing.uri)
    assert (seen.waiting, [one.seed for one in seen.status.running], seen.settled) == ((), [2, 9], False)
    commit(growing, 2)
    assert job_status(growing.uri).settled


def test_a_complete_dataset_ends_the_watch_with_0_a_failed_one_with_1(growing, capsys):
    for seed in 2, 4, 5:
        commit_at(growing, seed, 300)
    assert Watch(growing.uri)() == 1
    commit_at(growing, 3, 400)
    assert Watch(growing.uri)() == 0
    assert "0-5" in capsys.readouterr().out


def test_watch_follows_a_dataset_that_grows_and_outlives_an_error_of_storage(growing, monkeypatch, capsys):
    """The last three seeds are committed while it sleeps; in between the folder cannot be read."""
    pauses = []

    def meanwhile(seconds):
        pauses.append(seconds)
        experiment = Path(growing.storage.path("experiment.json"))
        if len(pauses) == 1:
            experiment.rename(f"{experiment}-away")
        elif len(pauses) == 2:
            Path(f"{experiment}-away").rename(experiment)
            for seed in 2, 3, 4, 5:
                commit(growing, seed)
        else:
            pytest.fail("nothing is left to wait for")

    monkeypatch.setattr(watching.time, "sleep", meanwhile)
    console = Console(width=120, force_terminal=True)
    assert watch(growing.uri, console) == 0
    assert "cannot be read now" in capsys.readouterr().out
    assert min(pauses) >= watching.REFRESH_S


def test_damage_is_named_and_what_is_hostile_in_the_log_is_passed_over(growing):
    path = Path(growing.storage.path("losses/seed=00001.parquet"))
    path.write_bytes(path.read_bytes()[:-100])
    for number, event in enumerate(
        (
            {"event": "job began", "seeds": "0-9", "max_attempts": 1},
            {"event": "job began", "seeds": [1, True], "max_attempts": 1},
            {"event": "job began", "seeds": [7], "max_attempts": True},
            {"event": "job began", "seeds": [7], "max_attempts": 1, "time": 5},
            {"event": [], "attempt": "a", "error": "x", "seed": [4]},
            {"attempt": "a", "error": "x", "seed": 4, "time": "soon"},
        )
    ):
        event = {"time": "2999-01-01T00:00:00+00:00", **event}
        growing.storage.write(f"log/9{number}.json", json.dumps(event).encode())
    seen = job_status(growing.uri)
    assert seen.planned == (0, 1, 2, 3, 4, 5) and seen.waiting == (1, 4, 5)
    assert "not counted" in drawn(seen) and "seed=00001.parquet: truncated" in drawn(seen)


def test_an_object_store_tells_the_same():
    storage = object_storage()
    dataset = create(storage)
    dataset.log_job((0, 1), 3)
    commit(dataset, 1)
    seen = job_status(storage)
    assert (seen.planned, seen.waiting, seen.failed) == ((0, 1), (0,), {})
    commit(dataset, 0)
    assert job_status(storage).settled and watch(storage, Console(file=io.StringIO())) == 0


def test_ctrl_c_ends_the_watch_without_a_traceback(tmp_path):
    create(tmp_path / "set")
    command = [sys.executable, "-m", "discreteness", "watch", str(tmp_path / "set")]
    settings = {**os.environ, "FORCE_COLOR": "1", "PYTHONUNBUFFERED": "1"}  # drawn at once, as on a terminal
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    with subprocess.Popen(command, cwd=ROOT, env=settings, **pipes) as process:
        output = process.stdout.readline()
        process.send_signal(signal.SIGINT)
        output += process.stdout.read()
    assert process.returncode == 130, output
    assert "Traceback" not in output and "not known" in output


@pytest.mark.parametrize(
    ("seeds", "text"),
    [((), "none"), ((4,), "4"), ((0, 1, 2, 3), "0-3"), ((0, 2, 3, 7), "0, 2-3, 7"), ((5, 6, 300), "5-6, 300")],
)
def test_seeds_are_said_as_ranges(seeds, text):
    assert ranges(seeds) == text


def test_a_job_of_this_host_that_has_gone_ends_the_watch_with_what_to_do(growing, monkeypatch):
    """A killed driver leaves its lock. One of another host may be alive for all that can be seen from here."""
    monkeypatch.setattr(watching.time, "sleep", lambda seconds: (_ for _ in ()).throw(KeyboardInterrupt))
    with subprocess.Popen([sys.executable, "-c", "pass"]) as killed:
        killed.wait()
    lock = DatasetLock(growing.uri)
    holder = {**lock._content, "pid": killed.pid, "process_start": "some time ago", "token": "theirs"}
    growing.storage.write(LOCK_FILE, json.dumps(holder).encode())
    seen = job_status(growing.uri)
    assert seen.holder is None and seen.ended.startswith(f"pid {killed.pid} on host ") and seen.left_s is None
    told = io.StringIO()
    assert watch(growing.uri, Console(file=told)) == 1
    assert f"the job of pid {killed.pid} on host" in told.getvalue() and "give its command again" in told.getvalue()
    growing.storage.write(LOCK_FILE, json.dumps({**holder, "host": "elsewhere"}).encode())
    assert watch(growing.uri, Console(file=io.StringIO())) == 130
    assert job_status(growing.uri).ended is None


def test_without_a_terminal_a_line_comes_every_ten_seconds(growing, monkeypatch):
    clock, told = [0.0], io.StringIO()

    def pause(seconds):
        clock[0] += seconds
        if clock[0] > 35:
            raise KeyboardInterrupt

    monkeypatch.setattr(watching.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(watching.time, "sleep", pause)
    with DatasetLock(growing.uri):
        assert watch(growing.uri, Console(file=told)) == 130
    lines = [line for line in told.getvalue().splitlines() if line.startswith("seeds committed 2, running 2 at 3 of ")]
    assert len(lines) == 2  # at 12 and 24 s: it looks every 3 s
