"""The trainers of a job: a Ray Train run each, started again while the dispatcher says so."""

import uuid
from functools import partial
from typing import TYPE_CHECKING, Any

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from discreteness.cluster.rays_words import in_one_line
from discreteness.cluster.topology import Topology
from discreteness.service.job import Job, TrainerSpec
from discreteness.service.timeouts import PROCESS_GROUP_TIMEOUT_S

if TYPE_CHECKING:
    from ray.train import ScalingConfig


def train(spec: TrainerSpec) -> None:
    """Runs on every worker of a trainer. What trains is imported there alone: it takes seconds."""
    from discreteness.service.trainer_worker import train_seeds

    train_seeds(spec)


class Trainers:
    """Runs any number of trainers, a thread each: one process for all of them, beside the driver.

    Not in the driver itself: its threads would still be inside Ray when a signal makes the main thread shut Ray down,
    which ends the process with code 1 and leaves others behind.
    """

    def __init__(self, dispatcher: Any, job: Job, scratch: str):
        self.dispatcher = dispatcher
        self.job = job
        self.scratch = scratch

    def run(self, name: str) -> None:
        """One trainer, until there is nothing left to train or the dispatcher gives it up."""
        while ray.get(self.dispatcher.leave.remote(name, self._fit(name))):
            pass

    def _fit(self, name: str) -> str:
        """One fit(); what ended it, "" when there was nothing left to train."""
        from ray import train as ray_train  # here: it takes seconds, which the driver has no need to wait for
        from ray.train import torch as ray_train_torch

        topology = self.job.topology
        spec = TrainerSpec(name=name, dispatcher=self.dispatcher, job=self.job)
        trainer = ray_train_torch.TorchTrainer(
            partial(train, spec),  # not in a configuration, which Ray Train's own actors would read
            torch_config=ray_train_torch.TorchConfig(
                backend="cpu:gloo,cuda:nccl" if topology.use_gpu else "gloo", timeout_s=PROCESS_GROUP_TIMEOUT_S
            ),
            scaling_config=scaling(topology, self.job.run.gpu_type),
            run_config=ray_train.RunConfig(
                # A unique name: with an old one Train would restore what it remembers of that run.
                name=f"{name}-{uuid.uuid4().hex[:8]}",
                storage_path=self.scratch,
                # Worker failures: Train restarts, the dispatcher counts. A trainer that finds no place in time is
                # told so at once, not tried for ever. (mypy sees Train V1's class, which has no such limit.)
                failure_config=ray_train.FailureConfig(max_failures=-1, controller_failure_limit=0),  # type: ignore[call-arg]
            ),
        )
        try:
            trainer.fit()
        except (ray_train.TrainingFailedError, RayError) as error:
            asked = f"{topology.workers_per_trainer} x {worker_resources(topology)} on one node"
            return f"{in_one_line(error)} (asked: {asked}; the cluster has {ray.cluster_resources()})"
        return ""


def worker_resources(topology: Topology) -> dict[str, float]:
    """What one worker reserves: the rest of its GPU is for evaluators."""
    return {"CPU": 1.0} | ({"GPU": topology.gpus_per_worker} if topology.use_gpu else {})


def scaling(topology: Topology, gpu_type: str | None) -> "ScalingConfig":
    """A trainer's place: all its workers on one node, with GPUs of that type if one is named."""
    from ray.train import ScalingConfig

    return ScalingConfig(
        num_workers=topology.workers_per_trainer,
        use_gpu=topology.use_gpu,
        resources_per_worker=worker_resources(topology),
        placement_strategy="STRICT_PACK",
        accelerator_type=gpu_type,
    )


def start_trainers(dispatcher: Any, job: Job, scratch: str) -> tuple[Any, list[ray.ObjectRef]]:
    """Starts the job's trainers. Returns the actor, which lives as long as it is held, and for each trainer a reference
    that is ready when it has ended for good."""
    environment = {
        "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": str(job.run.start_timeout_s),
        "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
        "RAY_CHDIR_TO_TRIAL_DIR": "0",
        "RAY_TRAIN_ENABLE_STATE_TRACKING": "1",  # runs, attempts and workers, to be asked of the dashboard
    }
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    trainers: Any = (
        ray.remote(Trainers)
        .options(
            name="trainers",
            num_cpus=0,
            max_concurrency=job.num_trainers,
            scheduling_strategy=here,
            runtime_env={"env_vars": environment},
        )
        .remote(dispatcher, job, scratch)
    )
    return trainers, [trainers.run.remote(f"trainer-{number}") for number in range(job.num_trainers)]
