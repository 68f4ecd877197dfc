"""gradients of tables, gates and scalars -> their next weights: Adam with cautious decay, rows by rank."""

import math
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import Parameter

from speedrun.collectives import Ranks
from speedrun.tracks import AdamGroup, OptimizerConfig

SHARDED_NUMEL = 1024  # smaller parameters are updated whole by every rank


def adam_update(
    p: Tensor,
    gradient: Tensor,
    m: Tensor,
    v: Tensor,
    t: int,
    alpha: float,
    betas: tuple[float, float],
    eps: float,
    weight_decay: float,
) -> None:
    """Update number t (from 1) of `p`, `m` and `v` in place; all of one shape and dtype.

    `eps` is added to the uncorrected root. The decay, alpha^2 weight_decay p, acts where the update has the
    sign of p (arXiv 2510.12402; strictly, unlike NorMuon's).
    """
    beta1, beta2 = betas
    m.lerp_(gradient, 1 - beta1)
    v.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
    u = m / v.sqrt().add_(eps)
    u.mul_(alpha * math.sqrt(1 - beta2**t) / (1 - beta1**t))
    if weight_decay:
        u.addcmul_(p, u * p > 0, value=alpha * alpha * weight_decay)
    p.sub_(u)


@dataclass
class _State:
    """The part of a parameter that this rank updates, its moments (float32 or more), number of updates."""

    group: AdamGroup
    sharded: bool
    part: Tensor
    m: Tensor
    v: Tensor
    t: int = 0


class DistributedAdam:
    """Adam over the ranks of `group` (None: this process alone).

    params: with the attribute `label`, of which `config.adam_groups` has the multipliers. Gradients are
    averaged over ranks in their own dtype. A parameter without gradient is left alone: no decay, no count.
    ValueError where the rows of a table cannot be shared equally.
    """

    def __init__(self, params: list[Parameter], config: OptimizerConfig, group: dist.ProcessGroup | None = None):
        self.config = config
        self.ranks = Ranks(group)
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
        dtype = torch.promote_types(p.dtype, torch.float32)
        m, v = (torch.zeros_like(part, dtype=dtype) for _ in range(2))
        return _State(group, sharded, part, m, v)

    @torch.no_grad()
    def step(self, lr_multiplier: float) -> None:
        live = {p: p.grad for p in self.states if p.grad is not None}
        small = [p for p in live if not self.states[p].sharded]
        means = dict(zip(small, self.ranks.mean([live[p] for p in small]), strict=True))
        for p, gradient in live.items():
            if self.states[p].sharded:
                means[p] = self.ranks.mean_rows(gradient)
        for p in live:
            self._update(self.states[p], means[p], lr_multiplier)
        for p in live:
            if self.states[p].sharded:
                self.ranks.gather_rows(p)

    def _update(self, state: _State, gradient: Tensor, lr_multiplier: float) -> None:
        config, group = self.config, state.group
        state.t += 1
        part = state.part.to(state.m.dtype)
        adam_update(
            part,
            gradient.to(state.m.dtype),
            state.m,
            state.v,
            state.t,
            alpha=config.adam_lr * lr_multiplier * group.lr_mul,
            betas=group.betas,
            eps=config.adam_eps,
            weight_decay=config.adam_weight_decay * group.wd_mul,
        )
        if part is not state.part:
            state.part.copy_(part)  # rounded to nearest: tables have no tail

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
