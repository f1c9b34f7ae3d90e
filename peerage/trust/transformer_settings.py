"""The settings of transformer trust and of its mixture with trust by temporal differences."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from peerage.config.fields import limited
from peerage.config.methods import TRUST, TrustMethod


@dataclass(frozen=True)
class TrustTransformerSettings:
    """The trust transformer (--trust transformer or hybrid; docs/methods/transformer-trust.md). --use-phase-aware,
    --attention-*, --sequence-length or --warmup-steps without --trust, --choice and --config mean --trust hybrid
    --choice paper with the published settings."""

    use_phase_aware: bool = False
    """Let the attention depend on the phase of the task. The family of features must have phases."""
    features: str = "auto"
    """Family of features: auto (by environment), lunarlander, hopper, walker2d, ant, room, generic, or a
    name registered with `peerage.register_features`."""
    attention_lr: float = limited(1e-5, "(0, inf)")
    """Learning rate of the trust transformer's Adam."""
    attention_update_freq: int = limited(20, "[1, inf)")
    """Steps between gradient steps of the trust transformer."""
    attention_batch_size: int = limited(32, "[1, inf)")
    """Windows in a gradient step."""
    sequence_length: int = limited(50, "[2, 200]")
    """Steps in a window, 2 to 200."""
    attention_history: int = limited(10_000, "[2, inf)")
    """Steps that are stored per member."""
    warmup_steps: int = limited(500_000, "[1, inf)")
    """Steps over which the transformer's weight in the hybrid rises to its limit."""
    max_attention_weight: float = limited(0.5, "[0, 1]")
    """Upper limit of the transformer's weight in the hybrid."""
    wiring: Literal["causal", "seed"] = "causal"
    """causal: a step attends to itself and earlier steps, and a prediction cannot see its own reward; seed: as
    published, in both directions."""
    lagged_rewards: bool = True
    """Features describe rewards before the step whose reward is predicted; off: as published, with that reward."""


TRUST.register(
    TrustMethod(
        "transformer",
        "peerage.trust.hybrid:make_transformer_trust",
        TrustTransformerSettings,
        about="the reward that a transformer predicts for following the adviser",
        part="trust_transformer",
        resolve="peerage.trust.features:resolve_features",
        columns={"trust_attention": "trust (attention)"},
        curves={"trust/loss": "loss of the trust model"},
        uses_threads=True,
    )
)
TRUST.register(
    TrustMethod(
        "hybrid",
        "peerage.trust.hybrid:make_transformer_trust",
        TrustTransformerSettings,
        about="td and transformer, weighted by the confidence in the transformer",
        part="trust_transformer",
        resolve="peerage.trust.features:resolve_features",
        needs=("td",),
        columns={"trust_attention": "trust (attention)"},
        asker_columns={"confidence": "confidence in the transformer", "omega": "weight of attention ω"},
        curves={"trust/loss": "loss of the trust model"},
        combine="peerage.trust.hybrid_columns:hybrid_of_columns",
        combined="the hybrid of trust_attention and trust_td, weighted by omega",
        uses_threads=True,
    )
)
