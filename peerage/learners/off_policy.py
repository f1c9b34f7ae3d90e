"""The base class of off-policy learners: replay buffer, schedule of learning, state for checkpoints."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from peerage.learners.base import BoxScale, Learner, Space, clip_column, column
from peerage.learners.off_policy_settings import OffPolicySettings
from peerage.learners.replay import Replay
from peerage.learners.streams import StreamKey, Streams
from peerage.learners.transition import Transition
from peerage.nets.adam import StackedAdam
from peerage.nets.stacked import StackedMLP


class OffPolicyLearner(Learner):
    """A learner with a replay buffer. After `learning_starts` steps, it performs `gradient_steps` gradient steps every
    `train_freq` environment steps, as in Stable-Baselines3."""

    settings: Sequence[OffPolicySettings]

    def __init__(
        self,
        settings: Sequence[Any],
        stream_keys: Sequence[StreamKey],
        space: Space,
        total_steps: int,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__(settings, stream_keys, space, total_steps, device=device, dtype=dtype)
        first, like = self.settings[0], torch.zeros(0, device=device, dtype=dtype)
        if not space.discrete:
            self.box = BoxScale(space, device, dtype)
        self.gamma = column(settings, lambda s: s.gamma, like)
        self.tau = column(settings, lambda s: s.tau, like)
        self.learning_rate = column(settings, lambda s: s.learning_rate, like)
        self.max_grad_norm = clip_column(settings, like)
        capacity = min(first.buffer_size, total_steps)
        self.replay = Replay(self.rows, capacity, space.obs_dim, space.act_dim, device, dtype)
        self.streams = {"replay": Streams(stream_keys, "replay", (first.batch_size,), "uniform", device)}
        """Random streams by name. `replay` draws batches, `[S, B]` in [0, 1); subclasses add others."""
        self.optimizers: dict[str, StackedAdam] = {}
        """Optimizers by the name of their parameters."""

    def adam(self, name: str, flat: Tensor, grad: Tensor, *, clips: bool = True) -> StackedAdam:
        """Create the optimizer of the parameters `name`, with the members' learning rates and maximum gradient
        norms."""
        limit = self.max_grad_norm if clips else None
        self.optimizers[name] = StackedAdam(flat, grad, self.learning_rate, max_grad_norm=limit)
        return self.optimizers[name]

    def stored(self, actions: Tensor) -> Tensor:
        """Actions as stored in the replay buffer: scaled to [-1, 1] for Box."""
        return actions if self.space.discrete else self.box.from_env(actions)

    def networks(self) -> dict[str, StackedMLP]:
        """The multilayer perceptrons by name. In a network with `k` rows per member, member s has rows `k s` to
        `k s + k - 1`."""
        return {}

    def batch_floats(self) -> int:
        online = [net for name, net in self.networks().items() if not name.endswith("_target")]
        activations = 2 * sum(net.rows * sum(net.sizes) for net in online)  # and their gradients
        return self.settings[0].batch_size * (activations + self.rows * self.replay.width)

    def observe(self, transition: Transition) -> None:
        t = transition
        self.replay.add(t.obs, self.stored(t.actions), t.rewards, t.next_obs, t.terminated)

    def learns(self, step: int) -> bool:
        first = self.settings[0]
        return step > first.learning_starts and step % first.train_freq == 0

    def state(self) -> dict[str, Any]:
        return {
            **super().state(),
            "optimizers": {name: optimizer.state() for name, optimizer in self.optimizers.items()},
            "streams": {name: stream.state() for name, stream in self.streams.items()},
            "replay": self.replay.state(),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        super().load_state(state)
        for name, optimizer in self.optimizers.items():
            optimizer.load_state(state["optimizers"][name])
        for name, stream in self.streams.items():
            stream.load_state(state["streams"][name])
        self.replay.load_state(state["replay"])
