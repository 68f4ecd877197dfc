"""experiment + cluster -> how many trainers and evaluators, and what they will move, store and take."""

from dataclasses import dataclass

from discreteness.cluster.estimate import (
    check_price,
    count_dataset_bytes,
    layout_of,
    num_rows,
    what_is_recorded,
    what_is_stored,
    what_it_takes,
)
from discreteness.cluster.hardware import worker_cost
from discreteness.cluster.machines import Cluster, Node
from discreteness.cluster.times import Places, gaps, pace, seed_work, training_times
from discreteness.experiment.config import RunConfig
from discreteness.experiment.prepare import Experiment

STORE_SHARE = 0.6
"""Most of an object store that checkpoints in flight may fill: Ray begins to spill at 0.8."""


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
    gpu_types: frozenset[str | None]
    """Ray's names of the GPUs that trainers may get; empty on CPUs."""
    checkpoint_bytes: int
    rows: int
    """Rows of all seeds, one per document and step."""
    dataset_bytes: int
    """Estimate for all files of the dataset before it is compacted."""
    report: tuple[str, ...]

    @property
    def use_gpu(self) -> bool:
        return self.gpus_per_worker > 0


def choose(experiment: Experiment, run: RunConfig, cluster: Cluster) -> Topology:
    """Raises ValueError, which names what is asked and what exists, if a type or price of GPUs is given on CPUs, if no
    machine holds a trainer, or if an object store cannot hold the checkpoints in flight.
    """
    check_price(experiment, run)
    # How many trainers each machine could hold. A trainer is on one machine.
    workers = experiment.world_size
    use_gpu = experiment.track.needs_gpu
    if run.gpu_type and not use_gpu:
        raise ValueError(f"--gpu-type {run.gpu_type}: --track {experiment.track.name} trains on CPUs; leave it out")
    room = {node: _trainers_that_fit(node, workers, use_gpu, run.gpu_type) for node in cluster.nodes}
    hosts = [node for node in cluster.nodes if room[node]]
    if use_gpu and not hosts and (cluster.local or run.trainers is None):
        kind = f"{run.gpu_type} GPUs" if run.gpu_type else "GPUs"
        raise ValueError(
            f"--track {experiment.track.name}: no machine has {workers} {kind}, the cluster has {cluster.describe()}; "
            "with --trainers N the trainers wait for an autoscaler to bring them"
        )
    # Trainers and evaluators: those asked for, else as many trainers as fit and there are seeds, and evaluators on the
    # trainers' devices unless each is to have its own GPU.
    fits = sum(room[node] for node in cluster.nodes)
    evaluators = run.evaluators or 0
    own_gpus = use_gpu and run.evaluator_gpus == 1
    if own_gpus:
        evaluators = evaluators or max(1, len(hosts))
        fits = min(fits, _left_beside(evaluators, workers, run.trainers, cluster))
    trainers = run.trainers or max(1, min(fits, len(experiment.seeds)))
    evaluators = evaluators or (trainers * workers if use_gpu else trainers)
    # Whether the checkpoints in flight fit into the object store of a machine that holds its share of the trainers.
    layout = layout_of(experiment.track)
    checkpoint_bytes = layout.num_bytes(tied=False)
    in_flight = max(run.max_in_flight, workers) * checkpoint_bytes
    # Nodes that are still to come are taken for nodes that can hold what is asked; the head may hold nothing.
    store = min(node.object_store_bytes for node in hosts or cluster.nodes)
    if hosts and (use_gpu or not cluster.local):  # those that do not fit now wait: no node holds more than fit
        trainers_per_node = min(-(-trainers // len(hosts)), max(room.values()))
    else:  # a laptop declares as many CPUs as are asked for
        trainers_per_node = trainers
    if (hosts or cluster.local) and in_flight * trainers_per_node > STORE_SHARE * store:
        raise ValueError(
            f"--max-in-flight {run.max_in_flight}: {trainers_per_node} trainers on a node may hold "
            f"{in_flight * trainers_per_node / 1e9:.1f} GB in flight, above {STORE_SHARE:.0%} of the object store of "
            f"{store / 1e9:.1f} GB; use a smaller bound or a larger --object-store-memory"
        )
    # Who is at work at the same time. On a laptop everybody is, on the cores there are; elsewhere what finds no place
    # waits for one.
    gpu_types = {run.gpu_type} if run.gpu_type else {node.gpu_type for node in cluster.nodes if node.gpus}
    waiting = max(0, trainers - fits) if hosts and (use_gpu or not cluster.local) else 0
    used_gpus = (trainers - waiting) * workers if use_gpu else 0
    room_for_evaluators = evaluators
    if use_gpu and hosts:
        room_for_evaluators = _evaluators_that_fit(cluster, used_gpus, run.evaluator_gpus)
    cores = sum(node.cpus for node in (hosts or cluster.nodes))
    active = max(1, min(trainers - waiting, len(experiment.seeds)))
    places = Places(
        trainers=active,
        workers=workers,
        evaluators=max(1, min(evaluators, room_for_evaluators)),
        shared_devices=None if own_gpus else active * workers if use_gpu else cores,
    )
    occupied = used_gpus + places.evaluators * own_gpus if use_gpu else min(cores, active * workers + places.evaluators)
    # The report: what `--dry-run` prints and a job logs.
    cost = worker_cost(experiment.track, gpu_types)
    work = seed_work(experiment, cost, workers)
    mean_gap_s, peak_gap_s = gaps(experiment, training_times(experiment, cost, workers), run.max_in_flight)
    dataset_bytes = count_dataset_bytes(experiment, layout)
    place = f"{run.evaluator_gpus:g} of a GPU each, on the trainers' nodes" if use_gpu else "on the trainers' CPUs"
    if own_gpus:
        place = "each on its own GPU"
    place += _without_place(evaluators, room_for_evaluators, cluster)
    mean_mb_s, peak_mb_s = checkpoint_bytes / mean_gap_s / 1e6, checkpoint_bytes / peak_gap_s / 1e6
    report = (
        *what_is_recorded(experiment),
        f"cluster: {cluster.describe()}",
        f"trainers: {trainers}, each with {workers} worker{'s' if workers > 1 else ''} on one node, "
        f"one {'GPU' if use_gpu else 'CPU'} per worker ({fits} would fit now)"
        + _without_place(trainers, trainers - waiting, cluster),
        f"evaluators: {evaluators}, {place}",
        f"stream: {checkpoint_bytes / 1e6:.1f} MB per checkpoint; a trainer moves {mean_mb_s:.1f} MB/s on average, "
        f"{peak_mb_s:.1f} MB/s at its peak; at most {max(run.max_in_flight, workers)} in flight = "
        f"{in_flight / 1e6:.0f} MB of an object store of {store / 1e6:.0f} MB",
        what_is_stored(experiment, run, dataset_bytes),
        *what_it_takes(experiment, run, cluster, (work, places, pace(work, places)), occupied),
    )
    share = run.evaluator_gpus if use_gpu else 0.0
    return Topology(
        trainers=trainers,
        workers_per_trainer=workers,
        gpus_per_worker=0.0 if not use_gpu else 1.0 if own_gpus else 1 - share,
        evaluators=evaluators,
        gpus_per_evaluator=share,
        declared_cpus=max(int(sum(node.cpus for node in cluster.nodes)), trainers * workers),
        gpu_types=frozenset(gpu_types) if use_gpu else frozenset(),
        checkpoint_bytes=checkpoint_bytes,
        rows=num_rows(experiment),
        dataset_bytes=dataset_bytes,
        report=report,
    )


def _trainers_that_fit(node: Node, workers: int, use_gpu: bool, gpu_type: str | None) -> int:
    """Trainers of one node: each worker takes a CPU, and on a GPU track one GPU (with its evaluators) of that type."""
    if use_gpu and gpu_type not in (None, node.gpu_type):
        return 0
    return int(min(node.cpus, node.gpus if use_gpu else node.cpus) // workers)


def _without_place(asked: int, placed: int, cluster: Cluster) -> str:
    """What a plan says of those that find no place while the others are at work."""
    if asked <= placed:
        return ""
    fate = "never will: ask for fewer" if cluster.local else "wait for machines that are not here"
    return f"; {placed} of them find a place, {asked - placed} {fate}"


def _evaluators_that_fit(cluster: Cluster, used_gpus: int, share: float) -> int:
    """Evaluators that find a place while all trainers are at work: one on each trainer's GPU, which leaves it a share,
    and as many on the other GPUs as these have shares. With GPUs of their own: the other GPUs."""
    free_gpus = int(sum(node.gpus for node in cluster.nodes)) - used_gpus
    each = int(1 / share + 1e-9)
    return max(0, free_gpus) * each + (used_gpus if share < 1 else 0)


def _left_beside(evaluators: int, workers: int, trainers: int | None, cluster: Cluster) -> int:
    """Trainers for which GPUs are left after each evaluator has taken one. Raises ValueError if the machine is too
    small, or if its GPUs are of several types: an evaluator might get another one than its trainer and score other
    bits."""
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
