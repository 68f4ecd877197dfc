"""Groups of tokens: which values are together, and what a group's curves say, by hand."""

from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from discreteness.analysis.groups import MAX_GROUPS, groups_by, known_of_tokens, table_of
from discreteness.dataset import reader
from discreteness.experiment.annotate import annotate
from tests.support.dataset_case import commit, create

NAN = float("nan")


def fits_of(doc_ids, is_drop, times, final):
    return pa.table({"doc_id": doc_ids, "is_drop": is_drop, "time": times, "final_loss": final})


def test_a_group_has_the_curves_of_its_tokens_in_every_seed():
    """Three tokens in two seeds: token 1's drops at updates 4 and 16, one of token 2's curves at 32."""
    fits = fits_of([0] * 6, [True, True, False, True, False, False], [4, 16, NAN, 32, NAN, NAN], [1, 3, 0, 0, 5, 6])
    known = pa.table({"doc_id": [0] * 3, "token_index": [1, 2, 3], "answer": [True, False, False]})
    no, yes = groups_by(fits, known, "answer")
    assert (no.name, no.tokens, no.drops.value, no.octave.value) == ("no", 2, 0.25, 5)
    assert (yes.name, yes.tokens, yes.drops.value, yes.octave.value) == ("yes", 1, 1, 3)
    assert (no.final_loss.value, yes.final_loss.value) == (11 / 4, 2)
    head, first, second = table_of("answer", [no, yes]).splitlines()
    assert head.split()[:2] == ["answer", "tokens"]
    assert first.split() == ["no", "2", "25", "%", "32", "2.75"]
    assert second.split() == ["yes", "1", "100", "%", "8", "2.00"]


def test_intervals_are_over_documents():
    documents = np.repeat(np.arange(10), 6)
    fits = fits_of(documents, documents % 2 == 0, np.full(60, 8.0), np.zeros(60))
    known = pa.table({"doc_id": documents, "token_index": [1] * 60, "category": ["all"] * 60})
    (group,) = groups_by(fits, known, "category")
    assert group.drops.low == 0.2 and group.drops.high == 0.8  # two of ten documents, or eight
    assert group.octave.value == group.octave.low == group.octave.high == 3


@given(st.lists(st.one_of(st.none(), st.integers(-50, 50)), min_size=1, max_size=80))
def test_numbers_are_cut_into_few_groups_in_their_order_and_equal_ones_stay_together(values):
    number = pa.array(values, pa.int64())
    known = pa.table({"doc_id": [0] * len(values), "token_index": [1] * len(values), "number": number})
    fits = fits_of([0] * len(values), [False] * len(values), [NAN] * len(values), [0.0] * len(values))
    there = [value for value in values if value is not None]
    if not there:
        with pytest.raises(ValueError, match="not known of any token"):
            groups_by(fits, known, "number")
        return
    groups = groups_by(fits, known, "number")
    assert sum(group.tokens for group in groups) == len(values)
    if None in values:
        assert groups[-1].name == "not known" and groups.pop().tokens == values.count(None)
    bounds = [tuple(map(int, group.name.split(" to "))) for group in groups]
    assert 1 <= len(groups) <= MAX_GROUPS and bounds == sorted(bounds)
    for (low, high), group in zip(bounds, groups, strict=True):
        assert group.tokens == sum(low <= value <= high for value in there)
        assert low in there and high in there
    assert all(left[1] < right[0] for left, right in pairwise(bounds))


def test_what_tokens_can_be_grouped_by(tmp_path):
    commit(create(tmp_path), 0)
    dataset = reader.open(tmp_path)
    known = known_of_tokens(dataset)
    assert known.column_names == ["doc_id", "token_index", "document", "category", "answer", "position"]
    assert known["document"].to_pylist() == ["a.txt"] * 3 + ["b.txt"] + ["c"] * 2
    fits = fits_of([0, 0, 0, 1, 4, 4], [False] * 6, [NAN] * 6, [0.0] * 6)
    with pytest.raises(ValueError, match=r"--by colour: .*there are document, category, answer, position; `discreten"):
        groups_by(fits, known, "colour")
    annotate(tmp_path)
    known = known_of_tokens(dataset)
    assert [group.name for group in groups_by(fits, known, "repeated")] == ["no"]
    with pytest.raises(ValueError, match=r"--by count: it is not known of any token: this dataset was not trained"):
        groups_by(fits, known, "count")
