"""val:COUNT + validation shards -> so many of their documents, chosen at random, and everywhere the same.

Chosen documents say nothing about the validation loss; these are samples of the same text.
"""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from speedrun.data.document_order import DocumentIndex, shuffled
from speedrun.data.tokenizer import decode_bytes

from discreteness.experiment.documents import MAX_TEXT_TOKENS, Document, DocumentError

PREFIX = "val:"
CHOICE_SEED = 0
"""Of the shuffle whose first documents are taken, so that val:100 is part of val:200."""
WHOLE = 2**31 - 1
"""A cap that no document reaches."""


def asked_count(source: str | None) -> int | None:
    """How many documents `val:COUNT` asks for; None if `source` is not of this form, but a folder. Raises DocumentError
    if COUNT is not a number from 1 up."""
    if source is None or not source.startswith(PREFIX):
        return None
    if not re.fullmatch(r"[1-9]\d{0,8}", source.removeprefix(PREFIX), re.ASCII):
        raise DocumentError(
            f"--documents {source!r}: write {PREFIX} and how many validation documents, such as {PREFIX}200; "
            f"a folder of this name is ./{source}"
        )
    return int(source.removeprefix(PREFIX))


def validation_documents(paths: Sequence[Path], count: int) -> list[Document]:
    """`count` documents of these shards in the order of the files, each called by its place there: `val_000017`.

    Those without a token after BOS are passed over, as they have no loss; longer ones than 2,047 tokens are cut there.
    Raises DocumentError if there are too few, and ShardError if a shard is missing or bad.
    """
    index = DocumentIndex(paths, WHOLE)
    usable = np.flatnonzero(index.lengths > 1)
    if len(usable) < count:
        raise DocumentError(
            f"--documents {PREFIX}{count}: the validation shards from {paths[0]} to {paths[-1]} hold {len(usable)} "
            "documents with text; ask for fewer, or add shards"
        )
    chosen = np.sort(usable[shuffled(len(usable), CHOICE_SEED)[:count]])
    spans = index.spans(chosen, np.minimum(index.lengths[chosen], MAX_TEXT_TOKENS + 1))
    return [
        _document(doc_id, f"val_{place:06d}", tuple(tokens.tolist()))
        for doc_id, (place, tokens) in enumerate(zip(chosen.tolist(), spans, strict=True))
    ]


def cut_note(documents: Sequence[Document]) -> str:
    """What a user should know of documents as long as a document may be."""
    longest = sum(len(document.token_ids) == MAX_TEXT_TOKENS + 1 for document in documents)
    return f"{longest} of {len(documents)} have {MAX_TEXT_TOKENS} tokens, where longer ones are cut"


def _document(doc_id: int, name: str, token_ids: tuple[int, ...]) -> Document:
    text = b"".join(map(decode_bytes, token_ids[1:])).decode("utf-8", errors="replace")
    return Document(doc_id=doc_id, name=name, category="val", text=text, token_ids=token_ids, answers=frozenset())
