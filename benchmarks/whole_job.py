"""one GPU + shards -> seconds a seed of a whole job: through the service, and by a shell loop that scores in its loop.

python benchmarks/whole_job.py --data DIR [--track short_track:sixty_ms] [--checkpoints log:300] [--seeds 2]

The service trains all seeds in one job with an evaluator on the same GPU. The shell loop is one process a seed that
scores in its training loop (`discreteness run --inline`); one is run, since each is like the first. Compile caches are
used as they are found: run it twice for warm figures. A seed's time in the service is the time between two commits.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

import discreteness

ROOT = Path(__file__).parents[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="folder that holds data/")
    parser.add_argument("--track", default="short_track:sixty_ms")
    parser.add_argument("--checkpoints", default="log:300")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--evaluator-gpus", default="0.3")
    parser.add_argument("--skip-loop", action="store_true")
    arguments = parser.parse_args()
    common = ["--track", arguments.track, "--data", arguments.data, "--checkpoints", arguments.checkpoints]
    common += ["--val-tokens", "0"]
    with tempfile.TemporaryDirectory() as scratch:
        ours = ["jobs/run_seeds.py", *common, "--seeds", f"0-{arguments.seeds - 1}", "--output", f"{scratch}/service"]
        ours += ["--trainers", "1", "--evaluators", "1", "--evaluator-gpus", arguments.evaluator_gpus]
        describe("service", f"{scratch}/service", *run(ours))
        if not arguments.skip_loop:
            loop = ["-m", "discreteness", "run", "--inline", *common, "--seeds", "0", "--output", f"{scratch}/loop"]
            describe("shell loop, one process", f"{scratch}/loop", *run(loop))
            same = [
                np.array_equal(*(discreteness.open(f"{scratch}/{way}").losses(doc.name, seeds=[0]) for way in ways))
                for ways in [("service", "loop")]
                for doc in discreteness.open(f"{scratch}/loop").documents
            ]
            print(f"losses of seed 0, service against loop: {sum(same)} of {len(same)} documents bitwise equal")


def run(command: list[str]) -> tuple[float, float]:
    """(when it began, when it ended), seconds of the clock."""
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(ROOT / "benchmarks"), os.environ.get("PYTHONPATH", "")])
    }
    began_s = time.time()
    subprocess.run([sys.executable, *command], cwd=ROOT, env=environment, check=True)
    return began_s, time.time()


def describe(name: str, path: str, began_s: float, ended_s: float) -> None:
    """Prints where the time of a job went."""
    experiment = discreteness.open(path)
    committed_s = [Path(path, f"losses/seed={seed:05d}.parquet").stat().st_mtime for seed in experiment.seeds]
    print(f"\n{name}: {ended_s - began_s:.1f} s for {len(experiment.seeds)} seeds")
    for number, seed in enumerate(experiment.seeds):
        runs = experiment.runs(seed).to_pydict()
        step_ms = np.array([ms for ms in runs["step_ms"] if ms])
        first, rest = np.median(step_ms[:100]), np.median(step_ms[100:])
        updates_s = step_ms.sum() / 1000
        print(f"  seed {seed}: updates {updates_s:.1f} s, median of the first 100 {first:.1f} ms, then {rest:.1f} ms")
        whole_s = committed_s[number] - (committed_s[number - 1] if number else began_s)
        since = "the commit before" if number else "the command"
        print(f"    committed {whole_s:.1f} s after {since}, {whole_s / updates_s:.4f} of its updates", flush=True)
    print(f"  from the last commit to the end {ended_s - committed_s[-1]:.1f} s")


if __name__ == "__main__":
    main()
