"""command line -> one call. What is heavy is imported where it is used, so that --help is instant."""

import io
import os
import select
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import tyro

import discreteness
from discreteness.cli.command_names import check_name
from discreteness.cli.data_commands import DATA_COMMANDS, Data
from discreteness.cli.dataset_commands import (
    Analyze,
    Annotate,
    Compact,
    Export,
    Page,
    Rescore,
    Status,
    Verify,
    View,
    Watch,
)
from discreteness.cli.model_commands import Generate, Score, Validate
from discreteness.cli.series_commands import CheckSeries, score_series
from discreteness.cli.sharing_commands import Merge, Publish
from discreteness.experiment.config import JobConfig
from discreteness.series.config import SeriesConfig

if TYPE_CHECKING:
    from discreteness.experiment.documents import Document

ENDED_BY_SIGPIPE = 128 + signal.SIGPIPE
"""What a shell shows for a program that wrote where nobody reads."""


def run_seeds() -> None:
    """`python jobs/run_seeds.py`: the service, on this machine or on the cluster that RAY_ADDRESS names."""

    def command() -> int:
        return _service(
            tyro.cli(tyro.conf.OmitArgPrefixes[JobConfig], prog="run_seeds.py", description=JobConfig.__doc__)
        )

    _finish(command)


def score_checkpoints() -> None:
    """`python jobs/score_checkpoints.py`: a series of checkpoints that others have trained."""

    def command() -> int:
        return score_series(tyro.cli(SeriesConfig, prog="score_checkpoints.py", description=SeriesConfig.__doc__))

    _finish(command)


@dataclass(frozen=True, kw_only=True)
class Run:
    """Train seeds and record the losses: the service, or one process with --inline."""

    config: Annotated[tyro.conf.OmitArgPrefixes[JobConfig], tyro.conf.arg(name="")]
    inline: bool = False
    """Train and score in this process, without Ray (under torchrun: one process per rank)."""

    def __call__(self) -> int:
        if not self.inline:
            return _service(self.config)
        self.config.check()  # a typo is answered before anything heavy is imported
        from discreteness.service.inline import run_inline

        return run_inline(self.config)


@dataclass(frozen=True)
class Documents:
    """The documents that would be scored: names, tokens, answers."""

    path: Annotated[str | None, tyro.conf.Positional] = None
    """Folder of UTF-8 .txt files, in which ⟦ and ⟧, or [answer[ and ]answer], stand around answers; a .jsonl file,
    or val:200, as for run. Default: the built-in documents."""
    show: str | None = None
    """Name of one document, with or without .txt, to print with its answers marked."""
    track: str = "auto"
    """As for run: whose validation shards val:200 reads."""
    data: str | None = None
    """As for run: where they are."""

    def __call__(self) -> int:
        from speedrun.data.tokenizer import decode_bytes

        from discreteness.experiment.validation_documents import asked_count, cut_note

        documents = self._load()
        if self.show is None:
            for document in documents:
                print(f"{document.name:<32}{len(document.token_ids) - 1:>6} tokens{len(document.answers):>6} answers")
            if asked_count(self.path):
                print(cut_note(documents))
            return 0
        chosen = [document for document in documents if document.name in (self.show, f"{self.show}.txt")]
        if not chosen:
            names = ", ".join(document.name for document in documents)
            raise ValueError(f"--show {self.show!r}: no such document; there are {names}")
        for index, token in enumerate(chosen[0].token_ids):
            mark = "answer" if index in chosen[0].answers else ""
            print(f"{index:>5} {token:>6} {decode_bytes(token).decode(errors='replace')!r:<24}{mark}")
        return 0

    def _load(self) -> "list[Document]":
        from discreteness.experiment.documents import built_in
        from discreteness.experiment.prompts import documents_at
        from discreteness.experiment.validation_documents import asked_count

        if not asked_count(self.path):  # nothing of torch, which the track's shards need
            return documents_at(self.path) if self.path else built_in()
        from speedrun.tracks import track

        from discreteness.cluster.machines import this_machine
        from discreteness.experiment.prepare import load_documents

        name = self.track if self.track != "auto" else this_machine().track("auto")
        return load_documents(self.path, self.data, track(name))


@dataclass(frozen=True)
class Doctor:
    """Check this machine, or the cluster that RAY_ADDRESS names, for a run: one line per check, with what to do."""

    track: str = "auto"
    """As for run."""
    data: str | None = None
    """As for run."""
    output: str | None = None
    """As for run: checked for whether it can be written. Default: not checked."""

    def __call__(self) -> int:
        from discreteness.cluster.doctor import diagnose

        findings = diagnose(self.track, self.data, self.output)
        for finding in findings:
            print(finding)
        count = {level: sum(finding.level == level for finding in findings) for level in ("problem", "warning")}
        print(f"{count['problem']} problems, {count['warning']} warnings")
        return 1 if count["problem"] else 0


COMMANDS: dict[str, Callable] = {
    "run": Run,
    "status": Status,
    "watch": Watch,
    "verify": Verify,
    "doctor": Doctor,
    "compact": Compact,
    "documents": Documents,
    "export": Export,
    "merge": Merge,
    "publish": Publish,
    "rescore": Rescore,
    "annotate": Annotate,
    "analyze": Analyze,
    "view": View,
    "page": Page,
    "check-series": CheckSeries,
    "data": Data,
    "score": Score,
    "generate": Generate,
    "validate": Validate,
}


def main() -> None:
    """The `discreteness` command."""
    _finish(lambda: _parsed(sys.argv[1:])())


def _parsed(arguments: list[str]) -> Callable[[], int]:
    """What the arguments ask for. Raises SystemExit after --help, --version and options that are wrong, and ValueError
    if there is no such command.
    """
    if arguments == ["--version"]:
        print(f"discreteness {discreteness.__version__}")
        raise SystemExit(0)
    for name in arguments[:1]:
        check_name(name, list(COMMANDS), "discreteness")
    if arguments[:1] == ["data"]:
        for name in arguments[1:2]:
            check_name(name, DATA_COMMANDS, "discreteness data")
    about = f"discreteness {discreteness.__version__}. `discreteness COMMAND --help` explains a command."
    return tyro.extras.subcommand_cli_from_dict(COMMANDS, prog="discreteness", description=about, args=arguments)


def _service(config: JobConfig) -> int:
    config.check()  # a typo is answered before anything heavy is imported
    if not os.environ.get("RAY_ADDRESS"):
        # Under `uv run` Ray would upload this folder to the machine on which it is. Read by `import ray`.
        os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    from discreteness.service.driver import leave
    from discreteness.service.seeds_job import run

    leave(run(config))


def _finish(command: Callable[[], int]) -> None:
    """Runs and ends the process with its code. What the user can mend is one line; our own errors keep their
    traceback. Where nobody reads the output any more, as after `| head`, it ends without a word."""
    code: int | str | None
    for stream in (sys.stdout, sys.stderr):  # a terminal may lack a letter, which is no reason to end
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        try:
            code = command()
        except SystemExit as end:  # tyro's
            code = end.code
        sys.stdout.flush()
    except (ValueError, OSError) as error:
        if isinstance(error, BrokenPipeError) and _reader_left():
            # What is left in the buffer goes nowhere: Python flushes once more at its end, and would tell of the error.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            code = ENDED_BY_SIGPIPE
        else:
            print("error: " + " ".join(str(error).split()), file=sys.stderr)
            code = 2
    sys.exit(code)


def _reader_left() -> bool:
    """Whether stdout is a pipe that was closed at its other end: a broken connection elsewhere is an error."""
    poll = select.poll()
    poll.register(sys.stdout.fileno(), select.POLLOUT)
    return any(events & (select.POLLERR | select.POLLHUP) for _, events in poll.poll(0))
