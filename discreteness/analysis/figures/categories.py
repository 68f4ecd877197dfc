"""How fast the mean loss of each category of documents falls, and how much of that lies in drops."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from discreteness.analysis.figures.style import COLORS, GREY, INK, WIDTH, mark_schedule, name_ends, updates_axis
from discreteness.analysis.tables import Analysis
from discreteness.dataset.reader import Dataset

_COLORS = (*COLORS, INK, GREY)
"""One per category; more are not drawn."""


def categories(dataset: Dataset, found: Analysis) -> Figure | None:
    """None where there is one category, or more than can be told apart."""
    lines = falls_by_category(dataset, found)
    if not 1 < len(lines) <= len(_COLORS):
        return None
    figure = Figure(figsize=(WIDTH, 2.7))
    left, right = figure.subplots(1, 2)
    edges = np.array([*found.spectrum["from_step"].to_pylist()[: _bins(found)], dataset.steps[-1]]) + 1
    _draw(figure, left, edges, {name: falls[0] for name, falls in lines.items()})
    _draw(figure, right, edges, {name: falls[1] for name, falls in lines.items()})
    left.set_title("fall of the mean loss, by category")
    right.set_title("what of it lies in drops")
    for axes in (left, right):
        updates_axis(axes, dataset.steps[-1])
        axes.set_ylabel("nats per octave of updates")
        mark_schedule(axes, found.numbers.changes, named=False)
    return figure


def falls_by_category(dataset: Dataset, found: Analysis) -> dict[str, np.ndarray]:
    """Category, in the order of names -> nats per octave [2, bins]: of the mean loss, and of its drops; curves count
    alike."""
    category_of = {document.name: document.category for document in dataset.documents}
    bins = _bins(found)
    names = found.spectrum["document"].to_pylist()[::bins]
    curves, measured, by_drops = (
        found.spectrum[name].to_numpy().reshape(-1, bins) for name in ("curves", "measured", "by_drops")
    )
    mine = np.array([category_of.get(name, "") for name in names])
    lines = {}
    for category in sorted(set(category_of.values())):
        rows = np.flatnonzero((mine == category) & np.array([name in category_of for name in names]))
        weights = curves[rows] / curves[rows].sum(axis=0)
        lines[category] = np.stack([(values[rows] * weights).sum(axis=0) for values in (measured, by_drops)])
    return lines


def _bins(found: Analysis) -> int:
    """Of each document: the table has as many rows for each."""
    return len(found.spectrum) // len(set(found.spectrum["document"].to_pylist()))


def _draw(figure: Figure, axes: Axes, edges: np.ndarray, lines: dict[str, np.ndarray]) -> None:
    for color, falls in zip(_COLORS, lines.values(), strict=False):
        axes.stairs(falls, edges, baseline=None, color=color)
    ends = zip(lines.items(), _COLORS, strict=False)
    name_ends(figure, axes, [(float(falls[-1]), name.replace("$", r"\$"), color) for (name, falls), color in ends])
