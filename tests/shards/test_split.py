"""Long documents cut into pieces: whatever the portions in which their tokens come, no token is lost."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from speedrun.data.shards import BOS

from discreteness.shards.split import Splitter


def pieces_of(document, most):
    """Said once more: BOS and at most `most` - 1 tokens, until nothing is left."""
    return [[BOS, *document[at : at + most - 1]] for at in range(0, max(len(document), 1), most - 1)]


@given(
    documents=st.lists(st.lists(st.integers(0, 9), max_size=30), min_size=1, max_size=12),
    most=st.integers(2, 12),
    portions=st.lists(st.integers(0, 60), max_size=12),
)
def test_every_document_becomes_its_pieces(documents, most, portions):
    tokens = np.array([token for document in documents for token in (BOS, *document)], np.uint16)
    splitter = Splitter(most)
    parts = [splitter.split(part) for part in np.split(tokens, np.sort(np.clip(portions, 0, len(tokens))))]
    expected = [pieces_of(document, most) for document in documents]
    assert np.concatenate(parts).tolist() == [token for pieces in expected for piece in pieces for token in piece]
    assert {part.dtype for part in parts} == {np.dtype(np.uint16)}
    assert splitter.documents == len(documents)
    assert splitter.long_documents == sum(len(pieces) > 1 for pieces in expected)
    assert splitter.further_pieces == sum(len(pieces) - 1 for pieces in expected)


def test_a_piece_holds_a_token_at_least():
    with pytest.raises(ValueError, match="--max-document-tokens 1: give 2 or more"):
        Splitter(1)
