"""The manifest of a dataset: experiment.json, what the dataset is, and documents.parquet, its words.

- experiment.json carries the hash of its identity. A file that was edited, or is of another schema version, is refused.
- documents.parquet is compared with its hash in experiment.json whenever it is read.
- Steps and document ids ascend, each once, and every document has at least one loss.
"""

import hashlib
import itertools
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from discreteness.dataset.identity import as_plain, identity_hash
from discreteness.dataset.paths import DOCUMENTS_FILE, EXPERIMENT_FILE, MERGE_FILE
from discreteness.dataset.storage import Storage

SCHEMA_VERSION = 1
RESTORE = "restore it, or give the command of its run again, which writes it anew if it is that of the seeds there"

DOCUMENTS = pa.schema(
    [
        pa.field("doc_id", pa.int32(), nullable=False),
        pa.field("name", pa.string(), nullable=False),
        pa.field("category", pa.string(), nullable=False),
        pa.field("token_index", pa.int32(), nullable=False),
        pa.field("token_id", pa.int32(), nullable=False),
        pa.field("token_bytes", pa.binary(), nullable=False),
        pa.field("token_text", pa.string(), nullable=False),
        pa.field("answer", pa.bool_(), nullable=False),
        pa.field("in_vocabulary", pa.bool_(), nullable=False),
    ]
)


class NotWhole(ValueError):
    """A file is not as it was written. A run that goes on keeps it aside and writes it anew."""


class DocumentLike(Protocol):
    """What the dataset asks of a document; `answers` are token indices, from 0 (BOS, where there is one) on."""

    @property
    def doc_id(self) -> int: ...
    @property
    def name(self) -> str: ...
    @property
    def category(self) -> str: ...
    @property
    def token_ids(self) -> Sequence[int]: ...
    @property
    def answers(self) -> frozenset[int]: ...


@dataclass(frozen=True, kw_only=True)
class DocumentInfo:
    """A document as `losses/` knows it: N + 1 tokens, N losses."""

    doc_id: int
    name: str
    category: str
    num_losses: int


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """Content of experiment.json. `accepted_sources`: source hashes that --allow-code-change let in, the
    first included.
    """

    identity: dict[str, Any]
    accepted_sources: tuple[Any, ...]
    steps: tuple[int, ...]
    documents: tuple[DocumentInfo, ...]
    documents_hash: str
    plan: str = ""
    """How the steps were given, such as "log:48". For people alone: the steps decide. "" where nobody wrote it down."""

    @property
    def identity_hashes(self) -> set[str]:
        """Hash of the identity under each accepted source: what a seed's footer may carry."""
        return {self._hash(sources) for sources in self.accepted_sources}

    @property
    def rows_per_seed(self) -> int:
        return len(self.steps) * len(self.documents)

    def current_identity_hash(self) -> str:
        return self._hash(self.accepted_sources[-1])

    def to_json(self) -> bytes:
        content = {
            "schema_version": SCHEMA_VERSION,
            "identity_hash": identity_hash(self.identity),
            **asdict(self),
        }
        return json.dumps(content, indent=1).encode()

    @classmethod
    def from_json(cls, content: bytes, where: str) -> "Manifest":
        """Raises NotWhole if this does not describe an experiment or was edited, and ValueError if its schema has
        another version."""
        try:
            values = json.loads(content)
            version, stated_hash = values.pop("schema_version"), values.pop("identity_hash")
            if version == SCHEMA_VERSION:
                values["documents"] = tuple(DocumentInfo(**document) for document in values["documents"])
                values["steps"] = tuple(values["steps"])
                values["accepted_sources"] = tuple(values["accepted_sources"])
                manifest = cls(**values)
                manifest.check()
                found_hash = identity_hash(manifest.identity)
        except (ValueError, KeyError, AttributeError, TypeError, RecursionError):
            raise NotWhole(f"{where} does not describe an experiment; {RESTORE}") from None
        if version != SCHEMA_VERSION:
            raise ValueError(
                f"{where} has schema version {version}, this discreteness reads {SCHEMA_VERSION}; "
                "use the release that wrote it"
            )
        if found_hash != stated_hash:
            raise NotWhole(f"{where} was edited: its identity does not have the hash {stated_hash}; {RESTORE}")
        return manifest

    def check(self) -> None:
        """Raises ValueError or TypeError if the values, which came from a file, are not of this class's types and
        order."""
        for document in self.documents:
            texts, numbers = (document.name, document.category), (document.doc_id, document.num_losses)
            if not all(type(text) is str for text in texts) or not all(type(number) is int for number in numbers):
                raise TypeError(document)
        ids = [document.doc_id for document in self.documents]
        if any(type(step) is not int for step in self.steps) or not (_ascending(self.steps) and _ascending(ids)):
            raise ValueError(self.steps)
        if min(document.num_losses for document in self.documents) < 1 or not self.accepted_sources:
            raise ValueError(self.documents)
        if type(self.identity) is not dict or type(self.documents_hash) is not str or type(self.plan) is not str:
            raise TypeError(self.identity)

    def _hash(self, sources: Any) -> str:
        return identity_hash({**self.identity, "sources": sources})


def new_manifest(
    identity: dict[str, Any], documents: Sequence[DocumentLike], table: pa.Table, steps: Sequence[int], plan: str
) -> Manifest:
    """Raises ValueError if a document has no loss, if names or ids occur twice, or if ids or steps do not ascend."""
    if not documents:
        raise ValueError("no documents were given; an experiment needs at least one")
    for document in documents:
        if len(document.token_ids) < 2:
            raise ValueError(f"document {document.name!r} has no token after its first, so no loss; give it text")
    names = [d.name for d in documents]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"documents share the name {listed(twice)}; give each its own")
    ids = [d.doc_id for d in documents]
    if not _ascending(ids):
        raise ValueError(f"documents do not have ascending ids, each once: {listed(ids)}; sort them")
    planned = tuple(int(step) for step in steps)
    if not _ascending(planned):
        raise ValueError(f"planned steps must be ascending, from 0 up and not none, not {listed(planned)}")
    plain = as_plain(identity)
    return Manifest(
        identity=plain,
        accepted_sources=(plain.get("sources"),),
        steps=planned,
        documents=tuple(
            DocumentInfo(doc_id=d.doc_id, name=d.name, category=d.category, num_losses=len(d.token_ids) - 1)
            for d in documents
        ),
        documents_hash=documents_hash(table),
        plan=plan,
    )


def _ascending(numbers: Sequence[int]) -> bool:
    """Not empty, each once, in order, and of the int32 of the dataset's columns."""
    ordered = all(early < late for early, late in itertools.pairwise(numbers))
    return ordered and bool(numbers) and numbers[0] >= 0 and numbers[-1] < 2**31


def documents_table(
    documents: Sequence[DocumentLike],
    token_bytes: Callable[[int], bytes],
    in_vocabulary: Callable[[int], bool] | None,
) -> pa.Table:
    """One row per token that a model is given, BOS included. `token_text` shows bytes that are not a whole character as
    U+FFFD."""
    rows: dict[str, list[Any]] = {name: [] for name in DOCUMENTS.names}
    for document in documents:
        for index, token_id in enumerate(document.token_ids):
            content = token_bytes(token_id)
            values = (document.doc_id, document.name, document.category, index, token_id, content)
            text = content.decode("utf-8", errors="replace")
            known = True if in_vocabulary is None else bool(in_vocabulary(token_id))
            for name, value in zip(DOCUMENTS.names, (*values, text, index in document.answers, known), strict=True):
                rows[name].append(value)
    return pa.table(rows, schema=DOCUMENTS)


def documents_hash(table: pa.Table) -> str:
    """SHA-256, in hex, of the content of documents.parquet, whatever wrote the file."""
    return hashlib.sha256(json.dumps(table.to_pydict(), sort_keys=True, default=bytes.hex).encode()).hexdigest()


def read_manifest(storage: Storage) -> Manifest:
    """Content of experiment.json. Raises FileNotFoundError if there is no dataset."""
    where = storage.path(EXPERIMENT_FILE)
    if not storage.exists(EXPERIMENT_FILE):
        if storage.exists(MERGE_FILE):
            raise FileNotFoundError(f"{storage.uri} holds an unfinished merge; give its command again to finish it")
        raise FileNotFoundError(f"{storage.uri} is not a dataset: it has no {EXPERIMENT_FILE}; check the path")
    return Manifest.from_json(storage.read(EXPERIMENT_FILE), where)


def read_documents(storage: Storage, manifest: Manifest) -> pa.Table:
    """documents.parquet, checked against experiment.json. Raises NotWhole if it is damaged or holds other documents,
    and ValueError if the two disagree about their names."""
    where = storage.path(DOCUMENTS_FILE)
    content = storage.read(DOCUMENTS_FILE)
    try:
        # Not read_table, which goes through a scanner that promises no order of rows.
        table = pq.ParquetFile(pa.BufferReader(content), page_checksum_verification=True).read()
    except (pa.ArrowException, OSError):
        table = None
    if table is None or table.schema != DOCUMENTS or documents_hash(table) != manifest.documents_hash:
        raise NotWhole(f"{where} does not hold the experiment's documents; the command of its run writes it again")
    rows = zip(*(table[name].to_pylist() for name in ("doc_id", "name", "category")), strict=True)
    named = ((d.doc_id, d.name, d.category) for d in manifest.documents for _ in range(d.num_losses + 1))
    if list(rows) != list(named):  # row by row: the order of pyarrow's groups is not promised
        raise ValueError(f"{where} and {storage.path(EXPERIMENT_FILE)} name different documents; restore the latter")
    return table


def listed(values: Iterable[Any], most: int = 10) -> str:
    """'0, 1, 2 and 297 more' for error messages; 'none' if there is none."""
    values = list(values)
    shown = ", ".join(str(value) for value in values[:most])
    return f"{shown} and {len(values) - most} more" if len(values) > most else shown or "none"
