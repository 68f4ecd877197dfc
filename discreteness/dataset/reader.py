"""A dataset as it is read: losses as arrays, words, records of training.

dataset = discreteness.open("runs/tiny")
dataset.losses("elements.txt", token=7)  # float32 [seeds, steps]
"""

import html
import json
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset

from discreteness.dataset.annotations import read_annotations
from discreteness.dataset.by_token.parts import PartReader, first_tokens, read_parts
from discreteness.dataset.by_token.token_file import DamagedPart
from discreteness.dataset.choice import Choice, Chosen, choose, is_whole
from discreteness.dataset.find import Match, matches
from discreteness.dataset.long_form import long_form
from discreteness.dataset.manifest import DocumentInfo, listed, read_documents, read_manifest
from discreteness.dataset.names import names_of
from discreteness.dataset.paths import EXPERIMENT_FILE
from discreteness.dataset.runs_file import read_runs
from discreteness.dataset.seed_file import LOSSES, ROW_GROUP_LOSSES, CommittedSeed, mean_over_tokens, read_losses, scan
from discreteness.dataset.storage import Storage, open_storage
from discreteness.dataset.vary import words_of

logger = logging.getLogger(__name__)

PART_RETRIES = 3
"""How often parts that vanish while they are read are looked up again, before the seeds themselves are read."""


class Dataset:
    """A dataset as it was when opened: seeds committed later appear when it is opened again.

    What `discreteness compact` made is used where it is faster; the answers are the same to the bit. It can be pickled,
    and so be given to other processes: there it has the same seeds.
    """

    seeds: list[int]
    """Committed seeds, ascending: the axis `seeds` of losses."""
    steps: list[int]
    """Steps of the checkpoints, ascending, 0 (before the first update) included: the axis `steps` of losses."""
    documents: list[DocumentInfo]
    """In the order of their ids; each has `doc_id`, `name`, `category`, `num_losses`: of all tokens but the first."""
    experiment: dict[str, Any]
    """experiment.json as it is: the identity with track, steps and arithmetic, and the sources that were accepted."""
    invalid: dict[str, str]
    """Files of losses/ that are not counted, by path, with the reason."""
    storage: Storage
    """Where the dataset lies: `storage.uri`, and `storage.read(path)` for the bytes of one of its files."""

    def __init__(self, storage: Storage):
        self.storage = storage
        self._manifest = read_manifest(storage)
        self.experiment = json.loads(storage.read(EXPERIMENT_FILE))
        self._committed, self.invalid = scan(storage, self._manifest)
        self.seeds = list(self._committed)
        self.steps = list(self._manifest.steps)
        self.documents = list(self._manifest.documents)
        self._first = dict(zip((d.doc_id for d in self.documents), first_tokens(self._manifest), strict=True))
        self._parts = self._read_parts()

    def __getstate__(self) -> dict[str, Any]:
        """For pickle: the same seeds, also where others have come since, without the words, which are read again."""
        return {name: value for name, value in vars(self).items() if name != "_documents_table"}

    def __repr__(self) -> str:
        about = ", ".join(f"{name}: {value}" for name, value in self._about().items())
        return f"<Dataset {self.storage.uri}, {about}>"

    def _repr_html_(self) -> str:
        """The same for a notebook: a small table."""
        rows = {"dataset": self.storage.uri, **self._about()}
        cells = (f"<tr><th>{name}</th><td>{html.escape(value)}</td></tr>" for name, value in rows.items())
        return f"<table>{''.join(cells)}</table>"

    def _about(self) -> dict[str, str]:
        def counted(numbers: list[int]) -> str:
            if len(numbers) < 2:
                return f"1 ({numbers[0]})" if numbers else "none"
            return f"{len(numbers)} ({numbers[0]} to {numbers[-1]})"

        return {
            "seeds": counted(self.seeds),
            **({"names": listed(self.names.values(), 4)} if self.names else {}),
            "vary": str(self.vary),
            "steps": counted(self.steps),
            "documents": str(len(self.documents)),
            "tokens": str(sum(document.num_losses for document in self.documents)),
        }

    def losses(
        self,
        doc: str | int,
        token: Choice | None = None,
        seeds: Choice | None = None,
        steps: Choice | None = None,
        answers: bool = False,
    ) -> np.ndarray:
        """Losses in nats, float32 [seeds, steps, tokens], in the order asked for; None is everything.

        Selection is by value, not by position: `steps=200` is update 200, not the 200th checkpoint. A number drops
        its axis, as in NumPy: `token=7` gives [seeds, steps], `seeds=0, token=7` gives [steps]. A list, range or
        array of numbers keeps it, and so does a slice, which is half-open and selects what exists in its range:
        `steps=slice(0, 100)`.

        `doc`: name or id. `token`: token_index of documents.parquet, 1 to N: token 0, which is BOS of the speedrun's
        tracks, has no loss, so index i of the last axis is token i + 1. `answers`: the document's answers instead. The
        axes may lie in memory in any order. Raises ValueError if what is asked for does not exist, is nothing, or is
        not of whole numbers: nothing is filled in.
        """
        document = self.document(doc)
        tokens = self._tokens(document, token, answers)
        if not self.seeds:
            raise ValueError(f"no seed is committed in {self.storage.uri} yet")
        chosen, at = self._seeds(seeds), self._steps(steps)
        losses = self._losses(document, np.array(tokens.numbers, np.int64) - 1, chosen.numbers, self._places(at))
        return losses[chosen.axis, at.axis, tokens.axis]

    def seed(self, seed: int) -> np.ndarray:
        """All of one seed in nats, float32 [steps, losses of all documents, one document after another]."""
        return read_losses(self.storage, self._manifest, self._one_seed(seed), self.documents)

    def mean_curves(self, seeds: Choice | None = None) -> np.ndarray:
        """Mean loss of each document in nats, float64 [documents, seeds, steps], or [documents, steps] of a single
        seed; `seeds` as of `losses`. Seconds where seeds are not compacted.
        """
        asked = self._seeds(seeds)
        chosen = asked.numbers
        means = np.empty((len(self.documents), len(chosen), len(self.steps)))

        def from_part(part: PartReader, rows: list[int], columns: list[int]) -> None:
            means[:, rows] = part.means[:, columns]

        for row in self._from_parts(chosen, lambda part, rows: True, from_part):
            losses = self.seed(chosen[row])
            for index, document in enumerate(self.documents):
                first = self._first[document.doc_id]
                means[index, row] = mean_over_tokens(losses[:, first : first + document.num_losses])
        return means[:, asked.axis]

    def blocks(
        self, max_bytes: int = 2**28, seeds: Choice | None = None, steps: Choice | None = None
    ) -> Iterator[tuple[DocumentInfo, np.ndarray, np.ndarray]]:
        """Everything in pieces of at most `max_bytes`, or of one token: document, tokens int64 (T,), and their
        losses as `losses` gives them for these seeds and steps; document after document.
        """
        asked, at = self._seeds(seeds), self._steps(steps)
        chosen, places = asked.numbers, self._places(at)
        most = max(1, max_bytes // (4 * max(1, len(chosen) * len(places))))
        for document in self.documents:
            for first in range(0, document.num_losses if chosen else 0, most):
                tokens = np.arange(first, min(first + most, document.num_losses))
                yield document, tokens + 1, self._losses(document, tokens, chosen, places)[asked.axis, at.axis]

    def table(
        self,
        doc: str | int,
        token: Choice | None = None,
        seeds: Choice | None = None,
        steps: Choice | None = None,
        answers: bool = False,
    ) -> pa.Table:
        """What `losses` gives, as Arrow rows sorted as they were asked for: doc_id, document (its name), token_index,
        token (its text), step, seed, loss.
        """
        document = self.document(doc)
        tokens = np.array(self._tokens(document, token, answers).numbers, np.int64)
        if not self.seeds:
            raise ValueError(f"no seed is committed in {self.storage.uri} yet")
        chosen, at = self._seeds(seeds), self._steps(steps)
        losses = self._losses(document, tokens - 1, chosen.numbers, self._places(at))
        return long_form(document, tokens, self.texts(doc, tokens), at.numbers, chosen.numbers, losses)

    def to_xarray(self, doc: str | int, seeds: Choice | None = None, steps: Choice | None = None) -> Any:
        """xarray.DataArray of one document with dimensions seed, step, token and their coordinates, also the text of
        each token. A number drops its dimension, as in `losses`, and stays as a coordinate. Raises ValueError if
        xarray is not installed.
        """
        try:
            import xarray
        except ImportError:
            raise ValueError("to_xarray needs xarray; run: pip install 'discreteness[xarray]'") from None
        document = self.document(doc)
        rows = self.tokens(doc).slice(1)
        chosen, at = self._seeds(seeds), self._steps(steps)
        dropped = [name for name, asked in (("seed", chosen), ("step", at)) if asked.single]
        return xarray.DataArray(
            self.losses(doc, seeds=seeds, steps=steps),
            dims=[name for name in ("seed", "step", "token") if name not in dropped],
            coords={
                "seed": chosen.numbers[0] if chosen.single else chosen.numbers,
                "step": at.numbers[0] if at.single else at.numbers,
                "token": rows["token_index"].to_numpy(),
                "text": ("token", rows["token_text"].to_pylist()),
                "answer": ("token", rows["answer"].to_numpy()),
            },
            name=document.name,
            attrs={"units": "nat"},
        )

    @property
    def vary(self) -> str | None:
        """What a seed changes: "init", its initial weights; "data", the order of its training documents; "both". None
        if the experiment does not say.
        """
        return self.experiment["identity"].get("vary")

    @property
    def seeds_differ(self) -> str:
        """The same in words: how two seeds of this dataset differ."""
        return words_of(self.experiment["identity"])

    @property
    def attempts(self) -> dict[int, str]:
        """Committed seed -> the attempt that its rows come from."""
        return {seed: committed.attempt for seed, committed in self._committed.items()}

    @property
    def names(self) -> dict[int, str]:
        """seed -> name of the model that it is, in a series; of a training run's seeds nothing."""
        return names_of(self._committed)

    def document(self, doc: str | int) -> DocumentInfo:
        """A document by its name or id. ValueError names those that exist."""
        for document in self.documents:
            if doc == document.name or (is_whole(doc) and doc == document.doc_id):
                return document
        raise ValueError(
            f"there is no document {doc!r}; there are "
            f"{listed((f'{d.name!r} ({d.doc_id})' for d in self.documents), 50)}"
        )

    def answers(self, doc: str | int) -> list[int]:
        """Token indices of a document's answers, ascending."""
        rows = self.tokens(doc)
        return rows.filter(rows["answer"])["token_index"].to_pylist()

    def runs(self, seed: int) -> pa.Table:
        """Per-step values of the attempt that was committed: seed, attempt, step, train loss, ... Raises
        FileNotFoundError if they are gone, and OSError if they are damaged."""
        return read_runs(self.storage, self._one_seed(seed))

    def tokens(self, doc: str | int) -> pa.Table:
        """Rows of documents.parquet of one document, one per token that the model is given."""
        rows = self._documents_table
        return rows.filter(pc.equal(rows["doc_id"], self.document(doc).doc_id))

    def annotations(self) -> pa.Table:
        """What `discreteness annotate` found of each token that has a loss, in the order of documents and tokens:
        doc_id, token_index, and the columns that docs/dataset.md describes. Raises FileNotFoundError if it was not run,
        and ValueError if its file is damaged or of other documents.
        """
        return read_annotations(self.storage, self._manifest)[0]

    def find(self, text: str, doc: str | int | None = None) -> list[Match]:
        """Where a text stands, in one document or in all: runs of whole tokens that spell exactly this text.

        `dataset.find(" Paris")` finds the token " Paris" and also " Par" followed by "is", but not "Paris" without the
        space. Document after document; each match has `document` and `tokens`, which `losses` takes as they are:
        `dataset.losses(match.document, token=match.tokens)`. [] if it stands nowhere. Raises ValueError if the text is
        empty.
        """
        documents = self.documents if doc is None else [self.document(doc)]
        return [match for document in documents for match in matches(text, self.tokens(document.doc_id))]

    def document_table(self) -> pa.Table:
        """One row per document, in the order of their ids: doc_id, name, category, tokens (which have a loss), answers
        (how many of them are one).
        """
        return pa.table(
            {
                "doc_id": pa.array([document.doc_id for document in self.documents], pa.int32()),
                "name": [document.name for document in self.documents],
                "category": [document.category for document in self.documents],
                "tokens": [document.num_losses for document in self.documents],
                "answers": [len(self.answers(document.doc_id)) for document in self.documents],
            }
        )

    def texts(self, doc: str | int, tokens: Sequence[int] | np.ndarray | None = None) -> list[str]:
        """Text of these tokens of a document, or of all that have a loss. Bytes that are not a whole character are
        shown as U+FFFD.
        """
        texts = self.tokens(doc)["token_text"].to_pylist()
        return texts[1:] if tokens is None else [texts[token] for token in tokens]

    def arrow(self) -> pa.dataset.Dataset:
        """Arrow dataset over the committed seeds' files."""
        files = [self.storage.path(committed.path) for committed in self._committed.values()]
        return pa.dataset.dataset(files, schema=LOSSES, format="parquet", filesystem=self.storage.filesystem)

    @cached_property
    def _documents_table(self) -> pa.Table:
        return read_documents(self.storage, self._manifest)

    def _one_seed(self, seed: int) -> CommittedSeed:
        (number,) = choose("seed", [seed], self.seeds).numbers
        return self._committed[number]

    def _seeds(self, seeds: Choice | None) -> Chosen:
        return choose("seed", seeds, self.seeds)

    def _steps(self, steps: Choice | None) -> Chosen:
        return choose("step", steps, self.steps)

    def _places(self, steps: Chosen) -> np.ndarray:
        return np.searchsorted(self._manifest.steps, np.array(steps.numbers, np.int64))

    def _tokens(self, document: DocumentInfo, token: Choice | None, answers: bool) -> Chosen:
        """Token indices, 1 to N."""
        if answers and token is not None:
            raise ValueError(f"token={token!r} with answers=True: both choose tokens; give answers or token, not both")
        if answers:
            return Chosen(self.answers(document.doc_id))
        there = range(1, document.num_losses + 1)
        return choose("token", token, there, f" with a loss in document {document.name!r}")

    def _losses(self, document: DocumentInfo, tokens: np.ndarray, seeds: list[int], places: np.ndarray) -> np.ndarray:
        """float32 [seeds, steps, tokens] of tokens and steps by place."""
        losses = np.empty((len(tokens), len(places), len(seeds)), np.float32)  # as parts have it
        if not losses.size:
            return losses.transpose(2, 1, 0)
        num_steps = len(self._manifest.steps)

        def pays(part: PartReader, rows: list[int]) -> bool:
            """Whether the part decodes fewer losses than the seeds' files would."""
            pages = len(np.unique(places // part.part.page_steps))
            in_part = len(tokens) * pages * part.part.page_steps * len(part.part.seeds)
            return in_part <= len(rows) * max(ROW_GROUP_LOSSES, document.num_losses * num_steps)

        def from_part(part: PartReader, rows: list[int], columns: list[int]) -> None:
            nonlocal losses
            found = part.losses(self._first[document.doc_id] + tokens, places)
            if rows == columns == list(range(found.shape[2])) and len(rows) == len(seeds):
                losses = found
            else:
                losses[:, :, rows] = found[:, :, columns]

        for row in self._from_parts(seeds, pays, from_part):
            found = read_losses(self.storage, self._manifest, self._committed[seeds[row]], [document])
            losses[:, :, row] = found[np.ix_(places, tokens)].T
        return losses.transpose(2, 1, 0)

    def _from_parts(
        self,
        seeds: list[int],
        pays: Callable[[PartReader, list[int]], bool],
        take: Callable[[PartReader, list[int], list[int]], None],
    ) -> list[int]:
        """Lets each part that pays fill in its seeds; returns the places of the others in `seeds`.

        A compaction may delete a part that is being read: then its successor is looked up, or the seeds are read. Of a
        part that is damaged the seeds are read, too.
        """
        left = list(range(len(seeds)))
        for _ in range(PART_RETRIES):
            try:
                for part in self._parts:
                    rows = [row for row in left if seeds[row] in part.columns]
                    if rows and pays(part, rows):
                        take(part, rows, [part.columns[seeds[row]] for row in rows])
                        left = [row for row in left if seeds[row] not in part.columns]
            except FileNotFoundError:
                self._parts = self._read_parts()
            except DamagedPart as error:
                logger.warning("%s; until then its seeds are read one by one", error)
                self._parts = [other for other in self._parts if other is not part]
            else:
                break
        return left

    def _read_parts(self) -> list[PartReader]:
        try:
            parts = read_parts(self.storage, self._manifest)
        except ValueError as error:
            logger.warning("%s", error)
            parts = ()
        return [PartReader(self.storage, self._manifest, part, self._committed) for part in parts]


def open(uri: str | os.PathLike[str] | Storage) -> Dataset:
    """Opens a dataset for reading. Raises FileNotFoundError if there is none, and ValueError if it is damaged or of
    another version.
    """
    return Dataset(open_storage(uri))
