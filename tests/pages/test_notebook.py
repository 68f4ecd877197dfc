"""docs/dataset_to_figure.ipynb: its cells, run one after another on a planted dataset, draw what the dataset holds."""

import json

import matplotlib
import numpy as np
import pytest

import discreteness
from tests.conftest import ROOT
from tests.support.planted_dataset import create_planted, log_plan, text_documents

NOTEBOOK = json.loads((ROOT / "docs" / "dataset_to_figure.ipynb").read_text())
PLAN = log_plan(24, 200)


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """Folder and names after the last cell, as Jupyter runs them: in docs/, beside runs/."""
    folder = tmp_path_factory.mktemp("notebook")
    documents, token_bytes = text_documents({"first.txt": "one two three fóur five six seven", "second.txt": "a bee"})
    create_planted(folder / "runs" / "first", documents, token_bytes, PLAN, seeds=(0, 1, 5))
    (folder / "docs").mkdir()
    names = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder / "docs")
        matplotlib.use("Agg")
        for cell in NOTEBOOK["cells"]:
            if cell["cell_type"] == "code":
                exec(compile("".join(cell["source"]), f"docs/dataset_to_figure.ipynb {cell['id']}", "exec"), names)
    yield folder, names
    names["plt"].close("all")


def test_it_is_a_notebook_without_stored_outputs():
    assert (NOTEBOOK["nbformat"], NOTEBOOK["metadata"]["kernelspec"]["name"]) == (4, "python3")
    assert len({cell["id"] for cell in NOTEBOOK["cells"]}) == len(NOTEBOOK["cells"])
    for cell in NOTEBOOK["cells"]:
        assert set(cell) == {"id", "cell_type", "metadata", "source"} | (
            {"outputs", "execution_count"} if cell["cell_type"] == "code" else set()
        )
        assert not cell.get("outputs")


def test_the_figure_shows_the_datasets_curves(ran):
    folder, names = ran
    assert (folder / "docs" / "figure.png").read_bytes().startswith(b"\x89PNG")
    dataset = discreteness.open(folder / "runs" / "first")
    documents, seeds = (axes.get_lines() for axes in (names["left"], names["right"]))
    assert (len(documents), len(seeds)) == (2, 3)
    for line in [*documents, *seeds]:
        assert line.get_xdata().tolist() == [step + 1 for step in PLAN]
    for line, expected in zip(documents, dataset.mean_curves().mean(axis=1), strict=True):
        assert np.array_equal(line.get_ydata(), expected)
    for line, expected in zip(seeds, dataset.losses("first.txt", token=names["token"]), strict=True):
        assert np.array_equal(line.get_ydata(), expected)


def test_the_token_is_one_of_those_that_were_planted_to_step(ran):
    _, names = ran
    index = names["token"] - 1
    assert index % 5 != 4 and index % 7 != 6
    assert names["right"].get_title() == f"token {names['token']} of first.txt, every seed"
