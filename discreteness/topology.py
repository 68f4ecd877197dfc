"""experiment + cluster -> how many trainers and evaluators, and what they will move, store and take."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from speedrun.schedules import forward_state, step_settings
from speedrun.tracks import Track

from discreteness.cluster import Cluster, Node
from discreteness.config import RunConfig
from discreteness.experiment import Experiment

if TYPE_CHECKING:
    from discreteness.checkpoint import CheckpointLayout

STORE_SHARE = 0.6
"""Most of an object store that checkpoints in flight may fill: Ray begins to spill at 0.8."""
SETUP_S = 40
"""From the command to the first step of a warm machine, measured on 2 cores."""
LOSS_BYTES = 3.05
"""Of a loss in its file, which is 4 in memory: 3.02 on four seeds of tiny at 48 checkpoints, 3.05 to 3.09 on short runs
of it at 3 and 11, 3.0 on curves of small."""
SEED_BYTES, UPDATE_BYTES = 6_000, 25
"""A seed's two files with nothing in them, and what each of its updates adds to the one in runs/."""
EXPERIMENT_BYTES, TOKEN_BYTES = 10_000, 6
"""experiment.json and log/, and what each token of the documents adds to documents.parquet."""
NOMINAL_WORKER_S = {"medium": 8 * 0.25 / 524_288, "small": 8 * 0.0875 / 393_216, "tiny": 2 * 0.45 / 2_304}
"""Seconds of one worker a token of the batch, for estimates only. medium, small: an H100 (SPEEDRUN 13, last batch
stage); tiny: a core of a 2-core machine. A track of one's own counts as small or tiny, by its kind of hardware."""


@dataclass(frozen=True, kw_only=True)
class Topology:
    """How many of what, chosen at start and logged with its arithmetic."""

    trainers: int
    workers_per_trainer: int
    gpus_per_worker: float
    evaluators: int
    gpus_per_evaluator: float
    declared_cpus: int
    """CPUs that a Ray started by us declares: what is asked, even where the machine has fewer cores."""
    checkpoint_bytes: int
    rows: int
    """Of all seeds: a document at a step each."""
    dataset_bytes: int
    """About what all files of the dataset take, before it is compacted."""
    report: tuple[str, ...]

    @property
    def use_gpu(self) -> bool:
        return self.gpus_per_worker > 0


def choose(experiment: Experiment, config: RunConfig, cluster: Cluster) -> Topology:
    """ValueError names what is asked and what exists: a GPU type for CPUs, a group that no machine holds, a bound that
    one object store cannot.
    """
    workers = experiment.world_size
    use_gpu = experiment.track.needs_gpu
    if config.gpu_type and not use_gpu:
        raise ValueError(f"--gpu-type {config.gpu_type}: --track {experiment.track.name} trains on CPUs; leave it out")
    room = {node: _groups_that_fit(node, workers, use_gpu, config.gpu_type) for node in cluster.nodes}
    hosts = [node for node in cluster.nodes if room[node]]
    if use_gpu and not hosts and (cluster.local or config.trainers is None):
        kind = f"{config.gpu_type} GPUs" if config.gpu_type else "GPUs"
        raise ValueError(
            f"--track {experiment.track.name}: no machine has {workers} {kind}, the cluster has {cluster.describe()}; "
            "with --trainers N the groups wait for an autoscaler to bring them"
        )
    fits = sum(room[node] for node in cluster.nodes)
    evaluators = config.evaluators or 0
    own_gpus = use_gpu and config.evaluator_gpus == 1
    if own_gpus:
        evaluators = evaluators or max(1, len(hosts))
        fits = min(fits, _left_beside(evaluators, workers, config.trainers, cluster))
    trainers = config.trainers or max(1, min(fits, len(experiment.seeds)))
    evaluators = evaluators or (trainers * workers if use_gpu else trainers)
    layout = _layout(experiment.track)
    checkpoint_bytes = layout.num_bytes(tied=False)
    in_flight = max(config.max_in_flight, workers) * checkpoint_bytes
    # Nodes that are still to come are taken for nodes that can hold what is asked; the head may hold nothing.
    store = min(node.object_store_bytes for node in hosts or cluster.nodes)
    if hosts and (use_gpu or not cluster.local):  # those that do not fit now wait: no node holds more than fit
        groups_a_node = min(-(-trainers // len(hosts)), max(room.values()))
    else:  # a laptop declares as many CPUs as are asked for
        groups_a_node = trainers
    if (hosts or cluster.local) and in_flight * groups_a_node > STORE_SHARE * store:
        raise ValueError(
            f"--max-in-flight {config.max_in_flight}: {groups_a_node} groups a node may hold "
            f"{in_flight * groups_a_node / 1e9:.1f} GB in flight, above {STORE_SHARE:.0%} of the object store of "
            f"{store / 1e9:.1f} GB; use a smaller bound or a larger --object-store-memory"
        )
    seed_s, mean_gap_s, peak_gap_s = _seed_times(experiment, config, workers)
    rows = len(experiment.seeds) * len(experiment.plan) * len(experiment.documents)
    values = len(experiment.seeds) * len(experiment.plan) * experiment.num_losses
    dataset_bytes = _dataset_bytes(experiment, layout)
    rounds = -(-len(experiment.seeds) // trainers)
    place = f"{config.evaluator_gpus:g} of a GPU each, on the trainers' nodes" if use_gpu else "on the trainers' CPUs"
    if own_gpus:
        place = "a GPU of its own each"
    hours = f"{len(experiment.seeds) * seed_s * workers / 3600:,.2f} {'GPU' if use_gpu else 'core'}-hours"
    mean_mb_s, peak_mb_s = checkpoint_bytes / mean_gap_s / 1e6, checkpoint_bytes / peak_gap_s / 1e6
    updates = experiment.track.schedule.last_step
    report = (
        f"track {experiment.track.name}: {len(experiment.seeds)} seeds of {updates} updates",
        f"record: {len(experiment.plan)} checkpoints a seed, {len(experiment.documents)} documents, "
        f"{experiment.num_losses} losses each time",
        f"cluster: {cluster.describe()}",
        f"trainers: {trainers} groups of {workers} workers, one {'GPU' if use_gpu else 'CPU'} each, each group on one "
        f"node ({fits} would fit now)",
        f"evaluators: {evaluators}, {place}",
        f"stream: {checkpoint_bytes / 1e6:.1f} MB a checkpoint; a group moves {mean_mb_s:.1f} MB/s on average, "
        f"{peak_mb_s:.1f} MB/s at its peak; at most {max(config.max_in_flight, workers)} in flight = "
        f"{in_flight / 1e6:.0f} MB of an object store of {store / 1e6:.0f} MB",
        f"dataset: {rows} rows, {values} losses, about {dataset_bytes / 1e6:.1f} MB in {config.output}",
        f"time: about {seed_s:.0f} s a seed (nominal), {rounds} rounds, "
        f"{(SETUP_S + rounds * seed_s) / 60:.0f} minutes, {hours}",
    )
    share = config.evaluator_gpus if use_gpu else 0.0
    return Topology(
        trainers=trainers,
        workers_per_trainer=workers,
        gpus_per_worker=0.0 if not use_gpu else 1.0 if own_gpus else 1 - share,
        evaluators=evaluators,
        gpus_per_evaluator=share,
        declared_cpus=max(int(sum(node.cpus for node in cluster.nodes)), trainers * workers),
        checkpoint_bytes=checkpoint_bytes,
        rows=rows,
        dataset_bytes=dataset_bytes,
        report=report,
    )


def _groups_that_fit(node: Node, workers: int, use_gpu: bool, gpu_type: str | None) -> int:
    """Groups of one node: each worker takes a CPU, and on a GPU track one GPU (with its evaluators) of that type."""
    if use_gpu and gpu_type not in (None, node.gpu_type):
        return 0
    return int(min(node.cpus, node.gpus if use_gpu else node.cpus) // workers)


def _left_beside(evaluators: int, workers: int, trainers: int | None, cluster: Cluster) -> int:
    """Groups whose GPUs are left where each evaluator takes one. ValueError: a machine too small, GPUs of many types,
    of which an evaluator might get another one than trainers and score to other bits."""
    types = {node.gpu_type for node in cluster.nodes if node.gpus}
    if len(types) > 1:
        raise ValueError(
            f"--evaluator-gpus 1: the cluster's GPUs are of types {', '.join(sorted(map(str, types)))}, and an "
            "evaluator needs its trainer's; let evaluators share the trainers' GPUs, with less than 1"
        )
    gpus = int(sum(node.gpus for node in cluster.nodes))
    asked = (trainers or 1) * workers
    if cluster.local and asked + evaluators > gpus:
        raise ValueError(
            f"--evaluator-gpus 1: {asked} GPUs for trainers and {evaluators} for evaluators are more than the {gpus} "
            "of this machine; use fewer, or let evaluators share the trainers' GPUs, with less than 1"
        )
    return (gpus - evaluators) // workers


def _layout(track: Track) -> "CheckpointLayout":
    import torch  # by who chooses: the actor that only follows the choice does without
    from speedrun.model import GPT

    from discreteness.checkpoint import CheckpointLayout

    return CheckpointLayout.of(GPT(track.model, getattr(torch, track.dtype), "meta"))


def _dataset_bytes(experiment: Experiment, layout: "CheckpointLayout") -> int:
    """Kept weights take most where there are any: 7 MB a step of tiny, half a gigabyte of small."""
    kept = sum(layout.num_bytes(forward_state(experiment.track, step).tied) for step in experiment.kept_steps)
    losses = LOSS_BYTES * len(experiment.plan) * experiment.num_losses
    seed = SEED_BYTES + UPDATE_BYTES * experiment.track.schedule.last_step + losses + kept
    tokens = experiment.num_losses + len(experiment.documents)
    return round(EXPERIMENT_BYTES + TOKEN_BYTES * tokens + len(experiment.seeds) * seed)


def _seed_times(experiment: Experiment, config: RunConfig, workers: int) -> tuple[float, float, float]:
    """Seconds of a seed, and between its checkpoints: on average, and over the densest run of checkpoints as long as
    the in-flight bound (the mean says nothing of a plan that begins with every step)."""
    track: Track = experiment.track
    worker_s = NOMINAL_WORKER_S.get(track.name, NOMINAL_WORKER_S["small" if track.needs_gpu else "tiny"])
    times_s = [0.0]
    for step in range(track.schedule.last_step):
        batch_tokens = step_settings(track.schedule, step).batch_tokens
        times_s.append(times_s[-1] + worker_s * batch_tokens / workers)
    at = [times_s[step] for step in sorted(experiment.published_steps)]
    span = min(config.max_in_flight, len(at) - 1)
    peak = min((at[i + span] - at[i]) / span for i in range(len(at) - span))
    return times_s[-1], times_s[-1] / (len(at) - 1), peak
