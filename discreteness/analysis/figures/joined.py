"""Several datasets in one picture: when tokens are learned in one against the others, and all their spectra."""

from itertools import cycle

import numpy as np
import pyarrow.compute as pc
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from discreteness.analysis.figures.style import COLORS, GREY, WIDTH, head_room, updates_axis
from discreteness.analysis.joined import Joined
from discreteness.analysis.tables import ALL_DOCUMENTS


def joined(found: Joined) -> Figure:
    figure = Figure(figsize=(WIDTH, 3.1))
    left, right = figure.subplots(1, 2)
    last = max(run.dataset.steps[-1] for run in found.runs)
    colors = dict(zip([run.name for run in found.runs], cycle(COLORS), strict=False))
    _times(left, found, colors, last)
    _spectra(right, found, colors, last)
    title = "line: mean loss; shaded: what of it lies in drops; bars: standard errors over seeds"
    figure.suptitle(title, fontsize=7, x=0.01, ha="left")
    return figure


def _times(axes: Axes, found: Joined, colors: dict[str, str], last: int) -> None:
    """Tokens with the same drop in the first dataset and in another."""
    first, *others = found.runs
    axes.set_title("update of the same drop")
    x, errors = found.times.times, np.sqrt(np.nan_to_num(found.times.squared_errors))
    for place, run in enumerate(others, 1):
        both = found.times.dropped[:, 0] & found.times.dropped[:, place]
        (across, up), (wide, high) = x[both][:, [0, place]].T, errors[both][:, [0, place]].T
        bars = [
            found.times.origin * np.abs(2 ** (at + np.array([[-1], [1]]) * error) - 2**at)
            for at, error in ((across, wide), (up, high))
        ]
        right, top = (found.times.origin * (2**at - 1) + 1 for at in (across, up))
        color = colors[run.name]
        drawn = axes.errorbar(right, top, bars[1], bars[0], fmt=".", color=color, markersize=2, elinewidth=0.3)
        for part in (drawn[0], *drawn[2]):
            part.set_rasterized(True)
        said, height = f"{run.name}: {both.sum()} tokens", 0.97 - 0.06 * (place - 1)
        axes.text(0.03, height, said, transform=axes.transAxes, va="top", fontsize=6, color=color)
    axes.axline((1, 1), slope=1, color=GREY, linewidth=0.5, zorder=0)
    updates_axis(axes, last)
    ticks = axes.get_xticks()
    axes.set_yscale("log")
    axes.set_ylim(axes.get_xlim())
    axes.set_yticks(ticks, [f"{tick - 1:,.0f}" for tick in ticks])
    axes.minorticks_off()
    axes.set_xlabel(f"update, {first.name}")
    axes.set_ylabel(f"update, {others[0].name}" if len(others) == 1 else "update, the other")


def _spectra(axes: Axes, found: Joined, colors: dict[str, str], last: int) -> None:
    for run in found.runs:
        table = run.found.spectrum
        rows = table.filter(pc.equal(table["document"], ALL_DOCUMENTS)).to_pydict()
        edges = np.array([*rows["from_step"], rows["to_step"][-1]]) + 1
        color = colors[run.name]
        axes.stairs(rows["measured"], edges, baseline=None, color=color, label=run.name)
        axes.stairs(rows["by_drops"], edges, fill=True, color=color, alpha=0.2, linewidth=0)
    axes.set_title("fall of the mean loss")
    updates_axis(axes, last)
    axes.set_ylabel("nats per octave of updates")
    head_room(axes, 0.12 * len(found.runs))
    axes.legend(loc="upper left", frameon=False, fontsize=6)
