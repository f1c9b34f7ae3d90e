"""Federated averaging (McMahan et al. 2017, arXiv 1602.05629) of the members' networks, with equal weights. Details:
docs/methods/exchanges.md."""

from __future__ import annotations

from typing import Any

import torch

from peerage.learners.group import Group
from peerage.sharing.exchanges.average import average_, check_equal_members
from peerage.sharing.exchanges.base import Exchange

CRITICS = ("critic", "critic_target", "q", "q_target")


class FedAvg(Exchange):
    """Replaces the networks of every learning member by their mean over the learning members of its replica. Unlike
    `average`, everything else stays the member's own: SAC's entropy coefficient, running statistics, Adam's moments,
    replay buffers and random streams."""

    def __init__(self, settings: Any, group: Group, every: int) -> None:
        super().__init__(settings, group, every)
        check_equal_members("fedavg", group)

    @torch.no_grad()
    def after_learning(self, group: Group, step: int) -> None:
        learner = group.stacks[0].learner
        networks = {name: values for name, values in learner.exchanged().items() if name != "log_ent_coef"}
        if self.settings.fedavg_networks == "critics":
            networks = {name: values for name, values in networks.items() if name in CRITICS}
        average_(self, step, networks)
