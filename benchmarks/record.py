"""eight GPUs + FineWeb -> final losses and times of some seeds beside those of the record they reproduce.

python benchmarks/record.py --data DIR [--seeds 3]

Runs modded-nanogpt/train_gpt.py under torchrun once a seed, reads the validation lines of its log, and prints means
and ranges beside the record of 2026-01-04 (10 runs on 8 H100; SPEEDRUN section 13.1). Not run by us: we had one GPU.
"""

import argparse
import re
import statistics
import subprocess
import sys
from pathlib import Path

TRAINER = Path(__file__).resolve().parents[1] / "modded-nanogpt/train_gpt.py"
RECORD = {  # step: mean, lowest, highest validation loss, mean train time in ms
    0: (10.8300, 10.8275, 10.8327, 0),
    250: (4.6111, 4.5966, 4.6212, 8_443),
    500: (4.2938, 4.2809, 4.3452, 16_742),
    750: (4.0203, 4.0140, 4.0304, 29_237),
    1000: (3.7728, 3.7666, 3.7789, 44_529),
    1250: (3.5334, 3.5304, 3.5357, 61_149),
    1500: (3.4011, 3.3997, 3.4028, 83_040),
    1750: (3.3031, 3.3015, 3.3053, 104_927),
    1840: (3.2781, 3.2763, 3.2802, 112_824),
}
LINE = re.compile(r"step:(\d+)/\d+ val_loss:([\d.]+) train_time:(\d+)ms")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default=".", help="folder that holds data/fineweb10B")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--gpus", type=int, default=8, choices=(1, 2, 4, 8))
    arguments = parser.parse_args()
    runs = [train(seed, arguments) for seed in range(arguments.seeds)]
    columns = ("ours", "lowest", "highest", "record", "lowest", "highest", "ms", "record")
    print("\n step " + " ".join(f"{column:>8}" for column in columns))
    for step, (mean, lowest, highest, time_ms) in RECORD.items():
        losses = [run[step][0] for run in runs]
        ours_ms = statistics.mean(run[step][1] for run in runs)
        row = [statistics.mean(losses), min(losses), max(losses), mean, lowest, highest]
        print(f"{step:5} " + " ".join(f"{loss:8.4f}" for loss in row) + f" {ours_ms:8.0f} {time_ms:8}")


def train(seed: int, arguments: argparse.Namespace) -> dict[int, tuple[float, int]]:
    """Step -> validation loss and training time in ms of one run."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={arguments.gpus}"]
    command += [str(TRAINER), "--seed", str(seed), "--data", arguments.data]
    found = {}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        for line in process.stdout:
            if match := LINE.match(line):
                found[int(match[1])] = float(match[2]), int(match[3])
                print(f"seed {seed}: {line}", end="", flush=True)
    missing = sorted(RECORD.keys() - found.keys())
    if process.returncode or missing:
        raise SystemExit(f"seed {seed} ended with code {process.returncode} and without steps {missing}")
    return found


if __name__ == "__main__":
    main()
