"""machines on this machine: a Ray cluster whose nodes can lose power, network or disk. Needs root and Linux.

Each node is a `ray start` in namespaces of its own: an address on a bridge, a session folder, a /dev/shm. The head and
whatever drives it are on the host's side of the bridge. A node's power is all its processes, its cable a link.
"""

import json
import os
import re
import signal
import subprocess
import sys
import time
import uuid
from functools import partial
from pathlib import Path

from tests.conftest import RAY_TRIES
from tests.support.processes import descendants, gone

RAY = str(Path(sys.executable).with_name("ray"))
CPUS = 2
"""Of a node: one trainer of two workers, so that trainers and nodes are the same number of things."""
GPUS = 8
"""Of a node, as it pretends; the tiny track trains on CPUs."""
STORE_BYTES = 100_000_000
HEALTH = {
    "health_check_initial_delay_ms": 0,
    "health_check_period_ms": 1000,
    "health_check_timeout_ms": 3000,
    "health_check_failure_threshold": 4,
}
"""A silent node is dead after about 16 s, loaded as these cores are."""


def possible():
    """Why machines cannot be made here, or "" where they can."""
    if not sys.platform.startswith("linux") or os.geteuid():
        return "network namespaces and mounts need Linux and root"
    name = f"dcprobe{os.getpid()}"
    done = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True)
    if done.returncode:
        return f"no network namespace can be made: {done.stderr.strip()}"
    _run("ip", "netns", "del", name)
    return ""


class Machine:
    """One node. Ends with everything that runs in its namespace."""

    def __init__(self, cluster, number):
        self.name = f"{cluster.prefix}n{number}"
        self.link = f"{cluster.prefix}v{number}"
        self.ip = f"{cluster.subnet}.{10 + number}"
        _run("ip", "netns", "add", self.name)
        _run("ip", "link", "add", self.link, "type", "veth", "peer", "name", "eth0", "netns", self.name)
        _run("ip", "link", "set", self.link, "master", cluster.bridge, "up")
        inside = ("ip", "netns", "exec", self.name)
        _run(*inside, "ip", "addr", "add", f"{self.ip}/24", "dev", "eth0")
        _run(*inside, "ip", "link", "set", "lo", "up")
        _run(*inside, "ip", "link", "set", "eth0", "up")
        _run(*inside, "ip", "route", "add", "default", "via", f"{cluster.subnet}.1")
        sessions = cluster.folder / f"{self.name}-sessions"
        sessions.mkdir()
        own = f"mount --bind {sessions} {cluster.sessions} && mount -t tmpfs -o size={2 * STORE_BYTES} tmpfs /dev/shm"
        arguments = [*cluster.node_words, f"--address={cluster.address}", f"--node-ip-address={self.ip}", "--block"]
        arguments += [f"--num-cpus={CPUS}", f"--num-gpus={GPUS}", f"--object-store-memory={STORE_BYTES}"]
        arguments += ["--include-log-monitor=false", f"--labels=machine={self.name}"]
        self.log = cluster.folder / f"{self.name}.txt"
        # `ip netns exec` gives it a mount namespace as well.
        command = [*inside, "sh", "-c", f'{own} && exec "$@"', "sh", RAY, *arguments]
        self._start = partial(_ray_start, command, cluster.environment, self.log)
        self.process = self._start()

    def wait(self):
        """Until it has joined the cluster."""
        self.process = _started(self.process, self._start, self.log)

    def pids(self):
        """Everything that runs on it."""
        done = subprocess.run(["ip", "netns", "pids", self.name], capture_output=True, text=True)
        return [int(line) for line in done.stdout.split()]

    def commands(self):
        """(process id, command line) of each of them."""
        for pid in self.pids():
            try:
                yield pid, Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue  # it ended while we looked

    def node_id(self):
        """Ray's name for it."""
        raylet = next(command for _, command in self.commands() if "raylet/raylet" in command)
        return re.search(r"--node_id=(\w+)", raylet)[1]

    def power_off(self):
        """All processes at once, as a machine whose power fails; the cable first, so that nobody says goodbye."""
        self.cut()
        for pid in self.pids():
            _signal(pid, signal.SIGKILL)
        gone([self.process.pid])
        self.process.wait()

    def remove(self):
        self.power_off()
        subprocess.run(["ip", "netns", "del", self.name], capture_output=True)
        subprocess.run(["ip", "link", "del", self.link], capture_output=True)

    def cut(self):
        subprocess.run(["ip", "link", "set", self.link, "down"], capture_output=True)

    def heal(self):
        subprocess.run(["ip", "link", "set", self.link, "up"], capture_output=True)


class Machines:
    """A head on this host, which trains nothing, and nodes. `environment` is what a driver needs to join.

    `head_words`, `node_words`: what is said to `ray` before what makes it fit on one machine; the last word counts.
    """

    def __init__(self, folder, num_nodes, head_words=("start", "--head"), node_words=("start",)):
        self.folder = Path(folder)
        self.head_words, self.node_words = head_words, node_words
        self.prefix = f"dc{os.getpid() % 100_000}"
        self.subnet = f"10.{64 + os.getpid() % 64}.{os.getpid() // 64 % 256}"
        self.bridge = f"{self.prefix}br"
        self.sessions = Path("/tmp", f"dcr{uuid.uuid4().hex[:6]}")  # short: sockets lie below it
        self.port = 20_000 + os.getpid() % 20_000
        self.nodes = []
        self.made = 0
        self.head = None
        _run("ip", "link", "add", self.bridge, "type", "bridge")
        _run("ip", "addr", "add", f"{self.subnet}.1/24", "dev", self.bridge)
        _run("ip", "link", "set", self.bridge, "up")
        self.num_nodes = num_nodes
        self.restart()

    @property
    def address(self):
        return f"{self.subnet}.1:{self.port}"

    @property
    def dashboard_port(self):
        return self.port + 20_000

    @property
    def environment(self):
        return {
            **os.environ,
            "PATH": f"{Path(RAY).parent}:{os.environ['PATH']}",
            "RAY_ADDRESS": self.address,
            "RAY_API_SERVER_ADDRESS": f"http://127.0.0.1:{self.dashboard_port}",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": "0123456789abcdef0123456789abcdef",
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_worker_niceness": "0",  # beside other work on few cores they would hardly run
            "PYTHONUNBUFFERED": "1",
        }

    def start_head(self):
        """The cluster's own services and no room for work, as ray_cluster.yaml has it."""
        self.port += 1
        arguments = [*self.head_words, "--block", f"--node-ip-address={self.subnet}.1", f"--port={self.port}"]
        arguments += ["--num-cpus=0", "--num-gpus=0", f"--object-store-memory={STORE_BYTES}"]
        arguments += ["--include-log-monitor=false"]
        arguments += [f"--dashboard-port={self.dashboard_port}", "--dashboard-host=127.0.0.1"]
        arguments += [f"--dashboard-agent-listen-port={self.port + 21_000}"]
        arguments += [f"--temp-dir={self.sessions}", f"--system-config={json.dumps(HEALTH)}"]
        log = self.folder / f"head-{self.port}.txt"
        environment = {k: v for k, v in self.environment.items() if k != "RAY_ADDRESS"}
        start = partial(_ray_start, [RAY, *arguments], environment, log)
        self.head = _started(start(), start, log)

    def head_pids(self):
        return [self.head.pid, *descendants(self.head.pid)]

    def kill_head(self):
        """Power off; drivers of it run on and have to notice."""
        for pid in self.head_pids():
            _signal(pid, signal.SIGKILL)
        self.head.wait()

    def restart(self):
        """The whole cluster again, as after the loss of its head: new head, new machines."""
        if self.head is not None and self.head.poll() is None:
            self.kill_head()
        for node in list(self.nodes):
            self.lose(node)
        self.start_head()
        for _ in range(self.num_nodes):
            self.add()
        for node in self.nodes:
            node.wait()

    def add(self):
        self.made += 1
        node = Machine(self, self.made)
        self.nodes.append(node)
        return node

    def lose(self, node):
        self.nodes.remove(node)
        node.remove()

    def sweep(self):
        """Takes away machines whose Ray has ended."""
        for node in [node for node in self.nodes if node.process.poll() is not None]:
            self.lose(node)

    def stop(self):
        """Everything that was started, and the network it ran in."""
        for node in list(self.nodes):
            self.lose(node)
        if self.head is not None and self.head.poll() is None:
            self.kill_head()
        subprocess.run(["ip", "link", "del", self.bridge], capture_output=True)


class Disk:
    """A small disk of its own (a file, mounted) for the dataset: it can be full, hang or fail."""

    def __init__(self, folder, mebibytes=48):
        self.image = Path(folder, "disk.img")
        self.mount = Path(folder, "disk")
        self.mount.mkdir()
        with self.image.open("wb") as file:
            file.truncate(mebibytes * 2**20)
        _run("mkfs.ext4", "-q", str(self.image))
        _run("mount", "-o", "loop", str(self.image), str(self.mount))
        self.filler = self.mount / "filler"

    def fill(self):
        with self.filler.open("wb") as file:
            try:
                while True:
                    file.write(bytes(2**16))
                    file.flush()
            except OSError:
                pass

    def free(self):
        self.filler.unlink(missing_ok=True)

    def freeze(self):
        """Every write waits, as on a file server that has gone away."""
        _run("fsfreeze", "-f", str(self.mount))

    def thaw(self):
        subprocess.run(["fsfreeze", "-u", str(self.mount)], capture_output=True)

    def fail(self):
        """Every write is an error."""
        deadline_s = time.monotonic() + 20
        while subprocess.run(["mount", "-o", "remount,ro", str(self.mount)], capture_output=True).returncode:
            assert time.monotonic() < deadline_s, "the disk is never idle"
            time.sleep(0.05)  # a file is open for writing

    def mend(self):
        subprocess.run(["mount", "-o", "remount,rw", str(self.mount)], capture_output=True)

    def recover(self):
        """Whatever it was that it had."""
        self.thaw()
        self.mend()
        self.free()

    def close(self):
        self.thaw()
        subprocess.run(["umount", "-l", str(self.mount)], capture_output=True)


def _ray_start(command, environment, log):
    with log.open("w") as sink:
        return subprocess.Popen(command, env=environment, stdout=sink, stderr=subprocess.STDOUT, start_new_session=True)


def _started(process, again, log):
    """The process of a `ray start --block` that runs; started `again` where a busy machine made Ray miss its 30 s."""
    for _ in range(RAY_TRIES):
        while process.poll() is None:
            if "Ray runtime started" in log.read_text():
                return process
            time.sleep(0.2)
        process = again()
    raise RuntimeError(f"Ray does not start:\n{log.read_text()}")


def _signal(pid, signum):
    try:
        os.kill(pid, signum)
    except ProcessLookupError:
        return


def _run(*command):
    subprocess.run(command, check=True, capture_output=True, text=True)
