"""losses of some tokens at every step of some seeds <-> one Parquet file, each page of which can be read alone.

- A row is one loss: doc_id, token_index, step, seed, loss. Rows are sorted by these columns and none is left out, so
  the place of a loss is found by counting. Any Parquet reader can read the file.
- A page holds one token's losses for a few consecutive steps. Their bytes are split into four streams, which are
  compressed with zstd.
- The places of the pages are stored twice: in the page headers, as in any Parquet file, and in an index of ours between
  the file's first four bytes and its first row group. There, one small read at a known place finds all that a
  question needs.
"""

import io
import zlib
from collections.abc import Sequence
from itertools import islice, product

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from discreteness.dataset.by_token.page_headers import pages_of_last_column
from discreteness.dataset.storage import Storage

TOKENS = pa.schema(
    [
        pa.field("doc_id", pa.int32(), nullable=False),
        pa.field("token_index", pa.int32(), nullable=False),
        pa.field("step", pa.int32(), nullable=False),
        pa.field("seed", pa.int32(), nullable=False),
        pa.field("loss", pa.float32(), nullable=False),
    ]
)
KEYS = TOKENS.names[:-1]
ROW_GROUP_LOSSES = 2**20
"""Tokens share a row group up to this many losses: what a reader without our index reads for one token."""
PAGE_LOSSES = 2**12
"""Most losses of a page, unless one step has more. To read one step of a token costs a page, all its steps all its
pages."""
PAGES_AT_ONCE = 7
"""Pages decompressed together. Buffers below 128 KiB stay in the cache and are used again; for larger ones the C
library may ask the system for fresh memory each time.
"""
INDEX_AT = 4

PAGE = np.dtype([("offset", "<i8"), ("num_bytes", "<i4"), ("crc32", "<u4")])
"""Of a page's compressed content, which follows its header."""


def steps_of_a_page(num_steps: int, num_seeds: int) -> int:
    """Steps per page such that a token's pages have about the same size."""
    num_pages = -(-num_steps // max(1, PAGE_LOSSES // num_seeds))
    return -(-num_steps // num_pages)


def index_rows(num_steps: int, page_steps: int) -> np.dtype:
    """A row of the index: the pages of one token, and their CRC-32, which starts from the token's number."""
    return np.dtype([("pages", PAGE, (-(-num_steps // page_steps),)), ("crc32", "<u4")])


def token_file(
    doc_ids: np.ndarray,
    token_indices: np.ndarray,
    steps: Sequence[int],
    seeds: Sequence[int],
    losses: np.ndarray,
    page_steps: int,
) -> pa.Buffer:
    """Parquet file of losses float32 (tokens, steps, seeds); `doc_ids` and `token_indices` int32 (tokens,)."""
    # Sizes: row groups hold whole tokens, pages whole steps of one token, the last page of a token what is left.
    num_tokens, rows_per_token = len(losses), len(steps) * len(seeds)
    tokens_per_group = max(1, ROW_GROUP_LOSSES // rows_per_token)
    index = np.zeros(num_tokens, index_rows(len(steps), page_steps))
    last_page_steps = len(steps) - page_steps * (index["pages"].shape[1] - 1)
    # Columns that every token repeats.
    step_column = np.repeat(np.array(steps, np.int32), len(seeds))
    seed_column = np.tile(np.array(seeds, np.int32), len(steps))
    # The file: room for the index, then the row groups. Parquet's writer splits and compresses the pages.
    content = io.BytesIO()
    sink = pa.PythonFile(content, "w")  # counts what is written through it, the index too
    with pq.ParquetWriter(
        sink,
        TOKENS,
        compression="zstd",
        use_dictionary=KEYS,
        use_byte_stream_split=["loss"],
        write_statistics=KEYS,
        write_page_checksum=True,
        # Each batch of losses becomes a page, as none is smaller; a chunk of a column begins a new batch.
        write_batch_size=page_steps * len(seeds),
        data_page_size=4 * last_page_steps * len(seeds),
    ) as writer:
        sink.write(index.tobytes())
        for first in range(0, num_tokens, tokens_per_group):
            some = losses[first : first + tokens_per_group].reshape(-1, rows_per_token)
            columns = [
                pa.array(np.repeat(doc_ids[first : first + len(some)], rows_per_token)),
                pa.array(np.repeat(token_indices[first : first + len(some)], rows_per_token)),
                pa.array(np.tile(step_column, len(some))),
                pa.array(np.tile(seed_column, len(some))),
                pa.chunked_array([pa.array(token) for token in some]),
            ]
            writer.write_table(pa.Table.from_arrays(columns, schema=TOKENS), row_group_size=some.size)
    # The index, filled in once it is known where the pages are.
    with content.getbuffer() as view:
        index["pages"] = np.array(pages_of_last_column(view), PAGE).reshape(num_tokens, -1)
        for token, row in enumerate(index):
            row["crc32"] = zlib.crc32(row["pages"].tobytes(), token)
        view[INDEX_AT : INDEX_AT + index.nbytes] = index.tobytes()
    return pa.py_buffer(content.getbuffer())


class DamagedPart(OSError):
    """A file of a part is not as it was written. The seeds have all that was in it."""

    def __init__(self, storage: Storage, name: str, what: str):
        super().__init__(
            f"{storage.path(name)} is damaged ({what}); the seeds are not: delete the folder "
            f"{storage.path(name.rpartition('/')[0])}, and run discreteness compact"
        )


class TokenFile:
    """Random access to a file's losses, `shape` (tokens, steps, seeds). Keeps what it read of the index in memory.

    Reading raises FileNotFoundError if the file is gone, and DamagedPart if it is not as it was written.
    """

    def __init__(self, storage: Storage, name: str, shape: tuple[int, int, int], page_steps: int):
        self.storage, self.name, self.shape, self.page_steps = storage, name, shape, page_steps
        self.codec = pa.Codec("zstd")
        self._index = np.zeros(shape[0], index_rows(shape[1], page_steps))
        self._known = np.zeros(shape[0], bool)

    def losses(self, tokens: np.ndarray, steps: np.ndarray) -> np.ndarray:
        """float32 (tokens, steps, all seeds) at these places along the file's axes."""
        # Ascending places, each once, are read; any others are picked out of those.
        for places, axis in (tokens, 0), (steps, 1):
            if not (np.diff(places) > 0).all():
                wanted, inverse = np.unique(places, return_inverse=True)
                found = self.losses(*((wanted, steps) if axis == 0 else (tokens, wanted)))
                return found.take(inverse, axis)
        # Which pages hold the steps, and for each of them which of its steps go where in the answer.
        found = np.empty((len(tokens), len(steps), self.shape[2]), np.float32)
        pages, begins = np.unique(steps // self.page_steps, return_index=True)
        ends = np.append(begins[1:], len(steps))
        first_steps = pages * self.page_steps
        num_steps = np.minimum(self.page_steps, self.shape[1] - first_steps)
        spans = [
            (slice(begin, end), slice(low, high) if high - low == end - begin else steps[begin:end] - first, count)
            for begin, end, low, high, first, count in zip(
                *(begins.tolist(), ends.tolist()),
                *((steps[begins] - first_steps).tolist(), (steps[ends - 1] - first_steps + 1).tolist()),
                *(first_steps.tolist(), num_steps.tolist()),
                strict=True,
            )
        ]
        self._decode(tokens, pages, spans, found.view(np.uint8).reshape(*found.shape, 4))
        return found

    def _decode(self, tokens: np.ndarray, pages: np.ndarray, spans: list[tuple], found: np.ndarray) -> None:
        """Fills `found`, uint8 (tokens, steps, seeds, 4), ascending tokens from these pages of each, ascending.
        `spans`: where a page's steps go, which of its steps they are, and how many it has.

        Frames of zstd one after another are decompressed by one call: pyarrow makes a context for each, which takes
        longer than most pages.
        """
        # Read: the compressed pages of all tokens, one after another, by their places in the index.
        index = self._pages(tokens)[:, pages].reshape(-1)
        ranges = list(zip(index["offset"].tolist(), index["num_bytes"].tolist(), strict=True))
        frames = self.storage.read_ranges(self.name, ranges)
        expected = zip(index["crc32"].tolist(), product(tokens.tolist(), pages.tolist()), strict=True)
        places = ((token, *span) for token in found for span in spans)
        num_seeds = self.shape[2]
        while batch := list(islice(frames, PAGES_AT_ONCE)):
            # Check: no page that is not as it was written.
            for frame, (crc32, (token, page)) in zip(batch, expected, strict=False):
                if zlib.crc32(frame) != crc32:
                    raise self._damaged(f"CRC of page {page} of token {token}")
            # Decompress a few pages together.
            here = list(islice(places, len(batch)))
            num_bytes = 4 * num_seeds * sum(count for *_, count in here)
            content = np.frombuffer(self.codec.decompress(b"".join(batch), num_bytes), np.uint8)
            # Put each page's four streams of bytes, and of them the steps that are asked for, back into floats.
            at = 0
            for token, to, which, count in here:
                streams = content[at : at + 4 * count * num_seeds].reshape(4, count, num_seeds)
                at += streams.size
                wanted, losses = streams[:, which].reshape(4, -1), token[to].reshape(-1, 4)
                for byte in range(4):  # strided copies: twice as fast as one of the transpose
                    losses[:, byte] = wanted[byte]

    def _pages(self, tokens: np.ndarray) -> np.ndarray:
        """PAGE (tokens, pages of each) of ascending tokens."""
        if not self._known[tokens].all():
            first, last = int(tokens[0]), int(tokens[-1])
            row_bytes = self._index.dtype.itemsize
            where = INDEX_AT + first * row_bytes, (last + 1 - first) * row_bytes
            (content,) = self.storage.read_ranges(self.name, [where])
            if len(content) != where[1]:
                raise self._damaged("the index of its pages")
            rows = np.frombuffer(content, self._index.dtype)
            for token, row in enumerate(rows, first):
                if zlib.crc32(row["pages"].tobytes(), token) != row["crc32"]:
                    raise self._damaged("the index of its pages")
            self._index[first : last + 1], self._known[first : last + 1] = rows, True
        return self._index["pages"][tokens]

    def _damaged(self, what: str) -> DamagedPart:
        return DamagedPart(self.storage, self.name, what)
