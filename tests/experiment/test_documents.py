"""The built-in documents, folders of the user's own, answers, and what is refused."""

import dataclasses
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from speedrun.data.tiny_facts import CAPITALS, MONTHS, NUMBERS, PLANETS, PRESIDENTS
from speedrun.data.tokenizer import BOS, decode_bytes, encode

from discreteness.experiment.documents import BUILT_IN, Document, DocumentError, built_in, load, texts_hash

FAMILIES = {
    "arithmetic",
    "brackets",
    "calendar",
    "capitals",
    "code",
    "copying",
    "counting",
    "elements",
    "induction",
    "ioi",
    "lengths",
    "planets",
    "presidents",
    "spelling",
    "translation",
    "units",
}


def document(name: str) -> Document:
    return next(d for d in built_in() if d.name == f"{name}.txt")


def answers(d: Document) -> list[str]:
    """The decoded runs of answer tokens that stand side by side."""
    runs: list[bytes] = []
    for index in sorted(d.answers):
        token = decode_bytes(d.token_ids[index])
        runs = [*runs[:-1], runs[-1] + token] if index - 1 in d.answers else [*runs, token]
    return [run.decode() for run in runs]


def one(tmp_path, content: bytes | str, name: str = "text.txt") -> Document:
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return load(tmp_path)[0]


def refused(tmp_path, content: bytes | str, *parts: str) -> None:
    with pytest.raises(DocumentError) as error:
        one(tmp_path, content)
    message = str(error.value)
    assert "\n" not in message
    for part in ("text.txt", *parts):
        assert part in message


def test_families_counts_and_lengths():
    documents = built_in()
    assert {d.category for d in documents} == FAMILIES
    assert [d.doc_id for d in documents] == list(range(len(documents)))
    assert [d.name for d in documents] == sorted({d.name for d in documents})
    for d in documents:
        assert d.token_ids[0] == BOS and BOS not in d.token_ids[1:]
        assert 60 <= len(d.token_ids) - 1 <= 900, d.name
        assert list(d.token_ids[1:]) == encode(d.text)
        assert "⟦" not in d.text and "⟧" not in d.text
        assert d.answers and 0 not in d.answers and max(d.answers) < len(d.token_ids), d.name
        assert len(d.answers) < len(d.token_ids) - 1, d.name


def test_answers_of_sums():
    expected = [5, 8, 8, 14, 14, 3, 15, 11, 10, 8, 14, 11, 9, 18, 11, 11, 25, 38, 52, 66, 22, 70, 78, 91]
    assert answers(document("arithmetic_sums")) == [f" {number}" for number in expected]


def test_arithmetic_is_right():
    for line in document("arithmetic_products").text.splitlines():
        a, b, product = re.fullmatch(r"(\d) x (\d) = (\d+)", line).groups()
        assert int(a) * int(b) == int(product)
    values = {word: value for value, word in enumerate(NUMBERS[:18])}
    assert values["seventeen"] == 17
    for line in document("arithmetic_words").text.splitlines():
        a, b, total = re.fullmatch(r"(\w+) plus (\w+) is (\w+)\.", line.lower()).groups()
        assert values[a] + values[b] == values[total]


def test_answers_of_capitals():
    found = answers(document("capitals_cities"))
    assert found[:6] == [" Paris", " Rome", " Tokyo", " Cairo", " Ottawa", " Oslo"]
    assert found[9] == " Nairobi", "an answer of three tokens is in with all of them"
    assert answers(document("capitals_countries"))[:3] == [" Spain", " Germany", " Russia"]
    assert CAPITALS["Spain"] == "Madrid"


def test_answers_of_the_calendar():
    found = answers(document("calendar_days_and_months"))
    assert found[:6] == [" Tuesday", " Saturday", " Thursday", " Friday", " Wednesday", " Sunday"]
    assert found[6:12] == [" April", " September", " January", " May", " September", " December"]
    assert found[12:20] == [" February", " June", " September", " November", " 31", " 30", " 31", " 30"]
    assert found[20:26] == [" Friday", " Saturday", " Sunday", " Monday", " Tuesday", " Wednesday"]
    assert found[26:] == [f" {month}" for month in MONTHS[9:] + MONTHS[:5]]


def test_answers_of_counting_in_bases():
    lines = document("counting_bases").text.splitlines()
    starts = [(2, 1), (8, 5), (16, 7), (2, 19), (8, 29), (16, 26)]
    found = iter(answers(document("counting_bases")))
    for line, (base, start) in zip(lines, starts, strict=True):
        numbers = line.split(": ")[1].rstrip(".").split(", ")
        assert [int(number, base) for number in numbers] == list(range(start, start + len(numbers)))
        assert line.startswith(f"Counting in base {base} from {numbers[0]}:")
        assert [next(found) for _ in numbers] == [f" {number}" for number in numbers]
    assert next(found, None) is None


def test_answers_of_counting_from_the_middle():
    found = answers(document("counting_decimal"))
    assert found[12:30] == [f" {number}" for number in range(47, 65)]
    assert found[-1] == " twenty-nine"


def test_answers_of_induction_begin_where_the_sequence_repeats():
    for name, copies in (("induction_words", 4), ("induction_numbers", 4)):
        d = document(name)
        words = d.text.split()
        length = len(words) // copies
        assert words == words[:length] * copies
        assert answers(d) == [f" {' '.join(words[length + 1 :])}"]


def test_answers_of_indirect_objects():
    d = document("ioi_gifts")
    expected = ["Mary", "Tom", "Susan", "Sarah", "Laura", "Emily"]
    expected += ["Jack", "Maria", "Henry", "Simon", "Anna", "Rose"]
    assert answers(d) == [f" {name}" for name in expected]
    for line, receiver in zip(d.text.splitlines(), expected, strict=True):
        giver = re.search(r", (?:and )?(\w+) (?:gave|sold|showed|passed) ", line)[1]
        before = line.removesuffix(f" {receiver}.")
        assert before.count(giver) == 2 and before.count(receiver) == 1, line


def test_answers_of_line_lengths_are_the_newlines_after_the_first_line():
    for name, measure in (
        ("lengths_words", lambda line: len(line.split())),
        ("lengths_columns", len),
        ("lengths_prose", len),
    ):
        d = document(name)
        lines = d.text.splitlines()
        assert len({measure(line) for line in lines}) == 1, name
        assert answers(d) == ["\n"] * (len(lines) - 1)
        first = d.token_ids.index(198)
        assert first not in d.answers and d.answers == {i for i, t in enumerate(d.token_ids) if t == 198} - {first}


def test_answers_of_brackets_close_what_was_opened():
    found = answers(document("brackets_nested"))
    pairs = {"(": ")", "[": "]", "{": "}", "<": ">"}
    for n, line in enumerate(document("brackets_nested").text.splitlines()):
        characters = line.split()
        assert [pairs[c] for c in characters[:4]] == characters[:3:-1]
        # the first line's depth is not known before its first closing bracket
        assert found[n] == " " + " ".join(characters[4:] if n else characters[5:])


def test_answers_of_quotes():
    found = answers(document("brackets_quotes"))
    assert found[:5] == ['f"', 't".', '"', 'b"', 'e".']


def test_answers_of_copying():
    for name, step in (("copying_lists", 1), ("copying_reversed", -1)):
        d = document(name)
        given = [line.split(": ")[1].split(" -> ")[0].split() for line in d.text.splitlines()]
        assert answers(d) == [" " + " ".join(words[::step]) for words in given]


def test_answers_of_code_are_what_python_does(capsys):
    d = document("code_functions")
    found = answers(d)
    assert found[:4] == [" a + b", " 5", " x - y", " 5"]
    exec(d.text, {"coins": [], "letters": []})
    printed = capsys.readouterr().out.splitlines()
    assert printed == re.findall(r"# (.*)", d.text)
    assert [answer[1:] for answer in found if answer[1:] in printed] == printed


def test_answers_of_elements_planets_and_presidents():
    assert answers(document("elements_symbols"))[:6] == [" H", " 1", " C", " 6", " O", " 8"]
    assert " Fe" in answers(document("elements_symbols")) and " 26" in answers(document("elements_symbols"))
    planets = answers(document("planets_order"))
    assert planets[:4] == [" first", " third", " fifth", " seventh"]
    assert planets[4:8] == [f" {planet}" for planet in PLANETS[1::2]]
    assert planets[8:12] == [" Venus", " Mars", " Jupiter", " Uranus"]
    assert planets[12:] == [" Jupiter", " Mercury", " Venus", " Mars", " Neptune", " no", " one", " two"]
    presidents = answers(document("presidents_order"))
    assert presidents[:4] == [
        " George Washington",
        " Abraham Lincoln",
        " Thomas Jefferson",
        " Theodore Roosevelt",
    ]
    assert presidents[4:8] == [
        " Franklin D. Roosevelt",
        " John F. Kennedy",
        " Ronald Reagan",
        " Barack Obama",
    ]
    assert presidents[8:] == [f" {name}" for name in PRESIDENTS[3:12] + PRESIDENTS[32:39]]


def test_answers_of_units_and_dates():
    assert answers(document("units_measures"))[:6] == [" 7", " 60", " 24", " 21", " 24", " 12"]
    assert answers(document("units_dates"))[:6] == [
        " January 5",
        " April 1",
        " July 10",
        " May 1",
        " May 18",
        " January 1",
    ]


def test_answers_of_spelling_and_translation():
    d = document("spelling_words")
    assert answers(d) == [f" {' '.join(line.split(':')[0])}" for line in d.text.splitlines()]
    assert answers(document("translation_french"))[:4] == [" maison", " eau", " pain", " chien"]
    assert answers(document("translation_spanish"))[:4] == [" luna", " gato", " leche", " ciudad"]


def test_the_hash_depends_on_names_and_tokens_only():
    documents = built_in()
    # Changes when a built-in document changes: then data sets of older documents cannot be continued.
    assert texts_hash(documents) == "298051b7c35211f44684a1504df01ac7cc6e375c3c99dfb54aaea6b88d118501"
    first = documents[0]

    def hash_with(**changes):
        return texts_hash([dataclasses.replace(first, **changes), *documents[1:]])

    assert hash_with(answers=frozenset()) == texts_hash(documents)
    assert hash_with(name="other.txt") != texts_hash(documents)
    assert hash_with(token_ids=first.token_ids[:-1]) != texts_hash(documents)
    assert texts_hash(documents[::-1]) != texts_hash(documents)


def test_a_folder_gives_its_txt_files_in_the_order_of_their_names(tmp_path):
    for name in ("b.txt", "B.txt", "a_10.txt", "a_9.txt", "notes.md"):
        (tmp_path / name).write_text(name)
    documents = load(str(tmp_path))
    assert [(d.doc_id, d.name) for d in documents] == [
        (0, "B.txt"),
        (1, "a_10.txt"),
        (2, "a_9.txt"),
        (3, "b.txt"),
    ]
    assert [d.category for d in documents] == ["B", "a", "a", "b"]


plain = st.text(st.characters(exclude_characters="⟦⟧\0\r\ufeff", exclude_categories=["Cs"]), max_size=80)


@given(text=plain.filter(str.strip))
def test_a_text_without_marks_is_taken_as_it_is(tmp_path_factory, text):
    d = one(tmp_path_factory.mktemp("documents"), text)
    assert d.text == text and d.answers == frozenset()
    assert b"".join(decode_bytes(token) for token in d.token_ids[1:]) == text.encode()


BEFORE_A_MARK = re.compile(r"(\\*)(⟦|⟧|\[answer\[|\]answer\])")


def escaped(text: str) -> str:
    return BEFORE_A_MARK.sub(r"\1\1\\\2", text)


def before_a_mark(text: str) -> str:
    """Escaped, and the backslashes at its end doubled."""
    return escaped(text) + "\\" * (len(text) - len(text.rstrip("\\")))


pieces_of_marks = st.sampled_from(
    ["⟦", "⟧", "[answer[", "]answer]", "[answer", "answer", "[", "]", "\\", "[[", " a", "\n"]
)


@given(text=st.lists(pieces_of_marks, min_size=1, max_size=12).map("".join).filter(str.strip))
def test_a_backslash_before_a_mark_makes_it_text(tmp_path_factory, text):
    d = one(tmp_path_factory.mktemp("documents"), escaped(text))
    assert d.text == text and d.answers == frozenset()
    assert b"".join(decode_bytes(token) for token in d.token_ids[1:]) == text.encode()


# Each begins with its only space, and so on a border of tokens.
words = st.sampled_from(
    [" Paris", " is", " 雪", " [[1,", " \\", " \\\\", " [answer[", " ]answer]", " ⟦x⟧", " a\\[answer[", " {{x}}."]
)


@given(parts=st.lists(st.tuples(words, st.sampled_from(["text", "⟦⟧", "ascii"])), min_size=1, max_size=12))
def test_both_spellings_mark_the_same_tokens(tmp_path_factory, parts):
    marked, expected = "", []
    for (word, how), (_, following) in zip(parts, [*parts[1:], ("", "text")], strict=True):
        if how == "text":
            marked += escaped(word) if following == "text" else before_a_mark(word)
        elif how == "ascii":
            marked += f"[answer[{before_a_mark(word)}]answer]"
        else:
            marked += f"⟦{before_a_mark(word)}⟧"
        expected += [how != "text"] * len(encode(word))
    d = one(tmp_path_factory.mktemp("documents"), marked)
    assert d.text == "".join(word for word, _ in parts)
    assert [index in d.answers for index in range(1, len(d.token_ids))] == expected


def test_text_in_other_brackets_is_text(tmp_path):
    text = "a = [[1, 2], [3]]; [[Paris|the city]] {{x}} <answer>b</answer> [answer] \\[ x \\]"
    d = one(tmp_path, text)
    assert d.text == text and d.answers == frozenset()


def test_backslashes_that_stand_before_no_mark_are_kept_and_read_in_a_moment(tmp_path):
    text = "\\alpha \\[x\\] \\\\"
    assert one(tmp_path, text).text == text
    # One search per backslash would take minutes.
    refused(tmp_path, "\\" * 250_000, "tokens of text")


def test_line_ends_and_the_special_token_s_text_are_kept(tmp_path):
    d = one(tmp_path, "one\r<|endoftext|> two\n\ufeffthree\n")
    assert d.text == "one\r<|endoftext|> two\n\ufeffthree\n"
    assert d.token_ids.count(BOS) == 1


def test_what_is_in_a_text_by_accident_is_refused_with_its_line(tmp_path):
    refused(tmp_path, "one\ntwo\r\nthree\n", "line 2 of the text: holds CRLF", "save it with LF")
    refused(tmp_path, "one⟦ two\r⟧\n", "line 1 of the text: holds CRLF")
    refused(tmp_path, "one\n\nt\0w\0o\0", "line 3 of the text: holds NUL", "if it is UTF-16")
    refused(tmp_path, "\ufeffone", "begins with a byte order mark", "without one")
    for blank in "\n", " \t\n\u3000", "⟦ ⟧", "\r\n":
        refused(tmp_path, blank, "has no text", "take it out")


def test_marks_around_characters_of_several_tokens(tmp_path):
    d = one(tmp_path, "snow is⟦ 雪⟧.")
    assert d.text == "snow is 雪."
    assert answers(d) == [" 雪"] and len(d.answers) == len(encode(" 雪")) > 1


def test_the_longest_document_and_one_token_more(tmp_path):
    assert len(one(tmp_path, "a" + " a" * 2046).token_ids) == 2048
    refused(tmp_path, "a" + " a" * 2047, "2048 tokens", "at most 2047", "split")


def test_no_folder(tmp_path):
    for path in (tmp_path / "missing", tmp_path / "file"):
        (tmp_path / "file").touch()
        with pytest.raises(DocumentError, match=f"{path} is not a folder: give a folder of .txt files, or a .jsonl"):
            load(path)


def test_no_txt_file(tmp_path):
    (tmp_path / "text.md").write_text("text")
    with pytest.raises(DocumentError, match=r"has no \.txt file: put at least one document there$"):
        load(tmp_path)
    (tmp_path / "lines.jsonl").touch()
    with pytest.raises(DocumentError, match=r"has no \.txt file: put .*; .*/lines.jsonl is given by itself$"):
        load(tmp_path)


def test_bad_files(tmp_path):
    refused(tmp_path, b"", "has no text", "take it out")
    refused(tmp_path, b"caf\xc3\xa9 caf\xe9!", "byte 0xe9", "offset 9", "UTF-8")
    refused(tmp_path, "fine\n\nThe⟦ answer is", "line 3", "⟦ has no partner")
    refused(tmp_path, "The answer⟧ is", "line 1", "⟧ has no partner")
    refused(tmp_path, "The⟦ answer⟦ is⟧", "⟦ has no partner")
    refused(tmp_path, "The⟦⟧ answer", "⟦⟧ marks nothing")
    refused(tmp_path, "The⟦ answer]answer] is", "]answer] has no partner", "a backslash before a mark")
    refused(tmp_path, "x = [answer[0]]", "line 1", "[answer[ has no partner", "a backslash before a mark")
    refused(tmp_path, "The\n[answer[]answer]", "line 2", "[answer[]answer] marks nothing")
    refused(tmp_path, "is [answer[Paris]answer].", "'Paris' cut a token")
    refused(tmp_path, "first\nis ⟦Paris⟧.", "line 2", "'Paris' cut a token", "space before a word")
    refused(tmp_path, "is⟦ Pa⟧ris.", "' Pa' cut a token")


def test_a_folder_named_like_a_text(tmp_path):
    (tmp_path / "text.txt").mkdir()
    with pytest.raises(DocumentError, match=r"text\.txt cannot be read: Is a directory"):
        load(tmp_path)


def test_the_marked_files_are_what_is_shipped():
    assert {path.suffix for path in BUILT_IN.iterdir()} == {".txt"}
