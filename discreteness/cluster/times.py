"""an experiment and its places -> how long a seed takes, and whether training or scoring decides that.

Training and scoring either share devices (the cores of a laptop, or GPUs of which each worker leaves a share to an
evaluator), or evaluators have GPUs of their own. A seed then takes the longest of three: its training if nothing else
were there, the scoring of its checkpoints by its part of the evaluators, and the sum of both on the devices that they
share.
"""

from dataclasses import dataclass
from typing import Literal

from speedrun.schedules import step_settings

from discreteness.cluster.hardware import WorkerCost
from discreteness.experiment.prepare import Experiment


@dataclass(frozen=True, kw_only=True)
class SeedWork:
    """What one seed takes, in seconds, whoever else is at work."""

    train_s: float
    """Its workers, at work together."""
    score_s: float
    """One GPU or core, for the checkpoints and validations of the seed."""
    evaluator_s: float
    """One evaluator, which also has to fetch each checkpoint."""


@dataclass(frozen=True, kw_only=True)
class Places:
    """Who is at work at the same time."""

    trainers: int
    workers: int
    """Of each trainer."""
    evaluators: int
    shared_devices: float | None
    """GPUs or cores on which trainers and evaluators work; None: evaluators have GPUs of their own."""


@dataclass(frozen=True, kw_only=True)
class Pace:
    """How a seed gets on among the others."""

    seed_s: float
    bound: Literal["training", "scoring"]
    """Which of the two decides it."""


def seed_work(experiment: Experiment, cost: WorkerCost, workers: int) -> SeedWork:
    losses = len(experiment.plan) * experiment.num_losses
    validated = len(experiment.validation_steps) * experiment.val_tokens
    tokens_s = cost.s_per_scored_token * (losses + validated)
    checkpoints = len(experiment.published_steps)
    return SeedWork(
        train_s=training_times(experiment, cost, workers)[-1],
        score_s=checkpoints * cost.s_per_checkpoint + tokens_s,
        evaluator_s=max(checkpoints * cost.s_per_load, checkpoints * cost.s_per_checkpoint + tokens_s),
    )


def pace(work: SeedWork, places: Places) -> Pace:
    evaluators_s = work.evaluator_s * places.trainers / places.evaluators
    alone = Pace(seed_s=work.train_s, bound="training")
    scored = Pace(seed_s=evaluators_s, bound="scoring")
    ways = [alone, scored]
    if places.shared_devices is not None:
        workers_s = places.workers * work.train_s
        together_s = (workers_s + work.score_s) * places.trainers / places.shared_devices
        ways.append(Pace(seed_s=together_s, bound="scoring" if work.score_s > workers_s else "training"))
    return max(ways, key=lambda way: way.seed_s)


def training_times(experiment: Experiment, cost: WorkerCost, workers: int) -> list[float]:
    """Seconds of training alone until each step, from step 0 on."""
    schedule = experiment.track.schedule
    times_s = [0.0]
    for step in range(schedule.last_step):
        batch_tokens = step_settings(schedule, step).batch_tokens
        times_s.append(times_s[-1] + cost.s_per_token * batch_tokens / workers)
    return times_s


def gaps(experiment: Experiment, times_s: list[float], max_in_flight: int) -> tuple[float, float]:
    """Seconds between a seed's checkpoints: on average, and over the densest run of checkpoints as long as the
    in-flight bound (the mean says nothing about a plan that begins with every step)."""
    at = [times_s[step] for step in sorted(experiment.published_steps)]
    span = min(max_in_flight, len(at) - 1)
    peak = min((at[i + span] - at[i]) / span for i in range(len(at) - span))
    return times_s[-1] / (len(at) - 1), peak
