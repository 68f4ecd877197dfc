"""tables + null comparisons -> the numbers of an analysis, as its paragraph says them and as JSON."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from discreteness.analysis.intervals import MIN_GROUPS, Estimate, Share, mean, share, without_interval
from discreteness.analysis.null_comparisons import NullComparisons
from discreteness.analysis.schedule_changes import Change, Schedule
from discreteness.analysis.seed_numbers import SeedNumbers
from discreteness.analysis.stated import Stated

SOMETHING_LEARNED = 4.0
"""Nats: a drop that ends above leaves the token a probability below 2 %."""
_NEEDED = (
    "doc_id seed is_drop width low stable common schedule onset fall fall_in_drops fall_after_onset "
    "fall_in_drops_after_onset single_r2"
)
"""Columns of the table of fits."""


@dataclass(frozen=True, kw_only=True)
class Numbers(Stated):
    """Shares are of curves unless said otherwise, with 95 % intervals over `intervals_over`."""

    curves: int
    tokens: int
    seeds: int
    checkpoints: int
    documents: int
    intervals_over: str
    """documents or seeds, of which there are enough; else nothing."""
    evidence: float
    """The least delta_bic of a drop in this dataset."""
    drop_share: Share
    """Curves with a drop."""
    drop_share_by_average: Mapping[int, Share]
    """The same of means of so many tokens of one document, in one seed."""
    drop_share_by_average_across_documents: Mapping[int, Share]
    """The same of tokens of any documents; without intervals, as they share their tokens."""
    document_mean_drop_share: Share
    """Mean losses of documents, in one seed each, that have a drop."""
    grand_mean_drop_share: Share
    """Seeds in which the mean loss of all tokens has a drop."""
    expected_false_share: Share
    """Smooth curves with this dataset's noise that would have a drop; the interval is over resamples."""
    false_share_range: tuple[float, float]
    """95 % of resamples lie in it."""
    false_share_at_fits_constant: float
    """The same with the evidence that a fit alone asks for."""
    stable_share: Share
    """Of curves with a drop, those whose even and odd checkpoints both have it."""
    common_share: Share
    """Of curves with a drop, those that lose it when what all tokens share is taken out."""
    schedule_change_share: Share
    """Of curves with a drop, those whose main one is where the schedule changes."""
    schedule_change_chance: Share
    """The same if drops were spread evenly over the logarithmic axis; without an interval."""
    unlearned_share: Share
    """Of curves with a drop, those whose main one ends above SOMETHING_LEARNED nats."""
    fall_share_in_drops: Share
    """Of all nats that curves fall, those in drops."""
    onset_drop_share: Share
    """Of all curves, those whose main drop is in the onset."""
    after_onset_drop_share: Share
    """Of all curves, those whose main drop is after the onset."""
    onset_fall_share: Share
    """Of all nats that curves fall, those in the onset."""
    onset_fall_share_in_drops: Share
    """Of the nats that curves fall in the onset, those in drops."""
    after_onset_fall_share_in_drops: Share
    """Of the nats that curves fall after the onset, those in drops."""
    single_r2: Estimate
    """Mean share of a curve's variance that one sigmoid explains."""
    single_r2_of_smooth_curves: Estimate
    """The same of smooth curves with this dataset's noise; the interval is over resamples."""
    single_spectrum_r2: float
    """R^2 of the learning times of one sigmoid per curve, as a description of the derivative of the mean loss."""
    single_spectrum_r2_of_smooth_curves: float
    """The same of smooth curves with this dataset's noise."""
    shared_residual_share: Share
    """Of the variance of noise from one checkpoint to the next, what all seeds share; over documents."""
    changes: tuple[Change, ...]
    """Of the schedule."""
    across_seeds: SeedNumbers


def numbers(
    fits: pa.Table,
    nulls: NullComparisons,
    grand_mean_drops: Share,
    schedule: Schedule,
    steps: Sequence[int],
    single_spectrum_r2: float,
    across: SeedNumbers,
) -> Numbers:
    """`fits`: the table. `grand_mean_drops`: seeds in which the mean of all tokens has a drop."""
    column = {name: fits[name].to_numpy(zero_copy_only=False) for name in _NEEDED.split()}
    documents, seeds = column["doc_id"], column["seed"]
    num_documents, num_seeds = len(np.unique(documents)), len(np.unique(seeds))
    over, groups = (
        ("documents", documents)
        if num_documents >= MIN_GROUPS
        else ("seeds", seeds)
        if num_seeds >= MIN_GROUPS
        else ("nothing", documents)
    )
    dropped = column["is_drop"].astype(bool)
    onset = np.nan_to_num(column["onset"].astype(np.float64), nan=-1.0)

    def of(numerator: np.ndarray, denominator: np.ndarray | None = None) -> Share:
        known = np.isfinite(numerator.astype(np.float64))
        below = np.ones(len(dropped)) if denominator is None else denominator
        return share(np.where(known, numerator, 0), np.where(known, below, 0), groups)

    def of_drops(what: np.ndarray) -> Share:
        return of(np.where(dropped, what.astype(np.float64), np.nan), dropped)

    def by_average(kind: str) -> dict[int, Share]:
        shares = {number: one for (k, number), one in nulls.averages.items() if k == kind and number}
        return {1: of(dropped), **shares}

    # The widths of a thousand drops say what those of all do.
    widths = column["width"][dropped][:: max(1, int(dropped.sum()) // 1000)]
    chance = nulls.chance
    fall, in_drops = column["fall"], column["fall_in_drops"]
    after, in_drops_after = column["fall_after_onset"], column["fall_in_drops_after_onset"]
    return Numbers(
        curves=len(dropped),
        tokens=len(dropped) // num_seeds,
        seeds=num_seeds,
        checkpoints=len(steps),
        documents=num_documents,
        intervals_over=over,
        evidence=chance.evidence,
        drop_share=of(dropped),
        drop_share_by_average=by_average("within"),
        drop_share_by_average_across_documents=by_average("across"),
        document_mean_drop_share=nulls.averages["documents", None],
        grand_mean_drop_share=grand_mean_drops,
        expected_false_share=chance.false_share,
        false_share_range=(chance.low, chance.high),
        false_share_at_fits_constant=chance.at_constant,
        stable_share=of_drops(column["stable"]),
        common_share=of_drops(column["common"]),
        schedule_change_share=of_drops(np.where(column["schedule"] == None, np.nan, column["schedule"] != "")),  # noqa: E711
        schedule_change_chance=without_interval(schedule.reach(widths, steps)),
        unlearned_share=of_drops(column["low"] > SOMETHING_LEARNED),
        fall_share_in_drops=of(in_drops, fall),
        onset_drop_share=of(np.where(np.isfinite(after), onset == 1, np.nan)),
        after_onset_drop_share=of(np.where(np.isfinite(after), onset == 0, np.nan)),
        onset_fall_share=of(fall - after, fall),
        onset_fall_share_in_drops=of(in_drops - in_drops_after, fall - after),
        after_onset_fall_share_in_drops=of(in_drops_after, after),
        single_r2=mean(column["single_r2"], groups),
        single_r2_of_smooth_curves=nulls.smooth.single_r2,
        single_spectrum_r2=single_spectrum_r2,
        single_spectrum_r2_of_smooth_curves=nulls.smooth.single_spectrum_r2,
        shared_residual_share=nulls.shared_residuals,
        changes=schedule.changes,
        across_seeds=across,
    )
