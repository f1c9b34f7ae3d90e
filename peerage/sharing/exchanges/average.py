"""Averages the members' parameters, as in federated averaging (McMahan et al. 2017, arXiv 1602.05629) with equal
weights. Details: docs/methods/exchanges.md."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from peerage.errors import UserError
from peerage.learners.group import Group
from peerage.sharing.exchanges.base import Exchange
from peerage.sharing.transports.base import SENDS


class Average(Exchange):
    """Replaces the parameters of every learning member by the mean over the learning members of its replica: networks,
    target networks and SAC's entropy coefficient. Running statistics of observations and returns become those of the
    samples of all these members. Adam's moments, replay buffers and random streams are not exchanged."""

    def __init__(self, settings: Any, group: Group, every: int) -> None:
        super().__init__(settings, group, every)
        check_equal_members("average", group)

    @torch.no_grad()
    def after_learning(self, group: Group, step: int) -> None:
        learner = group.stacks[0].learner
        statistics = learner.statistics()
        copies = self.settings.average_targets == "copy"
        sent = average_(self, step, learner.exchanged(), copy_targets=copies, more=statistics)
        for name in [name.removesuffix("_count") for name in statistics if name.endswith("_count")]:
            mean, var, count = (f"{name}_{part}" for part in ("mean", "var", "count"))
            merged = pooled_moments(sent[mean], sent[var], sent[count], sent[SENDS])
            for moment, values in zip((mean, var, count), merged, strict=True):
                replace_(group, statistics[moment], values)


def check_equal_members(name: str, group: Group) -> None:
    """Raise UserError if the members of `group` have networks of different shapes."""
    if len(group.stacks) > 1:
        raise UserError(
            f"--exchange {name} needs members with the same --algorithm, --net-arch and other structural settings"
        )


def average_(
    exchange: Exchange,
    step: int,
    parameters: Mapping[str, Tensor],
    *,
    copy_targets: bool = False,
    more: Mapping[str, Tensor] = MappingProxyType({}),
) -> Mapping[str, Tensor]:
    """Replace `parameters`, by name `[M, P]`, of every learning member by their mean over the learning members of its
    replica; with `copy_targets`, those of target networks by the mean of the online networks. A group of one stack.

    Returns the arrays `[R, N, P]` of the members of all participants, with those of `more`.
    """
    group = exchange.group
    source = {name: name.removesuffix("_target") if copy_targets else name for name in parameters}
    outgoing = {name: parameters[name] for name in dict.fromkeys(source.values())} | dict(more)
    shaped = {name: values.view(group.R, group.N, -1) for name, values in outgoing.items()}
    shaped[SENDS] = group.stacks[0].learner.active.view(group.R, group.N)
    sent = exchange.transport.exchange(exchange.round(step), shaped)
    means = {name: mean_of_members(sent[name], sent[SENDS]) for name in dict.fromkeys(source.values())}
    for name, values in parameters.items():
        replace_(group, values, means[source[name]])
    return sent


def replace_(group: Group, values: Tensor, of_replicas: Tensor) -> None:
    """Replace `values [M, P]` of the learning members by those of their replica, `of_replicas [R, P]`."""
    active = group.stacks[0].learner.active
    values.copy_(torch.where(active.unsqueeze(1), of_replicas.repeat_interleave(group.N, dim=0), values))


def pooled_moments(mean: Tensor, var: Tensor, count: Tensor, active: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean and variance of the samples of all members that are `active [R, N]`, from theirs: `mean, var [R, N, D]` and
    `count [R, N, 1]` -> `[R, D]`, `[R, D]`, `[R, 1]`. The count is the mean of the members' counts, so that pooling
    again does not count samples twice.

    `mean = sum_j c_j m_j / sum_j c_j`, `var = sum_j c_j (v_j + (m_j - mean)^2) / sum_j c_j`. Both are computed from the
    differences to the smallest one, in sorted order, so that identical members stay bit-identical and the order of the
    members has no effect.
    """
    weight = torch.where(active.unsqueeze(2), count, 0.0)
    weight = weight / _total(weight).clamp(min=1e-300)  # [R, N, 1]
    low = mean.amin(dim=1, keepdim=True)
    pooled = low + _total(weight * (mean - low))
    low = var.amin(dim=1, keepdim=True)
    spread = low + _total(weight * (var - low + (mean - pooled).square()))
    return pooled.squeeze(1), spread.squeeze(1), mean_of_members(count, active)


def _total(values: Tensor) -> Tensor:
    """The sum over members, in sorted order: `[R, N, D]` -> `[R, 1, D]`."""
    return values.sort(dim=1).values.sum(dim=1, keepdim=True)


def mean_of_members(values: Tensor, active: Tensor) -> Tensor:
    """The mean over the members that are `active [R, N]`: `values [R, N, P]` -> `[R, P]`; 0 if none is active.

    Values are sorted and summed in float64, so that the result does not depend on the order of the members and
    identical members stay bit-identical.
    """
    counted = torch.where(active.unsqueeze(2), values, 0.0).to(torch.float64)
    total = counted.sort(dim=1).values.sum(dim=1)  # [R, P]
    return (total / active.sum(dim=1, keepdim=True).clamp(min=1)).to(values.dtype)
