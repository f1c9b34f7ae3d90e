"""TD3 (Fujimoto et al. 2018, arXiv 1802.09477) for all members of a stack at once.

Equals Stable-Baselines3's TD3 in one step. Equations and settings: docs/methods/td3.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from peerage.learners.base import BoxScale, Means, Space, clip_column, column, due, sampler
from peerage.learners.critics import TwinCritic
from peerage.learners.defaults import Settings
from peerage.learners.replay import Batch, Replay
from peerage.learners.streams import StreamKey, Streams
from peerage.nets.adam import StackedAdam
from peerage.nets.stacked import StackedMLP

POLICY_DELAY = 2
TARGET_NOISE = 0.2
TARGET_NOISE_CLIP = 0.5


class TD3:
    """`S` TD3 agents; see `peerage.learners.base.Learner` for the interface."""

    samples = False

    def __init__(
        self,
        settings: Sequence[Settings],
        stream_keys: Sequence[StreamKey],
        space: Space,
        total_steps: int,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.settings, self.space = settings, space
        first, rows = settings[0], len(settings)
        sizes = (space.obs_dim, *first.net_arch, space.act_dim)
        self.scale = BoxScale(space, device, dtype)
        generators = [key.generator("init") for key in stream_keys]
        self.actor = StackedMLP(rows, sizes, device=device, dtype=dtype)
        self.actor.init_(generators)
        self.critic = TwinCritic(rows, space, first.net_arch, device=device, dtype=dtype)
        self.critic.init_(generators)
        self.actor_target = StackedMLP(rows, sizes, device=device, dtype=dtype)
        self.actor_target.copy_(self.actor)
        self.critic_target = TwinCritic(rows, space, first.net_arch, device=device, dtype=dtype)
        self.critic_target.copy_(self.critic)
        self.gamma = column(settings, lambda s: s.gamma, self.actor.flat)
        self.tau = column(settings, lambda s: s.tau, self.actor.flat)
        self.noise_scale = column(settings, lambda s: s.action_noise, self.actor.flat)
        lr, clip = column(settings, lambda s: s.learning_rate, self.actor.flat), clip_column(settings, self.actor.flat)
        self.actor_optimizer = StackedAdam(self.actor.flat, self.actor.grad, lr, max_grad_norm=clip)
        self.critic_optimizer = StackedAdam(self.critic.flat, self.critic.grad, lr, max_grad_norm=clip)
        self.replay = Replay(rows, min(first.buffer_size, total_steps), space.obs_dim, space.act_dim, device, dtype)
        self.sampler = sampler(stream_keys, first, device)
        shape = (first.batch_size, space.act_dim)
        self.update_noise = Streams(stream_keys, "update", shape, "normal", device, dtype)
        self.exploration = Streams(stream_keys, "exploration", (space.act_dim,), "normal", device, dtype)
        self.active = torch.ones(rows, dtype=torch.bool, device=device)
        self.updates = 0
        self.means = Means()

    @torch.no_grad()
    def suggest(self, obs: Tensor, noise: Tensor | None = None) -> Tensor:
        """The actor's action `[S, B, act]`; TD3 is deterministic, so `noise` is not used."""
        return self.scale.to_env(self.actor(obs).tanh())

    def explore(self, actions: Tensor, step: int) -> Tensor:
        """Gaussian noise of `action_noise` on the scaled action, clipped to the box."""
        noisy = self.scale.from_env(actions) + self.noise_scale * self.exploration.next()
        return self.scale.to_env(noisy.clamp(-1, 1))

    @torch.no_grad()
    def value(self, obs: Tensor, actions: Tensor) -> Tensor:
        return self.critic(torch.cat((obs, self.scale.from_env(actions)), dim=-1)).amin(dim=1)

    @torch.no_grad()
    def state_value(self, obs: Tensor, noise: Tensor | None = None) -> Tensor:
        return self.critic(torch.cat((obs, self.actor(obs).tanh()), dim=-1)).amin(dim=1)

    def observe(self, obs: Tensor, actions: Tensor, rewards: Tensor, next_obs: Tensor, terminated: Tensor) -> None:
        self.replay.add(obs, self.scale.from_env(actions), rewards, next_obs, terminated)

    def after_step(self, step: int) -> None:
        if due(self.settings[0], step):
            for _ in range(self.settings[0].gradient_steps):
                self.update(self.replay.sample(self.sampler.next()), self.update_noise.next())

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
        """`L = -mean_B Q_1(s, pi(s))`, `[S]`."""
        actions = self.actor(batch.obs, grad=True).tanh()
        return -self.critic(torch.cat((batch.obs, actions), dim=-1), only_first=True)[:, 0].mean(dim=1)

    def update(self, batch: Batch, noise: Tensor) -> None:
        """One gradient step of the critics and, every second time, of the actor and the targets."""
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

    def metrics(self) -> dict[str, Tensor]:
        return self.means.take()

    def networks(self) -> dict[str, StackedMLP]:
        return {
            "actor": self.actor,
            "critic": self.critic.net,
            "actor_target": self.actor_target,
            "critic_target": self.critic_target.net,
        }

    def state(self) -> dict[str, Any]:
        return {
            "networks": {name: net.flat for name, net in self.networks().items()},
            "actor_optimizer": self.actor_optimizer.state(),
            "critic_optimizer": self.critic_optimizer.state(),
            "active": self.active,
            "means": self.means.state(),
            "updates": self.updates,
            "streams": {
                "replay": self.sampler.state(),
                "update": self.update_noise.state(),
                "exploration": self.exploration.state(),
            },
        }

    def load_state(self, state: dict[str, Any]) -> None:
        for name, net in self.networks().items():
            net.flat.copy_(state["networks"][name])
        self.actor_optimizer.load_state(state["actor_optimizer"])
        self.critic_optimizer.load_state(state["critic_optimizer"])
        self.active.copy_(state["active"])
        self.means.load_state(state["means"], self.active)
        self.updates = int(state["updates"])
        self.sampler.load_state(state["streams"]["replay"])
        self.update_noise.load_state(state["streams"]["update"])
        self.exploration.load_state(state["streams"]["exploration"])
