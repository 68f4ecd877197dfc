"""queries, keys, values of packed documents -> attention by the flash kernels of torch or of FlashAttention-3.

Opaque operators around each library's own forward and backward. Torch's kernels come with torch. FlashAttention-3
(Hopper only) is a program of others, and comes from one of two places, which the environment names:

- FLASH_ATTENTION_3=DIR: a folder that holds one built library, however deep, as one build of the hub's repository does.
  No network and no `kernels` package is needed, and `unpack` makes such a folder.
- FLASH_ATTENTION_3_REVISION=COMMIT: that commit of the hub's repository, fetched by `kernels`. A branch or tag, which
  its owner can move to other code, is loaded only with FLASH_ATTENTION_3_ALLOW_MOVING=1.

Both backward kernels add up the gradient of q in no fixed order unless told to: `deterministic`.
"""

import contextlib
import ctypes
import functools
import hashlib
import inspect
import lzma
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.utils.deterministic
from torch import Tensor

from speedrun.least_rate import demand_least_rate

FOLDER_VARIABLE = "FLASH_ATTENTION_3"
REVISION_VARIABLE = "FLASH_ATTENTION_3_REVISION"
MOVING_VARIABLE = "FLASH_ATTENTION_3_ALLOW_MOVING"
HUB_REPOSITORY = "varunneal/flash-attention-3"
COMMIT = re.compile(r"[0-9a-f]{40}")


@torch.library.custom_op("speedrun::flash_attention", mutates_args=())
def flash_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_seqlens: Tensor,
    max_seqlen: Tensor,
    window: Tensor,
    scale: Tensor,
    backend: str,
    deterministic: bool,
) -> tuple[Tensor, Tensor]:
    """Arguments as in `attention.attention`; backend flash3 or varlen. Returns (T, H, d) and the (H, T) log-sums."""
    forward = flash3_forward if backend == "flash3" else varlen_forward
    y, lse = forward(q, k, v, cu_seqlens, int(max_seqlen), int(window), float(scale))
    return y.contiguous(), lse


@torch.library.custom_op("speedrun::flash_attention_backward", mutates_args=())
def flash_attention_backward(
    dy: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    y: Tensor,
    lse: Tensor,
    cu_seqlens: Tensor,
    max_seqlen: Tensor,
    window: Tensor,
    scale: Tensor,
    backend: str,
    deterministic: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    backward = flash3_backward if backend == "flash3" else varlen_backward
    # The kernels want the last axis contiguous, which the gradient of a sum or a mean is not.
    reach = int(max_seqlen), int(window), float(scale)
    dq, dk, dv = backward(dy.contiguous(), q, k, v, y, lse, cu_seqlens, *reach, deterministic)
    return dq.contiguous(), dk.contiguous(), dv.contiguous()


@flash_attention.register_fake
def _(q: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    num_tokens, num_heads, _head_dim = q.shape
    return q.new_empty(q.shape), q.new_empty((num_heads, num_tokens), dtype=torch.float32)


@flash_attention_backward.register_fake
def _(dy: Tensor, q: Tensor, k: Tensor, v: Tensor, *_: Any) -> tuple[Tensor, Tensor, Tensor]:
    return q.new_empty(q.shape), k.new_empty(k.shape), v.new_empty(v.shape)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    q, k, v, cu_seqlens, max_seqlen, window, scale, ctx.backend, ctx.deterministic = inputs
    ctx.save_for_backward(q, k, v, *output, cu_seqlens, max_seqlen, window, scale)


def _differentiate(ctx: Any, dy: Tensor, _d_lse: Tensor) -> tuple[Tensor | None, ...]:
    gradients = flash_attention_backward(dy, *ctx.saved_tensors, ctx.backend, ctx.deterministic)
    return *gradients, None, None, None, None, None, None


flash_attention.register_autograd(_differentiate, setup_context=_save)


def varlen_forward(
    q: Tensor, k: Tensor, v: Tensor, cu_seqlens: Tensor, longest: int, window: int, scale: float
) -> tuple[Tensor, Tensor]:
    # torch's varlen_attn is this call inside an operator whose window is a constant of the graph.
    y, lse, *_ = torch.ops.aten._flash_attention_forward(
        q, k, v, cu_seqlens, cu_seqlens, longest, longest, 0.0, False, False,
        scale=scale, window_size_left=window, window_size_right=0,
    )  # fmt: skip
    return y, lse


def varlen_backward(
    dy: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    y: Tensor,
    lse: Tensor,
    cu_seqlens: Tensor,
    longest: int,
    window: int,
    scale: float,
    deterministic: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    no_dropout_state = torch.empty(2, dtype=torch.uint64, device=q.device)
    with fixed_order() if deterministic else contextlib.nullcontext():
        return torch.ops.aten._flash_attention_backward(
            dy, q, k, v, y, lse, cu_seqlens, cu_seqlens, longest, longest, 0.0, False, no_dropout_state, q.new_empty(0),
            scale=scale, window_size_left=window, window_size_right=0,
        )  # fmt: skip


@contextlib.contextmanager
def fixed_order() -> Iterator[None]:
    """torch's global switch, which this kernel reads, for one call: elsewhere it would change other operators.

    Not torch.use_deterministic_algorithms, which also sets the compiler's configuration.
    """
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    fill = torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    torch._C._set_deterministic_algorithms(True, warn_only=False)  # where it only warns, the kernel stays as it is
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    try:
        yield
    finally:
        torch._C._set_deterministic_algorithms(before[0], warn_only=before[1])
        torch.utils.deterministic.fill_uninitialized_memory = fill  # type: ignore[attr-defined]


def flash3_forward(
    q: Tensor, k: Tensor, v: Tensor, cu_seqlens: Tensor, longest: int, window: int, scale: float
) -> tuple[Tensor, Tensor]:
    y, lse, *_ = flash3().fwd(q, k, v, num_splits=1, **flash3_options(cu_seqlens, longest, window, scale))
    return y, lse


def flash3_backward(
    dy: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    y: Tensor,
    lse: Tensor,
    cu_seqlens: Tensor,
    longest: int,
    window: int,
    scale: float,
    deterministic: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    dq, dk, dv = (x.new_empty(x.shape) for x in (q, k, v))
    options = flash3_options(cu_seqlens, longest, window, scale)
    flash3().bwd(dy, q, k, v, y, lse, dq, dk, dv, deterministic=deterministic, **options)
    return dq, dk, dv


def flash3_options(cu_seqlens: Tensor, longest: int, window: int, scale: float) -> dict[str, Any]:
    return {
        "cu_seqlens_q": cu_seqlens,
        "cu_seqlens_k": cu_seqlens,
        "max_seqlen_q": longest,
        "max_seqlen_k": longest,
        "softmax_scale": scale,
        "is_causal": False,  # said by the window; where that covers every document, the library finds out itself
        "window_size_left": window,
        "window_size_right": 0,
    }


@dataclass(frozen=True, kw_only=True)
class Library:
    """FlashAttention-3 as this process has loaded it."""

    operators: Any
    """Its own: `fwd`, `bwd`."""
    source: str
    """The hub's repository and commit as `owner/name@commit`, or the folder that it was loaded from."""
    sha256: str
    """Of the built library, in hex."""


def flash3() -> Any:
    """FlashAttention-3's own operators, `fwd` and `bwd`."""
    return library().operators


def loaded_library() -> dict[str, str] | None:
    """Source and SHA-256 of the FlashAttention-3 that this process computes with; None if it has loaded none."""
    if not library.cache_info().currsize:
        return None
    return {"source": library().source, "sha256": library().sha256}


@functools.cache
def library() -> Library:
    """FlashAttention-3, loaded once per process. Raises ValueError, which says what to do, if it cannot be loaded."""
    folder = os.environ.get(FOLDER_VARIABLE)
    try:
        source, files = load_from_folder(Path(folder)) if folder else load_from_hub()
        return Library(operators=loaded_operators(), source=source, sha256=sha256_of(files))
    # Anything may come from a linker, a package of many versions or a network; the ways on are always these.
    except Exception as error:
        place = f"folder {folder!r} ({FOLDER_VARIABLE})" if folder else f"hub repository {HUB_REPOSITORY!r}"
        reason = f"{error} ({error.__cause__})" if error.__cause__ else str(error)
        raise ValueError(
            f"FlashAttention-3 cannot be loaded from {place}: {reason}. Either set {FOLDER_VARIABLE} to a folder that "
            f"holds the built library, or, with a network, unset it, `pip install kernels` and set {REVISION_VARIABLE} "
            "to a commit of that repository, or ask for attention backend 'varlen', torch's own. Without a network "
            "HF_HUB_OFFLINE=1 spares the hub's retries."
        ) from error


def load_from_folder(folder: Path) -> tuple[str, list[Path]]:
    """Loads the one library below it, and before that a CUDA runtime that lies there too: torch may bring another.

    Returns the folder and the library's file.
    """
    libraries = sorted(folder.rglob("*.so"))
    if len(libraries) != 1:
        found = ", ".join(str(path.relative_to(folder)) for path in libraries) or "no *.so"
        raise FileNotFoundError(f"one built library is needed there, found {found}")
    for runtime in sorted(folder.rglob("libcudart.so.*")):
        ctypes.CDLL(str(runtime), mode=ctypes.RTLD_GLOBAL)
    torch.ops.load_library(str(libraries[0]))
    return str(folder.absolute()), libraries


def load_from_hub() -> tuple[str, list[Path]]:
    """Loads the build for this machine of the revision that the environment names.

    Returns the repository with the commit that was loaded, and the library's files. Raises ValueError if no revision is
    named, if it may move and that is not allowed, or if another commit came than the one that is named.
    """
    revision = hub_revision()
    from kernels import get_kernel  # an optional package

    # From 0.14 on a publisher who is a person must be trusted: a commit that the user names is.
    trust = {"trust_remote_code": True} if "trust_remote_code" in inspect.signature(get_kernel).parameters else {}
    demand_least_rate()
    folder = Path(str(get_kernel(HUB_REPOSITORY, revision=revision, **trust).__file__)).parent
    commit = hub_commit(folder)
    if COMMIT.fullmatch(revision) and commit not in (revision, None):
        raise ValueError(f"commit {revision} was asked for and {commit} came")
    return f"{HUB_REPOSITORY}@{commit}" if commit else str(folder), sorted(folder.rglob("*.so"))


def hub_revision() -> str:
    """The revision that the environment names. Raises ValueError if there is none, or if it may move and that is not
    allowed."""
    revision = os.environ.get(REVISION_VARIABLE, "")
    if not revision:
        raise ValueError(f"{REVISION_VARIABLE} does not name a commit")
    if not COMMIT.fullmatch(revision) and os.environ.get(MOVING_VARIABLE) != "1":
        raise ValueError(
            f"{REVISION_VARIABLE}={revision} is not a commit (40 hex digits), so other code may come under that name "
            f"tomorrow: name the commit, or allow it with {MOVING_VARIABLE}=1"
        )
    return revision


def hub_commit(folder: Path) -> str | None:
    """The commit of a folder in the hub's cache, where it is below snapshots/; None if LOCAL_KERNELS named another."""
    commit = folder.as_posix().rpartition("/snapshots/")[2].partition("/")[0]
    return commit if COMMIT.fullmatch(commit) else None


def sha256_of(files: Sequence[Path]) -> str:
    """Of one file, or of several one after another."""
    digest = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            while piece := file.read(1 << 24):
                digest.update(piece)
    return digest.hexdigest()


def loaded_operators() -> Any:
    """Known by three of its operators: its name is `flash_attn_3` as the authors build it, with a hash from the hub."""
    names = set(torch._C._dispatch_get_all_op_names())
    for library in sorted(name.removesuffix("::fwd_combine") for name in names if name.endswith("::fwd_combine")):
        if {f"{library}::fwd", f"{library}::bwd"} <= names:
            return getattr(torch.ops, library)
    raise LookupError("what was loaded registers no FlashAttention-3 operators")


def unpack(files: Sequence[str | Path], folder: str | Path) -> None:
    """Make a folder for FLASH_ATTENTION_3 of a built library and, where torch's CUDA differs, its libcudart.so.*.

    Files may be packed with xz: unpack(["_C.so.xz", "libcudart.so.12.xz"], "/data/flash-attention-3").
    """
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    for file in map(Path, files):
        packed = file.suffix == ".xz"
        path = target / (file.stem if packed else file.name)
        part = path.with_name(f"{path.name}.part{os.getpid()}")
        with lzma.open(file) if packed else file.open("rb") as source, part.open("wb") as sink:
            shutil.copyfileobj(source, sink, 1 << 24)
        part.replace(path)
