"""documents + any causal language model -> the loss of each token, from its logits.

The model is a callable of int64 ids [batch, tokens] that returns logits [batch, tokens, vocabulary], or an object that
has them as `.logits`, as models of `transformers` do.

- A batch is whole documents of similar length, padded on the right, so no document sees another or its padding.
- Batches are the same at every call, so a loss depends only on weights, documents and `max_tokens_per_batch`.
- A call leaves no trace: modes, gradients and random state are as before it, even where the model raises.
"""

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from discreteness.experiment.documents import Document, DocumentError

SLICE_LOGITS = 2**24
"""Logits that are float32 at a time, 64 MiB: those of 333 tokens of a vocabulary of 50,257."""


class LossNotFinite(ValueError):
    """A model gives a loss that is NaN or infinite; the message names document and token."""


@dataclass(frozen=True)
class LogitsBatch:
    """Whole documents, one per row. `ids`, `mask`: int64 [documents, tokens], mask 0 where padded. Of each loss of the
    batch, int64 (n,): `rows`, `columns` of the logits that predict it, the `targets`, and its `places` among the losses
    of all documents."""

    ids: torch.Tensor
    mask: torch.Tensor
    rows: torch.Tensor
    columns: torch.Tensor
    targets: torch.Tensor
    places: torch.Tensor


class LogitsScorer:
    """Scores one document set with whatever model is given at the call."""

    def __init__(
        self,
        documents: Sequence[Document],
        *,
        max_tokens_per_batch: int = 8192,
        context: int | None = None,
        device: str | torch.device = "cpu",
    ):
        """max_tokens_per_batch: padding included; a longer document is a batch by itself. context: the most tokens
        that the model takes. device: where ids go.

        Raises DocumentError if a document is longer than `context`, and ValueError for a number below 1.
        """
        if max_tokens_per_batch < 1:
            raise ValueError(f"max_tokens_per_batch is {max_tokens_per_batch}; give 1 or more, such as 8192")
        self.documents = tuple(documents)
        self.device = torch.device(device)
        self.num_losses = sum(len(document.token_ids) - 1 for document in self.documents)
        if context is not None:
            check_context(self.documents, context)
        self.batches = batches_of(self.documents, max_tokens_per_batch)
        self.logits_dtype: torch.dtype | None = None
        """Of the newest logits; None before the first."""
        self._largest_id = max(max(document.token_ids) for document in self.documents)

    def score(self, model: Callable[..., Any]) -> np.ndarray:
        """float32 [num_losses]: all documents one after another, entry i of a document is the loss in nats of its
        token i + 1.

        Raises LossNotFinite, and ValueError or TypeError if the model does not return logits of these ids.
        """
        with without_a_trace(model, self.device):
            return self._score(model)

    def _score(self, model: Callable[..., Any]) -> np.ndarray:
        self._check_vocabulary(_rows_of_embedding(model))
        takes = arguments_of(model)
        losses = torch.empty(self.num_losses, dtype=torch.float32, device=self.device)
        for batch in (_to(one, self.device) for one in self.batches):
            given: dict[str, Any] = {"attention_mask": batch.mask} if "attention_mask" in takes else {}
            if "use_cache" in takes:
                given["use_cache"] = False  # it would only take memory
            logits = _logits(model(batch.ids, **given), batch.ids)
            self._check_vocabulary(logits.shape[-1])
            self.logits_dtype = logits.dtype
            losses.index_copy_(0, batch.places, token_losses(logits, batch).to(self.device))
            del logits  # before the next ones are made
        found = losses.cpu().numpy()
        self._check_finite(found)
        return found

    def _check_vocabulary(self, size: int | None) -> None:
        if size is not None and self._largest_id >= size:
            name = next(one.name for one in self.documents if self._largest_id in one.token_ids)
            raise ValueError(
                f"document {name!r} has the token {self._largest_id}, but the model knows {size}, from 0 on: "
                "give the tokenizer of this model"
            )

    def _check_finite(self, losses: np.ndarray) -> None:
        wrong = np.flatnonzero(~np.isfinite(losses))
        if not len(wrong):
            return
        index = first = int(wrong[0])
        for document in self.documents:
            if index < (length := len(document.token_ids) - 1):
                raise LossNotFinite(
                    f"the loss of document {document.name!r}, token {index + 1}, is {losses[first]} "
                    f"({len(wrong)} of {len(losses)} losses are not finite)"
                )
            index -= length


def check_context(documents: Sequence[Document], context: int) -> None:
    """Raises DocumentError if a document has more tokens than a model takes."""
    for document in documents:
        if len(document.token_ids) > context:
            raise DocumentError(
                f"document {document.name!r} has {len(document.token_ids)} tokens, the model takes {context}: split "
                "it in parts"
            )


def batches_of(documents: Sequence[Document], max_tokens: int) -> list[LogitsBatch]:
    """Documents by length, the longest first, so that a batch that does not fit in memory fails at once and padding is
    little; as many together as have `max_tokens` with their padding, at least one."""
    lengths = np.array([len(document.token_ids) for document in documents])
    starts = np.concatenate([[0], np.cumsum(lengths - 1)[:-1]])
    order = np.argsort(-lengths, kind="stable").tolist()
    batches, at = [], 0
    while at < len(order):
        together = max(1, max_tokens // int(lengths[order[at]]))
        chosen = order[at : at + together]
        batches.append(_batch([documents[one] for one in chosen], [int(starts[one]) for one in chosen]))
        at += together
    return batches


def _batch(documents: Sequence[Document], starts: Sequence[int]) -> LogitsBatch:
    lengths = [len(document.token_ids) for document in documents]
    ids = torch.zeros(len(documents), max(lengths), dtype=torch.int64)
    mask = torch.zeros_like(ids)
    for row, (document, length) in enumerate(zip(documents, lengths, strict=True)):
        ids[row, :length] = torch.tensor(document.token_ids)
        mask[row, :length] = 1
    rows, columns = mask[:, 1:].nonzero(as_tuple=True)  # the logits at column i predict token i + 1
    places = torch.tensor(starts)[rows] + columns
    return LogitsBatch(ids, mask, rows, columns, ids[rows, columns + 1], places)


def _to(batch: LogitsBatch, device: torch.device) -> LogitsBatch:
    return LogitsBatch(*(getattr(batch, name).to(device) for name in LogitsBatch.__dataclass_fields__))


def token_losses(logits: torch.Tensor, batch: LogitsBatch) -> torch.Tensor:
    """Logits [batch, tokens, vocabulary] of any floating dtype -> float32 (n,): the batch's losses, computed in float32
    for a few tokens at a time."""
    count = max(1, SLICE_LOGITS // logits.shape[-1])
    places = (part.to(logits.device).split(count) for part in (batch.rows, batch.columns, batch.targets))
    return torch.cat(
        [
            cross_entropy(logits[rows, columns].float(), targets, reduction="none")
            for rows, columns, targets in zip(*places, strict=True)
        ]
    )


def _logits(output: Any, ids: torch.Tensor) -> torch.Tensor:
    logits = output if isinstance(output, torch.Tensor) else getattr(output, "logits", None)
    if not isinstance(logits, torch.Tensor):
        raise TypeError(
            f"the model returned a {type(output).__name__}; it has to return logits, or an object that has them as "
            ".logits: wrap it in a function that does"
        )
    if logits.ndim != 3 or logits.shape[:2] != ids.shape or not logits.is_floating_point():
        raise ValueError(
            f"the model returned {logits.dtype} {tuple(logits.shape)} for ids {tuple(ids.shape)}; expected logits "
            "[batch, tokens, vocabulary]"
        )
    return logits


def inner(model: Any) -> Any:
    """The model inside what DistributedDataParallel, FSDP and torch.compile wrap around it."""
    while isinstance(model, torch.nn.Module) and type(model).__module__.startswith("torch."):
        name = next((name for name in ("_orig_mod", "module") if hasattr(model, name)), None)
        if name is None:
            break
        model = getattr(model, name)
    return model


def arguments_of(model: Any) -> set[str]:
    """Names of the arguments that a model's forward pass takes."""
    model = inner(model)
    called = model.forward if isinstance(model, torch.nn.Module) else model
    try:
        return set(inspect.signature(called).parameters)
    except (TypeError, ValueError):  # a callable that has none, such as one written in C
        return set()


def context_of(model: Any) -> int | None:
    """The most tokens that a model of `transformers` says it takes; None where nothing is said."""
    size = getattr(getattr(inner(model), "config", None), "max_position_embeddings", None)
    return size if isinstance(size, int) else None


def _rows_of_embedding(model: Any) -> int | None:
    """How many ids a model of `transformers` knows; None where that is not said. On a GPU an id too large would end
    the process's use of it, so it is asked before."""
    embedding = getattr(inner(model), "get_input_embeddings", lambda: None)()
    size = getattr(embedding, "num_embeddings", None)
    return size if isinstance(size, int) else None


@contextmanager
def without_a_trace(model: Any, device: torch.device) -> Iterator[None]:
    """Inside, the model is in evaluation mode and without gradients. Afterwards the mode of each of its modules,
    whether gradients are computed, and the state of torch's random numbers, of the CPU and of the GPUs that hold it,
    are as before."""
    modules = list(model.modules()) if isinstance(model, torch.nn.Module) else []
    modes = [module.training for module in modules]
    devices = {device, *(part.device for part in model.parameters())} if modules else {device}
    gpus = sorted(
        {torch.cuda.current_device() if one.index is None else one.index for one in devices if one.type == "cuda"}
    )
    try:
        with torch.random.fork_rng(devices=gpus), torch.no_grad():
            if modules:
                model.eval()
            yield
    finally:
        for module, mode in zip(modules, modes, strict=True):
            module.training = mode
