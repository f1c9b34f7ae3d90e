"""TD3 (Fujimoto et al. 2018, arXiv 1802.09477) for all members of a stack at once.

A gradient step equals one of Stable-Baselines3's TD3. Equations and settings: docs/methods/td3.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from peerage.learners.base import Space, column
from peerage.learners.critics import CriticFactory, TwinCritic
from peerage.learners.off_policy import ActorCritic
from peerage.learners.replay import Batch
from peerage.learners.streams import StreamKey, Streams
from peerage.learners.td3_settings import TD3Settings
from peerage.nets.stacked import Rows, StackedMLP

POLICY_DELAY = 2
TARGET_NOISE = 0.2
TARGET_NOISE_CLIP = 0.5


class TD3(ActorCritic):
    """`S` TD3 agents. `critic` makes the Q-functions and their targets."""

    settings: Sequence[TD3Settings]
    fixed_state = True
    supports_normalisation = True

    def __init__(
        self,
        settings: Sequence[TD3Settings],
        stream_keys: Sequence[StreamKey],
        space: Space,
        total_steps: int,
        *,
        critic: CriticFactory = TwinCritic,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__(settings, stream_keys, space, total_steps, device=device, dtype=dtype)
        first = settings[0]
        sizes = (space.obs_dim, *first.net_arch, space.act_dim)
        generators = [key.generator("init") for key in stream_keys]
        self.actor = StackedMLP(self.rows, sizes, device=device, dtype=dtype)
        self.actor.init_(generators)
        self.critic = critic(self.rows, space, first.net_arch, device=device, dtype=dtype)
        self.critic.init_(generators)
        self.actor_target = StackedMLP(self.rows, sizes, device=device, dtype=dtype)
        self.actor_target.copy_(self.actor)
        self.critic_target = critic(self.rows, space, first.net_arch, device=device, dtype=dtype)
        self.critic_target.copy_(self.critic)
        self.noise_scale = column(settings, lambda s: s.action_noise, self.actor.flat)
        self.actor_optimizer = self.adam("actor", self.actor.flat, self.actor.grad)
        self.critic_optimizer = self.adam("critic", self.critic.flat, self.critic.grad)
        shape = (first.batch_size, space.act_dim)
        self.streams["update"] = Streams(stream_keys, "update", shape, "normal", device, dtype)
        self.streams["exploration"] = Streams(stream_keys, "exploration", (space.act_dim,), "normal", device, dtype)
        self.updates = 0

    @torch.no_grad()
    def suggest(self, obs: Tensor, noise: Tensor | None = None) -> Tensor:
        """The actor's action `[S, B, act]`; TD3 is deterministic, so `noise` is not used."""
        return self.suggest_rows(obs, noise, slice(None))

    @torch.no_grad()
    def suggest_rows(self, obs: Tensor, noise: Tensor | None, rows: Rows) -> Tensor:
        return self.box.to_env(self.actor(self.normalised(obs, rows), rows=rows).tanh())

    def explore(self, actions: Tensor, step: int) -> Tensor:
        """Add Gaussian noise with standard deviation `action_noise` to the scaled actions and clip them to the box."""
        noisy = self.box.from_env(actions) + self.noise_scale * self.streams["exploration"].next()
        return self.box.to_env(noisy.clamp(-1, 1))

    @torch.no_grad()
    def action_value(self, obs: Tensor, actions: Tensor) -> Tensor:
        x = torch.cat((self.normalised(obs), self.box.from_env(actions)), dim=-1)
        return self.in_reward_units(self.critic(x).amin(dim=1))

    @torch.no_grad()
    def state_value(self, obs: Tensor, noise: Tensor | None = None) -> Tensor:
        obs = self.normalised(obs)
        return self.in_reward_units(self.critic(torch.cat((obs, self.actor(obs).tanh()), dim=-1)).amin(dim=1))

    def learn(self, step: int) -> None:
        if self.learns(step):
            for _ in range(self.settings[0].gradient_steps):
                self.update(self.sample(), self.streams["update"].next())

    def critic_loss(self, batch: Batch, noise: Tensor) -> Tensor:
        """`L = sum_k mean_B (Q_k(s, a) - y)^2`, `[S]`, with
        `y = r + gamma (1 - terminated) min_k Q_target_k(s', clip(pi_target(s') + clip(noise)))`."""
        with torch.no_grad():
            smoothing = (noise * TARGET_NOISE).clamp(-TARGET_NOISE_CLIP, TARGET_NOISE_CLIP)
            next_actions = (self.actor_target(batch.next_obs).tanh() + smoothing).clamp(-1, 1)
            next_q = self.critic_target(torch.cat((batch.next_obs, next_actions), dim=-1)).amin(dim=1)
            target = batch.rewards + (1 - batch.terminated) * self.gamma * next_q  # [S, B]
        q = self.critic(batch.obs_actions, grad=True)  # [S, 2, B]
        self.means.add("q/mean", q.mean(dim=(1, 2)))
        return (q - target.unsqueeze(1)).square().mean(dim=2).sum(dim=1)

    def actor_loss(self, batch: Batch) -> Tensor:
        """`L = -mean_B Q_1(s, pi(s))`, `[S]`, and the loss on labels."""
        actions = self.actor(batch.obs, grad=True).tanh()
        q = self.critic(torch.cat((batch.obs, actions), dim=-1), only_first=True)[:, 0]  # [S, B]
        loss = -q.mean(dim=1)
        return loss + self.imitation_loss(batch, actions, q) if self.imitates else loss

    def update(self, batch: Batch, noise: Tensor) -> None:
        """One gradient step of the critics. Every second call also updates the actor and the target networks."""
        self.updates += 1
        critic_loss = self.critic_loss(batch, noise)
        self.critic_optimizer.zero_grad()
        critic_loss.sum().backward()
        self.active &= self.critic_optimizer.finite()
        self.critic_optimizer.step(self.active)
        self.means.add("loss/critic", critic_loss)
        if self.updates % POLICY_DELAY == 0:
            actor_loss = self.actor_loss(batch)
            self.actor_optimizer.zero_grad()
            actor_loss.sum().backward()
            self.active &= self.actor_optimizer.finite()
            self.actor_optimizer.step(self.active)
            tau = self.tau * self.active.unsqueeze(1)
            self.critic_target.lerp_(self.critic, tau)
            self.actor_target.lerp_(self.actor, tau)
            self.means.add("loss/actor", actor_loss)

    def activations(self) -> int:
        return self.actor.activations + self.critic.activations

    def parameters(self) -> dict[str, Tensor]:
        return {
            **super().parameters(),
            "actor": self.actor.flat,
            "critic": self.critic.flat,
            "actor_target": self.actor_target.flat,
            "critic_target": self.critic_target.flat,
        }

    def state(self) -> dict[str, Any]:
        return {**super().state(), "updates": self.updates}

    def load_state(self, state: dict[str, Any]) -> None:
        super().load_state(state)
        self.updates = int(state["updates"])
