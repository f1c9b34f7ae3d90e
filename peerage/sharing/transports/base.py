"""The interface of transports, and the exchange within one process."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

SENDS = "sends"
"""The array of a message that says which members take part, bool `[R, n]`."""


class Stopped(Exception):
    """The user asked to stop while a round was waiting for other participants."""


@dataclass
class Waiting:
    """What a transport asks and tells while it waits for other participants. A runner sets both functions."""

    stop: Callable[[], bool] = lambda: False
    """Whether the user asked to stop."""
    say: Callable[[str], None] = lambda text: None
    """Receives messages for the user, one line each."""


class Transport:
    """Brings the arrays of the members of all participants together.

    Arrays are `[R, n, ...]`: `R` replicas, which all participants have, and the `n` members of one participant. The
    array `sends [R, n]` (bool) says which members take part in this round; the values of the others are not used.
    """

    def exchange(self, round: int, outgoing: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """The arrays of all members `[R, N, ...]`, by the same names, after every participant has given its own in
        round 1, 2, ...; `sends` is False for members of participants that are missing. May wait for other processes.
        Raises Stopped."""
        raise NotImplementedError

    def labels(self, n: int) -> list[str]:
        """The names of all members in metrics. The `n` members of this process are called by their numbers `0` to
        `n - 1`."""
        return list(map(str, range(n)))

    def metrics(self) -> dict[str, float]:
        """Name -> value, for metrics.csv."""
        return {}

    def state(self) -> dict[str, Any]:
        """Everything that a resume needs."""
        return {}

    def load_state(self, state: dict[str, Any]) -> None:
        """Continue from `state`."""


class InProcess(Transport):
    """All members are in this process."""

    def exchange(self, round: int, outgoing: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        return outgoing
