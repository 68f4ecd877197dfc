"""validation shards + a model -> the mean loss of each chunk (SPEEDRUN 6.3)."""

from pathlib import Path

import numpy as np
import torch

from speedrun.data.sampler import ValidationChunks
from speedrun.data.shards import find_shards
from speedrun.data.vocabulary import Vocabulary, vocabulary_of
from speedrun.model.gpt import GPT, PackedTokens
from speedrun.schedules import ForwardState
from speedrun.tracks import Track


def pack_chunk(
    inputs: np.ndarray, targets: np.ndarray, cu_seqlens: np.ndarray, vocabulary: Vocabulary, device: torch.device
) -> PackedTokens:
    """One sequence of the validation stream, GPT-2 ids (n,) -> rows on `device`.

    Smear, key offset and positions ignore document borders here, as in training (SPEEDRUN 12.5).
    """
    starts = torch.zeros(len(inputs), dtype=torch.bool)
    starts[0] = True
    return PackedTokens(
        ids=torch.from_numpy(vocabulary.rows(inputs)).to(device),
        targets=torch.from_numpy(vocabulary.rows(targets)).long().unsqueeze(1).to(device),
        positions=torch.arange(len(inputs), device=device),
        starts=starts.to(device),
        cu_seqlens=torch.from_numpy(cu_seqlens).to(device),
        max_seqlen=torch.tensor(int(np.diff(cu_seqlens).max())),
    )


class Validator:
    """Scores `val_tokens` of a track's validation stream in chunks, with whatever weights `model` holds.

    The chunks are the same for every world size, so ranks or evaluators can share them. Raises ShardError if the shards
    are missing or too short.
    """

    def __init__(self, model: GPT, track: Track, data_root: str | Path, val_tokens: int | None = None):
        data = track.data
        val_tokens = data.val_tokens if val_tokens is None else val_tokens
        self.model = model
        self.vocabulary = vocabulary_of(track)
        self.chunks = ValidationChunks(find_shards(data_root, data.val_glob), val_tokens, data.val_chunk_tokens)

    def chunk_loss(self, number: int, state: ForwardState) -> float:
        """Mean cross-entropy in nats of chunk `number`, evaluation mode."""
        device = next(self.model.parameters()).device
        packed = pack_chunk(*self.chunks.chunk(number), self.vocabulary, device)
        stage = self.model.stage(state, len(packed.ids))
        return float(self.model.token_losses(packed, stage).double().mean())
