"""How fast the mean loss falls, and how much of that lies in drops, beside chance."""

import numpy as np
import pyarrow.compute as pc
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from discreteness.analysis.figures.style import (
    BLUE,
    GREY,
    INK,
    VERMILION,
    WIDTH,
    head_room,
    mark_schedule,
    updates_axis,
)
from discreteness.analysis.intervals import MIN_GROUPS, share
from discreteness.analysis.tables import ALL_DOCUMENTS, Analysis
from discreteness.dataset.reader import Dataset


def learning_times(dataset: Dataset, found: Analysis) -> Figure:
    figure = Figure(figsize=(WIDTH, 2.7))
    left, right = figure.subplots(1, 2)
    rows = found.spectrum.filter(pc.equal(found.spectrum["document"], ALL_DOCUMENTS)).to_pydict()
    edges = np.array([*rows["from_step"], rows["to_step"][-1]]) + 1

    def line(axes: Axes, name: str, label: str, color: str, width: float = 1.0) -> None:
        axes.stairs(rows[name], edges, label=label, baseline=None, color=color, linewidth=width)
        low, high = _over_documents(found, name)
        axes.stairs(high, edges, baseline=low, fill=True, color=color, alpha=0.2, linewidth=0)

    line(left, "measured", "mean loss", INK, 1.5)
    line(left, "at_times", "learning times of all fitted terms", BLUE)
    line(left, "by_drops", "drops", VERMILION)
    left.set_title("fall of the mean loss")
    line(right, "by_drops", "drops", VERMILION)
    right.stairs(rows["by_false_drops"], edges, label="drops of smooth curves with this noise", color=GREY, ls="--")
    right.stairs(
        rows["by_false_drops_high"],
        edges,
        baseline=rows["by_false_drops_low"],
        fill=True,
        color=GREY,
        alpha=0.2,
        linewidth=0,
    )
    right.set_title("what lies in drops, and what would by chance")
    for axes in (left, right):
        updates_axis(axes, dataset.steps[-1])
        axes.set_ylabel("nats per octave of updates")
        head_room(axes, 0.55)
        mark_schedule(axes, found.numbers.changes, named=axes is right)
        axes.legend(loc="upper left", frameon=False, fontsize=6)
    over = (
        "95 % intervals over documents" if len(dataset.documents) >= MIN_GROUPS else "too few documents for intervals"
    )
    figure.suptitle(f"shaded: {over}; of smooth curves, over resamples", fontsize=7, x=0.01, ha="left")
    return figure


def _over_documents(found: Analysis, name: str) -> tuple[np.ndarray, np.ndarray]:
    """A 95 % interval of the mean over documents, weighted by their curves [bins]; the mean itself where there are too
    few of them.
    """
    table = found.spectrum.filter(pc.not_equal(found.spectrum["document"], ALL_DOCUMENTS))
    bins = len(found.spectrum) - len(table)
    falls, curves = (table[column].to_numpy().reshape(-1, bins).T for column in (name, "curves"))
    documents = np.arange(falls.shape[1])
    means = [share(fall * weight, weight, documents) for fall, weight in zip(falls, curves, strict=True)]
    low, high = (
        [mean.value if np.isnan(bound) else bound for mean, bound in zip(means, bounds, strict=True)]
        for bounds in ([mean.low for mean in means], [mean.high for mean in means])
    )
    return np.array(low), np.array(high)
