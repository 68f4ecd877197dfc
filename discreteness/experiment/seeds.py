"""--seeds -> ascending seeds."""

import re

MAX_SEEDS = 1_000_000
NUMBER = r"\d{1,4000}"
"""Python converts no more than 4,300 digits."""


def parse_seeds(text: str) -> tuple[int, ...]:
    """'0-299', '0,5,7', '0-9,20-29' -> ascending seeds, each once. ValueError names the part that is wrong."""
    seeds: set[int] = set()
    for part in text.split(","):
        match = re.fullmatch(rf"\s*({NUMBER})\s*(?:-\s*({NUMBER})\s*)?", part, re.ASCII)
        if not match:
            raise ValueError(
                f"--seeds {text!r}: {part!r} is neither a seed nor a range; write 0-299 or 0,5,7 or 0-9,20-29"
            )
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first:
            raise ValueError(f"--seeds {text!r}: the range {part!r} runs backwards; write {last}-{first}")
        if last >= 2**31:
            raise ValueError(f"--seeds {text!r}: {last} does not fit an int32; give seeds up to {2**31 - 1}")
        if len(seeds) + last - first >= MAX_SEEDS:
            raise ValueError(f"--seeds {text!r}: more than {MAX_SEEDS} seeds up to {part!r}; give fewer at once")
        seeds.update(range(first, last + 1))
    return tuple(sorted(seeds))
