"""DQN (Mnih et al. 2015, doi:10.1038/nature14236) for all members of a stack at once.

A gradient step equals one of Stable-Baselines3's DQN: Huber loss, gradient norm clipped at 10, target network copied
every `target_update_interval` environment steps (soft update with `tau` below 1). Equations and settings:
docs/methods/dqn.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from peerage.learners import imitation
from peerage.learners.base import Space, column
from peerage.learners.dqn_settings import DQNSettings
from peerage.learners.off_policy import OffPolicyLearner
from peerage.learners.replay import Batch
from peerage.learners.streams import StreamKey, Streams
from peerage.nets.cnn import StackedCNN
from peerage.nets.stacked import Rows, StackedMLP


class DQN(OffPolicyLearner):
    """`S` DQN agents."""

    settings: Sequence[DQNSettings]
    fixed_state = True
    supports_normalisation = True

    def __init__(
        self,
        settings: Sequence[DQNSettings],
        stream_keys: Sequence[StreamKey],
        space: Space,
        total_steps: int,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__(settings, stream_keys, space, total_steps, device=device, dtype=dtype)
        self.q, self.q_target = self._network(), self._network()
        self.q.init_([key.generator("init") for key in stream_keys])
        self.q_target.copy_(self.q)
        self.optimizer = self.adam("q", self.q.flat, self.q.grad)
        host = torch.zeros(0, dtype=self.dtype)  # computed on the host: only a few numbers
        self.final_epsilon = column(settings, lambda s: s.exploration_final_eps, host)
        self.decay_steps = column(settings, lambda s: max(s.exploration_fraction * total_steps, 1e-9), host)
        self.first_epsilon = torch.ones_like(self.final_epsilon)
        self.decayed = float(self.decay_steps.max())
        self.exploration = Streams(stream_keys, "exploration", (2,), "uniform")
        self.streams["exploration"] = self.exploration
        self.step = 0

    def _network(self) -> StackedMLP | StackedCNN:
        outputs = self.space.n_actions
        if self.imitates:
            outputs += imitation.head_outputs(self.space.n_actions)
        sizes = (*self.settings[0].net_arch, outputs)
        if self.space.image is not None:
            return StackedCNN(self.rows, self.space.image, sizes, device=self.device, dtype=self.dtype)
        return StackedMLP(self.rows, (self.space.obs_dim, *sizes), device=self.device, dtype=self.dtype)

    @torch.no_grad()
    def suggest(self, obs: Tensor, noise: Tensor | None = None) -> Tensor:
        """Greedy actions `[S, B, 1]`. DQN members give greedy advice, so `noise` is not used."""
        return self.suggest_rows(obs, noise, slice(None))

    @torch.no_grad()
    def suggest_rows(self, obs: Tensor, noise: Tensor | None, rows: Rows) -> Tensor:
        out = self.q(self.normalised(obs, rows), rows=rows)
        return self.greedy(out).to(obs.dtype)

    def greedy(self, out: Tensor) -> Tensor:
        """The actions `[..., 1]` for outputs of the network `[..., out]`: those with the highest value, or where the
        imitation head is surer that an adviser is better, those of the head."""
        best = out[..., : self.space.n_actions].argmax(dim=-1, keepdim=True)
        return imitation.act(out[..., self.space.n_actions :], best) if self.imitates else best

    def values(self, obs: Tensor) -> Tensor:
        """The values of all actions: `obs [S, B, obs]` -> `[S, B, n_actions]`."""
        return self.in_reward_units(self.q(self.normalised(obs))[..., : self.space.n_actions])

    def epsilon(self, step: int) -> Tensor:
        """Exploration rate `[S, 1]`, on the host, after `step` steps: from 1 to `exploration_final_eps` over
        `exploration_fraction` of the run."""
        if step >= self.decayed:
            return self.final_epsilon
        progress = (step / self.decay_steps).clamp_(max=1.0)
        return torch.lerp(self.first_epsilon, self.final_epsilon, progress)

    def explore(self, actions: Tensor, step: int) -> Tensor:
        """Epsilon-greedy: replaces `actions [S, 1]` by uniform actions with probability epsilon."""
        drawn = self.exploration.next().numpy()  # [S, 2]
        explores = drawn[:, :1] < self.epsilon(step - 1).numpy()
        if not explores.any():
            return actions
        at_random = torch.from_numpy(np.floor(drawn[:, 1:] * self.space.n_actions)).to(actions)
        return torch.where(torch.from_numpy(explores).to(actions.device), at_random, actions)

    @torch.no_grad()
    def action_value(self, obs: Tensor, actions: Tensor) -> Tensor:
        return self.values(obs).gather(-1, actions.long()).squeeze(-1)

    @torch.no_grad()
    def action_values(self, obs: Tensor, actions: Tensor) -> Tensor:
        """One forward pass gives the values of all actions in a state."""
        return self.values(obs).gather(-1, actions[..., 0].long())

    @torch.no_grad()
    def state_value(self, obs: Tensor, noise: Tensor | None = None) -> Tensor:
        """`V(s) = max_a Q(s, a)`, the value of the greedy policy."""
        return self.values(obs).amax(dim=-1)

    def learn(self, step: int) -> None:
        self.step = step
        # As in Stable-Baselines3, the target network is updated before the gradient steps
        if step % self.settings[0].target_update_interval == 0:
            self.q_target.lerp_(self.q, self.tau * self.active.unsqueeze(1))
        if self.learns(step):
            for _ in range(self.settings[0].gradient_steps):
                self.update(self.sample())

    @torch.no_grad()
    def loss(self, batch: Batch) -> Tensor:
        """`L = mean_B huber(Q(s, a) - (r + gamma (1 - terminated) max_a' Q_target(s', a')))`, `[S]`. Adds its gradients
        to those of the Q-network."""
        n = self.space.n_actions
        next_q = self.q_target(batch.next_obs)[..., :n].amax(dim=-1)  # [S, B]
        target = batch.rewards + (1 - batch.terminated) * self.gamma * next_q
        taken = batch.actions.long()
        q_all, backward = self.q.tape(batch.obs)  # [S, B, n_actions], and the imitation head
        q = q_all.gather(-1, taken).squeeze(-1)  # [S, B]
        error = q - target
        # d huber(e) / de = e, clipped to [-1, 1]
        slope = error.clamp(-1, 1).div_(error.shape[1]).unsqueeze(-1)
        gradient = torch.zeros_like(q_all).scatter_(-1, taken, slope)
        if self.imitates:
            assert batch.label is not None and batch.label_weight is not None
            cloning, gradient[..., n:] = imitation.loss(
                q_all[..., n:], batch.label.long(), batch.label_weight, self.imitation_weight
            )
            self.means.add("loss/imitation", cloning)
        backward(gradient)
        self.means.add("q/mean", q.mean(dim=1))
        return F.smooth_l1_loss(q, target, reduction="none").mean(dim=1)

    def update(self, batch: Batch) -> None:
        """One gradient step of every active member."""
        self.optimizer.zero_grad()
        loss = self.loss(batch)
        self.active &= self.optimizer.finite()
        self.optimizer.step(self.active)
        self.means.add("loss/critic", loss)

    def schedules(self) -> list[str]:
        decaying = [s for s in self.settings if s.exploration_fraction > 0 and s.exploration_final_eps < 1]
        shares = dict.fromkeys(s.exploration_fraction for s in decaying if s.load_paths == "none")
        return [f"exploration decays over {share:g} of the steps (--exploration-fraction)" for share in shares]

    def metrics(self) -> dict[str, Tensor]:
        return {**self.means.take(), "exploration/epsilon": self.epsilon(self.step).squeeze(1)}

    def activations(self) -> int:
        return self.q.activations

    def parameters(self) -> dict[str, Tensor]:
        return {**super().parameters(), "q": self.q.flat, "q_target": self.q_target.flat}

    def state(self) -> dict[str, Any]:
        return {**super().state(), "step": self.step}

    def load_state(self, state: dict[str, Any]) -> None:
        super().load_state(state)
        self.step = int(state["step"])
