"""Documents as lines of a .jsonl file: prompts with answers, texts with marks, and every bad line by its number."""

import json

import pytest
from speedrun.data.tokenizer import decode_bytes
from speedrun.tracks import tiny

from discreteness.experiment.documents import DocumentError, load
from discreteness.experiment.prepare import load_documents
from discreteness.experiment.prompts import MAX_LINE_BYTES, documents_at
from discreteness.inference.score import documents_of


def write(tmp_path, *lines):
    path = tmp_path / "capital_questions.jsonl"
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines))
    return path


def answer(document):
    return b"".join(decode_bytes(document.token_ids[index]) for index in sorted(document.answers)).decode()


def test_a_line_is_a_document_and_its_answer_the_end_of_its_text(tmp_path):
    path = write(
        tmp_path,
        {"prompt": "The capital of France is", "answer": " Paris"},
        "",
        {"answer": " Nairobi", "prompt": "The capital of Kenya is", "name": "kenya", "category": "africa"},
        {"text": "The capital of Italy is⟦ Rome⟧.", "name": "europe_italy.txt"},
        {"prompt": "In ⟦x⟧ and \\\\[answer[ the backslashes are", "answer": " text ⟧\n"},
    )
    documents = documents_at(path)
    assert [(d.doc_id, d.name, d.category) for d in documents] == [
        (0, "capital_questions_000001", "capital"),
        (1, "kenya", "africa"),
        (2, "europe_italy.txt", "europe"),
        (3, "capital_questions_000005", "capital"),
    ]
    assert [answer(d) for d in documents] == [" Paris", " Nairobi", " Rome", " text ⟧\n"]
    assert len(documents[1].answers) == 3, "a word of three tokens"
    assert documents[3].text == "In ⟦x⟧ and \\\\[answer[ the backslashes are text ⟧\n"
    assert documents_of(str(path)) == load_documents(str(path), None, tiny) == documents


def test_the_same_text_in_a_file_and_in_a_line_is_the_same_document(tmp_path):
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a_b.txt").write_text("One and one is⟦ two⟧.")
    path = write(tmp_path, {"text": "One and one is⟦ two⟧.", "name": "a_b.txt"})
    assert documents_at(path) == load(tmp_path / "texts") == documents_at(tmp_path / "texts")


GOOD = {"prompt": "1 + 1 =", "answer": " 2"}


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{", "is not JSON: .*; write one object per line"),
        ("[" * 100_000, "is not JSON: .*recursion"),
        ("[1]", r"is '\[1\]': write an object"),
        ({"prompt": "1 + 1 ="}, "has prompt: give prompt and answer, or text"),
        ({"name": "x"}, "has name: give prompt"),
        ({**GOOD, "text": "x"}, "has prompt, answer, text: give"),
        ({**GOOD, "catgory": "x"}, "'catgory' is not one of name, category, prompt, answer, text; leave it out"),
        ({**GOOD, "answer": 2}, "'answer' is 2; give a string"),
        ({**GOOD, "answer": ""}, "'answer' is ''; give a string that is not empty"),
        (
            {"prompt": "1 + 1 = ", "answer": "2"},
            "the borders of '2' cut a token; put the space between prompt and answer",
        ),
        ({"text": "is⟦ Pa⟧ris"}, "line 1 of the text: the borders of ' Pa' cut a token; put the space before a word"),
        ({"text": "a\nis⟦ Paris"}, "line 2 of the text: ⟦ has no partner"),
        ({"prompt": "a\r\nb", "answer": " c"}, "line 1 of the text: holds CRLF"),
        ({"prompt": " ", "answer": "\n"}, "has no text"),
        ({"prompt": "a", "answer": "\0"}, "holds NUL"),
        ({"prompt": "a", "answer": "\ud800"}, "'answer' has half of a character"),
        ({"text": "a" + " a" * 2047}, "has 2048 tokens of text"),
        ({**GOOD, "name": "good"}, "the name 'good' is that of line 1 too; change one"),
        ({**GOOD, "name": "a/b"}, "the name 'a/b' cannot be that of a file"),
        ({**GOOD, "name": "a\nb"}, r"the name 'a\\nb' cannot be that of a file"),
        ({**GOOD, "category": "a\tb"}, r"the category 'a\\tb' cannot be printed"),
        ('{"text": "' + "a" * MAX_LINE_BYTES + '"}', "has more than 1645788 bytes"),
    ],
)
def test_a_bad_line_is_named_by_its_number(tmp_path, line, words):
    path = write(tmp_path, {**GOOD, "name": "good"}, "", line)
    with pytest.raises(DocumentError, match=f"^{path}, line 3[ :,].*{words}") as error:
        documents_at(path)
    assert "\n" not in str(error.value)


def test_a_line_that_is_not_utf8_and_files_without_documents(tmp_path):
    path = write(tmp_path, GOOD)
    path.write_bytes(path.read_bytes() + b'\n{"text": "caf\xe9"}')
    with pytest.raises(DocumentError, match="line 2 is not UTF-8"):
        documents_at(path)
    path.write_text("\n \n")
    with pytest.raises(DocumentError, match="has no document: write lines such as"):
        documents_at(path)
    for missing in tmp_path / "none.jsonl", "none.jsonl":
        with pytest.raises(DocumentError, match=r"none.jsonl is not a file: give a .jsonl file, or a folder"):
            documents_at(missing)
    with pytest.raises(FileNotFoundError, match=r"none\.jsonl is not a file or folder"):
        documents_of("none.jsonl")


def test_line_ends_of_windows_between_lines_are_nothing(tmp_path):
    path = write(tmp_path, GOOD, GOOD)
    expected = documents_at(path)
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n") + b"\r\n")
    assert documents_at(path) == expected
