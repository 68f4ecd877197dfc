"""A recorder: the losses of a model that somebody trains in a loop of their own, as one seed of a dataset.

    recorder = Recorder("runs/mine", documents="texts", tokenizer=tokenizer, seed=0, last_step=10_000)
    for step in range(10_001):
        if step in recorder:
            recorder.record(step, model)
        ...
    recorder.commit()

- A curve comes from one training: steps ascend, none is left out, and only a saved state lets another process go on.
- Recording changes nothing of the training: not weights, modes or gradients, nor torch's random numbers.
- Of several ranks each calls, as a sharded model needs all of them to compute; rank 0 alone writes.
"""

import os
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from discreteness.dataset.attempt_rows import AttemptRows
from discreteness.dataset.manifest import listed
from discreteness.dataset.runs_file import RUNS
from discreteness.dataset.storage import open_storage
from discreteness.dataset.writer import DatasetWriter
from discreteness.experiment.documents import Document
from discreteness.recording.experiment import RecordedExperiment, recorded_experiment
from discreteness.recording.kept_rows import NOTHING, KeptRows, Row, chained, check_chain, forget
from discreteness.recording.ranks import on_rank_0, same_on_all
from discreteness.scoring.logits import LogitsScorer, check_context, context_of

SHOWING_SHARE = 0.005
"""The part of the time that is spent on writing the rows so far for the page: all of them each time, so less often the
more there are."""
RECORDS = tuple(name for name in RUNS.names if name != "step")


class Recorder:
    """Records one seed: see the top of this file."""

    def __init__(
        self,
        output: str | os.PathLike[str],
        *,
        tokenizer: Any,
        last_step: int,
        documents: str | Path | None = None,
        seed: int = 0,
        checkpoints: str | Sequence[int] = "log:200",
        bos: bool | int | None = None,
        identity: Mapping[str, Any] | None = None,
        max_tokens_per_batch: int = 8192,
        context: int | None = None,
        device: str | torch.device | None = None,
        allow_code_change: bool = False,
    ):
        """Checks everything that can be checked before a model is there, and writes nothing yet.

        output: folder of the dataset, or a URI such as s3://bucket/run; other seeds of the same experiment may be there
        or be recorded at the same time. tokenizer: of transformers, tokenizers or tiktoken, or "gpt2". last_step:
        updates of the training. documents: a folder of .txt files, a .jsonl file, or None for the built-in ones.
        checkpoints: the steps, as --checkpoints takes them, or a list; step 0 and the last are always among them.
        bos: what stands before each document; None: what the tokenizer itself puts there, True: its BOS, False:
        nothing, or the id of a token. identity: whatever else decides the losses (model, data, optimizer), as plain
        JSON: all seeds of a dataset share it, and another one is refused. max_tokens_per_batch: of scoring, padding
        included. context: the most tokens that the model takes, where it does not say so itself. device: where ids go,
        by default that of the model's first parameter. allow_code_change: go on after the code that scores has changed.

        Raises IdentityMismatch (a ValueError that names the fields) if the dataset there is another experiment's,
        DocumentError for documents that cannot be scored, TypeError for a tokenizer that is not known, OSError if the
        place cannot be written, and ValueError if the seed is committed already or an argument is wrong.
        """
        self._max_tokens_per_batch = max_tokens_per_batch
        self._context = context
        self._device = device

        def describe() -> RecordedExperiment:
            found = recorded_experiment(
                open_storage(output),
                seed=seed,
                tokenizer=tokenizer,
                documents=documents,
                bos=bos,
                checkpoints=checkpoints,
                last_step=last_step,
                max_tokens_per_batch=max_tokens_per_batch,
                own=identity or {},
                allow_code_change=allow_code_change,
            )
            if context is not None:
                check_context(found.documents, context)
            return found

        self._experiment = same_on_all("the arguments", describe, RecordedExperiment.same_for)
        on_rank_0(self._experiment.check_place)
        self._planned = frozenset(self.plan)
        self._scorer: LogitsScorer | None = None
        self._dataset: DatasetWriter | None = None
        """On rank 0, from the first row on."""
        self._dtypes: dict[str, str] | None = None
        self._rows = AttemptRows()
        self._attempt = on_rank_0(lambda: uuid.uuid4().hex[:12])
        self._last_step = -1
        self._restored_step = -1
        self._chain = NOTHING
        self._committed = False
        self._show_from_s = 0.0

    @property
    def seed(self) -> int:
        """Which seed of the dataset it records."""
        return self._experiment.seed

    @property
    def plan(self) -> tuple[int, ...]:
        """Steps to record, ascending."""
        return self._experiment.plan

    @property
    def documents(self) -> tuple[Document, ...]:
        """What is scored, in the dataset's order."""
        return self._experiment.documents

    def __contains__(self, step: int) -> bool:
        """Whether a step is to be recorded: it is planned, and was not recorded before a state was restored."""
        return step in self._planned and step > self._restored_step

    def record(self, step: int, model: Callable[..., Any], records: Mapping[str, float] | None = None) -> None:
        """Scores the model as it is after `step` updates, and keeps the losses on disk.

        model: a callable of int64 ids [batch, tokens] that returns logits [batch, tokens, vocabulary], or an object
        that has them as `.logits`. records: further values of this step for `runs/`, such as {"train_loss": 3.2}.

        Raises ValueError if the step is not planned, is recorded already, or comes before an earlier one that is
        planned and not recorded; LossNotFinite for a loss that is NaN or infinite; OSError if nothing can be written.
        Nothing is recorded then, and the same step may be tried again.
        """
        self._check_step(step)
        record = self._checked_records(records)
        scorer = self._scorer_of(model)
        losses = scorer.score(model)
        row = Row(int(step), losses, record, _dtypes(model, scorer))
        self._chain = on_rank_0(lambda: self._keep(row))
        self._last_step = row.step

    def commit(self) -> None:
        """Makes the seed's file appear in the dataset. Raises ValueError if a planned step is not recorded, or if the
        seed was committed by another process; after an OSError it may be tried again."""
        self._check_not_committed()
        if missing := [step for step in self.plan if step > self._last_step]:
            raise ValueError(
                f"seed {self.seed} is not complete: steps {listed(missing)} are planned and not recorded; record them "
                "before the commit"
            )
        on_rank_0(self._commit)
        self._committed = True

    def state_dict(self) -> dict[str, Any]:
        """What belongs into the checkpoint of a training that is to go on in another process: which rows on disk are
        this training's. Plain values, the same on every rank; the rows stay in the dataset's folder `_recorded/`."""
        return {
            "seed": self.seed,
            "attempt": self._attempt,
            "step": self._last_step,
            "chain": self._chain,
            "experiment": self._experiment.hash_of_meaning(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on where a state was taken; rows of later steps, which the restored training makes again, are dropped.

        Raises ValueError if it is the state of another seed or experiment, if its rows are gone or damaged, or if they
        are of another continuation of that training.
        """
        self._check_not_committed()
        state = same_on_all("the states", lambda: self._checked_state(state), dict)
        on_rank_0(lambda: self._restore(state["attempt"], state["step"], state["chain"]))
        self._attempt = state["attempt"]
        self._last_step = self._restored_step = state["step"]
        self._chain = state["chain"]

    def _check_step(self, step: int) -> None:
        self._check_not_committed()
        if step not in self._planned:
            raise ValueError(f"step {step!r} is not planned: record only where `step in recorder`")
        if step <= self._last_step:
            raise ValueError(
                f"step {step} is recorded already, the last was {self._last_step}: steps ascend, and another training "
                "needs another Recorder"
            )
        if missing := [one for one in self.plan if self._last_step < one < step]:
            raise ValueError(
                f"step {step} comes before steps {listed(missing)}, which are planned: record every step that is in "
                "the recorder; a training that goes on needs load_state_dict first"
            )

    def _check_not_committed(self) -> None:
        if self._committed:
            raise ValueError(f"seed {self.seed} is committed; another training needs another Recorder")

    def _checked_records(self, records: Mapping[str, float] | None) -> dict[str, Any]:
        for name in records or {}:
            if name not in RECORDS:
                raise ValueError(
                    f"records has {name!r}, which has no column in runs/; give any of {', '.join(RECORDS)}"
                )
        return {name: RUNS.field(name).type.to_pandas_dtype()(value).item() for name, value in (records or {}).items()}

    def _checked_state(self, state: Mapping[str, Any]) -> Mapping[str, Any]:
        what, own = "", self.state_dict()
        if set(state) != set(own):
            what = "none of a recorder"
        elif state["experiment"] != own["experiment"]:
            what = f"that of seed {state['seed']} of another experiment"
        elif state["seed"] != self.seed:
            what = f"that of seed {state['seed']}"
        if what:
            raise ValueError(f"this state is {what}; give seed {self.seed} its own, of the same arguments")
        return state

    def _scorer_of(self, model: Callable[..., Any]) -> LogitsScorer:
        if self._scorer is None:
            first = next(model.parameters(), None) if isinstance(model, torch.nn.Module) else None
            self._scorer = LogitsScorer(
                self.documents,
                max_tokens_per_batch=self._max_tokens_per_batch,
                context=context_of(model) if self._context is None else self._context,
                device=self._device or (first.device if first is not None else "cpu"),
            )
        return self._scorer

    def _keep(self, row: Row) -> str:
        """Rank 0's part of a record. The chain after this row."""
        if self._dtypes not in (None, row.dtypes):
            raise ValueError(
                f"the model of seed {self.seed} computes in {row.dtypes} at step {row.step}, and in {self._dtypes} "
                "before: one curve needs one arithmetic"
            )
        if self._dataset is None:
            self._dataset = self._experiment.open(row.dtypes)
        self._dtypes = row.dtypes
        KeptRows(self._experiment.storage, self.seed, self._attempt).write(row)
        self._add(row)
        began_s = time.monotonic()
        if began_s >= self._show_from_s:
            self._rows.show(self._dataset, self.seed, self._attempt)
            ended_s = time.monotonic()
            self._show_from_s = ended_s + (ended_s - began_s) / SHOWING_SHARE
        return chained(self._chain, row)

    def _add(self, row: Row) -> None:
        self._rows.add_losses(row.step, row.losses)
        self._rows.add_records([{"step": row.step, **row.record}])

    def _restore(self, attempt: str, last_step: int, stated: str) -> None:
        """Rank 0's part of going on: the rows of that attempt up to this step, and no others."""
        kept = KeptRows(self._experiment.storage, self.seed, attempt)
        steps = [step for step in self.plan if step <= last_step]
        rows, chain = [kept.read(step) for step in steps], NOTHING
        for row in rows:
            chain = chained(chain, row)
        check_chain(chain, stated, self.seed, steps)
        kept.drop_after(last_step)
        self._rows = AttemptRows()
        for row in rows:
            self._add(row)
        self._dtypes = rows[-1].dtypes if rows else None
        self._dataset = self._experiment.open(self._dtypes) if rows else None
        self._show_from_s = 0.0

    def _commit(self) -> None:
        assert self._dataset is not None, "a complete seed has rows"
        self._rows.commit(self._dataset, self.seed, self._attempt)
        forget(self._experiment.storage, self.seed)


def _dtypes(model: Any, scorer: LogitsScorer) -> dict[str, str]:
    """The kind of arithmetic, as far as it shows: dtypes of the weights, and of the logits."""
    weights = sorted({_name(part.dtype) for part in model.parameters()}) if isinstance(model, torch.nn.Module) else []
    assert scorer.logits_dtype is not None, "it has scored"
    return {"weights": ", ".join(weights), "logits": _name(scorer.logits_dtype)}


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
