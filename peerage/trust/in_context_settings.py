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
    """Decisions that are stored per member."""
    context_lr: float = limited(1e-3, "(0, inf)")
    """Learning rate of Adam."""
    context_update_freq: int = limited(20, "[1, inf)")
    """Steps between gradient steps."""
    context_batch_size: int = limited(32, "[1, inf)")
    """Windows in a gradient step, per replica."""
    context_estimator: Literal["both", "kernel", "transformer"] = "both"
    """kernel: means over past decisions in similar states; transformer: learned alone; both: the transformer
    corrects the kernel."""
    context_critics: bool = True
    """Whether the model sees how the askers' critics value all suggestions, now and in past decisions."""
    context_identity: bool = False
    """Whether the model sees which adviser the candidate is. It can then learn about individual advisers."""
    context_hide_identity: float = limited(0.5, "[0, 1]")
    """Share of the training windows in which the candidate's identity is hidden in spite of context_identity, 0 to
    1."""


TRUST.register(
    TrustMethod(
        "in-context",
        "peerage.trust.in_context:make_in_context_trust",
        ContextSettings,
        about="the advantage of following the adviser now, predicted by a transformer over past decisions",
        part="context",
        columns={"in_context": "in-context advantage"},
        curves={"trust/loss": "loss of the trust model"},
        stands_alone=True,
    )
)
