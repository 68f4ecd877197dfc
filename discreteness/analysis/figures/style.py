"""What all figures share: print size, colors, axes of updates, names at the ends of lines, marks of the schedule."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullFormatter

from discreteness.analysis.schedule_changes import Change
from discreteness.analysis.summary import Token

WIDTH = 7.2
"""Inches: both columns of a journal's page."""
DPI = 220
INK, GREY, PALE = "0.1", "0.45", "0.75"
BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"
COLORS = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY)
"""Told apart by color-blind readers as well (Okabe & Ito 2008). No figure needs a seventh."""
SHOWN_SEEDS = 50
"""Lines of one token in a picture: more are one blot."""
STYLE: dict[str, Any] = {
    "font.size": 7,
    "axes.titlesize": 7.5,
    "axes.titlelocation": "left",
    "axes.labelsize": 7,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.labelsize": 6.5,
    "ytick.labelsize": 6.5,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.minor.width": 0.4,
    "lines.linewidth": 1.0,
    "figure.constrained_layout.use": True,
    "svg.fonttype": "none",
}


def updates_axis(axes: Axes, last_step: int) -> None:
    """A logarithmic axis on which update 0 has a place: values are update + 1, and ticks name updates."""
    axes.set_xscale("log")
    axes.set_xlim(0.93, (last_step + 1) * 1.08)
    named = [0, *(10**power for power in range(7) if 10**power <= last_step)]
    between = [digit * 10**power for power in range(7) for digit in range(2, 10) if digit * 10**power <= last_step]
    axes.xaxis.set_major_locator(FixedLocator([step + 1 for step in named]))
    axes.xaxis.set_minor_locator(FixedLocator([step + 1 for step in between]))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xticklabels([f"{step:,}" for step in named])
    axes.set_xlabel("update")


def name_ends(figure: Figure, axes: Axes, ends: Sequence[tuple[float, str, str]], size: float = 6) -> None:
    """Names right of the axes, at the heights of the lines' ends but never over each other: (height, name, color). The
    axes take the whole height of the figure, or nearly.
    """
    low, high = axes.get_ylim()
    gap = size * 1.7 / 72 * (high - low) / figure.get_figheight()
    ends = sorted(ends)
    for (height, name, color), at in zip(ends, apart([height for height, *_ in ends], gap, low, high), strict=True):
        axes.annotate(
            name,
            (1, height),
            xycoords=("axes fraction", "data"),
            xytext=(1.03, at),
            textcoords=("axes fraction", "data"),
            fontsize=size,
            color=color,
            va="center",
            annotation_clip=False,
            arrowprops={
                "arrowstyle": "-",
                "color": color,
                "linewidth": 0.4,
                "shrinkA": 0,
                "shrinkB": 0,
                "relpos": (0, 0.5),  # to the beginning of the name
            },
        )


def apart(heights: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Ascending heights, moved as little as it takes to be `gap` apart and not above `high`, if that can be."""
    placed: list[float] = []
    for height in heights:
        placed.append(max(height, placed[-1] + gap if placed else low))
    top = high
    for place in reversed(range(len(placed))):
        placed[place] = min(placed[place], top)
        top = placed[place] - gap
    return placed


def mark_schedule(axes: Axes, changes: tuple[Change, ...], named: bool) -> None:
    """A dotted line where the schedule changes, with what changes there, and the cooldown shaded."""
    at: dict[int, list[str]] = {}
    for change in changes:
        # What changes within an update or two is one event.
        step = next((step for step in at if abs(step - change.step) <= 2), change.step)
        at.setdefault(step, []).append(change.what)
    for step, what in at.items():
        axes.axvline(step + 1, color=GREY, linewidth=0.6, linestyle=":", zorder=0)
        if named:
            axes.annotate(
                ", ".join(dict.fromkeys(what)),
                (step + 1, 1),
                xycoords=("data", "axes fraction"),
                rotation=90,
                fontsize=5,
                color=GREY,
                ha="right",
                va="top",
                xytext=(-1, -2),
                textcoords="offset points",
            )
    begins = [change.step for change in changes if change.what == "cooldown"]
    if begins:
        axes.axvspan(begins[-1] + 1, axes.get_xlim()[1], color=GREY, alpha=0.1, linewidth=0, zorder=0)


def head_room(axes: Axes, share: float = 0.3) -> None:
    """Space above what is drawn, for the names of changes."""
    low, high = axes.get_ylim()
    axes.set_ylim(low, high + share * (high - low))


def short(document: str) -> str:
    return document.removesuffix(".txt").replace("$", r"\$")


def token_name(token: Token) -> str:
    """A dollar sign would begin mathematics."""
    return f"{token.text!r}".replace("$", r"\$") + f" {short(token.document)}:{token.token}"


def evenly(count: int, of: int) -> list[int]:
    """Up to `count` places among `of`, from the first to the last, ascending, each once."""
    return sorted(set(np.linspace(0, of - 1, min(count, of)).round().astype(int).tolist())) if of else []
