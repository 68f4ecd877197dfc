"""NorMuon: orthogonalised, row-normalised updates of the weight matrices, each matrix on the rank that owns it.

An update, in order: Nesterov's mix of the momentum (Muon, kellerjordan.github.io/posts/muon), Polar Express (arXiv
2505.16932), row normalisation (NorMuon, arXiv 2510.05491), cautious weight decay (arXiv 2510.12402); all as in the
modded-nanogpt records. It does not depend on which rank owns a matrix.
Shape legend: n matrices of R rows and C columns.
"""

import functools
import math
from collections.abc import Callable

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import Parameter

from speedrun.execution import PLAIN, Execution
from speedrun.optim.collectives import Collective, Ranks
from speedrun.optim.polar_express import iterate, normalise
from speedrun.tracks import MatrixGroup, OptimizerConfig

SQUARES_LABEL = "attn"  # stored as (4D, D), but Q, K, V and O are orthogonalised one by one
MIXED_RANKS = 8  # world size of the record, whose matrices then come out even


def mix_gradient(gradient: Tensor, momentum_buffer: Tensor, share: float | Tensor) -> Tensor:
    """Running mean with a `share` of the gradient, updated in place, and Nesterov's mix of both, returned."""
    gradient = gradient.to(torch.promote_types(momentum_buffer.dtype, torch.float32))
    momentum_buffer += (gradient - momentum_buffer) * share
    return momentum_buffer + (gradient - momentum_buffer) * share


def direction(
    gradient: Tensor, momentum_buffer: Tensor, share: float | Tensor, shape: tuple[int, ...], dtype: torch.dtype
) -> Tensor:
    """Mean gradient (chunk, R, C) -> what Polar Express starts from, in matrices of `shape`."""
    return normalise(mix_gradient(gradient, momentum_buffer, share).view(shape), dtype)


def scale_rows(o: Tensor, row_moments: Tensor, beta2: float) -> Tensor:
    """Divide each row by its running root mean square, then give each matrix its former Frobenius norm.

    o: (n, R, C). row_moments: (n, R, 1), updated in place, without bias correction.
    """
    # The running second moment of each row.
    columns = o.size(-1)
    wide = torch.promote_types(row_moments.dtype, torch.float32)
    nu = o.to(wide).square().mean(-1, keepdim=True)
    moments = row_moments.to(wide).lerp(nu, 1 - beta2)
    row_moments.copy_(moments)
    # Each row by its inverse root, and the whole matrix by what gives it back the norm that it had.
    q = moments.clamp(min=1e-10).rsqrt()
    norm = (columns * nu.sum(-2, keepdim=True)).sqrt()
    scaled_norm = (columns * (nu * q * q).sum(-2, keepdim=True)).sqrt()
    return (o * (q * (norm / scaled_norm.clamp(min=1e-10)))).to(o.dtype)


def cautious_update(p: Tensor, o: Tensor, eta: Tensor | float, delta: Tensor | float) -> Tensor:
    """p <- p - eta delta p [o p >= 0] - eta o, in place and returned: decay where update and p agree."""
    o = o.to(p.dtype)
    decay = p * (o * p >= 0)
    return p.sub_(decay.mul_(delta).mul_(eta)).sub_(o * eta)


def join_master(published: Tensor, tail: Tensor) -> Tensor:
    """float32 master weights from their bfloat16 upper and uint16 lower halves, all of one shape."""
    upper, lower = (half.view(torch.int16).to(torch.int32) for half in (published, tail))
    return ((upper << 16) | (lower & 0xFFFF)).view(torch.float32)


def split_master(master: Tensor) -> tuple[Tensor, Tensor]:
    """float32 master weights -> bfloat16 (cut toward zero, not rounded) and uint16 tail."""
    bits = master.view(torch.int32)
    return (bits >> 16).to(torch.int16).view(torch.bfloat16), bits.to(torch.int16).view(torch.uint16)


def move_weights(
    weights: Tensor,
    tails: Tensor | None,
    o: Tensor,
    row_moments: Tensor,
    eta: Tensor,
    delta: Tensor,
    beta2: float,
    lr_multiplier: float | Tensor,
) -> None:
    """Move weights (chunk, R, C), and the tails of a master where there are, along the orthogonal `o`, in place.

    o: as many elements, in matrices of the shape of `row_moments`. eta, delta: (chunk, 1, 1).
    """
    o = scale_rows(o, row_moments, beta2).view(weights.shape)
    eta, delta = eta * lr_multiplier, delta * lr_multiplier
    if tails is None:
        weights.copy_(cautious_update(weights.to(eta.dtype), o, eta, delta))
        return
    published, new_tails = split_master(cautious_update(join_master(weights, tails), o, eta, delta))
    weights.copy_(published)
    tails.copy_(new_tails)


def _is_squares(p: Parameter) -> bool:
    return p.label == SQUARES_LABEL  # type: ignore[attr-defined]


def stack_together(params: list[Parameter], world_size: int) -> list[list[Parameter]]:
    """Lists of matrices of one shape, each to be updated as one stack.

    One list per kind (attention or not, shape). With those, some of 8 ranks would idle. Where it comes out even they
    share lists of 16 over both kinds instead, two matrices per rank, and no rank has two kinds in one list.
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
    """NorMuon over the ranks of `process_group` (None: this process alone), each of which updates its own matrices.

    params: matrices with the attribute `label`, of which `config.normuon_groups` has the multipliers. float32
    and float64 parameters are updated as they are; bfloat16 ones have a float32 master, whose lower half the
    owner keeps, or (`config.state` "parameter") are rounded at every update, as their state is. Gradients are
    averaged over ranks in their own dtype. Matrices of one stack have gradients all or none; without, they are
    left alone.

    A step is `reduce`, `update` and `publish`, between which the caller may do other work.
    """

    def __init__(
        self,
        params: list[Parameter],
        config: OptimizerConfig,
        process_group: dist.ProcessGroup | None = None,
        execution: Execution = PLAIN,
    ):
        ranks = Ranks(process_group)
        self.params = params
        self.stacks = [_Stack(members, config, ranks, execution) for members in stack_together(params, ranks.size)]

    def step(self, lr_multiplier: float, momentum: float) -> None:
        self.publish(self.update(self.reduce(), lr_multiplier, momentum))

    @torch.no_grad()
    def reduce(self) -> list[tuple["_Stack", Collective[Tensor]]]:
        """Start to average the gradients that there are."""
        return [(stack, stack.mean_gradient().start()) for stack in self.stacks if stack.has_gradients()]

    @torch.no_grad()
    def update(
        self, means: list[tuple["_Stack", Collective[Tensor]]], lr_multiplier: float, momentum: float
    ) -> list[tuple["_Stack", Collective[Tensor]]]:
        """Update the owned matrices and start to gather all."""
        return [(stack, stack.updated(mean.wait(), lr_multiplier, momentum).start()) for stack, mean in means]

    @torch.no_grad()
    def publish(self, gathers: list[tuple["_Stack", Collective[Tensor]]]) -> None:
        """Write the gathered weights into the parameters."""
        for stack, gather in gathers:
            torch._foreach_copy_([*stack.params], [*gather.wait()[: len(stack.params)]])

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

    def __init__(self, params: list[Parameter], config: OptimizerConfig, ranks: Ranks, execution: Execution):
        self.params, self.ranks, self.beta2 = params, ranks, config.normuon_beta2
        self.chunk = math.ceil(len(params) / ranks.size)
        rows, columns = params[0].shape
        self.own = params[ranks.rank * self.chunk : (ranks.rank + 1) * self.chunk]
        self.padding = torch.zeros_like(params[0])
        squares = rows // columns if self.own and _is_squares(self.own[0]) else 1
        assert len({_is_squares(p) for p in self.own}) <= 1, "one rank has two kinds of matrices in one stack"
        self.matrices_shape = (self.chunk * squares, rows // squares, columns)

        dtype = torch.promote_types(params[0].dtype, torch.float32)
        in_parameter = config.state == "parameter"
        self.momentum = params[0].new_zeros((self.chunk, rows, columns), dtype=None if in_parameter else dtype)
        self.row_moments = self.momentum.new_zeros((*self.matrices_shape[:2], 1))
        self.tails = None
        if params[0].dtype == torch.bfloat16 and not in_parameter:
            self.tails = torch.zeros_like(self.momentum, dtype=torch.uint16)

        groups = {g.label: g for g in config.normuon_groups}
        of_own = [groups[p.label] for p in self.own]  # type: ignore[attr-defined]
        of_own += [MatrixGroup(label="padding")] * (self.chunk - len(self.own))
        # The shape factor is that of the stored matrix, also where Q, K, V and O are orthogonalised apart.
        lr = config.normuon_lr * math.sqrt(max(1, rows / columns))
        wd = config.normuon_weight_decay * config.normuon_lr
        self.eta = self.momentum.new_tensor([lr * g.lr_mul for g in of_own], dtype=dtype).view(-1, 1, 1)
        self.delta = self.momentum.new_tensor([wd * g.wd_mul for g in of_own], dtype=dtype).view(-1, 1, 1)

        self.polar_dtype = getattr(torch, config.polar_dtype)
        self.symmetric_kernels = execution.symmetric_kernels
        self.direction: Callable[..., Tensor] = direction
        self.move: Callable[..., None] = move_weights
        self.setting: Callable[[float], float | Tensor] = float
        if execution.compiled:
            self.direction, self.move = execution.compile(direction), execution.compile(move_weights)
            # A number would be a constant of the graph; a tensor on the CPU is an argument of its kernels, as long as
            # the graph itself computes nothing from it but products with what is on the GPU.
            self.setting = functools.partial(torch.tensor, dtype=dtype)

    def has_gradients(self) -> bool:
        have = {p.grad is not None for p in self.params}
        assert len(have) == 1, "some matrices of one stack have a gradient and others none"
        return have.pop()

    def mean_gradient(self) -> Collective[Tensor]:
        """To (chunk, R, C): that of the owned matrices."""
        missing = self.chunk * self.ranks.size - len(self.params)
        gradients = [p.grad for p in self.params if p.grad is not None]
        return self.ranks.mean_rows(torch.stack(gradients + [self.padding] * missing))

    def updated(self, gradient: Tensor, lr_multiplier: float, momentum: float) -> Collective[Tensor]:
        """Moves the owned weights; to the weights of all ranks, (ranks x chunk, R, C)."""
        # Momentum in Nesterov's mix; Q, K, V and O of an attention layer become matrices of their own.
        x = self.direction(gradient, self.momentum, self.setting(1 - momentum), self.matrices_shape, self.polar_dtype)
        # Room for the weights of all ranks, of which this rank fills its chunk.
        weights = self.padding.new_empty((self.chunk * self.ranks.size, *self.padding.shape))
        own = self.ranks.rows(weights)
        torch.stack(self.own + [self.padding] * (self.chunk - len(self.own)), out=own)
        # Polar Express (arXiv 2505.16932): singular values near 1.
        o = iterate(x, self.symmetric_kernels)
        # Row normalisation (arXiv 2510.05491), cautious decay (arXiv 2510.12402), in a float32 master if any.
        lr = self.setting(lr_multiplier)
        self.move(own, self.tails, o, self.row_moments, self.eta, self.delta, self.beta2, lr)
        return self.ranks.gather_rows(weights)
