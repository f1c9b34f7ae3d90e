"""The base class of off-policy learners: replay buffer, schedule of learning, state for checkpoints."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from peerage.errors import UserError
from peerage.learners import imitation
from peerage.learners.base import BoxScale, Learner, Space, clip_column, column
from peerage.learners.critics import Critic
from peerage.learners.normalisation import Normalisation
from peerage.learners.off_policy_settings import OffPolicySettings
from peerage.learners.replay import Batch, ImageReplay, Replay
from peerage.learners.streams import StreamKey, Streams
from peerage.learners.transition import Transition
from peerage.nets.adam import StackedAdam
from peerage.nets.stacked import Rows


class OffPolicyLearner(Learner):
    """A learner with a replay buffer. After `learning_starts` steps, it performs `gradient_steps` gradient steps every
    `train_freq` environment steps, as in Stable-Baselines3."""

    settings: Sequence[OffPolicySettings]
    supports_normalisation = False
    """The learner uses `sample`, `normalised` and `in_reward_units`, and its parameters include `super().parameters()`.
    Otherwise --normalize-obs and --normalize-reward are refused."""

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
        self.imitates = first.imitates
        self.imitation_weight = column(settings, lambda s: s.imitation_weight, like)
        self.replay = self.make_replay(min(first.buffer_size, total_steps))
        self.normalisation: Normalisation | None = None
        if first.normalize_obs or first.normalize_reward:
            if not self.supports_normalisation:
                raise UserError(f"{first.algorithm} does not support --normalize-obs and --normalize-reward")
            if first.normalize_obs and space.image is not None:
                raise UserError(
                    "--normalize-obs does not support images, which the networks scale to [0, 1]: remove the flag"
                )
            self.normalisation = Normalisation(
                space.obs_dim, self.gamma, obs=first.normalize_obs, reward=first.normalize_reward
            )
            self.normalises = True
        self.streams = {"replay": Streams(stream_keys, "replay", (first.batch_size,), "uniform", device)}
        """Random streams by name. `replay` draws batches, `[S, B]` in [0, 1); subclasses add others."""
        self.optimizers: dict[str, StackedAdam] = {}
        """Optimizers by the name of their parameters."""

    def make_replay(self, capacity: int) -> Replay:
        """The replay buffer of all members."""
        kind = Replay if self.space.image is None else ImageReplay
        sizes = self.rows, capacity, self.space.obs_dim, self.space.act_dim
        return kind(*sizes, self.device, self.dtype, labels=self.imitates)

    def adam(self, name: str, flat: Tensor, grad: Tensor, *, clips: bool = True) -> StackedAdam:
        """Create the optimizer of the parameters `name`, with the members' learning rates and maximum gradient
        norms."""
        limit = self.max_grad_norm if clips else None
        self.optimizers[name] = StackedAdam(flat, grad, self.learning_rate, max_grad_norm=limit)
        return self.optimizers[name]

    def normalised(self, obs: Tensor, rows: Rows = slice(None)) -> Tensor:
        """The inputs of the networks of the members `rows` for observations `[s, B, obs]`: normalised, or unchanged
        without --normalize-obs."""
        return obs if self.normalisation is None else self.normalisation.normalised(obs, rows)

    def in_reward_units(self, values: Tensor) -> Tensor:
        """Outputs `[S, ...]` of value networks in the units of the environment's rewards: the same without
        --normalize-reward."""
        return values if self.normalisation is None else self.normalisation.in_reward_units(values)

    def sample(self) -> Batch:
        """The next batch from the replay buffer, which stores observations and rewards as the environment gave them;
        the batch is normalised with the current statistics."""
        batch = self.replay.sample(self.streams["replay"].next())
        return batch if self.normalisation is None else self.normalisation.normalise_(batch)

    def stored(self, actions: Tensor) -> Tensor:
        """Actions as stored in the replay buffer: scaled to [-1, 1] for Box."""
        return actions if self.space.discrete else self.box.from_env(actions)

    def activations(self) -> int:
        """Outputs of all layers of the online networks of all members, for one transition each."""
        return 0

    def batch_floats(self) -> int:
        return self.settings[0].batch_size * (2 * self.activations() + self.rows * self.replay.width)

    def see(self, obs: Tensor, rewards: Tensor | None = None, done: Tensor | None = None) -> None:
        if self.normalisation is not None:
            self.normalisation.see(obs, rewards, done, self.active)

    def observe(self, transition: Transition) -> None:
        t = transition
        label = (self.stored(t.label), t.label_weight) if self.imitates and t.label is not None else ()
        self.replay.add(t.obs, self.stored(t.actions), t.rewards, t.next_obs, t.terminated, *label)

    def learns(self, step: int) -> bool:
        first = self.settings[0]
        return step > first.learning_starts and step % first.train_freq == 0

    def parameters(self) -> dict[str, Tensor]:
        """The running statistics. Subclasses add their networks."""
        return self.statistics()

    def statistics(self) -> dict[str, Tensor]:
        return {} if self.normalisation is None else self.normalisation.tensors()

    def state(self) -> dict[str, Any]:
        running = {} if self.normalisation is None else {"running_return": self.normalisation.running_return}
        return {
            **super().state(),
            **running,
            "optimizers": {name: optimizer.state() for name, optimizer in self.optimizers.items()},
            "streams": {name: stream.state() for name, stream in self.streams.items()},
            "replay": self.replay.state(),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        super().load_state(state)
        if self.normalisation is not None:
            self.normalisation.running_return = state["running_return"].to(self.device)
        for name, optimizer in self.optimizers.items():
            optimizer.load_state(state["optimizers"][name])
        for name, stream in self.streams.items():
            stream.load_state(state["streams"][name])
        self.replay.load_state(state["replay"])


class ActorCritic(OffPolicyLearner):
    """An off-policy learner with a policy network and a critic of actions in [-1, 1] (SAC, TD3)."""

    critic: Critic

    def imitation_loss(self, batch: Batch, actions: Tensor, q: Tensor) -> Tensor:
        """The loss on the labels of a batch, `[S]` (`imitation.cloning_loss`), for the policy's `actions [S, B, act]`
        with the values `q [S, B]` of the first critic."""
        assert batch.label is not None and batch.label_weight is not None
        weight = imitation.filtered(batch, self.critic, q)
        loss = imitation.cloning_loss(actions, batch.label, weight, q, self.imitation_weight)
        self.means.add("loss/imitation", loss)
        self.means.add("imitation/kept", (weight > 0).to(q.dtype).mean(dim=1))
        return loss
