"""folder of text -> the shards that a track reads, encoded by all cores."""

import hashlib
import json
import multiprocessing
import os
import re
import shutil
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from speedrun.data.shards import BOS, write_shard
from speedrun.data.tokenizer import encode_array
from speedrun.tracks import Track

from discreteness import allowance
from discreteness.shards.oddities import Oddity
from discreteness.shards.split import Splitter

SHARD_TOKENS = 100_000_000
"""As in the public shards."""
PIECE_BYTES = 4 << 20
"""Text that one process encodes at a time: about a quarter of a second, and a megabyte of tokens to carry back."""
LOOK_BYTES = 1 << 16


@dataclass(frozen=True)
class Piece:
    """Bytes [start, stop) of a file. It begins a document where start is 0; a newline follows it unless it ends the
    file."""

    path: Path
    start: int
    stop: int
    ends_file: bool


@dataclass(frozen=True)
class Encoded:
    """What became of some pieces."""

    tokens: np.ndarray
    """(n,) uint16; a document begins with BOS."""
    num_bytes: int
    odd: tuple[tuple[Oddity, Path], ...]


@dataclass(frozen=True)
class Made:
    """What `make_shards` has written."""

    folder: Path
    documents: int
    train_tokens: int
    val_tokens: int
    train_shards: int
    odd: dict[Oddity, list[Path]]
    """Files in which something was changed or left out, each once."""
    max_document_tokens: int
    long_documents: int
    """Those that were longer, and are now several."""
    further_pieces: int
    """What they have become beyond themselves: the shards hold `documents` + this many."""


def make_shards(
    texts: str | Path,
    data_root: str | Path,
    recipe: Track,
    *,
    glob: str = "**/*.txt",
    val_tokens: int | None = None,
    shard_tokens: int = SHARD_TOKENS,
    max_document_tokens: int | None = None,
    processes: int | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Made:
    """Writes the shards that `recipe` reads below `data_root` from the files of `texts` that `glob` chooses.

    A file is a document, and so is a line of a .jsonl file (its "text"); `<|endoftext|>` in them is ordinary text.
    A byte order mark and documents of white space alone are left out, CRLF becomes LF, and bytes that are not UTF-8
    U+FFFD, which the result says.

    Files come in the order of a hash of their names, the same on every machine and with any number of processes.
    Documents of more than `max_document_tokens` (None: as many as the track reads of one) are split, and each piece is
    a document. The first of these, `val_tokens` + 1 tokens and the rest of the last of them, are the validation shard.
    The folder of shards appears whole or not at all. `progress` is told bytes done and bytes in all.

    Raises ValueError if there is no such text, too little of it, a line that is not JSON, or a NUL, and OSError if it
    cannot be read or written, or if the shards are there already.
    """
    train_name, val_name = recipe.data.train_glob, recipe.data.val_glob
    folder = Path(data_root, train_name).parent
    numbered = Path(train_name).name.count("*") == 1
    if recipe.data.made_on_first_use or Path(data_root, val_name).parent != folder or not numbered:
        raise ValueError(
            f"track {recipe.name} does not read shards of one folder that can be filled: give another track"
        )
    if folder.exists() and any(folder.iterdir()):
        raise FileExistsError(f"{folder} is not empty: delete it to make its shards again, or give another --data")
    val_tokens = recipe.data.val_tokens if val_tokens is None else val_tokens
    if val_tokens < 1 or not 1 <= shard_tokens < 2**31:  # the header's count is an int32
        raise ValueError(
            f"--val-tokens {val_tokens}, --shard-tokens {shard_tokens}: give 1 or more, below 2^31 of a shard"
        )
    splitter = Splitter(recipe.data.max_document_tokens if max_document_tokens is None else max_document_tokens)
    paths = text_files(texts, glob)
    total = sum(path.stat().st_size for path in paths)
    made_for_this = [parent for parent in folder.parents if not parent.exists()]
    folder.parent.mkdir(parents=True, exist_ok=True)
    unfinished = folder.with_name(f".{folder.name}-{uuid.uuid4().hex}")
    unfinished.mkdir()
    try:
        sink = _Shards(unfinished, Path(train_name).name, Path(val_name).name, val_tokens, shard_tokens)
        odd: dict[tuple[Oddity, Path], None] = {}
        done = 0
        for encoded in encode_all(batches(paths), processes or allowance.cores()):
            sink.add(splitter.split(encoded.tokens))
            odd |= dict.fromkeys(encoded.odd)
            done += encoded.num_bytes
            progress(done, total)
        sink.close()
        if not sink.train_tokens:
            raise ValueError(
                f"{texts} gives {sink.val_tokens} tokens, and the validation shard takes {val_tokens + 1} and the rest "
                "of its last document: add text, or give a smaller --val-tokens"
            )
        if folder.exists():
            folder.rmdir()
        unfinished.rename(folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
        for parent in made_for_this:
            with suppress(OSError):  # it holds the shards, or what others have put there
                parent.rmdir()
    return Made(
        folder,
        splitter.documents,
        sink.train_tokens,
        sink.val_tokens,
        sink.train_shards,
        _files_of(odd),
        splitter.max_tokens,
        splitter.long_documents,
        splitter.further_pieces,
    )


def text_files(texts: str | Path, glob: str) -> list[Path]:
    """Files of a folder that `glob` chooses, hidden ones left out, in the order of a hash of their names.

    Raises ValueError if there is no such folder, or no such file in it.
    """
    root = Path(texts)
    if not root.is_dir():
        raise ValueError(f"{root} is not a folder: give a folder of text files")
    names = [path.relative_to(root) for path in root.glob(glob) if path.is_file()]
    shown = [name for name in names if not any(part.startswith(".") for part in name.parts)]
    if not shown:
        raise ValueError(f"no file under {root} matches {glob!r}: give another folder, or another --glob")
    return [root / name for name in sorted(shown, key=lambda name: hashlib.sha256(os.fsencode(name)).digest())]


def batches(paths: Iterable[Path], piece_bytes: int = PIECE_BYTES) -> Iterator[list[Piece]]:
    """Pieces of the files in their order, grouped so that a batch has about `piece_bytes` bytes."""
    batch: list[Piece] = []
    room = piece_bytes
    for path in paths:
        for piece in pieces(path, piece_bytes):
            batch.append(piece)
            room -= piece.stop - piece.start
            if room <= 0:
                yield batch
                batch, room = [], piece_bytes
    if batch:
        yield batch


def pieces(path: Path, piece_bytes: int) -> Iterator[Piece]:
    """A file cut where it does not change its tokens: before a newline that a visible ASCII character follows.

    GPT-2's pattern always ends a match there: white space gives up its last character to what comes after it. A .jsonl
    file is cut between lines.
    """
    border = re.compile(rb"\n()" if path.suffix == ".jsonl" else rb"()\n[!-~]")
    size = path.stat().st_size
    start = 0
    with path.open("rb") as file:
        while start < size:
            stop = start + piece_bytes
            while stop < size:
                file.seek(stop)
                if match := border.search(file.read(LOOK_BYTES)):
                    stop += match.start(1)
                    break
                stop += LOOK_BYTES - 1  # a border may lie across the end of what was read
            yield Piece(path, start, min(stop, size), stop >= size)
            start = stop


def encode_all(work: Iterable[list[Piece]], processes: int) -> Iterator[Encoded]:
    """`encode_pieces` of each batch, in their order, by that many processes; few batches are held at a time."""
    with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn")) as pool:
        waiting: deque[Future[Encoded]] = deque()
        try:
            for batch in work:
                waiting.append(pool.submit(encode_pieces, batch))
                if len(waiting) > 2 * processes:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def encode_pieces(batch: list[Piece]) -> Encoded:
    """Pieces -> their tokens, one after another."""
    parts: list[np.ndarray] = []
    odd: list[tuple[Oddity, Path]] = []
    begin = np.array([BOS], np.uint16)
    for piece in batch:
        with piece.path.open("rb") as file:
            file.seek(piece.start)
            content = file.read(piece.stop - piece.start)
        found: set[Oddity] = set()
        try:
            text = content.decode()
        except UnicodeDecodeError:
            text = content.decode(errors="replace")
            found.add(Oddity.NOT_UTF8)
        if piece.start == 0 and text.startswith("\ufeff"):
            text = text[1:]
            found.add(Oddity.BYTE_ORDER_MARK)
        lines = piece.path.suffix == ".jsonl"
        for document in _lines(piece, text) if lines else [text]:
            if not document.strip() and (lines or (piece.start == 0 and piece.ends_file)):
                found.add(Oddity.BLANK)
                continue
            parts += [begin] if lines or piece.start == 0 else []
            parts.append(encode_array(_cleaned(piece, document, found)))
        odd += [(one, piece.path) for one in sorted(found)]
    tokens = np.concatenate(parts) if parts else np.empty(0, np.uint16)
    return Encoded(tokens, sum(piece.stop - piece.start for piece in batch), tuple(odd))


def _cleaned(piece: Piece, text: str, odd: set[Oddity]) -> str:
    """A document, or its part in this piece, without what no writer meant. Raises ValueError if it has a NUL."""
    if "\0" in text:
        raise ValueError(
            f"{piece.path}, behind byte {piece.start}: holds NUL, which is in no text; save the file as UTF-8, if it "
            "is UTF-16, or leave it out by --glob"
        )
    cut = text.endswith("\r") and not piece.ends_file and piece.path.suffix != ".jsonl"  # its LF is in the next piece
    if cut or "\r\n" in text:
        odd.add(Oddity.CRLF)
    return (text[:-1] if cut else text).replace("\r\n", "\n")


def _lines(piece: Piece, text: str) -> Iterator[str]:
    for line in text.split("\n"):  # splitlines would also cut at characters that JSON allows inside a string
        if not line.strip():
            continue
        try:
            document = json.loads(line)["text"]
        except (ValueError, TypeError, KeyError, RecursionError):
            document = None
        if not isinstance(document, str):
            raise ValueError(
                f'{piece.path}, behind byte {piece.start}: {line[:80]!r} is not a JSON object with a "text": repair '
                "that line, or choose other files by --glob"
            )
        yield document


def _files_of(odd: Iterable[tuple[Oddity, Path]]) -> dict[Oddity, list[Path]]:
    files: dict[Oddity, list[Path]] = {}
    for oddity, path in odd:
        files.setdefault(oddity, []).append(path)
    return files


class _Shards:
    """A stream of tokens -> the validation shard, then training shards of `shard_tokens`, as they fill up."""

    def __init__(self, folder: Path, train_name: str, val_name: str, val_tokens: int, shard_tokens: int):
        self.folder, self.train_name, self.val_name = folder, train_name, val_name
        self.wanted, self.shard_tokens = val_tokens + 1, shard_tokens
        self.train_tokens = self.val_tokens = self.train_shards = 0
        self._held: list[np.ndarray] = []
        self._num_held = 0

    def add(self, tokens: np.ndarray) -> None:
        if not self.val_tokens:
            ends = np.flatnonzero(tokens == BOS)
            ends = ends[ends + self._num_held >= self.wanted]  # first document that is no longer needed
            if not len(ends):
                self._hold(tokens)
                return
            self._hold(tokens[: ends[0]])
            self._write_validation()
            tokens = tokens[ends[0] :]
        while self._num_held + len(tokens) >= self.shard_tokens:
            room = self.shard_tokens - self._num_held
            self._hold(tokens[:room])
            self._write_training()
            tokens = tokens[room:]
        self._hold(tokens)

    def close(self) -> None:
        if self._num_held and not self.val_tokens:
            self._write_validation()
        elif self._num_held:
            self._write_training()

    def _hold(self, tokens: np.ndarray) -> None:
        if len(tokens):
            self._held.append(tokens)
            self._num_held += len(tokens)

    def _write_validation(self) -> None:
        self.val_tokens = self._write(self.val_name, 0)

    def _write_training(self) -> None:
        self.train_shards += 1
        self.train_tokens += self._write(self.train_name, self.train_shards)

    def _write(self, name: str, number: int) -> int:
        write_shard(self.folder / name.replace("*", f"{number:06d}"), np.concatenate(self._held))
        written, self._held, self._num_held = self._num_held, [], 0
        return written
