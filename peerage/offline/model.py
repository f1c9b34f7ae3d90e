"""A trained Decision Transformer that can act, wherever it comes from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from peerage.nets.gpt import StackedGPT
from peerage.offline.context import Contexts
from peerage.offline.preprocessing import Preprocessing


@dataclass(frozen=True, eq=False)
class SequenceModel:
    """A network of one row with the statistics of its data."""

    net: StackedGPT
    preprocessing: Preprocessing
    env: str = ""
    """The environment's id or `module:function`; empty if it is unknown."""
    env_args: Mapping[str, Any] = field(default_factory=dict)

    def contexts(self, n: int, *, clip: bool = False) -> Contexts:
        """The windows of `n` episodes; arguments as for `Contexts`."""
        return Contexts(self.net, self.preprocessing, n, clip=clip)
