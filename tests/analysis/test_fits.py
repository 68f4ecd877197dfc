"""Fits of single curves: planted drops found, smooth curves left alone, exact cases, properties, bad input."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.planted import PLANS, SMOOTH, noise, planted_drops, sigmoid, steps_of, verdicts
from discreteness.analysis.fits import MAX_DROP_WIDTH, fit, octaves

STEPS = steps_of("log:48")
X = octaves(STEPS)


def one(time, width, high, low, steps=STEPS):
    return low + (high - low) * sigmoid(octaves(steps), np.array([np.log2(time + 1)]), np.array([width]))


@pytest.mark.parametrize("plan", PLANS.values())
def test_a_curve_without_noise_gives_back_what_it_was_made_of(plan):
    steps = steps_of(plan)
    fits = fit(one(120, 1.0, 9.0, 2.0, steps), steps)
    assert fits.is_drop[0]
    assert fits.num_drops[0] == 1
    assert fits.time[0] == pytest.approx(120, rel=0.01)
    assert fits.width[0] == pytest.approx(1.0, rel=0.03)
    assert (fits.high[0], fits.low[0]) == pytest.approx((9.0, 2.0), abs=0.05)
    assert fits.r2[0] > 0.999
    assert np.abs(fits.curve(steps) - one(120, 1.0, 9.0, 2.0, steps)).max() < 0.05


@pytest.mark.parametrize(("plan", "recall"), [("every:1", 0.95), ("log:300", 0.95), ("log:48", 0.90)])
def test_planted_drops_are_found_and_smooth_curves_are_not(plan, recall):
    """A smaller sample of the table in docs/analysis.md, at 0.2 nats."""
    fits, centers, false = verdicts(np.random.default_rng(5), plan, 150, 0.2, 0.0)
    assert fits.is_drop.mean() >= recall
    assert np.mean(list(false.values())) <= 0.025
    assert max(false.values()) <= 0.08
    errors = np.abs(octaves(fits.time) - centers)[fits.is_drop]
    assert np.median(errors) < 0.03
    assert np.quantile(errors, 0.95) < 0.15


def test_drops_at_the_definitions_edge_are_called_by_their_width():
    random = np.random.default_rng(2)
    steps = steps_of("log:300")
    shares = []
    for width in (1.0, MAX_DROP_WIDTH + 1):
        clean, _ = planted_drops(random, octaves(steps), 100, (width, width))
        shares.append(fit(clean + noise(random, steps, 100, 0.1), steps).is_drop.mean())
    assert shares[0] >= 0.98
    assert shares[1] <= 0.05


def test_two_drops_are_two_with_their_own_times_and_heights():
    steps = steps_of("log:300")
    curve = one(12, 0.8, 10.0, 6.0, steps) + one(300, 0.5, 4.0, 0.0, steps)
    fits = fit(curve + noise(np.random.default_rng(0), steps, 1, 0.1), steps)
    assert fits.num_drops[0] == 2
    assert fits.times[0][fits.drops[0]] == pytest.approx([12, 300], rel=0.05)
    assert fits.falls[0][fits.drops[0]] == pytest.approx([4, 4], abs=0.3)
    assert (fits.high[0], fits.low[0]) in (
        pytest.approx((10.0, 6.0), abs=0.3),
        pytest.approx((6.0, 2.0), abs=2.3),
    )


def test_a_rise_and_a_burst_that_heals_are_no_drops():
    rise = 12 - one(100, 0.5, 9.0, 2.0)
    burst = 3 + 4 * ((X > 7) & (X < 8))[None]
    assert not fit(np.concatenate([rise, burst]), STEPS).is_drop.any()


def test_a_fall_whose_end_is_not_seen_is_no_drop():
    assert not fit(one(STEPS[-1], 1.0, 9.0, 2.0), STEPS).is_drop[0]


def test_a_constant_curve_has_no_drop_and_says_so_in_numbers():
    fits = fit(np.full((1, 48), 3.5), STEPS)
    assert not fits.is_drop[0]
    assert fits.r2[0] == 0
    assert fits.curve(STEPS) == pytest.approx(3.5)


@settings(max_examples=15, deadline=None)
@given(scale=st.floats(1.0, 1.9), shift=st.floats(-5, 5), seed=st.integers(0, 1000))
def test_scale_and_level_of_the_loss_change_no_time_and_no_width(scale, shift, seed):
    random = np.random.default_rng(seed)
    clean, _ = planted_drops(random, X, 4)
    losses = clean + noise(random, STEPS, 4, 0.1)
    plain, other = fit(losses, STEPS), fit(scale * losses + shift, STEPS)
    assert other.time == pytest.approx(plain.time, rel=0.02)
    assert other.width == pytest.approx(plain.width, rel=0.05)
    assert other.delta_bic == pytest.approx(plain.delta_bic, abs=0.5)


def test_a_curve_is_fitted_alike_alone_and_among_others():
    random = np.random.default_rng(1)
    clean, _ = planted_drops(random, X, 300)
    losses = clean + noise(random, STEPS, 300, 0.2)
    together = fit(losses, STEPS)
    alone = fit(losses[280:281], STEPS)
    assert alone.time == pytest.approx(together.time[280:281], rel=1e-6)
    assert alone.delta_bic == pytest.approx(together[280:281].delta_bic, abs=1e-4)


def test_fits_of_no_curves_are_empty():
    assert fit(np.empty((0, 48)), STEPS).curve(STEPS).shape == (0, 48)


def test_smooth_kinds_are_what_their_names_say():
    """The controls are smooth by the definition: none falls from 90 % to 10 % of its range within a drop's width."""
    random = np.random.default_rng(0)
    x = np.linspace(0, 10.8, 2000)
    curves = SMOOTH["exponential relaxation"](random, x, 20)
    for curve in curves:
        share = (curve - curve.min()) / np.ptp(curve)
        assert x[share < 0.1][0] - x[share > 0.9][-1] > MAX_DROP_WIDTH


@pytest.mark.parametrize(
    ("losses", "steps", "named"),
    [
        (np.zeros((2, 5)), range(5), "5 checkpoints"),
        (np.zeros((2, 9)), range(10), "do not match"),
        (np.zeros(9), range(9), "do not match"),
        (np.zeros((1, 9)), [0, 1, 2, 2, 4, 5, 6, 7, 8], "ascend, each once, from 0 up, not 0.0, 1.0, 2.0, 2.0"),
        (np.full((1, 9), np.nan), range(9), "nan at step 0"),
    ],
)
def test_what_cannot_be_fitted_is_refused(losses, steps, named):
    with pytest.raises(ValueError, match=named):
        fit(losses, steps)
