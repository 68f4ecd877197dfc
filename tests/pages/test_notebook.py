"""docs/dataset_to_figure.ipynb: its cells, run one after another on a planted dataset, draw what the dataset holds."""

import io
import json
from contextlib import redirect_stdout

import matplotlib
import numpy as np
import pyarrow.parquet as pq
import pytest

import discreteness
from discreteness.analysis.analyze import analyze
from tests.conftest import ROOT
from tests.support.odd_place import ODD
from tests.support.planted_dataset import create_planted, log_plan, text_documents

PATH = ROOT / "docs" / "dataset_to_figure.ipynb"
NOTEBOOK = json.loads(PATH.read_text())
PLAN = log_plan(24, 200)


CODE = [cell for cell in NOTEBOOK["cells"] if cell["cell_type"] == "code"]


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """Folder, names after the last cell, and what each cell printed. They run as in Jupyter: in docs/, beside runs/."""
    folder = tmp_path_factory.mktemp("notebook") / ODD
    documents, token_bytes = text_documents({"first.txt": "one two three fóur five six seven", "second.txt": "a bee"})
    create_planted(folder / "runs" / "first", documents, token_bytes, PLAN, seeds=(0, 1, 5))
    analyze(folder / "runs" / "first")
    (folder / "docs").mkdir()
    names, printed = {}, []
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder / "docs")
        matplotlib.use("Agg")
        for cell in CODE:
            with redirect_stdout(io.StringIO()) as text:
                exec(compile("".join(cell["source"]), f"docs/dataset_to_figure.ipynb {cell['id']}", "exec"), names)
            printed.append(text.getvalue())
    yield folder, names, printed
    names["plt"].close("all")


def test_it_is_a_notebook_that_was_run_once_from_its_beginning():
    assert (NOTEBOOK["nbformat"], NOTEBOOK["metadata"]["kernelspec"]["name"]) == (4, "python3")
    assert len({cell["id"] for cell in NOTEBOOK["cells"]}) == len(NOTEBOOK["cells"])
    assert [cell["execution_count"] for cell in CODE] == [*range(1, len(CODE) + 1)]
    assert len(PATH.read_bytes()) < 300_000


def test_each_stored_output_is_of_a_cell_that_gives_one(ran):
    _, _, printed = ran
    stored = [{output["output_type"] for output in cell["outputs"]} for cell in CODE]
    assert ["stream" in kinds for kinds in stored] == [bool(text) for text in printed]
    assert stored[0] == {"execute_result"} and stored[-1] == {"display_data"}, "the dataset, and the figure"
    text = json.dumps(CODE)
    assert "4 (0 to 3)" in text and "/tmp/" not in text, "of the run that README's quick start makes"


def test_the_shares_are_those_of_the_curves_that_were_fitted(ran):
    folder, _, printed = ran
    is_drop = pq.read_table(folder / "runs" / "first" / "analysis" / "fits.parquet")["is_drop"].to_numpy()
    shares = dict(line.split()[:2] for line in printed[2].splitlines())
    assert shares["drop_share"] == f"{is_drop.mean():.1%}"
    assert set(shares) > {"drop_share", "expected_false_share"}, "never without what chance would give"


def test_the_table_is_of_the_tokens_that_drop_in_every_seed(ran):
    _, names, printed = ran
    rows = names["everywhere"]
    assert (
        rows and printed[3].splitlines()[0] == f"{len(rows)} of {len(names['tokens'])} tokens have a drop in every seed"
    )
    assert [row["document"] for row in rows[:10]] == [line.split()[0] for line in printed[3].splitlines()[2:]]
    sharpness = [row["fall"] / row["width"] for row in rows]
    assert sharpness == sorted(sharpness, reverse=True)


def test_the_figure_shows_the_datasets_curves(ran):
    folder, names, _ = ran
    assert (folder / "docs" / "figure.png").read_bytes().startswith(b"\x89PNG")
    dataset = discreteness.open(folder / "runs" / "first")
    documents, seeds = (axes.get_lines() for axes in (names["left"], names["right"]))
    assert (len(documents), len(seeds)) == (2, 3)
    for line in [*documents, *seeds]:
        assert line.get_xdata().tolist() == [step + 1 for step in PLAN]
    for line, expected in zip(documents, dataset.mean_curves().mean(axis=1), strict=True):
        assert np.array_equal(line.get_ydata(), expected)
    for line, expected in zip(seeds, dataset.losses(names["document"], token=names["token"]), strict=True):
        assert np.array_equal(line.get_ydata(), expected)


def test_the_token_is_one_of_those_that_were_planted_to_drop(ran):
    """Token after token, of both documents: every fifth falls slowly, every seventh is not learned by all."""
    folder, names, printed = ran
    first = discreteness.open(folder / "runs" / "first").documents[0].num_losses
    index = names["token"] - 1 + (first if names["document"] == "second.txt" else 0)
    assert index % 5 != 4 and index % 7 != 6
    assert names["right"].get_title() == f"token {names['token']} of {names['document']}, every seed"
    assert printed[4].endswith(f"-> {names['text'][names['token'] - 1]!r}\n")
