"""NorMuon, Adam and their composition against golden vectors, hand counts and other numbers of ranks."""

import dataclasses
import math

import gloo
import numpy as np
import pytest
import torch
from golden_case import assert_summary, golden, golden_config, golden_tokens, golden_track, golden_weights
from hypothesis import given, settings
from hypothesis import strategies as st
from speedrun import tracks
from speedrun.adam import DistributedAdam, adam_update
from speedrun.model import GPT
from speedrun.normuon import (
    NorMuon,
    cautious_update,
    join_master,
    polar_express,
    scale_rows,
    split_master,
    stack_together,
)
from speedrun.optimizers import SpeedrunOptimizer
from speedrun.schedules import forward_state, step_settings
from torch import Tensor, nn

UNITS = golden("optimizer_small")["unit_vectors"]
STEPS = golden("optimizer_small")["steps"] + golden("optimizer_small")["untie_continuation"]["steps"]
TABLE = {row["name"]: row for row in golden("model_small")["config"]["parameters"]}
MATRIX_LABELS = ("attn", "c_fc", "c_proj")


def config_for(dtype: torch.dtype) -> tracks.OptimizerConfig:
    return dataclasses.replace(tracks.small.optimizer, polar_dtype=str(dtype).removeprefix("torch."))


def float64(values) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def labelled(label: str, values: Tensor) -> nn.Parameter:
    parameter = nn.Parameter(values)
    parameter.label = label
    return parameter


# --- Pure functions


@pytest.mark.parametrize("case", UNITS["polar_express"], ids=lambda case: "x".join(map(str, case["shape"])))
def test_polar_express_golden(case):
    stack = torch.stack([float64(case["input"]), 1000 * float64(case["input"])])
    outputs = polar_express(stack, torch.float64)
    torch.testing.assert_close(outputs[0], float64(case["output"]), rtol=0, atol=1e-12)
    # Each matrix of a stack has its own norm (the 1e-6 beside it is not scaled along).
    torch.testing.assert_close(outputs[1], outputs[0], rtol=0, atol=1e-4)
    singular = torch.linalg.svdvals(outputs[0]).tolist()
    np.testing.assert_allclose(singular, case["singular_values_of_output"], atol=1e-12)


@pytest.mark.parametrize(
    ("singular", "final"), [(0.001, 0.858873), (0.01, 1.027110), (0.1, 1.059161), (0.5, 0.910611)]
)
def test_polar_express_of_one_singular_value(singular, final):
    # Normalising divides by 1.02 ||U||_F: the second diagonal entry fills the norm up to 1 / 1.02.
    rest = math.sqrt(1 / 1.02**2 - singular**2)
    output = polar_express(float64([[[singular, 0.0], [0.0, rest]]]) * 1e6, torch.float64)[0]
    assert output[0, 0].item() == pytest.approx(final, abs=2e-6)
    assert abs(output[0, 1].item()) < 1e-12


@pytest.mark.parametrize(("size", "final"), [(768, 1.052745), (1024, 0.998147)])
def test_polar_express_of_identity(size, final):
    output = polar_express(torch.eye(size)[None] * 1e3, torch.float32)[0]
    torch.testing.assert_close(output, final * torch.eye(size), rtol=0, atol=2e-5)


def test_polar_express_in_bfloat16_is_near_float32():
    u = torch.randn(1, 768, 768, generator=torch.Generator().manual_seed(0))
    exact, rounded = polar_express(u, torch.float32), polar_express(u, torch.bfloat16)
    assert exact.norm().item() == pytest.approx(27.8, abs=0.15)
    assert rounded.dtype == torch.bfloat16
    assert 0.005 < ((rounded - exact).norm() / exact.norm()).item() < 0.02


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(2, 8, 4), (2, 4, 4), (2, 4, 8)])
def test_polar_express_of_zero_is_zero(dtype, shape):
    assert (polar_express(torch.zeros(shape), dtype) == torch.zeros(shape, dtype=dtype)).all()


def test_row_scaling_golden():
    expected = UNITS["normuon_row_scaling"]
    state = torch.zeros(1, 6, 1, dtype=torch.float64)
    for call in ("call_1", "call_2"):
        output = scale_rows(float64([expected[call]["input"]]), state, 0.95)
        torch.testing.assert_close(
            state.flatten(), float64(expected[call]["state_after"]), rtol=1e-12, atol=0
        )
        torch.testing.assert_close(output[0], float64(expected[call]["output"]), rtol=1e-12, atol=1e-15)


def test_row_scaling_of_zero_and_tiny_rows():
    expected = UNITS["normuon_row_scaling"]["zero_and_tiny_rows"]
    state = torch.zeros(1, 4, 1, dtype=torch.float64)
    output = scale_rows(float64([expected["input"]]), state, 0.95)
    torch.testing.assert_close(state.flatten(), float64(expected["state_after"]), rtol=1e-12, atol=0)
    torch.testing.assert_close(output[0], float64(expected["output"]), rtol=1e-12, atol=0)
    assert (scale_rows(torch.zeros(1, 4, 3), torch.zeros(1, 4, 1), 0.95) == 0).all()


def test_row_scaling_by_hand():
    state = torch.zeros(1, 2, 1)
    output = scale_rows(torch.tensor([[[0.8, 0.6], [0.1, 0.2]]]), state, 0.95)
    assert state.flatten().tolist() == pytest.approx([0.025, 0.00125])
    assert output.flatten().tolist() == pytest.approx([0.579655, 0.434741, 0.324037, 0.648074], abs=1e-6)
    assert output.norm().item() == pytest.approx(1.024695, abs=1e-6)
    output = scale_rows(torch.tensor([[[0.5, 0.5], [0.5, -0.5]]]), state, 0.95)
    assert state.flatten().tolist() == pytest.approx([0.03625, 0.0136875])
    assert output.flatten().tolist() == pytest.approx([0.370198, 0.370198, 0.602456, -0.602456], abs=1e-6)
    assert output.norm().item() == pytest.approx(1, abs=1e-6)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 4), st.integers(1, 6), st.integers(1, 6), st.integers(0, 2**31), st.integers(-3, 3))
def test_row_scaling_keeps_norms(matrices, rows, columns, seed, exponent):
    o = torch.randn(matrices, rows, columns, generator=torch.Generator().manual_seed(seed)) * 10.0**exponent
    norms = o.norm(dim=(-2, -1))
    output = scale_rows(o.clone(), torch.rand(matrices, rows, 1), 0.95)
    torch.testing.assert_close(output.norm(dim=(-2, -1)), norms, rtol=1e-4, atol=0)
    torch.testing.assert_close(nn.functional.cosine_similarity(output, o, dim=-1), torch.ones(matrices, rows))


def test_cautious_update_golden():
    case = UNITS["cautious_decay_normuon"]
    result = cautious_update(float64(case["P"]), float64(case["O"]), case["eta"], case["delta"])
    torch.testing.assert_close(result, float64(case["result"]), rtol=0, atol=1e-15)


@pytest.mark.parametrize(
    "case", UNITS["bf16_tail_split"]["cases"], ids=lambda c: f"{c['bf16_bits']}-{c['tail_bits']}"
)
def test_tail_split_golden_bits(case):
    published = torch.tensor([case["bf16_bits"]], dtype=torch.uint16).view(torch.bfloat16)
    tail = torch.tensor([case["tail_bits"]], dtype=torch.uint16)
    o = torch.tensor([case["O_float32_bits"]], dtype=torch.uint32).view(torch.float32)
    master = join_master(published, tail)
    assert master.item() == case["master_before"]
    eta, delta = UNITS["bf16_tail_split"]["eta"], UNITS["bf16_tail_split"]["delta"]
    cautious_update(master, o, eta, delta)
    assert f"{master.view(torch.int32).item() & 0xFFFFFFFF:08X}" == case["master_after_bits_hex"]
    published, tail = split_master(master)
    assert published.view(torch.uint16).item() == case["new_bf16_bits"]
    assert published.float().item() == case["published_bf16_value"]
    assert tail.item() == case["new_tail_bits"]


def test_published_weight_is_cut_not_rounded():
    master = join_master(torch.ones(1, dtype=torch.bfloat16), torch.zeros(1, dtype=torch.uint16)) - 0.001
    published, tail = split_master(master)
    assert (published.view(torch.uint16).item(), tail.item()) == (0x3F7F, 0xBE77)
    assert published.item() == 0.99609375


@given(st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=20))
def test_split_then_join_keeps_every_bit(bits):
    master = torch.tensor(bits, dtype=torch.uint32).view(torch.float32)
    joined = join_master(*(half.clone() for half in split_master(master.clone())))
    assert joined.view(torch.uint32).tolist() == bits


def test_adam_golden():
    p = m = v = None
    for case in UNITS["adam_value_embed_settings"]["updates"]:
        before = float64(case["p_before"])
        if p is None:
            p, m, v = before.clone(), torch.zeros_like(before), torch.zeros_like(before)
        adam_update(p, float64(case["g"]), m, v, case["t"], 0.008 * 75, (0.75, 0.95), 1e-10, 0.005 * 5)
        torch.testing.assert_close(m, float64(case["m_after"]), rtol=1e-13, atol=1e-20)
        torch.testing.assert_close(v, float64(case["v_after"]), rtol=1e-13, atol=1e-25)
        torch.testing.assert_close(before - p, float64(case["u_with_decay"]), rtol=1e-12, atol=1e-15)
        torch.testing.assert_close(p, float64(case["p_after"]), rtol=1e-13, atol=1e-15)


def test_adam_by_hand():
    p, m, v = float64([1.0]), float64([0.0]), float64([0.0])
    adam_update(p, float64([0.5]), m, v, 1, 0.01, (0.9, 0.99), 1e-10, 5.0)
    assert p.item() == pytest.approx(0.9895, abs=1e-10)
    adam_update(p, float64([-0.25]), m, v, 2, 0.01, (0.9, 0.99), 1e-10, 5.0)
    assert p.item() == pytest.approx(0.98633826, abs=5e-9)


# --- The whole model


# Relative norms, norms of gradients, sums over the norm, absolute entries, all inside NorMuon. Worst seen:
# float64 3e-15, 2e-14, 1e-13, 4e-15, 7e-14;
# float32 2e-6, 3e-5, 5e-3 (Adam of nearly zero gradients flips signs), 7e-6, 8e-5.
TOLERANCES = {torch.float64: (1e-9, 1e-9, 1e-9, 1e-8, 1e-9), torch.float32: (1e-5, 1e-4, 1e-2, 1e-3, 1e-3)}


@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
def test_whole_model_golden_steps(dtype):
    """Six steps of the toy model, with the toy untie after step 3."""
    norm_tolerance, gradient_tolerance, sum_tolerance, entry_tolerance, inner_tolerance = TOLERANCES[dtype]
    model = GPT(golden_config(), dtype)
    golden_weights(model)
    optimizer = SpeedrunOptimizer(model, config_for(dtype))
    parameters = dict(model.named_parameters())
    for s, expected in enumerate(STEPS):
        update = dataclasses.replace(step_settings(golden_track().schedule, s), untie_after=s == 3)
        assert update.momentum == pytest.approx(expected["momentum"])
        assert (update.lr_multiplier, update.adam_steps) == (
            expected["lr_multiplier"],
            expected["adam_steps"],
        )
        earlier = {name: None if p.grad is None else p.grad.clone() for name, p in parameters.items()}
        loss = training_loss(model, s, tied=s <= 3)
        loss.backward()
        np.testing.assert_allclose(loss.item(), expected["loss_before_step"], rtol=norm_tolerance)
        check_gradients(parameters, earlier, expected, gradient_tolerance)
        before = {name: internals(optimizer, parameters[name]) for name in expected["normuon_internals"]}
        gradients = {name: parameters[name].grad.clone() for name in before}
        optimizer.step(update)
        for name, summary in expected["parameters"].items():
            values = parameters[name].detach().double().flatten()
            entries, norm = values[TABLE[name]["test_indices"]], summary["l2"]
            np.testing.assert_allclose(values.norm(), norm, rtol=norm_tolerance)
            np.testing.assert_allclose(values.sum(), summary["sum"], rtol=0, atol=sum_tolerance * norm)
            np.testing.assert_allclose(entries, summary["entries"], rtol=0, atol=entry_tolerance)
        for name, summaries in expected["normuon_internals"].items():
            check_internals(name, summaries, gradients[name], before[name], update.momentum, inner_tolerance)
            after = internals(optimizer, parameters[name])
            assert_summary(after[0], summaries["momentum_M"], TABLE[name]["test_indices"], inner_tolerance)
            assert_summary(
                after[1], summaries["row_state"], summaries["row_state"]["flat_indices"], inner_tolerance
            )


def training_loss(model: GPT, step: int, tied: bool) -> Tensor:
    track = golden_track()
    packed = golden_tokens(step)
    state = dataclasses.replace(forward_state(track, 0), tied=tied)
    tables = model.rotary_tables(state, len(packed.ids))
    return model(packed, tables, state, step_settings(track.schedule, step).mtp_weights)


def check_gradients(parameters, earlier, expected, tolerance):
    """`gradient_l2` is the step's own gradient; at odd steps .grad holds Adam's sum with the step before."""
    for name, norm in expected["gradient_l2"].items():
        gradient = parameters[name].grad
        if norm is None:
            assert gradient is None
            continue
        own = gradient if earlier[name] is None else gradient - earlier[name]
        np.testing.assert_allclose(own.double().norm(), norm, rtol=tolerance)
    for name, norm in (expected["adam_summed_gradient_l2"] or {}).items():
        gradient = parameters[name].grad
        assert (gradient is None) == (norm is None)
        if norm is not None:
            np.testing.assert_allclose(gradient.double().norm(), norm, rtol=tolerance)


def internals(optimizer: SpeedrunOptimizer, p: nn.Parameter) -> tuple[Tensor, Tensor]:
    """Momentum and row state of one matrix."""
    (stack,) = (stack for stack in optimizer.normuon.stacks if any(q is p for q in stack.params))
    i = [q is p for q in stack.params].index(True)
    squares = len(stack.row_moments) // len(stack.params)
    return stack.momentum[i].clone(), stack.row_moments[i * squares : (i + 1) * squares].clone()


def check_internals(name, summaries, gradient, before, momentum, tolerance):
    """The pure functions, put together here once more, give each intermediate value."""
    indices = TABLE[name]["test_indices"]
    after = momentum * before[0] + (1 - momentum) * gradient
    u = (1 - momentum) * gradient + momentum * after
    assert_summary(u, summaries["mixed_U"], indices, tolerance)
    state = before[1].clone()
    o = polar_express(u.reshape(len(state), state.size(1), -1), u.dtype)
    assert_summary(o, summaries["polar_output"], indices, tolerance)
    assert_summary(scale_rows(o, state, 0.95), summaries["scaled_output"], indices, tolerance)


def filled(model: nn.Module, seed: int, scale: float = 1.0) -> None:
    """Give every parameter but the last a gradient drawn from `seed`, times `scale`."""
    generator = torch.Generator().manual_seed(seed)
    for p in list(model.parameters()):
        gradient = torch.randn(p.shape, generator=generator).to(p.dtype)
        p.grad = None if p.label == "embed" else gradient * scale


def toy(dtype: torch.dtype, seed: int = 0) -> GPT:
    model = GPT(golden_config(), dtype)
    model.init_weights(seed)
    return model


def optimizer_state(optimizer: SpeedrunOptimizer) -> list[Tensor]:
    states = [
        x for s in optimizer.normuon.stacks for x in (s.momentum, s.row_moments, s.tails) if x is not None
    ]
    for s in optimizer.adam.states.values():
        states += [s.m, s.v, torch.tensor(s.t)]
    return states


def weights(model: GPT) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def same_bits(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return all(torch.equal(a[name].view(torch.uint8), b[name].view(torch.uint8)) for name in a)


def run_steps(
    model: GPT, optimizer: SpeedrunOptimizer, steps: range, scale: float = 1.0
) -> dict[str, Tensor]:
    for s in steps:
        filled(model, seed=s, scale=scale)
        update = dataclasses.replace(step_settings(tracks.small.schedule, s), untie_after=s == 3)
        optimizer.step(update)
    return weights(model)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_reset_is_bitwise_a_new_optimizer(dtype):
    model = toy(dtype)
    optimizer = SpeedrunOptimizer(model, config_for(dtype))
    first = run_steps(model, optimizer, range(5))
    filled(model, seed=9)  # gradients are pending when the seed ends
    places = [x.data_ptr() for x in optimizer_state(optimizer) if x.ndim]
    optimizer.reset()
    assert [x.data_ptr() for x in optimizer_state(optimizer) if x.ndim] == places
    fresh = SpeedrunOptimizer(toy(dtype), config_for(dtype))
    for ours, theirs in zip(optimizer_state(optimizer), optimizer_state(fresh), strict=True):
        assert torch.equal(ours, theirs)
    assert all(p.grad is None for p in model.parameters())
    model.init_weights(0)
    assert same_bits(run_steps(model, optimizer, range(5)), first)


def test_parameters_stay_views_of_the_flat_buffer():
    model = toy(torch.bfloat16)
    places = [p.data_ptr() for p in model.parameters()]
    run_steps(model, SpeedrunOptimizer(model, config_for(torch.bfloat16)), range(4))
    assert [p.data_ptr() for p in model.parameters()] == places
    for slot in model.layout:
        p = model.get_parameter(slot.name)
        assert (
            p.untyped_storage().data_ptr() == model.buffers_by_dtype[slot.dtype].untyped_storage().data_ptr()
        )


def test_even_steps_leave_adam_alone_and_keep_its_gradients():
    model = toy(torch.float32)
    optimizer = SpeedrunOptimizer(model, config_for(torch.float32))
    before = weights(model)
    filled(model, seed=0)
    gradient = model.lm_head.weight.grad.clone()
    optimizer.step(step_settings(tracks.small.schedule, 0))
    for name, p in model.named_parameters():
        assert torch.equal(p, before[name]) == (p.label not in MATRIX_LABELS), name
        assert (p.grad is None) == (p.label in (*MATRIX_LABELS, "embed")), name
    assert torch.equal(model.lm_head.weight.grad, gradient)
    assert optimizer.adam.states[model.lm_head.weight].t == 0
    optimizer.step(step_settings(tracks.small.schedule, 1))
    assert optimizer.adam.states[model.lm_head.weight].t == 1
    assert all(p.grad is None for p in model.parameters())


def test_parameter_without_gradient_is_left_alone():
    model = toy(torch.float32)
    optimizer = SpeedrunOptimizer(model, config_for(torch.float32))
    before = weights(model)
    for s in (1, 3):
        filled(model, seed=s)
        for p in model.parameters():
            if p.label in ("attn", "x0_lambdas"):
                p.grad = None
        optimizer.step(step_settings(tracks.small.schedule, s))
    for name, p in model.named_parameters():
        assert torch.equal(p, before[name]) == (p.label in ("attn", "x0_lambdas", "embed")), name
    assert optimizer.adam.states[model.x0_lambdas].t == optimizer.adam.states[model.embed.weight].t == 0
    assert optimizer.adam.states[model.scalars].t == 2
    assert (optimizer.normuon.stacks[0].momentum == 0).all()


def test_untie_copies_weight_and_state():
    model = toy(torch.bfloat16)
    optimizer = SpeedrunOptimizer(model, config_for(torch.bfloat16))
    run_steps(model, optimizer, range(4))
    head, embed = (optimizer.adam.states[p] for p in (model.lm_head.weight, model.embed.weight))
    assert torch.equal(model.embed.weight, model.lm_head.weight)
    assert torch.equal(head.m, embed.m) and torch.equal(head.v, embed.v) and head.t == embed.t == 2
    run_steps(model, optimizer, range(4, 6))  # embed has no gradient here: the copy stays behind
    assert not torch.equal(head.m, embed.m) and (head.t, embed.t) == (3, 2)


def test_first_normuon_step_has_the_effective_rates():
    # 8 x 2: shape factor 2. Zero weights do not decay, so P = -eta O.
    fc, proj = (labelled(label, torch.zeros(8, 2, dtype=torch.float64)) for label in ("c_fc", "c_proj"))
    config = config_for(torch.float64)
    optimizer = NorMuon([fc, proj], config)
    gradient = torch.randn(8, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    fc.grad, proj.grad = gradient.clone(), gradient.clone()
    optimizer.step(1.0, 0.85)
    o = scale_rows(
        polar_express(0.2775 * gradient[None], torch.float64), torch.zeros(1, 8, 1, dtype=torch.float64), 0.95
    )
    torch.testing.assert_close(fc.detach(), -0.046 * o[0], rtol=1e-12, atol=0)
    torch.testing.assert_close(proj.detach(), -0.092 * o[0], rtol=1e-12, atol=0)
    stack = optimizer.stacks[0]
    np.testing.assert_allclose((stack.eta * stack.delta).flatten(), [1.2696e-3, 2.5392e-3], rtol=1e-12)


def test_bfloat16_tables_round_to_nearest():
    p = labelled("lm_head", torch.ones(1024, 1, dtype=torch.bfloat16))
    optimizer = DistributedAdam([p], config_for(torch.float32))
    p.grad = torch.ones_like(p)
    optimizer.step(0.25)  # u = 0.002 + decay: 0.998 is nearer to 1 - 2^-8 = 0.99609375 than to 1
    assert (p == 0.99609375).all()
    p.grad = torch.ones_like(p)
    optimizer.step(0.1)  # u = 0.0008: back to where it was
    assert (p == 0.99609375).all()


@pytest.mark.parametrize("label", ["nothing", "attn and c_fc"])
def test_label_must_be_in_one_group(label):
    model = toy(torch.float32)
    config = config_for(torch.float32)
    if label == "nothing":
        model.scalars.label = label
        message = r"scalars has label 'nothing', which is in 0 groups"
    else:
        config = dataclasses.replace(
            config, adam_groups=(*config.adam_groups, tracks.AdamGroup(label="attn"))
        )
        message = r"blocks.0.attn.qkvo_w has label 'attn', which is in 2 groups"
    with pytest.raises(ValueError, match=message):
        SpeedrunOptimizer(model, config)


# --- Ranks


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_one_stack_a_kind(world_size):
    stacks = stack_together(matrices(GPT(tracks.small.model, torch.bfloat16, "meta")), world_size)
    assert [len(stack) for stack in stacks] == [10, 22]
    assert [p.label for p in stacks[1][:4]] == ["c_fc", "c_proj", "c_fc", "c_proj"]


def test_eight_ranks_share_two_even_stacks():
    model = GPT(tracks.small.model, torch.bfloat16, "meta")
    names = {p: name for name, p in model.named_parameters()}
    stacks = stack_together(matrices(model), 8)
    assert [len(stack) for stack in stacks] == [16, 16]
    owned = [[[names[p] for p in stack[2 * r : 2 * r + 2]] for stack in stacks] for r in range(8)]
    for rank, pair in enumerate([(0, 1), (2, 3), (4, 5), (7, 8), (9, 10)]):
        assert owned[rank][0] == [f"blocks.{i}.attn.qkvo_w" for i in pair]
    for rank in (5, 6, 7):
        assert owned[rank][0] == [f"blocks.{rank - 5}.mlp.c_fc", f"blocks.{rank - 5}.mlp.c_proj"]
    for rank in range(8):
        assert owned[rank][1] == [f"blocks.{rank + 3}.mlp.c_fc", f"blocks.{rank + 3}.mlp.c_proj"]


def matrices(model: GPT) -> list[nn.Parameter]:
    return [p for p in model.parameters() if p.label in MATRIX_LABELS]


def same_gradients(group) -> dict[str, dict[str, Tensor]]:
    """Five steps in two dtypes. Half of the ranks have zero gradients, the others double ones: the mean is exact."""
    return {str(dtype): five_steps(group, dtype, 2.0 * (group.rank() % 2)) for dtype in DIFFERENCE_BOUNDS}


def five_steps(group, dtype: torch.dtype, scale: float) -> dict[str, Tensor]:
    model = toy(dtype)
    return run_steps(model, SpeedrunOptimizer(model, config_for(dtype), group), range(5), scale)


DIFFERENCE_BOUNDS = {torch.float32: 1e-6, torch.bfloat16: 1e-3}


@pytest.mark.parametrize("world_size", [2, 4, pytest.param(8, marks=pytest.mark.slow)])
def test_same_gradients_give_equal_weights_on_any_number_of_ranks(world_size):
    of_ranks = gloo.run(same_gradients, world_size)
    for dtype, bound in DIFFERENCE_BOUNDS.items():
        alone = five_steps(None, dtype, 1.0)
        first, *others = (result[str(dtype)] for result in of_ranks)
        assert all(same_bits(first, other) for other in others)
        for name, p in alone.items():
            assert (first[name].double() - p.double()).norm() <= bound * p.double().norm(), name


def trained(group, dtype: str, num_slots: int) -> dict[str, Tensor]:
    """Six whole steps of the toy model, its micro-batches dealt out over the ranks; untied after step 3."""
    rank, size = (group.rank(), group.size()) if group else (0, 1)
    model = GPT(golden_config(), getattr(torch, dtype))
    golden_weights(model)
    optimizer = SpeedrunOptimizer(model, config_for(getattr(torch, dtype)), group)
    for s in range(6):
        for slot in range(rank, num_slots, size):
            (training_loss(model, num_slots * s + slot, tied=s <= 3) / (num_slots // size)).backward()
        optimizer.step(dataclasses.replace(step_settings(tracks.small.schedule, s), untie_after=s == 3))
    return weights(model)


@pytest.mark.parametrize("world_size", [2, 4])
def test_whole_steps_agree_over_ranks(world_size):
    alone = trained(None, "float64", 4)
    of_ranks = gloo.run(trained, world_size, "float64", 4)
    for other in of_ranks[1:]:
        assert same_bits(of_ranks[0], other)
    for name, p in alone.items():
        assert ((of_ranks[0][name] - p).norm() / p.norm()) < 1e-9, name


def test_rows_that_do_not_split_are_named():
    assert gloo.run(refuses_uneven_rows, 2) == [True, True]


def refuses_uneven_rows(group) -> bool:
    with pytest.raises(ValueError, match=r"1025 rows of lm_head do not split over 2 ranks"):
        DistributedAdam([labelled("lm_head", torch.zeros(1025, 1))], tracks.small.optimizer, group)
    return True


def raises_on_rank_1(group) -> Tensor:
    if group.rank() == 1:
        raise ValueError("rank 1 has a reason")
    result = torch.ones(1)
    torch.distributed.all_reduce(result, group=group)
    return result


def test_a_failing_rank_ends_all():
    with pytest.raises(AssertionError, match="rank 1 has a reason"):
        gloo.run(raises_on_rank_1, 2)


def waits(group) -> None:
    if group.rank() == 1:
        while True:
            pass


def test_a_rank_at_work_too_long_is_named():
    with pytest.raises(AssertionError, match=r"ranks .*1.* of 2 were at work after 3 s"):
        gloo.run(waits, 2, timeout_s=3)
