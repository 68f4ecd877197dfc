"""The log of a run, on stdout: lines for a person, or one JSON object per line for a program."""

import logging
import os
import sys
from contextlib import redirect_stdout, suppress
from types import TracebackType
from typing import Any, Literal

from rich.console import Console

from discreteness.service.messages import Event, Level
from discreteness.service.others_output import OthersOutput

LOG_INTERVAL_S = 10
"""Between two lines that say how far a run is."""


class Log:
    """Where a run says what happens: stdout, which is what `ray job logs` shows. A context: between its ends what the
    package's modules log, such as a lock that is taken over, comes here too, and as JSON the error that ends the run;
    what others print, such as Ray, then goes to stderr.

    `goes_on`: whether there is work that must not end because nobody reads of it any more, as after `| head`. From then
    on nothing is written to stdout. Without such work BrokenPipeError is raised.
    """

    def __init__(self, format: Literal["text", "json"], *, goes_on: bool = True):
        self.json = format == "json"
        self.goes_on = goes_on
        self.stream = sys.stdout
        self.others = OthersOutput(sys.stderr if self.json else sys.stdout)
        self._redirection = redirect_stdout(self.others)  # type: ignore[type-var]
        self.console = _Console(file=sys.stdout, highlight=False, soft_wrap=True)
        self._handler = _Records(self)

    def say(self, message: str, event: str = "note", **about: Any) -> None:
        """`about`: further fields of Event."""
        self.tell(Event(event=event, message=message, **about))

    def tell(self, event: Event) -> None:
        try:
            if self.json:
                print(event.to_json(), file=self.stream, flush=True)
            else:
                self.console.print(event.message, markup=False)  # brackets in it are not markup
        except OSError as error:  # the reader has left, or a file's disk is full
            if not self.goes_on:
                raise
            self._fall_silent(error)

    def _fall_silent(self, error: OSError) -> None:
        """The process's stdout leads nowhere from now on, for whoever else writes to it, such as Ray, as well."""
        os.dup2(os.open(os.devnull, os.O_WRONLY), self.stream.fileno())
        with suppress(OSError):  # stderr may have gone with it
            text = f"stdout cannot be written any more ({error.strerror}): the run goes on without its lines"
            print(f"note: {text}; `discreteness watch` on its output shows where it is", file=sys.stderr, flush=True)

    def follow_live(self) -> None:
        """rich has just put a proxy in place of stdout, which draws what others print above its live line."""
        self.others.stream, sys.stdout = sys.stdout, self.others  # type: ignore[assignment]

    def leave_live(self) -> None:
        """The proxy has gone."""
        self.others.end()
        self.others.stream = self.stream

    def __enter__(self) -> "Log":
        _package().addHandler(self._handler)
        self._redirection.__enter__()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self._redirection.__exit__(kind, error, traceback)
        self.others.end()
        _package().removeHandler(self._handler)
        if self.json and isinstance(error, Exception):  # for a person it is on stderr
            self.say(f"{type(error).__name__}: {error}", "error", level="error")


class _Console(Console):
    """rich's, which by itself would end the process where the reader of a pipe has left."""

    def on_broken_pipe(self) -> None:
        raise  # the BrokenPipeError that is being handled


class _Records(logging.Handler):
    """Records of Python's logging -> events."""

    def __init__(self, log: Log):
        super().__init__(logging.WARNING)
        self.log = log

    def emit(self, record: logging.LogRecord) -> None:
        level: Level = "error" if record.levelno >= logging.ERROR else "warning"
        self.log.say(record.getMessage(), record.levelname.lower(), level=level)


def _package() -> logging.Logger:
    return logging.getLogger("discreteness")
