"""planted smooth datasets -> the share of false drops that each has, next to the one that it reports of itself.

python -m benchmarks.null_comparisons [--tokens 300] [--datasets 3] [--plans log:48,log:300]

No curve has a drop. Noise grows along the run, is correlated in time, differs from token to token, and is shared by
tokens and seeds as in a real run of `tiny`: 5 % of its variance by all tokens, 65 % by the seeds of a token.
"""

import argparse

import numpy as np

from benchmarks.planted import SMOOTH, column, steps_of
from discreteness.analysis.fits import fit, octaves, pooled_noise
from discreteness.analysis.null_comparisons import smooth_curves
from discreteness.analysis.processes import processes
from discreteness.analysis.sample import Sample
from discreteness.analysis.verdicts import judged

KINDS = (
    "power law with any knee",
    "exponential relaxation",
    "exponential in log step",
    "wide sigmoid (4.5 to 9 octaves)",
    "logarithm",
)
SEEDS = 4
SHARED_BY_TOKENS, SHARED_BY_SEEDS = 0.05, 0.65
NOISES = {"0.2 to 0.7": (0.2, 0.7), "0.3 to 1.5": (0.3, 1.5)}
"""Nats at the first and at the last checkpoint, standard deviation of a typical token."""
MEMORIES = (0.1, 0.3, 0.6)
"""Octaves after which the noise of two checkpoints shares 1/e."""


def correlated(random: np.random.Generator, x: np.ndarray, n: int, memory: float) -> np.ndarray:
    """Gaussian noise of variance 1 [n, steps], an Ornstein-Uhlenbeck process in octaves."""
    values = random.normal(size=(n, len(x)))
    for index, rho in enumerate(np.exp(-np.diff(x) / memory), start=1):
        values[:, index] = rho * values[:, index - 1] + np.sqrt(1 - rho**2) * values[:, index]
    return values


def smooth_sample(
    random: np.random.Generator, plan: str, num_tokens: int, levels: tuple[float, float], memory: float
) -> Sample:
    """Ten documents of smooth curves."""
    steps = steps_of(plan)
    x = octaves(steps)
    clean = np.concatenate([SMOOTH[kind](random, x, num_tokens // len(KINDS)) for kind in KINDS])
    clean = random.permutation(clean)
    num_tokens = len(clean)
    of_all = correlated(random, x, 1, memory)[:, None]
    of_token = correlated(random, x, num_tokens, memory)[:, None]
    own = correlated(random, x, num_tokens * SEEDS, memory).reshape(num_tokens, SEEDS, -1)
    mixed = (
        np.sqrt(SHARED_BY_TOKENS) * of_all
        + np.sqrt(SHARED_BY_SEEDS) * of_token
        + np.sqrt(1 - SHARED_BY_TOKENS - SHARED_BY_SEEDS) * own
    )
    level = levels[0] + (levels[1] - levels[0]) * x / x[-1]
    typical = column(np.exp(random.normal(0, 0.4, num_tokens)))
    return Sample(
        losses=(clean[:, None] + level * typical[:, :, None] * mixed).astype(np.float32),
        doc_ids=np.sort(np.arange(num_tokens) % 10),
        steps=steps,
        seeds=list(range(SEEDS)),
    )


def false_drops(sample: Sample, evidence: float) -> np.ndarray:
    """bool [tokens, seeds]: which of the sample's own curves the evidence that it asks for calls a drop."""
    curves = sample.losses.reshape(-1, len(sample.steps))
    return judged(fit(curves, sample.steps), evidence).is_drop.reshape(sample.losses.shape[:2])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=300, help=f"tokens of a dataset, each in {SEEDS} seeds")
    parser.add_argument("--datasets", type=int, default=3, help="datasets of each kind")
    parser.add_argument("--plans", default="log:48,log:300")
    arguments = parser.parse_args()
    print("| checkpoints | noise, nats | memory, octaves | false drops | reported of itself | evidence | ratio |")
    print("|---|---|---|---|---|---|---|")
    with processes(10**6) as workers:
        for plan in arguments.plans.split(","):
            for name, levels in NOISES.items():
                for memory in MEMORIES:
                    found, said, evidence = [], [], []
                    for dataset in range(arguments.datasets):
                        random = np.random.default_rng(dataset)
                        sample = smooth_sample(random, plan, arguments.tokens, levels, memory)
                        noise = pooled_noise(sample.losses.reshape(-1, len(sample.steps)), sample.steps)
                        _, chance, _ = smooth_curves(sample, noise, workers)
                        found.append(float(false_drops(sample, chance.evidence).mean()))
                        said.append(chance.false_share.value)
                        evidence.append(chance.evidence)
                    each = ", ".join(f"{share:.1%}" for share in found)
                    print(
                        f"| {plan} | {name} | {memory} | {np.mean(found):.2%} ({each}) | {np.mean(said):.2%} | "
                        f"{np.mean(evidence):.0f} | {np.mean(said) / max(np.mean(found), 1e-9):.2f} |",
                        flush=True,
                    )


if __name__ == "__main__":
    main()
