"""What --models and the names of checkpoints mean: braces, folders, steps, and steps that models do not share."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from discreteness.series.names import models_of, natural, open_braces
from discreteness.series.step_names import StepPattern
from discreteness.series.steps import chosen_steps, named_steps


def test_braces_open_as_in_a_shell():
    assert open_braces("o/m-seed{1..3}") == ["o/m-seed1", "o/m-seed2", "o/m-seed3"]
    assert open_braces("{a,b}/{08..10}") == ["a/08", "a/09", "a/10", "b/08", "b/09", "b/10"]
    assert open_braces("o/m{,-deduped}") == ["o/m", "o/m-deduped"]
    assert open_braces("plain") == ["plain"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("m{3..1}", "runs backwards; write {1..3}"),
        ("m{1..999999999}", "more than 100000 names"),
        ("m{1..999}{1..999}", "means 998001 names"),
        ("m{1", "a brace without its partner"),
        ("m{{1..2}}", "braces within braces"),
        ("m{x}", "neither a range nor a choice"),
    ],
)
def test_braces_that_mean_nothing_are_refused(text, says):
    with pytest.raises(ValueError, match=says) as error:
        open_braces(text)
    assert repr(text) in str(error.value)


@given(st.text(alphabet="ab{}.,123", max_size=20))
def test_braces_open_or_are_refused(text):
    try:
        assert all("{" not in name for name in open_braces(text))
    except ValueError as error:
        assert "--models" in str(error)


def test_models_are_folders_or_names_of_the_hub_in_the_order_given(tmp_path, monkeypatch):
    for name in "seed-10", "seed-2", "seed-1":
        (tmp_path / "runs" / name).mkdir(parents=True)
    (tmp_path / "runs" / "seed-3").write_text("a file")
    monkeypatch.chdir(tmp_path)
    assert models_of(["runs/seed-*"]) == ("runs/seed-1", "runs/seed-2", "runs/seed-10")
    assert models_of(["runs/seed-2", "o/m{1,2}", "gpt2"]) == ("runs/seed-2", "o/m1", "o/m2", "gpt2")


@pytest.mark.parametrize(
    ("texts", "says"),
    [
        ([], "none was given"),
        (["o/m", "o/m{}"[:3]], "o/m is given twice"),
        (["nothing-here-*"], "matches no folder"),
        (["./not/there"], "'./not/there': is not a folder"),
        (["o/../m"], "is not a folder"),
        (["o/m name"], "is not a folder"),
    ],
)
def test_models_that_are_none_are_refused(texts, says, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=says):
        models_of(texts)


def test_names_sort_as_people_count():
    names = ["checkpoint-1000", "checkpoint-500", "checkpoint-", "checkpoint-0500b"]
    assert sorted(names, key=natural) == ["checkpoint-", "checkpoint-500", "checkpoint-0500b", "checkpoint-1000"]


@pytest.mark.parametrize(
    ("name", "step", "tokens"),
    [
        ("step1000", 1000, None),
        ("step0", 0, None),
        ("checkpoint-500", 500, None),
        ("stage1-step1000-tokens5B", 1000, 5 * 10**9),
        ("step1000-tokens4.5B", 1000, 45 * 10**8),
        ("global_step143000", 143000, None),
        ("iter_0000500", 500, None),
        ("run/ckpt-7", 7, None),
        ("stage2-ingredient1-step51000-tokens51B", 51000, 51 * 10**9),
        ("seed3-step12", 12, None),
    ],
)
def test_steps_and_tokens_stand_in_names(name, step, tokens):
    read = StepPattern(None).read(name)
    assert (read.step, read.tokens) == (step, tokens)


@pytest.mark.parametrize("name", ["main", "v1.0", "seed-3", "footstep7", "step", "step-1.5", "tokens5B", "step٣"])
def test_names_without_a_step(name):
    assert StepPattern(None).read(name) is None


def test_a_pattern_of_ones_own():
    assert StepPattern(r"u(\d+)|n(\d+)").read("n12").step == 12
    with pytest.raises(ValueError, match=r"--step-pattern 'x': has no group"):
        StepPattern("x")
    with pytest.raises(ValueError, match=r"--step-pattern '\(': is not a regular expression"):
        StepPattern("(")
    with pytest.raises(ValueError, match="step9999999999'"):
        StepPattern(None).read("step9999999999")


def test_checkpoints_come_in_the_order_of_their_steps():
    names = ["step1000", "main", "step512", "step0"]
    assert list(named_steps("m", names, None, StepPattern(None))) == ["step0", "step512", "step1000"]
    with pytest.raises(ValueError, match=r"m: no step in the names main of --checkpoints '\*'"):
        named_steps("m", names, "*", StepPattern(None))
    with pytest.raises(ValueError, match="m: no step in the names main"):
        named_steps("m", ["main"], None, StepPattern(None))
    with pytest.raises(ValueError, match="m: has nothing of --checkpoints 'x'"):
        named_steps("m", [], "x", StepPattern(None))
    with pytest.raises(ValueError, match="m: stage1-step5 and stage2-step5 both are step 5"):
        named_steps("m", ["stage2-step5", "stage1-step5"], None, StepPattern(None))


def test_steps_that_models_do_not_share_are_named_or_thinned():
    steps = {"a": [0, 1, 2, 4, 8, 512, 1000], "b": [0, 1, 2, 4, 8, 1000, 2000]}
    with pytest.raises(ValueError, match="a lacks 2000, b lacks 512; give --steps, such as log:6"):
        chosen_steps(steps, None)
    assert chosen_steps(steps, "log:4") == (0, 1, 8, 1000), "8 is nearest to 32"
    assert chosen_steps(steps, "every:4") == (0, 4, 8, 1000)
    assert chosen_steps(steps, "1,8") == (1, 8), "a list alone is what was asked for, without 0 and the last"
    with pytest.raises(
        ValueError, match=r"--steps '8,512': not every model has step 512 \(a lacks 2000, b lacks 512\)"
    ):
        chosen_steps(steps, "8,512")
    with pytest.raises(ValueError, match="--steps 'now' is not a plan"):
        chosen_steps(steps, "now")
    with pytest.raises(ValueError, match="no step in common"):
        chosen_steps({"a": [1], "b": [2]}, "log:3")
    assert chosen_steps({"a": [5, 7], "b": [7, 5]}, None) == (5, 7)
