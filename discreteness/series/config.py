"""The command line of a series: which checkpoints of which models are scored on what, and how."""

from dataclasses import dataclass
from typing import Literal

from discreteness.series.names import models_of
from discreteness.series.step_names import StepPattern

DType = Literal["float32", "bfloat16", "float16"]


@dataclass(frozen=True, kw_only=True)
class ChosenModels:
    """Which checkpoints of which models."""

    models: tuple[str, ...]
    """Folders, with * and ? where there are many ('runs/seed-*'), or names of the Hugging Face hub, with braces
    ('EleutherAI/pythia-160m-seed{1..9}'). They are seeds 0, 1, 2, ... in this order."""
    checkpoints: str | None = None
    """Pattern of sub-folders ('checkpoint-*') or branches ('step*') that are checkpoints. Default: all whose names hold
    a step."""
    step_pattern: str | None = None
    """Regular expression that finds the step in such a name, in its first group. Default: that of step1000,
    checkpoint-500, stage1-step1000-tokens5B and the like."""
    steps: str | None = None
    """Steps to score, of those that all models have: a list such as 0,1000,2000, every:N (those that N divides, the
    first and the last), or log:COUNT (those nearest to such a plan). Default: all, which must be the same in all
    models."""
    skip_broken: bool = False
    """Leave out, for all models, the steps whose files are missing or cut in one; the dataset names them. What shows
    only when it is scored, such as a loss that is NaN, still fails its model."""

    def check(self) -> None:
        """Raises ValueError that names the flag whose value cannot be."""
        models_of(self.models)
        StepPattern(self.step_pattern)


@dataclass(frozen=True, kw_only=True)
class SeriesConfig(ChosenModels):
    """Record the loss of every token of the documents at the checkpoints of models that others have trained."""

    documents: str | None = None
    """Folder of UTF-8 .txt files to score, or a .jsonl file of objects with "prompt" and "answer", or "text". Default:
    the built-in documents."""
    output: str = "runs/series"
    """Dataset directory, or a URI such as s3://bucket/run."""
    tokenizer: str | None = None
    """Folder or name of the hub that the tokenizer comes from. Default: the models' own, which must agree."""
    bos: Literal["auto", "yes", "no"] = "auto"
    """Whether a BOS token stands before each document. auto: as the tokenizer does it by itself."""
    dtype: DType = "float32"
    """Of the weights and the products of a model; losses are float32 in any case."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where models are scored. auto: a GPU where there is one."""
    score_tokens: int = 16_384
    """Most tokens in one scoring batch, padding included."""
    inline: bool = False
    """Score in this process, without Ray."""
    evaluators: int | None = None
    """On Ray: processes that score, each with a model. Default: as many as the cluster's GPUs have shares, or one per
    core without GPUs, and no more than there are checkpoints."""
    evaluator_gpus: float = 1.0
    """On Ray: share of a GPU that each reserves; 0.5 puts two on one GPU."""
    models_at_once: int | None = None
    """On Ray: models whose checkpoints are scored at the same time, each listed by a process of its own. Default: 2, so
    that nobody waits where one ends and the next begins."""
    max_attempts: int = 3
    """On Ray: how often a model is begun before it counts as failed. What no attempt would mend fails at once."""
    allow_code_change: bool = False
    """Continue a dataset although the sources of scoring have changed since."""
    take_over: bool = False
    """Continue although another driver seems to hold the dataset."""
    log_format: Literal["text", "json"] = "text"
    """json: one object per line on stdout."""
    dry_run: bool = False
    """Print the plan, with what a run would refuse, and stop."""

    def check(self) -> None:
        from discreteness.dataset.storage import refuse_credentials  # pyarrow, which --help does not need

        super().check()
        refuse_credentials(self.output)
        if self.score_tokens < 16:
            raise ValueError(f"--score-tokens {self.score_tokens}: must be at least 16")
        for name in "evaluators", "models_at_once", "max_attempts":
            if (count := getattr(self, name)) is not None and count < 1:
                raise ValueError(f"--{name.replace('_', '-')} {count}: must be at least 1")
        if not 0 < self.evaluator_gpus <= 1:
            raise ValueError(f"--evaluator-gpus {self.evaluator_gpus}: a share of one GPU, above 0 and at most 1")
