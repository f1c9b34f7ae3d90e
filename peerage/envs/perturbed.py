"""Perturbed environments: noisy observations and actions, delayed or sticky actions, other physics (domain
randomisation).

    peerage train --env Hopper-v5 --perturb observation_noise=0.05 action_noise=0.1 mass_scale=0.8..1.2
    peerage evaluate RUN --perturb observation_noise=0,0.1,0.2

Noise is measured in *units*. The unit of an observation or action is half of its range if both bounds are finite and
smaller than a million (some environments write the largest float for "no bound"), otherwise 1 in the units of the
environment. A noisy observation may lie outside the observation space. Actions are delayed first, then repeated, then
disturbed. Members remember the noisy observations, and their actions as they chose them.

Every reset makes new generators for the perturbations, from its seed or from one number of the environment's generator.
Therefore an episode is determined by the state of that generator before its reset, which is what a resume restores. The
draws of one perturbation do not depend on the others, and another strength scales the same draws. In a seeded episode
the environment's own draws are those of the unperturbed environment. A perturbation of strength zero draws nothing.
"""

from __future__ import annotations

import itertools
import math
import re
import zlib
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Discrete
from gymnasium.utils import RecordConstructorArgs

from peerage.config.file import parse_scalar, short
from peerage.envs.changing import Changing
from peerage.errors import UserError, nearest

Value = float | bool | str | tuple[float, float]
"""The setting of a knob: a value, or the ends of a range."""

MAX_DELAY = 100
MAX_CASES = 100
UNBOUNDED = 1e6
_NUMBER = r"[-+]?(?:\d+(?:\.\d+)?|\.\d+)(?:[eE][-+]?\d+)?"
_RANGE = re.compile(rf"({_NUMBER})\.\.({_NUMBER})")


@dataclass(frozen=True)
class Perturbations:
    """The perturbations of an environment; by default none. `of` and `parse_perturbations` build checked ones."""

    observation_noise: float = 0.0
    """Standard deviation, in units, of the normal noise on every number of an observation; at least 0."""
    action_noise: float = 0.0
    """Box: the same for every number of an action, clipped to the box. Discrete: probability, 0 to 1, that the action
    is replaced by a uniformly drawn one."""
    sticky_actions: float = 0.0
    """Probability, 0 to 1, that the action of the step before is repeated (arXiv 1709.06009)."""
    action_delay: int = 0
    """Steps by which actions are delayed, 0 to 100; until the first one is due, an episode repeats it."""
    dropped_advice: float = 0.0
    """Probability, 0 to 1, that an adviser does not answer a question (`peerage.sharing.advice`)."""
    physics: tuple[tuple[str, Value], ...] = ()
    """Knobs of `peerage.envs.changing`: a value, or (low, high), drawn uniformly from [low, high) in every episode."""

    @classmethod
    def of(cls, data: Mapping[str, Any]) -> Perturbations:
        """From plain data, name -> value, with ranges as `[low, high]` or `low..high`; the inverse of `plain`.

        Raises UserError for invalid values. Whether the environment has a knob is checked when it is built.
        """
        own: dict[str, Any] = {}
        physics: dict[str, Value] = {}
        for name, value in data.items():
            if not isinstance(name, str) or not name.isidentifier():
                known = ", ".join(NAMES)
                raise UserError(f"--perturb: {short(name)} is not one of {known}, or a knob of the environment")
            if name in NAMES:
                own[name] = _strength(name, value)
            else:
                physics[name] = _knob_value(name, value)
        return cls(**own, physics=tuple(sorted(physics.items())))

    def plain(self) -> dict[str, Any]:
        """As plain data, for YAML and JSON, without zeros."""
        own = {name: getattr(self, name) for name in NAMES if getattr(self, name)}
        return own | {name: list(value) if isinstance(value, tuple) else value for name, value in self.physics}

    def __str__(self) -> str:
        """As on the command line; `clean` without perturbation."""
        return " ".join(f"{name}={_as_word(value)}" for name, value in self.plain().items()) or "clean"

    @property
    def of_environment(self) -> Perturbations:
        """The perturbations of the environment itself: all but dropped advice."""
        return replace(self, dropped_advice=0.0)

    @property
    def random(self) -> bool:
        """Whether the perturbations of the environment draw random numbers."""
        noise = self.observation_noise or self.action_noise or self.sticky_actions
        return bool(noise) or any(isinstance(value, tuple) for _, value in self.physics)


NAMES = tuple(field.name for field in fields(Perturbations) if field.name != "physics")


def parse_perturbations(words: Sequence[str]) -> Perturbations:
    """`observation_noise=0.1 gravity=-11..-8 enable_wind=true` as on the command line; UserError for anything else."""
    return Perturbations.of({name: _read(name, value) for name, value in _assigned(words).items()})


def overridden(before: Mapping[str, Any], words: Sequence[str]) -> dict[str, Any]:
    """Plain data `before`, updated with the words of the command line; `observation_noise=0` removes an entry."""
    more = {name: _read(name, value) for name, value in _assigned(words).items()}
    return Perturbations.of({**before, **more}).plain()


def with_perturbations(env_args: Mapping[str, Any], perturbations: Perturbations) -> dict[str, Any]:
    """Arguments for `make_env` with `perturbations`, which override those that `env_args` already have."""
    more = perturbations.of_environment.plain()
    return {**env_args, "perturb": {**env_args.get("perturb", {}), **more}} if more else dict(env_args)


def parse_cases(words: Sequence[str]) -> list[Perturbations]:
    """The same with lists: `observation_noise=0,0.1,0.2` is three cases. Several lists give all combinations, the last
    list varying fastest. Cases without perturbation and duplicates are left out."""
    given = {name: [_read(name, part) for part in value.split(",")] for name, value in _assigned(words).items()}
    number = math.prod(len(values) for values in given.values())
    if number > MAX_CASES:
        raise UserError(f"--perturb: {number} combinations are more than {MAX_CASES}: ask for fewer at a time")
    cases = [Perturbations.of(dict(zip(given, values))) for values in itertools.product(*given.values())]
    return [case for case in dict.fromkeys(cases) if case != Perturbations()]


def _assigned(words: Sequence[str]) -> dict[str, str]:
    """name -> value as text."""
    found: dict[str, str] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or not name.isidentifier() or not value:
            raise UserError(f"--perturb: expected NAME=VALUE, as in observation_noise=0.1, got {short(word)}")
        if name in found:
            raise UserError(f"--perturb: {name!r} is given twice")
        found[name] = value
    return found


def _read(name: str, text: str) -> Any:
    value = parse_scalar(text) if text else None
    if value is None:
        raise UserError(f"--perturb {name}: expected a value, got {text!r}")
    return value


def _strength(name: str, value: Any) -> float | int:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise UserError(f"--perturb {name}: expected one number, got {short(value)}")
    if name == "action_delay" and (value != int(value) or not 0 <= value <= MAX_DELAY):
        raise UserError(f"--perturb action_delay: expected whole steps, 0 to {MAX_DELAY}, got {value:g}")
    if name in ("sticky_actions", "dropped_advice") and not 0 <= value <= 1:
        raise UserError(f"--perturb {name}: a probability is 0 to 1, got {value:g}")
    if value < 0:
        raise UserError(f"--perturb {name}: must be at least 0, got {value:g}")
    return int(value) if name == "action_delay" else float(value)


def _knob_value(name: str, value: Any) -> Value:
    if isinstance(value, str) and ".." in value:
        ends = _RANGE.fullmatch(value)
        if ends is None:
            raise UserError(f"--perturb {name}: a range is LOW..HIGH, as in 0.8..1.2, got {short(value)}")
        value = [float(ends[1]), float(ends[2])]
    if isinstance(value, str) and not value.isidentifier():
        hint = "; a list is for `peerage evaluate`" if "," in value else ""
        raise UserError(f"--perturb {name}: expected a value or a range LOW..HIGH, got {short(value)}{hint}")
    if isinstance(value, bool | str):
        return value
    ends_ = list(value) if isinstance(value, list | tuple) else [value]
    if len(ends_) > 2 or not ends_ or not all(type(x) in (int, float) and math.isfinite(x) for x in ends_):
        raise UserError(f"--perturb {name}: expected a value or a range LOW..HIGH, got {short(value)}")
    low, high = float(ends_[0]), float(ends_[-1])
    if low > high:
        raise UserError(f"--perturb {name}: a range is LOW..HIGH, got {low:g}..{high:g}")
    return low if low == high else (low, high)


def _as_word(value: Any) -> str:
    if isinstance(value, list | tuple):
        return "..".join(f"{end:.12g}" for end in value)
    if isinstance(value, bool):
        return "true" if value else "false"
    return f"{value:.12g}" if isinstance(value, float) else str(value)


class Perturbed(Changing):
    """An environment with `perturbations` of observations, actions and knobs; the other arguments are `Changing`'s.

    A perturbation overrides a `given` value of the same knob; a knob in `change` cannot be perturbed. `shifts` holds
    the values of the perturbed knobs in this episode. Raises UserError for a knob that the environment does not have,
    with a list of its knobs, and for values outside the range of a knob.
    """

    def __init__(
        self,
        env: gymnasium.Env,
        perturbations: Perturbations | Mapping[str, Any],
        given: Mapping[str, Any] | None = None,
        change_at: int | None = None,
        change: Mapping[str, Any] | None = None,
        parameters: frozenset[str] = frozenset(),
    ) -> None:
        p = perturbations if isinstance(perturbations, Perturbations) else Perturbations.of(perturbations)
        given = dict(given or {})
        RecordConstructorArgs.__init__(  # the first call counts, before the one in Changing
            self, perturbations=p, given=given, change_at=change_at, change=change, parameters=parameters
        )
        self.perturbations = p
        self.shifts: dict[str, Any] = {}
        super().__init__(env, given, change_at, change, parameters)
        name = env.spec.id if env.spec is not None else type(env.unwrapped).__name__
        for knob, value in p.physics:
            if knob not in self.knobs:
                hint = nearest(knob, [*NAMES, *self.knobs])
                raise UserError(f"{name} cannot shift {knob!r}{hint}; it can: {', '.join(self.knobs)}")
            if knob in (change or {}):
                raise UserError(f"{name}: {knob} changes during the run, so it cannot be perturbed as well")
            if isinstance(value, tuple) and not self.knobs[knob].ranges:
                raise UserError(f"{name}: {knob} has no range; give it one value")
            for end in value if isinstance(value, tuple) else (value,):
                self.knobs[knob].check(f"{name}: {knob}", end)
        space, seen = env.action_space, env.observation_space
        if isinstance(space, Discrete) and p.action_noise > 1:
            raise UserError(f"{name}: with Discrete actions action_noise is a probability, not {p.action_noise:g}")
        self.action_scale = p.action_noise * unit(space) if isinstance(space, Box) else np.zeros(0)
        self.observation_scale = p.observation_noise * unit(seen) if isinstance(seen, Box) else np.zeros(0)
        self.label = name

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        p = self.perturbations
        root = 0
        if p.random:
            root = int(self._own_generator().integers(2**63)) if seed is None else int(seed)
        self.shifts = {name: self._shift(name, value, root) for name, value in p.physics}
        if p.observation_noise:
            self._observing = _generator(root, "observation noise")
        if p.action_noise:
            self._acting = _generator(root, "action noise")
        if p.sticky_actions:
            self._sticking = _generator(root, "sticky actions")
        self._waiting: deque[Any] = deque()
        self._last: Any = None
        obs, info = super().reset(seed=seed, options=options)
        return self._seen(obs), info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        obs, reward, terminated, truncated, info = super().step(self._acted(action))
        return self._seen(obs), reward, terminated, truncated, info

    def _shift(self, name: str, value: Value, root: int) -> Any:
        """The value of a knob in the episode with the number `root`."""
        if isinstance(value, tuple):
            return value[0] + (value[1] - value[0]) * _generator(root, name).random()
        return value

    def _put(self) -> None:
        super()._put()
        for name, value in self.shifts.items():
            self.knobs[name].put(value)

    def _own_generator(self) -> np.random.Generator:
        generator = getattr(self.unwrapped, "np_random", None)
        if not isinstance(generator, np.random.Generator):
            raise UserError(f"{self.label} has no generator np_random, from which perturbations could be drawn")
        return generator

    def _seen(self, obs: Any) -> Any:
        """The observation of the member in place of `obs [obs]`."""
        if not self.perturbations.observation_noise:
            return obs
        obs = np.asarray(obs)
        return (obs + self.observation_scale * self._observing.standard_normal(obs.shape)).astype(obs.dtype)

    def _acted(self, action: Any) -> Any:
        """The action that is carried out in place of `action`."""
        p = self.perturbations
        if p.action_delay:
            if not self._waiting:
                self._waiting.extend([action] * p.action_delay)
            self._waiting.append(action)
            action = self._waiting.popleft()
        if p.sticky_actions:
            draw = self._sticking.random()  # one draw in every step, so that step k always uses draw k
            if self._last is not None and draw < p.sticky_actions:
                action = self._last
            self._last = action
        if not p.action_noise:
            return action
        space = self.action_space
        if isinstance(space, Discrete):
            replaced, other = self._acting.random() < p.action_noise, self._acting.integers(space.n)
            return int(space.start + other) if replaced else action
        assert isinstance(space, Box)
        action = np.asarray(action)
        noisy = action + self.action_scale * self._acting.standard_normal(action.shape)
        return np.clip(noisy, space.low, space.high).astype(action.dtype)


def unit(space: Box) -> np.ndarray:
    """Half of the range of each number of a box, 1 without bounds: float64, in the shape of the box."""
    low, high = space.low.astype(np.float64), space.high.astype(np.float64)
    bounded = (np.abs(low) < UNBOUNDED) & (np.abs(high) < UNBOUNDED)
    return np.where(bounded, (np.where(bounded, high, 0) - np.where(bounded, low, 0)) / 2, 1.0)


def _generator(root: int, purpose: str) -> np.random.Generator:
    """The generator of one perturbation in the episode with the number `root`."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence([root, zlib.crc32(purpose.encode())])))
