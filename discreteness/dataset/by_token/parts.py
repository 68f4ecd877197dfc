"""Parts: folders in tokens/, each with the losses of some seeds by token.

- tokens/parts.json names the parts in force; nothing else makes a file below tokens/ count.
- In a part, `<first>.parquet` has the losses of consecutive tokens (counted through all documents) from number `first`
  on, and `<first>.means.parquet` the mean curves of the documents that begin there.
- A part answers for a seed only while that seed's footer in losses/ is the one that the part was made from.
- Losing tokens/ loses no loss: what losses/ says is true.
"""

import bisect
import itertools
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from discreteness.dataset.by_token.token_file import DamagedPart, TokenFile
from discreteness.dataset.manifest import Manifest
from discreteness.dataset.paths import PART_NAME, PARTS_FILE, TOKENS_FOLDER
from discreteness.dataset.seed_file import CommittedSeed, one_line, read_footer
from discreteness.dataset.storage import Storage

FORMAT = 2

MEANS = pa.schema(
    [
        pa.field("doc_id", pa.int32(), nullable=False),
        pa.field("seed", pa.int32(), nullable=False),
        pa.field("step", pa.int32(), nullable=False),
        pa.field("mean_loss", pa.float64(), nullable=False),
    ]
)


@dataclass(frozen=True, kw_only=True)
class Part:
    """`seeds`: what their footers said. `starts`: the first token of each file, ascending from 0. `page_steps`:
    steps of a token in a page.
    """

    name: str
    seeds: tuple[CommittedSeed, ...]
    starts: tuple[int, ...]
    page_steps: int

    @property
    def folder(self) -> str:
        return f"{TOKENS_FOLDER}/{self.name}"

    def losses_path(self, start: int) -> str:
        return f"{self.folder}/{start:07d}.parquet"

    def means_path(self, start: int) -> str:
        return f"{self.folder}/{start:07d}.means.parquet"

    def files(self, manifest: Manifest) -> dict[str, int]:
        """Path -> rows of every file of the part."""
        every: dict[str, int] = {}
        for start, stop in self.ranges(manifest):
            every |= self.files_of(manifest, start, stop)
        return every

    def files_of(self, manifest: Manifest, start: int, stop: int) -> dict[str, int]:
        """The file of losses of this range, and that of means where a document begins there."""
        rows_each = len(manifest.steps) * len(self.seeds)
        num_means = len(begins(manifest, start, stop))
        means = {self.means_path(start): num_means * rows_each} if num_means else {}
        return {self.losses_path(start): (stop - start) * rows_each, **means}

    def ranges(self, manifest: Manifest) -> list[tuple[int, int]]:
        """First token of each file, and the one after its last."""
        return list(zip(self.starts, [*self.starts[1:], total_losses(manifest)], strict=True))


def total_losses(manifest: Manifest) -> int:
    return sum(document.num_losses for document in manifest.documents)


def first_tokens(manifest: Manifest) -> list[int]:
    """Number of each document's first token, counted through all documents."""
    return np.cumsum([0, *(document.num_losses for document in manifest.documents[:-1])]).tolist()


def begins(manifest: Manifest, start: int, stop: int) -> range:
    """Places of the documents that begin at tokens from `start` to before `stop`."""
    first = first_tokens(manifest)
    return range(bisect.bisect_left(first, start), bisect.bisect_left(first, stop))


def read_parts(storage: Storage, manifest: Manifest) -> tuple[Part, ...]:
    """The parts in force, none before the first compaction. Raises ValueError if parts.json is damaged or of another
    version."""
    try:
        content = storage.read(PARTS_FILE)
    except FileNotFoundError:
        return ()
    try:
        values = json.loads(content)
        if values["format"] != FORMAT:
            raise ValueError
        parts = tuple(
            Part(
                name=part["name"],
                seeds=tuple(CommittedSeed(**seed) for seed in part["seeds"]),
                starts=tuple(part["starts"]),
                page_steps=part["page_steps"],
            )
            for part in values["parts"]
        )
        total = total_losses(manifest)
        for part in parts:
            edges = [*part.starts, total]
            if not PART_NAME.fullmatch(part.name) or edges[0] != 0 or not part.seeds or part.page_steps < 1:
                raise ValueError
            if any(late <= early for early, late in itertools.pairwise(edges)):
                raise ValueError
        return parts
    except (ValueError, KeyError, TypeError, RecursionError):
        raise ValueError(
            f"{storage.path(PARTS_FILE)} is damaged or of another version; no seed is in it alone: delete the folder "
            f"{storage.path('tokens')}, and run discreteness compact"
        ) from None


def is_whole(storage: Storage, path: str, num_rows: int) -> bool:
    """Whether there is such a file whose end is that of a Parquet file with so many rows: what was cut short has none.
    A changed byte is found by whoever reads it, by its checksum."""
    if not storage.size(path):
        return False
    tail = read_footer(storage, path)
    try:
        return pq.read_metadata(pa.BufferReader(tail)).num_rows == num_rows
    except (pa.ArrowException, OSError):  # Arrow reports damaged metadata as either
        return False


def write_parts(storage: Storage, parts: Sequence[Part]) -> None:
    """Puts these parts in force, and no others."""
    content = {"format": FORMAT, "parts": [asdict(part) for part in parts]}
    storage.write(PARTS_FILE, json.dumps(content).encode())


class PartReader:
    """Losses of one part. `columns`: seed -> place on the seed axis, of the seeds for which the part is true."""

    def __init__(self, storage: Storage, manifest: Manifest, part: Part, committed: dict[int, CommittedSeed]):
        self.storage, self.manifest, self.part = storage, manifest, part
        self.columns = {seed.seed: column for column, seed in enumerate(part.seeds) if committed.get(seed.seed) == seed}
        self._files: dict[int, TokenFile] = {}

    def __getstate__(self) -> dict[str, Any]:
        """For pickle: without what was read, which whoever unpickles it reads again where it is needed."""
        state = dict(vars(self), _files={})
        state.pop("means", None)
        return state

    def losses(self, tokens: np.ndarray, steps: np.ndarray) -> np.ndarray:
        """float32 (tokens, steps, all seeds of the part), tokens counted through all documents, steps by place.

        Raises what `TokenFile` raises.
        """
        which = np.searchsorted(self.part.starts, tokens, side="right") - 1
        if (which == which[0]).all():
            return self._file(which[0]).losses(tokens - self.part.starts[which[0]], steps)
        found = np.empty((len(tokens), len(steps), len(self.part.seeds)), np.float32)
        for index in np.unique(which):
            here = which == index
            found[here] = self._file(index).losses(tokens[here] - self.part.starts[index], steps)
        return found

    @cached_property
    def means(self) -> np.ndarray:
        """Mean curves, float64 (documents, seeds of the part, steps). Raises what `TokenFile` raises."""
        shape = (len(self.manifest.documents), len(self.part.seeds), len(self.manifest.steps))
        found = np.empty(shape)
        for start, stop in self.part.ranges(self.manifest):
            if documents := begins(self.manifest, start, stop):
                found[documents.start : documents.stop] = self._means_from(start).reshape(-1, *shape[1:])
        return found

    def _means_from(self, start: int) -> np.ndarray:
        path = self.part.means_path(start)
        content = self.storage.read(path)
        try:
            file = pq.ParquetFile(pa.BufferReader(content), page_checksum_verification=True)
            return file.read(columns=["mean_loss"])["mean_loss"].to_numpy()
        except (pa.ArrowException, OSError, KeyError) as error:
            raise DamagedPart(self.storage, path, one_line(error)) from error

    def _file(self, index: int) -> TokenFile:
        if index not in self._files:
            start, stop = self.part.ranges(self.manifest)[index]
            shape = stop - start, len(self.manifest.steps), len(self.part.seeds)
            self._files[index] = TokenFile(self.storage, self.part.losses_path(start), shape, self.part.page_steps)
        return self._files[index]


def means_file(doc_ids: Sequence[int], seeds: Sequence[int], steps: Sequence[int], means: np.ndarray) -> pa.Buffer:
    """Parquet file of mean curves float64 (documents, seeds, steps)."""
    rows = len(seeds) * len(steps)
    columns = [
        np.repeat(np.array(doc_ids, np.int32), rows),
        np.tile(np.repeat(np.array(seeds, np.int32), len(steps)), len(doc_ids)),
        np.tile(np.array(steps, np.int32), len(doc_ids) * len(seeds)),
        means.reshape(-1),
    ]
    sink = pa.BufferOutputStream()
    pq.write_table(
        pa.Table.from_arrays([pa.array(column) for column in columns], schema=MEANS),
        sink,
        compression="zstd",
        use_dictionary=MEANS.names[:-1],
        use_byte_stream_split=["mean_loss"],
        write_page_checksum=True,
    )
    return sink.getvalue()
