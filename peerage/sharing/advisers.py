"""Fixed advisers: whoever can say what to do and is no member of the group.

An adviser is any object with `suggest(obs, asker, episode_start, rng)`. Names on the command line: `expert`,
`adversary`, `random`, `constant[:ACTION]`, `checkpoint:PATH[:MEMBER]`, the probes' `turncoat`, `convert`, `regional:a`
and `regional:b` (peerage.sharing.probes), the Byzantine `negated:ADVISER` or `sign-flip:ADVISER`,
`noise:[SCALE:]ADVISER` and `colluding[:NAME]` (peerage.sharing.byzantine), and whatever was registered with
`register_adviser`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import gymnasium as gym
import numpy as np
import torch

from peerage.envs import scripted
from peerage.envs.make import Spec
from peerage.errors import UserError, nearest
from peerage.learners.streams import StreamKey
from peerage.sharing import byzantine
from peerage.sharing.probes import make_regional, make_turning


class Adviser(Protocol):
    """Suggests actions.

    `suggest`: `obs [B, obs]` float32, `asker [B]` the asking members' numbers in their group, `episode_start [B]`
    whether the asker's episode has just begun, `rng` the adviser's own generator -> actions, `[B]` for Discrete (0 to
    n - 1), `[B, act]` in the environment's units for Box.

    An adviser that keeps something between calls gives it out by `state()` (JSON-able) and takes it back by
    `load_state(state)`; every replica has its own copy of it. One with `stateless = True` neither remembers nor
    draws from `rng`; then all replicas share it and ask in one call.

    Three more methods are called where an adviser has them:

    - `begin(rng, total_steps)`, once, when the training is built (a resumed one too, before `load_state`). `rng` is
      keyed by (seed, replica), and all advisers of a replica get a fresh copy of the same: two of them can draw the
      same moment (`replica_generator`). `total_steps` are environment steps per member.
    - `at(step)`, with the number of the environment step that begins (1, 2, ...), before anybody is asked.
    - `role(obs [B, obs]) -> int [B]`: +1 where it acts as the task's expert, -1 where it acts as an adversary, 0
      where it is neither; without the method 0 everywhere. Learning never sees it: the probes' metrics
      `advice/right` and `advice/wrong` are made of it.
    """

    def suggest(
        self, obs: np.ndarray, asker: np.ndarray, episode_start: np.ndarray, rng: np.random.Generator
    ) -> np.ndarray: ...


def replica_generator(seed: int, replica: int, n_peers: int) -> np.random.Generator:
    """What `begin` gets: the same numbers for every adviser of a replica, others in every other replica. It sits in
    the first key after the replica's `n_peers` members."""
    return StreamKey(seed, replica, n_peers).generator("advisers")


def role_of(adviser: Adviser, obs: np.ndarray) -> np.ndarray:
    """What `adviser` acts as at `obs [B, obs]`: int64 `[B]`, +1 expert, -1 adversary, 0 neither."""
    role = getattr(adviser, "role", None)
    return np.zeros(len(obs), np.int64) if role is None else np.asarray(role(obs), np.int64)


Factory = Callable[[Spec], Adviser]
_REGISTRY: dict[str, Factory] = {}
BUILT_IN = (
    *("expert", "adversary", "random", "constant", "checkpoint", "turncoat", "convert", "regional"),
    *byzantine.KINDS,
)


def register_adviser(name: str, factory: Factory) -> None:
    """Make `factory(spec) -> Adviser` available as `--advisers NAME`; `spec` is the environment's
    `peerage.envs.make.Spec` (id and spaces). Raises ValueError for a taken name."""
    if name in BUILT_IN or not name or ":" in name or name.startswith("member-"):
        raise ValueError(f"{name!r} cannot be an adviser's name")
    _REGISTRY[name] = factory


@dataclass
class Scripted:
    """A hand-written policy `policy(obs, rng) -> actions`, and what it is: +1 an expert, -1 an adversary, 0 neither."""

    policy: Callable[[np.ndarray, np.random.Generator], np.ndarray]
    acts_as: int = 0

    @property
    def stateless(self) -> bool:
        """Ours draw nothing; of a registered one we cannot know."""
        return self.policy.__module__ == scripted.__name__

    def suggest(self, obs, asker, episode_start, rng):
        return self.policy(obs, rng)

    def role(self, obs):
        return np.full(len(obs), self.acts_as)


@dataclass
class Random:
    """Uniformly random actions."""

    space: gym.Space[Any]

    def suggest(self, obs, asker, episode_start, rng):
        if isinstance(self.space, gym.spaces.Discrete):
            return rng.integers(self.space.n, size=len(obs))
        assert isinstance(self.space, gym.spaces.Box)
        return rng.uniform(self.space.low, self.space.high, (len(obs), *self.space.low.shape)).astype(np.float32)


@dataclass
class Constant:
    """Always the same action: by default Discrete's first, or the middle of the box."""

    space: gym.Space[Any]
    action: float | None = None
    stateless = True

    def __post_init__(self) -> None:
        if isinstance(self.space, gym.spaces.Discrete):
            action = 0 if self.action is None else self.action
            if action not in range(int(self.space.n)):
                raise UserError(f"constant:{self.action} is no action of this environment: use 0 to {self.space.n - 1}")
            self.value: np.ndarray = np.array(action, dtype=np.int64)
        else:
            assert isinstance(self.space, gym.spaces.Box)
            low, high = self.space.low, self.space.high
            self.value = (low + high) / 2 if self.action is None else np.full_like(low, self.action)
            if (self.value < low).any() or (self.value > high).any():
                raise UserError(f"constant:{self.action} lies outside the action box {low.min():g} to {high.max():g}")

    def suggest(self, obs, asker, episode_start, rng):
        return np.broadcast_to(self.value, (len(obs), *self.value.shape)).copy()


class Trained:
    """A trained member, of a run of ours or an SB3 zip, acting by the mode of its policy."""

    stateless = True

    def __init__(self, learner: Any, discrete: bool) -> None:
        self.learner, self.discrete = learner, discrete

    def suggest(self, obs, asker, episode_start, rng):
        actions = self.learner.suggest(torch.as_tensor(obs).unsqueeze(0), None)[0].numpy()
        return actions[:, 0].astype(np.int64) if self.discrete else actions

    def state(self) -> dict[str, Any]:
        """Its networks: where they came from, there may be others by the time a run is resumed."""
        return {name: net.flat for name, net in self.learner.networks().items()}

    def load_state(self, state: dict[str, Any]) -> None:
        for name, net in self.learner.networks().items():
            if net.flat.shape != state[name].shape:
                raise UserError(f"the adviser's checkpoint holds another {name} network than when the run was begun")
            net.flat.copy_(state[name])


def make_adviser(name: str, spec: Spec) -> Adviser:
    """The adviser called `name`. Raises UserError for one that does not exist or does not fit the environment."""
    kind, _, rest = name.partition(":")
    if kind == "expert" and not rest:
        return Scripted(scripted.expert_for(spec.id, spec), +1)
    if kind == "adversary" and not rest:
        return Scripted(scripted.adversary_for(spec.id, spec), -1)
    if kind == "random" and not rest:
        return Random(spec.action_space)
    if kind == "constant":
        try:
            return Constant(spec.action_space, float(rest) if rest else None)
        except ValueError:
            raise UserError(f"malformed adviser {name!r}: write constant or constant:NUMBER") from None
    if kind in byzantine.KINDS:
        return byzantine.make_byzantine(kind, rest, spec, make_adviser)
    if kind in ("turncoat", "convert") and not rest:
        return make_turning(spec, turns_bad=kind == "turncoat")
    if kind == "regional":
        return make_regional(spec, rest)
    if kind == "checkpoint" and rest:
        from peerage.interop.pretrained import load_policy

        learner, discrete = load_policy(rest, spec.observation_space, spec.action_space)
        return Trained(learner, discrete)
    if name in _REGISTRY:
        return _REGISTRY[name](spec)
    known = [*BUILT_IN, *_REGISTRY]
    raise UserError(f"unknown adviser {name!r}{nearest(name, known)}: use one of {', '.join(known)}")


def adviser_names(n_members: int, specs: Sequence[Any]) -> list[str]:
    """Names of all advisers of a group: members first; a second one of a kind is `expert-2`."""
    names = {f"member-{i}": None for i in range(n_members)}  # a set that keeps its order
    counts: dict[str, int] = {}
    for spec in specs:
        base = spec if isinstance(spec, str) else str(getattr(spec, "name", type(spec).__name__.lower()))
        if not isinstance(spec, str):  # it will stand in config.yaml, as a name that can be read back
            base = re.sub(r"[^A-Za-z0-9_.-]+", "-", base).strip("-.") or "adviser"
        name, count = base, counts.get(base, 1)
        while name in names:
            count += 1
            name = f"{base}-{count}"
        names[name], counts[base] = None, count
    return list(names)
