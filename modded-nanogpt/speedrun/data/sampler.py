"""Samplers: which tokens of the shards each rank takes (training), and fixed chunks (validation).

- Every rank reads the same shards and works out the same assignment, so a shard that cannot be used raises an error on
  all ranks at once.
- The order of the documents is that of the files, or one that the seed alone decides (document_order.py).
- Which documents a call takes is decided by where they begin, without a look at their tokens: what a schedule will take
  can be counted before anything is trained (supply.py), by this very code.
"""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import numpy as np

from speedrun.data.document_order import DocumentIndex, DocumentOrder
from speedrun.data.shards import ShardError, bos_positions, open_shard

Batch = tuple[np.ndarray, np.ndarray, np.ndarray]


class SamplingError(ShardError):
    """The documents cannot fill a call: they ran out, or are too many for the offsets. Every rank meets it at the same
    call, and so does whoever tries again with these shards in this order."""


def offsets_length(num_tokens: int) -> int:
    """Entries of the offset vector for `num_tokens` packed tokens: a multiple of 128, one per 300 or more."""
    return max(1, -(-(num_tokens // 300) // 128)) * 128


class TrainingBatches:
    """Aligned sampler: ranks take consecutive documents, spans begin with BOS, what is cut off is dropped.

    - In the order of the files, shard after shard, the end of a shard that does not fill a call is dropped.
    - Shuffled, the documents of all shards are in one order, anew for each seed and each pass.
    - Each document comes at most once per pass. After `epochs` passes, of which there is one unless more are asked for,
      the documents have run out. A further pass in the order of the files begins at the first shard again.

    `shard_index` and `document_index` say where the next call begins: the shard counts on from pass to pass, and where
    it is shuffled, all shards of a pass are one. The index of a shard is made once, while the shard before it is in
    use, and kept, so later seeds rewind without reading it again.
    """

    def __init__(
        self,
        paths: list[Path],
        rank: int,
        world_size: int,
        num_slots: int,
        max_document_tokens: int,
        shuffled: bool = False,
        epochs: int = 1,
    ):
        """A step has `num_slots` micro-batches over all ranks. Raises ValueError unless world_size divides them.

        Shuffled, every shard is read here, and ShardError raised if one of them is bad.
        """
        if world_size < 1 or num_slots % world_size:
            raise ValueError(f"world size {world_size} does not divide the {num_slots} slots of a step: use a divisor")
        if not 0 <= rank < world_size:
            raise ValueError(f"rank {rank} is outside 0..{world_size - 1}: give each process its own rank")
        if not paths:
            raise ShardError("no training shard given: name at least one file")
        self.paths = [Path(path) for path in paths]
        self.rank, self.world_size = rank, world_size
        self.num_slots, self.max_document_tokens, self.epochs = num_slots, max_document_tokens, epochs
        self._parts_per_pass = 1 if shuffled else len(paths)
        self._index = DocumentIndex(self.paths, max_document_tokens) if shuffled else None
        self._prepared: tuple[int, Future[DocumentOrder]] | None = None
        self._documents: dict[int, Future[DocumentOrder]] = {}
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="shard-index")
        self.rewind()

    def prepare(self, seed: int) -> None:
        """Begin to shuffle for the seed that probably comes next. Nothing to do where the order is that of the
        files."""
        if self._index is not None and (self._prepared is None or self._prepared[0] != seed):
            self._prepared = seed, self._reader.submit(DocumentOrder, self._index, seed)

    def rewind(self, seed: int = 0) -> None:
        """Start again from the first document: of the first shard, or of the order of `seed` where it is shuffled."""
        self.shard_index, self.document_index, self._seed = 0, 0, seed
        self.prepare(seed)
        if self._prepared is not None:
            self._documents = {0: self._prepared[1]}

    def next(self, batch_tokens: int) -> Batch:
        """This rank's next micro-batch of n = batch_tokens / num_slots tokens.

        Returns inputs (n,) int32, targets (n,) int64, cumulative document offsets (offsets_length(n),) int32 with
        unused entries = n. Raises SamplingError, on every rank, if shards run out or if the documents are too many for
        the offsets, and ShardError if a shard is missing or bad.
        """
        return self._pack(*self.advance(batch_tokens))

    def advance(self, batch_tokens: int) -> tuple[DocumentOrder, list[int], int]:
        """Goes past the next call, whose tokens are not read.

        Returns the documents in their order, in it the first place of each rank and then of the call after this one,
        and n. Raises as `next`, and a call that is tried again begins at the same place.
        """
        num_tokens, rest = divmod(batch_tokens, self.num_slots)
        if rest or num_tokens < 1:
            raise ValueError(f"{batch_tokens} batch tokens do not split into {self.num_slots} slots: use a multiple")
        while self.shard_index < self.epochs * self._parts_per_pass:
            documents = self._open(self.shard_index)
            bounds = documents.assign(self.document_index, self.world_size, num_tokens + 1)
            if bounds is not None:
                self._check_offsets(bounds, num_tokens)
                self.document_index = bounds[-1]
                return documents, bounds, num_tokens
            self.shard_index, self.document_index = self.shard_index + 1, 0
        passes = f" after {self.epochs} passes" if self.epochs > 1 else ""
        raise SamplingError(
            f"the {len(self.paths)} training shards from {self.paths[0]} to {self.paths[-1]} ran out{passes}: a call "
            f"needs {self.world_size} x {num_tokens + 1} tokens in documents"
            + ("; add shards" if self._index is not None else " of one shard; add shards or use longer ones")
        )

    def lengths(self) -> np.ndarray | None:
        """Tokens that each document of all shards keeps under the cap, int32; None until every shard was needed."""
        if self._index is not None:
            return self._index.lengths
        if len(self._documents) < len(self.paths):
            return None
        return np.concatenate([documents.result().index.lengths for documents in self._documents.values()])

    def _open(self, part: int) -> DocumentOrder:
        """The documents of a shard, or where it is shuffled of a pass; those of the next one are made meanwhile."""
        for near in (part, part + 1):
            if near < self.epochs * self._parts_per_pass and self._key(near) not in self._documents:
                self._documents[self._key(near)] = self._begin(near)
        documents = self._documents[self._key(part)]
        if documents.exception():
            del self._documents[self._key(part)]  # the file may be repaired before the next seed
        return documents.result()

    def _key(self, part: int) -> int:
        return part % self._parts_per_pass if self._index is None else part

    def _begin(self, part: int) -> Future[DocumentOrder]:
        if self._index is None:
            return self._reader.submit(self._in_file_order, self.paths[self._key(part)])
        return self._reader.submit(DocumentOrder, self._index, self._seed, part)

    def _in_file_order(self, path: Path) -> DocumentOrder:
        return DocumentOrder(DocumentIndex([path], self.max_document_tokens))

    def _check_offsets(self, bounds: list[int], num_tokens: int) -> None:
        most, length = max(end - first for first, end in pairwise(bounds)), offsets_length(num_tokens)
        if most + 1 > length:
            where = f"shard {self.paths[self.shard_index % len(self.paths)]} packs"
            if self._index is not None:
                where = f"shuffled, the shards from {self.paths[0]} to {self.paths[-1]} pack"
            raise SamplingError(
                f"{where} {most} documents into {num_tokens} tokens, but "
                f"the offsets hold {length - 1}: use shards with longer documents, or more tokens per step"
            )

    def _pack(self, documents: DocumentOrder, bounds: list[int], num_tokens: int) -> Batch:
        length = offsets_length(num_tokens)
        spans = documents.take(bounds[self.rank], bounds[self.rank + 1], num_tokens + 1)
        tokens = np.concatenate(spans)
        offsets = np.full(length, num_tokens, dtype=np.int32)
        offsets[0] = 0
        # The last span loses a token: inputs are one shorter than the tokens taken.
        offsets[1 : len(spans) + 1] = np.minimum(np.cumsum([len(span) for span in spans]), num_tokens)
        return tokens[:-1].astype(np.int32), tokens[1:].astype(np.int64), offsets


class ValidationChunks:
    """Unaligned validation stream: chunk i is tokens [i n, (i + 1) n + 1) of the first shard.

    Documents are cut wherever a chunk ends. Rank r of W takes chunk q W + r in its call q; the validation
    loss is the mean over all val_tokens / n chunks.
    """

    def __init__(self, paths: list[Path], val_tokens: int, chunk_tokens: int):
        """Raises ShardError unless the first shard holds every chunk and its offsets can be written."""
        if val_tokens < 1 or val_tokens % chunk_tokens:
            raise ValueError(
                f"{val_tokens} validation tokens do not split into chunks of {chunk_tokens}: use a multiple"
            )
        if not paths:
            raise ShardError("no validation shard given: name a file")
        path, self.chunk_tokens = Path(paths[0]), chunk_tokens
        self._tokens = open_shard(path)
        if len(self._tokens) < val_tokens + 1:
            raise ShardError(
                f"validation shard {path} has {len(self._tokens)} tokens, expected {val_tokens + 1} or more: "
                "use a longer one or ask for fewer validation tokens"
            )
        self._tokens = self._tokens[: val_tokens + 1]
        self._starts = bos_positions(path, self._tokens)
        self._bounds = np.searchsorted(self._starts, np.arange(0, val_tokens + 1, chunk_tokens))
        length, most = offsets_length(chunk_tokens), int(np.diff(self._bounds).max())
        if most + 2 > length:
            raise ShardError(
                f"validation shard {path} has {most} documents in a chunk of {chunk_tokens} tokens, but the "
                f"offsets hold {length - 2}: use a shard with longer documents"
            )

    def __len__(self) -> int:
        return len(self._bounds) - 1

    def chunk(self, i: int) -> Batch:
        """Inputs (n,) int32, targets (n,) int64, offsets (offsets_length(n),) int32: 0, each BOS, then n."""
        if not 0 <= i < len(self):
            raise ValueError(f"chunk {i} is outside 0..{len(self) - 1}")
        n = self.chunk_tokens
        tokens = self._tokens[i * n : (i + 1) * n + 1]
        starts = self._starts[self._bounds[i] : self._bounds[i + 1]]
        offsets = np.full(offsets_length(n), n, dtype=np.int32)
        offsets[0] = 0
        offsets[1 : len(starts) + 1] = starts - i * n
        return tokens[:-1].astype(np.int32), tokens[1:].astype(np.int64), offsets
