"""datasets of the same documents -> one table, numbers and a figure: when each token is learned in each of them.

found = join(["runs/init", "runs/data"], "runs/compared")
"""

import json
import os
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from discreteness.analysis.joined_numbers import Pair, as_json, pairs, paragraphs
from discreteness.analysis.joined_runs import (
    JoinedTimes,
    Run,
    analysed,
    joined_table,
    joined_times,
    open_datasets,
)
from discreteness.analysis.words import WIDTH
from discreteness.dataset.storage import open_storage

TABLE, NUMBERS, FIGURE = "joined.parquet", "joined.json", "joined"


@dataclass(frozen=True, kw_only=True)
class Joined:
    """- `table`: one row per token and dataset.
    - `pairs`: each two datasets, in the order in which they were named.
    """

    runs: list[Run]
    times: JoinedTimes
    table: pa.Table
    pairs: list[Pair]

    def as_json(self) -> dict[str, Any]:
        return as_json(self.runs, self.pairs)

    def summary(self) -> str:
        """For a terminal."""
        return "\n\n".join(textwrap.fill(part, WIDTH) for part in paragraphs(self.runs, self.pairs))


def join(uris: Sequence[str], output: str | os.PathLike[str]) -> Joined:
    """Writes TABLE, NUMBERS and FIGURE to the folder `output`, and in folders of it the analyses that datasets lack.

    Raises ValueError if a dataset is named twice, has no committed seed or too few checkpoints, or holds other
    documents than the first, and OSError if nothing can be written.
    """
    datasets = open_datasets(uris)
    storage = open_storage(output)
    storage.check_writable()  # before the fits, which may take minutes
    runs = analysed(datasets, output)
    times = joined_times([run.drops for run in runs])
    documents = runs[0].found.tokens["doc_id"].to_numpy()
    compared = pairs([run.name for run in runs], documents, times)
    found = Joined(runs=runs, times=times, table=joined_table(runs, times), pairs=compared)
    sink = pa.BufferOutputStream()
    pq.write_table(found.table, sink, compression="zstd", write_page_checksum=True)
    storage.write(TABLE, sink.getvalue())
    storage.write(NUMBERS, json.dumps(found.as_json(), indent=1).encode())
    return found
