"""docs/cluster.md: its lines make a cluster that trains a job through two faults, and the dashboard shows it."""

import json
import re
import shlex
import time
import urllib.request

import pytest
from speedrun.data.tiny_corpus import default_data_root, ensure_tiny_corpus

from discreteness.dataset.reader import open as open_dataset
from discreteness.dataset.status import status
from discreteness.dataset.verify import verify
from tests.chaos.campaign import Stage, faultless
from tests.chaos.checker import check
from tests.chaos.faults import FAULTS
from tests.chaos.machines import Machines, possible
from tests.conftest import PATIENCE_S, ROOT
from tests.pages.test_pages import FENCE
from tests.support import skips
from tests.support.ray_commands import unknown_to_ray

PAGE = (ROOT / "docs/cluster.md").read_text()
NUM_SEEDS = 8
"""Several more than are trained by the time that the last fault strikes."""
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
        environment = machines.environment
        self.address = environment["RAY_API_SERVER_ADDRESS"]
        self.headers = {"Authorization": f"Bearer {environment['RAY_AUTH_TOKEN']}"}

    def get(self, path):
        request = urllib.request.Request(self.address + path, headers=self.headers)
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)

    def actors(self):
        """Their names; of those without one, their classes."""
        actors = self.get("/api/v0/actors?detail=1")["data"]["result"]["result"]
        return {actor["name"] or actor["class_name"] for actor in actors}


@pytest.fixture
def machines(tmp_path):
    """A head and two machines, by the page's lines."""
    if possible():
        pytest.skip(skips.NAMESPACES)
    start, join = map(documented, ("ray start --head", "ray start --address"))
    machines = Machines(tmp_path, 2, head_words=start[1:], node_words=join[1:])
    yield machines
    machines.stop()


@pytest.fixture
def stage(machines, tmp_path, upload):
    """The page's submission, of a small experiment that faults strike."""
    ensure_tiny_corpus(default_data_root())
    words = documented("ray job submit")
    words = [word for word in words[1 : words.index("--")] if word != "--no-wait"]
    stage = Stage(tmp_path, 3, 2, machines, NUM_SEEDS, ["-m", "ray.scripts.scripts", *words, "--", "python"], upload)
    yield stage
    stage.close()


def strike(stage, name):
    """One of `make chaos`'s faults; waits until a seed more is committed."""
    before = len(stage.files())
    for wait_s in FAULTS[name](stage):
        time.sleep(wait_s)
    wait_for_seeds(stage, before + 1)


def wait_for_seeds(stage, number):
    deadline_s = time.monotonic() + PATIENCE_S
    while len(stage.files()) < number:
        assert stage.job.process.poll() is None and time.monotonic() < deadline_s, stage.job.output
        time.sleep(0.05)


@pytest.mark.ray
@pytest.mark.slow
def test_two_machines_train_a_job_that_outlives_one_of_them_and_the_dashboard_names_its_parts(stage, program):
    stage.start(evaluators=2)
    wait_for_seeds(stage, 2)
    strike(stage, "evaluator killed")
    strike(stage, "machine of a trainer without power")
    assert stage.job.wait() == 0, stage.job.output
    machines, dashboard = stage.machines, Dashboard(stage.machines)
    asked = stage.command(NUM_SEEDS + 1)[1:]
    plan = program(*asked, "--dry-run", cwd=stage.cwd, **machines.environment)
    assert plan.wait() == 0, plan.output
    submitted, driver = sorted(dashboard.get("/api/jobs/"), key=lambda listed: listed["job_id"])
    actors = dashboard.actors()
    runs = dashboard.get("/api/train/v2/runs/v1")["train_runs"]
    nodes = dashboard.get("/api/v0/nodes")["data"]["result"]["result"]
    # The experiment: complete, of one attempt a seed, bitwise equal to what an undisturbed run records.
    assert "trainers: 2, each with 2 workers on one node" in stage.job.output
    assert verify(stage.dataset) == []
    assert open_dataset(stage.dataset).seeds == list(range(NUM_SEEDS))
    assert check(stage.dataset, range(NUM_SEEDS), faultless(stage, NUM_SEEDS)) == []
    # Each fault struck, and only the machine may have taken an attempt with it.
    attempts, evaluators = re.search(r"attempts lost (\d+); evaluators lost (\d+)", stage.job.output).groups()
    assert int(attempts) == len(status(stage.dataset).failed_attempts) <= 1
    assert int(evaluators) >= 1
    assert [node["state"] for node in nodes].count("DEAD") == 1
    # Jobs: found again by the name and the reason that were given.
    assert (submitted["submission_id"], submitted["status"]) == ("speedrun", "SUCCEEDED")
    assert submitted["metadata"] == {"why": "first 300 seeds"}
    assert submitted["entrypoint"] == shlex.join(["python", *stage.command(evaluators=2)[1:]])
    # One that was started on the head by itself says what it is.
    assert driver["type"] == "DRIVER"
    said = {"output": str(stage.dataset), "track": "tests.support.quick_track:quick", "seeds": f"0-{NUM_SEEDS}"}
    assert driver["metadata"] == said
    # Actors: by their names in the documentation.
    assert {"dispatcher", "trainers", "evaluator-0", "evaluator-1", "RayTrainWorker"} <= actors
    assert "PreemptionWatcher" in actors, "by which a trainer hears that its machine is taken away"
    # Train: a run a trainer, again one where it lost its machine; at first each trainer on a machine of its own, none
    # on the head.
    first = {}
    for run in sorted(runs, key=lambda run: run["start_time_ns"]):
        first.setdefault(run["name"].rpartition("-")[0], run["attempts"][0]["workers"])
    assert sorted(first) == ["trainer-0", "trainer-1"]
    places = [{worker["node_ip"] for worker in workers} for workers in first.values()]
    assert sorted(map(sorted, places)) == [[f"{machines.subnet}.11"], [f"{machines.subnet}.12"]]
    assert [len(workers) for workers in first.values()] == [2, 2]
