"""Seeds, steps and tokens are chosen by value as NumPy indexes the whole array; what is not a choice is refused."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from discreteness.dataset import reader
from discreteness.dataset.by_token.compaction import compact
from discreteness.dataset.choice import choose
from tests.support.dataset_case import STEPS, commit, create, losses
from tests.support.faulty_filesystem import object_storage

SEEDS = [0, 1, 2, 5]
WHOLE = np.stack([losses(seed) for seed in SEEDS])[:, :, :3]
"""[seeds, steps, tokens] of a.txt."""


@pytest.fixture(scope="module", params=["committed", "compacted"])
def dataset(request):
    storage = object_storage()
    writer = create(storage)
    for seed in SEEDS:
        commit(writer, seed)
    if request.param == "compacted":
        compact(storage)
    return reader.open(storage)


def places(wanted, there):
    """What NumPy's index of that axis would be: a place for a number, places for anything else."""
    if wanted is None:
        return np.arange(len(there))
    if isinstance(wanted, slice):
        low, high = wanted.start or 0, 2**40 if wanted.stop is None else wanted.stop
        return np.flatnonzero([low <= number < high for number in there])
    if isinstance(wanted, (int, np.integer)):
        return there.index(wanted)
    return np.array([there.index(number) for number in wanted])


def choices(there):
    """Everything that may be asked for along an axis."""
    number = st.sampled_from(there)
    end = st.none() | st.integers(0, there[-1] + 3)
    runs = [range(a, b) for a in there for b in range(a + 1, there[-1] + 2) if set(range(a, b)) <= set(there)]
    several = st.lists(number, min_size=1, max_size=5)
    return st.one_of(
        st.none(),
        number,
        number.map(np.int32),
        several,
        several.map(tuple),
        several.map(np.array),
        st.sampled_from(runs),
        st.builds(slice, end, end).filter(lambda part: places(part, there).size),
    )


@given(choices([1, 2, 3]), choices(SEEDS), choices(list(STEPS)))
def test_every_choice_gives_what_numpys_index_gives(dataset, token, seeds, steps):
    expected = WHOLE
    for axis, (wanted, there) in enumerate(((seeds, SEEDS), (steps, list(STEPS)), (token, [1, 2, 3]))):
        lost = WHOLE.ndim - expected.ndim
        expected = np.take(expected, places(wanted, there), axis=axis - lost)  # a number drops the axis
    found = dataset.losses("a.txt", token=token, seeds=seeds, steps=steps)
    assert found.dtype == np.float32 and found.shape == expected.shape and np.array_equal(found, expected)
    table = dataset.table("a.txt", token=token, seeds=seeds, steps=steps)
    axes = [axis for axis, wanted in enumerate((seeds, steps, token)) if not isinstance(wanted, (int, np.integer))]
    by_rows = np.expand_dims(expected, [axis for axis in range(3) if axis not in axes]).transpose(2, 1, 0)
    assert np.array_equal(table["loss"].to_numpy(), by_rows.reshape(-1))


@given(choices(SEEDS), choices(list(STEPS)))
def test_means_pieces_and_xarray_choose_in_the_same_way(dataset, seeds, steps):
    at, to = places(seeds, SEEDS), places(steps, list(STEPS))
    means = dataset.mean_curves(seeds)
    assert np.array_equal(means[0], WHOLE.mean(2, np.float64)[at])
    expected = WHOLE[at][..., to, :]
    document, tokens, piece = next(iter(dataset.blocks(seeds=seeds, steps=steps)))
    assert (document.name, tokens.tolist()) == ("a.txt", [1, 2, 3]) and np.array_equal(piece, expected)
    array = dataset.to_xarray("a.txt", seeds=seeds, steps=steps)
    assert np.array_equal(array.values, expected)
    assert np.array_equal(array.seed.values, np.array(SEEDS)[at]) and np.array_equal(
        array.step.values, np.array(STEPS)[to]
    )


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        (True, "True does not choose a seed: give a number, or a list, range or slice"),
        (1.0, "1.0 does not choose a seed"),
        (np.float32(1), "1.0"),
        ("0", "'0' does not choose a seed"),
        ({0, 1}, "{0, 1} does not choose a seed"),
        (np.zeros((2, 2), int), "does not choose a seed"),
        ([0, 1.5], "1.5 is not a seed: give a whole number"),
        ([0, False], "False is not a seed"),
        (np.array([True, False]), "True"),
        (["0"], "'0' is not a seed"),
        ([], "[] chooses no seed; leave it out to get every seed"),
        (range(0), "range(0, 0) chooses no seed"),
        (np.array([], int), "chooses no seed"),
        (3, "there is no seed 3; there are 0, 1, 2, 5"),
        (-1, "there is no seed -1"),
        (range(4), "there is no seed 3"),
        (slice(3, 5), "there is no seed in slice(3, 5, None); there are 0, 1, 2, 5"),
        (slice(-2, None), "slice(-2, None, None) counts from the end"),
        (slice(0, 5, 2), "slice(0, 5, 2) has a stride"),
        (slice(0, 1.5), "1.5 is not a seed"),
    ],
)
def test_what_is_no_choice_is_refused_with_its_value(wanted, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        choose("seed", wanted, SEEDS)


@pytest.mark.parametrize("axis", ["token", "seeds", "steps"])
def test_every_axis_of_losses_refuses_it(dataset, axis):
    name = axis.rstrip("s")
    for wanted, message in (
        (1.5, f"1.5 does not choose a {name}"),
        (True, f"True does not choose a {name}"),
        ("0", f"'0' does not choose a {name}"),
        ([], f"[] chooses no {name}; leave it out to get every {name}"),
        (slice(900, None), f"there is no {name} in slice(900, None, None)"),
    ):
        with pytest.raises(ValueError, match=re.escape(message)):
            dataset.losses("a.txt", **{axis: wanted})
