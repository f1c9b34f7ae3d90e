"""The interface of exchanges."""

from __future__ import annotations

from typing import Any

from peerage.learners.group import Group


class Exchange:
    """A way for the members of a group to exchange what they have learned, every `every` environment steps, after
    learning. `after_learning` is the only method that every exchange must have.

    `settings` is the part of the configuration that its method names (None without one). The constructor raises
    UserError for a group that cannot exchange.
    """

    def __init__(self, settings: Any, group: Group, every: int) -> None:
        self.settings, self.group, self.every = settings, group, every

    def due(self, step: int) -> bool:
        """Is it time for an exchange after environment step `step` (1, 2, ...)?"""
        return step % self.every == 0

    def after_learning(self, group: Group, step: int) -> None:
        """Exchange: change what the members have learned (`stack.learner.parameters()` are views)."""
        raise NotImplementedError

    def metrics(self) -> list[tuple[int, int, str, float]]:
        """(replica, member, name, value) since the last call."""
        return []

    def state(self) -> dict[str, Any]:
        """Everything that a resume needs."""
        return {}

    def load_state(self, state: dict[str, Any]) -> None:
        """Continue from `state`."""
