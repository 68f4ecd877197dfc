"""gradients + step settings -> the next weights: NorMuon at every step, Adam at odd ones."""

import torch.distributed as dist
from torch import nn

from speedrun.adam import DistributedAdam
from speedrun.normuon import NorMuon
from speedrun.schedules import StepSettings
from speedrun.tracks import OptimizerConfig


class SpeedrunOptimizer:
    """Both optimizers of a model over the ranks of `group` (None: this process alone).

    Every parameter has an attribute `label` that is in exactly one group of `config`; ValueError otherwise.
    Parameters are changed in place only, and all ranks end a step with equal ones.
    """

    def __init__(self, model: nn.Module, config: OptimizerConfig, group: dist.ProcessGroup | None = None):
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
        self.normuon = NorMuon([p for p in model.parameters() if p in matrices], config, group)
        self.adam = DistributedAdam([p for p in model.parameters() if p not in matrices], config, group)

    def step(self, settings: StepSettings) -> None:
        """Update from the gradients and clear those used: Adam's of even steps stay, odd ones add to them."""
        self.normuon.step(settings.lr_multiplier, settings.momentum)
        self.normuon.zero_grad()
        if settings.adam_steps:
            self.adam.step(settings.lr_multiplier)
            self.adam.zero_grad()
        if settings.untie_after:
            self.adam.copy_state(self.head, self.embed)

    def reset(self) -> None:
        """Forget everything in place, for the next seed: state as of a new optimizer, no gradients."""
        for optimizer in (self.normuon, self.adam):
            optimizer.reset()
            optimizer.zero_grad()
