"""planted curves -> how often "is a drop" is right, and how far off its time is, as the tables of docs/analysis.md.

python benchmarks/planted.py [--curves 1000]

Every curve is drawn with a known answer: drops, smooth falls, and curves made to mislead. The
thresholds of discreteness.analysis.fits were chosen while looking at curves of these generators, drawn from other
seeds: the table is not an independent test of them.
"""

import argparse
from collections.abc import Callable

import numpy as np

from discreteness.analysis.fits import Fits, fit, octaves
from discreteness.experiment.checkpoint_steps import parse_checkpoints

LAST_STEP = 1840
PLANS = {"1,841 checkpoints": "every:1", "300": "log:300", "48": "log:48"}
NOISES = (0.05, 0.2, 0.5)
"""Nats, standard deviation at one checkpoint."""

Draw = Callable[[np.random.Generator, np.ndarray, int], np.ndarray]
"""random numbers, octaves [steps], n -> losses without noise [n, steps]."""


def steps_of(plan: str) -> np.ndarray:
    return np.array(parse_checkpoints(plan, LAST_STEP))


def column(values: np.ndarray) -> np.ndarray:
    return values[:, None]


def sigmoid(x: np.ndarray, center: np.ndarray, width: np.ndarray) -> np.ndarray:
    """Falls from 1 to 0; `width` octaves from 90 % to 10 %."""
    return 1 / (1 + np.exp(np.clip((x - column(center)) * 2 * np.log(9) / column(width), -500, 500)))


def planted_drops(
    random: np.random.Generator, x: np.ndarray, n: int, widths: tuple[float, float] = (0.1, 2.0)
) -> tuple[np.ndarray, np.ndarray]:
    """Losses [n, steps], true times in octaves [n]: falls of 1 to 8 nats, from step 7 to an octave before the end."""
    centers = random.uniform(3, x[-1] - 1, n)
    width = np.exp(random.uniform(*np.log(widths), n))
    falls, base = random.uniform(1, 8, (2, n))
    return column(base) + column(falls) * sigmoid(x, centers, width), centers


def flat(random: np.random.Generator, x: np.ndarray, n: int) -> np.ndarray:
    return np.broadcast_to(column(random.uniform(0, 10, n)), (n, len(x)))


def power_law(random: np.random.Generator, x: np.ndarray, n: int) -> np.ndarray:
    """a + b (1 + step / knee) ** -power, the knee at any time and powers from 0.1 to 3."""
    knee, power = 2 ** random.uniform(0, 8, n), np.exp(random.uniform(*np.log((0.1, 3)), n))
    return column(random.uniform(1, 8, n)) * (1 + (2**x - 1) / column(knee)) ** -column(power)


def exponential(random: np.random.Generator, x: np.ndarray, n: int) -> np.ndarray:
    """Relaxation at one rate: the sharpest that is called smooth."""
    return column(random.uniform(1, 8, n)) * np.exp(-(2**x - 1) / column(2 ** random.uniform(2, 9, n)))


def exponentials(random: np.random.Generator, x: np.ndarray, n: int) -> np.ndarray:
    return exponential(random, x, n) + exponential(random, x, n) + exponential(random, x, n)


def logarithm(random: np.random.Generator, x: np.ndarray, n: int) -> np.ndarray:
    return 10 - column(random.uniform(0, 0.9, n)) * x


def decay_in_octaves(random: np.random.Generator, x: np.ndarray, n: int) -> np.ndarray:
    """Exponential in log step: a power law of the step itself."""
    return column(random.uniform(1, 8, n)) * np.exp(-x / column(random.uniform(0.7, 6, n)))


def wide_sigmoid(random: np.random.Generator, x: np.ndarray, n: int) -> np.ndarray:
    width, center = random.uniform(4.5, 9, n), random.uniform(2, 9, n)
    return column(random.uniform(1, 8, n)) * sigmoid(x, center, width)


def parabola(random: np.random.Generator, x: np.ndarray, n: int) -> np.ndarray:
    """A rise and a fall, or the reverse, over the whole run."""
    return 5 + column(random.uniform(-0.1, 0.1, n)) * (x - column(random.uniform(2, 9, n))) ** 2


def kinked(random: np.random.Generator, x: np.ndarray, n: int) -> np.ndarray:
    """Slope in log step changes at once, as when the learning rate begins to fall."""
    kink = column(random.uniform(3, 9, n))
    return 10 - column(random.uniform(0, 0.5, n)) * x - column(random.uniform(0, 1, n)) * np.maximum(x - kink, 0)


def spiked(random: np.random.Generator, x: np.ndarray, n: int) -> np.ndarray:
    """A power law with a burst of loss that heals: 1 to 5 nats for 2 % of the steps so far."""
    start = column(random.uniform(3, x[-1] - 0.5, n))
    inside = (x >= start) & (x <= start + np.log2(1.02) + 2 ** -(start - 1))
    return power_law(random, x, n) + column(random.uniform(1, 5, n)) * inside


SMOOTH: dict[str, Draw] = {
    "flat": flat,
    "power law with any knee": power_law,
    "exponential relaxation": exponential,
    "three exponentials": exponentials,
    "logarithm": logarithm,
    "exponential in log step": decay_in_octaves,
    "wide sigmoid (4.5 to 9 octaves)": wide_sigmoid,
    "parabola": parabola,
    "kink": kinked,
    "power law with a spike": spiked,
}


def noise(random: np.random.Generator, steps: np.ndarray, n: int, sigma: float, memory: float = 0.0) -> np.ndarray:
    """Gaussian; `memory`: updates after which two values share 1/e (an Ornstein-Uhlenbeck process)."""
    white = random.normal(size=(n, len(steps)))
    if memory:
        shared = np.exp(-np.diff(steps) / memory)
        for index, rho in enumerate(shared, start=1):
            white[:, index] = rho * white[:, index - 1] + np.sqrt(1 - rho**2) * white[:, index]
    return sigma * white


NOISE_MEMORIES = {"white": 0.0, "shared over 20 updates": 20.0}


def verdicts(
    random: np.random.Generator, plan: str, n: int, sigma: float, memory: float
) -> tuple[Fits, np.ndarray, dict]:
    """Fits of n planted drops, their true times in octaves, and for each smooth kind the share called a drop."""
    steps = steps_of(plan)
    x = octaves(steps)
    clean, centers = planted_drops(random, x, n)
    fits = fit(clean + noise(random, steps, n, sigma, memory), steps)
    false = {
        name: float(fit(draw(random, x, n) + noise(random, steps, n, sigma, memory), steps).is_drop.mean())
        for name, draw in SMOOTH.items()
    }
    return fits, centers, false


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--curves", type=int, default=300, help="curves of each kind at each noise")
    n = parser.parse_args().curves
    random = np.random.default_rng(0)
    print(
        "| plan | noise, nats | recall | precision | time error, octaves | 95 % of errors below | false drops "
        "| most, and where |"
    )
    print("|---|---|---|---|---|---|---|---|", flush=True)
    for name, plan in PLANS.items():
        for kind, memory in NOISE_MEMORIES.items():
            for sigma in NOISES:
                fits, centers, false = verdicts(random, plan, n, sigma, memory)
                recall, mean = fits.is_drop.mean(), np.mean(list(false.values()))
                errors = np.abs(octaves(fits.time) - centers)[fits.is_drop]
                worst = max(false, key=false.__getitem__)
                print(
                    f"| {name} | {sigma} {kind} | {recall:.1%} | {recall / (recall + mean):.1%} | "
                    f"{np.median(errors):.3f} | "
                    f"{np.quantile(errors, 0.95):.2f} | {mean:.1%} | {false[worst]:.1%} {worst} |",
                    flush=True,
                )
    print("\n| true width, octaves | called a drop: 1,841 checkpoints | 300 | 48 |")
    print("|---|---|---|---|")
    for width in (0.1, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.5):
        shares = []
        for plan in PLANS.values():
            steps = steps_of(plan)
            clean, _ = planted_drops(random, octaves(steps), n, (width, width))
            shares.append(fit(clean + noise(random, steps, n, 0.2), steps).is_drop.mean())
        print(f"| {width} | " + " | ".join(f"{share:.0%}" for share in shares) + " |", flush=True)


if __name__ == "__main__":
    main()
