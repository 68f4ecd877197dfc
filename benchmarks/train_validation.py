"""checkpoints reported to Ray Train -> losses by its asynchronous validation: way C of streaming.py.

Ray Train runs one validation at a time, a task that reads the checkpoint from a folder, and returns a few metrics. What
it costs is measured over a few checkpoints, one at the start of every second block of updates, and scaled from there.
"""

import functools
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import ray.train
import torch
from ray.train import ScalingConfig
from ray.train.torch import TorchTrainer
from ray.train.v2.api.report_config import CheckpointUploadMode
from ray.train.v2.api.validation_config import ValidationConfig, ValidationTaskConfig
from speedrun.schedules import forward_state
from speedrun.training import Trainer

from discreteness.checkpoint.header import CheckpointHeader
from discreteness.checkpoint.layout import CheckpointLayout
from discreteness.experiment.prepare import Experiment
from discreteness.scoring.evaluator import Evaluator
from discreteness.service.speedrun_pair import SpeedrunPair

FILE = "checkpoint.bin"


@dataclass(frozen=True)
class Validated:
    """Seconds; without and with a checkpoint at its start, a figure a block of updates."""

    without_s: list[float]
    with_s: list[float]
    all_scored_s: float
    """From the end of training until `fit` had every validation."""
    mean_losses: list[float]


def measure(experiment: Experiment, device: str, evaluator_gpus: float, num: int, steps: int) -> Validated:
    """Trains 2 x `num` blocks of `steps` updates in one fit(), every second with a checkpoint to validate."""
    with tempfile.TemporaryDirectory() as storage:
        trainer = TorchTrainer(
            _train,
            train_loop_config={
                "experiment": experiment,
                "device": device,
                "num": num,
                "steps": steps,
                "storage": storage,
            },
            scaling_config=ScalingConfig(
                num_workers=1,
                use_gpu=device == "cuda",
                resources_per_worker={"CPU": 1} | ({"GPU": 1 - evaluator_gpus} if device == "cuda" else {}),
            ),
            run_config=ray.train.RunConfig(storage_path=storage, name="validation"),
            validation_config=ValidationConfig(
                functools.partial(_validate, experiment, device),
                ray_remote_kwargs={"num_cpus": 0, "num_gpus": evaluator_gpus if device == "cuda" else 0},
            ),
        )
        result = trainer.fit()
        returned_s = time.time()
        timings = np.load(f"{storage}/timings.npz")
        losses = [metrics["mean_loss"] for _, metrics in result.best_checkpoints if "mean_loss" in metrics]
    turns = timings["block_s"].tolist()
    return Validated(turns[0::2], turns[1::2], returned_s - float(timings["ended_s"]), losses)


def _train(config: dict[str, Any]) -> None:
    experiment, device, storage = config["experiment"], config["device"], config["storage"]
    num, steps = config["num"], config["steps"]
    trainer = Trainer(experiment.track, experiment.data_root, device, execution=experiment.execution)
    layout = CheckpointLayout.from_model(trainer.model)
    wait: Callable[[], None] = torch.cuda.synchronize if device == "cuda" else lambda: None
    plan = range(0, (2 * num + 2) * steps + 1, steps)
    block_s, began_s = [], 0.0
    for checkpoint in trainer.train(0, plan):
        wait()
        block_s.append(time.perf_counter() - began_s)
        began_s = time.perf_counter()
        block = checkpoint.step // steps
        if block >= 2 and block % 2 and block < 2 * num + 2:  # two blocks before the first that counts
            with tempfile.TemporaryDirectory() as folder:
                layout.pack(trainer.model, checkpoint.state.tied).tofile(f"{folder}/{FILE}")
                ray.train.report(
                    {"step": checkpoint.step},
                    checkpoint=ray.train.Checkpoint.from_directory(folder),
                    checkpoint_upload_mode=CheckpointUploadMode.SYNC,
                    validation=ValidationTaskConfig(fn_kwargs={"step": checkpoint.step}),
                )
    np.savez(Path(storage) / "timings.npz", block_s=np.array(block_s[3:]), ended_s=time.time())


def _validate(experiment: Experiment, device: str, checkpoint: ray.train.Checkpoint, step: int) -> dict[str, float]:
    evaluator = _evaluator(experiment, device)
    with checkpoint.as_directory() as folder:
        data = np.fromfile(f"{folder}/{FILE}", np.uint8)
    header = CheckpointHeader(
        seed=0,
        attempt="0" * 12,
        step=step,
        layout=evaluator.scorer.loader.layout.fingerprint,
        state=forward_state(experiment.track, step),
        num_bytes=data.nbytes,
    )
    return {"mean_loss": float(evaluator.score(data, header).mean())}


_kept: dict[str, Evaluator] = {}


def _evaluator(experiment: Experiment, device: str) -> Evaluator:
    """Kept where Ray gives the next task to the same process: the fairest that can be done."""
    if device not in _kept:
        _kept[device] = Evaluator(SpeedrunPair(experiment), device)
    return _kept[device]


def report(validated: Validated, steps: int) -> None:
    """Per checkpoint, and scaled to the densities of streaming.py."""
    without_s, with_s = statistics.median(validated.without_s), statistics.median(validated.with_s)
    each_s, num = with_s - without_s, len(validated.with_s)
    total_s = sum(validated.without_s + validated.with_s) + validated.all_scored_s
    print(f"\nRay Train's own asynchronous validation, {num} checkpoints, {len(validated.mean_losses)} scored:")
    step_s = without_s / steps
    print(f"training waited {each_s:.2f} s a checkpoint, {validated.all_scored_s:.1f} s at the end for the last ones;")
    print(
        f"{num / total_s:.2f} checkpoints/s. Scaled, not run: training would take {1 + each_s / (6 * step_s):.1f} times"
    )
    print(f"as long with a checkpoint every 6 steps, {1 + each_s / step_s:.1f} times with one every step")
