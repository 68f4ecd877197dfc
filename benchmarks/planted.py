"""planted curves -> how often "is a drop" is right, and how far off its time is, as the tables of docs/analysis.md.

python benchmarks/planted.py [--curves 1000]

Every curve is drawn with a known answer: drops, smooth falls, and curves made to mislead. The
thresholds of discreteness.analysis.fits were chosen while looking at curves of these generators, drawn from other
seeds: the table is not an independent test of them.
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from discreteness.analysis.fits import Fits, fit, octaves
from discreteness.experiment.checkpoint_steps import parse_checkpoints

LAST_STEP = 1840
PLANS = {"1,841 checkpoints": "every:1", "300": "log:300", "48": "log:48"}
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
    return described_drops(random, x, n, widths)[:2]


def described_drops(
    random: np.random.Generator, x: np.ndarray, n: int, widths: tuple[float, float] = (0.1, 2.0)
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """`planted_drops`, and their widths in octaves and heights in nats [2, n]."""
    centers = random.uniform(3, x[-1] - 1, n)
    width = np.exp(random.uniform(*np.log(widths), n))
    falls, base = random.uniform(1, 8, (2, n))
    return column(base) + column(falls) * sigmoid(x, centers, width), centers, np.stack([width, falls])


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


def noise(random: np.random.Generator, steps: np.ndarray, n: int, sigma: float, memory: float = 0.0) -> np.ndarray:
    """Gaussian; `memory`: updates after which two values share 1/e (an Ornstein-Uhlenbeck process)."""
    white = random.normal(size=(n, len(steps)))
    if memory:
        shared = np.exp(-np.diff(steps) / memory)
        for index, rho in enumerate(shared, start=1):
            white[:, index] = rho * white[:, index - 1] + np.sqrt(1 - rho**2) * white[:, index]
    return sigma * white


def hinge(random: np.random.Generator, x: np.ndarray, n: int) -> np.ndarray:
    """Flat, and from a corner on a power law of the step, with powers from 0.1 to 1."""
    corner, power = random.uniform(2, x[-1] - 1, n), np.exp(random.uniform(*np.log((0.1, 1)), n))
    return column(random.uniform(1, 8, n)) * 2 ** (-column(power) * np.maximum(x - column(corner), 0))


def compressed_exponential(random: np.random.Generator, x: np.ndarray, n: int) -> np.ndarray:
    """exp(-(step / tau) ** b), b from 1 to 2: relaxation at a rate that grows, as the learning rate in a warm-up."""
    tau, b = 2 ** random.uniform(2, 9.5, n), random.uniform(1, 2, n)
    return column(random.uniform(1, 8, n)) * np.exp(-(((2**x - 1) / column(tau)) ** column(b)))


def gentle_onset(random: np.random.Generator, x: np.ndarray, n: int) -> np.ndarray:
    """A line in log step with a corner, then an exponential that takes over: two smooth falls after each other."""
    corner = random.uniform(1, 6, n)
    line = column(random.uniform(0.1, 0.4, n)) * np.maximum(x - column(corner), 0)
    later = np.exp(-(2**x - 1) / column(2 ** (corner + random.uniform(1, 3, n))))
    return 10 - line + column(random.uniform(1, 5, n)) * later


def rise(random: np.random.Generator, x: np.ndarray, n: int) -> np.ndarray:
    """A power law, and a sudden rise that stays."""
    center, width = random.uniform(3, x[-1] - 1, n), np.exp(random.uniform(*np.log((0.1, 2)), n))
    return power_law(random, x, n) - column(random.uniform(1, 5, n)) * sigmoid(x, center, width)


def rise_undone(random: np.random.Generator, x: np.ndarray, n: int) -> np.ndarray:
    """A sudden rise, and one to four octaves later a fall as sudden that undoes it, on a power law."""
    center, width = random.uniform(2, x[-1] - 4, n), np.exp(random.uniform(*np.log((0.1, 1)), n))
    back = center + random.uniform(1, 3, n)
    bump = sigmoid(x, back, width) - sigmoid(x, center, width)
    return power_law(random, x, n) + column(random.uniform(1, 5, n)) * bump


SMOOTH: dict[str, Draw] = {
    "flat": flat,
    "power law with any knee": power_law,
    "exponential relaxation": exponential,
    "three exponentials": exponentials,
    "compressed exponential": compressed_exponential,
    "logarithm": logarithm,
    "exponential in log step": decay_in_octaves,
    "wide sigmoid (4.5 to 9 octaves)": wide_sigmoid,
    "parabola": parabola,
    "kink": kinked,
    "hinge": hinge,
    "gentle onset": gentle_onset,
    "power law with a spike": spiked,
    "rise": rise,
    "rise undone": rise_undone,
}
"""Curves without a drop."""


def random_walk(random: np.random.Generator, x: np.ndarray, n: int) -> np.ndarray:
    """Of log step, 0.7 nats per root of an octave: it has real falls, and some are sharp."""
    moves = random.normal(size=(n, len(x))) * np.sqrt(np.diff(x, prepend=x[0]))
    return 5 + 0.7 * moves.cumsum(axis=1)


def drop_on_power_law(random: np.random.Generator, x: np.ndarray, n: int) -> np.ndarray:
    return planted_drops(random, x, n)[0] + 0.4 * power_law(random, x, n)


def ramp(random: np.random.Generator, x: np.ndarray, n: int) -> np.ndarray:
    """A straight line in log step from one level to another, within 0.4 to 1.5 octaves from 90 % to 10 %."""
    center, length = column(random.uniform(3, x[-1] - 1.5, n)), column(random.uniform(0.4, 1.5, n) / 0.8)
    return 1 + column(random.uniform(2, 8, n)) * np.clip(0.5 - (x - center) / length, 0, 1)


def delayed_exponential(random: np.random.Generator, x: np.ndarray, n: int) -> np.ndarray:
    """Nothing until a step of 2 ** 4 to 2 ** 9, then an exponential relaxation that takes 0.1 to 0.7 times as long."""
    begin = 2 ** random.uniform(4, 9, n)
    time = begin * random.uniform(0.1, 0.7, n)
    return 1 + column(random.uniform(2, 8, n)) * np.exp(-np.maximum(2**x - 1 - column(begin), 0) / column(time))


def two_drops(random: np.random.Generator, x: np.ndarray, n: int) -> np.ndarray:
    """At least 2.5 octaves and one and a half of their widths apart, of 1.5 to 5 nats."""
    first, width = random.uniform(2.5, 4.5, n), np.exp(random.uniform(*np.log((0.2, 1.2)), n))
    second = random.uniform(first + 1.5 * width + 1, x[-1] - 1)
    falls = random.uniform(1.5, 5, (2, n))
    return 1 + column(falls[0]) * sigmoid(x, first, width) + column(falls[1]) * sigmoid(x, second, width)


COUNTED: dict[str, tuple[Draw, int]] = {
    "one drop": (lambda random, x, n: planted_drops(random, x, n)[0], 1),
    "a drop on a power law": (drop_on_power_law, 1),
    "a ramp": (ramp, 1),
    "an exponential after a flat part": (delayed_exponential, 1),
    "two drops": (two_drops, 2),
}
"""Curves with drops, and how many."""


@dataclass(frozen=True, kw_only=True)
class Noise:
    """Gaussian, of `sigma` nats at one checkpoint in the middle of the run.

    - `memory`: updates after which two values share 1/e (an Ornstein-Uhlenbeck process).
    - `growth`: how many times larger it is at the end than at the beginning, linearly in octaves.
    - `common`: the share of its variance that is the same in all curves of a call.
    """

    memory: float = 0.0
    growth: float = 1.0
    common: float = 0.0

    def draw(self, random: np.random.Generator, steps: np.ndarray, n: int, sigma: float) -> np.ndarray:
        """float64 [n, steps]"""
        own, common = noise(random, steps, n, 1.0, self.memory), noise(random, steps, 1, 1.0, self.memory)
        share = octaves(steps) / octaves(steps)[-1]
        level = (1 + (self.growth - 1) * share) / (1 + (self.growth - 1) / 2)
        return sigma * level * (np.sqrt(1 - self.common) * own + np.sqrt(self.common) * common)


NOISE_KINDS = {
    "white": Noise(),
    "growing": Noise(growth=4.0),
    "shared over 20 updates": Noise(memory=20.0),
    "growing, over 20 updates, half common": Noise(memory=20.0, growth=4.0, common=0.5),
}
NOISE_LEVELS = {
    "white": (0.05, 0.2, 0.5),
    "growing": (0.2,),
    "shared over 20 updates": (0.2,),
    "growing, over 20 updates, half common": (0.2, 0.5),
}
"""Kind -> nats, standard deviations of one checkpoint."""


@dataclass(frozen=True, kw_only=True)
class Verdicts:
    """What `fit` says of planted curves, each kind in a call of its own."""

    fits: Fits
    """Of n planted drops."""
    centers: np.ndarray
    """[n] their true times, octaves."""
    widths_and_falls: np.ndarray
    """[2, n] their true widths, octaves, and heights, nats."""
    false: dict[str, float]
    """Kind of SMOOTH -> share called a drop."""
    right: dict[str, float]
    """Kind of COUNTED -> share with the right number of drops, of those with one at all."""
    walks: float
    """Share of random walks called a drop."""

    def covered(self) -> np.ndarray:
        """Shares of the drops found whose true time, width and height lie within 1.96 standard errors [3]."""
        fits, found = self.fits, self.fits.is_drop
        errors = np.stack(
            [
                (octaves(fits.time) - self.centers) / fits.time_error,
                (fits.width - self.widths_and_falls[0]) / fits.width_error,
                (np.where(fits.drops, fits.falls, 0).max(axis=1) - self.widths_and_falls[1]) / fits.height_error,
            ]
        )
        return (np.abs(errors[:, found]) <= 1.96).mean(axis=1)


def verdicts(random: np.random.Generator, plan: str, n: int, sigma: float, noise_kind: Noise) -> Verdicts:
    steps = steps_of(plan)
    x = octaves(steps)

    def fitted(clean: np.ndarray) -> Fits:
        return fit(clean + noise_kind.draw(random, steps, len(clean), sigma), steps)

    clean, centers, widths_and_falls = described_drops(random, x, n)
    right = {}
    for name, (draw, number) in COUNTED.items():
        fits = fitted(draw(random, x, n))
        right[name] = float((fits.num_drops == number).sum() / max(1, fits.is_drop.sum()))
    return Verdicts(
        fits=fitted(clean),
        centers=centers,
        widths_and_falls=widths_and_falls,
        false={name: float(fitted(draw(random, x, n)).is_drop.mean()) for name, draw in SMOOTH.items()},
        right=right,
        walks=float(fitted(random_walk(random, x, n)).is_drop.mean()),
    )


def mixed(random: np.random.Generator, plan: str, n: int, sigma: float, noise_kind: Noise) -> tuple[float, float]:
    """Recall, and the worst share of false drops of a kind, when n curves of each kind are fitted in one call."""
    steps = steps_of(plan)
    x = octaves(steps)
    clean = np.concatenate([planted_drops(random, x, n)[0], *(draw(random, x, n) for draw in SMOOTH.values())])
    shares = fit(clean + noise_kind.draw(random, steps, len(clean), sigma), steps).is_drop.reshape(-1, n).mean(axis=1)
    return float(shares[0]), float(shares[1:].max())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--curves", type=int, default=300, help="curves of each kind at each noise")
    n = parser.parse_args().curves
    random = np.random.default_rng(0)
    print(
        "| plan | noise, nats | recall | time error, octaves: median, 95 % | intervals cover: time, width, height "
        "| false drops: mean, most | right number, least | random walks | in one call: recall, most false |"
    )
    print("|---|---|---|---|---|---|---|---|---|", flush=True)
    for name, plan in PLANS.items():
        for kind, sigmas in NOISE_LEVELS.items():
            for sigma in sigmas:
                found = verdicts(random, plan, n, sigma, NOISE_KINDS[kind])
                errors = np.abs(octaves(found.fits.time) - found.centers)[found.fits.is_drop]
                worst = sorted(found.false, key=found.false.__getitem__)[:-3:-1]
                least = min(found.right, key=found.right.__getitem__)
                together = mixed(random, plan, n, sigma, NOISE_KINDS[kind])
                print(
                    f"| {name} | {sigma} {kind} | {found.fits.is_drop.mean():.1%} | "
                    f"{np.median(errors):.3f}, {np.quantile(errors, 0.95):.2f} | "
                    f"{', '.join(f'{share:.0%}' for share in found.covered())} | "
                    f"{np.mean(list(found.false.values())):.1%}, "
                    f"{', '.join(f'{found.false[kind]:.1%} {kind}' for kind in worst)} | "
                    f"{found.right[least]:.1%} {least} | {found.walks:.1%} | {together[0]:.1%}, {together[1]:.1%} |",
                    flush=True,
                )
    print("\n| true width, octaves | called a drop: 1,841 checkpoints | 300 | 48 |")
    print("|---|---|---|---|")
    for width in (0.1, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 4.5):
        shares = []
        for plan in PLANS.values():
            steps = steps_of(plan)
            clean, _ = planted_drops(random, octaves(steps), n, (width, width))
            shares.append(fit(clean + noise(random, steps, n, 0.2), steps).is_drop.mean())
        print(f"| {width} | " + " | ".join(f"{share:.0%}" for share in shares) + " |", flush=True)


if __name__ == "__main__":
    main()
