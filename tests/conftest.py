"""What tests share: one data folder, one way to run the project's programs, one Ray."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import settings

pytest_plugins = ["tests.skips"]

settings.register_profile("long", max_examples=2000)  # pytest --hypothesis-profile=long tests/test_bad_input.py

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="session", autouse=True)
def private_home(tmp_path_factory):
    """Nothing is read from or written to the user's home: not the tiny corpus, not Ray's token."""
    home = tmp_path_factory.mktemp("home")
    before = dict(os.environ)
    os.environ.update(
        HOME=str(home),
        XDG_CACHE_HOME=str(home / ".cache"),
        OMP_NUM_THREADS="1",
        RAY_USAGE_STATS_ENABLED="0",
        RAY_worker_niceness="0",  # beside the other tests on few cores Ray's workers would hardly run
    )
    os.environ.pop("RAY_ADDRESS", None)
    os.environ.pop("DATA_PATH", None)
    yield home
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(scope="module")
def upload(tmp_path_factory):
    """The checkout as a user uploads it: tracked files only."""
    folder = tmp_path_factory.mktemp("upload") / "discreteness"
    files = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True)
    for name in files.stdout.splitlines():
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    return folder


class Program:
    """One of the project's programs in a process group of its own, its output in a file."""

    def __init__(self, arguments, log, cwd=ROOT, **environment):
        self.log = log
        with log.open("w") as sink:
            self.process = subprocess.Popen(
                [sys.executable, *arguments],
                cwd=cwd,
                env={**os.environ, "PYTHONUNBUFFERED": "1", **{k: str(v) for k, v in environment.items()}},
                stdout=sink,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def output(self):
        return self.log.read_text()

    def wait(self, timeout_s=240):
        """The exit code; what is still running after `timeout_s` is ended and fails the test."""
        try:
            return self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            pytest.fail(f"not finished after {timeout_s} s:\n{self.output}")

    def wait_for(self, text, timeout_s=120):
        """Waits until the output holds `text`."""
        deadline_s = time.monotonic() + timeout_s
        while text not in self.output:
            if self.process.poll() is not None or time.monotonic() > deadline_s:
                pytest.fail(f"{text!r} did not come:\n{self.output}")
            time.sleep(0.1)


@pytest.fixture
def program(tmp_path):
    """Starts programs; whatever still runs at the end of the test is ended, by process id."""
    started = []

    def start(*arguments, cwd=ROOT, **environment):
        one = Program(list(map(str, arguments)), tmp_path / f"output-{len(started)}.txt", cwd, **environment)
        started.append(one)
        return one

    yield start
    for one in started:
        if one.process.poll() is None:
            os.killpg(one.process.pid, signal.SIGKILL)
            one.process.wait()


def pytest_collection_modifyitems(items):
    """Tests that start Ray wait more than they work: they come first, beside each other and then beside the others."""
    items.sort(key=lambda item: item.get_closest_marker("ray") is None)
