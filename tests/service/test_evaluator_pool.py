"""Evaluators that die, hang or cannot start: who is blamed, who is scored again, and when it ends. Real actors."""

import asyncio
import hashlib
import time
from contextlib import asynccontextmanager
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import ray
from ray.util.placement_group import placement_group, remove_placement_group

from discreteness.service import evaluator_pool as pool_module
from discreteness.service.evaluator_pool import CheckpointRejected, EvaluatorPool
from tests.conftest import start_ray
from tests.support.flaky_evaluator import POISON, Flaky, WithLibrary
from tests.support.flash3_on_cpu import BUILT, kernel

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def small_ray(tmp_path_factory, private_home):
    """One process holds Ray for this file; other test files start theirs in processes of their own."""
    start_ray(num_cpus=8, num_gpus=8, object_store_memory=100_000_000)
    yield
    ray.shutdown()


@asynccontextmanager
async def a_pool(experiment="", num_evaluators=1, num_gpus_each=0.0, trainers=("g",), evaluator=Flaky):
    pool = EvaluatorPool(experiment, num_evaluators, len(trainers), num_gpus_each, evaluator=evaluator)
    for trainer in trainers:
        pool.place_beside(trainer, ray.get_runtime_context().get_node_id())
    try:
        yield pool
    finally:
        for member in pool.members:
            ray.kill(member.actor)


def score(pool, step, trainer="g"):
    return pool.score(trainer, ray.put(np.zeros(1, np.uint8)), SimpleNamespace(step=step))


def test_poison_ends_three_evaluators_and_its_neighbours_lose_nothing(small_ray):
    async def scenario():
        # On a GPU an evaluator works on two calls at once: either may have killed it.
        async with a_pool(num_gpus_each=1.0) as pool:
            steps = [1, POISON, 2, 3, 4, 5]
            return pool, await asyncio.gather(*(score(pool, step) for step in steps), return_exceptions=True)

    pool, (first, rejected, *others) = asyncio.run(scenario())
    assert isinstance(rejected, CheckpointRejected)
    assert f"step {POISON} ended 3 evaluators" in str(rejected)
    assert [int(losses[0]) for losses in (first, *others)] == [1, 2, 3, 4, 5]
    assert pool.replaced == 3


def test_a_dead_evaluators_checkpoints_are_scored_again(small_ray):
    async def scenario():
        async with a_pool(num_evaluators=2) as pool:
            began_s = time.monotonic()
            under_way = [asyncio.ensure_future(score(pool, step)) for step in range(12)]
            await under_way[0]
            ray.kill(next(member for member in pool.members if member.calls).actor)
            losses = await asyncio.gather(*under_way)
            return pool, losses, time.monotonic() - began_s

    pool, losses, took_s = asyncio.run(scenario())
    assert [int(one[0]) for one in losses] == list(range(12))
    assert pool.replaced == 1
    # Each call sleeps 0.05 s, two evaluators stand side by side, and once all is scored neither is busy.
    assert 12 * 0.05 <= pool.busy_s() <= 2 * took_s
    assert pool.busy_s() == pool.busy_s()


def test_checkpoints_stay_on_their_node_while_an_evaluator_is_alive_there(small_ray):
    here = ray.get_runtime_context().get_node_id()
    there = "a" * len(here)

    async def scenario():
        async with a_pool(num_evaluators=2, trainers=("here", "there")) as pool:
            while pool.ready() < 2:
                await asyncio.sleep(0.05)
            first, second = pool.members
            assert first.node == second.node == here
            pool.nodes["there"] = second.node = there  # as if it were on another machine
            pids = {await first.actor.ready.remote(): "here", await second.actor.ready.remote(): "there"}
            asked = ["here"] * 12 + ["there"] * 3
            scored = await asyncio.gather(*(score(pool, step, trainer) for step, trainer in enumerate(asked)))
            assert [pids[int(losses[1])] for losses in scored] == asked  # also once the other one is idle
            ray.kill(second.actor)
            scored = await asyncio.gather(*(score(pool, step, "there") for step in range(4)))
            return [pids.get(int(losses[1])) for losses in scored]

    assert "here" in asyncio.run(scenario())


def test_nodes_without_an_evaluator_share_the_others_in_order_of_arrival(small_ray):
    finished = []

    async def scenario():
        async with a_pool(trainers=("here", "left", "right")) as pool:
            here = pool.nodes["here"]
            pool.nodes.update(left="a" * len(here), right="b" * len(here))
            await score(pool, 0, "here")
            asked = [
                asyncio.ensure_future(score(pool, step, ("left", "right", "here")[step % 3])) for step in range(18)
            ]
            for number, task in enumerate(asked):
                task.add_done_callback(partial(lambda number, _: finished.append(number), number))
            await asyncio.gather(*asked)

    asyncio.run(scenario())
    assert finished == list(range(18))


def test_evaluators_that_never_start_end_the_wait_and_say_why(small_ray, monkeypatch):
    monkeypatch.setattr(pool_module, "RESTART_S", 0.01)

    async def scenario():
        async with a_pool("broken") as pool:
            with pytest.raises(CheckpointRejected, match="no evaluator can start: RuntimeError: no device"):
                await score(pool, 1)
            with pytest.raises(CheckpointRejected, match="no evaluator can start"):  # who comes later is told at once
                await score(pool, 2)
            return pool

    pool = asyncio.run(scenario())
    assert pool.replaced == 2  # three starts
    assert "no device" in pool.given_up


def test_an_evaluator_that_finds_no_place_counts_as_one_that_cannot_start(small_ray, monkeypatch):
    monkeypatch.setattr(pool_module, "RESTART_S", 0.01)
    monkeypatch.setattr(pool_module, "START_TIMEOUT_S", 1)

    async def scenario():
        async with a_pool(num_gpus_each=64) as pool:
            with pytest.raises(CheckpointRejected, match="no evaluator can start"):
                await score(pool, 1)

    asyncio.run(scenario())


def test_an_evaluator_that_cannot_even_be_made_ends_the_wait(small_ray, monkeypatch):
    monkeypatch.setattr(pool_module, "RESTART_S", 0.01)

    async def scenario():
        async with a_pool("broken") as pool:
            pool.nodes["g"] = "no node"  # its successor cannot be asked for
            with pytest.raises(CheckpointRejected, match="an evaluator could not be made"):
                await score(pool, 1)

    asyncio.run(scenario())


def test_validation_is_overtaken_by_some_checkpoints_but_not_for_ever(small_ray, monkeypatch):
    monkeypatch.setattr(pool_module, "VALIDATION_WAITS_FOR", 4)
    finished = []

    async def scenario():
        async with a_pool() as pool:
            await score(pool, 0)
            reference = ray.put(np.zeros(1, np.uint8))
            calls = [score(pool, step) for step in range(3)]
            calls.append(pool.validate("g", reference, SimpleNamespace(step=0), 7))
            calls += [score(pool, step) for step in range(3, 20)]
            tasks = [asyncio.ensure_future(call) for call in calls]
            for number, task in enumerate(tasks):
                task.add_done_callback(partial(lambda number, _: finished.append(number), number))
            await asyncio.gather(*tasks)

    asyncio.run(scenario())
    assert finished.index(3) in range(5, 9)  # behind the 3 before it, the 4 that may overtake it, and no more


def test_seven_trainers_and_an_evaluator_with_a_gpu_of_its_own_fill_eight(small_ray):
    """Real placement on GPUs that are only numbers: bundles as a trainer's workers ask for them."""
    trainers = [placement_group([{"CPU": 1.0, "GPU": 1.0}], strategy="STRICT_PACK") for _ in range(7)]

    async def scenario():
        for trainer in trainers:
            await asyncio.wait_for(trainer.ready(), 30)
        async with a_pool(num_gpus_each=1.0) as pool:
            pool.place_beside("h", ray.get_runtime_context().get_node_id())  # a later trainer brings none
            assert int((await asyncio.wait_for(score(pool, 3), 30))[0]) == 3
            return pool, ray.available_resources().get("GPU", 0)

    try:
        pool, free = asyncio.run(scenario())
        assert (pool.ready(), free) == (1, 0)
    finally:
        for trainer in trainers:
            remove_placement_group(trainer)


@pytest.mark.parametrize("evaluator", [Flaky, WithLibrary])
def test_the_pool_knows_with_which_library_its_evaluators_score(small_ray, tmp_path, evaluator):
    for name, content in kernel().items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)

    async def scenario():
        async with a_pool(str(tmp_path), num_evaluators=2, evaluator=evaluator) as pool:
            await asyncio.gather(*(score(pool, step) for step in range(8)))
            return pool.libraries

    (folder,) = (tmp_path / "build").iterdir()
    library = {"source": str(folder), "sha256": hashlib.sha256(BUILT).hexdigest()}
    assert asyncio.run(scenario()) == ([] if evaluator is Flaky else [library])
