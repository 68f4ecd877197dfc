"""an experiment -> what a run of it records, stores and takes, before anything is trained."""

from typing import TYPE_CHECKING

from speedrun.schedules import forward_state, step_settings
from speedrun.tracks import Track

from discreteness.cluster.hardware import worker_cost
from discreteness.dataset.vary import WORDS
from discreteness.experiment.config import RunConfig
from discreteness.experiment.prepare import Experiment

if TYPE_CHECKING:
    from discreteness.checkpoint.layout import CheckpointLayout

SETUP_S = 40
"""From the command to the first step of a warm machine, measured on 2 cores."""
LOSS_BYTES = 3.05
"""Bytes of a loss in its file; it has 4 in memory. Measured: 3.02 on four seeds of tiny at 48 checkpoints, 3.05 to 3.09
on short runs of it at 3 and 11, 3.0 on curves of small."""
SEED_BYTES, UPDATE_BYTES = 6_000, 25
"""A seed's two files with nothing in them, and what each of its updates adds to the one in runs/."""
EXPERIMENT_BYTES, TOKEN_BYTES = 10_000, 6
"""experiment.json and log/, and what each token of the documents adds to documents.parquet."""


def inline_report(experiment: Experiment, run: RunConfig) -> tuple[str, ...]:
    """The plan of a run in one process per rank, which scores in its loop."""
    ranks = experiment.world_size
    seed_s, _, _ = seed_times(experiment, run, ranks)
    return (
        *what_is_recorded(experiment),
        f"inline: {ranks} {'process' if ranks == 1 else 'processes'}, seed after seed; the first scores in its loop",
        what_is_stored(experiment, run, count_dataset_bytes(experiment, layout_of(experiment.track))),
        what_it_takes(experiment, seed_s, rounds=len(experiment.seeds)),
    )


def layout_of(recipe: Track) -> "CheckpointLayout":
    import torch  # only where plans are made: the actor that follows a plan does without
    from speedrun.model.gpt import GPT

    from discreteness.checkpoint.layout import CheckpointLayout

    return CheckpointLayout.from_model(GPT(recipe.model, getattr(torch, recipe.dtype), "meta"))


def what_is_recorded(experiment: Experiment) -> tuple[str, ...]:
    updates = experiment.track.schedule.last_step
    return (
        f"track {experiment.track.name}: {len(experiment.seeds)} seeds of {updates} updates",
        f"seeds vary {experiment.vary}: {WORDS[experiment.vary]}",
        f"record: {len(experiment.plan)} checkpoints per seed, {len(experiment.documents)} documents, "
        f"{experiment.num_losses} losses each time",
    )


def what_is_stored(experiment: Experiment, run: RunConfig, dataset_bytes: int) -> str:
    values = len(experiment.seeds) * len(experiment.plan) * experiment.num_losses
    rows = num_rows(experiment)
    return f"dataset: {rows} rows, {values} losses, about {dataset_bytes / 1e6:.1f} MB in {run.output}"


def what_it_takes(experiment: Experiment, seed_s: float, rounds: int) -> str:
    kind = "GPU" if experiment.track.needs_gpu else "core"
    hours = len(experiment.seeds) * seed_s * experiment.world_size / 3600
    return (
        f"time: about {seed_s:.0f} s per seed (nominal), {rounds} rounds, {_duration(SETUP_S + rounds * seed_s)}, "
        f"{hours:,.2f} {kind}-hours"
    )


def _duration(duration_s: float) -> str:
    """'7 minutes', '5.2 hours', '3.1 days'."""
    if duration_s < 2 * 3600:
        return f"{duration_s / 60:.0f} minutes"
    return f"{duration_s / 3600:.1f} hours" if duration_s < 48 * 3600 else f"{duration_s / 86400:.1f} days"


def num_rows(experiment: Experiment) -> int:
    return len(experiment.seeds) * len(experiment.plan) * len(experiment.documents)


def count_dataset_bytes(experiment: Experiment, layout: "CheckpointLayout") -> int:
    """Kept weights, if any, take most of it: 7 MB per step of tiny, half a gigabyte per step of small."""
    kept = sum(layout.num_bytes(forward_state(experiment.track, step).tied) for step in experiment.kept_steps)
    losses = LOSS_BYTES * len(experiment.plan) * experiment.num_losses
    seed = SEED_BYTES + UPDATE_BYTES * experiment.track.schedule.last_step + losses + kept
    tokens = experiment.num_losses + len(experiment.documents)
    return round(EXPERIMENT_BYTES + TOKEN_BYTES * tokens + len(experiment.seeds) * seed)


def seed_times(experiment: Experiment, run: RunConfig, workers: int) -> tuple[float, float, float]:
    """Seconds of a seed, and between its checkpoints: on average, and over the densest run of checkpoints as long as
    the in-flight bound (the mean says nothing about a plan that begins with every step)."""
    track: Track = experiment.track
    worker_s = worker_cost(track).s_per_token
    times_s = [0.0]
    for step in range(track.schedule.last_step):
        batch_tokens = step_settings(track.schedule, step).batch_tokens
        times_s.append(times_s[-1] + worker_s * batch_tokens / workers)
    at = [times_s[step] for step in sorted(experiment.published_steps)]
    span = min(run.max_in_flight, len(at) - 1)
    peak = min((at[i + span] - at[i]) / span for i in range(len(at) - span))
    return times_s[-1], times_s[-1] / (len(at) - 1), peak
