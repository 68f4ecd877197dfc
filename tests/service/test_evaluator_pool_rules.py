"""The evaluator pool on a jumping clock: bounds, blame, order, places, starts. Real actors: test_evaluator_pool.py."""

import asyncio
from itertools import pairwise

import pytest

from discreteness.checkpoint.seam import AttemptFailed, JobImpossible, SeedImpossible
from discreteness.service.evaluator_pool import CheckpointLost, CheckpointRejected
from tests.support.fake_actors import (
    ELSEWHERE,
    HERE,
    THERE,
    FakeRay,
    ProcessEnds,
    Reference,
    Script,
    a_pool,
    header,
    lost,
    now_s,
    of_a_task,
    until,
)

DIES = ProcessEnds("out of memory")
BROKEN = RuntimeError("CUDA error: out of memory")


def score(pool, step, trainer="g", reference=None):
    return asyncio.ensure_future(pool.score(trainer, reference or Reference(), header(step)))


def validate(pool, step, chunk, trainer="g"):
    return asyncio.ensure_future(pool.validate(trainer, Reference(), header(step), chunk))


async def all_of(*calls):
    return await asyncio.gather(*calls, return_exceptions=True)


def messages(pool):
    return [event.message for event in pool.events]


def steps_begun(script):
    return [step for _, step, *_ in script.began]


async def ready(pool):
    await until(pool.ready)


# ---- bounds ----


def test_a_call_that_hangs_ends_after_60_s_and_its_checkpoint_is_scored_by_another_evaluator():
    stage, script = FakeRay(), Script(does={1: None})

    async def scenario():
        pool = a_pool(script)
        began_s, call = now_s(), score(pool, 1)
        await until(lambda: stage.killed)
        script.does.clear()
        noticed_s = now_s() - began_s
        assert (await call).tolist() == [1]
        return pool, noticed_s

    pool, noticed_s = stage.run(scenario())
    assert 60 <= noticed_s < 60.2
    assert stage.killed == stage.actors[:1]
    assert (pool.replaced, len(stage.actors), pool.ready()) == (1, 2, 1)
    assert [event.event for event in pool.events] == ["evaluator ready", "evaluator lost", "evaluator ready"]


def test_two_calls_of_29_s_each_are_within_the_bound():
    stage = FakeRay()

    async def scenario():
        pool = a_pool(Script(call_s=29))
        assert [int(one[0]) for one in await asyncio.gather(*(score(pool, step) for step in range(6)))] == [*range(6)]
        return pool

    assert stage.run(scenario()).replaced == 0


def test_an_evaluator_has_two_calls_at_once_and_never_three():
    for gpus in (0.0, 0.1):
        stage = FakeRay()

        async def scenario(gpus=gpus):
            pool = a_pool(Script(), num_evaluators=2, num_gpus_each=gpus)
            await asyncio.gather(*(score(pool, step) for step in range(20)), validate(pool, 20, 0))

        stage.run(scenario())
        assert [actor.most_open for actor in stage.actors] == [2, 2]


def test_a_call_goes_to_the_evaluator_with_the_fewest():
    script = Script()

    async def scenario():
        pool = a_pool(script, num_evaluators=3)
        await ready(pool)
        await asyncio.gather(*(score(pool, step) for step in range(6)))

    FakeRay().run(scenario())
    for of_a_round in (script.began[:3], script.began[3:]):
        assert len({evaluator for evaluator, _ in of_a_round}) == 3


@pytest.mark.parametrize("error", [lost(), None], ids=["lost", "never"])
def test_bytes_to_keep_come_within_60_s_or_are_lost(error):
    async def scenario():
        pool, began_s = a_pool(Script()), now_s()
        assert await pool.fetch(Reference(b"bytes")) == b"bytes"
        with pytest.raises(CheckpointLost, match="a checkpoint to keep"):
            await pool.fetch(Reference(error))
        return now_s() - began_s

    assert FakeRay().run(scenario()) == pytest.approx(0 if error else 60, abs=0.1)


# ---- blame ----


@pytest.mark.parametrize("error", [lost(), of_a_task(lost())], ids=["bare", "of the task"])
def test_lost_bytes_are_nobodys_fault(error):
    """Neither the evaluator's, which is not replaced, nor the checkpoint's, which is not tried elsewhere."""
    stage = FakeRay()

    async def scenario():
        pool = a_pool(Script())
        with pytest.raises(CheckpointLost, match="the worker that held step 1 is gone"):
            await score(pool, 1, reference=Reference(error))
        assert (await score(pool, 2)).tolist() == [2]
        return pool

    pool = stage.run(scenario())
    assert (pool.replaced, stage.killed, len(stage.actors)) == (0, [], 1)


@pytest.mark.parametrize(("stays", "idle"), [(True, THERE), (False, None)])
def test_what_need_not_stay_on_its_machine_is_scored_wherever_somebody_is_free(stays, idle):
    stage, script = FakeRay(), Script()

    async def scenario():
        pool = a_pool(script, trainers={"here": HERE, "there": THERE}, num_evaluators=2)
        pool.stays = stays
        await until(lambda: pool.ready() == 2)
        await all_of(*(score(pool, step, trainer="here") for step in range(4)))
        at_work = {evaluator for evaluator, _ in script.began}
        return {member.node for member in pool.members if member.actor.instance not in at_work}

    assert stage.run(scenario()) == ({idle} if idle else set())


@pytest.mark.parametrize("kind", [AttemptFailed, SeedImpossible, JobImpossible])
def test_what_a_scorer_says_it_is_the_end_of_is_handed_on_and_the_evaluator_stays(kind):
    stage = FakeRay()
    script = Script(does={1: kind("its pickle holds code")})

    async def scenario():
        pool = a_pool(script)
        with pytest.raises(CheckpointRejected, match=r"^step 1: its pickle holds code$") as rejected:
            await score(pool, 1)
        assert rejected.value.ends == kind.ends
        assert (await score(pool, 2)).tolist() == [2]
        return pool

    assert (stage.run(scenario()).replaced, len(stage.actors)) == (0, 1)


def test_bytes_that_are_wrong_are_rejected_at_once_and_the_evaluator_stays():
    stage = FakeRay()
    script = Script(does={1: ValueError("seed 5 step 1 is uint8[3]")})

    async def scenario():
        pool = a_pool(script)
        with pytest.raises(CheckpointRejected, match="step 1 cannot be scored: ValueError: seed 5 step 1 is uint8"):
            await score(pool, 1)
        return pool

    assert stage.run(scenario()).replaced == 0
    assert steps_begun(script) == [1]


def test_a_checkpoint_that_ends_three_evaluators_is_rejected_and_no_fourth_is_tried():
    for end in (DIES, BROKEN):
        stage, script = FakeRay(), Script(does={1: end})

        async def scenario(script=script):
            pool = a_pool(script)
            with pytest.raises(CheckpointRejected, match=r"step 1 ended 3 evaluators; the last: .*out of memory"):
                await score(pool, 1)
            await ready(pool)
            return pool

        pool = stage.run(scenario())
        assert (pool.replaced, steps_begun(script)) == (3, [1, 1, 1])
        assert len(stage.killed) == 3
        assert sum("evaluator 0 lost" in message and "out of memory" in message for message in messages(pool)) == 3


def test_a_checkpoint_that_ends_two_evaluators_is_scored_by_the_third():
    script = Script(does={1: DIES})

    async def scenario():
        pool = a_pool(script)
        call = score(pool, 1)
        await until(lambda: pool.replaced >= 2)
        script.does.clear()
        return (await call).tolist()

    assert FakeRay().run(scenario()) == [1]


async def first_death(pool, steps):
    """What becomes of these steps, and of three that come when the evaluator has died under them."""
    await ready(pool)
    calls = []
    for step in steps:
        calls.append(score(pool, step))
        await asyncio.sleep(0.1)
    await until(lambda: pool.replaced)
    return await all_of(*calls, *(score(pool, step) for step in (3, 4, 5)))


def test_on_a_cpu_only_the_call_that_was_worked_on_is_suspected():
    """The one in the mailbox was not begun: it gets no strike, and is not scored alone afterwards."""
    stage, script = FakeRay(), Script(does={1: DIES})

    async def scenario():
        pool = a_pool(script)
        call = asyncio.ensure_future(first_death(pool, (1, 2)))
        await until(lambda: (stage.actors[-1].instance, 2) in script.began)
        assert len(pool.members[0].calls) == 2
        return await call

    rejected, *others = stage.run(scenario())
    assert "step 1 ended 3 evaluators" in str(rejected)
    assert [one.tolist() for one in others] == [[2], [3], [4], [5]]


def test_no_strike_for_the_call_before_it():
    """Step 2 lies in the mailbox each time another one dies: three deaths later it is still innocent."""
    script = Script(does={10: DIES, 11: DIES, 12: DIES})

    async def scenario():
        pool = a_pool(script)
        poisons = [score(pool, 10)]
        innocent = score(pool, 2)
        for step in (11, 12):
            await until(lambda deaths=step - 10: pool.replaced >= deaths)
            poisons.append(score(pool, step))
        await all_of(*poisons)
        assert pool.replaced >= 3
        return (await innocent).tolist()

    assert FakeRay().run(scenario()) == [2]


@pytest.mark.parametrize(("end", "suspects"), [(DIES, {1, 2}), (BROKEN, {1})], ids=["death", "own error"])
def test_suspected_are_all_that_were_under_way_at_a_death_but_only_the_one_that_met_an_error(end, suspects):
    """Of two calls at once, on a GPU. A suspect is scored alone from then on."""
    script = Script(does={1: end})

    async def scenario():
        return await first_death(a_pool(script, num_gpus_each=0.1), (1, 2))

    rejected, *others = FakeRay().run(scenario())
    assert "step 1 ended 3 evaluators" in str(rejected)
    assert [one.tolist() for one in others] == [[2], [3], [4], [5]]
    for step in (1, 2):
        later = script.company[step] - {1, 2}
        assert bool(later) == (step not in suspects)


def test_an_evaluator_that_has_scored_a_suspect_takes_two_calls_again():
    stage, script = FakeRay(), Script(does={1: DIES})

    async def scenario():
        pool = a_pool(script, num_gpus_each=0.1)
        suspect = score(pool, 1)
        await until(lambda: pool.replaced)
        script.does.clear()
        await suspect
        await asyncio.gather(*(score(pool, step) for step in range(2, 8)))
        return pool

    pool = stage.run(scenario())
    assert pool.replaced == 1
    assert stage.actors[1].most_open == 2


def test_a_suspect_is_scored_in_its_turn_though_another_node_keeps_the_evaluators_busy():
    """Its own node has none left: it waits for an idle evaluator of the others, which must become idle for it."""
    script, stage = Script(does={1: DIES}), FakeRay()

    async def scenario():
        pool = a_pool(script, trainers={"busy": HERE, "g": THERE}, num_evaluators=2)
        await until(lambda: pool.ready() == 2)
        script.starts = [RuntimeError("no device")] * 99
        suspect = score(pool, 1)
        busy = {score(pool, step, "busy") for step in range(10, 14)}
        for step in range(100, 200):
            done, busy = await asyncio.wait(busy, return_when=asyncio.FIRST_COMPLETED)
            script.does.clear()
            if suspect.done():
                return (await suspect).tolist(), step
            busy |= {score(pool, 10 * step + number, "busy") for number, _ in enumerate(done)}
        raise AssertionError("the suspect was never scored")

    losses, step = stage.run(scenario())
    assert losses == [1] and step < 110


def test_one_death_replaces_an_evaluator_once_however_many_calls_fail():
    stage, script = FakeRay(), Script(does={1: DIES})

    async def scenario():
        pool = a_pool(script, num_gpus_each=0.1)
        call, other = score(pool, 1), score(pool, 2)
        await until(lambda: pool.replaced)
        script.does.clear()
        await asyncio.gather(call, other)
        return pool

    pool = stage.run(scenario())
    assert (pool.replaced, len(stage.actors), len(pool.members)) == (1, 2, 1)
    assert len([message for message in messages(pool) if "lost" in message]) == 1


# ---- order ----


def test_calls_are_answered_in_order_of_arrival():
    script = Script()

    async def scenario():
        pool = a_pool(script)
        await asyncio.gather(*(score(pool, step) for step in (3, 1, 2, 5, 4)))

    FakeRay().run(scenario())
    assert steps_begun(script) == [3, 1, 2, 5, 4]


def test_nodes_without_an_evaluator_share_the_others_in_order_of_arrival():
    script = Script()
    trainers = {"here": HERE, "left": THERE, "right": ELSEWHERE}

    async def scenario():
        pool = a_pool(script, trainers=trainers, num_evaluators=1)
        await asyncio.gather(*(score(pool, step, list(trainers)[step % 3]) for step in range(12)))

    FakeRay().run(scenario())
    assert steps_begun(script) == list(range(12))


def test_64_checkpoints_may_overtake_a_validation_chunk_and_no_more():
    script = Script()

    async def scenario():
        pool = a_pool(script)
        calls = [score(pool, step) for step in range(3)]
        calls.append(validate(pool, 999, 7))
        calls += [score(pool, step) for step in range(3, 200)]
        return (await asyncio.gather(*calls))[3]

    assert FakeRay().run(scenario()) == 7.0
    assert steps_begun(script).index(999) == 3 + 64


def test_validation_chunks_of_one_checkpoint_come_in_order():
    script = Script()

    async def scenario():
        pool = a_pool(script)
        return await asyncio.gather(*(validate(pool, 5, chunk) for chunk in range(6)))

    assert FakeRay().run(scenario()) == [0, 1, 2, 3, 4, 5]
    assert [chunk for *_, chunk in script.began] == [0, 1, 2, 3, 4, 5]


def test_who_has_left_is_not_served_and_holds_nobody_back():
    script = Script()

    async def scenario():
        pool = a_pool(script)
        calls = [score(pool, step) for step in range(6)]
        await ready(pool)
        for call in calls[2:5]:
            call.cancel()
        return await all_of(*calls)

    results = FakeRay().run(scenario())
    assert steps_begun(script) == [0, 1, 5]
    assert [isinstance(one, asyncio.CancelledError) for one in results] == [False, False, True, True, True, False]


def test_who_leaves_in_the_moment_of_being_served_gives_the_place_back():
    """The place is handed out, and before its caller runs again it is cancelled."""
    stage = FakeRay()

    async def scenario():
        pool = a_pool(Script(does={0: None, 1: None}))
        calls = [score(pool, step) for step in range(3)]
        await ready(pool)
        await asyncio.sleep(2)
        (_, _, _, place), *_ = pool._waiting[HERE]
        stage.actors[0].open[0].set_result(b"")
        while not place.done():
            await asyncio.sleep(0)
        calls[2].cancel()
        calls[1].cancel()
        await all_of(*calls)
        return pool

    assert stage.run(scenario()).members[0].calls == []


def test_a_call_whose_caller_leaves_frees_its_place():
    async def scenario():
        pool = a_pool(Script(does={1: None, 2: None}))
        stuck = [score(pool, 1), score(pool, 2)]
        await ready(pool)
        await asyncio.sleep(0.5)
        waiting = score(pool, 3)
        for call in stuck:
            call.cancel()
        await all_of(*stuck)
        assert len(pool.members[0].calls) == 1
        waiting.cancel()
        return pool

    assert FakeRay().run(scenario()).replaced == 0


# ---- places ----


def test_a_checkpoint_stays_on_its_node_while_an_evaluator_is_alive_there():
    stage, script = FakeRay(), Script()

    async def scenario():
        pool = a_pool(script, trainers={"here": HERE, "there": THERE}, num_evaluators=2)
        await until(lambda: pool.ready() == 2)
        await asyncio.gather(*(score(pool, step, "there") for step in range(6)), score(pool, 100, "here"))
        at_work = {step: evaluator for evaluator, step in script.began}
        assert [at_work[step] for step in range(6)] == 6 * [stage.actors[1].instance]
        assert at_work[100] is stage.actors[0].instance
        stage.actors[1].die("out of power")
        script.starts = [RuntimeError("no device")]
        await score(pool, 7, "there")
        return {step: evaluator for evaluator, step in script.began}[7]

    assert stage.run(scenario()) is stage.actors[0].instance


def test_each_trainer_brings_its_share_of_evaluators_once_and_all_together_no_more_than_there_are():
    stage = FakeRay()

    async def scenario():
        pool = a_pool(Script(), trainers={}, num_evaluators=5, num_trainers=3)
        counts = []
        for trainer, node in [("a", HERE), ("a", THERE), ("b", THERE), ("c", ELSEWHERE), ("d", ELSEWHERE)]:
            pool.place_beside(trainer, node)
            counts.append(len(pool.members))
        return pool, counts

    pool, counts = stage.run(scenario())
    assert counts == [2, 2, 4, 5, 5]
    assert [actor.options["scheduling_strategy"].node_id for actor in stage.actors] == [
        HERE,
        HERE,
        THERE,
        THERE,
        ELSEWHERE,
    ]
    assert [member.number for member in pool.members] == [0, 1, 2, 3, 4]


def test_what_an_evaluator_is_asked_of_ray_for():
    for gpus, device, at_once in ((0.0, "cpu", 1), (0.1, "cuda", 2), (1.0, "cuda", 2)):
        stage, script = FakeRay(), Script(does={1: DIES})

        async def scenario(gpus=gpus, script=script):
            pool = a_pool(script, num_evaluators=2, num_gpus_each=gpus)
            await all_of(score(pool, 1))
            return pool

        stage.run(scenario())
        asked = [actor.options for actor in stage.actors]
        assert {actor.device for actor in stage.actors} == {device}
        assert {one["max_concurrency"] for one in asked} == {at_once}
        assert {one["num_gpus"] for one in asked} == {gpus}
        assert {one["num_cpus"] for one in asked} == {0}
        assert len({one["name"] for one in asked}) == len(asked) == 5  # Ray refuses a name that is taken
        if gpus == 1:
            assert {one["scheduling_strategy"] for one in asked} == {"DEFAULT"}
        else:
            assert all(one["scheduling_strategy"].soft for one in asked)


def test_an_evaluators_successor_follows_its_trainer_to_another_node():
    stage, script = FakeRay(), Script(does={1: DIES})

    async def scenario():
        pool = a_pool(script)
        await ready(pool)
        pool.place_beside("g", THERE)
        call = score(pool, 1)
        await until(lambda: pool.replaced)
        script.does.clear()
        await call
        return pool

    pool = stage.run(scenario())
    assert stage.actors[-1].options["scheduling_strategy"].node_id == pool.members[0].node == THERE


def test_an_evaluator_that_landed_elsewhere_serves_the_node_where_it_is():
    stage, script = FakeRay(), Script()
    stage.lands_on[HERE] = THERE

    async def scenario():
        pool = a_pool(script, trainers={"here": HERE, "there": THERE}, num_evaluators=1)
        await score(pool, 1, "here")
        return pool.members[0].node

    assert stage.run(scenario()) == THERE


# ---- starts ----


def test_nobody_is_scored_by_an_evaluator_that_is_not_ready():
    script = Script(start_s=40)

    async def scenario():
        pool, began_s = a_pool(script), now_s()
        call = score(pool, 1)
        await asyncio.sleep(39)
        assert (pool.ready(), script.began) == (0, [])
        await call
        return now_s() - began_s

    assert FakeRay().run(scenario()) == pytest.approx(41, abs=0.1)


def test_an_evaluator_may_take_300_s_to_start_and_is_then_replaced():
    for start_s, replaced in ((299, 0), (301, 1)):
        stage, script = FakeRay(), Script(start_s=start_s)

        async def scenario(script=script):
            pool = a_pool(script)
            await asyncio.sleep(300.5)
            script.start_s = 0
            await score(pool, 1)
            return pool

        pool = stage.run(scenario())
        assert (pool.replaced, len(stage.killed), pool.given_up) == (replaced, replaced, "")


def test_three_failed_starts_of_each_evaluator_end_the_wait_of_everybody_with_the_reason():
    stage, script = FakeRay(), Script(starts=[RuntimeError(f"no device {number}") for number in range(99)])

    async def scenario():
        pool = a_pool(script, num_evaluators=2, trainers={"g": HERE, "h": THERE})
        calls = await all_of(score(pool, 1), score(pool, 2, "h"), validate(pool, 3, 0))
        with pytest.raises(CheckpointRejected, match="no evaluator can start: RuntimeError: no device 5"):
            await score(pool, 4)
        starts = len(stage.actors)
        await asyncio.sleep(2000)
        assert len(stage.actors) == starts  # and nobody tries any more
        return pool, calls

    pool, calls = stage.run(scenario())
    assert {type(one) for one in calls} == {CheckpointRejected}
    assert {str(one) for one in calls} == {"no evaluator can start: RuntimeError: no device 5"}
    assert len(stage.actors) == 6
    told = [event for event in pool.events if event.event == "evaluators given up"]
    assert [(event.level, event.message) for event in told] == [("error", f"the evaluators are given up: {calls[0]}")]


def test_failed_starts_are_forgotten_after_one_that_succeeds():
    script = Script(starts=[RuntimeError("busy"), RuntimeError("busy")])

    async def scenario():
        pool = a_pool(script)
        for step in range(3):  # each time it dies it fails to start twice more
            await score(pool, step)
            script.starts = [RuntimeError("busy"), RuntimeError("busy")]
            script.does[100 + step] = DIES
            poisoned = score(pool, 100 + step)
            await until(lambda: not pool.ready())
            poisoned.cancel()
        await score(pool, 7)
        return pool

    assert FakeRay().run(scenario()).given_up == ""


def test_while_one_evaluator_works_the_others_may_fail_to_start_for_ever():
    script = Script()

    async def scenario():
        pool = a_pool(script, num_evaluators=2)
        await until(lambda: pool.ready() == 2)
        script.starts = [RuntimeError("no device")] * 12
        script.does[1] = DIES
        call = score(pool, 1)
        await until(lambda: pool.ready() < 2)
        script.does.clear()
        await call
        await asyncio.sleep(3000)
        assert pool.given_up == ""
        await score(pool, 2)
        return pool

    pool = FakeRay().run(scenario())
    assert pool.replaced >= 10


def test_the_wait_after_a_failed_start_begins_at_5_s_doubles_and_ends_at_300_s():
    stage, script = FakeRay(), Script()

    async def scenario():
        pool = a_pool(script, num_evaluators=2)
        await until(lambda: pool.ready() == 2)
        script.starts, script.does = [RuntimeError("no device")] * 99, {1: DIES}
        suspect = score(pool, 1)
        await until(lambda: pool.ready() < 2)
        script.does.clear()
        await suspect
        await asyncio.sleep(2500)

    stage.run(scenario())
    waits = [later.began_s - earlier.began_s for earlier, later in pairwise(stage.actors[2:])]
    assert waits[:14] == pytest.approx([5, 10, 10, 20, 20, 40, 40, 80, 80, 160, 160, 300, 300, 300], abs=0.1)


def test_an_evaluator_that_cannot_even_be_made_ends_the_wait():
    script = Script(starts=[RuntimeError("no device")] * 99)

    async def scenario():
        pool = a_pool(script)
        pool.nodes["g"] = "no node"
        with pytest.raises(CheckpointRejected, match=r"an evaluator could not be made: .*hex string"):
            await score(pool, 1)

    FakeRay().run(scenario())


# ---- what is counted ----


def test_an_evaluator_is_busy_from_its_first_call_to_its_last_whatever_becomes_of_it():
    script = Script(call_s=2)

    async def scenario():
        pool = a_pool(script)
        await ready(pool)
        assert pool.busy_s() == 0
        calls = [score(pool, step) for step in range(3)]
        await asyncio.sleep(1)
        seen = [pool.busy_s()]
        await asyncio.gather(*calls)
        await asyncio.sleep(10)
        seen.append(pool.busy_s())
        script.does[9] = DIES
        dying = score(pool, 9)
        await asyncio.sleep(3)
        script.does.clear()
        await dying
        await asyncio.sleep(10)
        seen.append(pool.busy_s())
        return seen

    seen = FakeRay().run(scenario())
    assert seen[:2] == pytest.approx([1, 6], abs=0.01)
    assert seen[2] == pytest.approx(6 + 2 + 2, abs=0.1)
