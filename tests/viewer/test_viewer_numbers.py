"""Every number on the viewer's page against NumPy on the dataset's Parquet files, for odd and even numbers of seeds."""

import csv
import json
import math
import re
import time
from dataclasses import dataclass, field

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

import discreteness
from discreteness.analysis.analyze import analyze
from discreteness.analysis.fits import Fits, fit
from tests.support.chromium import until
from tests.support.planted_dataset import create_planted, log_plan, show_running, text_documents

pytest_plugins = ["tests.support.browsing"]

TEXTS = {"one.txt": "a bee sees two", "two.txt": "the sea, the sun"}
PLAN = log_plan(24, 2000)
FIRST_SEEDS = 8
"""Learning times and the overview are of so many seeds, docs/viewer.md says."""
SEEDS = {
    "odd": ([3, 11, 12, 20, 41, 43, 44], {}),
    "even": ([1, 2, 4, 5, 8, 9, 13, 16, 30, 33], {50: 12}),
    "one": ([6], {}),
    "none committed": ([], {7: 24, 8: 10}),
}
"""Committed seeds; running ones and their checkpoints so far."""
LEGEND_SHADES = """(() => {
  const canvas = document.querySelector('#legend canvas');
  const { data } = canvas.getContext('2d').getImageData(0, 0, canvas.width, 1);
  return Array.from({ length: canvas.width }, (_, x) => `rgb(${data[4 * x]}, ${data[4 * x + 1]}, ${data[4 * x + 2]})`);
})()"""
CHART = 'import("/page/panel.js").then(({ chart }) => %s)'
LINES = """(() => {
  const { plot } = chart;
  const lines = [];
  const at = (x, y) => lines.at(-1).push([
    plot.posToVal((x - plot.bbox.left) / devicePixelRatio, "x"),
    plot.posToVal((y - plot.bbox.top) / devicePixelRatio, "y"),
  ]);
  Object.assign(plot.ctx, { beginPath: () => lines.push([]), moveTo: at, lineTo: at });
  chart.drawLines(plot);
  for (const name of ["beginPath", "moveTo", "lineTo"]) delete plot.ctx[name];
  return lines.slice(1);  // the first path is the frame
})()"""


# ---- what is true


@dataclass
class Truth:
    """A dataset's files, read without our own readers. Losses: doc_id -> float64 [seeds, steps, tokens], committed
    seeds first, nan where a running one is not yet."""

    path: object
    committed: list
    running: dict
    noise: object = None  # of the analysis, where there is one; and its shares of common drops, by doc_id and token
    common: dict = field(default_factory=dict)
    chance: list = field(default_factory=list)  # and by bin of the spectrum: by chance, and from where to where
    names: dict = field(default_factory=dict)
    losses: dict = field(default_factory=dict)

    def __post_init__(self):
        words = pq.ParquetFile(self.path / "documents.parquet").read().to_pylist()
        self.names = {row["doc_id"]: row["name"] for row in words}
        self.experiment = json.loads((self.path / "experiment.json").read_text())
        files = [self.path / f"losses/seed={seed:05}.parquet" for seed in self.committed]
        files += [self.path / f"_running/seed={seed:05}.parquet" for seed in self.running]
        tables = [pq.ParquetFile(file).read() for file in files]
        for doc_id in self.names:
            num_tokens = sum(row["doc_id"] == doc_id for row in words) - 1
            self.losses[doc_id] = np.full((len(tables), len(PLAN), num_tokens), np.nan)
            for row, table in enumerate(tables):
                mine = table.filter(pc.field("doc_id") == doc_id)
                at = [PLAN.index(step) for step in mine["step"].to_pylist()]
                self.losses[doc_id][row, at] = mine["losses"].to_pylist()

    @property
    def seeds(self):
        return [*self.committed, *self.running]

    def counted(self, doc_id, most=None):
        """[seeds, steps, tokens] of the seeds that means and bands are of, the first `most` of them."""
        return self.losses[doc_id][: len(self.committed) or len(self.seeds)][:most]

    def drops(self, doc_id, most=FIRST_SEEDS):
        """Of each token: share, time, time_spread, width and fall of the drops of its first committed seeds."""
        curves = self.losses[doc_id][: len(self.committed)][:most]
        seeds, _, num_tokens = curves.shape
        # A document is fitted in one call: its curves show the noise together.
        together = fit(curves.transpose(2, 0, 1).reshape(-1, len(PLAN)), PLAN, self.noise)
        tokens = [together[token * seeds : (token + 1) * seeds] for token in range(num_tokens)]
        found = []
        for fits in tokens:
            time, width, fall, error = (
                a[fits.is_drop]
                for a in (fits.time, fits.width, fits.high - fits.low, np.minimum(fits.time_error, fits.width))
            )
            assert np.ptp(np.log2(time + 1)) < 2 if len(time) else True, "one event: no drops to be matched"
            variance = np.var(np.log2(time + 1), ddof=1) - np.mean(error**2) if len(time) > 1 else np.nan
            found.append(
                {
                    "drop_share": fits.is_drop.mean(),
                    "time": np.median(time) if len(time) else np.nan,
                    "width": np.median(width) if len(time) else np.nan,
                    "fall": np.median(fall) if len(time) else np.nan,
                    "time_spread": np.sqrt(np.maximum(variance, 0)),
                    "evidence": np.median(fits.delta_bic[fits.is_drop]) if len(time) else np.nan,
                    "final_loss": curves[:, -1, len(found)].mean(),
                    "common_share": self.common.get((doc_id, len(found) + 1), np.nan),
                }
            )
        return {name: np.array([token[name] for token in found]) for name in found[0]}

    def sharpest(self, most=FIRST_SEEDS):
        """(doc_id, token, its numbers) of all tokens with a drop, the steepest first."""
        rows = []
        for doc_id in self.names:
            drops = self.drops(doc_id, most)
            for at in np.flatnonzero(np.isfinite(drops["time"])):
                numbers = {name: values[at] for name, values in drops.items()}
                steepness = numbers["drop_share"] * numbers["fall"] / max(numbers["width"], 0.5)
                rows.append((doc_id, int(at) + 1, {**numbers, "steepness": steepness}))
        return sorted(rows, key=lambda row: -row[2]["steepness"])

    def heat(self):
        """[documents, steps]: mean over tokens and the first seeds."""
        return np.stack([of_finite(np.mean, self.counted(d, FIRST_SEEDS).mean(axis=2)) for d in self.names])

    def spectrum(self, most=FIRST_SEEDS):
        """Edges [bins + 1] in octaves; nats per octave that the mean loss loses in all and in drops [bins]."""
        curves = [self.losses[d][: len(self.committed)][:most].transpose(2, 0, 1) for d in self.names]
        documents = [one.reshape(-1, len(PLAN)) for one in curves]
        curves = np.concatenate(documents)
        x = np.log2(np.array(PLAN) + 1.0)
        edges = [at for at in np.arange(x[0], x[-1], 0.5) if x[-1] - at >= 0.25] + [x[-1]]
        fits = Fits.concatenate([fit(one, PLAN, self.noise) for one in documents])
        in_drops = np.zeros(len(edges))
        for row, term in np.argwhere(fits.drops):
            where, width = np.log2(fits.times[row, term] + 1), fits.widths[row, term]
            in_drops += fits.falls[row, term] / (1 + np.exp((edges - where) * 2 * np.log(9) / width))
        measured = -np.diff(np.interp(edges, x, curves.mean(axis=0))) / np.diff(edges)
        return edges, measured, -np.diff(in_drops) / len(curves) / np.diff(edges)


def of_finite(of, values):
    """`of` over the first axis, of the values that are there; nan where none is."""
    columns = values.reshape(len(values), -1).T
    found = [of(column[np.isfinite(column)]) if np.isfinite(column).any() else np.nan for column in columns]
    return np.array(found).reshape(values.shape[1:])


def deviation(values):
    return np.std(values, ddof=1) if len(values) > 1 else np.nan


# ---- what is shown


def rounded(value, digits=3):
    """What a page may show for it: rounded to so many digits, and to a whole number where that is more of them."""
    return Rounded(value, 10.0 ** max(-9, min(0, math.floor(math.log10(abs(value) or 1)) + 1 - digits)))


@dataclass
class Rounded:
    value: float
    unit: float

    def __eq__(self, shown):
        return abs(shown - self.value) <= 0.5002 * self.unit


def numbers(text):
    """All numbers of a text, in order; nan for a dash that stands for one."""
    found = re.findall(r"(?<![\w.])-?\d[\d,]*(?:\.\d+)?(?:e-\d+)?(?![\w])|–", text)
    return [np.nan if one == "–" else float(one.replace(",", "")) for one in found]


def says(text, *values):
    """The numbers of `text` are these: whole ones exactly, others as far as three digits go."""
    found = numbers(text)
    expected = [rounded(value) if isinstance(value, float) else value for value in values]
    assert len(found) == len(expected) and all(e == f for e, f in zip(expected, found, strict=True)), (text, values)


def check_colors(page, values, high, place=lambda value: value):
    """Every token has the shade that the legend has for its value, between 0 and `high`; none where it is nan."""
    shades = page.evaluate(LEGEND_SHADES)
    boxes = page.evaluate("Array.from(document.querySelectorAll('.token'), (box) => box.style.backgroundColor)")
    assert len(boxes) == len(values)
    for box, value in zip(boxes, values, strict=True):
        if np.isnan(value):
            assert box == ""
            continue
        at = min(1, place(value) / place(high)) * (len(shades) - 1)
        # Two shades where the value is, to the precision of float32, between them.
        assert box in {shades[math.floor(at + 0.5 - 1e-3)], shades[min(math.floor(at + 0.5 + 1e-3), len(shades) - 1)]}


def legend(page, words):
    until(page, f"document.querySelector('#legend').textContent.endsWith({json.dumps(words)})")
    return page.text_content("#legend")


def slide(page, index):
    page.evaluate(
        "(i) => { const s = document.querySelector('#step'); s.value = i; s.dispatchEvent(new Event('input')); }", index
    )


def eventually(check, timeout_s=60):
    """Repeats a check until it passes: the page follows what is being fitted."""
    deadline_s = time.monotonic() + timeout_s
    while True:
        try:
            return check()
        except AssertionError:
            if time.monotonic() > deadline_s:
                raise
            time.sleep(0.05)


def seeds(count):
    return f"{count} seed{'' if count == 1 else 's'}"


@pytest.fixture(scope="module", params=SEEDS)
def shown(request, tmp_path_factory, serve_here):
    """What is true of a dataset, and the address of its page."""
    committed, running = SEEDS[request.param]
    path = tmp_path_factory.mktemp("numbers") / "d"
    dataset = create_planted(path, *text_documents(TEXTS), PLAN, committed)
    for seed, num_steps in running.items():
        show_running(dataset, seed, num_steps)
    return Truth(path, committed, running), serve_here(path)


# ---- the comparison


def test_the_header_and_the_list_of_documents(new_page, shown):
    truth, address = shown
    page = new_page(f"{address}?document=two.txt")
    counts = [len(truth.committed), len(PLAN)]
    for seed, num_steps in truth.running.items():
        counts += [seed, num_steps, len(PLAN)]
    says(page.inner_text("#seeds"), *counts)
    assert page.inner_text("#dataset") == truth.path.name
    title = page.get_attribute("#dataset", "title")
    assert truth.experiment["identity_hash"] in title and truth.experiment["identity"]["track"]["name"] in title
    listed = page.locator("#documents button span:last-child").all_inner_texts()
    assert listed == [str(truth.losses[doc_id].shape[2]) for doc_id in truth.names]
    offered = page.locator("#seed option").all_inner_texts()
    assert offered == ["all", *map(str, truth.seeds)]
    until(page, "document.querySelectorAll('.token').length > 0")
    assert page.locator(".token").count() == truth.losses[1].shape[2]


def test_the_colors_of_the_text_and_their_legends(new_page, shown):
    truth, address = shown
    page = new_page(f"{address}?document=one.txt")
    counted = truth.counted(0)
    source = f" · {seeds(len(counted))}"
    mean, spread = of_finite(np.mean, counted), of_finite(deviation, counted)
    for color, label, values in (
        ("loss", f" loss (nats){source}", mean),
        ("deviation", f" standard deviation over seeds (nats){source}", spread),
    ):
        page.select_option("#color", color)
        if np.isnan(values).all():
            assert legend(page, f"nothing measured{source}") and not page.locator("#legend canvas").count()
            continue
        says(legend(page, label).removesuffix(label).replace("0", "0 ", 1), 0, float(np.nanmax(values)))
        for index in 0, 9, 15, len(PLAN) - 1:
            slide(page, index)
            says(page.inner_text("#step-label"), PLAN[index])
            check_colors(page, values[index], np.nanmax(values))
    page.select_option("#color", "loss")
    for row, seed in enumerate(truth.seeds[:2]):
        page.select_option("#seed", str(seed))
        label = f" loss (nats) · seed {seed}"
        says(legend(page, label).removesuffix(label).replace("0", "0 ", 1), 0, float(np.nanmax(truth.losses[0][row])))
        check_colors(page, truth.losses[0][row, -1], np.nanmax(truth.losses[0][row]))


def check_drops(page, drops, source):
    """The three colors that are of all steps together, with the numbers of `drops` (see Truth.drops)."""
    for color, name, label in (
        ("time", "time", "learned at step"),
        ("sharpness", "width", "octaves of steps it takes"),
        ("time-spread", "time_spread", "spread of learning time (octaves)"),
    ):
        page.select_option("#color", color)
        values = drops[name]
        if np.isnan(values).all():
            assert legend(page, f"nothing measured · {source}")
            continue
        high = PLAN[-1] if color == "time" else float(np.nanmax(values))
        label = f" {label} · {source}"
        says(legend(page, label).removesuffix(label).replace("0", "0 ", 1), 0, high)
        check_colors(page, values, high, np.log1p if color == "time" else float)


def test_learning_times_and_the_overview(new_page, shown):
    truth, address = shown
    page = new_page(f"{address}?document=one.txt")
    page.select_option("#color", "time")
    if truth.committed:
        some = min(FIRST_SEEDS, len(truth.committed))
        first = "first " if some < len(truth.committed) else ""
        check_drops(page, truth.drops(0), f"{first}{seeds(some)}")
    page.click("#view-overview")
    check_heat(page, truth)
    says(page.inner_text("#heat-hint"), min(FIRST_SEEDS, len(truth.committed) or len(truth.running)))
    if truth.committed:
        check_overview(page, truth, FIRST_SEEDS)
    else:
        assert page.inner_text("#spectrum-hint") == "" and page.locator("#table tbody tr").count() == 0


def check_heat(page, truth):
    """The mouse over the map of documents and steps."""
    heat = truth.heat()
    until(page, 'import("/page/shown.js").then(({ page: { state } }) => state.fitted >= 4 && !state.to_fit)')
    page.mouse.move(5, 5)
    eventually(lambda: says(page.inner_text("#heatmap .readout"), 0, PLAN[-1], 0, float(np.nanmax(heat))))
    for row, name in enumerate(truth.names.values()):
        for share in 0.02, 0.3, 0.6, 0.8, 0.99:

            def hover(row=row, name=name, share=share):
                box = page.locator("#heatmap canvas").bounding_box()
                for off in 1, 0:
                    page.mouse.move(box["x"] + box["width"] * share + off, box["y"] + 18 * row + 9)
                text = page.inner_text("#heatmap .readout")
                assert text.startswith(f"{name} · step ")
                step, nats = text.split(" · ")[1:]
                (step,) = map(int, numbers(step))
                place = math.log1p(step) / math.log1p(PLAN[-1])
                after = math.log1p([*PLAN, PLAN[-1]][PLAN.index(step) + 1]) / math.log1p(PLAN[-1])
                assert place <= share + 0.002 and share - 0.002 <= after, "the last checkpoint before the mouse"
                says(nats, float(heat[row, PLAN.index(step)]))

            eventually(hover)


def check_overview(page, truth, most):
    """Spectrum and table, of the first `most` seeds."""
    until(page, "document.querySelector('#spectrum-hint').textContent.includes(' 2 of 2 documents')")
    says(page.inner_text("#spectrum-hint"), 2, 2, min(most or 10**9, len(truth.committed)))
    edges, measured, in_drops = truth.spectrum(most)
    titles = page.locator("#spectrum title").all_text_contents()
    assert len(titles) == len(measured)
    for at, title in enumerate(titles):
        first, last, by_drops, all_of_it, *by_chance = numbers(title)
        assert [first, last] == [round(2 ** edges[at] - 1), round(2 ** edges[at + 1] - 1)]
        assert [by_drops, all_of_it] == pytest.approx([in_drops[at], measured[at]], rel=5.1e-3, abs=2e-6)
        assert by_chance == pytest.approx(truth.chance[at] if truth.chance else [], rel=5.1e-3, abs=2e-6)
    expected = truth.sharpest(most)
    rows = page.locator("#table tbody tr").all()
    assert len(rows) == len(expected)
    for row, (doc_id, token, values) in zip(rows, expected, strict=True):
        _, place, *cells = row.locator("td").all_inner_texts()
        assert place == f"{truth.names[doc_id]}:{token}"
        time, width, fall, share, spread, common, evidence, final, steep = (numbers(cell)[0] for cell in cells)
        assert time == rounded(values["time"])
        assert [width, fall] == [rounded(values["width"], 2), rounded(values["fall"], 2)]
        assert share == math.floor(100 * values["drop_share"] + 0.5)
        assert np.isnan(spread) if np.isnan(values["time_spread"]) else spread == rounded(values["time_spread"], 2)
        assert np.isnan(common) if np.isnan(values["common_share"]) else common == round(100 * values["common_share"])
        assert [evidence, steep] == [rounded(values["evidence"], 2), rounded(values["steepness"], 2)]
        assert final == rounded(values["final_loss"])
    with page.expect_download() as saved:
        page.click("#table-csv")
    with saved.value.path().open(newline="") as file:
        table = list(csv.DictReader(file))
    dataset = discreteness.open(truth.path)
    for row, (doc_id, token, values) in zip(table, expected, strict=True):
        assert [int(row["doc_id"]), int(row["token_index"])] == [doc_id, token]
        assert [row["document"], row["token"]] == [truth.names[doc_id], *dataset.texts(doc_id, [token])]
        assert [row["category"], row["answer"]] == ["c", str(int(token in (2, 5)))]
        found = [float(row[name] or "nan") for name in values]
        np.testing.assert_allclose(found, list(values.values()), rtol=1e-4)


def shares_of_common(fits):
    """(doc_id, token) -> of the seeds with a drop for which it is known, the share in which it is common."""
    known = {}
    for row in fits:
        if row["common"] is not None:
            known.setdefault((row["doc_id"], row["token_index"]), []).append(row["common"])
    return {place: np.mean(values) for place, values in known.items()}


def test_numbers_of_an_analysis_are_of_all_its_seeds(new_page, serve_here, tmp_path):
    committed, _ = SEEDS["even"]
    assert len(committed) > FIRST_SEEDS
    create_planted(tmp_path / "d", *text_documents(TEXTS), PLAN, committed)
    noise = analyze(tmp_path / "d").noise
    fits = pq.ParquetFile(tmp_path / "d/analysis/fits.parquet").read().to_pylist()
    bins = pq.ParquetFile(tmp_path / "d/analysis/spectrum.parquet").read().to_pylist()
    names = ("by_false_drops", "by_false_drops_low", "by_false_drops_high")
    chance = [[row[name] for name in names] for row in bins if row["document"] == ""]
    truth = Truth(tmp_path / "d", committed, {}, noise=noise, common=shares_of_common(fits), chance=chance)
    page = new_page(f"{serve_here(truth.path)}?document=one.txt&color=time")
    check_drops(page, truth.drops(0, None), seeds(len(committed)))
    page.click("#view-overview")
    check_overview(page, truth, None)


@pytest.mark.parametrize("token", [2, 7])
def test_the_curves_of_a_token(new_page, shown, token):
    """Token 7 is learned by even seeds only, token 2 by all."""
    truth, address = shown
    page = new_page(f"{address}?document=one.txt&token={token}&compare=1.3")
    until(page, f"document.querySelector('#chart').dataset.curves === '{2 * len(truth.seeds)}'")
    curves = [truth.losses[0][:, :, token - 1], truth.losses[1][:, :, 2]]
    counted = [truth.counted(0)[:, :, token - 1], truth.counted(1)[:, :, 2]]
    bands = [
        [of_finite(lambda values, q=q: np.quantile(values, q), one) for q in (0.1, 0.9)] + [of_finite(np.mean, one)]
        for one in counted
    ]
    drawn = page.evaluate(CHART % "chart.plot.data.map((values) => Array.from(values))")
    np.testing.assert_allclose(drawn[0], np.array(PLAN) + 1)
    np.testing.assert_allclose(np.array(drawn[1:], float), np.concatenate(bands), rtol=1e-5)
    check_lines(page, np.concatenate(curves))
    check_readout(page, truth, curves[0], bands)
    check_numbers_of_token(page, truth, curves[0][: len(truth.committed)])
    with page.expect_download() as saved:
        page.click("#csv")
    rows = list(csv.DictReader(saved.value.path().read_text().splitlines()))
    assert [int(row["step"]) for row in rows] == [*PLAN, *PLAN]
    saved_losses = [[float(row[f"seed_{seed}"] or "nan") for row in rows] for seed in truth.seeds]
    np.testing.assert_array_equal(np.float32(saved_losses), np.float32(np.concatenate(curves, axis=1)))


def check_lines(page, curves):
    """Every thin line's points, as they are drawn, are the losses [lines, steps]."""
    lines = page.evaluate(CHART % LINES)
    assert len(lines) == len(curves)
    for line, curve in zip(lines, curves, strict=True):
        there = np.isfinite(curve)
        x, y = np.array(line).T
        np.testing.assert_allclose(x, np.array(PLAN)[there] + 1, rtol=1e-6)
        np.testing.assert_allclose(y, curve[there], atol=1e-4)


def check_readout(page, truth, curve, bands):
    """The mouse over every checkpoint, at the loss of some seed."""
    box = page.locator("#chart .u-over").bounding_box()
    for index, step in enumerate(PLAN):
        row = index % len(truth.seeds)
        if np.isnan(curve[row, index]):
            row = 0
        x, y = page.evaluate(
            CHART % f"[chart.plot.valToPos({step + 1}, 'x'), chart.plot.valToPos({float(curve[row, index])}, 'y')]"
        )
        page.mouse.move(box["x"] + min(x + 0.1, box["width"] - 1), box["y"] + y)
        until(page, f"document.querySelector('#readout').textContent.startsWith('step {step:,} ·')")
        shown_step, *means, of_seed = page.inner_text("#readout").split(" · ")
        says(shown_step, step)
        for text, (low, high, mean) in zip(means, bands, strict=True):
            says(text.replace("80 % of seeds", ""), *(float(values[index]) for values in (mean, low, high)))
        seed, loss = numbers(of_seed)
        near = [c[truth.seeds.index(int(seed)), index] for c in (curve, truth.losses[1][:, :, 2])]
        assert any(loss == rounded(value) for value in near if np.isfinite(value))


def check_numbers_of_token(page, truth, curves):
    """The list below the chart and the histogram, of the committed seeds' curves [seeds, steps]."""
    page.keyboard.press("f")
    if len(curves):
        until(page, "document.querySelector('#numbers').textContent.includes('learned in a drop')")
    names = page.locator("#numbers dt").all_inner_texts()
    found = dict(zip(names, page.locator("#numbers dd").all_inner_texts(), strict=True))
    says(found.pop("seeds"), len(curves), len(truth.running))
    if not len(curves):
        assert found == {} and page.inner_text("#histogram-title") == "" and not page.locator("#histogram svg").count()
        return
    ends = curves[:, -1]
    says(found.pop("final loss"), float(np.median(ends)), float(ends.min()), float(ends.max()))
    says(found.pop("final probability"), float(np.median(100 * np.exp(-ends))))
    fits = fit(curves, PLAN)
    says(found.pop("learned in a drop"), int(fits.is_drop.sum()), len(curves))
    if fits.is_drop.any():
        medians = [np.median(values[fits.is_drop]) for values in (fits.time, fits.width, fits.delta_bic)]
        says(found.pop("those: median").replace("ΔBIC", ""), *map(float, medians))
    assert found == {}
    says(page.inner_text("#histogram-title"), len(ends))
    counts, edges = np.histogram(ends, 30, (0, max(ends.max(), 0.1) * 1.001))
    titles = page.locator("#histogram title").all_text_contents()
    for title, low, high, count in zip(titles, edges[:-1], edges[1:], counts, strict=True):
        says(title, float(low) if low else 0, float(high), int(count))


def test_median_and_histogram_of_the_page_are_numpys(new_page, serve_here, tmp_path):
    """Also at the edges of bins, where a division may round to the wrong side."""
    create_planted(tmp_path / "d", *text_documents(TEXTS), PLAN, [1])
    page = new_page(serve_here(tmp_path / "d"))
    random = np.random.default_rng(0)
    cases = [random.exponential(3, size) for size in (1, 2, 3, 4, 9, 10, 300)]
    for top in 0.1, 0.7, 1.001, 9.3, 12.7:
        edges = np.linspace(0, top, 31)
        cases += [edges, np.append(np.nextafter(edges[1:], 0), top)]
    for values in cases:
        top = float(values.max())
        median, counts, edges = page.evaluate(
            f"""import("/page/statistics.js").then(({{ median, histogram }}) => {{
              const values = {json.dumps(values.tolist())};
              const {{ counts, edges }} = histogram(values, 30, 0, {top!r});
              return [median(values), counts, edges];
            }})"""
        )
        assert median == np.median(values)
        expected_counts, expected_edges = np.histogram(values, 30, (0, top))
        assert counts == expected_counts.tolist()
        np.testing.assert_allclose(edges, expected_edges, rtol=1e-14)
