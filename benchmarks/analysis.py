"""this machine -> curves fitted per minute, next to scipy's curve_fit of one sigmoid per curve in the same run.

python -m benchmarks.analysis [--curves 4096] [--baseline-curves 100]
python -m benchmarks.analysis --seeds 5

The second is all of `analyze`, with its null comparisons, on a planted dataset of 27 documents at every step, and the
most memory that its processes have together.
"""

import argparse
import os
import tempfile
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from scipy.optimize import curve_fit
from speedrun.data.tokenizer import decode_bytes

from benchmarks.planted import noise, planted_drops, steps_of
from discreteness import allowance
from discreteness.analysis.analyze import analyze
from discreteness.analysis.fits import Fits, fit, octaves
from discreteness.experiment.documents import built_in
from tests.support.planted_dataset import create_planted


def one_sigmoid(x: np.ndarray, low: float, fall: float, center: float, width: float) -> np.ndarray:
    return low + fall / (1 + np.exp(np.clip((x - center) * 4.394 / width, -500, 500)))


def baseline(curves: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """Centers by one least-squares fit per curve, from the steepest place: no smooth alternative, no second drop."""
    x, centers = octaves(steps), np.full(len(curves), np.nan)
    for number, curve in enumerate(curves):
        start = (
            curve[-9:].mean(),
            curve[:9].mean() - curve[-9:].mean(),
            x[np.abs(curve - np.median(curve)).argmin()],
            1,
        )
        try:
            centers[number] = curve_fit(one_sigmoid, x, curve, start)[0][2]
        except RuntimeError:  # did not converge: scored as nan
            continue
    return centers


def whole(num_seeds: int) -> None:
    documents, steps = built_in(), steps_of("every:1")
    with tempfile.TemporaryDirectory() as folder:
        create_planted(folder, documents, decode_bytes, tuple(steps.tolist()), range(num_seeds))
        before, most, ended = _memory(), [0], threading.Event()

        def watch() -> None:
            while not ended.wait(0.2):
                most[0] = max(most[0], _memory() - before)

        watcher = threading.Thread(target=watch)
        watcher.start()
        began_s = time.perf_counter()
        found = analyze(folder)
        wall_s = time.perf_counter() - began_s
        ended.set()
        watcher.join()
    curves = len(found.fits)
    print(f"{curves} curves of {len(steps)} points, {allowance.cores()} cores, load {os.getloadavg()[0]:.1f}")
    print(f"{wall_s:.0f} s, {60 * curves / wall_s:,.0f} curves per minute, {most[0] / 2**30:.2f} GiB at most")


def _memory(pid: int | str = "self") -> int:
    """Bytes of a process and those that it started, what is shared counted once (Linux)."""
    try:
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
        children = " ".join(path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/children")).split()
    except OSError:  # it has ended
        return 0
    own = next(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:"))
    return 1024 * own + sum(map(_memory, children))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--curves", type=int, default=4096)
    parser.add_argument("--baseline-curves", type=int, default=100)
    parser.add_argument("--seeds", type=int, help="analyze a planted dataset of so many")
    arguments = parser.parse_args()
    if arguments.seeds:
        whole(arguments.seeds)
        return
    steps, random = steps_of("every:1"), np.random.default_rng(0)
    clean, centers = planted_drops(random, octaves(steps), arguments.curves)
    curves = (clean + noise(random, steps, len(clean), 0.2)).astype(np.float32)
    os.environ.update(OPENBLAS_NUM_THREADS="1", OMP_NUM_THREADS="1")  # for the processes that are spawned below
    cores = allowance.cores()
    print(f"{len(curves)} curves of {len(steps)} points, {cores} cores, load {os.getloadavg()[0]:.1f}\n")
    print("| what | processes | curves per minute | CPU ms per curve | time error, octaves (95 %) |")
    print("|---|---|---|---|---|")

    def row(what: str, processes: int, count: int, wall_s: float, cpu_s: float | None, times: np.ndarray) -> None:
        errors = np.nanquantile(np.abs(times - centers[: len(times)]), 0.95)
        cpu = f"{1000 * cpu_s / count:.2f}" if cpu_s is not None else "-"
        print(f"| {what} | {processes} | {60 * count / wall_s:,.0f} | {cpu} | {errors:.2f} |", flush=True)

    began_s, cpu_s = time.perf_counter(), time.process_time()
    found = baseline(curves[: arguments.baseline_curves], steps)
    row("curve_fit", 1, len(found), time.perf_counter() - began_s, time.process_time() - cpu_s, found)
    began_s, cpu_s = time.perf_counter(), time.process_time()
    fits = fit(curves, steps)
    row("fit", 1, len(curves), time.perf_counter() - began_s, time.process_time() - cpu_s, octaves(fits.time))
    with ProcessPoolExecutor(cores, get_context("spawn")) as pool:
        list(pool.map(fit, [curves[:8]] * cores, [steps] * cores))  # started
        began_s = time.perf_counter()
        parts = np.array_split(curves, 4 * cores)
        fits = Fits.concatenate(list(pool.map(fit, parts, [steps] * len(parts))))
        row("fit", cores, len(curves), time.perf_counter() - began_s, None, octaves(fits.time))


if __name__ == "__main__":
    main()
