"""Figures of a planted dataset: what is drawn where, nothing over anything else, and the datasets that have little."""

import copy
import dataclasses
from itertools import combinations, pairwise

import matplotlib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure
from matplotlib.text import Text

import discreteness
from discreteness.analysis.analyze import analyze
from discreteness.analysis.figures.categories import categories, falls_by_category
from discreteness.analysis.figures.curves import curves
from discreteness.analysis.figures.nulls import nulls
from discreteness.analysis.figures.overview import overview
from discreteness.analysis.figures.raster import raster
from discreteness.analysis.figures.seeds import seeds
from discreteness.analysis.figures.spectrum import learning_times
from discreteness.analysis.figures.style import COLORS, STYLE, apart, updates_axis
from tests.support.planted_dataset import create_planted, log_plan, text_documents

TEXTS = {f"{number:02}": "a bee sees a sea" for number in range(7)}


@pytest.fixture(scope="module")
def ten_seeds(tmp_path_factory):
    path = tmp_path_factory.mktemp("figures") / "d"
    create_planted(path, *text_documents(TEXTS), log_plan(40, 600), range(10))
    found = analyze(path)
    return discreteness.open(path), found


@pytest.fixture(autouse=True)
def style():
    with matplotlib.rc_context(STYLE):
        yield


@given(heights=st.lists(st.floats(0, 10), max_size=8).map(sorted))
def test_names_are_moved_apart_and_stay_in_order(heights):
    placed = apart(heights, 1.0, 0.0, 10.0)
    assert all(after - before > 1 - 1e-9 for before, after in pairwise(placed))
    assert all(0 <= height <= 10 for height in placed)
    if all(after - before >= 1 for before, after in pairwise(heights)):
        assert placed == heights


def test_update_0_has_a_place_and_ticks_name_updates():
    axes = Figure().subplots()
    updates_axis(axes, 1840)
    assert [text.get_text() for text in axes.get_xticklabels()] == ["0", "1", "10", "100", "1,000"]
    assert axes.get_xticks().tolist() == [1, 2, 11, 101, 1001]
    assert axes.get_xlim()[0] < 1 and axes.get_xlim()[1] > 1841


def test_names_of_the_overview_lie_over_nothing(ten_seeds):
    figure = overview(*ten_seeds)
    figure.draw_without_rendering()
    for axes in figure.axes:
        names = [Text.get_window_extent(text) for text in axes.texts]  # without the lines to them
        assert names and not any(one.overlaps(other) for one, other in combinations(names, 2))
        assert all(name.x0 >= axes.get_window_extent().x1 for name in names)
    drawn = {line.get_color() for line in figure.axes[0].lines if line.get_color() in COLORS}
    assert len(drawn) == len(figure.axes[0].texts) == 5, "no color twice"


def test_ten_seeds_are_counted_in_eleven_pairs_of_bars(ten_seeds):
    dataset, found = ten_seeds
    axes = seeds(dataset, found).axes[2]
    heights = np.array([[bar.get_height() for bar in bars] for bars in axes.containers])
    for row, name in zip(heights, ("drop_share", "learned_share"), strict=True):
        shares = found.tokens[name].to_numpy()
        assert row.tolist() == [np.isclose(shares, count / 10).sum() for count in range(11)]
    assert heights.sum() == 2 * len(found.tokens)


def test_the_spectrum_is_drawn_with_chance_beside_it_and_an_interval_over_documents(ten_seeds):
    dataset, found = ten_seeds
    left, right = learning_times(dataset, found).axes
    rows = found.spectrum.filter(np.equal(found.spectrum["document"].to_pylist(), "")).to_pydict()
    lines = [patch.get_data() for patch in left.patches if not patch.get_fill()]
    for line, name in zip(lines, ("measured", "at_times", "by_drops"), strict=True):
        np.testing.assert_allclose(line.values, rows[name])
    bands = [patch.get_data() for patch in left.patches if patch.get_fill() and hasattr(patch, "get_data")]
    for line, band in zip(lines, bands, strict=True):
        assert (band.baseline <= line.values + 1e-9).all() and (line.values <= band.values + 1e-9).all()
    assert any(
        np.allclose(patch.get_data().values, rows["by_false_drops"])
        for patch in right.patches
        if hasattr(patch, "get_data")
    )


def test_the_raster_sorts_tokens_by_the_time_of_their_drop(ten_seeds):
    dataset, found = ten_seeds
    picture = raster(dataset, found).axes[0].collections[0].get_array()
    first = found.fits.filter(np.equal(found.fits["seed"].to_numpy(), 0)).to_pylist()
    order = sorted(range(len(first)), key=lambda row: (not first[row]["is_drop"], first[row]["time"]))
    ends = [first[row]["final_loss"] for row in order]
    np.testing.assert_allclose(picture[:, -1], ends, rtol=1e-5)


def test_one_seed_of_one_short_document_has_its_figures(tmp_path):
    create_planted(tmp_path / "d", *text_documents({"one": "sea"}), log_plan(40, 600), [3])
    found, dataset = analyze(tmp_path / "d"), discreteness.open(tmp_path / "d")
    for figure_of in (overview, curves, nulls, learning_times, raster, seeds):
        figure_of(dataset, found).draw_without_rendering()


def test_categories_are_means_of_their_documents_and_named_at_their_lines(ten_seeds):
    dataset, found = ten_seeds
    assert categories(dataset, found) is None, "one category"
    of = {document.name: "even" if document.doc_id % 2 else "odd" for document in dataset.documents}
    divided = copy.copy(dataset)
    divided.documents = [dataclasses.replace(one, category=of[one.name]) for one in dataset.documents]
    lines = falls_by_category(divided, found)
    rows = [row for row in found.spectrum.to_pylist() if of.get(row["document"]) == "odd"]
    for place, name in enumerate(("measured", "by_drops")):
        falls, curves = (np.array([row[column] for row in rows]).reshape(4, -1) for column in (name, "curves"))
        assert lines["odd"][place] == pytest.approx((falls * curves).sum(axis=0) / curves.sum(axis=0))
    assert list(lines) == ["even", "odd"]
    figure = categories(divided, found)
    figure.draw_without_rendering()
    for axes in figure.axes:
        names = [Text.get_window_extent(text) for text in axes.texts]
        assert [text.get_text() for text in sorted(axes.texts, key=Text.get_text)] == ["even", "odd"]
        assert not names[0].overlaps(names[1])
    divided.documents = [dataclasses.replace(one, category=f"c{one.doc_id}") for one in dataset.documents]
    assert len(categories(divided, found).axes[0].texts) == 7
