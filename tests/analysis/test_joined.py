"""Several datasets compared: the same drop in each, how far its times differ; by hand, and planted an octave apart."""

import dataclasses
import json
from itertools import combinations

import numpy as np
import pyarrow.parquet as pq
import pytest
from matplotlib.text import Text

from discreteness.analysis import averages, surrogates
from discreteness.analysis.analyze import analyze
from discreteness.analysis.figures.joined import joined as joined_figure
from discreteness.analysis.joined import join
from discreteness.analysis.joined_numbers import pairs
from discreteness.analysis.joined_runs import analysed, joined_times, names, side_by_side
from discreteness.analysis.seed_drops import SeedDrops
from discreteness.cli.dataset_commands import Analyze
from discreteness.dataset.reader import open as open_dataset
from discreteness.dataset.writer import DatasetWriter
from tests.support import dataset_case as case
from tests.support.planted_dataset import create_planted, log_plan, planted_losses, text_documents

NAN = np.nan
TEXTS = {f"{number:02}": "a bee sees" for number in range(5)}
STEPS = log_plan(30, 600)


def drops(times, origin=1.0):
    """Of octaves [tokens, seeds, drops]; each falls by 3 nats within half an octave, with an error of 0.01."""
    times = np.array(times, np.float64)
    there = np.isfinite(times)
    like = {name: np.where(there, value, NAN) for name, value in (("widths", 0.5), ("falls", 3.0), ("errors", 0.01))}
    return SeedDrops(times=times, **like, highs=np.where(there.any(axis=2), 9.0, NAN), origin=origin)


# ---- by hand


def test_drops_on_axes_of_other_origins_are_at_the_same_update():
    """Update 30 is log2(31) on the axis of origin 1, and 2 on that of origin 10, where an octave is more updates."""
    found = side_by_side([drops([[[np.log2(31)]]]), drops([[[2.0, NAN]]], origin=10.0)])
    assert found.origin == 1
    assert found.times.shape == (1, 2, 2)
    assert found.times[0, :, 0] == pytest.approx([np.log2(31)] * 2)
    assert found.widths[0, :, 0] == pytest.approx([0.5, 0.5 * 40 / 31])
    assert np.isnan(found.times[0, :, 1]).all()


def test_the_same_drop_is_compared_and_not_the_main_one():
    """Token 0: both seeds of the first dataset drop at 4, those of the second at 8 and at 4.3. Token 1: only the second
    dataset has it in half of its seeds."""
    first = drops([[[4.0], [4.2]], [[NAN], [NAN]]])
    second = drops([[[8.0, 4.3], [4.3, 8.0]], [[5.0, NAN], [NAN, NAN]]])
    found = joined_times([first, second])
    assert found.times[0] == pytest.approx([4.1, 4.3])
    assert found.updates[0] == pytest.approx([2**4.1 - 1, 2**4.3 - 1])
    assert found.squared_errors[0] == pytest.approx([0.02 / 2, 0], abs=1e-12)
    assert found.spreads[0] == pytest.approx([np.sqrt(0.02 - 0.01**2), 0])
    assert found.times[1, 1] == 5 and np.isnan(found.times[1, 0])
    assert np.isnan(found.squared_errors[1]).all(), "one seed has no spread"
    assert found.event_shares.tolist() == [[1, 1], [0, 0.5]]
    assert found.dropped.tolist() == [[True, True], [False, True]]


def test_a_pair_by_hand():
    """Tokens 0 to 2 in both, half, one and one and a half octaves later; token 3 in the first alone; 4 in neither."""
    first = drops([[[3.0]], [[5.0]], [[7.0]], [[4.0]], [[NAN]]])
    second = drops([[[3.5]], [[6.0]], [[8.5]], [[NAN]], [[NAN]]])
    (pair,) = pairs(["a", "b"], np.array([0, 0, 1, 1, 1]), joined_times([first, second]))
    assert (pair.first, pair.second, pair.compared_tokens) == ("a", "b", 3)
    assert (pair.both_share.value, pair.first_share.value, pair.second_share.value) == (0.6, 0.2, 0)
    assert pair.chance_share == pytest.approx(0.8 * 0.6)
    assert pair.shift.value == pytest.approx(1.0)
    assert pair.difference_sd == pytest.approx(0.5)
    assert pair.correlation == pytest.approx(1.0)
    assert np.isnan(pair.seeds_sd) and np.isnan(pair.shift.low)


def test_chance_is_taken_from_the_spread_over_seeds():
    """Variances of 0.02 and 0.08 over two seeds each: of the means 0.01 and 0.04."""
    first = drops([[[4.0], [4.2]]] * 3)
    second = drops([[[5.0], [5.4]]] * 3)
    (pair,) = pairs(["a", "b"], np.arange(3), joined_times([first, second]))
    assert pair.seeds_sd == pytest.approx(np.sqrt(0.05))
    assert np.isnan(pair.correlation), "all tokens at one time correlate with nothing"


# ---- planted


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """`late`: 2 seeds. `early`: the same drops in seeds 2 to 4, each an octave earlier."""
    folder = tmp_path_factory.mktemp("joined")
    documents, token_bytes = text_documents(TEXTS)
    create_planted(folder / "late", documents, token_bytes, STEPS, range(2))
    early = DatasetWriter.create_or_open(
        folder / "early",
        identity={**case.IDENTITY, "vary": "data"},
        documents=documents,
        token_bytes=token_bytes,
        in_vocabulary=None,
        steps=STEPS,
    )
    count = sum(document.num_losses for document in early.manifest.documents)
    for seed in range(2, 5):
        losses = planted_losses(seed, tuple(2 * step + 1 for step in STEPS), count)
        early.commit(seed, "one", np.array(STEPS, np.int32), losses, case.records(STEPS))
    return folder


@pytest.fixture(scope="module")
def found(planted):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(surrogates, "RESAMPLES", 5)
        patch.setattr(averages, "CURVES", 20)
        analyze(planted / "late")
        return join([str(planted / "late"), str(planted / "early")], planted / "out")


def test_a_shift_of_an_octave_is_found(planted, found):
    (pair,) = found.pairs
    assert (pair.first, pair.second) == ("late", "early")
    assert pair.both_share.value > 0.5
    assert pair.shift.low < -1 < pair.shift.high
    assert pair.shift.value == pytest.approx(-1, abs=0.15)
    assert pair.correlation > 0.95
    assert pair.difference_sd == pytest.approx(pair.seeds_sd, rel=0.4), "tokens differ by what seeds differ"
    said = " ".join(found.summary().split())
    assert "early against late: their identities differ in vary." in said
    assert "octaves earlier in early" in said and "-" not in said.split("on average ")[1].split(" octaves")[0]


def test_its_files_say_the_same(planted, found):
    out = planted / "out"
    table = pq.read_table(out / "joined.parquet")
    assert table.to_pylist() == found.table.to_pylist()
    assert len(table) == 2 * 5 * 5
    rows = table.slice(0, 2).to_pylist()
    assert [row["dataset"] for row in rows] == ["late", "early"]
    assert [row["seeds"] for row in rows] == [2, 3]
    both = [(one, other) for one, other in zip(table.to_pylist()[::2], table.to_pylist()[1::2], strict=True)]
    assert all((one["doc_id"], one["token_index"]) == (other["doc_id"], other["token_index"]) for one, other in both)
    for one, other in both:
        if one["time"] and other["time"]:
            assert other["difference"] == pytest.approx(np.log2((other["time"] + 1) / (one["time"] + 1)))
        else:
            assert other["difference"] is None
    stated = json.loads((out / "joined.json").read_text())
    assert stated == found.as_json()
    assert [dataset["name"] for dataset in stated["datasets"]] == ["late", "early"]
    assert stated["pairs"][0]["intervals"]["shift"] == [found.pairs[0].shift.low, found.pairs[0].shift.high]
    assert not (out / "late").exists(), "it has an analysis already"
    assert (out / "early/fits.parquet").exists() and not (planted / "early/analysis").exists()


def test_an_analysis_of_fewer_seeds_than_there_are_is_not_used(planted, found, tmp_path, monkeypatch):
    older, made = dataclasses.replace(found.runs[0].found, seeds=[0]), []
    monkeypatch.setattr("discreteness.analysis.joined_runs.load", lambda uri: older)
    monkeypatch.setattr("discreteness.analysis.joined_runs.analyze", lambda *arguments: made.append(arguments))
    analysed([open_dataset(planted / "late")], tmp_path)
    assert made == [(str(planted / "late"), f"{tmp_path}/late")]


def test_names_of_the_figure_lie_over_nothing(found):
    figure = joined_figure(found)
    figure.draw_without_rendering()
    left, right = figure.axes
    said = [Text.get_window_extent(text) for text in left.texts]
    assert len(said) == 1 and not any(one.overlaps(other) for one, other in combinations(said, 2))
    assert left.get_xlabel() == "update, late" and left.get_ylabel() == "update, early"
    assert [text.get_text() for text in right.get_legend().get_texts()] == ["late", "early"]
    legend = right.get_legend().get_window_extent()
    heights = [patch.get_data().values.max() for patch in right.patches]
    assert right.transData.transform((1, max(heights)))[1] <= legend.y0, "it is above what is drawn"


# ---- refused


def test_datasets_that_cannot_be_compared_are_refused_by_name(planted, tmp_path):
    late = str(planted / "late")
    with pytest.raises(ValueError, match="name it with --output"):
        Analyze(late, others=(late,))()
    with pytest.raises(ValueError, match=r"late is named twice"):
        join([late, late], tmp_path / "out")
    case.create(tmp_path / "empty")
    with pytest.raises(ValueError, match=r"no seed is committed in .*empty"):
        join([late, str(tmp_path / "empty")], tmp_path / "out")
    texts = {**TEXTS, "00": "a bee seas"}  # one token is another
    create_planted(tmp_path / "other", *text_documents(texts), STEPS, range(1))
    with pytest.raises(ValueError, match=r"other holds other documents than .*late"):
        join([late, str(tmp_path / "other")], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_datasets_of_equal_names_are_numbered(planted, tmp_path):
    for folder in "a", "b":
        case.create(tmp_path / folder / "set")
    datasets = [open_dataset(path) for path in (tmp_path / "a/set", planted / "late", tmp_path / "b/set")]
    assert names(datasets) == ["set-1", "late", "set-3"]
