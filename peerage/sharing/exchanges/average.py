"""Averages the members' parameters, as in federated averaging (McMahan et al. 2017, arXiv 1602.05629) with equal
weights. Details: docs/methods/exchanges.md."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from peerage.errors import UserError
from peerage.learners.group import Group
from peerage.sharing.exchanges.base import Exchange


class Average(Exchange):
    """Replaces the parameters of every learning member by the mean over the learning members of its replica: networks,
    target networks and SAC's entropy coefficient. Adam's moments, replay buffers and random streams are not
    exchanged."""

    def __init__(self, settings: Any, group: Group, every: int) -> None:
        super().__init__(settings, group, every)
        if len(group.stacks) > 1:
            raise UserError(
                "--exchange average needs members with the same --algorithm, --net-arch and other structural settings"
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
    """The mean over the members that are `active [R, N]`: `values [R, N, P]` -> `[R, P]`; 0 if none is active.

    Values are sorted and summed in float64, so that the result does not depend on the order of the members and
    identical members stay bit-identical.
    """
    counted = torch.where(active.unsqueeze(2), values, 0.0).to(torch.float64)
    total = counted.sort(dim=1).values.sum(dim=1)  # [R, P]
    return (total / active.sum(dim=1, keepdim=True).clamp(min=1)).to(values.dtype)
