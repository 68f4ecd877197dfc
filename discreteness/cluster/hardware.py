"""What hardware is: kinds of GPUs and their generations, Ray's name of a GPU, and what each track takes of a worker.

- Every question of what a machine's GPU is, or can do, is answered here; what a kernel needs of one, in
  `speedrun.kernels.capability`.
- Neither Ray nor torch is imported: processes that only plan or count do without them.
"""

import re
from collections.abc import Collection
from dataclasses import dataclass, replace

from speedrun.kernels.capability import HOPPER_MAJOR
from speedrun.tracks import Track, small, tiny

from discreteness.cluster.flops import flop_per_token


@dataclass(frozen=True, kw_only=True)
class GpuKind:
    """One type of GPU."""

    ray_type: str
    """Ray's accelerator type, which `--gpu-type` takes."""
    capability: tuple[int, int]
    """CUDA's compute capability."""
    peak_flop_s: float
    """Dense bfloat16 operations per second of its SXM form, from NVIDIA's data sheets."""


GPU_KINDS = (
    GpuKind(ray_type="A100", capability=(8, 0), peak_flop_s=312e12),
    GpuKind(ray_type="H100", capability=(9, 0), peak_flop_s=989e12),
    GpuKind(ray_type="H200", capability=(9, 0), peak_flop_s=989e12),
    GpuKind(ray_type="GH200", capability=(9, 0), peak_flop_s=989e12),
    GpuKind(ray_type="B200", capability=(10, 0), peak_flop_s=2250e12),
)
GENERATIONS = {7: "before Ampere", 8: "Ampere or Ada", HOPPER_MAJOR: "Hopper", 10: "Blackwell", 12: "Blackwell"}
"""By the major number of the compute capability."""

MODEL_NAME = re.compile(r"\w+\s+((?:[A-Z]+\s+)*[A-Z0-9]*\d[A-Z0-9]*)")
"""A vendor's name, then words in capitals up to the first with a digit."""


def accelerator_type(gpu_name: str) -> str | None:
    """Ray's accelerator type of a GPU with that name: "H100" of "NVIDIA H100 80GB HBM3".

    The rule is that of Ray 2.60 (`ray._private.accelerators.nvidia_gpu`), which is not public. Consumer cards keep
    their whole name: "GeForce-RTX-4090".
    """
    match = MODEL_NAME.match(gpu_name)
    if match and len(match[1]) > 1:
        return match[1].replace(" ", "-")
    return re.sub(r"^NVIDIA\s+", "", gpu_name).strip().replace(" ", "-") or None


def generation(major: int) -> str:
    """Name of the GPU generation with that major number of the compute capability."""
    return GENERATIONS.get(major, "unknown generation")


def is_hopper(gpu_type: str | None) -> bool:
    """Whether Ray's accelerator type, or one that an operator has made longer ("H100-80G"), is a Hopper GPU."""
    hopper = tuple(kind.ray_type for kind in GPU_KINDS if kind.capability[0] == HOPPER_MAJOR)
    return gpu_type is not None and gpu_type.startswith(hopper)


def peak_flop_s(gpu_types: Collection[str | None]) -> float | None:
    """Of one GPU of these types; None if their peaks differ, if one is not known here, or if there are none."""
    known: dict[str | None, float] = {kind.ray_type: kind.peak_flop_s for kind in GPU_KINDS}
    peaks = {known.get(gpu_type) for gpu_type in gpu_types}
    return peaks.pop() if len(peaks) == 1 else None


@dataclass(frozen=True, kw_only=True)
class WorkerCost:
    """What a track takes of one worker, a GPU like an H100 or a core. For estimates only."""

    s_per_token: float
    """Seconds of one worker per token of the batch."""
    s_per_scored_token: float
    """Seconds of one GPU or core per token of a document or of validation."""
    s_per_checkpoint: float
    """Seconds that a checkpoint takes of its GPU or core before its first token is scored."""
    s_per_load: float
    """Least seconds from one checkpoint of an evaluator to its next, however little it scores."""
    gpu_bytes: float | None
    """Memory of a one-GPU trainer with its default micro-batches; None on CPUs."""


WORKER_COSTS = {
    # A core of a 2-core machine, docs/log.md of 2026-11-30. Training in `make run`, where six processes share two
    # cores; alone it takes half of that. Scoring: `python benchmarks/plan_costs.py`. What a checkpoint takes besides
    # its tokens was not measured: 4 MB, beside half a second of scoring.
    "tiny": WorkerCost(s_per_token=6e-4, s_per_scored_token=1e-4, s_per_checkpoint=0, s_per_load=0, gpu_bytes=None),
    # Training: an H100 in the last batch stage (SPEEDRUN 13). The others: docs/performance.md, an H200. 4,241 tokens
    # take 4.8 ms, and a checkpoint 7.5 ms of a shared GPU; an evaluator manages 49 per second. Bytes: 25 to 28 GiB.
    "small": WorkerCost(
        s_per_token=8 * 0.0875 / 393_216,
        s_per_scored_token=4.8e-3 / 4_241,
        s_per_checkpoint=2.7e-3,
        s_per_load=1 / 49,
        gpu_bytes=32e9,
    ),
    # Training and bytes (measured 51 GiB, 57 in the record) as above. Scoring was not measured: that of small, by
    # operations (2.2 times) and bytes (2.3 times).
    "medium": WorkerCost(
        s_per_token=8 * 0.25 / 524_288,
        s_per_scored_token=2.2 * 4.8e-3 / 4_241,
        s_per_checkpoint=2.3 * 2.7e-3,
        s_per_load=2.3 / 49,
        gpu_bytes=64e9,
    ),
}
MEASURED_GPUS = ("H100", "H200", "GH200")
"""Those for which the figures hold as they are: a seed took an H200 0.84 to 0.93 of an H100's time
(docs/performance.md), and a GH200 has the same chip."""


def worker_cost(track: Track, gpu_types: Collection[str | None] = ()) -> WorkerCost:
    """A track of your own counts as `small` or `tiny`, by its kind of hardware and its operations per token. GPUs that
    are known and were not measured count by their peak, others as an H100."""
    slower = 1.0
    if (peak := peak_flop_s(gpu_types)) and not all(gpu in MEASURED_GPUS for gpu in gpu_types):
        slower = next(kind.peak_flop_s for kind in GPU_KINDS if kind.ray_type in MEASURED_GPUS) / peak
    if cost := WORKER_COSTS.get(track.name):
        tokens_cost = slower
    else:
        like = small if track.needs_gpu else tiny
        cost = WORKER_COSTS[like.name]
        tokens_cost = slower * _flop_per_token(track) / _flop_per_token(like)
    return replace(
        cost,
        s_per_token=tokens_cost * cost.s_per_token,
        s_per_scored_token=tokens_cost * cost.s_per_scored_token,
        s_per_checkpoint=slower * cost.s_per_checkpoint,
    )


def _flop_per_token(track: Track) -> float:
    """With the windows of the schedule's end."""
    long_window = track.schedule.long_window_blocks[-1] * track.model.window_block
    return flop_per_token(track.model, track.model.window_block, long_window)
