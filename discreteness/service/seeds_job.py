"""configuration -> a finished experiment of the speedrun, and a code: what `jobs/run_seeds.py` does."""

from functools import partial

from discreteness.cluster.connection import find_cluster
from discreteness.cluster.machines import assumed
from discreteness.cluster.topology import choose
from discreteness.experiment.config import JobConfig
from discreteness.experiment.prepare import open_dataset, prepare, shared_row_warning, still_to_train
from discreteness.service.driver import Work, drive, say_all_committed
from discreteness.service.log import Log
from discreteness.service.speedrun_pair import SpeedrunPair
from discreteness.service.upload import settled


def run(config: JobConfig) -> int:
    """0 when every planned seed is committed, 1 when not, 128 + n after signal n. ValueError: the input is wrong."""
    with Log(config.run.log_format, goes_on=not config.run.dry_run) as log:
        return _run(config, log)


def _run(config: JobConfig, log: Log) -> int:
    config.check()  # before a cluster is joined
    config = settled(config)
    run = config.run
    cluster = assumed(run.assume) if run.assume else find_cluster(job_metadata(config), run.object_store_gb)
    experiment = prepare(config.experiment, run, cluster.track(config.experiment.track))
    if run.dry_run:
        asked, experiment = experiment, still_to_train(experiment, run)
        if not experiment.seeds:
            say_all_committed(asked, run, log)
            return 0
    topology = choose(experiment, run, cluster)
    for line in topology.report:
        log.say(line, "plan")
    if warning := shared_row_warning(experiment):
        log.say(f"warning: {warning}", "plan", level="warning")
    if run.dry_run:
        return 0
    work = Work(
        experiment=experiment,
        pair=SpeedrunPair(experiment),
        run=run,
        topology=topology,
        open_dataset=partial(open_dataset, experiment, run),
        metadata=job_metadata(config),
    )
    return drive(work, cluster, log)


def job_metadata(config: JobConfig) -> dict[str, str]:
    """What tells this job from others in Ray's list of jobs."""
    return {"output": config.run.output, "track": config.experiment.track, "seeds": config.run.seeds}
