"""A checkpoint as it is stored, in a folder or on the hub: what it is called, where it lies, and what its files are.

Plain data, which travels from where a series is listed to where its checkpoints are scored.
"""

import hashlib
import json
import re
from dataclasses import asdict, dataclass

from discreteness.checkpoint.seam import SeedImpossible
from discreteness.dataset.manifest import listed

CONFIG = "config.json"
WEIGHTS = {
    "safetensors": re.compile(r"model(?:-(\d{5})-of-(\d{5}))?\.safetensors"),
    "bin": re.compile(r"pytorch_model(?:-(\d{5})-of-(\d{5}))?\.bin"),
}
"""The names that transformers gives to weights, in one file or in shards."""
INDEX = {"safetensors": "model.safetensors.index.json", "bin": "pytorch_model.bin.index.json"}


class Unreadable(SeedImpossible, ValueError):
    """A checkpoint that cannot be had, however often it is tried: a file of it is missing, damaged or refused."""


@dataclass(frozen=True, kw_only=True)
class StoredFile:
    """`hash`: SHA-256 in hex, or the 40 digits of git's blob id for small files of the hub; "" where it is not known
    before the file is read, as in a folder."""

    name: str
    num_bytes: int
    hash: str


@dataclass(frozen=True, kw_only=True)
class StoredCheckpoint:
    """`name`: of the sub-folder or branch. `commit`: where that branch stood, "" in a folder. `folder`: where its files
    lie, "" on the hub. `tokens`: seen by then, as the name says it; None where it does not."""

    model: str
    name: str
    step: int
    tokens: int | None
    commit: str
    folder: str
    files: tuple[StoredFile, ...]

    def __str__(self) -> str:
        return f"{self.name} of {self.model}"

    @property
    def weights(self) -> tuple[StoredFile, ...]:
        """The files of the weights: safetensors where there are some, else pickles. Raises Unreadable if there are
        none, if shards are missing, or if one is empty."""
        for pattern in WEIGHTS.values():
            if found := {file: match for file in self.files if (match := pattern.fullmatch(file.name))}:
                return self._whole(found)
        raise Unreadable(f"{self}: has no weights, neither model.safetensors nor pytorch_model.bin")

    @property
    def needed(self) -> tuple[StoredFile, ...]:
        """What must be there to load it. Raises Unreadable as `weights`, and where config.json is missing."""
        weights = self.weights
        index = INDEX[weights[0].name.rpartition(".")[2]]
        others = [file for file in self.files if file.name in (CONFIG, "generation_config.json", index)]
        if CONFIG not in (file.name for file in others):
            raise Unreadable(f"{self}: has no {CONFIG}")
        return (*others, *weights)

    @property
    def weights_hash(self) -> str:
        """One hash for all files of the weights; "" where one is not known. Equal weights in the same files have the
        same."""
        return hash_of({file.name: file.hash for file in self.weights})

    def to_bytes(self) -> bytes:
        return json.dumps(asdict(self)).encode()

    @classmethod
    def from_bytes(cls, content: bytes) -> "StoredCheckpoint":
        values = json.loads(content)
        return cls(**values | {"files": tuple(StoredFile(**file) for file in values["files"])})

    def _whole(self, found: dict[StoredFile, re.Match[str]]) -> tuple[StoredFile, ...]:
        files = [file for file, match in found.items() if not match[1]]
        if not files:  # a file that holds everything comes before shards, as in transformers
            files = list(found)
            total = int(found[files[0]][2])
            if missing := sorted(set(range(1, total + 1)) - {int(match[1]) for match in found.values()}):
                raise Unreadable(
                    f"{self}: {len(missing)} of its {total} files of weights are missing: number {listed(missing, 5)}"
                )
        for file in files:
            if not file.num_bytes:
                raise Unreadable(f"{self}: {file.name} is empty")
        return tuple(sorted(files, key=lambda file: file.name))


def hash_of(hashes: dict[str, str]) -> str:
    """file name -> hash of each file of the weights, as one hash; "" where one of them is."""
    if not all(hashes.values()):
        return ""
    if len(hashes) == 1:
        return next(iter(hashes.values()))
    return hashlib.sha256("".join(f"{name} {one}\n" for name, one in sorted(hashes.items())).encode()).hexdigest()
