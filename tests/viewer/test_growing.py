"""The viewer's numbers: means, bands, running seeds, files that change; frames; fits of the first seeds."""

import json
import struct
import time
from functools import partial

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

import discreteness
from discreteness.analysis.analyze import analyze
from discreteness.analysis.fits import fit
from discreteness.analysis.tables import load
from discreteness.dataset.storage import open_storage
from discreteness.viewer import drops as drops_module
from discreteness.viewer import growing as growing_module
from discreteness.viewer.drop_finder import DropFinder
from discreteness.viewer.drops import PER_TOKEN, Drops
from discreteness.viewer.frames import frame
from discreteness.viewer.growing import Growing, over_seeds
from tests.support.dataset_case import STEPS, commit, create, losses
from tests.support.planted_dataset import commit_planted, create_planted, log_plan, text_documents

NAN = np.nan


def test_mean_and_band_of_five_seeds_by_hand():
    losses = np.array([[0, 10], [1, 20], [2, 30], [3, 40], [4, 50]], np.float32)
    mean, low, high = over_seeds(losses)
    assert mean.tolist() == [2, 30]
    np.testing.assert_allclose(low, [0.4, 14], rtol=1e-6)
    np.testing.assert_allclose(high, [3.6, 46], rtol=1e-6)
    assert {values.dtype for values in (mean, low, high)} == {np.dtype("float32")}


@given(arrays(np.float32, (7, 3), elements=st.floats(0, 20, width=32) | st.just(np.float32(NAN))))
def test_mean_and_band_are_numpys_over_the_seeds_that_have_a_loss(losses):
    mean, low, high = over_seeds(losses)
    for step in range(3):
        there = losses[:, step][np.isfinite(losses[:, step])].astype(np.float64)
        expected = [there.mean(), *np.quantile(there, [0.1, 0.9])] if len(there) else [NAN] * 3
        np.testing.assert_allclose([mean[step], low[step], high[step]], expected, rtol=1e-5, atol=1e-6)


def test_no_seed_gives_no_number():
    assert all(np.isnan(values).all() for values in over_seeds(np.empty((0, 4), np.float32)))


@pytest.fixture(params=[2**30, 0], ids=["kept", "too large to keep"])
def kept_bytes(request, monkeypatch):
    monkeypatch.setattr(growing_module, "KEPT_BYTES", request.param)


def test_curves_and_summary_are_the_datasets_losses(tmp_path, kept_bytes):
    writer = create(tmp_path / "d")
    for seed in 3, 1, 2:
        commit(writer, seed)
    growing = Growing(open_storage(tmp_path / "d"))
    dataset = discreteness.open(tmp_path / "d")
    document = growing.document(0)
    for token in 1, 2, 3:
        curves = growing.curves(document, token)
        assert curves.seeds == [1, 2, 3] and curves.num_committed == 3
        np.testing.assert_array_equal(curves.losses, dataset.losses("a.txt", token))
    mean, deviation, num_seeds = growing.summary(document)
    assert num_seeds == 3
    expected = dataset.losses("a.txt").transpose(0, 2, 1)
    np.testing.assert_allclose(mean, expected.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(deviation, expected.astype(np.float64).std(axis=0, ddof=1), rtol=1e-6)


def test_a_running_seed_is_shown_up_to_where_it_is_and_does_not_move_the_mean(tmp_path, kept_bytes):
    dataset = create(tmp_path / "d")
    commit(dataset, 1)
    growing = Growing(open_storage(tmp_path / "d"))
    before = growing.summary(growing.document(0))[0]
    dataset.write_running(7, "two", np.array(STEPS[:2], np.int32), losses(7)[:2])
    growing.refresh()
    curves = growing.curves(growing.document(4), 2)
    assert curves.seeds == [1, 7] and curves.num_committed == 1
    np.testing.assert_array_equal(curves.losses[1], [*losses(7)[:2, 5], NAN, NAN])
    np.testing.assert_array_equal(curves.mean, curves.losses[0])
    np.testing.assert_array_equal(growing.summary(growing.document(0))[0], before)


def test_running_seeds_are_the_mean_as_long_as_none_is_committed(tmp_path):
    dataset = create(tmp_path / "d")
    dataset.write_running(3, "a", np.array(STEPS[:1], np.int32), losses(3)[:1])
    dataset.write_running(5, "b", np.array(STEPS[:3], np.int32), losses(5)[:3])
    growing = Growing(open_storage(tmp_path / "d"))
    mean, deviation, _ = growing.summary(growing.document(1))
    middle = (losses(3)[0, 3] + losses(5)[0, 3]) / 2
    np.testing.assert_array_equal(mean[0], [middle, *losses(5)[1:3, 3], NAN])
    assert np.isfinite(deviation[0]).tolist() == [True, False, False, False]


def test_looking_again_sees_seeds_come_grow_and_end(tmp_path):
    dataset = create(tmp_path / "d")
    growing = Growing(open_storage(tmp_path / "d"))
    assert growing.refresh().version == growing.refresh().version == 1
    for num_steps in 1, 3:
        dataset.write_running(2, "one", np.array(STEPS[:num_steps], np.int32), losses(2)[:num_steps])
        assert growing.refresh().running[2].steps == num_steps
        seen = growing.curves(growing.document(0), 1).losses[0]
        np.testing.assert_array_equal(seen, [*losses(2)[:num_steps, 0], *[NAN] * (4 - num_steps)])
    commit(dataset, 2)
    snapshot = growing.refresh()
    assert (snapshot.version, snapshot.dataset.seeds, dict(snapshot.running)) == (4, [2], {})
    np.testing.assert_array_equal(growing.curves(growing.document(0), 1).losses[0], losses(2)[:, 0])


def test_seeds_that_come_later_are_added_to_the_summary_and_a_removed_one_is_taken_out(tmp_path):
    dataset = create(tmp_path / "d")
    growing = Growing(open_storage(tmp_path / "d"))
    document = growing.document(0)
    for seeds in [1], [1, 2], [1, 2, 9]:
        commit(dataset, seeds[-1])
        growing.refresh()
        expected = np.mean([losses(seed)[:, :3].T for seed in seeds], axis=0)
        np.testing.assert_allclose(growing.summary(document)[0], expected, rtol=1e-6)
    (tmp_path / "d/losses/seed=00002.parquet").unlink()
    growing.refresh()
    np.testing.assert_allclose(growing.summary(document)[0], (losses(1) + losses(9))[:, :3].T / 2, rtol=1e-6)


def test_what_is_kept_stays_below_the_bound(tmp_path, monkeypatch):
    dataset = create(tmp_path / "d")
    for seed in range(4):
        commit(dataset, seed)
    largest = 4 * 3 * len(STEPS) * 4
    monkeypatch.setattr(growing_module, "KEPT_BYTES", largest)
    growing = Growing(open_storage(tmp_path / "d"))
    for _ in range(2):
        for document in growing.snapshot.dataset.documents:
            growing.summary(document)
            np.testing.assert_array_equal(growing.curves(document, 1).losses.shape, (4, 4))
            assert 0 < sum(kept.nbytes for kept in growing._kept.values()) == growing._kept_bytes <= largest


def test_what_is_not_there_is_refused(tmp_path):
    growing = Growing(open_storage(create(tmp_path / "d").storage))
    with pytest.raises(KeyError, match="no document with id 3"):
        growing.document(3)
    for token in 0, 4:
        with pytest.raises(KeyError, match="tokens 1 to 3, not"):
            growing.curves(growing.document(0), token)


def test_a_frame_can_be_taken_apart_again():
    arrays = {
        "a": np.arange(6, dtype=np.float32).reshape(2, 3),
        "b": np.array([-1, 7], np.int32),
        "c": np.empty(0, "f4"),
    }
    content = frame({"é": 'x"y', "n": None}, **arrays)
    (length,) = struct.unpack("<I", content[:4])
    head = json.loads(content[4 : 4 + length])
    assert head["meta"] == {"é": 'x"y', "n": None}
    assert (4 + length) % 4 == 0, "arrays are aligned"
    for name, expected in arrays.items():
        entry = head["arrays"][name]
        found = np.frombuffer(content, entry["dtype"], expected.size, 4 + length + entry["offset"])
        np.testing.assert_array_equal(found.reshape(entry["shape"]), expected)
    assert len(content) == 4 + length + 24 + 8


def test_a_frame_converts_nothing():
    with pytest.raises(ValueError, match="a is float64; a frame holds float32 and int32"):
        frame({}, a=np.zeros(2))


def wait_for(finder, document):
    deadline_s = time.monotonic() + 60
    while (drops := finder.drops(document)) is None or finder.mean_loss(document) is None:
        assert time.monotonic() < deadline_s and finder.error is None
        time.sleep(0.02)
    return drops


def test_planted_drops_are_found_in_the_background(tmp_path):
    documents, token_bytes = text_documents({"one": "a bee sees", "two": "the sea!"})
    create_planted(tmp_path / "d", documents, token_bytes, log_plan(60, 600), range(3))
    growing = Growing(open_storage(tmp_path / "d"))
    finder = DropFinder(growing)
    document = growing.document(0)
    drops = wait_for(finder, document)
    assert (drops.num_seeds, drops.analyzed) == (3, False)
    assert drops.per_token["drop_share"].tolist() == [1, 1, 1, 1, 0], "the fifth falls slowly"
    planted = 2 + 7 * (np.arange(4) * 0.618 % 1)
    np.testing.assert_allclose(np.log2(drops.per_token["time"][:4] + 1), planted, atol=0.7)
    assert np.isnan(drops.per_token["time"][4])
    losses = discreteness.open(tmp_path / "d").losses("one")
    np.testing.assert_allclose(finder.mean_loss(document), losses.mean(axis=(0, 2)), rtol=1e-5)
    lost = losses[:, 0].mean() - losses[:, -1].mean()
    np.testing.assert_allclose((drops.measured * np.diff(drops.edges)).sum(), lost, rtol=1e-4)
    np.testing.assert_array_equal(np.isfinite(drops.steepness()), [True] * 4 + [False])


def test_the_analysis_tables_say_what_the_fits_here_say(tmp_path):
    """But for the noise, which is that of one document here and of the dataset there."""
    documents, token_bytes = text_documents({"one": "a bee sees", "two": "the sea!"})
    dataset = create_planted(tmp_path / "d", documents, token_bytes, log_plan(60, 600), range(3))
    growing = Growing(open_storage(tmp_path / "d"))
    finder = DropFinder(growing)
    document = growing.document(1)
    fitted = wait_for(finder, document)
    analyze(tmp_path / "d")
    before = growing.snapshot.version
    assert growing.refresh().version > before, "the page asks anew"
    deadline_s = time.monotonic() + 60
    while not (found := finder.drops(document)).analyzed:
        assert time.monotonic() < deadline_s and finder.error is None
        time.sleep(0.02)
    assert found.num_seeds == 3
    assert np.isnan(fitted.per_token["common_share"]).all(), "only the analysis knows all tokens"
    for name, values in fitted.per_token.items():
        if name in ("common_share", "evidence"):  # both hang on what the analysis knows of the noise
            continue
        np.testing.assert_allclose(found.per_token[name], values, rtol=1e-3, atol=1e-3, err_msg=name)
    for name in "edges", "measured", "by_drops":
        np.testing.assert_allclose(getattr(found, name), getattr(fitted, name), rtol=1e-3, atol=1e-3, err_msg=name)
    said = pq.read_table(tmp_path / "d" / "analysis" / "fits.parquet").to_pylist()
    for token in 1, 4:
        rows = [row for row in said if (row["document"], row["token_index"]) == (document.name, token)]
        losses = np.stack([growing.losses_of(growing.snapshot, document, seed)[token - 1] for seed in range(3)])
        fits = finder.fits(losses)
        assert fits.is_drop.tolist() == [row["is_drop"] for row in rows]
        evidence = [row["delta_bic"] for row in rows if row["is_drop"]]
        np.testing.assert_allclose(found.per_token["evidence"][token - 1], np.median(evidence), rtol=1e-6)
        for name in ("time", "width", "high", "low", "delta_bic", "time_error"):
            np.testing.assert_allclose(getattr(fits, name), [row[name] or np.nan for row in rows], rtol=1e-6)
    table = tmp_path / "d" / "analysis" / "fits.parquet"
    whole = table.read_bytes()
    for damaged in (whole[:-9], b""):
        table.write_bytes(damaged)
        growing.refresh()
        alone = finder.fits(losses)
        np.testing.assert_array_equal(alone.delta_bic, fit(losses, growing.snapshot.dataset.steps).delta_bic)
        assert not np.allclose(alone.delta_bic, fits.delta_bic), "the analysis knows more of the noise"
    table.write_bytes(whole)
    growing.refresh()
    np.testing.assert_array_equal(finder.fits(losses).delta_bic, fits.delta_bic)
    commit_planted(dataset, 3)
    growing.refresh()
    with_fourth = finder.fits(np.concatenate([losses, losses[:1]]))
    np.testing.assert_allclose(with_fourth.delta_bic[:3], fits.delta_bic, rtol=1e-9)


def test_tables_of_two_runs_are_not_taken_for_one(tmp_path):
    """As they are left where the second was killed between two of them."""
    documents, token_bytes = text_documents({"two": "the sea!"})
    dataset = create_planted(tmp_path / "d", documents, token_bytes, log_plan(60, 600), range(3))
    analyze(tmp_path / "d")
    table = tmp_path / "d" / "analysis" / "fits.parquet"
    commit_planted(dataset, 3)
    old = {name: (table.parent / name).read_bytes() for name in ("tokens.parquet", "numbers.json")}
    analyze(tmp_path / "d")
    for name, content in old.items():
        newer = (table.parent / name).read_bytes()
        (table.parent / name).write_bytes(content)
        with pytest.raises(ValueError, match="are of two runs, with other seeds; run: discreteness analyze"):
            load(tmp_path / "d")
        (table.parent / name).write_bytes(newer)
    assert load(tmp_path / "d").seeds == [0, 1, 2, 3]


def test_the_viewers_table_of_tokens_is_that_of_the_analysis(tmp_path, monkeypatch):
    """Of a document with all its seeds, exactly; there are seeds enough for it to test final losses for two groups."""
    documents, token_bytes = text_documents({"one": "a bee sees a sea", "two": "the sea!"})
    create_planted(tmp_path / "d", documents, token_bytes, log_plan(60, 600), range(12))
    found, dataset = analyze(tmp_path / "d"), discreteness.open(tmp_path / "d")
    monkeypatch.setattr(drops_module, "fit", partial(fit, noise=found.noise))
    for document in dataset.documents:
        losses = np.ascontiguousarray(dataset.losses(document.doc_id).transpose(2, 0, 1))
        here, there = Drops.of_losses(losses, np.array(dataset.steps)), Drops.of_tables(found, document)
        assert tuple(here.per_token) == tuple(there.per_token) == PER_TOKEN and here.num_seeds == there.num_seeds == 12
        for name, values in here.per_token.items():
            assert values.shape == (document.num_losses,)
            if name == "common_share":
                assert np.isnan(values).all() and np.isfinite(there.per_token[name]).any()
                continue
            assert np.isfinite(values).any()
            np.testing.assert_array_equal(there.per_token[name], values, err_msg=name)
        np.testing.assert_array_equal(there.steepness(), here.steepness())


def test_a_plan_too_short_to_fit_is_said(tmp_path):
    dataset = create(tmp_path / "d")
    commit(dataset, 1)
    growing = Growing(open_storage(tmp_path / "d"))
    finder = DropFinder(growing)
    assert finder.drops(growing.document(0)) is None
    deadline_s = time.monotonic() + 60
    while finder.num_waiting:
        assert time.monotonic() < deadline_s
        time.sleep(0.02)
    assert finder.error.startswith("document 'a.txt'")
    assert finder.drops(growing.document(0)) is None and finder.num_waiting == 0, "not tried again"
