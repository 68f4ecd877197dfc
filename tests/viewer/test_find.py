"""What the page finds, reads off and says of an analysis, in a real browser, against NumPy on the files."""

import csv
import json
import re
import shutil
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import discreteness
import discreteness.analysis.tables
from discreteness.analysis.analyze import analyze
from discreteness.analysis.words import paragraphs
from discreteness.dataset.writer import DatasetWriter
from tests.support.chromium import until
from tests.support.dataset_case import IDENTITY
from tests.support.planted_dataset import create_planted, log_plan, planted_losses, text_documents
from tests.viewer.test_viewer_numbers import numbers, rounded, says

pytest_plugins = ["tests.support.browsing"]

PLAN = log_plan(30, 1000)
SEEDS = range(6)
BATCH_STEP = 100
TEXTS = {
    "bee.txt": "The bee sees the sea (and $5.0) ",
    "day.txt": "one day the sun sees",
    "four.txt": "fóur of the five",
    "sea.txt": "a sea, a see; the end",
    "sum.txt": "1 + 1 = 2, 2 + 2 = 4",
}
CATEGORIES = {
    "bee.txt": "animals",
    "day.txt": "time",
    "four.txt": "counting",
    "sea.txt": "places",
    "sum.txt": "counting",
}
COLUMNS = ["time", "width", "fall", "drop_share", "time_spread", "common_share", "evidence", "final_loss", "steepness"]
TABLE = "Array.from(document.querySelectorAll('#table tbody tr'), (row) => row.cells[1].textContent)"


@pytest.fixture(scope="module")
def analyzed(tmp_path_factory):
    """Five documents in four categories with an analysis; the third token of the first has no row of its own; the batch
    changes at BATCH_STEP."""
    path = tmp_path_factory.mktemp("find") / "d"
    documents, token_bytes = text_documents(TEXTS)
    documents = [replace(document, category=CATEGORIES[document.name]) for document in documents]
    unknown = documents[0].token_ids[3]
    dataset = DatasetWriter.create_or_open(
        path,
        identity=IDENTITY,
        documents=documents,
        token_bytes=token_bytes,
        in_vocabulary=lambda token_id: token_id != unknown,
        steps=PLAN,
    )
    num_tokens = sum(document.num_losses for document in dataset.manifest.documents)
    records = pa.table({"step": list(PLAN), "batch_tokens": [64 if step < BATCH_STEP else 128 for step in PLAN]})
    for seed in SEEDS:
        losses = planted_losses(seed, PLAN, num_tokens)
        dataset.commit(seed, f"attempt-{seed}", np.array(PLAN, np.int32), losses, records)
    analyze(path)
    return path


@pytest.fixture(scope="module")
def address(analyzed, serve_here):
    return serve_here(analyzed)


def places(path, query, whole=False):
    """(document, first token, last token) of each place where a text stands, of the words as they are in the file."""
    found = []
    words = pq.ParquetFile(path / "documents.parquet").read().to_pylist()
    for name in TEXTS:
        tokens = [row["token_bytes"] for row in words if row["name"] == name][1:]
        ends = np.cumsum([len(token) for token in tokens])
        pattern = re.escape(query.encode())
        for match in re.finditer(pattern, b"".join(tokens), 0 if query != query.lower() else re.IGNORECASE):
            first, last = (int(np.searchsorted(ends, at, "right")) + 1 for at in (match.start(), match.end() - 1))
            begins, stops = match.start() == (ends[first - 2] if first > 1 else 0), match.end() == ends[last - 1]
            if not whole or (begins and stops):
                found.append((name, first, last))
    return found


def shown_places(page):
    """(document, first token) of every place in the list of what was found."""
    return page.evaluate(
        """Array.from(document.querySelectorAll('#found-list [role=group]')).flatMap((group) =>
          Array.from(group.querySelectorAll('.option small'), (at) => [group.ariaLabel, Number(at.textContent)]))"""
    )


def type_in(page, query):
    page.fill("#find", query)
    until(page, "document.querySelector('#found-count').checkVisibility()")


def test_a_text_is_found_in_all_documents_and_the_keys_lead_there(new_page, address, analyzed):
    page = new_page(address)
    until(page, f"{TABLE}.length > 0")
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.id") == "find" and page.input_value("#find") == ""
    for query, whole in (("the", False), ("The", False), ("The ", True), ("se", True), ("$5.0)", False), ("a", False)):
        page.set_checked("#find-whole", whole) if page.is_visible("#find-whole") else None
        type_in(page, query)
        page.set_checked("#find-whole", whole)
        expected = places(analyzed, query, whole)
        documents = {name for name, *_ in expected}
        until(page, f"document.querySelector('#found-count').textContent.startsWith('{len(expected)} in ')")
        says(page.inner_text("#found-count"), len(expected), len(documents))
        assert len(expected) > 0
        # Four places per document, then a line that shows the rest.
        while (more := page.locator("#found-list .option", has_text=re.compile(r"^\d+ more in "))).count():
            more.first.click()
        assert [tuple(place) for place in shown_places(page)] == [place[:2] for place in expected]
    page.set_checked("#find-whole", False)
    type_in(page, "ó")
    assert shown_places(page) == [["four.txt", 2]], "in two tokens: the last one of them ends it"
    type_in(page, "zebra")
    assert page.inner_text("#found-count") == "not found in any text"
    type_in(page, "sea")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    active = "document.getElementById(document.querySelector('#find').getAttribute('aria-activedescendant'))"
    at = page.evaluate(f"Array.from(document.querySelectorAll('#found-list .option')).indexOf({active})")
    assert at == 2 and page.evaluate(f"{active}.getAttribute('aria-selected')") == "true"
    page.keyboard.press("ArrowUp")
    (name, first, last), *_ = places(analyzed, "sea")
    assert page.inner_text("#found-list .option[aria-selected=true]").endswith(str(first)), "its name comes first"
    page.keyboard.press("Enter")
    until(page, f"document.querySelector('.chosen')?.dataset.token === '{first}'")
    assert not page.is_visible("#found") and f"document={name}" in page.url and "find=sea" in page.url
    marked = "Array.from(document.querySelectorAll('.found'), (box) => Number(box.dataset.token))"
    here = {token for one, start, end in places(analyzed, "sea") if one == name for token in range(start, end + 1)}
    assert set(page.evaluate(marked)) == here and {first, last} <= here
    page.keyboard.press("ArrowRight")
    until(page, f"document.querySelector('.chosen').dataset.token === '{first + 1}'")
    page.reload()
    until(page, f"document.querySelectorAll('.found').length === {len(here)}")
    assert page.input_value("#find") == "sea" and not page.is_visible("#found")
    page.click("#find")
    until(page, "document.querySelector('#found-count').checkVisibility()")
    page.keyboard.press("Escape")
    assert not page.is_visible("#found")
    check_list_of_documents(page)


def check_list_of_documents(page):
    """Folded by category, filtered by name or category, kept in the address."""
    summaries = page.locator("#documents summary span:first-child").all_inner_texts()
    assert summaries == list(dict.fromkeys(CATEGORIES.values()))
    page.click("#documents summary:has-text('counting')")
    assert not page.is_visible("#documents [data-document='4']")
    page.fill("#list-filter", "count")
    assert page.locator("#documents [data-document]:visible").evaluate_all("(all) => all.map((o) => o.title)") == [
        "four.txt",
        "sum.txt",
    ]
    says(page.inner_text("#list-count"), 2, len(TEXTS))
    until(page, "location.search.includes('list=count')")
    page.reload()
    until(page, "document.querySelectorAll('#documents [data-document]').length === 2")
    page.click("#documents [data-document='4']")
    until(page, "document.querySelector('#text').textContent.includes('=')")


@pytest.fixture(scope="module")
def truth(analyzed):
    """Of every token, in the order of the documents: the columns of the table as float32, answers, place and word."""
    tokens = pq.ParquetFile(analyzed / "analysis/tokens.parquet").read().to_pylist()
    fits = pq.ParquetFile(analyzed / "analysis/fits.parquet").read().to_pylist()
    evidence = {}
    for row in fits:
        if row["is_drop"]:
            evidence.setdefault((row["doc_id"], row["token_index"]), []).append(row["delta_bic"])
    rows = {name: [] for name in (*COLUMNS, "place", "document", "answer", "word")}
    for row in tokens:
        numbers = {name: np.nan if row.get(name) is None else row[name] for name in COLUMNS}
        numbers["evidence"] = np.median(evidence.get((row["doc_id"], row["token_index"]), [np.nan]))
        numbers["steepness"] = numbers["drop_share"] * numbers["fall"] / max(numbers["width"], 0.5)
        for name, value in numbers.items():
            rows[name].append(value)
        rows["place"].append(f"{row['document']}:{row['token_index']}")
        rows["document"].append(row["document"])
        rows["answer"].append(row["token_index"] in (2, 5))
        rows["word"].append(row["token"])
    return {name: np.array(values, np.float32 if name in COLUMNS else None) for name, values in rows.items()}


def test_the_table_of_tokens_is_sorted_and_filtered(new_page, address, truth):
    page = new_page(address)
    until(page, f"{TABLE}.length > 0")
    has = truth["drop_share"] > 0
    total = len(has)
    assert 10 < has.sum() < total
    page.select_option("#table-drops", "all")  # what is not measured comes last in both orders
    for name in COLUMNS:
        for _ in range(2):
            page.click(f"#table th[data-column={name}] button")
            order = page.get_attribute(f"#table th[data-column={name}]", "aria-sort")
            assert page.locator("#table th[aria-sort=ascending], #table th[aria-sort=descending]").count() == 1
            sign = {"ascending": 1, "descending": -1}[order]
            values = truth[name]
            expected = np.lexsort((np.arange(total), np.where(np.isnan(values), 0, sign * values), np.isnan(values)))
            assert page.evaluate(TABLE) == truth["place"][expected].tolist(), (name, order)
    page.select_option("#table-drops", "some")
    page.click("#table th[data-column=word] button")
    word = dict(zip(truth["place"].tolist(), truth["word"].tolist(), strict=True))
    words = [word[place] for place in page.evaluate(TABLE)]
    assert words == page.evaluate("(words) => words.sort(new Intl.Collator('en').compare)", words)
    page.focus("#table th[data-column=document] button")
    page.keyboard.press("Enter")
    assert page.evaluate(TABLE) == truth["place"][has].tolist(), "the documents are in order of their names"
    until(page, "location.search.includes('sort=document')")

    category = np.array([CATEGORIES[name] for name in truth["document"]])
    least = float(np.median(truth["evidence"][has]).round())
    own, common = has & (truth["common_share"] < 0.5), truth["common_share"] >= 0.5
    for drops, those in (("some", has), ("own", own), ("common", common), ("none", ~has), ("all", has | True)):
        page.select_option("#table-drops", drops)
        check_rows(page, truth, those, total)
    page.check("#table-answers")
    check_rows(page, truth, truth["answer"], total)
    page.select_option("#table-category", "counting")
    check_rows(page, truth, truth["answer"] & (category == "counting"), total)
    page.fill("#table-documents", "SUM")
    check_rows(page, truth, truth["answer"] & (truth["document"] == "sum.txt"), total)
    link = page.evaluate("new Promise((done) => setTimeout(() => done(location.href), 300))")
    page.click("#table-reset")
    page.fill("#table-evidence", str(least))
    page.click("#table th[data-column=document] button")
    check_rows(page, truth, has & (truth["evidence"] >= least), total)
    with page.expect_download() as saved:
        page.click("#table-csv")
    with saved.value.path().open(newline="") as file:
        kept = [f"{row['document']}:{row['token_index']}" for row in csv.DictReader(file)]
    assert kept == page.evaluate(TABLE)
    page.focus("#table tbody tr")
    page.keyboard.press("ArrowDown")
    place = page.evaluate("document.activeElement.cells[1].textContent")
    assert place == page.evaluate(TABLE)[1]
    page.keyboard.press("Enter")
    until(page, f"document.querySelector('.chosen')?.dataset.token === '{place.split(':')[1]}'")
    assert f"evidence={least:g}" in page.url, "the document's address keeps what the table shows"
    page.go_back()
    until(page, f"!document.querySelector('#overview').hidden && {TABLE}.length > 0")
    page.goto(link)
    until(page, f"{TABLE}.length > 0")
    check_rows(page, truth, truth["answer"] & (truth["document"] == "sum.txt"), total)
    controls = "['#table-drops', '#table-category', '#table-documents'].map((id) => document.querySelector(id).value)"
    assert page.evaluate(controls) == ["all", "counting", "SUM"] and page.is_checked("#table-answers")
    page.goto(f"{address}?sort=nothing&category=none&drops=constructor&evidence=-1")
    until(page, "document.querySelector('#notice').textContent.includes('sort nothing, evidence -1, category none')")


def check_rows(page, truth, passing, total):
    """Rows that pass, in order of their documents, and how many of how many."""
    assert page.evaluate(TABLE) == truth["place"][passing].tolist()
    says(page.inner_text("#table-count"), int(passing.sum()), int(passing.sum()), total)
    assert page.is_visible("#table-none") == (not passing.any())


def test_the_overview_begins_with_what_the_analysis_says(new_page, serve_here, analyzed, tmp_path):
    path = tmp_path / "d"
    shutil.copytree(analyzed, path, ignore=shutil.ignore_patterns("analysis"))
    page = new_page(serve_here(path))
    until(page, "document.querySelector('#findings code')?.textContent.startsWith('discreteness analyze ')")
    assert page.inner_text("#findings code") == f"discreteness analyze {path}"
    until(page, "document.querySelector('#table-drops [value=own]').disabled")
    shutil.copytree(analyzed / "analysis", path / "analysis")  # as `analyze` writes it while the page is open
    until(page, "document.querySelector('#findings .lead')")
    said = page.evaluate("Array.from(document.querySelectorAll('#findings .words p:not(.hint)'), (p) => p.textContent)")
    found = discreteness.analysis.tables.load(path)
    assert " ".join(said).split() == paragraphs(found.numbers, discreteness.open(path).vary).split()
    stated = json.loads((path / "analysis/numbers.json").read_text())
    fits = pq.ParquetFile(path / "analysis/fits.parquet").read()
    is_drop = fits["is_drop"].to_numpy(zero_copy_only=False)
    rows = {row.locator("th").inner_text(): row for row in page.locator("#findings tbody tr").all()}
    for means, share, by_chance in (
        ("curves with a drop", is_drop.mean(), "expected_false_share"),
        ("drops that all tokens share", np.mean([c for c in fits["common"].to_pylist() if c is not None]), None),
        (
            "drops that half of the checkpoints show too",
            np.mean([s for s in fits["stable"].to_pylist() if s is not None]),
            None,
        ),
        (
            "drops where the schedule changes",
            np.mean([bool(said) for said in fits["schedule"].to_pylist() if said is not None]),
            "schedule_change_chance",
        ),
    ):
        name = {"curves with a drop": "drop_share", "drops that all tokens share": "common_share"}.get(means)
        cells = rows[means].locator("td").all_inner_texts()
        value, *bounds = numbers(cells[0])
        assert value == rounded(100 * share, 2 if share < 0.0995 else len(f"{100 * share:.0f}"))
        if name:
            assert bounds == [
                rounded(100 * one, 2 if one < 0.0995 else len(f"{100 * one:.0f}")) for one in stated["intervals"][name]
            ]
        if by_chance:
            assert numbers(cells[1])[0] == rounded(100 * stated[by_chance], 2)
        dot = float(rows[means].locator("circle.of-found").get_attribute("cx"))
        assert dot == pytest.approx(4 + share * 212, abs=0.01), "from 0 to 100 % along its axis"
    step = min(step for step in PLAN if step >= BATCH_STEP)
    assert page.inner_text("#schedule") == f"Schedule: batch at {step}."
    until(page, "document.querySelectorAll('#spectrum .chance').length > 5")
    assert page.locator("#spectrum .schedule").count() == 1
    place = page.evaluate(
        "(() => { const [line, axis] = ['.schedule', '.axis'].map((c) => document.querySelector('#spectrum ' + c));"
        "const at = (one, name) => Number(one.getAttribute(name));"
        "return (at(line, 'x1') - at(axis, 'x1')) / (at(axis, 'x2') - at(axis, 'x1')); })()"
    )
    assert place == pytest.approx(np.log2(step + 1) / np.log2(PLAN[-1] + 1), abs=1e-3)
    page.click("#heatmap .names button:nth-child(1)")
    page.click('[data-token="1"]')
    until(page, "document.querySelector('#chart').dataset.marks === '1'")
    assert f"batch at {step}" in page.inner_text("#schedule-here")
    (path / "analysis/fits.parquet").write_bytes(b"damaged")
    page.click("#view-overview")
    until(page, "document.querySelector('#findings .need')?.textContent.startsWith('The analysis cannot be read: ')")


def test_values_are_read_off_by_pointer_and_by_keys(new_page, address, truth, analyzed):
    page = new_page(address)
    until(page, f"{TABLE}.length > 0")
    dataset = discreteness.open(analyzed)
    heat = np.stack([dataset.losses(name).mean(axis=(0, 2), dtype=np.float64) for name in TEXTS])
    page.focus("#heatmap canvas")
    row, index = 0, len(PLAN) - 1
    for key, by in (
        ("End", (0, 0)),
        ("ArrowDown", (1, 0)),
        ("ArrowLeft", (0, -1)),
        ("ArrowLeft", (0, -1)),
        ("ArrowUp", (-1, 0)),
    ):
        page.keyboard.press(key)
        row, index = row + by[0], index + by[1]
        name, step, nats = page.inner_text("#heatmap .readout").split(" · ")
        assert name == list(TEXTS)[row]
        says(step, PLAN[index])
        says(nats, float(heat[row, index]))
    along = page.evaluate("parseFloat(document.querySelector('#heatmap .pointer').style.left)")
    assert along == pytest.approx(100 * heat[row, index] / heat.max(), abs=0.1), "where the color is on its scale"
    ticks = page.locator("#heatmap svg text").all_text_contents()
    assert ticks == ["0", "1", "3", "10", "30", "100", "300", "1,000", "step (logarithmic)"]
    page.focus("#spectrum svg")
    titles = page.locator("#spectrum .bar title").all_text_contents()
    for bin, key in ((0, "ArrowRight"), (1, "ArrowRight"), (0, "ArrowLeft")):
        page.keyboard.press(key)
        assert page.inner_text("#spectrum .readout") == titles[bin]
    box = page.locator("#spectrum .bar").nth(3).bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] - 1)
    until(page, f"document.querySelector('#spectrum .readout').textContent === {json.dumps(titles[3])}")
    assert "nats per octave" in page.locator("#spectrum svg text").all_text_contents()
    page.focus("#heatmap canvas")
    page.keyboard.press("End")
    page.keyboard.press("Enter")
    until(page, "document.querySelector('#legend .color-bar')")
    check_text(page, truth, dataset)


def check_text(page, truth, dataset):
    """Of the first document: the value of each color under the mouse, of the chosen token by keys, and the legend."""
    assert page.is_visible("#token-hint") and "Click a token" in page.inner_text("#token-hint")
    name = page.evaluate("new URLSearchParams(location.search).get('document')")
    assert name == next(iter(TEXTS))
    losses = dataset.losses(name)
    mine = truth["document"] == name
    colors = {
        "loss": losses[:, -1].mean(axis=0, dtype=np.float64),
        "deviation": losses[:, -1].std(axis=0, ddof=1, dtype=np.float64),
        "time": truth["time"][mine],
        "sharpness": truth["width"][mine],
        "time-spread": truth["time_spread"][mine],
    }
    for color, values in colors.items():
        page.select_option("#color", color)
        words = {"time": "learned at step", "sharpness": "octaves of", "time-spread": "spread of learning"}.get(
            color, color[:4]
        )
        until(page, f"document.querySelector('#legend').textContent.includes({json.dumps(words)})")
        for token in (1, 4, 5, int(np.argmax(np.nan_to_num(values))) + 1):
            page.hover(f'[data-token="{token}"]')
            said = page.inner_text("#reading")
            assert f"token {token} · " in said
            value = re.sub(r".*?token \d+", "", said)
            if np.isnan(values[token - 1]):
                assert "no drop" in value and not page.is_visible("#legend .pointer")
            else:
                says(value.replace(" · no row of its own", ""), float(values[token - 1]))
                assert page.is_visible("#legend .pointer")
            assert ("no row of its own" in said) == (token == 3) and ("answer" in said) == (token in (2, 5))
        keys = page.inner_text("#legend-keys")
        assert "answer" in keys and "no row of its own" in keys
        assert ("no drop" in keys) == bool(np.isnan(values).any()) and (
            "no drop" in keys or color in ("loss", "deviation")
        )
        common = set((np.flatnonzero(truth["common_share"][mine] >= 0.5) + 1).tolist()) if "no drop" in keys else set()
        marked = page.evaluate("Array.from(document.querySelectorAll('.token.common'), (b) => Number(b.dataset.token))")
        assert set(marked) == common and ("all tokens share" in keys) == bool(common)
    page.select_option("#color", "loss")
    page.mouse.move(5, 300)
    page.focus("#text")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    until(page, "document.querySelector('#reading').textContent.includes('token 2 · ')")
    says(page.inner_text("#reading").split(" · ")[1], float(colors["loss"][1]))
    assert not page.is_visible("#token-hint")


def test_where_there_are_no_seeds_the_page_says_so(new_page, serve_here, tmp_path):
    create_planted(tmp_path / "d", *text_documents(TEXTS), PLAN, [])
    page = new_page(serve_here(tmp_path / "d"))
    until(page, "document.querySelector('#overview-progress').textContent.startsWith('No seeds yet')")
    until(page, "document.querySelector('#findings')?.textContent.startsWith('No seeds yet')")
    assert page.inner_text("#heat-hint") == "No seeds yet."
    page.keyboard.press("d")
    until(page, "document.querySelector('#legend').textContent === 'no seeds yet'")
    assert page.inner_text("#progress").startswith("No seeds yet")
