"""Checkpoint files: kept weights and state dicts give the same model in the right state; all else is named."""

import pickle

import numpy as np
import pytest
import torch
from speedrun.model.gpt import GPT
from speedrun.schedules import forward_state, validation_state

from discreteness.dataset.reader import open as open_reader
from discreteness.experiment.prepare import data_folder
from discreteness.inference.load import load_trained
from discreteness.inference.score import documents_of, score
from discreteness.inference.validate import shards_of, validate
from discreteness.service.inline import run_inline
from tests.support import skips
from tests.support.golden_case import golden, golden_tokens, golden_weights
from tests.support.job_case import job_config
from tests.support.quick_track import quick
from tests.support.trained_case import LAST, TRACK, golden_small, perturbed_model, state_dict

TEXTS = {
    "a.txt": "The sun comes up.\n",
    "b.txt": "one two three four five six seven eight nine ten " * 12,
    "c.txt": "If",
}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A dataset of one seed with weights kept tied (4), at a window's change (12) and at the end (20)."""
    folder = tmp_path_factory.mktemp("run")
    documents = folder / "documents"
    documents.mkdir()
    for name, text in TEXTS.items():
        (documents / name).write_text(text)
    common = dict(documents=str(documents), output=str(folder / "set"), seeds="3", val_tokens=1024)
    assert run_inline(job_config(track=TRACK, checkpoints="0,4,12,20", keep_weights="4,12,20", **common)) == 0
    return folder


def kept(run, step):
    (path,) = (run / "set" / "weights").glob(f"*/step={step:06d}.safetensors")
    return path


@pytest.mark.parametrize("step", [4, 12, 20])
def test_kept_weights_score_to_the_bits_that_were_streamed(run, step):
    trained = load_trained(kept(run, step), track_name=TRACK)
    assert (trained.step, trained.state) == (step, forward_state(quick, step))
    reader = open_reader(str(run / "set"))
    for one in score(trained, documents_of(str(run / "documents"))):
        streamed = reader.losses(one.document.name, seeds=[3], steps=[step])[0, 0]
        assert np.array_equal(one.losses.view(np.uint32), streamed.view(np.uint32)), one.document.name
    alone = score(trained, documents_of(str(run / "documents" / "b.txt")))[0].losses
    np.testing.assert_allclose(alone, reader.losses("b.txt", seeds=[3], steps=[step])[0, 0], rtol=0, atol=1e-5)


def test_the_wider_window_is_of_the_last_validation_only(run):
    reader = open_reader(str(run / "set"))
    reported = dict(zip(reader.runs(3)["step"].to_pylist(), reader.runs(3)["val_loss"].to_pylist(), strict=True))
    trained = load_trained(kept(run, LAST), track_name=TRACK)
    assert trained.validation_state == validation_state(quick, LAST, trained.state) != trained.state
    assert load_trained(kept(run, 12), track_name=TRACK).validation_state == forward_state(quick, 12)
    assert validate(trained, shards_of([], trained, data_folder(None, quick)), 1024).loss == reported[LAST]


@pytest.mark.parametrize("prefix", ["", "_orig_mod."])
@pytest.mark.parametrize("under_model", [True, False])
def test_every_form_of_a_state_dict_gives_the_same_weights(tmp_path, prefix, under_model):
    named = {prefix + name: tensor for name, tensor in state_dict().items()}
    content = {"step": 7, "code": "import os", "model": named, "optimizers": [{"lr": 0.1}]} if under_model else named
    torch.save(content, tmp_path / "w.pt")
    trained = load_trained(tmp_path / "w.pt", track_name=TRACK, step=None if under_model else 7)
    assert (trained.step, trained.state, trained.track) == (7, forward_state(quick, 7), quick)
    for name, parameter in perturbed_model().named_parameters():
        loaded = trained.model.get_parameter(name)
        source = perturbed_model().lm_head.weight if name == "embed.weight" else parameter  # tied at step 7
        assert torch.equal(loaded, source), name


@pytest.mark.parametrize("world_size", [1, 2, 4, 8])
def test_scalars_may_be_padded_for_any_number_of_ranks(tmp_path, world_size):
    torch.save(state_dict(world_size), tmp_path / "w.pt")
    trained = load_trained(tmp_path / "w.pt", track_name=TRACK, step=20)
    assert torch.equal(trained.model.scalars, perturbed_model().scalars)
    assert torch.equal(trained.model.embed.weight, perturbed_model().embed.weight), "untied at step 20"


def test_the_step_decides_windows_frequencies_and_tying(tmp_path):
    torch.save(state_dict(), tmp_path / "w.pt")
    (document,) = documents_of("The sun comes up. " * 40)
    losses = {}
    for step in (0, 7, 13, 19, 20):  # windows 3, 7, 11, 13 blocks; untied after 13
        losses[step] = score(load_trained(tmp_path / "w.pt", track_name=TRACK, step=step), [document])[0].losses
    assert all(np.abs(losses[a] - losses[b]).max() > 1e-3 for a, b in [(0, 7), (7, 13), (13, 19)])
    assert np.array_equal(losses[19], losses[20])


@pytest.mark.parametrize(("step", "stage"), [(0, "A_tied"), (600, "B_tied")])
def test_a_state_dict_of_the_small_track_gives_the_golden_losses(tmp_path, step, stage):
    model = GPT(golden_small.model, torch.float32, "cpu")
    golden_weights(model)  # its `embed` is another table, which a tied model must not read
    torch.save(
        {"_orig_mod." + name: tensor for name, tensor in model.state_dict_reference(8).items()}, tmp_path / "w.pt"
    )
    trained = load_trained(tmp_path / "w.pt", track_name="tests.support.trained_case:golden_small", step=step)
    losses = trained.model.token_losses(golden_tokens(0), trained.model.stage(trained.state, 128))
    np.testing.assert_allclose(losses, golden("model_small")["evaluation"][stage]["per_token"], rtol=2e-5)


def test_bfloat16_becomes_float32_exactly_on_a_cpu(tmp_path):
    weights = {name: tensor.bfloat16() for name, tensor in state_dict().items()}
    torch.save(weights, tmp_path / "w.pt")
    trained = load_trained(tmp_path / "w.pt", track_name="tests.support.trained_case:half", step=20, device="cpu")
    assert trained.model.dtype == torch.float32
    assert torch.equal(trained.model.lm_head.weight, weights["lm_head.weight"].float())


class Harmful:
    def __reduce__(self):
        return (pytest.fail, ("it was unpickled",))


def save(content):
    return lambda path: torch.save(content, path)


def without(name):
    return {key: value for key, value in state_dict().items() if key != name}


@pytest.mark.parametrize(
    ("write", "options", "words"),
    [
        (save(state_dict()), {}, "does not say its step.*give --step, 20"),
        (save({"model": state_dict(), "step": 4}), {"step": 5}, "--step 5: .* is of step 4"),
        (save(state_dict()), {"step": 21}, "there is no step 21.*0 to 20"),
        (save(without("attn_gate_bank")), {"step": 1}, "track quick: it lacks attn_gate_bank.*--track"),
        (save(without("embed.weight")), {"step": 20}, "it lacks embed.weight"),
        (save(state_dict(extra=torch.ones(1))), {"step": 1}, "it holds extra.*foreign"),
        (save(state_dict(skip_gate=torch.ones(1))), {"step": 1}, "foreign"),
        (
            save(state_dict(**{"skip_gate.weight": torch.ones(1, 13)})),
            {"step": 1},
            r"skip_gate.weight is .*\[1, 13\], exp",
        ),
        (save(state_dict(scalars=torch.ones(3))), {"step": 1}, r"scalars is .*\[3\], expected floating-point \[21\]"),
        (save(state_dict(scalars=torch.ones(24, dtype=torch.int64))), {"step": 1}, r"scalars is torch.int64"),
        (save({"model": {"w": 1}}), {"step": 1}, "holds no state dict"),
        (save([1, 2]), {"step": 1}, "holds no state dict"),
        (save({"model": state_dict(), "evil": Harmful()}), {"step": 1}, "not opened, as that may run code"),
        (lambda path: path.write_bytes(pickle.dumps(Harmful())), {"step": 1}, "neither .safetensors nor a whole file"),
        (lambda path: path.write_bytes(b""), {"step": 1}, "neither .safetensors nor a whole file"),
        (save(state_dict()), {"step": 1, "track_name": "small"}, "does not fit track small.*--track"),
        (save(state_dict()), {"step": 1, "device": "cuda"}, "sees no GPU"),
    ],
)
def test_what_cannot_be_loaded_is_named(tmp_path, write, options, words):
    if options.get("device") and torch.cuda.is_available():
        pytest.skip(skips.NO_GPU)
    write(tmp_path / "w.pt")
    with pytest.raises(ValueError, match=words):
        load_trained(tmp_path / "w.pt", **({"track_name": TRACK} | options))


def test_kept_weights_that_do_not_fit_are_named(run, tmp_path):
    path = kept(run, 4)
    with pytest.raises(ValueError, match=r"--track small is not the track of .*step=000004"):
        load_trained(path, track_name="small")
    with pytest.raises(ValueError, match=r"--step 5: .* is of step 4"):
        load_trained(path, track_name=TRACK, step=5)
    (tmp_path / "cut.safetensors").write_bytes(path.read_bytes()[:-100])
    (tmp_path / "none.safetensors").write_bytes(b"\0" * 20)
    for name, words in ("cut", "not whole weights"), ("none", "not a whole file of safetensors"):
        with pytest.raises(ValueError, match=rf"--checkpoint \S+{name}.safetensors: .*{words}"):
            load_trained(tmp_path / f"{name}.safetensors", track_name=TRACK)
    with pytest.raises(FileNotFoundError, match="is not a dataset"):
        load_trained(tmp_path)


def test_kept_weights_know_their_track_and_a_dataset_its_weights(run):
    """Of a track that has a name in no program but the one that made them."""
    alone = load_trained(kept(run, 12))
    assert (alone.track, alone.step) == (quick, 12)
    for seed, step, at in (3, 12, 12), (None, "last", LAST), (3, "last", LAST):
        found = load_trained(run / "set", seed=seed, step=step)
        assert (found.track, found.step, found.state) == (quick, at, forward_state(quick, at))
    assert torch.equal(found.model.lm_head.weight, load_trained(kept(run, LAST)).model.lm_head.weight)
    assert load_trained(kept(run, LAST), step="last").step == LAST


def test_what_a_dataset_does_not_keep_is_said_with_what_it_keeps(run):
    with pytest.raises(ValueError, match=r"keeps steps 4, 12, 20 of it: give --step, such as --step last"):
        load_trained(run / "set", seed=3)
    with pytest.raises(ValueError, match=r"--step 5: .* keeps steps 4, 12, 20 of that seed"):
        load_trained(run / "set", step=5)
    with pytest.raises(ValueError, match=r"--seed 4: .* keeps weights of seeds 3"):
        load_trained(run / "set", seed=4, step="last")
    with pytest.raises(ValueError, match=r"--seed 3: .* is not a dataset"):
        load_trained(kept(run, 12), seed=3)
    with pytest.raises(ValueError, match=r"--step last: .* is of step 4"):
        load_trained(kept(run, 4), step="last")
