"""What a seed changes: the initial weights, the order of the training documents, or both."""

from typing import Literal

Vary = Literal["init", "data", "both"]


def weights_seed(vary: Vary, seed: int) -> int:
    """The seed that the initial weights are drawn with: that of seed 0 where only the data vary."""
    return 0 if vary == "data" else seed


def shuffles(vary: Vary) -> bool:
    """Whether the training documents come in an order of the seed, not in that of the files."""
    return vary != "init"
