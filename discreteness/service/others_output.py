"""What others print among a run's lines, such as Ray, without the one warning that the run itself explains.

- Ray warns when a machine has four times as many of its processes as cores. A job with many processes per core, such as
  two trainers on two cores, exceeds that by its mere shape, and nothing is wrong.
- The warning is left out only while its number is not above what the job has by its shape. More are still told of, and
  everything else is passed on line by line.
"""

import re
from typing import Any, TextIO

from discreteness.service.job import Job

MANY_PROCESSES = re.compile(r"WARNING: (\d+) PYTHON worker processes have been started on node")
"""The text of Ray 2.60. In other words the warning would be shown."""
PER_TRAINER, PER_JOB = 5, 4
"""Actors besides workers and evaluators, counted in a run. Ray Train has a controller, PlacementGroupCleaner,
SynchronizationActor, DatasetManager and PreemptionWatcher for each trainer, and a TrainStateActor and an
_AutoscalingCoordinatorActor; ours are the dispatcher and the actor that starts trainers."""


def processes_of(job: Job) -> int:
    """Ray's processes that a job has by its shape, those included that Ray starts in advance, one per declared CPU."""
    topology = job.topology
    actors = job.num_trainers * (topology.workers_per_trainer + PER_TRAINER) + topology.evaluators + PER_JOB
    return actors + topology.declared_cpus


class OthersOutput:
    """In place of sys.stdout: passes whole lines on to `stream`."""

    def __init__(self, stream: TextIO):
        self.stream = stream
        self.explained_processes = 0
        """As many of Ray's processes are no news."""
        self._begun = ""

    def write(self, text: str) -> int:
        *lines, self._begun = (self._begun + text).split("\n")
        for line in lines:
            many = MANY_PROCESSES.search(line)
            if not many or int(many[1]) > self.explained_processes:
                self.stream.write(f"{line}\n")
        return len(text)

    def end(self) -> None:
        """Passes on what has no end of line yet."""
        self.stream.write(self._begun)
        self._begun = ""

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)
