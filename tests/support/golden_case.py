"""The toy models of the golden vectors: their configuration, weights and tokens (see golden/README.md)."""

import dataclasses
import json
import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from speedrun import tracks
from speedrun.model.gpt import GPT, PackedTokens
from speedrun.model.initial_weights import draw_weights
from speedrun.tracks import ModelConfig, Track
from torch import Tensor

GOLDEN = Path(__file__).parents[1] / "golden"
SKIP_GATE = r"skip_gates\.(\d)\.weight"


def golden(name: str) -> Any:
    """A golden file's content, `name` without the ending."""
    return json.loads((GOLDEN / f"{name}.json").read_text())


def golden_config(track: str = "small") -> ModelConfig:
    """The track's layer roles at toy sizes."""
    model = tracks.track(track).model
    return dataclasses.replace(model, vocab_size=384, num_heads=2, head_dim=64, window_block=8)


def golden_track(track: str = "small") -> Track:
    """The track with the toy model: stage A is its step 0, stage B its step 600 (small) or 392 (medium)."""
    return dataclasses.replace(tracks.track(track), model=golden_config(track), dtype="float32")


def golden_weights(model: GPT, track: str = "small") -> None:
    """Fill every parameter by the hash formula."""
    parameters = dict(model.named_parameters())
    table = golden(f"model_{track}")["config"]["parameters"]
    assert {re.sub(SKIP_GATE, "skip_gate.weight", row["name"]) for row in table} == set(parameters)
    with torch.no_grad():
        for row in table:
            parameter = named(parameters, row["name"])
            values = row["offset"] + row["amp"] * hash_uniform(row["ordinal"], parameter.numel())
            parameter.copy_(torch.from_numpy(values).view(row["shape"]))


def named(tensors: Mapping[str, Tensor | None], name: str) -> Any:
    """The tensor of that golden name: the vectors have a parameter for each skip gate, the model a row of one."""
    if skip := re.fullmatch(SKIP_GATE, name):
        rows = tensors["skip_gate.weight"]
        return None if rows is None else rows[int(skip[1])].unsqueeze(0)
    return tensors[name]


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
