"""Scores of a trained model: ranks and probabilities against all logits, tables, JSON, and the page in a browser."""

import json
import math
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from playwright import sync_api as playwright
from speedrun.data.shards import BOS
from speedrun.data.tokenizer import encode
from speedrun.model.gpt import PackedTokens

from discreteness.cli.model_commands import Score, Weights
from discreteness.experiment.documents import DocumentError
from discreteness.inference.load import load_trained
from discreteness.inference.score import as_json, as_table, documents_of, score
from discreteness.inference.score_page import DEEPEST_NATS, page, visible
from tests.support import skips
from tests.support.chromium import CHROMIUM
from tests.support.trained_case import TRACK, state_dict

TEXT = "The sun comes up.\nThe capital of France is⟦ Paris⟧. one two three"
HOSTILE = (
    "<script>document.title='owned'</script> <img src=x onerror=alert(1)> & \"q\" \u202etxet\u202c \x1b[31m 東 é\n"
)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "w.pt"
    torch.save({"step": 20, "model": state_dict()}, path)
    return path


@pytest.fixture(scope="module")
def trained(weights):
    return load_trained(weights, track_name=TRACK)


def test_losses_and_ranks_are_those_of_the_whole_distribution(trained):
    """Every logit of every position, by the plainest way, for one document."""
    (document,) = documents_of(TEXT)
    (scored,) = score(trained, [document])
    rows = torch.from_numpy(trained.vocabulary.rows(np.array(document.token_ids)))
    count = len(rows) - 1
    starts = torch.arange(count) == 0
    packed = PackedTokens(
        rows[:-1],
        rows[1:, None].long(),
        torch.arange(count),
        starts,
        torch.tensor([0, count]).int(),
        torch.tensor(count),
    )
    with torch.no_grad():
        hidden = trained.model.hidden(packed, trained.model.stage(trained.state, count))
        logits = 23 * torch.sigmoid((hidden.double() @ trained.model.lm_head.weight.double().T + 5) / 7.5)
    probability = logits.softmax(1).gather(1, rows[1:, None].long()).squeeze(1)
    np.testing.assert_allclose(np.exp(-scored.losses), probability, rtol=1e-4)
    by_hand = [
        sum(other > own[row] for other in own.tolist()) + 1 for own, row in zip(logits, rows[1:].tolist(), strict=True)
    ]
    assert scored.ranks.tolist() == [int(rank) for rank in by_hand]
    assert min(by_hand) >= 1 and max(by_hand) > 50


def test_padding_rows_take_no_rank(trained, tmp_path):
    """Rows beyond the vocabulary are made the likeliest of all: ranks stay, though losses rise."""
    padded = {
        name: torch.cat([tensor, tensor.new_zeros(64, tensor.shape[1])]) if tensor.shape[0] == 3072 else tensor
        for name, tensor in state_dict().items()
    }
    mean = state_dict()["lm_head.weight"].mean(0)
    padded["lm_head.weight"][3072:] = 3 * mean + 3
    torch.save({"step": 20, "model": padded}, tmp_path / "w.pt")
    wide = load_trained(tmp_path / "w.pt", track_name="tests.support.trained_case:wide")
    (document,) = documents_of(TEXT)
    (ours,), (theirs,) = score(wide, [document]), score(trained, [document])
    assert (ours.losses >= theirs.losses).all() and (ours.losses > theirs.losses + 1).any()
    assert ours.ranks.tolist() == theirs.ranks.tolist()


def test_a_source_is_a_folder_a_file_or_a_text(tmp_path):
    (tmp_path / "b.txt").write_text("two")
    (tmp_path / "a.txt").write_text("one")
    (tmp_path / "c.md").write_text("three")
    assert [document.name for document in documents_of(str(tmp_path))] == ["a.txt", "b.txt"]
    (one,) = documents_of(str(tmp_path / "c.md"))
    assert (one.name, one.token_ids) == ("c.md", (BOS, *encode("three")))
    (text,) = documents_of("is⟦ it⟧ a/b.txt here")
    assert (text.name, text.text, sorted(text.answers)) == ("text", "is it a/b.txt here", [2])
    assert documents_of("word " * 1500)[0].name == "text"
    for missing in "nowhere.txt", str(tmp_path / "none"):
        with pytest.raises(FileNotFoundError, match=f"{missing} is not a file or folder"):
            documents_of(missing)
    with pytest.raises(DocumentError, match="text has no text"):
        documents_of("")


def test_an_output_that_exists_is_refused_before_anything_is_scored(tmp_path):
    (tmp_path / "there.json").write_text("mine")
    with pytest.raises(FileExistsError, match=r"--output \S+there.json exists; give another"):
        Score(TEXT, Weights(checkpoint="none.pt"), output=str(tmp_path / "there.json"))()
    assert (tmp_path / "there.json").read_text() == "mine"


def test_json_holds_the_losses_to_the_bit_and_null_for_what_is_no_number(trained):
    documents = documents_of(TEXT)
    scored = score(trained, documents)
    found = json.loads(as_json(trained, scored))
    assert (found["track"], found["step"]) == ("quick", 20)
    (one,) = found["documents"]
    losses = np.array([row["loss"] for row in one["tokens"]], np.float32)
    assert np.array_equal(losses.view(np.uint32), scored[0].losses.view(np.uint32))
    assert "".join(row["token"] for row in one["tokens"]) == documents[0].text
    assert {row["document"] for row in one["tokens"]} == {one["name"]}
    assert [row["token_index"] for row in one["tokens"] if row["answer"]] == sorted(documents[0].answers)
    assert all(row["probability"] == math.exp(-row["loss"]) for row in one["tokens"])
    assert [row["own_row"] for row in one["tokens"]] == [
        trained.vocabulary.contains(row["token_id"]) for row in one["tokens"]
    ]
    scored[0].losses[0] = np.nan
    assert json.loads(as_json(trained, scored))["documents"][0]["tokens"][0]["loss"] is None


def test_the_table_keeps_control_characters_from_the_terminal(trained):
    table = as_table(score(trained, documents_of(HOSTILE)))
    assert "\x1b" not in table and "\u202e" not in table
    assert r"\x1b" in table
    (line,) = (line for line in table.splitlines() if "'document'" in line)
    assert line.endswith("'document'  no row of its own")


class Texts(HTMLParser):
    """Tags and the text of every token's span, as a browser sees them."""

    def __init__(self):
        super().__init__()
        self.tags, self.tokens, self.inside = set(), [], False

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        if tag == "span" and dict(attributes).get("title"):
            self.tokens.append("")
            self.inside = True

    def handle_endtag(self, tag):
        self.inside &= tag != "span"

    def handle_data(self, data):
        if self.inside:
            self.tokens[-1] += data


def test_a_page_holds_texts_as_text_whatever_they_are(trained):
    scored = score(trained, documents_of(HOSTILE))
    read = Texts()
    read.feed(page(trained, scored))
    assert read.tags == {"html", "head", "meta", "title", "style", "body", "p", "span", "h2", "pre", "i"}
    shown = "".join(read.tokens)
    assert "<script>document.title='owned'</script> <img src=x onerror=alert(1)> & \"q\" ⟨e2⟩⟨80⟩⟨ae⟩txet" in shown
    assert "⟨U+001B⟩[31m" in shown and "\u202e" not in shown
    assert len(read.tokens) == len(scored[0].losses)


@pytest.mark.parametrize(
    ("content", "shown"),
    [
        (b" a<b", " a&lt;b"),
        (b"\n", "<i>↵</i>\n"),
        ("é".encode()[:1], "<i>⟨c3⟩</i>"),
        (b"\x00", "<i>⟨U+0000⟩</i>"),
        ("\u2028".encode(), "<i>⟨U+2028⟩</i>"),
        (b"\t'\"", "\t&#x27;&quot;"),
    ],
)
def test_what_is_invisible_or_cut_is_written_out(content, shown):
    assert "".join(visible(content)) == shown


def test_the_command_writes_a_page_that_a_browser_shows(weights, trained, tmp_path):
    (tmp_path / "hostile.txt").write_text(HOSTILE)
    which = Weights(checkpoint=str(weights), track=TRACK)
    command = Score(str(tmp_path / "hostile.txt"), which, format="html", output=str(tmp_path / "page.html"))
    assert command() == 0
    with pytest.raises(FileExistsError, match=r"page\.html"):
        command()
    if CHROMIUM is None:
        pytest.skip(skips.CHROMIUM)
    (scored,) = score(trained, documents_of(str(tmp_path / "hostile.txt")))
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        tab = browser.new_page()
        asked, said = [], []
        tab.on("request", lambda request: asked.append(request.url))
        tab.on("console", lambda message: said.append(message.text))
        tab.on("dialog", lambda dialog: said.append(dialog.message))
        tab.goto(f"file://{tmp_path}/page.html")
        tokens = tab.locator("pre span")
        assert tokens.count() == len(scored.losses)
        assert tab.title() == "Loss of every token"
        assert "onerror=alert(1)" in tab.locator("pre").inner_text()
        assert (asked, said) == ([f"file://{tmp_path}/page.html"], [])
        worst = int(scored.losses.argmax())
        assert f"loss {scored.losses[worst]:.4f}" in tokens.nth(worst).get_attribute("title")
        colors = [tokens.nth(i).evaluate("e => getComputedStyle(e).backgroundColor") for i in range(tokens.count())]
        green = [int(color.removeprefix("rgb(").split(",")[1]) for color in colors]
        expected = 255 - 175 * np.clip(scored.losses / DEEPEST_NATS, 0, 1)
        np.testing.assert_allclose(green, expected, atol=1)
        browser.close()


def test_the_command_prints_what_the_library_finds(program, weights, trained, capsys):
    common = ["--checkpoint", weights, "--track", TRACK]
    run = program("-m", "discreteness", "score", TEXT, *common, "--format", "json")
    missing = program("-m", "discreteness", "score", TEXT, "--checkpoint", "none.pt")
    scored = score(trained, documents_of(TEXT))
    assert Score(TEXT, Weights(checkpoint=str(weights), track=TRACK))() == 0
    assert capsys.readouterr().out.rstrip() == as_table(scored)
    assert run.wait() == 0
    assert json.loads(run.output) == json.loads(as_json(trained, scored))
    assert missing.wait() == 2
    assert missing.output.startswith("error: --checkpoint none.pt is not there: give a dataset,")
