"""one GPU + shards -> which losses repeat to the bit (twice, alone, reloaded, elsewhere); fp8 against float32.

python benchmarks/exactness.py --data DIR [--steps 24]
"""

import argparse
import hashlib
import subprocess
import sys
from dataclasses import replace

import numpy as np
import torch
from short_track import add_arguments, short_track
from speedrun.data.vocabulary import vocabulary_of
from speedrun.execution import Execution
from speedrun.model.gpt import GPT
from speedrun.tracks import Track
from speedrun.training import Trainer

from discreteness.checkpoint.header import CheckpointHeader
from discreteness.checkpoint.layout import CheckpointLayout
from discreteness.experiment import documents
from discreteness.experiment.documents import Document
from discreteness.scoring.comparison import first_difference
from discreteness.scoring.scorer import Scorer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--losses-only", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    track = one_batch_size(short_track(arguments, arguments.steps - 4, 4))
    if arguments.losses_only:
        print(digest(train_losses(track, arguments.data, Execution())[0]))
        return
    scoring(track, arguments.data)
    trainer = Trainer(track, arguments.data, "cuda")
    fresh, _ = train_losses(track, arguments.data, Execution(), trainer)
    again, _ = train_losses(track, arguments.data, Execution(), trainer)
    print(f"{'the same seed in one process, training losses':60} {compare(fresh, again)}")
    command = [sys.executable, *sys.argv, "--losses-only"]
    other = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1]
    print(f"{'the same seed in another process':60} {'bitwise' if other == digest(fresh) else 'differs'}")
    del trainer
    torch.cuda.empty_cache()
    precision(track, arguments.data, fresh)


def one_batch_size(track: Track) -> Track:
    """131,072 tokens a step throughout: the shape that a run begins with."""
    batches = (131072,) * len(track.schedule.batch_tokens)
    return replace(track, schedule=replace(track.schedule, batch_tokens=batches))


def scoring(track: Track, data: str) -> None:
    """A trained checkpoint: scored twice, loaded into a second model, documents alone and packed."""
    docs = documents.built_in()
    trainer = Trainer(track, data, "cuda")
    for checkpoint in trainer.train(0, {0, track.schedule.last_step}):
        state, step = checkpoint.state, checkpoint.step
    scorer = Scorer(trainer.model, docs, vocabulary_of(track))
    once, twice = scorer.score(state), scorer.score(state)
    print(f"{'one model, scored twice':60} {first_difference(once, twice, docs) or 'bitwise'}")
    other = GPT(track.model, torch.bfloat16, "cuda")
    layout = CheckpointLayout.from_model(trainer.model)
    data_bytes = layout.pack(trainer.model, state.tied)
    header = CheckpointHeader(
        seed=0, attempt="a" * 12, step=step, layout=layout.fingerprint, state=state, num_bytes=data_bytes.nbytes
    )
    layout.load(data_bytes, header, other)
    loaded = Scorer(other, docs, vocabulary_of(track)).score(state)
    print(f"{'a second model that loaded the checkpoint':60} {first_difference(once, loaded, docs) or 'bitwise'}")
    print(f"{'documents alone against packed, isolated':60} {alone(trainer.model, docs, track, once, state)}")


def alone(model: GPT, docs: list[Document], track: Track, packed: np.ndarray, state) -> str:
    losses = [Scorer(model, [document], vocabulary_of(track)).score(state) for document in docs]
    return compare(np.concatenate(losses), packed)


def train_losses(
    track: Track, data: str, execution: Execution, trainer: Trainer | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Training losses of every step of seed 0, and the mean document loss at the end."""
    trainer = trainer or Trainer(track, data, "cuda", execution=execution)
    scorer = Scorer(trainer.model, documents.built_in(), vocabulary_of(track))
    records = []
    for checkpoint in trainer.train(0, {0, track.schedule.last_step}):
        records += checkpoint.records
        final = scorer.score(checkpoint.state)
    return np.array([record["train_loss"] for record in records]), final


def precision(track: Track, data: str, fp8: np.ndarray) -> None:
    """Training losses of the same seed in bfloat16 with and without the 8-bit head, and in float32."""
    bf16, _ = train_losses(track, data, Execution(fp8_head=False))
    torch.cuda.empty_cache()
    single, _ = train_losses(replace(track, dtype="float32"), data, Execution(micro_batch_tokens=16))
    print(
        f"\ntraining loss of one seed, {len(fp8)} steps: mean of the last quarter, largest gap to float32 from step 5"
    )
    for name, losses in (("bf16, 8-bit head", fp8), ("bf16", bf16), ("float32", single)):
        gap = np.abs(losses - single)[5:].max()
        print(f"{name:20} {losses[-len(losses) // 4 :].mean():8.4f} {gap:8.4f}")


def compare(ours: np.ndarray, theirs: np.ndarray) -> str:
    if np.array_equal(ours, theirs):
        return "bitwise"
    return f"largest difference {np.abs(ours - theirs).max():.2e}, {np.mean(ours != theirs):.1%} of the values"


def digest(values: np.ndarray) -> str:
    return hashlib.sha256(values.tobytes()).hexdigest()


if __name__ == "__main__":
    main()
