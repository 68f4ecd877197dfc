"""The project's programs with `--attention flash3` on a CPU.

`python tests/support/flash3_on_cpu.py discreteness run --inline --attention flash3`, or `train_gpt` for `discreteness`.
Only the demand for a Hopper GPU is left out: where the library comes from, and how, is as on a GPU. `kernel` is a
repository for the hub of the tests: operators of the same names, written in Python, which compute the reference.
"""

import json
import sys

import torch

KERNEL = """
import torch
from speedrun.model.attention import banded_attention, banded_attention_backward

library = torch.library.Library("_flash_attn3_0a1b2c", "DEF")
REACH = (
    "Tensor cu_seqlens_q, Tensor cu_seqlens_k, int max_seqlen_q, int max_seqlen_k, "
    "float softmax_scale, bool is_causal, int window_size_left, int window_size_right"
)
library.define(f"fwd(Tensor q, Tensor k, Tensor v, *, int num_splits, {REACH}) -> (Tensor, Tensor)")
library.define(
    "bwd(Tensor dy, Tensor q, Tensor k, Tensor v, Tensor y, Tensor lse, "
    f"Tensor(a!) dq, Tensor(b!) dk, Tensor(c!) dv, *, bool deterministic, {REACH}) -> ()"
)
library.define("fwd_combine(Tensor x) -> Tensor")


def fwd(q, k, v, *, cu_seqlens_q, max_seqlen_q, window_size_left, softmax_scale, **_):
    window = min(window_size_left, max_seqlen_q - 1)
    return banded_attention(q, k, v, cu_seqlens_q, window, softmax_scale), q.new_zeros(q.shape[1], len(q))


def bwd(dy, q, k, v, y, lse, dq, dk, dv, *, cu_seqlens_q, max_seqlen_q, window_size_left, softmax_scale, **_):
    window = min(window_size_left, max_seqlen_q - 1)
    gradients = banded_attention_backward(dy, q, k, v, cu_seqlens_q, window, softmax_scale)
    for sink, gradient in zip((dq, dk, dv), gradients):
        sink.copy_(gradient)


library.impl("fwd", fwd, "CPU")
library.impl("bwd", bwd, "CPU")
"""
BUILT = b"what would be the built library"
METADATA = {"id": "_flash_attn3_0a1b2c", "name": "flash-attn3", "version": 1, "license": "BSD-3-Clause"}


def kernel():
    """Files of a repository of the hub, with a build for the torch here: {path: content}."""
    backend = "cuda" if torch.version.cuda else "cpu"
    about = METADATA | {"python-depends": [], "backend": {"type": backend}}
    folder = f"build/torch-{backend}"
    return {
        f"{folder}/__init__.py": KERNEL.encode(),
        f"{folder}/metadata.json": json.dumps(about).encode(),
        f"{folder}/_flash_attn3_0a1b2c.abi3.so": BUILT,
    }


def main(program, *arguments):
    from speedrun.kernels import backends, flash_attention

    backends.resolve_backend = lambda asked, device, dtype: asked
    backends.check_backend = lambda backend, device: flash_attention.flash3()
    sys.argv = [program, *arguments]
    if program == "discreteness":
        from discreteness.cli.main import main as start
    else:
        from train_gpt import main as start
    sys.exit(start())


if __name__ == "__main__":
    main(*sys.argv[1:])
