"""A Ray of our own that does not come up: started again on a busy machine, else an error with the way on."""

import shutil
import subprocess
import sys
from types import SimpleNamespace

import psutil
import pytest

from discreteness.cluster import rays_start
from discreteness.cluster.machines import Cluster, Node

MACHINE = Cluster((Node(2.0, 0.0, None, 10**8, "here"),), local=True)
SLEEPS = [sys.executable, "-c", "import time; time.sleep(600)"]
HAS_A_CHILD = [sys.executable, "-c", f"import subprocess; subprocess.run({SLEEPS!r})"]
LATE = [
    "The current node timed out during startup. This could happen because some of the raylet failed to startup",
    "\nThe last 20 lines of /tmp/logs/dashboard.log: ",
    "Failed to read dashboard.err file: [Errno 2] No such file or directory",
    "Timed out waiting for file /tmp/ray/s/gcs_server_port_1",
]
"""What Ray raises on an overloaded machine, which a test cannot have on purpose."""


def start_where_ray_says(monkeypatch, reason, before=lambda: None):
    def init(**options):
        before()
        raise Exception(reason)

    monkeypatch.setattr(rays_start.ray, "init", init)
    monkeypatch.setattr(rays_start, "START_TIMEOUT_S", 0)
    rays_start.start_local(MACHINE, 2)


@pytest.mark.parametrize("reason", LATE)
def test_a_ray_that_never_comes_up_in_time_is_a_busy_machine(monkeypatch, reason):
    with pytest.raises(OSError, match="machine is busy; give the same command again"):
        start_where_ray_says(monkeypatch, reason)


def test_any_other_error_is_named_with_where_more_is(monkeypatch):
    words = r"^Ray did not start \(Exception: no such thing\); more is in .*/session_"
    with pytest.raises(OSError, match=words):
        start_where_ray_says(monkeypatch, "The node broke:\nno such thing")


def test_a_ray_that_is_late_is_started_again_without_the_processes_of_the_first(monkeypatch):
    """As Ray does: it raises, and leaves what it has started, some of which has children of its own."""
    earlier = subprocess.Popen(SLEEPS)
    started, left, said = [earlier], [], []

    def init(**options):
        if left:
            assert not any(psutil.pid_exists(pid) and not_a_zombie(pid) for pid in left)
            return SimpleNamespace(dashboard_url="127.0.0.1:8265")
        started.append(subprocess.Popen(HAS_A_CHILD))
        with_child = psutil.Process(started[-1].pid)
        while not with_child.children():
            pass
        left.extend([with_child.pid, with_child.children()[0].pid])
        raise Exception(LATE[0])

    monkeypatch.setattr(rays_start.ray, "init", init)
    try:
        assert rays_start.start_local(MACHINE, 2, on_late=lambda: said.append("late")) == "127.0.0.1:8265"
        assert len(left) == 2 and said == ["late"]
        assert earlier.poll() is None  # it was there before
    finally:
        for process in psutil.Process().children(recursive=True):
            if process.pid in {earlier.pid, *left}:
                process.kill()
        for process in started:
            process.wait()


def not_a_zombie(pid):
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_a_disk_that_becomes_full_while_ray_starts_is_not_called_a_busy_machine(monkeypatch):
    full = SimpleNamespace(total=10**9, used=10**9, free=0)
    with pytest.raises(OSError, match=r"the disk of Ray's folder .* has 0 MB free"):
        start_where_ray_says(
            monkeypatch, LATE[0], before=lambda: monkeypatch.setattr(shutil, "disk_usage", lambda path: full)
        )


def test_ray_is_not_asked_where_it_cannot_start(monkeypatch, short_folder):
    (short_folder / "file").write_text("")
    monkeypatch.setenv("RAY_TMPDIR", str(short_folder / "file"))
    with pytest.raises(OSError, match=r"Ray cannot use its folder .*: RAY_TMPDIR=DIR"):
        start_where_ray_says(monkeypatch, "Ray was asked")
