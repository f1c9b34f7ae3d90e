"""The interface of signals, from which a member computes the scores of its advisers."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor

from peerage.learners.transition import Transition


class Signal:
    """Base class of the signals that members score advisers by. Values are `[M, K]`: one row per asking member, one
    column per adviser. A subclass must implement `values`; the other methods do nothing by default."""

    fixed_state = False
    """As `peerage.Learner.fixed_state`: the keys, shapes and types of `state` never change."""

    def observe(self, transition: Transition) -> None:
        """Called after every step of all members. `transition.host` has the adviser that each member followed and
        whether it was chosen in this step."""

    def reset(self, who: np.ndarray) -> None:
        """Called when the episodes of the members `who [M]` (bool) start again before their end."""

    def after_step(self, step: int) -> None:
        """Learn from step `step`. Called before the members' networks change."""

    def catch_up(self) -> None:
        """Make deferred updates, because an exchange will change the members' networks or a copy is taken."""

    def values(self, obs: Tensor, suggestions: Tensor, due: np.ndarray, step: int) -> dict[str, Tensor]:
        """The components of the choice that the members `due [M]` (bool) make in environment step `step`: name ->
        values `[M, K]`. The other rows are not used. `obs [M, obs]`, `suggestions [M, K, act]`."""
        raise NotImplementedError

    def estimates(self) -> tuple[Tensor, Tensor] | None:
        """The estimates of the last `values` as numbers that can be compared between advisers, and their standard
        errors, `[M, K]` each: members imitate an adviser only where it is better than themselves with confidence
        (--imitate). Estimates that are not finite are unknown. None: the scores are compared, as if they had no
        error."""
        return None

    def report(self) -> dict[str, Tensor]:
        """The current values of the columns of advice.csv that the kind of trust was registered with, `[M, K]` each.
        NaN where nothing was computed."""
        return {}

    def batch_floats(self, threads: int) -> dict[str, int]:
        """The approximate number of temporary floats in a gradient step, by part, for the memory budget."""
        return {}

    def metrics(self) -> dict[str, Tensor]:
        """Metrics since the last call: name -> a number for each member, `[M]`; NaN where there is none."""
        return {}

    def state(self) -> dict[str, Any]:
        """Everything that a resume needs: tensors and JSON-able values, nested in dicts and lists."""
        return {}

    def load_state(self, state: dict[str, Any]) -> None:
        """Restore what `state` returned."""

    def schedules(self) -> list[str]:
        """Descriptions of what depends on the length of the run. A run with such a schedule is extended only on
        request (`peerage resume --stretch-schedules`). Override it also if there is none, so that an extension does
        not warn."""
        return []

    def lengthened(self, state: dict[str, Any], total_steps: int) -> dict[str, Any]:
        """Convert a `state` of a run with the planned length `total_steps`, which has been extended. Needed if the
        shapes in the state depend on the length of the run."""
        return state
