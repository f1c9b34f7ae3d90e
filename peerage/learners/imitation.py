"""The losses on labels: suggestions of trusted advisers that a member imitates (--imitate trusted).

Equations: docs/methods/imitation.md. Shapes: `[S, B, ...]`, one row per member. A label has a weight `w`: the
probability, according to trust, that the adviser is better than the member in this state; -1 without a label.
"""

from __future__ import annotations

import torch
from torch import Tensor


def head_outputs(n_actions: int) -> int:
    """The number of outputs of an imitation head: a logit for each action, and one for "no adviser is better"."""
    return n_actions + 1


def act(logits: Tensor, own: Tensor) -> Tensor:
    """The most likely action of the head `[..., 1]`, where "no adviser is better" has a probability below 1/2;
    elsewhere the member's `own` action. `logits [..., n_actions + 1]`."""
    actions = logits[..., :-1]
    trusted = actions.logsumexp(dim=-1, keepdim=True) > logits[..., -1:]
    return torch.where(trusted, actions.argmax(dim=-1, keepdim=True), own)


def loss(logits: Tensor, label: Tensor, weight: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """The cross-entropy `L = c mean_B [w >= 0] (-w log p(label) - (1 - w) log p(none))` and its gradient with respect
    to the logits: `[S]` and `[S, B, n_actions + 1]`.

    `logits [S, B, n_actions + 1]`, `label [S, B, 1]` (long), weights `w [S, B]`, `scale [S, 1]` (`c`).
    """
    known = (weight >= 0).to(logits.dtype)  # [S, B]
    w = weight.clamp(0, 1).unsqueeze(-1)
    target = torch.zeros_like(logits)
    target[..., -1:] = 1 - w
    target.scatter_(-1, label, w)
    log_p = logits.log_softmax(dim=-1)
    share = scale * known / weight.shape[1]  # [S, B]
    return -(share * (target * log_p).sum(dim=-1)).sum(dim=1), (log_p.exp() - target) * share.unsqueeze(-1)
