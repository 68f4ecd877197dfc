"""Spectra, what seeds share, tables and pictures: planted experiments analysed from end to end."""

import dataclasses
import json

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from benchmarks.planted import noise, sigmoid
from discreteness.analysis import surrogates
from discreteness.analysis.analyze import analyze
from discreteness.analysis.fits import fit, octaves
from discreteness.analysis.spectrum import spectrum
from discreteness.analysis.summary import summary
from discreteness.analysis.tables import COLUMNS, NUMBERS_FILE, load, write_tables
from discreteness.cli.dataset_commands import Analyze
from discreteness.dataset.reader import open as open_dataset
from discreteness.experiment.checkpoint_steps import parse_checkpoints
from tests.support import dataset_case as case

STEPS = np.array(parse_checkpoints("log:40", 500))
X = octaves(STEPS)


@pytest.fixture(scope="module", autouse=True)
def few_resamples():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(surrogates, "RESAMPLES", 5)
        yield


@pytest.fixture(scope="module")
def found(dataset):
    return analyze(dataset)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """Six tokens, four seeds. Token 1 drops at update 60 in every seed, token 2 at 20 or 200, the others are smooth."""
    path = tmp_path_factory.mktemp("analysis") / "set"
    dataset = case.create(path, steps=tuple(STEPS.tolist()))
    random = np.random.default_rng(0)
    for seed in range(4):
        curves = np.stack([10 - (0.5 + 0.05 * token) * X for token in range(case.TOTAL)])
        for token, time in ((0, 60), (1, 20 if seed % 2 else 200)):
            curves[token] = 0.3 + 7 * sigmoid(X, np.array([np.log2(time + 1)]), np.array([0.8]))[0]
        losses = (curves + noise(random, STEPS, case.TOTAL, 0.05)).T.astype(np.float32)
        dataset.commit(seed, "one", STEPS.astype(np.int32), losses, records())
    return path


def records():
    steps = STEPS.tolist()
    return pa.table({"step": steps, "train_loss": [5.0] * len(steps), "val_loss": [None] * (len(steps) - 1) + [4.0]})


def test_a_planted_experiment_is_read_back_from_its_tables(dataset, found):
    assert found.fits.num_rows == 4 * case.TOTAL
    keys = list(zip(*(found.fits[name].to_pylist() for name in ("doc_id", "token_index", "seed")), strict=True))
    assert keys == sorted(keys)
    assert keys[:4] == [(0, 1, 0), (0, 1, 1), (0, 1, 2), (0, 1, 3)]
    words = [("a.txt", "\x05"), ("a.txt", "\x06"), ("a.txt", "\x07"), ("b.txt", "\ufffd"), ("c", "\x01"), ("c", "\x02")]
    for table, count in (found.tokens, 1), (found.fits, 4):
        named = list(zip(table["document"].to_pylist(), table["token"].to_pylist(), strict=True))
        assert named == [pair for pair in words for _ in range(count)]
    tokens = found.tokens.to_pylist()
    assert [row["drop_share"] for row in tokens] == [1, 1, 0, 0, 0, 0]
    assert tokens[0]["time"] == pytest.approx(60, rel=0.05)
    assert tokens[0]["time_spread"] < 0.05
    assert (tokens[0]["event_share"], tokens[0]["num_events"]) == (1, 1)
    assert min(abs(tokens[1]["time"] / time - 1) for time in (20, 200)) < 0.05, "not 63, where no seed drops"
    assert tokens[1]["time_spread"] < 0.05
    assert [row["learned_share"] for row in tokens] == [1, 1, 0, 0, 0, 0]
    assert tokens[2]["time"] is None
    assert tokens[0]["two_groups_q"] is None, "four seeds cannot show two groups"
    assert tokens[0]["final_loss"] == pytest.approx(0.3, abs=0.1)
    again = load(dataset)
    assert again.seeds == [0, 1, 2, 3]
    for name in COLUMNS:
        assert getattr(again, name).to_pylist() == getattr(found, name).to_pylist()
    assert again.numbers.as_json() == found.numbers.as_json()
    text = summary(open_dataset(dataset), found)
    assert "2 of 6 tokens have a drop in every seed, 4 in none, 0 in some" in text
    assert "seeds: different weights, the same data in the same order" in text.splitlines()


def test_numbers_as_json_are_those_of_the_tables(dataset, found, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr("discreteness.analysis.analyze.analyze", lambda *arguments: found)
    monkeypatch.setattr("discreteness.analysis.figures.draw.draw", lambda *arguments: None)  # the next test draws them
    assert Analyze(str(dataset), output=str(tmp_path), json=True)() == 0
    stated = json.loads(capsys.readouterr().out)
    assert stated["drop_share"] == np.mean(found.fits["is_drop"].to_pylist()) == 1 / 3
    assert stated["curves"] == 24 and stated["changes"] == []
    dropped = found.fits.filter(found.fits["is_drop"])
    assert stated["common_share"] == np.mean(dropped["common"].to_pylist())
    assert stated["stable_share"] == np.mean(dropped["stable"].to_pylist()) == 1
    assert stated["fall_share_in_drops"] == pytest.approx(
        np.sum(found.fits["fall_in_drops"].to_pylist()) / np.sum(found.fits["fall"].to_pylist())
    )


def test_the_command_writes_tables_pictures_and_a_summary(program, dataset, tmp_path):
    run = program(
        "-m", "discreteness", "analyze", dataset, "--output", tmp_path / "out", "--figure", tmp_path / "one.png"
    )
    assert run.wait() == 0, run.output
    assert "4 seeds x 40 checkpoints x 3 documents = 480 rows" in run.output
    names = {path.name for path in (tmp_path / "out").iterdir()} - {"_staging"}
    pictures = {
        f"{name}.{kind}"
        for name in ("overview", "curves", "nulls", "raster", "seeds", "spectrum", "categories")
        for kind in ("png", "svg")
    }
    assert names == pictures | {f"{name}.parquet" for name in COLUMNS} | {NUMBERS_FILE}
    assert (tmp_path / "one.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "out/curves.svg").read_text().count("<path") > 50
    assert load(dataset, tmp_path / "out").seeds == [0, 1, 2, 3]


def test_where_it_writes_is_tried_before_the_fits(dataset, tmp_path, monkeypatch):
    monkeypatch.setattr("discreteness.analysis.analyze.analyze", lambda *arguments: pytest.fail("it fits already"))
    (tmp_path / "file").write_text("")
    for place in {"output": "file/out"}, {"output": "out", "figure": "file/one.png"}:
        with pytest.raises(OSError, match=r"not a folder|Not a directory"):
            Analyze(str(dataset), **{name: str(tmp_path / path) for name, path in place.items()})()


def test_what_was_not_analysed_or_is_damaged_is_said(dataset, found, tmp_path):
    with pytest.raises(FileNotFoundError, match="run: discreteness analyze"):
        load(dataset, tmp_path / "nothing")
    for name in (NUMBERS_FILE, "fits.parquet"):
        write_tables(found, open_dataset(dataset), tmp_path)
        (tmp_path / name).write_bytes(b"{}")
        with pytest.raises(ValueError, match=f"{name} is damaged"):
            load(dataset, tmp_path)
        (tmp_path / name).unlink()
        with pytest.raises(FileNotFoundError, match=f"{name} does not exist; run: discreteness analyze"):
            load(dataset, tmp_path)


@pytest.mark.parametrize(("name", "column"), [("fits", "is_drop"), ("tokens", "drop_share"), ("spectrum", "by_drops")])
def test_tables_with_the_columns_of_another_version_are_refused(dataset, found, tmp_path, name, column):
    write_tables(found, open_dataset(dataset), tmp_path)
    table = pq.read_table(tmp_path / f"{name}.parquet")
    assert table.column_names == COLUMNS[name].split()
    old = table.rename_columns([column.replace("drop", "step") if one == column else one for one in table.column_names])
    pq.write_table(old.replace_schema_metadata(table.schema.metadata), tmp_path / f"{name}.parquet")
    with pytest.raises(ValueError, match=f"another version, without {column}; run: discreteness analyze"):
        load(dataset, tmp_path)


def test_too_few_checkpoints_and_no_seeds_are_refused(tmp_path):
    dataset = case.create(tmp_path / "set")
    with pytest.raises(ValueError, match="no seed is committed"):
        analyze(tmp_path / "set")
    case.commit(dataset, 0)
    with pytest.raises(ValueError, match="4 checkpoints, too few"):
        analyze(tmp_path / "set")
    assert not (tmp_path / "set/analysis").exists()


def test_the_spectrum_of_drops_rebuilds_the_smooth_mean_that_they_add_up_to():
    """Two hundred sharp drops at times spread evenly over log step: their mean is a straight line."""
    random = np.random.default_rng(0)
    steps = np.array(parse_checkpoints("log:200", 1840))
    x, centers = octaves(steps), random.uniform(3, 9.5, 200)
    losses = 1 + 6 * sigmoid(x, centers, np.full(200, 0.5)) + noise(random, steps, 200, 0.1)
    found = spectrum(losses, steps, fit(losses, steps))
    steady = slice(7, 18)  # octaves 3.5 to 9, in which the mean falls steadily
    for name, error in ("rebuilt", 0.06), ("by_drops", 0.1), ("at_times", 0.5):
        assert getattr(found, name)[steady] == pytest.approx(found.measured[steady], rel=error), name
    assert found.drops.sum() == pytest.approx(200, abs=8)
    assert found.at_times.sum() == pytest.approx(200 * 6, rel=0.03)
    whole = found.measured.sum()
    assert whole == pytest.approx((losses[:, 0] - losses[:, -1]).sum(), rel=1e-6)


def test_spectra_add():
    random = np.random.default_rng(0)
    losses = 1 + 6 * sigmoid(X, random.uniform(2, 7, 10), np.full(10, 0.5))
    fits = fit(losses, STEPS)
    parts = [spectrum(losses[rows], STEPS, fits[rows]) for rows in (slice(0, 4), slice(4, 10))]
    whole, summed = spectrum(losses, STEPS, fits), parts[0] + parts[1]
    for field in dataclasses.fields(whole):
        assert getattr(summed, field.name) == pytest.approx(getattr(whole, field.name), abs=1e-9)


def test_medians_in_the_table_of_tokens_are_of_its_own_fits(found):
    """Token 2 drops early in odd seeds and late in even ones: two events, of which the higher one counts."""
    fits = found.fits.filter((pc.field("doc_id") == 0) & (pc.field("token_index") == 2)).to_pylist()
    assert len(fits) == 4 and all(row["is_drop"] for row in fits)
    late = max(fits[:2], key=lambda row: row["high"] - row["low"])["time"] > 100
    alike = [row for row in fits if (row["time"] > 100) == late]
    token = found.tokens.to_pylist()[1]
    assert (len(alike), token["event_share"], token["num_events"]) == (2, 0.5, 2)
    for name, values in {
        "time": [row["time"] for row in alike],
        "width": [row["width"] for row in alike],
        "fall": [row["high"] - row["low"] for row in alike],
    }.items():
        assert token[name] == pytest.approx(np.median(values), rel=1e-9), name
