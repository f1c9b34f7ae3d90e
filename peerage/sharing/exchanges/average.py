"""The mean of the members' parameters, as in federated averaging (McMahan et al. 2017, arXiv 1602.05629) with equal
weights. What is averaged and what is not: docs/methods/exchanges.md."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from peerage.errors import UserError
from peerage.learners.group import Group
from peerage.sharing.exchanges.base import Exchange


class Average(Exchange):
    """Every member that learns gets the mean of the parameters of all members of its replica that learn:
    networks, target networks and SAC's entropy coefficient. Adam's moments, replay buffers and random streams stay the
    member's own."""

    def __init__(self, settings: Any, group: Group, every: int) -> None:
        super().__init__(settings, group, every)
        if len(group.stacks) > 1:
            raise UserError(
                "--exchange average needs members of one kind: the same --algorithm, --net-arch and other settings"
            )

    @torch.no_grad()
    def after_learning(self, group: Group, step: int) -> None:
        learner = group.stacks[0].learner
        parameters = learner.parameters()
        for name, values in parameters.items():  # [M, P], replica after replica
            online = name.removesuffix("_target")
            source = parameters[online] if self.settings.average_targets == "copy" else values
            mean = mean_of_members(source.view(group.R, group.N, -1), learner.active.view(group.R, group.N))
            values.copy_(torch.where(learner.active.unsqueeze(1), mean.repeat_interleave(group.N, dim=0), values))


def mean_of_members(values: Tensor, active: Tensor) -> Tensor:
    """The mean of the members that are `active [R, N]`: `values [R, N, P]` -> `[R, P]`, 0 where no member is.

    Summed in float64 in order of size and cast back, so that identical members stay identical to the bit and the
    order of the members does not matter.
    """
    counted = torch.where(active.unsqueeze(2), values, 0.0).to(torch.float64)
    total = counted.sort(dim=1).values.sum(dim=1)  # [R, P]
    return (total / active.sum(dim=1, keepdim=True).clamp(min=1)).to(values.dtype)
