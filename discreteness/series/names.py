"""what was given as --models -> the models that it means, in its order: braces opened, folders found."""

import re
from collections.abc import Iterable, Iterator
from itertools import product
from pathlib import Path

MOST_NAMES = 100_000
"""Of one text with braces: a slip such as {1..1000000000} is answered and not opened."""
BRACES = re.compile(r"\{([^{}]*)\}")
RANGE = re.compile(r"(\d{1,9})\.\.(\d{1,9})", re.ASCII)
HUB_NAME = re.compile(r"(?:[A-Za-z0-9][\w.-]{0,95}/)?[A-Za-z0-9][\w.-]{0,95}", re.ASCII)
"""'owner/name', and the few old models without an owner, such as gpt2."""


def models_of(texts: Iterable[str]) -> tuple[str, ...]:
    """Names of models in the order given, of which model i is seed i: folders as they were given, others of the hub.

    'owner/model-seed{1..9}' and 'owner/model-{small,large}' are opened as a shell would; 'runs/seed-*' are the folders
    that match, sorted as people count (seed-2 before seed-10). Raises ValueError if a text means no model, or two mean
    the same.
    """
    names = [name for text in texts for opened in open_braces(text) for name in _found(opened)]
    if not names:
        raise ValueError("--models: none was given; write folders, or names of the hub such as owner/model-seed{1..9}")
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"--models: {name} is given twice; each model is one seed, so give it once")
    return tuple(names)


def open_braces(text: str) -> list[str]:
    """'a{1..3}b{x,y}' -> ['a1bx', 'a1by', 'a2bx', ...]; {08..10} keeps its zeros. Braces are not nested."""
    pieces = BRACES.split(text)
    choices: list[list[str]] = [
        [piece] if place % 2 == 0 else _choices(text, piece) for place, piece in enumerate(pieces)
    ]
    if any(brace in piece for piece in pieces[::2] for brace in "{}"):
        raise ValueError(
            f"--models {text!r}: a brace without its partner, or braces within braces; write {{1..9}} or {{a,b}}"
        )
    count = 1
    for choice in choices:
        count *= len(choice)
    if count > MOST_NAMES:
        raise ValueError(f"--models {text!r}: means {count} names, at most {MOST_NAMES} are opened; give fewer at once")
    return ["".join(parts) for parts in product(*choices)]


def natural(name: str) -> tuple[tuple[int, str | int], ...]:
    """A key that sorts numbers in names by their value: checkpoint-500 before checkpoint-1000."""
    return tuple((0, int(part)) if part.isdigit() else (1, part) for part in re.split(r"(\d+)", name) if part)


def is_folder(name: str) -> bool:
    """Whether a model's name is a folder of this machine, which comes before a model of the hub with that name."""
    return Path(name).expanduser().is_dir()


def _choices(text: str, inside: str) -> list[str]:
    if bounds := RANGE.fullmatch(inside):
        first, last = (int(bound) for bound in bounds.groups())
        if last < first:
            raise ValueError(f"--models {text!r}: {{{inside}}} runs backwards; write {{{last}..{first}}}")
        if last - first >= MOST_NAMES:
            raise ValueError(f"--models {text!r}: {{{inside}}} means more than {MOST_NAMES} names; give fewer at once")
        width = max(map(len, bounds.groups())) if any(bound[0] == "0" != bound for bound in bounds.groups()) else 0
        return [f"{number:0{width}}" for number in range(first, last + 1)]
    if "," not in inside:
        raise ValueError(f"--models {text!r}: {{{inside}}} is neither a range nor a choice; write {{1..9}} or {{a,b}}")
    return inside.split(",")


def _found(name: str) -> Iterator[str]:
    """The models of a name without braces."""
    if any(sign in name for sign in "*?["):
        yield from _folders(name)
    elif is_folder(name) or (HUB_NAME.fullmatch(name) and ".." not in name):
        yield name
    else:
        raise ValueError(
            f"--models {name!r}: is not a folder of this machine, and cannot be a name of the hub, which is owner/model"
        )


def _folders(pattern: str) -> list[str]:
    path = Path(pattern).expanduser()
    root = Path(path.anchor)  # Path.glob takes no absolute pattern
    found = [str(one) for one in root.glob(str(path.relative_to(path.anchor))) if one.is_dir()]
    if not found:
        raise ValueError(
            f"--models {pattern!r}: matches no folder of this machine; models of the hub are written out, with braces "
            "such as {1..9}"
        )
    return sorted(found, key=natural)
