"""numbers of an analysis <-> plain values of JSON."""

import math
from collections.abc import Mapping
from dataclasses import asdict, fields, is_dataclass
from typing import Any, Self, get_args, get_origin

from discreteness.analysis.intervals import Estimate


class Stated:
    """A dataclass of numbers. An estimate is a number, null where it is not measured, and `intervals` has its bounds
    under the same name.
    """

    def as_json(self) -> dict[str, Any]:
        values: dict[str, Any] = {}
        intervals: dict[str, Any] = {}
        for field in fields(self):  # type: ignore[arg-type]
            name, value = field.name, getattr(self, field.name)
            if isinstance(value, Estimate):
                values[name], intervals[name] = _number(value.value), _bounds(value)
            elif isinstance(value, Mapping):
                values[name] = {str(number): _number(one.value) for number, one in value.items()}
                intervals[name] = {str(number): _bounds(one) for number, one in value.items()}
            elif isinstance(value, Stated):
                values[name] = value.as_json()
            elif isinstance(value, tuple):
                values[name] = [asdict(one) if is_dataclass(one) else one for one in value]  # type: ignore[arg-type]
            else:
                values[name] = _number(value) if isinstance(value, float) else value
        return {**values, "intervals": intervals}

    @classmethod
    def of_json(cls, stated: dict[str, Any]) -> Self:
        """What `as_json` gave. Raises KeyError, TypeError or ValueError if it did not."""
        found = {}
        for field in fields(cls):  # type: ignore[arg-type]
            found[field.name] = _read(field.type, stated[field.name], stated["intervals"].get(field.name))
        return cls(**found)


def _read(kind: Any, value: Any, bounds: Any) -> Any:
    origin, inner = get_origin(kind), get_args(kind)
    if origin is not None and issubclass(origin, Mapping):
        return {int(number): _read(inner[1], one, bounds[number]) for number, one in value.items()}
    if origin is tuple:
        return tuple(inner[0](**one) if isinstance(one, dict) else one for one in value)
    if issubclass(kind, Estimate):
        low, high = (math.nan if bound is None else bound for bound in bounds)
        return kind(value=math.nan if value is None else value, low=low, high=high)
    if issubclass(kind, Stated):
        return kind.of_json(value)
    return math.nan if kind is float and value is None else value


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value


def _bounds(one: Estimate) -> list[float | None]:
    return [_number(one.low), _number(one.high)]
