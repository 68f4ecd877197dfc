"""Paths of a job that runs in Ray's copy of an upload; tests/service/test_jobs.py submits real ones."""

from dataclasses import replace
from pathlib import Path

import pytest

from discreteness.experiment.config import ExperimentConfig, JobConfig, RunConfig
from discreteness.service.upload import settled


@pytest.fixture
def copy(tmp_path, monkeypatch):
    folder = tmp_path / "session" / "runtime_resources" / "working_dir_files" / "_ray_pkg_1f"
    (folder / "texts").mkdir(parents=True)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("HOME", "/home/me")


def job(**values):
    documents = values.pop("documents", None)
    data = values.pop("data", None)
    return JobConfig(experiment=ExperimentConfig(documents=documents, data=data), run=RunConfig(**values))


def test_elsewhere_a_path_is_what_it_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for config in (job(), job(output="runs/mine"), job(documents="not/there")):
        assert settled(config) is config


@pytest.mark.usefixtures("copy")
def test_in_an_upload_the_default_output_is_at_home():
    config = settled(job())
    assert config == replace(job(), run=RunConfig(output="/home/me/discreteness/runs/experiment"))


@pytest.mark.usefixtures("copy")
@pytest.mark.parametrize("output", ["/data/runs/x", "s3://bucket/run", "hf://datasets/me/x"])
def test_in_an_upload_what_stays_is_kept(output):
    config = job(output=output, documents="texts", data=str(Path.cwd()))
    assert settled(config) is config
    assert settled(job(output=output, documents="val:20")).experiment.documents == "val:20"


@pytest.mark.usefixtures("copy")
@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"output": "runs/mine"}, "--output runs/mine: .* Ray deletes; give an absolute path .* or a URI"),
        ({"output": "/x", "documents": "runs/texts"}, "--documents runs/texts: not there. .* without what git ignores"),
        ({"output": "/x", "data": "shards"}, "--data shards: not there"),
    ],
)
def test_in_an_upload_what_would_be_lost_or_is_not_there_is_refused(values, message):
    with pytest.raises(ValueError, match=message):
        settled(job(**values))
