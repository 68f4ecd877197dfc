"""The subcommands score, generate and validate: what a trained model makes of texts and shards.

- Each is a dataclass: its fields are the arguments, its docstrings the help, a call runs it and returns the exit code.
- What a command needs is imported by its call, so that --help is instant.
"""

from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from discreteness.inference.sampling import Sampling

if TYPE_CHECKING:
    from discreteness.inference.load import Trained


@dataclass(frozen=True, kw_only=True)
class Weights:
    """Which model."""

    checkpoint: str
    """A dataset that keeps weights, kept weights (.safetensors), or a state dict (.pt)."""
    seed: int | None = None
    """Which seed of a dataset that keeps weights of several."""
    step: int | Literal["last"] | None = None
    """Which step of a dataset that keeps several; the step of training of a file that does not say it. last: the last
    kept one, or the track's."""
    track: str | None = None
    """The track it was trained with. Default: the one that kept weights record; small for a state dict."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: a GPU where there is one and the track trains on GPUs."""

    def load(self) -> "Trained":
        from discreteness.inference.load import load_trained

        return load_trained(self.checkpoint, track_name=self.track, seed=self.seed, step=self.step, device=self.device)


@dataclass(frozen=True)
class Score:
    """Loss, probability and rank of every token of texts, by a trained model."""

    source: Annotated[str, tyro.conf.Positional]
    """Folder of .txt files, a .jsonl file as for run, a file of one text, or the text itself."""
    weights: Annotated[Weights, tyro.conf.arg(name="")]
    format: Literal["table", "json", "html"] = "table"
    output: str | None = None
    """File to write; it must not exist. Default: the terminal."""

    def __call__(self) -> int:
        from discreteness.inference.score import as_json, as_table, documents_of, score
        from discreteness.inference.score_page import page

        if self.output is not None and Path(self.output).exists():  # not after an hour of scoring
            raise FileExistsError(f"--output {self.output} exists; give another, or delete it")
        documents = documents_of(self.source)
        trained = self.weights.load()
        scored = score(trained, documents)
        if self.format == "table":
            text = as_table(scored)
        else:
            text = as_json(trained, scored) if self.format == "json" else page(trained, scored)
        if self.output is None:
            print(text)
            return 0
        with Path(self.output).open("x", encoding="utf-8") as file:
            file.write(text.rstrip("\n") + "\n")
        print(f"written: {self.output}")
        return 0


@dataclass(frozen=True)
class Generate:
    """Continue a text with a trained model."""

    prompt: Annotated[str, tyro.conf.Positional]
    """What the text begins with; it may be empty."""
    weights: Annotated[Weights, tyro.conf.arg(name="")]
    sampling: Annotated[Sampling, tyro.conf.arg(name="")] = field(default_factory=Sampling)
    max_tokens: int = 100
    """Tokens after the prompt, at most; the end of a document ends it sooner."""
    sampling_seed: int = 0
    """The same number gives the same text on the same machine."""

    def __call__(self) -> int:
        from discreteness.inference.generate import generate, text_of

        self.sampling.check()
        trained = self.weights.load()
        parts = text_of(generate(trained, self.prompt, self.max_tokens, self.sampling, self.sampling_seed))
        first = next(parts)  # what is wrong is said before anything is shown
        print(self.prompt, end="", flush=True)
        for part in chain([first], parts):
            print(part, end="", flush=True)
        print()
        return 0


@dataclass(frozen=True)
class Validate:
    """Validation loss of a trained model on shards, with percentiles of tokens and documents."""

    shards: Annotated[tuple[str, ...], tyro.conf.Positional]
    """Shards, or folders with shards anywhere below them: those with _val_ in their names, or all if there is none.
    Default: the track's validation shards."""
    weights: Annotated[Weights, tyro.conf.arg(name="")]
    data: str | None = None
    """As for run."""
    val_tokens: int | None = None
    """How many tokens. Default: all of the shards that you name; if you name none, the track's number."""
    chunk_tokens: int | None = None
    """Tokens of one pass. Default: the track's, as in training; fewer need less memory and accept shorter shards."""

    def __call__(self) -> int:
        from rich.progress import Progress

        from discreteness.experiment.prepare import data_folder
        from discreteness.inference.validate import PERCENTS, shards_of, validate

        trained = self.weights.load()
        recipe = trained.track
        shards = shards_of(self.shards, trained, data_folder(self.data, recipe))
        val_tokens = self.val_tokens
        if val_tokens is None and not self.shards:
            val_tokens = recipe.data.val_tokens
        with Progress() as bar:
            task = bar.add_task("scoring", total=None)
            found = validate(
                trained,
                shards,
                val_tokens,
                self.chunk_tokens,
                progress=lambda done, total: bar.update(task, completed=done, total=total),
            )
        where = f"{found.num_tokens} tokens of {', '.join(path.name for path in shards[:3])}"
        more = f" and {len(shards) - 3} more shards" if len(shards) > 3 else ""
        print(f"track {recipe.name}, step {trained.step}: loss {found.loss:.4f} on {where}{more}")
        print(f"{found.num_documents} whole documents: mean {found.document_mean:.4f}, std {found.document_std:.4f}")
        print("".join(f"{name:>12}" for name in ("percent", *PERCENTS)))
        for name, row in ("tokens", found.token_percentiles), ("documents", found.document_percentiles):
            print(f"{name:>12}" + "".join(f"{value:>12.4f}" for value in row))
        return 0
