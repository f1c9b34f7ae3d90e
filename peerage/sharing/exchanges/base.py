"""The interface of exchanges."""

from __future__ import annotations

from typing import Any

from peerage.learners.group import Group
from peerage.sharing.transports.base import InProcess, Transport


class Exchange:
    """Base class of exchanges of learned parameters between the members of a group, every `every` environment steps,
    after learning. Subclasses must implement `after_learning`.

    `settings` is the part of the configuration with the settings of the exchange; None if it has none. The constructor
    raises UserError for an unsupported group.
    """

    def __init__(self, settings: Any, group: Group, every: int) -> None:
        self.settings, self.group, self.every = settings, group, every
        self.transport: Transport = InProcess()
        """Brings the arrays of all participants of a federation together; only exchanges that are registered as
        `federated` get another one."""

    def round(self, step: int) -> int:
        """The number of the exchange after environment step `step`: 1, 2, ..."""
        return step // self.every

    def due(self, step: int) -> bool:
        """Whether an exchange takes place after environment step `step`. Members with `E` environments perform `E`
        steps at once."""
        return step % self.every < self.group.E

    def after_learning(self, group: Group, step: int) -> None:
        """Perform the exchange: modify `stack.learner.exchanged()`, which are views, in place."""
        raise NotImplementedError

    def metrics(self) -> list[tuple[int, int, str, float]]:
        """(replica, member, name, value) since the last call."""
        return []

    def state(self) -> dict[str, Any]:
        """Everything that a resume needs."""
        return {}

    def load_state(self, state: dict[str, Any]) -> None:
        """Continue from `state`."""
