"""The header of a checkpoint: what travels with its bytes, through processes that never look into them."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class CheckpointHeader:
    """Plain data. Produced by the publishing rank, read by dispatcher and evaluator."""

    seed: int
    attempt: str
    step: int
    layout: str
    """Fingerprint of the layout, so that bytes are never loaded into a model of another shape."""
    state: Any
    """What else the scorer needs: plain data of a few values, such as a ForwardState."""
    num_bytes: int
