"""one GPU + shards -> step times of the small track at its three batch sizes, with each speed-up switched off in turn.

python benchmarks/training_speed.py --data DIR [--variants default,bf16_head,...]

Every variant is built in this process; then blocks of updates are timed in turns (variant by variant, three rounds), so
that clocks and neighbours hit all alike. A step's time is wall time over a block that begins and ends with an idle
GPU. Before that, updates run with host waits made errors. FLOP utilisation is that of discreteness/cluster/flops.py,
against the peak of an H100 or H200.
"""

import argparse
import json
import statistics
import time
from pathlib import Path

import torch
from short_track import add_arguments, short_track
from speedrun.execution import Execution
from speedrun.schedules import forward_state, step_settings
from speedrun.tracks import Track
from speedrun.training import Trainer

from discreteness.cluster.flops import flop_per_token
from discreteness.cluster.hardware import peak_flop_s

H100_FLOP_S = peak_flop_s({"H100"})
REFERENCE_MS = {131072: 233, 262144: 455, 393216: 670}
"""The specification's original program on one H200: torch 2.11, world size 1, 8 accumulation steps."""
STAGE_STARTS = (0, 60, 120)  # of 180 scheduled steps
VARIANTS = {
    "default": Execution(),
    "any_order": Execution(deterministic=False),
    "flash3": Execution(attention="flash3"),
    "bf16_head": Execution(fp8_head=False),
    "no_symmetric": Execution(symmetric_kernels=False),
    "slot_by_slot": Execution(micro_batch_tokens=16),
    "eager": Execution(compiled=False),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    parser.add_argument("--variants", default=",".join(VARIANTS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--steps", type=int, default=10, help="updates in a block; even, since Adam runs in every second"
    )
    parser.add_argument("--json", type=Path, help="also write the figures there")
    arguments = parser.parse_args()
    track = short_track(arguments, 180, 20)
    firsts = dict(zip(REFERENCE_MS, STAGE_STARTS, strict=True))
    torch._dynamo.config.recompile_limit = 64  # many trainers in one process, a few graphs each
    trainers, figures = {}, {}
    for name in arguments.variants.split(","):
        torch.cuda.reset_peak_memory_stats()
        began_s = time.perf_counter()
        trainers[name] = Trainer(track, arguments.data, "cuda", execution=VARIANTS[name])
        torch.cuda.synchronize()
        figures[name] = {"build_s": time.perf_counter() - began_s, "ms": {tokens: [] for tokens in firsts}}
        print(f"{name}: built in {figures[name]['build_s']:.1f} s, {trainers[name].execution}", flush=True)
        for first in firsts.values():
            check_no_waits(trainers[name], track, first)
    for round_number in range(arguments.rounds):
        for tokens, first in firsts.items():
            for name, trainer in trainers.items():
                torch.cuda.reset_peak_memory_stats()
                before = torch.cuda.memory_allocated()
                ms = block_ms(trainer, track, first, arguments.steps)
                figures[name]["ms"][tokens].append(ms)
                # Beyond what the other trainers of this process hold.
                peak = torch.cuda.max_memory_allocated() - before
                figures[name]["peak_gb"] = max(figures[name].get("peak_gb", 0), peak / 2**30)
        print(f"round {round_number + 1} of {arguments.rounds} done", flush=True)
    report(figures, track)
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=1))


def block_ms(trainer: Trainer, track: Track, first: int, steps: int) -> float:
    """Mean milliseconds of an update over `steps` updates from step `first`, after two that do not count."""
    trainer.batches.start(first)
    began_s = 0.0
    for step in range(first, first + steps + 2):
        if step == first + 2:
            synchronize()
            began_s = time.perf_counter()
        trainer.update(step_settings(track.schedule, step), forward_state(track, step))
    synchronize()
    return 1000 * (time.perf_counter() - began_s) / steps


def synchronize() -> None:
    """Waits until the device is idle; on a CPU there is nothing to wait for."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def check_no_waits(trainer: Trainer, track: Track, first: int) -> None:
    """RuntimeError where an update makes the host wait for the GPU."""
    trainer.batches.start(first)
    for step in range(first, first + 4):
        torch.cuda.set_sync_debug_mode("error" if step > first else "default")
        trainer.update(step_settings(track.schedule, step), forward_state(track, step))
    torch.cuda.set_sync_debug_mode("default")


def step_flops(track: Track, step: int) -> float:
    """Model operations of one update."""
    state = forward_state(track, step)
    per_token = flop_per_token(track.model, state.short_window, state.long_window)
    return per_token * step_settings(track.schedule, step).batch_tokens


def report(figures: dict, track: Track) -> None:
    print(f"\n{torch.cuda.get_device_name()}, torch {torch.__version__}; medians of blocks, ms a step")
    print(f"{'variant':14}" + "".join(f"{tokens:>26}" for tokens in REFERENCE_MS) + f"{'peak GB above idle':>20}")
    print(f"{'reference':14}" + "".join(f"{ms:>26}" for ms in REFERENCE_MS.values()))
    for name, figure in figures.items():
        row = f"{name:14}"
        for (tokens, reference_ms), first in zip(REFERENCE_MS.items(), STAGE_STARTS, strict=True):
            ms = statistics.median(figure["ms"][tokens])
            utilisation = step_flops(track, first) / (ms / 1000) / H100_FLOP_S
            row += f"{ms:9.1f} {ms / reference_ms:5.3f}x {100 * utilisation:5.1f} %"
        print(row + f"{figure['peak_gb']:20.1f}")


if __name__ == "__main__":
    main()
