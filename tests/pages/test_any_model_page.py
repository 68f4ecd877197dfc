"""The loop of docs/any_model.md runs as it is printed, and its state is taken and given back."""

import re

import pytest
import torch

import discreteness
from tests.conftest import ROOT
from tests.support import own_loop
from tests.support.any_model import byte_level_bpe

PAGE = (ROOT / "docs/any_model.md").read_text()
LOOP, STATE, _ = re.findall(r"```python\n(.*?)```", PAGE, re.S)
"""The third, the callback, is run by tests/recording/test_trainer.py."""


def test_the_loop_and_its_state(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    own_loop.texts(tmp_path / "texts")
    model, optimizer = own_loop.start()
    names = {"torch": torch, "tokenizer": byte_level_bpe(), "model": model}
    names["train_one_step"] = lambda model: own_loop.update(model, optimizer)
    assert {number for number in re.findall(r"\d+_\d+", LOOP)} == {"10_000", "10_001"}
    short = LOOP.replace("10_000", "4").replace("10_001", "5")
    making, _, _ = short.partition("for step")
    exec(making + "recorder.record(0, model)\nstep = 0\n" + STATE, names)
    assert names["recorder"].state_dict()["step"] == 0 and 0 not in names["recorder"]
    exec(short, names)
    assert discreteness.open("runs/mine").seeds == [0]
    assert list(discreteness.open("runs/mine").steps) == [0, 1, 2, 3, 4]
    with pytest.raises(ValueError, match="seed 0 is committed"):
        exec(making, names)
