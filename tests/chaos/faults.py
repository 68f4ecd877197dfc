"""what can break, each as a generator: what comes before `yield` breaks it, what comes after mends it.

`yield seconds`: how long it stays broken. The stage (campaign.py) knows the machines, the disk and the job, and its
random numbers choose the victim. What ends the job itself is marked; the campaign then gives the same command again.
"""

import os
import signal
import subprocess
import sys
import threading
import time

from tests.chaos.machines import RAY
from tests.conftest import ROOT
from tests.support.processes import descendants

FAULTS = {}


def fault(name, *, ends_job=False):
    def register(break_and_mend):
        break_and_mend.ends_job = ends_job
        FAULTS[name] = break_and_mend
        return break_and_mend

    return register


def kill(pid, signum=signal.SIGKILL):
    os.kill(pid, signum)


def on_head(stage, name):
    """Processes that Ray started beside the driver."""
    found = [pid for pid, command in descendants(stage.machines.head.pid).items() if command.startswith(name)]
    assert found, f"no {name} runs on the head"
    return found


@fault("evaluator killed")
def evaluator_killed(stage):
    kill(stage.rng.choice(stage.processes("ray::Evaluator"))[0])
    yield 0


@fault("evaluator frozen for good")
def evaluator_frozen(stage):
    kill(stage.rng.choice(stage.processes("ray::Evaluator"))[0], signal.SIGSTOP)
    yield 0


@fault("trainer worker killed")
def worker_killed(stage):
    kill(stage.rng.choice(stage.processes("ray::RayTrainWorker"))[0])
    yield 0


@fault("trainer worker frozen for 15 s")
def worker_frozen(stage):
    pid, _ = stage.rng.choice(stage.processes("ray::RayTrainWorker"))
    kill(pid, signal.SIGSTOP)
    yield 15
    kill(pid, signal.SIGCONT)


@fault("Train controller killed")
def controller_killed(stage):
    kill(stage.rng.choice(on_head(stage, "ray::TrainController")))
    yield 0


@fault("dispatcher killed", ends_job=True)
def dispatcher_killed(stage):
    kill(on_head(stage, "ray::Dispatcher")[0])
    yield 0


@fault("trainers' actor killed", ends_job=True)
def trainers_killed(stage):
    kill(on_head(stage, "ray::Trainers")[0])
    yield 0


@fault("driver killed", ends_job=True)
def driver_killed(stage):
    kill(stage.job.process.pid)
    yield 0


@fault("driver told to stop", ends_job=True)
def driver_stopped(stage):
    kill(stage.job.process.pid, stage.rng.choice([signal.SIGTERM, signal.SIGINT]))
    yield 0


@fault("driver killed and a committed file cut short", ends_job=True)
def file_damaged(stage):
    kill(stage.job.process.pid)
    stage.job.process.wait()
    path = stage.rng.choice(stage.files())
    os.truncate(path, path.stat().st_size // 2)
    yield 0


@fault("a second driver on the same dataset")
def second_driver(stage):
    done = subprocess.run(stage.command(), cwd=ROOT, env=stage.machines.environment, capture_output=True, text=True)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "is in use by" in done.stderr
    yield 0


@fault("machine of a trainer without power")
def trainer_machine_off(stage):
    without = {node for _, node in stage.processes("ray::RayTrainWorker")}
    without -= {node for _, node in stage.processes("ray::Evaluator")}
    node = stage.rng.choice(sorted(without or stage.busy(), key=lambda node: node.name))
    stage.machines.lose(node)
    yield 0
    stage.machines.add()


@fault("machine of a trainer taken away after 20 s of notice")
def trainer_machine_preempted(stage):
    node = stage.rng.choice(stage.busy())
    stage.machines.add()
    arguments = ["--reason=DRAIN_NODE_REASON_PREEMPTION", "--reason-message=spot", "--deadline-remaining-seconds=20"]
    arguments += [f"--node-id={node.node_id()}", f"--address={stage.machines.address}"]
    subprocess.run([RAY, "drain-node", *arguments], env=stage.machines.environment, check=True, capture_output=True)
    yield 20
    stage.machines.lose(node)


@fault("machine of evaluators without power")
def evaluator_machine_off(stage):
    nodes = [node for _, node in stage.processes("ray::Evaluator") if node]
    stage.machines.lose(stage.rng.choice(nodes or stage.busy()))
    yield 0
    stage.machines.add()


@fault("raylet killed")
def raylet_killed(stage):
    node = stage.rng.choice(stage.busy())
    kill(next(pid for pid, where in stage.processes("raylet/raylet", whole=True) if where is node))
    yield 5
    stage.machines.lose(node)
    stage.machines.add()


@fault("raylet frozen for 8 s")
def raylet_frozen(stage):
    node = stage.rng.choice(stage.busy())
    pid = next(pid for pid, where in stage.processes("raylet/raylet", whole=True) if where is node)
    kill(pid, signal.SIGSTOP)
    yield 8
    kill(pid, signal.SIGCONT)


@fault("network cut for 5 s")
def network_cut(stage):
    node = stage.rng.choice(stage.busy())
    node.cut()
    yield 5
    node.heal()


@fault("network cut for 30 s")
def network_cut_long(stage):
    node = stage.rng.choice(stage.busy())
    node.cut()
    yield 30
    node.heal()  # its raylet learns that it was declared dead, and ends
    stage.machines.add()


@fault("network flaps for 12 s")
def network_flaps(stage):
    node = stage.rng.choice(stage.busy())
    for _ in range(10):
        node.cut()
        time.sleep(stage.rng.uniform(0.1, 0.9))
        node.heal()
        time.sleep(stage.rng.uniform(0.1, 1.1))
    yield 0


@fault("disk full for 8 s")
def disk_full(stage):
    stage.disk.fill()
    yield 8
    stage.disk.free()


@fault("disk fails for 8 s")
def disk_fails(stage):
    stage.disk.fail()
    yield 8
    stage.disk.mend()


@fault("disk hangs for 10 s")
def disk_hangs(stage):
    stage.disk.freeze()
    yield 10
    stage.disk.thaw()


@fault("object store full for 10 s")
def store_full(stage):
    node = stage.rng.choice(stage.busy())
    filler = subprocess.Popen(
        [sys.executable, "-m", "tests.chaos.filling", node.name],
        cwd=ROOT,
        env=stage.machines.environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    watchdog = threading.Timer(120, filler.kill)
    watchdog.start()
    answer = filler.stdout.readline()
    watchdog.cancel()
    assert "full" in answer, f"the store of {node.name} could not be filled: {answer!r}"
    yield 10
    filler.communicate("free\n", timeout=60)


@fault("head without power", ends_job=True)
def head_off(stage):
    stage.machines.kill_head()
    yield 0
    stage.job.wait(180)  # by itself
    stage.machines.restart()


def describe():
    """What there is, for --help."""
    return ", ".join(FAULTS)
