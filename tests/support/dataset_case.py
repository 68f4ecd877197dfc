"""A small experiment: three documents, losses by a formula, records."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from discreteness.dataset.writer import DatasetWriter

STEPS = (0, 1, 5, 20)
IDENTITY = {
    "track": {"name": "tiny", "lr": 0.5},
    "vary": "init",
    "packing": "isolated",
    "world_size": 1,
    "sources": "aaaa",
}


@dataclass(frozen=True, kw_only=True)
class Text:
    doc_id: int
    name: str
    category: str
    token_ids: tuple[int, ...]
    answers: frozenset[int] = frozenset()


DOCUMENTS = (
    Text(doc_id=0, name="a.txt", category="a", token_ids=(50256, 5, 6, 7), answers=frozenset({3})),
    Text(doc_id=1, name="b.txt", category="b", token_ids=(50256, 200)),
    Text(doc_id=4, name="c", category="c", token_ids=(50256, 1, 2)),
)
"""Three, one and two losses."""
TOTAL = 6


def token_bytes(token_id):
    return b"<|endoftext|>" if token_id == 50256 else bytes([token_id])


def create(uri, **changes):
    arguments = {
        "identity": IDENTITY,
        "documents": DOCUMENTS,
        "token_bytes": token_bytes,
        "in_vocabulary": None,
        "steps": STEPS,
        **changes,
    }
    return DatasetWriter.create_or_open(uri, **arguments)


def losses(seed, steps=STEPS, total=TOTAL):
    """float32 (steps, total): every value says which it is, 1000 * seed + step + token / 8."""
    return np.add.outer(1000.0 * seed + np.array(steps), np.arange(total) / 8).astype(np.float32)


def records(steps=STEPS):
    return pa.table({"step": list(steps), "train_loss": [10.0 - step for step in steps]})


def commit(dataset, seed, attempt="one"):
    return dataset.commit(seed, attempt, np.array(STEPS, np.int32), losses(seed), records())


def names(folder):
    return sorted(path.name for path in folder.iterdir())
