"""The settings of in-context trust."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from peerage.config.fields import limited
from peerage.config.methods import TRUST, TrustMethod


@dataclass(frozen=True)
class ContextSettings:
    """In-context trust: a transformer over the group's last decisions (docs/methods/in-context-trust.md)."""

    context_length: int = limited(100, "[2, 200]")
    """Decisions in a window, the query included. Typical: 30 to 200."""
    context_history: int = limited(2000, "[2, inf)")
    """Decisions that a member keeps."""
    context_lr: float = limited(1e-3, "(0, inf)")
    """Adam's learning rate."""
    context_update_freq: int = limited(20, "[1, inf)")
    """Steps between gradient steps."""
    context_batch_size: int = limited(32, "[1, inf)")
    """Windows in a gradient step, per replica."""
    context_estimator: Literal["both", "kernel", "transformer"] = "both"
    """kernel: means over past decisions in similar states; transformer: learned alone; both: the transformer
    corrects the kernel."""
    context_critics: bool = True
    """Let it see what the askers' critics say of all suggestions, now and in past decisions."""
    context_identity: bool = False
    """Let it see who the candidate is, so that it can remember names."""
    context_hide_identity: float = limited(0.5, "[0, 1]")
    """Share of the training windows in which names are hidden all the same, 0 to 1."""


TRUST.register(
    TrustMethod(
        "in-context",
        "peerage.trust.in_context:make_in_context_trust",
        ContextSettings,
        part="context",
        columns={"in_context": "in-context trust"},
    )
)
