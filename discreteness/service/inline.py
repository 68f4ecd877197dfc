"""configuration -> a finished experiment in one process per rank, scored in the training loop, without Ray.

The truth that streaming is compared with, the baseline of benchmarks, and what a torchrun user gets:
`discreteness run --inline`, or `torchrun --standalone --nproc_per_node=2 -m discreteness run --inline ...`.
"""

import os
import time
import uuid
from dataclasses import replace
from datetime import timedelta

import numpy as np
import torch
import torch.distributed as dist
from speedrun.execution import one_thread_on_a_cpu
from speedrun.kernels.flash_attention import loaded_library
from speedrun.schedules import validation_state
from speedrun.training import Checkpoint, SeedFailed, Trainer
from speedrun.validation import Validator

from discreteness.checkpoint.header import CheckpointHeader
from discreteness.checkpoint.layout import CheckpointLayout
from discreteness.checkpoint.safetensors_file import WeightsFormat
from discreteness.cluster.estimate import inline_report
from discreteness.cluster.machines import this_machine
from discreteness.dataset.attempt_rows import AttemptRows
from discreteness.dataset.event_log import ATTEMPT_LOST
from discreteness.dataset.lock import DatasetLock, LockLost
from discreteness.dataset.writer import DatasetWriter
from discreteness.experiment.config import ExperimentConfig, JobConfig, RunConfig
from discreteness.experiment.prepare import Experiment, open_dataset, prepare, shared_row_warning, still_to_train
from discreteness.scoring.scorer import Scorer
from discreteness.service.log import LOG_INTERVAL_S, Log
from discreteness.service.speedrun_source import build_trainer


def run_inline(config: JobConfig) -> int:
    """0 when every planned seed is committed, else 1. Under torchrun the world size is torchrun's."""
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    with Log(config.run.log_format, goes_on=not config.run.dry_run) as log:
        return _run(replace(config.experiment, workers_per_trainer=world_size), config.run, log)


def _run(config: ExperimentConfig, run: RunConfig, log: Log) -> int:
    if run.assume:
        raise ValueError(f"--assume {run.assume}: an inline run has this machine alone; leave --inline or --assume out")
    machine = this_machine()
    experiment = prepare(config, run, machine.track(config.track))
    if run.dry_run:
        experiment = still_to_train(experiment, run)
    if os.environ.get("RANK", "0") == "0":
        for line in inline_report(experiment, run, machine):
            log.say(line, "plan")
    if run.dry_run:
        return 0
    use_cuda = experiment.track.needs_gpu
    if use_cuda and not torch.cuda.is_available():
        raise ValueError(f"--track {experiment.track.name}: it needs a GPU and this machine has none")
    process_group = _join(experiment.world_size, use_cuda)
    rank = dist.get_rank() if process_group else 0
    device = f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if use_cuda else "cpu"
    one_thread_on_a_cpu(device)
    try:
        trainer = build_trainer(experiment, device, process_group)
        if rank:
            return _follow(experiment, trainer)
        if warning := shared_row_warning(experiment):
            log.say(f"warning: {warning}", "plan", level="warning")
        with DatasetLock(run.output, take_over=run.take_over) as lock:
            dataset = open_dataset(experiment, run)
            dataset.log_job(experiment.seeds, max_attempts=1)
            return _lead(experiment, trainer, dataset, lock, log)
    except LockLost as loss:
        log.say(f"{loss}: stopped", "taken over", level="error")
        return 1
    finally:
        if process_group:
            dist.destroy_process_group()


def _lead(experiment: Experiment, trainer: Trainer, dataset: DatasetWriter, lock: DatasetLock, log: Log) -> int:
    committed = dataset.committed()
    failed, last_step = 0, experiment.track.schedule.last_step
    began_s = shown_s = time.monotonic()
    scorer = Scorer.for_experiment(experiment, trainer.model)
    for seed in experiment.seeds:
        if seed in committed:
            continue
        _announce(trainer, seed)
        recorder = _Recorder(experiment, trainer, scorer, dataset, seed)
        try:
            for checkpoint in trainer.train(seed, experiment.published_steps):
                lock.check()
                recorder.add(checkpoint)
                if time.monotonic() - shown_s >= LOG_INTERVAL_S:
                    shown_s = time.monotonic()
                    text = f"[{shown_s - began_s:.0f} s] seed {seed} at step {checkpoint.step} of {last_step}"
                    log.say(text, "progress", seed=seed, attempt=recorder.attempt, step=checkpoint.step)
        except SeedFailed as failure:
            text = f"seed {seed} FAILED: {failure}"
            log.say(text, "seed failed", level="error", seed=seed, attempt=recorder.attempt)
            event = {"event": ATTEMPT_LOST, "seed": seed, "attempt": recorder.attempt, "error": str(failure)}
            dataset.log(event | {"train_s": recorder.rows.train_s()})
            failed += 1
            if failure.ends == "job":
                log.say("no further seed is trained, as each would meet the same", "seeds given up", level="error")
                break
            continue
        if library := loaded_library():  # of this process, which trains and scores
            recorder.rows.trained_with, recorder.rows.scored_with = library, [library]
        recorder.rows.commit(dataset, seed, recorder.attempt)
        text = f"seed {seed} committed: {len(recorder.rows.losses)} checkpoints"
        log.say(text, "seed committed", seed=seed, attempt=recorder.attempt)
    _announce(trainer, -1)
    log.say(f"dataset: {dataset.uri}")
    return 1 if failed else 0


def _follow(experiment: Experiment, trainer: Trainer) -> int:
    """The other ranks train what rank 0 announces; scoring and dataset are rank 0's."""
    while (seed := _announce(trainer, 0)) >= 0:
        try:
            for _ in trainer.train(seed, experiment.published_steps):
                pass
        except SeedFailed:
            continue
    return 0


class _Recorder:
    """checkpoints of one seed -> losses and records by step."""

    def __init__(self, experiment: Experiment, trainer: Trainer, scorer: Scorer, dataset: DatasetWriter, seed: int):
        self.experiment = experiment
        self.model = trainer.model
        self.scorer = scorer
        self.dataset = dataset
        self.seed = seed
        self.attempt = uuid.uuid4().hex[:12]
        self.rows = AttemptRows()
        self.validator = None
        if experiment.val_tokens:
            self.validator = Validator(trainer.model, experiment.track, experiment.data_root, experiment.val_tokens)

    def add(self, checkpoint: Checkpoint) -> None:
        self.rows.add_records(checkpoint.records)
        if checkpoint.step in self.experiment.plan:
            self.rows.add_losses(checkpoint.step, self.scorer.score(checkpoint.state))
        if checkpoint.step in self.experiment.kept_steps:
            self._keep(checkpoint)
        if self.validator and checkpoint.step in self.experiment.validation_steps:
            state = validation_state(self.experiment.track, checkpoint.step, checkpoint.state)
            means = [self.validator.chunk_loss(i, state) for i in range(len(self.validator.chunks))]
            self.rows.add_records([{"step": checkpoint.step, "val_loss": float(np.mean(means))}])

    def _keep(self, checkpoint: Checkpoint) -> None:
        layout = CheckpointLayout.from_model(self.model)
        data = layout.pack(self.model, checkpoint.state.tied)
        header = CheckpointHeader(
            seed=self.seed,
            attempt=self.attempt,
            step=checkpoint.step,
            layout=layout.fingerprint,
            state=checkpoint.state,
            num_bytes=data.nbytes,
        )
        self.dataset.storage.write(*WeightsFormat(self.experiment.track).file(data, header))


def _join(world_size: int, use_cuda: bool) -> dist.ProcessGroup | None:
    if world_size == 1:
        return None
    if use_cuda:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    # Rank 0 scores in the loop while the others wait in their next collective.
    dist.init_process_group("nccl" if use_cuda else "gloo", timeout=timedelta(minutes=30))
    return dist.group.WORLD


def _announce(trainer: Trainer, seed: int) -> int:
    """Rank 0's seed on every rank; -1 ends."""
    if not trainer.process_group:
        return seed
    number = torch.tensor([seed], device=trainer.device)
    dist.broadcast(number, 0, group=trainer.process_group)
    return int(number.item())
