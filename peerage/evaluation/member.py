"""One member of a run, opened to look into its network: outputs, attention weights and the names of its inputs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from peerage.config.adviser_words import checkpoint_word
from peerage.envs.feature_names import FeatureNames, feature_names
from peerage.envs.make import EnvMaker, Maker
from peerage.errors import UserError
from peerage.evaluation.outputs import Actions, Normal, Output, Probabilities, Values
from peerage.evaluation.targets import refuse_targets
from peerage.learners.bc import BC
from peerage.learners.dqn import DQN
from peerage.learners.policies import Categorical
from peerage.learners.ppo import PPO
from peerage.nets import workers
from peerage.nets.attention_net import StackedAttention
from peerage.training.restore import restore
from peerage.training.trainer import Trainer

CHUNK = 4096
"""States in one pass of a network."""


class Member:
    """A trained member. `row`: `replica * n_peers + member`."""

    def __init__(self, trainer: Trainer, row: int) -> None:
        self.trainer, self.group, self.row = trainer, trainer.group, row
        self.stack = next(s for s in self.group.stacks if row in s.index.tolist())
        self.place = self.stack.index.tolist().index(row)
        self.learner = self.stack.learner
        self.maker: EnvMaker = trainer.evaluation_makers[row]
        env = self.maker.make()
        self.names: FeatureNames = feature_names(env, trainer.spec.obs_dim)
        env.close()

    @property
    def attention_net(self) -> StackedAttention | None:
        """The stack of attention networks that the member belongs to; None for other networks."""
        net = getattr(self.learner, "net", None)
        return net if isinstance(net, StackedAttention) else None

    @torch.no_grad()
    def output(self, obs: np.ndarray) -> Output:
        """The output of the policy for `obs [B, obs]`."""
        parts = [self._output(self._tensor(part)) for part in np.split(obs, range(CHUNK, len(obs), CHUNK))]
        if isinstance(self.learner, PPO):
            found = torch.cat(parts)
            policy = self.learner.policy(found.unsqueeze(0), self._rows)
            if isinstance(policy, Categorical):
                return Probabilities(found)
            return Normal(found, policy.log_std[0])
        if isinstance(self.learner, DQN):
            return Values(torch.cat(parts))
        if self._has_logits:
            return Probabilities(torch.cat(parts))
        low, high = self.group.space.low, self.group.space.high
        scale = torch.ones(1) if low is None or high is None else torch.as_tensor((high - low) / 2)
        return Actions(torch.cat(parts), scale)

    def _output(self, obs: Tensor) -> Tensor:
        """`obs [B, obs]` -> the network's output `[B, out]`."""
        learner, rows = self.learner, self._rows
        if isinstance(learner, PPO):
            return torch.as_tensor(learner.net(self._inputs(obs), rows=self._actor))[0]
        if isinstance(learner, DQN):
            q = learner.q(self._inputs(obs), rows=rows)[..., : self.group.space.n_actions]
            return learner.in_reward_units(q.expand(learner.rows, -1, -1))[self.place]
        if isinstance(learner, BC) and self._has_logits:
            return learner.net(self._inputs(obs), rows=rows)[0]
        return self.group.mode_of(self.row, obs)

    @torch.no_grad()
    def weights(self, obs: np.ndarray) -> dict[str, np.ndarray]:
        """The attention weights of the policy for `obs [B, obs]` by the name of the layer, as of
        `StackedAttention.attention` without its first dimension; empty for other networks."""
        net = self.attention_net
        if net is None:
            return {}
        chunk = max(1, CHUNK // net.window.length)
        parts = np.split(obs, range(chunk, len(obs), chunk))
        found = [net.attention(self._inputs(self._tensor(part)), rows=self._actor) for part in parts]
        return {name: torch.cat([each[name][0] for each in found]).numpy() for name in found[0]}

    @property
    def _has_logits(self) -> bool:
        """Whether the policy is a network from observations to the logits of Discrete actions (bc)."""
        return type(self.learner) is BC and self.group.space.discrete

    @property
    def _rows(self) -> slice:
        return slice(self.place, self.place + 1)

    @property
    def _actor(self) -> slice:
        """The row of the policy in a network of PPO, in which actors and critics alternate."""
        return slice(2 * self.place, 2 * self.place + 1)

    def _inputs(self, obs: Tensor) -> Tensor:
        """The inputs of the network, `[1, B, obs]`."""
        learner: Any = self.learner
        return torch.as_tensor(learner.normalised(obs.unsqueeze(0), self._rows))

    def _tensor(self, obs: np.ndarray) -> Tensor:
        return torch.as_tensor(obs, dtype=self.group.dtype, device=self.group.device)


@contextmanager
def opened(
    run: Path | str, member: int = 0, replica: int = 0, checkpoint: str | int = "", env: Maker | None = None
) -> Iterator[Member]:
    """A member of a run at its newest checkpoint, or at `checkpoint`: `best` or a step. Raises UserError for a member
    that does not exist."""
    trainer = restore(run, "policies", env=env, which=checkpoint_word(checkpoint)).trainer
    workers.configure(trainer.threads)
    try:
        if not (0 <= member < trainer.N and 0 <= replica < trainer.R):
            raise UserError(f"{run} has members 0 to {trainer.N - 1} and replicas 0 to {trainer.R - 1}")
        refuse_targets(trainer.group.settings[member].algorithm, "the analysis is for functions of one observation")
        if trainer.spec.image is not None:
            raise UserError(f"{run} observes images: the analysis is for flat observations")
        yield Member(trainer, replica * trainer.N + member)
    finally:
        trainer.close()
