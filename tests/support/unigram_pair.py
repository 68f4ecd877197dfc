"""A pair of source and scorer that has nothing to do with the speedrun: a unigram model in NumPy, 64 weights.

The whole of what a user's own pair must have, and, by `faults`, each way in which one can be wrong.
"""

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from discreteness.checkpoint.seam import AttemptFailed, Bytes, JobImpossible, MachineUnfit, SeedImpossible
from discreteness.dataset.writer import DatasetWriter
from discreteness.experiment.recording import Recording
from tests.support.dataset_case import DOCUMENTS, token_bytes

CLASSES = 64
PLAN = (0, 1, 4, 6, 9)
LAYOUT = "unigram of 64 classes, float32"
RECORDING = Recording(
    documents=DOCUMENTS, plan=PLAN, seeds=(5, 6, 7), identity={"model": "unigram"}, plan_text="by hand"
)


def start_weights(seed):
    return np.random.default_rng(seed).normal(size=CLASSES).astype(np.float32)


def trained(weights, step):
    """The weights after one more update."""
    return (weights * np.float32(0.9) + np.float32(0.01 * step) * np.cos(np.arange(CLASSES, dtype=np.float32))).astype(
        np.float32
    )


def losses_of(weights, documents):
    """float32, of all documents one after another: minus the logarithm of each token's probability."""
    targets = np.concatenate([document.token_ids[1:] for document in documents]) % CLASSES
    return (np.log(np.exp(weights).sum()) - weights[targets]).astype(np.float32)


def truth(seed):
    """float32 [steps, losses], computed beside the service."""
    weights, rows = start_weights(seed), []
    for step in range(PLAN[-1] + 1):
        weights = trained(weights, step) if step else weights
        rows += [losses_of(weights, DOCUMENTS)] if step in PLAN else []
    return np.stack(rows)


def open_dataset(folder):
    return DatasetWriter.create_or_open(
        folder,
        RECORDING.identity,
        RECORDING.documents,
        token_bytes=token_bytes,
        in_vocabulary=None,
        steps=PLAN,
        plan=RECORDING.plan_text,
    )


@dataclass(frozen=True, kw_only=True)
class UnigramPair:
    """`faults`: seed -> what is wrong with it, a key of FAULTS, or of SCORERS_FAULTS."""

    faults: Mapping[int, str] = field(default_factory=dict)
    call_timeout_s: float = 30.0
    stays_on_its_machine: bool = False

    def source(self, device, process_group, tell):
        tell("drawing its weights")
        return UnigramSource(self.faults)

    def scorer(self, device):
        return UnigramScorer(self.faults)

    def weights_file(self, data, header):
        raise AssertionError("no step is kept")

    def update_flop(self, record):
        return 2.0 * CLASSES


class UnigramSource:
    library = None

    def __init__(self, faults):
        self.faults, self.prepared, self.attempts = faults, [], {}

    def prepare(self, seed):
        self.prepared.append(seed)

    def checkpoints(self, seed, steps):
        """At every step: those that are not planned are signs of life."""
        self.attempts[seed] = self.attempts.get(seed, 0) + 1
        fault: Callable = FAULTS.get(self.faults.get(seed, ""), sound)
        return fault(self._trained(seed), self.attempts[seed])

    def _trained(self, seed):
        weights = start_weights(seed)
        for step in range(PLAN[-1] + 1):
            weights = trained(weights, step) if step else weights
            record = {"step": step, "train_loss": float(weights.mean()), "batch_tokens": 8} if step else {"step": 0}
            yield Bytes(step=step, layout=LAYOUT, data=weights.view(np.uint8), records=[record])


class UnigramScorer:
    library = None

    def __init__(self, faults):
        self.faults = faults
        self.threads = set()

    def fetch(self, data, header):
        if header.layout != LAYOUT or data.nbytes != 4 * CLASSES:
            raise ValueError(f"{data.nbytes} bytes of {header.layout!r}, this scorer takes {4 * CLASSES} of {LAYOUT!r}")
        self.fetched = data

    def take(self):
        self.threads.add(threading.get_ident())
        self.weights = self.fetched.view(np.float32)

    def score(self, header):
        fault = SCORERS_FAULTS.get(self.faults.get(header.seed, ""), lambda losses, step: losses)
        return fault(losses_of(self.weights, DOCUMENTS), header.step)

    def validate(self, header, chunk):
        raise AssertionError("nothing is validated")


# ---- ways to be wrong: each takes the sound checkpoints and the number of the attempt ----


def sound(checkpoints, attempt):
    yield from checkpoints


def twice(checkpoints, attempt):
    for checkpoint in checkpoints:
        yield checkpoint
        if checkpoint.step == 4:
            yield checkpoint


def back(checkpoints, attempt):
    by_step = {checkpoint.step: checkpoint for checkpoint in checkpoints}
    yield from (by_step[step] for step in (0, 1, 4, 3, 6, 9))


def forgets(checkpoints, attempt):
    yield from (checkpoint for checkpoint in checkpoints if checkpoint.step != 4)


def ends_early(checkpoints, attempt):
    yield from (checkpoint for checkpoint in checkpoints if checkpoint.step < 6)


def shrinks(checkpoints, attempt):
    for checkpoint in checkpoints:
        yield replace(checkpoint, data=checkpoint.data[:128]) if checkpoint.step == 6 else checkpoint


@dataclass(frozen=True, kw_only=True)
class Lying(Bytes):
    """Says another size than it sends."""

    @property
    def num_bytes(self):
        return 4 * CLASSES + 1


def lies(checkpoints, attempt):
    for one in checkpoints:
        yield Lying(step=one.step, layout=one.layout, data=one.data) if one.step == 6 else one


def raises(error, until_attempt=99):
    def fault(checkpoints, attempt):
        for checkpoint in checkpoints:
            if checkpoint.step == 4 and attempt <= until_attempt:
                raise error
            yield checkpoint

    return fault


FAULTS = {
    "twice": twice,
    "back": back,
    "forgets": forgets,
    "ends early": ends_early,
    "shrinks": shrinks,
    "lies": lies,
    "passing": raises(AttemptFailed("the hub is busy"), until_attempt=1),
    "passing thrice": raises(AttemptFailed("the hub is busy")),
    "impossible": raises(SeedImpossible("its weights are no weights")),
    "impossible for all": raises(JobImpossible("no tokenizer")),
    "unfit": raises(MachineUnfit("the disk of this machine is gone")),
    "broken": raises(ZeroDivisionError("by nothing")),
}


def says(error):
    def fault(losses, step):
        if step == 4:
            raise error
        return losses

    return fault


SCORERS_FAULTS = {
    "float64": lambda losses, step: losses.astype(np.float64) if step == 4 else losses,
    "too few": lambda losses, step: losses[1:] if step == 4 else losses,
    "a list": lambda losses, step: losses.tolist() if step == 4 else losses,
    "not finite": lambda losses, step: np.where(step == 4, np.float32("nan"), losses),
    "scorer impossible": says(SeedImpossible("its pickle holds code")),
    "scorer impossible for all": says(JobImpossible("no transformers here")),
}
