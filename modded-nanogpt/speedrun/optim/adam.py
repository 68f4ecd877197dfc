"""Adam for tables, gates and scalars, with cautious weight decay; the rows of a table are shared among the ranks.

Adam: Kingma and Ba, arXiv 1412.6980. Cautious decay: arXiv 2510.12402.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import Parameter

from speedrun.execution import PLAIN, Execution
from speedrun.optim.collectives import Collective, Ranks
from speedrun.tracks import AdamGroup, OptimizerConfig

SHARDED_NUMEL = 1024  # smaller parameters are updated whole by every rank


def rates(t: int, alpha: float, betas: tuple[float, float], weight_decay: float) -> tuple[float, float, float, float]:
    """What update number t does: bias-corrected rate, decay, and shares of the new gradient in both moments."""
    beta1, beta2 = betas
    rate = alpha * math.sqrt(1 - beta2**t) / (1 - beta1**t)
    return rate, alpha * alpha * weight_decay, 1 - beta1, 1 - beta2


def adam_update(
    p: Tensor,
    gradient: Tensor,
    m: Tensor,
    v: Tensor,
    rate: float | Tensor,
    decay: float | Tensor,
    share1: float | Tensor,
    share2: float | Tensor,
    eps: float,
) -> None:
    """Change `p`, `m` and `v` in place, all of one shape; in at least float32, and each is rounded to nearest.

    The four numbers before `eps`, which is added to the uncorrected root, are of `rates`. The decay acts where the
    update has the sign of p (arXiv 2510.12402; strictly, unlike NorMuon's).
    """
    wide = torch.promote_types(p.dtype, torch.float32)
    old, gradient = p.to(wide), gradient.to(wide)
    # First and second moment.
    m += (gradient - m) * share1
    v += (gradient.square() - v) * share2
    # The update, and cautious decay in one subtraction.
    u = m.to(wide) / (v.to(wide).sqrt() + eps) * rate
    p.copy_(old - u - old * decay * (u * old > 0))


@dataclass
class _State:
    """The part of a parameter that this rank updates, its moments, number of updates."""

    group: AdamGroup
    sharded: bool
    part: Tensor
    m: Tensor
    v: Tensor
    t: int = 0


@dataclass
class Reductions:
    """Averages under way: of the small parameters together, of each table alone."""

    small: list[Parameter]
    small_means: Collective[list[Tensor]]
    tables: dict[Parameter, Collective[Tensor]]


class DistributedAdam:
    """Adam over the ranks of `process_group` (None: this process alone).

    params: with the attribute `label`, of which `config.adam_groups` has the multipliers. Gradients are averaged over
    ranks in their own dtype. A parameter without gradient is left alone: no decay, no count. Raises ValueError if the
    rows of a table cannot be shared equally.

    A step is `reduce`, `update` and to wait for the gathers, between which the caller may do other work.
    """

    def __init__(
        self,
        params: list[Parameter],
        config: OptimizerConfig,
        process_group: dist.ProcessGroup | None = None,
        execution: Execution = PLAIN,
    ):
        self.config = config
        self.ranks = Ranks(process_group)
        self.compiled_update: Callable[..., None] | None = None
        if execution.compiled:
            self.compiled_update = execution.compile(adam_update)
        labels = [p.label for p in params]  # type: ignore[attr-defined]
        self.states = {
            p: self._new_state(p, adam_group)
            for adam_group in config.adam_groups
            for p, label in zip(params, labels, strict=True)
            if label == adam_group.label
        }

    def _new_state(self, p: Parameter, group: AdamGroup) -> _State:
        sharded = p.numel() >= SHARDED_NUMEL
        if sharded and p.size(0) % self.ranks.size:
            raise ValueError(
                f"{p.size(0)} rows of {group.label} do not split over {self.ranks.size} ranks: use a divisor"
            )
        part = self.ranks.rows(p.detach()) if sharded else p.detach()
        dtype = p.dtype if self.config.state == "parameter" else torch.promote_types(p.dtype, torch.float32)
        m, v = (torch.zeros_like(part, dtype=dtype) for _ in range(2))
        return _State(group, sharded, part, m, v)

    @torch.no_grad()
    def step(self, lr_multiplier: float) -> None:
        for gather in self.update(self.reduce(), lr_multiplier):
            gather.wait()

    @torch.no_grad()
    def reduce(self) -> Reductions:
        """Start to average the gradients that there are."""
        live = {p: p.grad for p in self.states if p.grad is not None}
        small = [p for p in live if not self.states[p].sharded]
        return Reductions(
            small,
            self.ranks.mean([live[p] for p in small]).start(),
            {p: self.ranks.mean_rows(live[p]).start() for p in live if self.states[p].sharded},
        )

    @torch.no_grad()
    def update(self, reductions: Reductions, lr_multiplier: float) -> list[Collective[Tensor]]:
        """Update all; returns the tables' gathers, started except for the last, which may queue behind others'."""
        for p, gradient in zip(reductions.small, reductions.small_means.wait(), strict=True):
            self._update(self.states[p], gradient, lr_multiplier)
        gathers: list[Collective[Tensor]] = []
        for p, mean in reductions.tables.items():
            for earlier in gathers:
                earlier.start()
            self._update(self.states[p], mean.wait(), lr_multiplier)
            gathers.append(self.ranks.gather_rows(p.detach()))
        return gathers

    def _update(self, state: _State, gradient: Tensor, lr_multiplier: float) -> None:
        config, group = self.config, state.group
        state.t += 1
        alpha = config.adam_lr * lr_multiplier * group.lr_mul
        numbers = rates(state.t, alpha, group.betas, config.adam_weight_decay * group.wd_mul)
        arguments = state.part, gradient, state.m, state.v
        if self.compiled_update and state.sharded:
            # A number would be a constant of the graph, a tensor on the CPU is an argument of its kernel: see NorMuon.
            dtype = torch.promote_types(state.m.dtype, torch.float32)
            tensors = [torch.tensor(number, dtype=dtype) for number in numbers]
            self.compiled_update(*arguments, *tensors, config.adam_eps)
        else:
            adam_update(*arguments, *numbers, config.adam_eps)

    @torch.no_grad()
    def copy_state(self, source: Parameter, target: Parameter) -> None:
        """Make `target` a copy of `source`: weights, moments and number of updates; shapes are equal."""
        target.copy_(source)
        self.states[target].m.copy_(self.states[source].m)
        self.states[target].v.copy_(self.states[source].v)
        self.states[target].t = self.states[source].t

    def reset(self) -> None:
        """Back to the state of a new optimizer, without allocating."""
        for state in self.states.values():
            state.m.zero_()
            state.v.zero_()
            state.t = 0

    def zero_grad(self) -> None:
        for p in self.states:
            p.grad = None
