"""a machine's GPUs + shards -> seconds a seed and seeds an hour of each topology, with evaluation and training alone.

python benchmarks/topologies.py --data DIR [--topologies group,beside,own,loop] [--ways alone,log,every] [--limit-s 560]
python benchmarks/topologies.py --gpus 2 --track tests.support.quick_track:quick   on CPUs, about 5 minutes of two cores

group   one trainer of all N GPUs, an evaluator on a tenth of each
beside  N one-GPU trainers, an evaluator on a tenth of each GPU
own     N - 1 one-GPU trainers, one evaluator with a GPU of its own (on CPUs: one evaluator)
loop    no service: one process a seed that scores in its training loop, as a shell loop would start it, on one GPU

alone   checkpoints at the first and the last step only: the baseline of the other ways of the same topology
log     as many of `log` as 300 are of the small track's 1,840 updates; `log` begins with consecutive steps there too
every   a checkpoint at every step

Each is a job of its own: two seeds a trainer on a schedule of about 40 s a seed. `s/seed` is the time from one commit
of a trainer to its next, so start-up is not in it (it is `start s`, up to the first commit less one such time), but the
change of seed is, which weighs more here than in a whole schedule. `waited` is what training waited for credits and
staging, seconds a seed. The loop's time is that of its process, start included: it has one every seed.

Ray is started here, with `--object-store-gb`, and every job joins it; a cluster that RAY_ADDRESS names is joined. On
eight GPUs with warm compile caches a job takes 2 minutes (start-up 35 s), so a call does four or five of them: rows are
printed as they come, and what does not fit into the limit is named and left out.
"""

import argparse
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import ray
import torch
from speedrun.tracks import track

import discreteness

ROOT = Path(__file__).parents[1]
TOPOLOGIES = ("group", "beside", "own", "loop")
WAYS = ("alone", "log", "every")
SEEDS_EACH = 2
CHECKPOINTS_A_STEP = 300 / 1840
COLUMNS = (
    "topology",
    "way",
    "seeds",
    "s/seed",
    "to alone",
    "seeds/h",
    "waited",
    "checkpoints",
    "scored/s",
    "ms/update",
)
STORE_GB_A_GPU = 10
"""Eight checkpoints of 0.54 GB in flight are to stay below 60 %."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """One row of the table."""

    topology: str
    way: str
    trainers: int
    track: str
    checkpoints: str
    flags: list[str]

    @property
    def num_seeds(self) -> int:
        return 1 if self.topology == "loop" else SEEDS_EACH * self.trainers


@dataclass(frozen=True, kw_only=True)
class Result:
    """What a job's dataset and output say."""

    seed_s: float
    start_s: float
    waited_s: float
    update_ms: float
    num_checkpoints: int


def main() -> None:
    began_s = time.monotonic()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="folder that holds data/")
    parser.add_argument("--topologies", default=",".join(TOPOLOGIES))
    parser.add_argument("--ways", default=",".join(WAYS))
    parser.add_argument("--gpus", type=int, default=torch.cuda.device_count(), help="those to use; on CPUs, workers")
    parser.add_argument("--track", help="module:name, instead of the two short schedules of short_track.py")
    parser.add_argument("--object-store-gb", type=float, help=f"default: {STORE_GB_A_GPU} a GPU; on CPUs 1")
    parser.add_argument("--limit-s", type=float, default=560)
    arguments = parser.parse_args()
    os.environ["PYTHONPATH"] = os.pathsep.join(
        [str(ROOT / "benchmarks"), str(ROOT), str(ROOT / "modded-nanogpt"), os.environ.get("PYTHONPATH", "")]
    )
    sys.path.append(str(ROOT))  # tracks of the tests, here as in the jobs
    planned = [
        plan(topology, way, arguments.gpus, arguments.track)
        for topology in arguments.topologies.split(",")
        for way in arguments.ways.split(",")
    ]
    start_ray(arguments.gpus, arguments.object_store_gb)
    hardware = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    print(f"{arguments.gpus} x {hardware}, {os.cpu_count()} cores, torch {torch.__version__}, Ray {ray.__version__}")
    print(f"{''.join(f'{column:>12}' for column in COLUMNS)}{'start s':>12}", flush=True)
    results: dict[tuple[str, str], Result] = {}
    longest_s = 0.0
    with tempfile.TemporaryDirectory() as scratch:
        for job in planned:
            if job.trainers < 1:
                print(f"{job.topology} {job.way}: needs more GPUs than {arguments.gpus}")
                continue
            left_s = arguments.limit_s - (time.monotonic() - began_s)
            if longest_s > left_s:
                print(f"{job.topology} {job.way}: no time left for it")
                continue
            job_began_s = time.monotonic()
            result = run(job, arguments.data, f"{scratch}/{job.topology}-{job.way}", left_s)
            longest_s = max(longest_s, time.monotonic() - job_began_s)
            if result:
                results[job.topology, job.way] = result
                print(row(job, result, results.get((job.topology, "alone"))), flush=True)
        for way in WAYS:
            if {("loop", way), ("beside", way)} <= results.keys():
                compare(f"{scratch}/loop-{way}", f"{scratch}/beside-{way}", way)


def plan(topology: str, way: str, gpus: int, named: str | None) -> Job:
    """The job's flags. ValueError: an unknown name."""
    if topology not in TOPOLOGIES or way not in WAYS:
        raise ValueError(f"{topology} {way}: topologies are {', '.join(TOPOLOGIES)}, ways {', '.join(WAYS)}")
    workers = gpus if topology == "group" else 1
    trainers = {"group": 1, "beside": gpus, "own": gpus - 1, "loop": 1}[topology]
    name = named or ("short_track:eight_gpus" if workers == 8 else "short_track:one_gpu")
    recipe = track(name)
    last = recipe.schedule.last_step
    count = max(2, round(CHECKPOINTS_A_STEP * last))
    flags = ["--workers-per-trainer", str(workers), "--trainers", str(trainers)]
    if topology == "own":
        flags += ["--evaluators", "1"] + (["--evaluator-gpus", "1"] if recipe.needs_gpu else [])
    return Job(
        topology=topology,
        way=way,
        trainers=trainers,
        track=name,
        checkpoints={"alone": f"every:{last}", "log": f"log:{count}", "every": "every:1"}[way],
        flags=[] if topology == "loop" else flags,
    )


def start_ray(gpus: int, store_gb: float | None) -> None:
    """This machine as a cluster, for all jobs. SystemExit: /dev/shm is too small for the object store."""
    if os.environ.get("RAY_ADDRESS"):
        return
    there = torch.cuda.is_available()
    store_bytes = int(1e9 * (store_gb or (STORE_GB_A_GPU * gpus if there else 1)))
    if shutil.disk_usage("/dev/shm").free < store_bytes:
        gb = store_bytes / 1e9
        raise SystemExit(
            f"/dev/shm has less free than the {gb:.0f} GB of the object store: make it larger (as root: "
            f"mount -o remount,size={gb + 8:.0f}G /dev/shm) or name a smaller --object-store-gb"
        )
    os.environ["RAY_AUTH_MODE"] = "disabled"  # nothing but this machine's own jobs, for minutes
    context = ray.init(
        address="local",
        num_cpus=max(os.cpu_count() or 1, gpus),
        num_gpus=gpus if there else 0,
        object_store_memory=store_bytes,
        include_dashboard=False,
        log_to_driver=False,
    )
    os.environ["RAY_ADDRESS"] = context.address_info["gcs_address"]


def run(job: Job, data: str | None, output: str, limit_s: float) -> Result | None:
    """Runs the job and reads what it left; None where it failed or took too long, which is printed."""
    command = [sys.executable, *(("-m", "discreteness", "run", "--inline") if job.topology == "loop" else ())]
    command += [] if job.topology == "loop" else ["jobs/run_seeds.py"]
    command += ["--track", job.track, "--checkpoints", job.checkpoints, "--val-tokens", "0", "--output", output]
    command += ["--seeds", f"0-{job.num_seeds - 1}", *job.flags, *(["--data", data] if data else [])]
    began_s = time.time()
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=limit_s)
    except subprocess.TimeoutExpired as late:
        print(f"{job.topology} {job.way}: not done after {limit_s:.0f} s: {last_lines(late.stdout)}", flush=True)
        return None
    if done.returncode:
        text = last_lines(done.stdout + done.stderr)
        print(f"{job.topology} {job.way}: ended with code {done.returncode}: {text}", flush=True)
        return None
    return read(job, output, done.stdout, began_s, time.time())


def read(job: Job, output: str, text: str, began_s: float, ended_s: float) -> Result:
    """`text`: the job's output, which says which trainer trained which seed."""
    dataset = discreteness.open(output)
    committed_s = {seed: Path(output, f"losses/seed={seed:05d}.parquet").stat().st_mtime for seed in dataset.seeds}
    update_ms = [np.nanmean(dataset.runs(seed)["step_ms"].to_numpy().astype(float)) for seed in dataset.seeds]
    num_checkpoints = len(dataset.steps)
    if job.topology == "loop":
        return Result(
            seed_s=ended_s - began_s,
            start_s=0.0,
            waited_s=0.0,
            update_ms=statistics.mean(update_ms),
            num_checkpoints=num_checkpoints,
        )
    commits: dict[str, list[float]] = {}
    for seed, trainer in re.findall(r"seed (\d+) leased to (\S+)", text):
        commits.setdefault(trainer, []).append(committed_s[int(seed)])
    gaps_s = [gap for times_s in commits.values() for gap in np.diff(sorted(times_s)).tolist()]
    seed_s = statistics.median(gaps_s)
    waited = re.search(r"training waited ([\d.]+) s", text)
    assert waited, text
    return Result(
        seed_s=seed_s,
        start_s=min(committed_s.values()) - began_s - seed_s,
        waited_s=float(waited[1]) / job.num_seeds,
        update_ms=statistics.mean(update_ms),
        num_checkpoints=num_checkpoints,
    )


def row(job: Job, result: Result, alone: Result | None) -> str:
    rate = job.trainers / result.seed_s
    cells = [job.topology, job.way, f"{job.num_seeds}", f"{result.seed_s:.2f}"]
    cells += [f"{result.seed_s / alone.seed_s:.4f}" if alone else "", f"{3600 * rate:.0f}", f"{result.waited_s:.2f}"]
    cells += [f"{result.num_checkpoints}", f"{result.num_checkpoints * rate:.1f}", f"{result.update_ms:.2f}"]
    return "".join(f"{cell:>12}" for cell in [*cells, f"{result.start_s:.1f}"])


def compare(loop: str, service: str, way: str) -> None:
    """Prints whether seed 0's losses are the same bits through the service and in the loop."""
    ours, theirs = discreteness.open(service), discreteness.open(loop)
    same = [
        np.array_equal(ours.losses(document.name, seeds=[0]), theirs.losses(document.name, seeds=[0]))
        for document in theirs.documents
    ]
    print(f"losses of seed 0, {way}, beside against loop: {sum(same)} of {len(same)} documents bitwise equal")


def last_lines(text: str | bytes | None) -> str:
    shown = text.decode(errors="replace") if isinstance(text, bytes) else text or "no output"
    return " | ".join(shown.strip().splitlines()[-6:])


if __name__ == "__main__":
    main()
