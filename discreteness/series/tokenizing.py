"""a series -> the tokenizer that its models share, and the documents in its tokens."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from discreteness.experiment.documents import Document, texts_hash
from discreteness.experiment.prompts import documents_with
from discreteness.experiment.tokenizers import Tokenizer, adapted
from discreteness.scoring.logits import check_context
from discreteness.series.config import SeriesConfig
from discreteness.series.download import file_hash, local_files, scratch
from discreteness.series.folder import files_of
from discreteness.series.hub import pinned
from discreteness.series.listing import Series
from discreteness.series.loading import context_of, quiet_transformers
from discreteness.series.names import is_folder
from discreteness.series.stored import CONFIG, StoredCheckpoint, StoredFile

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "tokenizer.model",
    "spiece.model",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
)
VOCABULARIES = ("tokenizer.json", "tokenizer.model", "spiece.model", "vocab.json", "vocab.txt")
BOS = {"auto": None, "yes": True, "no": False}


@dataclass(frozen=True)
class Tokenized:
    tokenizer: Tokenizer
    documents: tuple[Document, ...]


def tokenized(config: SeriesConfig, series: Series) -> Tokenized:
    """The documents as all models of the series read them. Raises ValueError if two models do not read them alike, if
    one takes shorter texts, or if there is no tokenizer."""
    with scratch() as folder:
        if config.tokenizer is not None:
            with _files_of_tokenizer(_given(config.tokenizer), folder) as files:
                first = _read(config, files, config.tokenizer)
            found = {config.tokenizer: first}
        else:
            found = _of_models(config, series, folder)
        (one, first), *others = found.items()
        for other, read in others:
            if texts_hash(read.documents) != texts_hash(first.documents):
                raise ValueError(
                    f"{one} and {other} have tokenizers that make other tokens of the documents, and a dataset has one "
                    "text; score them apart, or give --tokenizer if you know that it is that of all models"
                )
        _check_contexts(series, first.documents, folder)
    return first


def _of_models(config: SeriesConfig, series: Series, folder: Path) -> dict[str, Tokenized]:
    """Model -> documents, of models with different files of the tokenizer."""
    found: dict[tuple, tuple[str, Tokenized]] = {}
    for checkpoints in series.checkpoints:
        model, place = checkpoints[-1].model, _with_tokenizer(checkpoints[-1])
        files = _chosen(place, TOKENIZER_FILES)
        key = tuple((file.name, file.hash or file_hash(Path(place.folder) / file.name)) for file in files)
        if key not in found:
            with _files_of_tokenizer(place, folder) as there:
                found[key] = model, _read(config, there, model)
    return dict(found.values())


def _with_tokenizer(checkpoint: StoredCheckpoint) -> StoredCheckpoint:
    """Where the tokenizer of this checkpoint lies: with it, or with its model."""
    places = [checkpoint]
    if not any(file.name in VOCABULARIES for file in checkpoint.files):
        places.append(_given(checkpoint.model))
    for place in places:
        if any(file.name in VOCABULARIES for file in place.files):
            return place
    raise ValueError(
        f"{checkpoint}: has no tokenizer, and neither has {checkpoint.model}; give --tokenizer with a folder or a name "
        "of the hub that has the one it was trained with"
    )


def _given(name: str) -> StoredCheckpoint:
    """A folder or a model of the hub, as if it were a checkpoint."""
    if not is_folder(name):
        return pinned(name)
    folder = Path(name).expanduser().absolute()
    return StoredCheckpoint(
        model=name, name=name, step=0, tokens=None, commit="", folder=str(folder), files=files_of(folder)
    )


def _chosen(place: StoredCheckpoint, names: tuple[str, ...]) -> tuple[StoredFile, ...]:
    return tuple(sorted((file for file in place.files if file.name in names), key=lambda file: file.name))


@contextmanager
def _files_of_tokenizer(place: StoredCheckpoint, scratch: Path) -> Iterator[Path]:
    with local_files(place, _chosen(place, (*TOKENIZER_FILES, CONFIG)), scratch) as folder:
        yield folder


def _read(config: SeriesConfig, folder: Path, whose: str) -> Tokenized:
    transformers = quiet_transformers()
    try:
        loaded = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise ValueError(
            f"the tokenizer of {whose} cannot be loaded: {' '.join(str(error).split())[:500]}; give --tokenizer"
        ) from error
    tokenizer = adapted(loaded)
    documents = tuple(documents_with(tokenizer, config.documents, BOS[config.bos]))
    return Tokenized(tokenizer, documents)


def _check_contexts(series: Series, documents: tuple[Document, ...], folder: Path) -> None:
    """Raises ValueError if a model takes shorter texts than the longest document."""
    transformers = quiet_transformers()
    seen: set[str] = set()
    for checkpoints in series.checkpoints:
        last = checkpoints[-1]
        (file,) = _chosen(last, (CONFIG,))
        if (file.hash or file_hash(Path(last.folder) / file.name)) in seen:
            continue
        with local_files(last, (file,), folder) as there:
            seen.add(file.hash or file_hash(there / file.name))
            context = _context(transformers, there, last)
        if context is not None:
            try:
                check_context(documents, context)
            except ValueError as error:
                raise ValueError(f"{last.model}: {error}") from error


def _context(transformers: Any, folder: Path, checkpoint: StoredCheckpoint) -> int | None:
    try:
        return context_of(
            transformers.AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{checkpoint}: {CONFIG} cannot be used: {' '.join(str(error).split())[:500]}") from error
