"""matrices -> their nearly orthogonal factors: singular values come out near 1 (Polar Express, arXiv 2505.16932).

Shape legend: n matrices of R rows and C columns.
"""

import torch
from torch import Tensor

# (a, b, c) of five iterations, generated for a safety factor of 0.02 and a cushion of 2.
POLAR_COEFFICIENTS = (
    (8.156554524902461, -22.48329292557795, 15.878769915207462),
    (4.042929935166739, -2.808917465908714, 0.5000178451051316),
    (3.8916678022926607, -2.772484153217685, 0.5060648178503393),
    (3.285753657755655, -2.3681294933425376, 0.46449024233003106),
    (2.3465413258596377, -1.7097828382687081, 0.42323551169305323),
)


def polar_express(u: Tensor, dtype: torch.dtype, symmetric: bool = False) -> Tensor:
    """Nearly orthogonal factor of each matrix, (n, R, C) of `dtype`. A zero matrix stays zero.

    u: (n, R, C). Normalised in its own dtype, iterated in `dtype`. symmetric: see `iterate`.
    """
    return iterate(normalise(u, dtype), symmetric)


def normalise(u: Tensor, dtype: torch.dtype) -> Tensor:
    """Each matrix with a Frobenius norm, and so all its singular values, below 1."""
    norm = torch.linalg.vector_norm(u, dim=(-2, -1), keepdim=True)
    return (u / (1.02 * norm + 1e-6)).to(dtype)


def iterate(x: Tensor, symmetric: bool) -> Tensor:
    """x <- a x + (b A + c A^2) x with A = x x^T of the shorter side, five times.

    symmetric: compute only half of A and of its polynomial (symmetric.py), if the shape fits; x is on a GPU.
    """
    product = plain_product
    if symmetric:
        from speedrun.kernels.symmetric import fits, symmetric_product  # Triton is there only beside CUDA

        product = symmetric_product if fits(x) else plain_product
    tall = x.size(-2) > x.size(-1)
    for a, b, c in POLAR_COEFFICIENTS:
        gram = product(x.mT if tall else x)
        polynomial = product(gram, gram, b, c)
        # Symmetric, so a tall matrix takes it from the right: nothing is ever transposed in memory.
        x = torch.baddbmm(x, x, polynomial, beta=a) if tall else torch.baddbmm(x, polynomial, x, beta=a)
    return x


def plain_product(x: Tensor, addend: Tensor | None = None, beta: float = 0.0, alpha: float = 1.0) -> Tensor:
    """beta addend + alpha x x^T of each matrix, computed whole."""
    if addend is None:
        return x @ x.mT
    return torch.baddbmm(addend, x, x.mT, beta=beta, alpha=alpha)
