"""A control group with a limit of memory, of either version, for processes that a test starts."""

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.support import skips


@contextmanager
def limited_memory(num_bytes: int) -> Iterator[Path]:
    """Its folder: a process is in it that writes its number into `cgroup.procs` there. Skips where none can be made."""
    for folder, limit in ("/sys/fs/cgroup/memory", "memory.limit_in_bytes"), ("/sys/fs/cgroup", "memory.max"):
        group = Path(folder, f"discreteness-{os.getpid()}-{uuid.uuid4().hex[:8]}")
        try:
            group.mkdir()
            (group / limit).write_text(str(num_bytes))
            break
        except OSError:
            with suppress(OSError):
                group.rmdir()
    else:
        pytest.skip(skips.MEMORY_LIMIT)
    yield group
    group.rmdir()
