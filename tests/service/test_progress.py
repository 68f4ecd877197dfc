"""How far a run is: the numbers of the line by hand, the time left, when it is said."""

import io
from dataclasses import replace
from types import SimpleNamespace

import pytest
from rich.console import Console

from discreteness.service import progress as progress_module
from discreteness.service.log import LOG_INTERVAL_S, Log
from discreteness.service.messages import Counts, Event, Preparing, Running
from discreteness.service.progress import Reporter
from tests.service.test_log import progress
from tests.support.job_case import ONE_TRAINER, a_job
from tests.support.plain_ray import Clock

EXPERIMENT = SimpleNamespace(seeds=range(6), plan=(0, 100))


def at(*steps):
    """Seeds in training at these steps."""
    return [
        Running(seed=3 + i, attempt="a", trainer=f"trainer-{i}", step=step, train_loss=None)
        for i, step in enumerate(steps)
    ]


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    clock.now_s = 1000.0  # of a machine that has been up for a while
    monkeypatch.setattr(progress_module, "time", clock)
    return clock


def lines(capsys):
    return capsys.readouterr().out.splitlines()


def test_the_line_has_the_numbers_of_earlier_jobs_and_of_this_one(clock, capsys):
    with Log("text") as log:
        reporter = Reporter(log, a_job(EXPERIMENT, range(4)))
        clock.sleep(15)
        reporter.show(
            progress(
                committed=1, training=at(12, 40), counts=Counts(checkpoints=8), in_flight=3, in_flight_bytes=7_400_000
            )
        )
        clock.sleep(15)
        reporter.show(progress(committed=1, training=[]))
    first, second = lines(capsys)
    assert first == (
        "[15 s] seeds committed 3/6, training seed 3 at 12, seed 4 at 40; checkpoints scored 8, in flight 3 (7 MB, "
        "lag 2 steps); evaluators 1 of 1"
    )
    assert "[30 s]" in second and "training none" in second


def test_the_time_left_counts_from_the_first_update_and_without_seeds_done_or_failed(clock, capsys):
    """20 updates at 100 s, 150 at 160 s: 13 in 6 s. Of six seeds one was done before and one is given up: 250 to go."""
    with Log("text") as log:
        reporter = Reporter(log, a_job(EXPERIMENT, range(5)))
        clock.sleep(90)
        reporter.show(progress(committed=0, training=at(0)))
        clock.sleep(10)
        reporter.show(progress(committed=0, training=at(20)))
        clock.sleep(60)
        reporter.show(progress(committed=1, training=at(50), failed={9: "nan"}))
    start, first, second = lines(capsys)
    assert "left" not in start and "left" not in first
    assert second.endswith(f"about {250 / (130 / 60) / 60:.0f} min left")
    assert second.endswith("about 2 min left")


def test_where_nothing_is_a_terminal_a_line_comes_now_and_then(clock, capsys):
    with Log("text") as log:
        reporter = Reporter(log, a_job(EXPERIMENT, range(6)))
        for _ in range(41):
            reporter.show(progress())
            clock.sleep(LOG_INTERVAL_S / 4)
    assert len(lines(capsys)) == 11


def test_events_come_at_once_each_of_them_counted(clock, capsys):
    with Log("text") as log:
        reporter = Reporter(log, a_job(EXPERIMENT, range(6)))
        reporter.show(progress())
        reporter.show(progress(events=[Event(event="note", message=text) for text in ("one", "two")]))
        reporter.show(progress(events=[Event(event="note", message="three")]))
    assert lines(capsys)[1:] == ["one", "two", "three"]
    assert reporter.events_seen == 3


def test_on_a_terminal_one_line_is_kept_up_to_date_until_it_is_closed(clock):
    with Log("text") as log:
        log.console = Console(file=io.StringIO(), force_terminal=True, width=300)
        reporter = Reporter(log, a_job(EXPERIMENT, range(6)))
        reporter.show(progress(counts=Counts(checkpoints=41)))
        shown = reporter.status
        reporter.show(progress(counts=Counts(checkpoints=42)))
        assert reporter.status is shown
        assert "checkpoints scored 42" in shown.status
        reporter.close()
        reporter.close()  # also where it was never shown
    assert reporter.status is None


def starting(**changes):
    """Of a job that has done nothing yet."""
    nothing = {"committed": 0, "training": [], "counts": Counts(), "placed": 0, "evaluators_ready": 0}
    return progress(**nothing | changes)


def test_above_the_live_line_stands_what_others_print_without_what_the_job_explains(clock, capsys):
    many = "(raylet) WARNING: {} PYTHON worker processes have been started on node: 67"
    with Log("text") as log:
        log.console, log.others.explained_processes = Console(file=io.StringIO(), force_terminal=True, width=300), 24
        reporter = Reporter(log, a_job(EXPERIMENT, range(6)))
        reporter.show(progress())
        for line in (many.format(24), many.format(25), "(raylet) lost"):
            print(line)
        reporter.close()
        print(many.format(24))
        print("after")
    drawn = log.console.file.getvalue()
    assert many.format(25) in drawn and "(raylet) lost" in drawn and many.format(24) not in drawn
    assert capsys.readouterr().out == "after\n"


def test_while_nothing_trains_a_line_that_says_nothing_new_comes_once_a_minute(clock, capsys):
    job = a_job(EXPERIMENT, range(6), replace(ONE_TRAINER, trainers=2, evaluators=2))
    with Log("text") as log:
        reporter = Reporter(log, job)

        def show_for(seconds, **changes):
            for second in range(seconds):
                preparing = [Preparing(trainer="trainer-0", what="checking its shards", for_s=second)]
                reporter.show(starting(**{"preparing": preparing if "placed" in changes else []} | changes))
                clock.sleep(1)

        show_for(60)
        show_for(130, placed=1)
        show_for(1, placed=2, preparing=[])
    assert lines(capsys) == [
        "[0 s] nothing trains yet: 2 of 2 trainers have not started yet; evaluators 0 of 2",
        *(
            f"[{60 + second} s] nothing trains yet: trainer-0 is checking its shards ({second} s); 1 of 2 trainers has "
            "not started yet; evaluators 0 of 2"
            for second in (0, 60, 120)
        ),
        "[190 s] nothing trains yet: the trainers take their first seeds; evaluators 0 of 2",
    ]


def test_while_nothing_trains_the_line_says_what_is_waited_for(clock, capsys):
    job = a_job(EXPERIMENT, range(6), replace(ONE_TRAINER, trainers=3, evaluators=2))
    compiling = Preparing(trainer="trainer-0", what="compiling its model", for_s=93.4)
    with Log("text") as log:
        reporter = Reporter(log, job)
        reporter.show(starting())
        clock.sleep(LOG_INTERVAL_S)
        reporter.show(progress(training=at(0), preparing=[compiling], placed=2, trainers_ended={}))
        clock.sleep(LOG_INTERVAL_S)
        reporter.show(progress(training=at(0), preparing=[], placed=2, trainers_ended={"trainer-2": "no place"}))
    first, second, third = lines(capsys)
    assert first == "[0 s] nothing trains yet: 3 of 3 trainers have not started yet; evaluators 0 of 2"
    told = "training seed 3 at 0 (trainer-0 is compiling its model (93 s); 1 of 3 trainers has not started yet); "
    assert told in second
    assert "training seed 3 at 0; " in third
