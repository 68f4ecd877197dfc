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

from discreteness.reading import open as open_reader
from tests.conftest import ROOT

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
    arguments = ["start", "--head", "--block", f"--port={port}", f"--dashboard-port={dashboard}", "--num-cpus=4"]
    # By default every Ray's agent listens on one port; jobs need theirs, and other tests start Rays beside this one.
    arguments += [f"--dashboard-agent-listen-port={agent_ports[0]}", f"--dashboard-agent-grpc-port={agent_ports[1]}"]
    arguments += ["--dashboard-host=127.0.0.1", f"--temp-dir={sessions}", "--object-store-memory=500000000"]
    with (folder / "head.txt").open("w") as log:
        process = subprocess.Popen(
            [RAY, *arguments], env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        for _ in range(240):
            if "Ray runtime started" in (folder / "head.txt").read_text() and _answers(dashboard):
                break
            assert process.poll() is None, (folder / "head.txt").read_text()
            time.sleep(0.5)
        else:
            pytest.fail((folder / "head.txt").read_text())
        yield environment, dashboard
    finally:
        process.terminate()
        process.wait(60)
        shutil.rmtree(sessions, ignore_errors=True)


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
    done = subprocess.run(command, env=environment, cwd=cwd or tmp_path, capture_output=True, text=True, timeout=400)
    return done.returncode, done.stdout + done.stderr


def quick(output):
    return ["--track", "tests.quick_track:quick", "--checkpoints", "every:10", "--seeds", "0-1", "--output", output]


def test_a_job_from_an_upload_needs_no_installation(head, upload, tmp_path):
    # `-S`-like isolation: the editable install of this checkout is hidden by a sitecustomize of the job's own.
    hide = "import sys; sys.meta_path[:] = [f for f in sys.meta_path if 'editable' not in repr(f).lower()]"
    (upload / "sitecustomize.py").write_text(hide)
    code, text = submit(head, tmp_path, "python", "jobs/run_seeds.py", *quick(tmp_path / "set"), working_dir=upload)
    assert code == 0, text
    assert open_reader(str(tmp_path / "set")).seeds == [0, 1]
    assert "seeds committed 2/2" in text


def test_a_job_without_upload_uses_the_installation(head, tmp_path):
    code, text = submit(head, tmp_path, "python", ROOT / "jobs/run_seeds.py", *quick(tmp_path / "set"), "--seeds", 0)
    assert code == 0, text
    assert open_reader(str(tmp_path / "set")).seeds == [0]


def test_a_poison_seed_fails_alone_and_the_job_says_so_in_its_code_and_its_log(head, upload, tmp_path):
    poisoned = tmp_path / "poisoned"
    shutil.copytree(upload, poisoned)
    drawing = poisoned / "modded-nanogpt/speedrun/initial_weights.py"
    of_seed_1 = "(normal(HEAD_STD) * (float('nan') if seed == 1 else 1))"
    drawing.write_text(drawing.read_text().replace("normal(HEAD_STD)", of_seed_1))
    first = "import sys, pathlib; sys.path.insert(0, str(pathlib.Path(__file__).parent / 'modded-nanogpt'))"
    (poisoned / "sitecustomize.py").write_text(first)  # whatever trainer is installed
    arguments = [*quick(tmp_path / "set"), "--seeds", "0-2", "--max-attempts", 2, "--trainers", 1]
    code, text = submit(head, tmp_path, "python", "jobs/run_seeds.py", *arguments, working_dir=poisoned)
    assert code != 0
    assert "seed 1 FAILED: the training loss is nan" in text and "seeds committed 2/3" in text, text
    assert len(set(re.findall(r"seed 1 leased to \S+ \(attempt (\w+)\)", text))) == 2, text
    assert open_reader(str(tmp_path / "set")).seeds == [0, 2]
    shown = subprocess.run(
        [sys.executable, "-m", "discreteness", "status", tmp_path / "set"], cwd=ROOT, capture_output=True, text=True
    ).stdout
    assert len(re.findall(r"lost attempt \w+ of seed 1: the training loss is nan", shown)) == 2, shown
    environment, dashboard = head
    token = Path(environment["RAY_AUTH_TOKEN_PATH"]).read_text()
    request = urllib.request.Request(
        f"http://127.0.0.1:{dashboard}/api/jobs/", headers={"Authorization": f"Bearer {token}"}
    )
    jobs = json.load(urllib.request.urlopen(request, timeout=30))
    assert "FAILED" in {job["status"] for job in jobs}


def test_a_group_that_finds_no_place_in_time_is_given_up_and_says_what_was_asked(head, tmp_path):
    # 4 CPUs: of two groups of 4 workers one fits. The other ends, the experiment does not.
    crowded = ["--workers-per-trainer", 4, "--trainers", 2, "--start-timeout-s", 5]
    code, text = submit(head, tmp_path, "python", ROOT / "jobs/run_seeds.py", *quick(tmp_path / "set"), *crowded)
    assert code == 0, text
    assert "was given up: " in text
    assert "asked: 4 x {'CPU': 1.0} on one node; the cluster has {" in text
    # No node holds such a group: nothing can be trained, which takes as long as the user gave it.
    nowhere = [
        "--seeds",
        0,
        "--track",
        "tests.quick_track:wide",
        "--workers-per-trainer",
        8,
        "--trainers",
        1,
        "--start-timeout-s",
        5,
    ]
    code, text = submit(head, tmp_path, "python", ROOT / "jobs/run_seeds.py", *quick(tmp_path / "other"), *nowhere)
    assert code != 0
    assert "seeds committed 0/1" in text
    assert "was given up: " in text


def test_the_doctor_asks_every_node_of_the_cluster(head, tmp_path):
    code, text = submit(head, tmp_path, "python", "-m", "discreteness", "doctor", "--track", "tiny", cwd=ROOT)
    assert "0 problems" in text and code == 0, text
    for line in ("ok       ray token      on", "ok       data ", "ok       attention ", "ok       /dev/shm "):
        assert line in text, text
