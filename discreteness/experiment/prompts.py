"""a .jsonl file -> documents, one per line: a prompt and its answer, or a text with its answers marked.

`{"prompt": "The capital of France is", "answer": " Paris"}`: the answer follows the prompt directly, so the space
between them is the answer's, and no character in them is a mark. `{"text": "The capital of France is⟦ Paris⟧."}`: as a
.txt file would hold it. A line may have a "name" and a "category" too.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from discreteness.experiment import documents
from discreteness.experiment.documents import MAX_FILE_BYTES, Document, DocumentError, Tokenization
from discreteness.experiment.tokenizers import adapted

MAX_LINE_BYTES = 6 * MAX_FILE_BYTES
"""JSON writes a character as six at most."""
MAX_TEXT_TOKENS_ELSEWHERE = 2**17
"""Of a document for models that are not the speedrun's; what their own context takes is asked where they score."""
KEYS = ("name", "category", "prompt", "answer", "text")
SPACE_INSIDE = "put the space between prompt and answer at the beginning of the answer, and answer in whole words"


def documents_at(source: str | Path, by: Tokenization | None = None) -> list[Document]:
    """The documents of a .jsonl file, or of a folder of .txt files. Raises DocumentError as `load_lines` and
    `documents.load`."""
    path = Path(source)
    return load_lines(path, by) if path.suffix == ".jsonl" and not path.is_dir() else documents.load(path, by)


def documents_with(
    tokenizer: Any, source: str | Path | None = None, bos: bool | int | None = None
) -> tuple[Document, ...]:
    """The documents of a .jsonl file, of a folder of .txt files, or by default those of this package, by any tokenizer
    (see `tokenizers.adapted`; `bos` as `Tokenizer.encode` takes it).

    The answers of the package's own documents are marked for GPT-2's tokens; by another tokenizer, tokens that have
    only a part of one are answers too. Raises DocumentError as `documents_at`, TypeError if it is not a tokenizer, and
    ValueError if it has no such BOS.
    """
    by = Tokenization(
        tokenizer=adapted(tokenizer), bos=bos, max_text_tokens=MAX_TEXT_TOKENS_ELSEWHERE, cut_answers=source is None
    )
    return tuple(documents.built_in(by) if source is None else documents_at(source, by))


def load_lines(path: Path, by: Tokenization | None = None) -> list[Document]:
    """A document for each line, in their order; lines without anything are passed over.

    Raises DocumentError, with the number of the line, if it is not such an object, has the name of another line, or as
    `documents.load` does for a file; and if there is no such file, or no document in it.
    """
    if not path.is_file():
        raise DocumentError(f"{path} is not a file: give a .jsonl file, or a folder of .txt files")
    found: dict[str, tuple[int, Document]] = {}
    for number, line in _lines(path):
        where = f"{path}, line {number}"
        one = _document(len(found), where, _object(where, line), f"{path.stem}_{number:06d}", by)
        if one.name in found:
            raise DocumentError(f"{where}: the name {one.name!r} is that of line {found[one.name][0]} too; change one")
        found[one.name] = number, one
    if not found:
        raise DocumentError(f'{path} has no document: write lines such as {{"prompt": "1 + 1 =", "answer": " 2"}}')
    return [one for _, one in found.values()]


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    number = 0
    try:
        with path.open("rb") as file:
            while line := file.readline(MAX_LINE_BYTES + 1):
                number += 1
                if len(line) > MAX_LINE_BYTES:
                    raise DocumentError(
                        f"{path}, line {number} has more than {MAX_LINE_BYTES} bytes: split it in parts"
                    )
                if line.strip():
                    yield number, line.decode()
    except UnicodeDecodeError:
        raise DocumentError(f"{path}, line {number} is not UTF-8: save it as UTF-8") from None
    except OSError as error:
        raise DocumentError(f"{path} cannot be read: {error.strerror}; make it a readable file") from None


def _object(where: str, line: str) -> dict[str, Any]:
    try:
        values = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DocumentError(f"{where} is not JSON: {error}; write one object per line") from None
    if not isinstance(values, dict):
        raise DocumentError(f"{where} is {line.strip()[:80]!r}: write an object, with prompt and answer or with text")
    for key, value in values.items():
        if key not in KEYS:
            raise DocumentError(f"{where}: {key!r} is not one of {', '.join(KEYS)}; leave it out")
        if not isinstance(value, str) or not value:
            raise DocumentError(f"{where}: {key!r} is {value!r}; give a string that is not empty, or leave it out")
        if any("\ud800" <= character <= "\udfff" for character in value):
            raise DocumentError(f"{where}: {key!r} has half of a character, a lone surrogate; write the whole one")
    return values


def _document(doc_id: int, where: str, values: dict[str, str], default_name: str, by: Tokenization | None) -> Document:
    name = values.get("name", default_name)
    if not name.isprintable() or "/" in name or name in (".", "..") or len(name.encode()) > 200:
        raise DocumentError(f"{where}: the name {name!r} cannot be that of a file; give another, of 200 bytes at most")
    category = values.get("category", name.removesuffix(".txt").partition("_")[0])
    if not category.isprintable():
        raise DocumentError(f"{where}: the category {category!r} cannot be printed; give another")
    if values.keys() >= {"prompt", "answer"} and "text" not in values:
        text = values["prompt"] + values["answer"]
        spans, advice = [(len(values["prompt"]), len(text))], SPACE_INSIDE
    elif "text" in values and not values.keys() & {"prompt", "answer"}:
        text, spans = documents.unmark(where, values["text"])
        advice = documents.WHOLE_TOKENS
    else:
        given = ", ".join(key for key in KEYS if key in values) or "nothing"
        raise DocumentError(f"{where} has {given}: give prompt and answer, or text")
    return documents.of_spans(doc_id, where, text, spans, name=name, category=category, advice=advice, by=by)
