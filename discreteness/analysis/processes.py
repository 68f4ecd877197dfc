"""a function + pieces of work -> results in their order, from a process per core."""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from typing import TypeVar

from rich.console import Console
from rich.progress import track as progress_bar

from discreteness import allowance

FEW_CURVES = 4000
"""Fitted in this process: a second process starts more slowly than it helps."""

T = TypeVar("T")
Result = TypeVar("Result")


@dataclass(frozen=True, kw_only=True)
class Processes:
    """`executor`: None where this process does the work itself."""

    executor: Executor | None

    def map(self, function: Callable[[T], Result], work: Sequence[T], label: str) -> Iterator[Result]:
        """In the order of `work`, with a bar on a terminal's standard error."""
        console = Console(stderr=True)
        results = map(function, work) if self.executor is None else self.executor.map(function, work)
        bar = progress_bar(results, label, len(work), console=console, disable=not console.is_terminal)
        return iter(bar)


@contextmanager
def processes(num_curves: int) -> Iterator[Processes]:
    """As many as there are cores, or none besides this one for FEW_CURVES."""
    cores = allowance.cores()
    if cores == 1 or num_curves <= FEW_CURVES:
        yield Processes(executor=None)
        return
    # Spawned: this process may have threads of Arrow's. A BLAS with threads of its own in each would only wait.
    with (
        _environment(OPENBLAS_NUM_THREADS="1", OMP_NUM_THREADS="1"),
        ProcessPoolExecutor(cores, get_context("spawn")) as pool,
    ):
        yield Processes(executor=pool)


@contextmanager
def _environment(**values: str) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
