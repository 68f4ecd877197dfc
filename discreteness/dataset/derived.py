"""dataset -> what is wrong with the files that no loss needs: tables of its analysis, and kept weights."""

import json
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from discreteness.dataset.paths import WEIGHTS_FILE, WEIGHTS_FOLDER
from discreteness.dataset.seed_file import one_line
from discreteness.dataset.storage import Storage

ANALYSIS_FOLDER = "analysis"


def problems_of_analysis(storage: Storage) -> Iterator[str]:
    """Tables and numbers that are not whole."""
    for info in storage.list(ANALYSIS_FOLDER):
        name = f"{ANALYSIS_FOLDER}/{info.base_name}"
        try:
            if name.endswith(".parquet"):
                pq.ParquetFile(pa.BufferReader(storage.read(name)), page_checksum_verification=True).read()
            elif name.endswith(".json"):
                json.loads(storage.read(name))
        except (pa.ArrowException, OSError, ValueError, RecursionError) as error:
            yield f"{name}: cannot be read ({one_line(error)}); run: discreteness analyze {storage.uri}"


def problems_of_weights(storage: Storage) -> Iterator[str]:
    """Kept weights that were cut short. The format has no checksum, so a changed byte of a weight is not seen."""
    for info in storage.list(WEIGHTS_FOLDER, recursive=True):
        name = info.path.removeprefix(storage.path(""))
        if WEIGHTS_FILE.fullmatch(name) and (found := info.size) != (expected := _num_bytes(storage, name)):
            yield (
                f"{name}: has {found} bytes, expected {expected or 'a header that says how many'}; delete it: these "
                "weights come again only where their seed is trained again"
            )


def _num_bytes(storage: Storage, name: str) -> int | None:
    """Length of a safetensors file as its header says it; None if there is no such header."""
    with storage.open(name) as file:
        return safetensors_bytes(file, file.size())


def safetensors_bytes(file: Any, num_bytes: int) -> int | None:
    """The same of an open file that has `num_bytes`."""
    header = file.read(min(int.from_bytes(file.read(8), "little"), num_bytes))
    try:
        tensors = json.loads(header)
        return 8 + len(header) + max(tensor["data_offsets"][1] for key, tensor in tensors.items() if key != METADATA)
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return None


METADATA = "__metadata__"
"""Key of the header that is not a tensor."""
