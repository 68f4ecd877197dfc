"""trained model + shards -> validation loss, and how the losses of tokens and documents are spread."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from speedrun.data.sampler import ValidationChunks
from speedrun.data.shards import BOS, ShardError, find_shards, open_shard
from speedrun.data.tiny_corpus import ensure_tiny_corpus
from speedrun.validation import pack_chunk

from discreteness.inference.load import Trained
from discreteness.shards.report import shard_paths

PERCENTS = (10, 25, 50, 75, 90)
HELD_OUT = "_val_"
"""In the name of a validation shard of every track and every public set."""


@dataclass(frozen=True)
class Validation:
    """Losses in nats. Documents that the end of a chunk cuts count as tokens, not as documents."""

    loss: float
    """Mean over chunks of equal length, as the trainer computes it."""
    num_tokens: int
    num_documents: int
    token_percentiles: tuple[float, ...]
    """At PERCENTS, of single tokens."""
    document_mean: float
    document_std: float
    """Of the documents' mean losses, each document counting alike."""
    document_percentiles: tuple[float, ...]


def shards_of(paths: Sequence[str], trained: Trained, data_root: Path) -> list[Path]:
    """The shards named, and those anywhere below the folders named; none named: the track's validation shards below
    `data_root`. Where some of the shards below a folder are held out by their names, only they are taken, so that no
    model is validated on what it was trained on. Raises ValueError as `shard_paths` does."""
    if not paths:
        if trained.track.data.made_on_first_use:
            ensure_tiny_corpus(data_root)
        return find_shards(data_root, trained.track.data.val_glob)
    found: list[Path] = []
    for path in paths:
        shards = shard_paths([path])
        held_out = [shard for shard in shards if HELD_OUT in shard.name] if Path(path).is_dir() else []
        found += held_out or shards
    return found


def validate(
    trained: Trained,
    shards: Sequence[Path],
    val_tokens: int | None = None,
    chunk_tokens: int | None = None,
    *,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Validation:
    """Scores the first `val_tokens` tokens of the shards (default: all), in chunks, in evaluation mode.

    All whole chunks of a shard are taken, and every shard must have at least one. With the track's own shard, number of
    tokens and chunks (the default) the loss is the one that its training reports at that step. `progress` is told
    chunks done and in all. Raises ValueError if a shard cannot be used, if there are too few tokens, or if numbers do
    not divide.
    """
    size = trained.track.data.val_chunk_tokens if chunk_tokens is None else chunk_tokens
    if size < 1:
        raise ValueError(f"--chunk-tokens {size}: give at least 1")
    chunks = list(_chunks(shards, size, val_tokens))
    total = sum(len(one) for one in chunks)
    means, tokens, documents = [], [], []
    for one in chunks:
        for number in range(len(one)):
            inputs, targets, offsets = one.chunk(number)
            mean, losses = _score(trained, inputs, targets, offsets)
            means.append(mean)
            tokens.append(losses)
            borders = np.unique(offsets)[0 if inputs[0] == BOS else 1 : None if targets[-1] == BOS else -1]
            documents += [losses[start:end].mean(dtype=np.float64) for start, end in pairwise(borders)]
            progress(len(means), total)
    every = np.concatenate(tokens)
    spread = np.array(documents) if documents else np.full(1, np.nan)
    return Validation(
        loss=float(np.mean(means)),
        num_tokens=len(every),
        num_documents=len(documents),
        token_percentiles=tuple(np.percentile(every, PERCENTS).tolist()),
        document_mean=float(spread.mean()),
        document_std=float(spread.std(ddof=1)) if len(spread) > 1 else float("nan"),
        document_percentiles=tuple(np.percentile(spread, PERCENTS).tolist()),
    )


def _chunks(shards: Sequence[Path], size: int, val_tokens: int | None) -> Iterator[ValidationChunks]:
    if val_tokens is not None and (val_tokens < 1 or val_tokens % size):
        raise ValueError(f"--val-tokens {val_tokens}: use a multiple of {size}, the tokens of a chunk")
    left = val_tokens
    for shard in shards:
        available = (len(open_shard(shard)) - 1) // size * size
        if not available:
            raise ShardError(f"shard {shard} has fewer than {size + 1} tokens: take longer ones, or --chunk-tokens")
        taken = available if left is None else min(available, left)
        yield ValidationChunks([shard], taken, size)
        if left is not None and not (left := left - taken):
            return
    if val_tokens and left:
        raise ShardError(f"--val-tokens {val_tokens}: the shards have {val_tokens - left} in whole chunks; give fewer")


@torch.no_grad()
def _score(trained: Trained, inputs: np.ndarray, targets: np.ndarray, offsets: np.ndarray) -> tuple[float, np.ndarray]:
    """Mean, added up as speedrun.validation does, and float32 losses of one chunk."""
    device = trained.model.scalars.device
    packed = pack_chunk(inputs, targets, offsets, trained.vocabulary, device)
    stage = trained.model.stage(trained.validation_state, len(inputs))
    losses = trained.model.token_losses(packed, stage)
    return float(losses.double().mean()), losses.cpu().numpy()
