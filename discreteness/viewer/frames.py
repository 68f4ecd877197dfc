"""numbers and named arrays -> the bytes of one answer, which page/api.js takes apart without a copy.

A frame: uint32 length of the head (little-endian), the head as JSON, filled with spaces to a multiple of 4, the
arrays. The head is {"meta": {...}, "arrays": {name: {"dtype": "float32" | "int32", "shape": [...], "offset":
bytes after the head}}}.
"""

import json
import struct
from typing import Any

import numpy as np

DTYPES = {"float32": "<f4", "int32": "<i4"}
"""Four bytes each, so that every array is aligned if the first is."""


def frame(meta: dict[str, Any], **arrays: np.ndarray) -> bytes:
    """Raises ValueError if an array is neither float32 nor int32 and would have to be converted."""
    described, offset = {}, 0
    for name, array in arrays.items():
        if array.dtype.name not in DTYPES:
            raise ValueError(f"{name} is {array.dtype.name}; a frame holds {' and '.join(DTYPES)}")
        described[name] = {"dtype": array.dtype.name, "shape": array.shape, "offset": offset}
        offset += array.nbytes
    head = json.dumps({"meta": meta, "arrays": described}, allow_nan=False).encode()
    head += b" " * (-len(head) % 4)
    parts = [struct.pack("<I", len(head)), head]
    parts += [np.ascontiguousarray(array, DTYPES[array.dtype.name]).tobytes() for array in arrays.values()]
    return b"".join(parts)
