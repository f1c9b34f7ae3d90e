"""The built-in fixed advisers, the registry of user-defined ones, and their construction from names.

`--advisers expert noise:0.5:expert checkpoint:RUN:0`; `peerage.config.adviser_words` describes the syntax.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
import torch

from peerage.config.adviser_words import FORMS, AdviserWord, parse_adviser
from peerage.config.methods import LEARNERS
from peerage.envs import scripted
from peerage.envs.make import Spec
from peerage.errors import UserError, nearest
from peerage.interop.pretrained import load_policy
from peerage.interop.sequence_models import load_sequence_model
from peerage.sharing.adviser import Adviser, Suggests, as_adviser, serves_all
from peerage.sharing.byzantine import Negated, Noisy, check_scale, make_colluding
from peerage.sharing.decision_transformer import DecisionTransformer
from peerage.sharing.probes import make_regional, make_turning
from peerage.sharing.targeted import Targeted


@dataclass
class Scripted(Adviser):
    """A hand-written policy and its role: +1 expert, -1 adversary. Stateless if the policy is built in."""

    policy: scripted.Policy
    acts_as: int

    def __post_init__(self) -> None:
        self.stateless = scripted.is_built_in(self.policy)

    def suggest(self, obs: np.ndarray, rows: np.ndarray, first: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return self.policy(obs, rng)

    def role(self, obs: np.ndarray) -> np.ndarray:
        return np.full(len(obs), self.acts_as)


@dataclass
class Random(Adviser):
    """`random`: uniformly random actions."""

    space: gym.Space[Any]

    def suggest(self, obs: np.ndarray, rows: np.ndarray, first: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        if isinstance(self.space, gym.spaces.Discrete):
            return rng.integers(self.space.n, size=len(obs))
        assert isinstance(self.space, gym.spaces.Box)
        return rng.uniform(self.space.low, self.space.high, (len(obs), *self.space.low.shape)).astype(np.float32)


@dataclass
class Constant(Adviser):
    """`constant[:ACTION]`: always the same action; by default 0 for Discrete and the middle of the box for Box."""

    space: gym.Space[Any]
    action: float | None = None
    stateless = True

    def __post_init__(self) -> None:
        if isinstance(self.space, gym.spaces.Discrete):
            action = 0 if self.action is None else self.action
            if action not in range(int(self.space.n)):
                n = int(self.space.n)
                raise UserError(f"constant:{self.action:g} is not an action of this environment: use 0 to {n - 1}")
            self.value: np.ndarray = np.array(action, dtype=np.int64)
        else:
            assert isinstance(self.space, gym.spaces.Box)
            low, high = self.space.low, self.space.high
            self.value = (low + high) / 2 if self.action is None else np.full_like(low, self.action)
            if (self.value < low).any() or (self.value > high).any():
                raise UserError(f"constant:{self.action:g} is outside the action box {low.min():g} to {high.max():g}")

    def suggest(self, obs: np.ndarray, rows: np.ndarray, first: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return np.broadcast_to(self.value, (len(obs), *self.value.shape)).copy()


class Trained(Adviser):
    """`checkpoint:PATH[:MEMBER]`: the mode of the policy of a trained member of a run, or of a Stable-Baselines3
    zip."""

    stateless = True

    def __init__(self, learner: Any, discrete: bool) -> None:
        self.learner, self.discrete = learner, discrete
        self.samples = False

    def sample(self) -> None:
        """Suggest samples of the policy instead of its mode. Raises UserError if that is not possible."""
        if self.learner.noise_shape is None:
            raise UserError(f"{self.learner.settings[0].algorithm} has no policy to sample from: use noise")
        if getattr(self.learner.settings[0], "use_sde", False):
            raise UserError("policies with gSDE cannot be sampled step by step: use noise")
        self.samples, self.stateless = True, False

    def suggest(self, obs: np.ndarray, rows: np.ndarray, first: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        noise = None
        if self.samples:
            kind, width = self.learner.noise_shape
            draw = rng.standard_normal if kind == "normal" else rng.random
            noise = torch.as_tensor(draw((1, len(obs), width)), dtype=torch.float32)
        actions = self.learner.suggest(torch.as_tensor(obs).unsqueeze(0), noise)[0].numpy()
        return actions[:, 0].astype(np.int64) if self.discrete else actions

    def state(self) -> dict[str, Any]:
        """The parameters, because the file that they were loaded from may have changed when the run is resumed."""
        parameters: dict[str, Any] = self.learner.parameters()
        return parameters

    def load_state(self, state: dict[str, Any]) -> None:
        for name, values in self.learner.parameters().items():
            if name not in state or values.shape != state[name].shape:
                raise UserError(f"the adviser's checkpoint changed since the run was started: {name} differs")
        self.learner.load_parameters(state)


def _checkpoint(word: AdviserWord, spec: Spec) -> Adviser:
    spaces = spec.observation_space, spec.action_space
    learner, discrete = load_policy(word.argument, *spaces, spec.fingerprint, spec.image)
    takes_target = LEARNERS[learner.settings[0].algorithm].takes_target
    return Targeted(learner, spec, word.text) if takes_target else Trained(learner, discrete)


def _negated(word: AdviserWord, spec: Spec) -> Adviser:
    return Negated(_inner(word, spec), spec.id, spec.action_space)


def _noisy(word: AdviserWord, spec: Spec) -> Adviser:
    assert word.number is not None
    check_scale(word.number, spec.discrete, f"adviser {word.text!r}")
    return Noisy(_inner(word, spec), spec.action_space, word.number)


def _inner(word: AdviserWord, spec: Spec) -> Adviser:
    assert word.inner is not None
    return _build(word.inner, spec)


def _colluding(word: AdviserWord, spec: Spec) -> Adviser:
    if word.argument:
        return make_colluding(word.argument, spec)
    try:
        return Scripted(scripted.adversary_or_opposite(spec.id, spec), -1)
    except UserError:
        raise UserError(f"colluding: there is no scripted policy for {spec.id}; use colluding:NAME") from None


_KINDS: dict[str, Callable[[AdviserWord, Spec], Adviser]] = {
    "expert": lambda word, spec: Scripted(scripted.expert_for(spec.id, spec), +1),
    "adversary": lambda word, spec: Scripted(scripted.adversary_for(spec.id, spec), -1),
    "random": lambda word, spec: Random(spec.action_space),
    "constant": lambda word, spec: Constant(spec.action_space, word.number),
    "checkpoint": _checkpoint,
    "dt": lambda word, spec: DecisionTransformer(load_sequence_model(word.argument), spec, word.number, word.text),
    "turncoat": lambda word, spec: make_turning(spec, turns_bad=True),
    "convert": lambda word, spec: make_turning(spec, turns_bad=False),
    "regional": lambda word, spec: make_regional(spec, word.argument),
    "negated": _negated,
    "sign-flip": _negated,
    "noise": _noisy,
    "colluding": _colluding,
}
"""Built-in kind, a key of `FORMS` -> function that builds it."""

Factory = Callable[[Spec], Any]
_registered: dict[str, Factory] = {}


def register_adviser(name: str, factory: Factory) -> None:
    """Make `factory(spec)` available as `--advisers NAME`.

    `factory` returns an `Adviser` or an object with `suggest`; `spec` is the environment's `peerage.envs.make.Spec` (id
    and spaces). Raises ValueError for names of built-in kinds, empty names, names with a colon, and names that start
    with `member-`.
    """
    if name in FORMS or not name or ":" in name or name.startswith("member-"):
        raise ValueError(f"{name!r} cannot be an adviser's name")
    _registered[name] = factory


def make_adviser(name: str, spec: Spec) -> Adviser:
    """Build the adviser called `name`. Raises UserError if it does not exist or does not fit the environment."""
    return _build(parse_adviser(name), spec)


def _build(word: AdviserWord, spec: Spec) -> Adviser:
    if word.kind in _KINDS:
        return _KINDS[word.kind](word, spec)
    if word.text in _registered:
        return as_adviser(_registered[word.text](spec))
    known = [*FORMS, *_registered]
    raise UserError(f"unknown adviser {word.text!r}{nearest(word.text, known)}: use one of {', '.join(known)}")


def adviser_copies(advisers: Sequence[str | Suggests], spec: Spec, replicas: int) -> list[list[Adviser]]:
    """The advisers of a training, `[F][R]`: a copy for each replica, or the same object if it serves all replicas.

    `advisers` are names or objects (see `as_adviser`). Objects are copied, so that a training does not change them.
    Raises UserError for unknown names and objects that are not advisers.
    """

    def one(given: str | Suggests) -> Adviser:
        return make_adviser(given, spec) if isinstance(given, str) else copy.deepcopy(as_adviser(given))

    found = []
    for given in advisers:
        first = one(given)
        found.append([first] * replicas if serves_all(first) else [first, *(one(given) for _ in range(1, replicas))])
    return found


def adviser_names(n_members: int, advisers: Sequence[str | Suggests]) -> list[str]:
    """Names of all advisers of a group: `member-0`, ..., then the fixed advisers. Repeated names get a number:
    `expert`, `expert-2`."""
    names = {f"member-{i}": None for i in range(n_members)}  # used as an ordered set
    counts: dict[str, int] = {}
    for given in advisers:
        base = given if isinstance(given, str) else str(getattr(given, "name", type(given).__name__.lower()))
        if not isinstance(given, str):  # config.yaml contains the name, so it must be a valid one
            base = re.sub(r"[^A-Za-z0-9_.-]+", "-", base).strip("-.") or "adviser"
        name, count = base, counts.get(base, 1)
        while name in names:
            count += 1
            name = f"{base}-{count}"
        names[name], counts[base] = None, count
    return list(names)
