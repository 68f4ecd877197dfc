"""one GPU + shards -> what it costs training to record every checkpoint's losses: in the loop, or streamed.

python benchmarks/streaming.py --data DIR [--track short_track:sixty_ms] [--rounds 6] [--steps 20]

One trainer trains one seed; blocks of updates alternate between the ways, in a new random order each round:

none        no evaluation
loop/N      the trainer scores every N-th checkpoint itself, its launches recorded as an evaluator's are
sink/N      every N-th checkpoint is published to an actor that drops it: what publishing alone costs
streamed/N  every N-th checkpoint is published, and scored by an evaluator that shares the GPU

and, in a second part, Ray Train's own asynchronous validation (train_validation.py). The steps of `log:300` up to 80
are the way streamed/1, those after 600 sparser than streamed/6. A trainer of 8 GPUs publishes each step's checkpoint
once, so the bytes that this host moves are those of its host.

A block ends when the device is idle and every checkpoint of it is accepted; the wait for the latter is shown apart, as
a run has it once, at its end. Ratios are to `none` of the same round, with a bootstrap interval over rounds.
"""

import argparse
import random
import resource
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import ray
import torch
import train_validation

from discreteness.checkpoint.header import CheckpointHeader
from discreteness.checkpoint.seam import Checkpoint
from discreteness.cluster.connection import find_cluster
from discreteness.cluster.rays_start import start_local
from discreteness.cluster.topology import choose
from discreteness.experiment.config import ExperimentConfig, RunConfig
from discreteness.experiment.prepare import Experiment, open_dataset, prepare
from discreteness.scoring.scorer import Scorer
from discreteness.service.dispatcher import Dispatcher
from discreteness.service.driver import leave
from discreteness.service.evaluator_pool import EvaluatorPool
from discreteness.service.job import Job
from discreteness.service.publisher import Publisher
from discreteness.service.speedrun_pair import SpeedrunPair
from discreteness.service.speedrun_source import SpeedrunSource, Staged

WAYS = ("none", "loop/6", "sink/6", "streamed/6", "loop/1", "sink/1", "streamed/1")


class Sink:
    """A dispatcher that accepts every checkpoint at once and forgets it."""

    async def publish(
        self, header: CheckpointHeader, references: list, records: list, expected: None, stall_s: float
    ) -> None:
        return None


@dataclass
class Block:
    """One way's turn. Plain data: trainer actor -> this script."""

    way: str
    round_number: int
    train_s: float = 0.0
    drain_s: float = 0.0
    credit_stall_s: float = 0.0
    staging_stall_s: float = 0.0
    checkpoints: int = 0
    sent_bytes: int = 0
    ages_s: list[float] = field(default_factory=list)
    """From the yield of a checkpoint to the first yield at which its row was accepted: late by a step at most."""


class TimedPublisher(Publisher):
    """Also notes when each checkpoint was offered and when it was found accepted."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.offered_s: dict[int, float] = {}
        self.ages_s: list[float] = []

    def offer(self, checkpoint: Checkpoint) -> None:
        self.offered_s[checkpoint.step] = time.perf_counter()
        super().offer(checkpoint)
        self.note_accepted()

    def note_accepted(self) -> None:
        under_way = {step for step, _ in self.leaving} | {step for step, _ in self.pending.values()}
        for step in self.offered_s.keys() - under_way:
            self.ages_s.append(time.perf_counter() - self.offered_s.pop(step))


class TrainerActor:
    """Trains one seed in blocks; the one GPU worker of this benchmark."""

    def __init__(self, experiment: Experiment, dispatcher: Any, sink: Any, device: str, max_in_flight: int):
        self.source = SpeedrunSource(experiment, device, None, tell=print)
        self.trainer = self.source.trainer
        self.experiment, self.max_in_flight = experiment, max_in_flight
        self.scorer = Scorer.for_experiment(experiment, self.trainer.model, recorded=True)
        node_id = ray.get_runtime_context().get_node_id()
        assert ray.get(dispatcher.enter.remote("benchmark", node_id))
        while not ray.get(dispatcher.progress.remote(0)).evaluators_ready:
            time.sleep(0.5)
        self.lease = ray.get(dispatcher.lease.remote("benchmark"))
        self.targets = {"sink": sink, "streamed": dispatcher}

    def run(self, rounds: int, steps: int) -> list[Block]:
        """Blocks in the order in which they ran, the first round, which warms up, left out."""
        order = [(number, way) for number in range(rounds + 1) for way in random.sample(WAYS, len(WAYS))]
        blocks = [Block(way, number) for number, way in order]
        plan = {0}
        for position, block in enumerate(blocks):
            plan |= set(range(steps * position, steps * (position + 1), every(block.way) or steps))
            plan.add(steps * (position + 1))
        position, record, publisher, began_s = -1, None, None, 0.0
        for checkpoint in self.trainer.train(self.lease.seed, plan):
            if checkpoint.step % steps == 0:
                if position >= 0:
                    self._end(blocks[position], publisher, began_s)
                position += 1
                if position == len(blocks):
                    break
                publisher, record = self._begin(blocks[position].way)
                self._wait()
                began_s = time.perf_counter()
            if record and (checkpoint.step % steps) % every(blocks[position].way) == 0:
                staged = Staged.of(checkpoint, self.source)
                record(staged)
                blocks[position].checkpoints += 1
                if publisher:
                    blocks[position].sent_bytes += staged.num_bytes
        return [block for block in blocks if block.round_number > 0]

    def peak_gb(self) -> float:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20

    def _begin(self, way: str) -> tuple[TimedPublisher | None, Callable[[Checkpoint], object] | None]:
        kind = way.partition("/")[0]
        if kind == "none":
            return None, None
        if kind == "loop":
            return None, lambda checkpoint: self.scorer.score(checkpoint.state)
        publisher = TimedPublisher(
            self.targets[kind],
            rank=0,
            world_size=1,
            seed=self.lease.seed,
            attempt=self.lease.attempt,
            published_steps=self.experiment.published_steps,
            max_in_flight=self.max_in_flight,
            verify_every=0,
        )
        return publisher, publisher.offer

    def _end(self, block: Block, publisher: TimedPublisher | None, began_s: float) -> None:
        self._wait()
        block.train_s = time.perf_counter() - began_s
        if publisher:
            publisher.drain()
            publisher.note_accepted()
            assert not publisher.rejection, publisher.rejection
            block.drain_s = time.perf_counter() - began_s - block.train_s
            block.credit_stall_s, block.staging_stall_s = publisher.credit_stall_s, publisher.staging_stall_s
            block.ages_s = publisher.ages_s

    def _wait(self) -> None:
        if self.trainer.device.type == "cuda":
            torch.cuda.synchronize()


def every(way: str) -> int:
    """Steps between two checkpoints; 0: there are none."""
    return int(way.partition("/")[2] or 0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="folder that holds data/")
    parser.add_argument("--track", default="short_track:sixty_ms", help="long enough for all blocks and one round more")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--steps", type=int, default=20, help="updates in a block")
    parser.add_argument("--evaluator-gpus", type=float, default=0.3)
    parser.add_argument("--max-in-flight", type=int, default=8)
    arguments = parser.parse_args()
    cluster = find_cluster()
    with tempfile.TemporaryDirectory() as scratch:
        config = ExperimentConfig(track=arguments.track, data=arguments.data, checkpoints="every:1")
        run = RunConfig(output=scratch, val_tokens=0, seeds="0", max_attempts=1, trainers=1)
        experiment = prepare(config, run, arguments.track)
        needed, there = len(WAYS) * (arguments.rounds + 1) * arguments.steps, experiment.track.schedule.last_step
        if needed > there:
            raise SystemExit(
                f"--rounds {arguments.rounds} of {arguments.steps} steps take {needed} updates, of {there}"
            )
        if cluster.local:
            start_local(cluster, 4)
        use_gpu = experiment.track.needs_gpu
        pair = SpeedrunPair(experiment)
        pool = EvaluatorPool(pair, 1, 1, arguments.evaluator_gpus if use_gpu else 0)
        dataset = open_dataset(experiment, run)
        topology = choose(experiment, run, cluster)
        job = Job(experiment=experiment, pair=pair, run=run, topology=topology, seeds=(0,), dataset_uri=dataset.uri)
        dispatcher = ray.remote(Dispatcher).options(num_cpus=0, max_concurrency=1000).remote(job, dataset, pool)
        sink = ray.remote(Sink).options(num_cpus=0).remote()
        gpus = 1 - arguments.evaluator_gpus if use_gpu else 0
        trainer = (
            ray.remote(TrainerActor)
            .options(num_gpus=gpus)
            .remote(experiment, dispatcher, sink, "cuda" if use_gpu else "cpu", arguments.max_in_flight)
        )
        blocks = ray.get(trainer.run.remote(arguments.rounds, arguments.steps))
        report(blocks, arguments.steps)
        peak_gb = ray.get(trainer.peak_gb.remote())
        print(f"host memory of the trainer at its peak, shared pages included: {peak_gb:.1f} GB", flush=True)
        ray.kill(trainer)
        ray.kill(dispatcher)  # and with it the pool's evaluators: the GPU is free
        device = "cuda" if use_gpu else "cpu"
        validated = train_validation.measure(experiment, device, arguments.evaluator_gpus, 6, arguments.steps)
        train_validation.report(validated, arguments.steps)
        leave(0)


def report(blocks: list[Block], steps: int) -> None:
    by_way: dict[str, list[Block]] = defaultdict(list)
    for block in sorted(blocks, key=lambda block: block.round_number):
        by_way[block.way].append(block)
    columns = (
        "ms/step",
        "to none",
        "95 % interval",
        "stall ms",
        "of it credits",
        "scored/s",
        "age s",
        "p99",
        "drain s",
        "GB sent",
    )
    print(f"{'':12}" + "".join(f"{column:>16}" for column in columns))
    for way in WAYS:
        turns = by_way[way]
        ratios = np.array([turn.train_s / none.train_s for turn, none in zip(turns, by_way["none"], strict=True)])
        low, high = interval(ratios)
        ages = [age for turn in turns for age in turn.ages_s]
        stall_s = sum(turn.credit_stall_s + turn.staging_stall_s for turn in turns)
        row = [f"{1000 * statistics.median(turn.train_s for turn in turns) / steps:.2f}", f"{np.median(ratios):.4f}"]
        row += [f"{low:.4f}-{high:.4f}", f"{1000 * stall_s / len(turns):.1f}"]
        row += [f"{1000 * sum(turn.credit_stall_s for turn in turns) / len(turns):.1f}"]
        row += [f"{sum(t.checkpoints for t in turns) / sum(t.train_s + t.drain_s for t in turns):.1f}"]
        row += [f"{np.quantile(ages, q):.3f}" if ages else "" for q in (0.5, 0.99)]
        row += [f"{statistics.median(turn.drain_s for turn in turns):.3f}"]
        row += [f"{sum(turn.sent_bytes for turn in turns) / 1e9:.1f}"]
        print(f"{way:12}" + "".join(f"{cell:>16}" for cell in row))


def interval(ratios: np.ndarray, draws: int = 10_000) -> tuple[float, float]:
    """95 % bootstrap interval of the median."""
    chosen = np.random.default_rng(0).choice(ratios, (draws, len(ratios)))
    low, high = np.quantile(np.median(chosen, axis=1), (0.025, 0.975))
    return float(low), float(high)


if __name__ == "__main__":
    main()
