"""A dataset -> the tokens of all its documents in one answer: what the page searches, and the context of each token."""

from typing import Any

from discreteness.dataset.reader import Dataset


def words(dataset: Dataset) -> dict[str, Any]:
    """Per document, in the dataset's order: `texts` of all tokens, BOS first; the places of those that are `answers`
    and of those that are `unknown`, without a row of their own; and by place the `bytes`, in hex, of those that are
    not whole characters.
    """
    return {"documents": [_words_of(dataset, document.doc_id) for document in dataset.documents]}


def _words_of(dataset: Dataset, doc_id: int) -> dict[str, Any]:
    table = dataset.tokens(doc_id)
    texts = table["token_text"].to_pylist()
    return {
        "texts": texts,
        "answers": [place for place, answer in enumerate(table["answer"].to_pylist()) if answer],
        "unknown": [place for place, known in enumerate(table["in_vocabulary"].to_pylist()) if not known],
        "bytes": {
            str(place): table["token_bytes"][place].as_py().hex()
            for place, text in enumerate(texts)
            if "\ufffd" in text
        },
    }
