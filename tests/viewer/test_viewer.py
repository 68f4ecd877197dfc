"""The viewer in a real browser: what it draws, that it follows, links, saves, stays on this machine, harms nobody."""

import csv
import http.client
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import replace
from urllib.parse import quote, urlsplit

import numpy as np
import pytest

import discreteness
from discreteness.cli.main import main
from discreteness.viewer.server import PAGE, application
from tests.conftest import ROOT
from tests.support.chromium import until
from tests.support.planted_dataset import commit_planted, create_planted, log_plan, show_running, text_documents

pytest_plugins = ["tests.support.browsing"]

PLAN = log_plan(40, 300)
NUM_SEEDS = 300
TEXTS = {"first.txt": "one two\n  three fóur five six\tseven", "second.txt": "a bee sees the sea"}
HOSTILE_NAME = "<img src=x onerror=document.title='owned'>\u202e.txt"
HOSTILE = {
    HOSTILE_NAME: "<script>document.title='owned'</script>\u202etxet\u202c\x00\u200b${7*7}{{7*7}}",
    "../../etc/passwd?#&=%00": "javascript:alert(1)",
}


@contextmanager
def viewer(path, log):
    """The real command, on a free port: its address."""
    with log.open("w") as sink:
        process = subprocess.Popen(
            [sys.executable, "-m", "discreteness", "view", str(path), "--port", "0"],
            cwd=ROOT,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
            stdout=sink,
            stderr=subprocess.STDOUT,
        )
    try:
        deadline_s = time.monotonic() + 240
        while " on this machine only" not in log.read_text():
            assert process.poll() is None and time.monotonic() < deadline_s, log.read_text()
            time.sleep(0.05)
        yield next(word for word in log.read_text().split() if word.startswith("http://127.0.0.1:"))
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(120)
    assert "Traceback" not in log.read_text(), log.read_text()


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """300 seeds of two documents."""
    folder = tmp_path_factory.mktemp("planted")
    documents, token_bytes = text_documents(TEXTS)
    create_planted(folder / "d", documents, token_bytes, PLAN, range(NUM_SEEDS))
    return folder / "d"


@pytest.fixture(scope="module")
def address(planted, tmp_path_factory):
    with viewer(planted, tmp_path_factory.mktemp("log") / "log") as address:
        yield address


def colored(page):
    until(page, "document.querySelector('[data-token=\"1\"]')?.style.backgroundColor > ''")


def colors(page):
    return page.evaluate("Array.from(document.querySelectorAll('.token'), (box) => box.style.backgroundColor)")


def drawn(page, curves):
    until(page, f"document.querySelector('#chart').dataset.curves === '{curves}'")


def chart_box(page):
    return page.locator("#chart .u-over").bounding_box()


def test_the_overview_shows_every_document_and_opens_one(new_page, address):
    page = new_page(address)
    until(page, "document.querySelectorAll('#heatmap .names button').length === 2")
    shades = """(() => { const canvas = document.querySelector('#heatmap canvas');
        const pixels = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;
        const found = new Set();
        for (let at = 0; at < pixels.length; at += 4) if (pixels[at + 3]) found.add(pixels.slice(at, at + 3).join());
        return found.size; })()"""
    until(page, f"{shades} > 10")
    until(page, "document.querySelectorAll('#spectrum .bar').length > 5")
    until(page, "document.querySelectorAll('#table tbody tr').length > 10")
    assert page.inner_text("#seeds-differ") == "Seeds: different weights, the same data in the same order."
    page.click("#heatmap .names button:nth-child(2)")
    colored(page)
    assert "document=second.txt" in page.url
    page.go_back()
    until(page, "!document.querySelector('#overview').hidden")
    page.click("#table tbody tr")
    drawn(page, NUM_SEEDS)


def test_the_text_is_shown_whole_colored_by_its_losses_and_with_its_answers(new_page, address, planted):
    page = new_page(f"{address}?document=first.txt")
    colored(page)
    shown = page.locator("#text").inner_text()
    assert shown == "⟨bos⟩one·two↵\n··three·⟨66 c3⟩⟨b3⟩ur·five·six⇥\tseven"
    answers = page.evaluate("Array.from(document.querySelectorAll('.answer'), (box) => box.dataset.token)")
    assert answers == ["2", "5"]
    final = discreteness.open(planted).losses("first.txt")[:, -1].mean(axis=0)
    lightness = [sum(map(int, re.findall(r"\d+", color))) for color in colors(page)]
    assert (np.diff(np.array(lightness)[np.argsort(final)]) <= 0).all(), "the larger the loss, the darker"
    at_the_end = colors(page)
    page.focus("#step")
    page.keyboard.press("Home")
    assert colors(page) != at_the_end
    for kind in "deviation", "time", "sharpness", "time-spread":
        page.select_option("#color", kind)
        until(page, "Array.from(document.querySelectorAll('.token')).some((box) => box.style.backgroundColor)")
        until(page, "document.querySelector('#legend canvas')")
    page.select_option("#color", "loss")
    page.select_option("#seed", "1")
    colored(page)


def test_a_click_draws_every_seed_the_mean_and_the_histogram(new_page, address, planted):
    page = new_page(f"{address}?document=first.txt")
    colored(page)
    page.click('[data-token="7"]')
    drawn(page, NUM_SEEDS)
    assert page.evaluate("window.strokes") == NUM_SEEDS
    assert page.evaluate("window.points") > NUM_SEEDS * len(PLAN) / 2
    titles = page.evaluate("Array.from(document.querySelectorAll('#histogram title'), (title) => title.textContent)")
    assert sum(int(title.split()[-2]) for title in titles) == NUM_SEEDS
    losses = discreteness.open(planted).losses("first.txt", 7)[:, -1]
    assert f"{losses.min():.3g}".rstrip("0") in page.inner_text("#numbers")
    box = chart_box(page)
    page.mouse.move(box["x"] + box["width"] - 2, box["y"] + 5)
    until(page, "document.querySelector('#readout').textContent.startsWith('step 300')")
    assert f"mean {losses.mean():.3g}".rstrip("0") in page.inner_text("#readout")
    assert page.evaluate("performance.getEntriesByName('click-to-drawn').length") == 1


def test_zoom_pan_and_linear_steps_draw_what_is_in_view(new_page, address):
    page = new_page(f"{address}?document=first.txt&token=7")
    drawn(page, NUM_SEEDS)
    everything = page.evaluate("window.points")
    box = chart_box(page)
    middle = box["y"] + box["height"] / 2
    page.evaluate("window.points = 0")
    page.mouse.move(box["x"] + box["width"] * 0.5, middle)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.7, middle, steps=4)
    page.mouse.up()
    until(page, "location.search.includes('zoom=')")
    low, high = map(int, page.evaluate("new URLSearchParams(location.search).get('zoom').split('-')"))
    assert (low, high) == pytest.approx((300**0.5, 300**0.7), rel=0.1), "half and seven tenths of log(301)"
    assert 0 < page.evaluate("window.points") < 0.6 * everything
    page.keyboard.down("Shift")
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.5, middle, steps=4)
    page.mouse.up()
    page.keyboard.up("Shift")
    until(page, f"Number(new URLSearchParams(location.search).get('zoom').split('-')[0]) > {low}")
    page.mouse.dblclick(box["x"] + 50, middle)
    until(page, "!location.search.includes('zoom=')")
    page.mouse.move(box["x"] + box["width"] / 2, middle)
    page.mouse.wheel(0, -200)
    until(page, "location.search.includes('zoom=')")
    page.click("#zoom-all")
    page.keyboard.press("l")
    until(page, "location.search.includes('steps=linear') && !location.search.includes('zoom=')")
    assert page.inner_text("#chart") is not None
    drawn(page, NUM_SEEDS)


def test_columns_of_pixels_keep_their_minimum_and_maximum(new_page, address):
    page = new_page(address)
    points = page.evaluate(
        """import("/page/curves.js").then(({ CurvesChart }) => {
          const chart = Object.create(CurvesChart.prototype);
          chart.xs = Float64Array.from([0, 1, 2, 3, 4, 5, 6]);
          const places = [10, 20.1, 20.2, 20.9, 21, 30, 40];
          const columns = chart.columns({ series: [{ idxs: [1, 5] }], valToPos: (x) => places[x] });
          const found = [];
          const pen = { moveTo: (x, y) => found.push(["move", x, y]), lineTo: (x, y) => found.push(["line", x, y]) };
          chart.trace(pen, Float32Array.from([9, 9, 5, 7, 1, 2, NaN, 3, 4]), 2, columns, 100, -10);
          return found;
        })"""
    )
    # Losses 5 | 7 1 2 | nan | 3 | 4: the second column keeps 7 and then 1, the third is a gap.
    assert points == [["move", 10, 50], ["line", 20.1, 30], ["line", 20.1, 90], ["move", 30, 70], ["line", 40, 60]]


def test_a_line_under_the_mouse_comes_forward_and_a_click_keeps_its_seed(new_page, address, planted):
    page = new_page(f"{address}?document=first.txt&token=7")
    drawn(page, NUM_SEEDS)
    box = chart_box(page)
    page.mouse.move(box["x"] + 3, box["y"] + box["height"] / 2)
    until(page, "document.querySelector('#chart').dataset.forward === ''")
    for share in np.linspace(0.02, 0.98, 40):
        page.mouse.move(box["x"] + box["width"] - 1, box["y"] + box["height"] * share)
        if page.evaluate("document.querySelector('#chart').dataset.forward"):
            break
    seed = int(page.evaluate("document.querySelector('#chart').dataset.forward"))
    loss = discreteness.open(planted).losses("first.txt", 7, seeds=[seed])[0, -1]
    assert f"seed {seed}: {loss:.3g}".rstrip("0") in page.inner_text("#readout")
    page.mouse.down()
    page.mouse.up()
    until(page, f"location.search.includes('seed={seed}')")
    page.mouse.move(5, 5)
    assert page.evaluate("document.querySelector('#chart').dataset.forward") == str(seed)
    inked = """(() => { const front = document.querySelector('.front');
        return front.getContext('2d').getImageData(0, 0, front.width, front.height).data.some((value) => value); })()"""
    assert page.evaluate(inked)
    page.select_option("#seed", "")
    assert not page.evaluate(inked)


def test_tokens_are_compared_over_documents(new_page, address):
    page = new_page(f"{address}?document=first.txt&token=7")
    drawn(page, NUM_SEEDS)
    page.click("#compare")
    page.click('#documents [data-document="1"]')
    page.click('[data-token="3"]')
    drawn(page, 2 * NUM_SEEDS)
    assert page.locator("#chips li").count() == 2
    page.click('[data-token="4"]', modifiers=["Shift"])
    drawn(page, 3 * NUM_SEEDS)
    until(page, "location.search.includes('compare=0.7_1.4')")
    page.click("#chips li:has-text('first.txt') button")
    drawn(page, 2 * NUM_SEEDS)


def test_fits_are_laid_over_the_curves(new_page, address):
    page = new_page(f"{address}?document=first.txt&token=2")
    drawn(page, NUM_SEEDS)
    page.keyboard.press("f")
    until(page, f"document.querySelector('#chart').dataset.fits === '{NUM_SEEDS}'")
    until(page, "document.querySelector('#numbers').textContent.includes('learned in a drop')")
    assert f"by {NUM_SEEDS} of {NUM_SEEDS} seeds" in page.inner_text("#numbers"), "token 2 is planted as a sharp drop"


def test_an_address_leads_back_to_what_was_seen(new_page, address):
    link = f"{address}?document=second.txt&token=3&step=20&color=deviation&seed=5&steps=linear&compare=0.2&zoom=10-100"
    page = new_page(link)
    drawn(page, 2 * NUM_SEEDS)
    assert page.evaluate("document.querySelector('.chosen').dataset.token") == "3"
    assert page.input_value("#color") == "deviation" and page.input_value("#seed") == "5"
    assert page.get_attribute("#log", "aria-pressed") == "false"
    assert int(page.inner_text("#step-label").split()[1]) in PLAN
    page.keyboard.press("ArrowRight")
    until(page, "location.search.includes('token=4')")
    page.go_back()
    until(page, "document.querySelector('.chosen').dataset.token === '3'")
    assert page.input_value("#seed") == "5"
    assert page.evaluate("new URLSearchParams(location.search).get('zoom')") == "10-100"


@pytest.mark.parametrize(
    "query",
    [
        "document=nowhere.txt&token=1",
        "document=first.txt&token=999999&step=-1&zoom=9-1&compare=0.999_x.y_77.1&seed=1e9&color=constructor",
        "document=" + quote("<img src=x onerror=alert(1)>") + "&color=__proto__&token=__proto__",
    ],
)
def test_an_address_that_asks_for_what_is_not_there_says_so(new_page, address, query):
    page = new_page(f"{address}?{query}")
    until(page, "document.querySelector('#notice').textContent.startsWith('The address asks for what is not here')")
    assert page.locator("img").count() == 0


def test_curves_are_saved_as_a_table_and_as_a_picture(new_page, address, planted):
    page = new_page(f"{address}?document=first.txt&token=7")
    drawn(page, NUM_SEEDS)
    with page.expect_download() as saved:
        page.click("#csv")
    with saved.value.path().open(newline="") as file:
        head, *rows = csv.reader(file)
    assert head[:6] == ["doc_id", "document", "token_index", "token", "step", "seed_0"] and len(head) == 5 + NUM_SEEDS
    dataset = discreteness.open(planted)
    assert {(row[1], row[2], row[3]) for row in rows} == {("first.txt", "7", *dataset.texts("first.txt", [7]))}
    table = np.array([row[4:] for row in rows], np.float64)
    assert table[:, 0].tolist() == list(PLAN)
    assert max(len(field.replace(".", "").lstrip("0")) for row in rows for field in row[5:]) == 9, "digits"
    np.testing.assert_array_equal(table[:, 1:].T.astype(np.float32), dataset.losses("first.txt", 7))
    with page.expect_download() as saved:
        page.click("#png")
    assert saved.value.path().read_bytes().startswith(b"\x89PNG") and saved.value.suggested_filename.endswith(".png")


def test_a_chosen_newline_is_one_box_and_leaves_the_title_one_line(new_page, address, planted):
    texts = discreteness.open(planted).texts("first.txt")
    token = next(number for number, text in enumerate(texts, 1) if text.endswith("\n"))
    page = new_page(f"{address}?document=first.txt&token={token}")
    drawn(page, NUM_SEEDS)
    box = f"document.querySelector('[data-token=\"{token}\"]')"
    assert page.evaluate(f"[{box}.className, {box}.getClientRects().length]") == ["token chosen", 1]
    after = f"document.querySelector('[data-token=\"{token + 1}\"]')"
    assert page.evaluate(f"{after}.getBoundingClientRect().top - {box}.getBoundingClientRect().bottom") > 0
    assert "\n" not in page.inner_text("#token-title") and "↵" in page.inner_text("#token-title")


def test_five_hundred_documents_stay_usable(new_page, serve_here, tmp_path):
    """The table in reach and short, the list folded and filtered, a text found in all of them."""
    documents, token_bytes = text_documents({f"{n:03}": f"a bee sees {n:03}" for n in range(500)})
    documents = [replace(document, category=f"c{document.doc_id // 20:02}") for document in documents]
    create_planted(tmp_path / "d", documents, token_bytes, PLAN, range(1))
    page = new_page(serve_here(tmp_path / "d"))
    until(page, "document.querySelectorAll('#heatmap .names button').length === 500")
    assert page.evaluate("document.querySelector('#table').getBoundingClientRect().top + scrollY") < 2500
    until(page, "document.querySelectorAll('#table tbody tr').length === 60")
    page.click("#table-more")
    until(page, "document.querySelectorAll('#table tbody tr').length > 60")
    page.click("#heatmap .names button:nth-child(450)")  # scrolled to
    until(page, "document.querySelector('#text').textContent.includes('bee')")
    assert "document=449" in page.evaluate("location.search")
    unfolded = page.locator("#documents details[open] summary span:first-child").all_inner_texts()
    assert unfolded == ["c22"] and page.is_visible("#documents [data-document='449']")
    page.fill("#list-filter", "31")
    shown = page.locator("#documents [data-document]:visible").evaluate_all("(all) => all.map((one) => one.title)")
    assert shown == [f"{n:03}" for n in range(500) if "31" in f"{n:03}"]
    page.fill("#find", "bee")
    until(page, "document.querySelector('#found-count').textContent.startsWith('500 in 500 documents')")
    assert page.locator("#found-list .option").count() == 120 and "the first 120 shown" in page.inner_text(
        "#found-count"
    )
    page.fill("#find", "s 317")
    until(page, "document.querySelector('#found-count').textContent === '1 in 1 document'")
    page.keyboard.press("Enter")
    until(page, "document.querySelector('.chosen') && location.search.includes('document=317')")


def test_keys_play_training_and_walk_through_tokens_and_documents(new_page, address):
    page = new_page(f"{address}?document=first.txt")
    colored(page)
    page.keyboard.press("ArrowRight")
    drawn(page, NUM_SEEDS)
    assert page.evaluate("document.querySelector('.chosen').dataset.token") == "1"
    page.keyboard.press("Space")
    until(page, "location.search.includes('step=')")
    page.keyboard.press("Space")
    stopped = page.inner_text("#step-label")
    page.keyboard.press("]")
    assert page.inner_text("#step-label") != stopped
    page.keyboard.press("?")
    assert page.evaluate("document.querySelector('#help').open")
    page.keyboard.press("Escape")
    page.keyboard.press("ArrowDown")
    until(page, "location.search.includes('second.txt')")
    page.keyboard.press("o")
    until(page, "!document.querySelector('#overview').hidden")


def test_slider_play_and_keys_are_off_where_a_color_is_of_all_steps(new_page, address):
    page = new_page(f"{address}?document=first.txt&step=20")
    colored(page)
    look = """['#play', '#step'].map((id) => {
        const { opacity, cursor } = getComputedStyle(document.querySelector(id));
        return [document.querySelector(id).disabled, opacity, cursor]; })"""
    on = page.evaluate(look)
    assert [disabled for disabled, *_ in on] == [False, False]
    for color in "time", "sharpness", "time-spread":
        page.select_option("#color", "loss")
        page.focus("#text")
        page.keyboard.press("Space")
        until(page, "document.querySelector('#play').textContent === '❚❚'")
        page.select_option("#color", color)
        off = page.evaluate(look)
        assert [disabled for disabled, *_ in off] == [True, True]
        assert all(was != now for one, other in zip(on, off, strict=True) for was, now in zip(one, other, strict=True))
        assert page.inner_text("#step-label") == "all steps"
        before = page.input_value("#step")
        for key in "[", "]", "Space":
            page.keyboard.press(key)
        assert (page.inner_text("#play"), page.input_value("#step")) == ("▶", before), "it has stopped, and stays so"
    page.select_option("#color", "deviation")
    assert page.evaluate(look) == on
    page.keyboard.press("[")
    assert int(page.input_value("#step")) == int(before) - 1


def test_going_back_brings_back_the_colors_too(new_page, address):
    page = new_page(f"{address}?document=first.txt&token=2")
    drawn(page, NUM_SEEDS)
    colored(page)
    by_loss = colors(page)
    page.keyboard.press("ArrowRight")
    page.select_option("#color", "time")
    until(page, "document.querySelector('#legend').textContent.includes('learned at step')")
    assert colors(page) != by_loss
    page.go_back()
    until(page, "document.querySelector('#legend').textContent.includes('loss (nats)')")
    assert colors(page) == by_loss and page.input_value("#color") == "loss" and not page.is_disabled("#step")


def test_an_answer_that_comes_late_does_not_color_the_text(new_page, address):
    page = new_page(f"{address}?document=first.txt")
    colored(page)
    held = []
    page.route("**/seeds/1", lambda route: held.append(route))
    with page.expect_request("**/seeds/1"):
        page.select_option("#seed", "1")
    page.select_option("#seed", "2")
    until(page, "document.querySelector('#legend').textContent.endsWith('seed 2')")
    of_second = colors(page)
    with page.expect_response("**/seeds/1") as late:
        held[0].continue_()
    late.value.finished()
    page.evaluate("fetch('/api/state').then((answer) => answer.text())")
    assert colors(page) == of_second


def test_fits_that_are_done_between_two_looks_are_shown(new_page, serve_here, tmp_path):
    documents, token_bytes = text_documents(TEXTS)
    create_planted(tmp_path / "d", documents, token_bytes, PLAN, range(2))
    address = serve_here(tmp_path / "d")
    page = new_page(f"{address}?document=second.txt")
    colored(page)
    held = []  # until they are routed no more
    page.route("**/api/state", lambda route: held.append(route))
    while not held:
        page.evaluate("0")
    with page.expect_response("**/drops"):
        page.select_option("#color", "time")
    deadline_s = time.monotonic() + 90
    while b'"num_seeds": 2' not in ask(address, "/api/documents/1/drops")[1]:
        assert time.monotonic() < deadline_s
        time.sleep(0.05)
    page.unroute("**/api/state")
    until(page, "document.querySelector('#legend').textContent.endsWith('2 seeds')")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_small_screen_shows_everything_below_each_other(new_page, address, scheme):
    page = new_page(
        f"{address}?document=first.txt&token=7", viewport={"width": 380, "height": 700}, color_scheme=scheme
    )
    drawn(page, NUM_SEEDS)
    assert page.evaluate("document.documentElement.scrollWidth") <= 380
    assert page.is_visible("#document-choice") and not page.is_visible("#documents")
    background = page.evaluate("getComputedStyle(document.body).backgroundColor.match(/[0-9]+/g).map(Number)")
    assert (sum(background) < 200) == (scheme == "dark")
    page.select_option("#theme", "dark" if scheme == "light" else "light")
    changed = page.evaluate("getComputedStyle(document.body).backgroundColor.match(/[0-9]+/g).map(Number)")
    assert (sum(changed) < 200) == (scheme == "light")


def test_a_running_experiment_is_followed_without_a_reload(new_page, serve_here, tmp_path):
    documents, token_bytes = text_documents(TEXTS)
    dataset = create_planted(tmp_path / "d", documents, token_bytes, PLAN, [])
    address = serve_here(tmp_path / "d")
    page = new_page(f"{address}?document=first.txt&token=1")
    until(page, "document.querySelector('#seeds').textContent.startsWith('0 seeds')")
    show_running(dataset, 4, 10)
    until(page, "document.querySelector('#seeds').textContent.includes('in training: seed 4: 10 of 40')")
    drawn(page, 1)
    page.evaluate("window.points = 0")
    show_running(dataset, 4, 25)
    until(page, "document.querySelector('#seeds').textContent.includes('25 of 40')")
    until(page, "window.points >= 20")
    commit_planted(dataset, 4)
    show_running(dataset, 5, 3)
    until(page, "document.querySelector('#numbers').textContent.includes('1 committed, 1 in training')")
    drawn(page, 2)
    colored(page)


def test_hostile_names_and_tokens_are_only_text(new_page, serve_here, tmp_path):
    documents, token_bytes = text_documents(HOSTILE)
    create_planted(tmp_path / "d", documents, token_bytes, PLAN, range(2))
    address = serve_here(tmp_path / "d")
    page = new_page(address)
    until(page, "document.querySelectorAll('#table tbody tr').length > 5")
    page.click("#heatmap .names button:nth-child(1)")
    colored(page)
    shown = page.inner_text("#text")
    assert shown == ("⟨bos⟩<script>document.title='owned'</script>⟨U+202E⟩txet⟨U+202C⟩⟨U+0000⟩⟨U+200B⟩${7*7}{{7*7}}")
    page.click('[data-token="4"]')
    drawn(page, 2)
    page.keyboard.press("c")
    page.keyboard.press("f")
    with page.expect_download() as saved:
        page.click("#csv")
    with saved.value.path().open(newline="") as file:
        _, row, *_ = csv.reader(file)
    dataset = discreteness.open(tmp_path / "d")
    assert row[1:4] == [dataset.documents[0].name, "4", *dataset.texts(0, [4])]
    assert "/" not in saved.value.suggested_filename and "<" not in saved.value.suggested_filename
    page.keyboard.press("ArrowDown")
    until(page, "document.querySelector('#text').textContent.includes('javascript:alert(1)')")
    page.reload()
    until(page, "document.querySelector('#text').textContent.includes('javascript:alert(1)')")
    assert page.locator("img, #text script, iframe").count() == 0


def test_damage_is_said_on_the_page(new_page, serve_here, tmp_path):
    documents, token_bytes = text_documents(TEXTS)
    dataset = create_planted(tmp_path / "d", documents, token_bytes, PLAN, range(3))
    (tmp_path / "d/losses/seed=00001.parquet").write_bytes(b"PAR1 not really")
    address = serve_here(tmp_path / "d")
    page = new_page(f"{address}?document=first.txt&token=2", expected="status of 500")
    until(page, "document.querySelector('#notice').textContent.includes('seed=00001.parquet: truncated')")
    drawn(page, 2)
    whole = (tmp_path / "d/losses/seed=00002.parquet").read_bytes()
    broken = bytearray(whole)
    broken[8:2000] = bytes(1992)
    (tmp_path / "d/losses/seed=00002.parquet").write_bytes(broken)
    page.goto(f"{address}?document=second.txt&token=2")
    until(page, "document.querySelector('#notice').textContent.length > 80")
    commit_planted(dataset, 7)
    (tmp_path / "d/experiment.json").unlink()
    until(page, "document.querySelector('#notice').textContent.includes('is not a dataset')")


def test_every_class_has_a_style_and_every_id_an_element():
    """What the scripts and styles of the page name exists; classes of uPlot are its own."""
    scripts = "\n".join(path.read_text() for path in PAGE.glob("*.js"))
    html, styles = (PAGE / "index.html").read_text(), (PAGE / "style.css").read_text()
    given = re.findall(r'class(?:Name =|:|=) ?(\[.*?\]|"[^"]*")', html + scripts)
    given += re.findall(r"classList\.\w+\((.*?)\)", scripts)
    classes = {name for one in given for words in re.findall(r'"([^"]*)"', one) for name in words.split()}
    ids = set(re.findall(r'\bid="([^"]*)"', html))
    selectors = re.sub(r"\{[^{}]*\}", "{}", styles)
    styled = {name for name in re.findall(r"\.([a-z][\w-]*)", selectors) if not name.startswith("u-")}
    assert classes == styled and {"token", "unknown", "chosen", "tick", "front", "tools"} <= classes
    assert set(re.findall(r'byId\("([^"]*)"\)', scripts)) <= ids
    assert set(re.findall(r"#([a-z][\w-]*)", selectors)) <= ids


@pytest.mark.parametrize("damage", ["no folder", "no dataset", "experiment.json", "documents.parquet"])
def test_what_is_no_dataset_is_refused_at_the_start(tmp_path, damage):
    if damage != "no folder":
        (tmp_path / "d").mkdir()
    if damage == "experiment.json":
        (tmp_path / "d/experiment.json").write_text("{")
    if damage == "documents.parquet":
        documents, token_bytes = text_documents(TEXTS)
        create_planted(tmp_path / "d", documents, token_bytes, PLAN, [0])
        (tmp_path / "d/documents.parquet").write_bytes(b"no")
    with pytest.raises((FileNotFoundError, ValueError), match=str(tmp_path / "d")):
        application(tmp_path / "d")


@pytest.mark.parametrize("arguments", [["nowhere"], ["PLANTED", "--port", "TAKEN"]])
def test_what_cannot_be_shown_is_one_line_and_exit_code_2(planted, address, arguments, monkeypatch, capsys):
    meant = {"PLANTED": str(planted), "TAKEN": str(urlsplit(address).port)}
    monkeypatch.setattr(sys, "argv", ["discreteness", "view", *(meant.get(one, one) for one in arguments)])
    with pytest.raises(SystemExit) as left:
        main()
    said = capsys.readouterr()
    assert left.value.code == 2 and said.err.startswith("error: ") and said.err.count("\n") == 1, said
    assert said.out == ""


def ask(address, path, method="GET", **headers):
    connection = http.client.HTTPConnection(urlsplit(address).netloc, timeout=30)
    connection.request(method, path, headers=headers)
    response = connection.getresponse()
    body = response.read()
    connection.close()
    return response, body


def test_only_this_machine_by_its_own_name_and_only_to_read(address):
    for host in "evil.example", "evil.example:8321", "127.0.0.1.evil.example", "[::ffff:1.2.3.4]", "":
        assert ask(address, "/api/dataset", Host=host)[0].status == 403, host
    for host in "localhost:1234", "127.0.0.1", urlsplit(address).netloc:
        assert ask(address, "/api/dataset", Host=host)[0].status == 200, host
    for method in "POST", "PUT", "DELETE", "PATCH", "OPTIONS":
        assert ask(address, "/api/state", method)[0].status == 405, method


@pytest.mark.parametrize("path", ["/", "/api/state", "/page/main.js", "/api/documents/9/tokens", "/nowhere"])
def test_every_answer_forbids_scripts_and_readers_from_elsewhere(address, path):
    response, _ = ask(address, path)
    assert "script-src 'self';" in response.headers["Content-Security-Policy"]
    assert "unsafe" not in response.headers["Content-Security-Policy"]
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    assert response.headers["Cross-Origin-Resource-Policy"] == "same-origin"
    assert "Access-Control-Allow-Origin" not in response.headers


@pytest.mark.parametrize(
    "path",
    [
        "/page/../server.py",
        "/page/%2e%2e/server.py",
        "/page/..%2f..%2fserver.py",
        "/page//etc/passwd",
        "/api/documents/9/summary",
        "/api/documents/0/seeds/999999",
        "/api/documents/0/tokens/0",
        "/api/documents/0/tokens/99999",
        "/api/documents/0/tokens/99999/fits",
        "/api/documents/-1/tokens",
        "/api/documents/99999999999999999999/tokens",
        "/api/documents/%00/tokens",
    ],
)
def test_what_does_not_exist_is_not_found(address, path):
    response, body = ask(address, path)
    assert response.status in (403, 404) and b"def " not in body and len(body) < 300
