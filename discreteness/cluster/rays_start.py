"""A Ray of our own on this machine, started, and started again where the machine is too busy for Ray's time limits."""

import logging
import os
import time
from collections.abc import Callable

import psutil
import ray
from ray.job_config import JobConfig

from discreteness.cluster.machines import Cluster
from discreteness.cluster.rays_folder import rays_folder, try_folder, try_store
from discreteness.cluster.rays_token import keep_token_private, try_token
from discreteness.cluster.rays_words import in_one_line

LATE = ("timed out during startup", "Timed out waiting for file", "dashboard.log", "dashboard.err")
"""What Ray 2.60 says where a process of its own does not start in time: 30 s, or 60 s for the dashboard."""
START_TIMEOUT_S = 300
"""From when on Ray is not started once more."""
AGENT_TIMEOUT_S = 300
"""How long a node waits for its agent: longer than the 30 s that Ray gives the node itself."""
END_TIMEOUT_S = 30
"""For killed processes to be gone."""


def start_local(
    cluster: Cluster,
    num_cpus: int,
    metadata: dict[str, str] | None = None,
    on_late: Callable[[], None] = lambda: None,
) -> str | None:
    """Starts Ray on this machine with `num_cpus` declared; the dashboard's address, if it came up.

    On a busy machine its agent takes long to start; Ray's node by itself does not survive more than some 15 s of that.
    The dashboard is not only for looking: without it Ray Train cannot clean up after a killed driver. `on_late` is
    called before Ray is started once more. Raises OSError, in one line with what to do, if Ray cannot start.
    """
    os.environ.setdefault("RAY_agent_register_timeout_ms", str(1000 * AGENT_TIMEOUT_S))
    store_bytes = cluster.nodes[0].object_store_bytes
    began_s = time.monotonic()
    while True:
        try_before_start(store_bytes)
        ours = _descendants()
        try:
            context = ray.init(
                address="local",
                num_cpus=num_cpus,
                object_store_memory=store_bytes,
                include_dashboard=True,
                dashboard_host="127.0.0.1",
                job_config=JobConfig(metadata=metadata),
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
        except Exception as error:  # Ray has no class of its own for it
            ray.shutdown()
            _end(_descendants() - ours)  # Ray leaves them, and a second Ray would share the machine with them
            try_before_start(store_bytes)  # a disk may have become full
            if not _is_late(error) or time.monotonic() - began_s > START_TIMEOUT_S:
                raise OSError(_why_not_started(error)) from error
            on_late()
        else:
            keep_token_private()
            return context.dashboard_url


def try_before_start(store_bytes: int) -> None:
    """Raises OSError, in one line with what to do, if Ray could not start here with such an object store."""
    try_token()
    try_folder()
    try_store(store_bytes)


def _descendants() -> set[psutil.Process]:
    return set(psutil.Process().children(recursive=True))


def _end(processes: set[psutil.Process]) -> None:
    for process in processes:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue
    psutil.wait_procs(processes, timeout=END_TIMEOUT_S)


def _is_late(error: Exception) -> bool:
    return any(words in str(error) for words in LATE)


def _why_not_started(error: Exception) -> str:
    if _is_late(error):
        return (
            f"Ray did not start within {START_TIMEOUT_S} s, begun anew each time that its own 30 s, or 60 s for its "
            "dashboard, were over: this machine is busy; give the same command again when its load is less"
        )
    logs = rays_folder() / "session_latest" / "logs"
    return f"Ray did not start ({type(error).__name__}: {in_one_line(error)}); more is in {logs}"
