"""The connection to Ray: the cluster that RAY_ADDRESS names, or this machine, and what its nodes answer."""

import logging
import os
from collections.abc import Callable
from typing import Any

import ray
from ray.exceptions import RayError
from ray.job_config import JobConfig
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from discreteness.cluster.machines import Cluster, Node, this_machine
from discreteness.cluster.rays_address import named_cluster, try_address
from discreteness.cluster.rays_words import in_one_line

ALL_GPUS = {"env_vars": {"RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES": "1"}}
"""Else Ray shows a process the GPUs that it has reserved, and nobody hears of the others."""


def find_cluster(metadata: dict[str, str] | None = None, object_store_gb: float | None = None) -> Cluster:
    """The cluster that RAY_ADDRESS names, joined; without it this machine, looked at but not started.

    `metadata`: what the dashboard's list of jobs shows of this one, unless `ray job submit --metadata-json` says more.
    `object_store_gb`: of a Ray to be started here; ValueError if one runs already. OSError if the cluster cannot be
    joined.
    """
    address = named_cluster()
    os.environ.setdefault("RAY_COLOR_PREFIX", "0")  # else Ray's warnings stand in a log with codes of colors
    if address is None:
        return this_machine(object_store_gb)
    if object_store_gb is not None:
        raise ValueError(
            f"--object-store-gb {object_store_gb:g}: the Ray that RAY_ADDRESS names runs already; give its nodes "
            "`ray start --object-store-memory=BYTES`"
        )
    try_address(address)
    try:
        ray.init(job_config=JobConfig(metadata=metadata), log_to_driver=False, logging_level=logging.ERROR)
    except Exception as error:  # of a dozen classes, few of them Ray's
        raise OSError(f"RAY_ADDRESS={address}: the cluster cannot be joined: {in_one_line(error)}") from error
    return Cluster(tuple(map(_node, _alive())), local=False)


def on_each_node(function: Callable[..., Any], *arguments: Any, timeout_s: float) -> dict[str, Any]:
    """host -> what `function` returns on it, or the text of what went wrong. A node's every GPU is seen, one of which
    must be free."""
    calls = {}
    for entry in _alive():
        strategy = NodeAffinitySchedulingStrategy(entry["NodeID"], soft=False)
        share = 0.01 if entry["Resources"].get("GPU") else 0.0
        call: Any = ray.remote(function).options(
            num_cpus=0, num_gpus=share, scheduling_strategy=strategy, runtime_env=ALL_GPUS
        )
        calls[_host(entry)] = call.remote(*arguments)
    ready, _ = ray.wait(list(calls.values()), num_returns=len(calls), timeout=timeout_s)
    answers: dict[str, Any] = {}
    for host, call in calls.items():
        try:
            late = f"no answer after {timeout_s:g} s; its GPUs may all be in use"
            answers[host] = ray.get(call) if call in ready else late
        except RayError as error:
            answers[host] = in_one_line(error)
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
