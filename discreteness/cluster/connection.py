"""The connection to Ray: the cluster that RAY_ADDRESS names, or a Ray of our own on this machine."""

import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError
from ray.job_config import JobConfig
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from discreteness.cluster.machines import Cluster, Node, this_machine

AGENT_TIMEOUT_S = 300
"""How long a node waits for its agent: longer than the 30 s that Ray gives the node itself."""


def find_cluster(metadata: dict[str, str] | None = None, object_store_gb: float | None = None) -> Cluster:
    """The cluster that RAY_ADDRESS names, joined; without it this machine, looked at but not started.

    `metadata`: what the dashboard's list of jobs shows of this one, unless `ray job submit --metadata-json` says more.
    `object_store_gb`: of a Ray to be started here; ValueError if one runs already.
    """
    if os.environ.get("RAY_ADDRESS") and object_store_gb is not None:
        raise ValueError(
            f"--object-store-gb {object_store_gb:g}: the Ray that RAY_ADDRESS names runs already; give its nodes "
            "`ray start --object-store-memory=BYTES`"
        )
    os.environ.setdefault("RAY_COLOR_PREFIX", "0")  # else Ray's warnings stand in a log with codes of colors
    if os.environ.get("RAY_ADDRESS"):
        ray.init(job_config=JobConfig(metadata=metadata), log_to_driver=False, logging_level=logging.ERROR)
        return Cluster(tuple(map(_node, _alive())), local=False)
    return this_machine(object_store_gb)


def start_local(cluster: Cluster, num_cpus: int, metadata: dict[str, str] | None = None) -> str | None:
    """Starts Ray on this machine with `num_cpus` declared; the dashboard's address, if it came up.

    On a busy machine its agent takes long to start; Ray's node by itself does not survive more than some 15 s of that.
    The dashboard is not only for looking: without it Ray Train cannot clean up after a killed driver. Raises OSError if
    Ray does not come up in the time that it gives itself.
    """
    os.environ.setdefault("RAY_agent_register_timeout_ms", str(1000 * AGENT_TIMEOUT_S))
    try:
        context = ray.init(
            address="local",
            num_cpus=num_cpus,
            object_store_memory=cluster.nodes[0].object_store_bytes,
            include_dashboard=True,
            dashboard_host="127.0.0.1",
            job_config=JobConfig(metadata=metadata),
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
    except Exception as error:  # Ray has no class of its own for it
        if not any(words in str(error) for words in ("timed out during startup", "dashboard.log")):
            raise
        raise OSError(
            "Ray did not start in the time that it gives itself (30 s, and 60 s for its dashboard): "
            "this machine is busy; give the same command again when its load is less"
        ) from error
    keep_token_private()
    return context.dashboard_url


def token_file() -> Path | None:
    """The file with the token that a Ray started here asks for. None: it asks for none."""
    token = Path.home() / ".ray" / "auth_token"
    return token if token.is_file() and os.environ.get("RAY_AUTH_MODE") != "disabled" else None


def keep_token_private() -> None:
    """Makes the file of Ray's token readable for its user only: anyone who can read the token can run code as this
    user."""
    if token := token_file():
        token.chmod(0o600)


def on_each_node(function: Callable[..., Any], *arguments: Any, timeout_s: float) -> dict[str, Any]:
    """host -> what `function` returns on it, or the text of what went wrong. One GPU of a node with GPUs is seen."""
    calls = {}
    for entry in _alive():
        strategy = NodeAffinitySchedulingStrategy(entry["NodeID"], soft=False)
        share = 0.01 if entry["Resources"].get("GPU") else 0.0
        call: Any = ray.remote(function).options(num_cpus=0, num_gpus=share, scheduling_strategy=strategy)
        calls[_host(entry)] = call.remote(*arguments)
    ready, _ = ray.wait(list(calls.values()), num_returns=len(calls), timeout=timeout_s)
    answers: dict[str, Any] = {}
    for host, call in calls.items():
        try:
            late = f"no answer after {timeout_s:g} s; its GPUs may all be in use"
            answers[host] = ray.get(call) if call in ready else late
        except RayError as error:
            answers[host] = str(error).strip().splitlines()[-1]
    return answers


def _alive() -> list[dict]:
    """Ray's entries of the nodes that are there, by name: Ray promises no order."""
    return sorted((entry for entry in ray.nodes() if entry["Alive"]), key=_host)


def _node(entry: dict) -> Node:
    resources = entry["Resources"]
    gpu_type = next(
        (key.removeprefix("accelerator_type:") for key in resources if key.startswith("accelerator_type:")), None
    )
    return Node(
        resources.get("CPU", 0.0),
        resources.get("GPU", 0.0),
        gpu_type,
        int(resources.get("object_store_memory", 0)),
        _host(entry),
    )


def _host(entry: dict) -> str:
    """Machines may share a name, and one machine may be several nodes."""
    return f"{entry['NodeManagerHostname']} ({entry['NodeID'][:8]})"
