"""records of training -> where the schedule changes: batch, rate, window, head, and the cooldown of the rate.

A drop that lies where the recipe changes may be the recipe's doing, in all tokens and seeds at once.
"""

import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from discreteness.analysis.fits import octaves
from discreteness.dataset.reader import Dataset

logger = logging.getLogger(__name__)

NEAR_OCTAVES = 0.25
"""A drop reaches from its 10 % to its 90 % point, but at least this far from its middle: a time is not known better."""
_JUMP = 0.02
"""Share of the highest rate by which one update must change the rate, more than its neighbours do, to be a jump."""
_COOLDOWN_END = 0.95
"""Share of the highest rate since the last jump below which the rate is cooling down."""


@dataclass(frozen=True, kw_only=True)
class Change:
    """`step`: the first update under the new setting. `what`: batch, rate, window, head or cooldown."""

    step: int
    what: str


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """- `changes`: in the order of their steps; "cooldown" is where it begins.
    - `known`: whether the dataset's records say anything of the schedule.
    """

    changes: tuple[Change, ...]
    known: bool

    @property
    def cooldown_step(self) -> int | None:
        """Where the last cooldown begins."""
        begins = [change.step for change in self.changes if change.what == "cooldown"]
        return max(begins, default=None)

    def during(self, times: np.ndarray, widths: np.ndarray) -> np.ndarray:
        """What changes during each drop, of middles in updates [n] and widths in octaves [n]: object [n], such as
        "batch, rate", "" where nothing does.
        """
        said = np.full(len(times), "", object)
        for what in dict.fromkeys(change.what for change in self.changes):
            at = octaves([change.step for change in self.changes if change.what == what])
            near = np.abs(octaves(times)[:, None] - at) <= np.maximum(widths / 2, NEAR_OCTAVES)[:, None]
            said[near.any(axis=1)] += f", {what}"
        return np.array([text.removeprefix(", ") for text in said], object)

    def reach(self, widths: np.ndarray, steps: Sequence[int] | np.ndarray) -> float:
        """The share of drops of these widths [n] that would be where something changes, if their middles were spread
        evenly over the logarithmic axis of the run.
        """
        x = octaves(steps)
        middles = 2 ** np.linspace(x[0], x[-1], 200) - 1
        at, wide = np.repeat(middles, len(widths)), np.tile(widths, len(middles))
        return float((self.during(at, wide) != "").mean()) if len(widths) else float("nan")


def schedule_of(dataset: Dataset) -> Schedule:
    """From the records of the first seed that has them, and the track: every seed of a dataset follows one schedule."""
    runs = next((runs for seed in dataset.seeds if (runs := records_there(dataset, seed)) is not None), None)
    changes = list(_untied(dataset))
    if runs is not None:
        changes += _changes(runs)
    known = runs is not None and bool({"lr_multiplier", "batch_tokens", "long_window"} & set(runs.column_names))
    return Schedule(changes=tuple(sorted(changes, key=lambda change: (change.step, change.what))), known=known)


def records_there(dataset: Dataset, seed: int) -> pa.Table | None:
    """A seed's records; None, which is logged, where they are gone or damaged. No loss is: the analysis goes on."""
    try:
        return dataset.runs(seed)
    except OSError as error:
        logger.warning("%s", error)
        return None


def _changes(runs: pa.Table) -> Iterator[Change]:
    for what, columns in {"batch": ["batch_tokens"], "window": ["short_window", "long_window"]}.items():
        found = {int(step) for column in columns for step in _where_it_changes(*_there(runs, column))}
        yield from (Change(step=step, what=what) for step in found)
    steps, rates = _there(runs, "lr_multiplier")
    yield from (Change(step=int(step), what="rate") for step in steps[_jumps(rates)])
    if (start := _cooldown(rates)) is not None:
        yield Change(step=int(steps[start]), what="cooldown")


def _there(runs: pa.Table, column: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps and values of those that were recorded, ascending."""
    if column not in runs.column_names:
        return np.empty(0, np.int64), np.empty(0)
    values = np.array(runs[column].to_pylist(), np.float64)
    recorded = np.isfinite(values)
    return runs["step"].to_numpy()[recorded], values[recorded]


def _where_it_changes(steps: np.ndarray, values: np.ndarray) -> np.ndarray:
    return steps[1:][np.diff(values) != 0]


def _jumps(rates: np.ndarray) -> np.ndarray:
    """Places where the rate changes at once: by more than the updates before and after change it."""
    if len(rates) < 4:
        return np.empty(0, np.int64)
    moves = np.abs(np.diff(rates))
    around = np.maximum(np.append(0, moves[:-1]), np.append(moves[1:], 0))
    return np.flatnonzero((moves > _JUMP * rates.max()) & (moves > 2 * around)) + 1


def _cooldown(rates: np.ndarray) -> int | None:
    """The place from which the rate only falls, other than at jumps, to the end of the run; None: it does not fall."""
    if len(rates) < 4:
        return None
    falls = np.diff(rates) <= 0
    falls[_jumps(rates) - 1] = True
    rising = np.flatnonzero(~falls)
    start = rising[-1] + 1 if len(rising) else 0
    level = rates[start:]
    below = np.flatnonzero(np.diff(level) < 0)
    below = below[~np.isin(below + start + 1, _jumps(rates))]
    if not len(below) or rates[-1] > _COOLDOWN_END * level.max():
        return None
    return int(start + below[0] + 1)


def _untied(dataset: Dataset) -> Iterator[Change]:
    """The head leaves the embedding after an odd update (docs/SPEEDRUN.md); the records do not hold it."""
    schedule = dataset.experiment.get("identity", {}).get("track", {}).get("schedule", {})
    if {"untie_fraction", "scheduled_steps"} <= set(schedule):
        step = math.ceil(round(schedule["untie_fraction"] * schedule["scheduled_steps"], 6)) | 1
        yield Change(step=step + 1, what="head")
