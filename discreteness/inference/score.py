"""trained model + documents -> loss, probability and rank of every token, as a table or as JSON."""

import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from speedrun.data.tokenizer import decode_bytes

from discreteness.experiment import documents as documents_module
from discreteness.experiment.documents import Document
from discreteness.experiment.prompts import load_lines
from discreteness.inference.load import Trained
from discreteness.scoring.scorer import Scorer

SLICE_TOKENS = 512
"""Tokens whose logits are all held at a time."""


@dataclass(frozen=True)
class Scored:
    """One document. Entry i of each array is about its token i + 1."""

    document: Document
    losses: np.ndarray
    """(N,) float32: nats."""
    ranks: np.ndarray
    """(N,) int64: 1 where the token was the likeliest of the vocabulary."""
    own_row: np.ndarray
    """(N,) bool: False where a small vocabulary has one row for this and many other ids, whose loss means little."""

    @property
    def mean_loss(self) -> float:
        return float(self.losses.mean(dtype=np.float64))


def documents_of(source: str) -> list[Document]:
    """A folder's .txt files, the lines of a .jsonl file, a file, or a text itself; answers may be marked. Raises
    DocumentError as `documents.load` and `load_lines` do."""
    # A text may be no possible path, of which pathlib's questions raise.
    if os.path.isdir(source):  # noqa: PTH112
        return documents_module.load(source)
    if os.path.exists(source) and source.endswith(".jsonl"):  # noqa: PTH110
        return load_lines(Path(source))
    if os.path.exists(source):  # noqa: PTH110
        return [documents_module.read(0, Path(source))]
    if len(source.split()) == 1 and (os.sep in source or source.endswith((".txt", ".jsonl"))):
        raise FileNotFoundError(f"{source} is not a file or folder; to score such a text itself, put it into a file")
    return [documents_module.of_text(0, Path("text"), source)]


def score(trained: Trained, documents: Sequence[Document]) -> list[Scored]:
    """Scores documents as a run does: the same documents in a run with the same settings get the same bits."""
    scorer = Scorer(trained.model, documents, trained.vocabulary)
    losses, ranks = scorer.score(trained.state), _ranks(trained, scorer)
    ends = np.cumsum([len(document.token_ids) - 1 for document in documents])
    vocabulary = trained.vocabulary
    own_rows = [np.array([vocabulary.contains(token) for token in one.token_ids[1:]]) for one in documents]
    parts = zip(documents, np.split(losses, ends[:-1]), np.split(ranks, ends[:-1]), own_rows, strict=True)
    return [Scored(*part) for part in parts]


@torch.no_grad()
def _ranks(trained: Trained, scorer: Scorer) -> np.ndarray:
    """(sum of the documents' losses,) int64. Padding rows of the head are not tokens and take no rank."""
    words = trained.model.lm_head.weight[: trained.vocabulary.num_rows]
    stage = trained.model.stage(trained.state, scorer.num_positions)
    found = []
    for batch in scorer.batches:
        hidden, targets = (
            whole[: batch.num_losses].split(SLICE_TOKENS)
            for whole in (trained.model.hidden(batch.packed, stage, wide_stream=True), batch.packed.targets)
        )
        for rows, wanted in zip(hidden, targets, strict=True):
            z = F.linear(rows, words)  # the softcap keeps their order
            found.append((z > z.gather(1, wanted)).sum(1) + 1)
    return torch.cat(found).cpu().numpy()


def as_table(scored: Sequence[Scored]) -> str:
    """Lines for a terminal; nothing of a text reaches it as a control character."""
    lines = []
    for one in scored:
        loss = one.mean_loss
        lines.append(
            f"{one.document.name}: tokens {len(one.losses)}, mean loss {loss:.4f}, perplexity {_exp(loss):.2f}"
        )
        lines.append(f"{'token':>6}{'id':>7}{'loss':>9}{'probability':>13}{'rank':>7}  text")
        for row in _rows(one):
            mark = "  answer" * row["answer"] + "  no row of its own" * (not row["own_row"])
            numbers = f"{row['loss']:>9.4f}{row['probability']:>13.6f}{row['rank']:>7}"
            lines.append(f"{row['token_index']:>6}{row['token_id']:>7}{numbers}  {row['token']!r}{mark}")
    return "\n".join(lines)


def as_json(trained: Trained, scored: Sequence[Scored]) -> str:
    """One object; a loss is the float32 exactly, and null where it is not finite."""
    documents = []
    for one in scored:
        rows = [{name: _finite(value) for name, value in row.items()} for row in _rows(one)]
        documents.append({"name": one.document.name, "mean_loss": _finite(one.mean_loss), "tokens": rows})
    about = {"track": trained.track.name, "step": trained.step}
    return json.dumps(about | {"documents": documents}, allow_nan=False)


def _rows(one: Scored) -> list[dict[str, Any]]:
    return [
        {
            "document": one.document.name,
            "token_index": index,
            "token_id": one.document.token_ids[index],
            "token": decode_bytes(one.document.token_ids[index]).decode(errors="replace"),
            "loss": float(one.losses[index - 1]),
            "probability": _exp(-float(one.losses[index - 1])),
            "rank": int(one.ranks[index - 1]),
            "answer": index in one.document.answers,
            "own_row": bool(one.own_row[index - 1]),
        }
        for index in range(1, len(one.document.token_ids))
    ]


def _exp(nats: float) -> float:
    return math.inf if nats > 700 else math.exp(nats)


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
