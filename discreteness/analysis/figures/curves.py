"""Single curves beside their mean, and fits beside the best smooth curves."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from discreteness.analysis.figures.style import (
    BLUE,
    GREY,
    INK,
    PALE,
    SHOWN_SEEDS,
    VERMILION,
    WIDTH,
    evenly,
    mark_schedule,
    token_name,
    updates_axis,
)
from discreteness.analysis.fits import fit
from discreteness.analysis.summary import Token
from discreteness.analysis.tables import Analysis
from discreteness.analysis.verdicts import judged
from discreteness.dataset.reader import Dataset

CURVES = 30
"""Single curves shown with the mean."""
MIN_FALL = 1.0
"""Nats that a curve falls to be shown with its fit."""


def curves(dataset: Dataset, found: Analysis) -> Figure:
    """The mean and thirty random tokens, then five tokens from the most to the least evidence of a drop."""
    figure = Figure(figsize=(WIDTH, 4.2))
    first, *others = figure.subplots(2, 3).flat
    _mean_and_tokens(first, dataset, found)
    _panels(others, dataset, found)
    explained = (
        f"dots: seed {found.seeds[0]}; grey: other seeds; blue: the fit; dashed: the best smooth curve; red: drops; "
        "dotted and shaded: the schedule"
    )
    figure.suptitle(explained, fontsize=7, x=0.01, ha="left")
    return figure


def _mean_and_tokens(axes: Axes, dataset: Dataset, found: Analysis) -> None:
    x, seed = np.array(dataset.steps) + 1, found.seeds[0]
    sizes = [document.num_losses for document in dataset.documents]
    mean = np.average(dataset.mean_curves()[:, dataset.seeds.index(seed)], axis=0, weights=sizes)
    for number in np.sort(np.random.default_rng(0).choice(sum(sizes), min(CURVES, sum(sizes)), replace=False)):
        place = int(np.searchsorted(np.cumsum(sizes), number, side="right"))
        token = int(number - sum(sizes[:place])) + 1
        axes.plot(x, dataset.losses(dataset.documents[place].doc_id, token, seeds=seed), color=PALE, linewidth=0.5)
    axes.plot(x, mean, color=INK, linewidth=1.8)
    updates_axis(axes, dataset.steps[-1])
    mark_schedule(axes, found.numbers.changes, named=False)
    axes.set_ylabel("loss (nats)")
    axes.set_title(f"mean of {sum(sizes)} tokens (black), {min(CURVES, sum(sizes))} of them", fontsize=6)


def _panels(panels: list[Axes], dataset: Dataset, found: Analysis) -> None:
    tokens = from_most_to_least_evidence(dataset, found, len(panels))
    for axes, token in zip(panels, tokens, strict=False):
        _fitted(axes, dataset, found, token)
    for axes in panels[len(tokens) :]:
        axes.set_axis_off()


def _fitted(axes: Axes, dataset: Dataset, found: Analysis, token: Token) -> None:
    steps = np.array(dataset.steps)
    dense = np.unique(np.geomspace(1, steps[-1] + 1, 400)) - 1
    losses = dataset.losses(token.document, token.token, seeds=found.seeds[:SHOWN_SEEDS])
    fitted = judged(fit(losses[:1], steps, found.noise), found.numbers.evidence)
    axes.plot(steps + 1, losses[1:].T, color=PALE, linewidth=0.5)
    axes.plot(steps + 1, losses[0], ".", color=INK, markersize=2.5, rasterized=True)
    axes.plot(dense + 1, fitted.curve(dense)[0], color=BLUE)
    axes.plot(dense + 1, fitted.smooth(dense)[0], color=GREY, linestyle="--", linewidth=0.9)
    updates_axis(axes, int(steps[-1]))
    mark_schedule(axes, found.numbers.changes, named=False)
    for time in fitted.times[0][fitted.drops[0]]:
        axes.axvline(time + 1, color=VERMILION, linewidth=0.8)
    count = int(fitted.num_drops[0])
    drops = f"{count or 'no'} drop{'' if count == 1 else 's'}"
    axes.set_title(f"{token_name(token)}\n{drops}, evidence {fitted.delta_bic[0]:.0f}", fontsize=5.5)
    axes.set_ylabel("loss (nats)")


def from_most_to_least_evidence(dataset: Dataset, found: Analysis, count: int) -> list[Token]:
    """Up to `count` tokens evenly over the evidence of the first seed, of those that fall by MIN_FALL or more."""
    first = found.fits.filter(np.equal(found.fits["seed"].to_numpy(), found.seeds[0]))
    order = np.argsort(-first["delta_bic"].to_numpy(), kind="stable")
    order = order[(first["high"].to_numpy() - first["low"].to_numpy())[order] >= MIN_FALL]
    return [
        Token.at(dataset, int(first["doc_id"][row].as_py()), int(first["token_index"][row].as_py()))
        for row in order[evenly(count, len(order))].tolist()
    ]
