"""Drops of single tokens beside those of means, and beside chance; where they lie; how well they hold."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from discreteness.analysis.figures.style import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    SKY,
    VERMILION,
    WIDTH,
    head_room,
    mark_schedule,
    updates_axis,
)
from discreteness.analysis.intervals import Share
from discreteness.analysis.numbers import SOMETHING_LEARNED
from discreteness.analysis.tables import Analysis
from discreteness.dataset.reader import Dataset


def nulls(dataset: Dataset, found: Analysis) -> Figure:
    figure = Figure(figsize=(WIDTH, 2.8))
    left, middle, right = figure.subplots(1, 3, gridspec_kw={"width_ratios": [1, 1.1, 0.8]})
    _averages(left, found)
    _times(middle, dataset, found)
    _shares(right, found)
    return figure


def _averages(axes: Axes, found: Analysis) -> None:
    numbers = found.numbers
    for number, (label, color, shares) in enumerate(
        (
            ("tokens of one document", BLUE, numbers.drop_share_by_average),
            ("tokens of any documents", ORANGE, numbers.drop_share_by_average_across_documents),
        )
    ):
        values = np.array([[one.value, one.low, one.high] for one in shares.values()]).T
        # Slightly apart, so that one does not hide the other.
        at = np.array(list(shares)) * 1.06**number
        bars = np.nan_to_num(np.abs(values[1:] - values[0]))
        axes.errorbar(at, values[0], bars, fmt="o-", color=color, label=label, capsize=1.5, markersize=2.5)
    axes.axhline(numbers.expected_false_share.value, color=GREY, linestyle="--", label="smooth curves, same noise")
    axes.axhspan(*numbers.false_share_range, color=GREY, alpha=0.15, linewidth=0)
    axes.set_xscale("log", base=2)
    counts = list(numbers.drop_share_by_average)
    axes.set_xticks(counts, [str(count) for count in counts], minor=False)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("tokens averaged")
    axes.set_ylabel("share with a drop")
    axes.set_title("means of tokens")
    head_room(axes, 0.4)
    axes.legend(loc="upper right", frameon=False, fontsize=6)


def _times(axes: Axes, dataset: Dataset, found: Analysis) -> None:
    dropped = found.fits.filter(found.fits["is_drop"])
    times = dropped["time"].to_numpy()
    common = np.array([bool(value) for value in dropped["common"].to_pylist()], bool)
    edges = 2 ** np.linspace(0, np.log2(dataset.steps[-1] + 1), 40)
    axes.hist(
        [times[~common] + 1, times[common] + 1],
        bins=edges.tolist(),
        stacked=True,
        color=[VERMILION, SKY],
        label=["a token's own", "common"],
    )
    updates_axis(axes, dataset.steps[-1])
    axes.set_ylabel("curves")
    axes.set_title("when the main drop is")
    head_room(axes, 0.9)
    axes.legend(loc="upper left", frameon=False, fontsize=6)
    mark_schedule(axes, found.numbers.changes, named=True)


def _shares(axes: Axes, found: Analysis) -> None:
    numbers = found.numbers
    rows: dict[str, tuple[Share, str]] = {
        "drops that are stable:\nin even and odd checkpoints": (numbers.stable_share, VERMILION),
        "common: gone without\nwhat all tokens share": (numbers.common_share, VERMILION),
        "where the\nschedule changes": (numbers.schedule_change_share, VERMILION),
        f"that end above\n{SOMETHING_LEARNED:.0f} nats": (numbers.unlearned_share, VERMILION),
        "the fall that\nlies in drops": (numbers.fall_share_in_drops, BLUE),
        "the same\nafter the onset": (numbers.after_onset_fall_share_in_drops, BLUE),
        "noise that all\nseeds share": (numbers.shared_residual_share, GREEN),
    }
    values = np.array([[one.value, one.low, one.high] for one, _ in rows.values()]).T
    bars = np.nan_to_num(np.abs(values[1:] - values[0]))
    colors = [color for _, color in rows.values()]
    axes.barh(list(rows), np.nan_to_num(values[0]), xerr=bars, color=colors, height=0.6, error_kw={"linewidth": 0.7})
    axes.invert_yaxis()
    axes.tick_params(axis="y", labelsize=5.5)
    axes.set_xlim(0, 1)
    axes.set_xlabel("share")
    axes.set_title("how drops hold")
