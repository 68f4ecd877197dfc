"""Null comparisons: planted datasets whose answer is known, and each comparison by hand."""

import dataclasses
import json
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest
from speedrun.tracks import tiny

from benchmarks.null_comparisons import false_drops, smooth_sample
from benchmarks.planted import noise, sigmoid
from discreteness.analysis import analyze as analyze_module
from discreteness.analysis import averages, surrogates
from discreteness.analysis.analyze import analyze
from discreteness.analysis.common import without_common
from discreteness.analysis.fits import MIN_DELTA_BIC, fit, octaves, pooled_noise
from discreteness.analysis.intervals import Share, share, without_interval
from discreteness.analysis.null_comparisons import SmoothCurves, smooth_curves
from discreteness.analysis.numbers import Numbers
from discreteness.analysis.onset import onset_end, unigram_losses
from discreteness.analysis.processes import Processes
from discreteness.analysis.residuals import shared_by_seeds
from discreteness.analysis.same_drop import keeps_main_drop
from discreteness.analysis.sample import Sample, draw_sample
from discreteness.analysis.schedule_changes import Change, Schedule, schedule_of
from discreteness.analysis.spectrum import spectrum
from discreteness.analysis.tables import load
from discreteness.analysis.verdicts import judged
from discreteness.analysis.words import paragraphs
from discreteness.dataset.reader import open as open_dataset
from discreteness.experiment.checkpoint_steps import parse_checkpoints
from tests.support import dataset_case as case

STEPS = np.array(parse_checkpoints("log:40", 500))
X = octaves(STEPS)
TOKENS = 128
HERE = Processes(executor=None)


def planted(path, curves, tokens_of_documents=(TOKENS,)):
    """A dataset of these curves [tokens, seeds, steps], in documents of so many tokens."""
    ends = np.cumsum([0, *tokens_of_documents])
    documents = [
        case.Text(
            doc_id=number,
            name=f"{number}.txt",
            category="c",
            token_ids=(50256, *range(start % 200, start % 200 + end - start)),
        )
        for number, (start, end) in enumerate(pairwise(ends.tolist()))
    ]
    dataset = case.create(path, documents=documents, steps=tuple(STEPS.tolist()))
    for seed in range(curves.shape[1]):
        losses = np.ascontiguousarray(curves[:, seed].T, np.float32)
        dataset.commit(
            seed, "one", STEPS.astype(np.int32), losses, pa.table({"step": STEPS, "train_loss": np.ones(len(STEPS))})
        )
    return path


def noisy(random, clean, num_seeds):
    """[tokens, steps] -> [tokens, seeds, steps]"""
    flat = np.repeat(clean, num_seeds, axis=0)
    return (flat + noise(random, STEPS, len(flat), 0.05)).reshape(len(clean), num_seeds, -1)


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch):
    monkeypatch.setattr(surrogates, "RESAMPLES", 5)


def test_drops_of_single_tokens_vanish_in_means_and_are_their_own(tmp_path):
    random = np.random.default_rng(0)
    clean = 1 + 6 * sigmoid(X, random.uniform(2.5, 7.5, TOKENS), np.full(TOKENS, 0.6))
    found = analyze(planted(tmp_path / "set", noisy(random, clean, 1))).numbers
    assert found.drop_share.value > 0.95
    assert found.drop_share_by_average[2].value > 0.7
    assert found.drop_share_by_average[128].value <= 0.01
    assert found.common_share.value < 0.05
    assert found.stable_share.value > 0.9
    assert found.fall_share_in_drops.value > 0.8
    assert found.expected_false_share.value < 0.03
    assert "less than half as often" in " ".join(paragraphs(found, "init").split())


def test_one_drop_of_all_tokens_is_common_and_stays_in_means(tmp_path):
    random = np.random.default_rng(0)
    heights = random.uniform(1.5, 5, TOKENS)[:, None]
    clean = 9 - random.uniform(0.1, 0.4, TOKENS)[:, None] * X - heights * (np.log2(61) < X)
    found = analyze(planted(tmp_path / "set", noisy(random, clean, 1))).numbers
    assert found.drop_share.value > 0.95
    assert found.drop_share_by_average[128].value == 1
    assert found.grand_mean_drop_share.value == found.document_mean_drop_share.value == 1
    assert found.common_share.value > 0.95
    assert "not shown to be events of single tokens" in " ".join(paragraphs(found, "init").split())


def test_a_smooth_dataset_with_shared_growing_noise_reports_its_own_false_share(monkeypatch):
    """A smaller case of benchmarks/null_comparisons.py, with more noise, so that few curves are enough."""
    monkeypatch.setattr(surrogates, "RESAMPLES", 8)
    sample = smooth_sample(np.random.default_rng(3), "log:48", 60, (0.5, 3.0), 0.6)
    shared, found, _ = smooth_curves(sample, pooled_noise(sample.losses.reshape(240, -1), sample.steps), HERE)
    false = false_drops(sample, MIN_DELTA_BIC)
    true = share(false, np.ones(false.shape), np.indices(false.shape)[0])
    assert true.low / 1.5 < found.at_constant < true.high * 1.5, "within the sampling error over tokens"
    assert found.false_share.value <= surrogates.MAX_FALSE_SHARE
    assert shared.value == pytest.approx(0.7, abs=0.05), "5 % of all tokens and 65 % of a token's seeds"


def test_the_evidence_asked_for_leaves_the_wanted_share_of_smooth_curves():
    fits = fit(np.repeat(np.where(X > 6, 1.0, 8.0)[None], 200, axis=0), STEPS)
    fits = dataclasses.replace(fits, is_drop=np.arange(200) < 60, delta_bic=np.arange(200) + MIN_DELTA_BIC)
    found = surrogates.chance(fits, fits)
    assert found.at_constant == 0.3
    assert (found.evidence, found.false_share.value) == (pytest.approx(49 + MIN_DELTA_BIC), 0.05), "ten curves are 5 %"
    few = dataclasses.replace(fits, is_drop=np.arange(200) < 4)
    assert surrogates.chance(few, few).evidence == MIN_DELTA_BIC
    fewer = surrogates.chance(fits, dataclasses.replace(fits, is_drop=np.arange(200) < 27))
    assert fewer.at_constant == pytest.approx(0.3 * 65 / 32), "a fit loses half of the drops (5 are added to each)"
    assert 0.04 < fewer.false_share.value <= 0.05, "never more than is promised"


def test_judged_fits_have_drops_only_with_the_evidence():
    curves = np.stack([np.where(X > 6, 1.0, 8.0), np.where(X > 6, 1.0, 8.0)])
    fits = fit(curves + noise(np.random.default_rng(0), STEPS, 2, 0.05), STEPS)
    fits = dataclasses.replace(fits, delta_bic=np.array([30.0, 50.0]))
    found = judged(fits, 40.0)
    assert found.is_drop.tolist() == [False, True] and found.num_drops.tolist() == [0, 1]
    assert found.fall_in_drops[0] == 0 and found.fall_in_drops[1] == fits.fall_in_drops[1] > 6
    assert np.isnan(found.time_error[0]) and found.time_error[1] == fits.time_error[1]
    assert found.time.tolist() == fits.time.tolist()


def test_the_factor_has_the_moments_that_it_says():
    random = np.random.default_rng(0)
    x = np.linspace(0, 9, 40)
    factors = np.stack([surrogates._factor(x, random) for _ in range(4000)])
    assert np.abs(factors).max() <= np.sqrt(2) + 1e-9
    assert np.abs(factors.mean(axis=0)).max() < 0.08
    assert factors.var(axis=0) == pytest.approx(np.ones(40), abs=0.08)
    shared = (factors[:, 10:11] * factors).mean(axis=0)
    assert shared == pytest.approx(np.exp(-np.abs(x - x[10]) / surrogates.MEMORY_OCTAVES), abs=0.08)


def test_tokens_and_seeds_of_a_resample_have_one_factor():
    sample = np.ones((8, 2, len(X)))
    drawn = surrogates.surrogates(np.zeros_like(sample), sample, STEPS, np.random.default_rng(0))
    assert drawn.shape == (5, 4, len(X))
    assert np.array_equal(drawn, np.repeat(drawn[:, :1], 4, axis=1))
    assert len({tuple(one[0]) for one in drawn.tolist()}) == 5


def test_means_are_of_tokens_of_one_document_or_of_any():
    """Token i of document d has the loss 100 d everywhere."""
    documents = np.repeat([0, 1, 2], [4, 4, 2])
    losses = np.broadcast_to(100.0 * documents[:, None, None], (10, 2, 8))
    sample = Sample(losses=losses, doc_ids=documents, steps=np.arange(8), seeds=[0, 1])
    found = {(one.kind, one.tokens): one for one in averages.means(sample)}
    assert set(found) == {
        ("within", 2),
        ("within", 4),
        ("across", 2),
        ("across", 4),
        ("across", 8),
        ("documents", None),
    }
    for number in (2, 4):
        within = found["within", number]
        assert np.array_equal(within.losses, np.repeat(100.0 * within.groups[:, None], 8, axis=1))
    assert set(found["within", 4].groups) == {0, 1}, "the third document has two tokens only"
    assert len(np.unique(found["across", 2].losses[:, 0])) > 3
    assert found["documents", None].losses[:, 0].tolist() == [0, 0, 100, 100, 200, 200]
    assert found["documents", None].groups.tolist() == [0, 0, 1, 1, 2, 2]


def test_a_sample_is_of_whole_documents_and_spread_seeds(tmp_path, monkeypatch):
    dataset = case.create(tmp_path / "set")
    for seed in range(9):
        case.commit(dataset, seed)
    opened = open_dataset(tmp_path / "set")
    whole = draw_sample(opened)
    assert whole.seeds == [0, 3, 5, 8] and whole.doc_ids.tolist() == [0, 0, 0, 1, 4, 4]
    assert np.array_equal(whole.losses[4], opened.losses(4, token=1, seeds=[0, 3, 5, 8]))
    assert whole.document_means()[0] == pytest.approx(whole.losses[:3].mean(axis=0))
    monkeypatch.setattr("discreteness.analysis.sample.MAX_LOSSES", 3 * 4 * len(opened.steps))
    part = draw_sample(opened)
    assert 0 < len(part.doc_ids) <= 3
    assert all((part.doc_ids == one).sum() == opened.document(one).num_losses for one in set(part.doc_ids.tolist()))


def test_what_all_share_is_taken_out_and_what_is_a_tokens_own_stays():
    smooth = 9 - 0.5 * X[None]
    shared, own = np.where(X > 6, -1.0, 0.0)[None], np.where(X > 3, -1.0, 0.0)[None]
    # The hundred other tokens have the shared fall, with heights of 1 on average.
    curve = smooth + 2 * shared
    left = without_common(curve, (curve + 100 * (smooth + shared)) / 101, 101, STEPS)
    before, after = np.flatnonzero(X > 6)[0] - 1, np.flatnonzero(X > 6)[0]
    assert curve[0, before] - curve[0, after] > 2
    assert abs(left[0, before] - left[0, after]) < 0.5
    curve = smooth + 9 * shared
    left = without_common(curve, (curve + 100 * (smooth + shared)) / 101, 101, STEPS)
    assert left[0, before] - left[0, after] > 6, "nine times as much as the mean is its own"
    curve = smooth + 3 * own
    left = without_common(curve, (curve + 100 * smooth) / 101, 101, STEPS)
    assert np.abs(left - curve).max() < 0.35, "the others share nothing with it"
    assert without_common(curve, np.zeros_like(curve) + curve / 101, 101, STEPS) == pytest.approx(curve)


def test_the_spectrum_of_false_drops_by_hand():
    """Two resamples of four curves; in the first, one falls by 6 nats in a drop; each drop stands for two."""
    flat = np.full((2, 4, len(STEPS)), 3.0) + noise(np.random.default_rng(0), STEPS, 8, 0.01).reshape(2, 4, -1)
    flat[0, 2] += 6 * sigmoid(X, np.array([6.2]), np.array([0.2]))[0]
    fits = fit(flat.reshape(8, -1), STEPS)
    assert fits.is_drop.sum() == 1
    falls = SmoothCurves.of(flat, fits, STEPS, taken=2.0).by_drops
    edges = spectrum(flat[0], STEPS, fits[:4]).edges
    assert (falls * np.diff(edges)).sum(axis=1) == pytest.approx([2 * 6 / 4, 0], abs=0.02)
    assert edges[falls[0].argmax()] <= 6.2 <= edges[falls[0].argmax() + 1]


def test_how_well_learning_times_of_one_sigmoid_describe_the_mean():
    """R^2 by hand, and of planted drops at times of their own."""
    random = np.random.default_rng(0)
    smooth = 9 - 1.0 * X + noise(random, STEPS, 60, 0.05) + 3 * np.exp(-X / random.uniform(2, 6, 60)[:, None])
    found = spectrum(smooth, STEPS, fit(smooth, STEPS))
    assert found.rebuilt_share(found.measured) == 1
    by_hand = dataclasses.replace(found, edges=np.array([0.0, 1, 2, 4]), measured=np.array([60.0, 180, 60]))
    falls = np.array([120.0, 180, 60])  # of 60 curves: 2, 3 and 1/2 nats per octave where 1, 3 and 1/2 are measured
    average = (1 + 3 + 2 * 0.5) / 4
    assert by_hand.rebuilt_share(falls) == pytest.approx(
        1 - 1 / ((1 - average) ** 2 + (3 - average) ** 2 + 2 * (0.5 - average) ** 2)
    )
    times = 2 ** random.uniform(2.5, 7.5, 400) - 1
    drops = 1 + 6 * sigmoid(X, octaves(times), np.full(400, 0.5)) + noise(random, STEPS, 400, 0.05)
    found = spectrum(drops, STEPS, fit(drops, STEPS))
    assert found.rebuilt_share(found.at_single_times) > 0.9
    assert found.at_single_times.sum() == pytest.approx(6 * 400, rel=0.05)


def test_two_drops_are_the_same_within_a_quarter_of_an_octave_or_two_standard_errors():
    def drop_at(octave):
        return 1 + 5 * sigmoid(X, np.array([octave]), np.array([0.5]))

    fits = fit(drop_at(6.0), STEPS)
    assert fits.time_error[0] < 0.05
    for away, same in ((0.0, True), (-0.2, True), (0.2, True), (0.35, False), (-0.35, False)):
        assert keeps_main_drop(fits, fit(drop_at(6 + away), STEPS)).tolist() == [same], away
    uncertain = dataclasses.replace(fits, time_error=np.array([0.2]))
    assert keeps_main_drop(uncertain, fit(drop_at(6.35), STEPS)).tolist() == [True]
    assert keeps_main_drop(fits, fit(drop_at(6.0)[:, :20], STEPS[:20])).tolist() == [False], (
        "a half that ends before it"
    )


def test_a_verdict_does_not_hang_on_what_is_fitted_with_it(tmp_path, monkeypatch):
    """Documents of 1, 2 and 125 tokens, in parts of few seeds: all are judged by the noise of the dataset."""
    monkeypatch.setattr(analyze_module, "MAX_LOSSES_IN_WORK", 2000)
    random = np.random.default_rng(5)
    clean = 1 + 6 * sigmoid(X, random.uniform(2.5, 7.5, TOKENS), np.full(TOKENS, 0.6))
    uri = planted(tmp_path / "set", noisy(random, clean, 2), (1, 2, TOKENS - 3))
    found = analyze(uri)
    dataset = open_dataset(uri)
    for row in found.fits.to_pylist()[::67]:
        losses = dataset.losses(row["doc_id"], row["token_index"], seeds=[row["seed"]])
        alone = fit(losses, STEPS, found.noise)
        assert (alone.time[0], alone.delta_bic[0]) == pytest.approx((row["time"], row["delta_bic"]), rel=1e-6)
        assert judged(alone, found.numbers.evidence).is_drop[0] == row["is_drop"]
    again = load(uri)
    np.testing.assert_array_equal(again.noise.weights, found.noise.weights)
    np.testing.assert_array_equal(again.noise.shared, found.noise.shared)


def test_shares_and_their_intervals_by_hand():
    groups = np.repeat(np.arange(10), 4)
    above = np.where(groups < 5, 1.0, 0.0)
    found = share(above, np.ones(40), groups)
    assert found.value == 0.5
    assert (found.low, found.high) == pytest.approx((0.2, 0.8)), "ten groups, not forty curves"
    assert np.isnan(share(above, np.ones(40), groups // 3).low), "four groups"
    assert np.isnan(share(above, np.zeros(40), groups).value)
    assert f"{Share(value=0.5, low=0.2, high=0.8)}" == "50 % (20 to 80)"
    assert f"{without_interval(0.0213)}" == "2.1 %"


def test_what_seeds_share_of_the_noise():
    random = np.random.default_rng(0)
    one, own = random.normal(size=(300, 1, 40)), random.normal(size=(300, 4, 40))
    documents = np.repeat(np.arange(10), 30)
    for part in (0.0, 0.75, 1.0):
        found = shared_by_seeds(np.sqrt(part) * one + np.sqrt(1 - part) * own, documents)
        assert found.value == pytest.approx(part, abs=0.03)
        assert found.low <= found.value <= found.high
    assert np.isnan(shared_by_seeds(own[:, :1], documents).value)


def runs(**columns):
    steps = np.arange(1, 101)
    return pa.table({"step": steps, **{name: np.array([of(step) for step in steps]) for name, of in columns.items()}})


def test_changes_of_the_schedule_are_read_from_the_records(tmp_path):
    dataset = case.create(tmp_path / "set")
    records = runs(
        batch_tokens=lambda step: 100 if step < 40 else 200,
        short_window=lambda step: 8,
        long_window=lambda step: 16 if step < 70 else 32,
        # A jump, and another one within the cooldown.
        lr_multiplier=lambda step: (1.0 if step < 41 else 1.5) * min(1, (100 - step) / 50) + (0.4 if step >= 80 else 0),
    )
    dataset.commit(0, "one", np.array(case.STEPS, np.int32), case.losses(0), records)
    found = schedule_of(open_dataset(tmp_path / "set"))
    assert found.known
    assert [(one.step, one.what) for one in found.changes] == [
        (40, "batch"), (41, "rate"), (51, "cooldown"), (70, "window"), (80, "rate"),
    ]  # fmt: skip
    assert found.cooldown_step == 51
    said = found.during(np.array([40.0, 20.0, 62.0, 62.0]), np.array([0.1, 0.1, 0.1, 1.0]))
    assert said.tolist() == ["batch, rate", "", "window", "rate, cooldown, window"]
    assert found.reach(np.array([0.5]), np.arange(101)) == pytest.approx(
        (np.log2(81 / 41) + 0.5) / np.log2(101), abs=0.05
    )


def test_a_constant_rate_has_no_cooldown_and_records_without_a_schedule_say_nothing(tmp_path):
    dataset = case.create(tmp_path / "set")
    case.commit(dataset, 0)
    found = schedule_of(open_dataset(tmp_path / "set"))
    assert found == Schedule(changes=(), known=False)
    dataset.commit(
        1, "one", np.array(case.STEPS, np.int32), case.losses(1), runs(lr_multiplier=lambda step: min(1, step / 10))
    )
    opened = open_dataset(tmp_path / "set")
    opened.seeds = [1]
    assert schedule_of(opened) == Schedule(changes=(), known=True)


def test_records_that_are_gone_or_damaged_are_passed_over_for_those_of_the_next_seed(tmp_path, caplog):
    dataset = case.create(tmp_path / "set")
    for seed in range(3):
        records = runs(batch_tokens=lambda step: 100 if step < 40 else 200)
        dataset.commit(seed, "one", np.array(case.STEPS, np.int32), case.losses(seed), records)
    (tmp_path / "set/runs/seed=00000-one.parquet").unlink()
    (tmp_path / "set/runs/seed=00001-one.parquet").write_bytes(b"")
    assert schedule_of(open_dataset(tmp_path / "set")).changes == (Change(step=40, what="batch"),)
    assert "seed=00000-one.parquet" in caplog.text and "seed=00001-one.parquet is damaged" in caplog.text
    (tmp_path / "set/runs/seed=00002-one.parquet").unlink()
    assert schedule_of(open_dataset(tmp_path / "set")) == Schedule(changes=(), known=False)


def test_the_head_leaves_where_the_track_says(tmp_path):
    track = {"name": "tiny", "schedule": dataclasses.asdict(tiny.schedule)}
    dataset = case.create(tmp_path / "set", identity={**case.IDENTITY, "track": track})
    case.commit(dataset, 0)
    found = schedule_of(open_dataset(tmp_path / "set"))
    assert found.changes == (Change(step=tiny.schedule.untie_step + 1, what="head"),)


def test_the_onset_ends_where_the_mean_loss_is_that_of_frequencies(tmp_path):
    assert onset_end(np.array([8.0, 6.0, 4.0]), [0, 3, 15], 5.0) == pytest.approx(7), "between updates 3 and 15"
    assert onset_end(np.array([8.0, 6.0, 4.0]), [0, 3, 15], 1.0) == 15, "never"
    assert onset_end(np.array([8.0, 6.0, 4.0]), [0, 3, 15], 9.0) == 0
    assert np.isnan(onset_end(np.array([8.0, 6.0, 4.0]), [0, 3, 15], np.nan))
    documents = [
        case.Text(doc_id=0, name="a", category="c", token_ids=(50256, *[1] * 750)),
        case.Text(doc_id=1, name="b", category="c", token_ids=(50256, *[1] * 125, *[2] * 125)),
    ]
    case.create(tmp_path / "set", documents=documents)
    found = unigram_losses(open_dataset(tmp_path / "set"))
    assert found == pytest.approx({0: -np.log(7 / 8), 1: -(np.log(7 / 8) + np.log(1 / 8)) / 2})
    case.create(tmp_path / "few")
    assert np.isnan(list(unigram_losses(open_dataset(tmp_path / "few")).values())).all()


def test_numbers_come_back_from_their_json(tmp_path):
    random = np.random.default_rng(0)
    clean = 1 + 6 * sigmoid(X, random.uniform(2.5, 7.5, 6), np.full(6, 0.6))
    found = analyze(planted(tmp_path / "set", noisy(random, clean, 2), (3, 2, 1))).numbers
    text = json.dumps(found.as_json())
    assert Numbers.of_json(json.loads(text)).as_json() == found.as_json()
    stated = json.loads(text)
    assert stated["drop_share"] == found.drop_share.value
    assert stated["drop_share_by_average"].keys() == {"1", "2"}
    assert set(stated) >= {"expected_false_share", "common_share", "fall_share_in_drops", "shared_residual_share"}
    assert stated["onset_drop_share"] is None and stated["intervals"]["drop_share"] == [None, None]
    assert "too few seeds for intervals" in " ".join(paragraphs(found, "init").split())
    alone = " ".join(
        paragraphs(dataclasses.replace(found, shared_residual_share=without_interval(0.68)), "both").split()
    )
    assert "reads the data in an order of its own, and 68 % of the noise" in alone and "same order" not in alone
