"""What somebody asks for along an axis -> the numbers that are there: of seeds, of steps, of tokens.

- Numbers are values, not places: step 20 is what was recorded after update 20.
- A number, and a list, range or array of numbers, names what must be there. A slice takes what is there, from its start
  up to its stop, which is left out.
- As in NumPy a number drops its axis; everything else keeps it.
- A choice of nothing is refused, and so is what only looks like a number: nothing is rounded or converted.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from discreteness.dataset.manifest import listed

Choice = int | slice | Sequence[int] | np.ndarray
"""What may be asked for; None, where it is allowed, is everything."""


@dataclass(frozen=True)
class Chosen:
    """`numbers`: in the order asked for. `single`: one number was asked for, not a list of one."""

    numbers: list[int]
    single: bool = False

    @property
    def axis(self) -> Any:
        """Index of the axis of `numbers` that drops it for a single number, and keeps it otherwise."""
        return 0 if self.single else slice(None)


def choose(what: str, wanted: Choice | None, there: Sequence[int], where: str = "") -> Chosen:
    """`what`: seed, step or token. `there`: ascending. `where`: what has them, for errors: " in document 'a.txt'".

    Raises ValueError if something is asked for that is not there, if nothing is, or if it is not of whole numbers.
    """
    if wanted is None:
        return Chosen(list(there))
    if isinstance(wanted, slice):
        return Chosen(_sliced(what, wanted, there, where))
    single = is_whole(wanted)
    numbers = [_whole(what, wanted)] if single else _numbers(what, wanted)
    known = set(there)
    if missing := sorted({number for number in numbers if number not in known}):
        raise ValueError(f"there is no {what} {listed(missing)}{where}; there are {_told(there)}")
    return Chosen(numbers, single)


def is_whole(value: Any) -> bool:
    """Whether it is a whole number, Python's or NumPy's: True and 1.0 are not."""
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def _whole(what: str, value: Any) -> int:
    if not is_whole(value):
        raise ValueError(f"{value!r} is not a {what}: give a whole number")
    return int(value)


def _told(numbers: Sequence[int]) -> str:
    """'0 to 299' where none is left out, '0, 1, 5, 20' otherwise, for error messages."""
    if len(numbers) > 2 and numbers[-1] - numbers[0] == len(numbers) - 1:
        return f"{numbers[0]} to {numbers[-1]}"
    return listed(numbers)


def _numbers(what: str, wanted: Any) -> list[int]:
    if isinstance(wanted, np.ndarray) and wanted.ndim == 1:
        wanted = list(wanted)
    if not isinstance(wanted, Sequence) or isinstance(wanted, (str, bytes)):
        raise ValueError(f"{wanted!r} does not choose a {what}: give a number, or a list, range or slice of numbers")
    if not wanted:
        raise ValueError(f"{wanted!r} chooses no {what}; leave it out to get every {what}")
    return [_whole(what, number) for number in wanted]


def _sliced(what: str, wanted: slice, there: Sequence[int], where: str) -> list[int]:
    if wanted.step is not None:
        raise ValueError(f"{wanted!r} has a stride; a slice of {what}s has a start and a stop alone, so give a list")
    start, stop = (None if end is None else _whole(what, end) for end in (wanted.start, wanted.stop))
    if min(start or 0, stop or 0) < 0:
        raise ValueError(f"{wanted!r} counts from the end; a slice of {what}s is of their numbers, 0 or more")
    found = [n for n in there if (start is None or start <= n) and (stop is None or n < stop)]
    if there and not found:
        raise ValueError(f"there is no {what} in {wanted!r}{where}; there are {_told(there)}")
    return found
