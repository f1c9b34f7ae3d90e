"""Byzantine advisers and members: those that give noise, the opposite of their own opinion, or an agreed lie.

Fixed advisers, as in `--advisers expert noise:0.5:expert sign-flip:expert colluding:a colluding:a`:

- `noise:[SCALE:]ADVISER`: the suggestions of ADVISER with noise. Box: normal noise with a standard deviation of SCALE
  times half of the range of each number, clipped to the box; Discrete: with probability SCALE a uniformly drawn action.
  SCALE is 0.5 by default. (It comes first because an adviser's name may end in a number: `checkpoint:RUN:0`.)
- `sign-flip:ADVISER`, or `negated:ADVISER`: the opposite of what ADVISER suggests (`flipped`).
- `colluding`: the environment's adversary, or the opposite of its expert if it has none. All of them agree.
- `colluding:NAME`: all advisers with the same NAME agree, so that they look like a majority. Their suggestion is drawn
  once for every exact observation and then stays the same; it differs between names and between replicas. With Discrete
  actions and a built-in scripted expert (Room, LunarLander) it is never the expert's action.
- `random` (peerage.sharing.advisers): uniform actions, drawn anew each time.

Members, as in `--byzantine-members 1:sign-flip 2:noise:0.5 3:random`: what the member answers *others* is changed in
the same way; what it does itself and how it learns stays the same.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import Any, Literal

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

from peerage.envs import scripted
from peerage.envs.make import Spec
from peerage.errors import UserError
from peerage.learners.group import Group
from peerage.learners.streams import Streams
from peerage.sharing.adviser import Adviser, delegate


def flipped(env_id: str, space: gym.Space[Any], actions: np.ndarray) -> np.ndarray:
    """The opposite of `actions [B]` or `[B, act]`, of the same shape and type (`scripted.opposite`).

    A Discrete action that is its own opposite, as the middle one of three, is replaced by the next action, so that the
    answer always differs from the action.
    """
    other = scripted.opposite(env_id, space, actions)
    if isinstance(space, gym.spaces.Discrete) and space.n > 1:
        other = np.where(other == actions, (actions + 1) % int(space.n), other).astype(actions.dtype)
    return other


def check_scale(scale: float, discrete: bool, where: str) -> None:
    """UserError for a scale of noise above 1 with Discrete actions, where it is a probability."""
    if discrete and scale > 1:
        raise UserError(f"{where}: with Discrete actions the scale of noise is a probability, 0 to 1, not {scale:g}")


class Changed(Adviser):
    """Changes the suggestions of another adviser, `inner`, and passes everything else on to it."""

    def __init__(self, inner: Adviser) -> None:
        self.inner = inner
        delegate(self, inner, ("observe", "begin", "at", "state", "load_state"))


class Negated(Changed):
    """`negated:ADVISER`, `sign-flip:ADVISER`: the opposite of what `inner` suggests."""

    def __init__(self, inner: Adviser, env_id: str, space: gym.Space[Any]) -> None:
        super().__init__(inner)
        self.env_id, self.space = env_id, space
        self.stateless, self.shared = inner.stateless, inner.shared

    def suggest(self, obs: np.ndarray, rows: np.ndarray, first: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return flipped(self.env_id, self.space, np.asarray(self.inner.suggest(obs, rows, first, rng)))

    def role(self, obs: np.ndarray) -> np.ndarray:
        return -np.asarray(self.inner.role(obs), np.int64)


class Noisy(Changed):
    """`noise:[SCALE:]ADVISER`: what `inner` suggests, with noise. It has no role, and every replica has its own."""

    def __init__(self, inner: Adviser, space: gym.Space[Any], scale: float) -> None:
        super().__init__(inner)
        self.space, self.scale = space, scale

    def suggest(self, obs: np.ndarray, rows: np.ndarray, first: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        actions = np.asarray(self.inner.suggest(obs, rows, first, rng))
        if isinstance(self.space, gym.spaces.Discrete):
            replaced, other = rng.random(actions.shape) < self.scale, rng.integers(self.space.n, size=actions.shape)
            return np.where(replaced, other, actions)
        assert isinstance(self.space, gym.spaces.Box)
        low, high = self.space.low, self.space.high
        noise = self.scale * (high - low) / 2 * rng.standard_normal(actions.shape)
        return np.clip(actions + noise, low, high).astype(np.float32)


@dataclass
class Colluding(Adviser):
    """`colluding:NAME`: a function of the observation, the replica and the name alone.

    It needs no state in a checkpoint: `begin` gives every adviser of a replica the same key again.
    """

    conspiracy: str
    space: gym.Space[Any]
    expert: scripted.Policy | None
    """Discrete actions: the policy whose actions are avoided, if any."""
    key: int = 0

    def begin(self, rng: np.random.Generator, total_steps: int) -> None:
        self.key = int(rng.integers(2**63)) ^ zlib.crc32(self.conspiracy.encode())

    def suggest(self, obs: np.ndarray, rows: np.ndarray, first: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        if isinstance(self.space, gym.spaces.Discrete):
            n, drawn = int(self.space.n), _uniform(obs, self.key, 1)[:, 0]
            if self.expert is None or n == 1:
                return np.minimum(drawn * n, n - 1).astype(np.int64)
            # One of the n - 1 other actions, with equal probability
            other = np.minimum(drawn * (n - 1), n - 2).astype(np.int64)
            right = np.asarray(self.expert(obs, rng))
            return other + (other >= right)
        assert isinstance(self.space, gym.spaces.Box)
        low, high = self.space.low, self.space.high
        return (low + _uniform(obs, self.key, len(low)) * (high - low)).astype(np.float32)

    def role(self, obs: np.ndarray) -> np.ndarray:
        return np.full(len(obs), -1)


def make_colluding(name: str, spec: Spec) -> Colluding:
    """`colluding:NAME`."""
    expert = scripted.expert_for(spec.id, spec) if spec.discrete and scripted.has_expert(spec.id) else None
    if expert is not None and not scripted.is_built_in(expert):
        expert = None  # a registered expert may draw random numbers, and then the advisers would not agree
    return Colluding(name, spec.action_space, expert)


def _uniform(obs: np.ndarray, key: int, numbers: int) -> np.ndarray:
    """Numbers in [0, 1), float64 `[B, numbers]`, that depend on every bit of `obs [B, obs]` and of `key`."""
    words = np.ascontiguousarray(obs, np.float32) + np.float32(0)  # turns -0 into 0
    mixed = np.full(len(obs), key, np.uint64)
    for column in words.view(np.uint32).astype(np.uint64).T:
        mixed = _mix(mixed ^ column)
    parts = [_mix(mixed + np.uint64(k + 1)) for k in range(numbers)]
    return np.stack([(part >> np.uint64(11)).astype(np.float64) / 2**53 for part in parts], axis=1)


def _mix(x: np.ndarray) -> np.ndarray:
    """One step of the generator SplitMix64: every bit of the uint64 result depends on all bits of `x`."""
    x = x + np.uint64(0x9E3779B97F4A7C15)  # unsigned integers wrap around in NumPy
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


class ByzantineMembers:
    """Some members of every replica of `group` give others a changed suggestion.

    `byzantine`: member -> kind and scale, as `peerage.config.adviser_words.parse_members` returns it; `env_id` decides
    what the opposite of an action is. Random numbers are keyed by (seed, replica, member) and drawn in every step.
    """

    def __init__(self, byzantine: dict[int, tuple[str, float]], group: Group, env_id: str) -> None:
        self.byzantine, self.group = byzantine, group
        space, device = group.space, group.device
        self.opposites: Tensor | None = None  # [n_actions]
        if space.discrete:
            table = flipped(env_id, gym.spaces.Discrete(space.n_actions), np.arange(space.n_actions))
            self.opposites = torch.as_tensor(table, device=device)
        else:
            low, high = (torch.as_tensor(bound, device=device, dtype=group.dtype) for bound in (space.low, space.high))
            self.low, self.high = low, high
        self.streams: dict[int, Streams] = {}
        for i, (kind, scale) in byzantine.items():
            check_scale(scale, space.discrete, f"--byzantine-members {i}:noise:{scale:g}")
            if kind != "sign-flip":
                stream_keys, shape = group.stream_keys[i :: group.N], (group.N, space.act_dim)
                law: Literal["normal", "uniform"] = "normal" if kind == "noise" and not space.discrete else "uniform"
                self.streams[i] = Streams(stream_keys, "byzantine", shape, law, device, group.dtype)

    def answer(self, suggestions: Tensor) -> Tensor:
        """What the askers hear. `suggestions [M, N, act]`: of every asker, the true suggestions of the `N` members of
        its group; the result has the same shape."""
        g = self.group
        heard = suggestions.clone(memory_format=torch.contiguous_format).view(g.R, g.N, g.N, -1)
        for i, (kind, scale) in self.byzantine.items():
            honest = heard[:, :, i]  # [R, askers, act]
            answer = self._flip(honest) if kind == "sign-flip" else self._disturb(i, kind, scale, honest)
            answer[:, i] = honest[:, i]  # a member gives itself its true suggestion
            heard[:, :, i] = answer
        return heard.view_as(suggestions)

    def _flip(self, actions: Tensor) -> Tensor:
        if self.opposites is not None:
            return self.opposites[actions.long()].to(actions.dtype)
        return self.low + self.high - actions

    def _disturb(self, i: int, kind: str, scale: float, actions: Tensor) -> Tensor:
        drawn = self.streams[i].next()  # [R, askers, act]
        if self.opposites is not None:
            # One number decides whether the action is replaced and by which; `random` always replaces it
            p, n = (1.0 if kind == "random" else scale), len(self.opposites)
            other = (drawn / max(p, 1e-12) * n).floor().clamp(max=n - 1).to(actions.dtype)
            return torch.where(drawn < p, other, actions)
        if kind == "random":
            return (self.low + drawn * (self.high - self.low)).to(actions.dtype)
        noisy = actions + scale * (self.high - self.low) / 2 * drawn
        return torch.minimum(torch.maximum(noisy, self.low), self.high)

    def state(self) -> dict[str, Any]:
        """JSON-able."""
        return {str(i): stream.state() for i, stream in self.streams.items()}

    def load_state(self, state: dict[str, Any]) -> None:
        for i, stream in self.streams.items():
            stream.load_state(state[str(i)])
