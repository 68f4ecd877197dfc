"""a seed's values step by step <-> its file in runs/, with what computed them."""

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from discreteness.dataset.manifest import listed
from discreteness.dataset.seed_file import FOOTER_GUESS_BYTES, FOOTER_READERS, CommittedSeed, one_line
from discreteness.dataset.storage import Storage

RUNS = pa.schema(
    [
        ("step", pa.int32()),
        ("train_loss", pa.float64()),
        ("lr_multiplier", pa.float64()),
        ("momentum", pa.float64()),
        ("batch_tokens", pa.int64()),
        ("short_window", pa.int32()),
        ("long_window", pa.int32()),
        ("step_ms", pa.float64()),
        ("train_s", pa.float64()),
        ("val_loss", pa.float64()),
    ]
)
"""One row per step; null is "not measured". train_loss: the objective of the update to `step`, in nats per token, which
includes the further targets of multi-token prediction. step_ms: the mean since the last checkpoint."""
OF_A_SERIES = pa.schema(
    [
        ("tokens", pa.int64()),
        ("checkpoint", pa.string()),
        ("commit", pa.string()),
        ("weights", pa.string()),
    ]
)
"""Further columns of a model that others have trained. tokens: seen by then, as its name says it. checkpoint: the name
of its sub-folder or branch; commit: where that branch stood. weights: a hash of its files of weights, which is equal
for equal ones."""
LIBRARIES = b"libraries"
"""Key in the records' metadata for the third-party programs that computed a seed, as JSON."""
Library = dict[str, str] | None
"""A FlashAttention-3, as `flash_attention.loaded_library` tells it."""


def records_table(rows: list[dict]) -> pa.Table:
    """Records of single steps as columns: RUNS, and OF_A_SERIES where a row has one of these."""
    of_a_series = any(name in row for row in rows for name in OF_A_SERIES.names)
    return pa.Table.from_pylist(rows, schema=pa.unify_schemas([RUNS, OF_A_SERIES]) if of_a_series else RUNS)


def with_libraries(records: pa.Table, trainer: Library, evaluators: list[Library]) -> pa.Table:
    """Records of a seed with the FlashAttention-3 that trained and scored it; unchanged if there was none."""
    if not trainer and not evaluators:
        return records
    text = json.dumps({"flash_attention_3": {"trainer": trainer, "evaluators": evaluators}})
    return records.replace_schema_metadata({**(records.schema.metadata or {}), LIBRARIES: text})


def trainers_library(records: pa.Table) -> Library:
    """The FlashAttention-3 with which the seed of these records was trained."""
    text = (records.schema.metadata or {}).get(LIBRARIES, b"{}")
    return json.loads(text).get("flash_attention_3", {}).get("trainer")


def runs_file(seed: int, attempt: str, records: pa.Table) -> pa.Buffer:
    """Parquet file of the records, sorted by step, with seed and attempt in front."""
    if (
        "step" not in records.column_names
        or not pa.types.is_integer(records["step"].type)
        or records["step"].null_count
    ):
        raise ValueError(f"records of seed {seed} have no integer column 'step', but {listed(records.column_names)}")
    if taken := [name for name in ("seed", "attempt") if name in records.column_names]:
        raise ValueError(f"records of seed {seed} have a column {listed(taken)}, which the dataset adds itself")
    steps, counts = np.unique(records["step"].to_numpy(), return_counts=True)
    if (counts > 1).any():
        raise ValueError(f"records of seed {seed} hold steps twice: {listed(steps[counts > 1])}")
    records = records.sort_by("step")
    records = records.add_column(0, "attempt", pa.repeat(attempt, len(records)))
    records = records.add_column(0, "seed", pa.array(np.full(len(records), seed, np.int32)))
    sink = pa.BufferOutputStream()
    pq.write_table(records, sink, compression="zstd", write_page_checksum=True)
    return sink.getvalue()


def read_runs(storage: Storage, committed: CommittedSeed) -> pa.Table:
    """A seed's records. Raises FileNotFoundError if they are gone, and OSError if they are damaged."""
    content = storage.read(committed.runs_path)
    try:
        return pq.ParquetFile(pa.BufferReader(content), page_checksum_verification=True).read()
    except (pa.ArrowException, OSError) as error:
        raise OSError(
            f"{storage.path(committed.runs_path)} is damaged ({one_line(error)}); {records_again(committed)}"
        ) from error


def records_again(committed: CommittedSeed) -> str:
    """What to do about records that are gone or damaged."""
    return (
        f"the losses of seed {committed.seed} are whole: do without its records, or delete {committed.path}, and the "
        "command of its run trains the seed again"
    )


def train_s(storage: Storage, seeds: Sequence[CommittedSeed]) -> list[float]:
    """Seconds of updates of each seed, from the footers of its runs files; seeds whose footer does not say are left
    out."""

    def read(seed: CommittedSeed) -> float | None:
        try:
            metadata = pq.read_metadata(pa.BufferReader(storage.read_tail(seed.runs_path, FOOTER_GUESS_BYTES)))
            column = metadata.schema.names.index("train_s")
            groups = [metadata.row_group(group).column(column).statistics for group in range(metadata.num_row_groups)]
            return max(group.max for group in groups if group and group.has_min_max)
        except (pa.ArrowException, OSError, ValueError):  # damaged, gone, of other columns: `verify` says so
            return None

    with ThreadPoolExecutor(FOOTER_READERS) as pool:
        return [seconds for seconds in pool.map(read, seeds) if isinstance(seconds, float)]
