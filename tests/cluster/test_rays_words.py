"""Ray's errors, as Ray 2.60 makes them -> one line for a user."""

import pytest
from ray.exceptions import (
    LocalRayletDiedError,
    NodeDiedError,
    ObjectStoreFullError,
    OutOfDiskError,
    OutOfMemoryError,
    OwnerDiedError,
    RayActorError,
    RaySystemError,
    RuntimeEnvSetupError,
)
from ray.train import TrainingFailedError

from discreteness.cluster.rays_words import in_one_line, is_of_a_process
from tests.support.fake_actors import of_a_task

MEMORY = OutOfMemoryError(
    "1 worker(s) were killed due to the node running low on memory. Memory on the node (IP: 192.0.2.2, ID: 61bf1d5892) "
    "was 2.03GB used / 23.54GB limit (0.086024)\n"
    "OOM kill reason: Memory usage 2164494336B exceeded threshold of 505521248B (2.0% of 25276063744B limit)\n"
    "Object store memory usage: [- objects spillable: 0\n- bytes spillable: 0\n\n(global lru) bytes evicted: 0]\n"
    "Ray killed 1 worker(s) based on the killing policy\n"
    "Top 10 memory users: PID\tMEM(GB)\tCOMMAND\n19112\t0.42\tpython run_seeds.py --track small\n"
    "Refer to the documentation on how to address the out of memory issue: https://docs.ray.io/. To disable worker "
    "killing, set the environment variable `RAY_memory_monitor_refresh_ms` to zero."
)
"""Of a run whose dispatcher the memory monitor ended, shortened."""
CUDA = RuntimeError(
    "CUDA error: an illegal memory access was encountered\nCUDA kernel errors might be asynchronously reported\n"
    "Compile with `TORCH_USE_CUDA_DSA` to enable device-side assertions."
)


LESS = "and Ray ended it: fewer --trainers or --evaluators, a smaller --object-store-gb, or a machine with more memory"
OUT_OF_MEMORY = f"its node 192.0.2.2 ran out of memory (2.03GB used of 23.54GB), {LESS}"
FULL = OutOfDiskError("Local disk is full")
FULL_DISK = (
    "the object store is full, and so is the disk that it falls back on (95 % of it): make room there, or give Ray a "
    "folder on another disk with RAY_TMPDIR"
)

UPLOAD = RuntimeEnvSetupError(
    "Failed to upload working_dir /home/me/project to the Ray cluster: Package size (710.00MiB) exceeds the maximum "
    "size of 512.00MiB. To exclude large files, add them to '.gitignore' or '.rayignore' files, or"
)
UPLOADED = (
    "under `uv run` Ray uploads /home/me/project, 710.00MiB of at most 512.00MiB: name what a job does not need in "
    "/home/me/project/.rayignore, or start it without `uv run`, with .venv activated"
)


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (MEMORY, OUT_OF_MEMORY),
        (OutOfMemoryError("in other words"), f"memory ran out, {LESS}"),
        (of_a_task(MEMORY), OUT_OF_MEMORY),
        (FULL, FULL_DISK),
        (of_a_task(FULL), FULL_DISK),
        (
            ObjectStoreFullError("Failed to put object"),
            "the object store is full: a smaller --max-in-flight, or a larger --object-store-gb",
        ),
        (
            LocalRayletDiedError(),
            "Ray's own process on this machine ended; why is in session_latest/logs/raylet.out of Ray's folder",
        ),
        (RuntimeEnvSetupError("pip\n\n  failed"), "Failed to set up runtime environment. pip failed"),
        (UPLOAD, UPLOADED),
        (NodeDiedError("The node 7 is dead"), "The node 7 is dead"),
        (RaySystemError("the channel closed"), "System error: the channel closed"),
        (RayActorError("", "The actor died.\n\tpid: 7\nIts worker ended with 1"), "Its worker ended with 1"),
        (TrainingFailedError("Training failed due to controller error:\nno place in time"), "no place in time"),
        (of_a_task(RuntimeError("CUDA error: out of memory")), "RuntimeError: CUDA error: out of memory"),
        (of_a_task(CUDA), "RuntimeError: CUDA error: an illegal memory access was encountered"),
        (ValueError("first\n  second  \n\n"), "second"),
        (TimeoutError(), "TimeoutError"),
    ],
)
def test_an_error_is_one_line(error, line):
    assert in_one_line(error) == line


def test_an_error_of_our_own_code_is_told_from_what_ray_says_of_processes():
    for error in MEMORY, NodeDiedError("gone"), RaySystemError("x"), OwnerDiedError("", b"", ""), RayActorError():
        assert is_of_a_process(error)
    for error in of_a_task(CUDA), of_a_task(MEMORY), ValueError("ours"), TimeoutError():
        assert not is_of_a_process(error)
