"""this machine or cluster + what a run would use -> one line per check: ok, warning or problem, and what to do."""

import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

from speedrun.kernels.capability import FLASH_ATTENTION, FP8_PRODUCTS, HOPPER_MAJOR
from speedrun.tracks import Track, track

from discreteness.cluster.connection import find_cluster, on_each_node
from discreteness.cluster.estimate import layout_of
from discreteness.cluster.hardware import generation, worker_cost
from discreteness.cluster.machines import Cluster
from discreteness.cluster.node_report import NodeReport, report_node
from discreteness.cluster.rays_folder import try_folder, try_store
from discreteness.cluster.rays_token import try_token
from discreteness.cluster.topology import STORE_SHARE
from discreteness.dataset.storage import open_storage
from discreteness.experiment.config import RunConfig

NODE_TIMEOUT_S = 120
"""Time that a node has for its answer, its imports included."""
TOLERANCE = {"bfloat16": 2e-2, "float32": 1e-4}
"""Largest error of attention and its gradients, as a share of the largest value."""
GB = 1e9
ABOUT_MEMORY = "docs/one-gpu.md#memory"


@dataclass(frozen=True)
class Finding:
    """One line. A problem stops a run or makes it wrong; a warning costs time."""

    level: Literal["ok", "warning", "problem"]
    what: str
    text: str

    def __str__(self) -> str:
        return f"{self.level:<8} {self.what:<14} {self.text}"


def diagnose(track_name: str, data: str | None, output: str | None) -> list[Finding]:
    """Checks the cluster that RAY_ADDRESS names, else this machine, for a run with these flags of run_seeds.py."""
    cluster = find_cluster()
    try:
        recipe = track(cluster.track(track_name))
    except ValueError as error:
        return [Finding("problem", "track", str(error))]
    if cluster.local:
        reports, silent = [report_node(recipe, data)], {}
    else:
        answers = on_each_node(report_node, recipe, data, timeout_s=NODE_TIMEOUT_S)
        # Named as in the cluster: two of its nodes may think that they have the same name.
        reports = [replace(answer, host=host) for host, answer in answers.items() if isinstance(answer, NodeReport)]
        silent = {host: answer for host, answer in answers.items() if not isinstance(answer, NodeReport)}
    findings = [Finding("problem", "node", f"{host} does not answer: {error}") for host, error in silent.items()]
    findings += [*of_versions(reports), *of_gpus(reports, recipe), *of_attention(reports, recipe)]
    findings += [*of_object_store(cluster, reports, layout_of(recipe).num_bytes(tied=False)), *of_data(reports, recipe)]
    findings += of_a_start(cluster.nodes[0].object_store_bytes) if cluster.local else of_authentication(os.environ)
    if output is not None:
        findings += of_output(output)
    return findings


def of_versions(reports: Sequence[NodeReport]) -> Iterator[Finding]:
    """What is installed, and that it is the same everywhere: another version may change bits."""
    for report in reports:
        if report.unmet:
            yield Finding("problem", "packages", f"{report.host}: {', '.join(report.unmet)}; run `make install` there")
    for name in reports[0].versions if reports else ():
        hosts: dict[str, list[str]] = {}
        for report in reports:
            hosts.setdefault(report.versions[name], []).append(report.host)
        if len(hosts) > 1:
            each = "; ".join(f"{version} on {', '.join(where)}" for version, where in hosts.items())
            yield Finding("problem", name, f"not the same on all nodes: {each}; install one version everywhere")
        else:
            yield Finding("ok", name, next(iter(hosts)))


def of_gpus(reports: Sequence[NodeReport], recipe: Track) -> Iterator[Finding]:
    """Whether torch sees what the machines have, and whether it is what the track is for."""
    needed_bytes = worker_cost(recipe).gpu_bytes
    for report in reports:
        if report.driver and not report.gpus:
            why = "torch is built without CUDA" if report.cuda is None else f"torch, built for CUDA {report.cuda},"
            way = "install its CUDA build" if report.cuda is None else "sees no GPU: update the driver, or free one"
            yield Finding("problem", "gpu", f"{report.host}: an NVIDIA driver is loaded, but {why}; {way}")
        for gpu in report.gpus:
            yield _of_gpu(report, gpu, recipe, needed_bytes)
    if not any(report.gpus for report in reports):
        way = "use --track tiny, or a machine with Hopper GPUs" if recipe.needs_gpu else "track tiny needs none"
        yield Finding("problem" if recipe.needs_gpu else "ok", "gpu", f"none, and {way}")


def _of_gpu(
    report: NodeReport, gpu: tuple[str, tuple[int, int], int], recipe: Track, needed_bytes: float | None
) -> Finding:
    """One card: whether the track runs on it, with which flags, and whether its memory is enough."""
    name, capability, num_bytes = gpu
    number, fp8 = ".".join(map(str, capability)), capability >= FP8_PRODUCTS
    kind = f"ROCm {report.hip}" if report.hip else f"{generation(capability[0])} ({number}), CUDA {report.cuda}"
    text = f"{report.host}: {name}, {num_bytes / GB:.0f} GB, {kind}"
    level: Literal["ok", "warning", "problem"] = "ok"
    notes = []
    if recipe.needs_gpu and report.hip:
        level = "warning"
        notes.append("nobody has tried an AMD GPU; add --no-fp8, and see the line of attention")
    elif recipe.needs_gpu and capability < FLASH_ATTENTION:
        level = "problem"
        notes.append("no bfloat16 attention; use a GPU from Ampere on, or --track tiny")
    elif recipe.needs_gpu and capability[0] != HOPPER_MAJOR:
        level = "warning"
        notes.append(f"the track runs here with attention {report.attention}, but is tuned for Hopper")
        if recipe.fp8_head and not fp8:
            notes.append("no 8-bit products: add --no-fp8")
    if needed_bytes is not None and num_bytes < needed_bytes:
        level = "warning" if level == "ok" else level
        notes.append(f"the track may take {needed_bytes / GB:.0f} GB; what takes less: {ABOUT_MEMORY}")
    return Finding(level, "gpu", f"{text}: {'; '.join(notes)}" if notes else text)


def of_attention(reports: Sequence[NodeReport], recipe: Track) -> Iterator[Finding]:
    """The backend that would be used, computed and compared."""
    tolerance = TOLERANCE[recipe.dtype]
    for report in reports:
        text = f"{report.host}: {report.attention}, {recipe.dtype}"
        if report.attention_error:
            yield Finding("problem", "attention", f"{text}: {report.attention_error}")
        elif not report.attention_difference <= tolerance:
            off = f"{report.attention_difference:.1e} from the definition, at most {tolerance:.0e} is rounding"
            yield Finding("problem", "attention", f"{text}: {off}; try --attention reference and report it")
        else:
            yield Finding("ok", "attention", f"{text}: {report.attention_difference:.1e} from the definition")


def of_object_store(cluster: Cluster, reports: Sequence[NodeReport], each_bytes: int) -> Iterator[Finding]:
    """Whether one trainer's checkpoints in flight fit into memory, on every node that may hold a trainer."""
    in_flight = RunConfig.max_in_flight
    needed = int(in_flight * each_bytes / STORE_SHARE)
    hosts = {node.host: node for node in cluster.nodes if node.cpus} or {node.host: node for node in cluster.nodes}
    for node in hosts.values():
        store = node.object_store_bytes
        text = (
            f"{node.host}: {store / GB:.2f} GB, a trainer's {in_flight} checkpoints in flight need {needed / GB:.2f} GB"
        )
        way = "a smaller --max-in-flight, or `ray start --object-store-memory`"
        level: Literal["ok", "warning", "problem"] = "ok" if store >= needed else "warning"
        if store < each_bytes / STORE_SHARE:
            level = "problem"
        yield Finding(level, "object store", text if level == "ok" else f"{text}: {way}")
    for report in reports:
        if report.store_error:
            yield Finding("problem", "object store", f"{report.host}: {report.store_error}")
        if report.shm_bytes is None or report.host not in hosts:
            continue
        text = f"{report.host}: /dev/shm {report.shm_bytes / GB:.2f} GB"
        way = "a larger one (docker run --shm-size, in Kubernetes an emptyDir of medium Memory at /dev/shm)"
        if report.shm_bytes < needed:
            yield Finding("problem", "/dev/shm", f"{text}, {needed / GB:.2f} GB needed: Ray takes a disk; mount {way}")
        elif report.shm_bytes < hosts[report.host].object_store_bytes:
            yield Finding(
                "warning", "/dev/shm", f"{text}, less than the object store: Ray may take a disk; mount {way}"
            )
        else:
            yield Finding("ok", "/dev/shm", text)


def of_data(reports: Sequence[NodeReport], recipe: Track) -> Iterator[Finding]:
    """Whether each node, the driver's included, has the same shards, and enough of them."""
    for report in reports:
        text = f"{report.host}: {report.shards} shards, {report.train_tokens} training tokens"
        if report.data_error:
            yield Finding("problem", "data", f"{report.host}: {report.data_error}")
        elif not report.shards:
            yield Finding("ok", "data", f"{report.host}: the shards of track {recipe.name} are made on first use")
        elif report.shortage:
            yield Finding("problem", "data", f"{report.host}: {report.shortage}")
        elif report.val_tokens <= recipe.data.val_tokens:
            short = f"the first validation shard has {report.val_tokens} tokens, {recipe.data.val_tokens + 1} are read"
            yield Finding("problem", "data", f"{report.host}: {short}: fetch it again, or give --val-tokens")
        else:
            yield Finding("ok", "data", text)
    if len({report.data_hash for report in reports if report.data_hash}) > 1:
        each = "; ".join(f"{report.host} {report.data_hash[:12]}" for report in reports)
        yield Finding("problem", "data", f"the shards are not the same on all nodes: {each}; copy them from one")


def of_a_start(store_bytes: int) -> Iterator[Finding]:
    """What a Ray that is started here needs, tried: its token, its folder with a socket, its object store."""
    for what, attempt in (
        ("ray token", try_token),
        ("ray folder", try_folder),
        ("object store", partial(try_store, store_bytes)),
    ):
        try:
            yield Finding("ok", what, attempt())
        except OSError as error:
            yield Finding("problem", what, str(error))


def of_authentication(environment: "os._Environ[str] | dict[str, str]") -> Iterator[Finding]:
    """Whether a client of Ray's ports needs the token."""
    if environment.get("RAY_AUTH_MODE") == "token":
        yield Finding("ok", "ray token", "on")
    else:
        yield Finding(
            "warning", "ray token", "RAY_AUTH_MODE is not token: anyone who can reach Ray's ports can run code there"
        )


def of_output(output: str) -> Iterator[Finding]:
    """Whether the dataset can be written there, and the free space of a disk."""
    try:
        storage = open_storage(output)
        if folder := storage.check_writable():
            free = shutil.disk_usage(folder).free
            yield Finding("ok", "output", f"{folder} can be written, {free / GB:.1f} GB free")
        else:
            yield Finding("ok", "output", f"{storage.uri} can be written, read and deleted from")
        yield from of_letters(storage.uri, sys.stdout.encoding)
    except (ValueError, OSError) as error:
        text = " ".join(str(error).split())
        yield Finding("problem", "output", f"{text}; give an --output that this machine may write")


def of_letters(uri: str, encoding: str) -> Iterator[Finding]:
    """How a dataset with other than ASCII letters in its name is shown. Nothing depends on it."""
    if not uri.isascii():
        yield Finding("ok", "label", f"metrics show {uri.encode('ascii', 'backslashreplace').decode()}")
        if uri.encode(encoding, "replace").decode(encoding) != uri:
            yield Finding("warning", "terminal", f"{encoding} lacks letters of {uri}; set PYTHONIOENCODING=utf-8")
