"""A dataset with losses by a formula: every token has a drop, at its own time, a little apart in every seed."""

import numpy as np
import pyarrow as pa

from discreteness.dataset.writer import DatasetWriter
from tests.support.dataset_case import IDENTITY, Text


def log_plan(num_steps, last):
    """`num_steps` ascending steps, 0 and `last` among them, about even in their logarithm."""
    if num_steps > last:
        return tuple(range(last + 1))
    steps = np.unique(np.round(np.geomspace(1, last, num_steps - 1)).astype(int))
    rest = np.setdiff1d(np.arange(last + 1), [0, *steps])[: num_steps - 1 - len(steps)]
    return tuple(int(step) for step in np.sort(np.concatenate([[0], steps, rest])))


def planted_losses(seed, steps, num_tokens):
    """float32 (steps, tokens). Token i's drop is in the middle at 2 ** (2 + 7 (i * 0.618 mod 1)), shifted by up to an
    octave from seed to seed; every fifth token falls slowly instead, every seventh is never learned by odd seeds."""
    random = np.random.default_rng(seed)
    token = np.arange(num_tokens)
    octave = np.log2(np.array(steps) + 1.0)[:, None]
    middle = 2 + 7 * (token * 0.618 % 1) + random.normal(0, 0.3, num_tokens)
    slope = np.where(token % 5 == 4, 1.2, 12)
    height = 4 + 4 * (token * 0.371 % 1)
    learned = ~((token % 7 == 6) & bool(seed % 2))
    fall = height / (1 + np.exp(-np.clip(slope * (octave - middle), -40, 40)))
    return (height + 1.2 - learned * fall * 0.95 + random.normal(0, 0.06, fall.shape)).astype(np.float32)


def create_planted(folder, documents, token_bytes, steps, seeds):
    """DatasetWriter with these seeds committed; `documents` as DatasetWriter wants them."""
    dataset = DatasetWriter.create_or_open(
        folder,
        identity=IDENTITY,
        documents=documents,
        token_bytes=token_bytes,
        in_vocabulary=None,
        steps=steps,
    )
    for seed in seeds:
        commit_planted(dataset, seed)
    return dataset


def commit_planted(dataset, seed):
    steps = dataset.manifest.steps
    num_tokens = sum(document.num_losses for document in dataset.manifest.documents)
    records = pa.table({"step": list(steps), "train_loss": [1.0] * len(steps)})
    dataset.commit(seed, f"attempt-{seed}", np.array(steps, np.int32), planted_losses(seed, steps, num_tokens), records)


def show_running(dataset, seed, num_steps):
    """Rows of a seed in training, `num_steps` of them."""
    steps = dataset.manifest.steps[:num_steps]
    num_tokens = sum(document.num_losses for document in dataset.manifest.documents)
    dataset.write_running(seed, "running", np.array(steps, np.int32), planted_losses(seed, steps, num_tokens))


def text_documents(texts):
    """{name: text} -> documents of two characters a token, and what decodes them. An ó at the end of one is
    cut between its two bytes."""
    vocabulary = {b"<|endoftext|>": 50256}
    documents = []
    for doc_id, (name, text) in enumerate(texts.items()):
        pairs = [text[at : at + 2].encode() for at in range(0, len(text), 2)]
        cut = [(pair[:-1], pair[-1:]) if pair.endswith("ó".encode()) else (pair,) for pair in pairs]
        pieces = [piece for pieces in cut for piece in pieces]
        ids = tuple(vocabulary.setdefault(piece, len(vocabulary)) for piece in pieces)
        documents.append(
            Text(doc_id=doc_id, name=name, category="c", token_ids=(50256, *ids), answers=frozenset({2, 5}))
        )
    words = {token_id: piece for piece, token_id in vocabulary.items()}
    return documents, words.__getitem__
