"""The losses on labels: suggestions of trusted advisers that a member imitates (--imitate trusted).

Equations: docs/methods/imitation.md. Shapes: `[S, B, ...]`, one row per member. A label has a weight `w`: the
probability, according to trust, that the adviser is better than the member in this state; -1 without a label.
"""

from __future__ import annotations

import torch
from torch import Tensor

from peerage.learners.critics import Critic
from peerage.learners.replay import Batch

ALPHA = 2.5
"""As in TD3+BC: weight of the Q-values, divided by their mean absolute value, beside behaviour cloning."""


def head_outputs(n_actions: int) -> int:
    """The number of outputs of an imitation head: a logit for each action, and one for "no adviser is better"."""
    return n_actions + 1


def act(logits: Tensor, own: Tensor) -> Tensor:
    """The most likely action of the head `[..., 1]`, where "no adviser is better" has a probability below 1/2;
    elsewhere the member's `own` action. `logits [..., n_actions + 1]`."""
    actions = logits[..., :-1]
    odds = (actions - logits[..., -1:]).exp().sum(dim=-1, keepdim=True)  # (1 - p(none)) / p(none)
    return torch.where(odds > 1, actions.argmax(dim=-1, keepdim=True), own)


def loss(logits: Tensor, label: Tensor, weight: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """The cross-entropy `L = c mean_B [w >= 0] (-w log p(label) - (1 - w) log p(none))` and its gradient with respect
    to the logits: `[S]` and `[S, B, n_actions + 1]`.

    `logits [S, B, n_actions + 1]`, `label [S, B, 1]` (long), weights `w [S, B]`, `scale [S, 1]` (`c`).
    """
    share = (weight >= 0) * (scale / weight.shape[1])  # [S, B]
    w = weight.clamp(min=0).unsqueeze(-1)
    z = logits - logits.amax(dim=-1, keepdim=True)
    p = z.exp()  # a short softmax: torch's is slower than its formula
    total = p.sum(dim=-1, keepdim=True)
    expected = torch.lerp(z[..., -1:], z.gather(-1, label), w)  # w z_label + (1 - w) z_none
    loss = (share * (total.log() - expected)[..., 0]).sum(dim=1)
    gradient = p.div_(total).scatter_add_(-1, label, -w)
    gradient[..., -1:] -= 1 - w
    return loss, gradient.mul_(share.unsqueeze(-1))


@torch.no_grad()
def filtered(batch: Batch, critic: Critic, q: Tensor) -> Tensor:
    """The Q-filter of Nair et al. 2018 (arXiv 1709.10089): the labels' weights where the first critic prefers the label
    to the member's own action, and 0 elsewhere, `[S, B]`. `q [S, B]`: the first critic's values of the own actions."""
    assert batch.label is not None and batch.label_weight is not None
    of_label = critic(torch.cat((batch.obs, batch.label), dim=-1), only_first=True)[:, 0]
    return batch.label_weight.clamp(0, 1) * (of_label > q)


def cloning_loss(actions: Tensor, label: Tensor, weight: Tensor, q: Tensor, scale: Tensor) -> Tensor:
    """`L = c lambda mean_B w mean_k (a_k - label_k)^2`, `[S]`, with `lambda = mean_B |Q_1(s, a)| / 2.5`, which has no
    gradient: TD3+BC (arXiv 2106.06860) divides the loss of the policy by this number instead.

    `actions, label [S, B, act]` in [-1, 1], weights after the Q-filter `w [S, B]`, `q [S, B]`, `scale [S, 1]` (`c`).
    """
    unit = scale[:, 0] * q.detach().abs().mean(dim=1) / ALPHA
    return unit * (weight * (actions - label).square().mean(dim=2)).mean(dim=1)
