"""a series -> its dataset, and a code, on Ray: sources list the checkpoints, evaluators fetch, load and score them."""

from dataclasses import replace
from functools import partial

from discreteness.cluster.connection import find_cluster
from discreteness.cluster.machines import Cluster
from discreteness.cluster.topology import Topology
from discreteness.experiment.config import RunConfig
from discreteness.experiment.recording import Recording
from discreteness.series.config import SeriesConfig
from discreteness.series.estimate import series_report, warnings_of
from discreteness.series.prepare import SeriesExperiment, prepare_series
from discreteness.service.driver import Work, drive
from discreteness.service.evaluator_pool import IN_FLIGHT_EACH
from discreteness.service.log import Log
from discreteness.service.upload import settled_output

MODELS_AT_ONCE = 2
"""While one model's last checkpoints are scored, the next one's first are at hand."""


def score_series_on_ray(config: SeriesConfig) -> int:
    """0 when every model is committed, 1 when not, 128 + n after signal n. Raises ValueError if the input is wrong,
    OSError if the hub cannot be reached."""
    with Log(config.log_format, goes_on=not config.dry_run) as log:
        return _run(config, log)


def _run(config: SeriesConfig, log: Log) -> int:
    config = _settled(config)
    metadata = {"output": config.output, "models": " ".join(config.models)}
    cluster = find_cluster(metadata)
    device = device_of(config, cluster)
    experiment = prepare_series(config)
    topology = series_topology(config, experiment, cluster, device)
    for line in *series_report(experiment, config, device), *topology.report:
        log.say(line, "plan")
    for warning in warnings_of(experiment):
        log.say(warning, "plan", level="warning")
    if config.dry_run:
        experiment.dataset(config)
        return 0
    work = Work(
        experiment=recording_of(experiment),
        pair=experiment.pair,
        run=RunConfig(
            output=config.output,
            max_attempts=config.max_attempts,
            max_in_flight=credits_each(topology),
            take_over=config.take_over,
        ),
        topology=topology,
        open_dataset=partial(experiment.dataset, config),
        metadata=metadata,
    )
    return drive(work, cluster, log)


def device_of(config: SeriesConfig, cluster: Cluster) -> str:
    """ "cpu" or "cuda", by what the cluster has. Raises ValueError if a GPU was asked for and there is none."""
    if config.device == "cuda" and not cluster.has_gpus:
        raise ValueError(
            f"--device cuda: there is no GPU among {cluster.describe()}; leave it out, or give --device cpu"
        )
    return config.device if config.device != "auto" else "cuda" if cluster.has_gpus else "cpu"


def series_topology(config: SeriesConfig, experiment: SeriesExperiment, cluster: Cluster, device: str) -> Topology:
    """Evaluators on the GPUs, or on the cores; a source for each model that is scored at the same time, on a CPU."""
    num_checkpoints = sum(map(len, experiment.series.checkpoints))
    shares = int(1 / config.evaluator_gpus + 1e-9)
    places = sum(int(node.gpus) * shares if device == "cuda" else int(node.cpus) for node in cluster.nodes)
    evaluators = config.evaluators or max(1, min(places, num_checkpoints))
    sources = min(config.models_at_once or MODELS_AT_ONCE, len(experiment.series.models))
    where = f"{config.evaluator_gpus:g} of a GPU each" if device == "cuda" else "on CPUs"
    return Topology(
        trainers=sources,
        workers_per_trainer=1,
        gpus_per_worker=0.0,
        evaluators=evaluators,
        gpus_per_evaluator=config.evaluator_gpus if device == "cuda" else 0.0,
        declared_cpus=max(int(sum(node.cpus for node in cluster.nodes)), sources),
        gpu_types=frozenset(),
        checkpoint_bytes=0,
        rows=0,
        dataset_bytes=0,
        report=(
            f"cluster: {cluster.describe()}",
            f"evaluators: {evaluators}, {where} ({places} would fit); models at once: {sources}",
        ),
    )


def credits_each(topology: Topology) -> int:
    """Checkpoints of one model in flight: all models at once keep every evaluator busy, and so can nearly one alone."""
    return max(IN_FLIGHT_EACH, -(-IN_FLIGHT_EACH * topology.evaluators // topology.trainers))


def recording_of(experiment: SeriesExperiment) -> Recording:
    return Recording(
        documents=experiment.documents,
        plan=experiment.series.plan,
        seeds=tuple(experiment.names),
        identity=experiment.identity,
        plan_text=experiment.plan_text,
        names=experiment.names,
    )


def _settled(config: SeriesConfig) -> SeriesConfig:
    """With an output that stays; models of folders are looked for, and missed by name, where they are listed."""
    output = settled_output(config.output, SeriesConfig.output, [("--documents", config.documents)])
    return replace(config, output=output)
