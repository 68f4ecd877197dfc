"""Settings as on a command line -> the values that a job is made of."""

from dataclasses import fields

from discreteness.cluster.topology import Topology
from discreteness.experiment.config import ExperimentConfig, JobConfig, RunConfig
from discreteness.experiment.prepare import Experiment, prepare
from discreteness.service.job import Job
from discreteness.service.speedrun_pair import SpeedrunPair

ONE_TRAINER = Topology(
    trainers=1,
    workers_per_trainer=1,
    gpus_per_worker=0,
    evaluators=1,
    gpus_per_evaluator=0,
    declared_cpus=1,
    gpu_types=frozenset(),
    checkpoint_bytes=0,
    rows=0,
    dataset_bytes=0,
    report=(),
)


def job_config(**settings) -> JobConfig:
    """Both halves from one list of settings."""
    names = {field.name for field in fields(ExperimentConfig)}
    experiment = {name: value for name, value in settings.items() if name in names}
    run = {name: value for name, value in settings.items() if name not in names}
    return JobConfig(experiment=ExperimentConfig(**experiment), run=RunConfig(**run))


def prepared(**settings) -> Experiment:
    """The experiment of these settings, whose track is named."""
    config = job_config(**settings)
    return prepare(config.experiment, config.run, config.experiment.track)


def a_job(experiment, seeds, topology=ONE_TRAINER, dataset_uri="", pair=None, **run) -> Job:
    """`run`: settings of how it is run."""
    return Job(
        experiment=experiment,
        pair=pair or SpeedrunPair(experiment),
        run=RunConfig(**run),
        topology=topology,
        seeds=tuple(seeds),
        dataset_uri=dataset_uri,
    )
