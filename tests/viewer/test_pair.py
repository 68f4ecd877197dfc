"""Two datasets laid over each other: what they have in common, refusals, and the curves of both against NumPy."""

import csv
import re

import numpy as np
import pytest

import discreteness
from discreteness.viewer.pair import Pair
from discreteness.viewer.server import application
from tests.support.chromium import until
from tests.support.planted_dataset import commit_planted, create_planted, log_plan, text_documents

pytest_plugins = ["tests.support.browsing"]

PLAN = log_plan(24, 2000)
FEWER = tuple(step for step in PLAN if step % 2 == 0)
FIRST = {"other.txt": "a bee", "one.txt": "a bee sees two", "mine.txt": "the sun"}
SECOND = {"one.txt": "a bee sees two", "other.txt": "a cow"}
CHART = 'import("/page/panel.js").then(({ chart }) => %s)'


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """Document `one.txt` is in both, with another id; `other.txt` has other tokens; every other step is in both."""
    folder = tmp_path_factory.mktemp("pair")
    create_planted(folder / "a", *text_documents(FIRST), PLAN, range(3))
    second = create_planted(folder / "b", *text_documents(SECOND), FEWER, [7, 8])
    return folder / "a", folder / "b", second


def test_documents_are_matched_by_name_and_tokens_and_the_rest_is_said(planted):
    first, second, _ = planted
    pair = Pair.of(discreteness.open(first), discreteness.open(second))
    assert [(here.doc_id, there.doc_id) for here, there in pair.documents] == [(1, 0)]
    assert pair.steps == list(FEWER)
    assert pair.left_out == [
        f"{len(PLAN) - len(FEWER)} checkpoints of the first",
        "documents that the second does not have: mine.txt",
        "documents with other tokens there: other.txt",
    ]
    whole = Pair.of(discreteness.open(first), discreteness.open(first))
    assert len(whole.documents) == 3 and whole.steps == list(PLAN) and whole.left_out == []


def test_what_has_nothing_in_common_is_refused_by_name(planted, tmp_path):
    first, *_ = planted
    create_planted(tmp_path / "texts", *text_documents({"one.txt": "a cow"}), PLAN, [0])
    create_planted(tmp_path / "names", *text_documents({"two.txt": "a bee sees two"}), PLAN, [0])
    create_planted(tmp_path / "steps", *text_documents(FIRST), (0, 1999), [0])
    for name, words in (
        ("texts", "no document in common, by name and tokens; with other tokens in the second: one.txt"),
        ("names", "no document in common, by name and tokens"),
        ("steps", "have 1 checkpoints at the same step: 0, 1, 2"),
        ("nowhere", "is not a dataset"),
    ):
        with pytest.raises((ValueError, FileNotFoundError), match=re.escape(words)) as refused:
            application(first, beside=tmp_path / name)
        assert str(tmp_path / name) in str(refused.value)


def test_curves_of_both_lie_over_each_other(new_page, serve_here, planted):
    first, second, writer = planted
    page = new_page(serve_here.app(application(first, beside=second)) + "?document=one.txt&token=3")
    until(page, "document.querySelector('#chart').dataset.curves === '5'")
    assert page.inner_text("#dataset") == "a and b" and page.locator("#documents button").count() == 1
    assert "mine.txt" in page.inner_text("#copy")
    steps = list(FEWER)
    ours, theirs = discreteness.open(first).losses("one.txt", 3, steps=steps), discreteness.open(second).losses(0, 3)
    drawn = page.evaluate(CHART % "chart.tokens.map(({ curves: c }) => [[...c.losses], [...c.mean]])")
    for (losses, mean), expected in zip(drawn, (ours, theirs), strict=True):
        np.testing.assert_array_equal(np.float32(losses), expected.ravel())
        np.testing.assert_allclose(mean, expected.mean(axis=0, dtype=np.float64), rtol=1e-6)
    chips = page.locator("#chips li span").all_inner_texts()
    assert [chip.split(" ", 1)[1] for chip in chips] == ["a: one.txt:3", "b: one.txt:3"]
    final = theirs[:, -1].astype(np.float64)
    said = dict(zip(*(page.locator(f"#numbers {tag}").all_inner_texts() for tag in ("dt", "dd")), strict=True))
    shown = [float(number) for number in re.findall(r"\d+\.?\d*", said["final loss in b"])]
    assert shown == [pytest.approx(n, rel=6e-3) for n in (np.median(final), final.min(), final.max())] + [2]
    with page.expect_download() as saved:
        page.click("#csv")
    rows = list(csv.DictReader(saved.value.path().read_text().splitlines()))
    for name, doc_id, seeds, losses in (("a", "1", [0, 1, 2], ours), ("b", "0", [7, 8], theirs)):
        mine = [row for row in rows if row["dataset"] == name]
        assert {row["doc_id"] for row in mine} == {doc_id} and [int(row["step"]) for row in mine] == steps
        table = np.float32([[float(row[f"seed_{seed}"]) for row in mine] for seed in seeds])
        np.testing.assert_array_equal(table, losses)

    # Fits of both; a seed that comes to the second; and the first alone.
    page.keyboard.press("f")
    until(page, "document.querySelector('#chart').dataset.fits === '2'")
    commit_planted(writer, 9)
    until(page, "document.querySelector('#chart').dataset.curves === '6'")
    page.click("#beside")
    until(page, "document.querySelector('#chart').dataset.curves === '3'")
    until(page, "location.search.includes('beside=0')")
