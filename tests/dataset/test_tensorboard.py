"""What TensorBoard's own reader finds in an export: every value once, as float32; new seeds are added, whole."""

import sys

import numpy as np
import pyarrow as pa
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from discreteness.cli.dataset_commands import Export
from discreteness.dataset.export import tensorboard
from discreteness.dataset.export.tensorboard import export_tensorboard
from tests.support.dataset_case import DOCUMENTS, STEPS, commit, create, losses, names


def scalars(run):
    """{tag: {step: float}} of a run's folder."""
    found = EventAccumulator(str(run), size_guidance={"scalars": 0}).Reload()
    return {tag: {event.step: event.value for event in found.Scalars(tag)} for tag in found.Tags()["scalars"]}


@pytest.fixture
def dataset(tmp_path):
    dataset = create(tmp_path / "set")
    commit(dataset, 0)
    return dataset


def test_every_curve_is_there_as_float32_and_what_was_not_measured_is_absent(dataset, tmp_path):
    awkward = np.array([0.1, 1e-40, 3e38, 1 / 3, 16777217, 1e-3], np.float32)
    given = np.stack([awkward * scale for scale in (1, 0.5, 0.25, 0.75)])
    kept = {
        "train_loss": [None, 0.1, 1e-45, 7.0],
        "lr_multiplier": [1.0, 0.3, 0.2, 0.1],
        "val_loss": [9.5, None, None, 1e-3],
    }
    dataset.commit(17, "two", np.array(STEPS), given, pa.table({"step": [0, 1, 2, 20], **kept}))
    assert export_tensorboard(dataset.uri, tmp_path / "board") == 2
    assert names(tmp_path / "board") == ["seed=00000-one", "seed=00017-two"]
    found = scalars(tmp_path / "board" / "seed=00017-two")
    expected = {
        "train/loss": {1: 0.1, 2: 1e-45, 20: 7.0},
        "train/lr_multiplier": {0: 1.0, 1: 0.3, 2: 0.2, 20: 0.1},
        "val/loss": {0: 9.5, 20: 1e-3},
    }
    first = 0
    for document in DOCUMENTS:
        size = len(document.token_ids) - 1
        means = given[:, first : first + size].mean(1, np.float64)
        expected[f"loss/{document.name}"] = dict(zip(STEPS, means, strict=True))
        first += size
    assert found.keys() == expected.keys()
    for tag, curve in expected.items():
        assert found[tag] == {step: float(np.float32(value)) for step, value in curve.items()}, tag
    assert scalars(tmp_path / "board" / "seed=00000-one")["loss/b.txt"] == {
        step: float(losses(0)[row, 3]) for row, step in enumerate(STEPS)
    }


def test_seeds_are_added_once_and_an_interruption_leaves_nothing_half(dataset, tmp_path, monkeypatch, capsys):
    board = tmp_path / "board"
    export = Export(dataset.uri, format="tensorboard", output=str(board))
    assert export() == 0
    before = {path: path.stat().st_mtime_ns for path in board.rglob("*")}
    commit(dataset, 3)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(tensorboard, "_write", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        export()
    assert names(board) == ["seed=00000-one"]
    assert export() == 0 and export() == 0
    assert "1 seeds added" in capsys.readouterr().out
    assert names(board) == ["seed=00000-one", "seed=00003-one"]
    assert all(path.stat().st_mtime_ns == when for path, when in before.items() if path != board)


def test_what_cannot_be_exported_is_said(dataset, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="no seed is committed"):
        export_tensorboard(create(tmp_path / "empty").uri, tmp_path / "board")
    with pytest.raises(ValueError, match="--precision float16"):
        Export(dataset.uri, format="tensorboard", output=str(tmp_path / "board"), precision="float16")()
    with pytest.raises(FileExistsError):
        (tmp_path / "file").write_text("")
        export_tensorboard(dataset.uri, tmp_path / "file")
    with pytest.raises(ValueError, match="local folder"):
        export_tensorboard(dataset.uri, "s3://bucket/board")
    for name in [name for name in sys.modules if name.startswith(("torch.utils.tensorboard", "tensorboard"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(ValueError, match=r"pip install 'discreteness\[tensorboard\]'"):
        export_tensorboard(dataset.uri, tmp_path / "board")
