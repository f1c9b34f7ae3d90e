"""The action distributions of stochastic policies, with their derivatives written out.

Shapes: `[S, B, ...]`, one row per member. `gradient` returns the derivative of

    sum_{s, b} (d_log_prob log p(action) + d_entropy H)

with respect to the outputs of the network, where `d_log_prob [S, B]` and `d_entropy [S, B]` are given.
"""

from __future__ import annotations

import math

from torch import Tensor

LOG_2PI = math.log(2 * math.pi)


class Categorical:
    """Actions `0 ... A - 1` with the probabilities `softmax(logits)`; `logits [S, B, A]`. An action is its index as a
    float, `[S, B, 1]`."""

    def __init__(self, logits: Tensor) -> None:
        self.log_p = logits.log_softmax(dim=-1)
        self.p = self.log_p.exp()

    def mode(self) -> Tensor:
        return self.log_p.argmax(dim=-1, keepdim=True).to(self.log_p.dtype)

    def sample(self, uniform: Tensor) -> Tensor:
        """The inverse of the distribution function at `uniform [S, B, 1]`, in [0, 1)."""
        index = (self.p.cumsum(dim=-1) <= uniform).sum(dim=-1, keepdim=True)
        return index.clamp_(max=self.p.shape[-1] - 1).to(self.log_p.dtype)  # the sum of p may be below 1

    def log_prob(self, actions: Tensor) -> Tensor:
        return self.log_p.gather(-1, actions.long()).squeeze(-1)

    def entropy(self) -> Tensor:
        return -(self.p * self.log_p).sum(dim=-1)

    def gradient(self, actions: Tensor, d_log_prob: Tensor, d_entropy: Tensor | None) -> Tensor:
        """With respect to the logits: `d log p_a / d z_j = [j = a] - p_j` and `d H / d z_j = -p_j (log p_j + H)`."""
        out = -self.p * d_log_prob.unsqueeze(-1)
        out.scatter_add_(-1, actions.long(), d_log_prob.unsqueeze(-1))
        if d_entropy is not None:
            slope = self.p * (self.log_p + self.entropy().unsqueeze(-1))
            out.sub_(slope.mul_(d_entropy.unsqueeze(-1)))
        return out


class DiagonalNormal:
    """Normally distributed actions with the mean `mean [S, B, act]` and the standard deviation
    `exp(log_std [S, act])`."""

    def __init__(self, mean: Tensor, log_std: Tensor) -> None:
        self.mean, self.log_std = mean, log_std.unsqueeze(1)  # [S, 1, act]
        self.std = self.log_std.exp()

    def mode(self) -> Tensor:
        return self.mean

    def sample(self, normal: Tensor) -> Tensor:
        """`mean + std normal`; `normal [S, B, act]`."""
        return self.mean + self.std * normal

    def log_prob(self, actions: Tensor) -> Tensor:
        z = (actions - self.mean) / self.std
        return (-0.5 * z.square() - self.log_std - 0.5 * LOG_2PI).sum(dim=-1)

    def entropy(self) -> Tensor:
        return (0.5 + 0.5 * LOG_2PI + self.log_std).sum(dim=-1).expand(self.mean.shape[:2])

    def gradient(self, actions: Tensor, d_log_prob: Tensor) -> Tensor:
        """With respect to the mean: `(a - mean) / std^2`."""
        return (actions - self.mean) / self.std.square() * d_log_prob.unsqueeze(-1)

    def log_std_gradient(self, actions: Tensor, d_log_prob: Tensor, d_entropy: Tensor | None) -> Tensor:
        """With respect to `log_std`, summed over the batch, `[S, act]`: `d log p / d log std = z^2 - 1` with
        `z = (a - mean) / std`, and `d H / d log std = 1`."""
        z = (actions - self.mean) / self.std
        out = ((z.square() - 1) * d_log_prob.unsqueeze(-1)).sum(dim=1)
        return out if d_entropy is None else out + d_entropy.sum(dim=1, keepdim=True)
