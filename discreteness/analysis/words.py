"""numbers of an analysis -> one paragraph: what they are, how sure, and what they do not show."""

import textwrap
from collections.abc import Iterator

import numpy as np

from discreteness.analysis.numbers import SOMETHING_LEARNED, Numbers
from discreteness.analysis.schedule_changes import Change

WIDTH = 110
"""Characters per line."""


def paragraph(found: Numbers) -> str:
    """Wrapped for a terminal."""
    return textwrap.fill(" ".join(_sentences(found)), WIDTH)


def _sentences(found: Numbers) -> Iterator[str]:
    yield from _drops_and_chance(found)
    yield from _averages(found)
    yield from _how_they_hold(found)
    yield from _onset(found)
    yield from _limits(found)


def _drops_and_chance(found: Numbers) -> Iterator[str]:
    if found.intervals_over == "nothing":
        yield "(There are too few documents and too few seeds for intervals.)"
    else:
        yield f"(Brackets hold 95 % intervals over {found.intervals_over}.)"
    low, high = (f"{100 * bound:.1f}" for bound in found.false_share_range)
    yield (
        f"{found.drop_share} of {found.curves} curves have a drop. Smooth curves with this dataset's own noise would in "
        f"{found.expected_false_share} of cases (interval over resamples; of single resamples, 95 % lie between {low} and "
        f"{high} %), at the evidence of {found.evidence:.0f} that is asked of a drop here."
    )


def _averages(found: Numbers) -> Iterator[str]:
    within, across = found.drop_share_by_average, found.drop_share_by_average_across_documents
    if len(within) > 1:
        shown = [number for number in within if number in (2, 8, 32, 128)]
        yield (
            f"Means of {_listed([str(number) for number in shown])} tokens of one document have a drop in "
            f"{_listed([str(within[number]) for number in shown])};"
        )
        if len(across) > 1:
            most = max(across)
            yield f"means of {most} tokens of any documents in {across[most]};"
        yield (
            f"means of whole documents in {found.document_mean_drop_share}; "
            f"the mean of all tokens in {found.grand_mean_drop_share} of seeds."
        )
        yield _what_averages_say(found)


def _what_averages_say(found: Numbers) -> str:
    """Compares single tokens with the means of most tokens."""
    shares = found.drop_share_by_average
    alone, most = shares[1], shares[max(shares)]
    if alone.value <= 2 * found.expected_false_share.value:
        return "Drops of single tokens are no more than twice what noise alone gives: this dataset does not show any."
    if most.value >= alone.value / 2:
        return (
            f"If each token dropped at a time of its own, means of {max(shares)} tokens would hardly ever have a drop. They do "
            "nearly as often as single tokens, or more often. So these drops are not shown to be events of single tokens."
        )
    return "Means have a drop less often than single tokens, as they must where each token drops at a time of its own."


def _how_they_hold(found: Numbers) -> Iterator[str]:
    yield f"Of the curves with a drop, {found.stable_share} have it in the even and in the odd checkpoints alone;"
    yield f"{found.common_share} lose it when what all tokens share is taken out;"
    if found.changes:
        yield f"{found.schedule_change_share} have it where the schedule changes ({_schedule(found.changes)});"
    yield f"in {found.unlearned_share} it ends above {SOMETHING_LEARNED:.0f} nats, where little has been learned."
    yield f"Drops hold {found.fall_share_in_drops} of all that curves fall."


def _schedule(changes: tuple[Change, ...]) -> str:
    steps = {what: [str(c.step) for c in changes if c.what == what] for what in dict.fromkeys(c.what for c in changes)}
    said = {
        what: f"{what} at {_listed(at)}" if what != "cooldown" else f"cooldown from {at[-1]} on"
        for what, at in steps.items()
    }
    return ", ".join(said.values())


def _onset(found: Numbers) -> Iterator[str]:
    if np.isnan(found.after_onset_drop_share.value):
        yield "Onset and later learning are not told apart: the documents have too few tokens to know their frequencies."
        return
    yield (
        f"In the onset, as long as a document's mean loss is above that of token frequencies, lies {found.onset_fall_share} "
        f"of the fall and the main drop of {found.onset_drop_share} of curves; after it, {found.after_onset_drop_share} of "
        f"curves have their main drop, and drops hold {found.after_onset_fall_share_in_drops} of the fall."
    )


def _limits(found: Numbers) -> Iterator[str]:
    yield (
        "What this does not show: a drop is a shape, not a cause; the smooth curves are those that the fit knows, so a smooth "
        "fall of another shape may count as a drop more often than the share given for noise."
    )
    if np.isnan(found.shared_residual_share.value):
        yield "With one seed, nothing is known of others."
    else:
        yield (
            "Seeds read the same data in the same order: "
            f"{found.shared_residual_share} of the noise from one checkpoint to the next is common to all seeds, so drops at "
            "the same moment in every seed may be that moment's batch and not the token."
        )


def _listed(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
