"""text files -> validation documents: token ids, and which tokens are answers.

A document is one UTF-8 file, taken as it is. An answer, which what stands before it or common knowledge
decides, is marked in place: `The capital of France is⟦ Paris⟧.` The same in ASCII, for a keyboard without these
brackets: `The capital of France is[answer[ Paris]answer].` Marks are not part of the text. They stand on borders of
tokens, so the space before a word, which GPT-2's tokens begin with, is inside. A backslash before a mark, of either
spelling, makes it ordinary text, without the backslash; a backslash that is meant itself is doubled there, and nowhere
else.

What is in a text by accident, and would be tokens nobody meant, is refused by name: a byte order mark, CRLF, NUL.
"""

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

from discreteness.experiment.tokenizers import Tokenizer, speedruns_gpt2

BUILT_IN = Path(__file__).with_name("documents")
MAX_TEXT_TOKENS = 2047
"""With BOS 2,048, the longest document that the small track trains on."""
MAX_TOKEN_BYTES = 128 + len("⟦⟧".encode())
"""No token of GPT-2 has more than 128 bytes, and each may be marked."""
MAX_FILE_BYTES = MAX_TEXT_TOKENS * MAX_TOKEN_BYTES
"""What is larger is not even read."""
PARTNER = {"⟦": "⟧", "[answer[": "]answer]"}
"""What closes each mark. The ASCII spelling is in no text by accident, as `[[` would be in code and wiki pages."""
MARK = re.compile(r"(?<!\\)(\\*)(⟦|⟧|\[answer\[|\]answer\])")
HOW_TO_MARK = (
    "write each answer as ⟦answer⟧ or [answer[answer]answer], "
    "and a backslash before a mark where these characters themselves are meant"
)
WHOLE_TOKENS = "put the space before a word inside, and mark whole words"


class DocumentError(ValueError):
    """A folder or file that gives no documents; the message is one line and names it."""


@dataclass(frozen=True, kw_only=True)
class Tokenization:
    """How texts become the ids of documents."""

    tokenizer: Tokenizer
    bos: bool | int | None = None
    """What stands before each text, as `Tokenizer.encode` takes it."""
    max_text_tokens: int
    cut_answers: bool = False
    """An answer whose border cuts a token is all tokens that have a part of it. Otherwise it is refused."""


@dataclass(frozen=True, kw_only=True)
class Document:
    """A validation text of N + 1 tokens: it gives N losses, loss i for token i + 1."""

    doc_id: int
    """Place among the documents it was loaded with, from 0."""
    name: str
    """File name, `.txt` included; of a line of a .jsonl file, the name given there or one made of its number."""
    category: str
    """The name up to its first `_` or to `.txt`, unless a line gives another: documents of one family share it."""
    text: str
    """Without marks."""
    token_ids: tuple[int, ...]
    """N + 1 ids, all that a model is given. Of the speedrun's tracks GPT-2's, and the first is BOS, 50256."""
    answers: frozenset[int]
    """Indices into `token_ids` of the tokens that are marked as answers."""


def gpt2() -> Tokenization:
    """That of the speedrun's tracks."""
    return Tokenization(tokenizer=speedruns_gpt2(), max_text_tokens=MAX_TEXT_TOKENS)


def built_in(by: Tokenization | None = None) -> list[Document]:
    """Return the documents of this package, in the order of their names."""
    return load(BUILT_IN, by)


def load(directory: str | Path, by: Tokenization | None = None) -> list[Document]:
    """Return a document for each `.txt` file of `directory`, in the order of their names, tokenized as `by` says, by
    default for the speedrun's tracks.

    DocumentError: no such folder, or no such file in it; a file that is white space alone, not UTF-8, of fewer than
    two tokens or too many (over 2,047 for the speedrun), has a byte order mark, CRLF or NUL, or whose marks are not
    pairs around whole tokens. `<|endoftext|>` in a file is ordinary text.
    """
    directory = Path(directory)
    if not directory.is_dir():
        raise DocumentError(f"{directory} is not a folder: give a folder of .txt files, or a .jsonl file")
    paths = sorted((path for path in directory.iterdir() if path.suffix == ".txt"), key=lambda path: path.name)
    if not paths:
        lines = next((f"; {path} is given by itself" for path in sorted(directory.glob("*.jsonl"))), "")
        raise DocumentError(f"{directory} has no .txt file: put at least one document there{lines}")
    return [read(doc_id, path, by) for doc_id, path in enumerate(paths)]


def texts_hash(documents: Iterable[Document]) -> str:
    """Return the SHA-256, in hexadecimal, of names and token ids in their order: what losses depend on."""
    sha = hashlib.sha256()
    for document in documents:
        sha.update(f"{document.name!r} {list(document.token_ids)}\n".encode())
    return sha.hexdigest()


def read(doc_id: int, path: Path, by: Tokenization | None = None) -> Document:
    """Return the document of one file, with any ending. DocumentError as `load`."""
    by = by or gpt2()
    if not path.name.isprintable():
        raise DocumentError(f"{str(path)!r} has a name that cannot be printed: give it another")
    try:
        if not path.is_file() and not path.is_dir():  # a pipe would be waited for
            raise DocumentError(f"{path} is not a file: take it out of the folder")
        if path.stat().st_size > by.max_text_tokens * MAX_TOKEN_BYTES:
            raise DocumentError(
                f"{path} has {path.stat().st_size} bytes, more than {by.max_text_tokens} tokens: split it in parts"
            )
        marked = path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise DocumentError(
            f"{path} is not UTF-8: byte 0x{error.object[error.start]:02x} at offset {error.start}; save it as UTF-8"
        ) from None
    except OSError as error:
        raise DocumentError(f"{path} cannot be read: {error.strerror}; make it a readable file") from None
    return of_text(doc_id, path, marked, by)


def of_text(doc_id: int, path: Path, marked: str, by: Tokenization | None = None) -> Document:
    """Return the document of a text with its marks, as if `path` held it. DocumentError as `load`."""
    text, spans = unmark(str(path), marked)
    category = path.stem.partition("_")[0]
    return of_spans(doc_id, str(path), text, spans, name=path.name, category=category, by=by)


def of_spans(
    doc_id: int,
    where: str,
    text: str,
    spans: Sequence[tuple[int, int]],
    *,
    name: str,
    category: str,
    advice: str = WHOLE_TOKENS,
    by: Tokenization | None = None,
) -> Document:
    """Return the document of a text without marks, whose answers are the (start, end) of `spans`, in characters.

    where: what holds the text, for errors. advice: what to do where an answer is not of whole tokens. DocumentError as
    `load`.
    """
    by = by or gpt2()
    _refuse_accidents(where, text)
    prefix = by.tokenizer.prefix(by.bos)
    ids = by.tokenizer.encode(text, bos=False)
    if len(ids) > by.max_text_tokens:
        raise DocumentError(
            f"{where} has {len(ids)} tokens of text, at most {by.max_text_tokens} fit: split it in parts"
        )
    if len(prefix) + len(ids) < 2:
        raise DocumentError(f"{where} is one token, and the first token has no loss: write more, or give bos=True")
    answers = frozenset(len(prefix) + index for index in _answers(where, text, spans, ids, advice, by))
    return Document(doc_id=doc_id, name=name, category=category, text=text, token_ids=(*prefix, *ids), answers=answers)


def _refuse_accidents(where: str, text: str) -> None:
    """Raises DocumentError if a text has what no writer meant, and what the model would read all the same."""
    if not text.strip():
        raise DocumentError(f"{where} has no text: write some, or take it out")
    if text.startswith("\ufeff"):
        raise DocumentError(f"{where} begins with a byte order mark: save it as UTF-8 without one")
    for accident, name, cure in (
        ("\r\n", "CRLF, the line end of Windows", "save it with LF, as `sed -i 's/\\r$//' FILE` does"),
        ("\0", "NUL, which is in no text", "save it as UTF-8, if it is UTF-16, or take it out"),
    ):
        if accident in text:
            raise DocumentError(f"{where}, {_line(text, text.index(accident))}: holds {name}; {cure}")


def _line(text: str, at: int) -> str:
    number = text.count("\n", 0, at) + 1
    return f"line {number} of the text"


def unmark(where: str, marked: str) -> tuple[str, list[tuple[int, int]]]:
    """Return the text without marks, and the (start, end) of each marked part in it, in characters."""
    texts, marks = _texts_between_marks(marked)
    for n, mark in enumerate(marks):
        opens = n % 2 == 0
        alone = mark not in PARTNER or n + 1 == len(marks) if opens else mark != PARTNER[marks[n - 1]]
        if alone or not (opens or texts[n]):
            before = "".join(texts[: n + 1])
            what = f"{mark} has no partner" if alone else f"{marks[n - 1]}{mark} marks nothing"
            raise DocumentError(f"{where}, {_line(before, len(before))}: {what}; {HOW_TO_MARK}")
    borders = list(accumulate(map(len, texts)))[:-1]
    return "".join(texts), list(zip(borders[0::2], borders[1::2], strict=True))


def _texts_between_marks(marked: str) -> tuple[list[str], list[str]]:
    """Return the marks in their order, and the text before the first, between each two, and after the last."""
    texts: list[str] = [""]
    marks: list[str] = []
    end = 0
    for match in MARK.finditer(marked):
        backslashes, mark = match.groups()
        texts[-1] += marked[end : match.start()] + backslashes[: len(backslashes) // 2]
        if len(backslashes) % 2:
            texts[-1] += mark
        else:
            marks.append(mark)
            texts.append("")
        end = match.end()
    texts[-1] += marked[end:]
    return texts, marks


def _answers(
    where: str, text: str, spans: Sequence[tuple[int, int]], ids: Sequence[int], advice: str, by: Tokenization
) -> set[int]:
    """Indices into `ids` of the tokens that are answers."""
    if not spans:
        return set()
    borders = _borders(where, text, ids, by.tokenizer)
    index_of = {border: index for index, border in enumerate(borders)}
    answers: set[int] = set()
    for start, end in spans:
        begin, stop = (len(text[:position].encode()) for position in (start, end))
        if by.cut_answers:
            answers.update(i for i in range(len(ids)) if borders[i] < stop and borders[i + 1] > begin)
            continue
        first, last = index_of.get(begin), index_of.get(stop)
        if first is None or last is None:
            raise DocumentError(
                f"{where}, {_line(text, start)}: the borders of {text[start:end]!r} cut a token; {advice}"
            )
        answers.update(range(first, last))
    return answers


def _borders(where: str, text: str, ids: Sequence[int], tokenizer: Tokenizer) -> list[int]:
    """How many bytes of `text` stand before each of its tokens, and behind the last.

    Raises DocumentError if the bytes of the tokens are not those of the text, but for the space that SentencePiece
    puts before it.
    """
    contents = [tokenizer.token_bytes(token) for token in ids]
    whole, spelled = b"".join(contents), text.encode()
    added = len(whole) - len(spelled)
    if whole != b" " * added + spelled or added > 1:
        raise DocumentError(
            f"{where}: its tokens spell {whole[:60]!r}, not the text, so no answer can be found among them; take the "
            "marks out, or use another tokenizer"
        )
    return [max(border, 0) for border in accumulate(map(len, contents), initial=-added)]
