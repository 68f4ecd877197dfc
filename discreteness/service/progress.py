"""The reporter of a job: events as they come, and how far the run is, live on a terminal or in a line now and then."""

import time

from rich.status import Status

from discreteness.service.job import Job
from discreteness.service.log import LOG_INTERVAL_S, Log
from discreteness.service.messages import Progress

WAITING_INTERVAL_S = 60
"""Between two lines while nothing trains yet and what is waited for stays the same."""


class Reporter:
    """Tells events as they come and the state of the run. Works under `ray job logs`, where nothing is a terminal."""

    def __init__(self, log: Log, job: Job):
        self.log = log
        self.num_seeds = len(job.experiment.seeds)
        self.num_done = job.num_done
        self.num_trainers = job.num_trainers
        self.num_evaluators = job.topology.evaluators
        self.last_step = job.experiment.plan[-1]
        self.events_seen = 0
        self.status: Status | None = None
        self.began_s = time.monotonic()
        self.shown_s = 0.0
        self.waited_for: list[str] = []
        """What the last line said is waited for, while nothing trained yet."""
        self.first_trained: tuple[float, int] | None = None
        """(seconds, updates) when the first updates were seen: start-up does not count for the time left."""

    def show(self, progress: Progress) -> None:
        for event in progress.events:
            self.log.tell(event)
        self.events_seen += len(progress.events)
        if self.log.console.is_terminal and not self.log.json:
            if self.status is None:
                self.status = self.log.console.status("")
                self.status.start()
                self.log.follow_live()
            self.status.update(self._line(progress))
        elif time.monotonic() - self.shown_s >= self._interval_s(progress):
            self.shown_s = time.monotonic()
            self.waited_for = self._waits(progress)
            self.log.say(self._line(progress), "progress")
            for running in progress.training if self.log.json else ():  # the line has them already
                about = {
                    "seed": running.seed,
                    "attempt": running.attempt,
                    "trainer": running.trainer,
                    "step": running.step,
                }
                self.log.say(f"seed {running.seed} at {running.step}", "training", **about)

    def close(self) -> None:
        if self.status:
            self.status.stop()
            self.log.leave_live()
            self.status = None

    def _interval_s(self, progress: Progress) -> float:
        same = _nothing_trained(progress) and self.waited_for == self._waits(progress)
        return WAITING_INTERVAL_S if same else LOG_INTERVAL_S

    def _line(self, progress: Progress) -> str:
        elapsed_s = time.monotonic() - self.began_s
        if _nothing_trained(progress):
            waits = "; ".join(self._waits(progress, timed=True)) or "the trainers take their first seeds"
            ready = f"evaluators {progress.evaluators_ready} of {self.num_evaluators}"
            return f"[{elapsed_s:.0f} s] nothing trains yet: {waits}; {ready}"
        trained = progress.committed * self.last_step + sum(running.step for running in progress.training)
        if trained and self.first_trained is None:
            self.first_trained = (elapsed_s, trained)
        eta = ""
        if self.first_trained and trained > self.first_trained[1]:
            left = (self.num_seeds - self.num_done - len(progress.failed)) * self.last_step - trained
            rate = (trained - self.first_trained[1]) / (elapsed_s - self.first_trained[0])
            eta = f", about {left / rate / 60:.0f} min left"
        return (
            f"[{elapsed_s:.0f} s] seeds committed {self.num_done + progress.committed}/{self.num_seeds}, "
            f"{self._training(progress)}; checkpoints scored {progress.counts.checkpoints}, "
            f"in flight {progress.in_flight} ({progress.in_flight_bytes / 1e6:.0f} MB, lag {progress.lag_steps} steps)"
            f"; evaluators {progress.evaluators_ready} of {self.num_evaluators}{eta}"
        )

    def _training(self, progress: Progress) -> str:
        """Which seeds train, and what keeps the other trainers from it before their first."""
        seeds = ", ".join(f"seed {running.seed} at {running.step}" for running in progress.training) or "none"
        waits = self._waits(progress, timed=True)
        return f"training {seeds}" + (f" ({'; '.join(waits)})" if waits else "")

    def _waits(self, progress: Progress, timed: bool = False) -> list[str]:
        """What keeps trainers from their first seed; `timed`: and for how long already."""
        waits = [
            f"{one.trainer} is {one.what}" + (f" ({one.for_s:.0f} s)" if timed else "") for one in progress.preparing
        ]
        if not_started := self.num_trainers - progress.placed - len(progress.trainers_ended):
            waits += [
                f"{not_started} of {self.num_trainers} trainers {'has' if not_started == 1 else 'have'} not started yet"
            ]
        return waits


def _nothing_trained(progress: Progress) -> bool:
    """Whether the run is still starting."""
    return not (progress.training or progress.committed or progress.counts.updates)
