"""loss curves -> for one, two and three terms, the shapes of a grid that together fit each curve best."""

from dataclasses import dataclass
from typing import Self

import numpy as np

from discreteness.analysis.noise import Noise
from discreteness.analysis.sigmoids import LOGISTIC, TAILS, falling

MAX_TERMS = 3
"""Terms in one curve."""
MARGIN = 4.0
"""Octaves beyond the data at which smooth terms may be centred: a power law is the tail of such a sigmoid."""
PRECISION = 0.01
"""Share of a curve's range below which a misfit counts for nothing: no token follows any formula exactly."""
HEIGHT_COST = PRECISION**2 / 10
"""What the square of a term's height costs in mean squared misfit, so that no two huge terms cancel to draw a bend."""

_NARROW_WIDTHS = (0.125, 0.25, 0.5, 1.0, 1.5, 2.0)
_WIDER_WIDTHS = (3.5, 5.0, 7.0, 10.0, 14.0)
"""Octaves, after the width from which a term is smooth."""
_SPACING = 1 / 5
"""Of the grid's centers, in widths; at least _MIN_SPACING octaves."""
_MIN_SPACING = 1 / 8


@dataclass(frozen=True, kw_only=True)
class Atoms:
    """Shapes on the bins: narrow sigmoids, then smooth ones, then smooth falls with other tails.

    - The first `num_sigmoids` may be terms of a fit; those from `num_narrow` on are smooth.
    - Values are whitened, centred and of norm 1, so that a product with a curve is what the atom explains of it.
    - `penalties` is what the square of an atom's height costs.
    """

    noise: Noise
    values: np.ndarray
    gram: np.ndarray
    penalties: np.ndarray
    centers: np.ndarray
    widths: np.ndarray
    tails: np.ndarray
    num_narrow: int
    num_sigmoids: int

    @classmethod
    def on(cls, x: np.ndarray, noise: Noise, smooth_width: float) -> Self:
        """For bins at octaves `x`. From `smooth_width` octaves on, a shape is smooth."""
        # Sigmoids: narrow ones within the run, wide ones beyond it too.
        narrow = _grid(x[0], x[-1], _NARROW_WIDTHS)
        smooth = _grid(x[0] - MARGIN, x[-1] + MARGIN, (smooth_width, *_WIDER_WIDTHS))
        others = [tail for tail in range(len(TAILS)) if tail != LOGISTIC]
        centers, widths = np.concatenate([narrow, *[smooth] * len(TAILS)]).T
        tails = np.repeat([LOGISTIC, LOGISTIC, *others], [len(narrow), *[len(smooth)] * len(TAILS)])

        values = centred(falling(x, centers[None], widths[None], tails[None])[0][0], noise)
        norms = np.linalg.norm(values, axis=1)
        # A shape that is constant on these bins explains nothing; the threshold only keeps it from a division by 0.
        norms = np.maximum(norms, 1e-6)
        values /= norms[:, None]
        return cls(
            noise=noise,
            values=values,
            gram=values @ values.T,
            penalties=HEIGHT_COST * len(x) / norms**2,
            centers=centers,
            widths=widths,
            tails=tails,
            num_narrow=len(narrow),
            num_sigmoids=len(narrow) + len(smooth),
        )

    def products(self, curves: np.ndarray) -> np.ndarray:
        """What each atom alone explains of each curve: curves [n, bins] -> [n, atoms]."""
        return centred(curves, self.noise) @ self.values.T

    def sigmoids(self) -> slice:
        return slice(0, self.num_sigmoids)

    def smooth(self) -> slice:
        return slice(self.num_narrow, None)

    def search(self, products: np.ndarray, among: slice) -> list[tuple[np.ndarray, np.ndarray]]:
        """For 1 to MAX_TERMS terms: which atoms [n, terms], and the squares that they explain together [n].

        `products` [n, atoms]: of each curve with each atom. Orthogonal least squares (Chen, Billings & Luo 1989): the
        next atom is the one that explains most in addition to those that are chosen. Then each of these is chosen
        again, given the others.
        """
        products, gram, penalties = products[:, among], self.gram[among, among], self.penalties[among]
        chosen = np.empty((len(products), 0), np.intp)
        found = []
        for num_terms in range(1, MAX_TERMS + 1):
            best, explained = _next_atom(products, gram, penalties, chosen)
            chosen = np.column_stack([chosen, best])
            for term in range(num_terms - 1):
                others = np.delete(chosen, term, axis=1)
                best, explained = _next_atom(products, gram, penalties, others)
                chosen[:, term] = best
            found.append((chosen + among.start, explained))
        return found


def centred(values: np.ndarray, noise: Noise) -> np.ndarray:
    """Rows [n, bins], whitened, less what a constant explains of them."""
    constant = noise.whitened(np.ones(len(noise.weights)))
    constant /= np.linalg.norm(constant)
    whitened = noise.whitened(values)
    return whitened - (whitened @ constant)[:, None] * constant


def _grid(first: float, last: float, widths: tuple[float, ...]) -> np.ndarray:
    """Centers and widths [shapes, 2]."""
    return np.concatenate(
        [
            [(center, width) for center in np.arange(first, last + _MIN_SPACING, max(_MIN_SPACING, _SPACING * width))]
            for width in widths
        ]
    )


def _next_atom(
    products: np.ndarray, gram: np.ndarray, penalties: np.ndarray, chosen: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The atom [n] that explains most in addition to `chosen` [n, k], and the squares that all k + 1 explain together
    [n], less what their heights cost.
    """
    # One set of equations for the heights of the chosen atoms and for what each atom shares with them.
    near = gram[chosen]
    own = np.take_along_axis(near, chosen[:, None, :], axis=2) + penalties[chosen][:, :, None] * np.eye(chosen.shape[1])
    mine = np.take_along_axis(products, chosen, axis=1)
    solved = np.linalg.solve(own, np.concatenate([near, mine[:, :, None]], axis=2))
    shared, heights = solved[:, :, :-1], solved[:, :, -1]

    # The gain of each atom: its product with what is left, over what is left of itself.
    left = products - (heights[:, None, :] @ near)[:, 0]
    scores = left**2 / (1 + penalties - (near * shared).sum(axis=1))
    # None twice: two terms that start as one are moved apart by rounding alone.
    np.put_along_axis(scores, chosen, -1.0, axis=1)
    best = scores.argmax(axis=1)
    return best, scores[np.arange(len(products)), best] + (heights * mine).sum(axis=1)
