"""What a member can go by when it scores its advisers: one small object a signal, all with the same interface."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import numpy as np
from torch import Tensor


class Transition(NamedTuple):
    """One environment step of all members: on the device, and what the host knows of it anyway."""

    obs: Tensor  # [M, obs]
    next_obs: Tensor  # [M, obs]; the true one where the episode ended
    host_obs: np.ndarray  # [M, obs]
    host_actions: np.ndarray  # [M, act]
    rewards: np.ndarray  # [M]
    terminated: np.ndarray  # [M] bool
    done: np.ndarray  # [M] bool: terminated or truncated
    first: np.ndarray  # [M] bool: the first step of an episode


class Signal(Protocol):
    """A way to score advisers. Everything is `[M, K]`: a row per asking member, a column per adviser."""

    def observe(self, transition: Transition, followed: Tensor, host_followed: np.ndarray, chose: np.ndarray) -> None:
        """A step was made: whom everybody followed in it (`[M]`, on the device and on the host), and who chose that
        adviser anew in this step (`[M]` bool)."""
        ...

    def reset(self, who: np.ndarray) -> None:
        """The episodes of the members `who [M]` (bool) begin anew, wherever they stood."""
        ...

    def after_step(self, step: int) -> None:
        """Learn, before the members' networks change."""
        ...

    def values(self, obs: Tensor, suggestions: Tensor, due: np.ndarray, step: int) -> dict[str, Tensor]:
        """The components of the choice that the members `due [M]` make in environment step `step`, by their
        column in advice.csv; rows that are not due mean nothing. `suggestions [M, K, act]`."""
        ...

    def report(self) -> dict[str, Tensor]:
        """Columns of advice.csv as they stand, `[M, K]`; NaN was not computed."""
        ...

    def metrics(self) -> dict[str, Tensor]:
        """Numbers per member, `[M]`, since the last call; NaN where there is none."""
        ...

    def state(self) -> dict[str, Any]: ...

    def load_state(self, state: dict[str, Any]) -> None: ...
