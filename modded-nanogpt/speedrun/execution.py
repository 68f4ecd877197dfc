"""Execution: how the arithmetic of a run is done, which decides bits but not mathematics.

- A resolved value follows from the wishes, the track and the kind of device alone, so it is equal on every machine.
- torch is imported only where something is decided: processes that merely pass a decision on do without it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from speedrun.tracks import Track

if TYPE_CHECKING:
    import torch

Attention = Literal["auto", "flash3", "varlen", "reference"]


@dataclass(frozen=True, kw_only=True)
class Execution:
    """Part of an experiment's identity, resolved: two runs compare to the bit only where these are equal."""

    attention: Attention = "auto"
    """flash3: FlashAttention-3 (Hopper only, see attention.py); varlen: torch's own; reference: plain, any device."""
    fp8_head: bool = True
    """The training head's products in 8 bits (SPEEDRUN 1.5). Scoring and validation never use them."""
    compiled: bool = True
    """Training graph and optimizers through torch.compile; scoring and validation always run as written."""
    deterministic: bool = True
    """Training repeats to the bit on one type of GPU: attention adds gradients in a fixed order, and the compiler
    chooses kernels without timing them. Costs 2 to 6 % of an update (docs/log.md). Scoring repeats always."""
    symmetric_kernels: bool = True
    """Own Triton kernels for the symmetric products of Polar Express."""
    micro_batch_tokens: int = 65536
    """Slots of a step are joined into forward passes of at most this many tokens; a longer slot goes alone."""

    def on(self, device: str | torch.device, dtype: torch.dtype) -> Execution:
        """What is done on that device: on a CPU, or in single precision, nothing is compiled or in 8 bits.

        Decided without asking the machine, so that a head node without GPU resolves as its workers do.
        """
        import torch

        from speedrun.kernels.backends import resolve_backend

        on_gpu = torch.device(device).type == "cuda"
        fast = on_gpu and dtype == torch.bfloat16
        return replace(
            self,
            attention=resolve_backend(self.attention, device, dtype),
            fp8_head=self.fp8_head and fast,
            compiled=self.compiled and fast,
            deterministic=self.deterministic or not on_gpu,
            symmetric_kernels=self.symmetric_kernels and fast,
        )

    def resolved(self, track: Track, device: str | torch.device) -> Execution:
        """What is done when that track is trained on that device."""
        import torch

        return replace(self, fp8_head=self.fp8_head and track.fp8_head).on(device, getattr(torch, track.dtype))

    def check(self, device: str | torch.device) -> None:
        """Loads the attention library. Raises ValueError if this machine's GPU cannot do what is asked."""
        import torch

        from speedrun.kernels.backends import check_backend
        from speedrun.kernels.capability import FP8_PRODUCTS, name_and_capability

        check_backend(self.attention, device)
        if torch.device(device).type != "cuda":
            return
        name, (major, minor) = name_and_capability(device)
        if self.fp8_head and (major, minor) < FP8_PRODUCTS:
            needed = ".".join(map(str, FP8_PRODUCTS))
            raise ValueError(
                f"{name} has no 8-bit products (compute capability {major}.{minor}, {needed} needed): "
                "switch them off (DISABLE_FP8=1, or --no-fp8), or use a Hopper GPU"
            )

    def compile(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """One whole graph for each set of shapes."""
        import torch

        options: dict[str, Any] = {"deterministic": self.deterministic}
        return torch.compile(function, fullgraph=True, dynamic=False, options=options)


PLAIN = Execution(attention="reference", fp8_head=False, compiled=False, symmetric_kernels=False)
"""Everything as written: what the fast ways are compared with."""


def one_thread_on_a_cpu(device: str | torch.device) -> None:
    """Sums in one order, whatever the machine: what trains, scores and loads on a CPU finds the same bits. Without
    effect for a GPU."""
    import torch

    if torch.device(device).type == "cpu":
        torch.set_num_threads(1)
