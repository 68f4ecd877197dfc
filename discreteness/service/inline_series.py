"""a series -> its dataset, in one process without Ray: the next checkpoint is fetched while this one is scored."""

import time
import uuid
from contextlib import closing

import torch

from discreteness.checkpoint.seam import SeedImpossible
from discreteness.dataset.attempt_rows import AttemptRows
from discreteness.dataset.event_log import ATTEMPT_LOST
from discreteness.dataset.lock import DatasetLock, LockLost
from discreteness.dataset.names import with_name
from discreteness.dataset.same_weights import same_weights, words_of_equal
from discreteness.dataset.writer import DatasetWriter
from discreteness.series.ahead import scored
from discreteness.series.config import SeriesConfig
from discreteness.series.estimate import series_report, warnings_of
from discreteness.series.pair import SeriesScorer, SeriesSource
from discreteness.series.prepare import SeriesExperiment, prepare_series
from discreteness.service.log import LOG_INTERVAL_S, Log


def score_series_inline(config: SeriesConfig) -> int:
    """0 when every model is committed, else 1. Raises ValueError if the input is wrong, OSError if the disk is full or
    the hub does not answer; what is committed is kept."""
    with Log(config.log_format, goes_on=not config.dry_run) as log:
        return _run(config, log)


def _run(config: SeriesConfig, log: Log) -> int:
    device = device_of(config)
    experiment = prepare_series(config)
    for line in series_report(experiment, config, device):
        log.say(line, "plan")
    for warning in warnings_of(experiment):
        log.say(warning, "plan", level="warning")
    if config.dry_run:
        experiment.dataset(config)
        return 0
    try:
        with DatasetLock(config.output, take_over=config.take_over) as lock:
            dataset = experiment.dataset(config)
            dataset.log_job(range(len(experiment.series.models)), max_attempts=1)
            with closing(experiment.pair.scorer(device)) as scorer:
                return _Models(experiment, scorer, dataset, lock, log).score()
    except LockLost as loss:
        log.say(f"{loss}: stopped", "taken over", level="error")
        return 1


def device_of(config: SeriesConfig) -> str:
    """ "cpu" or "cuda". Raises ValueError if a GPU was asked for and there is none."""
    there = torch.cuda.is_available()
    if config.device == "cuda" and not there:
        raise ValueError("--device cuda: this machine has no GPU; leave it out, or give --device cpu")
    return config.device if config.device != "auto" else "cuda" if there else "cpu"


class _Models:
    """One model after another, of those that are not committed."""

    def __init__(
        self, experiment: SeriesExperiment, scorer: SeriesScorer, dataset: DatasetWriter, lock: DatasetLock, log: Log
    ):
        self.experiment = experiment
        self.source = SeriesSource(experiment.series.checkpoints)
        self.scorer = scorer
        self.dataset = dataset
        self.lock = lock
        self.log = log
        self.began_s = self.shown_s = time.monotonic()

    def score(self) -> int:
        committed, names = self.dataset.committed(), self.experiment.names
        failed = 0
        for seed in names:
            if seed in committed:
                continue
            attempt, rows = uuid.uuid4().hex[:12], AttemptRows()
            label = with_name(seed, names)
            try:
                self._score_one(seed, attempt, rows)
            except (SeedImpossible, ValueError) as failure:
                failed += 1
                self.log.say(
                    f"seed {label} FAILED: {failure}", "seed failed", level="error", seed=seed, attempt=attempt
                )
                lost = {"event": ATTEMPT_LOST, "seed": seed, "attempt": attempt, "error": str(failure), "final": True}
                self.dataset.log(lost)
                self.dataset.remove_running(seed)
                continue
            rows.commit(self.dataset, seed, attempt)
            text = f"seed {label} committed: {len(rows.losses)} checkpoints"
            self.log.say(text, "seed committed", seed=seed, attempt=attempt)
            self._warn_of_equal(seed, rows)
        self.log.say(f"dataset: {self.dataset.uri}")
        return 1 if failed else 0

    def _score_one(self, seed: int, attempt: str, rows: AttemptRows) -> None:
        """Adds the losses of all checkpoints of one model."""
        steps = frozenset(self.experiment.series.plan)
        for checkpoint, losses in scored(self.source, self.scorer, seed, attempt, steps):
            self.lock.check()
            rows.add_records(checkpoint.records)
            rows.add_losses(checkpoint.step, losses)
            self._show(seed, attempt, rows)

    def _show(self, seed: int, attempt: str, rows: AttemptRows) -> None:
        now_s = time.monotonic()
        if now_s - self.shown_s < LOG_INTERVAL_S:
            return
        self.shown_s = now_s
        rows.show(self.dataset, seed, attempt)
        done, step = len(rows.losses), max(rows.losses)
        label = with_name(seed, self.experiment.names)
        text = (
            f"[{now_s - self.began_s:.0f} s] seed {label} at step {step}: {done} of {len(self.experiment.series.plan)}"
        )
        self.log.say(text, "progress", seed=seed, attempt=attempt, step=step)

    def _warn_of_equal(self, seed: int, rows: AttemptRows) -> None:
        """Of a folder, whose hashes are known only now."""
        if not self.experiment.series.checkpoints[seed][0].folder:
            return
        for steps in same_weights((step, record["weights"]) for step, record in sorted(rows.records.items())):
            text = words_of_equal(self.experiment.names[seed], steps)
            self.log.say(f"warning: {text}", "same weights", level="warning", seed=seed)
