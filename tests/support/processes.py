"""process ids of a program's descendants, read from /proc."""

import os
import time
from pathlib import Path


def descendants(pid):
    """{process id: command line} of everything that `pid` started, directly or not."""
    children, commands = {}, {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            stat = (entry / "stat").read_text()
            commands[int(entry.name)] = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue  # it ended while we looked
        parent = int(stat.rpartition(")")[2].split()[1])
        children.setdefault(parent, []).append(int(entry.name))
    found, todo = {}, [pid]
    while todo:
        for child in children.get(todo.pop(), []):
            found[child] = commands[child]
            todo.append(child)
    return found


def named(pid, name):
    """Ids of the descendants whose command line holds `name`, ascending."""
    return sorted(child for child, command in descendants(pid).items() if name in command)


def gone(pids, timeout_s=300):
    """Waits until none of `pids` runs; returns those that still do."""
    deadline_s = time.monotonic() + timeout_s
    while True:
        left = [pid for pid in pids if _runs(pid)]
        if not left or time.monotonic() > deadline_s:
            return left
        time.sleep(0.2)


def _runs(pid):
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
