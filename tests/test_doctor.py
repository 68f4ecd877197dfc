"""The doctor: what each finding is made from, whole and broken; and the command on this machine."""

import os
from dataclasses import replace

import numpy as np
import pytest
import torch
from speedrun.data import write_shard
from speedrun.tracks import small, tiny

from discreteness import doctor
from discreteness.cluster import Cluster, Node
from discreteness.doctor import (
    attention_difference,
    checkpoint_bytes,
    look,
    of_attention,
    of_authentication,
    of_data,
    of_gpus,
    of_object_store,
    of_output,
    of_versions,
)

HERE = doctor.NodeReport(
    host="a",
    versions={"python": "3.12.1", "torch": "2.13.0"},
    unmet=(),
    gpus=(("NVIDIA H100", (9, 0), 80 * 10**9),),
    cuda="13.0",
    driver=True,
    shm_bytes=64 * 10**9,
    attention="varlen",
    attention_difference=0.004,
    attention_error="",
    shards=3,
    train_tokens=10**9,
    val_tokens=2 * 10**7,
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

    assert "Hopper (9.0), 80 GB" in only(of_gpus([HERE], small)).text
    for report, level, way in (
        (HERE, "ok", ""),
        (with_gpu((8, 0)), "warning", "--no-fp8"),
        (with_gpu((7, 5)), "problem", "--track tiny"),
        (with_gpu((9, 0), 24 * 10**9), "warning", "--micro-batch-tokens"),
    ):
        finding = only(of_gpus([report], small))
        assert finding.level == level and way in finding.text
    hidden = replace(HERE, gpus=())
    assert levels(of_gpus([hidden], small)) == ["problem", "problem"]
    assert "update the driver" in next(iter(of_gpus([hidden], small))).text
    assert "CUDA build" in next(iter(of_gpus([replace(hidden, cuda=None)], small))).text
    head = replace(hidden, driver=False)
    assert levels(of_gpus([head, HERE], small)) == ["ok"]
    assert levels(of_gpus([head], tiny)) == ["ok"]


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
    true = doctor.attention
    one_less = torch.tensor(127)
    monkeypatch.setattr(doctor, "attention", lambda *x: true(*x[:5], one_less, *x[6:]))
    assert attention_difference(tiny, "reference", "cpu") > 1e-3, "a window of 127 instead of 128 must show"


def test_memory_of_the_object_store():
    each = 540 * 10**6  # 8 in flight below 60 % of the store: 7.2 GB

    def of(store_gb, shm_gb):
        node = Node(cpus=8, gpus=1, gpu_type="H100", object_store_bytes=int(store_gb * 1e9))
        report = replace(HERE, shm_bytes=None if shm_gb is None else int(shm_gb * 1e9))
        return list(of_object_store(Cluster((node,), local=False), [report], each))

    assert levels(of(20, 64)) == ["ok", "ok"] and levels(of(20, None)) == ["ok"]
    assert levels(of(20, 10)) == ["ok", "warning"]
    findings = of(20, 0.064)  # what docker gives
    assert levels(findings) == ["ok", "problem"] and "--shm-size" in findings[1].text
    assert levels(of(5, 64)) == ["warning", "ok"]
    findings = of(0.5, 64)
    assert findings[0].level == "problem" and "--max-in-flight" in findings[0].text
    assert 4e8 < checkpoint_bytes(small) < 6e8


def test_data_must_be_there_be_enough_and_be_the_same():
    assert levels(of_data([HERE, replace(HERE, host="b")], small)) == ["ok", "ok"]
    for change, words in (
        ({"data_error": "no shard matches 'x'"}, "no shard matches"),
        ({"train_tokens": 10**6}, "fetch more shards"),
        ({"val_tokens": 10485760}, "10485761"),
    ):
        finding = only(of_data([replace(HERE, **change)], small))
        assert finding.level == "problem" and words in finding.text
    finding = list(of_data([HERE, replace(HERE, host="b", data_hash="bb")], small))[-1]
    assert finding.level == "problem" and "a aa; b bb" in finding.text
    made = only(of_data([replace(HERE, shards=0, data_hash="")], tiny))
    assert made.level == "ok" and "first use" in made.text


def test_this_machine_reports_its_shards(tmp_path):
    empty = look(small, str(tmp_path))
    assert "no shard matches" in empty.data_error and empty.shards == 0
    for kind, size in ("train", 3000), ("train", 2000), ("val", 1000):
        folder = tmp_path / "data" / "fineweb10B"
        folder.mkdir(parents=True, exist_ok=True)
        write_shard(folder / f"fineweb_{kind}_{size:06d}.bin", np.full(size, 50256))
    report = look(small, str(tmp_path))
    assert (report.shards, report.train_tokens, report.val_tokens, report.data_error) == (3, 5000, 1000, "")
    (folder / "fineweb_train_002000.bin").write_bytes(b"x" * 2000)
    assert "002000.bin has magic" in look(small, str(tmp_path)).data_error
    assert report.versions["torch"] == torch.__version__.partition("+")[0] or report.versions["torch"]


def test_the_token_and_the_output(tmp_path):
    joined = Cluster((), local=False)
    assert levels(of_authentication(joined, {})) == ["warning"]
    assert levels(of_authentication(joined, {"RAY_AUTH_MODE": "token"})) == ["ok"]
    before = sorted(tmp_path.iterdir())
    assert "GB free" in only(of_output(str(tmp_path / "deep" / "set"))).text
    assert sorted(tmp_path.iterdir()) == before, "looking leaves nothing behind"
    (tmp_path / "file").write_text("x")
    for place in tmp_path / "file" / "set", "ftp://host/x", "/proc/nowhere":
        finding = only(of_output(os.fspath(place)))
        assert finding.level == "problem" and "--output" in finding.text


def test_the_command(program, tmp_path):
    good = program("-m", "discreteness", "doctor", "--track", "tiny", "--output", tmp_path / "set")
    bad = program("-m", "discreteness", "doctor", "--track", "small", "--data", tmp_path)
    assert good.wait(120) == 0, good.output
    assert good.output.rstrip().endswith("0 problems, 0 warnings")
    for what in "python", "torch", "gpu", "attention", "object store", "data", "ray token", "output":
        assert any(what in line[:25] for line in good.output.splitlines()), what
    assert bad.wait(120) == 1, bad.output
    assert "no shard matches" in bad.output


@pytest.mark.parametrize("name", ["large", "tests.quick_track:none"])
def test_a_track_that_is_none_is_a_finding(name):
    finding = only(doctor.examine(name, None, None))
    assert finding.level == "problem" and name in finding.text
