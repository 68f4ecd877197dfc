"""names of the checkpoints of several models -> their steps, and those steps that are scored."""

from collections.abc import Mapping, Sequence

from discreteness.dataset.manifest import listed
from discreteness.experiment.checkpoint_steps import parse_checkpoints
from discreteness.series.names import natural
from discreteness.series.step_names import StepName, StepPattern


def named_steps(model: str, names: Sequence[str], matching: str | None, pattern: StepPattern) -> dict[str, StepName]:
    """What the names of a model's checkpoints say, in the order of their steps. Names without a step are passed over
    where nothing was asked for (`matching` None), and refused where a pattern found them.

    Raises ValueError if none is left, or if two have the same step.
    """
    found = {name: read for name in sorted(names, key=natural) if (read := pattern.read(name))}
    without = [name for name in names if name not in found]
    asked = "" if matching is None else f" of --checkpoints {matching!r}"
    if without and (matching is not None or not found):
        raise ValueError(
            f"{model}: no step in the names {listed(sorted(without, key=natural), 5)}{asked}; give --checkpoints a "
            "narrower pattern, or --step-pattern an expression with a group around the step, such as 'update(\\d+)'"
        )
    if not found:
        raise ValueError(
            f"{model}: has nothing{asked or ' that could be a checkpoint'}; look at its sub-folders or branches"
        )
    at: dict[int, str] = {}
    for name, read in found.items():
        if (other := at.setdefault(read.step, name)) != name:
            raise ValueError(
                f"{model}: {other} and {name} both are step {read.step}; narrow --checkpoints, or set --step-pattern"
            )
    return dict(sorted(found.items(), key=lambda item: item[1].step))


def chosen_steps(steps: Mapping[str, Sequence[int]], plan: str | None) -> tuple[int, ...]:
    """The steps that are scored, ascending: those of all models, thinned by `plan`.

    `steps`: model -> its steps. `plan`: None, a list such as 0,1000,2000, every:N (the steps that N divides, with the
    first and the last), or log:COUNT (those nearest to such a plan). Raises ValueError if models differ and no plan was
    given, or if a step that the list names is not there.
    """
    common = sorted(set.intersection(*(set(found) for found in steps.values())))
    lacking = _lacking(steps)
    if not common:
        raise ValueError(f"the models have no step in common: {lacking or 'there are none'}")
    if plan is None:
        if lacking:
            raise ValueError(
                f"the models do not have the same steps: {lacking}; give --steps, such as log:{min(len(common), 100)}, "
                f"which takes those that all have ({len(common)}, from {common[0]} to {common[-1]})"
            )
        return tuple(common)
    return _thinned(plan, common, lacking)


def _lacking(steps: Mapping[str, Sequence[int]]) -> str:
    """What each model lacks that another has; '' if nothing."""
    union = set().union(*steps.values())
    told = [
        f"{name} lacks {listed(sorted(missing), 5)}" for name, found in steps.items() if (missing := union - set(found))
    ]
    return listed(told, 5) if told else ""


def _thinned(plan: str, common: Sequence[int], lacking: str) -> tuple[int, ...]:
    try:
        wanted = parse_checkpoints(plan, common[-1])
    except ValueError as error:
        raise ValueError(str(error).replace("--checkpoints", "--steps")) from None
    if plan.startswith("every:"):
        gap = int(plan.partition(":")[2])
        return tuple(step for step in common if step % gap == 0 or step in (common[0], common[-1]))
    if plan.startswith("log:"):
        return tuple(sorted({_nearest(step, common) for step in wanted}))
    named = sorted({int(part) for part in plan.split(",")})
    if missing := [step for step in named if step not in common]:
        why = f" ({lacking})" if lacking else ""
        raise ValueError(
            f"--steps {plan!r}: not every model has step {listed(missing, 5)}{why}; there are {listed(common)}"
        )
    return tuple(named)


def _nearest(step: int, there: Sequence[int]) -> int:
    """By the ratio of step + 1, which a plan in log step counts by."""
    return min(there, key=lambda one: max(one + 1, step + 1) / min(one + 1, step + 1))
