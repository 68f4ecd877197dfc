"""The network against golden losses and gradients; its inventory, initialisation, packing and compilation."""

import functools
import math
from collections import Counter

import numpy as np
import pytest
import torch
from speedrun.model import gpt as model_module
from speedrun.model.gpt import GPT
from speedrun.model.head import token_losses
from speedrun.model.initial_weights import draw_weights
from speedrun.schedules import forward_state, step_settings
from speedrun.tracks import medium, small, tiny
from torch._dynamo.testing import CompileCounterWithBackend

from tests.support.golden_case import (
    assert_summary,
    golden,
    golden_config,
    golden_tokens,
    golden_track,
    golden_weights,
    init_weights,
    mtp_tensor,
    named,
    pack,
)

TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-5}
both_dtypes = pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
both_tracks = pytest.mark.parametrize("track", ["small", "medium"])


@functools.cache
def toy(track, dtype, tied):
    """The toy model; what ties it is a copy of the head in the lookup table."""
    model = GPT(golden_config(track), dtype)
    golden_weights(model, track)
    if tied:
        model.tie()
    return model


def stage_of(model, name, track="small"):
    stage_b = {"small": 600, "medium": 392}[track]
    return model.stage(forward_state(golden_track(track), {"A": 0, "B": stage_b}[name]), 128)


def losses_of(model, packed, name, track="small"):
    return model.token_losses(packed, stage_of(model, name, track)).double().numpy()


@both_tracks
def test_the_formula_weights_are_the_golden_ones(track):
    parameters = dict(toy(track, torch.float64, False).named_parameters())
    for row in golden(f"model_{track}")["config"]["parameters"]:
        weight = named(parameters, row["name"]).detach().flatten()
        assert weight[0].item() == row["w_first"]
        assert weight[row["w_middle"]["flat_index"]].item() == row["w_middle"]["value"]
        assert weight[-1].item() == row["w_last"]


@both_tracks
@both_dtypes
@pytest.mark.parametrize("stage", "AB")
@pytest.mark.parametrize("lookup", ["tied", "untied"])
def test_token_losses_equal_golden(track, dtype, stage, lookup):
    expected = golden(f"model_{track}")["evaluation"][f"{stage}_{lookup}"]
    actual = losses_of(toy(track, dtype, lookup == "tied"), golden_tokens(0), stage, track)
    np.testing.assert_allclose(actual, expected["per_token"], rtol=TOLERANCE[dtype])
    np.testing.assert_allclose(actual.mean(), expected["mean"], rtol=TOLERANCE[dtype])


@both_tracks
@both_dtypes
def test_activations_of_every_block_equal_golden(track, dtype, monkeypatch):
    """What enters a normalisation, plus what the MLP behind it adds, is the stream after the block."""
    model, packed = toy(track, dtype, True), golden_tokens(0)
    normalised, after_block = [], []

    def spy(x, rms_norm=model_module.rms_norm):
        normalised.append(x)
        return rms_norm(x)

    monkeypatch.setattr(model_module, "rms_norm", spy)
    hooks = [
        block.mlp.register_forward_hook(lambda _, args, output: after_block.append(normalised[-1] + output))
        for block in model.blocks
    ]
    with torch.no_grad():
        hidden = model.hidden(packed, stage_of(model, "A", track))
    for hook in hooks:
        hook.remove()
    actual = {"e_smeared": normalised[0], "x_final_normalised": hidden}
    actual |= {f"x_after_block_{i}": x for i, x in enumerate(after_block)}
    actual["x0"], actual["x02"] = (model_module.rms_norm(x) for x in normalised[:2])
    actual["z_before_softcap"] = hidden @ model.lm_head.weight.T
    expected = golden(f"model_{track}")["debug_stage_A_tied"]
    assert actual.keys() - expected.keys() == {{"small": "x02", "medium": "e_smeared"}[track]}
    for name, summary in expected.items():
        assert_summary(actual[name], summary, summary["flat_indices"], TOLERANCE[dtype])


@both_tracks
@both_dtypes
@pytest.mark.parametrize("case", ["A_tied_3w", "A_tied_2w", "A_tied_1w", "B_tied_2w", "B_untied_1w"])
def test_training_loss_and_gradients_equal_golden(track, dtype, case):
    stage, lookup, _ = case.split("_")
    file, model = golden(f"model_{track}"), toy(track, dtype, lookup == "tied")
    expected = file["training_loss"][case]
    model.zero_grad()
    loss = model(golden_tokens(0), stage_of(model, stage, track), mtp_tensor(expected["weights"], dtype))
    np.testing.assert_allclose(loss.item(), expected["loss_sum"], rtol=TOLERANCE[dtype])
    if case not in file["gradients"]:
        return
    loss.backward()
    if lookup == "tied":  # as the optimizer does: one table, so one gradient
        model.lm_head.weight.grad += model.embed.weight.grad
        model.embed.weight.grad = None
    indices = {row["name"]: row["test_indices"] for row in file["config"]["parameters"]}
    gradients = {name: p.grad for name, p in model.named_parameters()}
    for name, summary in file["gradients"][case].items():
        gradient = named(gradients, name)
        if summary is None:
            assert name == "embed.weight"
            assert gradient is None
        else:
            assert gradient is not None, name
            assert_summary(gradient, summary, indices[name], TOLERANCE[dtype])


@both_dtypes
@pytest.mark.parametrize("case", ["stage_A_tied", "stage_B_untied"])
@pytest.mark.parametrize("mode", ["reference", "isolated"])
def test_packed_documents_equal_golden(dtype, case, mode):
    file = golden("packing")
    expected = file["losses"][case][f"{mode}_mode"]
    packed = pack(torch.tensor(file["inputs"]), torch.tensor(file["targets"]), file["offsets"], mode == "isolated")
    _, stage, lookup = case.split("_")
    actual = losses_of(toy("small", dtype, lookup == "tied"), packed, stage)
    np.testing.assert_allclose(actual[: file["unpadded"]], np.concatenate(expected), rtol=TOLERANCE[dtype])
    if mode == "reference":
        padding = file["losses"][case]["padding_losses_reference_mode"]
        np.testing.assert_allclose(actual[file["unpadded"] :], padding, rtol=TOLERANCE[dtype])


@both_dtypes
def test_a_document_alone_and_packed_agree_when_isolated(dtype):
    file, model = golden("packing"), toy("small", dtype, False)
    ids, targets = torch.tensor(file["inputs"]), torch.tensor(file["targets"])
    together = losses_of(model, pack(ids, targets, file["offsets"], isolated=True), "B")
    for start, stop in zip(file["offsets"], file["offsets"][1:], strict=False):
        alone = losses_of(model, pack(ids[start:stop], targets[start:stop], [0, stop - start]), "B")
        np.testing.assert_allclose(together[start:stop], alone, rtol=TOLERANCE[dtype])


def test_head_slices_do_not_show():
    model = toy("small", torch.float64, True)
    whole, sliced = (model.token_losses(golden_tokens(0), stage_of(model, "A"), n) for n in (128, 50))
    torch.testing.assert_close(sliced, whole, rtol=1e-13, atol=0)


def test_small_inventory():
    """The record's names, shapes and counts, on the meta device."""
    model = GPT(small.model, torch.bfloat16, "meta")
    shapes = {slot.name: slot.shape for slot in model.layout}
    assert shapes == {name: tuple(p.shape) for name, p in model.named_parameters()}
    assert shapes["lm_head.weight"] == shapes["value_embeds.2.weight"] == shapes["embed.weight"] == (50304, 768)
    assert shapes["attn_gate_bank"] == (10, 6, 12)
    assert shapes["ve_gate_bank"] == (5, 6, 12)
    assert shapes["smear_gate.weight"] == shapes["skip_gate.weight"] == (1, 12)
    assert shapes["x0_lambdas"] == (11,)
    assert shapes["scalars"] == (36,)
    assert shapes["blocks.0.attn.qkvo_w"] == shapes["blocks.6.mlp.c_fc"] == shapes["blocks.6.mlp.c_proj"] == (3072, 768)
    assert "blocks.6.attn.qkvo_w" not in shapes

    def count(label):
        return sum(p.numel() for p in model.parameters() if p.label == label)

    assert count("lm_head") == count("embed") == 38_633_472
    assert count("value_embed") == 115_900_416
    assert count("attn") == 23_592_960
    assert count("c_fc") + count("c_proj") == 51_904_512
    assert (count("attn_gate_bank"), count("ve_gate_bank")) == (720, 360)
    assert sum(p.numel() for p in model.parameters()) == 268_665_987 - 4
    assert {p.label for p in model.parameters()} == {
        group.label for group in (*small.optimizer.normuon_groups, *small.optimizer.adam_groups)
    }
    float32 = {name for name, p in model.named_parameters() if p.dtype == torch.float32}
    assert float32 == {"scalars", "x0_lambdas"}
    assert sum(p.numel() for p in model.state_dict_reference(8).values()) == 268_665_987


def test_medium_inventory():
    """SPEEDRUN 11 and 13: shapes, counts, dtypes, groups; 53 scalars, padded to 53, 54, 56 or 56."""
    model = GPT(medium.model, torch.bfloat16, "meta")
    shapes = {slot.name: slot.shape for slot in model.layout}
    assert shapes["embed2.weight"] == shapes["value_embeds.4.weight"] == (50304, 1024)
    assert shapes["blocks.0.attn.qkvo_w"] == shapes["blocks.6.mlp.c_proj"] == (4096, 1024)
    assert shapes["blocks.7.attn.attn_gate"] == shapes["blocks.11.attn.value_embed_gate"] == (8, 16)
    assert "blocks.5.attn.value_embed_gate" not in shapes
    counts = Counter()
    for p in model.parameters():
        counts[p.label] += p.numel()
    assert counts == {
        "lm_head": 51_511_296,
        "embed": 51_511_296,
        "value_embed": 257_556_480,
        "embed2": 51_511_296,
        "attn": 67_108_864,
        "c_fc": 67_108_864,
        "c_proj": 67_108_864,
        "attn_gate": 2048,
        "value_embed_gate": 1280,
        "smear_gate": 16,
        "skip_gate": 48,
        "x0_lambdas": 32,
        "scalars": 53,
    }
    assert [len(model.state_dict_reference(size)["scalars"]) for size in (1, 2, 4, 8)] == [53, 54, 56, 56]
    assert sum(p.numel() for p in model.state_dict_reference(8).values()) == 613_420_440
    float32 = {p.label for p in model.parameters() if p.dtype == torch.float32}
    assert float32 == {"scalars", "x0_lambdas", "attn", "c_fc", "c_proj"}
    groups = [g.label for g in (*medium.optimizer.normuon_groups, *medium.optimizer.adam_groups)]
    assert sorted(groups) == sorted(counts)
    assert model.layout[0].name == "x0_lambdas" and model.layout[-1].name == "embed.weight"


def test_medium_draws_in_the_record_order():
    """Five tables, float32 uniforms block by block, head, embed, embed2 (SPEEDRUN 11)."""
    weights = draw_weights(golden_config("medium"), torch.bfloat16, 17)
    torch.manual_seed(17)
    for _ in range(5):
        torch.empty(384, 128).normal_()
    bound = 3**0.5 * 128**-0.5
    for layer in range(16):
        assert torch.equal(weights[f"blocks.{layer}.attn.qkvo_w"], torch.empty(384, 128).uniform_(-bound, bound))
        assert torch.equal(weights[f"blocks.{layer}.mlp.c_fc"], torch.empty(512, 128).uniform_(-bound / 2, bound / 2))
    assert torch.equal(weights["lm_head.weight"], torch.empty(384, 128).normal_(std=0.005).bfloat16())
    torch.empty(384, 128).normal_()
    assert torch.equal(weights["embed2.weight"], torch.empty(384, 128).normal_().bfloat16())
    assert weights["scalars"].tolist() == pytest.approx([1.05] * 16 + [0.5, 1.0] * 16 + [0.0, 0.5] + [-1.5] * 3)
    assert weights.keys() == {f"blocks.{i}.{m}" for i in range(16) for m in ("attn.qkvo_w", "mlp.c_fc")} | {
        "lm_head.weight",
        "embed2.weight",
        "scalars",
    }


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_parameters_are_views_of_aligned_buffers(dtype):
    model = GPT(tiny.model, dtype)
    assert next(iter(model.buffers_by_dtype)) == "float32"
    assert len(model.buffers_by_dtype) == (1 if dtype == torch.float32 else 2)
    assert model.layout[-1].name == "embed.weight"
    ends = dict.fromkeys(model.buffers_by_dtype, 0)
    for slot in model.layout:
        parameter, buffer = model.get_parameter(slot.name), model.buffers_by_dtype[slot.dtype]
        assert slot.offset % 64 == 0
        assert ends[slot.dtype] <= slot.offset < ends[slot.dtype] + 64
        assert parameter.data_ptr() == buffer.data_ptr() + slot.offset * buffer.element_size()
        assert parameter.dtype == buffer.dtype
        assert slot.numel == math.prod(slot.shape) == parameter.numel()
        ends[slot.dtype] = slot.offset + slot.numel
    last = model.layout[-1]
    model.buffers_by_dtype[last.dtype][last.offset :] = 3
    assert (model.embed.weight == 3).all()
    assert (model.lm_head.weight == 0).all()


def test_reference_state_dict_pads_the_scalars():
    model = GPT(tiny.model, torch.float32)
    init_weights(model, 0)
    state = model.state_dict_reference(8)
    assert state["scalars"].shape == (24,)
    assert state["scalars"][21:].tolist() == [1, 1, 1]
    torch.testing.assert_close(state["scalars"][:21], model.scalars.detach())
    assert model.state_dict_reference(1)["scalars"].shape == (21,)


def test_init_draws_in_the_record_order():
    """The same draws from the global generator, in the order of SPEEDRUN section 7."""
    config = tiny.model
    model = GPT(config, torch.float32)
    init_weights(model, 17)
    torch.manual_seed(17)
    rows, width = config.vocab_size, config.model_dim
    for _ in range(config.num_value_embeds):
        torch.empty(rows, width).normal_()
    bound = 3**0.5 * width**-0.5
    for layer, block in enumerate(model.blocks):
        if layer != 3:
            qkv = torch.empty(3 * width, width).uniform_(-bound, bound)
            torch.testing.assert_close(block.attn.qkvo_w[: 3 * width].detach(), qkv)
            assert (block.attn.qkvo_w[3 * width :] == 0).all()
        torch.testing.assert_close(
            block.mlp.c_fc.detach(), torch.empty(4 * width, width).uniform_(-bound / 2, bound / 2)
        )
        assert (block.mlp.c_proj == 0).all()
    torch.testing.assert_close(model.lm_head.weight.detach(), torch.empty(rows, width).normal_(std=0.005))
    assert torch.equal(model.embed.weight, model.lm_head.weight)
    expected = [1.1] * 6 + [0.5, 1.0] * 6 + [0.0, 0.5, -1.5]
    np.testing.assert_allclose(model.scalars.detach().numpy(), expected, rtol=1e-7)
    for name in ("smear_gate.weight", "skip_gate.weight", "attn_gate_bank", "ve_gate_bank", "x0_lambdas"):
        assert (model.get_parameter(name) == 0).all(), name
    assert all((table.weight == 0).all() for table in model.value_embeds)


def test_init_is_in_place_and_a_function_of_the_seed():
    model = GPT(tiny.model, torch.float32)
    buffer = model.buffers_by_dtype["float32"]
    init_weights(model, 1)
    first = buffer.clone()
    init_weights(model, 2)
    assert not torch.equal(buffer, first)
    init_weights(model, 1)
    assert torch.equal(buffer, first)
    assert model.get_parameter("embed.weight").data_ptr() == model.embed.weight.data_ptr()


def tiny_case(num_tokens, step):
    generator = torch.Generator().manual_seed(step)
    tokens = torch.randint(0, tiny.model.vocab_size, (num_tokens + 1,), generator=generator)
    state = forward_state(tiny, step)
    return pack(tokens[:-1], tokens[1:], [0, 40, 40, num_tokens]), state


def test_loss_at_init_is_that_of_a_nearly_uniform_guess():
    """O and c_proj are zero, so z ~ N(0, 0.005^2 D) and the mean loss is ln V plus half the variance of the
    logits, whose slope at z = 0 is 0.687416."""
    model = GPT(tiny.model, torch.float32)
    init_weights(model, 0)
    packed, state = tiny_case(512, 0)
    losses = model.token_losses(packed, model.stage(state, 512))
    expected = math.log(3072) + 0.687416**2 * 0.005**2 * 96 / 2
    assert losses.mean().item() == pytest.approx(expected, abs=5 * 0.687416 * 0.005 * 96**0.5 / 512**0.5)
    assert losses.std().item() == pytest.approx(0.687416 * 0.005 * 96**0.5, rel=0.2)


def test_multi_token_sum_counts_the_targets_that_exist():
    """At init every cross-entropy is near c, so L is near c (T + 0.5 (T-1) + 0.25 (T-2))."""
    model = GPT(tiny.model, torch.float32)
    init_weights(model, 0)
    packed, state = tiny_case(512, 0)
    loss = model(packed, model.stage(state, 512), mtp_tensor((1.0, 0.5, 0.25)))
    assert loss.item() == pytest.approx(math.log(3072) * (512 + 0.5 * 511 + 0.25 * 510), rel=1e-3)


def test_every_parameter_receives_a_gradient():
    model = GPT(golden_config(), torch.float32)
    golden_weights(model)
    model(golden_tokens(0), stage_of(model, "A"), mtp_tensor((1.0,))).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


@both_tracks
def test_scores_in_bfloat16_lie_nearer_to_float32_than_a_training_pass_does(track):
    """Of the same weights: the stream between the layers is not rounded."""
    model, exact = GPT(golden_config(track), torch.bfloat16), GPT(golden_config(track), torch.float32)
    golden_weights(model, track)
    rounded = dict(model.named_parameters())
    packed, stage = golden_tokens(0), stage_of(model, "A", track)
    with torch.no_grad():
        for name, parameter in exact.named_parameters():
            parameter.copy_(rounded[name])
        trained = token_losses(model.hidden(packed, stage), model.lm_head.weight, packed.targets[:, 0], 128).numpy()
    right = losses_of(exact, packed, "A", track)
    as_scored, as_trained = (
        np.sqrt(np.mean((losses - right) ** 2)) for losses in (losses_of(model, packed, "A", track), trained)
    )
    assert 0 < as_scored < as_trained / 2 < 0.01  # 0.0028 and 0.0082 of small, 0.0032 and 0.0116 of medium


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's compiler uses what torch deprecates
def test_compiled_model_equals_eager():
    """One whole graph serves every stage, forward and backward; code generation would take minutes of a CPU."""
    compiled = GPT(tiny.model, torch.float32)
    init_weights(compiled, 3)
    counter = CompileCounterWithBackend("aot_eager")
    forward = torch.compile(compiled, fullgraph=True, dynamic=False, backend=counter)
    eager = GPT(tiny.model, torch.float32)
    init_weights(eager, 3)
    for step in (0, 130, 231, 359):
        packed, state = tiny_case(128, step)
        weights = mtp_tensor(step_settings(tiny.schedule, step).mtp_weights)
        stage = eager.stage(state, 128)
        losses = []
        graphs = counter.frame_count
        for model, call in ((eager, eager), (compiled, forward)):
            model.zero_grad()
            losses.append(call(packed, stage, weights))
            losses[-1].backward()
        torch.testing.assert_close(losses[1], losses[0], rtol=1e-5, atol=0)
        for name, parameter in eager.named_parameters():
            other = compiled.get_parameter(name).grad
            assert (other is None) == (parameter.grad is None), name
            if other is not None and parameter.grad is not None:
                assert (other - parameter.grad).norm() <= 1e-4 * parameter.grad.norm() + 1e-6, name
        assert step == 0 or counter.frame_count == graphs, step
