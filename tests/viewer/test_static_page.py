"""`discreteness page`: one file that a browser shows from disk without network, its numbers NumPy's, its size kept."""

import csv
import re
import sys

import numpy as np
import pyarrow.compute as pc
import pytest

import discreteness
from discreteness.analysis.analyze import analyze
from discreteness.analysis.fits import fit
from discreteness.analysis.verdicts import judged
from discreteness.cli.main import main
from discreteness.viewer import one_file
from discreteness.viewer.excerpt import excerpt, thinned
from discreteness.viewer.part import Part
from discreteness.viewer.server import DROP_FINDER, GROWING, application
from discreteness.viewer.static_page import write_page
from tests.support.chromium import until
from tests.support.planted_dataset import commit_planted, create_planted, log_plan, show_running, text_documents

pytest_plugins = ["tests.support.browsing"]

PLAN = log_plan(56, 2000)
TEXTS = {"one.txt": "a bee sees two", "</script>.txt": "<!-- </script> sun", "three.txt": "one two"}
NUM_SEEDS = 10


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """With an analysis of its first ten seeds; one came since, one is in training."""
    folder = tmp_path_factory.mktemp("static") / "d"
    dataset = create_planted(folder, *text_documents(TEXTS), PLAN, range(NUM_SEEDS))
    found = analyze(folder)
    commit_planted(dataset, 40)
    show_running(dataset, 50, 20)
    return folder, found


@pytest.fixture(scope="module")
def whole(planted, tmp_path_factory):
    file = tmp_path_factory.mktemp("whole") / "whole.html"
    write_page(planted[0], file, 20)
    return file


def opened(new_page, file, query="", **options):
    page = new_page(file.as_uri() + query, offline=True, **options)
    assert page.evaluate("performance.getEntriesByType('resource').length") == 0, "nothing is asked for"
    return page


def test_a_page_from_disk_shows_what_the_dataset_has(new_page, planted, whole):
    folder, found = planted
    dataset = discreteness.open(folder)
    page = opened(new_page, whole)
    said = page.inner_text("#copy")
    assert said.endswith(
        "Left out for its size: 1 of 11 seeds. Means, spreads and bands are over all 11 seeds; lines, "
        "final losses and fits are of the 10 seeds that are here."
    )
    assert str(folder.parent) not in whole.read_text() and str(folder) not in page.content()

    # The overview is that of the server.
    assert page.locator("#heatmap .names button").all_inner_texts() == list(TEXTS)
    assert page.locator("#spectrum .bar").count() > 5 and page.locator("#table tbody tr").count() > 10

    # A document: every token has the color of its mean over all seeds.
    page.click("#heatmap .names button:nth-child(2)")
    until(page, "document.querySelector('[data-token=\"1\"]')?.style.backgroundColor > ''")
    losses = dataset.losses("</script>.txt")
    mean, deviation, num_seeds = page.evaluate(
        "modules.api.getFrame('/api/documents/1/summary').then((f) => [[...f.mean], [...f.deviation], f.num_seeds])"
    )
    np.testing.assert_allclose(mean, losses.mean(axis=0, dtype=np.float64).T.ravel(), rtol=1e-6)
    np.testing.assert_allclose(deviation, losses.std(axis=0, ddof=1, dtype=np.float64).T.ravel(), rtol=1e-4)
    assert num_seeds == NUM_SEEDS + 1

    # A token: its curves, their mean and band, its fits.
    page.click('[data-token="3"]')
    until(page, f"document.querySelector('#chart').dataset.curves === '{NUM_SEEDS}'")
    page.keyboard.press("f")
    until(page, f"document.querySelector('#chart').dataset.fits === '{NUM_SEEDS}'")
    curves = losses[:, :, 2].astype(np.float64)
    low, high, average = np.array(page.evaluate("modules.panel.chart.plot.data.slice(1).map((v) => Array.from(v))"))
    np.testing.assert_allclose([low, high], np.quantile(curves, [0.1, 0.9], axis=0), rtol=1e-5)
    np.testing.assert_allclose(average, curves.mean(axis=0), rtol=1e-6)
    fits = judged(fit(curves[:NUM_SEEDS], PLAN, found.noise), found.numbers.evidence)
    shown = page.evaluate("((f) => [[...f.fitted], [...f.time], [...f.is_drop]])(modules.panel.chart.tokens[0].fits)")
    np.testing.assert_allclose(shown[0], fits.curve(PLAN).ravel(), rtol=1e-5)
    np.testing.assert_allclose(shown[1], fits.time, rtol=1e-5)
    assert shown[2] == fits.is_drop.tolist()
    with page.expect_download() as saved:
        page.click("#csv")
    rows = list(csv.DictReader(saved.value.path().read_text().splitlines()))
    table = [[float(row[f"seed_{seed}"]) for row in rows] for seed in range(NUM_SEEDS)]
    np.testing.assert_array_equal(np.float32(table), losses[:NUM_SEEDS, :, 2])

    # One seed, and a link to all of it.
    page.select_option("#seed", "5")
    until(page, "document.querySelector('#legend').textContent.endsWith('seed 5')")
    of_seed = page.evaluate("modules.api.getFrame('/api/documents/1/seeds/5').then((f) => [...f.losses])")
    np.testing.assert_array_equal(np.float32(of_seed), losses[5].T.ravel())
    until(page, "location.search.includes('seed=5')")
    link = page.evaluate("location.search")
    again = opened(new_page, whole, link, viewport={"width": 390, "height": 800}, color_scheme="dark")
    until(again, "document.querySelector('.chosen')?.dataset.token === '3'")
    assert again.evaluate("document.documentElement.scrollWidth") <= 390


def test_nothing_but_the_pages_own_script_runs_and_nothing_is_fetched(new_page, whole):
    page = opened(new_page, whole, expected="Content Security Policy")
    added = "((script) => { script.textContent = 'window.owned = 1'; document.body.append(script); })"
    page.evaluate(f"{added}(document.createElement('script'))")
    assert page.evaluate("window.owned ?? null") is None
    assert page.evaluate("fetch('data:,x').then(() => 'came', () => 'refused')") == "refused"
    assert "unsafe" not in re.search(r'Policy" content="([^"]*)', whole.read_text())[1]
    assert not re.findall(r'(?:src|href)="(?!data:)[^"]*"', whole.read_text())


def test_a_page_that_is_too_large_is_thinned_and_says_how(new_page, planted, whole, tmp_path):
    folder, _ = planted
    size = whole.stat().st_size
    kept = write_page(folder, tmp_path / "small.html", (size - 8_000) / 1e6)
    assert (tmp_path / "small.html").stat().st_size <= size - 8_000
    assert 8 <= len(kept.seeds) < NUM_SEEDS and 48 <= len(kept.steps) < len(PLAN) and len(kept.documents) == 3
    page = opened(new_page, tmp_path / "small.html", "?document=one.txt&token=2&color=loss")
    until(page, f"document.querySelector('#chart').dataset.curves === '{len(kept.seeds)}'")
    said = page.inner_text("#copy")
    assert f"{11 - len(kept.seeds)} of 11 seeds, {56 - len(kept.steps)} of 56 checkpoints." in said
    assert page.evaluate("modules.shown.page.dataset.steps") == kept.steps
    losses = discreteness.open(folder).losses("one.txt", 2, steps=kept.steps)
    drawn = page.evaluate("((c) => [[...c.losses], [...c.mean]])(modules.panel.chart.tokens[0].curves)")
    np.testing.assert_array_equal(np.float32(drawn[0]), losses[kept.seeds].ravel())
    np.testing.assert_allclose(drawn[1], losses.mean(axis=0, dtype=np.float64), rtol=1e-6)
    page.keyboard.press("f")
    until(page, f"document.querySelector('#chart').dataset.fits === '{len(kept.seeds)}'")


def test_documents_go_last_and_what_does_not_fit_at_all_is_refused(planted):
    dataset = discreteness.open(planted[0])
    everything = excerpt(dataset, dataset.seeds, 1e9)
    assert (everything.seeds, everything.steps, everything.left_out) == (dataset.seeds, list(PLAN), [])
    kept = excerpt(dataset, dataset.seeds, 46_000)
    assert (len(kept.seeds), len(kept.steps), [one.name for one in kept.documents]) == (8, 48, ["one.txt", "three.txt"])
    assert kept.left_out == ["3 of 11 seeds", "8 of 56 checkpoints", "1 of 3 documents"]
    assert kept.seeds[0] == 0 and kept.seeds[-1] == 40
    with pytest.raises(ValueError, match=r"not one document fits.*give a --max-mb that is larger by 0.0"):
        excerpt(dataset, dataset.seeds, 100)


def test_fits_at_fewer_checkpoints_do_without_the_noise_of_the_analysis(planted):
    folder, found = planted
    dataset = discreteness.open(folder)
    for steps, noise in ((list(PLAN), found.noise), (list(PLAN[::2]), None)):
        app = application(folder, opened=lambda storage, steps=steps: Part(storage, dataset.documents, steps))
        curves = app[GROWING].curves(dataset.documents[0], 3).losses[: NUM_SEEDS + 1]
        np.testing.assert_array_equal(curves, dataset.losses("one.txt", 3, steps=steps))
        expected = fit(curves, steps, noise)
        np.testing.assert_array_equal(app[DROP_FINDER].fits(curves).delta_bic, expected.delta_bic)


def test_the_most_crowded_checkpoints_are_left_out():
    assert thinned([0, 1, 2, 3, 4], 5) == [0, 1, 2, 3, 4]
    assert thinned([0, 1, 2, 3, 4, 100], 4) == [0, 1, 4, 100]
    many = thinned(range(1841), 48)
    assert (many[0], many[-1], len(many)) == (0, 1840, 48)
    gaps = np.diff(np.log1p(many))[8:]  # before, whole numbers leave no choice
    assert gaps.max() < 2.5 * gaps.min()


def test_without_an_analysis_there_are_no_fits_and_the_page_says_so(new_page, tmp_path):
    create_planted(tmp_path / "d", *text_documents({"one.txt": "a bee"}), PLAN, range(2))
    write_page(tmp_path / "d", tmp_path / "page.html", 20)
    page = opened(new_page, tmp_path / "page.html", "?document=one.txt&token=2&color=time&fits=1")
    until(page, "document.querySelector('#legend').textContent.endsWith('2 seeds')")
    assert "Nothing is left out. There are no fits" in page.inner_text("#copy") and page.is_disabled("#fits")


def test_what_cannot_be_written_is_one_line_and_leaves_nothing(planted, tmp_path, monkeypatch, capsys):
    folder, _ = planted
    (tmp_path / "there.html").write_text("mine")
    (tmp_path / "file").write_text("")
    create_planted(tmp_path / "empty", *text_documents(TEXTS), PLAN, [])
    before = sorted(tmp_path.rglob("*"))
    for dataset, arguments, words in (
        (folder, ["there.html"], "there.html exists"),
        (folder, ["s3://bucket/page.html"], "local file"),
        (folder, ["file/page.html"], "file"),
        (folder, ["new.html", "--max-mb", "0"], "--max-mb 0: give a number of megabytes above 0"),
        (folder, ["new.html", "--max-mb", "inf"], "--max-mb inf"),
        (folder, ["new.html", "--max-mb", "0.01"], "not one document fits"),
        (tmp_path / "empty", ["new.html"], "no seed is committed"),
        (tmp_path / "nowhere", ["new.html"], "is not a dataset"),
    ):
        output = arguments[0] if "://" in arguments[0] else str(tmp_path / arguments[0])
        monkeypatch.setattr(sys, "argv", ["discreteness", "page", str(dataset), "--output", output, *arguments[1:]])
        with pytest.raises(SystemExit) as left:
            main()
        said = capsys.readouterr()
        assert left.value.code == 2 and words in said.err and said.err.count("\n") == 1, said
    assert sorted(tmp_path.rglob("*")) == before and (tmp_path / "there.html").read_text() == "mine"


@pytest.mark.parametrize("line", ['import * as dom from "./dom.js";\n', "export let x = 1;\n", "export default 1;\n"])
def test_a_module_that_cannot_be_put_into_one_script_is_found(line):
    with pytest.raises(AssertionError, match=re.escape(f"new.js: {line.strip()!r}")):
        one_file._module("new", f'import {{ byId as id, count }} from "./dom.js";\n{line}')


def test_the_times_of_two_seeds_lie_against_each_other(new_page, planted, whole):
    _, found = planted
    page = opened(new_page, whole)
    page.select_option("#first-seed", "2")
    page.select_option("#second-seed", "7")
    fits = {seed: found.fits.filter(pc.field("seed") == seed).to_pylist() for seed in (2, 7)}
    pairs = [(a, b) for a, b in zip(fits[2], fits[7], strict=True) if a["is_drop"] and b["is_drop"]]
    until(page, f"document.querySelectorAll('#two-seeds .point').length === {len(pairs)}")
    until(page, "document.querySelector('#two-seeds-hint').textContent.includes('in seed 7')")
    points = page.evaluate(
        "[...document.querySelectorAll('.point')].map((p) => [p.cx.baseVal.value, p.cy.baseVal.value])"
    )
    times = np.array([[a["time"], b["time"]] for a, b in pairs])
    places = np.log1p(times) / np.log1p(PLAN[-1])
    np.testing.assert_allclose(points, np.stack([54 + 354 * places[:, 0], 364 - 354 * places[:, 1]], 1), atol=0.01)
    bars = page.get_attribute("#two-seeds .errors", "d")
    ends = np.array([[float(n) for n in bar] for bar in re.findall(r"M([\d.]+) [\d.]+H([\d.]+)", bars)])
    errors = np.array([[min(one["time_error"], one["width"]) for one in pair] for pair in pairs])
    sides = (times[:, :1] + 1) * 2.0 ** np.stack([-errors[:, 0], errors[:, 0]], 1)
    np.testing.assert_allclose(ends, 54 + 354 * np.clip(np.log(sides) / np.log1p(PLAN[-1]), 0, 1), atol=0.01)
    apart = np.abs(np.diff(np.log2(times + 1), axis=1))[:, 0]
    share = 100 * (apart <= 2 * np.hypot(*errors.T)).mean()
    said = [float(n) for n in re.findall(r"[\d.]+(?= tokens| octaves| %| in seed)", page.inner_text("#two-seeds-hint"))]
    drops = [sum(row["is_drop"] for row in fits[seed]) for seed in (2, 7)]
    assert len(pairs) > 5 and said == [len(pairs), *drops, pytest.approx(np.median(apart), rel=6e-3), np.round(share)]
    page.locator("#two-seeds .point").first.dispatch_event("click")
    until(page, f"document.querySelector('.chosen')?.dataset.token === '{pairs[0][0]['token_index']}'")
