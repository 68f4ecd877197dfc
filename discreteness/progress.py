"""what the dispatcher counts -> lines for a person: a live line on a terminal, a line now and then in a log."""

import sys
import time

from rich.console import Console
from rich.status import Status

from discreteness.dispatcher import Progress
from discreteness.experiment import Experiment

LOG_INTERVAL_S = 10


class Reporter:
    """Prints events as they come and the state of the run. Works under `ray job logs`, where nothing is a terminal."""

    def __init__(self, experiment: Experiment, num_done: int):
        self.num_seeds = len(experiment.seeds)
        self.num_done = num_done
        self.last_step = experiment.track.schedule.last_step
        self.events_seen = 0
        self.console = Console(file=sys.stdout, highlight=False, soft_wrap=True)
        self.status: Status | None = None
        self.began_s = time.monotonic()
        self.shown_s = 0.0
        self.first_trained: tuple[float, int] | None = None
        """(seconds, updates) when the first updates were seen: start-up does not count for the time left."""

    def show(self, progress: Progress) -> None:
        for event in progress.events:
            self.say(event)
        self.events_seen += len(progress.events)
        if self.console.is_terminal:
            if self.status is None:
                self.status = self.console.status("")
                self.status.start()
            self.status.update(self._line(progress))
        elif time.monotonic() - self.shown_s >= LOG_INTERVAL_S:
            self.shown_s = time.monotonic()
            self.say(self._line(progress))

    def say(self, text: str) -> None:
        """One line of plain text; brackets in it are not markup."""
        self.console.print(text, markup=False)

    def close(self) -> None:
        if self.status:
            self.status.stop()
            self.status = None

    def _line(self, progress: Progress) -> str:
        elapsed_s = time.monotonic() - self.began_s
        training = ", ".join(f"seed {seed} at {step}" for seed, _, step in progress.training) or "none"
        trained = progress.committed * self.last_step + sum(step for _, _, step in progress.training)
        if trained and self.first_trained is None:
            self.first_trained = (elapsed_s, trained)
        eta = ""
        if self.first_trained and trained > self.first_trained[1]:
            left = (self.num_seeds - self.num_done - len(progress.failed)) * self.last_step - trained
            rate = (trained - self.first_trained[1]) / (elapsed_s - self.first_trained[0])
            eta = f", about {left / rate / 60:.0f} min left"
        return (
            f"[{elapsed_s:.0f} s] seeds committed {self.num_done + progress.committed}/{self.num_seeds}, "
            f"training {training}; checkpoints scored {progress.checkpoints}, in flight {progress.in_flight} "
            f"({progress.in_flight_bytes / 1e6:.0f} MB, lag {progress.lag_steps} steps); evaluators "
            f"{progress.evaluators_ready}{eta}"
        )
