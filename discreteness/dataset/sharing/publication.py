"""dataset -> the files of its publication: what others need to read it, and nothing of who made it where.

- Committed seeds with their records, the layout by token, documents, annotations, the analysis; weights where they are
  asked for.
- Not log/, which names hosts, processes and paths, and nothing of seeds that are not committed.
"""

from collections.abc import Iterator

from discreteness.dataset.annotations import ANNOTATIONS_FILE
from discreteness.dataset.by_token.parts import read_parts
from discreteness.dataset.derived import ANALYSIS_FOLDER
from discreteness.dataset.manifest import Manifest, listed
from discreteness.dataset.paths import (
    DOCUMENTS_FILE,
    EXPERIMENT_FILE,
    LOSSES_FOLDER,
    PARTS_FILE,
    RUNS_FOLDER,
    TOKENS_FOLDER,
    WEIGHTS_FILE,
    WEIGHTS_FOLDER,
    weights_folder,
)
from discreteness.dataset.seed_file import CommittedSeed
from discreteness.dataset.storage import Storage

OURS = (LOSSES_FOLDER, RUNS_FOLDER, TOKENS_FOLDER, WEIGHTS_FOLDER, ANALYSIS_FOLDER)
"""Folders of a publication: what a repository has there belongs to it."""


def published_files(
    storage: Storage, manifest: Manifest, committed: dict[int, CommittedSeed], weights: bool
) -> dict[str, int]:
    """Name -> bytes, by name. Raises ValueError if no seed is committed, or if one is not in the layout by token, from
    which single tokens are read."""
    if not committed:
        raise ValueError(f"no seed is committed in {storage.uri} yet; there is nothing to publish")
    parts = read_parts(storage, manifest)
    by_token = {seed.seed: seed for part in parts for seed in part.seeds}
    if missing := [seed for seed, footer in committed.items() if by_token.get(seed) != footer]:
        raise ValueError(
            f"seeds {listed(missing)} of {storage.uri} are not arranged by token, as readers of single tokens need it; "
            f"run: discreteness compact {storage.uri}"
        )
    names = [EXPERIMENT_FILE, DOCUMENTS_FILE, PARTS_FILE]
    names += [ANNOTATIONS_FILE] if storage.exists(ANNOTATIONS_FILE) else []
    names += [name for part in parts for name in part.files(manifest)]
    names += [name for seed in committed.values() for name in (seed.path, seed.runs_path)]
    names += [f"{ANALYSIS_FOLDER}/{info.base_name}" for info in storage.list(ANALYSIS_FOLDER) if info.is_file]
    if weights:
        names += _weights(storage, committed)
    return {name: storage.size(name) for name in sorted(names)}


def _weights(storage: Storage, committed: dict[int, CommittedSeed]) -> Iterator[str]:
    for seed in committed.values():
        folder = weights_folder(seed.seed, seed.attempt)
        for info in storage.list(folder):
            if WEIGHTS_FILE.fullmatch(f"{folder}/{info.base_name}"):
                yield f"{folder}/{info.base_name}"
