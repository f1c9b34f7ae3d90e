"""The settings of the exchange `fedformer`."""

from __future__ import annotations

from dataclasses import dataclass

from peerage.config.fields import limited
from peerage.config.methods import EXCHANGES, ExchangeMethod
from peerage.errors import UserError


@dataclass(frozen=True)
class FedFormerSettings:
    """Federation by attention over the encoders of all members (--exchange fedformer; docs/methods/fedformer.md)."""

    fedformer_width: int = limited(128, "[1, inf)")
    """Width of encodings, tokens and hidden layers of the critics. The paper: 400."""
    fedformer_heads: int = limited(4, "[1, inf)")
    """Heads of attention; they must divide fedformer_width."""
    fedformer_layers: int = limited(1, "[1, inf)")
    """Transformer layers. The paper: 2."""
    fedformer_hidden: int = limited(256, "[1, inf)")
    """Hidden units of the feed-forward layers. The paper: 2048."""
    fedformer_dropout: float = limited(0.0, "[0, 1)")
    """Dropout rate of the transformer layers in the losses of critics and actor; targets have none. The paper: 0.1."""

    def __post_init__(self) -> None:
        if self.fedformer_width % self.fedformer_heads:
            raise UserError(
                f"--fedformer-width {self.fedformer_width} must be a multiple of --fedformer-heads "
                f"{self.fedformer_heads}"
            )
        if self.fedformer_dropout and round(256 * self.fedformer_dropout) in (0, 256):
            raise UserError(
                f"--fedformer-dropout {self.fedformer_dropout:g} is rounded to a multiple of 1/256: use 0.004 to "
                "0.996, or 0"
            )


EXCHANGES.register(
    ExchangeMethod(
        "fedformer",
        "peerage.sharing.exchanges.fedformer:FedFormer",
        FedFormerSettings,
        part="fedformer",
        federated=True,
        critic="peerage.learners.fedformer_critic:FedFormerCritic",
        about="members receive the encoders of the others' critics and attend over them",
    )
)
