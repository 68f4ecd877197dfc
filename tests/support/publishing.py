"""a publisher on a real, small Ray -> what its dispatcher got, as JSON on the last line. Run by test_publisher.py."""

import asyncio
import gc
import hashlib
import json
import tempfile
from concurrent.futures import wait

import ray
import torch
from speedrun.model.gpt import GPT
from speedrun.schedules import forward_state
from speedrun.training import Checkpoint

from discreteness.checkpoint.layout import CheckpointLayout
from discreteness.checkpoint.staging import Staging
from discreteness.service.publisher import Publisher
from discreteness.service.speedrun_source import Staged
from tests.conftest import start_ray
from tests.support.golden_case import init_weights
from tests.support.quick_track import quick

STEPS = range(quick.schedule.last_step + 1)
PUBLISHED = frozenset(STEPS) - {5, 6}


def digest(data):
    return hashlib.sha256(data).hexdigest()


@ray.remote(num_cpus=0)
class Dispatcher:
    """Accepts every checkpoint a little later, except those of an attempt from the step on where it is over."""

    def __init__(self, over):
        self.over = over
        self.got, self.heard, self.records, self.stalls = [], [], [], {}
        self.waiting = self.most_waiting = 0

    async def publish(self, header, references, records, expected, stall_s):
        if header.step >= self.over.get(header.attempt, len(STEPS)):
            return f"attempt {header.attempt} is over"
        data = await references[0]
        self.got.append([header.attempt, header.step, data.nbytes == header.num_bytes, digest(data)])
        self.records += records
        self.stalls[header.step] = stall_s
        self.waiting += 1
        self.most_waiting = max(self.most_waiting, self.waiting)
        await asyncio.sleep(0.02)
        self.waiting -= 1
        return None

    async def hear(self, attempt, step, records):
        self.heard.append(step)
        self.records += records

    async def all(self):
        told = {"got": self.got, "heard": self.heard, "records": self.records, "most_waiting": self.most_waiting}
        return told | {"told_stalls": [self.stalls[step] for step in sorted(self.stalls)]}


@ray.remote(num_cpus=0)
class OneByOne:
    """Takes calls in the order in which they are made, which an asyncio actor does not promise."""

    def __init__(self):
        self.steps = []

    def publish(self, header, references, records, expected, stall_s):
        self.steps.append(header.step)

    def hear(self, attempt, step, records):
        self.steps.append(step)

    def all(self):
        return self.steps


@ray.remote(num_cpus=0)
class Deaf:
    """No dispatcher at all: publishing fails in the background."""


class Rank:
    """Weights in training on one rank, as a source has them, and what is to arrive of them."""

    def __init__(self, rank, world_size):
        self.rank, self.world_size = rank, world_size
        self.model = GPT(quick.model, torch.float32, "cpu")
        init_weights(self.model, 0)
        self.layout = CheckpointLayout.from_model(self.model)
        self.staging = Staging(self.model, self.layout)
        self.expected = {}

    def publisher(self, dispatcher, attempt):
        return Publisher(
            dispatcher,
            rank=self.rank,
            world_size=self.world_size,
            seed=3,
            attempt=attempt,
            published_steps=PUBLISHED,
            max_in_flight=3 * self.world_size,
            verify_every=0,
        )

    @torch.no_grad()
    def offer(self, publisher, step):
        """Offers the weights of a step, each step's different, and trains on at once."""
        state = forward_state(quick, step)
        self.expected[step] = digest(self.layout.pack(self.model, state.tied))
        publisher.offer(Staged.of(Checkpoint(step, state, [{"step": step}]), self))
        for parameter in self.model.parameters():
            parameter.add_(0.5)


def whole(rank, dispatcher, attempt):
    publisher = rank.publisher(dispatcher, attempt)
    for step in STEPS:
        rank.offer(publisher, step)
    left = publisher.drain()
    return {
        "left": left,
        "in_flight": len(publisher.leaving) + len(publisher.pending),
        "stalls": [publisher.credit_stall_s, publisher.staging_stall_s, publisher.stall_s],
        "rejection": publisher.rejection,
        "expected": rank.expected,
    }


def alone():
    dispatcher = Dispatcher.remote({})
    return whole(Rank(0, 1), dispatcher, "a") | ray.get(dispatcher.all.remote())


def in_order():
    dispatcher = OneByOne.remote()
    whole(Rank(0, 1), dispatcher, "a")
    return [step for step in ray.get(dispatcher.all.remote()) if step in PUBLISHED]


def two_ranks():
    dispatcher = Dispatcher.remote({})
    ranks = [Rank(0, 2), Rank(1, 2)]
    publishers = [rank.publisher(dispatcher, "a") for rank in ranks]
    for step in STEPS:
        for rank, publisher in zip(ranks, publishers, strict=True):
            rank.offer(publisher, step)
    left = [record for publisher in publishers for record in publisher.drain()]
    return {"left": left, "expected": ranks[0].expected} | ray.get(dispatcher.all.remote())


def rejected_then_again():
    """An attempt that is over from step 8 on, and the next one with the same buffers."""
    dispatcher = Dispatcher.remote({"a": 8})
    rank = Rank(0, 1)
    first = whole(rank, dispatcher, "a")
    rank.expected = {}
    second = whole(rank, dispatcher, "b")
    return {"first": first, "second": second} | ray.get(dispatcher.all.remote())


def failing():
    """The error of the background at the next offer, or at the drain."""
    rank, errors = Rank(0, 1), []
    for offers in (1, 2):
        publisher = rank.publisher(Deaf.remote(), "a")
        try:
            for _ in range(offers):
                rank.offer(publisher, 0)
                wait([sent for _, sent in publisher.leaving])
            errors.append(None)
            publisher.drain()
        except AttributeError as error:
            errors.append(str(error))
    dispatcher = Dispatcher.remote({})
    return {"errors": errors, "after": whole(rank, dispatcher, "b") | ray.get(dispatcher.all.remote())}


def main():
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        start_ray(num_cpus=1, object_store_memory=200_000_000, _temp_dir=folder)
        parts = (alone, in_order, two_ranks, rejected_then_again, failing)
        results = {part.__name__: part() for part in parts}
        gc.collect()  # an error holds its frames, and they the reference
        held = ray._private.worker.global_worker.core_worker.get_all_reference_counts()
        results["held"] = [str(counts) for counts in held.values()]
        ray.shutdown()
    print(json.dumps(results))


if __name__ == "__main__":
    main()
