"""this machine -> what a recorder costs a training loop, beside scoring alone: model and cross_entropy, nothing else.

python -m benchmarks.recorder --width 256 --steps 20

Both score the built-in documents in the same batches with a GPT-2 of random weights, in turn. The recorder also checks,
keeps modes and random state, and writes a file per step and the page's rows. Processor time of one thread counts, as
other work on the machine hardly changes it; wall time, with the disk in it, is printed too.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch
from torch.nn.functional import cross_entropy
from transformers import GPT2Config, GPT2LMHeadModel

from discreteness import Recorder
from discreteness.scoring.logits import LogitsBatch, batches_of

MAX_TOKENS = 2048


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--steps", type=int, default=20)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(n_embd=asked.width, n_layer=asked.layers, n_head=asked.width // 32))
    with tempfile.TemporaryDirectory() as folder:
        recorder = Recorder(
            Path(folder) / "set",
            tokenizer="gpt2",
            checkpoints="every:1",
            last_step=asked.steps,
            max_tokens_per_batch=MAX_TOKENS,
        )
        batches = batches_of(recorder.documents, MAX_TOKENS)
        plain(model, batches)  # what is done once
        times = []
        for step in recorder.plan:
            alone = timed(lambda: plain(model, batches))
            times.append((alone, timed(lambda step=step: recorder.record(step, model))))
        recorder.commit()
    print(
        f"width {asked.width}, {asked.layers} layers, {sum(p.numel() for p in model.parameters()):,} parameters, ",
        end="",
    )
    print(f"{sum(len(batch.targets) for batch in batches)} losses in {len(batches)} batches, {len(times)} steps")
    for place, what in enumerate(("processor", "wall")):
        alone, recorded = ([one[which][place] for one in times] for which in (0, 1))
        ratio = sum(recorded) / sum(alone)
        middle = median(b / a for a, b in zip(alone, recorded, strict=True))
        print(f"{what} time: alone {median(alone):.3f} s, recorded {median(recorded):.3f} s a step; ", end="")
        print(f"ratio of sums {ratio:.3f}, median of ratios {middle:.3f}")


def plain(model: torch.nn.Module, batches: list[LogitsBatch]) -> torch.Tensor:
    """Losses of a batch, padding left out, as one would write it."""
    model.eval()
    with torch.no_grad():
        found = []
        for batch in batches:
            logits = model(batch.ids, attention_mask=batch.mask, use_cache=False).logits
            targets = batch.ids[:, 1:].masked_fill(batch.mask[:, 1:] == 0, -100)
            found.append(cross_entropy(logits[:, :-1].flatten(0, 1).float(), targets.flatten(), reduction="none"))
    model.train()
    return torch.cat(found)


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """Seconds of the processor, and on the wall."""
    processor_s, wall_s = time.process_time(), time.perf_counter()
    work()
    return time.process_time() - processor_s, time.perf_counter() - wall_s


if __name__ == "__main__":
    main()
