"""an experiment and its pair -> a dataset, and a code: starts dispatcher and trainers, and shows what they do."""

import os
import signal
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from discreteness.checkpoint.seam import Pair
from discreteness.cluster.machines import Cluster
from discreteness.cluster.rays_start import start_local
from discreteness.cluster.rays_token import token_file
from discreteness.cluster.rays_words import in_one_line, is_of_a_process
from discreteness.cluster.topology import Topology
from discreteness.dataset.lock import DatasetLock, LockLost
from discreteness.dataset.status import ranges
from discreteness.dataset.writer import DatasetWriter
from discreteness.experiment.config import RunConfig
from discreteness.experiment.recording import Recording
from discreteness.service.dispatcher import Dispatcher
from discreteness.service.evaluator_pool import EvaluatorPool
from discreteness.service.job import Job
from discreteness.service.log import Log
from discreteness.service.messages import Progress
from discreteness.service.metrics import Exporter
from discreteness.service.others_output import processes_of
from discreteness.service.progress import Reporter
from discreteness.service.timeouts import ANSWER_S, LEAVE_S
from discreteness.service.trainers import start_trainers

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


@dataclass(frozen=True, kw_only=True)
class Work:
    """What a command line comes to, before it is known what is committed already."""

    experiment: Recording
    pair: Pair
    run: RunConfig
    topology: Topology
    open_dataset: Callable[[], DatasetWriter]
    metadata: dict[str, str]
    """What tells this job from others in Ray's list of jobs."""


def drive(work: Work, cluster: Cluster, log: Log) -> int:
    """0 when every planned seed is committed, 1 when not, 128 + n after signal n."""
    run, experiment = work.run, work.experiment
    signals = Signals()
    signals.install()
    with DatasetLock(run.output, take_over=run.take_over) as signals.lock:
        dataset = work.open_dataset()
        committed = dataset.committed()
        todo = tuple(seed for seed in experiment.seeds if seed not in committed)
        if not todo:
            say_all_committed(experiment, run, log)
            return 0
        job = Job(
            experiment=experiment,
            pair=work.pair,
            run=run,
            topology=work.topology,
            seeds=todo,
            dataset_uri=dataset.uri,
        )
        if job.num_done:
            log.say(f"{job.num_done} of {len(experiment.seeds)} seeds are committed already")
        dataset.log_job(experiment.seeds, run.max_attempts)
        log.others.explained_processes = processes_of(job)
        try:
            if cluster.local:
                _start_ray(job, cluster, work.metadata, log)
            signals.install()
            signals.check()
            with tempfile.TemporaryDirectory(prefix="discreteness-") as scratch:
                return _lead(job, dataset, scratch, log, signals)
        except Interrupted as interrupt:
            text = f"{interrupt}: stopped. Committed seeds are kept; the same command goes on from there."
            log.say(text, "interrupted", level="warning")
            return interrupt.exit_code
        except LockLost as loss:
            log.say(f"{loss}: stopped", "taken over", level="error")
            return 1


def say_all_committed(experiment: Recording, run: RunConfig, log: Log) -> None:
    log.say(f"all {len(experiment.seeds)} seeds are committed in {run.output}: nothing to do", "finished")


def _start_ray(job: Job, cluster: Cluster, metadata: dict[str, str], log: Log) -> None:
    declared, cores = job.topology.declared_cpus, int(cluster.nodes[0].cpus)
    log.say("starting Ray on this machine", "starting")
    late = "this machine is busy: Ray did not start in its own 30 s, or 60 s for its dashboard; starting it again"
    address = start_local(cluster, declared, metadata, on_late=lambda: log.say(late, "starting", level="warning"))
    note = f", {declared} CPUs declared on {cores} cores" if declared > cores else ""
    token = token_file()
    asks = f" (it asks for the token in {token})" if token else ""
    log.say(f"Ray started on this machine{note}; dashboard http://{address}{asks}")


def _lead(job: Job, dataset: DatasetWriter, scratch: str, log: Log, signals: Signals) -> int:
    """Starts dispatcher and trainers, and shows what they do until nothing is left to train."""
    reporter, exporter = Reporter(log, job), Exporter(job)
    topology = job.topology
    pool = EvaluatorPool(
        job.pair,
        topology.evaluators,
        job.num_trainers,
        topology.gpus_per_evaluator,
        call_timeout_s=job.pair.call_timeout_s,
        stays=job.pair.stays_on_its_machine,
    )
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
        .remote(job, dataset, pool)
    )
    workers = topology.workers_per_trainer
    log.say(
        f"starting {job.num_trainers} trainer{'s' if job.num_trainers > 1 else ''} of {workers} "
        f"process{'es' if workers > 1 else ''}, then {topology.evaluators} "
        f"evaluator{'s' if topology.evaluators > 1 else ''}; each process loads PyTorch first",
        "starting",
    )
    actor, trainers = start_trainers(dispatcher, job, scratch)
    try:
        progress = _watch(dispatcher, trainers, (reporter, exporter), signals)
    except (RayError, TimeoutError) as error:
        if isinstance(error, RayError) and not is_of_a_process(error):  # our own, with its traceback
            raise
        text = f"the dispatcher died: {in_one_line(error)}. Committed seeds are kept; run the same command again."
        log.say(text, "dispatcher died", level="error")
        return 1
    finally:
        reporter.close()
        ray.kill(dispatcher)  # the one writer is gone before the lock is
        ray.kill(actor)
    return _conclude(progress, job, dataset, log)


def _watch(
    dispatcher: Any, trainers: list[ray.ObjectRef], shown_by: tuple[Reporter, Exporter], signals: Signals
) -> Progress:
    """Shows progress until every seed is committed or failed, or no trainer is left to train one."""
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
        if progress.done or not _running(trainers):
            break
        signals.check(wait_s=POLL_S)
    patience_s = time.monotonic() + LEAVE_S
    while _running(trainers) and time.monotonic() < patience_s:
        signals.check(wait_s=0.2)  # workers hear "stop" at their next lease and leave in order
    for trainer in ray.wait(trainers, num_returns=len(trainers), timeout=0)[0]:
        try:
            ray.get(trainer)
        except RayError as error:  # it ended otherwise than its own errors let it
            text = f"a trainer could not run: {in_one_line(error)}"
            reporter.log.say(text, "trainer given up", level="error")
    progress = ray.get(dispatcher.progress.remote(reporter.events_seen), timeout=60)
    reporter.show(progress)
    exporter.show(progress)
    return progress


def _running(trainers: list[ray.ObjectRef]) -> bool:
    return len(ray.wait(trainers, num_returns=len(trainers), timeout=0)[0]) < len(trainers)


def _conclude(progress: Progress, job: Job, dataset: DatasetWriter, log: Log) -> int:
    experiment, committed = job.experiment, dataset.committed()
    done = [seed for seed in experiment.seeds if seed in committed]
    rows = len(done) * len(experiment.plan) * len(experiment.documents)
    verified = f" ({progress.counts.verified} verified)" if job.run.verify_every else ""
    log.say(
        f"seeds committed {len(done)}/{len(experiment.seeds)} ({rows} rows); "
        f"checkpoints scored {progress.counts.checkpoints}{verified}; attempts lost {progress.counts.attempts_lost}; "
        f"evaluators lost {progress.evaluators_lost}; training waited {progress.counts.stall_s:.1f} s for credits",
        "finished",
    )
    for error in sorted(set(progress.failed.values())):
        seeds = sorted(seed for seed, its_error in progress.failed.items() if its_error == error)
        who = f"seed {seeds[0]}" if len(seeds) == 1 else f"seeds {ranges(seeds)}"
        log.say(f"{who} FAILED: {error}", "seed failed", level="error", seed=seeds[0] if len(seeds) == 1 else None)
    for trainer, reason in sorted(progress.trainers_ended.items()):
        if reason:
            log.say(f"{trainer} was given up: {reason}", "trainer given up", level="error", trainer=trainer)
    log.say(f"dataset: {dataset.uri}")
    return 0 if len(done) == len(experiment.seeds) else 1


def leave(code: int) -> NoReturn:
    """Disconnects from Ray and ends the process at once, whatever threads are left."""
    ray.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
