"""--checkpoints -> the steps whose losses are recorded."""

import re

import numpy as np


def parse_checkpoints(text: str, total_steps: int) -> tuple[int, ...]:
    """'every:10', 'log:300', 'log:100,min-gap:5', '0,50,100' -> ascending steps with 0 and `total_steps` always in.

    `log:count` has `count` steps in all where the run is long enough, evenly spaced in log(step), starting with
    consecutive ones where the even spacing is below one step; `min-gap:g` thins steps closer than g (the last stays).
    """
    ways = "use every:N, log:COUNT, log:COUNT,min-gap:N or a list such as 0,50,100"
    if match := re.fullmatch(r"every:(\d{1,9})", text, re.ASCII):
        gap = int(match[1])
        if gap < 1:
            raise ValueError(f"--checkpoints {text!r}: the gap must be at least 1")
        steps = set(range(0, total_steps + 1, gap))
    elif match := re.fullmatch(r"log:(\d{1,9})(?:,min-gap:(\d{1,9}))?", text, re.ASCII):
        count, min_gap = int(match[1]), int(match[2] or 1)
        if count < 2 or min_gap < 1:
            raise ValueError(f"--checkpoints {text!r}: at least 2 steps (0 and the last) and a gap of at least 1")
        steps = set(_spread(_log_steps(count, total_steps), min_gap))
    elif re.fullmatch(r"\s*\d{1,9}\s*(,\s*\d{1,9}\s*)*", text, re.ASCII):
        steps = {int(part) for part in text.split(",")}
        if outside := sorted(step for step in steps if step > total_steps):
            raise ValueError(f"--checkpoints {text!r}: step {outside[0]} is past the last step {total_steps}")
    else:
        raise ValueError(f"--checkpoints {text!r} is not a plan; {ways}")
    return tuple(sorted(steps | {0, total_steps}))


def _log_steps(count: int, total_steps: int) -> list[int]:
    if count >= total_steps + 1:
        return list(range(total_steps + 1))
    if count == 2:
        return [0, total_steps]

    def distinct(points: int) -> np.ndarray:
        return np.unique(np.round(np.geomspace(1, total_steps, points)).astype(int))

    # Rounding merges the first points: the fewest points of which enough are distinct, by doubling and halving.
    enough = count - 1
    while len(distinct(enough)) < count - 1:
        enough *= 2
    too_few = count - 2
    while enough - too_few > 1:
        middle = (too_few + enough) // 2
        too_few, enough = (too_few, middle) if len(distinct(middle)) >= count - 1 else (middle, enough)
    steps = distinct(enough).tolist()
    surplus = len(steps) - (count - 1)  # one more point can add two distinct steps: the last but one goes
    return [0, *steps[: len(steps) - 1 - surplus], total_steps]


def _spread(steps: list[int], min_gap: int) -> list[int]:
    kept: list[int] = []
    for step in steps[:-1]:
        if not kept or step - kept[-1] >= min_gap:
            kept.append(step)
    return [*kept, steps[-1]]
