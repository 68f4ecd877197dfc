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
        told = {"track": name, "world size": identity.get("world_size"), "packing": identity.get("packing")}
        known = ", ".join(f"{what} {value}" for what, value in told.items() if value is not None)
        print(known or "a model of your own")
        print(f"seeds vary {identity.get('vary')}: {words_of(identity)}")
        print(f"identity {state.identity_hash}")
        print(f"plan: {state.steps} checkpoints x {state.documents} documents ({state.losses_per_step} losses)")
        print(f"committed: {len(seeds)} seeds: {ranges(seeds)}")
        for seed, called in state.names.items():
            print(f"seed {seed} is {called}")
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
        from discreteness.dataset.verify import notes, verify

        problems = verify(self.path)
        for note in notes(self.path):
            print(f"note: {note}")
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
class Annotate:
    """Note of each token how frequent it is in the training shards, what a bigram model makes of it, and whether it
    stood in its document before."""

    path: Annotated[str, tyro.conf.Positional]
    data: str | None = None
    """As for run: where the shards are that the seeds were trained on."""

    def __call__(self) -> int:
        from rich.console import Console
        from rich.progress import track as progress_bar

        from discreteness.dataset.reader import open as open_dataset
        from discreteness.experiment.annotate import annotate

        console = Console(stderr=True)
        bar = partial(progress_bar, description="counting", console=console, disable=not console.is_terminal)
        corpus = annotate(self.path, self.data, bar)
        found = open_dataset(self.path).annotations()
        counted = f"{sum(tokens for _, tokens in corpus.shards):,} tokens of {len(corpus.shards)} shards"
        print(f"annotated: {len(found)} tokens, {counted if corpus.shards else 'not trained on shards: none counted'}")
        if corpus.shards:
            means = [found[name].to_numpy().mean() for name in ("unigram_loss", "bigram_loss")]
            print(f"mean loss of a unigram model {means[0]:.3f}, of a bigram model {means[1]:.3f} nats")
        print(f"groups of tokens: discreteness analyze {self.path} --by bigram_loss")
        return 0


@dataclass(frozen=True)
class Analyze:
    """Which tokens are learned in a drop, when, how sharply, and how alike in all seeds: tables and pictures. With
    several datasets of the same documents: when each token is learned in each of them."""

    path: Annotated[str, tyro.conf.Positional]
    others: Annotated[tuple[str, ...], tyro.conf.Positional] = ()
    """Datasets of the same documents, to be compared with the first and with each other; --output must be given."""
    output: str | None = None
    """Folder of the tables and pictures. Default: `analysis` in the dataset."""
    figure: str | None = None
    """Where to put a copy of the overview, a PNG; with several datasets, of the picture that compares them. Default:
    nowhere but in the folder of the tables."""
    json: bool = False
    """Print the numbers as JSON instead of the summary: docs/analysis.md describes each."""
    by: tuple[str, ...] = ()
    """Show groups of tokens as well, by columns such as category, answer or position; those of `discreteness annotate`
    are repeated, induction, count, pair_count, unigram_loss and bigram_loss."""

    def __call__(self) -> int:
        if self.others:
            return self._compare()
        from json import dumps

        from discreteness.analysis.analyze import analyze
        from discreteness.analysis.figures.draw import draw
        from discreteness.analysis.groups import check_column, groups_by, known_of_tokens, table_of
        from discreteness.analysis.summary import summary
        from discreteness.analysis.tables import output_storage
        from discreteness.dataset.reader import open as open_dataset

        dataset = open_dataset(self.path)
        storage, prefix = output_storage(dataset.storage, self.output)
        storage.check_writable()  # before the fits, which may take minutes
        known = known_of_tokens(dataset) if self.by else None
        for column in self.by:
            check_column(known, column)
        self._check_figure()
        found = analyze(self.path, self.output)
        draw(dataset, found, self.output)
        if self.figure:
            Path(self.figure).write_bytes(storage.read(f"{prefix}overview.png"))
        groups = {column: groups_by(found.fits, known, column) for column in self.by}
        if self.json:
            by = {column: [group.as_json() for group in members] for column, members in groups.items()}
            print(dumps(found.numbers.as_json() | ({"by": by} if by else {}), indent=1))
            return 0
        print(summary(dataset, found))
        for column, members in groups.items():
            print(f"\n{table_of(column, members)}")
        overview = self.figure or storage.path(f"{prefix}overview.png")
        print(f"\ntables and pictures: {storage.path(prefix)}\noverview: {overview}")
        return 0

    def _compare(self) -> int:
        from json import dumps

        from discreteness.analysis.figures.draw import draw_joined
        from discreteness.analysis.joined import FIGURE, join
        from discreteness.dataset.storage import open_storage

        if self.output is None:
            raise ValueError("several datasets are compared in a folder of their own; name it with --output")
        if self.by:
            raise ValueError(f"--by {' '.join(self.by)}: groups are of one dataset; leave them out")
        self._check_figure()
        found = join([self.path, *self.others], self.output)
        draw_joined(found, self.output)
        storage = open_storage(self.output)
        if self.figure:
            Path(self.figure).write_bytes(storage.read(f"{FIGURE}.png"))
        summary = f"{found.summary()}\n\ntable and picture: {storage.uri}"
        print(dumps(found.as_json(), indent=1) if self.json else summary)
        return 0

    def _check_figure(self) -> None:
        from discreteness.dataset.storage import open_storage

        if self.figure:
            open_storage(Path(self.figure).absolute().parent).check_writable()


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
