"""The settings of the exchange `average`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from peerage.config.methods import EXCHANGES, ExchangeMethod


@dataclass(frozen=True)
class AverageSettings:
    """Averaging of the members' parameters (--exchange average; docs/methods/exchanges.md)."""

    average_targets: Literal["average", "copy"] = "average"
    """Target networks after an exchange: average (the mean of the members' target networks) or copy (the averaged
    online networks)."""


EXCHANGES.register(
    ExchangeMethod(
        "average", "peerage.sharing.exchanges.average:Average", AverageSettings, part="average", federated=True
    )
)
