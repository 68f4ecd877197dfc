"""track + training shards -> whether they are enough for a seed, counted to the token by the sampler's own walk.

No token is trained on or packed: the sampler (sampler.py) goes past the calls of the track's whole schedule, for which
it reads where the documents begin. So the count cannot differ from what a trainer will meet.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from speedrun.data.sampler import SamplingError, TrainingBatches
from speedrun.data.shards import token_count
from speedrun.schedules import step_settings
from speedrun.tracks import Track


@dataclass(frozen=True, kw_only=True)
class Supply:
    """What the shards give to the training of one seed. Batches are counted without the one further target per slot."""

    track: str
    seed: int | None
    """Whose order of the documents was counted; None: the order of the files, which is that of every seed."""
    num_shards: int
    tokens: int
    """In all shards, as their headers say."""
    updates: int
    needed: int
    """Tokens of the batches of all `updates` of the schedule."""
    usable_updates: int
    """Whole updates that one pass gives, the last batch size going on where more than the schedule was counted."""
    usable: int
    """Their tokens."""
    tails: int | None
    """Tokens behind the track's longest document, or in front of a shard's first; None: not the whole pass was
    counted."""
    max_document_tokens: int
    passes: int
    """That all updates take; 0: no number of passes is enough."""
    any_order: bool
    """One pass is enough in whatever order the documents come."""
    error: str = ""
    """What the sampler says where one pass is not enough."""

    def shortage(self, epochs: int) -> str:
        """Why training would end before its last update if the shards may be read `epochs` times; "" if it would not.

        A reader of the sentence knows what was counted, and every way out.
        """
        if 0 < self.passes <= epochs:
            return ""
        who = "a seed" if self.seed is None else f"seed {self.seed}"
        text = (
            f"{who} of track {self.track} needs {self.needed:,} training tokens for {self.updates:,} updates, and "
            f"{self.words()}"
        )
        if not self.passes:
            return f"{text}; no number of passes is enough: {self.error}"
        split = ", split long documents (`discreteness data make` does)" if self.tails else ""
        return (
            f"{text}: add shards{split}, or give --epochs {self.passes}, which reads the shards {self.passes} times "
            "and changes what is learned"
        )

    def words(self) -> str:
        """What one pass gives, and where the other tokens are left."""
        shards = "1 shard" if self.num_shards == 1 else f"{self.num_shards:,} shards"
        text = f"one pass over {shards} of {self.tokens:,} gives {self.usable:,}, {self.usable_updates:,} updates"
        if self.tails is None:
            return text
        rests = self.tokens - self.tails - self.usable
        return (
            f"{text} ({self.tails:,} lie beyond token {self.max_document_tokens:,} of their documents, and {rests:,} "
            "are rests of documents at the ends of slots or of shards)"
        )


def measure(
    paths: Sequence[Path],
    track: Track,
    world_size: int,
    *,
    shuffled: bool = False,
    seeds: Sequence[int] = (0,),
    epochs: int = 1,
    beyond: bool = False,
) -> Supply:
    """What the shards `paths` give to training with `world_size` ranks.

    Of seeds in orders of their own each is counted, until there is one for which `epochs` passes are not enough: the
    supply is that seed's, or the last one's. One seed is counted where the shards are enough in any order. `beyond`:
    count what one pass gives after the schedule, too. Raises ShardError if a shard that is needed is missing or bad.
    """
    data = track.data
    batches = TrainingBatches(list(paths), 0, world_size, data.num_slots, data.max_document_tokens, shuffled)
    if not shuffled:
        return _measured(batches, track, None, beyond)
    any_order = _enough_in_any_order(batches, track)
    for seed in seeds[:1] if any_order else seeds:
        supply = _measured(batches, track, seed, beyond)
        if supply.shortage(epochs):
            break
    return replace(supply, any_order=any_order and supply.passes == 1)


def _measured(batches: TrainingBatches, track: Track, seed: int | None, beyond: bool) -> Supply:
    batches.epochs = 1
    batches.rewind(seed or 0)
    calls = batches.num_slots // batches.world_size
    sizes = [step_settings(track.schedule, step).batch_tokens for step in range(track.schedule.last_step)]
    usable = usable_updates = 0
    error = ""
    try:
        for size in sizes:
            errors = [_advance(batches, size) for _ in range(calls)]
            error = error or next(filter(None, errors), "")
            if not error:
                usable, usable_updates = usable + size, usable_updates + 1
        passes = batches.epochs
    except SamplingError as never:
        error, passes = str(never), 0
    if beyond and not error:
        more = sum(1 for _ in _updates(batches, sizes[-1], calls))
        usable, usable_updates = usable + more * sizes[-1], usable_updates + more
    tokens = sum(map(token_count, batches.paths))
    lengths = batches.lengths() if error or beyond else None
    return Supply(
        track=track.name,
        seed=seed,
        num_shards=len(batches.paths),
        tokens=tokens,
        updates=len(sizes),
        needed=sum(sizes),
        usable_updates=usable_updates,
        usable=usable,
        tails=None if lengths is None else tokens - int(lengths.sum(dtype=np.int64)),
        max_document_tokens=batches.max_document_tokens,
        passes=passes,
        any_order=passes == 1,
        error=error,
    )


def _advance(batches: TrainingBatches, batch_tokens: int) -> str:
    """Goes past a call, if need be in one pass more. Returns what was wrong in this pass, or ""; raises SamplingError
    where a whole pass holds no such call."""
    try:
        batches.advance(batch_tokens)
    except SamplingError as error:
        batches.epochs += 1
        batches.advance(batch_tokens)
        return str(error)
    return ""


def _updates(batches: TrainingBatches, batch_tokens: int, calls: int) -> Iterator[None]:
    """Goes past whole updates of one size until the documents run out."""
    try:
        while True:
            for _ in range(calls):
                batches.advance(batch_tokens)
            yield
    except SamplingError:
        return


def _enough_in_any_order(batches: TrainingBatches, track: Track) -> bool:
    """Whether one pass is enough even if every slot lost all but the first token of the longest document.

    So no order of the documents has to be looked at."""
    lengths = batches.lengths()
    if lengths is None or not len(lengths):
        return False
    steps = range(track.schedule.last_step)
    slots = batches.num_slots * len(steps)
    needed = sum(step_settings(track.schedule, step).batch_tokens for step in steps)
    return bool(needed + slots * int(lengths.max()) <= lengths.sum(dtype=np.int64))
