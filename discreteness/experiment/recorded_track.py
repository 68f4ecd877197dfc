"""values in experiment.json or beside kept weights -> the track they describe: nobody has to name it again.

A track is a value, so its fields are all of it. They come from a file, so nothing of them is believed: each has the
type of its field, no name leads out of the folder of data, and no model is larger than the weights that are there.
"""

import types
from collections.abc import Mapping
from dataclasses import asdict, is_dataclass
from pathlib import PurePosixPath
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from speedrun.tracks import Track, track

from discreteness.dataset.identity import differing_fields


def recorded_track(values: Any, asked: str | None, owner: str, weights_bytes: int) -> Track:
    """The track whose `asdict`, after a trip through JSON, `values` is.

    asked: a name of --track, which must be the same one. owner: what recorded the values, for errors. weights_bytes:
    size of a file with its weights. Raises ValueError if the values are not those of a track, if `asked` is another,
    or if such a model has more weights than the file can hold.
    """
    try:
        recipe = _decoded(Track, values, "track")
        _check_names(recipe)
    except (ValueError, ArithmeticError) as error:
        raise ValueError(f"{owner} does not record a track: {error}") from None
    model = recipe.model
    least = model.model_dim * (
        model.vocab_size + model.num_layers * model.model_dim
    )  # of several times as many weights
    if min(model.model_dim, model.vocab_size, model.num_layers) < 1 or least > weights_bytes:
        raise ValueError(
            f"{owner} records a model {model.model_dim} wide with {model.num_layers} layers and {model.vocab_size} "
            f"rows, which do not fit into its weights of {weights_bytes} bytes: it is damaged; copy it again"
        )
    if asked is not None and (differing := differing_fields(values, asdict(track(asked)))):
        field, there, here = differing[0]
        raise ValueError(
            f"--track {asked} is not the track of {owner}: {field} is {there} there, {here} here; leave --track out"
        )
    return recipe


def _decoded(kind: Any, value: Any, where: str) -> Any:
    """A value of JSON as one of the annotated type `kind`; floats may be written as integers."""
    origin, arguments = get_origin(kind), get_args(kind)
    if is_dataclass(kind):
        kinds = get_type_hints(kind)
        if not isinstance(value, Mapping) or value.keys() != kinds.keys():
            raise ValueError(f"{where} has not the fields {', '.join(kinds)}")
        return kind(**{name: _decoded(kinds[name], value[name], f"{where}.{name}") for name in kinds})  # type: ignore[operator]
    if origin is tuple and isinstance(value, list | tuple):
        kinds_of = arguments[:1] * len(value) if arguments[-1] is Ellipsis else arguments
        if len(kinds_of) == len(value):
            return tuple(_decoded(one, each, where) for one, each in zip(kinds_of, value, strict=True))
    elif origin in (Union, types.UnionType):
        (other,) = set(arguments) - {type(None)}
        return None if value is None else _decoded(other, value, where)
    elif origin is Literal:
        if value in arguments:
            return value
    elif type(value) is kind or (kind is float and type(value) is int):
        return value
    raise ValueError(f"{where} is {value!r}")


def _check_names(recipe: Track) -> None:
    data = recipe.data
    for name in (data.train_glob, data.val_glob, data.vocabulary):
        if name is None:
            continue
        path = PurePosixPath(name)
        if not path.parts or path.is_absolute() or ".." in path.parts:
            raise ValueError(f"track.data names {name!r}, which is not below the folder of data")
