"""an experiment -> what a run of it records, stores and takes, before anything is trained."""

from collections.abc import Collection
from typing import TYPE_CHECKING

from speedrun.schedules import forward_state
from speedrun.tracks import Track

from discreteness.cluster.hardware import MEASURED_GPUS, peak_flop_s, worker_cost
from discreteness.cluster.machines import Cluster
from discreteness.cluster.times import Pace, Places, SeedWork, seed_work
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


def inline_report(experiment: Experiment, run: RunConfig, cluster: Cluster) -> tuple[str, ...]:
    """The plan of a run in one process per rank, which scores in its loop. ValueError as `check_price`."""
    check_price(experiment, run)
    ranks = experiment.world_size
    gpu_types = {node.gpu_type for node in cluster.nodes if node.gpus}
    work = seed_work(experiment, worker_cost(experiment.track, gpu_types), ranks)
    pace = Pace(seed_s=work.train_s + work.score_s, bound="scoring" if work.score_s > work.train_s else "training")
    places = Places(trainers=1, workers=ranks, evaluators=1, shared_devices=ranks)
    return (
        *what_is_recorded(experiment),
        f"inline: {ranks} {'process' if ranks == 1 else 'processes'}, seed after seed; the first scores in its loop",
        what_is_stored(experiment, run, count_dataset_bytes(experiment, layout_of(experiment.track))),
        *what_it_takes(experiment, run, cluster, (work, places, pace), ranks),
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
        *what_is_trained_on(experiment),
        f"record: {len(experiment.plan)} checkpoints per seed, {len(experiment.documents)} documents, "
        f"{experiment.num_losses} losses each time",
    )


def what_is_trained_on(experiment: Experiment) -> tuple[str, ...]:
    """What the sampler takes of the shards, as it was counted."""
    supply = experiment.supply
    if supply is None:
        return ()
    shards = f"{supply.num_shards:,} shard" + ("s" if supply.num_shards > 1 else "")
    text = f"data: {supply.needed:,} training tokens per seed from {shards} of {supply.tokens:,}"
    if supply.passes > 1:
        return (f"{text}, of which one pass gives {supply.usable:,}: {supply.passes} passes, the last not whole",)
    orders = "" if supply.seed is None else " in any order" if supply.any_order else " in the order of each seed"
    return (f"{text}; one pass is enough{orders}",)


def what_is_stored(experiment: Experiment, run: RunConfig, dataset_bytes: int) -> str:
    values = len(experiment.seeds) * len(experiment.plan) * experiment.num_losses
    rows = num_rows(experiment)
    return f"dataset: {rows} rows, {values} losses, about {dataset_bytes / 1e6:.1f} MB in {run.output}"


def check_price(experiment: Experiment, run: RunConfig) -> None:
    """Raises ValueError if GPUs are priced and none is used."""
    if run.price_per_gpu_hour is not None and not experiment.track.needs_gpu:
        raise ValueError(
            f"--price-per-gpu-hour {run.price_per_gpu_hour:g}: --track {experiment.track.name} trains on CPUs; "
            "leave it out"
        )


def what_it_takes(
    experiment: Experiment, run: RunConfig, cluster: Cluster, seed: tuple[SeedWork, Places, Pace], devices: float
) -> tuple[str, ...]:
    """The line of the time, and with a price the one of the cost. `devices`: GPUs or cores that the run occupies, from
    its start to its end."""
    work, places, pace = seed
    rounds = -(-len(experiment.seeds) // places.trainers)
    duration_s = SETUP_S + rounds * pace.seed_s
    hours = devices * duration_s / 3600
    gpu_types = {node.gpu_type for node in cluster.nodes if node.gpus}
    scoring_s = work.evaluator_s * places.trainers / places.evaluators
    kind = "GPU" if experiment.track.needs_gpu else "core"
    time = (
        f"time: about {pace.seed_s:.0f} s per seed{_from_what(experiment.track, gpu_types)}, bound by {pace.bound} "
        f"(alone: training {work.train_s:.0f} s, scoring {scoring_s:.0f} s), "
        f"{rounds} round{'s' if rounds > 1 else ''}, {_duration(duration_s)}, {hours:,.2f} {kind}-hours"
    )
    if run.price_per_gpu_hour is None:
        return (time,)
    cost = f"cost: about {hours * run.price_per_gpu_hour:,.2f} for {hours:,.2f} GPU-hours at {run.price_per_gpu_hour:g}"
    there = sum(node.gpus for node in cluster.nodes)
    if there > devices:
        whole = there * duration_s / 3600 * run.price_per_gpu_hour
        cost += f"; all {there:g} GPUs of the cluster in that time {whole:,.2f}"
    return time, cost


def _from_what(recipe: Track, gpu_types: Collection[str | None]) -> str:
    """What a reader should know of a time that is not of measured GPUs."""
    if not recipe.needs_gpu or (gpu_types and all(gpu in MEASURED_GPUS for gpu in gpu_types)):
        return ""
    return ", by the peak of its GPU" if peak_flop_s(gpu_types) else ", as on an H100"


def _duration(duration_s: float) -> str:
    """'7 minutes', '5.2 hours', '3.1 days'."""
    if duration_s < 2 * 3600:
        return f"{duration_s / 60:.0f} minutes"
    return f"{duration_s / 3600:.1f} hours" if duration_s < 48 * 3600 else f"{duration_s / 86400:.1f} days"


def num_rows(experiment: Experiment) -> int:
    return len(experiment.seeds) * len(experiment.plan) * len(experiment.documents)


def count_dataset_bytes(experiment: Experiment, layout: "CheckpointLayout") -> int:
    """Kept weights, if any, take most of it: 4 MB per step of tiny, half a gigabyte per step of small."""
    kept = sum(layout.num_bytes(forward_state(experiment.track, step).tied) for step in experiment.kept_steps)
    losses = LOSS_BYTES * len(experiment.plan) * experiment.num_losses
    seed = SEED_BYTES + UPDATE_BYTES * experiment.track.schedule.last_step + losses + kept
    tokens = experiment.num_losses + len(experiment.documents)
    return round(EXPERIMENT_BYTES + TOKEN_BYTES * tokens + len(experiment.seeds) * seed)
