"""planted learning times and losses of many seeds -> how well what seeds share is recovered, and how often by chance.

python -m benchmarks.across_seeds [--repeats 200] [--parts matching,components,groups,speed,uniform,together]

Times are planted, not curves: `benchmarks/planted.py` says how well times are found. All tables are in Markdown.
"""

import argparse
import time
from collections.abc import Callable, Iterator

import numpy as np
from scipy.stats import kstest

from discreteness.analysis import comovement
from discreteness.analysis.across_seeds import spread
from discreteness.analysis.comovement import CoMovement, co_movement
from discreteness.analysis.components import NAMES, components
from discreteness.analysis.distributions import MAX_CHECKPOINTS, Distributions, TokenGroups, of_losses
from discreteness.analysis.matching import match
from discreteness.analysis.modes import chance_ratios, planted_groups, power, two_groups
from discreteness.analysis.seed_drops import SeedDrops

ERROR = 0.07
"""Octaves: standard error of a typical time with 48 checkpoints."""
TRUE_SD = {"document": 0.5, "token": 1.2, "seed": 0.1, "residual": 0.25, "fit_error": ERROR}
Times = Callable[[np.random.Generator, int, int], tuple[np.ndarray, np.ndarray]]
"""Random numbers, tokens, seeds -> times [tokens, seeds], documents [tokens]."""


def planted_drops(random: np.random.Generator, tokens: int, seeds: int, sd: float, apart: float) -> SeedDrops:
    """Each seed has the same two drops of equal height, so many octaves apart; a tenth of all drops is missed."""
    first = random.uniform(3, 6, (tokens, 1, 1)) + np.array([0, apart])
    times = first + random.normal(0, sd, (tokens, seeds, 2)) + random.normal(0, ERROR, (tokens, seeds, 2))
    times[random.random(times.shape) < 0.1] = np.nan
    there = np.isfinite(times)
    return SeedDrops(
        times=times,
        widths=np.where(there, 0.7, np.nan),
        falls=np.where(there, 3.0, np.nan),
        errors=np.where(there, ERROR, np.nan),
        highs=np.where(there.any(axis=2), 9.0, np.nan),
        origin=1.0,
    )


def matching(_repeats: int) -> Iterator[str]:
    yield "| seeds | octaves apart | true spread | of main drops | of matched ones | of one event | events per token |"
    yield "|---|---|---|---|---|---|---|"
    tokens = 400
    for seeds in (4, 24):
        for apart, sd in ((4.0, 0.0), (4.0, 0.1), (4.0, 0.3), (4.0, 0.6), (4.0, 1.0), (1.5, 0.1), (1.5, 0.3)):
            random = np.random.default_rng(0)
            drops = planted_drops(random, tokens, seeds, sd, apart)
            # As it was: of each seed the drop that happens to be the larger one.
            main = np.where(random.random((tokens, seeds)) < 0.5, drops.times[:, :, 0], drops.times[:, :, 1])
            events = match(drops)
            there = np.isfinite(events.times)
            of_first = there & (np.abs(events.times - drops.times[:, :, 0]) < 1e-9)
            alike = np.maximum(of_first.sum(axis=1), (there & ~of_first).sum(axis=1))
            before, now = (rms(spread(values, np.full(values.shape, ERROR))) for values in (main, events.times))
            yield (
                f"| {seeds} | {apart} | {sd} | {before:.2f} | {now:.3f} | {alike.sum() / there.sum():.1%} | "
                f"{events.num_events.mean():.2f} |"
            )


def rms(values: np.ndarray) -> float:
    return float(np.sqrt(np.nanmean(values**2)))


def draw_components(
    random: np.random.Generator, tokens: int, seeds: int, documents: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Times and errors [tokens, seeds], documents [tokens]; a fifth of the times is missing."""
    owner = np.sort(random.integers(0, documents, tokens))
    errors = random.uniform(0.5, 1.5, (tokens, seeds)) * TRUE_SD["fit_error"] / np.sqrt(13 / 12)
    times = (
        6
        + random.normal(0, TRUE_SD["document"], documents)[owner][:, None]
        + random.normal(0, TRUE_SD["token"], (tokens, 1))
        + random.normal(0, TRUE_SD["seed"], seeds)
        + random.normal(0, TRUE_SD["residual"], (tokens, seeds))
        + random.normal(size=(tokens, seeds)) * errors
    )
    missing = random.random(times.shape) < 0.2
    return np.where(missing, np.nan, times), np.where(missing, np.nan, errors), owner


def variance_components(repeats: int) -> Iterator[str]:
    yield f"Planted standard deviations: {', '.join(f'{name} {value}' for name, value in TRUE_SD.items())}."
    yield "Each cell: mean variance over the true one, share of the intervals that hold the true value."
    yield f"| tokens | seeds | documents | {' | '.join(NAMES)} |"
    yield f"|---|---|---|{'---|' * len(NAMES)}"
    for tokens, seeds, documents in ((300, 4, 27), (300, 8, 27), (300, 24, 27), (600, 8, 100)):
        squares = np.zeros((repeats, len(NAMES)))
        covered = np.zeros((repeats, len(NAMES)))
        for repeat in range(repeats):
            found = components(*draw_components(np.random.default_rng(repeat), tokens, seeds, documents))
            for place, name in enumerate(NAMES):
                one = getattr(found, name)
                squares[repeat, place] = (one.value / TRUE_SD[name]) ** 2
                covered[repeat, place] = one.low <= TRUE_SD[name] <= one.high
        cells = (f"{ratio:.2f}, {share:.0%}" for ratio, share in zip(squares.mean(0), covered.mean(0), strict=True))
        yield f"| {tokens} | {seeds} | {documents} | {' | '.join(cells)} |"


def independent(random: np.random.Generator, tokens: int, seeds: int) -> tuple[np.ndarray, np.ndarray]:
    """Each token with a time and a spread of its own; a tenth of the times is missing."""
    own = random.normal(0, 0.2, (tokens, seeds)) * random.uniform(0.5, 1.5, (tokens, 1))
    times = random.normal(6, 1.2, (tokens, 1)) + own
    return np.where(random.random(times.shape) < 0.1, np.nan, times), np.arange(tokens) // 10


def fast_seed(random: np.random.Generator, tokens: int, seeds: int) -> tuple[np.ndarray, np.ndarray]:
    times, documents = independent(random, tokens, seeds)
    times[:, 0] -= 0.7
    return times, documents


def noisy_seed(random: np.random.Generator, tokens: int, seeds: int) -> tuple[np.ndarray, np.ndarray]:
    times, documents = independent(random, tokens, seeds)
    times[:, 0] += random.normal(0, 0.6, tokens)
    return times, documents


def chain(random: np.random.Generator, tokens: int, seeds: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean times a third of an octave apart."""
    times, documents = independent(random, tokens, seeds)
    return times - np.nanmean(times, axis=1, keepdims=True) + np.arange(tokens)[:, None] % 24 / 3, documents


def heavy_tails(random: np.random.Generator, tokens: int, seeds: int) -> tuple[np.ndarray, np.ndarray]:
    """Now and then a time is far off: Student's t with two degrees of freedom, which has no variance."""
    times = random.normal(6, 1.2, (tokens, 1)) + 0.2 * random.standard_t(2, (tokens, seeds))
    return times, np.arange(tokens) // 10


def often_missing(random: np.random.Generator, tokens: int, seeds: int) -> tuple[np.ndarray, np.ndarray]:
    """A third more of the times is missing."""
    times, documents = independent(random, tokens, seeds)
    return np.where(random.random(times.shape) < 1 / 3, np.nan, times), documents


def unequal_documents(random: np.random.Generator, tokens: int, seeds: int) -> tuple[np.ndarray, np.ndarray]:
    """Of 1, 2, 4, ... tokens."""
    times, _ = independent(random, tokens, seeds)
    return times, np.log2(np.arange(tokens) + 1).astype(int)


def two_moving(sd: float) -> Times:
    """Two groups of ten tokens that move together by so much, each with 0.2 octaves of its own; they are documents."""

    def draw(random: np.random.Generator, tokens: int, seeds: int) -> tuple[np.ndarray, np.ndarray]:
        times, documents = independent(random, tokens, seeds)
        times[:20] += np.repeat(random.normal(0, sd, (2, seeds)), 10, axis=0)
        return times, documents

    return draw


KINDS: dict[str, tuple[Times, int]] = {
    "independent times": (independent, 0),
    **{f"two groups of ten move by {sd}": (two_moving(sd), 20) for sd in (0.05, 0.1, 0.2, 0.3)},
}
"""What is planted, and how many of the first tokens move together."""


def alone(times: np.ndarray, documents: np.ndarray) -> CoMovement:
    """Of documents that have a category each."""
    return co_movement(times, documents, documents)


NOTHING_TOGETHER: dict[str, Times] = {
    "independent times": independent,
    "one seed 0.7 octaves faster": fast_seed,
    "one seed with three times the spread": noisy_seed,
    "a chain a third of an octave apart": chain,
    "heavy tails": heavy_tails,
    "a third more missing": often_missing,
    "documents of 1, 2, 4, ... tokens": unequal_documents,
}


def uniform(repeats: int) -> Iterator[str]:
    """Each kind with random numbers of its own. KS: p-value of Kolmogorov and Smirnov's test that p-values are even,
    where each is spread over the step of 1/40 that it stands for.
    """
    comovement.PERMUTATIONS, comovement.MAX_CLUSTERED = 39, comovement.MIN_TOKENS
    yield "| what is planted | tokens | seeds | p <= 0.05, 0.25, 0.5 | KS | within documents | KS |"
    yield "|---|---|---|---|---|---|---|"
    for place, (tokens, seeds) in enumerate(((100, 8), (100, 24), (40, 4))):
        for kind, (name, draw) in enumerate(NOTHING_TOGETHER.items()):
            random = np.random.default_rng([place, kind])
            found = [alone(*draw(random, tokens, seeds)) for _ in range(repeats)]
            cells = []
            for values in ([one.p for one in found], [one.document_p for one in found]):
                p = np.array(values)
                even = kstest(p - random.random(repeats) / 40, "uniform").pvalue
                cells.append(f"{', '.join(f'{(p <= at).mean():.1%}' for at in (0.05, 0.25, 0.5))} | {even:.2f}")
            yield f"| {name} | {tokens} | {seeds} | {' | '.join(cells)} |"


def together(repeats: int) -> Iterator[str]:
    """With fewer permutations than an analysis has: a p-value below 0.05 is not needed here."""
    comovement.PERMUTATIONS = 39
    yield (
        "| what is planted | tokens | seeds | p <= 0.05, 0.25, 0.5 | within documents | runs with a cluster | "
        "of the groups found | others in clusters |"
    )
    yield "|---|---|---|---|---|---|---|---|"
    for tokens, seeds in ((100, 8), (100, 24)):
        for name, (draw, moving) in KINDS.items():
            found = [alone(*draw(np.random.default_rng(repeat), tokens, seeds)) for repeat in range(repeats)]
            p, within = (
                ", ".join(f"{(np.array(values) <= at).mean():.0%}" for at in (0.05, 0.25, 0.5))
                for values in ([one.p for one in found], [one.document_p for one in found])
            )
            clusters = np.array([one.cluster for one in found]) >= 0
            of_groups = f"{clusters[:, :moving].mean():.0%}" if moving else "-"
            yield (
                f"| {name} | {tokens} | {seeds} | {p} | {within} | {clusters.any(axis=1).mean():.0%} | {of_groups} | "
                f"{clusters[:, moving:].mean():.1%} |"
            )


ONE_GROUP: dict[str, Callable[[np.random.Generator, int, int], np.ndarray]] = {
    "normal": lambda random, n, seeds: random.normal(5, 1.0, (n, seeds)),
    "normal, sd 0.002, rounded to 0.001": lambda random, n, seeds: random.normal(5, 0.002, (n, seeds)).round(3),
    "exponential": lambda random, n, seeds: random.exponential(1.0, (n, seeds)),
    "lognormal": lambda random, n, seeds: np.exp(random.normal(0, 1.0, (n, seeds))),
    "Student's t, 3 degrees": lambda random, n, seeds: 5 + random.standard_t(3, (n, seeds)),
}
"""Losses that are not in two groups, in nats."""
PLANTED = ((0.5, 4.0), (0.5, 6.0), (0.25, 6.0), (0.1, 6.0), (0.1, 10.0))
"""Share of the smaller group, and distance in standard deviations of one (0.3 nats)."""


def groups(repeats: int) -> Iterator[str]:
    yield "Two groups (share of the smaller one, distance): found at p <= 0.05, 0.01, 0.001."
    yield f"| seeds | {' | '.join(f'{minority:.0%}, {widths:.0f} sd' for minority, widths in PLANTED)} |"
    yield f"|---|{'---|' * len(PLANTED)}"
    all_seeds = (6, 8, 10, 16, 24, 30, 50, 100)
    chances = {seeds: chance_ratios(seeds) for seeds in all_seeds}
    for seeds, chance in chances.items():
        draws = [planted_groups(seeds, minority, widths) for minority, widths in PLANTED]
        cells = [", ".join(f"{power(seeds, chance, draw, p):.0%}" for p in (0.05, 0.01, 0.001)) for draw in draws]
        yield f"| {seeds} | {' | '.join(cells)} |"
    yield "\nOne group: found at p <= 0.05, 0.01."
    yield f"| seeds | {' | '.join(ONE_GROUP)} |"
    yield f"|---|{'---|' * len(ONE_GROUP)}"
    for seeds, chance in chances.items():
        found = [
            two_groups(draw(np.random.default_rng(1), 20 * repeats, seeds), chance).p for draw in ONE_GROUP.values()
        ]
        cells = [", ".join(f"{(p <= at).mean():.1%}" for at in (0.05, 0.01)) for p in found]
        yield f"| {seeds} | {' | '.join(cells)} |"


def speed(_repeats: int) -> Iterator[str]:
    """Seconds of one core; the analysis has all of them for the distributions."""
    tokens, num_steps, seeds = 4241, 256, 24
    random = np.random.default_rng(0)
    times, errors, documents = draw_components(random, tokens, seeds, 27)
    steps = np.arange(0, num_steps, num_steps // MAX_CHECKPOINTS)
    x = np.linspace(0, 11, num_steps)[steps][:, None]
    seconds, parts, chance = 0.0, list[Distributions](), chance_ratios(seeds)
    for start in range(0, tokens, 200):
        middle = np.nan_to_num(times[start : start + 200, None], nan=30.0)
        losses = 1 + 6 / (1 + np.exp(4 * (x - middle))) + random.normal(0, 0.2, (1, len(steps), seeds))
        began = time.process_time()
        parts.append(of_losses(losses.astype(np.float32), steps, chance))
        seconds += time.process_time() - began
    began = time.process_time()
    TokenGroups.of(Distributions.concatenate(parts)).two_groups_q.mean()
    seconds += time.process_time() - began
    yield f"distributions of {tokens} tokens x {len(steps)} of {num_steps} checkpoints x {seeds} seeds: {seconds:.1f} s"
    drops = planted_drops(random, tokens, seeds, 0.2, 4.0)
    work: dict[str, Callable[[], object]] = {
        "components": lambda: components(times, errors, documents),
        "co-movement and clusters": lambda: alone(times, documents),
        "matching, two drops in each seed": lambda: match(drops),
    }
    for name, function in work.items():
        began = time.process_time()
        function()
        yield f"{name}, {tokens} tokens x {seeds} seeds: {time.process_time() - began:.1f} s"


PARTS = {
    "matching": matching,
    "components": variance_components,
    "groups": groups,
    "speed": speed,
    "uniform": uniform,
    "together": together,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=200, help="planted datasets for each row")
    parser.add_argument("--parts", default=",".join(PARTS), help="which tables")
    arguments = parser.parse_args()
    for part in arguments.parts.split(","):
        print(f"\n{part}\n")
        for line in PARTS[part](arguments.repeats):
            print(line, flush=True)


if __name__ == "__main__":
    main()
