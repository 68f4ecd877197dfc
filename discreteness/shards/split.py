"""tokens of documents, as they come -> the same with long documents cut into pieces, each a document of its own."""

import numpy as np
from speedrun.data.shards import BOS


class Splitter:
    """Cuts every document of more than `max_tokens` tokens, BOS included, and puts BOS in front of each further piece.

    No token is lost, and all pieces of a document but its last have `max_tokens`. Training reads no more of a document
    than its track's longest (`max_document_tokens`): what lies behind that would never be seen.
    """

    def __init__(self, max_tokens: int):
        """Raises ValueError unless a piece can hold BOS and a token."""
        if max_tokens < 2:
            raise ValueError(f"--max-document-tokens {max_tokens}: give 2 or more, as each document begins with a mark")
        self.max_tokens = max_tokens
        self.documents = self.long_documents = self.further_pieces = 0
        self._in_piece = 0
        self._document_is_long = False

    def split(self, tokens: np.ndarray) -> np.ndarray:
        """The next tokens (n,), uint16 -> with a BOS wherever a piece is full. A document may go on in the next
        call."""
        starts = np.flatnonzero(tokens == BOS)
        ends = np.append(starts[1:], len(tokens))[: len(starts)]
        cuts = [self._cuts(0, int(starts[0]) if len(starts) else len(tokens))]  # the rest of the document before
        for number in np.flatnonzero((ends - starts > self.max_tokens) | (ends == len(tokens))):
            self._in_piece, self._document_is_long = 0, False
            cuts.append(self._cuts(int(starts[number]), int(ends[number])))
        self.documents += len(starts)
        at = np.concatenate(cuts)
        return np.insert(tokens, at, BOS) if len(at) else tokens

    def _cuts(self, first: int, end: int) -> np.ndarray:
        """Where tokens [first, end) of the document at hand need a BOS in front."""
        at = np.arange(first + self.max_tokens - self._in_piece, end, self.max_tokens - 1)
        self._in_piece = end - int(at[-1]) + 1 if len(at) else self._in_piece + end - first
        self.long_documents += bool(len(at)) and not self._document_is_long
        self.further_pieces += len(at)
        self._document_is_long |= bool(len(at))
        return at
