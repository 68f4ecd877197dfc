"""trainer slots -> Ray Train runs, each started again while the dispatcher says so."""

import uuid
from functools import partial
from typing import TYPE_CHECKING, Any

import ray
from ray.exceptions import RayActorError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from discreteness.cluster.topology import Topology
from discreteness.experiment.config import RunConfig
from discreteness.experiment.prepare import Experiment
from discreteness.service.log import last_line
from discreteness.service.messages import GroupSpec
from discreteness.service.timeouts import PROCESS_GROUP_TIMEOUT_S

if TYPE_CHECKING:
    from ray.train import ScalingConfig


def train(spec: GroupSpec) -> None:
    """Runs on every worker of a group. What trains is imported there alone: it takes seconds."""
    from discreteness.service.trainer_worker import train_group

    train_group(spec)


class TrainerGroups:
    """Runs any number of groups, a thread each: one process for all of them, beside the driver.

    Not in the driver itself: its threads would still be inside Ray when a signal makes the main thread shut Ray down,
    which ends the process with code 1 and leaves others behind.
    """

    def __init__(self, dispatcher: Any, config: RunConfig, experiment: Experiment, topology: Topology, scratch: str):
        self.dispatcher = dispatcher
        self.config = config
        self.experiment = experiment
        self.topology = topology
        self.scratch = scratch

    def run(self, name: str) -> None:
        """One slot, until there is nothing left to train or the dispatcher gives the slot up."""
        while ray.get(self.dispatcher.leave.remote(name, self._fit(name))):
            pass

    def _fit(self, name: str) -> str:
        """One fit(); what ended it, "" when there was nothing left to train."""
        from ray import train as ray_train  # here: it takes seconds, which the driver has no need to wait for
        from ray.train import torch as ray_train_torch

        topology = self.topology
        spec = GroupSpec(
            name=name,
            dispatcher=self.dispatcher,
            experiment=self.experiment,
            max_in_flight=self.config.max_in_flight,
            verify_every=self.config.verify_every,
            use_gpu=topology.use_gpu,
        )
        trainer = ray_train_torch.TorchTrainer(
            partial(train, spec),  # not in a configuration, which Ray Train's own actors would read
            torch_config=ray_train_torch.TorchConfig(
                backend="cpu:gloo,cuda:nccl" if topology.use_gpu else "gloo", timeout_s=PROCESS_GROUP_TIMEOUT_S
            ),
            scaling_config=scaling(topology, self.config.gpu_type),
            run_config=ray_train.RunConfig(
                # A unique name: with an old one Train would restore what it remembers of that run.
                name=f"{name}-{uuid.uuid4().hex[:8]}",
                storage_path=self.scratch,
                # Worker failures: Train restarts, the dispatcher counts. A group that finds no place in time is
                # told so at once, not tried for ever. (mypy sees Train V1's class, which has no such limit.)
                failure_config=ray_train.FailureConfig(max_failures=-1, controller_failure_limit=0),  # type: ignore[call-arg]
            ),
        )
        try:
            trainer.fit()
        except (ray_train.TrainingFailedError, RayActorError) as error:
            asked = f"{topology.workers_per_trainer} x {worker_resources(topology)} on one node"
            return f"{last_line(error)} (asked: {asked}; the cluster has {ray.cluster_resources()})"
        return ""


def worker_resources(topology: Topology) -> dict[str, float]:
    """What one worker reserves: the rest of its GPU is for evaluators."""
    return {"CPU": 1.0} | ({"GPU": topology.gpus_per_worker} if topology.use_gpu else {})


def scaling(topology: Topology, gpu_type: str | None) -> "ScalingConfig":
    """A group's place: all its workers on one node, with GPUs of that type if one is named."""
    from ray.train import ScalingConfig

    return ScalingConfig(
        num_workers=topology.workers_per_trainer,
        use_gpu=topology.use_gpu,
        resources_per_worker=worker_resources(topology),
        placement_strategy="STRICT_PACK",
        accelerator_type=gpu_type,
    )


def start_groups(
    dispatcher: Any,
    config: RunConfig,
    experiment: Experiment,
    topology: Topology,
    scratch: str,
    num_groups: int,
) -> tuple[Any, list[ray.ObjectRef]]:
    """Starts the groups. Returns the actor, which lives as long as it is held, and for each group a reference that is
    ready when the group has ended for good."""
    environment = {
        "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": str(config.start_timeout_s),
        "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
        "RAY_CHDIR_TO_TRIAL_DIR": "0",
        "RAY_TRAIN_ENABLE_STATE_TRACKING": "1",  # the groups, their attempts and workers, to be asked of the dashboard
    }
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    groups: Any = (
        ray.remote(TrainerGroups)
        .options(
            name="trainer-groups",
            num_cpus=0,
            max_concurrency=num_groups,
            scheduling_strategy=here,
            runtime_env={"env_vars": environment},
        )
        .remote(dispatcher, config, experiment, topology, scratch)
    )
    return groups, [groups.run.remote(f"trainer-{number}") for number in range(num_groups)]
