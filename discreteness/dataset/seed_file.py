"""losses of one seed <-> one Parquet file whose footer says what it is.

Schema 1. A row is one document at one step: `losses[i]` is the loss in nats of token i + 1 (token 0, BOS or not, has
none), float32, bit for bit what was scored. Rows are sorted by doc_id, then step; row groups hold whole documents.
"""

import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyarrow.fs import FileType

from discreteness.dataset.manifest import DocumentInfo, Manifest
from discreteness.dataset.paths import ATTEMPT, LOSSES_FOLDER, SEED_FILE, runs_path, seed_path
from discreteness.dataset.storage import Storage

FOOTER_READERS = 16
"""Footers read at once: an object store answers each in tens of milliseconds."""
FOOTER_KEY = b"discreteness"
FOOTER_GUESS_BYTES = 64 * 1024
ROW_GROUP_LOSSES = 2**18
"""Documents share a row group up to this many losses (1 MiB before compression), so that small ones do not
cost one each.
"""

AGAIN_WITHOUT_IT = "delete it, and the command of its run trains the seed again"
"""What to do about a seed whose footer is good and whose rows are not."""

_ELEMENT = pa.field("element", pa.float32(), nullable=False)
LOSSES = pa.schema(
    [
        pa.field("seed", pa.int32(), nullable=False),
        pa.field("attempt", pa.string(), nullable=False),
        pa.field("step", pa.int32(), nullable=False),
        pa.field("doc_id", pa.int32(), nullable=False),
        pa.field("losses", pa.list_(_ELEMENT), nullable=False),
    ]
)


class InvalidFile(ValueError):
    """A file in `losses/` is not a committed seed of this experiment; the message says why."""


@dataclass(frozen=True, kw_only=True)
class CommittedSeed:
    """A seed whose file is in `losses/`, whose footer is this as JSON. Paths are relative to the dataset."""

    seed: int
    attempt: str
    rows: int
    identity_hash: str
    documents_hash: str
    runs_sha256: str
    name: str = ""
    """Of the model that a series has in the place of this seed; "" where a seed is nothing but its number."""

    @property
    def path(self) -> str:
        return seed_path(self.seed)

    @property
    def runs_path(self) -> str:
        return runs_path(self.seed, self.attempt)


def losses_file(
    manifest: Manifest, seed: int, attempt: str, steps: np.ndarray, losses: np.ndarray, footer: dict[str, Any]
) -> pa.Buffer:
    """Parquet file of losses float32 (len(steps), losses of all documents), steps ascending."""
    sink = pa.BufferOutputStream()
    with pq.ParquetWriter(
        sink,
        LOSSES,
        compression="zstd",
        use_dictionary=["seed", "attempt", "doc_id"],
        use_byte_stream_split=["losses.list.element"],
        write_page_checksum=True,
    ) as writer:
        for group in row_groups(manifest.documents, len(steps)):
            table = _losses_table(seed, attempt, steps, losses, group)
            writer.write_table(table, row_group_size=len(table))
        writer.add_key_value_metadata({FOOTER_KEY: json.dumps(footer)})
    return sink.getvalue()


def read_committed(tail: bytes, seed: int, manifest: Manifest) -> CommittedSeed:
    """What the footer of `losses/seed=....parquet` says, from the file's last bytes.

    Raises InvalidFile if the file is truncated, not Parquet, not ours, another experiment's or seed's, or short of
    rows.
    """
    try:
        metadata = pq.read_metadata(pa.BufferReader(tail))
        columns = metadata.schema.to_arrow_schema()
    except (pa.ArrowException, OSError):  # Arrow reports damaged metadata as either
        raise InvalidFile("truncated, or not a Parquet file") from None
    try:
        committed = CommittedSeed(**json.loads(metadata.metadata[FOOTER_KEY]))
        for name, kind in CommittedSeed.__annotations__.items():
            if type(getattr(committed, name)) is not kind:
                raise TypeError(name)
        if not ATTEMPT.fullmatch(committed.attempt):
            raise ValueError(committed.attempt)
        if not committed.name.isprintable():
            raise ValueError(committed.name)
    except (ValueError, KeyError, TypeError, RecursionError):
        raise InvalidFile("a Parquet file without the footer of a committed seed") from None
    if not columns.equals(LOSSES):
        raise InvalidFile("its columns are not those of schema 1")
    if committed.seed != seed:
        raise InvalidFile(f"its footer says seed {committed.seed}: the file was renamed")
    if committed.identity_hash not in manifest.identity_hashes:
        raise InvalidFile(f"its identity is {committed.identity_hash[:12]}..., another experiment's")
    if committed.documents_hash != manifest.documents_hash:
        raise InvalidFile("it was scored on other documents")
    if not metadata.num_rows == committed.rows == manifest.rows_per_seed:
        raise InvalidFile(
            f"it has {metadata.num_rows} rows, its footer says {committed.rows}, "
            f"the plan needs {manifest.rows_per_seed}"
        )
    return committed


def footer_bytes(tail: bytes) -> int:
    """How many of a Parquet file's last bytes its metadata takes, by its last eight."""
    return int.from_bytes(tail[-8:-4], "little") + 8


def read_seed(storage: Storage, manifest: Manifest, seed: int) -> CommittedSeed:
    """The committed seed as its footer describes it. Raises InvalidFile as `read_committed`, and OSError if it cannot
    be read now."""
    return read_committed(read_footer(storage, seed_path(seed)), seed, manifest)


def read_footer(storage: Storage, path: str) -> bytes:
    """A Parquet file's last bytes, all of its metadata among them. Raises FileNotFoundError, or OSError if it cannot be
    read now."""
    tail = storage.read_tail(path, FOOTER_GUESS_BYTES)
    if len(tail) == FOOTER_GUESS_BYTES < footer_bytes(tail):
        tail = storage.read_tail(path, footer_bytes(tail))
    return tail


def scan(storage: Storage, manifest: Manifest) -> tuple[dict[int, CommittedSeed], dict[str, str]]:
    """What is in losses/: ({seed: committed}, {file name: why it is not counted})."""
    seeds: list[int] = []
    invalid: dict[str, str] = {}
    for info in storage.list(LOSSES_FOLDER):
        match = SEED_FILE.fullmatch(info.base_name)
        if match and info.type == FileType.File and seed_path(int(match[1])) == f"{LOSSES_FOLDER}/{info.base_name}":
            seeds.append(int(match[1]))
        elif info.base_name and not info.base_name.startswith((".", "_")):
            invalid[f"{LOSSES_FOLDER}/{info.base_name}"] = "it is not a file named like a seed"

    def read(seed: int) -> CommittedSeed | str:
        try:
            return read_seed(storage, manifest, seed)
        except InvalidFile as error:
            return str(error)

    committed = {}
    with ThreadPoolExecutor(FOOTER_READERS) as pool:
        for seed, result in zip(seeds, pool.map(read, seeds), strict=True):
            if isinstance(result, CommittedSeed):
                committed[seed] = result
            else:
                invalid[seed_path(seed)] = result
    return dict(sorted(committed.items())), invalid


def read_losses(
    storage: Storage, manifest: Manifest, committed: CommittedSeed, documents: Sequence[DocumentInfo]
) -> np.ndarray:
    """float32 (steps, losses of these consecutive documents, one after another) of one seed.

    Raises ValueError if its rows are not those of the plan, and OSError if it is damaged or cannot be read now.
    """
    first, last = documents[0].doc_id, documents[-1].doc_id
    with storage.open(committed.path) as source:
        try:
            table = _rows_near(source, first, last)
        except (pa.ArrowException, OSError) as error:
            raise OSError(
                f"{storage.path(committed.path)} cannot be read ({one_line(error)}); if that stays so, it is damaged: "
                f"{AGAIN_WITHOUT_IT}"
            ) from error
    doc_ids = table["doc_id"].to_numpy()
    begin, end = np.searchsorted(doc_ids, [first, last + 1]).tolist()
    table = table.slice(begin, end - begin)
    num_steps = len(manifest.steps)
    planned = table.num_rows == num_steps * len(documents)
    lengths, steps = pc.list_value_length(table["losses"]).to_numpy(), table["step"].to_numpy()
    values = pc.list_flatten(table["losses"]).to_numpy()
    pieces, at = [], 0
    for row, document in zip(range(0, table.num_rows + 1, num_steps), documents, strict=False):
        rows = slice(row, row + num_steps)
        if not (
            planned
            and (doc_ids[begin:end][rows] == document.doc_id).all()
            and np.array_equal(steps[rows], manifest.steps)
            and (lengths[rows] == document.num_losses).all()
        ):
            raise ValueError(
                f"{committed.path} does not hold each step of document {document.name!r} once; run: discreteness verify"
            )
        size = num_steps * document.num_losses
        pieces.append(values[at : at + size].reshape(num_steps, document.num_losses))
        at += size
    return pieces[0] if len(pieces) == 1 else np.concatenate(pieces, axis=1)


def _rows_near(source: pa.NativeFile, first: int, last: int) -> pa.Table:
    """step, doc_id and losses of the row groups that may hold documents `first` to `last`."""
    file = pq.ParquetFile(source, page_checksum_verification=True)
    groups = []
    for group in range(file.num_row_groups):
        bounds = file.metadata.row_group(group).column(LOSSES.get_field_index("doc_id")).statistics
        if bounds is None or not bounds.has_min_max or (bounds.min <= last and bounds.max >= first):
            groups.append(group)
    return file.read_row_groups(groups, columns=["step", "doc_id", "losses"], use_threads=False)


def one_line(error: Exception) -> str:
    """Arrow's errors have several lines, the first of which says it."""
    return str(error).partition("\n")[0]


def mean_over_tokens(losses: np.ndarray) -> np.ndarray:
    """float64 (steps,) of float32 (steps, tokens), summed one token after another: the same bits in any layout."""
    total = np.zeros(len(losses))
    for token in losses.T:
        total += token
    return total / losses.shape[1]


def row_groups(documents: Sequence[DocumentInfo], num_steps: int) -> Iterator[list[tuple[DocumentInfo, int]]]:
    """Documents with the index of their first loss, gathered until a row group is large enough."""
    group: list[tuple[DocumentInfo, int]] = []
    start, size = 0, 0
    for document in documents:
        group.append((document, start))
        start += document.num_losses
        size += document.num_losses * num_steps
        if size >= ROW_GROUP_LOSSES:
            yield group
            group, size = [], 0
    if group:
        yield group


def _losses_table(
    seed: int, attempt: str, steps: np.ndarray, losses: np.ndarray, group: list[tuple[DocumentInfo, int]]
) -> pa.Table:
    num_steps, num_rows = len(steps), len(steps) * len(group)
    values = np.empty(num_steps * sum(d.num_losses for d, _ in group), np.float32)
    at = 0
    for document, start in group:  # copied once, from many places
        size = num_steps * document.num_losses
        values[at : at + size].reshape(num_steps, -1)[:] = losses[:, start : start + document.num_losses]
        at += size
    lengths = np.repeat([d.num_losses for d, _ in group], num_steps)
    offsets = np.zeros(num_rows + 1, np.int64)
    np.cumsum(lengths, out=offsets[1:])
    assert offsets[-1] == len(values) < 2**31, "a row group's losses must fit 32-bit offsets"
    return pa.Table.from_arrays(
        [
            pa.array(np.full(num_rows, seed, np.int32)),
            pa.repeat(attempt, num_rows),
            pa.array(np.tile(steps.astype(np.int32), len(group))),
            pa.array(np.repeat(np.array([d.doc_id for d, _ in group], np.int32), num_steps)),
            pa.ListArray.from_arrays(
                pa.array(offsets.astype(np.int32)), pa.array(values), type=LOSSES.field("losses").type
            ),
        ],
        schema=LOSSES,
    )
