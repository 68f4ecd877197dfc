"""Tracks as files record them: every field comes back, and what a damaged or hostile file says is not believed."""

import json
from dataclasses import asdict

import pytest
from speedrun.tracks import medium, small, tiny

from discreteness.experiment.recorded_track import recorded_track
from tests.support.quick_track import quick

ENOUGH = 10**9


def recorded(track, **changes):
    """A track's fields as in a file, with other values for some: `model__num_layers`."""
    values = json.loads(json.dumps(asdict(track)))
    for name, value in changes.items():
        *parts, last = name.split("__")
        target = values
        for part in parts:
            target = target[part]
        target[last] = value
    return values


@pytest.mark.parametrize("track", [tiny, small, medium, quick])
def test_a_track_comes_back_equal(track):
    assert recorded_track(recorded(track), None, "it", ENOUGH) == track


def test_a_named_track_has_to_be_the_recorded_one():
    assert recorded_track(recorded(quick), "tests.support.quick_track:quick", "it", ENOUGH) == quick
    with pytest.raises(
        ValueError, match=r"^--track tiny is not the track of it: \S+ is .* there, .* here; leave --track"
    ):
        recorded_track(recorded(quick), "tiny", "it", ENOUGH)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"dtype": "int8"}, "track.dtype is 'int8'"),
        ({"model__num_heads": "2"}, "track.model.num_heads is '2'"),
        ({"model__num_heads": True}, "track.model.num_heads is True"),
        ({"model__num_heads": 2.0}, "track.model.num_heads is 2.0"),
        ({"model__skips": [[1, 2, 3]]}, r"track.model.skips is \[1, 2, 3\]"),
        ({"model__skips": [[5, 1]]}, "skip 5 -> 1 runs backwards"),
        ({"model": {"num_layers": 1}}, "track.model has not the fields vocab_size, num_layers"),
        ({"surprise": 1}, "track has not the fields name, model"),
        ({"data__num_slots": 0}, "by zero"),
        ({"data__val_glob": "/etc/*"}, "'/etc/\\*', which is not below the folder of data"),
        ({"data__train_glob": "../*"}, "'../\\*', which is not below the folder of data"),
        ({"data__vocabulary": "../secret"}, "'../secret', which is not below"),
    ],
)
def test_what_is_no_track_is_refused_by_its_field(changes, words):
    with pytest.raises(ValueError, match=f"^it does not record a track: .*{words}"):
        recorded_track(recorded(tiny, **changes), None, "it", ENOUGH)
    for values in None, [], "tiny", 3:
        with pytest.raises(ValueError, match="it does not record a track: track has not the fields"):
            recorded_track(values, None, "it", ENOUGH)


@pytest.mark.parametrize("field", ["num_layers", "vocab_size", "head_dim"])
@pytest.mark.parametrize("value", [10**400, 10**8])
def test_no_model_is_larger_than_its_weights(field, value):
    with pytest.raises(
        ValueError, match=r"^it records a model .* which do not fit into its weights of 1000000000 bytes"
    ):
        recorded_track(recorded(tiny, **{f"model__{field}": value}), None, "it", ENOUGH)
