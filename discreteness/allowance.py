"""this process -> the cores and the memory that it may use: in a container or under a scheduler less than there are.

What counts is the affinity (taskset, SLURM), the limits of the control groups of this process and of those above them,
in both of their versions, and of the memory what nobody uses now.
"""

import math
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

PROCESS = Path("/proc/self")
MEMORY = Path("/proc/meminfo")
SHARED_MEMORY = Path("/dev/shm")
_UNLIMITED_BYTES = 2**60
"""Version 1 writes the largest multiple of a page that it can count to; no machine has so much."""


def cores() -> int:
    """Whole cores; a part of one, which a quota may leave, counts as one."""
    there = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quotas = (quota for group in _groups("cpu") if (quota := _cores_of(group)))
    return min([there, *(max(1, math.ceil(quota)) for quota in quotas)])


def memory_bytes() -> int:
    """What can be had now without pushing out anything but cached files."""
    return min([_available(), *(left for group in _groups("memory") if (left := _left_in(group)) is not None)])


def shared_memory_bytes() -> int | None:
    """Free in /dev/shm; None where there is none."""
    return shutil.disk_usage(SHARED_MEMORY).free if SHARED_MEMORY.exists() else None


def _available() -> int:
    """Of the machine. Where the kernel does not say it, as on macOS: all that there is."""
    if MEMORY.exists():
        for line in MEMORY.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return 1024 * int(line.split()[1])
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _groups(controller: str) -> Iterator[Path]:
    """Folders of this process's control groups that may limit it, from its own to the root of what is mounted.

    A container may see its own group as the root of the mount, though its path says otherwise: what is not there is
    passed over.
    """
    try:
        groups = [line.split(":", 2) for line in (PROCESS / "cgroup").read_text().splitlines()]
        mounts = [line.split() for line in (PROCESS / "mountinfo").read_text().splitlines()]
    except OSError:  # not Linux
        return
    for _, _, _, root, point, *_, kind, _, options in mounts:
        for _, names, path in groups:
            version_1 = kind == "cgroup" and controller in names.split(",") and controller in options.split(",")
            if version_1 or (kind == "cgroup2" and not names):
                inside = Path(path).relative_to(root) if Path(path).is_relative_to(root) else Path()
                yield from (Path(point) / part for part in (inside, *inside.parents))


def _cores_of(group: Path) -> float | None:
    """Of `cpu.max` ("200000 100000", or "max 100000"), or of its two files in version 1, where -1 is no quota."""
    quota, _, period = _read(group / "cpu.max").partition(" ")
    if not quota:
        quota, period = (_read(group / f"cpu.cfs_{name}_us") for name in ("quota", "period"))
    return int(quota) / int(period) if quota.isdigit() and period.isdigit() and int(period) else None


def _left_in(group: Path) -> int | None:
    """Its limit less what it has taken, cached files that nobody has read twice not counted; None: it has no limit."""
    for limit, taken, cached in (
        ("memory.max", "memory.current", "inactive_file"),
        ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ):
        text = _read(group / limit)
        if text.isdigit() and int(text) < _UNLIMITED_BYTES:
            used = int(_read(group / taken) or 0)
            files = dict(line.split() for line in _read(group / "memory.stat").splitlines())
            return max(0, int(text) - max(0, used - int(files.get(cached, 0))))
    return None


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
