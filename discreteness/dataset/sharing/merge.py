"""datasets of one experiment -> one dataset that has the seeds of them all.

discreteness merge runs/a runs/b --output runs/all

- A seed is copied file by file, byte for byte: its kept weights, its records, and at last its losses, which commit it.
- A seed that several datasets hold must have the same losses in each, to the bit; otherwise nothing is written.
- A new output has no experiment.json until every seed is there: until then no command takes it for a dataset. It has
  `_merge.json` instead, by which the same command knows what to go on with.
"""

import json
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np

from discreteness.dataset.annotations import ANNOTATIONS_FILE
from discreteness.dataset.by_token.compaction import compact
from discreteness.dataset.by_token.parts import read_parts
from discreteness.dataset.lock import DatasetLock
from discreteness.dataset.manifest import Manifest, listed, read_documents, read_manifest
from discreteness.dataset.paths import (
    DOCUMENTS_FILE,
    EXPERIMENT_FILE,
    LOG_FOLDER,
    LOSSES_FOLDER,
    MERGE_FILE,
    RUNS_FOLDER,
    WEIGHTS_FILE,
    seed_path,
    weights_folder,
)
from discreteness.dataset.seed_file import CommittedSeed, read_losses, scan
from discreteness.dataset.sharing.one_experiment import one_experiment
from discreteness.dataset.storage import Storage, open_storage
from discreteness.dataset.verify import problems_of_losses, problems_of_runs

MOST_SEEDS = 5
"""Seeds named in an error message."""


@dataclass(frozen=True)
class Held:
    """A committed seed, and the dataset that holds it."""

    storage: Storage
    manifest: Manifest
    seed: CommittedSeed


@dataclass(frozen=True, kw_only=True)
class Merged:
    """`added`: seeds that this call copied. `shared`: seeds that several of the datasets hold, the output among them.
    `not_counted`: files of the inputs that are not committed seeds, by path, with the reason."""

    seeds: tuple[int, ...]
    added: tuple[int, ...]
    shared: tuple[int, ...]
    not_counted: dict[str, str]


def merge(
    inputs: Sequence[str | os.PathLike[str] | Storage],
    output: str | os.PathLike[str] | Storage,
    allow_code_change: bool = False,
    take_over: bool = False,
    progress_bar: Callable[[list], Iterable] = iter,
) -> Merged:
    """Makes `output` hold every committed seed of `inputs`; it may be a dataset of the same experiment already, which
    then keeps its own seeds. Compacted if one of them is. Interrupted, the same call goes on.

    `allow_code_change`: datasets may differ in the code that made them. `take_over`: as for a run. `progress_bar`:
    wraps the seeds to be copied. Raises ValueError if the experiments differ, if a seed has other losses in two of the
    datasets, or if `output` holds another unfinished merge; FileExistsError if it holds other files; OSError if a file
    is damaged or cannot be read or written.
    """
    sources = [open_storage(uri) for uri in inputs]
    target = open_storage(output)
    _refuse_twice(sources)
    manifests = [read_manifest(source) for source in sources]
    manifest = one_experiment(list(zip(sources, manifests, strict=True)), allow_code_change)
    held, not_counted = _committed(sources, manifests)
    _refuse_unequal(held)
    with DatasetLock(target, job="merge", take_over=take_over) as lock:
        manifest = _begin(target, sources, manifest, allow_code_change)
        there, damaged = scan(target, manifest)
        if in_the_way := sorted(damaged.keys() & {seed_path(seed) for seed in held}):
            raise ValueError(f"{target.path(in_the_way[0])}: {damaged[in_the_way[0]]}; take it out, and merge again")
        in_both = {seed: [Held(target, manifest, there[seed]), held[seed][0]] for seed in held.keys() & there.keys()}
        _refuse_unequal(in_both)
        for seed in progress_bar(sorted(held)):
            lock.check()
            _copy_weights(there.get(seed, held[seed][0].seed), held[seed], target)
            if seed not in there:
                _copy_seed(held[seed][0], target)
        for source in sources:
            _copy_log(source, target)
            if source.exists(ANNOTATIONS_FILE) and not target.exists(
                ANNOTATIONS_FILE
            ):  # of the same documents and data
                target.write(ANNOTATIONS_FILE, source.read(ANNOTATIONS_FILE))
        if not target.exists(EXPERIMENT_FILE) or read_manifest(target) != manifest:
            target.write(EXPERIMENT_FILE, manifest.to_json())
        if target.exists(MERGE_FILE):
            target.delete(MERGE_FILE)
        if any(_compacted(storage, manifest) for storage in (target, *sources)):
            compact(target)
    return Merged(
        seeds=tuple(sorted(there.keys() | held.keys())),
        added=tuple(sorted(held.keys() - there.keys())),
        shared=tuple(sorted({seed for seed, copies in held.items() if len(copies) > 1} | in_both.keys())),
        not_counted=not_counted,
    )


def _refuse_twice(sources: Sequence[Storage]) -> None:
    uris = [source.uri for source in sources]
    if not uris:
        raise ValueError("no dataset was given; give those that are to become one")
    if twice := sorted({uri for uri in uris if uris.count(uri) > 1}):
        raise ValueError(f"{listed(twice)} is given twice; give each dataset once")


def _committed(
    sources: Sequence[Storage], manifests: Sequence[Manifest]
) -> tuple[dict[int, list[Held]], dict[str, str]]:
    """({seed: where it is, in the order of the sources}, {path: why it is not counted})."""
    held: dict[int, list[Held]] = defaultdict(list)
    not_counted: dict[str, str] = {}
    for source, manifest in zip(sources, manifests, strict=True):
        committed, invalid = scan(source, manifest)
        not_counted |= {source.path(name): reason for name, reason in invalid.items()}
        for seed in committed.values():
            held[seed.seed].append(Held(source, manifest, seed))
    return held, not_counted


def _refuse_unequal(held: dict[int, list[Held]]) -> None:
    """Raises ValueError that names the seeds whose losses are not the same bits wherever they are."""
    unequal = []
    for seed, (first, *others) in sorted(held.items()):
        for other in others:
            if where := _first_difference(first, other):
                unequal.append(f"seed {seed} of {first.storage.uri} and of {other.storage.uri}, {where}")
    if unequal:
        raise ValueError(
            f"the losses differ of {listed(unequal, MOST_SEEDS)}. One training run has to be chosen: take the file of "
            "each such seed out of losses/ of one of the two, and merge again"
        )


def _first_difference(one: Held, other: Held) -> str:
    """Where the losses of a seed differ for the first time; "" if they are the same bits."""
    if one.storage.read(one.seed.path) == other.storage.read(other.seed.path):
        return ""
    mine, others = _losses(one), _losses(other)
    differing = mine.view(np.uint32) != others.view(np.uint32)
    if not differing.any():
        return ""
    row, column = np.argwhere(differing)[0]
    ends = np.cumsum([document.num_losses for document in one.manifest.documents])
    document = one.manifest.documents[int(np.searchsorted(ends, column, side="right"))]
    token = column - ends[one.manifest.documents.index(document)] + document.num_losses + 1
    return (
        f"first at step {one.manifest.steps[row]}, document {document.name!r}, token {token}: "
        f"{mine[row, column]} and {others[row, column]}"
    )


def _losses(held: Held) -> np.ndarray:
    """float32 (steps, losses of all documents). Raises OSError or ValueError if they are not as they were written."""
    return read_losses(held.storage, held.manifest, held.seed, held.manifest.documents)


def _begin(target: Storage, sources: Sequence[Storage], manifest: Manifest, allow_code_change: bool) -> Manifest:
    """Writes what comes before the seeds of a new output, or checks what is there; returns the manifest to end with."""
    if target.exists(EXPERIMENT_FILE):
        merged = one_experiment([(target, read_manifest(target)), (sources[0], manifest)], allow_code_change)
        read_documents(target, merged)
        return merged
    begun = {"inputs": [source.uri for source in sources], "experiment": json.loads(manifest.to_json())}
    if target.exists(MERGE_FILE):
        manifest = _resume(target, begun["inputs"], manifest, allow_code_change)
    elif foreign := [info.base_name for info in target.list() if not info.base_name.startswith((".", "_"))]:
        raise FileExistsError(f"{target.uri} holds {listed(foreign, 5)} and is not a dataset; give another --output")
    else:
        target.write(MERGE_FILE, json.dumps(begun, indent=1).encode())
    if not target.exists(DOCUMENTS_FILE):
        read_documents(sources[0], manifest)
        target.write(DOCUMENTS_FILE, sources[0].read(DOCUMENTS_FILE))
    target.make_folders(LOSSES_FOLDER, RUNS_FOLDER, LOG_FOLDER)
    target.sweep_staging()
    return manifest


def _resume(target: Storage, inputs: list[str], manifest: Manifest, allow_code_change: bool) -> Manifest:
    """The manifest of an unfinished merge, with what the inputs have accepted since. Raises ValueError if it was of
    datasets that are not given now: seeds of theirs may be here already."""
    where = target.path(MERGE_FILE)
    try:
        begun = json.loads(target.read(MERGE_FILE))
        missing = [uri for uri in begun["inputs"] if uri not in inputs]
        before = Manifest.from_json(json.dumps(begun["experiment"]).encode(), where)
    except (ValueError, KeyError, TypeError, RecursionError):
        raise ValueError(f"{where} does not describe a merge; delete {target.uri}, and merge again") from None
    if missing:
        raise ValueError(
            f"{target.uri} holds an unfinished merge that was also of {listed(missing)}; give all of "
            f"{listed(begun['inputs'])} again, with others too if you like, or another --output"
        )
    return one_experiment([(target, before), (target, manifest)], allow_code_change)


def _copy_weights(seed: CommittedSeed, copies: Sequence[Held], target: Storage) -> None:
    """Copies the weights of this training run, wherever they were kept, that the target does not have yet."""
    for held in copies:
        if held.seed != seed:
            continue
        for info in held.storage.list(weights_folder(seed.seed, seed.attempt)):
            name = f"{weights_folder(seed.seed, seed.attempt)}/{info.base_name}"
            if WEIGHTS_FILE.fullmatch(name) and not target.exists(name):
                target.write(name, held.storage.read(name))


def _copy_seed(held: Held, target: Storage) -> None:
    """Copies records and then losses, which commit the seed. Raises OSError if they are not as they were written."""
    of_runs = ((held.seed.runs_path, problem) for problem in problems_of_runs(held.storage, held.seed))
    of_losses = ((held.seed.path, problem) for problem in problems_of_losses(held.storage, held.manifest, held.seed))
    for path, problem in chain(of_runs, of_losses):
        raise OSError(f"{held.storage.path(path)}: {problem}")
    for path in held.seed.runs_path, held.seed.path:
        target.write(path, held.storage.read(path))


def _copy_log(source: Storage, target: Storage) -> None:
    there = {info.base_name for info in target.list(LOG_FOLDER)}
    for info in source.list(LOG_FOLDER):
        if info.base_name not in there and info.base_name.endswith(".json"):
            name = f"{LOG_FOLDER}/{info.base_name}"
            target.write(name, source.read(name), durable=False)


def _compacted(storage: Storage, manifest: Manifest) -> bool:
    try:
        return bool(read_parts(storage, manifest))
    except ValueError:  # damaged: it was compacted, and the output is made from the seeds
        return True
