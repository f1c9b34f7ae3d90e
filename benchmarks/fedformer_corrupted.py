"""`peerage` with the exchange `corrupt`: member 0 gives away random networks.

    python -m benchmarks.fedformer_corrupted train --config fedformer-small --exchange corrupt fedformer

`corrupt` comes before the exchange that it corrupts.
"""

from __future__ import annotations

import numpy as np
import torch

import peerage
from peerage.cli import main
from peerage.learners.group import Group

MEMBER = 0


class Corrupt(peerage.Exchange):
    """Gives member 0 of every replica new random networks, so that the exchange that follows gives them away. They are
    initialised as at the start of a training, and differ at every exchange. Needs SAC or TD3."""

    @torch.no_grad()
    def after_learning(self, group: Group, step: int) -> None:
        learner = group.stacks[0].learner
        generators = [np.random.default_rng([step, row]) for row in range(group.M)]
        corrupted = torch.arange(group.M, device=learner.device) % group.N == MEMBER
        for network in (learner.actor, learner.critic):
            learned = network.flat.clone()
            network.init_(generators)
            network.flat[~corrupted] = learned[~corrupted]
        learner.critic_target.flat[corrupted] = learner.critic.flat[corrupted]


def register() -> None:
    peerage.register_exchange("corrupt", Corrupt, about="member 0 gives away random networks")


if __name__ == "__main__":
    register()
    raise SystemExit(main())
