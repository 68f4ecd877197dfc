"""the workers of a Ray Train group -> one process group of torch.

In place of Ray Train's TorchConfig, whose module imports torch wherever it is named: in the actor that starts the
groups and in the controller of each, which compute nothing, seconds of start and a quarter of a gigabyte.
"""

import os
import socket
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import ray
from ray.train.backend import Backend, BackendConfig
from ray.util import get_node_ip_address

TIMEOUT_S = 600
"""Of a collective; one of the nested bounds, see trainers.py."""
LEAVE_S = 30


@dataclass(frozen=True)
class ProcessGroup(BackendConfig):
    """How the workers of a group speak to each other. Plain data: trainer groups' actor -> controller -> workers."""

    backend: str
    """Of torch.distributed, such as gloo."""

    @property
    def backend_cls(self) -> type[Backend]:
        return _Workers

    def to_dict(self) -> dict[str, Any]:
        """What Ray's dashboard shows."""
        return {"backend": self.backend, "timeout_s": TIMEOUT_S}


class _Workers(Backend):
    """Called by the controller; everything of torch's happens in the workers."""

    share_cuda_visible_devices = True
    """Each sees the GPUs of all on its node, as NCCL wants it for copies from one to another."""

    def on_start(self, worker_group: Any, backend_config: BackendConfig) -> None:
        assert isinstance(backend_config, ProcessGroup)
        meet_at, size = worker_group.execute_single(0, _free_address), len(worker_group)
        join = (backend_config.backend, meet_at, size)
        ray.get([worker_group.execute_single_async(rank, _join, rank, *join) for rank in range(size)])

    def on_shutdown(self, worker_group: Any, backend_config: BackendConfig) -> None:
        ray.wait(left := worker_group.execute_async(_leave), num_returns=len(left), timeout=LEAVE_S)


def _free_address() -> str:
    """Of this machine, for the workers to meet at."""
    with socket.socket() as probe:
        probe.bind(("", 0))
        return f"tcp://{get_node_ip_address()}:{probe.getsockname()[1]}"


def _join(rank: int, backend: str, meet_at: str, size: int) -> None:
    import torch.distributed as dist

    os.environ.setdefault("TORCH_NCCL_ASYNC_ERROR_HANDLING", "1")  # a collective that hangs ends its process
    timeout = timedelta(seconds=TIMEOUT_S)
    dist.init_process_group(backend, init_method=meet_at, rank=rank, world_size=size, timeout=timeout)


def _leave() -> None:
    import torch.distributed as dist

    if dist.get_world_size() > 1:
        dist.destroy_process_group()
