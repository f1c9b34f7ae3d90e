"""Advisers, and members, that say something else than they should: noise, the opposite, a lie agreed upon.

Fixed advisers, as in `--advisers expert noise:0.5:expert sign-flip:expert colluding:a colluding:a`:

- `noise:[SCALE:]ADVISER`: what ADVISER says, disturbed. Box: a normal number of standard deviation SCALE times half
  of the range on every number, clipped to the box; Discrete: with probability SCALE a uniformly drawn action. By
  default SCALE is 0.5. (It comes first because the names of advisers may end in numbers: `checkpoint:RUN:0`.)
- `sign-flip:ADVISER`, the same as `negated:ADVISER`: the opposite of what ADVISER says (`flipped`).
- `colluding`: the environment's adversary, and where it has none the opposite of its expert. All of them agree.
- `colluding:NAME`: the conspiracy NAME; two of one name always agree, so that they look like a majority. What they say
  is drawn once for every state (every exact observation) and stays, with another draw in every replica and
  conspiracy; with Discrete actions and a scripted expert of ours (Room, LunarLander) it is never what that would do.
- `random` (peerage.sharing.advisers): uniform actions, anew each time.

Members, as in `--byzantine-members 1:sign-flip 2:noise:0.5 3:random`: what the member answers *others* is disturbed in
the same way; what it does itself, and how it learns, is untouched.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

from peerage.envs import scripted
from peerage.envs.make import Spec
from peerage.errors import UserError, nearest
from peerage.learners.streams import Streams

if TYPE_CHECKING:
    from peerage.learners.group import Group
    from peerage.sharing.advisers import Adviser

KINDS = ("negated", "sign-flip", "noise", "colluding")
"""Names on the command line."""
MEMBER_KINDS = ("sign-flip", "noise", "random")
SCALE = 0.5
"""Of noise, by default."""


def flipped(env_id: str, space: gym.Space[Any], actions: np.ndarray) -> np.ndarray:
    """The opposite of `actions [B]` or `[B, act]` (`scripted.opposite`), and where a Discrete action is its own
    opposite, as the middle one of three, the one after it: never the same."""
    other = scripted.opposite(env_id, space, actions)
    if isinstance(space, gym.spaces.Discrete) and space.n > 1:
        other = np.where(other == actions, (actions + 1) % int(space.n), other).astype(actions.dtype)
    return other


@dataclass
class Twisted:
    """Another adviser's words, passed on otherwise; its clock, beginning and memory are the other's."""

    inner: Adviser

    def begin(self, rng: np.random.Generator, total_steps: int) -> None:
        if hasattr(self.inner, "begin"):
            self.inner.begin(rng, total_steps)

    def at(self, step: int) -> None:
        if hasattr(self.inner, "at"):
            self.inner.at(step)

    def state(self) -> Any:
        return self.inner.state() if hasattr(self.inner, "state") else None

    def load_state(self, state: Any) -> None:
        if hasattr(self.inner, "load_state"):
            self.inner.load_state(state)


@dataclass
class Negated(Twisted):
    """The opposite of what another adviser says."""

    env: str
    space: gym.Space[Any]

    @property
    def stateless(self) -> bool:
        return getattr(self.inner, "stateless", False)

    def suggest(
        self, obs: np.ndarray, asker: np.ndarray, episode_start: np.ndarray, rng: np.random.Generator
    ) -> np.ndarray:
        """`obs [B, obs]` -> actions `[B]` or `[B, act]`."""
        return flipped(self.env, self.space, np.asarray(self.inner.suggest(obs, asker, episode_start, rng)))

    def role(self, obs: np.ndarray) -> np.ndarray:
        """int64 `[B]`."""
        role = getattr(self.inner, "role", None)
        return np.zeros(len(obs), np.int64) if role is None else -np.asarray(role(obs), np.int64)


@dataclass
class Noisy(Twisted):
    """What another adviser says, disturbed; its role is neither the expert's nor an adversary's."""

    space: gym.Space[Any]
    scale: float

    def suggest(
        self, obs: np.ndarray, asker: np.ndarray, episode_start: np.ndarray, rng: np.random.Generator
    ) -> np.ndarray:
        """`obs [B, obs]` -> actions `[B]` or `[B, act]`."""
        said = np.asarray(self.inner.suggest(obs, asker, episode_start, rng))
        if isinstance(self.space, gym.spaces.Discrete):
            replaced, other = rng.random(said.shape) < self.scale, rng.integers(self.space.n, size=said.shape)
            return np.where(replaced, other, said)
        assert isinstance(self.space, gym.spaces.Box)
        low, high = self.space.low, self.space.high
        noise = self.scale * (high - low) / 2 * rng.standard_normal(said.shape)
        return np.clip(said + noise, low, high).astype(np.float32)


@dataclass
class Scheming:
    """`colluding`: everybody's adversary. Remembers nothing."""

    policy: scripted.Policy

    @property
    def stateless(self) -> bool:
        """Ours draw nothing; of a registered one we cannot know."""
        return self.policy.__module__ == scripted.__name__

    def suggest(
        self, obs: np.ndarray, asker: np.ndarray, episode_start: np.ndarray, rng: np.random.Generator
    ) -> np.ndarray:
        """`obs [B, obs]` -> actions `[B]` or `[B, act]`."""
        return self.policy(obs, rng)

    def role(self, obs: np.ndarray) -> np.ndarray:
        """int64 `[B]`."""
        return np.full(len(obs), -1)


@dataclass
class Conspirator:
    """`colluding:NAME`: a function of the observation, the replica and the name, and of nothing else.

    A resume needs no memory of it: `begin` gives every adviser of a replica the same key again.
    """

    name: str
    space: gym.Space[Any]
    expert: scripted.Policy | None
    """Whose actions are avoided, with Discrete actions."""
    key: int = 0

    def begin(self, rng: np.random.Generator, total_steps: int) -> None:
        self.key = int(rng.integers(2**63)) ^ zlib.crc32(self.name.encode())

    def suggest(
        self, obs: np.ndarray, asker: np.ndarray, episode_start: np.ndarray, rng: np.random.Generator
    ) -> np.ndarray:
        """`obs [B, obs]` -> actions `[B]` or `[B, act]`."""
        if isinstance(self.space, gym.spaces.Discrete):
            n, drawn = int(self.space.n), _drawn(obs, self.key, 1)[:, 0]
            if self.expert is None or n == 1:
                return np.minimum(drawn * n, n - 1).astype(np.int64)
            # One of the n - 1 others, each equally often
            others = np.minimum(drawn * (n - 1), n - 2).astype(np.int64)
            right = np.asarray(self.expert(obs, rng))
            return others + (others >= right)
        assert isinstance(self.space, gym.spaces.Box)
        low, high = self.space.low, self.space.high
        return (low + _drawn(obs, self.key, len(low)) * (high - low)).astype(np.float32)

    def role(self, obs: np.ndarray) -> np.ndarray:
        """int64 `[B]`."""
        return np.full(len(obs), -1)


def _drawn(obs: np.ndarray, key: int, numbers: int) -> np.ndarray:
    """Numbers in [0, 1), float64 `[B, numbers]`, that follow from every bit of `obs [B, obs]` and from `key`."""
    words = np.ascontiguousarray(obs, np.float32) + np.float32(0)  # -0 is 0
    mixed = np.full(len(obs), key, np.uint64)
    for column in words.view(np.uint32).astype(np.uint64).T:
        mixed = _mix(mixed ^ column)
    parts = [_mix(mixed + np.uint64(k + 1)) for k in range(numbers)]
    return np.stack([(part >> np.uint64(11)).astype(np.float64) / 2**53 for part in parts], axis=1)


def _mix(x: np.ndarray) -> np.ndarray:
    """The step of the generator SplitMix64: every bit of a uint64 comes to depend on every other."""
    x = x + np.uint64(0x9E3779B97F4A7C15)  # numpy's unsigned integers wrap around
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def make_byzantine(kind: str, rest: str, spec: Spec, make: Callable[[str, Spec], Adviser]) -> Adviser:
    """The adviser `kind:rest`, kind being one of `KINDS`; `make(name, spec)` makes the one inside it.

    Raises UserError for what is malformed, or an environment without what it takes.
    """
    written = f"{kind}:{rest}" if rest else kind
    if kind in ("negated", "sign-flip"):
        if not rest:
            raise UserError(f"malformed adviser {written!r}: write {kind}:ADVISER")
        return Negated(make(rest, spec), spec.id, spec.action_space)
    if kind == "noise":
        scale, name = split_noise(rest)
        _check_scale(scale, not spec.discrete, f"adviser {written!r}")
        return Noisy(make(name, spec), spec.action_space, scale)
    if not rest:
        try:
            return Scheming(scripted.adversary_or_opposite(spec.id, spec))
        except UserError:
            raise UserError(f"colluding: no scripted policy is known for {spec.id}; use colluding:NAME") from None
    if not re.fullmatch(r"[A-Za-z0-9_-]+", rest):
        raise UserError(f"malformed adviser {written!r}: the conspiracy's name is letters and digits")
    expert = scripted.expert_for(spec.id, spec) if spec.discrete and scripted.has_expert(spec.id) else None
    if expert is not None and expert.__module__ != scripted.__name__:
        expert = None  # a registered one may draw, and then they would not agree
    return Conspirator(rest, spec.action_space, expert)


def split_noise(rest: str) -> tuple[float, str]:
    """`0.5:expert` or `expert` -> scale, adviser; UserError for another form."""
    first, _, name = rest.partition(":")
    scale = _number(first)
    if scale is None:
        scale, name = SCALE, rest
    if not name:
        raise UserError(f"malformed adviser {'noise:' + rest!r}: write noise:ADVISER or noise:SCALE:ADVISER")
    return scale, name


def _number(text: str) -> float | None:
    return float(text) if re.fullmatch(r"(\d+(\.\d+)?|\.\d+)([eE][-+]?\d+)?", text) else None


def _check_scale(scale: float, box: bool, where: str) -> None:
    if not box and scale > 1:
        raise UserError(f"{where}: noise is a probability for Discrete actions, 0 to 1, not {scale:g}")


# --- members --------------------------------------------------------------------------------------------------


def parse_members(words: Sequence[str], n_members: int) -> dict[int, tuple[str, float]]:
    """`1:sign-flip`, `2:noise:0.5` -> member -> kind and scale; UserError for what is malformed."""
    found: dict[int, tuple[str, float]] = {}
    for word in words:
        number, _, how = word.partition(":")
        kind, colon, scale = how.partition(":")
        where = f"--byzantine-members {word!r}"
        if not number.isdecimal() or not how:
            raise UserError(f"{where}: write MEMBER:KIND, as in 1:sign-flip")
        if int(number) >= n_members:
            raise UserError(f"{where}: there is no such member; they are 0 to {n_members - 1}")
        if int(number) in found:
            raise UserError(f"{where}: member {int(number)} is there twice")
        if kind not in MEMBER_KINDS:
            raise UserError(f"{where}: unknown kind{nearest(kind, MEMBER_KINDS)}: use one of {', '.join(MEMBER_KINDS)}")
        value = _number(scale) if colon else SCALE
        if value is None or (colon and kind != "noise"):
            raise UserError(f"{where}: only noise takes a number, its scale, as in 1:noise:0.5")
        found[int(number)] = kind, value
    return found


class ByzantineMembers:
    """Some members of every replica of `group` answer others with something else than they would do themselves.

    `byzantine`: member -> kind and scale, as of `parse_members`; `env_id` says what the opposite of an action is. Draws
    are keyed by (seed, replica, member) and made in every step.
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
            _check_scale(scale, not space.discrete, f"--byzantine-members {i}:noise:{scale:g}")
            if kind != "sign-flip":
                stream_keys, shape = group.stream_keys[i :: group.N], (group.N, space.act_dim)
                law: Literal["normal", "uniform"] = "normal" if kind == "noise" and not space.discrete else "uniform"
                self.streams[i] = Streams(stream_keys, "byzantine", shape, law, device, group.dtype)

    def answer(self, suggestions: Tensor) -> Tensor:
        """What everybody hears of the members: `suggestions [M, N, act]`, by asker and member, what is meant."""
        g = self.group
        heard = suggestions.clone(memory_format=torch.contiguous_format).view(g.R, g.N, g.N, -1)
        for i, (kind, scale) in self.byzantine.items():
            honest = heard[:, :, i]  # [R, askers, act]
            said = self._flip(honest) if kind == "sign-flip" else self._disturb(i, kind, scale, honest)
            said[:, i] = honest[:, i]  # nobody lies to himself
            heard[:, :, i] = said
        return heard.view_as(suggestions)

    def _flip(self, actions: Tensor) -> Tensor:
        if self.opposites is not None:
            return self.opposites[actions.long()].to(actions.dtype)
        return self.low + self.high - actions

    def _disturb(self, i: int, kind: str, scale: float, actions: Tensor) -> Tensor:
        drawn = self.streams[i].next()  # [R, askers, act]
        if self.opposites is not None:
            # One number says both: whether, and if so which. With `random` it is always replaced
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
