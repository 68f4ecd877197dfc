"""Comparing: lines by seed, a click in the chart, the raster of a document, two seeds, two datasets; against NumPy."""

import re

import numpy as np
import pytest

import discreteness
from discreteness.analysis.fits import fit
from tests.support.chromium import until
from tests.support.planted_dataset import create_planted, log_plan, text_documents

pytest_plugins = ["tests.support.browsing"]

PLAN = log_plan(24, 2000)
TEXTS = {"one.txt": "a bee sees two", "two.txt": "the sea, the sun"}
CHART = 'import("/page/panel.js").then(({ chart }) => %s)'


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("compared") / "d"
    create_planted(folder, *text_documents(TEXTS), PLAN, range(5))
    return folder


def test_a_click_in_the_chart_sets_the_step_and_lines_take_the_colors_of_their_seeds(new_page, serve_here, planted):
    page = new_page(f"{serve_here(planted)}?document=one.txt&token=2")
    until(page, "document.querySelector('#chart').dataset.curves === '5'")
    box = page.locator("#chart .u-over").bounding_box()
    for index in 3, 15, len(PLAN) - 2:
        place = page.evaluate(CHART % f"chart.plot.valToPos({PLAN[index] + 1}, 'x')")
        page.mouse.click(box["x"] + place + 0.5, box["y"] + box["height"] - 3)  # below every line
        assert page.inner_text("#step-label") == f"step {PLAN[index]:,}" and page.input_value("#seed") == ""
        left = page.evaluate("document.querySelector('.step-line').getBoundingClientRect().left")
        assert left - box["x"] == pytest.approx(place, abs=1.5)
        until(page, f"location.search.includes('step={PLAN[index]}')")
    # On a line its seed comes along.
    losses = discreteness.open(planted).losses("one.txt", 2)
    gaps = np.abs(losses[:, None] - losses[None]) + 99 * np.eye(5)[:, :, None]
    seed, index = np.unravel_index(gaps.min(axis=1).argmax(), losses.shape)  # where one line is far from the others
    x, y = page.evaluate(
        CHART % f"[chart.plot.valToPos({PLAN[index] + 1}, 'x'), chart.plot.valToPos({losses[seed, index]}, 'y')]"
    )
    page.mouse.move(box["x"] + x, box["y"] + y + 1)
    page.mouse.click(box["x"] + x + 0.2, box["y"] + y)
    assert page.input_value("#seed") == str(seed) and page.inner_text("#step-label") == f"step {PLAN[index]:,}"
    page.keyboard.press("[")
    assert page.get_attribute("#chart", "data-step") == str(PLAN[index - 1])

    strokes = """(() => { const { plot } = chart; const found = []; const { stroke } = plot.ctx;
      plot.ctx.stroke = () => found.push(plot.ctx.strokeStyle); chart.drawLines(plot); delete plot.ctx.stroke;
      return found; })()"""
    assert len(set(page.evaluate(CHART % strokes))) == 1
    page.keyboard.press("s")
    assert len(set(page.evaluate(CHART % strokes))) == 5
    until(page, "location.search.includes('lines=seed')")
    with page.expect_download() as saved:
        page.click("#svg")
    drawn = re.findall(r'data-seed="(\d)" stroke="(hsl[^"]*)"', saved.value.path().read_text())
    assert [int(seed) for seed, _ in drawn] == list(range(5)) and len({color for _, color in drawn}) == 5
    page.reload()
    until(page, "document.querySelector('#chart')?.dataset.curves === '5'")
    assert page.get_attribute("#by-seed", "aria-pressed") == "true"


RASTER = 'import("/page/colors.js").then(({ scaleOf }) => %s)'


def test_the_raster_has_every_tokens_losses_and_the_time_of_its_drop(new_page, serve_here, planted):
    page = new_page(f"{serve_here(planted)}?document=two.txt&view=raster")
    dataset = discreteness.open(planted)
    mean = dataset.losses("two.txt").mean(axis=0, dtype=np.float64)
    texts = [text.replace(" ", "·") for text in dataset.texts("two.txt")]
    until(page, "document.querySelector('#raster').dataset.marked > 0")
    assert page.locator("#raster-names li").all_inner_texts() == texts

    # Under the pointer: the token, the last checkpoint before it, its mean loss, and its drop.
    losses = dataset.losses("two.txt").transpose(2, 0, 1)
    fits = fit(losses.reshape(-1, len(PLAN)), PLAN)
    times = [
        np.median(fits.time[row : row + 5][fits.is_drop[row : row + 5]]) if fits.is_drop[row : row + 5].any() else None
        for row in range(0, 5 * len(texts), 5)
    ]
    box = page.locator("#raster-canvas").bounding_box()
    for token in range(len(texts)):
        index = (2, 11, 17)[token % 3]
        place = (np.log1p(PLAN[index]) + 0.3 * np.diff(np.log1p(PLAN))[index]) / np.log1p(PLAN[-1])
        page.mouse.move(box["x"] + place * box["width"], box["y"] + 14 * token + 6)
        read = page.inner_text("#raster-readout").split(" · ")
        assert read[0] == f"token {token + 1} {texts[token]}".rstrip() or texts[token].startswith("·")
        assert read[-3:-1] == [
            f"step {PLAN[index]:,}",
            f"{mean[index, token]:.3g}".rstrip("0").rstrip(".") + " nats",
        ]
        drop = "no drop" if times[token] is None else times[token]
        assert read[-1] == drop or float(read[-1].split()[-1].replace(",", "")) == pytest.approx(drop, rel=6e-3)

    # Its pixels: the shade of the scale for that loss; and a mark at the time of the drop.
    pixels = np.array(
        page.evaluate(
            """(() => { const c = document.querySelector('#raster-canvas'), context = c.getContext('2d');
            return Array.from({ length: c.height / 14 }, (_, row) =>
              [...context.getImageData(0, 14 * row + 6, c.width, 1).data]); })()"""
        )
    ).reshape(len(texts), -1, 4)
    last = pixels.shape[1] - 1
    shades = page.evaluate(
        RASTER % f"{mean[11].tolist()}.map((loss) => scaleOf('loss', 0, {mean.max()}).shade(loss).rgb)"
    )
    column = round((np.log1p(PLAN[11]) + 0.5 * np.diff(np.log1p(PLAN))[11]) / np.log1p(PLAN[-1]) * last)
    for token, shade in enumerate(shades):
        marks = [] if times[token] is None else [round(np.log1p(times[token]) / np.log1p(PLAN[-1]) * last)]
        if all(abs(column - mark) > 3 for mark in marks):
            assert np.abs(pixels[token, column, :3] - shade).max() <= 2
        black = np.flatnonzero((pixels[token, :, :3] == 0).all(axis=1))
        assert [abs(black.mean() - mark) < 1.5 for mark in marks] == [True] * len(marks) and bool(len(black)) == bool(
            marks
        )

    # In order of learning, by keyboard, and into the document.
    page.select_option("#raster-order", "time")
    order = sorted(range(len(texts)), key=lambda token: (times[token] is None, times[token] or 0))
    assert page.locator("#raster-names li").all_inner_texts() == [texts[token] for token in order]
    until(page, "location.search.includes('rows=time')")
    page.reload()
    until(page, "document.querySelector('#raster').dataset.marked > 0")
    page.focus("#raster-canvas")
    for _ in range(2):
        page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowLeft")
    assert page.inner_text("#raster-readout").startswith(f"token {order[2] + 1} ")
    page.keyboard.press("Enter")
    until(page, "document.querySelector('#chart').dataset.curves === '5'")
    assert page.evaluate("document.querySelector('.chosen').dataset.token") == str(order[2] + 1)
    page.keyboard.press("r")
    page.select_option("#raster-document", "0")
    until(page, "document.querySelector('#raster-hint').textContent.startsWith('7 tokens')")
    page.click("#raster-canvas", position={"x": 30, "y": 14 * 3 + 5})
    until(page, "document.querySelector('.chosen')?.dataset.token && location.search.includes('one.txt')")
    until(page, "document.querySelector('#text').textContent.includes('bee')")
