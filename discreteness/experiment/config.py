"""The two halves of a command line, both frozen.

- ExperimentConfig is what the experiment is. It decides the losses, so a run that continues an experiment must agree
  with it in all of this.
- RunConfig is how the experiment is run, and how much of it. It may differ from one run to the next.
"""

import math
from dataclasses import dataclass
from typing import Literal

from discreteness.experiment.seeds import parse_seeds

Packing = Literal["isolated", "reference"]


@dataclass(frozen=True, kw_only=True)
class ExperimentConfig:
    """What the experiment is. To continue one, all of this must be the same."""

    track: str = "auto"
    """tiny, small, medium or auto: small where the cluster has Hopper GPUs, tiny where it has none."""
    data: str | None = None
    """Folder that holds the track's shards. Default: DATA_PATH or the current folder; for tiny a cache that is
    filled on first use."""
    checkpoints: str = "log:64"
    """Planned steps: every:N, log:COUNT, log:COUNT,min-gap:N or a list. Step 0 and the last are always in."""
    documents: str | None = None
    """Folder of UTF-8 .txt files to score; a .jsonl file of objects with "prompt" and "answer", or "text"; or val:200
    for 200 documents of the validation shards, chosen at random and always the same; what is longer than 2047 tokens is
    cut. Default: the built-in documents."""
    vary: Literal["init", "data", "both"] = "init"
    """What a seed changes. init: its initial weights; all seeds read the same data in the same order. data: the order
    of the documents of all training shards; all seeds start from the weights of seed 0. both: both."""
    epochs: int = 1
    """Passes over the training shards that a seed may take. 1: a run whose shards are too few for one pass is refused.
    A further pass changes what is learned; with --vary data or both it has another order."""
    packing: Packing = "isolated"
    """isolated: a document's losses do not depend on its neighbours. reference: all documents in one sequence, as the
    original program packs them (docs/SPEEDRUN.md, section 8)."""
    score_tokens: int = 16_384
    """Most tokens in one scoring batch."""
    workers_per_trainer: int = 1
    """8, 4, 2 or 1 processes (one GPU each; one CPU each on tiny) that train one seed together."""
    attention: Literal["auto", "flash3", "varlen", "reference"] = "auto"
    """auto: varlen on GPUs, reference on CPUs. varlen: torch's own kernels. reference: plain matrix products, on any
    device. flash3: FlashAttention-3, on Hopper GPUs, from the folder in FLASH_ATTENTION_3 or from the hub at the commit
    in FLASH_ATTENTION_3_REVISION (docs/security.md)."""
    fp8: bool = True
    """8-bit products in the training head, on GPUs; scoring never uses them."""
    deterministic: bool = True
    """Training repeats to the bit on one type of GPU, which costs up to 10 %, the longer the
    documents the more; a CPU always does."""
    micro_batch_tokens: int = 65_536
    """Most tokens that a worker trains in one pass; fewer take less memory."""

    def check(self) -> None:
        """ValueError names the flag whose value cannot be. Apart from construction: a parser would box the line."""
        if self.workers_per_trainer not in (1, 2, 4, 8):
            raise ValueError(f"--workers-per-trainer {self.workers_per_trainer}: use 8, 4, 2 or 1")
        _check_bounds(self, score_tokens=16, micro_batch_tokens=16, epochs=1)


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """How it is run, and for which seeds. This may change from one run of an experiment to the next."""

    seeds: str = "0-3"
    """0-299, or 0,5,7, or 0-9,20-29. Seeds that are committed already are not trained again."""
    output: str = "runs/experiment"
    """Dataset directory, or a URI such as s3://bucket/run."""
    trainers: int | None = None
    """Trainers at work at the same time: each is the processes that train one seed. Default: as many as fit now, at
    least one."""
    gpu_type: str | None = None
    """Accelerator type that trainers need, by Ray's name, such as H100. Default: any."""
    evaluators: int | None = None
    """Evaluators in the pool. Default: one per GPU of the trainers, which it shares; on tiny one per trainer; with
    --evaluator-gpus 1 one per machine."""
    evaluator_gpus: float = 0.1
    """Share of a GPU that an evaluator reserves, which trainers leave free. 1: evaluators have GPUs of their own, any
    that are free, and trainers whole ones."""
    max_in_flight: int = 8
    """Most checkpoints of one trainer that are published and whose losses have not been accepted yet."""
    object_store_gb: float | None = None
    """Size of the object store of a Ray that is started here. Default: 30 percent of the memory that can be had, less
    where /dev/shm is small."""
    max_attempts: int = 3
    """Training runs of a seed before it counts as failed."""
    start_timeout_s: float = 600
    """How long a trainer may wait for its place."""
    val_tokens: int | None = None
    """Tokens of the validation loss, scored by the pool every `validate_every` steps of the track; 0: off. Default:
    the track's."""
    verify_every: int = 0
    """Every n-th checkpoint is scored by its trainer as well, and the two must be equal; 0: off."""
    keep_weights: str = "none"
    """none, last, or steps such as 0,100,360: checkpoints kept as safetensors."""
    allow_code_change: bool = False
    """Continue an experiment although the sources of trainer or scoring have changed since."""
    take_over: bool = False
    """Continue although another driver seems to hold the dataset."""
    log_format: Literal["text", "json"] = "text"
    """json: one object per line on stdout, with time, level, event, message, and seed, attempt, trainer, step where
    they apply."""
    dry_run: bool = False
    """Print the plan, with what a run would refuse, and stop."""
    price_per_gpu_hour: float | None = None
    """What one GPU costs per hour, in any currency: the plan says what the seeds that are left cost."""
    assume: str | None = None
    """With --dry-run: plan for these GPUs and not for those that are here; 8xH100, or 4x8xH100 for four nodes."""

    def check(self) -> None:
        """ValueError names the flag whose value cannot be. Apart from construction: a parser would box the line."""
        from discreteness.dataset.storage import refuse_credentials  # pyarrow, which --help does not need

        refuse_credentials(self.output)
        parse_seeds(self.seeds)
        counts = dict.fromkeys(("trainers", "evaluators", "max_in_flight", "max_attempts", "start_timeout_s"), 1)
        _check_bounds(self, **counts, val_tokens=0, verify_every=0, price_per_gpu_hour=0, object_store_gb=0.1)
        if self.assume is not None and not self.dry_run:
            raise ValueError(
                f"--assume {self.assume}: machines that are not here can only be planned for; add --dry-run"
            )
        if not 0 < self.evaluator_gpus <= 1:
            raise ValueError(
                f"--evaluator-gpus {self.evaluator_gpus}: a share of one GPU, above 0 and at most 1, which is a GPU of "
                "its own"
            )


@dataclass(frozen=True, kw_only=True)
class JobConfig:
    """Train seeds and record the loss of every token of the documents at every planned checkpoint."""

    experiment: ExperimentConfig = ExperimentConfig()
    run: RunConfig = RunConfig()

    def check(self) -> None:
        """Errors as those of the two halves."""
        self.run.check()
        self.experiment.check()


def _check_bounds(config: ExperimentConfig | RunConfig, **least: float) -> None:
    for name, bound in least.items():
        value = getattr(config, name)
        if value is not None and not bound <= value < math.inf:
            raise ValueError(f"--{name.replace('_', '-')} {value}: must be at least {bound}")
