"""The toy model of the golden vectors: its configuration, weights and tokens (see golden/README.md)."""

import dataclasses
import json
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from speedrun import tracks
from speedrun.initial_weights import draw_weights
from speedrun.model import GPT, PackedTokens
from speedrun.tracks import ModelConfig, Track
from torch import Tensor

GOLDEN = Path(__file__).parent / "golden"


def golden(name: str) -> Any:
    """A golden file's content, `name` without the ending."""
    return json.loads((GOLDEN / f"{name}.json").read_text())


def golden_config() -> ModelConfig:
    """The small track's layer roles at toy sizes."""
    return dataclasses.replace(tracks.small.model, vocab_size=384, num_heads=2, head_dim=64, window_block=8)


def golden_track() -> Track:
    """The small track with the toy model: stage A is its step 0, stage B its step 600."""
    return dataclasses.replace(tracks.small, model=golden_config(), dtype="float32")


def golden_weights(model: GPT) -> None:
    """Fill every parameter by the hash formula."""
    parameters = dict(model.named_parameters())
    table = golden("model_small")["config"]["parameters"]
    assert {row["name"] for row in table} == set(parameters)
    with torch.no_grad():
        for row in table:
            parameter = parameters[row["name"]]
            values = row["offset"] + row["amp"] * hash_uniform(row["ordinal"], parameter.numel())
            parameter.copy_(torch.from_numpy(values).view(row["shape"]))


def hash_uniform(ordinal: int, count: int) -> np.ndarray:
    """Integer hash of (flat index, ordinal) -> float64 in [-1, 1)."""
    x = np.arange(count, dtype=np.uint32) + np.uint32(1 + 1000003 * ordinal)
    x = (x ^ (x >> np.uint32(16))) * np.uint32(2146121005)
    x = (x ^ (x >> np.uint32(15))) * np.uint32(2221713035)
    return (x ^ (x >> np.uint32(16))).astype(np.float64) / 2**31 - 1


def golden_tokens(step: int) -> PackedTokens:
    """The 128 inputs and targets of that step: three documents of 37, 70 and 21 tokens, reference packing."""
    n = torch.arange(129)
    tokens = (7 * n * n + 13 * n + 5 + 31 * step) % 380
    tokens[[0, 37, 107]] = 380
    return pack(tokens[:-1], tokens[1:], [0, 37, 107, 128])


def pack(ids: Tensor, targets: Tensor, offsets: list[int], isolated: bool = False) -> PackedTokens:
    """Documents that lie between `offsets`, packed in reference or isolated mode."""
    positions = torch.arange(len(ids))
    starts = positions == 0
    if isolated:
        starts = torch.isin(positions, torch.tensor(offsets[:-1]))
        positions = torch.cat([torch.arange(b - a) for a, b in pairwise(offsets)])
    ahead = torch.nn.functional.pad(targets.long(), (0, 2), value=-1).unfold(0, 3, 1)
    return PackedTokens(
        ids=ids.int(),
        targets=ahead.contiguous(),
        positions=positions.int(),
        starts=starts,
        cu_seqlens=torch.tensor(offsets, dtype=torch.int32),
        max_seqlen=torch.tensor(max(b - a for a, b in pairwise(offsets))),
        order=torch.sort(ids, stable=True).indices,
    )


def mtp_tensor(weights: Sequence[float], dtype: torch.dtype = torch.float32) -> Tensor:
    """Weights of the three targets, zero where there are fewer."""
    return torch.tensor([*weights, 0.0, 0.0][:3], dtype=dtype)


def init_weights(model: GPT, seed: int) -> None:
    """Fresh weights of that seed."""
    model.set_weights(draw_weights(model.config, model.dtype, seed))


def assert_summary(actual: Tensor, expected: dict[str, Any], indices: list[int], tolerance: float) -> None:
    """Norm, sum and sampled entries of one tensor; sums and entries are judged against the norm."""
    values = actual.detach().double()
    norm = expected["l2"]
    np.testing.assert_allclose(values.norm().item(), norm, rtol=tolerance)
    np.testing.assert_allclose(values.sum().item(), expected["sum"], atol=tolerance * norm, rtol=0)
    np.testing.assert_allclose(values.flatten()[indices].numpy(), expected["entries"], atol=tolerance * norm, rtol=0)
