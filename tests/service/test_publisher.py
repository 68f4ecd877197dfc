"""The publisher with a real object store: every checkpoint once, in order, whole, within its credits."""

import json

import pytest

from tests.support.publishing import PUBLISHED, STEPS

pytestmark = [pytest.mark.ray, pytest.mark.slow]


@pytest.fixture(scope="module")
def results(tmp_path_factory, private_home):
    from tests.conftest import Program

    job = Program(["-m", "tests.support.publishing"], tmp_path_factory.mktemp("publishing") / "output.txt")
    assert job.wait() == 0, job.output
    return json.loads(job.output.splitlines()[-1])


def rows(result, attempt="a"):
    """[(step, digest)] of what arrived, by step."""
    assert all(right_length for _, _, right_length, _ in result["got"])
    return sorted((step, digest) for name, step, _, digest in result["got"] if name == attempt)


def planned(expected):
    return [(step, expected[str(step)]) for step in sorted(PUBLISHED)]


def test_every_planned_checkpoint_arrives_once_with_the_bytes_of_its_step(results):
    alone = results["alone"]
    assert len({digest for _, digest in rows(alone)}) == len(PUBLISHED)
    assert rows(alone) == planned(alone["expected"])
    assert alone["in_flight"] == 0
    assert alone["rejection"] == ""


def test_checkpoints_are_published_in_the_order_of_steps(results):
    assert results["in_order"] == sorted(PUBLISHED)


def test_every_record_arrives_once(results):
    for result in (results["alone"], results["two_ranks"]):
        assert sorted(record["step"] for record in result["records"] + result["left"]) == list(STEPS)
        assert sorted(result["heard"]) == [5, 6]  # an asyncio actor does not promise the order of calls


def test_no_more_than_the_credits_are_under_way_and_the_wait_is_metered(results):
    alone = results["alone"]
    assert 1 < alone["most_waiting"] <= 3
    credits, staging, stall = alone["stalls"]
    assert credits > 0
    assert stall == credits + staging
    told = alone["told_stalls"]  # with every checkpoint, what had been waited until then
    assert told == sorted(told) and told[0] < told[-1] == stall


def test_ranks_take_turns_and_nothing_is_sent_twice(results):
    both = results["two_ranks"]
    assert rows(both) == planned(both["expected"])


def test_a_rejected_attempt_stops_and_its_buffers_serve_the_next(results):
    result = results["rejected_then_again"]
    first, second = result["first"], result["second"]
    assert first["rejection"] == "attempt a is over"
    assert first["in_flight"] == 0
    assert [step for step, _ in rows(result, "a")] == [step for step in sorted(PUBLISHED) if step < 8]
    assert second["rejection"] == ""
    assert rows(result, "b") == planned(second["expected"])


def test_an_error_of_the_background_comes_out_at_the_next_offer_or_drain(results):
    after_one, after_two = results["failing"]["errors"][0], results["failing"]["errors"][1:]
    assert after_one is None  # one offer: nothing to say yet, the drain says it
    assert len(after_two) == 2
    assert all("publish" in error for error in after_two)
    after = results["failing"]["after"]
    assert rows(after, "b") == planned(after["expected"])


def test_no_reference_outlives_its_row(results):
    assert results["held"] == []
