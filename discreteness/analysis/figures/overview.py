"""The first look: documents, the sharpest tokens, training and validation."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from discreteness.analysis.figures.style import (
    BLUE,
    COLORS,
    GREY,
    INK,
    PALE,
    SHOWN_SEEDS,
    WIDTH,
    evenly,
    mark_schedule,
    name_ends,
    short,
    token_name,
    updates_axis,
)
from discreteness.analysis.schedule_changes import records_there
from discreteness.analysis.summary import sharpest
from discreteness.analysis.tables import Analysis
from discreteness.dataset.reader import Dataset

DOCUMENTS, TOKENS = 5, 5
"""Named in the picture."""


def overview(dataset: Dataset, found: Analysis) -> Figure:
    figure = Figure(figsize=(WIDTH, 2.7))
    panels = figure.subplots(1, 3, gridspec_kw={"width_ratios": [1.15, 1.15, 0.75]})
    for axes in panels:
        updates_axis(axes, dataset.steps[-1])
        axes.set_ylabel("loss (nats)")
    named = [
        _documents(panels[0], dataset),
        _tokens(panels[1], dataset, found),
        _training(panels[2], dataset),
    ]
    for axes, ends in zip(panels, named, strict=True):
        mark_schedule(axes, found.numbers.changes, named=False)
        name_ends(figure, axes, ends)
    figure.suptitle(f"{len(dataset.seeds)} seeds: {dataset.seeds_differ}", fontsize=7, x=0.01, ha="left")
    return figure


def _documents(axes: Axes, dataset: Dataset) -> list[tuple[float, str, str]]:
    x = np.array(dataset.steps) + 1
    means = dataset.mean_curves().mean(axis=1)
    axes.plot(x, means.T, color=PALE, linewidth=0.5)
    order = np.argsort(means[:, -1], kind="stable")
    ends = []
    for color, place in zip(COLORS, evenly(DOCUMENTS, len(order)), strict=False):
        row = order[place]
        axes.plot(x, means[row], color=color)
        ends.append((float(means[row, -1]), short(dataset.documents[row].name), color))
    axes.set_title("mean loss of each document")
    return ends


def _tokens(axes: Axes, dataset: Dataset, found: Analysis) -> list[tuple[float, str, str]]:
    x = np.array(dataset.steps) + 1
    ends = []
    for color, token in zip(COLORS, sharpest(dataset, found, TOKENS), strict=False):
        losses = dataset.losses(token.document, token.token)[:SHOWN_SEEDS]
        axes.plot(x, losses.T, color=color, linewidth=0.6)
        ends.append((float(np.median(losses[:, -1])), token_name(token), color))
    axes.set_title("tokens with the sharpest drops")
    return ends


def _training(axes: Axes, dataset: Dataset) -> list[tuple[float, str, str]]:
    ends: dict[str, tuple[float, str, str]] = {}
    for seed in dataset.seeds[:SHOWN_SEEDS]:
        if (records := records_there(dataset, seed)) is None:
            continue
        runs = records.to_pydict()
        axes.plot(np.array(runs["step"]) + 1, runs["train_loss"], color=GREY, linewidth=0.4)
        trained = [value for value in runs["train_loss"] if value is not None]
        if trained:
            ends["objective"] = (float(trained[-1]), "training objective", GREY)
        validations = zip(runs["step"], runs.get("val_loss", [None] * len(runs["step"])), strict=True)
        points = [(step + 1, value) for step, value in validations if value is not None]
        if points:
            axes.plot(*zip(*points, strict=True), "o-", color=BLUE, markersize=2.5, linewidth=0.7)
            ends["validation"] = (float(points[-1][1]), "validation loss", BLUE)
    axes.set_title("training", color=INK)
    return list(ends.values())
