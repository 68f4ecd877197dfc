"""The header of a checkpoint: what travels with its bytes, through processes that never look into them."""

from dataclasses import dataclass

from speedrun.schedules import ForwardState


@dataclass(frozen=True, kw_only=True)
class CheckpointHeader:
    """Plain data. Produced by the publishing rank, read by dispatcher and evaluator."""

    seed: int
    attempt: str
    step: int
    layout: str
    """Fingerprint of the layout, so that bytes are never loaded into a model of another shape."""
    state: ForwardState
    num_bytes: int
