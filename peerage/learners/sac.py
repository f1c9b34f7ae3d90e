"""SAC (Haarnoja et al. 2018, arXiv 1812.05905) for all members of a stack at once.

A gradient step equals one of Stable-Baselines3's SAC, including automatic entropy (per member) and gSDE (Raffin et al.
2020, arXiv 2005.05719). Equations and settings: docs/methods/sac.md.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from peerage.learners.base import NoiseShape, Space, column
from peerage.learners.critics import CriticFactory, TwinCritic
from peerage.learners.off_policy import ActorCritic
from peerage.learners.replay import Batch
from peerage.learners.sac_settings import SACSettings
from peerage.learners.streams import StreamKey, Streams
from peerage.nets.stacked import Rows, StackedMLP

LOG_STD_MIN, LOG_STD_MAX = -20.0, 2.0
EPSILON = 1e-6
CLIP_MEAN = 2.0  # gSDE: limits of the mean before the tanh
HALF_LOG_TWO_PI = 0.5 * math.log(2 * math.pi)


class SAC(ActorCritic):
    """`S` SAC agents. `critic` makes the Q-functions and their targets."""

    settings: Sequence[SACSettings]
    fixed_state = True
    supports_normalisation = True

    def __init__(
        self,
        settings: Sequence[SACSettings],
        stream_keys: Sequence[StreamKey],
        space: Space,
        total_steps: int,
        *,
        critic: CriticFactory = TwinCritic,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__(settings, stream_keys, space, total_steps, device=device, dtype=dtype)
        first, act = settings[0], space.act_dim
        self.noise_shape = NoiseShape("normal", act)
        self.use_sde = first.use_sde
        # gSDE learns a matrix of log standard deviations; otherwise the last layer outputs mean and log std
        latent = first.net_arch[-1] if first.net_arch else space.obs_dim
        self.actor = StackedMLP(
            self.rows,
            (space.obs_dim, *first.net_arch, act if self.use_sde else 2 * act),
            extra={"log_std": (latent, act)} if self.use_sde else None,
            device=device,
            dtype=dtype,
        )
        generators = [key.generator("init") for key in stream_keys]
        self.actor.init_(generators)
        self.critic = critic(self.rows, space, first.net_arch, device=device, dtype=dtype)
        self.critic.init_(generators)
        self.critic_target = critic(self.rows, space, first.net_arch, device=device, dtype=dtype)
        self.critic_target.copy_(self.critic)

        self.target_entropy = -float(act)
        self.automatic = first.automatic_entropy
        self.log_ent_coef = column(settings, lambda s: s.initial_ent_coef, self.actor.flat).log()  # [S, 1]
        self.ent_coef_grad = torch.zeros_like(self.log_ent_coef)
        self.actor_optimizer = self.adam("actor", self.actor.flat, self.actor.grad)
        self.critic_optimizer = self.adam("critic", self.critic.flat, self.critic.grad)
        self.ent_coef_optimizer = self.adam("log_ent_coef", self.log_ent_coef, self.ent_coef_grad, clips=False)
        # Noise of one gradient step: one row per sampled action; with gSDE, one matrix for the whole batch
        shape = (latent, act) if self.use_sde else (2, first.batch_size, act)
        self.streams["update"] = Streams(stream_keys, "update", shape, "normal", device, dtype)
        if self.use_sde:
            self.actor.constants["log_std"].copy_(
                column(settings, lambda s: s.log_std_init, self.actor.flat).unsqueeze(2).expand(self.rows, latent, act)
            )
            self.streams["sde"] = Streams(stream_keys, "sde", (latent, act), "normal", device, dtype)
            self.sde_draw = self.streams["sde"].next()  # [S, latent, act], standard normal

    # --- acting ---------------------------------------------------------------------------------------------

    def policy(self, obs: Tensor, noise: Tensor | None, *, grad: bool = False) -> tuple[Tensor, Tensor | None]:
        """Actions `[S, B, act]` in [-1, 1] and their log-densities `[S, B]` (None without noise).

        `u = mean + std * noise`, `a = tanh(u)`, `log pi = log N(u) - sum log(1 - a^2 + eps)`. `noise` is `[S, B, act]`;
        with gSDE, it is the standard normal matrix `[S, latent, act]`.
        """
        if self.use_sde:
            latent = self.actor.trunk(obs, grad=grad)
            out = self.actor.tail(latent, grad=grad)
            mean = out.clamp(-CLIP_MEAN, CLIP_MEAN)
            if noise is None:
                return mean.tanh(), None
            log_std = (self.actor.parameters if grad else self.actor.constants)["log_std"]
            std = log_std.exp()  # [S, latent, act]
            shift = torch.bmm(latent, std * noise)  # [S, B, act]
            variance = torch.bmm(latent.square(), std.square()) + EPSILON
            log_normal = -0.5 * shift.square() / variance - 0.5 * variance.log() - HALF_LOG_TWO_PI
            actions = (mean + shift).tanh()
        else:
            mean, log_std = self.actor(obs, grad=grad).chunk(2, dim=-1)
            if noise is None:
                return mean.tanh(), None
            log_std = log_std.clamp(LOG_STD_MIN, LOG_STD_MAX)
            actions = (mean + log_std.exp() * noise).tanh()
            log_normal = -0.5 * noise.square() - log_std - HALF_LOG_TWO_PI  # (u - mean) / std is the noise
        log_prob = (log_normal - (1 - actions.square() + EPSILON).log()).sum(dim=-1)
        return actions, log_prob

    @torch.no_grad()
    def _act(self, obs: Tensor, noise: Tensor | None, rows: Rows = slice(None)) -> Tensor:
        """Actions in [-1, 1] without their densities. With gSDE, the noise is the exploration matrix `sde_draw`."""
        latent = self.actor.trunk(obs, rows=rows)
        out = self.actor.tail(latent, rows=rows)
        if self.use_sde:
            mean = out.clamp(-CLIP_MEAN, CLIP_MEAN)
            if noise is not None:
                mean = torch.baddbmm(mean, latent, self.actor.constants["log_std"][rows].exp() * self.sde_draw[rows])
            return mean.tanh()
        mean, log_std = out.chunk(2, dim=-1)
        if noise is not None:
            mean = mean + log_std.clamp(LOG_STD_MIN, LOG_STD_MAX).exp() * noise
        return mean.tanh()

    @torch.no_grad()
    def _act_independently(self, obs: Tensor, noise: Tensor) -> Tensor:
        """gSDE with a separate matrix for every action: `tanh(mean + sqrt(latent^2 @ std^2) * noise)`, the distribution
        of an action over the matrices, independent for each state. `noise [S, B, act]` -> `[S, B, act]`."""
        latent = self.actor.trunk(obs)
        mean = self.actor.tail(latent).clamp(-CLIP_MEAN, CLIP_MEAN)
        variance = torch.bmm(latent.square(), (2 * self.actor.constants["log_std"]).exp())
        return (mean + variance.sqrt() * noise).tanh()

    def suggest(self, obs: Tensor, noise: Tensor | None = None) -> Tensor:
        return self.suggest_rows(obs, noise, slice(None))

    def suggest_rows(self, obs: Tensor, noise: Tensor | None, rows: Rows) -> Tensor:
        return self.box.to_env(self._act(self.normalised(obs, rows), noise, rows))

    @torch.no_grad()
    def action_value(self, obs: Tensor, actions: Tensor) -> Tensor:
        x = torch.cat((self.normalised(obs), self.box.from_env(actions)), dim=-1)
        return self.in_reward_units(self.critic(x).amin(dim=1))

    @torch.no_grad()
    def state_value(self, obs: Tensor, noise: Tensor | None = None) -> Tensor:
        obs = self.normalised(obs)
        if self.use_sde and noise is not None:
            actions = self._act_independently(obs, noise)
        else:
            actions = self._act(obs, noise)
        return self.in_reward_units(self.critic(torch.cat((obs, actions), dim=-1)).amin(dim=1))

    # --- learning -------------------------------------------------------------------------------------------

    def learn(self, step: int) -> None:
        first = self.settings[0]
        if self.learns(step):
            for k in range(first.gradient_steps):
                self.update(
                    self.sample(),
                    self.streams["update"].next(),
                    update_target=k % first.target_update_interval == 0,
                )
        if self.use_sde and step % first.train_freq == 0:
            self.sde_draw = self.streams["sde"].next()  # a new exploration matrix for every rollout

    def critic_loss(self, batch: Batch, noise: Tensor, ent_coef: Tensor) -> Tensor:
        """`L = 1/2 sum_k mean_B (Q_k(s, a) - y)^2`, `[S]`, with
        `y = r + gamma (1 - terminated) (min_k Q_target_k(s', a') - alpha log pi(a'|s'))`, `a' ~ pi(s')`."""
        with torch.no_grad():
            next_actions, next_log_prob = self.policy(batch.next_obs, noise)
            assert next_log_prob is not None
            next_q = self.critic_target(torch.cat((batch.next_obs, next_actions), dim=-1)).amin(dim=1)
            next_q -= ent_coef * next_log_prob
            target = batch.rewards + (1 - batch.terminated) * self.gamma * next_q  # [S, B]
        q = self.critic(batch.obs_actions, grad=True)  # [S, 2, B]
        self.means.add("q/mean", q.mean(dim=(1, 2)))
        return 0.5 * (q - target.unsqueeze(1)).square().mean(dim=2).sum(dim=1)

    def actor_loss(self, batch: Batch, actions: Tensor, log_prob: Tensor, ent_coef: Tensor) -> Tensor:
        """`L = mean_B (alpha log pi(a|s) - min_k Q_k(s, a))`, `[S]`, `a ~ pi(s)`, and the loss on labels."""
        q = self.critic(torch.cat((batch.obs, actions), dim=-1))  # [S, 2, B]
        loss = (ent_coef * log_prob - q.amin(dim=1)).mean(dim=1)
        return loss + self.imitation_loss(batch, actions, q[:, 0]) if self.imitates else loss

    def update(self, batch: Batch, noise: Tensor, *, update_target: bool = True) -> None:
        """One gradient step of entropy coefficient, critics and actor of every active member, in the order of
        Stable-Baselines3."""
        noise_now, noise_next = (noise, noise) if self.use_sde else (noise[:, 0], noise[:, 1])
        actions, log_prob = self.policy(batch.obs, noise_now, grad=True)
        assert log_prob is not None
        ent_coef = self.log_ent_coef.exp()  # [S, 1]
        if self.automatic:
            # d/d log_alpha of -mean_B log_alpha (log pi + target entropy)
            shortfall = (log_prob.detach() + self.target_entropy).mean(dim=1, keepdim=True)  # [S, 1]
            self.means.add("loss/entropy", -(self.log_ent_coef * shortfall).squeeze(1))
            self.ent_coef_grad.copy_(-shortfall)

        critic_loss = self.critic_loss(batch, noise_next, ent_coef)
        self.critic_optimizer.zero_grad()
        critic_loss.sum().backward()
        self.active &= self.critic_optimizer.finite()
        if self.automatic:
            self.active &= self.ent_coef_optimizer.finite()
            self.ent_coef_optimizer.step(self.active)
        self.critic_optimizer.step(self.active)

        actor_loss = self.actor_loss(batch, actions, log_prob, ent_coef)
        self.actor_optimizer.zero_grad()
        actor_loss.sum().backward()
        self.active &= self.actor_optimizer.finite()
        self.actor_optimizer.step(self.active)
        if update_target:
            self.critic_target.lerp_(self.critic, self.tau * self.active.unsqueeze(1))
        self.means.add("loss/critic", critic_loss)
        self.means.add("loss/actor", actor_loss)
        self.means.add("entropy_coef", ent_coef.squeeze(1))

    # --- state ----------------------------------------------------------------------------------------------

    def activations(self) -> int:
        return self.actor.activations + self.critic.activations

    def parameters(self) -> dict[str, Tensor]:
        return {
            **super().parameters(),
            "actor": self.actor.flat,
            "critic": self.critic.flat,
            "critic_target": self.critic_target.flat,
            "log_ent_coef": self.log_ent_coef,
        }

    def exchanged(self) -> dict[str, Tensor]:
        """A fixed entropy coefficient is a setting of the member."""
        parameters = super().exchanged()
        if not self.automatic:
            del parameters["log_ent_coef"]
        return parameters

    def state(self) -> dict[str, Any]:
        sde = {"sde_draw": self.sde_draw.contiguous()} if self.use_sde else {}
        return {**super().state(), **sde}

    def load_state(self, state: dict[str, Any]) -> None:
        super().load_state(state)
        if self.use_sde:
            self.sde_draw = state["sde_draw"].to(self.sde_draw.device)
