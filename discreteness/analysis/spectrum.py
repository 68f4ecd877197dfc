"""fits + curves -> learning-time spectrum: when tokens are learned, beside the fall of the mean loss.

The mean loss falls smoothly; the question (arXiv 2606.29858, after arXiv 2303.13506) is whether its derivative is the
density of the learning times of single tokens. That fitted terms add up to the mean says nothing, as they do for any
curves; how much of the fall lies in drops does (`numbers`). All is summed over curves, so sets are joined by adding.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Self

import numpy as np

from discreteness.analysis.fits import Fits, octaves

BIN_OCTAVES = 0.5


@dataclass(frozen=True, kw_only=True)
class Spectrum:
    """Sums over curves in bins of log step; a bin's fall is what the loss loses from its first to its last step."""

    edges: np.ndarray
    """[bins + 1] octaves, log2(step + 1)."""
    curves: int
    measured: np.ndarray
    """[bins] nats that the losses fell."""
    rebuilt: np.ndarray
    """[bins] nats that the fitted curves fell."""
    by_drops: np.ndarray
    """[bins] nats that the drops among the fitted terms fell."""
    at_times: np.ndarray
    """[bins] nats of all terms, each put whole into the bin of its learning time: the spectrum itself."""
    at_single_times: np.ndarray
    """[bins] the same of one sigmoid per curve, as in arXiv 2606.29858; what rises counts as less than nothing."""
    drops: np.ndarray
    """[bins] number of drops whose time is in the bin."""

    def __add__(self, other: Self) -> Self:
        sums = {f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(self) if f.name != "edges"}
        return type(self)(edges=self.edges, **sums)

    def rebuilt_share(self, falls: np.ndarray) -> float:
        """R^2 of `falls` [bins] as a description of the derivative of the mean loss; nan where that is constant."""
        widths = np.diff(self.edges)
        slope, other = self.per_octave(self.measured), self.per_octave(falls)
        varies = (widths * (slope - np.average(slope, weights=widths)) ** 2).sum()
        return float(1 - (widths * (slope - other) ** 2).sum() / varies) if varies else float("nan")

    def per_octave(self, falls: np.ndarray) -> np.ndarray:
        """Falls [bins] -> minus the derivative of the mean loss, nats per octave."""
        return falls / self.curves / np.diff(self.edges)


def spectrum(losses: np.ndarray, steps: Sequence[int] | np.ndarray, fits: Fits) -> Spectrum:
    """`losses` [n, steps] and their fits. Bins are BIN_OCTAVES wide; the last one ends at the last step."""
    x = octaves(steps)
    edges = np.arange(x[0], x[-1], BIN_OCTAVES)
    # A sliver of a last bin would divide a small fall by a smaller width.
    if len(edges) > 1 and x[-1] - edges[-1] < BIN_OCTAVES / 2:
        edges = edges[:-1]
    edges = np.append(edges, x[-1])
    at_edges = 2**edges - 1
    terms = fits.terms(at_edges)
    mean = losses.mean(axis=0, dtype=np.float64) if len(losses) else np.zeros(len(x))
    # Only the part of a term that happens within the run: wide ones begin before it or end after it.
    seen = terms[:, :, 0] - terms[:, :, -1]
    single = fits.single_terms(at_edges)

    def binned(times: np.ndarray, weights: np.ndarray) -> np.ndarray:
        where = np.where(np.isfinite(times), np.clip(octaves(np.maximum(times, 0)), edges[0], edges[-1]), edges[0])
        return np.histogram(where, bins=edges, weights=weights)[0]

    return Spectrum(
        edges=edges,
        curves=len(losses),
        measured=-np.diff(np.interp(edges, x, mean)) * len(losses),
        rebuilt=-np.diff(terms.sum(axis=(0, 1))),
        by_drops=-np.diff((terms * fits.drops[:, :, None]).sum(axis=(0, 1))),
        at_times=binned(fits.times, seen),
        at_single_times=binned(fits.single_times, single[:, 0] - single[:, -1]),
        drops=binned(fits.times, fits.drops.astype(np.float64)),
    )
