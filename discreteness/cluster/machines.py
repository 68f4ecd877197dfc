"""The machines of a run, and what they offer. Nothing here needs Ray."""

import re
import socket
import sys
from dataclasses import dataclass

from discreteness import allowance
from discreteness.cluster.hardware import accelerator_type, is_hopper
from discreteness.cluster.rays_folder import MAX_STORE_BYTES_ON_DISK, room_for_a_store

OBJECT_STORE_SHARE = 0.3
"""Share of the memory that can be had which a Ray started by us takes for its object store."""
MAX_STORE_BYTES_ON_MACOS = 2 * 2**30
"""As Ray has it."""
ASSUMED_CPUS, ASSUMED_STORE_BYTES = 8, 30 * 10**9
"""Per GPU of a machine that is only assumed. A real one may have more of both."""


@dataclass(frozen=True)
class Node:
    """What one machine offers."""

    cpus: float
    gpus: float
    gpu_type: str | None
    object_store_bytes: int
    host: str = ""
    """Its name, in a cluster with the beginning of Ray's id for it."""


@dataclass(frozen=True)
class Cluster:
    """The machines, and whether they are just this one."""

    nodes: tuple[Node, ...]
    local: bool

    @property
    def has_gpus(self) -> bool:
        return any(node.gpus for node in self.nodes)

    def track(self, asked: str) -> str:
        """The track's name: what was asked, or for "auto" what this hardware is for. Raises ValueError if that is
        unclear."""
        if asked != "auto":
            return asked
        if not self.has_gpus:
            return "tiny"
        types = {node.gpu_type for node in self.nodes if node.gpus}
        if any(map(is_hopper, types)):
            return "small"
        raise ValueError(f"--track auto: GPUs are of type {sorted(map(str, types))}, not Hopper; name the track")

    def describe(self) -> str:
        """'2 nodes: 16 CPU, 8 H100 | 4 CPU', each kind once."""
        kinds: dict[str, int] = {}
        for node in self.nodes:
            gpus = f", {node.gpus:g} {node.gpu_type or 'GPU'}" if node.gpus else ""
            kind = f"{node.cpus:g} CPU{gpus}"
            kinds[kind] = kinds.get(kind, 0) + 1
        return " | ".join(f"{count} x {kind}" if count > 1 else kind for kind, count in kinds.items())


def assumed(text: str) -> Cluster:
    """A cluster that is not here, to plan for: '8xH100' is one node with eight GPUs, '4x8xH100' are four of them."""
    match = re.fullmatch(r"(?:([1-9]\d{0,3})x)?([1-9]\d{0,2})x([A-Za-z][\w-]*)", text, re.ASCII)
    if not match:
        raise ValueError(
            f"--assume {text!r}: write GPUs per node and their type, such as 8xH100, or 4x8xH100 for four nodes"
        )
    gpus = int(match[2])
    node = Node(
        cpus=ASSUMED_CPUS * gpus,
        gpus=gpus,
        gpu_type=match[3],
        object_store_bytes=ASSUMED_STORE_BYTES * gpus,
    )
    return Cluster(int(match[1] or 1) * (node,), local=False)


def this_machine(object_store_gb: float | None = None) -> Cluster:
    """What this process may use of this machine alone, looked at but not started. `object_store_gb`: None chooses."""
    import torch  # only here: in a cluster Ray says what GPUs there are

    gpus = torch.cuda.device_count()
    gpu_type = accelerator_type(torch.cuda.get_device_name(0)) if gpus else None
    store_bytes = object_store_bytes() if object_store_gb is None else int(1e9 * object_store_gb)
    node = Node(float(allowance.cores()), float(gpus), gpu_type, store_bytes, socket.gethostname())
    return Cluster((node,), local=True)


def object_store_bytes() -> int:
    """Of a Ray that is started here. It lies in /dev/shm, or, where that is small, in a file."""
    wanted = int(OBJECT_STORE_SHARE * allowance.memory_bytes())
    if sys.platform == "darwin":
        return min(wanted, MAX_STORE_BYTES_ON_MACOS)
    shared = int(0.9 * (allowance.shared_memory_bytes() or 0))
    if wanted <= shared:
        return wanted
    return max(shared, min(wanted, MAX_STORE_BYTES_ON_DISK, room_for_a_store()))
