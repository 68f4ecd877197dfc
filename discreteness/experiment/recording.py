"""What a job records, of whatever source: losses of these documents, at these steps, of these seeds."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from discreteness.experiment.documents import Document


@dataclass(frozen=True, kw_only=True)
class Recording:
    """What the control path knows of an experiment. Plain values, ready to travel."""

    documents: tuple[Document, ...]
    plan: tuple[int, ...]
    """Steps whose losses are recorded, ascending; the last one ends a seed."""
    seeds: tuple[int, ...]
    identity: dict
    validation_steps: frozenset[int] = frozenset()
    kept_steps: frozenset[int] = frozenset()
    """Steps of the plan whose weights are kept as files."""
    plan_text: str = ""
    """`plan` as it was given, such as "log:48"; "" where it was not."""
    names: Mapping[int, str] = field(default_factory=dict)
    """Seed -> what it is called, where it is more than a number."""

    @property
    def published_steps(self) -> frozenset[int]:
        """Steps at which a checkpoint leaves its source."""
        return frozenset(self.plan) | self.validation_steps

    @property
    def num_validation_chunks(self) -> int:
        """Parts of which a validation is made; each is scored on its own."""
        return 0

    @property
    def num_losses(self) -> int:
        return sum(len(document.token_ids) - 1 for document in self.documents)
