"""The lookup and its gradient against PyTorch's in float64; the Triton kernels under the interpreter."""

import os
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from speedrun.model.lookup import lookup, lookup_gradient

from tests.support import skips

KERNELS = """
import torch
from speedrun.kernels.lookup import BLOCK, sum_by_id

generator = torch.Generator().manual_seed(0)
zipf = (9 * torch.rand(300, generator=generator) ** 3).int()
rare = torch.randint(0, 20, (40,), generator=generator).int()
across = (torch.arange(290) >= 100).int()  # runs whose borders lie inside blocks
aligned = (torch.arange(4 * BLOCK) // (2 * BLOCK)).int()
for ids, num_ids in ((zipf, 12), (rare, 20), (across, 2), (aligned, 3), (rare[:1], 20), (rare[:0], 2)):
    values = torch.randn(len(ids), 12, generator=generator)
    found = sum_by_id(values, ids, ids.argsort(stable=True), num_ids)
    expected = torch.zeros(num_ids, 12, dtype=torch.float64).index_add_(0, ids.long(), values.double())
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)
print("equal")
"""


def random_case(dtype=torch.float64):
    generator = torch.Generator().manual_seed(1)
    table = torch.randn(50, 12, dtype=torch.float64, generator=generator).to(dtype)
    ids = (50 * torch.rand(400, generator=generator) ** 3).int()
    upstream = torch.randn(400, 12, dtype=torch.float64, generator=generator).to(dtype)
    return table.requires_grad_(), ids, upstream


@pytest.mark.parametrize("sorts", [True, False])
def test_equals_embedding(sorts):
    table, ids, upstream = random_case()
    expected = F.embedding(ids, table)
    rows = lookup(table, ids, ids.argsort(stable=True) if sorts else None)
    assert torch.equal(rows, expected)
    (found,) = torch.autograd.grad(rows, table, upstream)
    torch.testing.assert_close(found, *torch.autograd.grad(expected, table, upstream))


def test_half_precision_gradient_is_rounded_once():
    table, ids, upstream = random_case(torch.bfloat16)
    (found,) = torch.autograd.grad(lookup(table, ids, None), table, upstream)
    exact = torch.zeros(50, 12, dtype=torch.float64).index_add_(0, ids, upstream.double())
    assert found.dtype == torch.bfloat16
    assert ((found.double() - exact).abs() <= exact.abs() * 2**-8).all()


def test_gradcheck_and_operator_rules():
    table, ids, upstream = random_case()
    order = ids.argsort(stable=True)
    torch.autograd.gradcheck(lambda table: lookup(table, ids[:30], None), (table,))
    torch.library.opcheck(lookup, (table, ids, order))
    torch.library.opcheck(lookup_gradient, (upstream, ids, order, 50))


def test_one_graph_with_other_ids():
    table, ids, upstream = random_case()
    count = torch._dynamo.testing.CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(lambda *args: lookup(*args).sin(), backend=count, fullgraph=True, dynamic=False)
    for ids_now in (ids, ids.flip(0)):
        order = ids_now.argsort(stable=True)
        (found,) = torch.autograd.grad(compiled(table, ids_now, order), table, upstream)
        (expected,) = torch.autograd.grad(F.embedding(ids_now, table).sin(), table, upstream)
        torch.testing.assert_close(found, expected)
    assert count.frame_count == 1


def test_kernels_under_the_interpreter():
    pytest.importorskip("triton", reason=skips.TRITON)
    environment = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", KERNELS], env=environment, capture_output=True, text=True)
    assert done.stdout == "equal\n", done.stderr
