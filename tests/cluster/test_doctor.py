"""The doctor: what each finding is made from, whole and broken; and the command on this machine."""

import os
import re
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from speedrun.data.shards import write_shard
from speedrun.tracks import small, tiny

from discreteness.cluster import doctor, node_report, rays_folder
from discreteness.cluster.doctor import (
    ABOUT_MEMORY,
    of_a_start,
    of_attention,
    of_authentication,
    of_data,
    of_gpus,
    of_letters,
    of_object_store,
    of_output,
    of_versions,
)
from discreteness.cluster.estimate import layout_of
from discreteness.cluster.machines import Cluster, Node
from discreteness.cluster.node_report import attention_difference, report_node
from tests.conftest import ROOT

HERE = doctor.NodeReport(
    host="a",
    versions={"python": "3.12.1", "torch": "2.13.0"},
    unmet=(),
    gpus=(("NVIDIA H100", (9, 0), 80 * 10**9),),
    cuda="13.0",
    hip=None,
    driver=True,
    shm_bytes=64 * 10**9,
    store_error="",
    attention="varlen",
    attention_difference=0.004,
    attention_error="",
    shards=3,
    train_tokens=10**9,
    val_tokens=2 * 10**7,
    shortage="",
    data_hash="aa",
    data_error="",
)


def levels(findings):
    return [finding.level for finding in findings]


def only(findings):
    (finding,) = findings
    return finding


def test_versions_must_be_equal_everywhere():
    other = replace(HERE, host="b", versions={"python": "3.12.1", "torch": "2.11.0"})
    assert levels(of_versions([HERE, replace(HERE, host="b")])) == ["ok", "ok"]
    python, torch_finding = of_versions([HERE, other])
    assert (python.level, torch_finding.level) == ("ok", "problem")
    assert "2.13.0 on a; 2.11.0 on b" in torch_finding.text
    unmet = next(iter(of_versions([replace(HERE, unmet=("torch is 2.4, needed: >=2.11",))])))
    assert unmet.level == "problem" and "torch is 2.4" in unmet.text and "make install" in unmet.text


def test_gpus_and_their_generation():
    def with_gpu(capability, num_bytes=80 * 10**9):
        return replace(HERE, gpus=(("GPU", capability, num_bytes),))

    assert only(of_gpus([HERE], small)).text == "a: NVIDIA H100, 80 GB, Hopper (9.0), CUDA 13.0"
    little = 24 * 10**9
    for report, level, words, no_words in (
        (HERE, "ok", "", "fp8"),
        (with_gpu((8, 0)), "warning", "runs here with attention varlen, but is tuned for Hopper", "may take"),
        (with_gpu((8, 0)), "warning", "no 8-bit products: add --no-fp8", "may take"),
        (with_gpu((8, 9)), "warning", "runs here with attention varlen", "fp8"),
        (with_gpu((12, 0)), "warning", "Blackwell", "fp8"),
        (with_gpu((7, 5)), "problem", "--track tiny", "may take"),
        (with_gpu((9, 0), little), "warning", "may take 32 GB", "tuned"),
        (with_gpu((8, 9), little), "warning", "may take 32 GB", "fp8"),
        (with_gpu((7, 5), little), "problem", "may take 32 GB", "fp8"),
    ):
        finding = only(of_gpus([report], small))
        assert finding.level == level and words in finding.text and no_words not in finding.text, finding
    mixed = replace(HERE, gpus=tuple(("GPU", (9, 0), num_bytes) for num_bytes in (80 * 10**9, little, little)))
    assert levels(of_gpus([mixed], small)) == ["ok", "warning", "warning"], "little memory is said of every card"
    page, _, anchor = ABOUT_MEMORY.partition("#")
    assert f"\n## {anchor}\n" in (ROOT / page).read_text().lower()
    hidden = replace(HERE, gpus=())
    assert levels(of_gpus([hidden], small)) == ["problem", "problem"]
    assert "update the driver" in next(iter(of_gpus([hidden], small))).text
    assert "CUDA build" in next(iter(of_gpus([replace(hidden, cuda=None)], small))).text
    head = replace(hidden, driver=False)
    assert levels(of_gpus([head, HERE], small)) == ["ok"]
    assert levels(of_gpus([head], tiny)) == ["ok"]


def test_an_mi300x_is_not_hopper():
    """AMD counts its own capabilities: that of an MI300X is 9.4."""
    report = replace(HERE, gpus=(("AMD Instinct MI300X", (9, 4), 192 * 10**9),), cuda=None, hip="6.4")
    finding = only(of_gpus([report], small))
    assert finding.text.startswith("a: AMD Instinct MI300X, 192 GB, ROCm 6.4: ") and finding.level == "warning"
    assert "Hopper" not in finding.text and "nobody has tried an AMD GPU" in finding.text
    assert levels(of_gpus([report], tiny)) == ["ok"]


@pytest.mark.parametrize(
    ("name", "capability", "said"), [("NVIDIA A100-SXM4-80GB", (8, 0), True), ("NVIDIA L40S", (8, 9), False)]
)
def test_attention_is_tried_on_a_gpu_without_8_bit_products(monkeypatch, tmp_path, name, capability, said):
    """With the properties of a GPU that is not here; what it would compute stands for itself."""
    properties = SimpleNamespace(name=name, major=capability[0], minor=capability[1], total_memory=80 * 10**9)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: properties)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: name)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    tried = []
    monkeypatch.setattr(node_report, "attention_difference", lambda *asked: tried.append(asked[1:]) or 0.004)
    report = report_node(small, str(tmp_path))
    assert tried == [("varlen", "cuda")] and levels(of_attention([report], small)) == ["ok"]
    findings = list(of_gpus([report], small))
    assert levels(findings) == ["warning", "warning"]
    assert [("--no-fp8" in finding.text) for finding in findings] == [said, said]


def test_attention_that_computes_something_else_is_a_problem():
    assert levels(of_attention([HERE], small)) == ["ok"]
    for wrong in 0.05, float("nan"):
        finding = only(of_attention([replace(HERE, attention_difference=wrong)], small))
        assert finding.level == "problem" and "--attention reference" in finding.text
    finding = only(of_attention([replace(HERE, attention_error="needs a Hopper GPU")], small))
    assert finding.level == "problem" and "Hopper" in finding.text


def test_attention_is_compared_with_its_definition(monkeypatch):
    assert attention_difference(tiny, "reference", "cpu") < 1e-5
    assert 1e-4 < attention_difference(small, "reference", "cpu") < 2e-2  # bfloat16 rounds
    true = node_report.attention
    one_less = torch.tensor(127)
    monkeypatch.setattr(node_report, "attention", lambda *x: true(*x[:5], one_less, *x[6:]))
    assert attention_difference(tiny, "reference", "cpu") > 1e-3, "a window of 127 instead of 128 must show"


def test_memory_of_the_object_store():
    each = 540 * 10**6  # 8 in flight below 60 % of the store: 7.2 GB

    def of(store_gb, shm_gb):
        node = Node(cpus=8, gpus=1, gpu_type="H100", object_store_bytes=int(store_gb * 1e9), host="a")
        report = replace(HERE, shm_bytes=None if shm_gb is None else int(shm_gb * 1e9))
        return list(of_object_store(Cluster((node,), local=False), [report], each))

    assert levels(of(20, 64)) == ["ok", "ok"] and levels(of(20, None)) == ["ok"]
    assert levels(of(20, 10)) == ["ok", "warning"]
    findings = of(20, 0.064)  # what docker gives
    assert levels(findings) == ["ok", "problem"] and "--shm-size" in findings[1].text
    assert levels(of(5, 64)) == ["warning", "ok"]
    findings = of(0.5, 64)
    assert findings[0].level == "problem" and "--max-in-flight" in findings[0].text
    head = Node(cpus=0, gpus=0, gpu_type=None, object_store_bytes=1, host="head")
    rich, poor = (Node(8, 8, "H100", gb * 10**9, host) for host, gb in (("rich", 20), ("poor", 1)))
    reports = [replace(HERE, host=host) for host in ("head", "rich", "poor")]
    findings = list(of_object_store(Cluster((head, rich, poor), local=False), reports, each))
    assert [(finding.level, finding.text.partition(":")[0]) for finding in findings] == [
        ("ok", "rich"),
        ("warning", "poor"),
        ("ok", "rich"),
        ("ok", "poor"),
    ], "a head that holds no trainer needs no store"
    assert 4e8 < layout_of(small).num_bytes(tied=False) < 6e8


def test_data_must_be_there_be_enough_and_be_the_same():
    assert levels(of_data([HERE, replace(HERE, host="b")], small)) == ["ok", "ok"]
    for change, words in (
        ({"data_error": "no shard matches 'x'"}, "no shard matches"),
        ({"shortage": "a seed of track small needs 9 tokens: add shards"}, "a: a seed of track small needs 9 tokens"),
        ({"val_tokens": 10485760}, "10485761"),
    ):
        finding = only(of_data([replace(HERE, **change)], small))
        assert finding.level == "problem" and words in finding.text
    finding = list(of_data([HERE, replace(HERE, host="b", data_hash="bb")], small))[-1]
    assert finding.level == "problem" and "a aa; b bb" in finding.text
    made = only(of_data([replace(HERE, shards=0, data_hash="")], tiny))
    assert made.level == "ok" and "first use" in made.text


def write_shards(root, *sizes):
    folder = root / "data" / "fineweb10B"
    folder.mkdir(parents=True)
    for kind, size in sizes:
        write_shard(folder / f"fineweb_{kind}_{size:06d}.bin", np.full(size, 50256))
    return folder


def test_this_machine_reports_its_shards(tmp_path):
    empty = report_node(small, str(tmp_path))
    assert "no shard matches" in empty.data_error and empty.shards == 0
    folder = write_shards(tmp_path, ("train", 3000), ("train", 2000), ("val", 1000))
    report = report_node(small, str(tmp_path))
    assert (report.shards, report.train_tokens, report.val_tokens, report.data_error) == (3, 5000, 1000, "")
    assert report.shortage.startswith("a seed of track small needs 487,587,840 training tokens for 1,840 updates")
    (folder / "fineweb_train_002000.bin").write_bytes(b"x" * 2000)
    assert "002000.bin has magic" in report_node(small, str(tmp_path)).data_error
    assert report.versions["torch"] == torch.__version__.partition("+")[0] or report.versions["torch"]


def test_the_token_and_the_output(tmp_path):
    assert levels(of_authentication({})) == ["warning"]
    assert levels(of_authentication({"RAY_AUTH_MODE": "token"})) == ["ok"]
    before = sorted(tmp_path.iterdir())
    assert "GB free" in only(of_output(str(tmp_path / "deep" / "set"))).text
    assert sorted(tmp_path.iterdir()) == before, "looking leaves nothing behind"
    (tmp_path / "file").write_text("x")
    for place in tmp_path / "file" / "set", "ftp://host/x", "/proc/nowhere":
        finding = only(of_output(os.fspath(place)))
        assert finding.level == "problem" and "--output" in finding.text


def test_what_a_ray_of_our_own_needs_is_tried(short_folder, tmp_path, monkeypatch):
    for name in "HOME", "RAY_TMPDIR":
        monkeypatch.setenv(name, str(short_folder))
    assert levels(of_a_start(10**8)) == ["ok", "ok", "ok"] and not list(short_folder.iterdir())
    assert [finding.what for finding in of_a_start(10**8)] == ["ray token", "ray folder", "object store"]
    (tmp_path / "file").write_text("x")
    for name in "HOME", "RAY_TMPDIR":
        monkeypatch.setenv(name, str(tmp_path / "file"))
    findings = list(of_a_start(10**6))
    assert levels(findings) == ["problem", "problem", "problem"]
    for finding, way in zip(findings, ("RAY_AUTH_TOKEN_PATH", "RAY_TMPDIR=DIR", "RAY_TMPDIR=DIR"), strict=True):
        assert way in finding.text and "\n" not in finding.text


def test_a_node_tries_its_shared_memory(monkeypatch, tmp_path):
    """Whatever the size of what is mounted there: a file stands for one that cannot be written."""
    (tmp_path / "shm").write_text("x")
    monkeypatch.setattr(rays_folder.allowance, "SHARED_MEMORY", tmp_path / "shm")
    report = report_node(tiny, None)
    assert f"no object store can be made in {tmp_path / 'shm'} (Not a folder)" in report.store_error
    here = Cluster((Node(2, 0, None, 10**9, report.host),), local=False)
    assert ("problem", report.store_error) in [
        (finding.level, finding.text.partition(": ")[2]) for finding in of_object_store(here, [report], 10**6)
    ]


def test_other_letters_are_said_to_be_shown_otherwise():
    assert levels(of_letters("/runs/e", "ascii")) == []
    assert only(of_letters("/runs/é", "utf-8")).text == "metrics show /runs/\\xe9"
    label, terminal = of_letters("/runs/é", "ascii")
    assert (label.level, terminal.level) == ("ok", "warning") and "PYTHONIOENCODING" in terminal.text


def test_the_folder_of_a_corpus_is_tried_before_its_first_use(tmp_path):
    (tmp_path / "file").write_text("x")
    assert report_node(tiny, str(tmp_path)).data_error == ""
    assert "Not a folder" in report_node(tiny, str(tmp_path / "file" / "data")).data_error


def test_the_command(program, tmp_path):
    good = program("-m", "discreteness", "doctor", "--track", "tiny", "--output", tmp_path / "set")
    bad = program("-m", "discreteness", "doctor", "--track", "small", "--data", tmp_path)
    assert good.wait() == 0, good.output
    assert good.output.rstrip().endswith("0 problems, 0 warnings")
    for what in "python", "torch", "gpu", "attention", "object store", "data", "ray token", "ray folder", "output":
        assert any(what in line[:25] for line in good.output.splitlines()), what
    assert bad.wait() == 1, bad.output
    assert "no shard matches" in bad.output


IN_A_CLUSTER = """
import os, sys
from ray.cluster_utils import Cluster
from discreteness.cluster.doctor import diagnose

folder, older = sys.argv[1:]

def store_and_data(num_bytes, data, **others):
    return {"object_store_memory": num_bytes, "env_vars": {"DATA_PATH": f"{folder}/{data}", **others}}

cluster = Cluster(True, head_node_args={"num_cpus": 0, **store_and_data(80 << 20, "head")})
poor = cluster.add_node(num_cpus=1, **store_and_data(80 << 20, "none"))
old = cluster.add_node(num_cpus=1, **store_and_data(1 << 30, "other", PYTHONPATH=older))
print(*(node.node_id[:8] for node in (cluster.head_node, poor, old)))
os.environ["RAY_ADDRESS"] = cluster.address
print(*diagnose("small", None, None), sep="\\n")
"""


@pytest.mark.ray
@pytest.mark.slow
def test_every_node_of_a_cluster_is_asked_and_named(program, tmp_path):
    """Three nodes: a head, one with a small store and no data, one with another NumPy and other data."""
    for name, size in ("head", 3000), ("other", 2000):
        write_shards(tmp_path / name, ("train", size), ("val", 1000))
    (tmp_path / "none").mkdir()
    package = tmp_path / "packages" / "numpy-1.0.dist-info"
    package.mkdir(parents=True)
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: numpy\nVersion: 1.0\n")
    older = f"{package.parent}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    asked = program("-c", IN_A_CLUSTER, tmp_path, older, RAY_AUTH_MODE="disabled")
    assert asked.wait() == 0, asked.output
    lines = [(line.split()[0], line) for line in asked.output.splitlines() if line.strip()]
    head, poor, old = next(line for _, line in lines if re.fullmatch(r"\w{8} \w{8} \w{8}", line)).split()

    def said(level, *words):
        found = [line for of, line in lines if of == level and all(word in line for word in words)]
        assert len(found) == 1, (level, words, asked.output)
        return found[0]

    versions = said("problem", "numpy", "not the same on all nodes")
    assert f"1.0 on {os.uname().nodename} ({old})" in versions and head in versions and poor in versions
    said("problem", "packages", f"({old}): numpy is 1.0, needed: ")
    said("ok", "torch ")
    said("problem", "object store", f"({poor}): 0.08 GB", "--object-store-memory")
    said("warning", "object store", f"({old}): 1.07 GB")
    assert not [line for _, line in lines if "object store" in line[:25] and head in line]
    said("problem", "data", f"({poor}): no shard matches")
    different = said("problem", "the shards are not the same on all nodes")
    assert head in different and old in different


@pytest.mark.parametrize("name", ["large", "tests.support.quick_track:none"])
def test_a_track_that_is_none_is_a_finding(name):
    finding = only(doctor.diagnose(name, None, None))
    assert finding.level == "problem" and name in finding.text
