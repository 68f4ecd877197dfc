"""committed seeds -> parts: the same losses by token, for questions about one token in all seeds.

discreteness compact runs/tiny

- New seeds become one part. Parts with no more seeds than that (in powers of two) are merged into it, so a seed is
  rewritten only a logarithmic number of times.
- A part is built file by file under a name that is a hash of its content, so a compaction that was killed continues
  after its last file. A file that is not whole is made again, also in a part that was there.
- A part counts once tokens/parts.json, which is replaced as a whole, names it. Files of parts that it replaced are
  deleted after that; a reader that still wanted one finds the new part, or the seeds.
"""

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

import numpy as np
from pyarrow.fs import FileType

from discreteness.dataset.by_token.parts import (
    FORMAT,
    Part,
    begins,
    first_tokens,
    is_whole,
    means_file,
    read_parts,
    write_parts,
)
from discreteness.dataset.by_token.token_file import steps_of_a_page, token_file
from discreteness.dataset.manifest import DocumentInfo, Manifest, read_manifest
from discreteness.dataset.paths import TOKENS_FOLDER
from discreteness.dataset.seed_file import (
    FOOTER_READERS,
    CommittedSeed,
    mean_over_tokens,
    read_losses,
    row_groups,
    scan,
)
from discreteness.dataset.storage import ABANDONED_S, Storage, open_storage

MOST_PARTS = 8
FILE_LOSSES = 2**27
"""Losses of a file, unless one token has more: 512 MiB in memory. About twice that is needed in all."""
SEEDS_AT_ONCE = 16
"""Seeds read side by side: their losses lie together in the transpose and fill a cache line."""


def compact(uri: str | os.PathLike[str] | Storage, progress_bar: Callable[[list], Iterable] = iter) -> tuple[Part, ...]:
    """Brings tokens/ up to what is committed; returns the parts, 8 at most. `progress_bar`: wraps the files to be
    written, for a progress bar.

    Raises FileNotFoundError if there is no dataset, ValueError if a seed's rows are not those of the plan, and OSError
    if a file cannot be read or written or another compaction was done first. In each case the parts that were in force
    still are.
    """
    storage = open_storage(uri)
    manifest = read_manifest(storage)
    committed, _ = scan(storage, manifest)
    try:
        before = read_parts(storage, manifest)
    except ValueError:
        before = ()  # replaced by what is built from the seeds
    kept, merged = merge(_sound(storage, manifest, before, committed), committed)
    parts = kept
    if merged:
        part = new_part(manifest, [committed[seed] for seed in merged])
        missing = [
            (start, stop)
            for start, stop in part.ranges(manifest)
            if not _all_whole(storage, part.files_of(manifest, start, stop))
        ]
        with ThreadPoolExecutor(SEEDS_AT_ONCE) as pool:  # one for all files: each thread keeps memory of its own
            for start, stop in progress_bar(missing):
                _write_file(storage, manifest, part, start, stop, pool)
        parts = (*kept, part)
    if parts != before:
        with suppress(ValueError):
            if read_parts(storage, manifest) not in (before, parts):
                raise OSError(f"another compaction of {storage.uri} finished in the meantime; run it again")
        write_parts(storage, parts)
    _sweep(storage, {part.name for part in parts}, {part.name for part in before})
    return parts


def merge(there: tuple[Part, ...], committed: dict[int, CommittedSeed]) -> tuple[tuple[Part, ...], list[int]]:
    """Parts that stay, largest first, and seeds of the part to be built; no two parts have their number of seeds
    between the same powers of two.
    """
    held = {seed.seed for part in there for seed in part.seeds}
    merged = [seed for seed in committed if seed not in held]
    kept = sorted(there, key=lambda part: len(part.seeds))
    while merged and kept:
        smallest = len(kept[0].seeds).bit_length()
        if smallest > len(merged).bit_length() and len(kept) < MOST_PARTS:
            break
        merged += [seed.seed for seed in kept.pop(0).seeds]
    return tuple(reversed(kept)), sorted(merged)


def new_part(manifest: Manifest, seeds: list[CommittedSeed]) -> Part:
    """One file per row group of the seeds' files, or several if many seeds make it large."""
    most = max(1, FILE_LOSSES // (len(manifest.steps) * len(seeds)))
    starts: list[int] = []
    for group in row_groups(manifest.documents, len(manifest.steps)):
        first, stop = group[0][1], group[-1][1] + group[-1][0].num_losses
        num_files = -(-(stop - first) // most)
        starts += [first + (stop - first) * index // num_files for index in range(num_files)]
    page_steps = steps_of_a_page(len(manifest.steps), len(seeds))
    content = json.dumps([FORMAT, [asdict(seed) for seed in seeds], starts, page_steps])
    name = hashlib.sha256(content.encode()).hexdigest()[:16]
    return Part(name=name, seeds=tuple(seeds), starts=tuple(starts), page_steps=page_steps)


def _sound(
    storage: Storage, manifest: Manifest, parts: tuple[Part, ...], committed: dict[int, CommittedSeed]
) -> tuple[Part, ...]:
    """Parts whose files are there and whole, and whose seeds are all as they were."""
    return tuple(
        part
        for part in parts
        if all(committed.get(seed.seed) == seed for seed in part.seeds) and _all_whole(storage, part.files(manifest))
    )


def _all_whole(storage: Storage, files: dict[str, int]) -> bool:
    """Of paths and their rows."""
    with ThreadPoolExecutor(FOOTER_READERS) as pool:
        return False not in list(pool.map(lambda path: is_whole(storage, path, files[path]), files))


def _write_file(
    storage: Storage, manifest: Manifest, part: Part, start: int, stop: int, pool: ThreadPoolExecutor
) -> None:
    """Losses of tokens `start` to before `stop` in all seeds, and the means of documents that begin there."""
    first = first_tokens(manifest)
    new = begins(manifest, start, stop)
    from_document = new.start if new and first[new.start] == start else new.start - 1
    documents = manifest.documents[from_document : new.stop]
    offset = first[from_document]
    losses = np.empty((stop - start, len(manifest.steps), len(part.seeds)), np.float32)
    means = np.empty((len(new), len(part.seeds), len(manifest.steps)))

    def read(seed: CommittedSeed) -> np.ndarray:
        return read_losses(storage, manifest, seed, documents)

    for column in range(0, len(part.seeds), SEEDS_AT_ONCE):
        found = np.stack(list(pool.map(read, part.seeds[column : column + SEEDS_AT_ONCE])))
        columns = slice(column, column + len(found))
        losses[:, :, columns] = found[:, :, start - offset : stop - offset].T
        for index, document in enumerate(new):
            begin = first[document] - offset
            end = begin + manifest.documents[document].num_losses
            means[index, columns] = [mean_over_tokens(one[:, begin:end]) for one in found]
    doc_ids, token_indices = _names(manifest.documents)
    seeds = [seed.seed for seed in part.seeds]
    if new:
        ids = [manifest.documents[document].doc_id for document in new]
        storage.write(part.means_path(start), means_file(ids, seeds, manifest.steps, means))
    here = slice(start, stop)
    content = token_file(doc_ids[here], token_indices[here], manifest.steps, seeds, losses, part.page_steps)
    storage.write(part.losses_path(start), content)


def _names(documents: tuple[DocumentInfo, ...]) -> tuple[np.ndarray, np.ndarray]:
    """doc_id and token_index, int32, of every loss of a step."""
    doc_ids = [np.full(document.num_losses, document.doc_id, np.int32) for document in documents]
    token_indices = [np.arange(1, document.num_losses + 1, dtype=np.int32) for document in documents]
    return np.concatenate(doc_ids), np.concatenate(token_indices)


def _sweep(storage: Storage, in_force: set[str], replaced: set[str]) -> None:
    """Deletes files of parts that this compaction replaced, and of others that no compaction has worked on for long."""
    folders: dict[str, list] = {}
    for info in storage.list(TOKENS_FOLDER, recursive=True):
        name, slash, _ = info.path.removeprefix(storage.path(f"{TOKENS_FOLDER}/")).partition("/")
        if slash and info.type == FileType.File and name not in in_force:
            folders.setdefault(name, []).append(info)
    for name, infos in folders.items():
        newest_s = max(info.mtime.timestamp() for info in infos)
        if name in replaced or time.time() - newest_s > ABANDONED_S:
            for info in infos:
                with suppress(FileNotFoundError):
                    storage.filesystem.delete_file(info.path)
            if storage.renames:
                with suppress(OSError):
                    Path(storage.path(f"{TOKENS_FOLDER}/{name}")).rmdir()
