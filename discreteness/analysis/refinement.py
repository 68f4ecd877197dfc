"""Terms found on a grid -> the nearest least-squares fit: sums of falls whose times, widths and heights are free."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Self

import numpy as np

from discreteness.analysis.noise import Noise
from discreteness.analysis.search import HEIGHT_COST, MARGIN, MAX_TERMS
from discreteness.analysis.sigmoids import LOGISTIC, falling

MAX_HEIGHT = 1.1
"""Of a term of a fit, in ranges of its curve: larger ones would only cancel each other."""
MAX_WIDTH = 16.0
"""Octaves."""
MOVES = 6
"""Steps of the least squares."""


@dataclass(frozen=True, kw_only=True)
class Terms:
    """base + sum of falls * shape, of n curves with k terms. Unused terms have a center of nan, and come last."""

    base: np.ndarray
    """[n] level after all terms."""
    centers: np.ndarray
    """[n, k] octaves."""
    widths: np.ndarray
    """[n, k] octaves."""
    falls: np.ndarray
    """[n, k] nats."""
    tails: np.ndarray
    """[n, k] indices into TAILS."""
    left: np.ndarray
    """[n] sum of the squares, whitened, that the terms do not explain."""

    def each(self, x: np.ndarray) -> np.ndarray:
        """What each term adds at octaves `x` [points] or [n, 1, points], float64 [n, k, points]."""
        used = np.isfinite(self.centers)
        centers, widths = np.where(used, self.centers, 0.0), np.where(used, self.widths, 1.0)
        tails = None if (self.tails == LOGISTIC).all() else self.tails
        return np.where(used, self.falls, 0.0)[:, :, None] * falling(x, centers, widths, tails)[0]

    def values(self, x: np.ndarray) -> np.ndarray:
        """The curves at octaves `x`, float64 [n, points]."""
        return self.base[:, None] + self.each(x).sum(axis=1)

    def padded(self) -> Self:
        """With MAX_TERMS terms."""
        missing = ((0, 0), (0, MAX_TERMS - self.centers.shape[1]))
        centers, widths, falls = (
            np.pad(a, missing, constant_values=np.nan) for a in (self.centers, self.widths, self.falls)
        )
        tails = np.pad(self.tails, missing, constant_values=LOGISTIC)
        return type(self)(base=self.base, centers=centers, widths=widths, falls=falls, tails=tails, left=self.left)

    def __getitem__(self, index: np.ndarray) -> Self:
        return type(self)(**{f.name: getattr(self, f.name)[index] for f in fields(self)})

    def replaced(self, where: np.ndarray, others: Self) -> Self:
        """With the curves `where`, indices, from `others`."""
        merged = {}
        for field in fields(self):
            merged[field.name] = getattr(self, field.name).copy()
            merged[field.name][where] = getattr(others, field.name)
        return type(self)(**merged)

    @classmethod
    def concatenate(cls, parts: Sequence[Self]) -> Self:
        return cls(**{f.name: np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(cls)})

    @classmethod
    def chosen(cls, which: np.ndarray, candidates: list[Self]) -> Self:
        """Of each curve the candidate `which` [n]."""
        padded = [candidate.padded() for candidate in candidates]
        rows = np.arange(len(which))
        return cls(**{f.name: np.stack([getattr(p, f.name) for p in padded])[which, rows] for f in fields(cls)})


def refine(
    curves: np.ndarray,
    x: np.ndarray,
    noise: Noise,
    centers: np.ndarray,
    widths: np.ndarray,
    tails: np.ndarray,
    *,
    min_width: float,
    max_height: float = np.inf,
    max_seen: float = np.inf,
    moves: int = MOVES,
) -> Terms:
    """Least squares from the grid's centers and widths [n, k], by Levenberg-Marquardt on all curves at once.

    Heights are solved for exactly at each trial, so that only centers and widths are moved: variable projection (Golub
    & Pereyra 1973), with the Jacobian of Kaufman (1975). No term is larger than `max_height` ranges of its curve, and
    what its curve shows of it no larger than `max_seen`.
    """
    num_terms = centers.shape[1]
    whitened = noise.whitened(curves)
    constant = np.broadcast_to(noise.whitened(np.ones(len(x))), (len(curves), 1, len(x)))
    ranges = np.ptp(curves, axis=1)[:, None] + 1e-12
    damping = np.full(len(curves), 1e-2)
    cost = HEIGHT_COST * len(x)
    penalty = np.diag(np.append(np.full(num_terms, cost), 0.0))
    kinds = None if (tails == LOGISTIC).all() else tails

    def solve(centers: np.ndarray, widths: np.ndarray) -> tuple[np.ndarray, ...]:
        """What is left, then: slopes of the shapes [n, k, bins], their whitened design, its normal matrix, heights
        (the base last) and residuals.
        """
        shapes, slopes = falling(x, centers, widths, kinds)
        design = np.concatenate([noise.whitened(shapes), constant], axis=1)
        normal = design @ design.transpose(0, 2, 1) + penalty
        wanted = (design @ whitened[:, :, None])[:, :, 0]
        heights = np.linalg.solve(normal, wanted[:, :, None])[:, :, 0]
        # A height beyond its limit is held there, and the others are solved for again.
        limit = ranges * np.minimum(max_height, max_seen / np.maximum(shapes[:, :, 0] - shapes[:, :, -1], 1e-6))
        for _ in range(num_terms):
            over = np.abs(heights[:, :-1]) > limit * (1 + 1e-3)
            if not over.any():
                break
            hold = np.pad(over * (1e6 * (1 + np.einsum("nii->ni", normal)[:, :-1])), ((0, 0), (0, 1)))
            normal = normal + hold[:, :, None] * np.eye(num_terms + 1)
            wanted = wanted + hold * np.pad(np.sign(heights[:, :-1]) * limit, ((0, 0), (0, 1)))
            heights = np.linalg.solve(normal, wanted[:, :, None])[:, :, 0]
        residuals = whitened - (heights[:, None, :] @ design)[:, 0]
        left = (residuals**2).sum(axis=1) + cost * (heights[:, :-1] ** 2).sum(axis=1)
        return left, slopes, design, normal, heights, residuals

    state = solve(centers, widths)
    for _ in range(moves):
        left, slopes, design, normal, heights, residuals = state
        # Jacobian of the fitted curve by center / width and by log width, less what other heights would change as well.
        by_center = heights[:, :-1, None] * slopes
        jacobian = np.concatenate([by_center, by_center * ((x - centers[:, :, None]) / widths[:, :, None])], axis=1)
        jacobian = noise.whitened(jacobian)
        jacobian -= np.linalg.solve(normal, design @ jacobian.transpose(0, 2, 1)).transpose(0, 2, 1) @ design

        # A damped move (Levenberg 1944, Marquardt 1963), of at most one width.
        curvature = jacobian @ jacobian.transpose(0, 2, 1)
        diagonal = np.einsum("nii->ni", curvature)
        ridge = damping[:, None] * diagonal + 1e-9 * diagonal.max(axis=1, keepdims=True) + 1e-12
        curvature = curvature + ridge[:, :, None] * np.eye(2 * num_terms)
        move = np.linalg.solve(curvature, (jacobian @ residuals[:, :, None]))[:, :, 0]
        move = np.clip(move, -1, 1)

        # It is kept where it leaves less; there the damping falls, elsewhere it grows.
        new_centers = np.clip(centers + move[:, :num_terms] * widths, x[0] - MARGIN, x[-1] + MARGIN)
        new_widths = np.clip(widths * np.exp(move[:, num_terms:]), min_width, MAX_WIDTH)
        tried = solve(new_centers, new_widths)
        better = tried[0] < left
        damping = np.where(better, damping / 5, damping * 5)
        centers = np.where(better[:, None], new_centers, centers)
        widths = np.where(better[:, None], new_widths, widths)
        state = tuple(
            np.where(better[(slice(None),) + (None,) * (old.ndim - 1)], new, old)
            for old, new in zip(state, tried, strict=True)
        )
    *_, heights, residuals = state
    return Terms(
        base=heights[:, -1],
        centers=centers,
        widths=widths,
        falls=heights[:, :-1],
        tails=tails,
        left=(residuals**2).sum(axis=1),
    )
