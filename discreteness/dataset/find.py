"""text + the tokens of documents -> where the text stands: the runs of whole tokens that spell it."""

from dataclasses import dataclass

import pyarrow as pa


@dataclass(frozen=True)
class Match:
    """Consecutive tokens that spell a text.

    `document`: its name. `tokens`: token_index of documents.parquet, which `Dataset.losses` takes as `token`.
    """

    document: str
    tokens: range


def matches(text: str, rows: pa.Table) -> list[Match]:
    """`rows` of documents.parquet, of one document. In the order of the text; they may overlap. The first token is BOS,
    or has no loss either, so it is left out.

    Bytes are compared, exactly: case and spaces count, and a character of several tokens is found. A text that begins
    or ends inside a token does not match. Raises ValueError if `text` is empty.
    """
    wanted = text.encode()
    if not wanted:
        raise ValueError("'' is an empty text, which stands everywhere; give the text of a token or of several")
    contents = rows["token_bytes"].to_pylist()[1:]
    token_at, whole = {}, b"".join(contents)
    position = 0
    for token, content in enumerate(contents, 1):
        token_at[position] = token
        position += len(content)
    token_at[position] = len(contents) + 1
    (name,) = rows["name"].unique().to_pylist()
    found, start = [], whole.find(wanted)
    while start >= 0:
        end = start + len(wanted)
        if start in token_at and end in token_at:
            found.append(Match(name, range(token_at[start], token_at[end])))
        start = whole.find(wanted, start + 1)
    return found
