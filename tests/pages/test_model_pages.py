"""The commands and Python of docs/data.md and docs/models.md, run in a folder that has what they name."""

import re
import shlex

import pytest
import torch
import tyro
from speedrun.model.gpt import GPT
from speedrun.schedules import forward_state
from speedrun.tracks import tiny

from discreteness.checkpoint.header import CheckpointHeader
from discreteness.checkpoint.layout import CheckpointLayout
from discreteness.checkpoint.safetensors_file import WeightsFormat
from discreteness.cli.main import COMMANDS
from tests.conftest import ROOT
from tests.support.dataset_case import commit, create
from tests.support.golden_case import init_weights
from tests.support.odd_place import ODD


def blocks(name, language):
    fenced = re.findall(r"^```(\w*)\n(.*?)^```$", (ROOT / "docs" / name).read_text(), re.S | re.M)
    return [block for of, block in fenced if of == language]


def commands(name):
    lines = [line for block in blocks(name, "") for line in block.splitlines()]
    return [shlex.split(line)[1:] for line in lines if line.startswith("discreteness ")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """texts/ with more tokens than the pages keep for validation, and weights of the tiny track's last step."""
    folder = tmp_path_factory.mktemp("pages") / ODD
    (folder / "texts").mkdir(parents=True)
    (folder / "texts" / "one.txt").write_text("The sun comes up. <b>one</b> two\n")
    (folder / "texts" / "two.txt").write_text("one two three four\n")
    for number in range(4):
        (folder / "texts" / "long").mkdir(exist_ok=True)
        (folder / "texts" / "long" / f"{number}.txt").write_text("one two three four\n" * 80_000)
    torch.set_num_threads(1)
    model = GPT(tiny.model, torch.float32, "cpu")
    init_weights(model, 0)
    layout, state = CheckpointLayout.from_model(model), forward_state(tiny, 360)
    data = layout.pack(model, state.tied)
    header = CheckpointHeader(
        seed=0, attempt="a", step=360, layout=layout.fingerprint, state=state, num_bytes=data.nbytes
    )
    file = WeightsFormat(tiny).file(data, header)
    (folder / "weights.safetensors").write_bytes(file[1])
    kept = create(folder / "runs" / "kept")
    commit(kept, 0, attempt="a")
    kept.storage.write(*file)
    return folder


def test_every_command_of_the_pages_runs_and_leaves_what_it_says(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    lines = [*commands("data.md"), *commands("models.md")]
    assert len(lines) == 3 + 7
    said = []
    for arguments in lines:
        command = tyro.extras.subcommand_cli_from_dict(COMMANDS, args=arguments)
        assert command() == 0, arguments
        said.append(capsys.readouterr().out)
    assert "6 documents in" in said[0]
    assert "2 shards: complete and correct" in said[2]
    assert "one.txt: tokens" in said[3] and "two.txt: tokens" in said[3]
    assert "' Paris'  answer" in said[4]
    assert "&lt;" in (folder / "page.html").read_text()
    assert (folder / "one.json").read_text().startswith('{"track": "tiny", "step": 360')
    assert said[7].startswith("The sun")
    assert all("step 360: loss" in text for text in said[8:])
    assert "tokens of fineweb_val_000000.bin\n" in said[9], "and not of what the model may have been trained on"


def test_the_pythons_of_the_pages_run(folder, monkeypatch):
    monkeypatch.chdir(folder)
    (own,), (using,) = blocks("data.md", "python"), blocks("models.md", "python")
    names = {}
    exec(compile(own, "docs/data.md", "exec"), names)
    assert names["edu"].data.val_glob == "data/finewebedu10B/finewebedu_val_*.bin"
    exec(compile(using, "docs/models.md", "exec"), names)
    assert names["losses"].keys() == names["ranks"].keys() == {"one.txt", "two.txt"}
    assert names["losses"]["two.txt"].shape == names["ranks"]["two.txt"].shape == (5,)


def test_the_scripts_of_the_page_exist():
    scripts = re.findall(r"python (modded-nanogpt/\S+\.py|benchmarks/\S+\.py)", (ROOT / "docs" / "data.md").read_text())
    assert len(scripts) == 4
    assert all((ROOT / script).is_file() for script in scripts)
