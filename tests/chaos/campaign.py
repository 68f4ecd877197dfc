"""a seed of chance -> an experiment broken again and again, completed, checked, and a table of what it cost.

`python -m tests.chaos.campaign --seed 7 --rounds 2` (`make chaos`). One experiment on a cluster of three machines;
each round strikes once with every kind of fault, in an order, at moments and on victims drawn from the seed. After a
fault the campaign waits until every trainer has committed a seed again; where a fault ends the job, the same
command is given again. In the end the experiment is completed, and the checker compares it with a run that nothing
happened to.
"""

import argparse
import json
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import pytest

from tests.chaos.checker import check
from tests.chaos.faults import FAULTS
from tests.chaos.machines import Disk, Machines, possible
from tests.conftest import ROOT, Program
from tests.support.processes import descendants

RECOVERY_S = 1200
"""After so long a fault counts as not survived."""
FEW = 40
"""Seeds that are sooner trained than another job has started."""
TRAINERS = 2
TEXTS = {
    "lines.txt": "One line follows the other.\nThe sun comes up, the sun goes down.\n",
    "numbers.txt": "one two three four five six seven eight nine ten",
    "short.txt": "A short text.",
}


class Stage:
    """The machines, the disk and the job of one campaign, and the random numbers that decide.

    `launcher`: what starts the job's Python, before its arguments, in the folder `cwd`.
    """

    def __init__(self, folder, seed, workers, machines, num_seeds, launcher=(), cwd=ROOT):
        self.folder = Path(folder)
        self.num_seeds = num_seeds
        self.launcher, self.cwd = launcher, cwd
        self.rng = random.Random(seed)
        self.workers = workers
        self.trainers = TRAINERS
        self.machines = machines
        self.disk = Disk(folder)
        self.dataset = self.disk.mount / "set"
        self.documents = self.folder / "documents"
        self.documents.mkdir()
        for name, text in TEXTS.items():
            (self.documents / name).write_text(text)
        self.job = None
        self.commands = 0

    @property
    def experiment(self):
        arguments = ["--track", "tests.support.quick_track:quick", "--checkpoints", "every:2"]
        return [*arguments, "--documents", str(self.documents)]

    def command(self, num_seeds=None, evaluators=None):
        arguments = [sys.executable, "jobs/run_seeds.py", *self.experiment]
        arguments += ["--seeds", f"0-{(num_seeds or self.num_seeds) - 1}"]
        arguments += ["--workers-per-trainer", str(self.workers), "--trainers", str(self.trainers)]
        arguments += ["--evaluators", str(evaluators or self.rng.choice([1, 2])), "--start-timeout-s", "120"]
        return [*arguments, "--output", str(self.dataset)]

    def start(self, num_seeds=None, evaluators=None):
        self.commands += 1
        log = self.folder / f"job-{self.commands}.txt"
        self.job = Program(
            [*self.launcher, *self.command(num_seeds, evaluators)[1:]], log, self.cwd, **self.machines.environment
        )

    def processes(self, name, whole=False):
        """(process id, machine) of what runs on the machines under that name, at least one; the machine is None for the
        head, where Ray puts what needs no CPU if the machine that it was meant for has just gone."""
        found, deadline_s = [], time.monotonic() + RECOVERY_S
        while not found:
            head = descendants(self.machines.head.pid)
            found = [(pid, None) for pid, command in head.items() if command.startswith(name)]
            for node in self.machines.nodes:
                for pid, command in node.commands():
                    if name in command if whole else command.startswith(name):
                        found.append((pid, node))
            if not found and time.monotonic() > deadline_s:
                raise RuntimeError(f"no process {name} runs")
        return sorted(found, key=lambda one: one[0])  # the printed seed chooses among them

    def busy(self):
        """Machines with a trainer."""
        nodes = {node for _, node in self.processes("ray::RayTrainWorker")}
        return sorted(nodes, key=lambda node: node.name)

    def files(self):
        """Committed seeds."""
        return sorted((self.dataset / "losses").glob("seed=*.parquet"))

    def lost(self):
        """(attempts lost, checkpoints of them) so far, by the dataset's log."""
        events = []
        for path in (self.dataset / "log").glob("*.json"):
            try:
                events.append(json.loads(path.read_text()))
            except ValueError:
                continue  # a full disk cut it short
        lost = [event for event in events if event.get("event") == "attempt lost"]
        return len(lost), sum(event.get("checkpoints", 0) for event in lost)

    def wait_for_all_trainers(self):
        """Until each trainer has committed a seed that it was given from now on. "" or why that did not come."""
        time.sleep(2)  # the driver writes down what has happened once a second
        start, deadline_s = len(self.job.output), time.monotonic() + RECOVERY_S
        while True:
            text = self.job.output
            leased = re.findall(r"leased to (\S+) \(attempt (\w+)\)", text[start:])
            committed = set(re.findall(r"committed: \d+ checkpoints \(attempt (\w+)\)", text[start:]))
            if len({trainer for trainer, attempt in leased if attempt in committed}) >= TRAINERS:
                return ""
            code = self.job.process.poll()
            if code == 0:
                return ""  # nothing is left to commit
            if code is not None:
                return f"the job ended with code {code}:\n{text[-2000:]}"
            if time.monotonic() > deadline_s:
                return f"not recovered after {RECOVERY_S} s:\n{text[-3000:]}"
            time.sleep(0.2)

    @property
    def finished(self):
        """The job has committed all it was asked for."""
        return self.job.process.poll() == 0

    def kill_job(self):
        if self.job is not None and self.job.process.poll() is None:
            os.killpg(self.job.process.pid, signal.SIGKILL)
            self.job.process.wait()

    def close(self):
        self.kill_job()
        self.machines.stop()
        self.disk.close()


def strike(stage, name):
    """One fault and its recovery: a row of the table."""
    kind = FAULTS[name]
    row = {"fault": name, "note": "", "trouble": ""}
    stage.machines.sweep()
    time.sleep(stage.rng.uniform(0, 4))
    before = stage.lost()
    began_s = time.monotonic()
    try:
        running = kind(stage)
        time.sleep(next(running))
        next(running, None)
        if kind.ends_job:
            row["note"] = f"exit code {stage.job.wait()}"
            stage.start()
        row["trouble"] = stage.wait_for_all_trainers()
    except (Exception, pytest.fail.Exception) as error:
        row["trouble"] = f"{type(error).__name__}: {error}"
    after = stage.lost()
    row["recovery_s"] = round(time.monotonic() - began_s, 1)
    row["attempts"], row["checkpoints"] = after[0] - before[0], after[1] - before[1]
    print(json.dumps(row), flush=True)
    if row["trouble"]:  # go on with the other faults, from a fresh start
        stage.disk.recover()
        stage.kill_job()
        stage.machines.restart()
        stage.start()
        stage.wait_for_all_trainers()
    return row


def campaign(folder, seed, rounds, num_seeds, workers, names):
    """Rows of the table, seeds of the experiment and the checker's problems."""
    print(f"chaos seed {seed}: {len(names)} kinds, trainers of {workers}", flush=True)
    stage = Stage(folder, seed, workers, Machines(folder, TRAINERS + 1), num_seeds)
    rows: list[dict] = []
    try:
        stage.start()
        if trouble := stage.wait_for_all_trainers():
            raise RuntimeError(trouble)
        for _ in range(rounds):
            rows += [strike(stage, name) for name in stage.rng.sample(names, len(names))]
        if not stage.finished and num_seeds - len(stage.files()) > FEW:
            os.kill(stage.job.process.pid, signal.SIGTERM)
            stage.job.wait()
            num_seeds = 1 + max(int(path.stem.removeprefix("seed=")) for path in stage.files())
            stage.start(num_seeds)  # what is missing below the last
        if code := stage.job.wait(1800):
            raise RuntimeError(f"the experiment does not complete, exit code {code}:\n{stage.job.output[-3000:]}")
        dataset = stage.folder / "set"
        shutil.copytree(stage.dataset, dataset)
    finally:
        stage.close()
    return rows, num_seeds, check(dataset, range(num_seeds), faultless(stage, num_seeds))


def faultless(stage, num_seeds):
    """The same seeds with nothing in between: torchrun with as many workers, scored in the loop, without Ray."""
    arguments = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={stage.workers}", "-m"]
    arguments += ["discreteness", "run", "--inline", *stage.experiment, "--seeds", f"0-{num_seeds - 1}"]
    inline = Program([*arguments, "--output", str(stage.folder / "truth")], stage.folder / "truth.txt")
    assert inline.wait(300 + 20 * num_seeds) == 0, inline.output
    return stage.folder / "truth"


def table(rows):
    """Markdown: a line a kind."""
    lines = [
        "| fault | times | survived | recovery, s (median, worst) | attempts lost | checkpoints lost | exit codes |"
    ]
    lines += ["|---|---|---|---|---|---|---|"]
    for name in sorted({row["fault"] for row in rows}):
        of = [row for row in rows if row["fault"] == name]
        times = [row["recovery_s"] for row in of]
        codes = ", ".join(sorted({row["note"].removeprefix("exit code ") for row in of} - {""})) or "-"
        survived = sum(not row["trouble"] for row in of)
        attempts, checkpoints = (sum(row[name] for row in of) for name in ("attempts", "checkpoints"))
        lines.append(
            f"| {name} | {len(of)} | {survived} | {median(times):.0f}, {max(times):.0f} | {attempts} | "
            f"{checkpoints} | {codes} |"
        )
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    parser.add_argument("--rounds", type=int, default=1, help="each strikes once with each kind")
    parser.add_argument("--num-seeds", type=int, default=1000, help="of the experiment; it may end sooner")
    parser.add_argument("--workers", type=int, default=2, help="of a trainer")
    parser.add_argument("--faults", default=",".join(FAULTS), help="comma-separated; default: all kinds")
    arguments = parser.parse_args()
    if reason := possible():
        sys.exit(f"error: {reason}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # takes the machines down as well
    names = arguments.faults.split(",")
    if unknown := [name for name in names if name not in FAULTS]:
        sys.exit(f"error: --faults {unknown}: there are {', '.join(FAULTS)}")
    folder = tempfile.mkdtemp(prefix="dc-chaos-")
    os.environ.update(HOME=folder, XDG_CACHE_HOME=f"{folder}/cache", OMP_NUM_THREADS="1")
    rows, num_seeds, problems = campaign(
        folder, arguments.seed, arguments.rounds, arguments.num_seeds, arguments.workers, names
    )
    print(table(rows))
    print(f"{len(rows)} faults of {len(names)} kinds, {num_seeds} seeds")
    for problem in problems[:20]:
        print(problem)
    print(f"{len(problems)} problems" if problems else "every planned row once, one attempt a seed, bitwise equal")
    broken = [row["fault"] for row in rows if row["trouble"]]
    print(f"not survived: {broken or 'none'}")
    if not problems and not broken:
        shutil.rmtree(folder)
    sys.exit(bool(problems or broken))


if __name__ == "__main__":
    main()
