"""a folder of checkpoints -> checkpoints per second of a series, beside the plain loop of `from_pretrained` and score.

python benchmarks/series.py [--sizes 1m,5m,20m] [--checkpoints 8] [--documents 12] [--dtype float32] [--device cpu]

Needs transformers. The files are random GPT-NeoX models with Pythia's vocabulary, written below TMPDIR and so warm in
memory for both ways; documents are random ids, 60 to 900 tokens long. Both ways read the same files with the same
dtype, device and tokens per batch, in turn, and must agree in float32. The plain loop loads straight to the device,
scores, and goes to the next. On a GPU: --sizes 70m,160m,410m --device cuda.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from discreteness.experiment.documents import Document
from discreteness.scoring.logits import batches_of
from discreteness.series.ahead import scored
from discreteness.series.folder import checkpoints_in
from discreteness.series.loading import quiet_transformers
from discreteness.series.pair import SeriesScorer, SeriesSource
from discreteness.series.step_names import StepPattern

SIZES = {
    "1m": (16, 2),
    "5m": (64, 4),
    "20m": (192, 6),
    "70m": (512, 6),
    "160m": (768, 12),
    "410m": (1024, 24),
    "1b": (2048, 16),
}
"""Name -> width and layers; most weights of the small ones are in the two tables of 50,304 rows."""
VOCABULARY = 50_304
BATCH_TOKENS = 4096


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="1m,5m,20m")
    parser.add_argument("--checkpoints", type=int, default=8)
    parser.add_argument("--documents", type=int, default=12)
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16", "float16"))
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    documents = made_documents(arguments.documents)
    tokens = sum(len(document.token_ids) for document in documents)
    if arguments.device == "cpu":
        torch.set_num_threads(1)  # as a series does it there
    print(f"{len(documents)} documents of {tokens} tokens, {arguments.dtype} on {arguments.device}")
    for size in arguments.sizes.split(","):
        with tempfile.TemporaryDirectory() as folder:
            num_bytes = write_checkpoints(Path(folder), SIZES[size], arguments.checkpoints, arguments.dtype)
            compare(size, Path(folder), num_bytes, documents, arguments)


def made_documents(count: int) -> tuple[Document, ...]:
    """Random ids, lengths evenly from 60 to 900."""
    chance = np.random.default_rng(0)
    lengths = np.linspace(60, 900, count).astype(int)
    return tuple(
        Document(
            doc_id=number,
            name=f"{number}.txt",
            category="random",
            text="",
            token_ids=tuple(chance.integers(0, 50_000, length).tolist()),
            answers=frozenset(),
        )
        for number, length in enumerate(lengths)
    )


def write_checkpoints(folder: Path, shape: tuple[int, int], count: int, dtype: str) -> int:
    """Writes model/step0, step1, ...; returns the bytes of the weights of one."""
    transformers = quiet_transformers()
    width, layers = shape
    config = transformers.GPTNeoXConfig(
        vocab_size=VOCABULARY,
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=layers,
        num_attention_heads=max(1, width // 64) if width >= 64 else 2,
        max_position_embeddings=2048,
    )
    torch.manual_seed(0)
    model = transformers.GPTNeoXForCausalLM(config).to(getattr(torch, dtype))
    for step in range(count):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.001 * torch.randn_like(parameter))
        model.save_pretrained(folder / "model" / f"step{step}", max_shard_size="100GB")
    return (folder / "model" / "step0" / "model.safetensors").stat().st_size


def compare(size: str, folder: Path, num_bytes: int, documents: tuple[Document, ...], arguments) -> None:
    ways = {"plain loop": plain, "series": series}
    rates: dict[str, list[float]] = {name: [] for name in ways}
    cpu_s: dict[str, list[float]] = {name: [] for name in ways}
    found: dict[str, np.ndarray] = {}
    for number in range(arguments.rounds):
        for name in sorted(ways, reverse=number % 2 == 1):  # whoever comes second finds the machine warmer
            began_s, began_cpu_s = time.perf_counter(), time.process_time()
            found[name] = ways[name](folder / "model", documents, arguments)
            rates[name].append(arguments.checkpoints / (time.perf_counter() - began_s))
            cpu_s[name].append((time.process_time() - began_cpu_s) / arguments.checkpoints)
    gap = np.abs(found["plain loop"] - found["series"]).max()
    if arguments.dtype == "float32":
        assert gap < 1e-4, gap  # of losses near 11, over 50,304 numbers that are summed in another order
    alone = read_alone(folder / "model")
    both = {name: statistics.median(values) for name, values in rates.items()}
    both_cpu = {name: statistics.median(values) for name, values in cpu_s.items()}
    ratios = [ours / theirs for ours, theirs in zip(rates["series"], rates["plain loop"], strict=True)]
    print(
        f"{size}: {num_bytes / 1e6:.1f} MB per checkpoint; plain loop {both['plain loop']:.2f} per second, series "
        f"{both['series']:.2f}: {statistics.median(ratios):.2f} times ({min(ratios):.2f} to {max(ratios):.2f}); series "
        f"reads {both['series'] * num_bytes / 1e6:.0f} MB/s, files alone {alone / 1e6:.0f} MB/s; "
        f"of this process's own time {both_cpu['plain loop']:.2f} and {both_cpu['series']:.2f} s per checkpoint; "
        f"losses differ by {gap:.1e} at most",
        flush=True,
    )


def plain(folder: Path, documents: tuple[Document, ...], arguments) -> np.ndarray:
    """What everybody writes: load, score, next."""
    transformers = quiet_transformers()
    device = torch.device(arguments.device)
    straight = {"device_map": {"": device}} if device.type == "cuda" else {}  # which needs accelerate
    batches = batches_of(documents, BATCH_TOKENS)
    found = []
    for step in range(arguments.checkpoints):
        model = transformers.AutoModelForCausalLM.from_pretrained(
            folder / f"step{step}", dtype=getattr(torch, arguments.dtype), **straight
        ).eval()
        losses = torch.empty(sum(len(document.token_ids) - 1 for document in documents))
        with torch.no_grad():
            for batch in batches:
                ids, mask = batch.ids.to(device), batch.mask.to(device)
                logits = model(ids, attention_mask=mask).logits
                flat = logits[:, :-1].reshape(-1, logits.shape[-1]).float()
                each = cross_entropy(flat, ids[:, 1:].reshape(-1), reduction="none").cpu()
                losses[batch.places] = each.view(len(ids), -1)[batch.rows, batch.columns]
        found.append(losses.numpy())
    return np.stack(found)


def series(folder: Path, documents: tuple[Document, ...], arguments) -> np.ndarray:
    source = SeriesSource([tuple(checkpoints_in(str(folder), None, StepPattern(None)))])
    scorer = SeriesScorer(documents, score_tokens=BATCH_TOKENS, dtype=arguments.dtype, device=arguments.device)
    try:
        return np.stack(
            [losses for _, losses in scored(source, scorer, 0, "a", frozenset(range(arguments.checkpoints)))]
        )
    finally:
        scorer.close()


def read_alone(folder: Path) -> float:
    """Bytes per second of the same files, read and not used."""
    began_s, count = time.perf_counter(), 0
    for path in sorted(folder.glob("*/model.safetensors")):
        count += len(path.read_bytes())
    return count / (time.perf_counter() - began_s)


if __name__ == "__main__":
    main()
