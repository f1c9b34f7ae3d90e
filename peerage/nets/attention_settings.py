"""The settings of attention networks, and their registration as networks of learners."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from peerage.config.fields import limited
from peerage.config.methods import NETS, NetMethod
from peerage.errors import UserError

Tokens = Literal["auto", "features", "history", "both", "set"]


@dataclass(frozen=True)
class AttentionSettings:
    """Networks that attend over tokens of the observation (--net attention)."""

    tokens: Tokens = "auto"
    """What the network attends over. features: each number of the observation is a token; history: each step of a
    window (--env-args history=N); both: each step of a window is pooled from its numbers first; set: sensors without
    identity, whose order does not matter; auto: history for a window, otherwise features."""
    d_model: int = limited(32, "[1, inf)")
    """Width of a token, a multiple of n_heads."""
    n_heads: int = limited(4, "[1, inf)")
    """Attention heads."""
    n_layers: int = limited(1, "[0, inf)")
    """Layers of self-attention before the pooling, or before the query of the present step; 0: only these."""
    dropout: float = limited(0.0, "[0, 1)")
    """Dropout rate of the layers of self-attention during updates. Plain dropout harms PPO (arXiv 2202.11818)."""
    gate: bool = False
    """Gates of GTrXL (arXiv 1910.06764) instead of residual connections."""
    readout: int = limited(64, "[0, inf)")
    """Units of the hidden layer between attention and output; 0: none."""
    n_queries: int = limited(8, "[1, inf)")
    """Learned queries with tokens set."""

    def __post_init__(self) -> None:
        if self.d_model % self.n_heads:
            raise UserError(f"--n-heads {self.n_heads} does not divide --d-model {self.d_model}: choose a divisor")
        if self.dropout and round(256 * self.dropout) in (0, 256):
            raise UserError(f"--dropout {self.dropout:g} is rounded to a multiple of 1/256: use 0.004 to 0.996, or 0")
        if self.dropout and not self.n_layers and self.tokens in ("features", "set"):
            raise UserError("--dropout has no effect with --n-layers 0: remove it")
        if self.gate and not self.n_layers and self.tokens != "both":
            raise UserError("--gate has no effect with --n-layers 0: remove it")


NETS.register(
    NetMethod(
        "attention",
        "peerage.nets.attention_net:build_attention",
        AttentionSettings,
        part="attention",
        about="attention over tokens of the observation",
    )
)
