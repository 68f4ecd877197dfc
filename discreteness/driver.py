"""configuration -> a finished experiment: starts dispatcher and trainer groups, shows progress, returns a code."""

import contextlib
import os
import signal
import sys
import tempfile
import threading
import time
import uuid
from typing import Any, NoReturn

import ray
from ray.exceptions import RayActorError
from ray.train import FailureConfig, ScalingConfig, TrainingFailedError
from ray.train import RunConfig as TrainRunConfig
from ray.train.torch import TorchConfig, TorchTrainer

from discreteness.cluster import Cluster, join_or_look, start_local
from discreteness.config import RunConfig
from discreteness.dataset import Dataset
from discreteness.dispatcher import Dispatcher, Progress
from discreteness.experiment import Experiment, open_dataset, prepare, shared_row_warning
from discreteness.lock import DatasetLock
from discreteness.pool import EvaluatorPool, last_line
from discreteness.progress import Reporter
from discreteness.topology import Topology, choose
from discreteness.trainers import PROCESS_GROUP_TIMEOUT_S, GroupSpec, train_group

POLL_S = 1.0


class Interrupted(BaseException):
    """SIGINT or SIGTERM has come; not an Exception, so that nothing on the way takes it for a failure."""

    def __init__(self, signum: int):
        super().__init__(signal.Signals(signum).name)
        self.exit_code = 128 + signum


def run(config: RunConfig) -> int:
    """0 when every planned seed is committed, 1 when not, 128 + n after signal n. ValueError: the input is wrong."""
    config.check()  # before a cluster is joined
    cluster = join_or_look()
    experiment = prepare(config, cluster.track(config.track))
    topology = choose(experiment, config, cluster)
    for line in topology.report:
        print(line)
    if warning := shared_row_warning(experiment):
        print(f"warning: {warning}")
    if config.dry_run:
        return 0
    _raise_on_signals()
    with DatasetLock(config.output, take_over=config.take_over):
        dataset = open_dataset(experiment, config)
        committed = dataset.committed()
        todo = [seed for seed in experiment.seeds if seed not in committed]
        if not todo:
            print(f"all {len(experiment.seeds)} seeds are committed in {config.output}: nothing to do")
            return 0
        if len(todo) < len(experiment.seeds):
            print(f"{len(experiment.seeds) - len(todo)} of {len(experiment.seeds)} seeds are committed already")
        try:
            with tempfile.TemporaryDirectory(prefix="discreteness-") as scratch:
                return _run_on_ray(config, experiment, topology, cluster, dataset, todo, scratch)
        except Interrupted as interrupt:
            print(f"{interrupt}: stopped. Committed seeds are kept; the same command goes on from there.")
            return interrupt.exit_code


def _run_on_ray(
    config: RunConfig,
    experiment: Experiment,
    topology: Topology,
    cluster: Cluster,
    dataset: Dataset,
    todo: list[int],
    scratch: str,
) -> int:
    reporter = Reporter(experiment, num_done=len(experiment.seeds) - len(todo))
    if cluster.local:
        address = start_local(cluster, topology.declared_cpus)
        cores = int(cluster.nodes[0].cpus)
        note = f", {topology.declared_cpus} CPUs declared on {cores} cores" if topology.declared_cpus > cores else ""
        reporter.say(f"Ray started on this machine{note}; dashboard http://{address}")
    _raise_on_signals()
    pool = EvaluatorPool(experiment, topology.evaluators, topology.gpus_per_evaluator)
    dispatcher: Any = (
        ray.remote(Dispatcher)
        .options(num_cpus=0, name="dispatcher", namespace=uuid.uuid4().hex, max_concurrency=100_000)
        .remote(dataset, todo, experiment, pool, config.max_attempts)
    )
    groups = [
        TrainerGroup(f"trainer-{number}", dispatcher, config, experiment, topology, scratch)
        for number in range(min(topology.trainers, len(todo)))
    ]
    try:
        for group in groups:
            group.start()
        progress = _watch(dispatcher, groups, reporter)
    except RayActorError as error:
        reporter.say(f"the dispatcher died: {last_line(error)}. Committed seeds are kept; run the same command again.")
        return 1
    finally:
        reporter.close()
        ray.kill(dispatcher)  # the one writer is gone before the lock is
    return _conclude(progress, experiment, dataset, reporter)


def _watch(dispatcher: Any, groups: list["TrainerGroup"], reporter: Reporter) -> Progress:
    """Shows progress until every seed is committed or failed, or no group is left to train one."""
    while True:
        progress: Progress = ray.get(dispatcher.progress.remote(reporter.events_seen))
        reporter.show(progress)
        if progress.done or not any(group.is_alive() for group in groups):
            break
        time.sleep(POLL_S)
    for group in groups:  # workers hear "stop" at their next lease and leave in order
        group.join(timeout=30)
    progress = ray.get(dispatcher.progress.remote(reporter.events_seen))
    reporter.show(progress)
    return progress


def _conclude(progress: Progress, experiment: Experiment, dataset: Dataset, reporter: Reporter) -> int:
    committed = dataset.committed()
    done = [seed for seed in experiment.seeds if seed in committed]
    rows = len(done) * len(experiment.plan) * len(experiment.documents)
    reporter.say(
        f"seeds committed {len(done)}/{len(experiment.seeds)} ({rows} rows); "
        f"checkpoints scored {progress.checkpoints}; attempts lost {progress.attempts_lost}; "
        f"evaluators lost {progress.evaluators_lost}; training waited {progress.stall_s:.1f} s for credits"
    )
    for seed, error in sorted(progress.failed.items()):
        reporter.say(f"seed {seed} FAILED: {error}")
    for group, reason in sorted(progress.groups_ended.items()):
        if reason:
            reporter.say(f"{group} was given up: {reason}")
    reporter.say(f"dataset: {dataset.uri}")
    return 0 if len(done) == len(experiment.seeds) else 1


class TrainerGroup(threading.Thread):
    """One slot: a Ray Train run that trains seed after seed, started again while the dispatcher says so."""

    def __init__(
        self, name: str, dispatcher: Any, config: RunConfig, experiment: Experiment, topology: Topology, scratch: str
    ):
        super().__init__(name=name, daemon=True)
        self.dispatcher = dispatcher
        self.config = config
        self.topology = topology
        self.scratch = scratch
        self.spec = GroupSpec(
            name=name,
            dispatcher=dispatcher,
            experiment=experiment,
            max_in_flight=config.max_in_flight,
            verify_every=config.verify_every,
            use_gpu=topology.use_gpu,
        )

    def run(self) -> None:
        with contextlib.suppress(RayActorError):  # the dispatcher is gone: the main thread says so
            while True:
                reason = self._fit()
                if not ray.get(self.dispatcher.leave.remote(self.name, reason)):
                    return

    def _fit(self) -> str:
        """One fit(); what ended it, "" when there was nothing left to train."""
        # Read by Train's driver side and passed on to its controller.
        os.environ["RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"] = str(self.config.start_timeout_s)
        os.environ["RAY_TRAIN_ENABLE_PRINT_PATCH"] = "0"
        os.environ["RAY_CHDIR_TO_TRIAL_DIR"] = "0"
        topology = self.topology
        resources = {"CPU": 1.0} | ({"GPU": topology.gpus_per_worker} if topology.use_gpu else {})
        trainer = TorchTrainer(
            train_group,
            train_loop_config={"spec": self.spec},
            torch_config=TorchConfig(backend="nccl" if topology.use_gpu else "gloo", timeout_s=PROCESS_GROUP_TIMEOUT_S),
            scaling_config=ScalingConfig(
                num_workers=topology.workers_per_trainer,
                use_gpu=topology.use_gpu,
                resources_per_worker=resources,
                placement_strategy="STRICT_PACK",
                accelerator_type=self.config.gpu_type,
            ),
            run_config=TrainRunConfig(
                # A unique name: with an old one Train would restore what it remembers of that run.
                name=f"{self.name}-{uuid.uuid4().hex[:8]}",
                storage_path=self.scratch,
                # Worker failures: Train restarts, the dispatcher counts. A group that finds no place in time is
                # told so at once, not tried for ever.
                # (Types are checked against Train V1's class, which has no such limit.)
                failure_config=FailureConfig(max_failures=-1, controller_failure_limit=0),  # type: ignore[call-arg]
            ),
        )
        try:
            trainer.fit()
        except (TrainingFailedError, RayActorError) as error:
            asked = f"{topology.workers_per_trainer} x {resources} on one node"
            there = f"the cluster has {ray.cluster_resources()}" if ray.is_initialized() else "Ray is gone"
            return f"{last_line(error)} (asked: {asked}; {there})"
        return ""


def _raise_on_signals() -> None:
    """From here on SIGINT and SIGTERM raise Interrupted in the main thread. After ray.init, which replaces them."""

    def interrupt(signum: int, _frame: Any) -> None:
        for other in (signal.SIGINT, signal.SIGTERM):
            signal.signal(other, signal.SIG_IGN)  # the clean-up is not to be interrupted by impatience
        raise Interrupted(signum)

    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, interrupt)


def leave(code: int) -> NoReturn:
    """Disconnects from Ray and ends the process at once: Train's threads may be waiting for what is gone."""
    ray.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
