"""The subcommands between people: datasets made one, and made public. Built like those of dataset_commands.py."""

from dataclasses import dataclass
from functools import partial
from typing import Annotated

import tyro


@dataclass(frozen=True)
class Merge:
    """Make one dataset of several of the same experiment; an interrupted merge is gone on with by the same command."""

    paths: Annotated[tuple[str, ...], tyro.conf.Positional]
    """Datasets, in whose order a seed is taken that several hold with equal losses. Unequal ones are refused."""
    output: str
    """Dataset directory or URI: new, or of the same experiment, which then keeps its own seeds."""
    allow_code_change: bool = False
    """Also merge datasets that differ in the code that made them, if the change cannot change losses."""
    take_over: bool = False
    """As for run."""

    def __call__(self) -> int:
        from rich.console import Console
        from rich.progress import track as progress_bar

        from discreteness.dataset.sharing.merge import merge
        from discreteness.dataset.status import ranges

        console = Console(stderr=True)
        bar = partial(progress_bar, description="merging", console=console, disable=not console.is_terminal)
        merged = merge(self.paths, self.output, self.allow_code_change, self.take_over, bar)
        print(f"merged: {len(merged.seeds)} seeds in {self.output}: {ranges(merged.seeds)}")
        print(f"copied now: {ranges(merged.added)}; in several, with equal losses: {ranges(merged.shared)}")
        for name, reason in merged.not_counted.items():
            print(f"not counted: {name}: {reason}")
        return 0


@dataclass(frozen=True)
class Publish:
    """Put the committed seeds of a compacted dataset on the Hugging Face hub; interrupted, the same command goes on.

    The token is the hub's own: log in with `hf auth login`, or set HF_TOKEN.
    """

    path: Annotated[str, tyro.conf.Positional]
    repo: str
    """OWNER/NAME of a dataset's repository, created where there is none."""
    license: str
    """An identifier of the hub, such as cc-by-4.0, mit or other: under which others may use the losses."""
    question: str | None = None
    """What the experiment asks, for the card. Default: whether things are learned in drops, and alike in all seeds."""
    hardware: str | None = None
    """On what it was trained, for the card, such as "8 H100". Default: the number of GPUs or cores."""
    weights: bool = False
    """Kept weights too."""
    private: bool = False
    """A repository that is created can be read by its owner alone."""
    dry_run: bool = False
    """List files and bytes; ask nothing of the hub."""

    def __call__(self) -> int:
        from rich.console import Console
        from rich.progress import track as progress_bar

        from discreteness.dataset.sharing.card import QUESTION, Words
        from discreteness.dataset.sharing.publish import publish

        console = Console(stderr=True)
        bar = partial(progress_bar, description="publishing", console=console, disable=not console.is_terminal)
        words = Words(licence=self.license, question=self.question or QUESTION, hardware=self.hardware or "")
        published = publish(self.path, self.repo, words, self.weights, self.private, self.dry_run, bar)
        num_bytes = sum(published.files.values())
        if self.dry_run:
            for name, size in published.files.items():
                print(f"{size:>14,}  {name}")
            print(f"{len(published.files)} files, {num_bytes / 1e6:.1f} MB would be published at {self.repo}")
            return 0
        print(f"published: {len(published.files)} files, {num_bytes / 1e6:.1f} MB; sent now: {len(published.sent)}")
        print(f'all hashes agree; discreteness.open("hf://datasets/{self.repo}@{published.commit}")')
        return 0
