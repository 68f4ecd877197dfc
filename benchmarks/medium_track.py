"""one GPU + text -> medium beside small: compile time, losses, step times at every batch size, memory.

python benchmarks/medium_track.py [--data DIR | --text DIR] [--tracks small,medium] [--steps 200] [--limit-s 500]

For each track: build (compilation and the first launch of everything), the real schedule's first updates with their
losses, then blocks of updates from the first step of each batch size and of the widest window. Lines come as they are
measured, the table last. A step's time is the mean of the medians of even and odd ones, since Adam runs in odd ones
only. `record x 8` is eight times the record's on eight H100 (SPEEDRUN 13). The default shards are made of the Python
sources on this machine: their losses say that it trains, no more. What does not fit into the limit is left out.
"""

import argparse
import gc
import statistics
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from speedrun.data.shards import write_shard
from speedrun.data.tiny_corpus import default_data_root, ensure_tiny_corpus
from speedrun.data.tokenizer import BOS, encode
from speedrun.schedules import forward_state, step_settings
from speedrun.tracks import Track, track
from speedrun.training import Trainer
from training_speed import step_flops, synchronize

from discreteness.cluster.hardware import peak_flop_s

H100_FLOP_S = peak_flop_s({"H100"})
RECORD_MS = {
    "small": {0: 33.4, 600: 61.1, 1200: 87.5},
    "medium": {0: 72.2, 392: 129.2, 784: 189.1, 1175: 246.6, 3134: 250.2},
}
SHARD_TOKENS = 12_000_000
LOG_EVERY = 20


@dataclass
class Row:
    """Times of the updates from step `first` on."""

    track: Track
    first: int
    even_ms: float
    odd_ms: float
    peak_gib: float

    def __str__(self) -> str:
        settings, state = step_settings(self.track.schedule, self.first), forward_state(self.track, self.first)
        ms = (self.even_ms + self.odd_ms) / 2
        record = RECORD_MS.get(self.track.name, {}).get(self.first)
        share = f"{8 * record:10.0f} {ms / (8 * record):6.3f}" if record else " " * 17
        return (
            f"{self.track.name:12} {self.first:5} {settings.batch_tokens:8} "
            f"{state.short_window:5}/{state.long_window:<5}"
            f"{ms:9.1f} {self.even_ms:9.1f} {self.odd_ms:9.1f} {share} {settings.batch_tokens / ms:9.0f}"
            f" {100 * step_flops(self.track, self.first) / (ms / 1000) / H100_FLOP_S:6.1f} {self.peak_gib:9.1f}"
        )


HEADER = (
    f"{'track':12} {'step':>5} {'tokens':>8} {'window':>11}{'ms':>9} {'even':>9} {'odd':>9} "
    f"{'record x 8':>10} {'ratio':>6} {'tokens/ms':>9} {'FLOP %':>6} {'peak GiB':>9}"
)


def main() -> None:
    began_s = time.monotonic()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder that holds data/; default: shards made of --text")
    parser.add_argument("--text", type=Path, default=Path(sysconfig.get_path("stdlib")), help="folder with texts")
    parser.add_argument("--tracks", default="small,medium", help="names, or module:name")
    parser.add_argument("--steps", type=int, default=200, help="updates of the real schedule")
    parser.add_argument("--block", type=int, default=8, help="updates at each later stage; even")
    parser.add_argument("--limit-s", type=float, default=500)
    arguments = parser.parse_args()
    deadline_s = began_s + arguments.limit_s
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        for name in arguments.tracks.split(","):
            recipe = track(name)
            if recipe.data.made_on_first_use:
                root = default_data_root()
                ensure_tiny_corpus(root)
            else:
                recipe = replace(recipe, data=replace(recipe.data, val_tokens=1048576, val_chunk_tokens=131072))
                root = arguments.data or shards_of(arguments.text, Path(folder), recipe, arguments.steps)
            rows += measured(recipe, root, arguments.steps, arguments.block, deadline_s)
            torch._dynamo.reset()
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
                torch.cuda.reset_peak_memory_stats()
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    print(f"\n{device}, torch {torch.__version__}, {time.monotonic() - began_s:.0f} s in all\n{HEADER}")
    print(*rows, sep="\n", flush=True)


def measured(recipe: Track, root: Path, steps: int, block: int, deadline_s: float) -> Iterator[Row]:
    """Rows as they are measured."""
    device = "cuda" if recipe.needs_gpu else "cpu"
    began_s, found_gib = time.monotonic(), peak_gib()
    trainer = Trainer(recipe, root, device)
    synchronize()
    built_s, parameters = time.monotonic() - began_s, sum(p.numel() for p in trainer.model.parameters())
    say(f"--- {recipe.name}: {parameters} parameters, built in {built_s:.1f} s; found {found_gib:.1f} GiB in use")
    say(f"{trainer.execution}")
    times: list[float] = []
    for checkpoint in trainer.train(0, range(recipe.schedule.last_step + 1)[: steps + 1 : LOG_EVERY]):
        times += [record["step_ms"] for record in checkpoint.records]
        if checkpoint.records:
            last = checkpoint.records[-1]
            median_ms = statistics.median(times[-LOG_EVERY:])
            say(f"{recipe.name} step {last['step']}: loss {last['train_loss']:.4f}, {median_ms:.1f} ms a step")
        if checkpoint.step + LOG_EVERY > steps or time.monotonic() > deadline_s - 100:
            break
    say(f"{recipe.name}: peak so far {peak_gib():.1f} GiB\n{HEADER}")
    for first in stage_starts(recipe):
        if time.monotonic() > deadline_s - 10:
            say(f"{recipe.name}: no time left for the stage of step {first}")
            return
        row = timed(trainer, recipe, first, block)
        say(f"{row}")
        yield row
    trainer.batches.close()


def stage_starts(recipe: Track) -> list[int]:
    """First steps of each batch size, and of the widest window."""
    kinds: dict[object, int] = {}
    widest = forward_state(recipe, recipe.schedule.scheduled_steps - 1).long_window
    for step in range(recipe.schedule.scheduled_steps):
        kinds.setdefault(step_settings(recipe.schedule, step).batch_tokens, step)
        if forward_state(recipe, step).long_window == widest:
            kinds.setdefault("widest", step)
    return sorted(set(kinds.values()))


def timed(trainer: Trainer, recipe: Track, first: int, block: int) -> Row:
    """Each of `block` updates from step `first` on, from idle to idle, after two that do not count."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    trainer.batches.start(first)
    times: dict[int, list[float]] = {0: [], 1: []}
    for step in range(first, first + 2 + block):
        began_s = time.perf_counter()
        trainer.update(step_settings(recipe.schedule, step), forward_state(recipe, step))
        synchronize()
        if step >= first + 2:
            times[step % 2].append(1000 * (time.perf_counter() - began_s))
    return Row(recipe, first, statistics.median(times[0]), statistics.median(times[1]), peak_gib())


def shards_of(text: Path, folder: Path, recipe: Track, steps: int) -> Path:
    """The texts under a folder as one shard, linked as often as the updates need; made once."""
    shard = folder / "shard.bin"
    if not shard.exists():
        began_s, parts, num_tokens = time.monotonic(), [], 0
        paths = (path for path in sorted(text.rglob("*")) if path.suffix in (".py", ".txt", ".md", ".rst"))
        for path in paths:
            parts.append(np.array([BOS, *encode(path.read_text(errors="replace"))], np.uint16))
            num_tokens += len(parts[-1])
            if num_tokens >= SHARD_TOKENS:
                break
        order = np.random.default_rng(0).permutation(len(parts))
        write_shard(shard, np.concatenate([parts[i] for i in order]))
        say(f"{len(parts)} texts of {text}: {num_tokens} tokens in {time.monotonic() - began_s:.1f} s")
    tokens = (shard.stat().st_size - 1024) // 2
    needed = steps * step_settings(recipe.schedule, 0).batch_tokens + 16 * max(recipe.schedule.batch_tokens)
    for glob in (recipe.data.train_glob, recipe.data.val_glob):
        for number in range(2 + needed // (tokens // 2)):  # half: a batch of many slots leaves the end of a shard
            link = folder / glob.replace("*", f"{number:06d}")
            link.parent.mkdir(parents=True, exist_ok=True)
            if not link.exists():
                link.symlink_to(shard)
    return folder


def peak_gib() -> float:
    return torch.cuda.max_memory_allocated() / 2**30 if torch.cuda.is_available() else 0.0


def say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    main()
