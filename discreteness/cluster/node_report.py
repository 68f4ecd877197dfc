"""this machine + a track -> what it is and has, as plain data to compare machines by."""

import platform
import shutil
import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path

import torch
from packaging.requirements import Requirement
from speedrun.data.shards import find_shards, open_shard
from speedrun.data.supply import measure
from speedrun.execution import Execution
from speedrun.model.attention import attention
from speedrun.tracks import Track

from discreteness.cluster.rays_folder import MIN_STORE_BYTES, try_store, try_writing
from discreteness.dataset.identity import identity_hash
from discreteness.experiment.prepare import data_folder
from discreteness.experiment.sources import identity_sources, sources_hash
from discreteness.shards.report import data_identity

COMPARED = ("ray", "torch", "numpy", "pyarrow", "tiktoken")


@dataclass(frozen=True, kw_only=True)
class NodeReport:
    """What one machine says of itself; plain data, made there by `report_node`. An error is its text, "" is none."""

    host: str
    versions: dict[str, str]
    """Of what must be equal on all machines; `code` is a hash of trainer and scoring."""
    unmet: tuple[str, ...]
    """Requirements of the package that are not met."""
    gpus: tuple[tuple[str, tuple[int, int], int], ...]
    """Name, compute capability, bytes of memory."""
    cuda: str | None
    """Version that torch is built for."""
    hip: str | None
    """The same of AMD's, whose capabilities are counted otherwise."""
    driver: bool
    """NVIDIA's driver is loaded."""
    shm_bytes: int | None
    """Of /dev/shm; None where there is none."""
    store_error: str
    """Why no object store could be made here, however small."""
    attention: str
    """Backend that the track's runs use here."""
    attention_difference: float
    attention_error: str
    shards: int
    train_tokens: int
    val_tokens: int
    shortage: str
    """Why a seed's training, by one worker and in one pass, would run out of tokens; "" if it would not."""
    data_hash: str
    data_error: str


def report_node(recipe: Track, data: str | None) -> NodeReport:
    """Runs on the machine that it reports of."""
    versions = {name: metadata.version(name) for name in COMPARED}
    device = "cuda" if torch.cuda.is_available() and recipe.needs_gpu else "cpu"
    execution = Execution().resolved(recipe, device)
    difference, attention_error = 0.0, ""
    try:
        replace(execution, fp8_head=False).check(device)  # attention alone: of 8-bit products the doctor knows
        difference = attention_difference(recipe, execution.attention, device)
    except (ValueError, RuntimeError) as error:
        attention_error = str(error)
    shards: list[Path] = []
    train_tokens = val_tokens = 0
    shortage = data_hash = data_error = ""
    try:
        root = data_folder(data, recipe)
        if not recipe.data.made_on_first_use or (root / "data").exists():
            train, val = find_shards(root, recipe.data.train_glob), find_shards(root, recipe.data.val_glob)
            shards = [*train, *val]
            train_tokens, val_tokens = sum(len(open_shard(path)) for path in train), len(open_shard(val[0]))
            data_hash = identity_hash({"shards": data_identity(shards)})
            shortage = measure(train, recipe, world_size=1).shortage(epochs=1)
        else:
            try_writing(root)
    except (ValueError, OSError) as error:
        data_error = str(error)
    return NodeReport(
        host=socket.gethostname(),
        versions={"python": platform.python_version(), **versions, "code": sources_hash(identity_sources())[:12]},
        unmet=tuple(_unmet()),
        gpus=tuple(_gpu(index) for index in range(torch.cuda.device_count())),
        cuda=torch.version.cuda,
        hip=torch.version.hip,
        driver=Path("/proc/driver/nvidia/version").exists(),
        shm_bytes=shutil.disk_usage("/dev/shm").total if Path("/dev/shm").exists() else None,
        store_error=_store_error(),
        attention=execution.attention,
        attention_difference=difference,
        attention_error=attention_error,
        shards=len(shards),
        train_tokens=train_tokens,
        val_tokens=val_tokens,
        shortage=shortage,
        data_hash=data_hash,
        data_error=data_error,
    )


def attention_difference(recipe: Track, backend: str, device: str) -> float:
    """Largest difference of a backend's attention and gradients from the definition in float64, as a share."""
    heads, width, window, lengths = recipe.model.num_heads, recipe.model.head_dim, 128, (300, 1, 211)
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(3, sum(lengths), heads, width, generator=generator).to(getattr(torch, recipe.dtype))
    scale = width**-0.5
    borders = torch.tensor([0, *torch.tensor(lengths).cumsum(0).tolist()], dtype=torch.int32)
    numbers = torch.tensor(max(lengths)), torch.tensor(window), torch.tensor(scale, dtype=torch.float64)
    computed = _with_gradients(
        values.to(device), lambda q, k, v: attention(q, k, v, borders.to(device), *numbers, backend, True)
    )
    defined = _with_gradients(values.double(), lambda q, k, v: _definition(q, k, v, lengths, window, scale))
    differences = ((x - y).abs().max() / y.abs().max() for x, y in zip(computed, defined, strict=True))
    return max(float(difference) for difference in differences)


def _with_gradients(values: torch.Tensor, function) -> list[torch.Tensor]:  # type: ignore[no-untyped-def]
    inputs = [x.clone().requires_grad_() for x in values.unbind()]
    y = function(*inputs)
    y.double().square().sum().backward()
    return [x.detach().double().cpu() for x in (y, *(x.grad for x in inputs))]


def _definition(q, k, v, lengths: Sequence[int], window: int, scale: float) -> torch.Tensor:  # type: ignore[no-untyped-def]
    """Every pair of positions and one explicit mask."""
    position = torch.arange(len(q))
    document = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    distance = position[:, None] - position[None, :]
    allowed = (distance >= 0) & (distance <= window) & (document[:, None] == document[None, :])
    scores = torch.einsum("qhd,khd->hqk", q, k) * scale
    return torch.einsum("hqk,khd->qhd", scores.masked_fill(~allowed, float("-inf")).softmax(-1), v)


def _gpu(index: int) -> tuple[str, tuple[int, int], int]:
    properties = torch.cuda.get_device_properties(index)
    return properties.name, (properties.major, properties.minor), properties.total_memory


def _store_error() -> str:
    try:
        try_store(MIN_STORE_BYTES)
    except OSError as error:
        return str(error)
    return ""


def _unmet() -> Iterator[str]:
    """Requirements of the installed package that are not met; none where it runs from a checkout or an upload."""
    try:
        requirements = metadata.requires("discreteness") or []
    except metadata.PackageNotFoundError:
        return
    for requirement in map(Requirement, requirements):
        if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            version = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            yield f"{requirement.name} is missing"
            continue
        if not requirement.specifier.contains(version, prereleases=True):
            yield f"{requirement.name} is {version}, needed: {requirement.specifier}"
