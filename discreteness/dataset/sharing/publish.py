"""dataset -> a repository on the Hugging Face hub, which `discreteness.open("hf://datasets/OWNER/NAME")` reads.

discreteness publish runs/first --repo me/first --license cc-by-4.0

- All files appear by one commit. Before that they are uploaded in batches; the hub keeps those that came, so an
  interrupted publication goes on with the others.
- What is there already is not sent again, and after the commit every file is compared by its hash.
- A repository that holds seeds which this dataset lacks, or has otherwise, is left as it is.
"""

import hashlib
import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from discreteness.dataset.hub_storage import HubStorage, reach
from discreteness.dataset.manifest import listed, read_manifest
from discreteness.dataset.paths import EXPERIMENT_FILE
from discreteness.dataset.reader import Dataset
from discreteness.dataset.seed_file import scan
from discreteness.dataset.sharing.card import FIGURE, Words, card
from discreteness.dataset.sharing.one_experiment import one_experiment
from discreteness.dataset.sharing.publication import OURS, published_files
from discreteness.dataset.status import job_status
from discreteness.dataset.storage import Storage, open_storage
from discreteness.dataset.verify import verify

CARD = "README.md"
REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")
FILES_AT_ONCE = 32
"""Files of a batch: what an interruption can cost is their upload."""
CHUNK_BYTES = 2**22


@dataclass(frozen=True, kw_only=True)
class Published:
    """`files`: name -> bytes of all files. `sent`: those that the repository did not have. `commit`: the commit that
    has them all, "" of a dry run."""

    files: dict[str, int]
    sent: tuple[str, ...]
    commit: str


def publish(
    uri: str | os.PathLike[str] | Storage,
    repository: str,
    words: Words,
    weights: bool = False,
    private: bool = False,
    dry_run: bool = False,
    progress_bar: Callable[[list], Iterable] = iter,
) -> Published:
    """Makes the repository OWNER/NAME hold the dataset's committed seeds; it is created where it is not there.

    `weights`: kept weights too. `private`: of a new repository. `dry_run`: lists the files and asks nothing of the hub.
    `progress_bar`: wraps the batches that are uploaded. Raises ValueError if `repository` is no name, if something is
    wrong with the dataset, or if the repository holds another experiment or other seeds; FileNotFoundError,
    PermissionError or OSError, if the hub cannot be reached, refuses, or does not hold what was sent.
    """
    if not REPOSITORY.fullmatch(repository):
        raise ValueError(f"--repo {repository!r} is not the name of a repository; give OWNER/NAME")
    storage = open_storage(uri)
    dataset, manifest = Dataset(storage), read_manifest(storage)
    committed, _ = scan(storage, manifest)
    files = published_files(storage, manifest, committed, weights)
    text = card(dataset, job_status(storage), repository, words, FIGURE in files).encode()
    files = {CARD: len(text), **files}
    if dry_run:
        return Published(files=files, sent=(), commit="")
    if problems := verify(storage):
        raise ValueError(f"{storage.uri} is not whole, and is not published: {listed(problems, 3)}")
    contents = _Contents(storage, text)
    where = f"hf://datasets/{repository}"
    there = reach(lambda: _created(repository, private), where)
    _refuse_other_seeds(there, storage)
    hashes = {name: contents.hashes(name) for name in files}
    new = [name for name in files if name not in there.files or there.files[name].content not in hashes[name]]
    stale = [name for name in there.files if name.partition("/")[0] in OURS and name not in files]
    if not weights:
        stale = [name for name in stale if not name.startswith("weights/")]
    commit = reach(lambda: _send(there, contents, new, stale, progress_bar), where) if new or stale else there.commit
    _compare(HubStorage(f"{where}@{commit}"), hashes)
    return Published(files=files, sent=tuple(new), commit=commit)


class _Contents:
    """What is sent: files of a dataset, and the card."""

    def __init__(self, storage: Storage, text: bytes):
        self.storage, self.text = storage, text

    def of(self, name: str) -> str | bytes:
        """A path where the operating system has one, so that no file has to fit into memory."""
        if name == CARD:
            return self.text
        return self.storage.path(name) if self.storage.renames else self.storage.read(name)

    def hashes(self, name: str) -> tuple[str, str]:
        """SHA-256, which the hub keeps of large files, and git's own hash, which it keeps of small ones."""
        if name == CARD:
            return hashlib.sha256(self.text).hexdigest(), _git_hash(len(self.text), self.text).hexdigest()
        sha256, git = hashlib.sha256(), _git_hash(self.storage.size(name))
        with self.storage.open(name) as file:
            while chunk := file.read(CHUNK_BYTES):
                sha256.update(chunk)
                git.update(chunk)
        return sha256.hexdigest(), git.hexdigest()


def _git_hash(num_bytes: int, content: bytes = b"") -> Any:
    """https://git-scm.com/book/en/v2/Git-Internals-Git-Objects"""
    return hashlib.sha1(b"blob %d\0" % num_bytes + content, usedforsecurity=False)


def _created(repository: str, private: bool) -> HubStorage:
    from huggingface_hub import HfApi, constants

    api = HfApi(endpoint=constants.ENDPOINT)
    api.create_repo(repository, repo_type="dataset", private=private or None, exist_ok=True)
    return HubStorage(f"hf://datasets/{repository}")


def _refuse_other_seeds(there: HubStorage, storage: Storage) -> None:
    """Raises ValueError if the repository holds another experiment, or seeds that this dataset has otherwise or not at
    all: nothing of others is replaced."""
    if not there.exists(EXPERIMENT_FILE):
        return
    mine, published = read_manifest(storage), read_manifest(there)
    one_experiment([(storage, mine), (there, published)])
    here, (others, _) = scan(storage, mine)[0], scan(there, published)
    if differing := [seed for seed, footer in others.items() if here.get(seed) != footer]:
        raise ValueError(
            f"{there.uri} holds seeds {listed(differing)}, which {storage.uri} does not have, or of another training "
            f"run; give another --repo, or first: discreteness merge {storage.uri} {there.uri} --output BOTH"
        )


def _send(there: HubStorage, contents: _Contents, new: list[str], stale: list[str], progress_bar: Callable) -> str:
    """Uploads, then commits; returns the commit."""
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, constants

    api = HfApi(endpoint=constants.ENDPOINT)
    repository, kind = there.repository, "dataset"
    operations: list[Any] = [CommitOperationDelete(name) for name in stale]
    for first in progress_bar(list(range(0, len(new), FILES_AT_ONCE))):
        batch = [CommitOperationAdd(name, contents.of(name)) for name in new[first : first + FILES_AT_ONCE]]
        api.preupload_lfs_files(repository, additions=batch, repo_type=kind)
        operations += batch
    message = f"discreteness: {len(new)} files" + (f", {len(stale)} old ones deleted" if stale else "")
    done = api.create_commit(repository, operations, commit_message=message, repo_type=kind, parent_commit=there.commit)
    return done.oid


def _compare(there: HubStorage, hashes: dict[str, tuple[str, str]]) -> None:
    """Raises OSError if the hub does not hold every file as it is here."""
    wrong = [name for name, known in hashes.items() if not there.exists(name) or there.files[name].content not in known]
    if wrong:
        raise OSError(f"{there.uri} does not hold what was sent of {listed(wrong, 3)}; give the same command again")
