"""the losses of an evaluator and of a trainer -> None, or in words where they first differ.

Apart from what computes losses: the dispatcher compares them and needs no torch for it.
"""

from collections.abc import Sequence

import numpy as np

from discreteness.experiment.documents import Document


def first_difference(ours: np.ndarray, theirs: np.ndarray, documents: Sequence[Document]) -> str | None:
    """None if two loss vectors are bitwise equal; else the document, token and both values of the first difference, in
    words. NaN equals NaN of the same bits."""
    different = np.flatnonzero(ours.view(np.uint32) != theirs.view(np.uint32))
    if not len(different):
        return None
    index = first = int(different[0])
    for document in documents:
        length = len(document.token_ids) - 1
        if index < length:
            return (
                f"document {document.name} token {index + 1}: {ours[first]!r} != {theirs[first]!r} "
                f"({len(different)} of {len(ours)} losses differ)"
            )
        index -= length
    raise AssertionError("the losses are longer than the documents")
