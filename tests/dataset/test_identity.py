"""What must match to continue an experiment, and how a difference is named."""

import dataclasses
import math

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from discreteness.dataset.identity import (
    ABSENT,
    as_plain,
    differing_fields,
    identity_hash,
    only_sources,
)

values = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.floats(-2, 2) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=8,
)
patient = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
identities = st.dictionaries(st.sampled_from(["track", "plan", "sources"]), values, max_size=3)


@patient
@given(identities, identities)
def test_fields_differ_exactly_when_hashes_do(old, new):
    assert bool(differing_fields(old, new)) == (identity_hash(old) != identity_hash(new))


@patient
@given(identities)
def test_hash_survives_json_and_the_order_of_keys(identity):
    assert identity_hash(as_plain(identity)) == identity_hash(identity)
    assert identity_hash(dict(reversed(identity.items()))) == identity_hash(identity)


def test_dataclasses_and_tuples_become_plain_values():
    @dataclasses.dataclass(frozen=True)
    class Track:
        name: str
        windows: tuple[int, ...]

    assert as_plain({"track": Track("tiny", (3, 7)), "fp8": False}) == {
        "track": {"name": "tiny", "windows": [3, 7]},
        "fp8": False,
    }


@pytest.mark.parametrize("value", [math.nan, math.inf, object(), frozenset({1})])
def test_a_value_that_json_cannot_express_is_refused(value):
    with pytest.raises((ValueError, TypeError)):
        identity_hash({"track": value})


def test_differing_fields_are_dotted_and_hold_both_values():
    old = {"track": {"lr": 0.5, "windows": [3, 7]}, "data": [{"tokens": 1}, {"tokens": 2}], "gone": 1}
    new = {"track": {"lr": 0.25, "windows": [3, 8]}, "data": [{"tokens": 1}, {"tokens": 3}], "come": None}
    assert differing_fields(old, new) == [
        ("come", ABSENT, None),
        ("data.1.tokens", 2, 3),
        ("gone", 1, ABSENT),
        ("track.lr", 0.5, 0.25),
        ("track.windows", [3, 7], [3, 8]),
    ]
    assert [name for name, _, _ in differing_fields({"a": 1, "b": True}, {"a": 1.0, "b": 1})] == ["a", "b"]


def test_only_a_lone_change_of_sources_is_one():
    lone = [("sources", "aa", "bb")]
    assert only_sources(lone)
    assert not only_sources([*lone, ("world_size", 8, 4)])
    assert not only_sources([])
