"""a model's name on the Hugging Face hub -> its checkpoints: branches whose names hold a step, pinned by commit.

- HF_ENDPOINT names another hub or a mirror, HF_TOKEN the right to read private models.
- With HF_HUB_OFFLINE it is the hub's cache on this machine that is listed, and nothing is asked of any network.
- The listing has the hash of every file, so equal weights are found without a download.
"""

import os
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path

from discreteness.dataset.manifest import listed
from discreteness.series.folder import files_of
from discreteness.series.names import natural
from discreteness.series.patience import patiently
from discreteness.series.step_names import StepName, StepPattern
from discreteness.series.steps import named_steps
from discreteness.series.stored import StoredCheckpoint, StoredFile

LISTED_AT_ONCE = 8
"""Branches: the hub answers each in a tenth of a second or more, and limits how many are asked for."""


def checkpoints_on_hub(model: str, matching: str | None, pattern: StepPattern) -> list[StoredCheckpoint]:
    """The checkpoints of the branches of `model` that match; None: of all whose names hold a step. Raises ValueError if
    there are none, if there is no such model, or as `named_steps`; OSError if the hub cannot be reached."""
    branches = _branches(model)
    matched = [name for name in branches if matching is None or fnmatchcase(name, matching)]
    steps = named_steps(model, matched, matching, pattern)
    with ThreadPoolExecutor(LISTED_AT_ONCE) as pool:
        files = list(pool.map(lambda name: _files(model, branches[name]), steps))
    return [
        _stored(model, name, read, branches[name], there)
        for (name, read), there in zip(steps.items(), files, strict=True)
    ]


def pinned(model: str) -> StoredCheckpoint:
    """The files of a model's main branch, for its tokenizer. Raises as `checkpoints_on_hub`."""
    branches = _branches(model)
    if "main" not in branches:
        raise ValueError(f"{model}: has no branch main, but {listed(sorted(branches, key=natural))}")
    commit = branches["main"]
    return _stored(model, "main", StepName(step=0, tokens=None), commit, _files(model, commit))


def cached(model: str, commit: str, name: str) -> Path | None:
    """A file of that commit in the hub's cache on this machine, which is only read."""
    from huggingface_hub import try_to_load_from_cache

    path = try_to_load_from_cache(model, name, revision=commit)
    return Path(path) if isinstance(path, str) else None


def is_offline() -> bool:
    from huggingface_hub import constants

    return constants.is_offline_mode()


def _stored(model: str, name: str, read: StepName, commit: str, files: tuple[StoredFile, ...]) -> StoredCheckpoint:
    """Offline the files are those of a folder: the cache's."""
    folder = str(_snapshot(model, commit)) if is_offline() else ""
    return StoredCheckpoint(
        model=model, name=name, step=read.step, tokens=read.tokens, commit=commit, folder=folder, files=files
    )


def _branches(model: str) -> dict[str, str]:
    """Name -> commit."""
    if is_offline():
        return _cached_branches(model)
    from huggingface_hub import HfApi
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    try:
        refs = patiently(f"the branches of {model}", lambda: HfApi().list_repo_refs(model))
    except (RepositoryNotFoundError, GatedRepoError) as error:
        raise ValueError(
            f"{model}: is neither a folder of this machine nor a model that {_endpoint()} shows to you; write it as "
            "owner/model, and set HF_TOKEN if it is private or gated"
        ) from error
    return {branch.name: branch.target_commit for branch in refs.branches}


def _files(model: str, commit: str) -> tuple[StoredFile, ...]:
    if is_offline():
        return _cached_files(model, commit)
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import RepoFile

    tree = patiently(f"the files of {model} at {commit}", lambda: list(HfApi().list_repo_tree(model, revision=commit)))
    return tuple(
        StoredFile(name=one.path, num_bytes=one.size, hash=one.lfs.sha256 if one.lfs else one.blob_id)
        for one in tree
        if isinstance(one, RepoFile)
    )


def _cache_of(model: str) -> Path:
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    return Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=model, repo_type="model")


def _snapshot(model: str, commit: str) -> Path:
    """Where the cache has the files of a commit."""
    return _cache_of(model) / "snapshots" / commit


def _cached_branches(model: str) -> dict[str, str]:
    refs = _cache_of(model) / "refs"
    found = {path.relative_to(refs).as_posix(): path.read_text().strip() for path in refs.rglob("*") if path.is_file()}
    if not found:
        raise ValueError(
            f"{model}: HF_HUB_OFFLINE is set, and it is neither a folder of this machine nor in the hub's cache there "
            f"({_cache_of(model)})"
        )
    return found


def _cached_files(model: str, commit: str) -> tuple[StoredFile, ...]:
    """The cache's files are links to what is named by its hash, where links can be made."""
    return tuple(
        replace(file, hash=target if re.fullmatch(r"[0-9a-f]{64}|[0-9a-f]{40}", target) else "")
        for file in files_of(_snapshot(model, commit))
        for target in [(_snapshot(model, commit) / file.name).resolve().name]
    )


def _endpoint() -> str:
    return os.environ.get("HF_ENDPOINT") or "the hub"
