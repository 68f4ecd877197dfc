"""Kept weights scored again: bitwise the losses of their run, other documents, and what is not kept is left out."""

import json
import re

import numpy as np
import pytest

from discreteness.cli.dataset_commands import Rescore
from discreteness.dataset.reader import open as open_reader
from discreteness.dataset.verify import verify
from discreteness.experiment.documents import load
from discreteness.service.inline import run_inline
from tests.support.job_case import job_config

TRACK = "tests.support.quick_track:quick"


def texts(folder, **documents):
    folder.mkdir()
    for name, text in documents.items():
        (folder / f"{name}.txt").write_text(text)
    return str(folder)


@pytest.fixture(scope="module")
def origin(tmp_path_factory):
    """Seeds 0 and 1 with their weights of steps 4 (tied) and 20 (untied), seed 2 without those of step 4."""
    folder = tmp_path_factory.mktemp("origin")
    documents = texts(folder / "documents", a="The sun comes up.", b="one two three four five six")
    common = dict(track=TRACK, checkpoints="0,4,20", documents=documents, output=str(folder / "set"), val_tokens=0)
    assert run_inline(job_config(seeds="0-1", keep_weights="4,20", **common)) == 0
    assert run_inline(job_config(seeds="0-2", keep_weights="20", **common)) == 0
    return folder / "set", documents


def test_the_same_documents_give_the_same_bits(origin, tmp_path, capsys):
    path, documents = origin
    assert Rescore(str(path), documents, str(tmp_path / "new"), TRACK)() == 1  # seed 2 is left out, which is said
    assert "not all of steps 4, 20 are kept: seeds 2" in capsys.readouterr().out
    assert verify(str(tmp_path / "new")) == []
    old, new = open_reader(str(path)), open_reader(str(tmp_path / "new"))
    assert (new.seeds, new.steps) == ([0, 1], [4, 20])
    for name in ("a.txt", "b.txt"):
        ours, theirs = new.losses(name), old.losses(name, seeds=[0, 1], steps=[4, 20])
        assert np.array_equal(ours.view(np.uint32), theirs.view(np.uint32))
    assert new.attempts == {seed: old.attempts[seed] for seed in (0, 1)}
    assert new.runs(1)["train_loss"].to_pylist() == old.runs(1)["train_loss"].to_pylist()
    identity = new.experiment["identity"]
    assert identity["origin"] == old.experiment["identity_hash"]
    assert new.experiment["identity_hash"] != old.experiment["identity_hash"]


def test_a_document_among_others_has_the_loss_it_has_alone(origin, tmp_path):
    path, _ = origin
    more = texts(tmp_path / "more", b="one two three four five six", c="Something that nobody trained on.")
    Rescore(str(path), more, str(tmp_path / "new"))()  # the dataset knows its track, which has no name here
    old, new = open_reader(str(path)), open_reader(str(tmp_path / "new"))
    np.testing.assert_allclose(new.losses("b.txt"), old.losses("b.txt", seeds=[0, 1], steps=[4, 20]), atol=1e-5)
    assert new.losses("c.txt").shape == (2, 2, len(load(more)[1].token_ids) - 1)
    assert np.isfinite(new.losses("c.txt")).all()


def test_what_cannot_be_scored_is_refused(origin, tmp_path, capsys):
    path, documents = origin
    with pytest.raises(ValueError, match=r"quick_track:poisoned is not the track of .*: \S+ is .* there"):
        Rescore(str(path), documents, str(tmp_path / "new"), "tests.support.quick_track:poisoned")()
    with pytest.raises(ValueError, match="holds another experiment"):  # never into its origin
        Rescore(str(path), documents, str(path), TRACK)()
    common = dict(track=TRACK, checkpoints="0,4,20", documents=documents, val_tokens=0, seeds="0")
    assert run_inline(job_config(output=str(tmp_path / "bare"), **common)) == 0
    with pytest.raises(ValueError, match="--keep-weights"):
        Rescore(str(tmp_path / "bare"), documents, str(tmp_path / "new"), TRACK)()
    damaged = next((path / "weights").glob("seed=00000-*/step=000020.safetensors"))
    content = damaged.read_bytes()
    try:
        damaged.write_bytes(content[: len(content) // 2])
        assert Rescore(str(path), documents, str(tmp_path / "new"), TRACK)() == 1
        words = rf"left out: seed 0: .*step=000020\.safetensors, of {len(content) // 2} bytes: .*not whole weights that"
        assert re.search(words, capsys.readouterr().out)
        assert open_reader(str(tmp_path / "new")).seeds == [1], "the others are scored"
        (problem,) = verify(str(path))
        assert f"has {len(content) // 2} bytes, expected {len(content)}; delete it" in problem
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
        assert header["__metadata__"]["step"] == "20"
    finally:
        damaged.write_bytes(content)
    assert verify(str(path)) == []
