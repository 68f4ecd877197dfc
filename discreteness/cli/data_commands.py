"""The subcommands of `discreteness data`: token shards made, described, checked.

- Each is a dataclass: its fields are the arguments, its docstrings the help, a call runs it and returns the exit code.
- What a command needs is imported by its call, so that --help is instant.
"""

from dataclasses import dataclass
from typing import Annotated

import tyro


@dataclass(frozen=True)
class Make:
    """Make the shards that a track reads from a folder of text, with all cores."""

    texts: Annotated[str, tyro.conf.Positional]
    """Folder. A file is a document; of a .jsonl file every line is one: an object with a "text"."""
    data: str | None = None
    """As for run: the shards go where --data of a run finds them."""
    track: str = "small"
    """The track that is to read them: tells folder and names."""
    glob: str = "**/*.txt"
    """Which files of the folder; hidden ones are left out."""
    val_tokens: int | None = None
    """Tokens kept for validation, at least. Default: the track's."""
    shard_tokens: int = 100_000_000
    """Tokens of one training shard."""
    max_document_tokens: int | None = None
    """Longer documents are split, and each piece is a document. Default: as many as the track reads of one, so that
    nothing is left unread."""

    def __call__(self) -> int:
        from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn
        from speedrun.tracks import track

        from discreteness.experiment.prepare import data_folder
        from discreteness.shards.make import make_shards

        recipe = track(self.track)
        with Progress(BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn()) as bar:
            task = bar.add_task("encoding", total=None)
            made = make_shards(
                self.texts,
                data_folder(self.data, recipe),
                recipe,
                glob=self.glob,
                val_tokens=self.val_tokens,
                shard_tokens=self.shard_tokens,
                max_document_tokens=self.max_document_tokens,
                progress=lambda done, total: bar.update(task, completed=done, total=total),
            )
        print(f"{made.documents} documents in {made.folder}")
        print(
            f"training: {made.train_tokens} tokens, shards: {made.train_shards}; validation: {made.val_tokens} tokens"
        )
        if made.long_documents:
            pieces = made.long_documents + made.further_pieces
            print(
                f"split: {made.long_documents} documents of more than {made.max_document_tokens} tokens into {pieces} "
                f"pieces, each a document of its own (--max-document-tokens)"
            )
        if made.max_document_tokens > (most := recipe.data.max_document_tokens):
            print(
                f"warning: track {recipe.name} reads the first {most} tokens of a document and leaves out what lies "
                "behind: give no more to --max-document-tokens"
            )
        for oddity, files in made.odd.items():
            print(f"warning: {len(files)} files, such as {files[0]}, {oddity}")
        return 0


@dataclass(frozen=True)
class Info:
    """What shards hold: tokens, documents and their lengths, and how much of it a track would train on. Exit code 1 if
    one of them is damaged."""

    paths: Annotated[tuple[str, ...], tyro.conf.Positional]
    """Shards, or folders with shards (.bin) anywhere below them."""
    track: str = "small"
    """The track whose training is counted, update by update, on the shards that have the names of its training
    shards."""
    workers_per_trainer: int = 1
    """As for run. Several take their tokens from one shard together, and leave more of its end."""

    def __call__(self) -> int:
        from speedrun.tracks import track

        from discreteness.shards.report import report_shards, report_supply

        reports = list(report_shards(self.paths))
        print(f"{'tokens':>12}{'documents':>12}{'mean':>9}{'longest':>12}  shard")
        for report in reports:
            mean = report.tokens / max(report.documents, 1)
            print(f"{report.tokens:>12}{report.documents:>12}{mean:>9.1f}{report.longest_document:>12}  {report.path}")
            for problem in report.problems:
                print(f"problem: {problem}")
        tokens, documents = (sum(getattr(report, name) for report in reports) for name in ("tokens", "documents"))
        print(f"{tokens:>12}{documents:>12}{tokens / max(documents, 1):>9.1f}{'':>12}  in all")
        sound = (report.path for report in reports if not report.problems)
        for line in report_supply(sound, track(self.track), self.workers_per_trainer):
            print(line)
        return 1 if any(report.problems for report in reports) else 0


@dataclass(frozen=True)
class Verify:
    """Read every token of shards and say what is wrong with them."""

    paths: Annotated[tuple[str, ...], tyro.conf.Positional]
    """Shards, or folders with shards (.bin) anywhere below them."""

    def __call__(self) -> int:
        from discreteness.shards.report import report_shards

        reports = list(report_shards(self.paths))
        problems = [problem for report in reports for problem in report.problems]
        for problem in problems:
            print(problem)
        print(f"{len(reports)} shards: " + (f"{len(problems)} problems" if problems else "complete and correct"))
        return 1 if problems else 0


DATA_COMMANDS = ("make", "info", "verify")
"""Names of what follows; each is said again where tyro has to see it."""


@dataclass(frozen=True)
class Data:
    """Token shards: make them from text, describe them, check them."""

    action: Annotated[
        Annotated[Make, tyro.conf.subcommand("make")]
        | Annotated[Info, tyro.conf.subcommand("info")]
        | Annotated[Verify, tyro.conf.subcommand("verify")],
        tyro.conf.arg(name=""),
    ]

    def __call__(self) -> int:
        return self.action()
