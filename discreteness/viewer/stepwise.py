"""losses of a few seeds -> which tokens are learned in a step, when and how fast; from the analysis where there is one.

`discreteness analyze` fits every seed. Where its tables are missing, the first SAMPLE seeds are fitted here, in the
background, the document that was asked for last first.
"""

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from discreteness.analysis import load
from discreteness.fits import fit
from discreteness.manifest import DocumentInfo
from discreteness.viewer.growing import Growing, Snapshot

SAMPLE = 8
BINS_PER_OCTAVE = 2
"""Of the spectrum; an octave is a doubling of step + 1."""
SHARPEST_WIDTH = 0.5
"""Octaves: for the order of the most step-like tokens a narrower fall counts as this wide, since checkpoints are a
part of an octave apart."""


@dataclass(frozen=True, kw_only=True)
class Falls:
    """Main fall of each token of a document in each seed: time in updates, width in octaves, fall in nats; float64
    [tokens, seeds], is_step bool. `analyzed`: from the tables of `discreteness analyze`."""

    seeds: Sequence[int]
    analyzed: bool
    time: np.ndarray
    width: np.ndarray
    fall: np.ndarray
    is_step: np.ndarray

    def per_token(self) -> dict[str, np.ndarray]:
        """float32 [tokens]: `share` of seeds that learn the token in a step; over these the median `time`, `width` and
        `fall`, and `time_spread`, the standard deviation of the time in octaves; nan without such seeds."""
        result = {"share": self.is_step.mean(axis=1).astype(np.float32)}
        for name in ("time", "width", "fall", "time_spread"):
            result[name] = np.full(len(self.is_step), np.nan, np.float32)
        for token, steps in enumerate(self.is_step):
            for name in ("time", "width", "fall") if steps.any() else ():
                result[name][token] = np.median(getattr(self, name)[token, steps])
            if steps.sum() > 1:
                result["time_spread"][token] = np.log2(self.time[token, steps] + 1).std(ddof=1)
        return result


class Stepwise:
    """What is known of every document, made in the background. `error`: why the last document could not be fitted."""

    def __init__(self, growing: Growing):
        self.growing = growing
        self.error: str | None = None
        self._falls: dict[int, tuple[Any, Falls]] = {}
        self._means: dict[int, tuple[Any, np.ndarray]] = {}
        self._wanted: list[tuple[str, DocumentInfo]] = []
        self._asked = threading.Condition()
        self._worker: threading.Thread | None = None
        self._table: tuple[Any, pa.Table | None, list[int]] = (None, None, [])

    def falls(self, document: DocumentInfo, now: bool = False) -> Falls | None:
        """None as long as it is being made (or cannot be: `error`); older ones as long as seeds come. `now`: before
        what is wanted already."""
        known = self._falls.get(document.doc_id)
        if known is None or known[0] != self._sample(self.growing.snapshot):
            self._want("falls", document, now)
        return known and known[1]

    def mean_loss(self, document: DocumentInfo) -> np.ndarray | None:
        """float32 [steps] over all tokens and the first SAMPLE seeds, nan at steps not reached; None as above."""
        known = self._means.get(document.doc_id)
        if known is None or known[0] != self._sample(self.growing.snapshot):
            self._want("mean", document, now=False)
        return known and known[1]

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
            try:
                snapshot = self.growing.snapshot
                sample = self._sample(snapshot)
                if what == "mean":
                    self._means[document.doc_id] = (sample, self._mean(snapshot, document))
                elif (falls := self._fit(snapshot, document)) is not None:
                    self._falls[document.doc_id] = (sample, falls)
                self.error = None
            except (KeyError, ValueError, OSError, pa.ArrowException) as error:
                self.error = f"document {document.name!r}: {' '.join(str(error).split())}"
            with self._asked:
                self._wanted.remove((what, document))

    def _sample(self, snapshot: Snapshot) -> Any:
        """What results depend on: the analysis' table, or the stamps of the first seeds."""
        seeds = snapshot.experiment.seeds[:SAMPLE] or list(snapshot.running)[:SAMPLE]
        analysis = [(i.path, i.size, i.mtime_ns) for i in self.growing.storage.list("analysis")]
        return tuple(snapshot.stamps[seed] for seed in seeds), tuple(analysis)

    def _mean(self, snapshot: Snapshot, document: DocumentInfo) -> np.ndarray:
        seeds = snapshot.experiment.seeds[:SAMPLE] or list(snapshot.running)[:SAMPLE]
        total = np.zeros(len(snapshot.experiment.steps))
        count = np.zeros(len(snapshot.experiment.steps))
        for seed in seeds:
            mean = self.growing.losses_of(snapshot, document, seed).mean(axis=0, dtype=np.float64)
            total += np.nan_to_num(mean)
            count += np.isfinite(mean)
        return np.where(count, total / np.maximum(count, 1), np.nan).astype(np.float32)

    def _fit(self, snapshot: Snapshot, document: DocumentInfo) -> Falls | None:
        """None: no seed is committed."""
        if (analyzed := self._from_tables(snapshot, document)) is not None:
            return analyzed
        seeds = snapshot.experiment.seeds[:SAMPLE]
        if not seeds:
            return None
        losses = np.stack([self.growing.losses_of(snapshot, document, seed) for seed in seeds], axis=1)
        fits = fit(losses.reshape(-1, losses.shape[2]), np.array(snapshot.experiment.steps))
        shape = losses.shape[:2]
        return Falls(
            seeds=seeds,
            analyzed=False,
            time=fits.time.reshape(shape),
            width=fits.width.reshape(shape),
            fall=(fits.high - fits.low).reshape(shape),
            is_step=fits.is_step.reshape(shape),
        )

    def _from_tables(self, snapshot: Snapshot, document: DocumentInfo) -> Falls | None:
        stamp = tuple((i.path, i.size, i.mtime_ns) for i in self.growing.storage.list("analysis"))
        if stamp != self._table[0]:
            try:
                found = load(self.growing.storage.uri)
                self._table = (stamp, found.fits, list(found.seeds))
            except FileNotFoundError:
                self._table = (stamp, None, [])
        _, table, seeds = self._table
        if table is None or not set(seeds) <= set(snapshot.experiment.seeds):
            return None
        rows = table.filter(pc.field("doc_id") == document.doc_id)
        shape = (document.num_losses, len(seeds))
        time, width, high, low, is_step = (
            rows[name].to_numpy().reshape(shape) for name in ("time", "width", "high", "low", "is_step")
        )
        return Falls(seeds=seeds, analyzed=True, time=time, width=width, fall=high - low, is_step=is_step)


def spectrum(falls: Sequence[Falls], steps: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Edges in octaves (log2 of step + 1), float32 [bins + 1], and the nats that the mean loss of all tokens loses in
    steps whose middle is in that bin, float32 [bins]."""
    num_bins = int(np.ceil(np.log2(steps[-1] + 1) * BINS_PER_OCTAVE)) or 1
    edges = np.arange(num_bins + 1) / BINS_PER_OCTAVE
    nats = np.zeros(num_bins)
    num_tokens = sum(len(one.time) for one in falls)
    for one in falls:
        octave = np.log2(one.time[one.is_step] + 1)
        counts, _ = np.histogram(octave, edges, weights=one.fall[one.is_step])
        nats += counts / (len(one.seeds) * num_tokens)
    return edges.astype(np.float32), nats.astype(np.float32)


def all_falls(means: Sequence[tuple[int, np.ndarray]], steps: Sequence[int], edges: np.ndarray) -> np.ndarray:
    """The nats that the mean loss of all tokens loses in each bin of the spectrum, in steps or not: float32 [bins].

    `means`: (tokens, mean loss [steps]) of each document.
    """
    whole = sum(tokens * mean for tokens, mean in means) / sum(tokens for tokens, _ in means)
    at_edges = np.interp(edges, np.log2(np.array(steps) + 1), whole)
    return (-np.diff(at_edges)).astype(np.float32)


def step_likeness(per_token: dict[str, np.ndarray]) -> np.ndarray:
    """float32 [tokens]: nats an octave of the median step, times the share of seeds that step; nan without steps."""
    return per_token["share"] * per_token["fall"] / np.maximum(per_token["width"], SHARPEST_WIDTH)
