"""What seeds share: matched drops, components of learning times, co-movement, two groups; by hand and on planted times.

How often each is right on planted data is measured by benchmarks/across_seeds.py.
"""

import dataclasses
import json

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from benchmarks.across_seeds import (
    TRUE_SD,
    alone,
    draw_components,
    fast_seed,
    heavy_tails,
    independent,
    noisy_seed,
    two_moving,
)
from benchmarks.planted import sigmoid
from discreteness.analysis import comovement, distributions
from discreteness.analysis.across_seeds import across_seeds, learned, medians, spread
from discreteness.analysis.categories import between_categories
from discreteness.analysis.comovement import Groups, co_movement, patterns, residuals, shuffled
from discreteness.analysis.components import NAMES, components
from discreteness.analysis.distributions import TokenGroups, discovery_rates, looked_at, of_losses
from discreteness.analysis.fits import fit, octaves
from discreteness.analysis.intervals import Estimate, Share
from discreteness.analysis.matching import match
from discreteness.analysis.modes import chance_ratios, p_values, planted_groups, power, two_groups
from discreteness.analysis.seed_drops import SeedDrops
from discreteness.analysis.seed_numbers import SeedNumbers, moves, seed_numbers, shared
from discreteness.analysis.seed_words import across_seeds_in_words

NAN = np.nan


def drops(times, falls=None, widths=0.5, errors=0.01, highs=9.0):
    """Of times [tokens, seeds, drops] or [tokens, seeds], octaves."""
    times = np.array(times, np.float64)
    times = times[..., None] if times.ndim == 2 else times
    there = np.isfinite(times)

    def like(values):
        return np.where(there, np.broadcast_to(np.array(values, np.float64), times.shape), NAN)

    return SeedDrops(
        times=times,
        widths=like(widths),
        falls=like(3.0 if falls is None else falls),
        errors=like(errors),
        highs=np.where(there.any(axis=2), highs, NAN),
        origin=1.0,
    )


# ---- matching


def test_the_main_drop_of_one_seed_is_matched_with_the_second_of_another():
    """Equal drops at updates 15 and 255 in each seed: now one, now the other is a little higher."""
    events = match(drops([[[4.0, 8.0], [8.0, 4.0], [4.1, 7.9]]], falls=[[[3.0, 2.9], [3.0, 2.9], [2.9, 3.0]]]))
    assert events.times.tolist() in ([[4.0, 4.0, 4.1]], [[8.0, 8.0, 7.9]])
    assert (events.num_events.tolist(), events.num_shared.tolist()) == ([2], [2])
    found = across_seeds(np.ones((1, 3)), drops([[[4.0, 8.0], [8.0, 4.0], [4.1, 7.9]]]), events)
    assert found.time_spread[0] < 0.06
    assert found.event_share[0] == 1


def test_the_event_of_most_seeds_counts_then_the_higher_one_then_the_earlier_one():
    most = match(drops([[[3.0, 9.0], [NAN, 9.1], [NAN, 9.2], [3.1, NAN]]], falls=[[[8, 1]] * 4]))
    assert most.times[0, :3].tolist() == [9.0, 9.1, 9.2] and np.isnan(most.times[0, 3])
    higher = match(drops([[[3.0, 9.0], [3.1, 9.1]]], falls=[[[2, 3], [2, 3]]]))
    assert higher.times.tolist() == [[9.0, 9.1]] and higher.falls.tolist() == [[3, 3]]
    earlier = match(drops([[[9.0, 3.0], [9.1, 3.1]]]))
    assert earlier.times.tolist() == [[3.0, 3.1]]


def test_drops_out_of_reach_are_other_events_unless_they_are_wide_or_their_times_are_unsure():
    far = [[4.0, 4.2, 6.5]]
    assert match(drops(far)).num_events[0] == 2
    assert match(drops(far, widths=2.6)).num_events[0] == 1
    assert match(drops(far, errors=0.6)).num_events[0] == 1
    assert match(drops([[4.0, 4.2, 6.0]])).num_events[0] == 1, "2 octaves from 4.1, less than 2"


def test_two_drops_of_one_seed_are_never_one_event():
    events = match(drops([[[5.0, 5.4], [5.1, NAN], [5.1, NAN]]]))
    assert (events.num_events[0], events.num_shared[0]) == (2, 1)
    assert events.times.tolist() == [[5.0, 5.1, 5.1]]


@given(
    arrays(np.float64, st.tuples(st.just(3), st.integers(1, 5), st.just(3)), elements=st.floats(0, 11) | st.just(NAN)),
    st.randoms(use_true_random=False),
)
def test_matching_does_not_depend_on_the_order_of_seeds_and_takes_one_drop_of_each(times, random):
    times = times + np.random.default_rng(0).normal(0, 0.02, times.shape)  # no two distances are equal
    events = match(drops(times))
    seeds = list(range(times.shape[1]))
    random.shuffle(seeds)
    again = match(drops(times[:, seeds]))
    np.testing.assert_array_equal(again.times, events.times[:, seeds])
    np.testing.assert_array_equal(again.num_events, events.num_events)
    assert ((events.times[:, :, None] == times).any(axis=2) | np.isnan(events.times)).all()
    assert (np.isfinite(events.times).any(axis=1) == np.isfinite(times).any(axis=(1, 2))).all()
    assert (events.num_events <= np.isfinite(times).sum(axis=(1, 2))).all()
    assert (events.num_events >= np.isfinite(times).sum(axis=2).max(axis=1)).all()


def test_drops_of_a_table_are_those_of_its_fits_and_the_main_one_is_described_as_a_whole():
    steps = np.unique(np.geomspace(2, 2000, 80).round())
    x = octaves(steps, steps[0])
    curves = (
        1
        + 3 * sigmoid(x, np.array([3.0, 5.0]), np.array([0.5, 0.5]))
        + 2 * sigmoid(x, np.array([7.5]), np.array([0.6]))
    )
    ramp = 1 + 5 * np.clip((6.5 - x) / 1.2, 0, 1)[None]
    curves = np.concatenate([curves, ramp, 9 - 0.5 * x[None]]) + np.random.default_rng(0).normal(
        0, 0.03, (4, len(steps))
    )
    fits = fit(curves, steps)
    found = SeedDrops.of_fits(fits, num_seeds=2)
    assert found.origin == 2
    assert np.sort(found.times[0], axis=1)[:, :2] == pytest.approx(np.array([[3.0, 7.5], [5.0, 7.5]]), abs=0.05)
    assert np.isfinite(found.times[1]).sum() == 1 and np.isnan(found.highs[1, 1])
    assert found.widths[1, 0][np.isfinite(found.widths[1, 0])] == pytest.approx([0.8 * 1.2], abs=0.15), "of the ramp"
    assert np.nansum(found.falls[1, 0]) == pytest.approx(5, abs=0.3)
    lists = {
        name: [row[np.isfinite(times)].tolist() for row, times in zip(getattr(fits, name), fits.times, strict=True)]
        for name in ("times", "widths", "falls", "drops")
    }
    columns = {
        name: getattr(fits, name) for name in ("time", "width", "high", "low", "time_error", "is_drop", "origin")
    }
    table = SeedDrops.of_table(pa.table({**columns, **lists}), num_seeds=2)
    for field in dataclasses.fields(found):
        one, other = (np.sort(np.atleast_1d(getattr(each, field.name)), axis=-1) for each in (found, table))
        np.testing.assert_allclose(other, one[..., : other.shape[-1]], rtol=1e-9)


def test_the_error_of_a_smaller_drop_is_larger_and_none_is_wider_than_its_drop():
    fits = dataclasses.replace(
        fit(np.tile(9 - np.arange(10.0), (2, 1)), np.arange(10)),
        is_drop=np.array([True, True]),
        time=np.array([3.0, 3.0]),
        width=np.array([0.5, 0.5]),
        high=np.array([5.0, 5.0]),
        low=np.array([1.0, 1.0]),
        time_error=np.array([0.1, 9.0]),
        times=np.array([[3.0, 15.0, NAN]] * 2),
        widths=np.array([[0.5, 2.0, NAN]] * 2),
        falls=np.array([[4.0, 2.0, NAN]] * 2),
        drops=np.array([[True, True, False]] * 2),
    )
    found = SeedDrops.of_fits(fits, num_seeds=1)
    assert found.errors[0, 0, :2] == pytest.approx([0.1, 0.1 * np.sqrt(2.0 / 0.5) * 4 / 2])
    assert found.errors[1, 0, :2].tolist() == [0.5, 2.0]


# ---- the table of tokens


def test_values_across_seeds_by_hand():
    final = np.array([[0.5, 0.7, 0.1], [2.0, 2.0, 2.0]])
    found = drops(
        [[3.0, 4.0, NAN], [NAN, NAN, NAN]], widths=[[[1], [2], [3]]] * 2, falls=[[[4], [6], [8]]] * 2, errors=0.1
    )
    table = across_seeds(final, found, match(found))
    assert table.learned_share == pytest.approx([2 / 3, 0])
    assert table.drop_share == pytest.approx([2 / 3, 0])
    assert table.event_share == pytest.approx([2 / 3, 0])
    assert table.num_events.tolist() == [1, 0]
    assert table.time[0] == ((2**3 - 1) + (2**4 - 1)) / 2, "an even number: the middle of the two in the middle"
    assert table.time_spread[0] == pytest.approx(np.sqrt(0.5 - 0.01)), "variance 0.5 less the mean squared error"
    assert (table.width[0], table.fall[0]) == (1.5, 5)
    assert np.isnan([table.time[1], table.time_spread[1], table.width[1], table.fall[1]]).all()
    assert table.final_spread == pytest.approx([np.std([0.5, 0.7, 0.1], ddof=1), 0])


def test_learned_is_below_what_was_known_before_the_drop():
    found = drops([[4.0, 4.0, NAN, 4.0]], highs=0.4)
    assert learned(np.array([[0.3, 0.5, 0.5, 0.8]]), found).tolist() == [[True, False, True, False]]


def test_a_spread_of_nothing_but_errors_is_none():
    random = np.random.default_rng(0)
    errors = random.uniform(0.03, 0.1, (4000, 4))
    for true in (0.0, 0.2):
        times = 5 + random.normal(0, 1, (4000, 4)) * np.sqrt(true**2 + errors**2)
        variance = times.var(axis=1, ddof=1) - (errors**2).mean(axis=1)
        assert variance.mean() == pytest.approx(true**2, abs=0.002), "the unclipped variance is unbiased"
        np.testing.assert_allclose(spread(times, errors), np.sqrt(np.maximum(variance, 0)))
    assert np.isnan(spread(np.array([[4.0, NAN]]), np.array([[0.1, NAN]]))).all()


@given(arrays(np.float64, st.tuples(st.integers(0, 3), st.integers(1, 8)), elements=st.floats(0, 1e4) | st.just(NAN)))
def test_medians_over_seeds_are_numpys(values):
    expected = [np.median(there) if len(there := row[~np.isnan(row)]) else NAN for row in values]
    np.testing.assert_array_equal(medians(values), expected)


# ---- components


def test_components_of_two_tokens_in_two_seeds_by_hand():
    """Means of the tokens 1 and 5, of the seeds 2.5 and 3.5; what is left is 0.5 up and down."""
    found = components(np.array([[0.0, 2.0], [5.0, 5.0]]), np.full((2, 2), 0.1), np.array([0, 0]))
    left = 4 * 0.5**2  # one degree of freedom: residual and error together
    assert found.fit_error.value == pytest.approx(0.1)
    assert found.residual.value == pytest.approx(np.sqrt(left - 0.01))
    between_seeds = 2 * 2 * 0.5**2  # sum of squares, one degree of freedom; a seed has two times
    assert found.seed.value == pytest.approx(np.sqrt(max(0, (between_seeds - left) / 2)))
    assert found.token.value == pytest.approx(np.sqrt((5 - 1) ** 2 / 2 - left / 2))
    assert np.isnan(found.document.value) and np.isnan(found.token.low)


def test_planted_components_are_within_their_intervals_and_unbiased():
    found = [components(*draw_components(np.random.default_rng(n), 200, 8, 20)) for n in range(40)]
    for name in NAMES:
        each = [getattr(one, name) for one in found]
        ratio = np.mean([one.value**2 for one in each]) / TRUE_SD[name] ** 2
        assert ratio == pytest.approx(1, abs={"seed": 0.35, "document": 0.25}.get(name, 0.06)), name
        assert np.mean([one.low <= TRUE_SD[name] <= one.high for one in each]) >= 0.75, name


def test_components_do_not_change_with_shifts_of_tokens_seeds_and_all_but_in_their_own():
    times, errors, documents = draw_components(np.random.default_rng(0), 120, 6, 8)
    before = components(times, errors, documents)
    shifted = components(times + 10 + np.arange(6) * 0.2, errors, documents)
    assert shifted.seed.value > before.seed.value + 0.1
    for name in ("document", "token", "residual", "fit_error"):
        assert getattr(shifted, name).value == pytest.approx(getattr(before, name).value, rel=1e-6), name
    spread_out = components(times + np.random.default_rng(1).normal(0, 3, (120, 1)), errors, documents)
    assert spread_out.token.value > 2.5
    assert spread_out.residual.value == pytest.approx(before.residual.value, rel=1e-9)
    assert spread_out.seed.value == pytest.approx(before.seed.value, rel=1e-9)


def test_too_few_times_have_no_components():
    found = components(np.array([[1.0, NAN], [NAN, 2.0]]), np.full((2, 2), 0.1), np.array([0, 1]))
    assert all(np.isnan(getattr(found, name).value) for name in NAMES)


# ---- co-movement


def test_residuals_are_without_the_effects_of_tokens_and_seeds():
    random = np.random.default_rng(0)
    own = random.normal(0, 1, (40, 6))
    moved = own + random.normal(0, 5, (40, 1)) + random.normal(0, 5, 6)
    np.testing.assert_allclose(residuals(moved), residuals(own), atol=1e-6)
    left = patterns(residuals(own))
    np.testing.assert_allclose((left**2).sum(axis=1), 1)
    there = random.random((40, 6)) < 0.7
    assert (np.isfinite(residuals(np.where(there, own, NAN))) == there).all()


@given(arrays(np.float64, (4, 5), elements=st.floats(-3, 3) | st.just(NAN)), st.integers(0, 99))
def test_shuffling_keeps_each_tokens_values_and_where_they_are(values, seed):
    found = shuffled(values, np.random.default_rng(seed))
    np.testing.assert_array_equal(np.isnan(found), np.isnan(values))
    np.testing.assert_array_equal(np.sort(found, axis=1), np.sort(values, axis=1))


def test_p_values_are_even_where_tokens_move_alone(monkeypatch):
    """Also in a fast seed, in one whose times vary more, and with times that are far off: none of these is tokens that
    move together."""
    monkeypatch.setattr(comovement, "PERMUTATIONS", 39)
    monkeypatch.setattr(comovement, "COPIES", 1)
    for draw in (independent, fast_seed, noisy_seed, heavy_tails):
        found = [alone(*draw(np.random.default_rng(n), 40, 6)) for n in range(20)]
        for p in [one.p for one in found], [one.document_p for one in found]:
            assert 0.3 < np.mean(p) < 0.7, draw
            assert np.mean(np.array(p) <= 0.05) <= 0.2, draw


def test_groups_that_move_together_are_found_and_no_others():
    """Ten tokens move with each other, ten others too, forty alone; they are learned at all kinds of times."""
    times, documents = two_moving(0.6)(np.random.default_rng(0), 60, 24)
    found = alone(times, documents)
    assert found.p == found.document_p == 1 / (1 + comovement.PERMUTATIONS)
    assert found.document_correlation > 0.1
    assert set(found.cluster[:10]) | set(found.cluster[10:20]) == {0, 1}
    assert len(set(found.cluster[:10])) == len(set(found.cluster[10:20])) == 1
    assert (found.cluster[20:] == -1).all()


def test_tokens_learned_at_the_same_time_or_in_a_fast_seed_are_not_together():
    """Forty tokens learned at the same time but for their own noise, one seed a full octave faster."""
    random = np.random.default_rng(1)
    times = 6 + random.normal(0, 0.05, (40, 12))
    times[:, 3] -= 1
    found = alone(times, np.arange(40) // 10)
    assert (found.cluster == -1).all()
    assert found.p > 0.05


def test_few_seeds_or_tokens_say_nothing():
    times = np.random.default_rng(0).normal(6, 1, (10, 3))
    found = alone(times, np.arange(10))
    assert np.isnan([found.p, found.correlation, found.document_p, found.document_correlation]).all()
    assert (found.cluster == -1).all()


# ---- categories


def test_pairs_of_a_category_are_those_of_different_documents():
    """Two documents of two tokens and one, and a document of another category with three."""
    groups = Groups.of(np.array([5, 5, 7, 9, 9, 9]), np.array(["a", "a", "a", "b", "b", "b"]))
    assert groups.document_pairs == 2 + 0 + 6
    assert groups.category_pairs == 4, "each of the two with the third, both ways"


def test_documents_of_a_category_that_move_together_are_found():
    """Four documents of five tokens. The first two share their seeds' times, and the last two share others."""
    random = np.random.default_rng(0)
    documents = np.arange(20) // 5
    times = 6 + random.normal(0, 0.2, (20, 12)) + np.repeat(random.normal(0, 0.3, (2, 12)), 10, axis=0)
    found = co_movement(times, documents, documents // 2)
    assert found.category_p == 1 / (1 + comovement.PERMUTATIONS)
    assert found.category_correlation > 0.2
    across = co_movement(times, documents, documents % 2)
    assert across.category_p > 0.5 and across.category_correlation < 0, "documents that do not move together"
    assert np.isnan(alone(times, documents).category_p), "no category has two documents"


def test_the_share_between_categories_by_hand():
    """Documents at 1.0, 1.2, 1.1 and 3.0, 3.1, 2.9: 0.04 within the categories, 0.04 + 6 * 0.95 ** 2 in all. Of 20 ways
    to divide six into three and three, two have so little within."""
    times = np.array([[1.0], [1.2], [1.0], [1.2], [3.0], [3.1], [2.9]])
    documents, categories = np.array([0, 1, 2, 2, 3, 4, 5]), np.array(list("aaaabbb"))
    found = between_categories(times, documents, categories)
    assert found.share == pytest.approx(1 - (0.04 / 4) / ((0.04 + 6 * 0.95**2) / 5))
    assert found.p == pytest.approx(0.1, abs=0.03)
    for alike in (np.array(["a"] * 7), documents):
        assert np.isnan(between_categories(times, documents, alike).share)
    assert np.isnan(between_categories(np.full((7, 1), NAN), documents, categories).p)


def test_a_token_that_a_fast_seed_lacks_is_not_late_for_that():
    times = np.array([[5.0, 7.0], [5.0, 7.0], [5.0, 7.0], [NAN, 7.0], [NAN, 7.0]])
    found = between_categories(times, np.arange(5), np.array(["a", "a", "b", "b", "b"]))
    assert np.isnan(found.share), "all are alike"


def test_categories_that_say_nothing_have_even_p_values(monkeypatch):
    monkeypatch.setattr("discreteness.analysis.categories.PERMUTATIONS", 39)
    found = [
        between_categories(np.random.default_rng(n).normal(6, 1, (40, 3)), np.arange(40) // 4, np.arange(40) // 12)
        for n in range(100)
    ]
    assert 0.42 < np.mean([one.p for one in found]) < 0.58
    assert abs(np.mean([one.share for one in found])) < 0.1
    assert np.mean([one.p <= 0.05 for one in found]) <= 0.12


# ---- two groups


def test_two_groups_are_found_with_their_gap_and_minority():
    random = np.random.default_rng(0)
    low = random.normal(0.2, 0.05, (50, 24)).clip(0.01)
    low[:, :6] += 3
    found = two_groups(low, chance_ratios(24))
    assert (found.p < 0.01).all() and np.median(found.p) == 1e-4
    assert found.gap == pytest.approx(3, abs=0.2)
    assert found.minority == pytest.approx(0.25, abs=0.01)


def test_one_group_is_not_two_whatever_its_shape_or_rounding():
    random = np.random.default_rng(0)
    chance = chance_ratios(24)
    shape = (2000, 24)
    for losses in (
        random.normal(5, 1, shape),
        random.exponential(1, shape),
        np.exp(random.normal(0, 1, shape)),
        5 + random.standard_t(3, shape),
    ):
        assert (two_groups(losses, chance).p <= 0.05).mean() < 0.05
    rounded = random.normal(5, 0.002, shape).round(3)
    split = np.where(np.arange(24) < 12, 5.0, 5.4) + random.normal(0, 0.01, shape)
    for losses in (rounded, split, np.full(shape, 2.0)):
        found = two_groups(losses, chance)
        assert (found.p == 1).all() and (found.gap == 0).all(), "less than half a nat apart"


def test_an_outlier_is_not_a_group():
    losses = np.random.default_rng(0).normal(2, 0.1, (100, 12))
    losses[:, 0] = 6
    assert (two_groups(losses, chance_ratios(12)).p > 0.05).all()
    two = np.random.default_rng(0).normal(2, 0.05, (50, 24))
    two[:, :2] += 3
    assert (two_groups(two, chance_ratios(24)).p == 1).all(), "two of 24 seeds are less than a tenth"


def test_groups_whose_means_are_less_than_half_a_nat_apart_are_none():
    """The two highest losses are further from the rest than that, but they are not the groups."""
    losses = np.where(np.arange(24) < 12, 2.0, 2.43) + np.random.default_rng(0).normal(0, 0.01, (50, 24))
    losses[:, -2:] += 0.32
    assert (two_groups(losses, chance_ratios(24)).p == 1).all()
    assert (two_groups(losses * 1.2, chance_ratios(24)).p < 0.05).all()


def test_p_values_count_the_samples_that_are_as_extreme():
    assert p_values(np.array([0.0, 2.0, 9.0]), np.array([1.0, 2.0, 3.0])).tolist() == [1.0, 0.75, 0.25]


def test_power_grows_with_seeds_and_distance():
    def of(seeds, minority, widths):
        return power(seeds, chance_ratios(seeds), planted_groups(seeds, minority, widths), 0.01)

    assert of(24, 0.5, 6) > 0.9 > of(10, 0.5, 6) > of(6, 0.5, 6) > of(6, 0.5, 3)


def test_distributions_at_every_checkpoint_and_of_each_token(monkeypatch):
    """Three tokens: one group; two groups at the third checkpoint only; two at the end."""
    random = np.random.default_rng(0)
    losses = random.normal(3, 0.1, (3, 5, 20))
    losses[1, 2, :8] += 2
    losses[2, 4, :10] += 4
    steps = np.array([0, 1, 2, 4, 8])
    found = of_losses(losses, steps, chance_ratios(20))
    assert found.spread == pytest.approx(losses.std(axis=2, ddof=1), rel=1e-6)
    assert found.mean == pytest.approx(losses.mean(axis=2), rel=1e-6)
    assert found.discovered().tolist() == [[False] * 5, [False, False, True, False, False], [False] * 4 + [True]]
    groups = TokenGroups.of(found)
    assert groups.two_groups_p[1] == pytest.approx(5 * found.p[1, 2]), "Simes: five checkpoints, one of them small"
    assert (groups.two_groups_q < 0.05).tolist() == [False, True, True]
    assert (groups.two_groups_final_q < 0.05).tolist() == [False, False, True]
    assert groups.two_groups_step[1:].tolist() == [2, 8]
    assert groups.two_groups_gap[1:] == pytest.approx([2, 4], abs=0.2)
    assert groups.two_groups_minority[1:] == pytest.approx([0.4, 0.5], abs=0.02)
    untested = TokenGroups.of(of_losses(losses[:, :, :3], steps, np.zeros(0)))
    assert all(np.isnan(getattr(untested, field.name)).all() for field in dataclasses.fields(untested))
    monkeypatch.setattr(distributions, "MAX_CHECKPOINTS", 3)
    assert looked_at([0, 1, 2, 4, 8]) == [0, 2, 8]


def test_discovery_rates_by_hand():
    assert discovery_rates(np.array([0.04, 0.01, 0.5])) == pytest.approx([0.06, 0.03, 0.5])


# ---- numbers and words


@pytest.fixture(scope="module")
def planted_numbers():
    """Sixty tokens of six documents in eight seeds, all with a drop."""
    times, errors, documents = draw_components(np.random.default_rng(0), 60, 8, 6)
    found = drops(times, errors=np.nan_to_num(errors, nan=1.0)[:, :, None])
    events = match(found)
    final = np.full((60, 8), 0.1)
    final[:6, ::2] = 5
    over_seeds = of_losses(
        final[:, None] + np.random.default_rng(1).normal(0, 0.01, (60, 2, 8)), np.array([1, 7]), chance_ratios(8)
    )
    groups = TokenGroups.of(over_seeds)
    categories = documents // 2
    together = moves(events, documents, categories)
    return seed_numbers(documents, categories, across_seeds(final, found, events), events, together, over_seeds, groups)


def test_numbers_across_seeds_come_back_from_their_json(planted_numbers):
    again = SeedNumbers.of_json(json.loads(json.dumps(planted_numbers.as_json())))
    assert again.as_json() == planted_numbers.as_json()
    assert isinstance(again.learned_share, Share) and type(again.seed_sd) is Estimate
    assert set(again.spread_by_step) == set(again.two_groups_by_step) == {1, 7}
    assert again.learned_share.value == pytest.approx(1 - 24 / 480)
    assert again.two_groups_share.value == again.two_groups_final_share.value == pytest.approx(0.1)
    assert again.token_sd.low < TRUE_SD["token"] < again.token_sd.high
    blank = dataclasses.replace(planted_numbers, together_p=NAN)
    assert blank.as_json()["together_p"] is None
    assert np.isnan(SeedNumbers.of_json(blank.as_json()).together_p)


def test_words_say_what_was_found_and_what_it_does_not_show(planted_numbers):
    said = across_seeds_in_words(planted_numbers, 8, 60, "init")
    assert "60 of 60 tokens have a drop that at least half of the seeds share" in said
    assert f"{planted_numbers.seed_sd} between seeds" in said and " to " in f"{planted_numbers.seed_sd}"
    assert "All seeds read the same data in the same order" in said
    assert "With 8 seeds, two equal groups 6 standard deviations apart are found" in said
    assert "same order" not in across_seeds_in_words(planted_numbers, 8, 60, "data")
    assert f"Between the 3 categories lies {planted_numbers.category_share} of the variance" in said
    assert "Between documents of one category they correlate by" in said
    together = dataclasses.replace(planted_numbers, together_p=0.002, clusters=2, clustered_tokens=20)
    said = across_seeds_in_words(together, 8, 60, "data")
    assert "tokens are early and late in the same seeds" in said and "20 tokens are in 2 clusters" in said
    nothing = dataclasses.replace(planted_numbers, seed_sd=Estimate(value=NAN, low=NAN, high=NAN), together_p=NAN)
    said = across_seeds_in_words(nothing, 3, 60, "init")
    assert "too few to compare times" in said and "it takes 6 seeds" in said and "nan" not in said


def test_times_are_compared_where_half_of_the_seeds_have_the_event():
    events = match(drops([[4.0, 4.1, NAN, NAN], [4.0, NAN, NAN, NAN], [4.0, 4.0, 4.0, NAN]]))
    assert shared(events).tolist() == [True, False, True]
    assert shared(match(drops([[4.0, NAN], [4.0, 4.1]]))).tolist() == [False, True], "one seed shares nothing"
