"""The settings of the Decision Transformer's network."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from peerage.config.fields import limited
from peerage.errors import UserError

GPTActivation = Literal["relu", "gelu_new", "gelu"]


@dataclass(frozen=True)
class GPTSettings:
    """The GPT-2 network of the Decision Transformer. The defaults are those of the paper (arXiv 2106.01345)."""

    context_length: int = limited(20, "[1, inf)")
    """Steps of an episode that the network sees (K); each step is a return-to-go, an observation and an action."""
    d_model: int = limited(128, "[1, inf)")
    """Width of a token, a multiple of n_heads."""
    n_layers: int = limited(3, "[1, inf)")
    """Layers of causal self-attention."""
    n_heads: int = limited(1, "[1, inf)")
    """Attention heads."""
    dropout: float = limited(0.1, "[0, 1)")
    """Dropout rate of the embeddings, the attention weights and the branches of every layer, during training."""
    activation: GPTActivation = "relu"
    """Activation of the feed-forward layers: relu, gelu (exact), or gelu_new (its approximation by tanh in GPT-2)."""
    max_ep_len: int = limited(0, "[0, inf)")
    """Number of timesteps with an embedding. Longer episodes of the data are refused, and evaluations in environments
    without a time limit are truncated there. 0: the time limit of the environment or the longest episode of the data,
    whichever is longer."""
    precision: Literal["float32", "bf16"] = "float32"
    """Precision of the matrix products of linear layers. bf16 is faster on GPUs and on processors with AMX (Intel,
    since 2023), and slower on others; parameters and gradients stay float32."""
    decoupled: bool = field(default=False, metadata={"internal": True})
    """Decoupled Decision Transformer (arXiv 2601.15953): returns-to-go are no tokens; the one of a step modulates the
    output of this step."""

    def __post_init__(self) -> None:
        if self.d_model % self.n_heads:
            raise UserError(f"n_heads {self.n_heads} does not divide d_model {self.d_model}: choose a divisor")
        if self.dropout and round(256 * self.dropout) in (0, 256):
            raise UserError(f"dropout {self.dropout:g} is rounded to a multiple of 1/256: use 0.004 to 0.996, or 0")
