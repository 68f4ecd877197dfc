"""Series of tiny random models, from folders and from a hub on this machine: losses are those of transformers."""

import json
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch

import discreteness
from discreteness.dataset.status import job_status
from discreteness.dataset.verify import verify
from discreteness.series import download, loading
from discreteness.service.inline_series import score_series_inline
from tests.support.hub_server import HubServer, commit_of
from tests.support.series_case import (
    STEPS,
    as_branches,
    copied,
    own_losses,
    save,
    series_config,
    served,
    write_series,
    write_texts,
)

FAMILIES = {"gpt_neox": {}, "llama": {}, "gpt2": {"safe": False}}


@pytest.fixture(scope="module")
def series(tmp_path_factory):
    """Family -> folder of three models of ten checkpoints; gpt2's are pickles."""
    made = {}

    def of(family):
        if family not in made:
            made[family] = write_series(tmp_path_factory.mktemp(family), family, **FAMILIES[family])
        return made[family]

    return of


@pytest.fixture
def texts(tmp_path):
    return write_texts(tmp_path / "texts")


@pytest.fixture
def scratch_root(tmp_path, monkeypatch):
    """Where downloads go, seen by the test alone."""
    root = tmp_path / "scratch"
    root.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(root))
    return root


def ids_of(dataset):
    return [dataset.tokens(document.doc_id)["token_id"].to_pylist() for document in dataset.documents]


def run(tmp_path, *models, code=0, **values):
    assert score_series_inline(series_config(tmp_path, models=models, **values)) == code
    return discreteness.open(str(tmp_path / values.get("output", "set")))


@pytest.mark.parametrize("family", FAMILIES)
def test_losses_are_those_of_transformers_itself(family, series, texts, tmp_path, monkeypatch):
    folder, made, make = series(family), [], loading._from_pretrained
    monkeypatch.setattr(loading, "_from_pretrained", lambda *asked: made.append(asked) or make(*asked))
    dataset = run(tmp_path, f"{folder}/seed-*")
    assert len(made) == 1, "all others are copied into the first one's model"
    assert dataset.steps == list(STEPS) and dataset.seeds == [0, 1, 2]
    assert dataset.names == {seed: f"{folder}/seed-{seed}" for seed in range(3)}
    ids = ids_of(dataset)
    assert ({text[0] for text in ids} == {1}) == (family == "llama"), "the tokenizer's own BOS, 1, or none"
    for seed in dataset.seeds:
        for row, step in enumerate(STEPS):
            truth = own_losses(folder / f"seed-{seed}" / f"checkpoint-{step}", ids)
            assert np.abs(dataset.seed(seed)[row] - truth).max() < 1e-5
    assert len({dataset.seed(seed)[row].tobytes() for seed in range(3) for row in range(len(STEPS))}) == 30
    records = dataset.runs(1)
    assert records["checkpoint"].to_pylist() == [f"checkpoint-{step}" for step in STEPS]
    assert len(set(records["weights"].to_pylist())) == len(STEPS) and records["commit"].null_count == len(STEPS)
    assert verify(str(tmp_path / "set")) == []


@pytest.mark.parametrize(("bos", "first"), [("yes", 1), ("no", None)])
def test_a_bos_can_be_asked_for_or_left_out(bos, first, series, texts, tmp_path):
    folder = series("llama")
    dataset = run(tmp_path, f"{folder}/seed-0", bos=bos, steps="0,1000")
    ids = ids_of(dataset)
    assert all((text[0] == 1) == (first == 1) for text in ids)
    truth = own_losses(folder / "seed-0" / "checkpoint-1000", ids)
    assert np.abs(dataset.seed(0)[1] - truth).max() < 1e-5


@pytest.mark.parametrize("family", FAMILIES)
def test_the_hub_gives_the_same_bits_as_a_folder(family, series, texts, tmp_path, scratch_root, monkeypatch):
    folder = series(family)
    several = {"gpt_neox": 3}.get(family, 1)
    local = run(tmp_path, f"{folder}/seed-{{0..{several - 1}}}")
    models = {f"o/m{seed}": as_branches(folder / f"seed-{seed}") for seed in range(several)}
    for branches in models.values():
        branches["main"] = branches["step1000"]
    with HubServer({}, models=models) as hub, served(hub, monkeypatch, tmp_path / "cache"):
        dataset = run(tmp_path, f"o/m{{0..{several - 1}}}", output=str(tmp_path / "hub"))
        weights = [name for name in hub.fetched() if name.endswith((".safetensors", ".bin"))]
    assert sorted(weights) == sorted(set(weights)) and len(weights) == 10 * several, "each once, and main's not at all"
    assert dataset.names == {seed: f"o/m{seed}" for seed in range(several)} and dataset.steps == list(STEPS)
    for seed in dataset.seeds:
        assert np.array_equal(dataset.seed(seed), local.seed(seed))
        assert dataset.runs(seed)["weights"].to_pylist() == local.runs(seed)["weights"].to_pylist()
    assert dataset.runs(0)["commit"].to_pylist() == [commit_of(f"step{step}") for step in STEPS]
    assert list(scratch_root.iterdir()) == [], "what was fetched is removed"


def test_at_most_two_checkpoints_lie_on_disk(series, texts, tmp_path, scratch_root, monkeypatch):
    models = {"o/m": as_branches(series("gpt_neox") / "seed-0")}
    seen = []
    fetch = download._fetch

    def watched(checkpoint, file, path):
        fetch(checkpoint, file, path)
        seen.append(len(list(scratch_root.glob("*/*/*.safetensors"))))

    monkeypatch.setattr(download, "_fetch", watched)
    with HubServer({}, models=models) as hub, served(hub, monkeypatch, tmp_path / "cache"):
        run(tmp_path, "o/m")
    assert max(seen) in (1, 2)


def test_what_the_cache_has_is_used_and_stays(series, texts, tmp_path, scratch_root, monkeypatch):
    """Also offline: the cache's branches are the series then."""
    from huggingface_hub import constants

    models = {"o/m": {name: as_branches(series("llama") / "seed-0")[name] for name in ("step0", "step1000")}}
    cache = tmp_path / "cache"
    with HubServer({}, models=models) as hub, served(hub, monkeypatch, cache):
        online = run(tmp_path, "o/m")
        folder = cache / "models--o--m"
        for branch, files in models["o/m"].items():
            place = folder / "snapshots" / commit_of(branch)
            place.mkdir(parents=True)
            (folder / "refs").mkdir(exist_ok=True)
            (folder / "refs" / branch).write_text(commit_of(branch))
            for name, content in files.items():
                (place / name).write_bytes(content)
        before = {path: path.stat().st_mtime_ns for path in cache.rglob("*") if path.is_file()}
        hub.requests.clear()
        again = run(tmp_path, "o/m", output=str(tmp_path / "again"))
        assert hub.fetched() == []
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        offline = run(tmp_path, "o/m", output=str(tmp_path / "offline"))
        assert hub.requests == []
        with pytest.raises(ValueError, match="o/other: HF_HUB_OFFLINE is set"):
            run(tmp_path, "o/other", output=str(tmp_path / "other"))
    for dataset in again, offline:
        assert np.array_equal(dataset.seed(0), online.seed(0))
    assert {path: path.stat().st_mtime_ns for path in cache.rglob("*") if path.is_file()} == before


def test_names_never_change_and_further_models_come_behind(series, texts, tmp_path, capsys):
    folder = series("gpt_neox")
    one, two, three = (str(folder / f"seed-{seed}") for seed in range(3))
    first = run(tmp_path, one, two, steps="0,8")
    assert repr(first).count(one) == 1
    losses = first.seed(1)
    for models in ((two, one), (one, three), (three, two, one)):
        with pytest.raises(
            ValueError, match=r"seed \d of .* is .*seed-\d, and here .*seed-\d: give the models in the order"
        ):
            run(tmp_path, *models, steps="0,8")
    capsys.readouterr()
    dataset = run(tmp_path, one, two, three, steps="0,8")
    assert "committed: 2 checkpoints" in capsys.readouterr().out.replace(f"seed 2 ({three}) ", "")
    assert dataset.seeds == [0, 1, 2] and np.array_equal(dataset.seed(1), losses)
    assert dataset.attempts[1] == first.attempts[1], "not scored again"
    assert job_status(str(tmp_path / "set")).status.names == {0: one, 1: two, 2: three}
    with pytest.raises(ValueError, match="checkpoints: "):
        run(tmp_path, one, two, three, steps="0,16")


def test_a_checkpoint_that_gives_nan_fails_its_model_alone(series, texts, tmp_path, capsys):
    folder = copied(series("gpt_neox"), tmp_path / "copy")
    from safetensors.torch import load_file, save_file

    path = folder / "seed-1" / "checkpoint-8" / "model.safetensors"
    weights = load_file(path)
    weights["gpt_neox.final_layer_norm.weight"][0] = float("nan")
    save_file(weights, path, metadata={"format": "pt"})
    dataset = run(tmp_path, f"{folder}/seed-*", code=1, steps="4,8,16")
    assert dataset.seeds == [0, 2]
    alone = run(tmp_path, f"{folder}/seed-2", steps="4,8,16", output=str(tmp_path / "alone"))
    assert np.array_equal(dataset.seed(2), alone.seed(0)), "whatever was scored before"
    (why,) = job_status(str(tmp_path / "set")).failed.values()
    assert "step 8: the loss of document 'digits.txt', token 1, is nan" in why and why in capsys.readouterr().out


def broken_series(series, tmp_path, how):
    """A copy whose checkpoint-16 of seed-1 is broken."""
    folder = copied(series("gpt2" if how == "code" else "gpt_neox"), tmp_path / "copy")
    place = folder / "seed-1" / "checkpoint-16"
    path = place / "model.safetensors"
    if how == "missing":
        path.unlink()
    elif how == "no config":
        (place / "config.json").unlink()
    elif how == "cut":
        path.write_bytes(path.read_bytes()[:-1000])
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "code":
        torch.save({"lm_head.weight": Runs(tmp_path / "ran")}, place / "pytorch_model.bin")
    return folder


class Runs:
    """A pickle of it makes a file when it is read without care."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ("missing", "has no weights"),
        ("no config", "has no config.json"),
        ("cut", "model.safetensors has .* bytes, its header says"),
        ("empty", "model.safetensors is empty"),
    ],
)
def test_a_broken_checkpoint_is_said_before_anything_is_scored_and_can_be_left_out(how, says, series, texts, tmp_path):
    folder = broken_series(series, tmp_path, how)
    with pytest.raises(ValueError, match=f"1 checkpoints cannot be read: checkpoint-16 of .*seed-1: {says}"):
        run(tmp_path, f"{folder}/seed-*", steps="8,16,32")
    assert not (tmp_path / "set").exists()
    dataset = run(tmp_path, f"{folder}/seed-*", steps="8,16,32", skip_broken=True)
    assert dataset.steps == [8, 32] and dataset.seeds == [0, 1, 2]
    identity = json.loads((tmp_path / "set" / "experiment.json").read_text())["identity"]
    assert list(identity["left_out"]) == ["16"] and "checkpoint-16 of" in identity["left_out"]["16"]


def test_a_pickle_with_code_is_refused_and_nothing_runs(series, texts, tmp_path):
    folder = broken_series(series, tmp_path, "code")
    dataset = run(tmp_path, f"{folder}/seed-*", code=1, steps="8,16")
    assert dataset.seeds == [0, 2] and not (tmp_path / "ran").exists()
    assert "is a pickle that would run code" in job_status(str(tmp_path / "set")).failed[1]


def test_weights_that_the_model_lacks_are_not_made_up(series, texts, tmp_path):
    from safetensors.torch import load_file, save_file

    folder = copied(series("gpt_neox") / "seed-0", tmp_path / "copy" / "seed-0").parent
    path = folder / "seed-0" / "checkpoint-16" / "model.safetensors"
    weights = load_file(path)
    del weights["gpt_neox.layers.1.mlp.dense_4h_to_h.bias"]
    save_file(weights, path, metadata={"format": "pt"})
    with pytest.raises(ValueError, match="no seed is committed"):
        run(tmp_path, f"{folder}/seed-0", code=1).losses("fact.txt")
    assert "lacks 1 of the model's weights" in job_status(str(tmp_path / "set")).failed[0]


@pytest.mark.parametrize("shape", ["half", "other"])
def test_files_of_another_shape_or_dtype_are_loaded_as_transformers_does(shape, series, texts, tmp_path):
    """In the middle of a series, where the checkpoints before were copied straight into the model."""
    from transformers import AutoModelForCausalLM

    folder = copied(series("gpt_neox") / "seed-0", tmp_path / "copy" / "seed-0").parent
    place = folder / "seed-0" / "checkpoint-4"
    if shape == "half":
        save(AutoModelForCausalLM.from_pretrained(place, dtype=torch.bfloat16), place)
    else:
        torch.manual_seed(5)
        from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

        config = GPTNeoXConfig.from_pretrained(place, num_hidden_layers=1)
        save(GPTNeoXForCausalLM(config), place)
    dataset = run(tmp_path, f"{folder}/seed-0", steps="2,4,8")
    for row, step in enumerate(dataset.steps):
        truth = own_losses(folder / "seed-0" / f"checkpoint-{step}", ids_of(dataset))
        assert np.abs(dataset.seed(0)[row] - truth).max() < 1e-5


def test_documents_that_two_models_read_differently_are_refused(series, texts, tmp_path):
    with pytest.raises(ValueError, match="have tokenizers that make other tokens of the documents"):
        run(tmp_path, f"{series('gpt_neox')}/seed-0", f"{series('llama')}/seed-0")


def test_a_dry_run_says_the_plan_and_writes_nothing(series, texts, tmp_path, capsys):
    models = {"o/m": as_branches(series("gpt_neox") / "seed-0")}
    size = sum(len(files["model.safetensors"]) for files in models["o/m"].values())
    with HubServer({}, models=models) as hub, pytest.MonkeyPatch.context() as patch, served(hub, patch, tmp_path / "c"):
        config = series_config(tmp_path, models=("o/m",), dry_run=True)
        assert score_series_inline(config) == 0
        assert not [name for name in hub.fetched() if name.endswith(".safetensors")]
    out = capsys.readouterr().out
    assert "seed 0 is o/m\nrecord: 10 checkpoints per model from step 0 to 1000, 3 documents" in out
    assert f"weights: {size / 1e9:.3f} GB in 10 checkpoints" in out and "time: about" in out
    assert not (tmp_path / "set").exists()
