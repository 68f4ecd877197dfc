"""final losses and drops of many seeds -> the table of tokens: in how many seeds each is learned, when, and how alike.

`discreteness analyze` writes this table for all seeds; the viewer makes the same one of the seeds that it fits itself.
"""

from dataclasses import dataclass

import numpy as np

from discreteness.analysis.matching import Events
from discreteness.analysis.seed_drops import SeedDrops

LEARNED_LOSS = float(np.log(2))
"""Nats: below it the model gives the token more than all others together."""
FINAL_QUANTILES = (0.1, 0.5, 0.9)
SHARPEST_OCTAVES = 0.5
"""Widths below it rank alike: a sparse plan cannot tell them apart."""


@dataclass(frozen=True, kw_only=True)
class AcrossSeeds:
    """One value per token [tokens]; nan where there is nothing to measure."""

    final_loss: np.ndarray
    """Mean over seeds of the last loss."""
    final_spread: np.ndarray
    """Its standard deviation over seeds; nan for one seed."""
    final_low: np.ndarray
    """Its 10 % quantile over seeds: whole distributions are what arXiv 2502.17356 asks for. So the next two."""
    final_median: np.ndarray
    final_high: np.ndarray
    """90 %."""
    learned_share: np.ndarray
    """Share of seeds in which the token is `learned`."""
    drop_share: np.ndarray
    """Share of seeds with a drop."""
    event_share: np.ndarray
    """Share of seeds with the event that most seeds share: time, time_spread, width and fall are of this event."""
    num_events: np.ndarray
    """int64, of all events, those of a single seed too."""
    time: np.ndarray
    """Median over these seeds of its time, in updates."""
    time_spread: np.ndarray
    """Standard deviation of its time over them without the fits' own error, octaves; nan below two."""
    width: np.ndarray
    """Median over them of its width, octaves."""
    fall: np.ndarray
    """Median over them of its fall, nats."""


def across_seeds(final_losses: np.ndarray, drops: SeedDrops, events: Events) -> AcrossSeeds:
    """`final_losses` [tokens, seeds], nats."""
    num_seeds = final_losses.shape[1]
    low, median, high = np.quantile(final_losses, FINAL_QUANTILES, axis=1)
    return AcrossSeeds(
        final_loss=final_losses.mean(axis=1),
        final_spread=final_losses.std(axis=1, ddof=1) if num_seeds > 1 else np.full(len(final_losses), np.nan),
        final_low=low,
        final_median=median,
        final_high=high,
        learned_share=learned(final_losses, drops).mean(axis=1),
        drop_share=drops.fell.mean(axis=1),
        event_share=events.counts / num_seeds,
        num_events=events.num_events,
        time=medians(drops.origin * (2**events.times - 1)),
        time_spread=spread(events.times, events.errors),
        width=medians(events.widths),
        fall=medians(events.falls),
    )


def learned(final_losses: np.ndarray, drops: SeedDrops) -> np.ndarray:
    """bool [tokens, seeds]: the final loss is below LEARNED_LOSS, and where there is a drop also below what the loss
    was before it: what was known already, or is lost again, was not learned in the run.
    """
    return (final_losses < LEARNED_LOSS) & ~(final_losses >= drops.highs)


def spread(times: np.ndarray, errors: np.ndarray) -> np.ndarray:
    """Standard deviation over the seeds of each token [tokens] without the standard `errors` [tokens, seeds], in which
    `times` [tokens, seeds], nan where a seed has none; nan below two.

    The variance is unbiased, and the mean square of the errors is taken off it. What is left may be below 0 by chance,
    and is 0 then.
    """
    there = np.isfinite(times)
    counts = there.sum(axis=1)
    means = np.where(there, times, 0).sum(axis=1) / np.maximum(counts, 1)
    squares = np.where(there, times - means[:, None], 0) ** 2
    noise = np.where(there, errors, 0) ** 2
    variances = squares.sum(axis=1) / np.maximum(counts - 1, 1) - noise.sum(axis=1) / np.maximum(counts, 1)
    return np.where(counts > 1, np.sqrt(np.maximum(variances, 0)), np.nan)


def steepness(drop_share: np.ndarray, fall: np.ndarray, width: np.ndarray) -> np.ndarray:
    """What the sharpest drops are ordered by: nats per octave, times the share of seeds with a drop."""
    return drop_share * fall / np.maximum(width, SHARPEST_OCTAVES)


def medians(values: np.ndarray) -> np.ndarray:
    """numpy.median over the seeds of each token that have a value: [tokens, seeds], nan where one has none ->
    [tokens], nan where all have none.
    """
    finite = [row[np.isfinite(row)] for row in values]
    return np.array([np.median(row) if len(row) else np.nan for row in finite])
