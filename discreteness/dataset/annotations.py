"""What is known of each token besides its losses: how frequent it is in the training data, what stood before it.

`annotations.parquet` is made by `discreteness annotate` from documents and training shards, so it can be made again.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from discreteness.dataset.manifest import Manifest
from discreteness.dataset.seed_file import one_line
from discreteness.dataset.storage import Storage

ANNOTATIONS_FILE = "annotations.parquet"
ANNOTATIONS = pa.schema(
    [
        pa.field("doc_id", pa.int32(), nullable=False),
        pa.field("token_index", pa.int32(), nullable=False),
        pa.field("repeated", pa.bool_(), nullable=False),
        pa.field("induction", pa.bool_(), nullable=False),
        pa.field("count", pa.int64()),
        pa.field("pair_count", pa.int64()),
        pa.field("unigram_loss", pa.float32()),
        pa.field("bigram_loss", pa.float32()),
    ]
)
"""A row per token that has a loss, in the order of documents.parquet; docs/dataset.md describes each column."""
_METADATA_KEY = b"discreteness.annotations"


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """What was counted. `shards`: names with their number of tokens. `bigram_prior`: strength of the bigram model's
    prior, in tokens; None where nothing was counted."""

    shards: tuple[tuple[str, int], ...] = ()
    bigram_prior: float | None = None


def write_annotations(storage: Storage, manifest: Manifest, rows: dict[str, Any], corpus: Corpus) -> None:
    stated = {"documents": manifest.documents_hash, "shards": corpus.shards, "bigram_prior": corpus.bigram_prior}
    table = pa.table(rows, schema=ANNOTATIONS.with_metadata({_METADATA_KEY: json.dumps(stated).encode()}))
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd", write_page_checksum=True)
    storage.write(ANNOTATIONS_FILE, sink.getvalue())


def read_annotations(storage: Storage, manifest: Manifest) -> tuple[pa.Table, Corpus]:
    """Raises FileNotFoundError if there are none, and ValueError if they are damaged or of other documents."""
    where, again = storage.path(ANNOTATIONS_FILE), f"run: discreteness annotate {storage.uri}"
    if not storage.exists(ANNOTATIONS_FILE):
        raise FileNotFoundError(f"{where} does not exist; {again}")
    try:
        table = pq.ParquetFile(pa.BufferReader(storage.read(ANNOTATIONS_FILE)), page_checksum_verification=True).read()
        stated = json.loads(table.schema.metadata[_METADATA_KEY])
        shards = tuple((str(name), int(tokens)) for name, tokens in stated["shards"])
        corpus = Corpus(shards=shards, bigram_prior=stated["bigram_prior"])
        documents = stated["documents"]
    except (pa.ArrowException, OSError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{where} is damaged ({one_line(error)}); {again}") from None
    if documents != manifest.documents_hash or not table.schema.equals(ANNOTATIONS):
        raise ValueError(f"{where} is of other documents or of another version; {again}")
    return table, corpus


def problems_of_annotations(storage: Storage, manifest: Manifest) -> Iterator[str]:
    """What is wrong with them, with what to do; nothing where there are none."""
    if storage.exists(ANNOTATIONS_FILE):
        try:
            read_annotations(storage, manifest)
        except ValueError as error:
            yield str(error)
