"""The reference against a dense masked softmax; the operators under torch.compile; choosing and loading backends."""

import hashlib
import inspect
import json
import lzma
import sys
import types

import pytest
import torch
from huggingface_hub import close_session, get_session
from hypothesis import given, settings
from hypothesis import strategies as st
from speedrun import least_rate
from speedrun.kernels import flash_attention as flash
from speedrun.kernels.backends import check_backend, resolve_backend
from speedrun.model.attention import attention, banded_attention, reference_attention
from torch._dynamo.backends.common import aot_autograd
from torch._functorch.aot_autograd import make_boxed_func

from discreteness.dataset.reader import open as open_reader
from discreteness.dataset.runs_file import LIBRARIES
from tests.conftest import ROOT
from tests.support import skips
from tests.support.flash3_on_cpu import BUILT, kernel
from tests.support.hub_server import HubServer


def dense_attention(q, k, v, cu_seqlens, window, scale):
    """Every pair of positions, one explicit mask: the definition."""
    position = torch.arange(q.shape[0])
    document = torch.empty_like(position)
    for number, (start, stop) in enumerate(zip(cu_seqlens[:-1].tolist(), cu_seqlens[1:].tolist(), strict=True)):
        document[start:stop] = number
    distance = position[:, None] - position[None, :]
    allowed = (distance >= 0) & (distance <= window) & (document[:, None] == document[None, :])
    scores = torch.einsum("qhd,khd->hqk", q, k) * scale
    weights = scores.masked_fill(~allowed, float("-inf")).softmax(-1)
    return torch.einsum("hqk,khd->qhd", weights, v)


def offsets(lengths):
    return torch.tensor([0, *torch.tensor(lengths).cumsum(0).tolist()], dtype=torch.int32)


def random_qkv(num_tokens, seed=0, width=8):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(3, num_tokens, 2, width, generator=generator, dtype=torch.float64).unbind()


def at_run_time(max_seqlen, window, scale):
    return torch.tensor(max_seqlen), torch.tensor(window), torch.tensor(scale, dtype=torch.float64)


def reference(q, k, v, cu_seqlens, max_seqlen, window, scale):
    return attention(q, k, v, cu_seqlens, *at_run_time(max_seqlen, window, scale), "reference", True)


@settings(deadline=None, max_examples=80)
@given(
    lengths=st.lists(st.integers(0, 200), min_size=1, max_size=6).filter(sum),
    window=st.integers(0, 700),
    seed=st.integers(0, 100),
)
def test_equals_the_dense_softmax(lengths, window, seed):
    """Values and gradients."""
    cu_seqlens = offsets(lengths)
    results = []
    for compute in (
        lambda *x: reference(*x, cu_seqlens, max(lengths), window, 0.3),
        lambda *x: dense_attention(*x, cu_seqlens, window, 0.3),
    ):
        inputs = [x.requires_grad_() for x in random_qkv(sum(lengths), seed)]
        y = compute(*inputs)
        y.square().sum().backward()
        results.append([y.detach(), *(x.grad for x in inputs)])
    torch.testing.assert_close(*results, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("window", [3, 64, 100, 511, 512, 513, 900])
def test_block_borders_do_not_show(window):
    """One document of 1300 tokens, longer than two of the largest blocks."""
    q, k, v = random_qkv(1300)
    cu_seqlens = offsets([1300])
    actual = banded_attention(q, k, v, cu_seqlens, window, 0.1)
    torch.testing.assert_close(actual, dense_attention(q, k, v, cu_seqlens, window, 0.1), rtol=1e-11, atol=1e-12)


def test_derivatives_are_those_of_differences():
    q, k, v = (x.requires_grad_() for x in random_qkv(9))
    cu_seqlens = offsets([4, 0, 5, 0, 0])
    assert torch.autograd.gradcheck(lambda *x: reference(*x, cu_seqlens, 5, 2, 0.5), (q, k, v))


def test_half_precision_gradients_are_rounded_once():
    """bfloat16 inputs: as float32 arithmetic would give, then rounded."""
    wide = [x.bfloat16().float().requires_grad_() for x in random_qkv(100)]
    half = [x.detach().bfloat16().requires_grad_() for x in wide]
    for inputs in (wide, half):
        reference(*inputs, offsets([60, 40]), 60, 20, 0.3).sum().backward()
    for x, y in zip(half, wide, strict=True):
        assert x.grad.dtype == torch.bfloat16
        torch.testing.assert_close(x.grad.float(), y.grad, rtol=2**-8, atol=1e-5)


def test_window_counts_the_keys_before_the_query():
    """Window 2 and equal scores: the mean of the last three values."""
    value = torch.arange(6.0).view(6, 1, 1)
    zeros = torch.zeros(6, 1, 1)
    y = reference(zeros, zeros, value, offsets([6]), 6, 2, 1.0)
    torch.testing.assert_close(y.flatten(), torch.tensor([0.0, 0.5, 1.0, 2.0, 3.0, 4.0]))


def test_documents_do_not_see_each_other():
    q, k, v = random_qkv(50)
    packed = reference(q, k, v, offsets([20, 30]), 30, 100, 0.3)
    alone = reference(q[20:], k[20:], v[20:], offsets([30]), 30, 100, 0.3)
    torch.testing.assert_close(packed[20:], alone, rtol=1e-12, atol=1e-13)


def views():
    """Of one buffer, as the model passes q, k and v."""
    return [x.requires_grad_() for x in torch.randn(40, 6, 8).split(2, dim=1)]


def test_the_reference_is_a_sound_operator():
    torch.library.opcheck(reference_attention, (*views(), offsets([25, 15, 0]), *at_run_time(25, 7, 0.2)))


class StandIn:
    """In place of the flash kernels: numbers that show which window, scale and longest document arrived."""

    def forward(self, q, k, v, cu_seqlens, longest, window, scale):
        return q * window + k * scale + v * longest, q.new_zeros(q.shape[1], q.shape[0], dtype=torch.float32)

    def backward(self, dy, q, k, v, y, lse, cu_seqlens, longest, window, scale, deterministic):
        assert dy.is_contiguous() and deterministic
        return dy * window, dy * scale, dy * longest


@pytest.fixture
def stand_in(monkeypatch):
    for backend in ("varlen", "flash3"):
        monkeypatch.setattr(flash, f"{backend}_forward", StandIn().forward)
        monkeypatch.setattr(flash, f"{backend}_backward", StandIn().backward)


@pytest.mark.parametrize("backend", ["varlen", "flash3"])
def test_the_flash_operator_is_sound(stand_in, backend):
    reach = offsets([25, 15, 0]), *at_run_time(25, 7, 0.2)
    torch.library.opcheck(flash.flash_attention, (*views(), *reach, backend, True))


def test_a_fixed_order_is_asked_for_one_call_only():
    with flash.fixed_order():
        assert torch.are_deterministic_algorithms_enabled()
        assert not torch.is_deterministic_algorithms_warn_only_enabled()  # the kernel takes that for a no
        assert not torch.empty(3, 1000).isnan().all()  # outputs are not filled first, which costs a pass
    assert not torch.are_deterministic_algorithms_enabled()
    assert torch.utils.deterministic.fill_uninitialized_memory


@pytest.mark.parametrize("backend", ["varlen", "flash3", "reference"])
def test_one_graph_serves_every_window(stand_in, backend):
    """Forward and backward, compiled whole: one graph, and the numbers of the step."""
    graphs = []

    def keep(module, _inputs):
        graphs.append(module)
        return make_boxed_func(module.forward)

    def compute(q, k, v, cu_seqlens, max_seqlen, window, scale):
        return attention(q * 2, k, v, cu_seqlens, max_seqlen, window, scale, backend, True)

    torch._dynamo.reset()
    counting = aot_autograd(fw_compiler=keep)
    compiled = torch.compile(compute, backend=counting, fullgraph=True, dynamic=False)
    for seed, (window, scale, lengths) in enumerate([(3, 0.1, [40]), (7, 0.2, [31]), (11, 0.3, [25])]):
        cu_seqlens = offsets([*lengths, 40 - sum(lengths)])
        results = []
        for function in (compute, compiled):
            inputs = [x.requires_grad_() for x in random_qkv(40, seed)]
            y = function(*inputs, cu_seqlens, *at_run_time(lengths[0], window, scale))
            y.sum().backward()
            results.append([y.detach(), *(x.grad for x in inputs)])
        torch.testing.assert_close(*results, rtol=1e-12, atol=1e-12)
    assert len(graphs) == 2  # one forward, one backward


@pytest.mark.parametrize(
    ("asked", "device", "dtype", "resolved"),
    [
        ("auto", "cuda", torch.bfloat16, "varlen"),
        ("auto", "cuda:1", torch.float16, "varlen"),
        ("auto", "cuda", torch.float32, "reference"),
        ("auto", "cpu", torch.bfloat16, "reference"),
        ("flash3", "cuda", torch.bfloat16, "flash3"),
        ("varlen", "cuda", torch.bfloat16, "varlen"),
        ("reference", "cuda", torch.bfloat16, "reference"),
    ],
)
def test_what_was_asked_is_resolved_without_a_gpu(asked, device, dtype, resolved):
    assert resolve_backend(asked, device, dtype) == resolved
    assert resolve_backend(resolved, torch.device(device), dtype) == resolved


@pytest.mark.parametrize(
    ("asked", "device", "dtype", "message"),
    [
        ("flash2", "cuda", torch.bfloat16, "'flash2': choose auto, flash3, varlen, reference"),
        ("flash3", "cpu", torch.bfloat16, "'flash3' needs a CUDA device .* not cpu .* 'auto'"),
        ("varlen", "cuda", torch.float32, "'varlen' needs .* not cuda and torch.float32: ask for 'reference'"),
    ],
)
def test_what_cannot_be_is_refused(asked, device, dtype, message):
    with pytest.raises(ValueError, match=message):
        resolve_backend(asked, device, dtype)


def test_the_machine_is_asked(monkeypatch):
    check_backend("reference", "cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="torch sees none"):
        check_backend("varlen", "cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "A100")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    check_backend("varlen", "cuda")
    with pytest.raises(ValueError, match=r"Hopper GPU .* A100 has 8\.0: ask for 'varlen'"):
        check_backend("flash3", "cuda")


@pytest.fixture
def unloaded(monkeypatch):
    for variable in (flash.FOLDER_VARIABLE, flash.REVISION_VARIABLE, flash.MOVING_VARIABLE):
        monkeypatch.delenv(variable, raising=False)
    flash.library.cache_clear()
    yield
    flash.library.cache_clear()


@pytest.fixture
def operators():
    """A library that registers what FlashAttention-3 does."""
    library = torch.library.Library("_flash_attn3_0a1b2c", "DEF")
    for name in ("fwd", "bwd", "fwd_combine"):
        library.define(f"{name}(Tensor x) -> Tensor")
    yield torch.ops._flash_attn3_0a1b2c
    library._destroy()


def test_a_folder_is_loaded_without_the_hub(monkeypatch, tmp_path, unloaded, operators):
    """Built library at any depth, packed or not."""
    packed = tmp_path / "_C.so.xz"
    packed.write_bytes(lzma.compress(b"library"))
    flash.unpack([packed], tmp_path / "folder" / "build" / "torch-cuda")
    assert [path.name for path in (tmp_path / "folder").rglob("*.*")] == ["_C.so"]
    loaded = []
    monkeypatch.setattr(torch.ops, "load_library", loaded.append)
    monkeypatch.setenv(flash.FOLDER_VARIABLE, str(tmp_path / "folder"))
    assert flash.loaded_library() is None
    assert flash.flash3() is operators
    assert flash.flash3() is operators
    assert loaded == [str(tmp_path / "folder" / "build" / "torch-cuda" / "_C.so")]
    assert flash.loaded_library() == {
        "source": str(tmp_path / "folder"),
        "sha256": hashlib.sha256(b"library").hexdigest(),
    }


def test_a_folder_without_one_library_is_refused(monkeypatch, tmp_path, unloaded):
    monkeypatch.setenv(flash.FOLDER_VARIABLE, str(tmp_path))
    with pytest.raises(ValueError, match=r"found no \*\.so\. Either set FLASH_ATTENTION_3 .* 'varlen'"):
        flash.flash3()
    for variant in ("torch29", "torch210"):
        flash.unpack([__file__], tmp_path / variant)
        (tmp_path / variant / "test_attention.py").rename(tmp_path / variant / "_C.so")
    with pytest.raises(ValueError, match=r"found torch210/_C\.so, torch29/_C\.so"):
        flash.flash3()


def test_a_library_that_is_none_is_refused(monkeypatch, tmp_path, unloaded):
    (tmp_path / "_C.so").write_bytes(b"not a library")
    monkeypatch.setenv(flash.FOLDER_VARIABLE, str(tmp_path))
    with pytest.raises(ValueError, match=r"cannot be loaded from folder .* \(.*too short\)\. Either set"):
        flash.flash3()


COMMIT = "0123456789abcdef0123456789abcdef01234567"


def old_get_kernel(repo_id, revision=None, version=None):
    return {"repo_id": repo_id, "revision": revision}


def new_get_kernel(repo_id, *, revision=None, version=None, trust_remote_code=False):
    return {"repo_id": repo_id, "revision": revision, "trust_remote_code": trust_remote_code}


@pytest.fixture
def package(monkeypatch, tmp_path):
    """In place of `kernels`, of either version: notes what it is asked and says that this commit lies in the cache."""

    def install(get_kernel, commit=COMMIT):
        asked = []
        close_session()
        folder = tmp_path / "kernels--owner--name" / "snapshots" / commit / "build" / "torch-cuda"
        folder.mkdir(parents=True)
        (folder / "_C.so").write_bytes(b"library")

        def record(*args, **kwargs):
            assert least_rate._watch in get_session().event_hooks["response"], "a download without a least rate"
            asked.append(get_kernel(*args, **kwargs))
            return types.SimpleNamespace(__file__=str(folder / "__init__.py"))

        record.__signature__ = inspect.signature(get_kernel)
        monkeypatch.setitem(sys.modules, "kernels", types.SimpleNamespace(get_kernel=record))
        return asked

    return install


@pytest.mark.parametrize("get_kernel", [old_get_kernel, new_get_kernel])
def test_the_hub_is_asked_as_each_version_wants(monkeypatch, unloaded, operators, package, get_kernel):
    asked = package(get_kernel)
    monkeypatch.setenv(flash.REVISION_VARIABLE, COMMIT)
    assert flash.flash3() is operators
    trust = {"trust_remote_code": True} if get_kernel is new_get_kernel else {}
    assert asked == [{"repo_id": flash.HUB_REPOSITORY, "revision": COMMIT, **trust}]
    digest = hashlib.sha256(b"library").hexdigest()
    assert flash.loaded_library() == {"source": f"{flash.HUB_REPOSITORY}@{COMMIT}", "sha256": digest}


@pytest.mark.parametrize(
    ("revision", "words"),
    [
        (None, r"FLASH_ATTENTION_3_REVISION does not name a commit"),
        ("main", r"REVISION=main is not a commit \(40 hex digits\).*FLASH_ATTENTION_3_ALLOW_MOVING=1"),
        ("v1", r"REVISION=v1 is not a commit"),
        (COMMIT[:12], rf"REVISION={COMMIT[:12]} is not a commit"),
        (f"{COMMIT}0", r"is not a commit"),
    ],
)
def test_what_may_move_is_refused_before_anything_is_asked(monkeypatch, unloaded, package, revision, words):
    asked = package(new_get_kernel)
    if revision:
        monkeypatch.setenv(flash.REVISION_VARIABLE, revision)
    with pytest.raises(ValueError, match=rf"{words}.*Either set FLASH_ATTENTION_3 .*'varlen'"):
        flash.flash3()
    monkeypatch.setenv(flash.MOVING_VARIABLE, "0")
    with pytest.raises(ValueError, match=words):
        flash.flash3()
    assert asked == [] and flash.loaded_library() is None


def test_a_moving_revision_is_loaded_where_that_is_allowed_and_its_commit_is_known(
    monkeypatch, unloaded, operators, package
):
    asked = package(new_get_kernel)
    monkeypatch.setenv(flash.REVISION_VARIABLE, "main")
    monkeypatch.setenv(flash.MOVING_VARIABLE, "1")
    assert flash.flash3() is operators
    assert asked[0]["revision"] == "main"
    assert flash.loaded_library()["source"] == f"{flash.HUB_REPOSITORY}@{COMMIT}"


def test_another_commit_than_the_one_that_was_asked_for_is_refused(monkeypatch, unloaded, operators, package):
    package(new_get_kernel, commit="f" * 40)
    monkeypatch.setenv(flash.REVISION_VARIABLE, COMMIT)
    with pytest.raises(ValueError, match=f"commit {COMMIT} was asked for and {'f' * 40} came"):
        flash.flash3()
    assert flash.loaded_library() is None


def test_no_package_names_the_ways_on(monkeypatch, unloaded):
    monkeypatch.setenv(flash.REVISION_VARIABLE, COMMIT)
    monkeypatch.setitem(sys.modules, "kernels", None)
    with pytest.raises(ValueError, match=r"hub repository .* FLASH_ATTENTION_3 .*pip install kernels.*'varlen'"):
        flash.flash3()


@pytest.fixture
def hub():
    """A hub that has a build for the torch here; its branch main stands at COMMIT."""
    files = {f"{flash.HUB_REPOSITORY}/{path}": content for path, content in kernel().items()}
    with HubServer(files, branches={"main": COMMIT}) as server:
        yield server


def test_a_run_keeps_the_commit_that_was_loaded(program, hub, tmp_path):
    """The real `kernels` package against a hub on this machine; a named commit, and a branch that may move."""
    environment = {"HF_ENDPOINT": hub.endpoint, "HF_HOME": tmp_path / "hub"}
    library = {"source": f"{flash.HUB_REPOSITORY}@{COMMIT}", "sha256": hashlib.sha256(BUILT).hexdigest()}
    quick = ["--track", "tests.support.quick_track:quick", "--attention", "flash3"]
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "one.txt").write_text("one two three")
    inline = ["discreteness", "run", "--inline", *quick, "--seeds", 0, "--checkpoints", "0,20", "--val-tokens", 0]
    inline += ["--documents", tmp_path / "texts", "--output", tmp_path / "set"]
    script = ROOT / "tests/support/flash3_on_cpu.py"
    run = program(script, *inline, PYTHONPATH=ROOT, FLASH_ATTENTION_3_REVISION=COMMIT, **environment)
    assert run.wait(timeout_s=480) == 0, run.output
    metadata = open_reader(tmp_path / "set").runs(0).schema.metadata
    assert json.loads(metadata[LIBRARIES]) == {"flash_attention_3": {"trainer": library, "evaluators": [library]}}
    assert sorted(set(hub.fetched())) == sorted(hub.files)

    environment |= {"PYTHONPATH": f"{ROOT}:{ROOT / 'modded-nanogpt'}", "FLASH_ATTENTION_3_REVISION": "main"}
    alone = program(script, "train_gpt", *quick, cwd=tmp_path, FLASH_ATTENTION_3_ALLOW_MOVING=1, **environment)
    alone.wait_for(f"FlashAttention-3 from {library['source']}, SHA-256 {library['sha256']}\n", timeout_s=480)
    (log,) = (tmp_path / "logs").iterdir()
    assert library["source"] in log.read_text().partition("=" * 100)[2], "the program's own text comes first"


@pytest.mark.skipif(not torch.cuda.is_available(), reason=skips.GPU)
@pytest.mark.parametrize("window", [5, 24, 200])
def test_the_kernel_equals_the_reference(window):
    lengths = [37, 0, 70, 21, 0]
    inputs = [x.bfloat16() for x in random_qkv(128, width=128)]
    results = []
    for device, dtype in (("cuda", torch.bfloat16), ("cpu", torch.float64)):
        leaves = [x.to(device, dtype).requires_grad_() for x in inputs]
        backend = resolve_backend("auto", device, dtype)
        y = attention(*leaves, offsets(lengths).to(device), *at_run_time(70, window, 0.1), backend, True)
        y.square().sum().backward()
        results.append([x.detach().cpu().double() for x in (y, *(leaf.grad for leaf in leaves))])
    torch.testing.assert_close(*results, rtol=3e-2, atol=3e-2)
