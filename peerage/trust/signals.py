"""What a member can go by when it scores its advisers: one small object per signal, all with the same interface."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor

from peerage.learners.transition import Transition


class Signal:
    """A way to score advisers. Everything is `[M, K]`: a row per asking member, a column per adviser. `values` is the
    only method that every signal must have."""

    def observe(self, transition: Transition) -> None:
        """A step of every member was made; `transition.host` says which adviser each member followed and which
        members chose it in this step."""

    def reset(self, who: np.ndarray) -> None:
        """The episodes of the members `who [M]` (bool) begin anew, in the middle of an episode."""

    def after_step(self, step: int) -> None:
        """Learn, before the members' networks change."""

    def before_exchange(self) -> None:
        """The members' networks are about to change by an exchange: make up for what was deferred."""

    def values(self, obs: Tensor, suggestions: Tensor, due: np.ndarray, step: int) -> dict[str, Tensor]:
        """The components of the choice that the members `due [M]` make in environment step `step`, by name; rows that
        are not due mean nothing. `obs [M, obs]`, `suggestions [M, K, act]`."""
        raise NotImplementedError

    def report(self) -> dict[str, Tensor]:
        """Columns of advice.csv at this moment, `[M, K]`; NaN was not computed."""
        return {}

    def batch_floats(self, threads: int) -> dict[str, int]:
        """About how many numbers a gradient step makes and throws away, by part, for the memory budget."""
        return {}

    def metrics(self) -> dict[str, Tensor]:
        """Numbers per member, `[M]`, since the last call; NaN where there is none."""
        return {}

    def state(self) -> dict[str, Any]:
        """Everything that a resume needs."""
        return {}

    def load_state(self, state: dict[str, Any]) -> None:
        """Continue from `state`."""
