"""The members of all replicas as one object, whatever stacks their networks live in.

Members are numbered `m = replica * N + member`; everything here is `[M, ...]` in that order. Members with the same
algorithm and shapes share a stack; a group of one kind is one stack, and then nothing is gathered or scattered.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from peerage.learners.base import Space, due
from peerage.learners.defaults import Settings
from peerage.learners.dqn import DQN
from peerage.learners.replay import Batch
from peerage.learners.sac import SAC
from peerage.learners.streams import StreamKey, Streams
from peerage.learners.td3 import TD3

AnyLearner = DQN | SAC | TD3  # each of them is a `peerage.learners.base.Learner`
LEARNERS: dict[str, type[DQN] | type[SAC] | type[TD3]] = {"dqn": DQN, "sac": SAC, "td3": TD3}


@dataclass
class Stack:
    """The members of one algorithm and shape, of all replicas: row `replica * P + p` is member `positions[p]`."""

    learner: AnyLearner
    positions: list[int]
    index: Tensor  # [S] rows in the group
    policy_noise: Streams  # [S, askers, act]
    warmup: Streams  # [S, act], uniform


class Group:
    """`R` replicas of `N` members. `advise`: members answer each other's questions (else only their own)."""

    def __init__(
        self,
        members: Sequence[Settings],
        replicas: int,
        seed: int,
        space: Space,
        total_steps: int,
        *,
        advise: bool,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.settings = list(members)
        self.N, self.R, self.M = len(members), replicas, len(members) * replicas
        self.space, self.device, self.dtype, self.advise = space, torch.device(device), dtype, advise
        self.stream_keys = [StreamKey(seed, r, i) for r in range(replicas) for i in range(self.N)]
        keys: dict[tuple[Any, ...], list[int]] = {}
        for i, s in enumerate(members):
            keys.setdefault(s.stack_key, []).append(i)
        self.stacks = [self._stack(positions, total_steps) for positions in keys.values()]
        # A pretrained member knows what to do: no random actions at the start and no exploration later
        self.pretrained = np.array([s.load_paths != "none" for s in members] * replicas)  # [M]
        starts = np.array([s.learning_starts for s in members] * replicas)
        self.learning_starts = np.where(self.pretrained, 0, starts)  # [M]

    def _stack(self, positions: list[int], total_steps: int) -> Stack:
        rows = [r * self.N + p for r in range(self.R) for p in positions]
        settings = [self.settings[m % self.N] for m in rows]
        stream_keys = [self.stream_keys[m] for m in rows]
        where: dict[str, Any] = {"device": self.device, "dtype": self.dtype}
        askers = self.N if self.advise else 1
        return Stack(
            learner=LEARNERS[settings[0].algorithm](settings, stream_keys, self.space, total_steps, **where),
            positions=positions,
            index=torch.tensor(rows, device=self.device),
            policy_noise=Streams(stream_keys, "policy", (askers, self.space.act_dim), "normal", **where),
            warmup=Streams(stream_keys, "warmup", (self.space.act_dim,), "uniform", self.device),
        )

    def _each(self, call: Callable[[Stack, Sequence[Tensor]], Tensor], *inputs: Tensor) -> Tensor:
        """`call(stack, rows of inputs)` for every stack, its results back in the group's order `[M, ...]`."""
        if len(self.stacks) == 1:
            return call(self.stacks[0], inputs)
        out: Tensor | None = None
        for stack in self.stacks:
            part = call(stack, [x[stack.index] for x in inputs])
            if out is None:
                out = part.new_empty(self.M, *part.shape[1:])
            out[stack.index] = part
        assert out is not None
        return out

    # --- acting ---------------------------------------------------------------------------------------------

    def own_suggestions(self, obs: Tensor) -> Tensor:
        """What every member would do in its own situation, sampled: `obs [M, obs]` -> `[M, act]`."""
        return self._each(
            lambda stack, x: stack.learner.suggest(
                x[0].unsqueeze(1), stack.policy_noise.next()[:, :1] if stack.learner.samples else None
            ).squeeze(1),
            obs,
        )

    def member_suggestions(self, obs: Tensor, sample_with_noise: bool, *, greedy: bool = False) -> Tensor:
        """Everybody's answer to "what would you do in my situation?": `obs [M, obs]` -> `[M, N, act]`, the
        advisers of the asker's own replica in the second dimension. One batched forward a stack.

        Without `sample_with_noise` members answer others with the mode of their policy, themselves with a sample;
        `greedy`: themselves with the mode too.
        """
        askers = obs.view(self.R, 1, self.N, -1)
        out = obs.new_empty(self.R, self.N, self.N, self.space.act_dim)
        for stack in self.stacks:
            p = len(stack.positions)
            x = askers.expand(self.R, p, self.N, -1).reshape(self.R * p, self.N, -1)
            noise = stack.policy_noise.next() if stack.learner.samples and not greedy else None  # [S, N, act]
            answers = stack.learner.suggest(x, noise)  # [S, N, act]
            if noise is not None and not sample_with_noise:
                own = torch.zeros(p, self.N, 1, dtype=torch.bool, device=self.device)
                own[torch.arange(p), stack.positions] = True
                answers = torch.where(own.repeat(self.R, 1, 1), answers, stack.learner.suggest(x, None))
            answers = answers.view(self.R, p, self.N, -1).transpose(1, 2)  # [R, asker, adviser, act]
            if p == self.N:
                out = answers
            else:
                out[:, :, stack.positions] = answers
        return out.reshape(self.M, self.N, -1)

    def explore(self, actions: Tensor, step: int) -> Tensor:
        """Members' own exploration on top of `actions [M, act]` (epsilon-greedy, Gaussian noise)."""
        explored = self._each(lambda stack, x: stack.learner.explore(x[0], step), actions)
        if self.pretrained.any():
            explored[self.pretrained] = actions[self.pretrained]
        return explored

    def warmup_actions(self) -> Tensor:
        """Uniformly random actions `[M, act]`."""
        u = self._each(lambda stack, x: stack.warmup.next())
        if self.space.discrete:
            return (u * self.space.n_actions).floor().to(self.dtype)
        low, high = (torch.as_tensor(b, device=self.device) for b in (self.space.low, self.space.high))
        return (low + u * (high - low)).to(self.dtype)

    def mode(self, obs: Tensor) -> Tensor:
        """Deterministic actions for evaluation: `obs [M, B, obs]` -> `[M, B, act]`."""
        return self._each(lambda stack, x: stack.learner.suggest(x[0], None), obs)

    # --- judging --------------------------------------------------------------------------------------------

    def value(self, obs: Tensor, actions: Tensor) -> Tensor:
        """The members' critics: `obs [M, B, obs]`, `actions [M, B, act]` -> `[M, B]`."""
        return self._each(lambda stack, x: stack.learner.value(x[0], x[1]), obs, actions)

    def state_value(self, obs: Tensor, noise: Tensor | None) -> Tensor:
        """`V_i(s)`: `obs [M, B, obs]`, `noise [M, B, act]` (None: of the mode of the policy) -> `[M, B]`."""
        if noise is None:
            return self._each(lambda stack, x: stack.learner.state_value(x[0], None), obs)
        return self._each(lambda stack, x: stack.learner.state_value(x[0], x[1]), obs, noise)

    def recent(self, age: Tensor) -> Batch:
        """Transitions of `age [M, B]` steps ago (0: the last) of every member."""
        if len(self.stacks) == 1:
            return self.stacks[0].learner.replay.recent(age)
        parts = [stack.learner.replay.recent(age[stack.index]) for stack in self.stacks]
        order = torch.cat([stack.index for stack in self.stacks]).argsort()
        return Batch(*(torch.cat(column)[order] for column in zip(*parts)))

    def gamma(self) -> Tensor:
        """`[M, 1]`."""
        return torch.tensor([[s.gamma] for s in self.settings] * self.R, device=self.device, dtype=self.dtype)

    # --- learning -------------------------------------------------------------------------------------------

    def observe(self, obs: Tensor, actions: Tensor, rewards: Tensor, next_obs: Tensor, terminated: Tensor) -> None:
        """Store one transition of every member (`[M, ...]`)."""
        columns = (obs, actions, rewards, next_obs, terminated)
        for stack in self.stacks:
            rows = columns if len(self.stacks) == 1 else tuple(x[stack.index] for x in columns)
            stack.learner.observe(*rows)

    def learns(self, step: int) -> bool:
        """Will networks change after environment step `step`?"""
        return any(due(stack.learner.settings[0], step) for stack in self.stacks)

    def after_step(self, step: int) -> None:
        """Learning, in the stacks for which it is time."""
        for stack in self.stacks:
            stack.learner.after_step(step)

    def active(self) -> np.ndarray:
        """`[M]` bool on the host: which members learn."""
        out = np.empty(self.M, bool)
        for stack in self.stacks:
            out[stack.index.cpu().numpy()] = stack.learner.active.cpu().numpy()
        return out

    def metrics(self) -> list[tuple[int, int, str, float]]:
        """(replica, member, name, value): means since the last call; one copy to the host a stack and name."""
        rows = []
        for stack in self.stacks:
            for name, values in stack.learner.metrics().items():
                for m, value in zip(stack.index.tolist(), values.tolist(), strict=True):
                    rows.append((m // self.N, m % self.N, name, value))
        return rows

    # --- state ----------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        return {
            str(k): {
                "learner": stack.learner.state(),
                "replay": stack.learner.replay.state(),
                "policy_noise": stack.policy_noise.state(),
                "warmup": stack.warmup.state(),
            }
            for k, stack in enumerate(self.stacks)
        }

    def load_state(self, state: dict[str, Any], *, policies_only: bool = False) -> None:
        """Go on from `state`. `policies_only`: what the members know, not what they remember."""
        for k, stack in enumerate(self.stacks):
            part = state[str(k)]
            stack.learner.load_state(part["learner"])
            if policies_only:
                continue
            stack.learner.replay.load_state(part["replay"])
            stack.policy_noise.load_state(part["policy_noise"])
            stack.warmup.load_state(part["warmup"])
