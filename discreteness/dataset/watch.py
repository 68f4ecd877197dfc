"""dataset -> its seeds by state, pace, time left, GPU-hours: once, as JSON, or on the terminal until all is done.

From the dataset alone, so from any machine that can read it. The seeds that are still to come are those of the newest
job that said in log/ what it is to train; what no file tells is None, never guessed.
"""

import json
import os
import signal
import time
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from discreteness.dataset.lock import describe, read_holder
from discreteness.dataset.manifest import listed
from discreteness.dataset.status import Status, status
from discreteness.dataset.storage import Storage, open_storage
from discreteness.experiment.plan import parse_seeds

REFRESH_S = 3.0
LOOK_SHARE = 0.2
"""Most of the time that is spent looking: an object store answers slowly and counts requests."""


@dataclass(frozen=True, kw_only=True)
class Seen:
    """One look. `planned`: seeds of the newest job, None where none is known; `failed`: those it has given up, with
    the last error; `waiting`: those of which nothing is written yet, which on an object store may be in training;
    `holder`: who holds the dataset's lock, None if nobody does.
    """

    status: Status
    planned: tuple[int, ...] | None
    failed: dict[int, str]
    waiting: tuple[int, ...]
    seeds_per_hour: float | None
    """Commits of the newest job, from its start to its last commit."""
    left_s: float | None
    holder: str | None

    @property
    def settled(self) -> bool:
        """Every planned seed is committed or failed."""
        open_seeds = {running.seed for running in self.status.running} | set(self.waiting)
        return self.planned is not None and not open_seeds.intersection(self.planned)

    @property
    def device(self) -> str:
        """What one worker of a trainer group occupies: a GPU, or a core on a track for CPUs."""
        track = self.status.identity.get("track")
        return "GPU" if isinstance(track, dict) and track.get("needs_gpu") is True else "core"

    @property
    def device_hours(self) -> float | None:
        """What training has taken: seconds of updates, of lost attempts too, times the workers of a group. Start-up,
        scoring and waits are not in it. None: no file tells."""
        workers = self.status.identity.get("world_size")
        if type(workers) is not int or not self.status.trained_s:
            return None
        return self.status.trained_s * workers / 3600


def look(uri: str | os.PathLike[str] | Storage, now_s: float | None = None) -> Seen:
    """`now_s`: seconds since 1970, now by default. Errors as status.status."""
    storage = open_storage(uri)
    state = status(storage)
    holder = read_holder(storage)
    jobs = [job for event in state.jobs if (job := _job(event))]
    if not jobs:
        return Seen(
            status=state,
            planned=None,
            failed={},
            waiting=(),
            seeds_per_hour=None,
            left_s=None,
            holder=describe(holder) if holder else None,
        )
    began_s, planned, max_attempts = jobs[-1]
    times_s = state.commit_times_s
    committed = {seed.seed for seed in state.committed}
    running = {seed.seed for seed in state.running}
    lost: dict[int, list[str]] = {}
    for event in state.failed_attempts:
        seed, when_s = event.get("seed"), _time_s(event)
        if type(seed) is int and when_s is not None and when_s >= began_s:
            lost.setdefault(seed, []).append(str(event["error"]))
    failed = {
        seed: lost[seed][-1]
        for seed in planned
        if seed not in committed and seed not in running and len(lost.get(seed, ())) >= max_attempts
    }
    waiting = tuple(seed for seed in planned if seed not in committed | running | failed.keys())
    commits_s = [when_s for seed in planned if (when_s := times_s.get(seed, 0.0)) > began_s]
    pace = len(commits_s) / (max(commits_s) - began_s) if commits_s else None
    num_left = len(waiting) + len(running.intersection(planned))
    left_s = None
    if pace and holder:
        left_s = max(0.0, max(commits_s) + num_left / pace - (time.time() if now_s is None else now_s))
    return Seen(
        status=state,
        planned=planned,
        failed=failed,
        waiting=waiting,
        seeds_per_hour=3600 * pace if pace else None,
        left_s=left_s,
        holder=describe(holder) if holder else None,
    )


def as_json(seen: Seen) -> str:
    """One object; seeds as lists, times in seconds, null where nothing is known."""
    state = seen.status
    content = {
        "identity_hash": state.identity_hash,
        "steps": state.steps,
        "documents": state.documents,
        "losses_per_step": state.losses_per_step,
        "planned": seen.planned,
        "committed": [seed.seed for seed in state.committed],
        "running": [asdict(seed) for seed in state.running],
        "failed": [{"seed": seed, "error": error} for seed, error in seen.failed.items()],
        "waiting": seen.waiting,
        "lost_attempts": state.failed_attempts,
        "not_counted": state.invalid,
        "rows": state.rows,
        "bytes": state.num_bytes,
        "device": seen.device,
        "device_hours": seen.device_hours,
        "seeds_per_hour": seen.seeds_per_hour,
        "left_s": seen.left_s,
        "holder": seen.holder,
    }
    return json.dumps(content, indent=1)


def watch(uri: str | os.PathLike[str] | Storage, console: Console | None = None) -> int:
    """Shows the dataset until every planned seed is committed (0) or failed (1), or SIGINT comes (130).

    Errors of the first look as status.status; of a later one they are shown, and it is looked again.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job begins without one
    seen = look(uri)
    pause_s = REFRESH_S
    try:
        with Live(picture(seen), console=console, auto_refresh=False) as live:
            while not seen.settled:
                time.sleep(pause_s)
                began_s = time.monotonic()
                try:
                    seen, trouble = look(uri), ""
                except OSError as error:
                    trouble = f"cannot be read now: {error}"
                live.update(picture(seen, trouble), refresh=True)
                pause_s = max(REFRESH_S, (time.monotonic() - began_s) / LOOK_SHARE)
    except KeyboardInterrupt:
        return 130
    return 1 if seen.failed else 0


def picture(seen: Seen, trouble: str = "") -> Group:
    """Seeds by state, then what is known of the whole. Text of files is never markup."""
    state = seen.status
    table = Table("state", "seeds", "which")
    committed = [seed.seed for seed in state.committed]
    table.add_row("committed", str(len(committed)), listed(committed))
    for running in state.running:
        table.add_row("running" if seen.holder else "begun", "1", f"{running.seed}: {running.steps} of {state.steps}")
    for seed, error in seen.failed.items():
        table.add_row("failed", "1", Text(f"{seed}: {' '.join(error.split())}"))
    table.add_row("waiting", *((str(len(seen.waiting)), listed(seen.waiting)) if seen.planned else ("?", "not known")))
    for name, reason in state.invalid.items():
        table.add_row("not counted", "", Text(f"{name}: {reason}"))
    spent = "" if seen.device_hours is None else f"; {seen.device_hours:,.2f} {seen.device}-hours trained"
    pace = "pace not known" if seen.seeds_per_hour is None else f"{seen.seeds_per_hour:.3g} seeds/h"
    left = "" if seen.left_s is None else f", about {timedelta(seconds=round(seen.left_s))} left"
    held = f"held by {seen.holder}" if seen.holder else "no job holds it"
    lines = [
        f"{state.rows} rows, {state.num_bytes / 1e6:.1f} MB{spent}; {pace}{left}; {held}",
        *([trouble] if trouble else []),
    ]
    return Group(table, *(Text(line) for line in lines))


def _job(event: dict[str, Any]) -> tuple[float, tuple[int, ...], int] | None:
    """Start (s since 1970), seeds and attempts a seed of a logged job; None where it does not say them."""
    seeds, max_attempts, began_s = event.get("seeds"), event.get("max_attempts"), _time_s(event)
    if not isinstance(seeds, str) or type(max_attempts) is not int or began_s is None:
        return None
    try:
        return began_s, parse_seeds(seeds), max(1, max_attempts)
    except ValueError:
        return None


def _time_s(event: dict[str, Any]) -> float | None:
    try:
        return datetime.fromisoformat(str(event.get("time"))).timestamp()
    except (ValueError, OverflowError, OSError):
        return None
