"""name of a checkpoint -> its step, and the tokens seen by then."""

import re
from dataclasses import dataclass

STEP_PATTERN = r"(?:^|[-_/.])(?:global[-_]?)?(?:step|checkpoint|ckpt|iter|iteration)s?[-_=]?(\d+)(?![\d.])"
"""step1000 and stage1-step1000-tokens5B of the hub, checkpoint-500 of transformers, global_step500 of others."""
TOKENS = re.compile(r"tokens?[-_=]?(\d+(?:\.\d+)?)([KMBT]?)", re.IGNORECASE)
UNITS = {"": 1, "K": 10**3, "M": 10**6, "B": 10**9, "T": 10**12}
LAST_STEP = 2**31 - 1


@dataclass(frozen=True, kw_only=True)
class StepName:
    """What a name says: `tokens` as it is written there, often rounded to billions; None where it says nothing."""

    step: int
    tokens: int | None


class StepPattern:
    """How steps stand in names. Raises ValueError if `text`, from --step-pattern, is not an expression with a group."""

    def __init__(self, text: str | None):
        self.text = text or STEP_PATTERN
        try:
            self.expression = re.compile(self.text)
        except re.error as error:
            raise ValueError(f"--step-pattern {text!r}: is not a regular expression: {error}") from None
        if not self.expression.groups:
            raise ValueError(
                f"--step-pattern {text!r}: has no group; put parentheses around the step, as in step(\\d+)"
            )

    def read(self, name: str) -> StepName | None:
        """None where the name has no step."""
        found = self.expression.search(name)
        digits = next((group for group in found.groups() if group), "") if found else ""
        if not digits.isascii() or not digits.isdigit():
            return None
        if len(digits) > 10 or int(digits) > LAST_STEP:
            raise ValueError(f"checkpoint {name!r}: its step does not fit the dataset, which takes 0 to {LAST_STEP}")
        tokens = TOKENS.search(name)
        seen = round(float(tokens[1]) * UNITS[tokens[2].upper()]) if tokens else None
        return StepName(step=int(digits), tokens=seen)
