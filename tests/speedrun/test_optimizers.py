"""Both optimizers on the whole toy model: golden steps, reset, untie, and other numbers of ranks."""

import dataclasses
import functools

import numpy as np
import pytest
import torch
from speedrun import tracks
from speedrun.execution import Execution
from speedrun.model.gpt import GPT
from speedrun.optim.normuon import scale_rows
from speedrun.optim.optimizers import SpeedrunOptimizer
from speedrun.optim.polar_express import polar_express
from speedrun.schedules import StepSettings, forward_state, step_settings
from torch import Tensor, nn

from tests.support import gloo
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
)

MATRIX_LABELS = ("attn", "c_fc", "c_proj")


def config_for(dtype: torch.dtype, track: str = "small") -> tracks.OptimizerConfig:
    return dataclasses.replace(tracks.track(track).optimizer, polar_dtype=str(dtype).removeprefix("torch."))


def golden_steps(track: str) -> list[dict]:
    file = golden(f"optimizer_{track}")
    return file["steps"] + file.get("untie_continuation", {"steps": []})["steps"]


# Relative norms, norms of gradients, sums over the norm, absolute entries, all inside NorMuon. Worst seen:
# float64 3e-15, 2e-14, 1e-13, 4e-15, 7e-14;
# float32 2e-6, 3e-5, 5e-3 (Adam of nearly zero gradients flips signs), 7e-6, 8e-5.
TOLERANCES = {torch.float64: (1e-9, 1e-9, 1e-9, 1e-8, 1e-9), torch.float32: (1e-5, 1e-4, 1e-2, 1e-3, 1e-3)}


@pytest.mark.parametrize("track", ["small", "medium"])
@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
def test_whole_model_golden_steps(dtype, track):
    """Steps of the toy model: six of `small`, with the toy untie after step 3, and four of `medium`."""
    norm_tolerance, gradient_tolerance, sum_tolerance, entry_tolerance, inner_tolerance = TOLERANCES[dtype]
    untie_step = {"small": 3, "medium": tracks.medium.schedule.untie_step}[track]
    table = {row["name"]: row for row in golden(f"model_{track}")["config"]["parameters"]}
    model = GPT(golden_config(track), dtype)
    golden_weights(model, track)
    model.tie()
    optimizer = SpeedrunOptimizer(model, config_for(dtype, track))
    parameters = dict(model.named_parameters())
    for s, expected in enumerate(golden_steps(track)):
        update = settings_of(s, golden_track(track), untie_step)
        assert update.momentum == pytest.approx(expected["momentum"])
        assert (update.lr_multiplier, update.adam_steps) == (
            expected["lr_multiplier"],
            expected["adam_steps"],
        )
        earlier = {name: None if p.grad is None else p.grad.clone() for name, p in parameters.items()}
        loss = training_loss(model, s, track)
        loss.backward()
        np.testing.assert_allclose(loss.item(), expected["loss_before_step"], rtol=norm_tolerance)
        check_gradients(gradients_of(parameters, update.tied), earlier, expected, gradient_tolerance)
        before = {name: internals(optimizer, parameters[name]) for name in expected["normuon_internals"]}
        gradients = {name: parameters[name].grad.clone() for name in before}
        optimizer.step(update)
        for name, summary in expected["parameters"].items():
            if name == "embed.weight" and s < untie_step:  # never read before the untie; ours is the head
                assert torch.equal(model.embed.weight, model.lm_head.weight)
                continue
            values = named(parameters, name).detach().double().flatten()
            entries, norm = values[table[name]["test_indices"]], summary["l2"]
            np.testing.assert_allclose(values.norm(), norm, rtol=norm_tolerance)
            np.testing.assert_allclose(values.sum(), summary["sum"], rtol=0, atol=sum_tolerance * norm)
            np.testing.assert_allclose(entries, summary["entries"], rtol=0, atol=entry_tolerance)
        for name, summaries in expected["normuon_internals"].items():
            indices = table[name]["test_indices"]
            check_internals(indices, summaries, gradients[name], before[name], update.momentum, inner_tolerance)
            after = internals(optimizer, parameters[name])
            assert_summary(after[0], summaries["momentum_M"], indices, inner_tolerance)
            assert_summary(after[1], summaries["row_state"], summaries["row_state"]["flat_indices"], inner_tolerance)


def settings_of(step: int, track: tracks.Track = tracks.small, untie_step: int = 3) -> StepSettings:
    """The track's, except for an early untie."""
    settings = step_settings(track.schedule, step)
    return dataclasses.replace(settings, tied=step <= untie_step, untie_after=step == untie_step)


def training_loss(model: GPT, step: int, track: str = "small") -> Tensor:
    toy_track = golden_track(track)
    packed = golden_tokens(step)
    weights = step_settings(toy_track.schedule, step).mtp_weights
    return model(packed, model.stage(forward_state(toy_track, 0), len(packed.ids)), mtp_tensor(weights, model.dtype))


def gradients_of(parameters: dict[str, nn.Parameter], tied: bool) -> dict[str, Tensor | None]:
    """By name; while tied that of the lookup table belongs to the head."""
    gradients = {name: p.grad for name, p in parameters.items()}
    if tied:
        gradients["lm_head.weight"] = gradients["lm_head.weight"] + gradients["embed.weight"]
        gradients["embed.weight"] = None
    return gradients


def check_gradients(gradients, earlier, expected, tolerance):
    """`gradient_l2` is the step's own gradient; at odd steps .grad holds Adam's sum with the step before."""
    for name, norm in expected["gradient_l2"].items():
        gradient, before = named(gradients, name), named(earlier, name)
        if norm is None:
            assert gradient is None
            continue
        own = gradient if before is None else gradient - before
        np.testing.assert_allclose(own.double().norm(), norm, rtol=tolerance)
    for name, norm in (expected["adam_summed_gradient_l2"] or {}).items():
        gradient = named(gradients, name)
        assert (gradient is None) == (norm is None)
        if norm is not None:
            np.testing.assert_allclose(gradient.double().norm(), norm, rtol=tolerance)


def internals(optimizer: SpeedrunOptimizer, p: nn.Parameter) -> tuple[Tensor, Tensor]:
    """Momentum and row state of one matrix."""
    (stack,) = (stack for stack in optimizer.normuon.stacks if any(q is p for q in stack.params))
    i = [q is p for q in stack.params].index(True)
    squares = len(stack.row_moments) // len(stack.params)
    return stack.momentum[i].clone(), stack.row_moments[i * squares : (i + 1) * squares].clone()


def check_internals(indices, summaries, gradient, before, momentum, tolerance):
    """The pure functions, put together here once more, give each intermediate value."""
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
    """The golden model at a quarter of its width: without products of bfloat16 that takes a thirtieth."""
    model = GPT(dataclasses.replace(golden_config(), head_dim=16), dtype)
    init_weights(model, seed)
    return model


def optimizer_state(optimizer: SpeedrunOptimizer) -> list[Tensor]:
    states = [x for s in optimizer.normuon.stacks for x in (s.momentum, s.row_moments, s.tails) if x is not None]
    for s in optimizer.adam.states.values():
        states += [s.m, s.v, torch.tensor(s.t)]
    return states


def weights(model: GPT) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def same_bits(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return all(torch.equal(a[name].view(torch.uint8), b[name].view(torch.uint8)) for name in a)


def run_steps(model: GPT, optimizer: SpeedrunOptimizer, steps: range, scale: float = 1.0) -> dict[str, Tensor]:
    for s in steps:
        filled(model, seed=s, scale=scale)
        optimizer.step(settings_of(s))
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
    init_weights(model, 0)
    assert same_bits(run_steps(model, optimizer, range(5)), first)


def test_parameters_stay_views_of_the_flat_buffer():
    model = toy(torch.bfloat16)
    places = [p.data_ptr() for p in model.parameters()]
    run_steps(model, SpeedrunOptimizer(model, config_for(torch.bfloat16)), range(4))
    assert [p.data_ptr() for p in model.parameters()] == places
    for slot in model.layout:
        p = model.get_parameter(slot.name)
        assert p.untyped_storage().data_ptr() == model.buffers_by_dtype[slot.dtype].untyped_storage().data_ptr()


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
        assert torch.equal(p, before[name]) == (p.label in ("attn", "x0_lambdas")), name
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


@pytest.mark.parametrize("label", ["nothing", "attn and c_fc"])
def test_label_must_be_in_one_group(label):
    model = toy(torch.float32)
    config = config_for(torch.float32)
    if label == "nothing":
        model.scalars.label = label
        message = r"scalars has label 'nothing', which is in 0 groups"
    else:
        config = dataclasses.replace(config, adam_groups=(*config.adam_groups, tracks.AdamGroup(label="attn")))
        message = r"blocks.0.attn.qkvo_w has label 'attn', which is in 2 groups"
    with pytest.raises(ValueError, match=message):
        SpeedrunOptimizer(model, config)


def same_gradients(process_group) -> dict[str, dict[str, Tensor]]:
    """Five steps in two dtypes. Half of the ranks have zero gradients, half double ones: an exact mean."""
    return {
        str(dtype): five_steps(process_group, dtype, 2.0 * (process_group.rank() % 2)) for dtype in DIFFERENCE_BOUNDS
    }


def five_steps(process_group, dtype: torch.dtype, scale: float) -> dict[str, Tensor]:
    model = toy(dtype)
    return run_steps(model, SpeedrunOptimizer(model, config_for(dtype), process_group), range(5), scale)


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


def test_while_tied_the_lookup_table_is_the_head():
    """Its gradient counts as the head's, whichever of the two there are; it is no parameter with a state."""
    apart, joined = toy(torch.float32), toy(torch.float32)
    optimizers = [SpeedrunOptimizer(model, config_for(torch.float32)) for model in (apart, joined)]
    for s in range(3):
        for model in (apart, joined):
            filled(model, seed=s)
        of_lookup = torch.randn(joined.embed.weight.shape, generator=torch.Generator().manual_seed(100 + s))
        if s < 2:
            apart.embed.weight.grad = of_lookup.clone()
            joined.lm_head.weight.grad += of_lookup
        else:
            apart.embed.weight.grad, apart.lm_head.weight.grad = apart.lm_head.weight.grad, None
        for model, optimizer in zip((apart, joined), optimizers, strict=True):
            optimizer.step(settings_of(2 * s + 1, untie_step=7))
            assert torch.equal(model.embed.weight, model.lm_head.weight)
            assert optimizer.adam.states[model.embed.weight].t == 0
        assert same_bits(weights(apart), weights(joined))
    assert optimizers[0].adam.states[apart.lm_head.weight].t == 3


def test_gradients_of_even_steps_are_joined_too():
    model = toy(torch.float32)
    optimizer = SpeedrunOptimizer(model, config_for(torch.float32))
    model.lm_head.weight.grad = torch.ones_like(model.lm_head.weight)
    model.embed.weight.grad = torch.full_like(model.embed.weight, 2.0)
    optimizer.step(settings_of(0))
    assert model.embed.weight.grad is None and (model.lm_head.weight.grad == 3).all()


BACKENDS = [("aot_eager", torch.float32, 1e-4), pytest.param("inductor", torch.bfloat16, 0.02, marks=pytest.mark.slow)]


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # of Inductor's own imports
@pytest.mark.parametrize(("backend", "dtype", "bound"), BACKENDS)
def test_compiled_equals_plain_and_never_compiles_again(backend, dtype, bound, monkeypatch):
    """The bounds are of the weights' changes: what polar_express makes of the rounding of its input."""
    through = functools.partial(torch.compile, backend=backend, fullgraph=True, dynamic=False)
    monkeypatch.setattr(Execution, "compile", lambda self, function: through(function))
    model, plain = toy(dtype), toy(dtype)
    before = weights(model)
    compiled = SpeedrunOptimizer(model, config_for(dtype), execution=Execution(compiled=True, symmetric_kernels=False))
    torch._dynamo.reset()
    run_steps(model, compiled, range(2))
    graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    run_steps(model, compiled, range(2, 6))
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == graphs
    actual = weights(model)
    for name, p in run_steps(plain, SpeedrunOptimizer(plain, config_for(dtype)), range(6)).items():
        assert (actual[name] - p).double().norm() <= bound * (p - before[name]).double().norm(), name


def interleaved_and_in_turn(process_group) -> list[dict[str, Tensor]]:
    """Weights after four steps as `step` interleaves them, and with one optimizer after the other."""
    result = []
    for interleaved in (True, False):
        model = toy(torch.bfloat16)
        optimizer = SpeedrunOptimizer(model, config_for(torch.bfloat16), process_group)
        for s in range(4, 8):
            filled(model, seed=10 * s + process_group.rank())
            settings = settings_of(s)
            if interleaved:
                optimizer.step(settings)
                continue
            optimizer.normuon.step(settings.lr_multiplier, settings.momentum)
            optimizer.normuon.zero_grad()
            if settings.adam_steps:
                optimizer.adam.step(settings.lr_multiplier)
                optimizer.adam.zero_grad()
        result.append(weights(model))
    return result


@pytest.mark.parametrize("world_size", [2, 4])
def test_interleaving_changes_no_bit(world_size):
    for ours, theirs in gloo.run(interleaved_and_in_turn, world_size):
        assert same_bits(ours, theirs)


def trained(process_group, track: str) -> dict[str, Tensor]:
    """Four whole steps of the toy model, four micro-batches each over the ranks; untied after step 1."""
    rank, size = (process_group.rank(), process_group.size()) if process_group else (0, 1)
    model = GPT(golden_config(track), torch.float64)
    golden_weights(model, track)
    model.tie()
    optimizer = SpeedrunOptimizer(model, config_for(torch.float64, track), process_group)
    for s in range(4):
        for slot in range(rank, 4, size):
            (training_loss(model, 4 * s + slot, track) / (4 // size)).backward()
        optimizer.step(settings_of(s, untie_step=1))
    return weights(model)


@functools.cache
def trained_alone(track: str) -> dict[str, Tensor]:
    return trained(None, track)


@pytest.mark.parametrize(("track", "world_size"), [("small", 2), ("small", 4), ("medium", 2)])
def test_whole_steps_agree_over_ranks(track, world_size):
    first, *others = gloo.run(trained, world_size, track)
    assert all(same_bits(first, other) for other in others)
    for name, p in trained_alone(track).items():
        assert (first[name] - p).norm() < 1e-9 * p.norm(), name
    assert not torch.equal(first["embed.weight"], first["lm_head.weight"])  # both trained since the untie
