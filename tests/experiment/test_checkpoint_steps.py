"""Seed and checkpoint expressions."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from discreteness.experiment.checkpoint_steps import parse_checkpoints
from discreteness.experiment.seeds import parse_seeds


def test_seed_expressions():
    assert parse_seeds("0-3") == (0, 1, 2, 3)
    assert parse_seeds("7") == (7,)
    assert parse_seeds("0-2, 9,1,20-21") == (0, 1, 2, 9, 20, 21)


def test_the_largest_seed_and_the_most_seeds():
    assert parse_seeds("2147483647") == (2**31 - 1,)
    with pytest.raises(ValueError, match="2147483648 does not fit an int32"):
        parse_seeds("2147483647-2147483648")
    assert len(parse_seeds("0-999999")) == 1_000_000
    for text in "0-1000000", "0-999999,1000000":
        with pytest.raises(ValueError, match="more than 1000000 seeds"):
            parse_seeds(text)


@pytest.mark.parametrize("seed", [2**31, 2**63, 10**3000])
def test_a_seed_that_is_too_large_is_told_the_limit(seed):
    with pytest.raises(ValueError, match=f": {seed} does not fit an int32; give seeds up to 2147483647$"):
        parse_seeds(f"0-{seed}")


@pytest.mark.parametrize("text", ["", "a", "3-1", "1-", "-1", "1,,2", "1.5", "0-99999999", "4294967296", "٣"])
def test_bad_seed_expressions_name_the_text(text):
    with pytest.raises(ValueError) as error:
        parse_seeds(text)
    assert "--seeds" in str(error.value)
    assert repr(text) in str(error.value)


@given(st.text(max_size=20))
def test_any_text_gives_ascending_seeds_or_a_named_error(text):
    try:
        seeds = parse_seeds(text)
    except ValueError as error:
        assert "--seeds" in str(error)
    else:
        assert list(seeds) == sorted(set(seeds)) != []


def test_plans_have_the_first_and_the_last_step():
    assert parse_checkpoints("1", 360) == (0, 1, 360)
    assert (
        parse_checkpoints("360", 360)
        == parse_checkpoints("every:360", 360)
        == parse_checkpoints("every:1000", 360)
        == (0, 360)
    )
    with pytest.raises(ValueError, match="step 361 is past the last step 360"):
        parse_checkpoints("5,361", 360)
    assert parse_checkpoints("every:100", 360) == (0, 100, 200, 300, 360)
    assert parse_checkpoints("5,50", 360) == (0, 5, 50, 360)
    assert parse_checkpoints("log:2", 360) == (0, 360)
    assert parse_checkpoints("log:5", 16) == (0, 1, 3, 6, 16)  # 1, 2.52, 6.35, 16 rounded


def test_log_300_of_the_small_track_begins_with_81_consecutive_steps():
    plan = parse_checkpoints("log:300", 1840)
    assert len(plan) == 300
    assert plan[:82] == (*range(81), 82)
    assert plan[-1] == 1840


def test_min_gap_thins_the_dense_start_only():
    assert parse_checkpoints("log:100,min-gap:3", 12) == (0, 3, 6, 9, 12)
    assert parse_checkpoints("log:100,min-gap:5", 12) == (0, 5, 10, 12), "the last stays, however near"
    plan = parse_checkpoints("log:100,min-gap:5", 1840)
    gaps = [later - earlier for earlier, later in itertools.pairwise(plan)]
    assert min(gaps[:-1]) >= 5
    assert set(plan) <= set(parse_checkpoints("log:100", 1840))


@given(st.integers(2, 3000), st.integers(1, 2000))
def test_log_plans_have_exactly_the_count_where_there_are_steps(count, last):
    plan = parse_checkpoints(f"log:{count}", last)
    assert len(plan) == min(count, last + 1)
    assert plan[0] == 0
    assert plan[-1] == last
    assert list(plan) == sorted(set(plan))


@pytest.mark.parametrize(
    "text", ["", "log", "log:1", "every:0", "every:-1", "lag:3", "1,2,9999", "log:5,min-gap:0", "1 2"]
)
def test_bad_plans_name_the_text(text):
    with pytest.raises(ValueError) as error:
        parse_checkpoints(text, 360)
    assert "--checkpoints" in str(error.value)
    assert repr(text) in str(error.value)
