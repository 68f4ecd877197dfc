"""dataset -> the checkpoints that it keeps as files, by seed and step."""

from collections import defaultdict
from typing import Literal

from discreteness.dataset.manifest import listed
from discreteness.dataset.paths import WEIGHTS_FILE, weights_folder
from discreteness.dataset.reader import Dataset


def kept_weights(origin: Dataset) -> dict[int, dict[int, str]]:
    """seed -> step -> path of the weights of the attempt that was committed. Other attempts' weights do not count."""
    kept: dict[int, dict[int, str]] = defaultdict(dict)
    for seed, attempt in origin.attempts.items():
        for info in origin.storage.list(weights_folder(seed, attempt)):
            path = f"{weights_folder(seed, attempt)}/{info.base_name}"
            if match := WEIGHTS_FILE.fullmatch(path):
                kept[seed][int(match[3])] = path
    return kept


def chosen_weights(origin: Dataset, seed: int | None, step: int | Literal["last"] | None) -> str:
    """Path of the weights of one seed after one step, "last" being its last kept step. What is not named must be the
    only one that there is. Raises ValueError with the seeds or steps to choose from.
    """
    kept = {number: steps for number, steps in kept_weights(origin).items() if steps}
    where = f"--checkpoint {origin.storage.uri}"
    if not kept:
        raise ValueError(f"{where} holds no weights of its committed seeds; make it with --keep-weights STEPS")
    if seed is None and len(kept) > 1:
        raise ValueError(f"{where} keeps weights of seeds {listed(sorted(kept))}: give --seed")
    steps = kept.get(min(kept) if seed is None else seed)
    if steps is None:
        raise ValueError(f"--seed {seed}: {origin.storage.uri} keeps weights of seeds {listed(sorted(kept))}")
    if step is None and len(steps) > 1:
        raise ValueError(f"{where} keeps steps {listed(sorted(steps))} of it: give --step, such as --step last")
    at = max(steps) if step in (None, "last") else step
    if at not in steps:
        raise ValueError(f"--step {step}: {origin.storage.uri} keeps steps {listed(sorted(steps))} of that seed")
    return steps[at]
