"""The recipes of docs/dataset.md: every block of Python is run, and what it finds is compared with the losses."""

import re

import numpy as np
import pytest
from dataset_case import STEPS, commit, create, losses

from discreteness.compaction import compact
from tests.conftest import ROOT

SEEDS = (0, 2, 3)
EXPECTED = np.stack([losses(seed) for seed in SEEDS])
"""[seeds, steps, losses]; a.txt has the first three."""


@pytest.fixture(scope="module", params=["committed", "compacted"])
def found(request, tmp_path_factory):
    """Names that the page's blocks define, run one after another where runs/first is a dataset."""
    folder = tmp_path_factory.mktemp(request.param)
    dataset = create(folder / "runs" / "first")
    for seed in SEEDS:
        commit(dataset, seed)
    if request.param == "compacted":
        compact(dataset.storage)
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "dataset.md").read_text(), re.S)
    assert len(blocks) == 4
    names = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for block in blocks:
            exec(compile(block, "docs/dataset.md", "exec"), names)
    return names


def test_losses_are_chosen_by_token_step_seed_and_answer(found):
    assert np.array_equal(found["one_token"], EXPECTED[:, :, 2])
    assert np.array_equal(found["one_step"], EXPECTED[:, 3:, :3])
    assert np.array_equal(found["answers"], EXPECTED[:2, :, 2:3])
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
