"""The optimizer of a run: NorMuon for the matrices at every step, Adam for all other parameters at odd ones."""

import torch
import torch.distributed as dist
from torch import nn

from speedrun.execution import PLAIN, Execution
from speedrun.optim.adam import DistributedAdam
from speedrun.optim.normuon import NorMuon
from speedrun.schedules import StepSettings
from speedrun.tracks import OptimizerConfig


class SpeedrunOptimizer:
    """Both optimizers of a model over the ranks of `process_group` (None: this process alone).

    Every parameter has an attribute `label` that is in exactly one group of `config`; otherwise this raises ValueError.
    Parameters are changed in place only, and all ranks end a step with equal ones.

    The token lookup always reads `embed`. While a step is tied, `embed` is not a parameter in its own right: its
    gradient is part of the head's, and after each update it equals the head, as it has to before the first.

    execution: whether elementwise parts are compiled, once for all steps, and the symmetric products of Polar Express
    done by halves (symmetric.py). Both equal the plain way but for rounding.
    """

    def __init__(
        self,
        model: nn.Module,
        config: OptimizerConfig,
        process_group: dist.ProcessGroup | None = None,
        execution: Execution = PLAIN,
    ):
        labels = [g.label for g in config.normuon_groups] + [g.label for g in config.adam_groups]
        params: dict[str, list[nn.Parameter]] = {label: [] for label in labels}
        for name, p in model.named_parameters():
            label: str = p.label  # type: ignore[attr-defined]
            if labels.count(label) != 1:
                raise ValueError(f"{name} has label {label!r}, which is in {labels.count(label)} groups: use one")
            params[label].append(p)
        (self.head,), (self.embed,) = params["lm_head"], params["embed"]
        # Layer order, in which attention and MLP matrices alternate.
        matrices = {p for g in config.normuon_groups for p in params[g.label]}
        self.normuon = NorMuon([p for p in model.parameters() if p in matrices], config, process_group, execution)
        self.adam = DistributedAdam(
            [p for p in model.parameters() if p not in matrices], config, process_group, execution
        )

    @torch.no_grad()
    def step(self, settings: StepSettings) -> None:
        """Update from the gradients and clear those used: Adam's of even steps stay, odd ones add to them.

        Over several ranks the optimizers are interleaved, so that what one sends is under way while the other works.
        """
        if settings.tied:
            self._join_gradients()
        matrices = self.normuon.reduce()
        if not settings.adam_steps:
            self.normuon.publish(self.normuon.update(matrices, settings.lr_multiplier, settings.momentum))
            self.normuon.zero_grad()
            return
        tables = self.adam.update(self.adam.reduce(), settings.lr_multiplier)
        gathers = self.normuon.update(matrices, settings.lr_multiplier, settings.momentum)
        for table in tables:
            table.start()  # the last one, behind the matrices, which are copied while it is under way
        self.normuon.publish(gathers)
        for table in tables:
            table.wait()
        self.normuon.zero_grad()
        self.adam.zero_grad()
        if settings.untie_after:
            self.adam.copy_state(self.head, self.embed)
        elif settings.tied:
            self.embed.copy_(self.head)

    def _join_gradients(self) -> None:
        if self.head.grad is None:
            self.head.grad = self.embed.grad
        elif self.embed.grad is not None:
            self.head.grad += self.embed.grad
        self.embed.grad = None

    def reset(self) -> None:
        """Forget everything in place, for the next seed: state as of a new optimizer, no gradients."""
        for optimizer in (self.normuon, self.adam):
            optimizer.reset()
            optimizer.zero_grad()
