"""where trainers and evaluators find their places: six nodes, more trainers than fit, mixed GPUs, shares of a GPU.

`python -m tests.chaos.scheduling`, a part of `make chaos`. Two clusters: machines in namespaces with the whole service
on them, and one with GPUs that are only numbers, on which trainers and evaluators take their places and compute
nothing.
"""

import asyncio
import os
import re
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import ray
from ray.cluster_utils import Cluster
from ray.train.torch import TorchConfig, TorchTrainer

from discreteness.service.evaluator_pool import EvaluatorPool
from discreteness.service.trainers import scaling
from tests.chaos.campaign import Stage
from tests.chaos.checker import check
from tests.chaos.machines import Machines, possible
from tests.support.flaky_evaluator import Flaky
from tests.support.job_case import ONE_TRAINER

PLACED_S = 400
EIGHT = replace(ONE_TRAINER, workers_per_trainer=8, gpus_per_worker=0.9, evaluators=8, gpus_per_evaluator=0.1)


def trainers_wait_for_room(folder):
    """Head and four machines, five trainers of two: four train, the fifth does as soon as there is a fifth machine."""
    stage = Stage(folder, 0, 2, Machines(folder, 4), num_seeds=400)
    try:
        stage.trainers = 5
        stage.start()
        until(lambda: len(leased(stage)) == 4, stage)
        time.sleep(20)
        assert len(leased(stage)) == 4, "a fifth trainer found a place that is not there"
        assert len(stage.busy()) == 4, "two trainers share a machine of two CPUs"
        assert Counter(node.name for _, node in stage.processes("ray::RayTrainWorker")).most_common(1)[0][1] == 2
        stage.machines.add()
        until(lambda: len(leased(stage)) == 5, stage)
        assert len(stage.busy()) == 5
        assert len(stage.machines.nodes) + 1 == 6
        num_seeds = 1 + max(int(path.stem.removeprefix("seed=")) for path in stage.files())
        os.kill(stage.job.process.pid, 15)
        stage.job.wait(60)
        stage.start(num_seeds)
        assert stage.job.wait(400) == 0, stage.job.output
        assert check(stage.dataset, range(num_seeds)) == []
    finally:
        stage.close()


def leased(stage):
    return set(re.findall(r"leased to (\S+)", stage.job.output))


def until(true, stage):
    deadline_s = time.monotonic() + PLACED_S
    while not true():
        assert stage.job.process.poll() is None and time.monotonic() < deadline_s, stage.job.output
        time.sleep(0.5)


@ray.remote(num_cpus=0)
class Register:
    """Where the ranks of trainers are, and a stop for those that hold their place."""

    def __init__(self):
        self.places, self.go = {}, set()

    def here(self, trainer, rank, node, gpus, pid):
        self.places.setdefault(trainer, {})[rank] = (node, gpus, pid)

    def all(self):
        return self.places

    def stop(self, trainer):
        self.go.add(trainer)

    def stopped(self, trainer):
        return trainer in self.go


def hold(config):
    """A trainer that trains nothing: each rank says where it is and stays until it is told to go."""
    register, trainer = config["register"], config["trainer"]
    rank = ray.train.get_context().get_world_rank()
    here = ray.get_runtime_context()
    gpus = sorted(here.get_accelerator_ids()["GPU"])
    ray.get(register.here.remote(trainer, rank, here.get_node_id(), gpus, os.getpid()))
    while not ray.get(register.stopped.remote(trainer)):
        time.sleep(0.2)


@ray.remote(num_cpus=0)
def fit(register, trainer, topology, gpu_type, storage):
    os.environ["RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"] = str(PLACED_S)
    trainer = TorchTrainer(
        hold,
        train_loop_config={"register": register, "trainer": trainer},
        torch_config=TorchConfig("gloo"),  # there are no GPUs to speak NCCL with
        scaling_config=scaling(topology, gpu_type),
        run_config=ray.train.RunConfig(
            name=trainer, storage_path=storage, failure_config=ray.train.FailureConfig(max_failures=-1)
        ),
    )
    trainer.fit()


async def places_on_a_mixed_cluster(folder):
    """Eight workers on one node of the right type, evaluators on the rest of its GPUs, also after both restart."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "num_gpus": 0})
    nodes = {}
    for name, kind in (("a", "A100"), ("h", "H100"), ("c", None)):
        gpus = {"num_gpus": 8, "resources": {f"accelerator_type:{kind}": 1}} if kind else {}
        nodes[name] = cluster.add_node(num_cpus=8, object_store_memory=80 << 20, **gpus).node_id
    os.environ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "0"
    ray.init(address=cluster.address)
    try:
        register = Register.remote()

        def start(trainer, topology=EIGHT, kind="H100"):
            return fit.remote(register, trainer, topology, kind, folder)

        first = start("first")
        places = await placed(register, "first", 8)
        assert {node for node, *_ in places.values()} == {nodes["h"]}
        assert Counter(gpu for _, gpus, _ in places.values() for gpu in set(gpus)).most_common(1)[0][1] == 1
        pool = EvaluatorPool("", 8, 1, EIGHT.gpus_per_evaluator, evaluator=Flaky)
        pool.place_beside("first", nodes["h"])
        await ready(pool, 8)
        free = ray.available_resources()
        assert free["GPU"] < 8.01, "the evaluators are not on the trainer's GPUs"
        second = start("second")  # waits: the only node of its type is taken
        await asyncio.sleep(15)
        assert "second" not in ray.get(register.all.remote())
        nodes["h2"] = cluster.add_node(num_cpus=8, num_gpus=8, resources={"accelerator_type:H100": 1}).node_id
        places = await placed(register, "second", 8)
        assert {node for node, *_ in places.values()} == {nodes["h2"]}
        # An evaluator dies: its successor takes the same share of the same node.
        ray.kill(pool.members[0].actor)
        failed = pool.score("first", ray.put(b""), type("Header", (), {"step": 1}))
        await asyncio.wait_for(failed, 60)
        await ready(pool, 8)
        # A rank of the trainer dies: Ray Train gives the place back and takes it again, beside the evaluators.
        before = {pid for *_, pid in (await placed(register, "first", 8)).values()}
        os.kill(min(before), signal.SIGKILL)
        places = await placed(register, "first", 8, besides=before)
        assert {node for node, *_ in places.values()} == {nodes["h"]}
        assert pool.ready() == 8
        for trainer in ("first", "second"):
            ray.get(register.stop.remote(trainer))
        ray.get([first, second])
    finally:
        ray.shutdown()
        cluster.shutdown()


async def placed(register, trainer, ranks, besides=frozenset()):
    """rank -> (node, GPUs, process id) when all have their places, in processes `besides` the given ones."""
    deadline_s = time.monotonic() + PLACED_S
    while True:
        there = ray.get(register.all.remote()).get(trainer, {})
        there = {rank: place for rank, place in there.items() if place[2] not in besides}
        if len(there) == ranks:
            return there
        assert time.monotonic() < deadline_s, f"{trainer}: {len(there)} of {ranks} ranks have a place"
        await asyncio.sleep(0.5)


async def ready(pool, count):
    deadline_s = time.monotonic() + PLACED_S
    while pool.ready() < count:
        assert time.monotonic() < deadline_s, f"{pool.ready()} of {count} evaluators are ready"
        await asyncio.sleep(0.5)


def main():
    """One of the two parts by its name, or both."""
    parts = sys.argv[1:] or ["mixed", "six"]
    folder = Path(tempfile.mkdtemp(prefix="dc-places-"))
    os.environ.update(HOME=str(folder), XDG_CACHE_HOME=f"{folder}/cache", OMP_NUM_THREADS="1")
    os.environ.update(RAY_AUTH_MODE="disabled", RAY_USAGE_STATS_ENABLED="0")
    if "mixed" in parts:
        asyncio.run(places_on_a_mixed_cluster(str(folder)))
        print("mixed cluster: every trainer on one node of its type, evaluators on the rest of its GPUs")
    if "six" in parts:
        if reason := possible():
            sys.exit(f"error: {reason}")
        trainers_wait_for_room(folder)
        print("six nodes: a trainer more than fits waits and starts when a node comes")
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
