"""a series -> what a run of it fetches, stores and takes, with what was assumed for that."""

from discreteness.cluster.estimate import EXPERIMENT_BYTES, LOSS_BYTES, SEED_BYTES, TOKEN_BYTES
from discreteness.series.config import SeriesConfig
from discreteness.series.hub import cached
from discreteness.series.listing import equal_weights
from discreteness.series.prepare import SeriesExperiment
from discreteness.series.stored import StoredCheckpoint

STORE_BYTES_S = 100e6
"""Assumed of a network or a disk."""
PRODUCTS_S = {"cpu": 20e9, "cuda": 30e12}
"""Floating-point operations assumed of one core and of a GPU, in float32."""
BYTES_PER_WEIGHT = 2
"""As most of the hub's models are stored; a model in float32 is half as large as is assumed of its products."""


def warnings_of(experiment: SeriesExperiment) -> list[str]:
    """Checkpoints of one model with the same weights, as far as the listing shows them."""
    return [f"warning: {equal}" for each in experiment.series.checkpoints for equal in equal_weights(each)]


def series_report(experiment: SeriesExperiment, config: SeriesConfig, device: str) -> tuple[str, ...]:
    """Lines of the plan."""
    series, losses = experiment.series, experiment.num_losses
    steps, models = len(series.plan), len(series.models)
    scored = [one for checkpoints in series.checkpoints for one in checkpoints]
    fetched = {one: _to_fetch(one) for one in scored}
    weights = sum(file.num_bytes for one in scored for file in one.weights)
    dataset_bytes = EXPERIMENT_BYTES + TOKEN_BYTES * losses + models * (SEED_BYTES + LOSS_BYTES * steps * losses)
    read_s = weights / STORE_BYTES_S
    score_s = 2 * (weights / BYTES_PER_WEIGHT) * losses / PRODUCTS_S[device]
    left_out = [f"left out for all models: step {step}: {why}" for step, why in series.left_out.items()]
    return (
        *(f"seed {seed} is {name}" for seed, name in experiment.names.items()),
        f"record: {steps} checkpoints per model from step {series.plan[0]} to {series.plan[-1]}, "
        f"{len(experiment.documents)} documents, {losses} losses each time, in {config.dtype} on {device}",
        *left_out,
        f"weights: {weights / 1e9:.3f} GB in {len(scored)} checkpoints, of which {sum(fetched.values()) / 1e9:.3f} GB "
        f"are fetched; at most {2 * max(fetched.values()) / 1e9:.3f} GB of them lie on disk at a time",
        f"dataset: {steps * models * len(experiment.documents)} rows, {steps * models * losses} losses, "
        f"about {dataset_bytes / 1e6:.1f} MB in {config.output}",
        f"time: about {max(read_s, score_s) / 3600:.2f} hours, if {STORE_BYTES_S / 1e6:.0f} MB of weights come per "
        f"second ({read_s / 3600:.2f} hours) while {PRODUCTS_S[device]:.0e} operations per second score "
        f"({score_s / 3600:.2f} hours)",
    )


def _to_fetch(checkpoint: StoredCheckpoint) -> int:
    """Bytes of its files that are on the hub and not in the cache of this machine."""
    if checkpoint.folder:
        return 0
    return sum(
        file.num_bytes for file in checkpoint.needed if not cached(checkpoint.model, checkpoint.commit, file.name)
    )
