"""final losses and main drops of many seeds -> the table of tokens: when each is learned, how alike, with which others.

`discreteness analyze` writes this table for all seeds; the viewer makes the same one of the seeds that it fits itself.
"""

from dataclasses import dataclass

import numpy as np
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import squareform
from scipy.stats import false_discovery_control

from discreteness.analysis.main_drops import MainDrops

LEARNED_LOSS = float(np.log(2))
"""Nats: below it the model gives the token more than all others together."""
MIN_SEEDS_FOR_DIP = 10
"""Fewer final losses cannot show two groups."""
TOGETHER_OCTAVES = 0.25
"""Tokens of a cluster are learned within this of each other: root mean square over seeds, every pair."""
MIN_DROP_SHARE = 0.9
"""Seeds in which a token must have a drop to be in a cluster."""
MAX_CLUSTERED = 5000
"""Tokens compared with each other: 12.5 million pairs, 100 MB."""
SHARPEST_OCTAVES = 0.5
"""Widths below it rank alike: a sparse plan cannot tell them apart."""


@dataclass(frozen=True, kw_only=True)
class AcrossSeeds:
    """One value per token [tokens]; nan where there is nothing to measure."""

    final_loss: np.ndarray
    """Mean over seeds of the last loss."""
    final_spread: np.ndarray
    """Its standard deviation over seeds; nan for one seed."""
    learned_share: np.ndarray
    """Share of seeds whose final loss is below LEARNED_LOSS."""
    drop_share: np.ndarray
    """Share of seeds with a drop."""
    time: np.ndarray
    """Median over seeds with a drop of its time, in updates."""
    time_spread: np.ndarray
    """Standard deviation of log2(time + 1) over them, octaves; nan below two."""
    width: np.ndarray
    """Median over them of its width, octaves."""
    fall: np.ndarray
    """Median over them of its fall, nats."""
    dip: np.ndarray
    """Dip of the final losses (Hartigan & Hartigan 1985): distance from the nearest distribution with one peak."""
    dip_p: np.ndarray
    """Its p-value: small where the final losses have two peaks or more."""
    dip_q: np.ndarray
    """The same with tokens as many tests (Benjamini & Hochberg 1995): share of false discoveries if all up to this one
    are called bimodal."""
    cluster: np.ndarray
    """int64, -1: learned with no other."""


def across_seeds(final_losses: np.ndarray, drops: MainDrops) -> AcrossSeeds:
    """`final_losses` [tokens, seeds], nats."""
    num_seeds, times = final_losses.shape[1], drops.times
    fell = np.isfinite(times)
    counts = fell.sum(axis=1)
    sums = np.where(fell, times, 0).sum(axis=1)
    means = sums / np.maximum(counts, 1)
    variances = (np.where(fell, times - means[:, None], 0) ** 2).sum(axis=1) / np.maximum(counts - 1, 1)
    dip, dip_p = dips(final_losses)
    measured = np.isfinite(dip_p)
    dip_q = np.full(len(dip_p), np.nan)
    if measured.any():
        dip_q[measured] = false_discovery_control(dip_p[measured])
    return AcrossSeeds(
        final_loss=final_losses.mean(axis=1),
        final_spread=final_losses.std(axis=1, ddof=1) if num_seeds > 1 else np.full(len(final_losses), np.nan),
        learned_share=(final_losses < LEARNED_LOSS).mean(axis=1),
        drop_share=fell.mean(axis=1),
        time=medians(2**times - 1),
        time_spread=np.where(counts > 1, np.sqrt(variances), np.nan),
        width=medians(drops.widths),
        fall=medians(drops.falls),
        dip=dip,
        dip_p=dip_p,
        dip_q=dip_q,
        cluster=learned_together(times),
    )


def steepness(drop_share: np.ndarray, fall: np.ndarray, width: np.ndarray) -> np.ndarray:
    """What the sharpest drops are ordered by: nats per octave, times the share of seeds with a drop."""
    return drop_share * fall / np.maximum(width, SHARPEST_OCTAVES)


def medians(values: np.ndarray) -> np.ndarray:
    """numpy.median over the seeds of each token that have a value: [tokens, seeds], nan where one has none ->
    [tokens], nan where all have none.
    """
    finite = [row[np.isfinite(row)] for row in values]
    return np.array([np.median(row) if len(row) else np.nan for row in finite])


def dips(final_losses: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Dip and p-value of each token's final losses [tokens, seeds]; nan below MIN_SEEDS_FOR_DIP seeds, or where diptest
    is not installed: its licence is the GPL, so it is an extra.
    """
    untested = np.full(len(final_losses), np.nan)
    if final_losses.shape[1] < MIN_SEEDS_FOR_DIP:
        return untested, untested
    try:
        from diptest import diptest
    except ImportError:
        return untested, untested
    tested = [diptest(row) for row in np.sort(final_losses.astype(np.float64), axis=1)]
    return np.array([dip for dip, _ in tested]), np.array([p for _, p in tested])


def learned_together(times: np.ndarray) -> np.ndarray:
    """Clusters [tokens], numbered from the largest, of equal ones from the first; -1: none. `times` [tokens, seeds]
    octaves, nan: no drop.

    Complete linkage: two tokens of a cluster are never further apart than TOGETHER_OCTAVES. Where more than
    MAX_CLUSTERED tokens qualify, those with a drop in most seeds are compared.
    """
    clusters = np.full(len(times), -1)
    fell = np.isfinite(times)
    shares = fell.mean(axis=1)
    chosen = np.argsort(-shares, kind="stable")[:MAX_CLUSTERED]
    chosen = np.sort(chosen[shares[chosen] >= MIN_DROP_SHARE])
    if len(chosen) < 2:
        return clusters
    labels = fcluster(linkage(_differences(times[chosen], fell[chosen]), "complete"), TOGETHER_OCTAVES, "distance")
    _, first, labels, sizes = np.unique(labels, return_index=True, return_inverse=True, return_counts=True)
    rank = np.empty(len(sizes), np.int64)
    rank[np.lexsort((first, -sizes))] = np.arange(len(sizes))  # SciPy's own numbers say nothing
    clusters[chosen] = np.where(sizes[labels] > 1, rank[labels], -1)
    return clusters


def shuffled(times: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """The same times with each token's seeds in a random order: what clusters would be if seeds did not matter."""
    return random.permuted(times, axis=1)


def _differences(times: np.ndarray, fell: np.ndarray) -> np.ndarray:
    """Root mean square over shared seeds of the difference in time, for each pair (condensed)."""
    mask = fell.astype(np.float64)
    values = np.where(fell, times - np.nanmean(times), 0.0)
    squares = values**2 @ mask.T
    total = squares + squares.T - 2 * values @ values.T
    distances = np.sqrt(np.maximum(total, 0) / np.maximum(mask @ mask.T, 1))
    distances = (distances + distances.T) / 2
    np.fill_diagonal(distances, 0)
    return squareform(distances, checks=False)
