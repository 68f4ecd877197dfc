"""documents + a model with a checkpoint in it -> the loss of each token.

One function for evaluator, inline run and `--verify-every`: the same batches in the same order, so a loss depends
only on weights, document set and packing.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from speedrun.data.vocabulary import Vocabulary, vocabulary_of
from speedrun.model.gpt import GPT, PackedTokens, Stage
from speedrun.schedules import ForwardState

from discreteness.experiment.config import Packing
from discreteness.experiment.documents import Document
from discreteness.scoring.cuda_graphs import CudaGraphs

if TYPE_CHECKING:
    from discreteness.experiment.prepare import Experiment


@dataclass(frozen=True)
class DocumentBatch:
    """Whole documents packed into one sequence, padded to a multiple of 16 by one more document of token 0."""

    packed: PackedTokens
    num_losses: int
    """Entries that belong to documents; what follows is padding."""


def pack_documents(
    documents: Sequence[Document], vocabulary: Vocabulary, packing: Packing, score_tokens: int
) -> list[DocumentBatch]:
    """Documents in their order, each whole, packed greedily into batches of at most `score_tokens` tokens.

    "isolated": smear, key offset and positions restart at each document, so its losses do not depend on the others.
    "reference": all documents in one sequence of any length, borders seen by attention only (SPEEDRUN section 8).
    """
    packs: list[list[Document]] = [[]]
    tokens = 0
    for document in documents:
        length = len(document.token_ids) - 1
        if packing == "isolated" and packs[-1] and tokens + length > score_tokens:
            packs.append([])
            tokens = 0
        packs[-1].append(document)
        tokens += length
    return [_pack(pack, vocabulary, packing) for pack in packs]


def _pack(documents: Sequence[Document], vocabulary: Vocabulary, packing: Packing) -> DocumentBatch:
    lengths = [len(document.token_ids) - 1 for document in documents]
    num_losses = sum(lengths)
    if padding := -num_losses % 16:
        lengths.append(padding)
    ids = np.concatenate([document.token_ids[:-1] for document in documents] + [np.zeros(padding, np.int64)])
    targets = np.concatenate([document.token_ids[1:] for document in documents] + [np.zeros(padding, np.int64)])
    borders = np.concatenate([[0], np.cumsum(lengths)])
    positions = np.arange(len(ids))
    starts = np.zeros(len(ids), bool)
    starts[0] = True
    if packing == "isolated":
        starts[borders[:-1]] = True
        positions = positions - np.repeat(borders[:-1], lengths)
    packed = PackedTokens(
        ids=torch.from_numpy(vocabulary.rows(ids)),
        targets=torch.from_numpy(vocabulary.rows(targets)).long().unsqueeze(1),
        positions=torch.from_numpy(positions),
        starts=torch.from_numpy(starts),
        cu_seqlens=torch.from_numpy(borders.astype(np.int32)),
        max_seqlen=torch.tensor(max(lengths)),
    )
    return DocumentBatch(packed, num_losses)


class Scorer:
    """Scores one document set with whatever weights `model` holds at the call.

    recorded: from a schedule state's second time on its hundreds of kernels are launched as one CUDA graph. They are
    the same kernels in the same order and so give the same bits, but a few documents take longer to launch than to
    compute. Meant for a GPU that scores often and with few states; elsewhere it changes nothing.
    """

    def __init__(
        self,
        model: GPT,
        documents: Sequence[Document],
        vocabulary: Vocabulary,
        *,
        packing: Packing = "isolated",
        score_tokens: int = 16_384,
        recorded: bool = False,
    ):
        self.model = model
        device = next(model.parameters()).device
        self.batches = [
            DocumentBatch(_to(batch.packed, device), batch.num_losses)
            for batch in pack_documents(documents, vocabulary, packing, score_tokens)
        ]
        self.num_positions = max(int(batch.packed.positions.max()) + 1 for batch in self.batches)
        self.cuda_graphs = CudaGraphs(self._launch) if recorded and device.type == "cuda" else None

    @classmethod
    def for_experiment(cls, experiment: "Experiment", model: GPT, *, recorded: bool = False) -> "Scorer":
        """The scorer of an experiment: the same everywhere, so that the same weights give the same losses."""
        return cls(
            model,
            experiment.documents,
            vocabulary_of(experiment.track),
            packing=experiment.packing,
            score_tokens=experiment.score_tokens,
            recorded=recorded,
        )

    def score(self, state: ForwardState) -> np.ndarray:
        """float32 (sum of the documents' losses,): all documents one after another, entry i of a document is the
        loss in nats of its token i + 1."""
        losses = self.cuda_graphs(state, self._stage) if self.cuda_graphs else self._launch(self._stage(state))
        return losses.cpu().numpy()

    def _stage(self, state: ForwardState) -> Stage:
        return self.model.stage(state, self.num_positions)

    def _launch(self, stage: Stage) -> torch.Tensor:
        losses = [self.model.token_losses(batch.packed, stage)[: batch.num_losses] for batch in self.batches]
        return torch.cat(losses).float()


def _to(packed: PackedTokens, device: torch.device) -> PackedTokens:
    return replace(
        packed,
        ids=packed.ids.to(device),
        targets=packed.targets.to(device),
        positions=packed.positions.to(device),
        starts=packed.starts.to(device),
        cu_seqlens=packed.cu_seqlens.to(device),
    )
