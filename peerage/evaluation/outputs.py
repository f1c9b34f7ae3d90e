"""What the network of a policy computes in many states, and how much it differs between states.

`change(other)`: how much the output of another input differs, `[...]`, at least 0. `slope(up, down, gap)`: the absolute
derivative of the output along an input from two outputs on both sides, whose inputs differ by `gap`, `[...]`.
"""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor


class Probabilities:
    """A categorical policy; `logits [..., A]`. Change: `KL(pi || pi')` in nats. Slope: the mean over the actions, drawn
    from the policy, of `|d log pi(a) / d x|`."""

    unit = "KL divergence"
    name = "probabilities"

    def __init__(self, logits: Tensor) -> None:
        self.log_p = logits.double().log_softmax(dim=-1)
        self.p = self.log_p.exp()

    def change(self, other: Probabilities) -> Tensor:
        return (self.p * (self.log_p - other.log_p)).sum(dim=-1)

    def slope(self, up: Probabilities, down: Probabilities, gap: Tensor) -> Tensor:
        return (self.p * (up.log_p - down.log_p).abs()).sum(dim=-1) / gap

    def arrays(self) -> dict[str, Any]:
        return {"probabilities": self.p.float().numpy()}


class Normal:
    """A policy with independent normal distributions; `mean` and `log_std [..., act]`. Change: `KL(pi || pi')` in nats.
    Slope: the mean over the actions, drawn from the policy, of `|d log pi(a) / d x|`; exact if the standard deviation
    does not depend on the state."""

    unit = "KL divergence"
    name = "normal"

    def __init__(self, mean: Tensor, log_std: Tensor) -> None:
        self.mean, self.log_std = mean.double(), log_std.double().expand_as(mean)
        self.std = self.log_std.exp()

    def change(self, other: Normal) -> Tensor:
        ratio = (self.std / other.std).square() + ((self.mean - other.mean) / other.std).square()
        return (other.log_std - self.log_std + 0.5 * (ratio - 1)).sum(dim=-1)

    def slope(self, up: Normal, down: Normal, gap: Tensor) -> Tensor:
        # log pi(a) has the derivative sum_k z_k (d mean_k / d x) / std_k with z ~ N(0, 1), and E|z| = sqrt(2 / pi)
        return math.sqrt(2 / math.pi) * ((up.mean - down.mean) / self.std).norm(dim=-1) / gap

    def arrays(self) -> dict[str, Any]:
        return {"mean": self.mean.float().numpy(), "std": self.std.float().numpy()}


class Values:
    """The greedy policy of a Q-function; `q [..., A]`, which are no probabilities. Change: the value that the other
    greedy action loses, `max_a Q(a) - Q(argmax_a Q'(a))`. Slope: of the advantage of the greedy action over the mean
    of all actions."""

    unit = "lost value"
    name = "values"

    def __init__(self, q: Tensor) -> None:
        self.q = q.double()
        self.best = self.q.argmax(dim=-1, keepdim=True)

    def change(self, other: Values) -> Tensor:
        return (self.q.amax(dim=-1, keepdim=True) - self.q.gather(-1, other.best)).squeeze(-1)

    def slope(self, up: Values, down: Values, gap: Tensor) -> Tensor:
        difference = up.q - down.q
        own = difference.gather(-1, self.best).squeeze(-1)
        return (own - difference.mean(dim=-1)).abs() / gap

    def arrays(self) -> dict[str, Any]:
        return {"values": self.q.float().numpy()}


class Actions:
    """A deterministic policy; `actions [..., act]`. Change and slope: the Euclidean distance of the actions, in units
    of `scale [act]`."""

    unit = "distance of actions"
    name = "actions"

    def __init__(self, actions: Tensor, scale: Tensor) -> None:
        self.actions = actions.double() / scale.double()

    def change(self, other: Actions) -> Tensor:
        return (self.actions - other.actions).norm(dim=-1)

    def slope(self, up: Actions, down: Actions, gap: Tensor) -> Tensor:
        return (up.actions - down.actions).norm(dim=-1) / gap

    def arrays(self) -> dict[str, Any]:
        return {}


Output = Probabilities | Normal | Values | Actions
