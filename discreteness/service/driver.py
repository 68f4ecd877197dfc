"""configuration -> a finished experiment: starts dispatcher and trainer groups, shows progress, returns a code."""

import os
import signal
import sys
import tempfile
import threading
import time
import uuid
from typing import Any, NoReturn

import ray
from ray.exceptions import RayActorError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from discreteness.cluster.hardware import peak_flop_s
from discreteness.cluster.machines import Cluster, find_cluster, start_local
from discreteness.cluster.topology import Topology, choose
from discreteness.dataset.lock import DatasetLock, LockLost
from discreteness.dataset.writer import DatasetWriter
from discreteness.experiment.config import RunConfig
from discreteness.experiment.prepare import Experiment, open_dataset, prepare, shared_row_warning
from discreteness.service.dispatcher import Dispatcher
from discreteness.service.evaluator_pool import EvaluatorPool
from discreteness.service.log import Log, last_line
from discreteness.service.messages import Progress
from discreteness.service.metrics import Exporter
from discreteness.service.progress import Reporter
from discreteness.service.timeouts import ANSWER_S, LEAVE_S
from discreteness.service.trainer_groups import start_groups

POLL_S = 1.0


class Interrupted(Exception):
    """SIGINT or SIGTERM has come."""

    def __init__(self, signum: int):
        super().__init__(signal.Signals(signum).name)
        self.exit_code = 128 + signum


class Signals:
    """Notes SIGINT and SIGTERM; the main thread looks between two calls of Ray, also at the dataset's lock.

    An exception raised by the handler itself may come up inside Ray's own code, which then ends the process with code 1
    and without a word.
    """

    def __init__(self) -> None:
        self.arrived = threading.Event()
        self.signum = 0
        self.lock: DatasetLock | None = None
        """Of the dataset, once it is held."""

    def install(self) -> None:
        """Also again after ray.init, which replaces the handlers."""
        for signum in (signal.SIGINT, signal.SIGTERM):
            signal.signal(signum, self._note)

    def check(self, wait_s: float = 0) -> None:
        """Raises Interrupted if a signal has come, or comes within `wait_s`; LockLost if the dataset was taken over."""
        if self.arrived.wait(wait_s):
            raise Interrupted(self.signum)
        if self.lock:
            self.lock.check()

    def _note(self, signum: int, _frame: Any) -> None:
        self.signum = self.signum or signum
        self.arrived.set()


def run(config: RunConfig) -> int:
    """0 when every planned seed is committed, 1 when not, 128 + n after signal n. ValueError: the input is wrong."""
    with Log(config.log_format) as log:
        return _run(config, log)


def _run(config: RunConfig, log: Log) -> int:
    config.check()  # before a cluster is joined
    cluster = find_cluster(job_metadata(config))
    experiment = prepare(config, cluster.track(config.track))
    topology = choose(experiment, config, cluster)
    for line in topology.report:
        log.say(line, "plan")
    if warning := shared_row_warning(experiment):
        log.say(f"warning: {warning}", "plan", level="warning")
    if config.dry_run:
        return 0
    signals = Signals()
    signals.install()
    with DatasetLock(config.output, take_over=config.take_over) as signals.lock:
        dataset = open_dataset(experiment, config)
        committed = dataset.committed()
        todo = [seed for seed in experiment.seeds if seed not in committed]
        if not todo:
            log.say(f"all {len(experiment.seeds)} seeds are committed in {config.output}: nothing to do", "finished")
            return 0
        if len(todo) < len(experiment.seeds):
            log.say(f"{len(experiment.seeds) - len(todo)} of {len(experiment.seeds)} seeds are committed already")
        dataset.log_job(experiment.seeds, config.max_attempts)
        try:
            with tempfile.TemporaryDirectory(prefix="discreteness-") as scratch:
                return _run_on_ray(config, log, experiment, topology, cluster, dataset, todo, scratch, signals)
        except Interrupted as interrupt:
            text = f"{interrupt}: stopped. Committed seeds are kept; the same command goes on from there."
            log.say(text, "interrupted", level="warning")
            return interrupt.exit_code
        except LockLost as loss:
            log.say(f"{loss}: stopped", "taken over", level="error")
            return 1


def job_metadata(config: RunConfig) -> dict[str, str]:
    """What tells this job from others in Ray's list of jobs."""
    return {"output": config.output, "track": config.track, "seeds": config.seeds}


def _run_on_ray(
    config: RunConfig,
    log: Log,
    experiment: Experiment,
    topology: Topology,
    cluster: Cluster,
    dataset: DatasetWriter,
    todo: list[int],
    scratch: str,
    signals: Signals,
) -> int:
    reporter = Reporter(log, experiment, num_done=len(experiment.seeds) - len(todo))
    if cluster.local:
        address = start_local(cluster, topology.declared_cpus, job_metadata(config))
        cores = int(cluster.nodes[0].cpus)
        note = f", {topology.declared_cpus} CPUs declared on {cores} cores" if topology.declared_cpus > cores else ""
        log.say(f"Ray started on this machine{note}; dashboard http://{address}")
    signals.install()
    signals.check()
    num_groups = min(topology.trainers, len(todo))
    pool = EvaluatorPool(experiment, topology.evaluators, num_groups, topology.gpus_per_evaluator)
    dispatcher: Any = (
        ray.remote(Dispatcher)
        .options(
            num_cpus=0,
            name="dispatcher",
            namespace=uuid.uuid4().hex,
            max_concurrency=100_000,
            # It writes the dataset: on this machine, where a path means what the user meant.
            scheduling_strategy=NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False),
        )
        .remote(dataset, todo, experiment, pool, config.max_attempts)
    )
    gpu_types = {config.gpu_type} if config.gpu_type else {node.gpu_type for node in cluster.nodes if node.gpus}
    exporter = Exporter(
        experiment,
        dataset.uri,
        num_done=len(experiment.seeds) - len(todo),
        num_groups=num_groups,
        num_evaluators=topology.evaluators,
        peak_flop_s=peak_flop_s(gpu_types) if topology.use_gpu else None,
    )
    actor, groups = start_groups(dispatcher, config, experiment, topology, scratch, num_groups)
    try:
        progress = _watch(dispatcher, groups, (reporter, exporter), signals)
    except (RayActorError, TimeoutError) as error:
        text = f"the dispatcher died: {last_line(error)}. Committed seeds are kept; run the same command again."
        log.say(text, "dispatcher died", level="error")
        return 1
    finally:
        reporter.close()
        ray.kill(dispatcher)  # the one writer is gone before the lock is
        ray.kill(actor)
    return _conclude(progress, experiment, dataset, log)


def _watch(
    dispatcher: Any, groups: list[ray.ObjectRef], shown_by: tuple[Reporter, Exporter], signals: Signals
) -> Progress:
    """Shows progress until every seed is committed or failed, or no group is left to train one."""
    reporter, exporter = shown_by
    while True:
        asked = dispatcher.progress.remote(reporter.events_seen)
        give_up_s = time.monotonic() + ANSWER_S
        while not ray.wait([asked], timeout=POLL_S)[0]:
            signals.check()
            if time.monotonic() > give_up_s:
                raise TimeoutError(f"it has not answered for {ANSWER_S} s")
        progress: Progress = ray.get(asked)
        reporter.show(progress)
        exporter.show(progress)
        if progress.done or not _running(groups):
            break
        signals.check(wait_s=POLL_S)
    patience_s = time.monotonic() + LEAVE_S
    while _running(groups) and time.monotonic() < patience_s:
        signals.check(wait_s=0.2)  # workers hear "stop" at their next lease and leave in order
    for group in ray.wait(groups, num_returns=len(groups), timeout=0)[0]:
        try:
            ray.get(group)
        except RayError as error:  # a slot that ended otherwise than its own errors let it
            text = f"a trainer group could not run: {last_line(error)}"
            reporter.log.say(text, "group given up", level="error")
    progress = ray.get(dispatcher.progress.remote(reporter.events_seen), timeout=60)
    reporter.show(progress)
    exporter.show(progress)
    return progress


def _running(groups: list[ray.ObjectRef]) -> bool:
    return len(ray.wait(groups, num_returns=len(groups), timeout=0)[0]) < len(groups)


def _conclude(progress: Progress, experiment: Experiment, dataset: DatasetWriter, log: Log) -> int:
    committed = dataset.committed()
    done = [seed for seed in experiment.seeds if seed in committed]
    rows = len(done) * len(experiment.plan) * len(experiment.documents)
    log.say(
        f"seeds committed {len(done)}/{len(experiment.seeds)} ({rows} rows); "
        f"checkpoints scored {progress.checkpoints}; attempts lost {progress.attempts_lost}; "
        f"evaluators lost {progress.evaluators_lost}; training waited {progress.stall_s:.1f} s for credits",
        "finished",
    )
    for seed, error in sorted(progress.failed.items()):
        log.say(f"seed {seed} FAILED: {error}", "seed failed", level="error", seed=seed)
    for group, reason in sorted(progress.groups_ended.items()):
        if reason:
            log.say(f"{group} was given up: {reason}", "group given up", level="error", group=group)
    log.say(f"dataset: {dataset.uri}")
    return 0 if len(done) == len(experiment.seeds) else 1


def leave(code: int) -> NoReturn:
    """Disconnects from Ray and ends the process at once, whatever threads are left."""
    ray.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
