"""The exchange of FedFormer (Hebert et al. 2022, arXiv 2205.13697): every member gives away the encoders of its two
critics, and nothing else. Details: docs/methods/fedformer.md."""

from __future__ import annotations

from typing import Any

import torch

from peerage.learners.fedformer_critic import FedFormerCritic
from peerage.learners.group import Group
from peerage.sharing.exchanges.average import check_equal_members
from peerage.sharing.exchanges.base import Exchange
from peerage.sharing.transports.base import SENDS


class FedFormer(Exchange):
    """Copies the online encoders of all learning members into `received`, from which the critics of the other members
    read. A member that has diverged, or whose encoders are not finite, is not copied: the others keep its last
    encoder."""

    def __init__(self, settings: Any, group: Group, every: int) -> None:
        super().__init__(settings, group, every)
        check_equal_members("fedformer", group)
        self.learner = group.stacks[0].learner
        critic = getattr(self.learner, "critic", None)
        assert isinstance(critic, FedFormerCritic)
        self.critic = critic

    @torch.no_grad()
    def after_learning(self, group: Group, step: int) -> None:
        finite = self.critic.encoders.isfinite().flatten(2).all(dim=2)
        sends = self.learner.active.view(group.R, group.N) & finite
        sent = self.transport.exchange(self.round(step), {"encoders": self.critic.encoders, SENDS: sends})
        received = self.critic.received
        received.copy_(torch.where(sent[SENDS][..., None, None], sent["encoders"], received))
        self.critic.heard |= sent[SENDS]

    def metrics(self) -> list[tuple[int, int, str, float]]:
        """`fedformer/attention_cls` and `fedformer/attention_J` for each member J: the mean attention weights in the
        updates since the last call. Members of other participants are called `NAME:0`, `NAME:1`, ..."""
        weights = self.critic.take_attention()
        if weights is None:
            return []
        names = ["cls", *self.transport.labels(self.group.N)]
        return [
            (*divmod(row, self.group.N), f"fedformer/attention_{name}", value)
            for row, values in enumerate(weights.tolist())
            for name, value in zip(names, values, strict=True)
        ]

    def state(self) -> dict[str, Any]:
        dropout = self.critic.dropout
        return {
            **({} if dropout is None else {"dropout": dropout.state()}),
            "received": self.critic.received,
            "heard": self.critic.heard,
            "attention": self.critic.attention_state(),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        self.critic.received.copy_(state["received"])
        self.critic.heard.copy_(state["heard"])
        self.critic.load_attention_state(state["attention"])
        if self.critic.dropout is not None:
            self.critic.dropout.load_state(state["dropout"])
