"""The rows of a training that goes on, on disk: one file per recorded step, so that a killed process loses none.

- A file appears whole, and is flushed, before the step counts as recorded.
- They are of one attempt, in a folder of its own, which goes when the seed is committed.
- A chain of hashes over steps and losses says which rows a saved state continues. Rows of the same steps from another
  continuation of that training have another one, unless they are the same bits.
"""

import hashlib
import io
import json
import zipfile
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
from pyarrow.fs import FileType

from discreteness.dataset.manifest import listed
from discreteness.dataset.paths import RECORDED, RECORDED_STEP, recorded_folder, recorded_path
from discreteness.dataset.storage import Storage

NOTHING = ""
"""The chain before the first row."""


@dataclass(frozen=True)
class Row:
    """One recorded step. `losses`: float32 [losses of all documents]. `record`: further values of the step. `dtypes`:
    what computed it."""

    step: int
    losses: np.ndarray
    record: dict[str, Any]
    dtypes: dict[str, str]


class KeptRows:
    """The rows of one attempt at a seed."""

    def __init__(self, storage: Storage, seed: int, attempt: str):
        self.storage = storage
        self.seed = seed
        self.attempt = attempt

    def write(self, row: Row) -> None:
        """Raises OSError if it cannot be written; then it is not there."""
        told = json.dumps({"record": row.record, "dtypes": row.dtypes}).encode()
        buffer = io.BytesIO()
        np.savez(buffer, losses=row.losses, told=np.frombuffer(told, np.uint8))
        self.storage.write(recorded_path(self.seed, self.attempt, row.step), buffer.getvalue())

    def read(self, step: int) -> Row:
        """Raises ValueError if the row is gone or damaged."""
        path = recorded_path(self.seed, self.attempt, step)
        try:
            with np.load(io.BytesIO(self.storage.read(path)), allow_pickle=False) as file:
                losses, told = file["losses"], json.loads(file["told"].tobytes())
            return Row(step, losses, told["record"], told["dtypes"])
        except FileNotFoundError:
            why = "is gone"
        except (ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
            why = f"is damaged ({error})"
        raise ValueError(
            f"{self.storage.path(path)} {why}, so the curve of seed {self.seed} cannot go on: "
            "train the seed again from its beginning"
        )

    def drop_after(self, step: int) -> None:
        """Forgets the rows of later steps."""
        for number in self.steps():
            if number > step:
                self.storage.delete(recorded_path(self.seed, self.attempt, number))

    def steps(self) -> list[int]:
        """Steps of the rows that are there, ascending."""
        names = (info.base_name for info in self.storage.list(recorded_folder(self.seed, self.attempt)))
        return sorted(int(match[1]) for name in names if (match := RECORDED_STEP.fullmatch(name)))


def chained(before: str, row: Row) -> str:
    """The chain after one more row."""
    sha = hashlib.sha256(f"{before} {row.step} ".encode())
    sha.update(row.losses.tobytes())
    return sha.hexdigest()


def check_chain(found: str, stated: str, seed: int, steps: list[int]) -> None:
    """Raises ValueError if the rows that are there are not those that a saved state continues."""
    if found != stated:
        raise ValueError(
            f"the rows of seed {seed} at steps {listed(steps)} are of another continuation of its training than the "
            "one that was saved, so one curve would come from two trainings: restore the newest checkpoint, or train "
            "the seed again from its beginning"
        )


def forget(storage: Storage, seed: int) -> None:
    """Best effort: removes the rows of all attempts at a seed, which is committed."""
    for info in storage.list(RECORDED):
        folder = f"{RECORDED}/{info.base_name}"
        attempt = folder.removeprefix(recorded_folder(seed, ""))
        if info.type != FileType.Directory or folder != recorded_folder(seed, attempt):
            continue
        with suppress(OSError):
            rows = KeptRows(storage, seed, attempt)
            rows.drop_after(-1)
            if not storage.list(folder):
                storage.filesystem.delete_dir(info.path)
