"""losses of a few seeds -> which tokens are learned in a step, when and how fast; from the analysis where there is one.

`discreteness analyze` fits every seed. Where its tables are missing, the first SAMPLE seeds are fitted here, in the
background, the document that was asked for last first.
"""

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from discreteness.analysis.across_seeds import across_seeds, medians
from discreteness.analysis.fits import fit, octaves
from discreteness.analysis.spectrum import spectrum
from discreteness.analysis.summary import SHARPEST_OCTAVES
from discreteness.analysis.tables import FOLDER, Analysis, load
from discreteness.dataset.manifest import DocumentInfo
from discreteness.viewer.growing import Growing, Snapshot

SAMPLE = 8
PER_TOKEN = ("step_share", "time", "time_spread", "width", "fall")


@dataclass(frozen=True, kw_only=True)
class Steps:
    """What is known of a document's steps. `analyzed`: from the tables of `discreteness analyze`.

    `per_token`: PER_TOKEN -> float32 [tokens], as in the table of tokens (docs/analysis.md), nan where no seed steps.
    Spectrum of the document's mean loss: `edges` in octaves [bins + 1]; nats an octave that it loses, `measured`, and
    that it loses in steps, `by_steps` [bins].
    """

    num_seeds: int
    analyzed: bool
    per_token: Mapping[str, np.ndarray]
    edges: np.ndarray
    measured: np.ndarray
    by_steps: np.ndarray

    def likeness(self) -> np.ndarray:
        """float32 [tokens]: the order of `discreteness analyze`, nats an octave times the share of seeds that step."""
        width = np.maximum(self.per_token["width"], SHARPEST_OCTAVES)
        return self.per_token["step_share"] * self.per_token["fall"] / width


class Stepwise:
    """What is known of every document, made in the background. `error`: why the last document could not be fitted.
    `num_made`: results so far; whoever was told None asks again when it has grown."""

    def __init__(self, growing: Growing):
        self.growing = growing
        self.error: str | None = None
        self.num_made = 0
        self._steps: dict[int, tuple[Any, Steps | None]] = {}
        self._means: dict[int, tuple[Any, np.ndarray | None]] = {}
        self._wanted: list[tuple[str, DocumentInfo]] = []
        self._asked = threading.Condition()
        self._worker: threading.Thread | None = None
        self._analysis: tuple[Any, Analysis | None] = (None, None)

    def steps(self, document: DocumentInfo, now: bool = False) -> Steps | None:
        """None as long as it is being made (or cannot be: `error`); older ones as long as seeds come. `now`: before
        what is wanted already."""
        known = self._steps.get(document.doc_id)
        if known is None or known[0] != self._sample(self.growing.snapshot):
            self._want("steps", document, now)
        return known and known[1]

    def mean_loss(self, document: DocumentInfo) -> np.ndarray | None:
        """float32 [steps] over all tokens and the first SAMPLE seeds, nan at steps not reached; None as above."""
        known = self._means.get(document.doc_id)
        if known is None or known[0] != self._sample(self.growing.snapshot):
            self._want("mean", document, now=False)
        return known and known[1]

    def mean_seeds(self) -> list[int]:
        """Those that mean losses are of: the first SAMPLE committed ones, or running ones as long as none is."""
        return _sample_seeds(self.growing.snapshot)

    @property
    def num_waiting(self) -> int:
        return len(self._wanted)

    def _want(self, what: str, document: DocumentInfo, now: bool) -> None:
        with self._asked:
            one = (what, document)
            if one in self._wanted and not now:
                return
            if one in self._wanted:
                self._wanted.remove(one)
            self._wanted.insert(0 if now else len(self._wanted), one)
            # Means first: they are read in a moment, and fits use what was read for them.
            if not now:
                self._wanted.sort(key=lambda wanted: wanted[0] != "mean")
            if self._worker is None:
                self._worker = threading.Thread(target=self._work, name="stepwise", daemon=True)
                self._worker.start()
            self._asked.notify()

    def _work(self) -> None:
        while True:
            with self._asked:
                while not self._wanted:
                    self._asked.wait()
                what, document = self._wanted[0]
            # Kept also where there is nothing, so that it is not tried again before the dataset changes.
            sample = None
            try:
                snapshot = self.growing.snapshot
                sample = self._sample(snapshot)
                if what == "mean":
                    self._means[document.doc_id] = (sample, self._mean(snapshot, document))
                else:
                    self._steps[document.doc_id] = (sample, self._steps_of(snapshot, document))
                    self.error = None
            except (KeyError, ValueError, OSError, pa.ArrowException) as error:
                self.error = f"document {document.name!r}: {' '.join(str(error).split())}"
                (self._means if what == "mean" else self._steps)[document.doc_id] = (sample, None)
            with self._asked:
                self._wanted.remove((what, document))
                self.num_made += 1

    def _sample(self, snapshot: Snapshot) -> Any:
        """What results depend on: the analysis' table, or the stamps of the first seeds."""
        return tuple(snapshot.stamps[seed] for seed in _sample_seeds(snapshot)), self._analysis_stamp()

    def _mean(self, snapshot: Snapshot, document: DocumentInfo) -> np.ndarray:
        total = np.zeros(len(snapshot.dataset.steps))
        count = np.zeros(len(snapshot.dataset.steps))
        for seed in _sample_seeds(snapshot):
            mean = self.growing.losses_of(snapshot, document, seed).mean(axis=0, dtype=np.float64)
            total += np.nan_to_num(mean)
            count += np.isfinite(mean)
        return np.where(count, total / np.maximum(count, 1), np.nan).astype(np.float32)

    def _steps_of(self, snapshot: Snapshot, document: DocumentInfo) -> Steps | None:
        """None: no seed is committed."""
        analysis = self._analysis_of(snapshot)
        if analysis is not None:
            return _from_tables(analysis, document)
        seeds = snapshot.dataset.seeds[:SAMPLE]
        if not seeds:
            return None
        losses = np.stack([self.growing.losses_of(snapshot, document, seed) for seed in seeds], axis=1)
        return _from_losses(losses, np.array(snapshot.dataset.steps))

    def _analysis_of(self, snapshot: Snapshot) -> Analysis | None:
        """The tables, if there are any and of seeds that the dataset has."""
        stamp = self._analysis_stamp()
        if stamp != self._analysis[0]:
            try:
                self._analysis = (stamp, load(snapshot.dataset.storage.uri))
            except FileNotFoundError:
                self._analysis = (stamp, None)
        analysis = self._analysis[1]
        return analysis if analysis is not None and set(analysis.seeds) <= set(snapshot.dataset.seeds) else None

    def _analysis_stamp(self) -> tuple:
        return tuple((info.path, info.size, info.mtime_ns) for info in self.growing.storage.list(FOLDER))


def _sample_seeds(snapshot: Snapshot) -> list[int]:
    return snapshot.dataset.seeds[:SAMPLE] or list(snapshot.running)[:SAMPLE]


def _from_losses(losses: np.ndarray, steps: np.ndarray) -> Steps:
    """float32 [tokens, seeds, steps] -> what its fits say. ValueError: too few steps to fit."""
    num_tokens, num_seeds = losses.shape[:2]
    curves = losses.reshape(-1, len(steps))
    fits = fit(curves, steps)

    def by_seed(values: np.ndarray) -> np.ndarray:
        return np.where(fits.is_step, values, np.nan).reshape(num_tokens, num_seeds)

    shared = across_seeds(losses[:, :, -1], by_seed(octaves(fits.time)))
    per_token = {
        "step_share": shared.step_share,
        "time": shared.time,
        "time_spread": shared.time_spread,
        "width": medians(by_seed(fits.width)),
        "fall": medians(by_seed(fits.high - fits.low)),
    }
    found = spectrum(curves, steps, fits)
    return Steps(
        num_seeds=num_seeds,
        analyzed=False,
        per_token={name: np.asarray(values, np.float32) for name, values in per_token.items()},
        edges=found.edges,
        measured=found.per_octave(found.measured),
        by_steps=found.per_octave(found.by_steps),
    )


def _from_tables(analysis: Analysis, document: DocumentInfo) -> Steps:
    tokens = analysis.tokens.filter(pc.equal(analysis.tokens["doc_id"], document.doc_id))
    bins = analysis.spectrum.filter(pc.equal(analysis.spectrum["document"], document.name))
    to_step = bins["to_step"].to_numpy()
    return Steps(
        num_seeds=len(analysis.seeds),
        analyzed=True,
        per_token={name: tokens[name].to_numpy().astype(np.float32) for name in PER_TOKEN},
        edges=octaves(np.append(bins["from_step"].to_numpy()[:1], to_step)),
        measured=bins["measured"].to_numpy(),
        by_steps=bins["by_steps"].to_numpy(),
    )
