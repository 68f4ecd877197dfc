"""A dataset is read, checked, compacted, exported, analysed and shown where neither torch nor Ray can be imported."""

import os
import re
import subprocess
import sys
import tomllib

import pytest

from tests.conftest import ROOT
from tests.support.planted_dataset import create_planted, log_plan, show_running, text_documents

PAGE = (ROOT / "docs/dataset.md").read_text()
INSTALLED = re.search(r"^pip install (numpy .*)$", PAGE, re.M)[1].split()
"""What a machine that only reads installs, as the page says."""
DECLARED = [
    re.match(r"[\w-]+", requirement)[0]
    for requirement in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
]
ABSENT = ("triton", *(name.replace("-", "_") for name in DECLARED if name not in (*INSTALLED, "packaging")))
"""Import names of the other dependencies; matplotlib brings packaging."""
REFUSE = f"""
import sys
from importlib.machinery import ModuleSpec

class Refuse:
    def find_spec(self, name, path=None, target=None):
        package = name.partition(".")[0]
        if package in {ABSENT!r}:
            raise ModuleNotFoundError(f"{{name}} is not installed here", name=name)
        return ModuleSpec(name, self) if package == "speedrun" else None

    def exec_module(self, module):
        pass

    def create_module(self, spec):
        raise ImportError(f"{{spec.name}} is there, but whoever reads does not import it")

sys.meta_path.insert(0, Refuse())
"""
"""Laid on the path as sitecustomize: it holds in every process, those that the analysis spawns too."""
READ = """
import sys
import numpy as np
import discreteness
from discreteness.analysis import analyze, tables
from discreteness.analysis.figures import draw
from discreteness.dataset.by_token.compaction import compact
from discreteness.dataset.status import job_status
from discreteness.dataset.verify import verify
from discreteness.dataset.watch import picture
from discreteness.viewer.server import application


def main(path, folder):
    dataset = discreteness.open(path)
    before = dataset.losses("one.txt")
    assert before.shape == (3, 24, 7) and np.isfinite(before).all()
    assert dataset.runs(seed=0)["step"].to_pylist() == dataset.steps
    assert dataset.tokens("one.txt").num_rows == 8
    assert dataset.mean_curves().shape == (2, 3, 24) and dataset.arrow().count_rows() == 3 * 24 * 2
    compact(path)
    assert verify(path) == []
    assert np.array_equal(discreteness.open(path).losses("one.txt"), before)
    analyze.FEW_CURVES = 0  # other processes fit, too
    found = analyze.analyze(path)
    assert found.fits.num_rows == 3 * 15 and found.fits["is_drop"].to_numpy().any()
    assert tables.load(path).tokens.num_rows == 15
    draw.draw(dataset, found)
    picture(job_status(path))
    application(path)
    print("fine")


if __name__ == "__main__":
    main(*sys.argv[1:])
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A dataset with a seed in training, and a folder whose sitecustomize refuses what is forbidden."""
    folder = tmp_path_factory.mktemp("alone")
    dataset = create_planted(
        folder / "set",
        *text_documents({"one.txt": "a bee sees two", "two.txt": "the sea, the sun"}),
        log_plan(24, 2000),
        range(3),
    )
    show_running(dataset, 7, 5)
    (folder / "sitecustomize.py").write_text(REFUSE)
    (folder / "read.py").write_text(READ)
    return folder


def python(folder, *arguments):
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    return subprocess.run(
        [sys.executable, *map(str, arguments)], cwd=folder, env=environment, capture_output=True, text=True, timeout=600
    )


@pytest.mark.parametrize("module", ["torch", "ray", "speedrun.tracks"])
def test_the_other_packages_cannot_be_imported_there(place, module):
    done = python(place, "-c", f"import {module}")
    assert done.returncode == 1 and f"{module.partition('.')[0]} is " in done.stderr


def test_what_is_absent_there_is_torch_ray_and_more():
    assert {"torch", "ray", "kernels", "safetensors", "tiktoken"} <= set(ABSENT) and set(INSTALLED) <= set(DECLARED)


def test_an_open_dataset_needs_numpy_and_pyarrow_alone(place):
    names = [name for name in INSTALLED if name not in ("numpy", "pyarrow")]
    code = f"import sys; sys.modules.update(dict.fromkeys({names!r})); import discreteness; "
    done = python(place, "-c", code + "print(discreteness.open('set').losses('one.txt').shape)")
    assert (done.returncode, done.stdout) == (0, "(3, 24, 7)\n"), done.stderr


def test_reading_needs_no_package_of_training(place):
    done = python(place, "read.py", place / "set", place)
    assert (done.returncode, done.stdout) == (0, "fine\n"), done.stderr


COMMANDS = {
    "status": ["status", "set"],
    "status --json": ["status", "set", "--json"],
    "verify": ["verify", "set"],
    "compact": ["compact", "set"],
    "parquet": ["export", "set", "--format", "parquet", "--output", "losses.parquet"],
    "csv": ["export", "set", "--format", "csv", "--output", "losses.csv"],
    "hdf5": ["export", "set", "--format", "hdf5", "--output", "losses.h5"],
    "analyze": ["analyze", "set", "--output", "analysis"],
    "help": ["--help"],
}


@pytest.mark.parametrize("name", COMMANDS)
def test_commands_that_read_need_no_package_of_training(place, name):
    done = python(place, "-m", "discreteness", *COMMANDS[name])
    assert done.returncode == 0 and done.stdout, done.stderr


@pytest.mark.parametrize(
    ("format", "says"),
    [("pt", "a pt export needs torch"), ("tensorboard", "an export to TensorBoard needs its package and torch")],
)
def test_an_export_that_needs_torch_says_so(place, format, says):
    done = python(place, "-m", "discreteness", "export", "set", "--format", format, "--output", f"losses.{format}")
    assert done.returncode == 2 and done.stderr.startswith(f"error: {says}; run: pip install")
    assert done.stderr.count("\n") == 1 and not (place / f"losses.{format}").exists()
