"""A name that is not a command -> an error that says which one was meant."""

import difflib
from collections.abc import Sequence


def check_name(name: str, known: Sequence[str], program: str) -> None:
    """Raises ValueError if `name`, the word after `program`, is neither in `known` nor an option."""
    if name in known or name.startswith("-"):
        return
    close = difflib.get_close_matches(name, known, n=2)
    meant = f"did you mean {' or '.join(close)}?" if close else f"there are {', '.join(known)};"
    raise ValueError(f"{program} has no command {name!r}: {meant} `{program} --help` explains each")
