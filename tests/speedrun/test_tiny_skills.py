"""The texts of the tiny corpus: each skill says what is true."""

from collections import Counter
from datetime import date, timedelta
from random import Random

import pytest
from speedrun.data.tiny_facts import GIFTS, MONTH_DAYS, NAMES, NUMBERS, PLACES, PRESIDENTS, WORDS
from speedrun.data.tiny_skills import SKILLS, in_base, ordinal
from speedrun.data.tokenizer import encode


def skill_lines(name: str) -> list[str]:
    skill = next(skill for skill in SKILLS if skill.__name__ == name)
    random = Random("test")
    return [line for _ in range(200) for line in skill(random).splitlines()]


def test_arithmetic_is_right():
    kinds = Counter()
    for line in skill_lines("arithmetic"):
        if "=" in line:
            left, right = line.split(" = ")
            assert eval(left.replace("x", "*")) == int(right), line
            kinds[left.split()[1]] += 1
        else:
            a, _, b, _, total = line.lower().rstrip(".").split()
            assert NUMBERS.index(a) + NUMBERS.index(b) == NUMBERS.index(total)
            kinds["words"] += 1
    assert min(kinds[kind] for kind in ("+", "-", "x", "words")) > 300


def test_counting_is_right():
    kinds = Counter()
    for line in skill_lines("counting"):
        heading, numbers = line.rstrip(".").split(": ")
        base = int(heading.split()[3]) if "base" in heading else 10
        values = [NUMBERS.index(n) if n in NUMBERS else int(n, base) for n in numbers.split(", ")]
        step = -1 if "down" in heading else int(heading.split()[2]) if "by" in heading else 1
        assert values == list(range(values[0], values[0] + step * len(values), step)), line
        assert numbers.split(", ")[0] == heading.split()[-1]
        kinds[base, step] += 1
    assert {(10, 1), (10, -1), (10, 5), (2, 1), (8, 1), (16, 1)} <= set(kinds)


def test_days_after_are_right():
    lines = [line for line in skill_lines("units") if line.startswith("The day after")]
    assert any("December 31 is January 1." in line for line in lines)
    for line in lines:
        month, day = line.split()[3:5]
        today = date(2023, list(MONTH_DAYS).index(month) + 1, int(day))
        tomorrow = today + timedelta(days=1)
        assert line.endswith(f"{tomorrow:%B} {tomorrow.day}.") and "February 28 " not in line


def test_brackets_close_in_order():
    closing = {"(": ")", "[": "]", "{": "}", "<": ">"}
    for line in skill_lines("brackets"):
        if '"' in line:
            word, first, last = line.split('"')[1::2]
            assert word[0] == first and word[-1] == last
            continue
        stack = []
        for character in line.split():
            if character in closing:
                stack.append(closing[character])
            else:
                assert stack.pop() == character
        assert not stack


def test_code_prints_what_it_says(capsys):
    code = next(skill for skill in SKILLS if skill.__name__ == "code")
    random = Random("test")
    for _ in range(100):
        text = code(random)
        plurals = {line.split()[3].rstrip(":"): [] for line in text.splitlines() if line.startswith("for ")}
        exec(text, plurals)
        said = [line.split("# ")[1] for line in text.splitlines() if "# " in line]
        assert capsys.readouterr().out.splitlines() == said


def test_lines_have_equal_lengths():
    lengths = next(skill for skill in SKILLS if skill.__name__ == "lengths")
    random = Random("test")
    for _ in range(200):
        lines = lengths(random).splitlines()
        assert len({len(line) for line in lines}) == 1 or len({len(line.split()) for line in lines}) == 1


@pytest.mark.parametrize(
    "number, base, text", [(0, 2, "0"), (10, 2, "1010"), (8, 8, "10"), (26, 16, "1A"), (255, 16, "FF")]
)
def test_in_base(number, base, text):
    assert in_base(number, base) == text


def test_ordinals():
    numbers = (1, 2, 3, 4, 11, 12, 13, 21, 22, 23, 44)
    assert [ordinal(n) for n in numbers] == [
        "1st",
        "2nd",
        "3rd",
        "4th",
        "11th",
        "12th",
        "13th",
        "21st",
        "22nd",
        "23rd",
        "44th",
    ]


def test_facts():
    assert len(NUMBERS) == 100 and NUMBERS[41] == "forty-one"
    assert len(PRESIDENTS) == 44 and PRESIDENTS[15] == "Abraham Lincoln" and PRESIDENTS[21] == PRESIDENTS[23]
    for word in WORDS + NAMES:
        assert len(encode(word)) == len(encode(f" {word}")) == 1, word
    for word in PLACES + GIFTS:
        assert len(encode(f" {word}")) == 1, word
