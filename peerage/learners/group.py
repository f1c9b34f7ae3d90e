"""The members of all replicas as one object, independent of the stacks that hold their networks.

Members are numbered `m = replica * N + member`; all tensors here are `[M, ...]` in this order. Members with the same
learner and structural settings share a stack. A group with a single stack needs no gathering and scattering.

Each member has `E` environments (`--n-envs`, for on-policy learners). Environment `e` of member `m` is row `m * E + e`
of the tensors of a step, which are `[M E, ...]`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from peerage.config.methods import LEARNERS, LearnerSettings
from peerage.errors import UserError
from peerage.learners.base import Learner, NoiseShape, Space
from peerage.learners.critics import CriticFactory
from peerage.learners.defaults import environments_per_member
from peerage.learners.recent import Recent, RecentTransitions
from peerage.learners.streams import StreamKey, Streams
from peerage.learners.transition import Transition
from peerage.offline.trajectories import Trajectories


@dataclass
class Stack:
    """The members with equal structural settings in all replicas: row `replica * P + p` is member `positions[p]`."""

    learner: Learner
    positions: list[int]
    index: Tensor  # [S] rows in the group
    env_index: Tensor  # [S E] rows in the tensors of a step
    warmup: Streams  # [S, act], uniform


def stack_positions(members: Sequence[LearnerSettings]) -> list[list[int]]:
    """The members of each stack of a group, in the order of the stacks."""
    stacks: dict[tuple[Any, ...], list[int]] = {}
    for i, settings in enumerate(members):
        stacks.setdefault(settings.stack_key, []).append(i)
    return list(stacks.values())


class Group:
    """`R` replicas of `N` members.

    `recent` is the number of last transitions to keep of each member, of all its environments together. `critic` makes
    the critics of the learners (SAC, TD3); by default, learners use their own. `data` are the episodes from which
    offline learners learn; None: they only act. `offset` is the number of member 0 in random streams.
    """

    def __init__(
        self,
        members: Sequence[LearnerSettings],
        replicas: int,
        seed: int,
        space: Space,
        total_steps: int,
        *,
        recent: int = 1000,
        critic: CriticFactory | None = None,
        data: Trajectories | None = None,
        offset: int = 0,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.settings = list(members)
        self.N, self.R, self.M = len(members), replicas, len(members) * replicas
        self.E = environments_per_member(members)
        self.space, self.device, self.dtype = space, torch.device(device), dtype
        self.stream_keys = [StreamKey(seed, r, i, offset) for r in range(replicas) for i in range(self.N)]
        self.critic, self.data = critic, data
        self.stacks = [self._stack(positions, total_steps) for positions in stack_positions(members)]
        self.has_action_value = all(LEARNERS[s.algorithm].has_action_value for s in members)
        """Whether every member has a Q-function, so that `action_value` can be called."""
        self.policy_noise: Streams | None = None
        """`[M, width]`, with several environments per member `[M, E, width]`: one draw per asker and step, used by all
        advisers that answer the asker. None: all policies are deterministic."""
        if (noise := self.noise_shape) is not None:
            shape = (noise.width,) if self.E == 1 else (self.E, noise.width)
            self.policy_noise = Streams(self.stream_keys, "policy", shape, noise.kind, device, dtype)
        # A trained member takes no random actions at the start; a pretrained one does not explore later either
        self.pretrained = np.array([s.load_paths != "none" for s in members] * replicas)  # [M]
        trained = self.pretrained | np.array([s.init_from != "none" for s in members] * replicas)
        starts = np.array([s.learning_starts for s in members] * replicas)
        self.learning_starts = np.where(trained, 0, starts)  # [M]
        low, high = (None if b is None else torch.as_tensor(b, device=device) for b in (space.low, space.high))
        self._low, self._high = (None if b is None else b.to(dtype) for b in (low, high))
        kept = math.ceil(max(1, min(recent, total_steps)) / self.E)  # of each environment
        self.recent = RecentTransitions(self.M * self.E, kept, space.obs_dim, space.act_dim, device, dtype)

    def _stack(self, positions: list[int], total_steps: int) -> Stack:
        rows = [r * self.N + p for r in range(self.R) for p in positions]
        settings = [self.settings[m % self.N] for m in rows]
        keys = [self.stream_keys[m] for m in rows]
        where: dict[str, Any] = {"device": self.device, "dtype": self.dtype}
        method = LEARNERS[settings[0].algorithm]
        more: dict[str, Any] = {} if self.critic is None else {"critic": self.critic}
        if method.offline:
            more["data"] = self.data
        learner: Learner = method.load()(settings, keys, self.space, total_steps, **more, **where)
        return Stack(
            learner=learner,
            positions=positions,
            index=torch.tensor(rows, device=self.device),
            env_index=torch.tensor([m * self.E + e for m in rows for e in range(self.E)], device=self.device),
            warmup=Streams(keys, "warmup", (self.space.act_dim,), "uniform", self.device),
        )

    def _each(self, call: Callable[[Stack, Sequence[Tensor]], Tensor], *inputs: Tensor) -> Tensor:
        """Run `call(stack, rows of inputs)` for every stack; returns the results `[M, ...]` in the group's order."""
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

    def draw(self) -> Tensor | None:
        """The noise of this step, `[M E, width]`. Call it exactly once per step, even if the noise is not used, so that
        a member's noise depends only on the step."""
        if self.policy_noise is None:
            return None
        noise = self.policy_noise.next()
        return noise if self.E == 1 else noise.flatten(0, 1)

    def own_suggestions(self, obs: Tensor, noise: Tensor | None) -> Tensor:
        """The members' own actions, sampled with `noise [M E, width]` (None: the mode): `obs [M E, obs]` ->
        `[M E, act]`."""
        inputs = [x.view(self.M, self.E, -1) for x in (obs, noise) if x is not None]

        def suggest(stack: Stack, x: Sequence[Tensor]) -> Tensor:
            return stack.learner.suggest(x[0], None if noise is None else self.noise_for(stack, x[1]))

        return self._each(suggest, *inputs).flatten(0, 1)

    def noise_for(self, stack: Stack, noise: Tensor | None) -> Tensor | None:
        """The part of `noise [..., width]` that the policies of a stack use, as its `noise_shape` says."""
        shape = stack.learner.noise_shape
        if noise is None or shape is None:
            return None
        return noise[..., : shape[1]].to(self.dtype)

    def explore(self, actions: Tensor, step: int) -> Tensor:
        """Add the members' own exploration (epsilon-greedy, Gaussian noise) to `actions [M, act]`."""
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

    def clip(self, actions: Tensor) -> Tensor:
        """Clip actions `[M, act]` to the box; Discrete actions are returned unchanged."""
        if self._low is None or self._high is None:
            return actions
        return torch.minimum(torch.maximum(actions, self._low), self._high)

    def mode(self, obs: Tensor) -> Tensor:
        """Deterministic actions for evaluation: `obs [M, B, obs]` -> `[M, B, act]`."""
        return self._each(lambda stack, x: stack.learner.suggest(x[0], None), obs)

    def mode_of(self, m: int, obs: Tensor) -> Tensor:
        """`mode` of member `m` alone: `obs [B, obs]` -> `[B, act]`."""
        stack = next(s for s in self.stacks if m in s.index.tolist())
        row = stack.index.tolist().index(m)
        return stack.learner.suggest_rows(obs.unsqueeze(0), None, slice(row, row + 1))[0]

    # --- values ---------------------------------------------------------------------------------------------

    def action_value(self, obs: Tensor, actions: Tensor) -> Tensor:
        """The Q-values of the members: `obs [M, B, obs]`, `actions [M, B, act]` -> `[M, B]`. Requires
        `has_action_value`."""
        return self._each(lambda stack, x: stack.learner.action_value(x[0], x[1]), obs, actions)

    def action_values(self, obs: Tensor, actions: Tensor) -> Tensor:
        """The members' critics of several actions in each state: `obs [M, B, obs]`, `actions [M, B, K, act]` ->
        `[M, B, K]`. Only where `has_action_value`."""
        return self._each(lambda stack, x: stack.learner.action_values(x[0], x[1]), obs, actions)

    def state_value(self, obs: Tensor, noise: Tensor | None) -> Tensor:
        """`V_i(s)`: `obs [M, B, obs]`, `noise [M, B, width]` -> `[M, B]`. Without noise, the value of the policy's
        mode."""
        if noise is None:
            return self._each(lambda stack, x: stack.learner.state_value(x[0], None), obs)
        return self._each(lambda stack, x: stack.learner.state_value(x[0], self.noise_for(stack, x[1])), obs, noise)

    def recent_transitions(self, age: Tensor) -> Recent:
        """The transitions from `age [M E, B]` steps ago (0: the last) of every environment."""
        return self.recent.gather(age)

    @property
    def noise_shape(self) -> NoiseShape | None:
        """The noise that `state_value` needs to sample actions of all members; None: all policies are
        deterministic."""
        found = [stack.learner.noise_shape for stack in self.stacks]
        shapes = [NoiseShape(*shape) for shape in found if shape is not None]
        if len({shape.kind for shape in shapes}) > 1:
            raise UserError("members whose policies need normal and uniform random numbers cannot share a group")
        return max(shapes, key=lambda shape: shape.width) if shapes else None

    def gamma(self) -> Tensor:
        """The members' discount factors, `[M, 1]`."""
        return torch.tensor([[s.gamma] for s in self.settings] * self.R, device=self.device, dtype=self.dtype)

    # --- learning -------------------------------------------------------------------------------------------

    def see(self, obs: Tensor, rewards: Tensor | None = None, done: np.ndarray | None = None) -> None:
        """Update running statistics with `obs [M, obs]`, on which the members act next, and the result of the step
        before, `rewards [M]` and `done [M]` (bool); at the start of a training there is no previous step."""
        for stack in self.stacks:
            if not stack.learner.normalises:
                continue
            if rewards is None or done is None:
                stack.learner.see(obs[stack.index])
            else:
                ended = torch.as_tensor(done, device=self.device)
                stack.learner.see(obs[stack.index], rewards[stack.index], ended[stack.index])

    def observe(self, transition: Transition) -> None:
        """Store the environment step of all members."""
        self.recent.add(transition)
        for stack in self.stacks:
            stack.learner.observe(transition if len(self.stacks) == 1 else transition.rows(stack.env_index))

    def learns(self, step: int) -> bool:
        """Whether networks, or running statistics of their inputs, change after environment step `step`."""
        return any(stack.learner.normalises or stack.learner.learns(step) for stack in self.stacks)

    def learn(self, step: int) -> None:
        """Learn in all stacks after environment step `step`."""
        for stack in self.stacks:
            stack.learner.learn(step)

    def schedules(self) -> list[str]:
        """The schedules of the learners that depend on the length of the run, without repetitions."""
        return list(dict.fromkeys(text for stack in self.stacks for text in stack.learner.schedules()))

    def cut_by(self, length: int) -> list[str]:
        """What the end of a run of `length` steps changed in the learners (`Learner.cut_by`), without repetitions."""
        return list(dict.fromkeys(text for stack in self.stacks for text in stack.learner.cut_by(length)))

    def active(self) -> np.ndarray:
        """`[M]` bool on the host: whether each member learns."""
        out = np.empty(self.M, bool)
        for stack in self.stacks:
            out[stack.index.cpu().numpy()] = stack.learner.active.cpu().numpy()
        return out

    def metrics(self) -> list[tuple[int, int, str, float]]:
        """(replica, member, name, value): means since the last call. Each stack and name is one copy to the host."""
        rows = []
        for stack in self.stacks:
            for name, values in stack.learner.metrics().items():
                for m, value in zip(stack.index.tolist(), values.tolist(), strict=True):
                    rows.append((m // self.N, m % self.N, name, value))
        return rows

    # --- state ----------------------------------------------------------------------------------------------

    def member_parameters(self, m: int) -> dict[str, Tensor]:
        """A copy of the learned parameters of member `m` by name, `[P]` each."""
        stack = next(s for s in self.stacks if m in s.index.tolist())
        row = stack.index.tolist().index(m)
        return {name: values[row].clone() for name, values in stack.learner.parameters().items()}

    def state(self) -> dict[str, Any]:
        stacks = {
            str(k): {
                "learner": _complete(stack.learner),
                "warmup": stack.warmup.state(),
            }
            for k, stack in enumerate(self.stacks)
        }
        return {
            "space": self.space.state(),
            "stacks": stacks,
            "policy_noise": None if self.policy_noise is None else self.policy_noise.state(),
            "recent": self.recent.state(),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Continue from `state`."""
        for k, stack in enumerate(self.stacks):
            part = state["stacks"][str(k)]
            stack.learner.load_state(part["learner"])
            stack.warmup.load_state(part["warmup"])
        if self.policy_noise is not None:
            self.policy_noise.load_state(state["policy_noise"])
        self.recent.load_state(state["recent"])

    def load_policies(self, state: dict[str, Any]) -> None:
        """Load only the learned parameters from the `state` of a group with the same members."""
        for k, stack in enumerate(self.stacks):
            stack.learner.load_parameters(state["stacks"][str(k)]["learner"]["parameters"])


def _complete(learner: Learner) -> dict[str, Any]:
    state = learner.state()
    if not {"parameters", "active"} <= state.keys():
        name = type(learner).__name__
        raise UserError(f"the state of the learner {name} lacks parameters: return {{**super().state(), ...}}")
    return state
