"""command line -> how the next token is drawn from what a model gives."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """Applied in the order of the fields."""

    repetition_penalty: float = 1.1
    """Logits of tokens that the text holds already are divided by it (arXiv 1909.05858); 1: off."""
    temperature: float = 0.8
    """Logits are divided by it; 0 takes the likeliest token."""
    top_k: int | None = 50
    """Only so many of the likeliest tokens; None: all."""
    top_p: float | None = None
    """Only the likeliest tokens that together have at least this probability."""

    def check(self) -> None:
        """Raises ValueError, which names the flag, if a value is impossible."""
        if not 0 < self.repetition_penalty < float("inf"):
            raise ValueError(f"--repetition-penalty {self.repetition_penalty}: it must be above 0; 1 switches it off")
        if not 0 <= self.temperature < float("inf"):
            raise ValueError(f"--temperature {self.temperature}: it must be 0 or more; 0 takes the likeliest token")
        if self.top_k is not None and self.top_k < 1:
            raise ValueError(f"--top-k {self.top_k}: it must be at least 1; None takes all")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise ValueError(f"--top-p {self.top_p}: it must be above 0 and at most 1")
