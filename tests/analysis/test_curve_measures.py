"""What other work measures of curves: acquired, forgotten, variability, closeness of runs, interference; by hand."""

import numpy as np
import pytest

from discreteness.analysis import curves_of_runs
from discreteness.analysis.across_seeds import across_seeds
from discreteness.analysis.curve_measures import CurveMeasures, acquired, forgotten, variability
from discreteness.analysis.curves_of_runs import closer_share, closer_shares, cross_run
from discreteness.analysis.fits import fit
from discreteness.analysis.interference import interference, interference_table
from discreteness.analysis.matching import match
from discreteness.analysis.seed_drops import SeedDrops
from discreteness.dataset.reader import open as open_dataset
from tests.support import dataset_case as case

NAN = np.nan
STEPS = [0, 1, 3, 7]  # 0, 1, 2 and 3 octaves


def test_acquired_is_half_way_from_chance_to_the_lowest():
    fitted = np.array(
        [
            [10.0, 8.0, 4.0, 2.0],  # half way is 6, in the middle of octaves 1 and 2
            [10.0, 10.0, 2.0, 6.0],  # lowest in between: half way is 6, in the middle again
            [5.0, 4.0, 3.0, 0.0],  # half way is 5: at once
            [10.0, 11.0, 12.0, 10.0],  # never below chance
        ]
    )
    found = acquired(fitted, STEPS, chance=10.0)
    assert found[:3] == pytest.approx([2**1.5 - 1, 2**1.5 - 1, 0])
    assert np.isnan(found[3])
    assert np.isnan(acquired(fitted, STEPS, NAN)).all()


def test_forgotten_is_all_that_a_curve_rises():
    assert forgotten(np.array([[5.0, 3.0, 4.0, 1.0], [5.0, 6.0, 5.0, 7.0], [4.0, 3.0, 2.0, 1.0]])).tolist() == [1, 3, 0]


def test_variability_is_over_the_last_quarter_of_the_updates():
    steps = [0, 10, 50, 75, 90, 100]
    losses = np.array([[9, 8, 7, 1, 2, 3], [0, 0, 0, 4, 4, 4]], np.float32)
    assert variability(losses, steps) == pytest.approx([np.sqrt(2 / 3), 0])
    assert np.isnan(variability(losses, [0, 10, 50, 74, 90, 100])).all(), "two checkpoints say nothing"


def test_measures_of_fits_are_of_their_curves_whatever_the_chunk(monkeypatch):
    steps = np.unique(np.geomspace(1, 1000, 80).round())
    steps = np.concatenate([[0], steps])
    drop = 1 + 7 / (1 + (steps / 50) ** 6)
    rise = 8 - 6 / (1 + (30 / np.maximum(steps, 1e-9)) ** 8) + 3 / (1 + (300 / np.maximum(steps, 1e-9)) ** 8)
    losses = np.stack([drop, rise]) + np.random.default_rng(0).normal(0, 0.02, (2, len(steps)))
    fits = fit(losses, steps)
    found = CurveMeasures.of(losses, steps, fits, chance=8.0)
    assert found.acquired == pytest.approx([50, 30], rel=0.1)
    assert found.forgotten == pytest.approx([0, 3], abs=0.15)
    assert found.variability == pytest.approx([0.02, 0.02], abs=0.02)
    monkeypatch.setattr("discreteness.analysis.curve_measures._CHUNK", 1)
    again = CurveMeasures.of(losses, steps, fits, chance=8.0)
    assert again.acquired.tolist() == found.acquired.tolist() and again.forgotten.tolist() == found.forgotten.tolist()


def test_cross_run_is_the_mean_squared_difference_of_pairs():
    losses = np.random.default_rng(0).normal(0, 1, (3, 5, 4))  # [tokens, checkpoints, seeds]
    pairs = [(losses[..., one] - losses[..., other]) ** 2 for one in range(4) for other in range(one)]
    assert cross_run(losses.std(axis=2, ddof=1)) == pytest.approx(np.mean(pairs, axis=(0, 2)))
    assert np.isnan(cross_run(np.full((1, 5), NAN, np.float32))).all()


def test_the_closer_share_counts_curves_that_are_closer_than_the_own_one():
    curves = np.array([[0.0, 0.0], [5.0, 5.0], [9.0, 9.0]])
    other = np.array([[2.0, 2.0], [5.0, 5.0], [1.0, 1.0]])
    # 0: third is closer. 1: its own one is equal. 2: both others are closer.
    assert closer_share(curves, other, other) == pytest.approx([1 / 3, 0, 2 / 3])
    assert closer_share(other, other, other).tolist() == [0, 0, 0]


def test_closer_shares_of_a_dataset_are_of_its_first_two_seeds(tmp_path, monkeypatch):
    """Seed 1 has the curves of seed 0 with tokens 0 and 1 exchanged; seed 2 is never looked at."""
    steps = tuple(range(8))
    dataset = case.create(tmp_path / "set", steps=steps)
    curves = np.add.outer(np.zeros(8), 10.0 * np.arange(case.TOTAL)).astype(np.float32)
    for seed, order in enumerate(([0, 1, 2, 3, 4, 5], [1, 0, 2, 3, 4, 5], [5, 4, 3, 2, 1, 0])):
        dataset.commit(seed, "one", np.array(steps, np.int32), curves[:, order], case.records(steps))
        if seed == 0:
            assert np.isnan(closer_shares(open_dataset(tmp_path / "set"))).tolist() == [True] * case.TOTAL
    opened = open_dataset(tmp_path / "set")
    assert closer_shares(opened) == pytest.approx([1 / 6, 1 / 6, 0, 0, 0, 0])
    monkeypatch.setattr(curves_of_runs, "MAX_COMPARED", 3)
    assert closer_shares(opened) == pytest.approx([0, 1 / 3, 0, 0, 0, 0]), "with those of tokens 0, 2 and 4 alone"


def test_interference_by_hand():
    """Changes of 1 and -1 cancel, 2 and 0 do not, 3 and -1 do by half."""
    assert interference(np.array([0.0, 1.0, 1.0, 0.0]), np.array([1.0, 1.0, 2.0, 0.0]))[:3].tolist() == [1, 0, 0.5]
    table = interference_table([0, 1, 4], np.array([[5.0, 4, 3], [5, 5, 1]]), np.array([[1.0, 2], [1, 4]]))
    assert table.to_pydict() == {
        "from_step": [0, 1],
        "to_step": [1, 4],
        "change": [-0.5, -2.5],
        "size": [1, 3],
        "interference": [0.5, 0.25],
    }


def test_quantiles_of_the_final_loss_over_seeds():
    nothing = np.full((1, 11, 1), NAN)
    none = SeedDrops(
        times=nothing, widths=nothing, falls=nothing, errors=nothing, highs=np.full((1, 11), NAN), origin=1.0
    )
    found = across_seeds(np.arange(11.0)[None], none, match(none))
    assert (found.final_low[0], found.final_median[0], found.final_high[0]) == (1, 5, 9)
