"""losses of some tokens at every step of some seeds <-> one Parquet file of which each page can be read alone.

A row is one loss: doc_id, token_index, step, seed, loss; sorted by these, nothing left out, so that the place of a loss
is a matter of counting. Any Parquet reader reads the file. A reader that wants few losses asks the index in the footer
where their pages are: a page is `page_losses` losses, their bytes split into four streams and compressed with zstd.
"""

import base64
import io
import json
import math
import zlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from discreteness.seed_file import footer_bytes
from discreteness.storage import Storage

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
PAGE_LOSSES = (2**12, 2**14)
"""Bounds of a page: small enough that one step of a token is cheap to get at, large enough that all steps are."""
PAGE_STEPS = 32
"""Steps of a token in a page, between these bounds."""
FOOTER_KEY, PAGES_KEY = b"discreteness", b"discreteness.pages"
FOOTER_GUESS_BYTES = 256 * 1024
GAP_BYTES = 2**16
"""Pages closer than this are read as one piece, of about PIECE_BYTES at most."""
PIECE_BYTES = 2**20
PIECES_AT_ONCE = 64

PAGE = np.dtype([("offset", "<i8"), ("num_bytes", "<i4"), ("crc32", "<u4")])
"""Of a page's compressed content, which follows its header."""


def token_file(
    doc_ids: np.ndarray, token_indices: np.ndarray, steps: Sequence[int], seeds: Sequence[int], losses: np.ndarray
) -> pa.Buffer:
    """Parquet file of losses float32 (tokens, steps, seeds); `doc_ids` and `token_indices` int32 (tokens,)."""
    num_tokens, rows_per_token = len(losses), len(steps) * len(seeds)
    tokens_per_group = max(1, ROW_GROUP_LOSSES // rows_per_token)
    least, most = PAGE_LOSSES
    page_losses = min(most, max(least, -(-PAGE_STEPS * len(seeds) // 1024) * 1024))
    step_column = np.repeat(np.array(steps, np.int32), len(seeds))
    seed_column = np.tile(np.array(seeds, np.int32), len(steps))
    sink = io.BytesIO()
    pages: list[np.ndarray] = []
    with pq.ParquetWriter(
        sink,
        TOKENS,
        compression="zstd",
        use_dictionary=KEYS,
        use_byte_stream_split=["loss"],
        write_statistics=KEYS,
        write_page_checksum=True,
        data_page_size=4 * page_losses,
    ) as writer:
        for first in range(0, num_tokens, tokens_per_group):
            some = slice(first, first + tokens_per_group)
            count = len(losses[some])
            columns = [
                np.repeat(doc_ids[some], rows_per_token),
                np.repeat(token_indices[some], rows_per_token),
                np.tile(step_column, count),
                np.tile(seed_column, count),
                losses[some].reshape(-1),
            ]
            table = pa.Table.from_arrays([pa.array(column) for column in columns], schema=TOKENS)
            begin = sink.tell()
            writer.write_table(table, row_group_size=len(table))
            with sink.getbuffer() as content:
                pages.append(_pages_of_last_column(content, begin, len(table), page_losses))
        footer = {
            "tokens": num_tokens,
            "steps": len(steps),
            "seeds": len(seeds),
            "group_losses": tokens_per_group * rows_per_token,
            "page_losses": page_losses,
        }
        index = base64.b64encode(np.concatenate(pages).tobytes())  # other readers take metadata for text
        writer.add_key_value_metadata({FOOTER_KEY: json.dumps(footer), PAGES_KEY: index})
    return pa.py_buffer(sink.getbuffer())


class TokenFile:
    """Random access to a file's losses, `shape` (tokens, steps, seeds). Keeps its index, 16 bytes a page, in memory.

    FileNotFoundError: it is gone. OSError: it is damaged.
    """

    def __init__(self, storage: Storage, name: str, shape: tuple[int, int, int]):
        self.storage, self.name, self.shape = storage, name, shape
        self.codec = pa.Codec("zstd")
        tail = storage.read_tail(name, FOOTER_GUESS_BYTES)
        if len(tail) == FOOTER_GUESS_BYTES < footer_bytes(tail):
            tail = storage.read_tail(name, footer_bytes(tail))
        try:
            metadata = pq.read_metadata(pa.BufferReader(tail)).metadata
            footer = json.loads(metadata[FOOTER_KEY])
            self.pages = np.frombuffer(base64.b64decode(metadata[PAGES_KEY]), PAGE)
            if shape != tuple(footer[axis] for axis in ("tokens", "steps", "seeds")):
                raise ValueError
            groups = range(0, math.prod(shape), footer["group_losses"])
            self.starts = np.concatenate(
                [np.arange(g, min(g + groups.step, groups.stop), footer["page_losses"]) for g in groups]
            )
        except (pa.ArrowException, OSError, ValueError, KeyError, TypeError):
            raise self._damaged("its footer") from None
        if len(self.pages) != len(self.starts):
            raise self._damaged("the index of its pages")
        self.ends = np.append(self.starts[1:], groups.stop)

    def losses(self, tokens: np.ndarray, steps: np.ndarray) -> np.ndarray:
        """float32 (tokens, steps, all seeds) at these places along the file's axes."""
        _, num_steps, num_seeds = self.shape
        rows = np.add.outer(tokens * num_steps, steps).reshape(-1)
        wanted, inverse = rows, None
        if not (np.diff(rows) > 0).all():
            wanted, inverse = np.unique(rows, return_inverse=True)
        found = np.empty((len(wanted), num_seeds), np.float32)
        breaks = np.flatnonzero(np.diff(wanted) != 1) + 1
        runs = np.append(0, breaks), np.append(breaks, len(wanted))
        self._fill(found.reshape(-1), wanted[runs[0]] * num_seeds, runs[0] * num_seeds, runs[1] * num_seeds)
        if inverse is not None:
            found = found[inverse]
        return found.reshape(len(tokens), len(steps), num_seeds)

    def _fill(self, found: np.ndarray, firsts: np.ndarray, begins: np.ndarray, ends: np.ndarray) -> None:
        """Puts the file's losses from number firsts[i] on into found[begins[i] : ends[i]], for each i, ascending."""
        first_page = np.searchsorted(self.starts, firsts, side="right") - 1
        num_pages = np.searchsorted(self.starts, firsts + ends - begins, side="left") - first_page
        run = np.repeat(np.arange(len(firsts)), num_pages)
        page = np.arange(len(run)) - np.repeat(np.cumsum(num_pages) - num_pages - first_page, num_pages)
        begin = np.maximum(firsts[run], self.starts[page])
        end = np.minimum(firsts[run] + (ends - begins)[run], self.ends[page])
        columns = page, begin - self.starts[page], end - self.starts[page], begins[run] + begin - firsts[run]
        pieces = zip(*(column.tolist() for column in columns), strict=True)
        as_bytes = found.view(np.uint8).reshape(-1, 4)
        pages = self._pages(np.unique(page))
        last, streams = -1, np.empty((4, 0), np.uint8)
        for number, low, high, at in pieces:
            if number != last:
                last, streams = number, next(pages)
            for byte, stream in enumerate(streams):  # strided copies: twice as fast as one of the transpose
                as_bytes[at : at + high - low, byte] = stream[low:high]

    def _pages(self, pages: np.ndarray) -> Iterator[np.ndarray]:
        """Of each of these pages, ascending: uint8 (4, its losses), the first bytes of all, the second ones, ...

        They are read in few pieces: what lies between near ones is read and left out. Frames of zstd one after another
        are decompressed by one call: pyarrow makes a context for each, which takes longer than most pages.
        """
        offsets = self.pages["offset"][pages]
        stops = offsets + self.pages["num_bytes"][pages]
        counts = (self.ends - self.starts)[pages]
        far = (offsets[1:] - stops[:-1] > GAP_BYTES) | (np.diff(offsets // PIECE_BYTES) > 0)
        edges = np.concatenate([[0], np.flatnonzero(far) + 1, [len(pages)]])
        for piece in range(0, len(edges) - 1, PIECES_AT_ONCE):
            some = edges[piece : piece + PIECES_AT_ONCE + 1]
            begins = offsets[some[:-1]]
            ranges = list(zip(begins.tolist(), (stops[some[1:] - 1] - begins).tolist(), strict=True))
            views = [memoryview(content) for content in self.storage.read_ranges(self.name, ranges)]
            here = slice(some[0], some[-1])
            of_piece = np.repeat(np.arange(len(views)), np.diff(some))
            bounds = of_piece, offsets[here] - begins[of_piece], stops[here] - begins[of_piece]
            frames = [views[i][low:high] for i, low, high in zip(*(b.tolist() for b in bounds), strict=True)]
            for number, crc32, frame in zip(
                pages[here], self.pages["crc32"][pages[here]].tolist(), frames, strict=True
            ):
                if zlib.crc32(frame) != crc32:
                    raise self._damaged(f"CRC of page {number}")
            num_bytes = 4 * counts[here]
            content = np.frombuffer(self.codec.decompress(b"".join(frames), int(num_bytes.sum())), np.uint8)
            for count, end in zip(counts[here].tolist(), np.cumsum(num_bytes).tolist(), strict=True):
                yield content[end - 4 * count : end].reshape(4, count)

    def _damaged(self, what: str) -> OSError:
        return OSError(
            f"{self.storage.path(self.name)} is damaged ({what}); the seeds are not: delete the folder "
            f"{self.storage.path('tokens')}, and run discreteness compact"
        )


def _pages_of_last_column(content: memoryview, begin: int, num_rows: int, page_losses: int) -> np.ndarray:
    """Index of the last column's pages in the row group that was just written from `begin` to the end."""
    columns: list[list[tuple[int, int, int]]] = [[]]
    seen, at = 0, begin
    while at < len(content):
        at, header = _thrift_struct(content, at)
        if 5 in header:  # a data page; the others are dictionaries
            if seen == num_rows:
                columns.append([])
                seen = 0
            seen += header[5][1]
            columns[-1].append((at, header[3], header[4] & 0xFFFFFFFF))
        at += header[3]
    assert len(columns) == len(TOKENS) and len(columns[-1]) == -(-num_rows // page_losses), (
        "pyarrow wrote other pages than it was asked for"
    )
    return np.array(columns[-1], PAGE)


def _thrift_struct(content: memoryview, at: int) -> tuple[int, dict[int, Any]]:
    """A struct in Thrift's compact protocol, as a page's header is: where it ends, and its fields by number."""
    fields: dict[int, Any] = {}
    number = 0
    while head := content[at]:
        at += 1
        kind = head & 15
        if head >> 4:
            number += head >> 4
        else:
            at, number = _thrift_integer(content, at)
        if kind in (1, 2):
            fields[number] = kind == 1
        elif kind in (4, 5, 6):
            at, fields[number] = _thrift_integer(content, at)
        elif kind == 8:
            at, length = _thrift_varint(content, at)
            at += length
        elif kind == 12:
            at, fields[number] = _thrift_struct(content, at)
        else:
            raise AssertionError(f"a page header has a field of kind {kind}")
    return at + 1, fields


def _thrift_varint(content: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = content[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return at, value


def _thrift_integer(content: memoryview, at: int) -> tuple[int, int]:
    at, value = _thrift_varint(content, at)
    return at, (value >> 1) ^ -(value & 1)
