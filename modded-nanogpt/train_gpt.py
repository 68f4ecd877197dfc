"""shards -> a trained model, its log and its losses: the speedrun as a program, without Ray.

./run.sh --seed 0                                                             the small track on eight GPUs
torchrun --standalone --nproc_per_node=2 train_gpt.py --track tiny --seed 0    on a CPU
"""

import argparse
import os
import shutil
import subprocess
import sys
import time
import uuid
from datetime import timedelta
from pathlib import Path
from typing import get_args

import torch
import torch.distributed as dist
from speedrun.data.shards import find_shards
from speedrun.data.supply import measure
from speedrun.data.tiny_corpus import default_data_root, ensure_tiny_corpus
from speedrun.execution import Execution, one_thread_on_a_cpu
from speedrun.kernels.flash_attention import loaded_library
from speedrun.tracks import Track, track
from speedrun.training import SeedFailed, Trainer
from speedrun.vary import Vary, shuffles

LOG_EVERY = 10  # steps between two lines' worth of values fetched from the device
ATTENTION = """see speedrun/model/attention.py; flash3 is a program of others, from the folder in FLASH_ATTENTION_3, or
from the hub at the commit in FLASH_ATTENTION_3_REVISION"""

VARY = """what the seed decides. init: the initial weights; documents come in the order of the files. data: the order of
the documents of all training shards; the weights are those of seed 0. both: both"""


def main(track_name: str = "small") -> int:
    parser = argparse.ArgumentParser(description="Train one seed of a speedrun track.")
    parser.add_argument("--track", default=track_name, help="tiny, small or medium; default: %(default)s")
    parser.add_argument("--seed", type=int, default=None, help="what it decides is --vary's; default: drawn at random")
    parser.add_argument("--vary", choices=get_args(Vary), default="init", help=VARY)
    parser.add_argument(
        "--data", default=None, help="folder that holds data/; default: DATA_PATH, or . (tiny: a cache)"
    )
    parser.add_argument("--epochs", type=int, default=1, help="passes over the shards, if one is not enough")
    parser.add_argument("--save-checkpoint", action="store_true", help="keep the last weights under logs/")
    backends = ("auto", "flash3", "varlen", "reference")
    parser.add_argument("--attention", choices=backends, default="auto", help=ATTENTION)
    parser.add_argument("--no-compile", action="store_true", help="run the graph as written: slow, starts at once")
    parser.add_argument("--any-order", action="store_true", help="up to 10 %% faster on a GPU, and no two runs alike")
    parser.add_argument("--micro-batch-tokens", type=int, default=65536, help="fewer take less memory")
    arguments = parser.parse_args()
    execution = Execution(
        attention=arguments.attention,
        fp8_head=not os.environ.get("DISABLE_FP8"),  # any text switches it off, as in the record
        compiled=not arguments.no_compile,
        deterministic=not arguments.any_order,
        micro_batch_tokens=arguments.micro_batch_tokens,
    )
    try:
        recipe = track(arguments.track)
        root = data_root(arguments.data, recipe)
        return train(arguments, recipe, root, execution)
    except (ValueError, SeedFailed) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


def train(arguments: argparse.Namespace, recipe: Track, root: Path, execution: Execution) -> int:
    """Trains one seed on every rank; rank 0 writes the log. 0 when it has finished."""
    seed, vary, epochs = arguments.seed, arguments.vary, arguments.epochs
    process_group, device = join(recipe)
    rank = dist.get_rank(process_group) if process_group else 0
    if recipe.data.made_on_first_use:
        ensure_tiny_corpus(root)
    run_id = str(uuid.uuid4()) if seed is None else f"seed{seed}_{uuid.uuid4()}"
    log = Log(run_id if rank == 0 else None)
    began_s = time.perf_counter()
    number = torch.tensor([torch.seed() % 2**31 if seed is None else seed], device=device)
    if process_group:
        dist.broadcast(number, 0, group=process_group)
    check_supply(recipe, root, dist.get_world_size() if process_group else 1, vary, int(number.item()), epochs)
    trainer = Trainer(recipe, root, device, process_group, execution, vary, epochs)
    log.write(f"{trainer.execution}")
    if library := loaded_library():
        log.write(f"FlashAttention-3 from {library['source']}, SHA-256 {library['sha256']}")
    log.write(f"built, compiled and warmed up in {time.perf_counter() - began_s:.1f} s")
    log.write(f"seed {number.item()}" + (" (drawn at random)" if seed is None else "") + f", varies {vary}")
    last = recipe.schedule.last_step
    began_s = time.perf_counter()
    for checkpoint in trainer.train(int(number.item()), {*range(0, last, LOG_EVERY), last}, validate=True):
        for record in sorted(checkpoint.records, key=lambda record: record["step"]):
            time_ms = 1000 * record["train_s"]
            average_ms = time_ms / max(record["step"], 1)
            loss = f"val_loss:{record['val_loss']:.4f} " if "val_loss" in record else ""
            log.write(f"step:{record['step']}/{last} {loss}train_time:{time_ms:.0f}ms step_avg:{average_ms:.2f}ms")
    log.write(f"whole run {time.perf_counter() - began_s:.1f} s")
    if device.type == "cuda":
        allocated, reserved = (
            m // 2**20 for m in (torch.cuda.max_memory_allocated(), torch.cuda.max_memory_reserved())
        )
        log.write(f"peak memory allocated: {allocated} MiB reserved: {reserved} MiB")
    if arguments.save_checkpoint and rank == 0:
        path = Path("logs", run_id, f"state_step{last:06d}.pt")
        path.parent.mkdir(parents=True)
        torch.save({"step": last, "model": trainer.model.state_dict_reference(trainer.world_size)}, path)
        log.write(f"weights kept in {path}")
    return 0


def check_supply(recipe: Track, root: Path, world_size: int, vary: Vary, seed: int, epochs: int) -> None:
    """ValueError if the shards run out before the last update."""
    paths = find_shards(root, recipe.data.train_glob)
    supply = measure(paths, recipe, world_size, shuffled=shuffles(vary), seeds=[seed], epochs=epochs)
    if shortage := supply.shortage(epochs):
        raise ValueError(shortage)


def join(recipe: Track) -> tuple[dist.ProcessGroup | None, torch.device]:
    """torchrun's process group, and this rank's device."""
    use_cuda = recipe.needs_gpu
    if use_cuda and not torch.cuda.is_available():
        raise ValueError(f"track {recipe.name} needs a GPU and none was found; --track tiny trains on a CPU")
    device = torch.device(f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if use_cuda else "cpu")
    one_thread_on_a_cpu(device)
    if use_cuda:
        torch.cuda.set_device(device)
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return None, device
    dist.init_process_group("nccl" if use_cuda else "gloo", timeout=timedelta(minutes=10))
    return dist.group.WORLD, device


def data_root(asked: str | None, recipe: Track) -> Path:
    """The folder that holds data/."""
    if asked:
        return Path(asked)
    return default_data_root() if recipe.data.made_on_first_use else Path(os.environ.get("DATA_PATH", "."))


class Log:
    """Rank 0's lines, on the terminal and in logs/<run id>.txt."""

    def __init__(self, run_id: str | None):
        self.path = None
        if run_id:
            Path("logs").mkdir(exist_ok=True)
            self.path = Path("logs", f"{run_id}.txt")
            world_size = os.environ.get("WORLD_SIZE", "1")
            self.path.write_text(Path(__file__).read_text() + "=" * 100 + "\n")
            self.write(f"Python {sys.version.split()[0]}, torch {torch.__version__}, world size {world_size}")
            if torch.cuda.is_available() and (program := shutil.which("nvidia-smi")):
                self.write(subprocess.run([program], capture_output=True, text=True).stdout + "=" * 100)

    def write(self, line: str) -> None:
        if self.path:
            print(line, flush=True)
            with self.path.open("a") as file:
                print(line, file=file)


if __name__ == "__main__":
    sys.exit(main())
