"""What every learner is: the interface that advice, training and evaluation speak to, and what they share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from peerage.learners.defaults import Settings
from peerage.learners.replay import Replay
from peerage.learners.streams import StreamKey, Streams
from peerage.nets.stacked import StackedMLP


@dataclass(frozen=True)
class Space:
    """The shapes of a task. `low` and `high` are `[act]` and None where the actions are discrete."""

    obs_dim: int
    act_dim: int
    n_actions: int = 0
    low: np.ndarray | None = None
    high: np.ndarray | None = None

    @property
    def discrete(self) -> bool:
        return self.n_actions > 0


class Learner(Protocol):
    """One algorithm for the `S` members of a stack. Actions go in and out in the environment's units; a Discrete
    action is its index as a float, in a last dimension of one."""

    settings: Sequence[Settings]
    replay: Replay
    active: Tensor  # [S] bool: learns; False once frozen
    samples: bool  # a stochastic policy: its suggestions need noise

    def suggest(self, obs: Tensor, noise: Tensor | None) -> Tensor:
        """What each member would do: `obs [S, B, obs]` -> `[S, B, act]`. With `noise [S, B, act]` (standard normal)
        a stochastic policy samples, without it answers with its mode."""
        ...

    def explore(self, actions: Tensor, step: int) -> Tensor:
        """Exploration on top of the member's own suggestion, when it follows itself: `[S, act]` -> `[S, act]`."""
        ...

    def value(self, obs: Tensor, actions: Tensor) -> Tensor:
        """Critic: `min_k Q_i^k(s, a)`; `obs [S, B, obs]`, `actions [S, B, act]` -> `[S, B]`."""
        ...

    def state_value(self, obs: Tensor, noise: Tensor | None) -> Tensor:
        """`V_i(s) = min_k Q_i^k(s, a ~ pi_i)`: `obs [S, B, obs]` -> `[S, B]`."""
        ...

    def observe(self, obs: Tensor, actions: Tensor, rewards: Tensor, next_obs: Tensor, terminated: Tensor) -> None:
        """Store one transition of every member."""
        ...

    def after_step(self, step: int) -> None:
        """Everything that happens after environment step `step` (1, 2, ...): learning and target networks."""
        ...

    def metrics(self) -> dict[str, Tensor]:
        """Means `[S]` since the last call."""
        ...

    def networks(self) -> dict[str, StackedMLP]:
        """All networks by name; one with `k` rows a member has member s in rows `k s` to `k s + k - 1`."""
        ...

    def state(self) -> dict[str, Any]:
        """Nested dict of tensors and JSON-able values, without the replay buffer."""
        ...

    def load_state(self, state: dict[str, Any]) -> None: ...


def column(settings: Sequence[Settings], get: Callable[[Settings], float], like: Tensor) -> Tensor:
    """A per-member setting as `[S, 1]`."""
    return torch.tensor([[float(get(s))] for s in settings], device=like.device, dtype=like.dtype)


def clip_column(settings: Sequence[Settings], like: Tensor) -> Tensor | None:
    """Gradient-norm limits `[S, 1]`, or None where nobody clips (0 means: no clipping)."""
    if all(s.max_grad_norm == 0 for s in settings):
        return None
    return column(settings, lambda s: s.max_grad_norm or float("inf"), like)


class Means:
    """Running means `[S]` on the device, read only when somebody asks: no copy to the host per step."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.counts: dict[str, int] = {}

    def add(self, name: str, value: Tensor) -> None:
        value = value.detach()
        self.sums[name] = self.sums[name] + value if name in self.sums else value
        self.counts[name] = self.counts.get(name, 0) + 1

    def state(self) -> dict[str, Any]:
        return {"sums": self.sums, "counts": self.counts}

    def load_state(self, state: dict[str, Any], like: Tensor) -> None:
        self.sums = {name: total.to(like.device) for name, total in state["sums"].items()}
        self.counts = dict(state["counts"])

    def take(self) -> dict[str, Tensor]:
        means = {name: total / self.counts[name] for name, total in self.sums.items()}
        self.sums, self.counts = {}, {}
        return means


class BoxScale:
    """Between the environment's action units and [-1, 1], where SAC and TD3 live."""

    def __init__(self, space: Space, device: torch.device | str, dtype: torch.dtype) -> None:
        assert space.low is not None and space.high is not None
        self.low = torch.as_tensor(space.low, device=device, dtype=dtype)
        self.high = torch.as_tensor(space.high, device=device, dtype=dtype)
        self.unit = bool((self.low == -1).all() and (self.high == 1).all())

    def to_env(self, actions: Tensor) -> Tensor:
        """From [-1, 1] to the environment's units. A network that has diverged may say what is no number: that is the
        middle of the box, so that neither its environment nor those whom it advises come to harm."""
        actions = actions.nan_to_num(0.0)
        return actions if self.unit else self.low + 0.5 * (actions + 1) * (self.high - self.low)

    def from_env(self, actions: Tensor) -> Tensor:
        """From the environment's units to [-1, 1]; what lies outside the box is clipped."""
        scaled = actions if self.unit else 2 * (actions - self.low) / (self.high - self.low) - 1
        return scaled.clamp(-1, 1)


def sampler(stream_keys: Sequence[StreamKey], settings: Settings, device: torch.device | str) -> Streams:
    """The stream that draws replay batches, `[S, B]` in [0, 1)."""
    return Streams(stream_keys, "replay", (settings.batch_size,), "uniform", device)


def due(settings: Settings, step: int) -> bool:
    """Is it time for gradient steps after environment step `step`? As in Stable-Baselines3."""
    return step > settings.learning_starts and step % settings.train_freq == 0
