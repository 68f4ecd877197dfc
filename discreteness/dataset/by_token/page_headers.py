"""a Parquet file -> where the pages of its last column are, which pyarrow does not say.

Each page begins with a header, a struct in Thrift's compact protocol; only what such a header holds is understood here.
"""

from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq


def pages_of_last_column(content: memoryview) -> list[tuple[int, int, int]]:
    """(offset of the content, its bytes, its CRC-32) of each page of the last column, row group by row group."""
    pages = []
    metadata = pq.read_metadata(pa.BufferReader(content))
    for group in range(metadata.num_row_groups):
        column = metadata.row_group(group).column(metadata.num_columns - 1)
        at = column.data_page_offset
        end = at + column.total_compressed_size
        while at < end:
            at, header = _thrift_struct(content, at)
            pages.append((at, header[3], header[4] & 0xFFFFFFFF))
            at += header[3]
    return pages


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
