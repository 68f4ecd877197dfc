"""The kernel of symmetric products, run by Triton's interpreter in a process of its own."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from tests.support import skips

pytestmark = pytest.mark.skipif(find_spec("triton") is None, reason=skips.TRITON)
CASES = [(2, 48, 32), (3, 32, 64), (1, 16, 16)]


def main() -> None:
    """Blocks of 16: products of each case with contiguous, transposed and cut-out matrices, and their polynomials."""
    from speedrun.kernels import symmetric

    symmetric.BLOCK, symmetric.BLOCK_K = 16, 16
    generator = torch.Generator().manual_seed(0)
    for n, rows, columns in CASES:
        wide = torch.randn(n, rows, columns, generator=generator)
        tall = wide.mT.contiguous().mT
        cut = torch.randn(n, rows + 5, columns + 3, generator=generator)[:, 2 : 2 + rows, 1 : 1 + columns]
        for x in (wide, tall, cut):
            assert symmetric.fits(x.bfloat16()) and not symmetric.fits(x)
            gram = symmetric.symmetric_product(x)
            torch.testing.assert_close(gram, x @ x.mT, rtol=1e-5, atol=1e-5)
            difference = gram - gram.mT
            for first in range(0, rows, 16):  # within a diagonal block the machine's own products decide
                difference[:, first : first + 16, first : first + 16] = 0
            assert not difference.any()
            polynomial = symmetric.symmetric_product(gram, gram, -2.5, 0.5)
            torch.testing.assert_close(polynomial, -2.5 * gram + 0.5 * gram @ gram, rtol=1e-5, atol=1e-3)
    assert not symmetric.fits(torch.zeros(1, 24, 32, dtype=torch.bfloat16))
    with pytest.raises(AssertionError, match="no whole blocks in matrices of 24 x 32"):
        symmetric.symmetric_product(torch.zeros(1, 24, 32))
    print("equal")


def test_products_in_the_interpreter():
    root = Path(__file__).parents[2]
    paths = [str(root), str(root / "modded-nanogpt"), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": os.pathsep.join(paths)}
    run = subprocess.run([sys.executable, __file__], env=environment, capture_output=True, text=True, timeout=600)
    assert run.stdout.strip() == "equal", run.stderr


@pytest.mark.skipif(not torch.cuda.is_available(), reason=skips.GPU)
@pytest.mark.parametrize("shape", [(3, 768, 768), (2, 3072, 768), (2, 768, 3072)])
def test_products_on_a_gpu(shape):
    from speedrun.optim.polar_express import polar_express

    u = torch.randn(shape, generator=torch.Generator().manual_seed(0)).cuda()
    plain, halved = (polar_express(u, torch.bfloat16, symmetric).double() for symmetric in (False, True))
    exact = polar_express(u.double(), torch.float64)
    assert (halved - exact).norm() < 1.1 * (plain - exact).norm()


if __name__ == "__main__":
    main()
