"""Checkpoint bytes: what goes in comes out, tied or not, and nothing else is accepted."""

import dataclasses

import numpy as np
import pytest
import torch
from speedrun.model.gpt import GPT
from speedrun.schedules import forward_state
from speedrun.tracks import small, tiny

from discreteness.checkpoint.header import CheckpointHeader
from discreteness.checkpoint.layout import CheckpointLayout
from tests.support.golden_case import init_weights
from tests.support.quick_track import quick_medium


def model_of(track, seed=None, dtype=None):
    model = GPT(track.model, getattr(torch, dtype or track.dtype), "cpu")
    if seed is not None:
        init_weights(model, seed)
    return model


def header_of(layout, state, num_bytes):
    return CheckpointHeader(
        seed=3, attempt="a" * 12, step=7, layout=layout.fingerprint, state=state, num_bytes=num_bytes
    )


@pytest.mark.parametrize(("track", "dtype"), [(tiny, "float32"), (tiny, "bfloat16"), (quick_medium, "bfloat16")])
@pytest.mark.parametrize("tied", [True, False])
def test_a_checkpoint_restores_what_the_forward_pass_reads(track, dtype, tied):
    trained, scored = model_of(track, 0, dtype), model_of(track, 1, dtype)
    layout = CheckpointLayout.from_model(trained)
    step = 0 if tied else track.schedule.last_step
    state = forward_state(track, step)
    assert state.tied is tied
    data = layout.pack(trained, tied)
    data.flags.writeable = False  # as object-store pages are
    layout.load(data, header_of(layout, state, data.nbytes), scored)
    theirs = dict(scored.named_parameters())
    for name, parameter in trained.named_parameters():
        expected = trained.lm_head.weight if tied and name == "embed.weight" else parameter
        if track is quick_medium and name.endswith(("qkvo_w", "c_fc", "c_proj")):
            assert theirs[name].dtype == torch.float32
            expected = expected.bfloat16().float()  # what each pass reads of the float32 matrices
        assert torch.equal(theirs[name], expected), name


def test_a_tied_checkpoint_leaves_out_exactly_the_embedding():
    model = model_of(tiny)
    layout = CheckpointLayout.from_model(model)
    saved = layout.num_bytes(tied=False) - layout.num_bytes(tied=True)
    assert saved == 4 * tiny.model.vocab_size * tiny.model.model_dim


def test_the_small_track_needs_the_bytes_of_its_parameters():
    layout = CheckpointLayout.from_model(GPT(small.model, torch.bfloat16, "meta"))
    # SPEEDRUN 13: 268,665,983 parameters without padding, 47 of them float32; alignment adds at most 256 bytes a slot
    exact = 2 * (268_665_983 - 47) + 4 * 47
    assert exact <= layout.num_bytes(tied=False) < exact + 256 * 60


def test_bytes_of_another_layout_or_length_are_refused_by_name():
    model = model_of(tiny, 0)
    layout = CheckpointLayout.from_model(model)
    state = forward_state(tiny, 0)
    data = layout.pack(model, True)
    header = header_of(layout, state, data.nbytes)
    with pytest.raises(ValueError, match="seed 3 step 7"):
        layout.load(data[:-1], header, model)
    with pytest.raises(ValueError, match="int8"):
        layout.load(data.view(np.int8), header, model)
    with pytest.raises(ValueError, match="layout 0000"):
        layout.load(data, dataclasses.replace(header, layout="0000"), model)
    untied = forward_state(tiny, tiny.schedule.last_step)
    with pytest.raises(ValueError, match="uint8"):
        layout.load(data, dataclasses.replace(header, state=untied), model)


def test_the_fingerprint_tells_shapes_and_dtypes_apart():
    wider = dataclasses.replace(tiny.model, vocab_size=tiny.model.vocab_size + 64)
    fingerprints = {
        CheckpointLayout.from_model(GPT(config, dtype, "meta")).fingerprint
        for config in (tiny.model, wider)
        for dtype in (torch.float32, torch.bfloat16)
    }
    assert len(fingerprints) == 4


def test_pack_copies_so_that_training_may_go_on():
    model = model_of(tiny, 0)
    layout = CheckpointLayout.from_model(model)
    data = layout.pack(model, True)
    kept = data.copy()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1)
    assert np.array_equal(data, kept)
