"""this machine -> checkpoints a second through dispatcher and pool when training and scoring cost nothing.

python benchmarks/control_path.py [--trainers 1,10,100] [--checkpoints 100000] [--only trainers|plan|long|job|slow]

Real: Ray, the Dispatcher actor, the pool and its evaluator actors, references in the object store, the dataset and its
commits. Null: trainers are asyncio tasks that send a trainer's messages, evaluators answer with losses at once.
Beside each run goes a bare actor with the same clients, messages and evaluators, which passes references on and keeps
nothing: what Ray itself costs. Ratios to it hold on a busy machine too, and so does the dispatcher's own CPU time.
The last part makes evaluators slower than trainers, with checkpoints of 1 MB: what waits, and what memory that takes.
"""

import argparse
import asyncio
import os
import tempfile
import time
import uuid
from collections import deque
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import ray
from ray._private.internal_api import node_stats
from speedrun.schedules import forward_state

from discreteness.checkpoint.header import CheckpointHeader
from discreteness.cluster.connection import find_cluster
from discreteness.cluster.rays_start import start_local
from discreteness.cluster.topology import choose
from discreteness.dataset.verify import verify
from discreteness.experiment.config import ExperimentConfig, RunConfig
from discreteness.experiment.prepare import Experiment, open_dataset, prepare
from discreteness.service.dispatcher import Dispatcher
from discreteness.service.driver import leave
from discreteness.service.evaluator_pool import EvaluatorPool
from discreteness.service.job import Job
from discreteness.service.messages import Lease
from discreteness.service.speedrun_pair import SpeedrunPair

NUM_EVALUATORS = 4
CREDITS = 8
PARTS = ("trainers", "plan", "long", "job", "slow")
CHECKPOINT = np.arange(256, dtype=np.uint8)
LARGE_CHECKPOINT = np.zeros(2**20, np.uint8)
SAMPLE_S = 0.5
WARM_UP = 300
"""Checkpoints before the first figure: evaluators start, connections open."""
RECORD = {
    "train_loss": 4.5,
    "lr_multiplier": 1.0,
    "momentum": 0.95,
    "batch_tokens": 131_072,
    "short_window": 128,
    "long_window": 384,
    "step_ms": 60.0,
    "train_s": 1.0,
}


@dataclass(frozen=True, kw_only=True)
class Sample:
    """Where an actor stands. Plain data: dispatcher or relay -> this script."""

    at_s: float
    checkpoints: int
    committed: int
    cpu_s: float
    rss_bytes: int
    row_bytes: int
    """Losses of seeds not yet committed: what it must hold."""
    stall_s: float = 0.0
    """What the trainers have said they waited for credits."""
    store_bytes: int = 0

    @classmethod
    def now(cls, checkpoints: int, committed: int = 0, row_bytes: int = 0, stall_s: float = 0) -> "Sample":
        return cls(
            at_s=time.monotonic(),
            checkpoints=checkpoints,
            committed=committed,
            cpu_s=time.process_time(),
            rss_bytes=int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE"),
            row_bytes=row_bytes,
            stall_s=stall_s,
        )


class NullEvaluator:
    """Answers what an evaluator answers, at once: finite losses of all documents."""

    library = None

    def __init__(self, pair: SpeedrunPair, device: str):
        self.losses = np.linspace(0, 10, pair.experiment.num_losses, dtype=np.float32)

    def ready(self) -> int:
        return os.getpid()

    def score(self, data: np.ndarray, header: CheckpointHeader) -> np.ndarray:
        assert data.nbytes == header.num_bytes
        return self.losses + np.float32(header.step)


class SlowEvaluator(NullEvaluator):
    """Half as fast as a control path on two cores, whatever waits."""

    def score(self, data: np.ndarray, header: CheckpointHeader) -> np.ndarray:
        time.sleep(NUM_EVALUATORS * 0.01)
        return super().score(data, header)


class SampledDispatcher(Dispatcher):
    """The dispatcher, which also says what it takes."""

    async def sample(self) -> Sample:
        attempts = self.ledger.attempts.values()
        row_bytes = sum(losses.nbytes for attempt in attempts for losses in attempt.rows.losses.values())
        counts = self.ledger.counts
        return Sample.now(counts.checkpoints, len(self.ledger.committed), row_bytes, counts.stall_s)


class Relay:
    """The least that can stand in the dispatcher's place: hands out seeds, passes references on, keeps nothing."""

    def __init__(self, experiment: Experiment, seeds: range):
        make = ray.remote(NullEvaluator).options(num_cpus=0)
        self.evaluators = deque(make.remote(SpeedrunPair(experiment), "cpu") for _ in range(NUM_EVALUATORS))
        self.pending = deque(seeds)
        self.checkpoints = 0

    async def enter(self, trainer: str, node_id: str) -> bool:
        return True

    async def lease(self, trainer: str) -> Lease:
        if not self.pending:
            return Lease(order="stop")
        return Lease(order="train", seed=self.pending.popleft(), attempt=uuid.uuid4().hex[:12])

    async def publish(self, header: CheckpointHeader, references: list, records: list[dict], expected: None) -> None:
        self.evaluators.rotate()
        await self.evaluators[0].score.remote(references[0], header)
        self.checkpoints += 1

    async def finish(self, attempt: str, records: list[dict], stall_s: float) -> None:
        pass

    async def sample(self) -> Sample:
        return Sample.now(self.checkpoints)


class NullTrainers:
    """Trainers that train nothing: each publishes a seed's checkpoints as fast as its credits let it."""

    def __init__(self, dispatcher: Any, experiment: Experiment, checkpoint: np.ndarray):
        self.dispatcher = dispatcher
        self.experiment = experiment
        self.checkpoint = checkpoint
        self.state = forward_state(experiment.track, 0)

    async def run(self, names: list[str]) -> None:
        await asyncio.gather(*(self._trainer(name) for name in names))

    async def _trainer(self, name: str) -> None:
        await self.dispatcher.enter.remote(name, ray.get_runtime_context().get_node_id())
        while (lease := await self.dispatcher.lease.remote(name)).order != "stop":
            if lease.order == "train":
                await self._train(lease)

    async def _train(self, lease: Lease) -> None:
        pending: set[asyncio.Task] = set()
        stall_s = 0.0
        for step in self.experiment.plan:
            if len(pending) == CREDITS:
                began_s = time.monotonic()
                _, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
                stall_s += time.monotonic() - began_s
            pending.add(asyncio.ensure_future(self._publish(lease, step)))
        await asyncio.gather(*pending)
        answer = await self.dispatcher.finish.remote(lease.attempt, [], stall_s)
        assert answer is None, answer

    async def _publish(self, lease: Lease, step: int) -> None:
        header = CheckpointHeader(
            seed=lease.seed,
            attempt=lease.attempt,
            step=step,
            layout="0123456789abcdef",
            state=self.state,
            num_bytes=self.checkpoint.nbytes,
        )
        reference = ray.put(self.checkpoint)
        answer = await self.dispatcher.publish.remote(header, [reference], [{"step": step, **RECORD}], None)
        assert answer is None, answer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trainers", default="1,10,100", help="trainer counts, each with 3,000 checkpoints")
    parser.add_argument("--checkpoints", type=int, default=100_000, help="of the long run, with 10 trainers")
    parser.add_argument("--only", choices=PARTS, help="one part of it")
    arguments = parser.parse_args()
    start_local(find_cluster(), num_cpus=os.cpu_count() or 1)
    print(HEADER, flush=True)
    parts = (arguments.only,) if arguments.only else PARTS
    if "trainers" in parts:
        for num_trainers in map(int, arguments.trainers.split(",")):
            compare(num_trainers, num_seeds=100, plan_steps=30)
    if "plan" in parts:  # every step of a long run, where the first part has short ones
        compare(10, num_seeds=10, plan_steps=500)
    if "long" in parts:
        samples = run(10, arguments.checkpoints // 100, 100)
        marks = [WARM_UP, *(10**n for n in range(3, 9) if 10**n < arguments.checkpoints), arguments.checkpoints]
        for begin, end in pairwise(marks):
            show("dispatcher", 10, samples, begin, end)
    if "job" in parts:
        compare(125, num_seeds=300, plan_steps=20)
    if "slow" in parts:
        samples = run(10, 100, 100, evaluator=SlowEvaluator, checkpoint=LARGE_CHECKPOINT)
        show("slow", 10, samples, WARM_UP, None)
        peak, bound = max(s.store_bytes for s in samples) / 1e6, 10 * CREDITS * LARGE_CHECKPOINT.nbytes / 1e6
        waited_s, clock_s = samples[-1].stall_s, samples[-1].at_s - samples[0].at_s
        print(
            f"object store at most {peak:.0f} MB ({bound:.0f} MB are the credits of 10 trainers); the trainers waited"
        )
        print(f"{waited_s:.0f} s of {10 * clock_s:.0f} s together, and the dispatcher says so")
    leave(0)


def compare(num_trainers: int, num_seeds: int, plan_steps: int) -> None:
    """The relay's line and the dispatcher's, from runs one after the other."""
    relay_ms = show("relay", num_trainers, run(num_trainers, num_seeds, plan_steps, relay=True), WARM_UP, None)
    show("dispatcher", num_trainers, run(num_trainers, num_seeds, plan_steps), WARM_UP, None, relay_ms)


def run(
    num_trainers: int,
    num_seeds: int,
    plan_steps: int,
    relay: bool = False,
    evaluator: type = NullEvaluator,
    checkpoint: np.ndarray = CHECKPOINT,
) -> list[Sample]:
    """Trains the seeds to the end; what the actor said meanwhile. RuntimeError unless every seed is committed whole."""
    config, run_config = ExperimentConfig(track="tiny"), RunConfig(seeds=f"0-{num_seeds - 1}", val_tokens=0)
    experiment = replace(prepare(config, run_config, "tiny"), plan=tuple(range(plan_steps)))
    with tempfile.TemporaryDirectory(prefix="control-path-") as folder:
        if relay:
            actor: Any = actor_of(Relay, experiment, range(num_seeds))
        else:
            dataset = open_dataset(experiment, replace(run_config, output=folder))
            job = Job(
                experiment=experiment,
                pair=SpeedrunPair(experiment),
                run=run_config,
                topology=choose(experiment, run_config, find_cluster()),
                seeds=tuple(range(num_seeds)),
                dataset_uri=dataset.uri,
            )
            pool = EvaluatorPool(job.pair, NUM_EVALUATORS, num_trainers, num_gpus_each=0, evaluator=evaluator)
            actor = actor_of(SampledDispatcher, job, dataset, pool)
        samples = watch(actor, experiment, num_trainers, checkpoint)
        if not relay and (samples[-1].committed != num_seeds or verify(folder)):
            raise RuntimeError(f"{samples[-1].committed} of {num_seeds} seeds committed; {verify(folder)}")
        ray.kill(actor)
    return samples


def actor_of(kind: type, *arguments: Any) -> Any:
    """As the driver makes the dispatcher."""
    return ray.remote(kind).options(num_cpus=0, max_concurrency=100_000).remote(*arguments)


def watch(actor: Any, experiment: Experiment, num_trainers: int, checkpoint: np.ndarray) -> list[Sample]:
    """Runs the trainers, in two processes, until they end."""
    names = [f"trainer-{number}" for number in range(num_trainers)]
    clients = [actor_of(NullTrainers, actor, experiment, checkpoint) for _ in range(min(2, num_trainers))]
    running = [client.run.remote(names[number :: len(clients)]) for number, client in enumerate(clients)]
    samples = [sample(actor)]
    while len(ray.wait(running, num_returns=len(running), timeout=SAMPLE_S)[0]) < len(running):
        samples.append(sample(actor))
    ray.get(running)
    samples.append(sample(actor))
    for client in clients:
        ray.kill(client)
    return samples


def sample(actor: Any) -> Sample:
    """The actor's own, and the bytes of live objects on this machine as Ray counts them."""
    here = ray.nodes()[0]
    stats = node_stats(here["NodeManagerAddress"], here["NodeManagerPort"], include_memory_info=False)
    return replace(ray.get(actor.sample.remote()), store_bytes=stats.store_stats.object_store_bytes_used)


HEADER = (
    f"{'':>10} {'trainers':>6} {'checkpoints':>15} {'a second':>8} {'ms each':>7} {'/ relay':>7} {'CPU ms':>6} "
    f"{'MB begin':>8} {'end':>5} {'rows':>6}"
)


def show(
    kind: str, num_trainers: int, samples: list[Sample], begin: int, end: int | None, relay_ms: float | None = None
) -> float:
    """Prints one line between two counts of checkpoints; returns wall milliseconds for each."""
    end = samples[-1].checkpoints if end is None else end
    first, last = (next(s for s in samples if s.checkpoints >= count) for count in (begin, end))
    window = samples[samples.index(first) : samples.index(last) + 1]
    count = last.checkpoints - first.checkpoints
    ms = 1e3 * (last.at_s - first.at_s) / count
    ratio = f"{ms / relay_ms:.2f}" if relay_ms else ""
    print(
        f"{kind:>10} {num_trainers:>6} {first.checkpoints:>6} - {last.checkpoints:>6} {1e3 / ms:>8.0f} {ms:>7.2f} "
        f"{ratio:>7} {1e3 * (last.cpu_s - first.cpu_s) / count:>6.2f} {first.rss_bytes / 1e6:>8.0f} "
        f"{last.rss_bytes / 1e6:>5.0f} {max(s.row_bytes for s in window) / 1e6:>6.0f}",
        flush=True,
    )
    return ms


if __name__ == "__main__":
    main()
