"""names of seeds: in a series a seed is a model, and is shown with its name."""

from collections.abc import Iterable, Mapping
from typing import Any

from discreteness.dataset.event_log import JOB_BEGAN
from discreteness.dataset.seed_file import CommittedSeed


def names_of(committed: Mapping[int, CommittedSeed]) -> dict[int, str]:
    """Seed -> name, of the committed seeds that have one."""
    return {seed: one.name for seed, one in committed.items() if one.name}


def names_of_job(log: Iterable[dict[str, Any]]) -> dict[int, str]:
    """Seed -> name, as the newest job says it of all its seeds; what is not of that form is passed over."""
    said = [event.get("names") for event in log if event.get("event") == JOB_BEGAN]
    newest = said[-1] if said and isinstance(said[-1], dict) else {}
    return {
        int(seed): name
        for seed, name in newest.items()
        if seed.isascii() and seed.isdigit() and isinstance(name, str) and name.isprintable()
    }


def with_name(seed: int, names: Mapping[int, str]) -> str:
    """'0' or '0 (owner/model)'."""
    return f"{seed} ({names[seed]})" if seed in names else str(seed)


def refuse_other_names(uri: str, committed: Mapping[int, CommittedSeed], names: Mapping[int, str]) -> None:
    """Raises ValueError if a committed seed is called otherwise here, or if a name is that of another seed there."""
    for seed, name in names_of(committed).items():
        if names.get(seed, name) != name:
            raise ValueError(
                f"seed {seed} of {uri} is {name}, and here {names[seed]}: give the models in the order of the first "
                "command, new ones behind them, or give another --output"
            )
        for other, here in names.items():
            if here == name and other != seed:
                raise ValueError(
                    f"{name} is seed {seed} of {uri}, and here seed {other}: give the models in the order of the first "
                    "command, new ones behind them, or give another --output"
                )
