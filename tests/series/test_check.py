"""Integrity of a series before anything is scored: `check-series`, the warning of a run, and what `verify` says."""

import shutil

import pytest

from discreteness.cli.dataset_commands import Verify
from discreteness.cli.series_commands import CheckSeries
from discreteness.service.inline_series import score_series_inline
from tests.support.hub_server import HubServer
from tests.support.series_case import series_config, served, write_series, write_texts

STEPS = (0, 1, 8, 1000)


def weights(step):
    return b"weights of step %d" % step


def branches(steps=STEPS):
    return {f"step{step}": {"config.json": b"{}", "model.safetensors": weights(step)} for step in steps}


@pytest.fixture
def hub(tmp_path, monkeypatch):
    models = {"o/good": branches(), "o/bad": branches()}
    with HubServer({}, models=models) as server, served(server, monkeypatch, tmp_path / "cache"):
        yield server


def test_a_good_series_has_no_problems(hub, capsys):
    assert CheckSeries(models=("o/good",))() == 0
    assert capsys.readouterr().out == "o/good: 4 checkpoints, steps 0 to 1000\nno problems\n"


def test_what_is_wrong_is_found_in_the_listing_alone(hub, capsys):
    bad = hub.models["o/bad"]
    bad["step1"]["model.safetensors"] = bad["step8"]["model.safetensors"] = weights(1000)
    del bad["step0"]["model.safetensors"]
    bad["step7"] = {**bad["step8"], "config.json": b""} | {"model.safetensors": b""}
    assert CheckSeries(models=("o/{good,bad}",), checkpoints="step*")() == 1
    assert capsys.readouterr().out.splitlines() == [
        "o/good: 4 checkpoints, steps 0 to 1000",
        "o/bad: 5 checkpoints, steps 0 to 1000",
        "o/good: lacks 1 steps that others have: 7",
        "step0 of o/bad: has no weights, neither model.safetensors nor pytorch_model.bin",
        "step7 of o/bad: model.safetensors is empty",
        "o/bad: 3 checkpoints have the same weights: steps 1, 8, 1000",
        "4 problems",
    ]
    assert hub.fetched() == []


def test_shards_count_as_one(hub, capsys):
    """Two checkpoints of which one of two files is equal have not the same weights."""
    for step, second in (0, b"a"), (1, b"b"), (8, b"b"):
        shards = {"model-00001-of-00002.safetensors": b"first", "model-00002-of-00002.safetensors": second}
        hub.models["o/good"][f"step{step}"] = {"config.json": b"{}", **shards}
    assert CheckSeries(models=("o/good",))() == 1
    assert "o/good: 2 checkpoints have the same weights: steps 1, 8\n1 problems" in capsys.readouterr().out


def test_equal_weights_of_a_folder_are_warned_of_and_verify_names_them(tmp_path, capsys):
    folder = write_series(tmp_path / "hf", "gpt2", models=1, steps=STEPS)
    write_texts(tmp_path / "texts")
    place = folder / "seed-0"
    shutil.copy(place / "checkpoint-1000" / "model.safetensors", place / "checkpoint-1" / "model.safetensors")
    said = "2 checkpoints have the same weights: steps 1, 1000"
    assert CheckSeries(models=(str(place),))() == 1
    assert f"{place}: {said}\n1 problems" in capsys.readouterr().out
    assert score_series_inline(series_config(tmp_path, models=(str(place),))) == 0
    assert f"warning: {place}: {said}" in capsys.readouterr().out
    assert Verify(str(tmp_path / "set"))() == 0
    assert capsys.readouterr().out == f"note: seed 0 ({place}): {said}\ncomplete and correct\n"
