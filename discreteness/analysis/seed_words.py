"""numbers across seeds -> a paragraph: how alike seeds learn a token, how sure that is, and what it does not show."""

from collections.abc import Iterator

import numpy as np

from discreteness.analysis.intervals import without_interval
from discreteness.analysis.modes import MIN_GAP, MIN_SEEDS
from discreteness.analysis.seed_numbers import MINORITY, POWER_P, POWER_WIDTHS, SeedNumbers

_SURE = 0.05


def across_seeds_in_words(found: SeedNumbers, num_seeds: int, tokens: int, vary: str | None) -> str:
    """One paragraph, of a dataset of so many seeds and tokens; `vary`: what a seed changes, None if not recorded."""
    parts = _times(found, tokens), _together(found, vary), _groups(found, num_seeds)
    return " ".join(sentence for part in parts for sentence in part)


def _times(found: SeedNumbers, tokens: int) -> Iterator[str]:
    yield (
        f"Across seeds: {found.matched_tokens} of {tokens} tokens have a drop that at least half of the seeds share, "
        "after the drops of different seeds have been matched."
    )
    if np.isnan(found.seed_sd.value):
        yield "These are too few to compare times."
        return
    yield (
        f"Of these, {found.several_events_share} have another drop that two seeds or more share. Their learning times "
        f"have standard deviations, in octaves, of {found.document_sd} between documents, {found.token_sd} between "
        f"tokens of a document, {found.seed_sd} between seeds, and {found.residual_sd} from seed to seed for a single "
        f"token beyond that; the fits' own error, {found.fit_error_sd}, is taken off."
    )
    squares = np.array([each.value for each in (found.document_sd, found.token_sd, found.seed_sd, found.residual_sd)])
    squares = np.nan_to_num(squares) ** 2
    if squares.sum():
        yield (
            f"So {without_interval(squares[:2].sum() / squares.sum())} of the variance is the token's in all seeds. "
            "Only drops that were matched count, so this is more alike than learning as a whole."
        )
    if not np.isnan(found.category_p):
        yield (
            f"Between the {found.categories} categories lies {found.category_share} of the variance between documents "
            f"(p = {found.category_p:.3f} by permutation; below 0 only by chance)."
        )


def _together(found: SeedNumbers, vary: str | None) -> Iterator[str]:
    if np.isnan(found.together_p):
        yield "Whether tokens are early and late in the same seeds cannot be told from so few seeds or tokens."
        return
    does = "are" if found.together_p <= _SURE else "are not shown to be"
    yield (
        f"When the seeds' own effects are taken out, tokens {does} early and late in the same seeds as other tokens "
        f"(p = {found.together_p:.3f} by permutation; two patterns typically correlate by "
        f"{found.together_correlation:.2f} beyond chance)."
    )
    if not np.isnan(found.document_together_p):
        yield (
            f"Within a document they correlate by {found.document_together_correlation:.2f} beyond chance "
            f"(p = {found.document_together_p:.3f})."
        )
    if not np.isnan(found.category_together_p):
        yield (
            f"Between documents of one category they correlate by {found.category_together_correlation:.2f} beyond "
            f"chance (p = {found.category_together_p:.3f})."
        )
    yield (
        f"{found.clustered_tokens} tokens are in {_counted(found.clusters)} that move together from seed to seed."
        if found.clusters
        else "No cluster of tokens moves together beyond chance."
    )
    if found.together_p <= _SURE:
        yield (
            "Noise that all tokens of a seed share at a checkpoint would look the same, and that tokens move together "
            "does not say that one is learned because of the other."
        )
    if vary not in ("data", "both"):
        yield "All seeds read the same data in the same order, so that times are alike may be the data's doing."


def _counted(clusters: int) -> str:
    return "one cluster" if clusters == 1 else f"{clusters} clusters"


def _groups(found: SeedNumbers, num_seeds: int) -> Iterator[str]:
    if num_seeds < MIN_SEEDS:
        yield f"Whether losses over seeds are in two groups is not tested: it takes {MIN_SEEDS} seeds."
        return
    yield (
        f"The losses of {found.two_groups_share} of the tokens are in two groups of seeds at some checkpoint, "
        f"{MIN_GAP} nats or more apart, and of {found.two_groups_final_share} at the last one (5 % false discoveries). "
        "In the midst of a drop that only says that some seeds are ahead; at the end it may say that they learn "
        "different things."
    )
    yield (
        f"With {num_seeds} seeds, two equal groups {POWER_WIDTHS:.0f} standard deviations apart are found (p below "
        f"{POWER_P}) in {without_interval(found.two_groups_power)} of the cases, and a minority of "
        f"{100 * MINORITY:.0f} % in {without_interval(found.two_groups_power_minority)}."
    )
