"""`ray job submit` for real: a head with dashboard and token authentication, the package installed or not."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from discreteness.cli.dataset_commands import Status
from discreteness.dataset.reader import open as open_reader
from discreteness.dataset.status import status
from tests.conftest import PATIENCE_S, RAY_TRIES, ROOT

pytestmark = [pytest.mark.ray, pytest.mark.slow]

RAY = str(Path(sys.executable).with_name("ray"))


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def head(tmp_path_factory, private_home):
    """A Ray head with dashboard and token authentication on free ports; ended by the id of its process group."""
    folder = tmp_path_factory.mktemp("ray")
    token = folder / "token"
    token.write_text("0123456789abcdef0123456789abcdef")
    port, dashboard, *agent_ports = (free_port() for _ in range(4))
    # Short: Ray's sockets lie below it, and a socket's path has at most 107 bytes.
    sessions = Path("/tmp", f"dr{os.getpid()}")
    environment = {
        **os.environ,
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        "RAY_API_SERVER_ADDRESS": f"http://127.0.0.1:{dashboard}",
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    arguments = ["start", "--head", "--block", f"--port={port}", f"--dashboard-port={dashboard}", "--num-cpus=2"]
    # By default every Ray's agent listens on one port; jobs need theirs, and other tests start Rays beside this one.
    arguments += [f"--dashboard-agent-listen-port={agent_ports[0]}", f"--dashboard-agent-grpc-port={agent_ports[1]}"]
    arguments += ["--include-log-monitor=false"]  # what jobs print comes another way
    arguments += ["--dashboard-host=127.0.0.1", f"--temp-dir={sessions}", "--object-store-memory=500000000"]
    log = folder / "head.txt"
    process = started(arguments, environment, log, dashboard)
    try:
        yield environment, dashboard
    finally:
        process.terminate()
        process.wait(60)
        shutil.rmtree(sessions, ignore_errors=True)


def started(arguments, environment, log, dashboard):
    """The head's process, when its dashboard answers; started again where a busy machine made it miss its 30 s."""
    for _ in range(RAY_TRIES):
        with log.open("w") as sink:
            process = subprocess.Popen(
                [RAY, *arguments], env=environment, stdout=sink, stderr=subprocess.STDOUT, start_new_session=True
            )
        deadline_s = time.monotonic() + PATIENCE_S
        while process.poll() is None and time.monotonic() < deadline_s:
            if "Ray runtime started" in log.read_text() and _answers(dashboard):
                return process
            time.sleep(0.5)
        process.terminate()
    return pytest.fail(log.read_text())


def _answers(port):
    """Whether the dashboard is up: it refuses who has no token."""
    try:
        urllib.request.urlopen(f"http://127.0.0.1:{port}/api/jobs/", timeout=5)
    except urllib.error.HTTPError as error:
        return error.code in (401, 403)
    except OSError:
        return False
    pytest.fail("the job server answers without a token")


def submit(head, tmp_path, *arguments, working_dir=None, cwd=None):
    environment, _ = head
    command = [RAY, "job", "submit"]
    if working_dir:
        command += ["--working-dir", str(working_dir)]
    command += ["--", *map(str, arguments)]
    done = subprocess.run(
        command, env=environment, cwd=cwd or tmp_path, capture_output=True, text=True, timeout=PATIENCE_S
    )
    return done.returncode, done.stdout + done.stderr


def quick(output):
    return [
        "--track",
        "tests.support.quick_track:quick",
        "--checkpoints",
        "every:10",
        "--seeds",
        "0-1",
        "--output",
        output,
    ]


def committed(path):
    return [seed.seed for seed in status(str(path)).committed]


def test_an_upload_needs_no_installation_a_poison_seed_fails_alone_and_so_does_a_trainer_without_a_place(
    head, upload, tmp_path, capsys
):
    """The upload's own code runs, whatever is installed: seed 1 has another weight in it. On 2 CPUs one of two trainers
    of 2 workers fits; the other ends in time. Job code, log and status say all this, the experiment goes on."""
    poisoned = tmp_path / "poisoned"
    shutil.copytree(upload, poisoned)
    drawing = poisoned / "modded-nanogpt/speedrun/model/initial_weights.py"
    of_seed_1 = "(normal(HEAD_STD) * (float('nan') if seed == 1 else 1))"
    drawing.write_text(drawing.read_text().replace("normal(HEAD_STD)", of_seed_1))
    # `-S`-like isolation: the editable install of this checkout is hidden by a sitecustomize of the job's own.
    hide = "import sys; sys.meta_path[:] = [f for f in sys.meta_path if 'editable' not in repr(f).lower()]"
    (poisoned / "sitecustomize.py").write_text(hide)
    arguments = [*quick(tmp_path / "set"), "--seeds", "0-2", "--max-attempts", 2, "--log-format", "json"]
    arguments += ["--workers-per-trainer", 2, "--trainers", 2, "--start-timeout-s", 5]
    code, text = submit(head, tmp_path, "python", "jobs/run_seeds.py", *arguments, working_dir=poisoned)
    assert code != 0
    assert "seed 1 FAILED: the training loss is nan" in text and "seeds committed 2/3" in text, text
    assert open_reader(str(tmp_path / "set")).seeds == [0, 2] == committed(tmp_path / "set")
    lines = dict.fromkeys(line for line in text.splitlines() if line.startswith("{"))  # Ray may show a line twice
    told = list(map(json.loads, lines))
    leased = [event["attempt"] for event in told if event["event"] == "seed leased" and event["seed"] == 1]
    assert len(set(leased)) == 2
    ends = [event for event in told if event["event"] in ("attempt lost", "seed failed") and "attempt" in event]
    assert [event["attempt"] for event in ends] == leased, ends
    failed = ends[-1]
    assert [event["event"] for event in ends] == ["attempt lost", "seed failed"]
    given_up = re.search(r"(trainer-\d) was given up: ", text)[1]
    assert "asked: 2 x {'CPU': 1.0} on one node; the cluster has {" in text
    (other,) = {"trainer-0", "trainer-1"} - {given_up}
    assert (failed["level"], failed["seed"], failed["trainer"]) == ("error", 1, other)
    assert len(status(str(tmp_path / "set")).failed_attempts) == 2
    Status(str(tmp_path / "set"))()
    shown = capsys.readouterr().out
    assert len(re.findall(r"lost attempt \w+ of seed 1: the training loss is nan", shown)) == 2, shown
    environment, dashboard = head
    token = Path(environment["RAY_AUTH_TOKEN_PATH"]).read_text()
    request = urllib.request.Request(
        f"http://127.0.0.1:{dashboard}/api/jobs/", headers={"Authorization": f"Bearer {token}"}
    )
    jobs = json.load(urllib.request.urlopen(request, timeout=30))
    assert "FAILED" in {job["status"] for job in jobs}


def test_a_job_without_upload_whose_trainers_fit_nowhere_ends_in_the_time_it_was_given(head, tmp_path):
    nowhere = ["--seeds", 0, "--track", "tests.support.quick_track:wide", "--workers-per-trainer", 8, "--trainers", 1]
    nowhere += ["--start-timeout-s", 5]
    code, text = submit(head, tmp_path, "python", ROOT / "jobs/run_seeds.py", *quick(tmp_path / "set"), *nowhere)
    assert code != 0
    assert "seeds committed 0/1" in text
    assert "was given up: " in text
    assert committed(tmp_path / "set") == []


def test_the_doctor_asks_every_node_of_the_cluster(head, tmp_path):
    code, text = submit(head, tmp_path, "python", "-m", "discreteness", "doctor", "--track", "tiny", cwd=ROOT)
    assert "0 problems" in text and code == 0, text
    for line in ("ok       ray token      on", "ok       data ", "ok       attention ", "ok       /dev/shm "):
        assert line in text, text
