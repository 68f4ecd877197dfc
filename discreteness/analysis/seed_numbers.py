"""table of tokens + what seeds share -> the numbers across seeds, as a paragraph says them and as JSON."""

from collections.abc import Mapping
from dataclasses import dataclass, fields

import numpy as np

from discreteness.analysis.across_seeds import AcrossSeeds
from discreteness.analysis.categories import between_categories
from discreteness.analysis.comovement import CoMovement, co_movement
from discreteness.analysis.components import components
from discreteness.analysis.distributions import FALSE_DISCOVERIES, Distributions, TokenGroups
from discreteness.analysis.intervals import Estimate, Share, mean, share, without_interval
from discreteness.analysis.matching import Events
from discreteness.analysis.modes import MIN_SEEDS, chance_ratios, planted_groups, power
from discreteness.analysis.stated import Stated

SHARED_EVENT = 0.5
"""Share of the seeds that must have a token's event, for its times to be compared over seeds."""
POWER_P = 0.01
"""The p-value at which power is stated: of many tests, of which some are true, about this is asked."""
POWER_WIDTHS = 6.0
"""Distance of the planted groups in standard deviations of one."""
MINORITY = 0.1


@dataclass(frozen=True, kw_only=True)
class SeedNumbers(Stated):
    """Shares are of tokens unless said otherwise; intervals are 95 % intervals over documents, nan if there are too
    few."""

    learned_share: Share
    """Of curves: `across_seeds.learned`."""
    matched_tokens: int
    """Tokens with an event that at least SHARED_EVENT of the seeds have, two seeds or more: what follows is of
    these."""
    several_events_share: Share
    """Of matched tokens, those with another event in two seeds or more beside the one that most share."""
    document_sd: Estimate
    """Octaves: of learning times, between documents. So the next four; `components` says how."""
    token_sd: Estimate
    """Between tokens of a document."""
    seed_sd: Estimate
    """Between seeds."""
    residual_sd: Estimate
    """Of a token in a seed, beyond both."""
    fit_error_sd: Estimate
    """Of the fits."""
    together_p: float
    """How often tokens' patterns over seeds are as alike as here by chance; nan where there is nothing to say. So the
    next three; `comovement` says how."""
    together_correlation: float
    """Typical correlation of two tokens' patterns beyond chance."""
    document_together_p: float
    """The same of pairs of tokens of one document."""
    document_together_correlation: float
    """Their mean correlation beyond chance."""
    categories: int
    """Of the documents."""
    category_share: Share
    """Of the variance of learning times between documents, what lies between categories; without an interval. Below 0
    by chance; nan where there is one category, or where each has a single document. So the next three."""
    category_p: float
    """How often it would be as much by chance."""
    category_together_p: float
    """The same as `document_together_p` of pairs of tokens of one category, but of different documents."""
    category_together_correlation: float
    """Their mean correlation beyond chance."""
    clusters: int
    """Groups of tokens that move together from seed to seed."""
    clustered_tokens: int
    two_groups_share: Share
    """Tokens whose seeds are in two groups at a checkpoint or more, with 5 % false discoveries; nan below MIN_SEEDS."""
    two_groups_final_share: Share
    """The same at the last checkpoint."""
    two_groups_by_step: Mapping[int, Share]
    """The same at each checkpoint that was looked at."""
    spread_by_step: Mapping[int, Estimate]
    """Nats: mean over tokens of the standard deviation over seeds, at each of these checkpoints."""
    two_groups_power: float
    """How often two equal groups POWER_WIDTHS apart would be found at POWER_P with so many seeds; nan below
    MIN_SEEDS."""
    two_groups_power_minority: float
    """The same where the smaller group has MINORITY of the seeds."""


def shared(events: Events) -> np.ndarray:
    """bool [tokens]: those whose times are compared over seeds."""
    return events.counts >= max(2, SHARED_EVENT * events.times.shape[1])


def moves(events: Events, documents: np.ndarray, categories: np.ndarray) -> CoMovement:
    """`documents`, `categories` [tokens]."""
    return co_movement(np.where(shared(events)[:, None], events.times, np.nan), documents, categories)


def seed_numbers(
    documents: np.ndarray,
    categories: np.ndarray,
    across: AcrossSeeds,
    events: Events,
    together: CoMovement,
    distributions: Distributions,
    groups: TokenGroups,
) -> SeedNumbers:
    """All of the same tokens; `documents`, `categories` [tokens]."""
    num_seeds = events.times.shape[1]
    chosen = shared(events)
    parts = components(events.times[chosen], events.errors[chosen], documents[chosen])
    of_categories = between_categories(events.times[chosen], documents[chosen], categories[chosen])
    of_tokens = np.ones(len(documents))
    tested = num_seeds >= MIN_SEEDS

    def of_tested(found: np.ndarray) -> Share:
        return share(found, of_tokens * tested, documents)

    discovered = distributions.discovered()
    chance = chance_ratios(num_seeds) if tested else np.zeros(0)

    def found_by_chance(minority: float) -> float:
        draw = planted_groups(num_seeds, minority, POWER_WIDTHS)
        return power(num_seeds, chance, draw, POWER_P) if tested else np.nan

    steps = distributions.steps.tolist()
    return SeedNumbers(
        learned_share=share(across.learned_share, of_tokens, documents),
        matched_tokens=int(chosen.sum()),
        several_events_share=share(chosen & (events.num_shared > 1), chosen, documents),
        **{f"{field.name}_sd": getattr(parts, field.name) for field in fields(parts)},
        together_p=together.p,
        together_correlation=together.correlation,
        document_together_p=together.document_p,
        document_together_correlation=together.document_correlation,
        categories=len(np.unique(categories)),
        category_share=without_interval(of_categories.share),
        category_p=of_categories.p,
        category_together_p=together.category_p,
        category_together_correlation=together.category_correlation,
        clusters=int(together.cluster.max(initial=-1) + 1),
        clustered_tokens=int((together.cluster >= 0).sum()),
        two_groups_share=of_tested(groups.two_groups_q < FALSE_DISCOVERIES),
        two_groups_final_share=of_tested(groups.two_groups_final_q < FALSE_DISCOVERIES),
        two_groups_by_step={step: of_tested(discovered[:, place]) for place, step in enumerate(steps) if tested},
        spread_by_step={
            step: mean(distributions.spread[:, place], documents) for place, step in enumerate(steps) if num_seeds > 1
        },
        two_groups_power=found_by_chance(0.5),
        two_groups_power_minority=found_by_chance(MINORITY),
    )
