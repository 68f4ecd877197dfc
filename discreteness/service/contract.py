"""What a source and a scorer owe, looked at where their work passes: steps, bytes and losses, never what they mean."""

from collections.abc import Generator
from contextlib import closing

import numpy as np

from discreteness.checkpoint.header import CheckpointHeader
from discreteness.checkpoint.seam import Checkpoint, ContractBroken


def in_order(checkpoints: Generator[Checkpoint], seed: int, steps: frozenset[int]) -> Generator[Checkpoint]:
    """The same checkpoints. ContractBroken where the next one is not after the last, leaves out one of `steps`, or
    where they end too early."""
    left = sorted(steps, reverse=True)
    last = -1
    with closing(checkpoints):
        for checkpoint in checkpoints:
            step = checkpoint.step
            if step <= last:
                again = "twice" if step == last else f"after step {last}"
                raise ContractBroken(f"the source of seed {seed} gave step {step} {again}")
            if left and step > left[-1]:
                raise ContractBroken(f"the source of seed {seed} left out step {left[-1]}: it gave step {step} next")
            if left and step == left[-1]:
                left.pop()
            last = step
            yield checkpoint
    if left:
        raise ContractBroken(f"the source of seed {seed} ended before step {left[-1]}")


def check_bytes(data: np.ndarray, header: CheckpointHeader) -> None:
    """ContractBroken unless these are as many bytes as their header says."""
    if data.dtype != np.uint8 or data.shape != (header.num_bytes,):
        raise ContractBroken(
            f"the source of seed {header.seed} sent {data.dtype}{list(data.shape)} at step {header.step}, "
            f"and announced uint8[{header.num_bytes}]"
        )


def check_losses(losses: np.ndarray, header: CheckpointHeader, num_losses: int) -> None:
    """ContractBroken unless there is a float32 loss of each token."""
    if not isinstance(losses, np.ndarray) or losses.dtype != np.float32 or losses.shape != (num_losses,):
        found = f"{losses.dtype}{list(losses.shape)}" if isinstance(losses, np.ndarray) else type(losses).__name__
        raise ContractBroken(
            f"the scorer gave {found} for step {header.step} of seed {header.seed}, not float32[{num_losses}]"
        )
