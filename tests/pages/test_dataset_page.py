"""docs/dataset.md: its layout names all that is ever written; its recipes are run and compared with the losses."""

import ast
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from speedrun.model.gpt import GPT
from speedrun.schedules import forward_state
from speedrun.tracks import tiny

from discreteness.analysis.analyze import analyze
from discreteness.checkpoint.header import CheckpointHeader
from discreteness.checkpoint.layout import CheckpointLayout
from discreteness.checkpoint.safetensors_file import WeightsFormat
from discreteness.dataset import paths
from discreteness.dataset import storage as storage_module
from discreteness.dataset.by_token.compaction import compact
from discreteness.dataset.lock import DatasetLock
from discreteness.dataset.storage import Storage
from discreteness.experiment.annotate import annotate
from discreteness.recording.kept_rows import KeptRows, Row
from tests.conftest import ROOT
from tests.support.dataset_case import DOCUMENTS, STEPS, commit, create, losses, token_bytes
from tests.support.odd_place import ODD, SIBLING
from tests.support.planted_dataset import commit_planted, create_planted, log_plan, show_running

SEEDS = (0, 2, 3)
EXPECTED = np.stack([losses(seed) for seed in SEEDS])
"""[seeds, steps, losses]; a.txt has the first three."""


@pytest.fixture(scope="module", params=["committed", "compacted", "odd"])
def found(request, tmp_path_factory):
    """Names that the page's blocks define, run one after another where runs/first, or ODD, is a dataset."""
    folder = tmp_path_factory.mktemp(request.param)
    place = f"runs/{ODD}" if request.param == "odd" else "runs/first"
    commit(create(folder / "runs" / SIBLING), 77)
    dataset = create(folder / place)
    for seed in SEEDS:
        commit(dataset, seed)
    if request.param == "compacted":
        compact(dataset.storage)
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "dataset.md").read_text(), re.S)
    assert len(blocks) == 5
    names = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for block in blocks:
            exec(compile(block.replace("runs/first", place), "docs/dataset.md", "exec"), names)
    return names


def test_losses_are_chosen_by_token_step_seed_and_answer(found):
    assert np.array_equal(found["one_token"], EXPECTED[:, :, 2])
    assert np.array_equal(found["one_step"], EXPECTED[:, 3, :3])
    assert np.array_equal(found["early"], EXPECTED[:, :3, :3])
    assert np.array_equal(found["answers"], EXPECTED[:2, :, 2:3])
    assert (found["names"], found["listing"]["tokens"].tolist()) == (["a.txt", "b.txt", "c"], [3, 1, 2])
    (curves,) = found["curves"]
    assert np.array_equal(curves, EXPECTED[:, :, :2])
    assert np.array_equal(found["some"], EXPECTED[:, :, [0, 2]])
    assert np.array_equal(found["whole"], EXPECTED[1])
    assert found["largest"] == EXPECTED.max()
    means = np.stack([EXPECTED[:, :, columns].mean(2, np.float64) for columns in (slice(3), [3], [4, 5])])
    assert np.array_equal(found["means"], means)


def test_duckdb_polars_pandas_and_xarray_find_the_same(found):
    mean = EXPECTED[:, :, 2].mean(0, np.float64)
    assert found["by_duckdb"] == list(zip(STEPS, mean.tolist(), strict=True))
    assert found["by_polars"].rows() == found["by_duckdb"]
    assert found["by_pandas"].index.tolist() == list(STEPS) and found["by_pandas"].columns.tolist() == list(SEEDS)
    assert np.array_equal(found["by_pandas"].to_numpy(), EXPECTED[:, :, 2].T)
    array = found["by_xarray"]
    assert np.array_equal(array.values, EXPECTED[:, :, 2]) and array.dims == ("seed", "step")
    assert float(array.sel(seed=2, step=5)) == 2005.25
    assert (str(array.text.values), bool(array.answer)) == ("\x07", True)


def test_the_files_alone_say_the_same(found):
    rows = [(s, t, float(EXPECTED[i, j, 2])) for i, s in enumerate(SEEDS) for j, t in enumerate(STEPS)]
    assert found["duckdb_files"] == rows
    assert found["polars_files"].rows() == rows
    assert found["arrow_files"]["losses"].to_pylist()[:2] == [[0.0, 0.125, 0.25], [1.0, 1.125, 1.25]]


BLOCK = re.search(r"## Layout\n\n```\n(.*?)```", (ROOT / "docs/dataset.md").read_text(), re.S)[1]
LAYOUT = re.findall(r"^  (\S+)  ", BLOCK, re.M)
"""Files, and folders, as the page names them."""


def kind(name):
    """A file's name with one sign for each number and id."""
    name = re.sub(r"<\w+>|[0-9a-f]{12,}|attempt-\d+|\d{8}T\d+\.\d+-[0-9a-f]{8}", "?", name)
    return re.sub(r"\d+", "?", name).replace("?T?.?-?", "?")


def of_the_layout(name):
    """Which entry of the layout a file belongs to."""
    return next((entry for entry in LAYOUT if kind(name) == kind(entry) or name.startswith(entry)), None)


@pytest.fixture
def written(monkeypatch, tmp_path):
    """Names below a dataset of all files that its writers put there, for good or for a moment."""
    root, names = tmp_path / "runs" / "first", []
    really_write, really_fsync = Storage.write, storage_module._fsync

    def write(storage, name, content, durable=True):
        names.append(name)
        really_write(storage, name, content, durable)

    def fsync(path):
        """Of a file under the name that it has until it is whole, then of the folder that it is moved to."""
        if Path(path).is_file():
            names.append(Path(path).relative_to(root).as_posix())
        really_fsync(path)

    def look():
        names.extend(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())

    monkeypatch.setattr(Storage, "write", write)
    monkeypatch.setattr(storage_module, "_fsync", fsync)
    with DatasetLock(root):
        dataset = create_planted(root, DOCUMENTS, token_bytes, log_plan(12, 300), range(3))
        dataset.log_job(range(4), 3)
        show_running(dataset, 3, 4)
        Path(root, "losses/seed=00001.parquet").write_bytes(b"damaged")
        commit_planted(dataset, 1)
        dataset.storage.write(*weights())
        look()
    compact(dataset.storage)
    analyze(root)
    annotate(root)
    KeptRows(dataset.storage, 4, "attempt-4").write(Row(0, np.zeros(1, np.float32), {}, {}))
    dataset.storage.write(paths.MERGE_FILE, b"{}")  # as `merge` does first; tests/dataset/test_merge.py has a real one
    look()
    return set(names)


def weights():
    """A file of kept weights of the tiny track, all zeros."""
    layout, state = CheckpointLayout.from_model(GPT(tiny.model, torch.float32, "meta")), forward_state(tiny, 20)
    data = np.zeros(layout.num_bytes(state.tied), np.uint8)
    about = {"seed": 1, "attempt": "attempt-1", "step": 20, "layout": layout.fingerprint}
    return WeightsFormat(tiny).file(data, CheckpointHeader(**about, state=state, num_bytes=data.nbytes))


def test_the_layout_names_all_that_is_written_and_nothing_else(written):
    assert {name for name in written if not of_the_layout(name)} == set()
    assert set(LAYOUT) - {of_the_layout(name) for name in written} == set()


def test_the_layout_names_every_folder_that_the_sources_name():
    """Also those that the fixture above would not write."""
    folders = {entry.partition("/")[0] for entry in LAYOUT if "/" in entry}
    sources = [path for path in (ROOT / "discreteness").rglob("*.py") if "storage" in path.read_text()]
    sources.remove(ROOT / "discreteness/dataset/export/tensorboard.py")  # whose tags look like paths
    sources.remove(ROOT / "discreteness/dataset/hub_storage.py")  # "datasets/" is the hub's
    texts = [
        node.value
        for path in sources
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    ]
    named = {found[1] for text in texts if (found := re.fullmatch(r"(\w+)/(seed=)?(\w+\.\w+)?", text))}
    named |= {text for text in texts if re.fullmatch(r"_(?!_)[a-z]+", text)}
    named |= {value for name, value in vars(paths).items() if name.endswith("_FOLDER")}
    named |= {paths.STAGING, paths.RUNNING, paths.REJECTED}
    assert {"losses", "weights", "_staging", "_running"} <= named
    assert named - folders == set()
