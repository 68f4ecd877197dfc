"""The steps of NorMuon against golden vectors and values computed by hand; who owns which matrix."""

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from speedrun import tracks
from speedrun.model.gpt import GPT
from speedrun.optim.normuon import NorMuon, cautious_update, join_master, scale_rows, split_master, stack_together
from speedrun.optim.polar_express import polar_express
from torch import Tensor, nn

from tests.support.golden_case import golden

MEDIUM_SHAPES = {"attn_gate": (8, 16), "value_embed_gate": (8, 16)} | dict.fromkeys(("attn", "c_fc", "c_proj"), (16, 4))
UNITS = golden("optimizer_small")["unit_vectors"]


def float64(values) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_row_scaling_golden():
    expected = UNITS["normuon_row_scaling"]
    state = torch.zeros(1, 6, 1, dtype=torch.float64)
    for call in ("call_1", "call_2"):
        output = scale_rows(float64([expected[call]["input"]]), state, 0.95)
        torch.testing.assert_close(state.flatten(), float64(expected[call]["state_after"]), rtol=1e-12, atol=0)
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


@pytest.mark.parametrize("case", UNITS["bf16_tail_split"]["cases"], ids=lambda c: f"{c['bf16_bits']}-{c['tail_bits']}")
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


def test_first_normuon_step_has_the_effective_rates():
    # 8 x 2: shape factor 2. Zero weights do not decay, so P = -eta O.
    fc, proj = (labelled(label, torch.zeros(8, 2, dtype=torch.float64)) for label in ("c_fc", "c_proj"))
    config = dataclasses.replace(tracks.small.optimizer, polar_dtype="float64")
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


def test_bfloat16_master_moves_as_a_float32_weight():
    """Published halves and kept tails together are bit by bit the float32 weight of the same gradients."""
    config = dataclasses.replace(tracks.small.optimizer, polar_dtype="float32")
    generator = torch.Generator().manual_seed(3)
    start = torch.randn(8, 4, generator=generator).bfloat16()
    rounded, exact = labelled("c_fc", start.clone()), labelled("c_fc", start.float())
    optimizers = [NorMuon([p], config) for p in (rounded, exact)]
    for _ in range(6):
        rounded.grad = torch.randn(8, 4, generator=generator).bfloat16()
        exact.grad = rounded.grad.float()
        for optimizer in optimizers:
            optimizer.step(0.003, 0.9)
    assert torch.equal(join_master(rounded.detach(), optimizers[0].stacks[0].tails[0]), exact.detach())
    assert not torch.equal(start.float(), exact.detach())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_state_in_the_parameters_precision_is_rounded_to_nearest(dtype):
    """One step from zero weights and state: M = 0.15 g, the row state 0.05 nu and P = -eta O, each rounded once."""
    gate = labelled("attn_gate", torch.zeros(4, 8, dtype=dtype))
    optimizer = NorMuon([gate], dataclasses.replace(tracks.medium.optimizer, polar_dtype="float32"))
    gate.grad = torch.randn(4, 8, generator=torch.Generator().manual_seed(2)).to(dtype)
    stack = optimizer.stacks[0]
    assert stack.tails is None
    gradient = gate.grad.float()[None]
    optimizer.step(1.0, 0.85)
    momentum = (0.15 * gradient).to(dtype).float()
    o = polar_express(momentum + 0.15 * (gradient - momentum), torch.float32)
    assert (stack.momentum.dtype, stack.row_moments.dtype, gate.dtype) == (dtype, dtype, dtype)
    tolerance = {torch.float32: 1e-5, torch.bfloat16: 2.0**-8}[dtype]  # half a unit in the last of 8 places
    torch.testing.assert_close(stack.momentum.float(), momentum, rtol=1e-6, atol=0)
    nu = o.square().mean(-1, keepdim=True)
    torch.testing.assert_close(stack.row_moments.float(), 0.05 * nu, rtol=tolerance, atol=0)
    scaled = scale_rows(o, torch.zeros(1, 4, 1), 0.95)
    torch.testing.assert_close(gate.detach().float(), -0.0015 * scaled[0], rtol=tolerance, atol=1e-9)


def test_medium_rates():
    """Effective rates at multiplier 1: 0.03, 0.06 of c_proj, 0.0015 of the gates; decays 5.4e-4, 1.08e-3, 2.7e-5."""
    stacks = NorMuon(
        [labelled(label, torch.zeros(*shape)) for label, shape in MEDIUM_SHAPES.items()], tracks.medium.optimizer
    ).stacks
    eta = {p.label: rate for stack in stacks for p, rate in zip(stack.own, stack.eta.flatten().tolist(), strict=True)}
    delta = {p.label: d for stack in stacks for p, d in zip(stack.own, stack.delta.flatten().tolist(), strict=True)}
    rates = {"attn": 0.03, "c_fc": 0.03, "c_proj": 0.06, "attn_gate": 0.0015, "value_embed_gate": 0.0015}
    assert eta == pytest.approx(rates)
    assert {label: eta[label] * delta[label] for label in eta} == pytest.approx(
        {"attn": 5.4e-4, "c_fc": 5.4e-4, "c_proj": 1.08e-3, "attn_gate": 2.7e-5, "value_embed_gate": 2.7e-5}
    )


def labelled(label: str, values: Tensor) -> nn.Parameter:
    parameter = nn.Parameter(values)
    parameter.label = label
    return parameter


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


@pytest.mark.parametrize(("world_size", "chunks"), [(1, [16, 26, 32]), (8, [2, 4, 4])])
def test_mediums_gates_are_one_stack_beside_its_matrices(world_size, chunks):
    model = GPT(tracks.medium.model, torch.bfloat16, "meta")
    labels = {g.label for g in tracks.medium.optimizer.normuon_groups}
    stacks = stack_together([p for p in model.parameters() if p.label in labels], world_size)
    assert [-(-len(stack) // world_size) for stack in stacks] == chunks
    kinds = [{p.label for p in stack} for stack in stacks]
    assert kinds == [{"attn"}, {"attn_gate", "value_embed_gate"}, {"c_fc", "c_proj"}]


def matrices(model: GPT) -> list[nn.Parameter]:
    return [p for p in model.parameters() if p.label in ("attn", "c_fc", "c_proj")]
