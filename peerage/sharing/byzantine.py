"""Byzantine advisers and members: they suggest noise, the opposite of a policy's action, or an agreed wrong action.

Fixed advisers, as in `--advisers expert noise:0.5:expert sign-flip:expert colluding:a colluding:a`:

- `noise:[SCALE:]ADVISER`: the suggestions of ADVISER with noise. Box: normal noise with a standard deviation of SCALE
  times half of the range of each number, clipped to the box; Discrete: with probability SCALE a uniformly drawn action.
  SCALE is 0.5 by default. (It comes first because an adviser's name may end in a number: `checkpoint:RUN:0`.)
- `sign-flip:ADVISER` or `negated:ADVISER`: the opposite of the suggestions of ADVISER (`flipped`).
- `colluding`: the environment's adversary, or the opposite of its expert if it has none. All of them agree.
- `colluding:NAME`: all advisers with the same NAME agree and so look like a majority. Their suggestion is a fixed
  random function of the observation; it differs between names and between replicas. With Discrete actions and a
  built-in scripted expert (Room, LunarLander), it is never the expert's action.
- `random` (peerage.sharing.advisers): uniform actions, drawn independently each time.

Members, as in `--byzantine-members 1:sign-flip 2:noise:0.5 3:random`: the member's suggestions to *other* members are
changed in the same way. Its own actions and learning do not change.
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
    """The opposite of `actions [B]` or `[B, act]`, with the same shape and type (`scripted.opposite`).

    A Discrete action that is its own opposite, such as the middle one of three, is replaced by the next action, so that
    the result always differs from the action.
    """
    other = scripted.opposite(env_id, space, actions)
    if isinstance(space, gym.spaces.Discrete) and space.n > 1:
        other = np.where(other == actions, (actions + 1) % int(space.n), other).astype(actions.dtype)
    return other


def check_scale(scale: float, discrete: bool, where: str) -> None:
    """Raise UserError for a scale above 1 with Discrete actions, where the scale is a probability."""
    if discrete and scale > 1:
        raise UserError(f"{where}: with Discrete actions, the scale is a probability, 0 to 1, got {scale:g}")


class Changed(Adviser):
    """Base class of advisers that change the suggestions of another adviser `inner`. Other calls are forwarded to
    it."""

    def __init__(self, inner: Adviser) -> None:
        self.inner, self.max_steps = inner, inner.max_steps
        delegate(self, inner, ("observe", "begin", "schedule", "at", "state", "load_state"))


class Negated(Changed):
    """`negated:ADVISER`, `sign-flip:ADVISER`: the opposite of the suggestions of `inner`."""

    def __init__(self, inner: Adviser, env_id: str, space: gym.Space[Any]) -> None:
        super().__init__(inner)
        self.env_id, self.space = env_id, space
        self.stateless, self.shared = inner.stateless, inner.shared

    def suggest(self, obs: np.ndarray, rows: np.ndarray, first: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return flipped(self.env_id, self.space, np.asarray(self.inner.suggest(obs, rows, first, rng)))

    def role(self, obs: np.ndarray) -> np.ndarray:
        return -np.asarray(self.inner.role(obs), np.int64)


class Noisy(Changed):
    """`noise:[SCALE:]ADVISER`: the suggestions of `inner` with noise. It has no role, and every replica has its own
    copy."""

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
    """`colluding:NAME`: a function of the observation, the replica and the name only.

    It has no state for checkpoints, because `begin` always derives the same key for all advisers of a replica.
    """

    conspiracy: str
    space: gym.Space[Any]
    expert: scripted.Policy | None
    """The policy whose actions are avoided (Discrete actions only), if any."""
    key: int = 0

    def begin(self, rng: np.random.Generator, total_steps: int) -> None:
        self.key = int(rng.integers(2**63)) ^ zlib.crc32(self.conspiracy.encode())

    def schedule(self) -> str:
        return ""  # the key does not depend on the length of the run

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
    """Build the adviser `colluding:NAME`."""
    expert = scripted.expert_for(spec.id, spec) if spec.discrete and scripted.has_expert(spec.id) else None
    if expert is not None and not scripted.is_built_in(expert):
        expert = None  # a registered expert may draw random numbers, so the advisers would disagree
    return Colluding(name, spec.action_space, expert)


def _uniform(obs: np.ndarray, key: int, numbers: int) -> np.ndarray:
    """Hash values in [0, 1), float64 `[B, numbers]`, which depend on every bit of `obs [B, obs]` and `key`."""
    words = np.ascontiguousarray(obs, np.float32) + np.float32(0)  # converts -0 to 0
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
    """Changes the suggestions that some members of every replica of `group` give to other members.

    `byzantine`: member -> kind and scale, from `peerage.config.adviser_words.parse_members`. `env_id` determines the
    opposite of an action. Random numbers are keyed by (seed, replica, member) and drawn in every step.
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
        """The suggestions that the askers receive. `suggestions [M, N, act]`: for every asker, the true suggestions of
        the `N` members of its group; the result has the same shape."""
        g = self.group
        heard = suggestions.clone(memory_format=torch.contiguous_format).view(g.R, g.N, g.N, -1)
        for i, (kind, scale) in self.byzantine.items():
            honest = heard[:, :, i]  # [R, askers, act]
            answer = self._flip(honest) if kind == "sign-flip" else self._disturb(i, kind, scale, honest)
            answer[:, i] = honest[:, i]  # a member's suggestion to itself is not changed
            heard[:, :, i] = answer
        return heard.view_as(suggestions)

    def _flip(self, actions: Tensor) -> Tensor:
        if self.opposites is not None:
            return self.opposites[actions.long()].to(actions.dtype)
        return self.low + self.high - actions

    def _disturb(self, i: int, kind: str, scale: float, actions: Tensor) -> Tensor:
        drawn = self.streams[i].next()  # [R, askers, act]
        if self.opposites is not None:
            # One random number decides whether the action is replaced and by which one; `random` always replaces it
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
