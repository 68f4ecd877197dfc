"""dataset + its training shards -> annotations of its tokens."""

import os
from collections.abc import Callable, Iterable
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
from speedrun.data.shards import find_shards
from speedrun.data.tiny_corpus import default_data_root, ensure_tiny_corpus

from discreteness.dataset.annotations import Corpus, write_annotations
from discreteness.dataset.manifest import Manifest, read_documents, read_manifest
from discreteness.dataset.storage import Storage, open_storage
from discreteness.shards.ngrams import bigram_losses, count, unigram_losses
from discreteness.shards.report import data_identity


def annotate(
    uri: str | os.PathLike[str] | Storage, data: str | None = None, bar: Callable[[list[Path]], Iterable[Path]] = iter
) -> Corpus:
    """Writes annotations.parquet of a dataset, anew where it is there; what was counted for it.

    `data`: folder of the shards that the seeds were trained on, as for run. Of a dataset that was not trained on shards
    nothing is counted, and those columns are null. `bar` shows how far the shards are read. Raises FileNotFoundError if
    there is no dataset, and ValueError if its shards are not there or are others.
    """
    storage = open_storage(uri)
    storage.check_writable()  # before what may take minutes
    manifest = read_manifest(storage)
    table = read_documents(storage, manifest)
    parts = [table.filter(pc.equal(table["doc_id"], document.doc_id)) for document in manifest.documents]
    ids = [part["token_id"].to_numpy().astype(np.int64) for part in parts]
    rows: dict[str, Any] = {
        "doc_id": np.concatenate([part["doc_id"].to_numpy()[1:] for part in parts]),
        "token_index": np.concatenate([part["token_index"].to_numpy()[1:] for part in parts]),
        "repeated": np.concatenate([_seen_before(tokens)[1:] for tokens in ids]),
        "induction": np.concatenate([_pair_seen_before(tokens) for tokens in ids]),
    }
    counted, corpus = _counted(_shards(manifest, data), np.concatenate([_pairs(tokens) for tokens in ids]), bar)
    write_annotations(storage, manifest, rows | counted, corpus)
    return corpus


def _counted(
    shards: dict[Path, int], pairs: np.ndarray, bar: Callable[[list[Path]], Iterable[Path]]
) -> tuple[dict[str, Any], Corpus]:
    """The columns that come from the training shards."""
    if not shards:
        return dict.fromkeys(("count", "pair_count", "unigram_loss", "bigram_loss"), [None] * len(pairs)), Corpus()
    counts = count(bar(list(shards)), pairs)
    losses, prior = bigram_losses(counts, pairs)
    columns = {
        "count": counts.unigrams[pairs[:, 1]],
        "pair_count": counts.pairs,
        "unigram_loss": unigram_losses(counts, pairs[:, 1]).astype(np.float32),
        "bigram_loss": losses.astype(np.float32),
    }
    return columns, Corpus(shards=tuple((path.name, tokens) for path, tokens in shards.items()), bigram_prior=prior)


def _shards(manifest: Manifest, data: str | None) -> dict[Path, int]:
    """The training shards of the identity, with their tokens; none where it names none."""
    track, known = manifest.identity.get("track"), manifest.identity.get("data")
    if not isinstance(track, dict) or not isinstance(track.get("data"), dict) or not isinstance(known, list):
        if data:
            raise ValueError(f"--data {data}: this dataset was not trained on shards, so there is nothing to count")
        return {}
    glob = track["data"]["train_glob"]
    root = Path(data or os.environ.get("DATA_PATH", "."))
    if track["data"]["made_on_first_use"] and not data:
        root = default_data_root()
        ensure_tiny_corpus(root)
    paths = find_shards(root.absolute(), glob)
    trained_on = {shard["name"]: shard for shard in known if fnmatch(shard["name"], Path(glob).name)}
    here = {shard["name"]: shard for shard in data_identity(paths)}
    for name in sorted(trained_on | here):
        if here.get(name) != trained_on.get(name):
            what = "is not there" if name not in here else "is not one that this dataset was trained on"
            raise ValueError(f"--data {root}: shard {name} {what}; name the folder with the shards of its run")
    return {path: here[path.name]["tokens"] for path in paths}


def _pairs(tokens: np.ndarray) -> np.ndarray:
    """(n,) -> (n - 1, 2): each token with the one before it."""
    return np.stack([tokens[:-1], tokens[1:]], axis=1)


def _seen_before(values: np.ndarray) -> np.ndarray:
    """Whether the same value stands further left, bool [n]."""
    _, first = np.unique(values, return_index=True)
    seen = np.ones(len(values), bool)
    seen[first] = False
    return seen


def _pair_seen_before(tokens: np.ndarray) -> np.ndarray:
    """Of tokens[1:]: whether the same token followed the same one further left, bool [n - 1]. An induction head could
    copy it from there (Olsson et al. 2022)."""
    return _seen_before(tokens[:-1] * (tokens.max() + 1) + tokens[1:])
