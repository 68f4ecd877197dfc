"""The metrics of a job: what the dispatcher counts, for Prometheus and Grafana through Ray.

- The driver sets them each time it asks for progress, so they cost the control path nothing.
- Ray puts `ray_` before every name, and `_total` behind those of counters. docs/metrics.md is the list.
"""

import logging
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from ray.util import metrics as ray_metrics

from discreteness.cluster.hardware import peak_flop_s
from discreteness.service.job import Job
from discreteness.service.messages import AGE_BOUNDS_S, Progress

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Metric:
    """One metric, as Prometheus will describe it. Each also has the label `dataset`, the run's output."""

    kind: Literal["counter", "gauge", "histogram"]
    name: str
    help: str
    labels: tuple[str, ...] = ()
    """Few values each: a seed or a step would make a new series every time."""

    @property
    def exported(self) -> str:
        """Its name in Prometheus. A histogram's ends in `_bucket`, `_count` or `_sum` besides."""
        return f"ray_discreteness_{self.name}" + ("_total" if self.kind == "counter" else "")

    def make(self) -> Any:
        """Ray's object for it. In a process that is connected to Ray."""
        name, labels = f"discreteness_{self.name}", ("dataset", *self.labels)
        if self.kind == "histogram":
            return ray_metrics.Histogram(name, self.help, list(AGE_BOUNDS_S), labels)
        return (ray_metrics.Counter if self.kind == "counter" else ray_metrics.Gauge)(name, self.help, labels)


METRICS = (
    Metric("gauge", "seeds", "Seeds that were asked for, by state: committed, training, waiting, failed.", ("state",)),
    Metric(
        "gauge",
        "trainers",
        "Trainers by state: training; waiting for a place, a restart or a seed; finished; given_up.",
        ("state",),
    ),
    Metric("gauge", "step", "Newest step of the seed that a trainer trains.", ("trainer",)),
    Metric(
        "gauge",
        "train_loss_nats",
        "Training objective of a trainer's newest update, in nats per token.",
        ("trainer",),
    ),
    Metric("counter", "updates", "Optimizer steps trained, those of lost attempts too."),
    Metric("counter", "tokens", "Tokens trained on, those of lost attempts too."),
    Metric("counter", "model_flop", "Floating-point operations that the model needed for these tokens."),
    Metric(
        "gauge",
        "peak_flop_per_second",
        "What the GPUs of the trainers could do in bfloat16; absent where their type is not known.",
    ),
    Metric("counter", "checkpoints_published", "Planned checkpoints that reached the dispatcher."),
    Metric("counter", "checkpoints_scored", "Checkpoints whose losses came back."),
    Metric("gauge", "checkpoints_in_flight", "Checkpoints published and not yet scored."),
    Metric("gauge", "in_flight_bytes", "Bytes of the checkpoints in flight."),
    Metric("gauge", "lag_steps", "Steps from an attempt's oldest unscored checkpoint to its newest step, the most."),
    Metric("histogram", "checkpoint_age_seconds", "From a checkpoint's arrival at the dispatcher to its losses."),
    Metric("counter", "stall_seconds", "What publishing made training wait: for credits and for staging buffers."),
    Metric("gauge", "evaluators", "Evaluators by state: ready; missing (starting or not yet placed).", ("state",)),
    Metric("counter", "evaluators_lost", "Evaluators that died, hung or could not start, and were replaced."),
    Metric("counter", "evaluator_busy_seconds", "Time in which an evaluator had a checkpoint, summed over evaluators."),
    Metric("counter", "attempts_lost", "Attempts at a seed that ended without a commit."),
    Metric("counter", "rows_committed", "Rows (seed, step, document) committed by this job."),
    Metric("counter", "bytes_committed", "Bytes of the files of seeds committed by this job."),
)


class Exporter:
    """Keeps Ray's metrics at what the dispatcher last said. Lives in the driver.

    Whatever goes wrong with them is logged once and ends nothing but the metrics.
    """

    def __init__(self, job: Job):
        self.job = job
        self.broken = False
        self.peak_flop_s = peak_flop_s(job.topology.gpu_types)
        self.made: dict[str, Any] = {}
        self.counted: dict[str, float] = {}
        self.ages = [0] * (len(AGE_BOUNDS_S) + 1)

    def show(self, progress: Progress) -> None:
        if self.broken:
            return
        try:
            self._set(progress)
        except Exception as error:  # of any kind: nobody trains for the sake of these
            self.broken = True
            logger.warning("no metrics from here on (%s: %s); the run goes on", type(error).__name__, error)

    def _set(self, progress: Progress) -> None:
        if not self.made:
            self.made = {metric.name: metric.make() for metric in METRICS}
        # Ray takes no other letters.
        tags = {"dataset": self.job.dataset_uri.encode("ascii", "backslashreplace").decode()}
        for name, total in self.totals(progress).items():
            added = total - self.counted.get(name, 0)
            if name not in self.counted:
                # A counter that appears with its first event has no increase for it, and Ray refuses to add 0.
                added = added or sys.float_info.min
            if added > 0:
                self.made[name].inc(added, tags)
            self.counted[name] = total
        for name, labels, value in self.levels(progress):
            self.made[name].set(value, tags | labels)
        bounds_s = (*AGE_BOUNDS_S, 2 * AGE_BOUNDS_S[-1])
        for bound_s, before, now in zip(bounds_s, self.ages, progress.counts.ages, strict=True):
            for _ in range(now - before):  # Ray, too, keeps of a value only its class
                self.made["checkpoint_age_seconds"].observe(bound_s, tags)
        self.ages = progress.counts.ages

    def totals(self, progress: Progress) -> dict[str, float]:
        """Counter -> its count since this job began."""
        counts, experiment = progress.counts, self.job.experiment
        rows_per_seed = len(experiment.plan) * len(experiment.documents)
        return {
            "updates": counts.updates,
            "tokens": counts.tokens,
            "model_flop": counts.flop,
            "checkpoints_published": counts.published,
            "checkpoints_scored": counts.checkpoints,
            "stall_seconds": counts.stall_s,
            "evaluators_lost": progress.evaluators_lost,
            "evaluator_busy_seconds": progress.evaluator_busy_s,
            "attempts_lost": counts.attempts_lost,
            "rows_committed": progress.committed * rows_per_seed,
            "bytes_committed": counts.bytes_committed,
        }

    def levels(self, progress: Progress) -> Iterator[tuple[str, dict[str, str], float]]:
        """(gauge, labels, value). What is not measured is left out, and soon no longer exported by Ray."""
        training = {running.trainer for running in progress.training}
        given_up = sum(reason != "" for reason in progress.trainers_ended.values())
        left = self.job.num_trainers - len(progress.trainers_ended)
        by_state = {
            "seeds": {
                "committed": self.job.num_done + progress.committed,
                "training": len(progress.training),
                "waiting": progress.waiting,
                "failed": len(progress.failed),
            },
            "trainers": {
                "training": len(training),
                "waiting": left - len(training),
                "finished": len(progress.trainers_ended) - given_up,
                "given_up": given_up,
            },
            "evaluators": {
                "ready": progress.evaluators_ready,
                "missing": self.job.topology.evaluators - progress.evaluators_ready,
            },
        }
        for name, counts in by_state.items():
            for state, count in counts.items():
                yield name, {"state": state}, count
        for running in progress.training:
            yield "step", {"trainer": running.trainer}, running.step
            if running.train_loss is not None:
                yield "train_loss_nats", {"trainer": running.trainer}, running.train_loss
        if self.peak_flop_s is not None:
            yield "peak_flop_per_second", {}, self.peak_flop_s * self.job.topology.workers_per_trainer * left
        yield "checkpoints_in_flight", {}, progress.in_flight
        yield "in_flight_bytes", {}, progress.in_flight_bytes
        yield "lag_steps", {}, progress.lag_steps
