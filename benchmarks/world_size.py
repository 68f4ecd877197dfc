"""N GPUs or gloo ranks + shards -> one model trained by one of them and by all: step times, messages, memory, losses.

torchrun --standalone --nproc_per_node=8 benchmarks/world_size.py --data DIR [--track small]
torchrun --standalone --nproc_per_node=2 benchmarks/world_size.py --track tiny --steps 8 --rounds 2 --block 4

First rank 0 alone, while the others wait on the host, then all. With `small` and cold compile caches about 5 minutes:
two builds alone (60 and 100 s), one of all ranks (100 s), blocks alone 40 s, of all 15 s. With one rank the comparison
falls away and the first half remains.

Blocks of updates start from the same weights at the first step of each batch size, in three ways in turn:

all         as trained
no messages each rank takes its own rows in the place of everybody's, copied on the device: the same kernels without
            communication. The slowest rank counts.
alone       the messages of an even and an odd update one after another, with no work beside them

`cost` = all - no messages is what messages add to an update, `share` what part of it that is. Below `alone`, the rest
hides behind the optimizers' work; waits for each other at every message, which `alone` has not, can bring it above.

Losses. An update consumes the same tokens whatever the world size, until a shard ends (ranks take consecutive documents
in the order of slots, speedrun/data/sampler.py), so world sizes differ by rounding alone. How much is measured: one
rank is run once more with the slots of an update in passes of their own. BOUND: at each of the first updates the losses
of one and N ranks differ by at most FACTOR times the largest difference between those two runs of one rank. Outside of
it the program ends with code 1.
"""

import argparse
import gc
import os
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
import torch.distributed as dist
from medium_track import RECORD_MS, peak_gib, stage_starts
from speedrun.data.tiny_corpus import default_data_root, ensure_tiny_corpus
from speedrun.execution import Execution
from speedrun.model.initial_weights import draw_weights
from speedrun.optim.collectives import Collective, Ranks
from speedrun.schedules import forward_state, step_settings
from speedrun.tracks import Track, track
from speedrun.training import Trainer
from training_speed import block_ms, synchronize

FACTOR = 4
ALONE_REPEATS = 10


class Mute(Ranks):
    """Messages that are not sent: everybody's rows are taken for copies of this rank's."""

    def mean_rows(self, whole: torch.Tensor) -> Collective[torch.Tensor]:
        rows = torch.empty_like(self.rows(whole)).copy_(self.rows(whole))
        return Collective(list, lambda: rows)

    def mean(self, tensors: list[torch.Tensor]) -> Collective[list[torch.Tensor]]:
        return Collective(list, lambda: tensors)

    def gather_rows(self, whole: torch.Tensor) -> Collective[torch.Tensor]:
        own = self.rows(whole)
        for part in whole.chunk(self.size):
            if part.data_ptr() != own.data_ptr():
                part.copy_(own)
        return Collective(list, lambda: whole)


class Listening(Ranks):
    """Sends, and remembers what was sent as (method, tensors)."""

    def __init__(self, process_group: dist.ProcessGroup | None):
        super().__init__(process_group)
        self.sent: list[tuple[str, torch.Tensor | list[torch.Tensor]]] = []

    def mean_rows(self, whole: torch.Tensor) -> Collective[torch.Tensor]:
        self.sent.append(("mean_rows", whole))
        return super().mean_rows(whole)

    def mean(self, tensors: list[torch.Tensor]) -> Collective[list[torch.Tensor]]:
        self.sent.append(("mean", tensors))
        return super().mean(tensors)

    def gather_rows(self, whole: torch.Tensor) -> Collective[torch.Tensor]:
        self.sent.append(("gather_rows", whole))
        return super().gather_rows(whole)


@dataclass
class Stage:
    """Milliseconds of an update from one batch size's first step on, a value a block; of the slowest rank."""

    all: list[float] = field(default_factory=list)
    mute: list[float] = field(default_factory=list)


@dataclass
class Measured:
    """What a trainer of some ranks showed, the same on each of them."""

    build_s: float
    losses: list[float]
    stages: dict[int, Stage]
    """By first step."""
    peak_gib: float
    alone_ms: float = 0.0
    sent_mb: float = 0.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(), help="folder that holds data/; tiny makes its own")
    parser.add_argument("--track", default="small", help="a name, or module:name")
    parser.add_argument("--steps", type=int, default=24, help="updates whose losses are compared")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--block", type=int, default=8, help="updates in a block; even: Adam runs in every second")
    arguments = parser.parse_args()
    recipe, root = track(arguments.track), arguments.data
    if recipe.data.made_on_first_use:
        root = default_data_root()
        ensure_tiny_corpus(root)
    device, process_group = join(recipe)
    rank, size = (dist.get_rank(), dist.get_world_size()) if process_group else (0, 1)
    there = next(step for step in stage_starts(recipe) if step)
    if arguments.steps > there:
        raise SystemExit(
            f"--steps {arguments.steps}: the first batch size of {recipe.name} has {there} updates, use these"
        )
    alone = together = None
    rounding: list[float] = []
    if rank == 0:
        rounding = losses_slot_by_slot(recipe, root, device, arguments.steps)
        clear()
        alone = measure(recipe, root, device, None, arguments)
        clear()
    if process_group:
        dist.all_reduce(torch.zeros(1))  # on the host: the others' GPUs stay idle
        together = measure(recipe, root, device, process_group, arguments)
    inside = True
    if rank == 0:
        report(recipe, size, alone, together)
        inside = report_losses(size, rounding, alone, together)
    if process_group:
        dist.destroy_process_group()
    sys.exit(0 if inside else 1)


def join(recipe: Track) -> tuple[torch.device, dist.ProcessGroup | None]:
    """This rank's device, and all ranks: gloo for what is on the host, nccl for what is on GPUs."""
    device = torch.device(f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if recipe.needs_gpu else "cpu")
    if recipe.needs_gpu:
        torch.cuda.set_device(device)
    else:
        torch.set_num_threads(1)
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return device, None
    dist.init_process_group("cpu:gloo,cuda:nccl" if recipe.needs_gpu else "gloo")
    return device, dist.group.WORLD


def losses_slot_by_slot(recipe: Track, root: Path, device: torch.device, steps: int) -> list[float]:
    """Losses of one rank whose passes are not joined, to see what rounding does."""
    sizes = recipe.schedule.batch_tokens
    schedule = replace(recipe.schedule, batch_tokens=sizes[:1] * len(sizes))  # one shape to compile
    trainer = Trainer(replace(recipe, schedule=schedule), root, device, None, Execution(micro_batch_tokens=16))
    losses = first_losses(trainer, steps)
    trainer.batches.close()
    return losses


def measure(
    recipe: Track,
    root: Path,
    device: torch.device,
    process_group: dist.ProcessGroup | None,
    arguments: argparse.Namespace,
) -> Measured:
    """All figures of one trainer. Collective over `process_group`."""
    began_s = time.perf_counter()
    trainer = Trainer(recipe, root, device, process_group)
    synchronize()
    build_s = time.perf_counter() - began_s
    found = Measured(build_s, first_losses(trainer, arguments.steps), {}, 0.0)
    firsts = stage_starts(recipe)
    weights = draw_weights(recipe.model, trainer.model.dtype, 0, device.type == "cuda")
    for _ in range(arguments.rounds):
        for first in firsts:
            stage = found.stages.setdefault(first, Stage())
            stage.all.append(slowest(fresh_block_ms(trainer, weights, first, arguments.block), process_group))
            if process_group:
                with ranks_of(trainer, Mute(process_group)):
                    stage.mute.append(slowest(fresh_block_ms(trainer, weights, first, arguments.block), process_group))
    found.peak_gib = slowest(peak_gib(), process_group)
    if process_group:
        found.alone_ms, found.sent_mb = messages_alone(trainer, process_group)
    trainer.batches.close()
    return found


def first_losses(trainer: Trainer, steps: int) -> list[float]:
    """Training losses of the first updates of seed 0."""
    losses: list[float] = []
    with closing(trainer.train(0, {steps, steps + 1})) as checkpoints:
        for checkpoint in checkpoints:  # on a GPU records come a checkpoint late
            losses += [record["train_loss"] for record in checkpoint.records]
            if len(losses) >= steps:
                break
    return losses[:steps]


def fresh_block_ms(trainer: Trainer, weights: dict[str, torch.Tensor], first: int, steps: int) -> float:
    """Milliseconds of an update, from new weights: muted updates leave none that could be trained on."""
    trainer.model.set_weights(weights)
    trainer.optimizer.reset()
    if trainer.process_group:
        dist.all_reduce(torch.zeros(1))
    return block_ms(trainer, trainer.track, first, steps)


def messages_alone(trainer: Trainer, process_group: dist.ProcessGroup) -> tuple[float, float]:
    """Milliseconds and megabytes of an update's messages, mean of an even and an odd one."""
    listening = Listening(process_group)
    trainer.batches.start(0)
    with ranks_of(trainer, listening):
        for step in (0, 1):
            trainer.update(step_settings(trainer.track.schedule, step), forward_state(trainer.track, step))
    sent_bytes = 0
    for _, what in listening.sent:
        sent_bytes += sum(tensor.nbytes for tensor in (what if isinstance(what, list) else [what]))
    ranks, times_ms = Ranks(process_group), []
    for _ in range(ALONE_REPEATS + 1):
        synchronize()
        dist.all_reduce(torch.zeros(1))
        began_s = time.perf_counter()
        for work in [getattr(ranks, method)(what).start() for method, what in listening.sent]:
            work.wait()
        synchronize()
        times_ms.append(1000 * (time.perf_counter() - began_s) / 2)
    return slowest(statistics.median(times_ms[1:]), process_group), sent_bytes / 2e6


@contextmanager
def ranks_of(trainer: Trainer, ranks: Ranks) -> Iterator[None]:
    """The optimizers speak through `ranks` meanwhile."""
    speakers = [trainer.optimizer.adam, *trainer.optimizer.normuon.stacks]
    before = [speaker.ranks for speaker in speakers]
    for speaker in speakers:
        speaker.ranks = ranks
    try:
        yield
    finally:
        for speaker, own in zip(speakers, before, strict=True):
            speaker.ranks = own


def slowest(value: float, process_group: dist.ProcessGroup | None) -> float:
    """The largest of all ranks' values."""
    values = torch.tensor([value], dtype=torch.float64)
    if process_group:
        dist.all_reduce(values, dist.ReduceOp.MAX, group=process_group)
    return values.item()


def clear() -> None:
    """The next trainer finds the device as the last one did."""
    torch._dynamo.reset()
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def report(recipe: Track, size: int, alone: Measured, together: Measured | None) -> None:
    hardware = f"{size} x {torch.cuda.get_device_name()}" if recipe.needs_gpu else f"{size} gloo ranks on CPUs"
    print(f"\n{hardware}, torch {torch.__version__}, track {recipe.name}; ms an update, medians of blocks")
    columns = ("tokens", "1 rank", f"{size} ranks", "speed-up", "of it", "record", "no messages", "cost", "share %")
    print("".join(f"{column:>13}" for column in columns))
    for first, stage in alone.stages.items():
        one_ms = statistics.median(stage.all)
        row = [f"{step_settings(recipe.schedule, first).batch_tokens}", f"{one_ms:.2f}"]
        if together:
            all_ms = statistics.median(together.stages[first].all)
            mute_ms = statistics.median(together.stages[first].mute)
            record = RECORD_MS.get(recipe.name, {}).get(first) if size == 8 else None
            row += [f"{all_ms:.2f}", f"{one_ms / all_ms:.2f}", f"{one_ms / all_ms / size:.3f}"]
            row += [str(record or ""), f"{mute_ms:.2f}", f"{all_ms - mute_ms:.2f}"]
            row += [f"{100 * (1 - mute_ms / all_ms):.1f}"]
        print("".join(f"{cell:>13}" for cell in row))
    for name, found in (("1 rank", alone), (f"{size} ranks", together)):
        if found:
            print(f"{name}: built in {found.build_s:.1f} s, peak {found.peak_gib:.1f} GiB a GPU")
    if together:
        print(f"messages alone: {together.alone_ms:.2f} ms and {together.sent_mb:.1f} MB of tensors an update")


def report_losses(size: int, rounding: list[float], alone: Measured, together: Measured | None) -> bool:
    """Prints the losses side by side; whether they are within the bound."""
    print(f"\n{'update':>6}{'1 rank':>12}{'slots apart':>13}" + (f"{f'{size} ranks':>12}" if together else ""))
    for update, loss in enumerate(alone.losses):
        if (update + 1) & update == 0 or update + 1 == len(alone.losses):  # 1, 2, 4, ..., the last
            row = f"{update + 1:6}{loss:12.6f}{rounding[update] - loss:+13.2e}"
            print(row + (f"{together.losses[update] - loss:+12.2e}" if together else ""))
    apart = [abs(a - b) for a, b in zip(rounding, alone.losses, strict=True)]
    print(f"rounding moves the losses of one rank by up to {max(apart):.2e} in {len(apart)} updates")
    if not together:
        return True
    differences = [abs(a - b) for a, b in zip(together.losses, alone.losses, strict=True)]
    inside = max(differences) <= FACTOR * max(apart)
    verdict = "within" if inside else "OUTSIDE"
    print(f"{size} ranks and 1 differ by up to {max(differences):.2e}: {verdict} {FACTOR} times that")
    return inside


if __name__ == "__main__":
    main()
