"""gradients of the weight matrices -> orthogonalised, row-normalised updates (NorMuon).

Muon (kellerjordan.github.io/posts/muon) with Polar Express (arXiv 2505.16932), the row normalisation of
NorMuon (arXiv 2510.05491) and cautious weight decay (arXiv 2510.12402), as in the modded-nanogpt record of
2026-01-04.
Shape legend: n matrices of R rows and C columns.
"""

import math

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import Parameter

from speedrun.collectives import Ranks
from speedrun.tracks import MatrixGroup, OptimizerConfig

# (a, b, c) of five iterations, generated for a safety factor of 0.02 and a cushion of 2.
POLAR_COEFFICIENTS = (
    (8.156554524902461, -22.48329292557795, 15.878769915207462),
    (4.042929935166739, -2.808917465908714, 0.5000178451051316),
    (3.8916678022926607, -2.772484153217685, 0.5060648178503393),
    (3.285753657755655, -2.3681294933425376, 0.46449024233003106),
    (2.3465413258596377, -1.7097828382687081, 0.42323551169305323),
)
SQUARES_LABEL = "attn"  # stored as (4D, D), but Q, K, V and O are orthogonalised one by one
MIXED_RANKS = 8  # world size of the record, whose matrices then come out even


def polar_express(u: Tensor, dtype: torch.dtype) -> Tensor:
    """Nearly orthogonal factor of each matrix, (n, R, C) of `dtype`: singular values come out near 1.

    u: (n, R, C). Normalised in its own dtype, iterated in `dtype`. A zero matrix stays zero.
    """
    norm = torch.linalg.vector_norm(u, dim=(-2, -1), keepdim=True)
    x = (u / (1.02 * norm + 1e-6)).to(dtype)
    tall = x.size(-2) > x.size(-1)
    if tall:
        x = x.mT
    for a, b, c in POLAR_COEFFICIENTS:
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x


def scale_rows(o: Tensor, row_moments: Tensor, beta2: float) -> Tensor:
    """Divide each row by its running root mean square, then give each matrix its former Frobenius norm.

    o: (n, R, C), overwritten and returned. row_moments: (n, R, 1), updated in place, without bias correction.
    """
    columns = o.size(-1)
    nu = o.to(row_moments.dtype).square().mean(-1, keepdim=True)
    row_moments.lerp_(nu, 1 - beta2)
    q = row_moments.clamp(min=1e-10).rsqrt()
    norm = (columns * nu.sum(-2, keepdim=True)).sqrt()
    scaled_norm = (columns * (nu * q * q).sum(-2, keepdim=True)).sqrt()
    return o.mul_(q * (norm / scaled_norm.clamp(min=1e-10)))


def cautious_update(p: Tensor, o: Tensor, eta: Tensor | float, delta: Tensor | float) -> Tensor:
    """p <- p - eta delta p [o p >= 0] - eta o, in place and returned: decay where update and p agree."""
    o = o.to(p.dtype)
    decay = p * (o * p >= 0)
    return p.sub_(decay.mul_(delta).mul_(eta)).sub_(o * eta)


def join_master(published: Tensor, tail: Tensor) -> Tensor:
    """float32 master weights from their bfloat16 upper and uint16 lower halves, all of one shape."""
    halves = torch.stack((tail.view(torch.int16), published.view(torch.int16)), dim=-1)  # little-endian
    return halves.view(torch.float32).squeeze(-1)


def split_master(master: Tensor) -> tuple[Tensor, Tensor]:
    """Contiguous float32 master weights -> views: bfloat16 (cut toward zero, not rounded) and uint16 tail."""
    tail, published = master.view(torch.int16).unflatten(-1, (-1, 2)).unbind(-1)
    return published.view(torch.bfloat16), tail.view(torch.uint16)


def _is_squares(p: Parameter) -> bool:
    return p.label == SQUARES_LABEL  # type: ignore[attr-defined]


def stack_together(params: list[Parameter], world_size: int) -> list[list[Parameter]]:
    """Lists of matrices of one shape, each to be updated as one stack.

    One list a kind (attention or not, shape). With those 8 ranks would idle: where it comes out even they
    share lists of 16 over both kinds, two matrices a rank, and no rank has two kinds in one list.
    """
    kinds: dict[tuple, list[Parameter]] = {}
    for p in params:
        kinds.setdefault((_is_squares(p), p.shape), []).append(p)
    lists = list(kinds.values())
    in_order = [p for kind in lists for p in kind]
    pairs = len({p.shape for p in params}) == 1 and all(len(kind) % 2 == 0 for kind in lists)
    size = 2 * MIXED_RANKS
    if world_size == MIXED_RANKS and pairs and len(in_order) % size == 0:
        return [in_order[i : i + size] for i in range(0, len(in_order), size)]
    return lists


class NorMuon:
    """NorMuon over the ranks of `group` (None: this process alone), each of which updates its own matrices.

    params: matrices with the attribute `label`, of which `config.normuon_groups` has the multipliers. float32
    and float64 parameters are updated as they are; bfloat16 ones have a float32 master, whose lower half the
    owner keeps. Gradients are averaged over ranks in their own dtype. Matrices of one stack have gradients
    all or none; without, they are left alone.
    """

    def __init__(self, params: list[Parameter], config: OptimizerConfig, group: dist.ProcessGroup | None = None):
        ranks = Ranks(group)
        self.params = params
        self.stacks = [_Stack(members, config, ranks) for members in stack_together(params, ranks.size)]

    @torch.no_grad()
    def step(self, lr_multiplier: float, momentum: float) -> None:
        for stack in self.stacks:
            if stack.has_gradients():
                stack.step(lr_multiplier, momentum)

    def reset(self) -> None:
        """Back to the state of a new optimizer, without allocating."""
        for stack in self.stacks:
            for state in (stack.momentum, stack.row_moments, stack.tails):
                if state is not None:
                    state.zero_()

    def zero_grad(self) -> None:
        for p in self.params:
            p.grad = None


class _Stack:
    """Matrices as one tensor (ranks x chunk, R, C), padded with zeros; this rank owns a chunk of one kind."""

    def __init__(self, params: list[Parameter], config: OptimizerConfig, ranks: Ranks):
        self.params, self.config, self.ranks = params, config, ranks
        chunk = math.ceil(len(params) / ranks.size)
        rows, columns = params[0].shape
        own = params[ranks.rank * chunk : (ranks.rank + 1) * chunk]
        self.padding = [torch.zeros_like(params[0])] * (chunk * ranks.size - len(params))
        squares = rows // columns if own and _is_squares(own[0]) else 1
        assert len({_is_squares(p) for p in own}) <= 1, "one rank has two kinds of matrices in one stack"
        self.matrices_shape = (chunk * squares, rows // squares, columns)

        self.dtype = torch.promote_types(params[0].dtype, torch.float32)
        self.momentum = params[0].new_zeros((chunk, rows, columns), dtype=self.dtype)
        self.row_moments = self.momentum.new_zeros((*self.matrices_shape[:2], 1))
        self.tails = None
        if params[0].dtype == torch.bfloat16:
            self.tails = torch.zeros_like(self.momentum, dtype=torch.uint16)

        groups = {g.label: g for g in config.normuon_groups}
        of_own = [groups[p.label] for p in own]  # type: ignore[attr-defined]
        of_own += [MatrixGroup(label="padding")] * (chunk - len(own))
        # The shape factor is that of the stored matrix, also where Q, K, V and O are orthogonalised apart.
        lr = config.normuon_lr * math.sqrt(max(1, rows / columns))
        wd = config.normuon_weight_decay * config.normuon_lr
        self.eta = self.momentum.new_tensor([lr * g.lr_mul for g in of_own]).view(-1, 1, 1)
        self.delta = self.momentum.new_tensor([wd * g.wd_mul for g in of_own]).view(-1, 1, 1)

    def has_gradients(self) -> bool:
        have = {p.grad is not None for p in self.params}
        assert len(have) == 1, "some matrices of one stack have a gradient and others none"
        return have.pop()

    def step(self, lr_multiplier: float, momentum: float) -> None:
        gradients = torch.stack([*(p.grad for p in self.params if p.grad is not None), *self.padding])
        own = self.orthogonalised(self.ranks.mean_rows(gradients).to(self.dtype), momentum)
        weights = torch.stack([*self.params, *self.padding])
        self.update(self.ranks.rows(weights), own, lr_multiplier)
        self.ranks.gather_rows(weights)
        torch._foreach_copy_([*self.params], [*weights[: len(self.params)]])

    def orthogonalised(self, gradient: Tensor, momentum: float) -> Tensor:
        """Update direction (chunk, R, C) from the mean gradient of the owned matrices."""
        self.momentum.lerp_(gradient, 1 - momentum)
        u = gradient.lerp(self.momentum, momentum)
        o = polar_express(u.view(self.matrices_shape), getattr(torch, self.config.polar_dtype))
        return scale_rows(o, self.row_moments, self.config.normuon_beta2).reshape(u.shape)

    def update(self, weights: Tensor, o: Tensor, lr_multiplier: float) -> None:
        """Move the owned weights (chunk, R, C) in place."""
        eta, delta = self.eta * lr_multiplier, self.delta * lr_multiplier
        if self.tails is None:
            cautious_update(weights, o, eta, delta)
            return
        master = cautious_update(join_master(weights, self.tails), o, eta, delta)
        published, tails = split_master(master)
        weights.copy_(published)
        self.tails.copy_(tails)
