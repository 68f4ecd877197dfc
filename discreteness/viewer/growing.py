"""A dataset while it grows: losses of committed and running seeds, by document and by token.

- A request works on one snapshot, so that seeds, steps and files that it uses belong together.
- Losses are kept while they fit into KEPT_BYTES; those that were used longest ago go first.
- What is kept is keyed by size and time of the file it came from, so a file that is replaced is read anew.
- Means and curves of a document are read for one request at a time; the others wait and find its losses kept.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq

from discreteness.analysis.tables import FOLDER as ANALYSIS
from discreteness.dataset.manifest import DocumentInfo
from discreteness.dataset.paths import LOSSES_FOLDER, RUNNING, SEED_FILE
from discreteness.dataset.reader import Dataset
from discreteness.dataset.status import RunningSeed, running_seeds
from discreteness.dataset.storage import Storage

KEPT_BYTES = 2**30
"""Losses kept in memory: 300 seeds x 1,841 steps of a document of 480 tokens."""
READERS = 4
QUANTILES = (0.1, 0.9)
"""Borders of the band over seeds."""

Stamp = tuple[str, int | None, int | None]
"""Path, bytes and time of change (ns) of a file."""


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """The dataset at one look. `stamps`: seed -> stamp of its file; `running`: those of them in training; `analysis`:
    stamps of the files of its analysis."""

    version: int
    dataset: Dataset
    running: Mapping[int, RunningSeed]
    stamps: Mapping[int, Stamp]
    analysis: tuple[Stamp, ...]


@dataclass(frozen=True, kw_only=True)
class Curves:
    """One token. `losses`: float32 [seeds, steps], nan at steps that a seed has not reached. The first
    `num_committed` seeds are committed; `mean`, `low`, `high`, float32 [steps], are over them, and over all as long
    as none is committed."""

    seeds: list[int]
    num_committed: int
    losses: np.ndarray
    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray


class Growing:
    """A dataset that is looked at again and again. Safe to use from several threads.

    `reading`: doc_id -> (seeds read, seeds to read) of documents being read now. Methods raise KeyError if a seed or
    document is not there, and ValueError or OSError if files are damaged or have vanished.
    """

    def __init__(self, storage: Storage, opened: Callable[[Storage], Dataset] = Dataset):
        self.storage = storage
        self._opened = opened
        self.reading: dict[int, tuple[int, int]] = {}
        self._kept: OrderedDict[tuple, np.ndarray] = OrderedDict()
        self._kept_bytes = 0
        self._sums: dict[int, _Sums] = {}
        self._lock = threading.Lock()
        self._look_lock = threading.Lock()
        self._document_locks: dict[int, threading.Lock] = {}
        self._readers = ThreadPoolExecutor(READERS, "reader")
        self._listed: dict[Stamp, None] | None = None
        self.snapshot = self._look(1)

    def refresh(self) -> Snapshot:
        """Looks for files that came, went or changed. Raises what discreteness.open raises."""
        with self._look_lock:
            if self._listing() != self._listed or self._analysis_stamps() != self.snapshot.analysis:
                self.snapshot = self._look(self.snapshot.version + 1)
            return self.snapshot

    def losses_of(self, snapshot: Snapshot, document: DocumentInfo, seed: int) -> np.ndarray:
        """float32 [tokens, steps] of one seed, nan at steps that a running seed has not reached."""
        key = (document.doc_id, snapshot.stamps[seed])
        if (kept := self._get(key)) is None:
            if seed in snapshot.running:
                losses = self._running_losses(snapshot, document, seed)
            else:
                losses = snapshot.dataset.losses(document.doc_id, seeds=[seed])[0]
            kept = np.ascontiguousarray(losses.T)
            if self._fits(document, snapshot):
                self._keep(key, kept)
        return kept

    def summary(self, document: DocumentInfo) -> tuple[np.ndarray, np.ndarray, int]:
        """float32 [tokens, steps]: mean and standard deviation over the committed seeds (over the running ones as
        long as none is committed), and how many these are; nan where no seed, or for the deviation fewer than two,
        has a loss."""
        with self._document_lock(document):
            snapshot = self.snapshot
            seeds = snapshot.dataset.seeds or list(snapshot.running)
            stamps = {seed: snapshot.stamps[seed] for seed in seeds}
            sums = self._sums.get(document.doc_id)
            if sums is None or not sums.stamps.items() <= stamps.items():
                sums = _Sums(document.num_losses, len(snapshot.dataset.steps))
            for seed, losses in self._read(snapshot, document, [seed for seed in seeds if seed not in sums.stamps]):
                sums.add(seed, stamps[seed], losses)
            self._sums[document.doc_id] = sums
            return *sums.mean_and_deviation(), len(seeds)

    def curves(self, document: DocumentInfo, token: int) -> Curves:
        """Every seed's losses of one token, 1 to N, committed seeds first."""
        snapshot = self.snapshot
        if not 1 <= token <= document.num_losses:
            raise KeyError(
                f"document {document.name!r} has losses of tokens 1 to {document.num_losses}, not of {token}"
            )

        # A document that is too large to keep: committed seeds by a question to the dataset, about this token alone.
        committed, running = snapshot.dataset.seeds, list(snapshot.running)
        losses = np.full((len(committed) + len(running), len(snapshot.dataset.steps)), np.nan, np.float32)
        if not self._fits(document, snapshot):
            losses[: len(committed)] = self._token_of_large(snapshot, document, token)
            rest = running
        else:
            rest = committed + running

        # The other seeds: the token's row of what is kept, or read now, of the whole document.
        with self._document_lock(document):
            for row, (_, of_seed) in enumerate(self._read(snapshot, document, rest), len(losses) - len(rest)):
                losses[row] = of_seed[token - 1]

        # Mean and band are over committed seeds; over running ones as long as none is committed.
        mean, low, high = over_seeds(losses[: len(committed)] if committed else losses)
        return Curves(
            seeds=committed + running, num_committed=len(committed), losses=losses, mean=mean, low=low, high=high
        )

    def document(self, doc_id: int) -> DocumentInfo:
        for document in self.snapshot.dataset.documents:
            if document.doc_id == doc_id:
                return document
        raise KeyError(f"there is no document with id {doc_id}")

    def _look(self, version: int) -> Snapshot:
        listed, analysis = self._listing(), self._analysis_stamps()
        dataset = self._opened(self.storage)
        running = {one.seed: one for one in running_seeds(self.storage, set(dataset.seeds))}
        stamps = {}
        for stamp in listed:
            folder, _, name = stamp[0].rpartition("/")
            seed = int(name.removeprefix("seed=").removesuffix(".parquet"))
            if seed in (running if folder.endswith(RUNNING) else dataset.seeds):
                stamps[seed] = stamp
        running = {seed: one for seed, one in running.items() if seed in stamps}
        if missing := set(dataset.seeds) - set(stamps):
            raise OSError(f"{self.storage.uri} changes while it is read (seed {min(missing)}); try again")
        self._listed = listed
        return Snapshot(version=version, dataset=dataset, running=running, stamps=stamps, analysis=analysis)

    def _analysis_stamps(self) -> tuple[Stamp, ...]:
        return tuple((info.path, info.size, info.mtime_ns) for info in self.storage.list(ANALYSIS))

    def _listing(self) -> dict[Stamp, None]:
        return {
            (info.path, info.size, info.mtime_ns): None
            for folder in (LOSSES_FOLDER, RUNNING)
            for info in self.storage.list(folder)
            if SEED_FILE.fullmatch(info.base_name)
        }

    def _read(self, snapshot: Snapshot, document: DocumentInfo, seeds: list[int]) -> Iterator[tuple[int, np.ndarray]]:
        """Seeds and their losses in this order, a few at a time read ahead."""
        try:
            for start in range(0, len(seeds), READERS):
                some = seeds[start : start + READERS]
                if len(seeds) > READERS:
                    self.reading[document.doc_id] = (start, len(seeds))
                read = self._readers.map(lambda seed: self.losses_of(snapshot, document, seed), some)
                yield from zip(some, read, strict=True)
        finally:
            self.reading.pop(document.doc_id, None)

    def _token_of_large(self, snapshot: Snapshot, document: DocumentInfo, token: int) -> np.ndarray:
        """float32 [committed seeds, steps], without the rest of a document that is too large to keep."""
        key = (document.doc_id, token, *snapshot.dataset.seeds)
        if (kept := self._get(key)) is None:
            kept = snapshot.dataset.losses(document.doc_id, token) if snapshot.dataset.seeds else np.empty((0, 1))
            self._keep(key, kept)
        return kept

    def _running_losses(self, snapshot: Snapshot, document: DocumentInfo, seed: int) -> np.ndarray:
        """float32 [steps, tokens]. The file may be newer than the snapshot: then it has more steps."""
        # Opened once: a file that is replaced meanwhile would be read half and half.
        with self.storage.filesystem.open_input_file(snapshot.stamps[seed][0]) as file:
            table = pq.read_table(file, columns=["step", "losses"], filters=[("doc_id", "=", document.doc_id)])
        steps = snapshot.dataset.steps
        losses = np.full((len(steps), document.num_losses), np.nan, np.float32)
        there = table["step"].to_numpy()
        asked = np.isin(there, steps)  # an excerpt has fewer
        found = pc.list_flatten(table["losses"]).to_numpy().reshape(len(there), document.num_losses)
        losses[np.searchsorted(steps, there[asked])] = found[asked]
        return losses

    def _fits(self, document: DocumentInfo, snapshot: Snapshot) -> bool:
        return document.num_losses * len(snapshot.dataset.steps) * 4 * len(snapshot.stamps) <= KEPT_BYTES

    def _get(self, key: tuple) -> np.ndarray | None:
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
            return self._kept.get(key)

    def _keep(self, key: tuple, losses: np.ndarray) -> None:
        with self._lock:
            if key not in self._kept:
                self._kept[key] = losses
                self._kept_bytes += losses.nbytes
            while self._kept_bytes > KEPT_BYTES:
                self._kept_bytes -= self._kept.popitem(last=False)[1].nbytes

    def _document_lock(self, document: DocumentInfo) -> threading.Lock:
        """Held while a document is read, so that two requests do not read it twice."""
        with self._lock:
            return self._document_locks.setdefault(document.doc_id, threading.Lock())


class _Sums:
    """Sums over seeds of one document, to which seeds that are committed later are added: float64 [tokens, steps]."""

    def __init__(self, num_tokens: int, num_steps: int):
        self.stamps: dict[int, Stamp] = {}
        self.count = np.zeros((num_tokens, num_steps))
        self.total = np.zeros((num_tokens, num_steps))
        self.squares = np.zeros((num_tokens, num_steps))

    def add(self, seed: int, stamp: Stamp, losses: np.ndarray) -> None:
        there = np.isfinite(losses)
        values = np.where(there, losses, 0).astype(np.float64)
        self.stamps[seed] = stamp
        self.count += there
        self.total += values
        self.squares += values**2

    def mean_and_deviation(self) -> tuple[np.ndarray, np.ndarray]:
        with np.errstate(divide="ignore", invalid="ignore"):
            mean = self.total / self.count
            variance = np.maximum(self.squares - self.total * mean, 0) / (self.count - 1)
        return mean.astype(np.float32), np.sqrt(variance).astype(np.float32)


def over_seeds(losses: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """float32 [seeds, steps] -> mean and QUANTILES over the seeds that have a loss, float32 [steps]; nan without."""
    if not len(losses):
        return (np.full(losses.shape[1], np.nan, np.float32),) * 3
    count = np.isfinite(losses).sum(axis=0)

    # The band: numpy.nanquantile's numbers (linear interpolation, type 7 of Hyndman & Fan 1996), in a 30th of its time,
    # since it takes each step by itself.
    ordered = np.sort(losses, axis=0)  # nan comes last
    columns = np.arange(losses.shape[1])
    bands = []
    for quantile in QUANTILES:
        place = quantile * np.maximum(count - 1, 0)
        below = place.astype(int)
        above = np.minimum(below + 1, np.maximum(count - 1, 0))
        bands.append(ordered[below, columns] + (place - below) * (ordered[above, columns] - ordered[below, columns]))

    # The mean, summed in float64.
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = np.where(np.isfinite(losses), losses, 0).sum(axis=0, dtype=np.float64) / count
    return mean.astype(np.float32), bands[0].astype(np.float32), bands[1].astype(np.float32)
