"""The trainer: reproducible to the bit, warm or fresh, on any ranks; a failure ends a seed, not the trainer."""

import re
import subprocess
import sys
from contextlib import closing
from dataclasses import replace

import numpy as np
import pytest
import torch
from speedrun.data.shards import ShardError, find_shards, write_shard
from speedrun.data.supply import measure
from speedrun.data.tiny_corpus import default_data_root, ensure_tiny_corpus
from speedrun.schedules import forward_state, step_settings
from speedrun.tracks import small
from speedrun.training import SeedFailed, Trainer

from tests.conftest import ROOT
from tests.support import gloo, skips
from tests.support.brief_track import brief, write_shards
from tests.support.golden_case import init_weights
from tests.support.quick_track import poisoned, quick

LAST = quick.schedule.last_step


@pytest.fixture(scope="module")
def root(private_home):
    torch.set_num_threads(1)
    ensure_tiny_corpus(default_data_root())
    return default_data_root()


def weights(trainer):
    return {name: parameter.detach().clone() for name, parameter in trainer.model.named_parameters()}


def run(trainer, seed, plan=(0, 7, LAST), validate=False):
    """{step: (parameters, state)} and all records of one seed."""
    checkpoints, records = {}, []
    for checkpoint in trainer.train(seed, plan, validate):
        params = weights(trainer)
        checkpoints[checkpoint.step] = (params, checkpoint.state)
        records += checkpoint.records
    return checkpoints, records


def assert_equal(ours, theirs):
    assert ours.keys() == theirs.keys()
    for step, (params, state) in ours.items():
        assert state == theirs[step][1]
        for name, parameter in params.items():
            assert torch.equal(parameter, theirs[step][0][name]), (step, name)


def test_a_seed_is_the_same_twice_in_a_warm_trainer_and_in_a_fresh_one(root):
    warm = Trainer(quick, root)
    first, records = run(warm, 1)
    other, _ = run(warm, 2)
    again, again_records = run(warm, 1)
    fresh, _ = run(Trainer(quick, root), 1)
    assert_equal(first, again)
    assert_equal(first, fresh)
    assert not torch.equal(first[LAST][0]["lm_head.weight"], other[LAST][0]["lm_head.weight"])
    timeless = [{k: v for k, v in record.items() if k not in ("step_ms", "train_s")} for record in records]
    assert timeless == [{k: v for k, v in r.items() if k not in ("step_ms", "train_s")} for r in again_records]


def test_a_fresh_process_gives_the_same_bits(root, tmp_path):
    ours, _ = run(Trainer(quick, root), 3)
    code = f"""
import torch; torch.set_num_threads(1)
from speedrun.training import Trainer
from tests.support.quick_track import quick
trainer = Trainer(quick, {str(root)!r})
for checkpoint in trainer.train(3, [{LAST}]):
    weights = {{name: p.detach().clone() for name, p in trainer.model.named_parameters()}}
    torch.save(weights, {str(tmp_path / "weights.pt")!r})
"""
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=600)
    theirs = torch.load(tmp_path / "weights.pt", weights_only=True)
    for name, parameter in ours[LAST][0].items():
        assert torch.equal(parameter, theirs[name]), name


def train_rank(process_group, root, seed):
    trainer = Trainer(quick, root, "cpu", process_group)
    checkpoints, records = run(trainer, seed, validate=True)
    again, _ = run(trainer, seed)
    assert_equal(again, {step: checkpoints[step] for step in again})
    return checkpoints[LAST][0], *([r[name] for r in records if name in r] for name in ("train_loss", "val_loss"))


@pytest.mark.slow
def test_one_two_and_four_ranks_train_the_same_model(root):
    alone = train_rank(None, root, 4)
    for world_size in (2, 4):
        ranks = gloo.run(train_rank, world_size, root, 4)
        for params, losses, val_losses in ranks:
            assert all(torch.equal(params[name], ranks[0][0][name]) for name in params)  # ranks agree to the bit
            assert (losses, val_losses) == ranks[0][1:]
        params, losses, val_losses = ranks[0]
        # Sums in another order: the losses stay within rounding, which the optimizers amplify over the steps.
        np.testing.assert_allclose(losses, alone[1], rtol=2e-3)
        np.testing.assert_allclose(val_losses, alone[2], rtol=2e-3)
        for name, theirs in alone[0].items():
            difference = (params[name] - theirs).norm() / (theirs.norm() + 1e-12)
            assert difference < 0.05, (world_size, name, difference)


def test_checkpoints_come_after_the_schedules_and_before_the_update(root):
    trainer = Trainer(quick, root)
    for checkpoint in trainer.train(0, range(LAST + 1)):
        assert checkpoint.state == forward_state(quick, checkpoint.step)
        assert len(checkpoint.records) == (checkpoint.step > 0)
        if checkpoint.step == 0:
            start = weights(trainer)
            init_weights(trainer.model, 0)
            assert all(torch.equal(start[name], p) for name, p in trainer.model.named_parameters())
        else:
            (record,) = checkpoint.records
            settings = step_settings(quick.schedule, checkpoint.step - 1)
            assert record["step"] == checkpoint.step
            assert record["lr_multiplier"] == settings.lr_multiplier
            assert record["batch_tokens"] == settings.batch_tokens
            assert record["step_ms"] > 0


def test_the_plan_does_not_change_the_training(root):
    trainer = Trainer(quick, root)
    sparse, _ = run(trainer, 5, [LAST])
    dense, _ = run(trainer, 5, range(LAST + 1), validate=True)
    assert_equal(sparse, {LAST: dense[LAST]})


def test_a_validation_has_the_training_time_at_which_it_was_made(root):
    _, records = run(Trainer(quick, root), 0, [0, LAST], validate=True)
    times_s = {record["step"]: record["train_s"] for record in records if "train_loss" in record}
    (noted_s,) = (record["train_s"] for record in records if "val_loss" in record and record["step"] == 10)
    assert noted_s == times_s[10] < times_s[LAST]


def test_the_loss_falls_and_validation_is_noted(root):
    _, records = run(Trainer(quick, root), 0, [0, 10, LAST], validate=True)
    validation = {record["step"]: record["val_loss"] for record in records if "val_loss" in record}
    assert list(validation) == [0, 10, LAST]
    assert validation[0] == pytest.approx(np.log(quick.model.vocab_size), abs=0.05)
    assert validation[LAST] < validation[0] - 1
    times = [record["train_s"] for record in records]
    assert all(time >= 0 for time in times)


def test_a_loss_that_is_not_finite_ends_the_seed_and_not_the_trainer(root):
    trainer = Trainer(poisoned, root)
    with pytest.raises(SeedFailed, match=r"training loss is (nan|inf) in the update to step \d+"):
        run(trainer, 0, range(LAST + 1))
    assert trainer.batches._thread is None  # it would stay until the process ends
    next(trainer.train(0, [0]))
    assert all(torch.isfinite(parameter).all() for parameter in trainer.model.parameters())


def test_closing_at_a_checkpoint_leaves_the_trainer_ready(root):
    trainer = Trainer(quick, root)
    expected, _ = run(trainer, 6)
    generator = trainer.train(7, [0, 5, LAST])
    next(generator)
    next(generator)
    generator.close()
    assert trainer.batches._thread is None
    again, _ = run(trainer, 6)
    assert_equal(expected, again)


def test_wrong_plans_and_data_are_refused_at_once(root, tmp_path):
    trainer = Trainer(quick, root)
    with pytest.raises(ValueError, match="21"):
        next(trainer.train(0, [0, LAST + 1]))
    with pytest.raises(ShardError, match="data/tiny"):
        Trainer(quick, tmp_path)
    short = tmp_path / "data" / "tiny"
    short.mkdir(parents=True)
    write_shard(short / "tiny_val_000000.bin", np.full(5000, 7))
    write_shard(short / "tiny_train_000001.bin", np.array([50256, 1, 2, 3] * 400))
    starved = Trainer(quick, tmp_path)
    with pytest.raises(SeedFailed, match=r"^in the update to step \d+ of 20 the 1 training shards .* ran out") as error:
        run(starved, 0)
    assert error.value.ends == "job"
    with pytest.raises(SeedFailed, match="ran out") as error:
        run(Trainer(quick, tmp_path, vary="data"), 0)
    assert error.value.ends == "seed"  # another seed has another order


def test_documents_that_run_out_in_one_pass_are_read_again_where_that_is_allowed(tmp_path):
    """The first pass is the same to the bit, and what runs out leaves the trainer as it was."""
    root = write_shards(tmp_path)
    track = replace(brief, schedule=replace(brief.schedule, extension_steps=8))
    last = track.schedule.last_step
    usable = measure(find_shards(root, track.data.train_glob), track, 1).usable_updates
    assert 0 < usable < last
    once, often = Trainer(track, root), Trainer(track, root, epochs=9)

    def at_the_end_of_the_pass(trainer):
        with closing(trainer.train(3, [usable])) as checkpoints:
            return {checkpoint.step: (weights(trainer), checkpoint.state) for checkpoint in (next(checkpoints),)}

    before = at_the_end_of_the_pass(once)
    with pytest.raises(SeedFailed, match=rf"in the update to step {usable + 1} of {last} "):
        run(once, 4, [last])
    assert_equal(at_the_end_of_the_pass(once), before)
    further, _ = run(often, 3, [usable, last])
    assert_equal({usable: further[usable]}, before)
    assert sorted(further) == [usable, last]


@pytest.mark.slow
@pytest.mark.skipif(not torch.ops.mkldnn._is_mkldnn_bf16_supported(), reason=skips.BFLOAT16)
def test_the_small_track_takes_a_step_on_a_few_tokens(tmp_path):
    """The specification's sizes and dtypes (268,665,983 parameters, bfloat16, 16-bit tails), on very few tokens."""
    folder = tmp_path / "data" / "fineweb10B"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    documents = [np.concatenate([[50256], rng.integers(0, 50256, 60)]) for _ in range(60)]
    for name in ("fineweb_train_000001.bin", "fineweb_val_000000.bin"):
        write_shard(folder / name, np.concatenate(documents))
    few = replace(
        small,
        schedule=replace(small.schedule, batch_tokens=(256, 256, 256)),
        data=replace(small.data, num_slots=1, val_tokens=256, val_chunk_tokens=256),
    )
    trainer = Trainer(few, tmp_path)
    generator = trainer.train(0, [0, 1, 2])
    next(generator)
    before = weights(trainer)
    next(generator)  # after step 0: NorMuon only
    after_even = weights(trainer)
    checkpoint = next(generator)  # after step 1: Adam too
    parameters = dict(trainer.model.named_parameters())
    assert checkpoint.records[0]["train_loss"] > 0
    matrix, table = "blocks.3.mlp.c_proj", "lm_head.weight"
    assert not torch.equal(before[matrix], after_even[matrix])
    assert torch.equal(before[table], after_even[table])
    assert not torch.equal(after_even[table], parameters[table])
    assert {p.dtype for n, p in parameters.items() if n not in ("scalars", "x0_lambdas")} == {torch.bfloat16}
    assert all(torch.isfinite(parameter).all() for parameter in parameters.values())
    assert sum(parameter.numel() for parameter in parameters.values()) == 268_665_983


@pytest.mark.slow
def test_train_gpt_runs_under_torchrun_where_ray_cannot_be_imported(program, root, tmp_path):
    blocked = tmp_path / "blocked"
    blocked.mkdir()
    for name in ("ray", "discreteness"):
        (blocked / f"{name}.py").write_text("raise ImportError('not here')")
    arguments = [
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc_per_node=2",
        ROOT / "modded-nanogpt/train_gpt.py",
    ]
    arguments += ["--track", "tests.support.quick_track:quick", "--seed", 5, "--save-checkpoint"]
    run = program(*arguments, PYTHONPATH=f"{blocked}:{ROOT}", cwd=tmp_path)
    assert run.wait() == 0, run.output
    assert f"step:0/{LAST} val_loss:" in run.output
    assert re.search(rf"^step:1/{LAST} train_time:\d+ms step_avg:\d+\.\d\dms$", run.output, re.M), run.output
    assert re.search(rf"^step:{LAST}/{LAST} val_loss:\d\.\d{{4}} train_time:\d+ms step_avg:", run.output, re.M)
    (log,) = (tmp_path / "logs").glob("seed5_*.txt")
    assert f"step:{LAST}/{LAST}" in log.read_text()
    (weights,) = (tmp_path / "logs").glob("seed5_*/*.pt")
    saved = torch.load(weights, weights_only=True)
    assert saved["step"] == LAST
    assert saved["model"]["blocks.0.attn.qkvo_w"].shape == (4 * quick.model.model_dim, quick.model.model_dim)


def test_train_gpt_refuses_bad_input_in_one_line(program, root, tmp_path):
    shards = tmp_path / "data" / "tiny"
    shards.mkdir(parents=True)
    for entry, arguments, named in (
        ("train_gpt", ["--track", "huge"], "'huge'"),
        ("train_gpt", [], "track small needs a GPU"),
        ("train_gpt_medium", [], "track medium needs a GPU"),
        ("train_gpt", ["--track", "tests.support.quick_track:quick", "--data", "/proc/1"], "tiny corpus"),
    ):
        run = program(ROOT / f"modded-nanogpt/{entry}.py", *arguments, PYTHONPATH=ROOT, cwd=tmp_path)
        assert run.wait() == 1, run.output
        assert named in run.output
        assert "Traceback" not in run.output
