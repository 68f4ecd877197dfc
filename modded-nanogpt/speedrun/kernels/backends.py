"""what was asked + device and dtype -> the attention backend, and whether this machine can run it."""

from typing import Literal, cast, get_args

import torch

from speedrun.kernels.capability import FLASH_ATTENTION, HOPPER_MAJOR, name_and_capability
from speedrun.kernels.flash_attention import flash3

Backend = Literal["flash3", "varlen", "reference"]
BACKENDS = get_args(Backend)
HALF_PRECISION = (torch.bfloat16, torch.float16)


def resolve_backend(asked: str, device: str | torch.device, dtype: torch.dtype) -> Backend:
    """One of BACKENDS for what was asked, by device type and dtype alone: equal on every machine of a cluster."""
    if asked not in ("auto", *BACKENDS):
        raise ValueError(f"unknown attention backend {asked!r}: choose auto, {', '.join(BACKENDS)}")
    kind = torch.device(device).type
    fast = kind == "cuda" and dtype in HALF_PRECISION
    if asked == "auto":
        return "varlen" if fast else "reference"
    if asked != "reference" and not fast:
        raise ValueError(
            f"attention backend {asked!r} needs a CUDA device and bfloat16 or float16, not {kind} and {dtype}: "
            "ask for 'reference', or for 'auto', which chooses it here"
        )
    return cast(Backend, asked)


def check_backend(backend: str, device: str | torch.device) -> None:
    """Loads FlashAttention-3 if that is asked for. Raises ValueError, which says what to do, if this machine cannot run
    it."""
    if backend == "reference":
        return
    if not torch.cuda.is_available():
        raise ValueError(f"attention backend {backend!r} needs a GPU, and torch sees none here: ask for 'reference'")
    name, (major, minor) = name_and_capability(device)
    if (major, minor) < FLASH_ATTENTION:
        needed = ".".join(map(str, FLASH_ATTENTION))
        raise ValueError(
            f"attention backend {backend!r} needs compute capability {needed}, {name} has {major}.{minor}: "
            "ask for 'reference'"
        )
    if backend == "flash3":
        if major != HOPPER_MAJOR or torch.version.hip:  # AMD counts its own generations: an MI300X is a 9.4
            raise ValueError(
                f"attention backend 'flash3' needs a Hopper GPU (compute capability 9.0), {name} has {major}.{minor}: "
                "ask for 'varlen' or 'auto'"
            )
        flash3()
