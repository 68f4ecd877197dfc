"""How long a seed takes: against runs of docs/log.md, and whether training or scoring decides it."""

from dataclasses import replace

import pytest
from speedrun.execution import PLAIN
from speedrun.tracks import small, tiny

from discreteness.cluster.hardware import worker_cost
from discreteness.cluster.times import Pace, Places, SeedWork, pace, seed_work
from discreteness.experiment import documents
from discreteness.experiment.prepare import Experiment


def experiment(track, num_checkpoints, val_tokens=0, validations=0, copies=1):
    """So many checkpoints from step 0 on, of the built-in documents or of several times as many."""
    return Experiment(
        track=track,
        data_root="",
        documents=tuple(copies * documents.built_in()),
        packing="isolated",
        score_tokens=16_384,
        world_size=1,
        execution=PLAIN,
        plan=tuple(range(num_checkpoints)),
        validation_steps=frozenset(range(validations)),
        val_tokens=val_tokens,
        kept_steps=frozenset(),
        seeds=(0,),
        identity={},
        vary="init",
    )


def updates(scheduled, extension, *batch_tokens):
    """`small` with so many updates, a third of the scheduled ones of each size, the others of the last."""
    schedule = replace(small.schedule, scheduled_steps=scheduled, extension_steps=extension, batch_tokens=batch_tokens)
    return replace(small, name="short", schedule=schedule)


SHORT = updates(90, 10, 131_072, 262_144, 393_216)
"""That of benchmarks/topologies.py on one GPU and more."""


@pytest.mark.parametrize(
    ("logged_s", "track", "checkpoints", "gpu", "places"),
    [
        pytest.param(
            99.0,
            updates(1_340, 0, 40_960),
            300,
            "H200",
            Places(trainers=1, workers=1, evaluators=1, shared_devices=1),
            id="2026-11-24: one H200, log:300, the service",
        ),
        pytest.param(
            50.37,
            SHORT,
            101,
            "H100",
            Places(trainers=1, workers=1, evaluators=1, shared_devices=1),
            id="2026-11-24: one H100, every step",
        ),
        pytest.param(
            12.56,
            SHORT,
            101,
            "H200",
            Places(trainers=1, workers=4, evaluators=4, shared_devices=4),
            id="2026-11-28: four H200, one trainer, every step",
        ),
        pytest.param(
            47.86,
            SHORT,
            101,
            "H200",
            Places(trainers=3, workers=1, evaluators=1, shared_devices=None),
            id="2026-11-28: four H200, three trainers and an evaluator's own, every step",
        ),
    ],
)
def test_a_seed_takes_what_logged_runs_took(logged_s, track, checkpoints, gpu, places):
    work = seed_work(experiment(track, checkpoints), worker_cost(track, {gpu}), places.workers)
    there = pace(work, places)
    assert there.seed_s == pytest.approx(logged_s, rel=0.25) and there.bound == "training"


def test_evaluators_that_are_slower_than_trainers_decide():
    """2026-11-24, benchmarks/control_path.py: ten trainers that take no time, four evaluators of 40 ms per checkpoint
    with a core each, ten rounds of ten seeds of 100 checkpoints: 85 checkpoints per second."""
    work = SeedWork(train_s=0, score_s=4.0, evaluator_s=4.0)
    there = pace(work, Places(trainers=10, workers=1, evaluators=4, shared_devices=None))
    assert 10 * there.seed_s == pytest.approx(10_000 / 85, rel=0.25) and there.bound == "scoring"


def test_a_checkpoint_on_a_shared_gpu_and_of_an_evaluator_costs_what_was_measured():
    """docs/performance.md: 7.5 ms of the GPU with the built-in documents, and 49 per second of one evaluator."""
    work = seed_work(experiment(small, 1_000), worker_cost(small), 1)
    assert work.score_s == pytest.approx(7.5, rel=0.01) and work.evaluator_s == pytest.approx(1_000 / 49)
    many = seed_work(experiment(small, 1_000, copies=10), worker_cost(small), 1)
    assert many.score_s == many.evaluator_s == pytest.approx(2.7 + 48, rel=0.01)


def test_documents_and_validations_are_counted_as_tokens():
    """A million tokens of validation took an H200 about a second (docs/log.md, 2026-11-24)."""
    plain, validated = (seed_work(experiment(small, 2, 1_048_576, n), worker_cost(small), 1) for n in (0, 1))
    assert validated.score_s - plain.score_s == pytest.approx(1.0, rel=0.25)
    one, five = (seed_work(experiment(tiny, 48, copies=n), worker_cost(tiny), 1).score_s for n in (1, 5))
    assert five == pytest.approx(5 * one)
    assert one / 48 == pytest.approx(0.44, rel=0.25)  # seconds per checkpoint, docs/log.md of 2026-11-30


def test_who_shares_cores_waits_for_both():
    """By hand: two trainers of two workers, a minute of training and 20 s of scoring per seed."""
    work = SeedWork(train_s=60, score_s=20, evaluator_s=20)
    crowd = Places(trainers=2, workers=2, evaluators=2, shared_devices=2)
    assert pace(work, crowd) == Pace(seed_s=140, bound="training")
    assert pace(work, replace(crowd, shared_devices=8)) == Pace(seed_s=60, bound="training")
    assert pace(replace(work, score_s=200, evaluator_s=200), crowd) == Pace(seed_s=320, bound="scoring")
    assert pace(replace(work, score_s=200, evaluator_s=200), replace(crowd, shared_devices=64)).seed_s == 200
    lone = replace(crowd, evaluators=1, shared_devices=64)
    assert pace(replace(work, score_s=40, evaluator_s=40), lone) == Pace(seed_s=80, bound="scoring")


def test_other_gpus_count_by_their_peak_and_own_tracks_by_their_operations():
    slower = worker_cost(small, {"A100"})
    assert slower.s_per_token == pytest.approx(989 / 312 * worker_cost(small).s_per_token)
    assert slower.s_per_scored_token == pytest.approx(989 / 312 * worker_cost(small).s_per_scored_token)
    assert worker_cost(small, {"H200", "H100"}) == worker_cost(small, {"RTX-6000"}) == worker_cost(small)
    half = replace(tiny, name="mine", model=replace(tiny.model, head_dim=tiny.model.head_dim // 2))
    assert 0.25 < worker_cost(half).s_per_token / worker_cost(tiny).s_per_token < 0.5  # half the width
