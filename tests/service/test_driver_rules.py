"""The loops of driver and trainers on a clock that only their waits move: what is shown, bounds, signals, codes."""

from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import pytest
import ray.train.torch
from ray.exceptions import GetTimeoutError, LocalRayletDiedError, NodeDiedError, OutOfMemoryError, RayActorError
from ray.train import TrainingFailedError

from discreteness.cluster.rays_words import in_one_line
from discreteness.service import driver as driver_module
from discreteness.service import trainers as trainers_module
from discreteness.service.driver import Interrupted, Signals
from discreteness.service.messages import Counts, Event, Progress
from discreteness.service.trainers import Trainers, scaling, worker_resources
from tests.support.dataset_case import DOCUMENTS, STEPS, commit, create
from tests.support.fake_actors import LONGEST_S, of_a_task
from tests.support.job_case import a_job

PROGRESS = Progress(
    committed=0,
    failed={},
    waiting=2,
    training=[],
    preparing=[],
    placed=1,
    counts=Counts(),
    in_flight=0,
    in_flight_bytes=0,
    lag_steps=0,
    evaluators_ready=1,
    evaluators_lost=0,
    evaluator_busy_s=0.0,
    trainers_ended={},
    done=False,
    events=[],
)


class Clock:
    """What of Ray and of time the loop uses. A reference is ready at its moment and then holds a value or an error."""

    def __init__(self):
        self.now_s = 0.0

    def monotonic(self):
        self.now_s += 1e-6
        return self.now_s

    def sleep(self, wait_s):
        self.now_s += wait_s
        assert self.now_s < LONGEST_S, "somebody waits for ever"

    def wait(self, references, num_returns=1, timeout=None):
        enough_s = sorted(one.ready_s for one in references)[num_returns - 1]
        self.sleep(min(timeout, max(0.0, enough_s - self.now_s)))
        ready = [one for one in references if one.ready_s <= self.now_s]
        return ready[:num_returns], [one for one in references if one not in ready[:num_returns]]

    def get(self, reference, timeout=1e9):
        left_s = max(0.0, reference.ready_s - self.now_s)
        self.sleep(min(timeout, left_s))
        if left_s > timeout:
            raise GetTimeoutError("too late")
        if isinstance(reference.value, Exception):
            raise reference.value
        return reference.value


class Job:
    """A dispatcher that is asked, trainers that end at their moments, a signal that may come."""

    def __init__(self, monkeypatch):
        self.clock = Clock()
        monkeypatch.setattr(driver_module, "ray", self.clock)
        monkeypatch.setattr(driver_module, "time", self.clock)
        self.asked = []
        self.done_s = 1e9
        self.answers_in_s = 0.01
        self.events = []
        self.trainers = [self.reference(1e9), self.reference(1e9)]
        self.signal_s = 1e9
        self.signals = Signals()
        self.signals.arrived = SimpleNamespace(wait=self.signal)
        self.told = []
        self.reporter = SimpleNamespace(events_seen=0, show=self.show, log=self)
        self.exported = []

    def reference(self, ready_s, value=None):
        return SimpleNamespace(ready_s=ready_s, value=value)

    @property
    def progress(self):
        return self

    def remote(self, events_from):
        self.asked.append((self.clock.now_s, events_from))
        done = self.clock.now_s >= self.done_s
        value = replace(PROGRESS, done=done, committed=len(self.asked), events=self.events[events_from:])
        return self.reference(self.clock.now_s + self.answers_in_s, value)

    def signal(self, wait_s):
        self.clock.sleep(wait_s)
        self.signals.signum = 15
        return self.clock.now_s >= self.signal_s

    def show(self, progress):
        self.reporter.events_seen += len(progress.events)
        self.told.append(progress)

    def say(self, message, event="note", **about):
        self.told.append(message)

    def watch(self):
        exporter = SimpleNamespace(show=self.exported.append)
        return driver_module._watch(self, self.trainers, (self.reporter, exporter), self.signals)


@pytest.fixture
def job(monkeypatch):
    return Job(monkeypatch)


def test_the_dispatcher_is_asked_every_second_and_everything_it_says_is_shown_and_exported(job):
    job.done_s = 10
    for trainer in job.trainers:
        trainer.ready_s = 10.5
    job.events = [Event(event="note", message=str(number)) for number in range(3)]
    last = job.watch()
    assert 8 <= len(job.asked) <= 12
    assert [events_from for _, events_from in job.asked] == [0] + [3] * (len(job.asked) - 1)
    assert job.told == job.exported
    assert len(job.told) == len(job.asked) and job.told[-1] is last


def test_the_last_word_comes_after_the_trainers_have_left_or_30_s(job):
    for leaves_s, most_s in ((14, 15), (1e9, 41)):
        job.clock.now_s, job.done_s, job.asked[:] = 0.0, 10, []
        for trainer in job.trainers:
            trainer.ready_s = leaves_s
        job.watch()
        assert job.asked[-1][0] == pytest.approx(most_s, abs=1.5)
        assert job.asked[-2][0] == pytest.approx(10, abs=1.5)


def test_trainers_that_have_all_ended_end_the_job_though_seeds_are_left(job):
    job.trainers[0].ready_s = 5
    job.trainers[1].ready_s = 20
    assert not job.watch().done
    assert job.clock.now_s == pytest.approx(20, abs=2)


def test_a_trainer_that_ended_in_an_error_is_told_of(job):
    job.done_s = 3
    job.trainers = [job.reference(2, RayActorError("", "the actor\nis dead")), job.reference(2)]
    job.watch()
    assert [one for one in job.told if isinstance(one, str)] == ["a trainer could not run: is dead"]


@pytest.mark.parametrize(("answers_in_s", "late"), [(290, False), (310, True)])
def test_a_dispatcher_may_be_silent_for_300_s(job, answers_in_s, late):
    job.answers_in_s, job.done_s = answers_in_s, 0
    if late:
        with pytest.raises(TimeoutError, match="it has not answered for 300 s"):
            job.watch()
        assert job.clock.now_s == pytest.approx(300, abs=2)
    else:
        job.trainers = [job.reference(0)]
        with pytest.raises(GetTimeoutError):  # the last answer has 60 s
            job.watch()
        assert job.clock.now_s == pytest.approx(290 + 60, abs=3)


def test_a_dispatcher_that_is_dead_ends_the_watch(job, monkeypatch):
    monkeypatch.setattr(job, "remote", lambda _: job.reference(0, RayActorError("", "dead")))
    with pytest.raises(RayActorError):
        job.watch()


ENDS = [
    (RayActorError("", "The actor died.\nIts worker is gone"), "the dispatcher died: Its worker is gone."),
    (OutOfMemoryError("killed\nset RAY_x"), "the dispatcher died: memory ran out, and Ray ended it: fewer --trainers"),
    (NodeDiedError("its node is dead"), "the dispatcher died: its node is dead."),
    (LocalRayletDiedError(), "the dispatcher died: Ray's own process on this machine ended"),
    (TimeoutError("it has not answered for 300 s"), "the dispatcher died: it has not answered for 300 s."),
    (GetTimeoutError("Get timed out"), "the dispatcher died: Get timed out."),
    (of_a_task(KeyError("step")), None),
]


@pytest.mark.parametrize(("error", "line"), ENDS, ids=lambda value: type(value).__name__)
def test_the_end_of_a_dispatcher_is_one_line_and_an_error_of_our_own_is_whole(monkeypatch, error, line):
    def watch(*_):
        raise error

    killed, said = [], []
    ray_here = SimpleNamespace(
        remote=lambda _: SimpleNamespace(options=lambda **_: SimpleNamespace(remote=lambda *_: "dispatcher")),
        get_runtime_context=lambda: SimpleNamespace(get_node_id=lambda: "0" * 56),
        kill=killed.append,
    )
    nothing = SimpleNamespace(close=lambda: None)
    log = SimpleNamespace(say=lambda text, *_, **__: said.append(text))
    for name, value in {
        "ray": ray_here,
        "Reporter": lambda *_: nothing,
        "Exporter": lambda *_: nothing,
        "start_trainers": lambda *_: ("trainers", []),
        "_watch": watch,
    }.items():
        monkeypatch.setattr(driver_module, name, value)
    lead = partial(driver_module._lead, a_job(None, [0]), None, "/scratch", log, None)
    if line:
        assert lead() == 1
        assert said[-1].startswith(line) and said[-1].endswith("Committed seeds are kept; run the same command again.")
    else:
        with pytest.raises(KeyError):
            lead()
    assert killed == ["dispatcher", "trainers"]


@pytest.mark.parametrize("when", ["between", "while it is silent", "while trainers leave"])
def test_a_signal_ends_the_watch_within_a_second(job, when):
    job.signal_s = 5.5
    if when == "while it is silent":
        job.answers_in_s = 200
    if when == "while trainers leave":
        job.done_s = 3
    with pytest.raises(Interrupted, match="SIGTERM") as interrupted:
        job.watch()
    assert interrupted.value.exit_code == 143
    assert job.clock.now_s <= 6.6


def test_the_first_of_two_signals_is_the_one_that_counts():
    signals = Signals()
    signals.check()
    signals._note(2, None)
    signals._note(15, None)
    with pytest.raises(Interrupted) as interrupted:
        signals.check()
    assert interrupted.value.exit_code == 130


@pytest.mark.parametrize("seeds", [(0, 1), (0, 1, 2)])
def test_the_code_is_0_when_every_seed_is_committed_whatever_job_did_it(tmp_path, seeds):
    dataset, told = create(tmp_path / "set"), []
    for seed in (0, 1):
        commit(dataset, seed)
    experiment = SimpleNamespace(seeds=seeds, plan=STEPS, documents=DOCUMENTS)
    progress = replace(
        PROGRESS, failed={2: "nan"}, trainers_ended={"g": "no place", "h": ""}, counts=Counts(attempts_lost=4)
    )
    log = SimpleNamespace(say=lambda message, *_, **about: told.append(message))
    assert driver_module._conclude(progress, a_job(experiment, seeds, verify_every=2), dataset, log) == len(seeds) - 2
    assert told[0].startswith(
        f"seeds committed 2/{len(seeds)} (24 rows); checkpoints scored 0 (0 verified); attempts lost 4;"
    )
    assert told[1:] == ["seed 2 FAILED: nan", "g was given up: no place", f"dataset: {dataset.uri}"]


# ---- trainers ----

TOPOLOGY = SimpleNamespace(use_gpu=True, workers_per_trainer=4, gpus_per_worker=0.9)


class Train:
    """Stands where trainers.py says `ray` and `TorchTrainer`: fits and answers are as planned."""

    def __init__(self, monkeypatch, fits, answers):
        self.fits, self.answers = iter(fits), iter(answers)
        self.made, self.left = [], []
        monkeypatch.setattr(trainers_module, "ray", self)
        monkeypatch.setattr(ray.train.torch, "TorchTrainer", self.make)
        self.leave = SimpleNamespace(remote=lambda *left: self.left.append(left) or next(self.answers))
        self.get = lambda answer: answer

    def make(self, function, **options):
        self.made.append(options | {"spec": function.args[0]})
        return self

    def fit(self):
        error = next(self.fits)
        if error:
            raise error

    def cluster_resources(self):
        return {"CPU": 2.0}

    def run(self, topology=TOPOLOGY, **config):
        Trainers(self, a_job(None, [0], topology, **config), "/scratch").run("trainer-3")


def test_a_trainer_is_started_again_while_the_dispatcher_says_so(monkeypatch):
    memory = OutOfMemoryError("killed by the monitor\nset RAY_x")
    errors = [TrainingFailedError("no place\nin time"), RayActorError("", "killed"), memory, None, None]
    train = Train(monkeypatch, errors, [True, True, True, True, False])
    train.run()
    asked = "(asked: 4 x {'CPU': 1.0, 'GPU': 0.9} on one node; the cluster has {'CPU': 2.0})"
    assert train.left == [
        ("trainer-3", f"in time {asked}"),
        ("trainer-3", f"killed {asked}"),
        ("trainer-3", f"{in_one_line(memory)} {asked}"),
        ("trainer-3", ""),
        ("trainer-3", ""),
    ]


def test_an_error_that_is_not_trains_own_is_not_swallowed(monkeypatch):
    with pytest.raises(ZeroDivisionError):
        Train(monkeypatch, [ZeroDivisionError()], []).run()


@pytest.mark.parametrize(("use_gpu", "backend"), [(True, "cpu:gloo,cuda:nccl"), (False, "gloo")])
def test_what_train_is_asked_for(monkeypatch, use_gpu, backend):
    train = Train(monkeypatch, [None, None], [True, False])
    topology = SimpleNamespace(**{**vars(TOPOLOGY), "use_gpu": use_gpu})
    train.run(topology, gpu_type="H100")
    first, second = train.made
    spec = first["spec"]
    assert spec.name == "trainer-3" and spec.job.topology.use_gpu is use_gpu
    assert (first["torch_config"].backend, first["torch_config"].timeout_s) == (backend, 600)
    run = first["run_config"]
    assert (run.failure_config.max_failures, run.failure_config.controller_failure_limit) == (-1, 0)
    assert run.storage_path == "/scratch"
    assert run.name.startswith("trainer-3-") and run.name != second["run_config"].name


def test_a_trainers_place_is_one_node_with_gpus_of_the_type_that_was_named():
    place = scaling(TOPOLOGY, "H100")
    assert (place.num_workers, place.use_gpu, place.placement_strategy) == (4, True, "STRICT_PACK")
    assert (place.accelerator_type, place.resources_per_worker) == ("H100", {"CPU": 1.0, "GPU": 0.9})
    assert worker_resources(SimpleNamespace(use_gpu=False)) == {"CPU": 1.0}
