"""dataset -> its seeds by state, pace, time left and GPU-hours, until all seeds are done or the job's process is gone.

It reads nothing but the dataset, so it runs on any machine that can read it. The seeds that are still to come are those
of the newest job that said in log/ what it is to train. What no file tells is None, never guessed.
"""

import os
import signal
import time
from datetime import timedelta

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from discreteness.dataset.names import with_name
from discreteness.dataset.status import JobStatus, job_status, ranges
from discreteness.dataset.storage import Storage
from discreteness.dataset.vary import words_of

REFRESH_S = 3.0
LINE_S = 10.0
"""Between two lines where there is no terminal."""
LOOK_SHARE = 0.2
"""Most of the time that is spent looking: an object store answers slowly and counts requests."""


def watch(uri: str | os.PathLike[str] | Storage, console: Console | None = None) -> int:
    """Shows the dataset until every planned seed is committed (0) or failed (1), until the job has gone that trained
    it on this host (1), or until SIGINT comes (130). Where there is no terminal, it prints a line now and then.

    The first look raises what `status` raises; errors of later looks are shown, and it looks again.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job begins without one
    console = console or Console()
    seen = job_status(uri)
    pause_s, printed_s = REFRESH_S, time.monotonic()
    try:
        with Live(picture(seen), console=console, auto_refresh=False) as live:
            while not seen.settled and not seen.ended:
                time.sleep(pause_s)
                began_s = time.monotonic()
                try:
                    seen, trouble = job_status(uri), ""
                except OSError as error:
                    trouble = f"cannot be read now: {error}"
                live.update(picture(seen, trouble), refresh=True)
                if not console.is_terminal and began_s - printed_s >= LINE_S:
                    printed_s = began_s
                    console.print(line(seen), markup=False, highlight=False, soft_wrap=True)
                pause_s = max(REFRESH_S, (time.monotonic() - began_s) / LOOK_SHARE)
    except KeyboardInterrupt:
        return 130
    if seen.ended and not seen.settled:
        text = f"the job of {seen.ended} has gone: give its command again, and it goes on from the committed seeds"
        console.print(text, markup=False, highlight=False, soft_wrap=True)
        return 1
    return 1 if seen.failed else 0


def line(seen: JobStatus) -> str:
    """One line of what `picture` shows."""
    names = seen.status.names
    running = (
        ", ".join(f"{with_name(one.seed, names)} at {one.steps} of {seen.status.steps}" for one in seen.status.running)
        or "none"
    )
    left = "" if seen.left_s is None else f"; about {timedelta(seconds=round(seen.left_s))} left"
    return (
        f"seeds committed {len(seen.status.committed)}, running {running}, failed {len(seen.failed)}, "
        f"waiting {len(seen.waiting)}{left}"
    )


def picture(seen: JobStatus, trouble: str = "") -> Group:
    """Seeds by state, then what is known of the whole. Text of files is never markup."""
    state = seen.status
    table = Table("state", "seeds", "which")
    committed = [seed.seed for seed in state.committed]
    table.add_row("committed", str(len(committed)), ranges(committed))
    for running in state.running:
        table.add_row(
            "running" if seen.holder else "begun",
            "1",
            Text(f"{with_name(running.seed, state.names)}: {running.steps} of {state.steps}"),
        )
    for seed, error in seen.failed.items():
        table.add_row("failed", "1", Text(f"{with_name(seed, state.names)}: {' '.join(error.split())}"))
    table.add_row("waiting", *((str(len(seen.waiting)), ranges(seen.waiting)) if seen.planned else ("?", "not known")))
    for seed, name in state.names.items():
        table.add_row("name", "1", Text(f"{seed}: {name}"))
    for name, reason in state.invalid.items():
        table.add_row("not counted", "", Text(f"{name}: {reason}"))
    spent = "" if seen.device_hours is None else f"; {seen.device_hours:,.2f} {seen.device}-hours trained"
    pace = "pace not known" if seen.seeds_per_hour is None else f"{seen.seeds_per_hour:.3g} seeds/h"
    left = "" if seen.left_s is None else f", about {timedelta(seconds=round(seen.left_s))} left"
    held = f"held by {seen.holder}" if seen.holder else f"{seen.ended} has gone" if seen.ended else "no job holds it"
    lines = [
        f"{state.rows} rows, {state.num_bytes / 1e6:.1f} MB{spent}; {pace}{left}; {held}",
        f"seeds: {words_of(state.identity)}",
        *([trouble] if trouble else []),
    ]
    return Group(table, *(Text(line) for line in lines))
