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
