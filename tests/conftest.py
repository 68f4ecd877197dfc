"""What tests share: one data folder, one way to run the project's programs, one Ray."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from filelock import FileLock
from hypothesis import HealthCheck, settings

# Before torch is imported: where tests run beside each other, threads that wait for threads burn what others need.
os.environ["OMP_NUM_THREADS"] = "1"

from speedrun.data.tiny_corpus import default_data_root, ensure_tiny_corpus

pytest_plugins = ["tests.support.skips"]

# An example may take as long as a busy machine makes it.
untimed = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("default", untimed)
settings.load_profile("default")
# pytest --hypothesis-profile=long tests/test_bad_input.py
settings.register_profile("long", untimed, max_examples=2000)

ROOT = Path(__file__).parents[1]
PATIENCE_S = 900
"""What has not come by then hangs. Ten times what a machine with nothing else to do needs: others are busy."""


RAY_TRIES = 10
"""Ray gives its own processes 30 s to start, which cannot be set: on a busy machine one tries again."""


def start_ray(**options):
    """ray.init on this machine."""
    import ray

    for left in reversed(range(RAY_TRIES)):
        try:
            return ray.init(address="local", include_dashboard=False, dashboard_host="127.0.0.1", **options)
        except Exception as error:
            if not left or "timed out during startup" not in str(error):
                raise
    return None


@pytest.fixture(scope="session", autouse=True)
def private_home(tmp_path_factory):
    """Nothing is read from or written to the user's home: not the tiny corpus, not Ray's token."""
    home = tmp_path_factory.mktemp("home")
    before = dict(os.environ)
    os.environ.update(
        HOME=str(home),
        XDG_CACHE_HOME=str(home / ".cache"),
        RAY_USAGE_STATS_ENABLED="0",
        RAY_worker_niceness="0",  # beside the other tests on few cores Ray's workers would hardly run
        RAY_agent_register_timeout_ms="900000",  # a node whose agent is slow to start would end itself
        RAY_prestart_worker_first_driver="0",  # a process a CPU, most of which nobody would use
    )
    os.environ.pop("RAY_ADDRESS", None)
    os.environ.pop("DATA_PATH", None)
    if "PYTEST_XDIST_WORKER" in os.environ:
        _share_the_tiny_corpus(tmp_path_factory.getbasetemp().parent, home / ".cache")
    yield home
    os.environ.clear()
    os.environ.update(before)


def _share_the_tiny_corpus(shared, cache):
    """Made once for all processes of this run, which nearly all need it: it takes ten seconds."""
    with FileLock(shared / "corpus.lock"):
        ensure_tiny_corpus(shared / "corpus")
    cache.mkdir()
    default_data_root().symlink_to(shared / "corpus")


@pytest.fixture
def short_folder():
    """Sockets have short paths only, and `tmp_path` is long."""
    with TemporaryDirectory(dir="/tmp") as folder:
        yield Path(folder)


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


def with_ray(arguments, log, **environment):
    """A program that starts a Ray of its own, once that runs, or has ended without it."""
    job = Program(list(map(str, arguments)), log, **environment)
    job.says("Ray started on this machine")
    return job


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

    def wait(self, timeout_s=PATIENCE_S):
        """The exit code; what is still running after `timeout_s` is ended and fails the test."""
        try:
            return self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            pytest.fail(f"not finished after {timeout_s} s:\n{self.output}")

    def wait_for(self, text, timeout_s=PATIENCE_S):
        """Waits until the output holds `text`."""
        if not self.says(text, timeout_s):
            pytest.fail(f"{text!r} did not come:\n{self.output}")

    def says(self, text, timeout_s=PATIENCE_S):
        """Whether the output comes to hold `text`, before the end or `timeout_s`."""
        deadline_s = time.monotonic() + timeout_s
        while text not in self.output:
            if self.process.poll() is not None or time.monotonic() > deadline_s:
                return text in self.output
            time.sleep(0.1)
        return True


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
