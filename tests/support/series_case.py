"""A series of tiny random models: checkpoints as `transformers` saves them, and what it says of their losses."""

import os
import shutil
from contextlib import contextmanager, suppress
from pathlib import Path

import torch
from torch.nn.functional import cross_entropy

from discreteness.series.config import SeriesConfig
from discreteness.series.loading import quiet_transformers
from tests.support.any_model import family

STEPS = (0, 1, 2, 4, 8, 16, 32, 64, 500, 1000)
TEXTS = {
    "fact.txt": "The capital of France is⟦ Paris⟧.",
    "digits.txt": "1 2 3 4 5 6 7 8 9 10 11 12",
    "line.txt": "One line follows the other,\nand the longest of these few texts is padding for nobody.",
}


def write_series(folder, name="gpt_neox", models=3, steps=STEPS, safe=True):
    """`models` folders seed-0, ... of a family, each with a checkpoint-STEP for each step and its tokenizer."""
    quiet_transformers()
    tokenizer, model = family(name)
    start = {key: value.clone() for key, value in model.state_dict().items()}
    for seed in range(models):
        for step in steps:
            torch.manual_seed(10000 * seed + step)
            with torch.no_grad():
                for key, value in model.state_dict().items():
                    value.copy_(start[key] + 0.05 * torch.randn_like(value))
            place = folder / f"seed-{seed}" / f"checkpoint-{step}"
            save(model, place, safe)
            tokenizer.save_pretrained(place)
    model.load_state_dict(start)
    return folder


def save(model, place, safe=True):
    model.save_pretrained(place)
    if not safe:  # as before safetensors; this version of transformers no longer writes it
        place.joinpath("model.safetensors").unlink()
        torch.save(model.state_dict(), place / "pytorch_model.bin")


@contextmanager
def held_back(path, gate):
    """Whoever reads the file at `path` waits until the context ends, then has its bytes; `gate` is a name beside."""
    content = path.read_bytes()
    os.mkfifo(gate)
    shown = gate.with_suffix(".shown")
    os.link(gate, shown)
    shown.replace(path)
    try:
        yield
    finally:
        shown.write_bytes(content)
        shown.replace(path)  # for those who come now
        with suppress(OSError):  # nobody waits
            waiting = os.open(gate, os.O_WRONLY | os.O_NONBLOCK)
            os.set_blocking(waiting, True)
            with os.fdopen(waiting, "wb") as pipe:
                pipe.write(content)


def write_texts(folder):
    folder.mkdir()
    for name, text in TEXTS.items():
        (folder / name).write_text(text)
    return folder


def as_branches(folder):
    """The checkpoints of one model's folder as branches step0, step1, ... of a model of the hub."""
    return {
        f"step{place.name.partition('-')[2]}": {path.name: path.read_bytes() for path in place.iterdir()}
        for place in Path(folder).iterdir()
    }


def own_losses(place, documents):
    """float32 (losses of all documents,): transformers' own logits, document by document, through cross_entropy."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(place, dtype=torch.float32).eval()
    found = []
    with torch.no_grad():
        for ids in documents:
            ids = torch.tensor(ids)
            logits = model(ids[None]).logits[0].float()
            found.append(cross_entropy(logits[:-1], ids[1:], reduction="none"))
    return torch.cat(found).numpy()


def series_config(tmp_path, **values):
    return SeriesConfig(
        **{"documents": str(tmp_path / "texts"), "output": str(tmp_path / "set"), "inline": True, "device": "cpu"}
        | values
    )


def copied(folder, to):
    shutil.copytree(folder, to)
    return to


@contextmanager
def served(hub, monkeypatch, cache):
    """This process's client of the hub asks `hub`, waits little between tries, and has an empty cache."""
    from huggingface_hub import constants

    from discreteness.series import patience

    with monkeypatch.context() as patch:
        patch.setattr(constants, "ENDPOINT", hub.endpoint)
        patch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
        )
        patch.setattr(constants, "HF_HUB_CACHE", str(cache))
        patch.setattr(patience, "WAITS_S", (0.01,) * 4)
        yield
