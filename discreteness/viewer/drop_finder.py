"""The background worker that finds every document's drops while the page is looked at.

- `discreteness analyze` fits every seed. Where its tables are missing, the first SAMPLE seeds are fitted here.
- One thread does one document at a time: the one that was asked for last comes first.
- A result holds until the tables or the first seeds' files change; what could not be made is not tried again before.
"""

import threading
from typing import Any

import numpy as np
import pyarrow as pa

from discreteness.analysis.fits import Fits, fit
from discreteness.analysis.tables import Analysis, load
from discreteness.analysis.verdicts import judged
from discreteness.dataset.manifest import DocumentInfo
from discreteness.viewer.drops import Drops
from discreteness.viewer.growing import Growing, Snapshot
from discreteness.viewer.part import Part

SAMPLE = 8
UNREADABLE = KeyError, ValueError, OSError, pa.ArrowException
"""What reading a file raises that is damaged, or of another version."""


class DropFinder:
    """Safe to use from several threads. `error`: why the last document could not be fitted. `num_made`: results so far;
    whoever was told None asks again when it has grown.
    """

    def __init__(self, growing: Growing):
        self.growing = growing
        self.error: str | None = None
        self.num_made = 0
        self._drops: dict[int, tuple[Any, Drops | None]] = {}
        self._means: dict[int, tuple[Any, np.ndarray | None]] = {}
        self._wanted: list[tuple[str, DocumentInfo]] = []
        self._asked = threading.Condition()
        self._worker: threading.Thread | None = None
        self._analysis: tuple[Any, Analysis | None] = (None, None)
        self._loading = threading.Lock()

    def drops(self, document: DocumentInfo, now: bool = False) -> Drops | None:
        """None as long as they are being found (or cannot be: `error`); older ones as long as seeds come. `now`: before
        what is wanted already.
        """
        known = self._drops.get(document.doc_id)
        if known is None or known[0] != self._sample(self.growing.snapshot):
            self._want("drops", document, now)
        return known and known[1]

    def fits(self, losses: np.ndarray) -> Fits:
        """Of a token's curves [seeds, steps]: by the noise and the evidence of the analysis, so that both say the same.
        By themselves where there is none that can be read (`drops` says why).
        """
        snapshot = self.growing.snapshot
        analysis, _ = self.analysis()
        if analysis is None or (isinstance(snapshot.dataset, Part) and snapshot.dataset.lacks_steps):
            return fit(losses, snapshot.dataset.steps)
        return judged(fit(losses, snapshot.dataset.steps, analysis.noise), analysis.numbers.evidence)

    def analysis(self) -> tuple[Analysis | None, str | None]:
        """The tables of `discreteness analyze`, None where there are none of this dataset's seeds, or none that can be
        read; and why not.
        """
        try:
            return self._analysis_of(self.growing.snapshot), None
        except UNREADABLE as error:
            return None, " ".join(str(error).split())

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
                self._worker = threading.Thread(target=self._work, name="drop finder", daemon=True)
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
                    self._drops[document.doc_id] = (sample, self._find(snapshot, document))
                    self.error = None
            except UNREADABLE as error:
                self.error = f"document {document.name!r}: {' '.join(str(error).split())}"
                (self._means if what == "mean" else self._drops)[document.doc_id] = (sample, None)
            with self._asked:
                self._wanted.remove((what, document))
                self.num_made += 1

    def _sample(self, snapshot: Snapshot) -> Any:
        """What results depend on: the analysis' table, or the stamps of the first seeds."""
        return tuple(snapshot.stamps[seed] for seed in _sample_seeds(snapshot)), snapshot.analysis

    def _mean(self, snapshot: Snapshot, document: DocumentInfo) -> np.ndarray:
        total = np.zeros(len(snapshot.dataset.steps))
        count = np.zeros(len(snapshot.dataset.steps))
        for seed in _sample_seeds(snapshot):
            mean = self.growing.losses_of(snapshot, document, seed).mean(axis=0, dtype=np.float64)
            total += np.nan_to_num(mean)
            count += np.isfinite(mean)
        return np.where(count, total / np.maximum(count, 1), np.nan).astype(np.float32)

    def _find(self, snapshot: Snapshot, document: DocumentInfo) -> Drops | None:
        """None: no seed is committed."""
        analysis = self._analysis_of(snapshot)
        if analysis is not None:
            return Drops.of_tables(analysis, document)
        seeds = snapshot.dataset.seeds[:SAMPLE]
        if not seeds:
            return None
        losses = np.stack([self.growing.losses_of(snapshot, document, seed) for seed in seeds], axis=1)
        return Drops.of_losses(losses, np.array(snapshot.dataset.steps))

    def _analysis_of(self, snapshot: Snapshot) -> Analysis | None:
        """The tables, if there are any and of seeds that the dataset has."""
        with self._loading:  # once, however many ask
            if snapshot.analysis != self._analysis[0]:
                try:
                    self._analysis = (snapshot.analysis, load(snapshot.dataset.storage.uri))
                except FileNotFoundError:
                    self._analysis = (snapshot.analysis, None)
            analysis = self._analysis[1]
        return analysis if analysis is not None and set(analysis.seeds) <= set(snapshot.dataset.seeds) else None


def _sample_seeds(snapshot: Snapshot) -> list[int]:
    return snapshot.dataset.seeds[:SAMPLE] or list(snapshot.running)[:SAMPLE]
