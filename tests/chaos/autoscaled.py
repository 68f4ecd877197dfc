"""a head without room + Ray's autoscaler, nodes made on this machine -> trainers bring their nodes, idle ones leave.

`python -m tests.chaos.autoscaled`, a part of `make chaos`; Linux and root. All of it lives in namespaces of its own:
Ray's provider of pretended nodes knows no port but 6379 and reads a file that its package lacks, and nothing that is
started there outlives them.
"""

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import ray
import ray.autoscaler._private.fake_multi_node as pretended
import yaml
from ray.autoscaler._private.fake_multi_node.node_provider import FAKE_HEAD_NODE_ID, FAKE_HEAD_NODE_TYPE

from discreteness.service.evaluator_pool import EvaluatorPool
from tests.chaos.campaign import TEXTS
from tests.chaos.checker import check
from tests.chaos.machines import RAY, possible
from tests.chaos.scheduling import EIGHT, Register, fit, placed, ready
from tests.conftest import Program
from tests.support.flaky_evaluator import Flaky

IP = "10.99.0.1"
ADDRESS = f"{IP}:6379"
STORE_BYTES = 100_000_000
IDLE_S = 15
CHANGE_S = 600
"""A node comes or leaves sooner."""
TWO = replace(EIGHT, workers_per_trainer=2, evaluators=2, declared_cpus=2)


def node_type(num_gpus=0, gpu_type=None):
    resources = {"CPU": 2, "object_store_memory": STORE_BYTES}
    if gpu_type:
        resources |= {"GPU": num_gpus, f"accelerator_type:{gpu_type}": 1}
    return {"resources": resources, "node_config": {}, "min_workers": 0, "max_workers": 2}


NO_COMMANDS = (
    *("initialization_commands", "setup_commands", "head_setup_commands", "worker_setup_commands"),
    *("head_start_ray_commands", "worker_start_ray_commands"),
)
CONFIGURATION = {
    "cluster_name": "pretended",
    "max_workers": 6,
    "idle_timeout_minutes": IDLE_S / 60,
    "provider": {
        "type": "fake_multinode",
        "launch_multiple": True,
        "head_node_id": FAKE_HEAD_NODE_ID,
        "disable_node_updaters": True,  # nothing is to be installed on them
    },
    "upscaling_speed": 1.0,
    "auth": {},
    "file_mounts": {},
    "cluster_synced_files": [],
    "head_node_type": FAKE_HEAD_NODE_TYPE,
    "available_node_types": {
        FAKE_HEAD_NODE_TYPE: {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
        "a100": node_type(2, "A100"),
        "cpu": node_type(),
        "h100": node_type(2, "H100"),
    },
    **{name: [] for name in NO_COMMANDS},
}


def in_namespaces(folder):
    """This file again, as the only program on a machine whose Ray package is complete. Its exit code."""
    package = folder / "package"
    shutil.copytree(Path(pretended.__file__).parent, package)
    (package / "example.yaml").write_text(yaml.safe_dump(CONFIGURATION))
    own = f"ip link set lo up && ip addr add {IP}/24 dev lo && ip route add default dev lo src {IP}"
    own += f" && mount --bind {package} {Path(pretended.__file__).parent}"
    program = [sys.executable, "-m", "tests.chaos.autoscaled", str(folder)]
    namespaces = ["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
    return subprocess.run([*namespaces, "sh", "-c", f'{own} && "$@"; exit $?', "sh", *program]).returncode


@contextmanager
def head(folder):
    environment = {
        "AUTOSCALER_UPDATE_INTERVAL_S": "1",
        "RAY_FAKE_CLUSTER": "1",
        "RAY_enable_autoscaler_v2": "1",
        "RAY_CLOUD_INSTANCE_ID": FAKE_HEAD_NODE_ID,
        "RAY_OVERRIDE_NODE_ID_FOR_TESTING": FAKE_HEAD_NODE_ID,
    }
    arguments = ["start", "--head", "--block", "--num-cpus=0", "--num-gpus=0", f"--object-store-memory={STORE_BYTES}"]
    arguments += [f"--node-ip-address={IP}", "--port=6379", f"--temp-dir={folder}/ray"]
    arguments += [f"--autoscaling-config={folder}/package/example.yaml"]
    one = Program([RAY, *arguments], folder / "head.txt", **environment)
    one.wait_for("Ray runtime started")
    ray.init(address=ADDRESS, log_to_driver=False)
    try:
        yield
    finally:
        ray.shutdown()
        one.process.terminate()
        one.wait(60)


def kinds():
    """The nodes there are besides the head, by their type's name."""
    alive = [node["Resources"] for node in ray.nodes() if node["Alive"] and node["NodeID"] != FAKE_HEAD_NODE_ID]
    names = {"accelerator_type:A100": "a100", "accelerator_type:H100": "h100"}
    return sorted(next((names[key] for key in names if key in resources), "cpu") for resources in alive)


def becomes(expected, what):
    """Waits until just those nodes are there; prints how long it took."""
    began_s = time.monotonic()
    while (there := kinds()) != expected:
        assert time.monotonic() - began_s < CHANGE_S, f"{what}: nodes {there}, expected {expected}"
        time.sleep(0.5)
    print(json.dumps({"what": what, "nodes": expected, "after_s": round(time.monotonic() - began_s, 1)}), flush=True)


def job_brings_its_nodes(folder):
    """The real job on a cluster in which nothing can run: two trainers of two bring two nodes of the right kind."""
    documents = folder / "documents"
    documents.mkdir()
    for name, text in TEXTS.items():
        (documents / name).write_text(text)
    arguments = ["jobs/run_seeds.py", "--track", "tests.support.quick_track:quick", "--checkpoints", "every:2"]
    arguments += ["--documents", documents, "--seeds", "0-7", "--trainers", "2", "--workers-per-trainer", "2"]
    arguments += ["--evaluators", "2", "--start-timeout-s", str(CHANGE_S), "--output", folder / "set"]
    assert kinds() == []
    job = Program(list(map(str, arguments)), folder / "job.txt", RAY_ADDRESS=ADDRESS)
    becomes(["cpu", "cpu"], "two trainers of two CPUs wait")
    code = job.wait(600)
    assert code == 0, job.output
    assert all(f"leased to trainer-{number}" in job.output for number in range(2)), job.output
    assert kinds() == ["cpu", "cpu"], "a node left under a trainer, or one came that nobody asked for"
    assert check(folder / "set", range(8)) == []
    becomes([], "the job has ended")


async def trainers_bring_gpus_of_their_type(folder):
    """Trainers that ask for H100s bring H100s, as many as there may be; their evaluators bring nothing."""
    register = Register.remote()

    def start(trainer):
        return fit.options(label_selector={"ray.io/node-id": FAKE_HEAD_NODE_ID}).remote(
            register, trainer, TWO, "H100", str(folder / "storage")
        )

    trainers = {"first": start("first")}
    becomes(["h100"], "a trainer of two H100s waits")
    (node, *_), *_ = (await placed(register, "first", 2)).values()
    pool = EvaluatorPool("", 2, 1, TWO.gpus_per_evaluator, evaluator=Flaky)
    pool.place_beside("first", node)
    await ready(pool, 2)
    trainers["second"] = start("second")
    becomes(["h100", "h100"], "another one waits")
    await placed(register, "second", 2)
    trainers["third"] = start("third")  # no third node of its type may come, and A100s are not asked for
    await asyncio.sleep(20)
    assert kinds() == ["h100", "h100"]
    assert "third" not in ray.get(register.all.remote())
    ray.get(register.stop.remote("second"))
    ray.get(trainers["second"])
    await placed(register, "third", 2)
    print(json.dumps({"what": "a third one has the second's place", "nodes": kinds()}), flush=True)
    ray.get(register.stop.remote("third"))
    ray.get(trainers["third"])
    # Its idle node may stay while the first trains: Ray Train asks for the first's resources by `request_resources` as
    # well, and Ray's autoscaler may count them on either node.
    ray.get(register.stop.remote("first"))
    ray.get(trainers["first"])
    for member in pool.members:
        ray.kill(member.actor)
    becomes([], "all trainers and the evaluators have ended")


def main():
    if len(sys.argv) > 1:  # in the namespaces
        folder = Path(sys.argv[1])
        with head(folder):
            job_brings_its_nodes(folder)
            asyncio.run(trainers_bring_gpus_of_their_type(folder))
            assert [node["NodeID"] for node in ray.nodes() if node["Alive"]] == [FAKE_HEAD_NODE_ID]
        return
    if reason := possible():
        sys.exit(f"error: {reason}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # takes the namespaces down as well
    folder = Path(tempfile.mkdtemp(prefix="dc-auto-"))
    os.environ.update(HOME=str(folder), XDG_CACHE_HOME=f"{folder}/cache", OMP_NUM_THREADS="1")
    os.environ.update(RAY_AUTH_MODE="disabled", RAY_USAGE_STATS_ENABLED="0", RAY_worker_niceness="0")
    os.environ.update(RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO="0")
    if code := in_namespaces(folder):
        sys.exit(f"error: exit code {code}; what was said is in {folder}")
    print("autoscaled: trainers bring nodes of their type, idle nodes leave")
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
