"""One job: what every process of it knows from its start."""

from dataclasses import dataclass
from typing import Any

from discreteness.checkpoint.seam import Pair
from discreteness.cluster.topology import Topology
from discreteness.experiment.config import RunConfig
from discreteness.experiment.recording import Recording


@dataclass(frozen=True, kw_only=True)
class Job:
    """An experiment, how it is run, by what, on what, and for which seeds. Plain values, made once, by the driver."""

    experiment: Recording
    pair: Pair
    """What gives the experiment's checkpoints, and what scores them."""
    run: RunConfig
    topology: Topology
    seeds: tuple[int, ...]
    """To be trained: those asked for, less those that are committed."""
    dataset_uri: str

    @property
    def num_done(self) -> int:
        """Seeds asked for that were committed before."""
        return len(self.experiment.seeds) - len(self.seeds)

    @property
    def num_trainers(self) -> int:
        """As many as the topology has, but none that would find no seed."""
        return min(self.topology.trainers, len(self.seeds))


@dataclass(frozen=True, kw_only=True)
class TrainerSpec:
    """What the workers of one trainer are told once. Plain data, and the dispatcher's handle."""

    name: str
    dispatcher: Any
    job: Job
