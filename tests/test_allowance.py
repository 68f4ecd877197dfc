"""What a process may use: of written-out machines and containers, and of real ones."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from discreteness import allowance
from discreteness.cluster import machines
from tests.support import skips
from tests.support.control_group import limited_memory

GIB = 2**30
CORES_HERE = "from discreteness import allowance; print(allowance.cores())"
MEMORY_HERE = "from discreteness import allowance; print(allowance.memory_bytes())"
V1 = (
    "31 23 0:28 / {root} rw,relatime - tmpfs tmpfs rw,mode=755\n"
    "35 31 0:32 / {root}/memory rw,relatime shared:7 - cgroup cgroup rw,memory\n"
    "36 31 0:33 / {root}/cpu rw,relatime - cgroup cgroup rw,cpuacct,cpu\n"
)
V2 = "30 23 0:26 / {root} rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n"


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A function that writes a machine of 64 GiB with these mounts, groups and limits, on which the process then is."""

    def write(mounts, groups, limits):
        process, root = tmp_path / "self", tmp_path / "groups"
        process.mkdir()
        (process / "mountinfo").write_text(mounts.format(root=root))
        (process / "cgroup").write_text(groups)
        for name, text in limits.items():
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{text}\n")

    (tmp_path / "meminfo").write_text(f"MemTotal: {99 * 2**20} kB\nMemAvailable: {64 * 2**20} kB\n")
    monkeypatch.setattr(allowance, "PROCESS", tmp_path / "self")
    monkeypatch.setattr(allowance, "MEMORY", tmp_path / "meminfo")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)), raising=False)
    return write


def test_without_limits_it_is_what_the_machine_has_left(machine):
    machine(V2, "0::/user.slice\n", {"user.slice/memory.max": "max", "user.slice/cpu.max": "max 100000"})
    assert (allowance.cores(), allowance.memory_bytes()) == (16, 64 * GIB)


def test_the_limit_of_a_group_above_counts_less_what_it_has_taken(machine):
    limits = {
        "job/memory.max": 6 * GIB,
        "job/memory.current": 3 * GIB,
        "job/memory.stat": f"anon 7\ninactive_file {GIB}",
        "job/task/memory.max": 5 * GIB,
        "job/task/memory.current": GIB // 2,
        "job/task/memory.stat": "inactive_file 0",
        "job/cpu.max": "250000 100000",
        "job/task/cpu.max": "max 100000",
    }
    machine(V2, "0::/job/task\n", limits)
    assert (allowance.cores(), allowance.memory_bytes()) == (3, 4 * GIB)


def test_version_1_has_a_tree_for_each_controller(machine):
    limits = {
        "memory/box/memory.limit_in_bytes": 4 * GIB,
        "memory/box/memory.usage_in_bytes": GIB,
        "memory/box/memory.stat": "total_inactive_file 0",
        "memory/memory.limit_in_bytes": 9223372036854771712,  # no limit
        "cpu/box/cpu.cfs_quota_us": 50000,
        "cpu/box/cpu.cfs_period_us": 100000,
        "cpu/cpu.cfs_quota_us": -1,
        "cpu/cpu.cfs_period_us": 100000,
    }
    machine(V1, "4:memory:/box\n3:cpu,cpuacct:/box\n0::/\n", limits)
    assert (allowance.cores(), allowance.memory_bytes()) == (1, 3 * GIB)


@pytest.mark.parametrize("root", ["/docker/5a1f", "/"])
def test_a_container_sees_its_group_at_the_root_of_the_mount(machine, root):
    """Without a namespace of groups the mount says where it is; with one the path may say nothing."""
    path = "/docker/5a1f" if root != "/" else "/../../elsewhere"
    limits = {"memory.max": 2 * GIB, "memory.current": 0, "memory.stat": "", "cpu.max": "100000 100000"}
    machine(V2.replace(" / ", f" {root} "), f"0::{path}\n", limits)
    assert (allowance.cores(), allowance.memory_bytes()) == (1, 2 * GIB)


def test_macos_has_neither_groups_nor_affinity(machine, monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(allowance, "MEMORY", Path("/nowhere"))
    assert allowance.cores() == os.cpu_count()
    assert allowance.memory_bytes() == os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.parametrize(
    ("system", "available", "shared", "store"),
    [
        ("linux", 100 * GIB, 200 * GIB, 30 * GIB),
        ("linux", 100 * GIB, 20 * GIB, 18 * GIB),
        ("linux", 4 * GIB, 2**26, 1.2 * GIB),  # every container's 64 MB of /dev/shm: a file
        ("linux", 100 * GIB, 2**26, 1e10),  # Ray refuses larger files
        ("linux", 100 * GIB, None, 1e10),
        ("darwin", 8 * GIB, None, 2 * GIB),
    ],
)
def test_the_object_store_is_one_that_ray_accepts(monkeypatch, system, available, shared, store):
    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.setattr(allowance, "memory_bytes", lambda: available)
    monkeypatch.setattr(allowance, "shared_memory_bytes", lambda: shared)
    assert machines.object_store_bytes() == pytest.approx(store, rel=1e-6)
    assert machines.this_machine(1.5).nodes[0].object_store_bytes == 1_500_000_000


@pytest.mark.skipif(sys.platform != "linux", reason=skips.PROC)
def test_a_process_bound_to_one_core_has_one():
    code = f"import os; os.sched_setaffinity(0, {{min(os.sched_getaffinity(0))}}); {CORES_HERE}"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "1\n"


def test_a_process_in_a_real_group_has_what_the_group_may_take():
    with limited_memory(GIB) as group:
        code = f"import os; open('{group}/cgroup.procs', 'w').write(str(os.getpid())); {MEMORY_HERE}"
        found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        assert 0.8 * GIB < int(found) <= GIB
