"""Kept weights: what was streamed comes back from the file to the bit, and any other file is named."""

import json
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from safetensors.torch import load, save
from speedrun.model.gpt import GPT
from speedrun.schedules import forward_state
from speedrun.tracks import tiny

from discreteness.checkpoint.header import CheckpointHeader
from discreteness.checkpoint.layout import CheckpointLayout
from discreteness.checkpoint.safetensors_file import WeightsFormat, metadata_of
from tests.support.golden_case import init_weights
from tests.support.quick_track import quick_medium

LAST = tiny.schedule.last_step


def streamed(track, step, seed=7):
    model = GPT(track.model, getattr(torch, track.dtype), "cpu")
    init_weights(model, seed)
    layout, state = CheckpointLayout.from_model(model), forward_state(track, step)
    data = layout.pack(model, state.tied)
    header = CheckpointHeader(
        seed=seed, attempt="00ab" * 3, step=step, layout=layout.fingerprint, state=state, num_bytes=data.nbytes
    )
    return model, data, header


@pytest.mark.parametrize(("track", "step"), [(tiny, 0), (tiny, LAST), (quick_medium, 28)])
def test_a_file_holds_each_parameter_by_name_and_gives_back_bytes_and_header(track, step):
    model, data, header = streamed(track, step)
    path, content = WeightsFormat(track).file(data, header)
    assert path == f"weights/seed=00007-00ab00ab00ab/step={step:06d}.safetensors"
    tensors = load(content)
    sent = {name for name, _ in model.named_parameters()} - ({"embed.weight"} if header.state.tied else set())
    assert set(tensors) == sent
    for name in sent:
        assert torch.equal(tensors[name].float(), model.get_parameter(name).to(tensors[name].dtype).float()), name
    again, header_again = WeightsFormat(track).read(content)
    assert header_again == header
    layout = CheckpointLayout.from_model(model)
    slots = layout.named(model.layout, data, header.state.tied)
    for name, tensor in layout.named(model.layout, again, header.state.tied).items():
        assert torch.equal(tensor, slots[name]), name  # what lies between parameters is nobody's
    assert len(again) == len(data)


def test_a_file_says_of_which_seed_step_attempt_track_and_state_it_is():
    _, data, header = streamed(tiny, 200)
    metadata = metadata_of(WeightsFormat(tiny).file(data, header)[1])
    plain = {name: value for name, value in metadata.items() if name not in ("track", "state")}
    assert plain == {"seed": "7", "attempt": "00ab" * 3, "step": "200"}
    assert json.loads(metadata["state"])["tied"] is header.state.tied
    assert json.loads(metadata["track"]) == json.loads(json.dumps(asdict(tiny)))


def test_two_attempts_at_a_step_of_a_seed_are_two_files():
    _, data, header = streamed(tiny, 0)
    other = replace(header, attempt="f" * 12)
    assert WeightsFormat(tiny).file(data, header)[0] != WeightsFormat(tiny).file(data, other)[0]


def test_a_file_of_another_shape_or_without_a_parameter_is_refused_by_its_name():
    _, data, header = streamed(tiny, 0)
    content = WeightsFormat(tiny).file(data, header)[1]
    tensors, metadata = load(content), metadata_of(content)
    head = tensors["lm_head.weight"]
    for changed, found in (
        (None, "nothing"),
        (head[:-1].clone(), r"torch.float32\[3071, 64\]"),
        (head.double(), r"torch.float64\[3072, 64\]"),
    ):
        wrong = {name: tensor for name, tensor in tensors.items() if name != "lm_head.weight"}
        if changed is not None:
            wrong["lm_head.weight"] = changed
        message = rf"weights of seed 7 step 0: lm_head.weight is {found}, track tiny has torch.float32\[3072, 64\]"
        with pytest.raises(ValueError, match=message):
            WeightsFormat(tiny).read(save(wrong, metadata))


@pytest.mark.parametrize("missing", ["track", "seed", "attempt", "step", "state"])
def test_a_safetensors_file_of_somebody_else_is_refused(missing):
    _, data, header = streamed(tiny, 0)
    content = WeightsFormat(tiny).file(data, header)[1]
    metadata = {name: value for name, value in metadata_of(content).items() if name != missing}
    words = "not weights that --keep-weights has kept, as they do not name their {}: save the state dict.*--track"
    for foreign, name in ((save(load(content), metadata), missing), (save(load(content)), "attempt")):
        with pytest.raises(ValueError, match=words.format(name)):
            WeightsFormat(tiny).read(foreign)
    for damaged in (content[:100], b"", b"PK\x03\x04" * 9):
        with pytest.raises(ValueError, match="not a whole file of safetensors"):
            WeightsFormat(tiny).read(damaged)
    for damaged in (content[:-100], save(load(content), metadata_of(content) | {"state": "[]"})):
        with pytest.raises(ValueError, match="not whole weights that --keep-weights has kept"):
            WeightsFormat(tiny).read(damaged)


def test_the_bytes_between_parameters_are_zero_as_read():
    """So that the same file gives the same bytes each time."""
    _, data, header = streamed(tiny, LAST)
    content = WeightsFormat(tiny).file(data, header)[1]
    first, second = (WeightsFormat(tiny).read(content)[0] for _ in range(2))
    assert np.array_equal(first, second)
