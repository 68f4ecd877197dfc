"""an error that came through Ray -> one line: what happened, where, and what to do.

- Ray puts its own report before or around a message: a traceback, tables of memory, advice about its internals. The
  whole of it is in its log files.
- An error of a task is one of our own code, in another process. Every other RayError is what Ray says of a process, a
  machine or its memory.
"""

import re
from collections.abc import Callable

from ray.exceptions import (
    LocalRayletDiedError,
    ObjectStoreFullError,
    OutOfDiskError,
    OutOfMemoryError,
    RayError,
    RayTaskError,
    RuntimeEnvSetupError,
)

LESS_MEMORY = "fewer --trainers or --evaluators, a smaller --object-store-gb, or a machine with more memory"
USED_MEMORY = re.compile(r"\(IP: ([^,]+),.*?\) was ([\d.]+ ?GB) used / ([\d.]+ ?GB) limit")
"""In the report of Ray 2.60's memory monitor."""

TOO_LARGE = re.compile(r"upload working_dir (.+?) to the .*Package size \((.+?)\) exceeds the maximum size of (\S+iB)")


def in_one_line(error: BaseException) -> str:
    """The message alone, for what Ray reports at length with what to do."""
    for kind, words in WORDS.items():
        if isinstance(error, kind):
            return words(error)
    return last_line(error)


def is_of_a_process(error: BaseException) -> bool:
    """Whether Ray says it of a process, a machine or its memory, rather than handing on an error of our own code."""
    return isinstance(error, RayError) and not isinstance(error, RayTaskError)


def last_line(error: BaseException) -> str:
    """The message of an error without the traceback that Ray puts before it."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[-1].strip() if lines else type(error).__name__


def _of_memory(error: BaseException) -> str:
    found = USED_MEMORY.search(str(error))
    where = f"its node {found[1]} ran out of memory ({found[2]} used of {found[3]})" if found else "memory ran out"
    return f"{where}, and Ray ended it: {LESS_MEMORY}"


def _of_a_task(error: BaseException) -> str:
    """Ray's own errors keep their words. CUDA's have a page of advice behind the line that says what happened."""
    cause = getattr(error, "cause", None)
    if isinstance(cause, RayError) and not isinstance(cause, RayTaskError):
        return in_one_line(cause)
    if str(cause).startswith("CUDA error"):
        return f"{type(cause).__name__}: {str(cause).splitlines()[0]}"
    return last_line(error)


def _of_a_full_disk(_: BaseException) -> str:
    return (
        "the object store is full, and so is the disk that it falls back on (95 % of it): make room there, or give "
        "Ray a folder on another disk with RAY_TMPDIR"
    )


def _of_a_full_store(_: BaseException) -> str:
    return "the object store is full: a smaller --max-in-flight, or a larger --object-store-gb"


def _of_a_dead_node(_: BaseException) -> str:
    return "Ray's own process on this machine ended; why is in session_latest/logs/raylet.out of Ray's folder"


def _of_an_environment(error: BaseException) -> str:
    if found := TOO_LARGE.search(str(error)):
        return (
            f"under `uv run` Ray uploads {found[1]}, {found[2]} of at most {found[3]}: name what a job does not "
            f"need in {found[1]}/.rayignore, or start it without `uv run`, with .venv activated"
        )
    return " ".join(str(error).split())


WORDS: dict[type[BaseException], Callable[[BaseException], str]] = {
    OutOfMemoryError: _of_memory,
    OutOfDiskError: _of_a_full_disk,
    ObjectStoreFullError: _of_a_full_store,
    LocalRayletDiedError: _of_a_dead_node,
    RuntimeEnvSetupError: _of_an_environment,
    RayTaskError: _of_a_task,
}
"""What Ray reports at length, or with advice about its own internals."""
