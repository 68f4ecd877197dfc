"""The batch stream: each step's micro-batches on the device, made ahead of time by a thread.

- Several slots of a rank are joined into one forward pass. Whatever must not cross the end of a slot restarts there, so
  a joined pass computes what its slots would compute one by one.
- Steps come in order, one `start` per seed.
"""

import queue
import threading
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from speedrun.data.sampler import Batch, TrainingBatches
from speedrun.data.vocabulary import Vocabulary
from speedrun.model.gpt import PackedTokens
from speedrun.schedules import NUM_TARGETS, ScheduleConfig, step_settings


class BatchStream:
    """The micro-batches of a rank, step after step, while the GPU computes.

    A thread reads, packs and copies up to `depth` steps ahead: on a GPU from pinned memory and on its own stream, which
    the consumer's stream waits for. After one `start` per seed, `step` is asked for every step in turn.
    """

    def __init__(
        self,
        batches: TrainingBatches,
        vocabulary: Vocabulary,
        schedule: ScheduleConfig,
        device: str | torch.device,
        micro_batch_tokens: int,
        depth: int = 2,
    ):
        self.batches, self.vocabulary, self.schedule = batches, vocabulary, schedule
        self.device = torch.device(device)
        self.micro_batch_tokens, self.depth = micro_batch_tokens, depth
        self._stream = torch.cuda.Stream(self.device) if self.device.type == "cuda" else None
        self._max_seqlen = torch.tensor(batches.max_document_tokens)
        self._thread: threading.Thread | None = None

    def prepare(self, seed: int) -> None:
        """Begin what `start` with this seed will need."""
        self.batches.prepare(seed)

    def start(self, first_step: int = 0, seed: int = 0) -> None:
        """Forget what was made ahead and begin again: the sizes of `first_step`, the sampler's first documents."""
        self.close()
        self.batches.rewind(seed)
        self._next_step, self._last_step = first_step, self.schedule.last_step
        self._made: queue.SimpleQueue[list[PackedTokens] | Exception] = queue.SimpleQueue()
        self._room = threading.Semaphore(self.depth)
        self._closing = False
        self._thread = threading.Thread(target=self._run, args=(first_step,), name="batches", daemon=True)
        self._thread.start()

    def step(self, step: int) -> list[PackedTokens]:
        """The micro-batches of `step`, in order. Raises ShardError, on every rank at the same step, if documents run
        out."""
        assert self._thread is not None, "the stream is not running: start() it"
        assert step == self._next_step < self._last_step, f"step {step} asked for, {self._next_step} is next"
        made = self._made.get()
        if isinstance(made, Exception):
            self.close()
            raise made
        self._next_step += 1
        self._room.release()
        if self._stream is not None:
            here = torch.cuda.current_stream(self.device)
            here.wait_stream(self._stream)
            for tensor in (value for packed in made for value in vars(packed).values() if value.is_cuda):
                tensor.record_stream(here)  # its memory belongs to the other stream
        return made

    def close(self) -> None:
        """End the thread; `start` can be called again."""
        if self._thread is not None:
            self._closing = True
            self._room.release()
            self._thread.join()
            self._thread = None

    def _run(self, first_step: int) -> None:
        try:
            if self._stream is not None:  # a new thread stands on GPU 0, where it would leave a context of 0.5 GB
                torch.cuda.set_device(self._stream.device)
            with torch.cuda.stream(self._stream):
                for step in range(first_step, self._last_step):
                    self._room.acquire()
                    if self._closing:
                        return
                    self._made.put(self._make(step))
        except Exception as error:  # raised again where the step is asked for
            self._made.put(error)

    def _make(self, step: int) -> list[PackedTokens]:
        batch_tokens = step_settings(self.schedule, step).batch_tokens
        slots_here = self.batches.num_slots // self.batches.world_size
        joined = slots_joined(slots_here, batch_tokens // self.batches.num_slots, self.micro_batch_tokens)
        return [
            self._pack([self.batches.next(batch_tokens) for _ in range(joined)]) for _ in range(slots_here // joined)
        ]

    def _pack(self, slots: list[Batch]) -> PackedTokens:
        rows = self.vocabulary.rows(np.concatenate([inputs for inputs, _, _ in slots]))
        slot_tokens = len(slots[0][0])
        positions = torch.arange(slot_tokens, device=self.device).repeat(len(slots))
        return PackedTokens(
            ids=self._send(rows),
            targets=self._send(np.concatenate([self._targets(targets) for _, targets, _ in slots])),
            positions=positions,
            starts=positions == 0,
            cu_seqlens=self._send(join_offsets([offsets for _, _, offsets in slots], slot_tokens)),
            max_seqlen=self._max_seqlen,
            # Rows fit into uint16, as the ids of a shard do, and numpy sorts those by radix.
            order=self._send(rows.astype(np.uint16).argsort(kind="stable")),
        )

    def _targets(self, next_ids: np.ndarray) -> np.ndarray:
        """(n,) ids that follow each token of a slot -> (n, NUM_TARGETS) rows of the next few, -1 past the slot."""
        ahead = np.full((len(next_ids), NUM_TARGETS), -1, dtype=np.int64)
        rows = self.vocabulary.rows(next_ids)
        for k in range(NUM_TARGETS):
            ahead[: len(rows) - k, k] = rows[k:]
        return ahead

    def _send(self, array: np.ndarray) -> Tensor:
        tensor = torch.from_numpy(array)
        return tensor if self._stream is None else tensor.pin_memory().to(self.device, non_blocking=True)


def slots_joined(num_slots: int, slot_tokens: int, micro_batch_tokens: int) -> int:
    """How many whole slots one pass takes: the most that fit and divide `num_slots`; a slot too long goes alone."""
    fitting = max(1, micro_batch_tokens // slot_tokens)
    return max(n for n in range(1, fitting + 1) if num_slots % n == 0)


def shorter_passes(batch_tokens: Sequence[int], num_slots: int, world_size: int, micro_batch_tokens: int) -> str:
    """What to do where a pass takes too much memory: it is whole slots, so the largest batch's slot is the least."""
    slots = [tokens // num_slots for tokens in batch_tokens]
    longest = max(slot * slots_joined(num_slots // world_size, slot, micro_batch_tokens) for slot in slots)
    if longest > max(slots):
        return f"give --micro-batch-tokens {max(slots)}, the length of the longest slot (now {micro_batch_tokens})"
    return f"its longest pass has {longest} tokens, one slot, and cannot be shorter: use a GPU with more memory"


def join_offsets(offsets: list[np.ndarray], slot_tokens: int) -> np.ndarray:
    """Document offsets of each slot -> those of all; empty documents, which cost attention time, are dropped."""
    borders = [slot * slot_tokens + np.unique(part[part < slot_tokens]) for slot, part in enumerate(offsets)]
    return np.concatenate([*borders, [len(offsets) * slot_tokens]]).astype(np.int32)
