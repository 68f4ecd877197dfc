"""A training loop that is not ours: a small model in plain PyTorch, with dropout, which a recorder may look at.

`python -m tests.support.own_loop FOLDER KILL_AT` trains seed 0, and kills its own process before update KILL_AT.
"""

import os
import signal
import sys
from pathlib import Path

import torch
from torch import nn

from discreteness import Recorder
from tests.support.any_model import END, byte_level_bpe

LAST_STEP = 12
PLAN = [0, 1, 2, 4, 7, 12]
SAVED_AT = 5
TEXTS = {"a.txt": "One line follows the other.\n", "b.txt": "3 + 4 =⟦ 7⟧\n", "c_long.txt": 20 * "The sea is wide. "}


class Model(nn.Module):
    def __init__(self, vocabulary, context=512):
        super().__init__()
        self.tokens, self.places = nn.Embedding(vocabulary, 8), nn.Embedding(context, 8)
        self.dropout, self.head = nn.Dropout(0.2), nn.Linear(8, vocabulary)

    def forward(self, ids):
        mixed = self.tokens(ids).cumsum(1) / torch.arange(1, ids.shape[1] + 1)[:, None]  # of the past alone
        return self.head(self.dropout(mixed + self.places(torch.arange(ids.shape[1]))))


def texts(folder):
    """A folder of documents, made if it is not there."""
    if not folder.exists():
        folder.mkdir()
        for name, text in TEXTS.items():
            (folder / name).write_text(text)
    return folder


def recorder(folder, **changes):
    """A recorder of the dataset FOLDER/set."""
    arguments = {
        "documents": texts(Path(folder) / "texts"),
        "tokenizer": byte_level_bpe(),
        "checkpoints": PLAN,
        "last_step": LAST_STEP,
        "bos": byte_level_bpe().token_to_id(END),
        "max_tokens_per_batch": 64,
    }
    return Recorder(Path(folder) / "set", **arguments | changes)


def start(seed=0):
    """A model and its optimizer as they are before the first update."""
    torch.manual_seed(seed)
    model = Model(byte_level_bpe().get_vocab_size())
    return model, torch.optim.AdamW(model.parameters(), lr=0.03)


def update(model, optimizer):
    """One step, on tokens that are drawn from torch's random numbers. The loss before it."""
    ids = torch.randint(0, 500, (4, 16))
    loss = nn.functional.cross_entropy(model(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten())
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.item()


def train(model, optimizer, rows=None, first=0, before_update=lambda step: None):
    """From step `first` to the last; `rows`, a recorder, sees the model on the way."""
    losses = []
    for step in range(first, LAST_STEP + 1):
        if rows is not None and step in rows:
            rows.record(step, model, {"train_loss": losses[-1]} if losses else None)
        before_update(step)
        if step < LAST_STEP:
            losses.append(update(model, optimizer))
    return losses


def save(path, step, model, optimizer, rows):
    parts = {"model": model, "optimizer": optimizer, "recorder": rows}
    torch.save({"step": step, "random": torch.get_rng_state(), **{k: v.state_dict() for k, v in parts.items()}}, path)


def restore(path, model, optimizer, rows):
    """The step to go on with."""
    saved = torch.load(path, weights_only=True)
    for name, part in {"model": model, "optimizer": optimizer, "recorder": rows}.items():
        part.load_state_dict(saved[name])
    torch.set_rng_state(saved["random"])
    return saved["step"]


def main(folder, kill_at):
    torch.set_num_threads(1)
    rows, (model, optimizer) = recorder(folder), start()

    def before_update(step):
        if step == SAVED_AT:
            save(Path(folder) / "checkpoint.pt", step, model, optimizer, rows)
        if step == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    train(model, optimizer, rows, before_update=before_update)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
