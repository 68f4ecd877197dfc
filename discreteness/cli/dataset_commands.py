"""The subcommands that take a dataset: what is there, what it says, what is wrong with it.

- Each is a dataclass: its fields are the arguments, its docstrings the help, a call runs it and returns the exit code.
- What a command needs is imported by its call, so that --help is instant and reading needs neither torch nor Ray.
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import tyro


@dataclass(frozen=True)
class Status:
    """What a dataset holds: identity, seeds by state, rows, bytes."""

    path: Annotated[str, tyro.conf.Positional]
    json: bool = False
    """One JSON object instead of lines."""

    def __call__(self) -> int:
        from discreteness.dataset.status import as_json, job_status, ranges
        from discreteness.dataset.vary import words_of

        seen = job_status(self.path)
        if self.json:
            print(as_json(seen))
            return 0
        state = seen.status
        identity = state.identity
        seeds = [seed.seed for seed in state.committed]
        recipe = identity.get("track")
        name = recipe.get("name") if isinstance(recipe, dict) else recipe
        print(f"track {name}, world size {identity.get('world_size')}, packing {identity.get('packing')}")
        print(f"seeds vary {identity.get('vary')}: {words_of(identity)}")
        print(f"identity {state.identity_hash}")
        print(f"plan: {state.steps} checkpoints x {state.documents} documents ({state.losses_per_step} losses)")
        print(f"committed: {len(seeds)} seeds: {ranges(seeds)}")
        print(f"rows {state.rows}, {state.num_bytes / 1e6:.1f} MB")
        if seen.device_hours is not None:
            print(f"trained: {seen.device_hours:,.2f} {seen.device}-hours")
        for running in state.running:
            print(f"seed {running.seed} in training: {running.steps} checkpoints (attempt {running.attempt})")
        for seed, error in seen.failed.items():
            print(f"seed {seed} failed: {error}")
        if seen.waiting:
            print(f"waiting: {len(seen.waiting)} seeds: {ranges(seen.waiting)}")
        if seen.holder:
            print(f"held by {seen.holder}")
        if seen.ended:
            print(f"{seen.ended} has gone: give its command again, and it goes on from the committed seeds")
        for event in state.failed_attempts:
            print(f"lost attempt {event['attempt']} of seed {event.get('seed')}: {event['error']}")
        for name, reason in state.invalid.items():
            print(f"not counted: {name}: {reason}")
        return 0


@dataclass(frozen=True)
class Watch:
    """Show seeds by state, pace and time left, again and again, until nothing is left to train or Ctrl-C."""

    path: Annotated[str, tyro.conf.Positional]

    def __call__(self) -> int:
        from discreteness.dataset.watch import watch

        return watch(self.path)


@dataclass(frozen=True)
class Verify:
    """Read every row of a dataset and say what is wrong with it."""

    path: Annotated[str, tyro.conf.Positional]

    def __call__(self) -> int:
        from discreteness.dataset.verify import verify

        problems = verify(self.path)
        for problem in problems:
            print(problem)
        print(f"{len(problems)} problems" if problems else "complete and correct")
        return 1 if problems else 0


@dataclass(frozen=True)
class Compact:
    """Arrange a dataset by token too, so that questions about all seeds are fast; again after new seeds."""

    path: Annotated[str, tyro.conf.Positional]

    def __call__(self) -> int:
        from rich.console import Console
        from rich.progress import track as progress_bar

        from discreteness.dataset.by_token.compaction import compact

        console = Console(stderr=True)
        bar = partial(progress_bar, description="compacting", console=console, disable=not console.is_terminal)
        parts = compact(self.path, bar)
        print(f"compacted: {sum(len(part.seeds) for part in parts)} seeds, parts: {len(parts)}")
        return 0


@dataclass(frozen=True)
class Export:
    """Write a dataset as a table of one loss per row, for TensorBoard, or in a format of the shell-loop workflow."""

    path: Annotated[str, tyro.conf.Positional]
    format: Literal["parquet", "csv", "pt", "hdf5", "tensorboard"]
    output: str
    """File to write; it must not exist. pt: or a folder (there, or with a slash at its end), for one file per seed
    beside the aggregated one. tensorboard: a folder, to which seeds that are new are added."""
    precision: Literal["float32", "float16"] | None = None
    """Default: float32 in parquet and csv, float16 in pt and hdf5, which have no other."""

    def __call__(self) -> int:
        if self.format == "tensorboard":
            return self._to_tensorboard()
        from discreteness.dataset.export.files import export

        export(self.path, self.format, self.output, self.precision)
        print(f"written: {self.output}")
        return 0

    def _to_tensorboard(self) -> int:
        if self.precision not in (None, "float32"):
            raise ValueError(f"--precision {self.precision}: TensorBoard keeps float32 alone")
        from discreteness.dataset.export.tensorboard import export_tensorboard

        added = export_tensorboard(self.path, self.output)
        print(f"{added} seeds added to {self.output}; look at them with: tensorboard --logdir {self.output}")
        return 0


@dataclass(frozen=True)
class Analyze:
    """Which tokens are learned in a drop, when, how sharply, and how alike in all seeds: tables and pictures."""

    path: Annotated[str, tyro.conf.Positional]
    output: str | None = None
    """Folder of the tables and pictures. Default: `analysis` in the dataset."""
    figure: str | None = None
    """Where to put a copy of the overview, a PNG. Default: nowhere but in the folder of the tables."""
    json: bool = False
    """Print the numbers as JSON instead of the summary: docs/analysis.md describes each."""

    def __call__(self) -> int:
        from json import dumps

        from discreteness.analysis.analyze import analyze
        from discreteness.analysis.figures.draw import draw
        from discreteness.analysis.summary import summary
        from discreteness.analysis.tables import output_storage
        from discreteness.dataset.reader import open as open_dataset
        from discreteness.dataset.storage import open_storage

        dataset = open_dataset(self.path)
        storage, prefix = output_storage(dataset.storage, self.output)
        storage.check_writable()  # before the fits, which may take minutes
        if self.figure:
            open_storage(Path(self.figure).absolute().parent).check_writable()
        found = analyze(self.path, self.output)
        draw(dataset, found, self.output)
        if self.figure:
            Path(self.figure).write_bytes(storage.read(f"{prefix}overview.png"))
        if self.json:
            print(dumps(found.numbers.as_json(), indent=1))
            return 0
        overview = self.figure or storage.path(f"{prefix}overview.png")
        print(f"{summary(dataset, found)}\n\ntables and pictures: {storage.path(prefix)}\noverview: {overview}")
        return 0


@dataclass(frozen=True)
class View:
    """Show a dataset in a browser on this machine, also while it grows; or two, laid over each other."""

    path: Annotated[str, tyro.conf.Positional]
    beside: Annotated[str | None, tyro.conf.Positional] = None
    """A second dataset: then documents of the same name and tokens are shown, at the checkpoints that both have."""
    port: int = 8321
    """Port of 127.0.0.1; 0 takes a free one. From another machine: ssh -L 8321:127.0.0.1:8321 HOST."""
    open: bool = True
    """Open the page in the browser, where there is a display and a terminal."""
    allow_host: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """A host under whose name a proxy shows the page, as JupyterHub's or Colab's does; may be given several times."""

    def __call__(self) -> int:
        from discreteness.viewer.server import serve

        serve(self.path, self.port, self.allow_host, self.open, self.beside)
        return 0


@dataclass(frozen=True)
class Page:
    """Write a dataset's page into one HTML file, to send on: it needs no server and no network."""

    path: Annotated[str, tyro.conf.Positional]
    output: str
    """The file, which must not exist yet."""
    max_mb: float = 20.0
    """Most megabytes (10^6 bytes) of the file. Where the dataset is larger, seeds and checkpoints are thinned alike,
    then documents left out, and the page says so."""

    def __call__(self) -> int:
        from discreteness.viewer.static_page import write_page

        kept = write_page(self.path, self.output, self.max_mb)
        print(f"written: {self.output}, {Path(self.output).stat().st_size / 1e6:.1f} MB")
        print(f"left out for its size: {', '.join(kept.left_out)}" if kept.left_out else "nothing is left out")
        return 0


@dataclass(frozen=True)
class Rescore:
    """Score the kept weights of a dataset (--keep-weights) on other documents, into a dataset of their own."""

    path: Annotated[str, tyro.conf.Positional]
    documents: str
    """Folder of UTF-8 .txt files to score, a .jsonl file, or val:200, as for run."""
    output: str
    """Dataset directory or URI; an interrupted one is continued."""
    track: str | None = None
    """The dataset's track, which it records itself: package.module:name. Another is refused."""
    data: str | None = None
    """As for run: where the validation shards are that val:200 reads."""

    def __call__(self) -> int:
        from discreteness.scoring.rescore import rescore

        return rescore(self.path, self.documents, self.output, self.track, self.data)
