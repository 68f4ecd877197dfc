"""skills + the standard library's docstrings -> the tiny track's shards and vocabulary.

The tiny track needs data that every machine has: documents made by code (tiny_skills.py) and sentences of the
docstrings of the installed Python. The shards appear at first use, as a whole folder DATA/data/tiny; several
processes may ask at once. The skills' part is the same everywhere, the docstrings' part for equal Python
versions.

    python -m speedrun.data.tiny_corpus                              make the shards
    python -m speedrun.data.tiny_corpus --vocabulary TEXT.txt ...    list the ids of the corpus and these texts
"""

import argparse
import ast
import hashlib
import json
import os
import platform
import re
import shutil
import sysconfig
import uuid
from collections import Counter
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from random import Random

import numpy as np

from speedrun.data.shards import write_shard
from speedrun.data.tiny_skills import SKILLS
from speedrun.data.tokenizer import BOS, encode

RECIPE = 1
"""Raise it when the documents of a seed change: older shards are then refused, not mixed with newer ones."""
TRAIN_TOKENS = 1_600_000
VAL_TOKENS = 64_000
NUM_TRAIN_SHARDS = 2
PROSE_SHARE = 2
"""In addition to the shares of SKILLS, which add up to 22: 2 / (22 + 2) = 8 % of the tokens."""

MIN_SENTENCES = 1000
"""Python 3.11 gives about 1,650 that the vocabulary covers."""

VOCABULARY_PATH = Path(__file__).with_name("tiny_vocabulary.txt")
MAX_VOCABULARY_IDS = 4094
"""4,096 rows less the rows of BOS and of all other ids."""
VOCABULARY_IDS = 3070
"""The docstrings' most frequent ids are listed until there are this many: 3,072 rows."""

# Files of the standard library, without .py. A version that lacks one does without it.
DOCSTRING_MODULES = """
_collections_abc _pydatetime _pydecimal _pyio argparse ast asyncio/base_events asyncio/events
asyncio/futures asyncio/locks asyncio/protocols asyncio/queues asyncio/streams asyncio/tasks
asyncio/transports base64 bdb bz2 calendar cmd code codecs collections/__init__ concurrent/futures/_base
concurrent/futures/process concurrent/futures/thread configparser contextlib csv datetime difflib dis
doctest email/_policybase email/charset email/header email/message email/parser enum fileinput fractions
ftplib functools gzip heapq http/client http/cookiejar http/cookies http/server imaplib importlib/_abc
importlib/_bootstrap importlib/_bootstrap_external importlib/abc importlib/metadata/__init__ importlib/util
inspect io ipaddress json/decoder json/encoder locale logging/__init__ logging/config logging/handlers lzma
mailbox mimetypes optparse os pathlib pathlib/__init__ pathlib/_local pdb pickletools pkgutil platform
poplib pprint pydoc queue random sched selectors shelve shutil smtplib socket socketserver ssl statistics
string subprocess symtable sysconfig tarfile tempfile textwrap threading timeit tokenize trace traceback
turtle types typing unittest/case unittest/mock unittest/result urllib/parse urllib/request uuid warnings
wave weakref wsgiref/handlers wsgiref/headers xml/dom/minidom xml/etree/ElementTree xml/sax/handler
xml/sax/xmlreader xmlrpc/client xmlrpc/server zipfile zipfile/__init__
"""

Maker = Callable[[Random], str]


def default_data_root() -> Path:
    """$DATA_PATH, else the user's cache folder."""
    if os.environ.get("DATA_PATH"):
        return Path(os.environ["DATA_PATH"])
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "discreteness")


def ensure_tiny_corpus(data_root: str | Path) -> Path:
    """Return the folder DATA_ROOT/data/tiny with the shards of the tiny track; make it if it is not there.

    It holds tiny_train_000001.bin, tiny_train_000002.bin, tiny_val_000000.bin, and tiny_corpus.json, which says how
    they were made, and appears whole, by one rename. Raises ValueError if it cannot be written, was made by another
    recipe, or lacks a file.
    """
    folder = Path(data_root) / "data" / "tiny"
    try:
        if not (folder / "tiny_corpus.json").exists():
            _make(folder)
        _check(folder)
    except OSError as error:
        raise ValueError(
            f"cannot make the tiny corpus in {folder}: {error.strerror}; "
            "give a data root that can be written, or one that holds it"
        ) from error
    return folder


def _make(folder: Path) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    unfinished = folder.with_name(f".tiny-{uuid.uuid4().hex}")
    unfinished.mkdir()
    try:
        modules = docstring_sentences(read_vocabulary())
        if (num_sentences := sum(map(len, modules))) < MIN_SENTENCES:
            raise ValueError(
                f"the Python files in {sysconfig.get_path('stdlib')} give {num_sentences} sentences, "
                f"the tiny corpus needs {MIN_SENTENCES}: use a Python with the sources of its library"
            )
        held_out = modules[::8]
        seen: set[str] = set()
        val = make_documents("val", VAL_TOKENS, partial(_prose, held_out), seen)
        learnt = [module for module in modules if module not in held_out]
        train = make_documents("train", TRAIN_TOKENS, partial(_prose, learnt), seen)
        shards = {"tiny_val_000000.bin": val}
        for n in range(NUM_TRAIN_SHARDS):
            part = slice(n * len(train) // NUM_TRAIN_SHARDS, (n + 1) * len(train) // NUM_TRAIN_SHARDS)
            shards[f"tiny_train_{n + 1:06}.bin"] = train[part]
        for name, documents in shards.items():
            write_shard(unfinished / name, np.concatenate(documents))
        manifest = {
            "recipe": _recipe(),
            "python": platform.python_version(),
            "bytes": {name: (unfinished / name).stat().st_size for name in sorted(shards)},
        }
        (unfinished / "tiny_corpus.json").write_text(json.dumps(manifest, indent=1) + "\n")
        try:
            unfinished.rename(folder)
        except OSError:
            if not (folder / "tiny_corpus.json").exists():  # else another process was first
                raise
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _check(folder: Path) -> None:
    again = f"delete {folder} to have it made again"
    try:
        manifest = json.loads((folder / "tiny_corpus.json").read_text())
        recipe, sizes = manifest["recipe"], manifest["bytes"]
    except (KeyError, TypeError, ValueError):
        raise ValueError(f"{folder / 'tiny_corpus.json'} is damaged; {again}") from None
    if recipe != _recipe():
        raise ValueError(f"{folder} was made by another recipe ({recipe}, now {_recipe()}); {again}")
    for name, size in sizes.items():
        found = (folder / name).stat().st_size if (folder / name).is_file() else None
        if found != size:
            raise ValueError(f"{folder / name} has {found or 'no'} bytes, expected {size}; {again}")


def _recipe() -> str:
    vocabulary = hashlib.sha256(VOCABULARY_PATH.read_bytes()).hexdigest()
    return f"{RECIPE}, vocabulary {vocabulary[:16]}"


def make_documents(split: str, num_tokens: int, prose: Maker | None, seen: set[str]) -> list[np.ndarray]:
    """Return shuffled documents, each BOS and its ids as uint16, of at least `num_tokens` tokens in all.

    A text of `seen` is not used again, and every text is added to it. Without `prose` only the skills' part
    is made.
    """
    shares: dict[Maker, int] = dict(SKILLS)
    if prose:
        shares[prose] = PROSE_SHARE
    documents = []
    for maker, share in shares.items():
        # a stream of its own for each maker: a change to one leaves the documents of the others
        random = Random(f"{split} {'prose' if maker is prose else maker.__name__}")
        missing = num_tokens * share // (sum(SKILLS.values()) + PROSE_SHARE) + 1
        while missing > 0:
            text = maker(random)
            if text not in seen:
                seen.add(text)
                documents.append(np.array([BOS, *encode(text)], dtype=np.uint16))
                missing -= len(documents[-1])
    Random(f"{split} order").shuffle(documents)
    return documents


def _prose(modules: list[list[str]], random: Random) -> str:
    (sentences,) = random.choices(modules, weights=[len(module) for module in modules])
    count = random.randint(5, 12)
    start = random.randrange(max(1, len(sentences) - count))
    return " ".join(sentences[start : start + count]) + "\n"


def docstring_sentences(ids: set[int] | None) -> list[list[str]]:
    """Return the plain sentences of each module's docstrings whose ids are all in `ids` (None: of any ids).

    A module with fewer than five is left out.
    """
    modules = []
    library = Path(sysconfig.get_path("stdlib"))
    for module in DOCSTRING_MODULES.split():
        path = library / f"{module}.py"
        if not path.is_file():
            continue
        kept = [s for s in _sentences(path) if ids is None or ids.issuperset(_ids_of_sentence(s))]
        if len(kept) >= 5:
            modules.append(kept)
    return modules


def _sentences(path: Path) -> Iterable[str]:
    """Sentences once each, without markup, code or formulas: those of the module, of its classes and functions, of
    what these hold."""
    found: dict[str, None] = {}
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    nodes: list[ast.AST] = [ast.parse(path.read_bytes())]
    for node in nodes:  # breadth first, which ast.walk does not promise: shards depend on it
        nodes.extend(ast.iter_child_nodes(node))
        docstring = ast.get_docstring(node) if isinstance(node, documented) else None
        for paragraph in (docstring or "").split("\n\n"):
            for sentence in re.split(r"(?<=[.!?])\s+", paragraph):
                sentence = " ".join(sentence.split())
                if re.fullmatch(r"[A-Z][a-z]* [A-Za-z0-9 ,;:'()/-]{16,}[a-z)][.!?]", sentence):
                    found[sentence] = None
    return found


def _ids_of_sentence(sentence: str) -> list[int]:
    return encode(f"{sentence} {sentence}\n")  # as a paragraph's first sentence and as a later one


def read_vocabulary() -> set[int]:
    """Return the ids that have their own rows in the tiny track, without BOS."""
    return {int(line) for line in VOCABULARY_PATH.read_text().split()}


def make_vocabulary(texts: Iterable[str]) -> list[int]:
    """Return at most 4,094 ids, ascending: of `texts`, of the skills (the rarest left out), of docstrings.

    Raises ValueError if the texts alone have more.
    """
    ids = {token for text in texts for token in encode(text)}
    if len(ids) > MAX_VOCABULARY_IDS:
        raise ValueError(f"the texts have {len(ids)} different ids, at most {MAX_VOCABULARY_IDS} fit: give fewer")
    seen: set[str] = set()
    skills = make_documents("val", VAL_TOKENS, None, seen) + make_documents("train", TRAIN_TOKENS, None, seen)
    values, counts = np.unique(np.concatenate(skills), return_counts=True)
    common = [int(values[i]) for i in np.argsort(-counts, kind="stable") if values[i] != BOS]
    for token in common:
        if len(ids) < MAX_VOCABULARY_IDS:
            ids.add(token)
    in_sentences = Counter(
        token
        for sentences in docstring_sentences(None)
        for sentence in sentences
        for token in set(_ids_of_sentence(sentence))
    )
    for token, _ in sorted(in_sentences.items(), key=lambda item: (-item[1], item[0])):
        if len(ids) < VOCABULARY_IDS:
            ids.add(token)
    return sorted(ids)


def main() -> None:
    parser = argparse.ArgumentParser(description="Make the shards of the tiny track, or its vocabulary.")
    parser.add_argument(
        "--data-root",
        default=default_data_root(),
        help="folder that gets data/tiny (default: $DATA_PATH, else the user's cache)",
    )
    parser.add_argument(
        "--vocabulary",
        nargs="+",
        metavar="TEXT",
        type=Path,
        help="write the vocabulary that covers these texts",
    )
    arguments = parser.parse_args()
    try:
        if arguments.vocabulary:
            # the answer marks of validation documents are not text
            marks = str.maketrans("", "", "\u27e6\u27e7")
            ids = make_vocabulary(path.read_text("utf-8").translate(marks) for path in arguments.vocabulary)
            VOCABULARY_PATH.write_text("".join(f"{token}\n" for token in ids))
            print(f"{VOCABULARY_PATH}: {len(ids)} ids")
        else:
            print(ensure_tiny_corpus(arguments.data_root).resolve())
    except (OSError, ValueError) as error:
        raise SystemExit(str(error)) from None


if __name__ == "__main__":
    main()
