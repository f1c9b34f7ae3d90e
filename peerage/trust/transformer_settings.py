"""The settings of transformer trust and of its mixture with trust by temporal differences."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from peerage.config.fields import limited
from peerage.config.methods import TRUST, TrustMethod


@dataclass(frozen=True)
class TrustTransformerSettings:
    """The trust transformer over the last steps (trust: transformer or hybrid; docs/methods/transformer-trust.md)."""

    use_phase_aware: bool = False
    """Let the attention depend on the phase of the task (a family of features has phases, or none)."""
    features: str = "auto"
    """Family of features: auto (by environment), lunarlander, hopper, walker2d, ant, room, generic, or a
    name registered with `peerage.register_features`."""
    attention_lr: float = limited(1e-5, "(0, inf)")
    """Adam's learning rate of the trust transformer."""
    attention_update_freq: int = limited(20, "[1, inf)")
    """Steps between its gradient steps."""
    attention_batch_size: int = limited(32, "[1, inf)")
    """Windows in a gradient step."""
    sequence_length: int = limited(50, "[2, 200]")
    """Steps in a window, 2 to 200."""
    attention_history: int = limited(10_000, "[2, inf)")
    """Steps of its history that a member keeps."""
    warmup_steps: int = limited(500_000, "[1, inf)")
    """Steps over which the transformer's weight in the hybrid rises to its limit."""
    max_attention_weight: float = limited(0.5, "[0, 1]")
    """That limit, 0 to 1."""
    wiring: Literal["causal", "seed"] = "causal"
    """causal: a step sees itself and the past, and predictions cannot see their own reward; seed: as published,
    in both directions."""
    lagged_rewards: bool = True
    """Features describe rewards before the step whose reward is predicted; off: as published, with it."""


TRUST.register(
    TrustMethod(
        "transformer",
        "peerage.trust.hybrid:make_transformer_trust",
        TrustTransformerSettings,
        part="trust_transformer",
        resolve="peerage.trust.features:resolve_features",
        columns={"trust_attention": "transformer trust"},
    )
)
TRUST.register(
    TrustMethod(
        "hybrid",
        "peerage.trust.hybrid:make_transformer_trust",
        TrustTransformerSettings,
        part="trust_transformer",
        resolve="peerage.trust.features:resolve_features",
        needs=("td",),
        columns={
            "trust_attention": "transformer trust",
            "confidence": "confidence of the transformer",
            "omega": "weight of the transformer",
        },
    )
)
