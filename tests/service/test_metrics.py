"""Metrics: numbers by hand, names in dashboard and alerts, and when alerts fire; test_service.py has a real run."""

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import yaml
from ray import dashboard as rays_dashboard
from ray.dashboard.modules.metrics.templates import PROMETHEUS_YML_TEMPLATE

from discreteness.service.messages import AGE_BOUNDS_S, Counts, Progress, Running
from discreteness.service.metrics import METRICS, Exporter
from tests.conftest import ROOT
from tests.support import skips
from tests.support.brief_track import write_shards
from tests.support.job_case import ONE_TRAINER, a_job, prepared

PLACES = f"{Path(sys.executable).parent}:{os.environ['PATH']}"  # `make tools` puts them beside Python
PROMETHEUS, PROMTOOL = shutil.which("prometheus", path=PLACES), shutil.which("promtool", path=PLACES)
DASHBOARD = json.loads((ROOT / "deploy/grafana/dashboard.json").read_text())
ALERTS = ROOT / "deploy/prometheus/alerts.yaml"
RULES = yaml.safe_load(ALERTS.read_text())["groups"][0]["rules"]
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
QUERIES = [target["expr"] for panel in PANELS for target in panel["targets"]] + [rule["expr"] for rule in RULES]
NEEDS_A_GPU = {"ray_node_gpus_utilization", "ray_node_gram_used", "ray_discreteness_peak_flop_per_second"}


def selectors(query):
    """[(metric, its label matchers as text)] of a PromQL expression."""
    words = re.sub(r"\b(by|without|on|ignoring)\s*\([^)]*\)|\[[^\]]*\]", " ", query)
    found = re.findall(r"(?<![\w$.])([a-zA-Z_:][\w:]*)\b(?!\s*\()(\{[^}]*\})?", words)
    return [(name, matchers) for name, matchers in found if name not in ("and", "or", "unless", "bool", "offset")]


@cache
def known_names():
    """Ours, Prometheus's own, and what Ray's own dashboards and agents name."""
    rays = "".join(path.read_text() for path in Path(rays_dashboard.__file__).parent.rglob("*.py"))
    names = set(re.findall(r"\bray_[a-z_]+", rays))
    names |= {f"ray_{name}" for name in re.findall(r'Gauge\(\s*"(\w+)"', rays)} | {"up"}
    for metric in METRICS:
        ends = ("_bucket", "_count", "_sum") if metric.kind == "histogram" else ("",)
        names |= {metric.exported + end for end in ends}
    return names


def wrong(query):
    """Names and labels in a query that nothing exports."""
    labels = {metric.exported: {"dataset", *metric.labels} for metric in METRICS}
    for name, matchers in selectors(query):
        if name not in known_names():
            yield name
        for label in re.findall(r"(\w+)\s*=~?", matchers):
            if name in labels and label not in labels[name]:
                yield f"{name}{{{label}}}"


@pytest.fixture(scope="module")
def config(tmp_path_factory, private_home):
    shards = write_shards(tmp_path_factory.mktemp("shards"))
    return dict(track="tests.support.brief_track:brief", data=str(shards), checkpoints="0,1,5", seeds="0-9")


def an_exporter(experiment, gpu_types=("H100",), workers=1):
    """Of ten seeds three are done; four trainers, two evaluators."""
    topology = replace(
        ONE_TRAINER, trainers=4, workers_per_trainer=workers, evaluators=2, gpu_types=frozenset(gpu_types)
    )
    return Exporter(a_job(experiment, range(3, 10), topology, dataset_uri="/set"))


@pytest.fixture(scope="module")
def exporter(config):
    return an_exporter(prepared(**config, val_tokens=0))


def counts(**changes):
    values = {
        "updates": 55,
        "tokens": 1500,
        "flop": 2e9,
        "bytes_committed": 4096,
        "published": 9,
        "checkpoints": 8,
        "ages": [5, 2, 0, 0, 0, 0, 0, 0, 0, 1],
        "attempts_lost": 4,
        "stall_s": 1.25,
    }
    return Counts(**(values | changes))


def progress(**changes):
    """A job in the middle: seeds 3 and 4 committed, 5 and 6 in training, 7 failed, 8 and 9 waiting; one trainer starts,
    one was given up."""
    values = {
        "committed": 2,
        "failed": {7: "the training loss is nan"},
        "waiting": 2,
        "training": [
            Running(seed=5, attempt="a", trainer="trainer-0", step=12, train_loss=6.5),
            Running(seed=6, attempt="b", trainer="trainer-1", step=3, train_loss=None),
        ],
        "preparing": [],
        "placed": 2,
        "counts": counts(),
        "in_flight": 1,
        "in_flight_bytes": 7_000_000,
        "lag_steps": 2,
        "evaluators_ready": 1,
        "evaluators_lost": 1,
        "evaluator_busy_s": 3.5,
        "trainers_ended": {"trainer-3": "3 failures in a row"},
        "done": False,
        "events": [],
    }
    return Progress(**(values | changes))


def test_counts_become_totals_and_levels(exporter):
    experiment = exporter.job.experiment
    documents = len(experiment.documents)
    assert exporter.totals(progress()) == {
        "updates": 55,
        "tokens": 1500,
        "model_flop": 2e9,
        "checkpoints_published": 9,
        "checkpoints_scored": 8,
        "stall_seconds": 1.25,
        "evaluators_lost": 1,
        "evaluator_busy_seconds": 3.5,
        "attempts_lost": 4,
        "rows_committed": 2 * 3 * documents,
        "bytes_committed": 4096,
    }
    levels = {(name, *labels.values()): value for name, labels, value in exporter.levels(progress())}
    assert levels == {
        ("seeds", "committed"): 5,  # three of an earlier job
        ("seeds", "training"): 2,
        ("seeds", "waiting"): 2,
        ("seeds", "failed"): 1,
        ("trainers", "training"): 2,
        ("trainers", "waiting"): 1,
        ("trainers", "finished"): 0,
        ("trainers", "given_up"): 1,
        ("evaluators", "ready"): 1,
        ("evaluators", "missing"): 1,
        ("step", "trainer-0"): 12,
        ("step", "trainer-1"): 3,
        ("train_loss_nats", "trainer-0"): 6.5,  # of the other trainer none is known: no 0
        ("peak_flop_per_second",): 3 * 989e12,  # three trainers of one GPU
        ("checkpoints_in_flight",): 1,
        ("in_flight_bytes",): 7_000_000,
        ("lag_steps",): 2,
    }


def test_what_cannot_be_known_is_left_out(exporter):
    on_cpus = an_exporter(exporter.job.experiment, gpu_types=())
    names = {name for name, _, _ in on_cpus.levels(progress(training=[], trainers_ended={}))}
    assert not names & {"peak_flop_per_second", "step", "train_loss_nats"}


def test_rows_are_of_planned_steps_and_a_trainer_has_the_peak_of_all_its_gpus(config):
    """A seed is validated at steps that have no rows."""
    experiment = prepared(**config)
    assert experiment.published_steps == {0, 1, 2, 4, 5}
    one = an_exporter(experiment, workers=2)
    assert one.totals(progress())["rows_committed"] == 2 * 3 * len(experiment.documents)
    levels = [value for name, _, value in one.levels(progress()) if name == "peak_flop_per_second"]
    assert levels == [3 * 2 * 989e12]
    ended = progress(trainers_ended={"trainer-2": "", "trainer-3": "3 failures in a row"}, training=[])
    trainers = {labels["state"]: value for name, labels, value in one.levels(ended) if name == "trainers"}
    assert trainers == {"training": 0, "waiting": 2, "finished": 1, "given_up": 1}


class Recorded:
    """Stands for one of Ray's metric objects."""

    def __init__(self):
        self.values = []

    def record(self, value, tags):
        assert tags["dataset"] == "/set"
        self.values.append(value)

    inc = set = observe = record


def test_counters_begin_at_nothing_and_grow_by_what_is_new(exporter):
    exporter.made = {metric.name: Recorded() for metric in METRICS}
    exporter.show(progress(counts=counts(updates=0, ages=[0] * 10)))
    assert 0 < exporter.made["updates"].values[0] < 1e-300  # there, so that the first update is an increase
    exporter.show(progress(counts=counts(updates=7)))
    exporter.show(progress(counts=counts(updates=7)))
    exporter.show(progress(counts=counts(updates=9, ages=[5, 3, 0, 0, 0, 0, 0, 0, 0, 2])))
    assert exporter.made["updates"].values[1:] == [7, 2]
    assert exporter.made["attempts_lost"].values == [4]
    ages = exporter.made["checkpoint_age_seconds"].values
    assert ages == [*[0.1] * 5, 0.3, 0.3, 2 * AGE_BOUNDS_S[-1], 0.3, 2 * AGE_BOUNDS_S[-1]]
    assert exporter.made["lag_steps"].values == [2, 2, 2, 2]


def test_the_label_of_a_dataset_has_only_letters_that_ray_takes(exporter):
    seen = []

    class Tags(Recorded):
        def record(self, value, tags):
            seen.append(tags["dataset"])

        inc = set = observe = record

    one = an_exporter(exporter.job.experiment)
    one.job = replace(one.job, dataset_uri="/home/josé/runs/水")
    one.made = {metric.name: Tags() for metric in METRICS}
    one.show(progress())
    assert set(seen) == {"/home/jos\\xe9/runs/\\u6c34"} and not one.broken


def test_metrics_that_fail_end_only_the_metrics_and_are_told_once(exporter, caplog):
    class Broken(Recorded):
        def record(self, value, tags):
            self.values.append(value)
            raise UnicodeError("no such letter")

        inc = set = observe = record

    one = an_exporter(exporter.job.experiment)
    one.made = {metric.name: Broken() for metric in METRICS}
    one.show(progress())
    one.show(progress())
    assert sum(len(metric.values) for metric in one.made.values()) == 1
    (record,) = caplog.records
    assert record.getMessage() == "no metrics from here on (UnicodeError: no such letter); the run goes on"


def test_the_page_lists_every_metric_as_it_is_and_every_alert():
    page = (ROOT / "docs/metrics.md").read_text()
    rows = re.findall(r"^\| `(ray_discreteness_\w+)` \| (\w+) \| ([\w, ]*) \| (.*) \|$", page, re.M)
    assert rows == [(m.exported, m.kind, ", ".join(m.labels), m.help) for m in METRICS]
    assert re.findall(r"^\| (\w+) \| (?:critical|warning) \|", page, re.M) == [rule["alert"] for rule in RULES]


@pytest.mark.parametrize("query", QUERIES)
def test_every_query_names_what_is_exported(query):
    assert selectors(query)
    assert list(wrong(query)) == []


def test_a_wrong_name_would_be_noticed():
    assert list(wrong("sum by (dataset) (rate(ray_discreteness_update_total[5m])) > 0")) == [
        "ray_discreteness_update_total"
    ]
    assert list(wrong('ray_node_gpu_busy / ray_node_cpu_utilization{ip="x"}')) == ["ray_node_gpu_busy"]
    assert list(wrong('histogram_quantile(0.5, x_bucket) and ray_discreteness_seeds{seed="3", state="x"}')) == [
        "x_bucket",
        "ray_discreteness_seeds{seed}",
    ]


def test_panels_have_titles_descriptions_and_places_of_their_own():
    assert all(panel["title"] and len(panel["description"]) > 10 for panel in PANELS)
    places = [panel["gridPos"] for panel in DASHBOARD["panels"]]
    cells = [(x, y) for p in places for x in range(p["x"], p["x"] + p["w"]) for y in range(p["y"], p["y"] + p["h"])]
    assert len(cells) == len(set(cells)) and max(x for x, _ in cells) < 24
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])


def test_prometheus_looks_for_nodes_where_ray_writes_them():
    ours = yaml.safe_load((ROOT / "deploy/prometheus/prometheus.yml").read_text())
    rays = yaml.safe_load(
        PROMETHEUS_YML_TEMPLATE.format(
            prom_metrics_service_discovery_file_path="/tmp/ray/prom_metrics_service_discovery.json"
        )
    )
    (our_job,), (ray_job,) = ours["scrape_configs"], rays["scrape_configs"]
    assert our_job["job_name"] == ray_job["job_name"]
    assert our_job["file_sd_configs"][0]["files"] == ray_job["file_sd_configs"][0]["files"]
    assert ours["rule_files"] == [ALERTS.name]


# ---- with Prometheus's own tools ----

RUN = '{dataset="set"}'
HEALTHY = {
    "ray_discreteness_updates_total" + RUN: "0+600x300",
    "ray_discreteness_rows_committed_total" + RUN: "0+27x300",
    "ray_discreteness_attempts_lost_total" + RUN: "0+0x300",
    "ray_discreteness_evaluators_lost_total" + RUN: "0+0x300",
    "ray_discreteness_stall_seconds_total" + RUN: "0+1x300",
    'ray_discreteness_checkpoint_age_seconds_bucket{dataset="set",le="60.0"}': "0+60x300",
    'ray_discreteness_checkpoint_age_seconds_bucket{dataset="set",le="120.0"}': "0+60x300",
    'ray_discreteness_checkpoint_age_seconds_bucket{dataset="set",le="+Inf"}': "0+60x300",
    'ray_discreteness_seeds{dataset="set",state="training"}': "2x300",
    'ray_discreteness_seeds{dataset="set",state="waiting"}': "5x300",
    'ray_discreteness_seeds{dataset="set",state="failed"}': "0x300",
    'ray_discreteness_trainers{dataset="set",state="training"}': "2x300",
    'ray_discreteness_trainers{dataset="set",state="waiting"}': "0x300",
    'ray_discreteness_trainers{dataset="set",state="given_up"}': "0x300",
    'ray_discreteness_evaluators{dataset="set",state="missing"}': "0x300",
    'ray_object_store_memory{NodeAddress="n",Location="SPILLED"}': "0x300",
    'ray_object_store_memory{NodeAddress="n",Location="MMAP_SHM"}': "1000000x300",
    'ray_node_disk_utilization_percentage{ip="n"}': "50x300",
    'up{job="ray",instance="n:1"}': "1x300",
    'up{job="ray",instance="n:2"}': "1x300",
}
"""Five hours of a run, a sample a minute."""
CASES = {
    "TrainingStands": {"ray_discreteness_updates_total": "600x300"},
    "RunEndedUnfinished": {"_seeds{": "2x284 stale"},
    "NoCommit": {"ray_discreteness_rows_committed_total": "27x300"},
    "TrainerGivenUp": {'trainers{dataset="set",state="given_up"}': "1x300"},
    "TrainerWaits": {'trainers{dataset="set",state="waiting"}': "1x300"},
    "SeedFailed": {'state="failed"': "1x300"},
    # The first three of all: a counter that was not there before would have no increase.
    "AttemptsLost": {"attempts_lost": "0x285 1 2 3x20"},
    "TrainingWaitsForEvaluators": {"stall_seconds": "0+15x300"},
    "CheckpointsGrowOld": {'le="60.0"': "0x300"},
    "EvaluatorsMissing": {'state="missing"': "1x300"},
    "EvaluatorsLost": {"evaluators_lost": "0x285 1 2 3x20"},
    "ObjectStoreSpills": {"SPILLED": "5x300"},
    "DiskFills": {"disk_utilization": "91x300"},
    "NodeSilent": {"n:2": "0x300"},
    "": {
        "_seeds{": "2x284 0x2 stale",
        "trainers": "2x284 stale",
        "updates": "0+600x284 170400x15",
        "up{": "1x284 0x15",
    },
}
"""Alert -> how its run differs; it fires and no other does. Last: all is done, Ray has ended too, nothing fires."""


def rule_test(alert, changes):
    series = dict(HEALTHY)
    for part, values in changes.items():
        hit = [name for name in series if part in name]
        assert hit, part
        series |= dict.fromkeys(hit, values)
    firing = [{"labels": f'{{alertname="{alert}"}}', "value": 1}] if alert else []
    return {
        "interval": "1m",
        "input_series": [{"series": name, "values": values} for name, values in series.items()],
        "promql_expr_test": [
            {
                "expr": 'count by (alertname) (ALERTS{alertstate="firing"})',
                "eval_time": "4h55m",
                "exp_samples": firing,
            }
        ],
    }


@pytest.mark.skipif(not PROMTOOL, reason=skips.PROMETHEUS)
def test_every_alert_fires_in_its_case_and_in_no_other(tmp_path):
    assert list(CASES)[:-1] == [rule["alert"] for rule in RULES]
    tests = [rule_test(alert, changes) for alert, changes in CASES.items()] + [rule_test("", {})]
    file = tmp_path / "test.yaml"

    def promtool(tests):
        file.write_text(yaml.safe_dump({"rule_files": [str(ALERTS)], "evaluation_interval": "5m", "tests": tests}))
        return subprocess.run([PROMTOOL, "test", "rules", str(file)], capture_output=True, text=True, timeout=600)

    done = promtool(tests)
    assert done.returncode == 0, done.stdout + done.stderr
    assert promtool([rule_test("SeedFailed", {})]).returncode != 0  # the tool does compare
