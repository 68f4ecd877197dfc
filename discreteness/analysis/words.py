"""numbers of an analysis -> three paragraphs: what was found with how sure it is, across seeds, what it does not
show."""

import textwrap
from collections.abc import Iterator

import numpy as np

from discreteness.analysis.intervals import Share, without_interval
from discreteness.analysis.numbers import SOMETHING_LEARNED, Numbers
from discreteness.analysis.schedule_changes import Change
from discreteness.analysis.seed_words import across_seeds_in_words

WIDTH = 110
"""Characters per line."""
_SHOWN_NUMBERS = (2, 8, 32, 128)
"""Of tokens averaged: the others are in the JSON and the figure."""


def paragraphs(found: Numbers, vary: str | None) -> str:
    """Wrapped for a terminal; `sections` says of what."""
    return "\n\n".join(textwrap.fill(" ".join(parts), WIDTH) for parts in sections(found, vary))


def sections(found: Numbers, vary: str | None) -> list[list[str]]:
    """The paragraphs, each in its parts. vary: what a seed of the dataset changes; None: it is not recorded."""
    subjects = _drops_and_chance, _averages, _how_they_hold, _one_sigmoid, _onset
    found_there = [" ".join(sentences) for subject in subjects if (sentences := list(subject(found)))]
    across = [[sentence] for sentence in _across_seeds(found, vary)]
    return [found_there, *across, [" ".join(_limits(found, vary))]]


def _across_seeds(found: Numbers, vary: str | None) -> Iterator[str]:
    """Nothing is across one seed."""
    if found.seeds > 1:
        yield across_seeds_in_words(found.across_seeds, found.seeds, found.tokens, vary)


def _drops_and_chance(found: Numbers) -> Iterator[str]:
    low, high = (f"{100 * bound:.1f}" for bound in found.false_share_range)
    yield (
        f"{found.drop_share} of {found.curves} curves have a drop. Of smooth curves with this dataset's own noise, "
        f"{found.expected_false_share} would, at the evidence of {found.evidence:.0f} that is asked of a drop here (in "
        f"95 % of the resamples between {low} and {high} %)."
    )
    if found.drop_share.value > 0:
        noise = min(1.0, found.expected_false_share.value / found.drop_share.value)
        yield f"So up to {_percent(without_interval(noise))} of these drops may be noise."
    if found.intervals_over == "nothing":
        yield "There are too few documents and too few seeds for intervals."
    else:
        yield f"(Brackets: 95 % intervals over {found.intervals_over}; of smooth curves, over resamples.)"


def _averages(found: Numbers) -> Iterator[str]:
    within, across = found.drop_share_by_average, found.drop_share_by_average_across_documents
    shown = [number for number in _SHOWN_NUMBERS if number in within]
    if not shown:
        return
    shares = _listed([f"{within[number]}" for number in shown])
    yield f"Means of {_listed([str(number) for number in shown])} tokens of one document have one in {shares};"
    if (most := max(across)) > 1:
        yield f"means of {most} tokens of any documents in {across[most]};"
    yield (
        f"means of whole documents in {found.document_mean_drop_share}; the mean of all tokens in "
        f"{found.grand_mean_drop_share} of the seeds."
    )
    yield _verdict(found)


def _verdict(found: Numbers) -> str:
    """Single tokens against chance, then against the means of most tokens."""
    shares = found.drop_share_by_average
    most = max(shares)
    if shares[1].value <= 2 * found.expected_false_share.value:
        return "So single tokens have a drop at most twice as often as noise alone gives one: this shows no drops."
    if shares[most].value >= shares[1].value / 2:
        return (
            f"If each token dropped at a time of its own, means of {most} would hardly ever have a drop. They have one "
            "at least half as often as single tokens, so the drops are not shown to be events of single tokens."
        )
    return (
        f"Means of {most} have one less than half as often. That agrees with tokens that drop at times of their own, "
        "and also with noise, which means have less of."
    )


def _how_they_hold(found: Numbers) -> Iterator[str]:
    held = [f"{found.stable_share} have it also in the even and in the odd checkpoints alone"]
    held.append(f"{found.common_share} lose it when what all tokens share is taken out")
    if found.changes:
        held.append(
            f"{found.schedule_change_share} have it where the schedule changes, near which "
            f"{_percent(found.schedule_change_chance)} of the logarithmic axis lie ({_schedule(found.changes)})"
        )
    held.append(f"in {found.unlearned_share} it ends above {SOMETHING_LEARNED:.0f} nats, where little is learned")
    yield f"Of the curves with a drop, {'; '.join(held)}."
    yield f"Drops hold {found.fall_share_in_drops} of all nats that curves fall."


def _one_sigmoid(found: Numbers) -> Iterator[str]:
    """As the field does it, and what the same would say of smooth curves."""
    yield (
        f"One sigmoid per token (arXiv 2606.29858) explains {found.single_r2} of a curve's variance on average, and "
        f"{found.single_r2_of_smooth_curves} of that of smooth curves with the same noise; the learning times of these "
        f"sigmoids describe the derivative of the mean loss with an R^2 of {found.single_spectrum_r2:.2f}, and that of "
        f"the smooth curves with {found.single_spectrum_r2_of_smooth_curves:.2f}. What smooth curves do as well is no "
        "evidence of drops."
    )


def _schedule(changes: tuple[Change, ...]) -> str:
    steps: dict[str, list[str]] = {}
    for change in changes:
        steps.setdefault(change.what, []).append(str(change.step))
    return ", ".join(
        f"cooldown from {at[-1]} on" if what == "cooldown" else f"{what} at {_listed(at)}" for what, at in steps.items()
    )


def _onset(found: Numbers) -> Iterator[str]:
    if np.isnan(found.after_onset_drop_share.value):
        yield "The onset is not told from what follows: so few tokens do not say how frequent each one is."
        return
    yield (
        f"In the onset, until a document's mean loss is down to that of its tokens' frequencies, "
        f"{found.onset_drop_share} of the curves have their main drop, and {_percent(found.onset_fall_share)} of the "
        f"fall takes place, of which {found.onset_fall_share_in_drops} in drops; after it, "
        f"{found.after_onset_drop_share} have their main drop, and drops hold {found.after_onset_fall_share_in_drops} "
        "of the fall."
    )


def _limits(found: Numbers, vary: str | None) -> Iterator[str]:
    yield (
        "What this does not show: a drop is a shape, not a cause. The share of smooth curves covers noise alone; "
        "smooth falls of shapes that the fit does not know may count as drops too."
    )
    if np.isnan(found.shared_residual_share.value):
        yield "With one seed, nothing is known of others."
        return
    common = f"{found.shared_residual_share} of the noise between neighbouring checkpoints is common to all of them"
    if vary in ("data", "both"):
        yield (
            f"Each seed reads the data in an order of its own, and {common}. A drop at the same moment in every seed "
            "is not that moment's data, but it may be the schedule, which they share."
        )
    else:
        yield (
            f"Seeds are not independent: {common}, as all read the same data in the same order. A drop at the same "
            "moment in every seed may be that moment's data and not the token."
        )


def _percent(share: Share) -> str:
    """Without its interval."""
    return f"{without_interval(share.value)}"


def _listed(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
