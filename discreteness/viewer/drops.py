"""What is known of a document's drops: which tokens have one, when, how sharp; from the analysis or from losses."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np
import pyarrow.compute as pc

from discreteness.analysis.across_seeds import across_seeds, medians, steepness
from discreteness.analysis.fits import fit, octaves
from discreteness.analysis.matching import match
from discreteness.analysis.seed_drops import SeedDrops
from discreteness.analysis.spectrum import spectrum
from discreteness.analysis.tables import Analysis
from discreteness.dataset.manifest import DocumentInfo

FROM_TABLE = ("final_loss", "drop_share", "time", "time_spread", "width", "fall")
"""Columns of the table of tokens that the page shows."""
PER_TOKEN = (*FROM_TABLE, "common_share", "evidence")
"""And of its seeds with a drop: the share of those that all tokens share, nan where it is not known; and the median of
their evidence, delta_bic."""


@dataclass(frozen=True, kw_only=True)
class Drops:
    """- `analyzed`: they are from the tables of `discreteness analyze`, else from fits of `num_seeds` seeds.
    - `per_token`: PER_TOKEN -> float32 [tokens], as in the table of tokens (docs/analysis.md); nan where no seed has a
      drop, but for its share and the final loss.
    - Spectrum of the document's mean loss: `edges` in octaves [bins + 1]; nats per octave that it loses, `measured`,
      and that it loses in drops, `by_drops` [bins].
    """

    num_seeds: int
    analyzed: bool
    per_token: Mapping[str, np.ndarray]
    edges: np.ndarray
    measured: np.ndarray
    by_drops: np.ndarray

    @classmethod
    def of_losses(cls, losses: np.ndarray, steps: np.ndarray) -> Self:
        """What fits of `losses`, float32 [tokens, seeds, steps], say. Raises ValueError if there are too few steps."""
        num_seeds = losses.shape[1]
        curves = losses.reshape(-1, len(steps))
        fits = fit(curves, steps)
        drops = SeedDrops.of_fits(fits, num_seeds)
        table = across_seeds(losses[:, :, -1].astype(np.float64), drops, match(drops))
        found = spectrum(curves, steps, fits)
        return cls(
            num_seeds=num_seeds,
            analyzed=False,
            per_token={
                **{name: getattr(table, name).astype(np.float32) for name in FROM_TABLE},
                "common_share": np.full(len(losses), np.nan, np.float32),
                "evidence": _median_evidence(fits.delta_bic, fits.is_drop, num_seeds),
            },
            edges=found.edges,
            measured=found.per_octave(found.measured),
            by_drops=found.per_octave(found.by_drops),
        )

    @classmethod
    def of_tables(cls, analysis: Analysis, document: DocumentInfo) -> Self:
        tokens = analysis.tokens.filter(pc.equal(analysis.tokens["doc_id"], document.doc_id))
        fits = analysis.fits.filter(pc.equal(analysis.fits["doc_id"], document.doc_id))
        bins = analysis.spectrum.filter(pc.equal(analysis.spectrum["document"], document.name))
        to_step = bins["to_step"].to_numpy()
        return cls(
            num_seeds=len(analysis.seeds),
            analyzed=True,
            per_token={
                **{name: tokens[name].to_numpy().astype(np.float32) for name in (*FROM_TABLE, "common_share")},
                "evidence": _median_evidence(
                    fits["delta_bic"].to_numpy(), fits["is_drop"].to_numpy(zero_copy_only=False), len(analysis.seeds)
                ),
            },
            edges=octaves(np.append(bins["from_step"].to_numpy()[:1], to_step)),
            measured=bins["measured"].to_numpy(),
            by_drops=bins["by_drops"].to_numpy(),
        )

    def steepness(self) -> np.ndarray:
        """float32 [tokens]: the order of `discreteness analyze`."""
        return steepness(*(self.per_token[name] for name in ("drop_share", "fall", "width")))


def _median_evidence(delta_bic: np.ndarray, is_drop: np.ndarray, num_seeds: int) -> np.ndarray:
    """Of curves in order of token, then of seed -> float32 [tokens]."""
    return medians(np.where(is_drop, delta_bic, np.nan).reshape(-1, num_seeds)).astype(np.float32)
