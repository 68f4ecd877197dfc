"""What a run says: lines for a person, one JSON object a line for a program, and where seed, attempt and step stand."""

import json
import logging
import os
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest

from discreteness.service.log import Log
from discreteness.service.messages import Counts, Event, Progress, Running
from discreteness.service.others_output import processes_of
from discreteness.service.progress import Reporter
from tests.support.job_case import ONE_TRAINER, a_job

EXPERIMENT = SimpleNamespace(seeds=range(6), plan=(0, 100))


def progress(**changes):
    """Seed 3 in training at step 12."""
    values = {
        "committed": 1,
        "failed": {},
        "waiting": 4,
        "training": [Running(seed=3, attempt="abc", trainer="trainer-0", step=12, train_loss=None)],
        "preparing": [],
        "placed": 1,
        "counts": Counts(updates=112, published=9, checkpoints=8),
        "in_flight": 1,
        "in_flight_bytes": 7_000_000,
        "lag_steps": 2,
        "evaluators_ready": 1,
        "evaluators_lost": 0,
        "evaluator_busy_s": 3.5,
        "trainers_ended": {},
        "done": False,
        "events": [],
    }
    return Progress(**(values | changes))


def test_an_event_is_one_line_that_names_what_it_is_about_and_nothing_else():
    event = Event(event="attempt lost", message='two\nlines, "[red]"', level="warning", seed=3, step=0, time_s=1.5e9)
    line = event.to_json()
    assert "\n" not in line
    assert json.loads(line) == {
        "time": "2017-07-14T02:40:00.000+00:00",
        "event": "attempt lost",
        "message": 'two\nlines, "[red]"',
        "level": "warning",
        "seed": 3,
        "step": 0,
    }


def test_text_is_the_message_alone(capsys):
    with Log("text") as log:
        log.say("seed 3 [red]committed", "seed committed", seed=3)
    assert capsys.readouterr().out == "seed 3 [red]committed\n"


@pytest.mark.parametrize("format", ["text", "json"])
def test_what_modules_log_comes_too_while_the_run_lasts(format, capsys):
    with Log(format):
        logging.getLogger("discreteness.dataset.lock").warning("taking over %s", "set")
    logging.getLogger("discreteness.dataset.lock").error("elsewhere")
    (line,) = capsys.readouterr().out.splitlines()
    assert "taking over set" in line
    if format == "json":
        assert json.loads(line)["level"] == "warning"


def test_the_error_that_ends_a_run_is_an_object_as_well(capsys):
    with pytest.raises(ValueError), Log("json"):
        raise ValueError("--seeds '9-3': give 3-9")
    (line,) = capsys.readouterr().out.splitlines()
    told = json.loads(line)
    assert (told["level"], told["event"], told["message"]) == ("error", "error", "ValueError: --seeds '9-3': give 3-9")


def test_as_json_stdout_is_ours_alone(capsys):
    """Ray's warnings are printed in the driver's process."""
    with Log("json") as log:
        print("(raylet) WARNING: many processes")
        log.say("all")
    printed = capsys.readouterr()
    assert json.loads(printed.out)["message"] == "all"
    assert printed.err == "(raylet) WARNING: many processes\n"


def test_rays_warning_of_many_processes_is_left_out_while_the_job_explains_them(capsys):
    """Two trainers of two workers and two evaluators, four CPUs declared: 24 and no more."""
    job = a_job(EXPERIMENT, range(6), replace(ONE_TRAINER, trainers=2, workers_per_trainer=2, evaluators=2))
    warning = "(raylet) WARNING: {} PYTHON worker processes have been started on node: 67 with address: 192.0.2.2"
    with Log("text") as log:
        log.others.explained_processes = processes_of(replace(job, topology=replace(job.topology, declared_cpus=4)))
        print(warning.format(12))
        print("(raylet)", "WARNING: ", end="")  # in pieces, as print writes them
        print("24 PYTHON worker processes have been started on node: 67", flush=True)
        log.say("ours")
        print(warning.format(25))
        print("(raylet) WARNING: 8 objects were lost", end="")
    assert capsys.readouterr().out.splitlines() == ["ours", warning.format(25), "(raylet) WARNING: 8 objects were lost"]


def test_a_program_hears_of_each_event_once_and_of_each_seed_in_training(capsys):
    leased = Event(event="seed leased", message="seed 3 leased", seed=3, attempt="abc", trainer="trainer-0", step=0)
    with Log("json") as log:
        reporter = Reporter(log, a_job(EXPERIMENT, range(5)))
        reporter.show(progress(events=[leased]))
        reporter.show(progress())  # at once: nothing new
    assert reporter.events_seen == 1
    first, whole, training = map(json.loads, capsys.readouterr().out.splitlines())
    assert (first["event"], first["attempt"]) == ("seed leased", "abc")
    assert whole["event"] == "progress" and "seeds committed 2/6, training seed 3 at 12" in whole["message"]
    about = [training[name] for name in ("event", "seed", "attempt", "trainer", "step")]
    assert about == ["training", 3, "abc", "trainer-0", 12]


def test_a_person_reads_of_all_seeds_in_one_line(capsys):
    with Log("text") as log:
        Reporter(log, a_job(EXPERIMENT, range(5))).show(progress())
    assert len(capsys.readouterr().out.splitlines()) == 1


@pytest.mark.parametrize("format", ["text", "json"])
def test_a_reader_that_leaves_ends_no_work_and_is_told_of_once(format, monkeypatch, capsys):
    reading, writing = os.pipe()
    with os.fdopen(writing, "w") as pipe, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", pipe)
        with Log(format) as log:
            log.say("first")
            assert b"first" in os.read(reading, 1000)
            os.close(reading)
            for number in range(3):
                log.say(f"line {number}")
            print("of others", file=pipe, flush=True)  # as Ray's threads do
    told = capsys.readouterr().err
    assert told.startswith("note: stdout cannot be written any more (Broken pipe)") and told.count("\n") == 1


@pytest.mark.parametrize("format", ["text", "json"])
def test_where_nothing_goes_on_a_reader_that_leaves_ends_it(format, monkeypatch, capsys):
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as pipe, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", pipe)
        with pytest.raises(BrokenPipeError):
            Log(format, goes_on=False).say("the plan")
        os.dup2(os.open(os.devnull, os.O_WRONLY), pipe.fileno())  # what is left in the buffer
    assert capsys.readouterr().err == ""
