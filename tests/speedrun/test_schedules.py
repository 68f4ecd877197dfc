"""Schedules against the tables of the record, the golden YaRN numbers and what any track must hold."""

import dataclasses
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from speedrun import tracks
from speedrun.schedules import forward_state, step_settings, validation_state, widen
from speedrun.tracks import medium, small, tiny

from tests.support.golden_case import golden, golden_track

# step: (batch tokens, short window, long window, rate multiplier, momentum, MTP weights), as in the record.
SMALL_TABLE = {
    0: (131072, 128, 384, 1.0, 0.85, (1, 0.5, 0.25)),
    1: (131072, 128, 384, 1.0, 0.850333, (1, 0.5, 0.24958333)),
    150: (131072, 128, 384, 1.0, 0.90, (1, 0.5, 0.1875)),
    299: (131072, 128, 384, 1.0, 0.949667, (1, 0.5, 0.12541667)),
    300: (131072, 128, 384, 1.0, 0.95, (1, 0.5, 0.125)),
    599: (131072, 128, 384, 1.0, 0.95, (1, 0.5, 0.00041667)),
    600: (262144, 384, 896, 1.0, 0.95, (1, 0.5)),
    601: (262144, 384, 896, 1.52, 0.95, (1, 0.49916667)),
    900: (262144, 384, 896, 1.52, 0.95, (1, 0.25)),
    901: (262144, 384, 896, 1.518422222, 0.95, (1, 0.24916667)),
    1000: (262144, 384, 896, 1.362222222, 0.95, (1, 0.16666667)),
    1199: (262144, 384, 896, 1.048244444, 0.95, (1, 0.00083333)),
    1200: (393216, 640, 1408, 1.046666667, 0.95, (1,)),
    1201: (393216, 640, 1408, 1.184855556, 0.95, (1,)),
    1202: (393216, 640, 1408, 1.183044444, 0.95, (1,)),
    1500: (393216, 640, 1408, 0.643333333, 0.95, (1,)),
    1790: (393216, 640, 1408, 0.118111111, 0.95, (1,)),
    1791: (393216, 640, 1408, 0.1163, 0.948, (1,)),
    1799: (393216, 640, 1408, 0.101811111, 0.932, (1,)),
    1800: (393216, 768, 1664, 0.1, 0.93, (1,)),
    1839: (393216, 768, 1664, 0.1, 0.852, (1,)),
}


@pytest.mark.parametrize("step", SMALL_TABLE)
def test_small_schedule_equals_the_record(step):
    batch, short, long, multiplier, momentum, weights = SMALL_TABLE[step]
    settings, state = step_settings(small.schedule, step), forward_state(small, step)
    assert (settings.step, settings.batch_tokens) == (step, batch)
    assert (state.short_window, state.long_window) == (short, long)
    assert settings.lr_multiplier == pytest.approx(multiplier, abs=6e-10)
    assert settings.momentum == pytest.approx(momentum, abs=6e-7)
    assert settings.mtp_weights == pytest.approx(weights, abs=6e-9)


def test_small_changes_at_the_record_steps_only():
    steps = range(1, small.schedule.last_step + 1)

    def changes(value):
        return [s for s in steps if value(s) != value(s - 1)]

    assert changes(lambda s: forward_state(small, s).long_window) == [600, 1200, 1800]
    assert changes(lambda s: step_settings(small.schedule, s).batch_tokens) == [600, 1200]
    assert changes(lambda s: len(step_settings(small.schedule, s).mtp_weights)) == [600, 1200]
    assert changes(lambda s: forward_state(small, s).tied) == [1202]
    trained = [step_settings(small.schedule, s) for s in range(small.schedule.last_step)]
    assert sum(s.batch_tokens for s in trained) == 487_587_840
    assert sum(s.adam_steps for s in trained) == 920
    assert [s.step for s in trained if s.untie_after] == [1201]
    assert not trained[0].adam_steps
    assert trained[1].adam_steps
    assert sum(s.adam_steps for s in trained if s.step > 1201) == 319


def test_medium_schedule_equals_the_record():
    """Twelve stages of 4700 steps, none of which divides evenly."""
    schedule = medium.schedule
    assert schedule.untie_step == 785
    multipliers = {391: 1.0, 392: 1.52, 783: 1.52, 784: 1.73, 1175: 1.73, 1176: 2.0, 1410: 2.0, 1411: 1.999422492}
    multipliers |= {2000: 1.659270517, 3000: 1.081762918, 4000: 0.504255319, 4699: 0.100577508, 4700: 0.1}
    for step, expected in multipliers.items():
        assert step_settings(schedule, step).lr_multiplier == pytest.approx(expected, abs=6e-10), step
    for step, expected in {4690: 0.95, 4691: 0.948, 4700: 0.93, 4739: 0.852}.items():
        assert step_settings(schedule, step).momentum == pytest.approx(expected), step
    weights = {391: (1, 0.5, 0.00042553), 392: (1, 0.49957447), 783: (1, 0.00042553), 784: (1,)}
    for step, expected in weights.items():
        assert step_settings(schedule, step).mtp_weights == pytest.approx(expected, abs=6e-9), step
    trained = [step_settings(schedule, step).batch_tokens for step in range(4740)]
    assert {s: n for s, n in enumerate(trained) if s == 0 or n != trained[s - 1]} == {
        0: 131072,
        392: 262144,
        784: 393216,
        1175: 524288,
    }
    assert sum(trained) == 2_176_974_848


def test_medium_windows_grow_on_and_the_rotary_tables_stop_at_thirteen_blocks():
    blocks = {0: (1, 3), 392: (3, 7), 784: (5, 11), 1175: (6, 13), 1567: (7, 15), 1959: (8, 17), 2350: (9, 19)}
    blocks |= {2742: (10, 21), 3134: (11, 23), 4740: (11, 23)}
    for step, (short, long) in blocks.items():
        state = forward_state(medium, step)
        assert (state.short_window, state.long_window) == (128 * short, 128 * long)
        if step:
            assert forward_state(medium, step - 1) != state or step == 4740
    final = validation_state(medium, 4740, forward_state(medium, 4740))
    assert (final.short_window, final.long_window) == (128 * 11, 128 * 27)
    stages = zip((392, 784, 1175), golden("yarn")["updates"], strict=True)
    for step, expected in [*stages, (4740, golden("yarn")["updates"][-1])]:
        state = forward_state(medium, step)
        np.testing.assert_allclose(state.frequencies, expected["frequencies"], rtol=1e-14)
        np.testing.assert_allclose(state.attention_scale, expected["attention_scale"], rtol=1e-14)


def test_frequencies_and_scale_follow_the_golden_yarn_updates():
    expected = golden("yarn")
    stages = [(0, expected["start"]), *zip((600, 1200, 1800), expected["updates"], strict=True)]
    for step, stage in stages:
        state = forward_state(small, step)
        np.testing.assert_allclose(state.frequencies, stage["frequencies"], rtol=1e-14)
        np.testing.assert_allclose(state.attention_scale, stage["attention_scale"], rtol=1e-14)


def test_frequencies_equal_the_record_table():
    last = forward_state(small, 1840)
    table = {3: 0.50422476, 5: 0.25450731, 8: 0.07363021, 10: 0.03617491, 15: 0.00871741, 31: 0.00022536}
    for m, frequency in table.items():
        assert last.frequencies[m] == pytest.approx(frequency, abs=6e-9)
    assert last.attention_scale == pytest.approx(0.131777988, abs=6e-10)
    assert last.frequencies[:3] == forward_state(small, 0).frequencies[:3]
    assert last.frequencies[31] == pytest.approx(3 / 13 / 1024)


@pytest.mark.parametrize(
    ("track", "stage", "step"), [("small", "A", 0), ("small", "B", 600), ("medium", "A", 0), ("medium", "B", 392)]
)
def test_toy_state_equals_the_golden_stage(track, stage, step):
    expected = golden(f"model_{track}")["stages"][stage]
    state = forward_state(golden_track(track), step)
    assert (state.short_window, state.long_window) == (
        8 * expected["short_blocks"],
        8 * expected["long_blocks"],
    )
    np.testing.assert_allclose(state.frequencies, expected["frequencies"], rtol=1e-14)
    np.testing.assert_allclose(state.attention_scale, expected["attention_scale"], rtol=1e-14)


def test_validation_only_lengthens_the_long_window_and_only_at_the_last_step():
    last = forward_state(small, 1840)
    assert (last.short_window, last.long_window, last.tied) == (768, 1664, False)
    assert validation_state(small, 1840, last) == dataclasses.replace(last, long_window=2560)
    for step in (0, 1200, 1800, 1839):
        state = forward_state(small, step)
        assert validation_state(small, step, state) == state


def test_lookup_stays_in_the_head_through_the_untie_step():
    assert forward_state(small, 1201).tied
    assert not forward_state(small, 1202).tied


@pytest.mark.parametrize("step", [-1, 1841])
def test_a_step_outside_the_schedule_is_refused(step):
    with pytest.raises(ValueError, match=rf"no step {step}; .* 0 to 1840"):
        step_settings(small.schedule, step)
    with pytest.raises(ValueError, match=f"no step {step}"):
        forward_state(small, step)


@given(
    frequency=st.floats(1e-4, 1.0),
    old=st.integers(1, 4000),
    growth=st.integers(1, 4000),
)
def test_widening_slows_between_ratio_and_one(frequency, old, growth):
    (slower,), scale = widen((frequency,), 0.1, old, old + growth)
    assert frequency * old / (old + growth) * (1 - 1e-12) <= slower <= frequency * (1 + 1e-12)
    assert scale > 0.1


def test_tiny_has_every_stage_of_small():
    schedule = tiny.schedule
    states = [forward_state(tiny, step) for step in range(schedule.last_step + 1)]
    settings = [step_settings(schedule, step) for step in range(schedule.last_step + 1)]
    assert sorted({s.long_window for s in states}) == [48, 112, 176, 208]
    assert sorted({s.batch_tokens for s in settings}) == [256, 512, 768]
    assert {len(s.mtp_weights) for s in settings} == {1, 2, 3}
    assert [s.step for s in settings if s.untie_after] == [229]
    assert sum(s.batch_tokens for s in settings[:-1]) == 188_928


def test_tracks_are_found_by_name():
    assert tracks.track("tiny") is tiny
    assert tracks.track("small") is small
    assert tracks.track("medium") is medium
    assert tracks.track("speedrun.tracks:small") is small


def test_a_module_in_the_current_folder_is_found_however_the_program_was_started(tmp_path, monkeypatch):
    """A console script does not have that folder on its path, and `python jobs/run_seeds.py` has another."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
    (tmp_path / "track_of_this_folder.py").write_text("from speedrun.tracks import tiny as mine\n")
    assert tracks.track("track_of_this_folder:mine") is tiny
    assert tracks.track("track_of_this_folder:mine") is tiny
    assert sys.path.count(str(tmp_path)) == 1 and sys.path[-1] == str(tmp_path), "last, so that it hides nothing"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("large", "no track is named 'large'; use tiny, small"),
        ("no_such_module:mine", "No module named 'no_such_module'; use package.module:name of a module in /"),
        ("speedrun.tracks:mine", "has no attribute 'mine'"),
        ("speedrun.tracks:DataConfig", "is a type, not a speedrun.tracks.Track"),
    ],
)
def test_an_unknown_track_is_refused(name, message):
    with pytest.raises(ValueError, match=message):
        tracks.track(name)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"head_dim": 30}, "head_dim is 30"),
        ({"gate_dim": 200}, "gate_dim is 200 but the model is only 64 wide"),
        ({"long_window_layers": (6,)}, "long_window_layers names layer 6"),
        ({"long_window_layers": (3,)}, "layer 3 has no attention"),
        ({"skips": ((3, 3),)}, "skip 3 -> 3 runs backwards"),
        ({"value_embed_of_layer": ((0, 2),)}, "layer 0 asks for value table 2 of 2"),
    ],
)
def test_impossible_roles_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(tiny.model, **changes)


def test_impossible_amounts_are_refused():
    with pytest.raises(ValueError, match="1000 tokens is not 2 slots"):
        dataclasses.replace(tiny, schedule=dataclasses.replace(tiny.schedule, batch_tokens=(1000,)))
    with pytest.raises(ValueError, match="val_tokens 5000 is not a multiple of 2 chunks of 2048"):
        dataclasses.replace(tiny, data=dataclasses.replace(tiny.data, val_tokens=5000))
    with pytest.raises(ValueError, match="4 lr peaks"):
        dataclasses.replace(tiny.schedule, lr_peaks=(1.0, 1.0, 1.0, 1.0))
    with pytest.raises(ValueError, match="unties after the last of 360"):
        dataclasses.replace(tiny.schedule, untie_fraction=1.1)
