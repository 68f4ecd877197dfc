"""losses of a document -> Arrow rows of one loss each, which say what they are of, in numbers and in words."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from discreteness.dataset.manifest import DocumentInfo

WORD = pa.dictionary(pa.int32(), pa.string())
"""A name or a token's text, kept once however many rows have it."""
LONG_FORM = pa.schema(
    [
        pa.field("doc_id", pa.int32(), nullable=False),
        pa.field("document", WORD, nullable=False),
        pa.field("token_index", pa.int32(), nullable=False),
        pa.field("token", WORD, nullable=False),
        pa.field("step", pa.int32(), nullable=False),
        pa.field("seed", pa.int32(), nullable=False),
        pa.field("loss", pa.float32(), nullable=False),
    ]
)
"""`document`: its name. `token`: its text, as in documents.parquet. `loss`: nats; float16 where the losses are."""


def long_form(
    document: DocumentInfo,
    tokens: np.ndarray,
    texts: Sequence[str],
    steps: Sequence[int],
    seeds: Sequence[int],
    losses: np.ndarray,
) -> pa.Table:
    """Losses [seeds, steps, tokens] of one document as rows with the columns of LONG_FORM, by token, step, seed.
    `texts`: of these tokens.
    """
    rows = len(steps) * len(seeds)
    columns = {
        "doc_id": np.full(losses.size, document.doc_id, np.int32),
        "document": words([document.name], np.zeros(losses.size, np.int32)),
        "token_index": np.repeat(np.asarray(tokens, np.int32), rows),
        "token": words(texts, np.repeat(np.arange(len(texts), dtype=np.int32), rows)),
        "step": np.tile(np.repeat(np.array(steps, np.int32), len(seeds)), len(tokens)),
        "seed": np.tile(np.array(seeds, np.int32), len(tokens) * len(steps)),
        "loss": losses.transpose(2, 1, 0).reshape(-1),
    }
    loss = pa.field("loss", pa.from_numpy_dtype(losses.dtype), nullable=False)
    return pa.table(columns, schema=LONG_FORM.set(LONG_FORM.get_field_index("loss"), loss))


def words(texts: Sequence[str], places: np.ndarray) -> pa.DictionaryArray:
    """texts[place] of each of `places`, int [n], as a column that keeps each text once."""
    once = pa.array(texts, pa.string()).dictionary_encode()
    return pa.DictionaryArray.from_arrays(once.indices.to_numpy().astype(np.int32)[places], once.dictionary)
