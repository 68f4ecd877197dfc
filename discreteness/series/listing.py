"""the models that were asked for -> the checkpoints of each, at the same steps, and what is wrong with them.

Nothing is downloaded, and of a folder only what safetensors say of their own length is read.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from discreteness.dataset.manifest import listed
from discreteness.dataset.same_weights import same_weights, words_of_equal
from discreteness.series.config import ChosenModels
from discreteness.series.folder import checkpoints_in
from discreteness.series.hub import checkpoints_on_hub
from discreteness.series.names import is_folder, models_of
from discreteness.series.step_names import StepPattern
from discreteness.series.steps import chosen_steps
from discreteness.series.stored import StoredCheckpoint, Unreadable


@dataclass(frozen=True, kw_only=True)
class Series:
    """`models`: of each seed its name; `checkpoints`: of each seed those that are scored, ascending by step. `plan`:
    their steps, the same for all. `left_out`: step -> why --skip-broken leaves it out."""

    models: tuple[str, ...]
    checkpoints: tuple[tuple[StoredCheckpoint, ...], ...]
    plan: tuple[int, ...]
    left_out: dict[int, str]


def all_checkpoints(config: ChosenModels) -> dict[str, list[StoredCheckpoint]]:
    """Model -> all its checkpoints that match, ascending by step. Raises ValueError and OSError as those who list."""
    pattern = StepPattern(config.step_pattern)
    return {
        name: (checkpoints_in if is_folder(name) else checkpoints_on_hub)(name, config.checkpoints, pattern)
        for name in models_of(config.models)
    }


def series_of(config: ChosenModels) -> Series:
    """What a run scores. Raises ValueError if models have different steps and no --steps, if a checkpoint is broken
    and no --skip-broken, or if nothing is left."""
    found = all_checkpoints(config)
    plan = chosen_steps(
        {model: [one.step for one in checkpoints] for model, checkpoints in found.items()}, config.steps
    )
    chosen = {model: [one for one in checkpoints if one.step in plan] for model, checkpoints in found.items()}
    broken: dict[int, list[str]] = {}
    for one in (one for checkpoints in chosen.values() for one in checkpoints):
        if wrong := problem_of(one):
            broken.setdefault(one.step, []).append(wrong)
    told = [wrong for step in sorted(broken) for wrong in broken[step]]
    if broken and not config.skip_broken:
        raise ValueError(
            f"{len(told)} checkpoints cannot be read: {listed(told, 5)}; give --skip-broken to leave "
            "these steps out for all models, or --steps that do without them"
        )
    left = tuple(step for step in plan if step not in broken)
    if not left:
        raise ValueError(f"no step is left, as each is broken in one model: {listed(told, 5)}")
    return Series(
        models=tuple(chosen),
        checkpoints=tuple(tuple(one for one in checkpoints if one.step in left) for checkpoints in chosen.values()),
        plan=left,
        left_out={step: "; ".join(broken[step]) for step in sorted(broken)},
    )


def problem_of(checkpoint: StoredCheckpoint) -> str | None:
    """Why it cannot be read, as far as that shows without reading weights; None if nothing is wrong."""
    try:
        needed = checkpoint.needed
    except Unreadable as error:
        return str(error)
    if not checkpoint.folder:
        return None
    for file in needed:
        if not file.name.endswith(".safetensors"):
            continue
        stated = _stated_bytes(Path(checkpoint.folder) / file.name)
        if file.num_bytes != stated:
            said = stated or "nothing that could be"
            return f"{checkpoint}: {file.name} has {file.num_bytes} bytes, its header says {said}"
    return None


def _stated_bytes(path: Path) -> int | None:
    from discreteness.dataset.derived import safetensors_bytes

    with path.open("rb") as file:
        return safetensors_bytes(file, path.stat().st_size)


def equal_weights(checkpoints: Sequence[StoredCheckpoint]) -> list[str]:
    """Sentences about checkpoints of one model that have the same weights, as far as hashes are known."""
    whole = [one for one in checkpoints if problem_of(one) is None]
    groups = same_weights((one.step, one.weights_hash) for one in whole)
    return [words_of_equal(checkpoints[0].model, steps) for steps in groups]
