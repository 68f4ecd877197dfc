"""a GPU -> its compute capability, and which capability each kernel needs."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

FLASH_ATTENTION = (8, 0)
"""The least for torch's flash attention in bfloat16: Ampere."""
FP8_PRODUCTS = (8, 9)
"""The least for 8-bit matrix products: Ada."""
HOPPER_MAJOR = 9
"""FlashAttention-3 is built for compute capability 9.x alone, and the tracks are tuned for it."""


def name_and_capability(device: str | torch.device) -> tuple[str, tuple[int, int]]:
    """What the driver says of this machine's GPU."""
    import torch

    return torch.cuda.get_device_name(device), torch.cuda.get_device_capability(device)
