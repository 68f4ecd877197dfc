"""A text is found where whole tokens spell it, and nowhere else."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from discreteness.dataset import reader
from discreteness.dataset.find import Match, matches
from discreteness.dataset.manifest import documents_table
from tests.support.dataset_case import STEPS, Text, create, losses, records
from tests.support.faulty_filesystem import object_storage

WORDS = [b"<|endoftext|>", b" Par", b"is", b" Paris", b"Paris", b" is", b"\xc3", b"\xa9", b"aa", b"a"]


def document(doc_id, *words):
    ids = [WORDS.index(word.encode() if isinstance(word, str) else word) for word in words]
    return Text(doc_id=doc_id, name=f"{doc_id}.txt", category="", token_ids=(0, *ids))


DOCUMENTS = [
    document(0, " Paris", " is", " Par", "is"),
    document(3, "Paris", b"\xc3", b"\xa9", b"\xc3", "aa", "a", "aa"),
]


@pytest.fixture(scope="module")
def dataset():
    storage = object_storage()
    writer = create(storage, documents=DOCUMENTS, token_bytes=WORDS.__getitem__)
    writer.commit(0, "one", np.array(STEPS), losses(0, STEPS, 11), records())
    return reader.open(storage)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (" Paris", [(0, 1, 2), (0, 3, 5)]),
        ("Paris", [(3, 1, 2)]),
        ("is", [(0, 4, 5)]),
        (" Par", [(0, 3, 4)]),
        ("Par", []),
        (" paris", []),
        (" Paris is Paris", [(0, 1, 5)]),
        ("\u00e9", [(3, 2, 4)]),
        ("aaa", [(3, 5, 7), (3, 6, 8)]),
        ("<|endoftext|>", []),
        ("nowhere", []),
    ],
)
def test_matches_are_runs_of_whole_tokens(dataset, text, found):
    expected = [Match(f"{doc_id}.txt", range(start, stop)) for doc_id, start, stop in found]
    assert dataset.find(text) == expected
    for match in expected:
        array = dataset.losses(match.document, token=match.tokens)
        assert array.shape == (1, len(STEPS), len(match.tokens))
    assert dataset.find(text, doc=3) == [match for match in expected if match.document == "3.txt"]


def test_an_empty_text_and_a_document_that_is_not_there_are_refused(dataset):
    with pytest.raises(ValueError, match="'' is an empty text"):
        dataset.find("")
    with pytest.raises(ValueError, match="no document 1"):
        dataset.find("a", doc=1)


@given(st.lists(st.sampled_from(["a", "aa", " is", "is", " Par"]), min_size=1, max_size=12), st.data())
def test_every_run_of_tokens_is_found_and_every_match_spells_its_text(words, data):
    rows = documents_table([document(0, *words)], WORDS.__getitem__, None)
    start = data.draw(st.integers(0, len(words) - 1))
    stop = data.draw(st.integers(start + 1, len(words)))
    text = "".join(words[start:stop])
    expected = [
        range(a + 1, b + 1)
        for a in range(len(words))
        for b in range(a + 1, len(words) + 1)
        if "".join(words[a:b]) == text
    ]
    found = [match.tokens for match in matches(text, rows)]
    assert found == expected and range(start + 1, stop + 1) in found
