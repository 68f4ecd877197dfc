"""models -> what is wrong with their checkpoints, without scoring any: missing steps, missing files, equal weights."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from discreteness.dataset.manifest import listed
from discreteness.series.config import ChosenModels
from discreteness.series.listing import all_checkpoints, equal_weights, problem_of
from discreteness.series.pair import with_hashes
from discreteness.series.stored import StoredCheckpoint, Unreadable

HASHED_AT_ONCE = 4
"""Files of folders, which are read whole for their hash; the hub's listing has the hashes already."""


def check_series(config: ChosenModels) -> tuple[list[str], list[str]]:
    """(a line for each model, the problems found). Raises ValueError and OSError as those who list the models."""
    found = all_checkpoints(config)
    lines = [
        f"{model}: {len(checkpoints)} checkpoints, steps {checkpoints[0].step} to {checkpoints[-1].step}"
        for model, checkpoints in found.items()
    ]
    return lines, list(_problems(found))


def _problems(found: dict[str, list[StoredCheckpoint]]) -> Iterator[str]:
    steps = {one.step for checkpoints in found.values() for one in checkpoints}
    for model, checkpoints in found.items():
        if missing := sorted(steps - {one.step for one in checkpoints}):
            yield f"{model}: lacks {len(missing)} steps that others have: {listed(missing)}"
        yield from (problem for one in checkpoints if (problem := problem_of(one)))
        with ThreadPoolExecutor(HASHED_AT_ONCE) as pool:
            yield from equal_weights(list(pool.map(_hashed, checkpoints)))


def _hashed(checkpoint: StoredCheckpoint) -> StoredCheckpoint:
    """With its hashes, unless files are missing, which is a problem told already."""
    try:
        return with_hashes(checkpoint)
    except Unreadable:
        return checkpoint
