"""How a series is laid out on a cluster: evaluators, sources, credits; and what is refused before Ray is started."""

from types import SimpleNamespace

import pytest

from discreteness.cluster.machines import Cluster, Node, assumed
from discreteness.series.config import SeriesConfig
from discreteness.service.series_job import credits_each, device_of, series_topology

LAPTOP = Cluster((Node(4.0, 0.0, None, 10**9),), local=True)


def config(**values):
    return SeriesConfig(models=("o/m{1..3}",), **values)


def laid_out(cluster, models=3, num_steps=10, **values):
    experiment = SimpleNamespace(series=SimpleNamespace(checkpoints=[range(num_steps)] * models, models=range(models)))
    device = device_of(config(**values), cluster)
    topology = series_topology(config(**values), experiment, cluster, device)
    return topology.evaluators, topology.gpus_per_evaluator, topology.trainers, credits_each(topology)


@pytest.mark.parametrize(
    ("cluster", "values", "expected"),
    [
        (LAPTOP, {}, (4, 0.0, 2, 4)),
        (LAPTOP, {"num_steps": 1}, (3, 0.0, 2, 3)),  # no more than there are checkpoints
        (LAPTOP, {"models": 1}, (4, 0.0, 1, 8)),
        (LAPTOP, {"evaluators": 1, "models_at_once": 3}, (1, 0.0, 3, 2)),
        (assumed("2x8xH100"), {"models": 9}, (16, 1.0, 2, 16)),
        (assumed("2x8xH100"), {"models": 9, "evaluator_gpus": 0.1}, (90, 0.1, 2, 90)),
        (assumed("1x8xH100"), {"device": "cpu", "models": 9}, (64, 0.0, 2, 64)),
    ],
)
def test_evaluators_take_the_gpus_or_the_cores_and_credits_keep_them_busy(cluster, values, expected):
    found = laid_out(cluster, **values)
    assert found == expected
    evaluators, _, sources, credits = found
    assert sources * credits >= 2 * evaluators


def test_a_gpu_that_is_not_there_is_named():
    with pytest.raises(ValueError, match=r"--device cuda: there is no GPU among 4 CPU; leave it out"):
        device_of(config(device="cuda"), LAPTOP)


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"evaluators": 0}, "--evaluators 0: must be at least 1"),
        ({"models_at_once": 0}, "--models-at-once 0: must be at least 1"),
        ({"max_attempts": 0}, "--max-attempts 0: must be at least 1"),
        ({"evaluator_gpus": 1.5}, "--evaluator-gpus 1.5: a share of one GPU"),
    ],
)
def test_counts_that_cannot_be_are_refused(values, text):
    with pytest.raises(ValueError, match=text):
        config(**values).check()
