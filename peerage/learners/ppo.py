"""Proximal policy optimisation (PPO, Schulman et al. 2017, arXiv 1707.06347) for all members of a stack at once.

An update equals `PPO.train` of Stable-Baselines3 with the same weights and rollout. Equations, settings and
differences: docs/methods/ppo.md.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from peerage.config.methods import NETS
from peerage.errors import UserError
from peerage.learners.base import Learner, NoiseShape, Space, clip_column, column
from peerage.learners.normalisation import Normalisation
from peerage.learners.policies import Categorical, DiagonalNormal
from peerage.learners.ppo_settings import PPOSettings
from peerage.learners.rollout import Rollout, advantages
from peerage.learners.streams import StreamKey, Streams
from peerage.learners.transition import Transition
from peerage.nets.adam import StackedAdam
from peerage.nets.dropout import Dropout
from peerage.nets.stacked import Rows

ADAM_EPS = 1e-5
KL_FACTOR = 1.5  # an update ends at this multiple of target_kl, as in Stable-Baselines3
PASS, PASS_IMAGES = 4096, 128
"""Transitions of a member in one forward pass over a rollout; with images, which take thousands of times as much
memory."""


class Minibatch(NamedTuple):
    """Transitions of a rollout, `B` of each member."""

    obs: Tensor  # [S, B, obs], normalised
    actions: Tensor  # [S, B, act]
    log_prob: Tensor  # [S, B], of the policy before the update
    values: Tensor  # [S, B], of the critic before the update
    advantages: Tensor  # [S, B]
    returns: Tensor  # [S, B]
    own: Tensor  # [S, B], 1 where the member chose the action


class PPO(Learner):
    """`S` PPO agents with `E` environments each.

    Actor and critic are separate networks of one shape, rows `2 s` and `2 s + 1` of a stack, so that one pass computes
    both, and Adam and the limit of the gradient norm see the parameters of a member as one row. The critic's value is
    its first output; the other outputs of its last layer are not used.
    """

    settings: Sequence[PPOSettings]
    fixed_state = True

    def __init__(
        self,
        settings: Sequence[PPOSettings],
        stream_keys: Sequence[StreamKey],
        space: Space,
        total_steps: int,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__(settings, stream_keys, space, total_steps, device=device, dtype=dtype)
        first, like = settings[0], torch.zeros(0, device=device, dtype=dtype)
        self.batch_size, self.epochs, self.envs = first.batch_size, first.update_epochs, first.n_envs
        self.noise_shape = NoiseShape("uniform", 1) if space.discrete else NoiseShape("normal", space.act_dim)
        self.net = self._network()
        self._init([key.generator("init") for key in stream_keys])
        images = space.image is not None
        self.rollout = Rollout(
            self.rows, first.n_steps, self.envs, space.obs_dim, space.act_dim, self.device, dtype, images
        )
        self.in_pass = PASS_IMAGES if images else PASS
        self.rollout_size = first.rollout_size
        self.gamma = column(settings, lambda s: s.gamma, like)
        self.gae_lambda = column(settings, lambda s: s.gae_lambda, like)
        self.learning_rate = column(settings, lambda s: s.learning_rate, like)
        self.clip_range = column(settings, lambda s: s.clip_range, like)
        self.clip_range_vf = column(settings, lambda s: s.clip_range_vf or math.inf, like)
        self.ent_coef = column(settings, lambda s: float(s.ent_coef), like)
        self.vf_coef = column(settings, lambda s: s.vf_coef, like)
        self.max_kl = column(settings, lambda s: KL_FACTOR * s.target_kl or math.inf, like).squeeze(1)
        self.anneals_lr = column(settings, lambda s: s.anneal_lr, like)
        self.anneals_clip = column(settings, lambda s: s.anneal_clip, like)
        self.normalises_advantage = column(settings, lambda s: s.normalize_advantage, like)
        self.skips_advised = column(settings, lambda s: s.advised_steps == "skip", like)
        self.optimizer = StackedAdam(
            self.net.flat.view(self.rows, -1),
            self.net.grad.view(self.rows, -1),
            self.learning_rate,
            max_grad_norm=clip_column(settings, like),
            eps=ADAM_EPS,
            row_steps=True,
        )
        self.normalisation: Normalisation | None = None
        if first.normalize_obs and images:
            raise UserError(
                "--normalize-obs does not support images, which the networks scale to [0, 1]: remove the flag"
            )
        if first.normalize_obs or first.normalize_reward:
            self.normalisation = Normalisation(
                space.obs_dim, self.gamma, obs=first.normalize_obs, reward=first.normalize_reward, envs=self.envs
            )
        rate = getattr(first.net_settings, "dropout", 0.0)
        both = [key.generator(name) for key in stream_keys for name in ("actor dropout", "critic dropout")]
        self.dropout = Dropout(rate, both, device, dtype) if rate else None
        self.shuffle = Streams(stream_keys, "minibatch", (self.rollout.steps * self.envs,), "uniform", device)
        self._own = torch.tensor([key.member for key in stream_keys], device=device).repeat_interleave(self.envs)

    def _network(self) -> Any:
        space, first = self.space, self.settings[0]
        layout = {} if space.image is None else {"image": space.image}
        return NETS[first.net].load()(
            2 * self.rows,
            space.obs_dim,
            space.n_actions or space.act_dim,
            first,
            window=space.window,
            extra=None if space.discrete else {"log_std": (space.act_dim,)},
            **layout,
            device=self.device,
            dtype=self.dtype,
        )

    def _init(self, generators: Sequence[Any]) -> None:
        """The last layer starts with orthogonal weights: gain 1 in the critic, 0.01 in the actor."""
        self.net.init_([rng for rng in generators for _ in range(2)])
        self.net.weights()[f"{self.net.head}.weight"][0::2] *= 0.01
        if not self.space.discrete:
            start = torch.tensor([[s.log_std_init] for s in self.settings])
            self.log_std.copy_(start.expand_as(self.log_std))
            self.log_std_grad = self.net.grads()["log_std"][0::2]

    # --- acting ---------------------------------------------------------------------------------------------

    @property
    def log_std(self) -> Tensor:
        """`[S, act]`, Box only."""
        return self.net.weights()["log_std"][0::2]

    def policy(self, outputs: Tensor, rows: Rows = slice(None)) -> Categorical | DiagonalNormal:
        """The distribution with the actor's outputs `[s, B, out]`."""
        return Categorical(outputs) if self.space.discrete else DiagonalNormal(outputs, self.log_std[rows])

    @torch.no_grad()
    def suggest(self, obs: Tensor, noise: Tensor | None) -> Tensor:
        return self.suggest_rows(obs, noise, slice(None))

    @torch.no_grad()
    def suggest_rows(self, obs: Tensor, noise: Tensor | None, rows: Rows) -> Tensor:
        policy = self.policy(self.net(self.normalised(obs, rows), rows=self._actors(rows)), rows)
        return policy.mode() if noise is None else policy.sample(noise)

    def _actors(self, rows: Rows) -> Rows:
        """The rows of the actors of some members."""
        if isinstance(rows, Tensor):
            return 2 * rows
        start, stop, step = rows.indices(self.rows)
        return slice(2 * start, 2 * stop, 2 * step)

    @torch.no_grad()
    def state_value(self, obs: Tensor, noise: Tensor | None = None) -> Tensor:
        """`V(s)`, `[S, B]`, of the stochastic policy: `noise` is not used."""
        return self.in_reward_units(self._value(self.normalised(obs)))

    def _value(self, obs: Tensor) -> Tensor:
        """`V(s)` of normalised observations, in normalised rewards."""
        return self.net(obs, rows=slice(1, None, 2))[..., 0]

    def normalised(self, obs: Tensor, rows: Rows = slice(None)) -> Tensor:
        """The inputs of the networks for observations `[s, B, obs]`."""
        return obs if self.normalisation is None else self.normalisation.normalised(obs, rows)

    def in_reward_units(self, values: Tensor) -> Tensor:
        return values if self.normalisation is None else self.normalisation.in_reward_units(values)

    # --- learning -------------------------------------------------------------------------------------------

    def observe(self, transition: Transition) -> None:
        self.rollout.add(transition, transition.followed == self._own)

    def learns(self, step: int) -> bool:
        return step % self.rollout_size == 0 or step >= self.total_steps

    def learn(self, step: int) -> None:
        if self.learns(step):
            self.update(1 - (step - self.rollout.size * self.envs) / self.total_steps)

    @torch.no_grad()
    def update(self, remaining: float = 1.0) -> None:
        """Learn from the rollout, which may be shorter at the end of a run, and clear it. `remaining`: the share of the
        run that was left at the start of the rollout, for annealed settings."""
        self._anneal(remaining)
        data = self.prepare()
        count = data.obs.shape[1]
        going = self.active.clone()
        # Drawn before the first epoch, so that a member's random numbers do not depend on when others stop
        for numbers in [self.shuffle.next() for _ in range(self.epochs)]:
            shuffled = _gather(data, numbers[:, :count].argsort(dim=1))
            for start in range(0, count, self.batch_size):
                # Members that have stopped are computed, too: with usual limits of the KL they are 1% of the work
                going &= self.step(Minibatch(*(x[:, start : start + self.batch_size] for x in shuffled)), going)
            if self.dropout is None and not going.any():
                break
        if self.normalisation is not None:
            self.normalisation.see_obs(self.rollout.obs[:, : self.rollout.size].flatten(1, 2), self.active)
        self.rollout.clear()

    def _anneal(self, remaining: float) -> None:
        """Set the learning rates and clip ranges of this update."""
        self.clip = self.clip_range * (1 - self.anneals_clip * (1 - remaining))
        if self.anneals_lr.any():
            self.optimizer.set_lr(self.learning_rate * (1 - self.anneals_lr * (1 - remaining)))

    def prepare(self) -> Minibatch:
        """The rollout as one batch `[S, T E, ...]`, with advantages, returns, and the log-probabilities and values
        before the update."""
        r, size = self.rollout, self.rollout.size
        rewards, terminated, truncated = r.rewards[:, :size], r.terminated[:, :size], r.truncated[:, :size]
        if self.normalisation is not None:
            rewards = self.normalisation.see_rewards(rewards, terminated + truncated > 0, self.active)
        obs, actions = self.normalised(r.obs[:, :size].flatten(1, 2)), r.actions[:, :size].flatten(1, 2)
        passes = obs.split(self.in_pass, dim=1)
        outputs = torch.cat([self.net(_twice(part)) for part in passes], dim=1)  # [2 S, T E, out]
        values = outputs[1::2, :, 0].view(rewards.shape)
        # V(s') is V of the next stored observation, but after the last step and after truncations. One step after the
        # other, so that a member's bits do not depend on the truncations of other members.
        next_values = torch.cat((values[:, 1:], torch.zeros_like(values[:, :1])), dim=1)
        for k in dict.fromkeys([*r.cut, size - 1]):
            after = self._value(self.normalised(r.next_obs[:, k]))
            ended = torch.ones_like(truncated[:, k]) if k == size - 1 else truncated[:, k]
            next_values[:, k] = torch.where(ended > 0, after, next_values[:, k])
        found = advantages(rewards, values, next_values, terminated, truncated, self.gamma, self.gae_lambda)
        returns = found + values
        residual, spread = ((x.flatten(1).var(dim=1, correction=0)) for x in (returns - values, returns))
        self.means.add("value/explained_variance", 1 - residual / spread, self.active)
        flat = [x.flatten(1, 2) for x in (values, found, returns, r.own[:, :size])]
        return Minibatch(obs, actions, self.policy(outputs[0::2]).log_prob(actions), *flat)

    def step(self, batch: Minibatch, going: Tensor) -> Tensor:
        """One gradient step of the members `going [S]` (bool) whose policies have not changed too much; returns these
        members. The loss is

            -min(rho A, clip(rho, 1 - c, 1 + c) A) - ent_coef H + vf_coef (R - V)^2,    rho = p(a) / p_old(a),

        averaged over the minibatch; the policy terms over the steps that count (see `advised_steps`).
        """
        self.optimizer.zero_grad()
        outputs, backward = self._tape(_twice(batch.obs))
        policy, values = self.policy(outputs[0::2]), outputs[1::2, :, 0]
        counts = torch.where(self.skips_advised > 0, batch.own, 1.0)
        weight = counts / counts.sum(dim=1, keepdim=True).clamp(min=1)  # [S, B]: a mean over the steps that count
        advantages = self._normalised_advantages(batch.advantages, counts)

        log_ratio = policy.log_prob(batch.actions) - batch.log_prob
        ratio = log_ratio.exp()
        gain, clipped = ratio * advantages, ratio.clamp(1 - self.clip, 1 + self.clip) * advantages
        kl = ((ratio - 1 - log_ratio) * weight).sum(dim=1)
        before, going = going, going & ~(kl > self.max_kl)

        change = values - batch.values
        inside = change.abs() <= self.clip_range_vf
        error = torch.where(inside, values, batch.values + change.clamp(-self.clip_range_vf, self.clip_range_vf))
        error = error - batch.returns

        grad = torch.zeros_like(outputs)
        d_log_prob = -torch.where(gain <= clipped, gain, 0.0) * weight  # the clipped term has no gradient
        d_entropy = -self.ent_coef * weight if self.ent_coef.any() else None
        if isinstance(policy, Categorical):
            grad[0::2] = policy.gradient(batch.actions, d_log_prob, d_entropy)
        else:
            grad[0::2] = policy.gradient(batch.actions, d_log_prob)
            self.log_std_grad.add_(policy.log_std_gradient(batch.actions, d_log_prob, d_entropy))
        grad[1::2, :, 0] = torch.where(inside, 2 * self.vf_coef / error.shape[1] * error, 0.0)
        backward(grad)
        self.active &= self.optimizer.finite() | ~going
        self.optimizer.step(going & self.active)

        self.means.add("loss/policy", -(torch.minimum(gain, clipped) * weight).sum(dim=1), before)
        self.means.add("loss/value", error.square().mean(dim=1), before)
        self.means.add("policy/entropy", (policy.entropy() * weight).sum(dim=1), before)
        self.means.add("policy/kl", kl, before)
        self.means.add("policy/clip_fraction", (((ratio - 1).abs() > self.clip) * weight).sum(dim=1), before)
        return going & self.active

    def _tape(self, inputs: Tensor) -> tuple[Tensor, Callable[[Tensor], None]]:
        """The networks' outputs during learning, and the function that adds the gradients."""
        tape: tuple[Tensor, Callable[[Tensor], None]]
        tape = self.net.tape(inputs) if self.dropout is None else self.net.tape(inputs, self.dropout)
        return tape

    def _normalised_advantages(self, values: Tensor, counts: Tensor) -> Tensor:
        """`(A - mean) / (std + 1e-8)` of each member over the steps that count, with the unbiased standard deviation;
        unchanged for members that do not normalise and for a single step."""
        number = counts.sum(dim=1, keepdim=True)
        mean = (values * counts).sum(dim=1, keepdim=True) / number.clamp(min=1)
        variance = ((values - mean).square() * counts).sum(dim=1, keepdim=True) / (number - 1).clamp(min=1)
        normalised = (values - mean) / (variance.sqrt() + 1e-8)
        return torch.where((self.normalises_advantage > 0) & (number > 1), normalised, values)

    # --- reports and state ----------------------------------------------------------------------------------

    def schedules(self) -> list[str]:
        learning = [s for s in self.settings if s.load_paths == "none"]
        found = {
            "the learning rate decreases to 0 (--anneal-lr)": any(s.anneal_lr for s in learning),
            "clip_range decreases to 0 (--anneal-clip)": any(s.anneal_clip for s in learning),
        }
        return [text for text, holds in found.items() if holds]

    def cut_by(self, length: int) -> list[str]:
        if length % self.rollout_size == 0:
            return []
        return [f"members of ppo learned from a last rollout that was cut at step {length:,}"]

    def batch_floats(self) -> int:
        rollout = min(self.rollout.steps * self.envs, self.in_pass)
        without_gradients = rollout * self.net.activations // 4  # a few layers at a time
        return max(without_gradients, 2 * self.batch_size * self.net.activations)

    def parameters(self) -> dict[str, Tensor]:
        """Actor (with `log_std` for Box) and critic, and the running statistics."""
        return {"actor": self.net.flat[0::2], "critic": self.net.flat[1::2], **self.statistics()}

    def statistics(self) -> dict[str, Tensor]:
        return {} if self.normalisation is None else self.normalisation.tensors()

    def state(self) -> dict[str, Any]:
        running = {} if self.normalisation is None else {"running_return": self.normalisation.running_return}
        return {
            **super().state(),
            **running,
            "optimizer": self.optimizer.state(),
            "shuffle": self.shuffle.state(),
            "dropout": None if self.dropout is None else self.dropout.state(),
            "rollout": self.rollout.state(),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        super().load_state(state)
        if self.normalisation is not None:
            self.normalisation.running_return = state["running_return"].to(self.device)
        self.optimizer.load_state(state["optimizer"])
        self.shuffle.load_state(state["shuffle"])
        if self.dropout is not None:
            self.dropout.load_state(state["dropout"])
        self.rollout.load_state(state["rollout"])


def _twice(obs: Tensor) -> Tensor:
    """The inputs of actors and critics: `[S, B, obs]` -> `[2 S, B, obs]`."""
    rows, batch, width = obs.shape
    return obs.unsqueeze(1).expand(rows, 2, batch, width).reshape(2 * rows, batch, width)


def _gather(data: Minibatch, order: Tensor) -> Minibatch:
    """The transitions `order [S, n]` of each member."""
    rows, count = order.shape
    index = (order + torch.arange(rows, device=order.device).unsqueeze(1) * data.obs.shape[1]).flatten()
    return Minibatch(*(x.flatten(0, 1).index_select(0, index).view(rows, count, *x.shape[2:]) for x in data))
