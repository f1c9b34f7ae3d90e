"""The settings of the exchange `fedavg`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from peerage.config.methods import EXCHANGES, ExchangeMethod


@dataclass(frozen=True)
class FedAvgSettings:
    """Federated averaging (--exchange fedavg; docs/methods/exchanges.md)."""

    fedavg_networks: Literal["all", "critics"] = "all"
    """Networks that are averaged, with their target networks: all, or critics (Q-functions and PPO's value)."""


EXCHANGES.register(
    ExchangeMethod(
        "fedavg",
        "peerage.sharing.exchanges.fedavg:FedAvg",
        FedAvgSettings,
        part="fedavg",
        federated=True,
        about="federated averaging: networks alone, of all members or their critics",
    )
)
