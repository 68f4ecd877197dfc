"""fits + what is known of each token -> drops, learning times and final losses of groups of tokens.

A number is cut into groups of about equally many tokens, of which no two share a value; texts and yes or no are groups
as they are. Intervals are over documents.
"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from discreteness.analysis.intervals import Estimate, Share, mean, share
from discreteness.analysis.stated import Stated
from discreteness.dataset.reader import Dataset

MAX_GROUPS = 5
"""Of a column of numbers."""
NOT_COUNTED = "not known"


@dataclass(frozen=True, kw_only=True)
class Group(Stated):
    """Tokens that are alike in one column. `drops`: share of their curves that have one. `octave`: mean of log2 of the
    main drops' times, in updates."""

    name: str
    tokens: int
    drops: Share
    octave: Estimate
    final_loss: Estimate

    def line(self) -> str:
        times = [2**value for value in (self.octave.value, self.octave.low, self.octave.high)]
        time = "-" if np.isnan(times[0]) else f"{times[0]:.0f}"
        time += "" if np.isnan(times[1]) else f" ({times[1]:.0f} to {times[2]:.0f})"
        return f"{self.name:<24}{self.tokens:>8}  {f'{self.drops}':<22}{time:<22}{self.final_loss:.2f}"


def table_of(column: str, groups: list[Group]) -> str:
    """For a terminal."""
    head = f"{column:<24}{'tokens':>8}  {'curves with a drop':<22}{'update of the drop':<22}final loss, nats"
    return "\n".join([head, *(group.line() for group in groups)])


def known_of_tokens(dataset: Dataset) -> pa.Table:
    """Every column that tokens can be grouped by, a row per token that has a loss, sorted by doc_id and token_index:
    document, category, answer and position, and those of annotations.parquet where it is there."""
    parts = [dataset.tokens(document.doc_id).slice(1) for document in dataset.documents]
    table = pa.concat_tables(parts).select(["doc_id", "token_index", "name", "category", "answer"])
    table = table.rename_columns(["doc_id", "token_index", "document", "category", "answer"])
    table = table.append_column("position", table["token_index"])
    try:
        annotations = dataset.annotations()
    except FileNotFoundError:
        return table
    for name in annotations.column_names[2:]:
        table = table.append_column(name, annotations[name])
    return table


def check_column(known: pa.Table, column: str) -> None:
    """Raises ValueError if tokens cannot be grouped by `column`: there is none, or nothing is known in it."""
    columns = [name for name in known.column_names if name not in ("doc_id", "token_index")]
    if column not in columns:
        raise ValueError(
            f"--by {column}: there is no such column; there are {', '.join(columns)}"
            + ("" if "count" in columns else "; `discreteness annotate` adds how frequent each token is")
        )
    if known[column].null_count == len(known):
        raise ValueError(f"--by {column}: it is not known of any token: this dataset was not trained on shards")


def groups_by(fits: pa.Table, known: pa.Table, column: str) -> list[Group]:
    """`fits` of `analyze`, every token with equally many seeds, and `known_of_tokens`; in the order of the values.
    Raises ValueError as `check_column` does."""
    check_column(known, column)
    names, owner = _grouped(known[column].combine_chunks())
    owner = np.repeat(owner, len(fits) // len(known))
    documents, is_drop = fits["doc_id"].to_numpy(), fits["is_drop"].to_numpy()
    times, final = fits["time"].to_numpy(), fits["final_loss"].to_numpy()
    found = []
    for number, name in enumerate(names):
        inside = owner == number
        drops = inside & is_drop
        found.append(
            Group(
                name=name,
                tokens=int(inside.sum()) * len(known) // len(fits),
                drops=share(is_drop[inside], np.ones(inside.sum()), documents[inside]),
                octave=mean(np.log2(times[drops]), documents[drops]),
                final_loss=mean(final[inside], documents[inside]),
            )
        )
    return found


def _grouped(values: pa.Array) -> tuple[list[str], np.ndarray]:
    """Names of the groups, and which of them each value is in, int [n]."""
    known = pc.is_valid(values).to_numpy(zero_copy_only=False)
    owner = np.full(len(values), -1)
    if pa.types.is_boolean(values.type) or pa.types.is_string(values.type):
        kinds, owner[known] = np.unique(values.drop_null().to_numpy(zero_copy_only=False), return_inverse=True)
        names = [{False: "no", True: "yes"}.get(kind, str(kind)) for kind in kinds.tolist()]
    else:
        numbers = values.drop_null().to_numpy()
        edges = np.unique(np.quantile(numbers, np.arange(1, MAX_GROUPS) / MAX_GROUPS, method="lower"))
        owner[known] = np.searchsorted(edges, numbers)
        there, owner[known] = np.unique(owner[known], return_inverse=True)
        inside = [numbers[owner[known] == number] for number in range(len(there))]
        names = [f"{part.min():.4g} to {part.max():.4g}" for part in inside]
    if not known.all():
        owner[~known] = len(names)
        names.append(NOT_COUNTED)
    return names, owner
