"""The medium track at a small width: what sets it apart trains, repeats to the bit and is scored from bytes."""

import numpy as np
import pytest
import torch
from speedrun.data.tiny_corpus import default_data_root, ensure_tiny_corpus
from speedrun.execution import Execution
from speedrun.schedules import step_settings
from speedrun.tracks import medium, small
from speedrun.training import Trainer

from discreteness.cli.dataset_commands import Rescore
from discreteness.dataset.reader import open as open_reader
from discreteness.dataset.verify import verify
from discreteness.service.inline import run_inline
from tests.support.job_case import job_config
from tests.support.quick_track import quick_medium

TRACK = "tests.support.quick_track:quick_medium"
LAST = quick_medium.schedule.last_step
MATRICES = {"attn", "c_fc", "c_proj"}
GATES = {"attn_gate", "value_embed_gate"}


@pytest.fixture(scope="module")
def trainer(private_home):
    torch.set_num_threads(1)
    ensure_tiny_corpus(default_data_root())
    return Trainer(quick_medium, default_data_root())


def run(trainer, seed, steps):
    """{step: weights}, the training stopped at the last of `steps`."""
    weights = {}
    for checkpoint in trainer.train(seed, steps):
        weights[checkpoint.step] = {name: p.detach().clone() for name, p in trainer.model.named_parameters()}
        if checkpoint.step == max(steps):
            break
    return weights


def moved(trainer, before, after):
    """Labels of the parameters that differ, and of those that do not."""
    label = {name: p.label for name, p in trainer.model.named_parameters()}
    equal = {name: torch.equal(p, after[name]) for name, p in before.items()}
    return {label[name] for name in equal if not equal[name]}, {label[name] for name in equal if equal[name]}


def test_every_group_is_updated_when_its_turn_comes(trainer):
    assert quick_medium.schedule.untie_step == 5
    weights = run(trainer, 0, [0, 1, 2, 6, 8])
    # An even step: NorMuon only; gates have no gradient before there are output matrices.
    assert moved(trainer, weights[0], weights[1])[0] == MATRICES
    assert moved(trainer, weights[1], weights[2])[0] >= {"lm_head", "embed", "attn_gate", "scalars", "value_embed"}
    assert torch.equal(weights[6]["embed.weight"], weights[6]["lm_head.weight"])
    assert not torch.equal(weights[8]["embed.weight"], weights[8]["lm_head.weight"])
    changed, unchanged = moved(trainer, weights[2], weights[8])
    assert unchanged == set()
    assert changed == {p.label for p in trainer.model.parameters()}
    for name, p in trainer.model.named_parameters():
        wide = p.label in MATRICES or name in ("scalars", "x0_lambdas")
        assert p.dtype == (torch.float32 if wide else torch.bfloat16), name
        if p.label in MATRICES:  # masters: finer than what the forward pass reads
            assert not torch.equal(p.detach(), p.detach().bfloat16().float())


def test_a_seed_repeats_to_the_bit_warm_and_fresh(trainer):
    first, _ = run(trainer, 3, [8]), run(trainer, 4, [2])
    for other in (trainer, Trainer(quick_medium, default_data_root())):
        again = run(other, 3, [8])
        assert all(torch.equal(p, again[8][name]) for name, p in first[8].items())


def test_state_has_the_precision_of_its_parameter(trainer):
    for stack in trainer.optimizer.normuon.stacks:
        labels = {p.label for p in stack.params}
        assert labels <= MATRICES or labels == GATES
        expected = torch.bfloat16 if labels == GATES else torch.float32
        assert (stack.momentum.dtype, stack.row_moments.dtype, stack.tails) == (expected, expected, None)
    for p, state in trainer.optimizer.adam.states.items():
        assert state.m.dtype == state.v.dtype == p.dtype


def test_the_head_is_never_in_8_bits():
    assert Execution().resolved(small, "cuda").fp8_head
    assert not Execution().resolved(medium, "cuda").fp8_head
    assert Execution().resolved(medium, "cuda").compiled


def test_losses_from_bytes_are_those_of_the_loop(tmp_path, capsys):
    """An inline run scores in its loop; kept weights, the bytes that are streamed, go through an evaluator."""
    folder = tmp_path / "documents"
    folder.mkdir()
    for name, text in {"a": "The sun comes up.", "b": "one two three four five six"}.items():
        (folder / f"{name}.txt").write_text(text)
    config = job_config(
        track=TRACK,
        seeds="0",
        checkpoints=f"0,3,6,12,{LAST}",
        keep_weights=f"0,3,6,12,{LAST}",
        documents=str(folder),
        output=str(tmp_path / "set"),
    )
    assert run_inline(config) == 0
    assert Rescore(str(tmp_path / "set"), str(folder), str(tmp_path / "new"), TRACK)() == 0
    assert verify(str(tmp_path / "set")) == verify(str(tmp_path / "new")) == []
    ours, theirs = (open_reader(str(tmp_path / name)) for name in ("set", "new"))
    for name in ("a.txt", "b.txt"):
        assert np.array_equal(ours.losses(name), theirs.losses(name))
    runs = ours.runs(0).to_pydict()
    steps = [step for step, loss in zip(runs["step"], runs["train_loss"], strict=True) if loss is not None]
    assert steps == list(range(1, LAST + 1))
    windows = [w for w, loss in zip(runs["long_window"], runs["train_loss"], strict=True) if loss is not None]
    blocks = [b for b in (3, 7, 11, 13, 15, 17, 19, 21, 23, 23, 23, 23) for _ in range(2)] + [23] * 4
    assert windows == [8 * b for b in blocks]
    batches = [n for n, loss in zip(runs["batch_tokens"], runs["train_loss"], strict=True) if loss is not None]
    assert batches == [step_settings(quick_medium.schedule, step).batch_tokens for step in range(LAST)]
    validation = [v for v in runs["val_loss"] if v is not None]
    assert len(validation) == 3 and validation[-1] < validation[0] - 1
