"""What hardware is, by numbers; and Ray's name of a GPU is Ray's own."""

import subprocess
import sys
from dataclasses import replace

import pytest
from ray._private.accelerators.nvidia_gpu import NvidiaGPUAcceleratorManager
from ray.util.accelerators import accelerators
from speedrun.tracks import medium, small, tiny

from discreteness.cluster.hardware import (
    GPU_KINDS,
    accelerator_type,
    generation,
    is_hopper,
    peak_flop_s,
    worker_cost,
)
from discreteness.cluster.machines import Cluster, Node

NAMES = {
    "NVIDIA H100 80GB HBM3": "H100",
    "NVIDIA H100 PCIe": "H100",
    "NVIDIA H100 NVL": "H100",
    "NVIDIA H200": "H200",
    "NVIDIA GH200 480GB": "GH200",
    "NVIDIA B200": "B200",
    "NVIDIA A100-SXM4-40GB": "A100",
    "NVIDIA A100 80GB PCIe": "A100",
    "A100-SXM4-80GB": "A100-SXM4-80GB",
    "NVIDIA A10G": "A10G",
    "NVIDIA L4": "L4",
    "NVIDIA L40S": "L40S",
    "Tesla T4": "T4",
    "Tesla V100-SXM2-16GB": "V100",
    "Tesla P100-PCIE-16GB": "P100",
    "Tesla K80": "K80",
    "Quadro RTX 6000": "RTX-6000",
    "NVIDIA RTX A6000": "RTX-A6000",
    "NVIDIA RTX 6000 Ada Generation": "RTX-6000",
    "NVIDIA RTX PRO 6000 Blackwell Server Edition": "RTX-PRO-6000",
    "NVIDIA GeForce RTX 4090": "GeForce-RTX-4090",
    "NVIDIA GeForce RTX 4070 Ti SUPER": "GeForce-RTX-4070-Ti-SUPER",
    "GeForce GTX 1080 Ti": "GTX-1080",
    "NVIDIA TITAN RTX": "TITAN-RTX",
    "NVIDIA TITAN V": "TITAN-V",
    "NVIDIA Graphics Device": "Graphics-Device",
    "NVIDIA 7 Series": "7-Series",
    "Orin": "Orin",
    "NVIDIA ": None,
    "": None,
}


@pytest.mark.parametrize("name", NAMES)
def test_the_type_of_a_gpu_is_what_ray_calls_it(name):
    assert accelerator_type(name) == NAMES[name] == NvidiaGPUAcceleratorManager._gpu_name_to_accelerator_type(name)


def test_every_kind_is_one_of_rays_types_where_ray_has_a_constant_for_it():
    rays = {value for name, value in vars(accelerators).items() if name.startswith("NVIDIA_")}
    assert {kind.ray_type for kind in GPU_KINDS} - rays == {"GH200"}  # which Ray only reads from the driver
    assert len({kind.ray_type for kind in GPU_KINDS}) == len(GPU_KINDS)


def test_generations_by_the_major_number_of_the_compute_capability():
    names = ["before Ampere", "Ampere or Ada", "Hopper", "Blackwell", "Blackwell", "unknown generation"]
    assert [generation(major) for major in (7, 8, 9, 10, 12, 99)] == names
    assert [generation(kind.capability[0]) for kind in GPU_KINDS] == ["Ampere or Ada", *["Hopper"] * 3, "Blackwell"]


def test_which_types_are_hopper():
    names = ["H100", "H200", "GH200", "H100-80G"]
    others = ["A100", "B200", "GeForce-RTX-4090", "RTX-6000", None]
    assert [is_hopper(name) for name in (*names, *others)] == [True] * 4 + [False] * 5


def test_the_track_that_fits_the_gpus():
    def cluster(*gpu_types):
        return Cluster(tuple(Node(8.0, 1.0, gpu_type, 10**9) for gpu_type in gpu_types), local=False)

    assert cluster("A100", "H200").track("auto") == cluster("GH200").track("auto") == "small"
    assert Cluster((Node(8.0, 0.0, None, 10**9),), local=True).track("auto") == "tiny"
    assert cluster("GeForce-RTX-4090").track("medium") == "medium"
    with pytest.raises(ValueError, match=r"GPUs are of type \['GeForce-RTX-4090'\], not Hopper; name the track"):
        cluster("GeForce-RTX-4090").track("auto")


def test_the_peak_is_known_for_one_kind_of_known_gpu():
    assert peak_flop_s({"H100"}) == peak_flop_s({"H100", "H200"}) == peak_flop_s({"GH200"}) == 989e12
    assert (peak_flop_s({"A100"}), peak_flop_s({"B200"})) == (312e12, 2250e12)
    assert peak_flop_s({"H100", "A100"}) is None
    assert peak_flop_s({"H100", "RTX-6000"}) is None
    assert peak_flop_s({None}) is peak_flop_s(set()) is peak_flop_s({"RTX-6000"}) is None


def test_what_a_track_takes_of_a_worker():
    """By hand: eight H100 took 87.5 ms for 393,216 tokens and 250 ms for 524,288."""
    assert worker_cost(small).s_per_token == pytest.approx(1.780e-6, rel=1e-3)
    assert worker_cost(medium).s_per_token == pytest.approx(3.815e-6, rel=1e-3)
    assert worker_cost(tiny).s_per_token == 6e-4
    assert [worker_cost(track).gpu_bytes for track in (tiny, small, medium)] == [None, 32e9, 64e9]
    assert worker_cost(replace(small, name="mine")) == worker_cost(small)
    assert worker_cost(replace(tiny, name="mine")) == worker_cost(tiny)


def test_asking_loads_neither_ray_nor_torch():
    code = "import sys; sys.modules['ray'] = sys.modules['torch'] = None; import discreteness.cluster.hardware"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
