"""dataset -> what is wrong with it, every row read.

discreteness verify runs/tiny
"""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from discreteness.dataset.annotations import problems_of_annotations
from discreteness.dataset.by_token.parts import PartReader, first_tokens, read_parts
from discreteness.dataset.by_token.token_file import KEYS, DamagedPart
from discreteness.dataset.derived import problems_of_analysis, problems_of_weights
from discreteness.dataset.manifest import Manifest, listed, read_documents, read_manifest
from discreteness.dataset.paths import SEED_FILE
from discreteness.dataset.runs_file import records_again
from discreteness.dataset.same_weights import notes_of_equal
from discreteness.dataset.seed_file import (
    AGAIN_WITHOUT_IT,
    CommittedSeed,
    mean_over_tokens,
    one_line,
    read_losses,
    scan,
)
from discreteness.dataset.storage import Storage, open_storage

BLOCK_BYTES = 2**28
"""Losses of a part that are compared at once."""


def verify(uri: str | os.PathLike[str] | Storage) -> list[str]:
    """Reads every row of every seed, and what else is there; returns the problems, each with what to do, none if the
    dataset is whole. Raises what `reader.open` raises."""
    storage = open_storage(uri)
    manifest = read_manifest(storage)
    committed, invalid = scan(storage, manifest)
    problems = [f"{name}: {reason}; {_instead_of(name)}" for name, reason in invalid.items()]
    try:
        read_documents(storage, manifest)
    except (FileNotFoundError, ValueError) as error:
        problems.append(str(error))
    for seed in committed.values():
        problems += [f"{seed.path}: {problem}" for problem in problems_of_losses(storage, manifest, seed)]
        problems += [f"{seed.runs_path}: {problem}" for problem in problems_of_runs(storage, seed)]
    try:
        for part in read_parts(storage, manifest):
            reader = PartReader(storage, manifest, part, committed)
            problems += [f"{part.folder}: {problem}" for problem in problems_of_part(reader, storage, manifest)]
    except ValueError as error:
        problems.append(str(error))
    problems += problems_of_annotations(storage, manifest)
    return [*problems, *problems_of_analysis(storage), *problems_of_weights(storage)]


def notes(uri: str | os.PathLike[str] | Storage) -> list[str]:
    """What a reader should know of a dataset that is whole: checkpoints of a series with the same weights."""
    storage = open_storage(uri)
    return list(notes_of_equal(storage, scan(storage, read_manifest(storage))[0].values()))


def _instead_of(name: str) -> str:
    """What to do about a file of losses/ that is not counted."""
    if SEED_FILE.fullmatch(Path(name).name):
        return "the command of its run keeps it aside and trains the seed again"
    return "take it out"


def problems_of_losses(storage: Storage, manifest: Manifest, committed: CommittedSeed) -> Iterator[str]:
    try:
        source = pa.BufferReader(storage.read(committed.path))
        table = pq.ParquetFile(source, page_checksum_verification=True).read()
    except (pa.ArrowException, OSError) as error:
        yield f"cannot be read ({one_line(error)}); if that stays so, {AGAIN_WITHOUT_IT}"
        return
    for name, expected in ("seed", committed.seed), ("attempt", committed.attempt):
        found = sorted(pc.unique(table[name]).to_pylist())
        if found != [expected]:
            yield f"{name} is {listed(found)}, its footer says {expected}"
    steps, ids = np.array(manifest.steps), np.array([document.doc_id for document in manifest.documents])
    step, doc_id = table["step"].to_numpy(), table["doc_id"].to_numpy()
    pairs, counts = np.unique(np.stack([doc_id, step], axis=1), axis=0, return_counts=True)
    planned = {(doc, step) for doc in ids.tolist() for step in steps.tolist()}
    found_pairs = set(map(tuple, pairs.tolist()))
    for what, wrong in (
        ("missing", sorted(planned - found_pairs)),
        ("not planned", sorted(found_pairs - planned)),
        ("more than once", list(map(tuple, pairs[counts > 1].tolist()))),
    ):
        if wrong:
            yield f"(document, step) {what}: {listed(wrong)}"
            return
    if not (np.array_equal(doc_id, np.repeat(ids, len(steps))) and np.array_equal(step, np.tile(steps, len(ids)))):
        yield "rows are not sorted by document and step"
        return
    lengths = pc.list_value_length(table["losses"]).to_numpy()
    expected_lengths = np.repeat([document.num_losses for document in manifest.documents], len(steps))
    for row in np.flatnonzero(lengths != expected_lengths)[:1]:
        where = f"document {doc_id[row]}, step {step[row]}"
        yield f"{where} has {lengths[row]} losses, expected {expected_lengths[row]}"
        return
    values = pc.list_flatten(table["losses"]).to_numpy()
    for index in np.flatnonzero(~np.isfinite(values))[:1]:
        row = int(np.searchsorted(np.cumsum(lengths), index, side="right"))
        yield f"document {doc_id[row]}, step {step[row]} has a loss of {values[index]}"
    # Statistics of the footer, which no checksum covers, tell readers which row groups they may leave out.
    for document in manifest.documents:
        try:
            read_losses(storage, manifest, committed, [document])
        except (pa.ArrowException, OSError, ValueError) as error:
            yield f"document {document.doc_id} cannot be read alone, damaged statistics: {error}"
            return


def problems_of_runs(storage: Storage, committed: CommittedSeed) -> Iterator[str]:
    if not storage.exists(committed.runs_path):
        yield f"is missing, {committed.path} names it; {records_again(committed)}"
    elif hashlib.sha256(storage.read(committed.runs_path)).hexdigest() != committed.runs_sha256:
        yield f"its hash is not the one in {committed.path}; {records_again(committed)}"


def problems_of_part(reader: PartReader, storage: Storage, manifest: Manifest) -> Iterator[str]:
    """Compares every loss and mean that a part has of seeds that are as they were with the seeds' own files."""
    places = np.arange(len(manifest.steps))
    try:
        for index, first in enumerate(first_tokens(manifest)):
            document = manifest.documents[index]
            most = max(1, BLOCK_BYTES // (4 * len(places) * len(reader.part.seeds)))
            for token in range(0, document.num_losses, most):
                tokens = np.arange(token, min(token + most, document.num_losses))
                found = reader.losses(first + tokens, places)
                for seed in reader.part.seeds:
                    if (column := reader.columns.get(seed.seed)) is None:
                        continue
                    losses = read_losses(storage, manifest, seed, [document])
                    means = reader.means[index, column]
                    if not np.array_equal(found[:, :, column], losses[:, tokens].T):
                        yield f"losses of seed {seed.seed}, document {document.doc_id} are not those of {seed.path}"
                    if token == 0 and not np.array_equal(means, mean_over_tokens(losses)):
                        yield f"means of seed {seed.seed}, document {document.doc_id} are not those of {seed.path}"
        for path in reader.part.files(manifest):
            _read_keys(storage, path)
    except (pa.ArrowException, OSError, ValueError) as error:
        yield f"cannot be read: {one_line(error)}"


def _read_keys(storage: Storage, path: str) -> None:
    """What other programs read beside the losses, and our own readers do not. Raises DamagedPart if a page is not as it
    was written."""
    try:
        with storage.open(path) as source:
            file = pq.ParquetFile(source, page_checksum_verification=True)
            for group in range(file.num_row_groups):
                file.read_row_group(group, columns=[name for name in file.schema_arrow.names if name in KEYS])
    except FileNotFoundError:
        raise
    except (pa.ArrowException, OSError) as error:
        raise DamagedPart(storage, path, one_line(error)) from error
