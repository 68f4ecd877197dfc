"""docs/cluster.md: its `ray start` lines make a cluster of machines that trains a job, and the dashboard shows it."""

import json
import shlex
import subprocess
import urllib.request

import pytest

from discreteness.problems import verify
from discreteness.reading import open as open_dataset
from tests import skips
from tests.chaos.machines import RAY, Machines, possible
from tests.conftest import PATIENCE_S, ROOT
from tests.ray_commands import unknown_to_ray
from tests.test_pages import FENCE

PAGE = (ROOT / "docs/cluster.md").read_text()
LINES = [line for of, block in FENCE.findall(PAGE) if not of for line in block.replace("\\\n", " ").splitlines()]


def documented(beginning):
    """The words of the one command of the page that begins so."""
    (line,) = [line for line in LINES if line.startswith(beginning)]
    return shlex.split(line, comments=True)


def test_the_installed_ray_knows_every_ray_command_of_the_page():
    commands = [shlex.split(line, comments=True) for line in LINES if line.startswith("ray ")]
    assert len(commands) == 10
    assert [unknown_to_ray(words) for words in commands if unknown_to_ray(words)] == []


def test_an_unknown_ray_command_is_noticed():
    assert unknown_to_ray(["ray", "start", "--head", "--dashbord-host=x"]) == ["--dashbord-host"]
    assert unknown_to_ray(["ray", "job", "sumbit"]) == ["sumbit"]
    assert unknown_to_ray(["ray", "job", "submit", "--no-wait", "--", "python", "--anything"]) == []


class Dashboard:
    """Its HTTP API, which asks for the token."""

    def __init__(self, machines):
        self.address = f"http://127.0.0.1:{machines.dashboard_port}"
        self.headers = {"Authorization": f"Bearer {machines.environment['RAY_AUTH_TOKEN']}"}

    def get(self, path):
        request = urllib.request.Request(self.address + path, headers=self.headers)
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)

    def actors(self):
        """Their names; of those without one, their classes."""
        actors = self.get("/api/v0/actors?detail=1")["data"]["result"]["result"]
        return {actor["name"] or actor["class_name"] for actor in actors}


@pytest.mark.ray
@pytest.mark.slow
def test_two_machines_train_a_submitted_job_and_the_dashboard_names_its_parts(tmp_path, upload):
    if possible():
        pytest.skip(skips.NAMESPACES)
    start, join, submit = map(documented, ("ray start --head", "ray start --address", "ray job submit"))
    job = ["python", "jobs/run_seeds.py", "--track", "tests.quick_track:quick", "--checkpoints", "every:10"]
    job += ["--seeds", "0-1", "--workers-per-trainer", "2", "--output", str(tmp_path / "set")]
    machines = Machines(tmp_path, 2, head_words=start[1:], node_words=join[1:])
    try:
        dashboard = Dashboard(machines)
        environment = machines.environment | {"RAY_API_SERVER_ADDRESS": dashboard.address}
        words = [word for word in submit[1 : submit.index("--")] if word != "--no-wait"]
        done = subprocess.run(
            [RAY, *words, "--", *job], cwd=upload, env=environment, capture_output=True, text=True, timeout=PATIENCE_S
        )
        assert done.returncode == 0, done.stdout + done.stderr
        asked = [*job, "--seeds", "0-2", "--dry-run"]
        plan = subprocess.run(
            asked, cwd=upload, env=machines.environment, capture_output=True, text=True, timeout=PATIENCE_S
        )
        assert plan.returncode == 0, plan.stderr
        submitted, driver = sorted(dashboard.get("/api/jobs/"), key=lambda listed: listed["job_id"])
        actors = dashboard.actors()
        runs = dashboard.get("/api/train/v2/runs/v1")["train_runs"]
    finally:
        machines.stop()
    assert "trainers: 2 groups of 2 workers" in done.stdout
    assert verify(tmp_path / "set") == []
    assert open_dataset(tmp_path / "set").seeds == [0, 1]
    # Jobs: found again by the name and the reason that were given.
    assert (submitted["submission_id"], submitted["status"]) == ("speedrun", "SUCCEEDED")
    assert submitted["metadata"] == {"why": "first 300 seeds"}
    assert submitted["entrypoint"] == shlex.join(job)
    # One that was started on the head by itself says what it is.
    assert driver["type"] == "DRIVER"
    assert driver["metadata"] == {"output": str(tmp_path / "set"), "track": "tests.quick_track:quick", "seeds": "0-2"}
    # Actors: by their names in the documentation.
    assert {"dispatcher", "trainer-groups", "evaluator-0", "evaluator-1", "RayTrainWorker"} <= actors
    # Train: a run a group, and each group on a machine of its own, none on the head.
    assert sorted(run["name"].rpartition("-")[0] for run in runs) == ["trainer-0", "trainer-1"]
    places = [{worker["node_ip"] for worker in run["attempts"][0]["workers"]} for run in runs]
    assert sorted(map(sorted, places)) == [[f"{machines.subnet}.11"], [f"{machines.subnet}.12"]]
    assert [len(run["attempts"][0]["workers"]) for run in runs] == [2, 2]
