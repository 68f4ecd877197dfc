"""All tokens of one seed at a glance, in the order in which they are learned, beside smooth curves with their noise."""

import numpy as np
from matplotlib.figure import Figure

from discreteness.analysis.figures.style import WIDTH, mark_schedule, updates_axis
from discreteness.analysis.fits import Fits, fit, octaves
from discreteness.analysis.residuals import residuals_of
from discreteness.analysis.surrogates import smooth_shapes, with_other_noise
from discreteness.analysis.tables import Analysis
from discreteness.analysis.verdicts import judged
from discreteness.dataset.reader import Dataset

TOKENS = 800
"""Rows of the picture: more are thinner than a pixel."""
_COLUMNS = 300


def raster(dataset: Dataset, found: Analysis) -> Figure:
    """Any curves look like a wave if they are sorted by the time of their fall: the same is done with smooth ones."""
    seed, steps = found.seeds[0], np.array(dataset.steps)
    losses = np.concatenate([dataset.losses(one.doc_id, seeds=seed).T for one in dataset.documents])
    random = np.random.default_rng(0)
    losses = losses[np.sort(random.choice(len(losses), min(TOKENS, len(losses)), replace=False))]
    fits = judged(fit(losses, steps, found.noise), found.numbers.evidence)
    smooth = smooth_shapes(losses, fits, steps, random)
    smooth = with_other_noise(smooth, residuals_of(losses, fits, steps), octaves(steps), random)
    smooth_fits = judged(fit(smooth, steps, found.noise), found.numbers.evidence)

    figure = Figure(figsize=(WIDTH, 4.0))
    panels = figure.subplots(1, 2, sharey=True)
    largest = float(np.quantile(losses, 0.99))
    for axes, curves, of_curves, title in (
        (panels[0], losses, fits, f"seed {seed}"),
        (panels[1], smooth, smooth_fits, "smooth curves with the noise of these"),
    ):
        updates = np.geomspace(1, steps[-1] + 1, _COLUMNS)
        rows = [np.interp(updates, steps + 1, curve) for curve in curves[_order(of_curves)]]
        picture = axes.pcolormesh(
            updates,
            np.arange(len(rows)),
            rows,
            cmap="viridis",
            vmin=0,
            vmax=largest,
            rasterized=True,
            shading="nearest",
        )
        updates_axis(axes, int(steps[-1]))
        mark_schedule(axes, found.numbers.changes, named=False)
        axes.set_title(f"{title}: {of_curves.is_drop.mean():.0%} have a drop")
    panels[0].set_ylabel(f"{len(losses)} tokens; with a drop below, by its time; then by the main fall")
    figure.colorbar(picture, ax=panels, label="loss (nats)", pad=0.01)
    return figure


def _order(fits: Fits) -> np.ndarray:
    """Those with a drop first, then by time."""
    return np.lexsort((octaves(np.maximum(fits.time, 0)), ~fits.is_drop))
