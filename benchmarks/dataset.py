"""synthetic curves of N seeds -> sizes, writing and query times of the dataset, HDF5, and one .pt per seed.

python benchmarks/dataset.py --seeds 30 [--folder DIR] [--steps 1841]

The documents are the built-in ones; the curves fall, drop at one moment each, and are noisy. HDF5 is the layout of the
original trainers: one gzip-4 float16 dataset [seeds, steps] per token. "Cold": a new reader, and the files' pages
evicted from the system's cache (its metadata may stay); "warm": the same question again, the best time of some. What
takes minutes in HDF5 is asked once. Opening is not counted, of either: ours reads experiment.json, the seeds' footers
and parts.json, h5py the superblock; what is then read first of an index, ours or HDF5's, counts as cold. On a shared
machine only the ratios are worth quoting.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from speedrun.data.tokenizer import decode_bytes

from discreteness.dataset import reader
from discreteness.dataset.by_token.compaction import _names
from discreteness.dataset.by_token.token_file import KEYS, TOKENS, steps_of_a_page, token_file
from discreteness.dataset.export.files import export
from discreteness.dataset.seed_file import LOSSES, row_groups
from discreteness.dataset.seed_file import _losses_table as losses_table
from discreteness.dataset.writer import DatasetWriter
from discreteness.experiment.documents import built_in

COLD_TIMES, WARM_TIMES = 3, 15
DISK_BYTES, TIME_NS = 12, 500
"""Per loss: disk for all forms together, and time by a run of 300 seeds on a quiet machine; said before the start."""
SAMPLE_TOKENS = 60
"""Tokens of which the float32 HDF5 is written; its size is scaled from them."""


def curves(seed: int, num_steps: int, num_tokens: int) -> np.ndarray:
    """float32 (steps, tokens): log losses fall, drop at one moment each, waver slowly and are noisy."""
    shared, own = np.random.default_rng(0), np.random.default_rng(seed + 1)
    x = np.linspace(0, 1, num_steps, dtype=np.float32)[:, None]
    end = shared.normal(0.5, 1.2, num_tokens) + own.normal(0, 0.15, num_tokens)
    moment = shared.uniform(0.05, 0.9, num_tokens) + own.normal(0, 0.02, num_tokens)
    depth = shared.exponential(0.7, num_tokens)
    knots = own.normal(0, 0.1, (num_steps // 30 + 2, num_tokens)).astype(np.float32)
    place = np.arange(num_steps) / 30
    left, part = place.astype(int), (place % 1).astype(np.float32)[:, None]
    log = (end + depth).astype(np.float32) + (2.38 - end - depth).astype(np.float32) * np.exp(-12 * x)
    log -= depth.astype(np.float32) * (0.5 + 0.5 * np.tanh(75 * (x - moment.astype(np.float32))))
    log += knots[left] * (1 - part) + knots[left + 1] * part
    log += 0.05 * own.standard_normal((num_steps, num_tokens), dtype=np.float32)
    return np.exp(log, out=log)


@dataclass
class Cost:
    """Seconds by the clock, and of the processors, which other work on the machine changes less."""

    wall_s: float = 0.0
    cpu_s: float = 0.0


@contextmanager
def timed(costs: dict[str, Cost], what: str):
    wall_s, cpu_s = time.perf_counter(), time.process_time()
    yield
    cost = costs.setdefault(what, Cost())
    cost.wall_s += time.perf_counter() - wall_s
    cost.cpu_s += time.process_time() - cpu_s


def size(path: Path) -> int:
    return sum(file.stat().st_size for file in ([path] if path.is_file() else path.rglob("*")) if file.is_file())


def forget(*paths: Path) -> None:
    """Drops the files' pages from the system's cache."""
    for path in paths:
        for file in [path] if path.is_file() else path.rglob("*"):
            if file.is_file():
                descriptor = os.open(file, os.O_RDONLY)
                os.fsync(descriptor)
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
                os.close(descriptor)


def ask(forms: dict[str, tuple]) -> dict[str, tuple[float, float]]:
    """Form -> best seconds of its question, cold and warm; one cold time and nan where it is asked once. Opening is not
    counted. The forms take turns, so that what else the machine does meets all of them.
    """
    cold: dict[str, list[float]] = {form: [] for form in forms}
    warm: dict[str, list[float]] = {form: [float("nan")] if forms[form][3] else [] for form in forms}
    readers = {}
    for turn in range(COLD_TIMES + WARM_TIMES):
        for form, (opened, question, files, once) in forms.items():
            if once and turn:
                continue
            if turn < COLD_TIMES:
                forget(files)
                readers[form] = opened()
            began_s = time.perf_counter()
            question(readers[form])
            (cold if turn < COLD_TIMES else warm)[form].append(time.perf_counter() - began_s)
    return {form: (min(cold[form]), min(warm[form])) for form in forms}


def write_seeds(dataset: DatasetWriter, folder: Path, seeds: int, costs: dict[str, Cost]) -> None:
    """Commits every seed; beside it a .pt, and the same columns by pyarrow alone with the same encodings."""
    steps = np.array(dataset.manifest.steps, np.int32)
    total = sum(document.num_losses for document in dataset.manifest.documents)
    for seed in range(seeds):
        losses = curves(seed, len(steps), total)
        with timed(costs, "commit"):
            dataset.commit(seed, "benchmark", steps, losses, pa.table({"step": steps}))
        with timed(costs, ".pt"):
            torch.save({"losses": torch.from_numpy(losses.astype(np.float16))}, folder / "pt" / f"{seed}.pt")
        groups = row_groups(dataset.manifest.documents, len(steps))
        tables = [losses_table(seed, "benchmark", steps, losses, group) for group in groups]
        with (
            timed(costs, "pyarrow, a seed's columns"),
            pq.ParquetWriter(
                folder / "columns.parquet",
                LOSSES,
                compression="zstd",
                use_dictionary=["seed", "attempt", "doc_id"],
                use_byte_stream_split=["losses.list.element"],
            ) as writer,
        ):
            for table in tables:
                writer.write_table(table, row_group_size=len(table))


def write_hdf5(dataset: reader.Dataset, folder: Path, costs: dict[str, Cost]) -> float:
    """Writes the float16 file; returns the bytes of a float32 one, scaled from some tokens."""
    sampled = 0
    with h5py.File(folder / "a.h5", "w") as file, h5py.File(folder / "sample.h5", "w") as sample:
        for document, tokens, losses in dataset.blocks(2**28):
            halves = [np.ascontiguousarray(losses[:, :, i], np.float16) for i in range(len(tokens))]
            with timed(costs, "HDF5"):
                for token, half in zip(tokens, halves, strict=True):
                    name = f"losses/{document.name}/token_{token}"
                    file.create_dataset(name, data=half, compression="gzip", compression_opts=4)
            for index, token in enumerate(tokens[: SAMPLE_TOKENS - sampled]):
                name = f"losses/{document.name}/token_{token}"
                sample.create_dataset(name, data=losses[:, :, index], compression="gzip", compression_opts=4)
                sampled += 1
    total = sum(document.num_losses for document in dataset.documents)
    return size(folder / "sample.h5") / sampled * total


COMPACT = """
import re, sys, time
from pathlib import Path
from discreteness.dataset.by_token.compaction import compact
compact(sys.argv[1])
print(time.process_time(), re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
"""


def compact_in_a_process(path: Path) -> tuple[Cost, float]:
    """Its cost, start of Python included, and the most memory in GB."""
    began_s = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", COMPACT, str(path)], check=True, capture_output=True, text=True)
    cpu_s, peak_kb = done.stdout.split()
    return Cost(time.perf_counter() - began_s, float(cpu_s)), int(peak_kb) * 1024 / 1e9


def one_file_against_pyarrow(dataset: reader.Dataset, costs: dict[str, Cost]) -> int:
    """Makes one token-major file of up to 2**25 losses thrice, and lets pyarrow write the same columns, its table made
    before; returns the number of losses written."""
    steps, seeds = dataset.steps, dataset.seeds
    count = max(1, 2**25 // (len(steps) * len(seeds)))
    pieces, gathered = [], 0
    for _, _, losses in dataset.blocks(2**27):
        pieces.append(losses.transpose(2, 1, 0))
        gathered += len(pieces[-1])
        if gathered >= count:
            break
    block = np.ascontiguousarray(np.concatenate(pieces)[:count])
    doc_ids, tokens = (column[: len(block)] for column in _names(tuple(dataset.documents)))
    rows = len(steps) * len(seeds)
    columns = [
        np.repeat(doc_ids, rows),
        np.repeat(tokens, rows),
        np.tile(np.repeat(np.array(steps, np.int32), len(seeds)), len(block)),
        np.tile(np.array(seeds, np.int32), len(block) * len(steps)),
        block.reshape(-1),
    ]
    table = pa.Table.from_arrays([pa.array(column) for column in columns], schema=TOKENS)
    for _ in range(3):
        with timed(costs, "one token file"):
            token_file(doc_ids, tokens, steps, seeds, block, steps_of_a_page(len(steps), len(seeds)))
        with timed(costs, "pyarrow, a token file's columns"):
            sink = pa.BufferOutputStream()
            pq.write_table(table, sink, compression="zstd", use_dictionary=KEYS, use_byte_stream_split=["loss"])
    return 3 * table.num_rows


def questions(path: Path, folder: Path, document: str, all_documents: list) -> dict[str, dict[str, tuple]]:
    """Question -> form -> (opened, question, files, once)."""
    where = {d.name: range(1, d.num_losses + 1) for d in all_documents}
    tokens = where[document]
    names = [(name, token) for name in where for token in where[name]]
    first = next(i for i, (name, _) in enumerate(names) if name == document)
    middle = len(reader.open(path).steps) // 2
    seeds = len(reader.open(path).seeds)
    step = reader.open(path).steps[middle]

    def h5(name: str, token: int) -> str:
        return f"losses/{name}/token_{token}"

    def load(seed: int) -> np.ndarray:
        return torch.load(folder / "pt" / f"{seed}.pt", weights_only=True, mmap=True)["losses"].numpy()

    def h5_means(file: h5py.File) -> list:
        return [np.mean([file[h5(n, t)][:] for t in where[n]], axis=0, dtype=np.float64) for n in where]

    def pt_means(_: None) -> list:
        edges = np.cumsum([0, *(len(where[n]) for n in where)])[:-1]
        return [np.add.reduceat(load(s).astype(np.float64), edges, axis=1) for s in range(seeds)]

    ours = lambda: reader.open(path)  # noqa: E731
    hdf5 = lambda: h5py.File(folder / "a.h5")  # noqa: E731
    none = lambda: None  # noqa: E731
    own, file, pt = path, folder / "a.h5", folder / "pt"
    return {
        "one token, all seeds and steps": {
            "ours": (ours, lambda e: e.losses(document, token=7), own, False),
            "HDF5": (hdf5, lambda f: f[h5(document, 7)][:], file, False),
            ".pt": (none, lambda _: [load(s)[:, first + 6].copy() for s in range(seeds)], pt, False),
        },
        f"one document ({len(tokens)} tokens), one step, all seeds": {
            "ours": (ours, lambda e: e.losses(document, steps=[step]), own, False),
            "HDF5": (hdf5, lambda f: [f[h5(document, t)][:, middle] for t in tokens], file, False),
            ".pt": (
                none,
                lambda _: [load(s)[middle, first : first + len(tokens)].copy() for s in range(seeds)],
                pt,
                False,
            ),
        },
        "mean curve of every document": {
            "ours": (ours, lambda e: e.mean_curves(), own, True),
            "HDF5": (hdf5, h5_means, file, True),
            ".pt": (none, pt_means, pt, True),
        },
        "one seed, whole": {
            "ours": (ours, lambda e: e.seed(seeds // 2), own, False),
            "HDF5": (hdf5, lambda f: [f[h5(n, t)][seeds // 2] for n, t in names], file, True),
            ".pt": (none, lambda _: load(seeds // 2).copy(), pt, False),
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, required=True)
    parser.add_argument("--steps", type=int, default=1841)
    parser.add_argument("--folder", type=Path, help="where to put the files; deleted afterwards in any case")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder, prefix="dataset-") as folder:
        measure(Path(folder), arguments.seeds, arguments.steps)


def measure(folder: Path, seeds: int, num_steps: int) -> None:
    (folder / "pt").mkdir()
    path, costs = folder / "run", {}
    writer = DatasetWriter.create_or_open(
        path,
        identity={"track": {"name": "synthetic"}, "packing": "isolated", "world_size": 1, "sources": ""},
        documents=built_in(),
        token_bytes=decode_bytes,
        in_vocabulary=None,
        steps=range(num_steps),
    )
    total = sum(document.num_losses for document in writer.manifest.documents)
    rows = seeds * num_steps * total
    if (free := shutil.disk_usage(folder).free) < DISK_BYTES * rows:
        sys.exit(
            f"{folder} has {free / 1e9:.1f} GB free, {DISK_BYTES * rows / 1e9:.1f} are needed; give another --folder"
        )
    print(f"# {seeds} seeds x {num_steps} steps x {total} losses = {rows:.3g}\n")
    print(f"about {TIME_NS * rows / 6e10:.0f} minutes on two free cores\n", flush=True)
    write_seeds(writer, folder, seeds, costs)
    costs["discreteness compact, all of it"], peak_gb = compact_in_a_process(path)
    dataset = reader.open(path)
    hdf5_float32 = write_hdf5(dataset, folder, costs)
    with timed(costs, "export to Parquet, float16"):
        export(path, "parquet", folder / "float16.parquet", "float16")
    in_files = one_file_against_pyarrow(dataset, costs)
    print("| written | seconds | CPU seconds | million losses a CPU second | against |\n|---|---|---|---|---|")
    for what, cost in costs.items():
        count = in_files if "token file" in what else rows
        baseline = {"commit": "pyarrow, a seed's columns", "one token file": "pyarrow, a token file's columns"}.get(
            what
        )
        against = f"peak {peak_gb:.2f} GB" if "compact" in what else ""
        if baseline:
            there = costs[baseline]
            against = f"{there.wall_s / cost.wall_s:.2f} of pyarrow's speed, {there.cpu_s / cost.cpu_s:.2f} by CPU"
        print(f"| {what} | {cost.wall_s:.2f} | {cost.cpu_s:.2f} | {count / cost.cpu_s / 1e6:.1f} | {against} |")
    sys.stdout.flush()
    print("\n| size | MB | of raw |\n|---|---|---|")
    means = sum(file.stat().st_size for file in path.glob("tokens/*/*.means.parquet"))
    for what, num_bytes, width in (
        ("float32: losses/", size(path / "losses"), 4),
        ("float32: tokens/ without means", size(path / "tokens") - means, 4),
        ("float64: means", means, 4),
        (f"float32: HDF5, scaled from {SAMPLE_TOKENS} tokens", hdf5_float32, 4),
        ("float16: HDF5", size(folder / "a.h5"), 2),
        ("float16: Parquet export", size(folder / "float16.parquet"), 2),
        ("float16: .pt", size(folder / "pt"), 2),
    ):
        print(f"| {what} | {num_bytes / 1e6:.1f} | {num_bytes / rows / width:.3f} |")
    forget(path)
    began_s = time.perf_counter()
    reader.open(path)
    cold_s = time.perf_counter() - began_s
    began_s = time.perf_counter()
    reader.open(path)
    print(f"\nopen(): {cold_s * 1e3:.0f} ms cold, {(time.perf_counter() - began_s) * 1e3:.0f} ms warm\n")
    print("| question, ms cold / warm | ours | HDF5 | .pt | ours of HDF5 |\n|---|---|---|---|---|")
    document = min(dataset.documents, key=lambda d: abs(d.num_losses - 80)).name
    for question, forms in questions(path, folder, document, dataset.documents).items():
        found = ask(forms)
        cells = [f"{cold * 1e3:.1f} / {warm * 1e3:.1f}" for cold, warm in found.values()]
        (cold, warm), (h5_cold, h5_warm) = found["ours"], found["HDF5"]
        print(f"| {question} | {' | '.join(cells)} | {cold / h5_cold:.2f} / {warm / h5_warm:.2f} |", flush=True)
    same = [
        np.array_equal(dataset.losses(document, seeds=[s])[0], reader.open(path).losses(document)[s])
        for s in (0, seeds - 1)
    ]
    print(f"\nseed files and parts answer alike: {all(same)}")


if __name__ == "__main__":
    main()
