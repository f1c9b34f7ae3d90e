"""Perturbed environments: noisy observations and actions, delayed or sticky actions, other physics (domain
randomisation).

    peerage train --env Hopper-v5 --perturb observation_noise=0.05 action_noise=0.1 mass_scale=0.8..1.2
    peerage evaluate RUN --perturb observation_noise=0,0.1,0.2

Noise is measured in *units*. The unit of an observation or action is half of its range if both bounds are finite and
smaller than a million (some environments write the largest float for "no bound"), otherwise 1 in the units of the
environment. A noisy observation may lie outside the observation space; only integer observations are rounded and
clipped to it. Actions are delayed first, then repeated, then disturbed. Members store the noisy observations, and the
actions that they chose.

Every reset creates new generators for the perturbations, from its seed or from one number of the environment's
generator. Therefore an episode is determined by the state of that generator before its reset, which is what a resume
restores. The draws of one perturbation do not depend on the others, and a different strength scales the same draws. In
a seeded episode the environment's own draws are those of the unperturbed environment. A perturbation of strength zero
draws nothing.
"""

from __future__ import annotations

import zlib
from collections import deque
from collections.abc import Mapping
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Discrete
from gymnasium.utils import RecordConstructorArgs

from peerage.config.perturbations import NAMES, Perturbations, Value
from peerage.envs.actions import inner_bounds
from peerage.envs.changing import Changing
from peerage.errors import UserError, nearest

UNBOUNDED = 1e6


class Perturbed(Changing):
    """An environment with `perturbations` of observations, actions and parameters; the other arguments are
    `Changing`'s.

    A perturbation overrides a `given` value of the same parameter; a parameter in `change` cannot be perturbed.
    `shifts` holds the values of the perturbed parameters in this episode. Raises UserError for a parameter that the
    environment does not have, with a list of its parameters, and for values outside the range of a parameter.
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
        for parameter, value in p.physics:
            if parameter not in self.adjustable:
                hint = nearest(parameter, [*NAMES, *self.adjustable])
                known = f"use {', '.join(NAMES)}, or a parameter of {name}: {', '.join(self.adjustable)}"
                raise UserError(f"there is no perturbation {parameter!r}{hint}: {known}")
            if parameter in (change or {}):
                raise UserError(f"{name}: {parameter} changes during the run, so it cannot be perturbed as well")
            if isinstance(value, tuple) and not self.adjustable[parameter].ranges:
                raise UserError(f"{name}: {parameter} has no range; give it one value")
            for end in value if isinstance(value, tuple) else (value,):
                self.adjustable[parameter].check(f"{name}: {parameter}", end)
        space, seen = env.action_space, env.observation_space
        if isinstance(space, Discrete) and p.action_noise > 1:
            raise UserError(f"{name}: with Discrete actions action_noise is a probability, not {p.action_noise:g}")
        self.action_scale = p.action_noise * unit(space) if isinstance(space, Box) else np.zeros(0)
        self.action_bounds = inner_bounds(space) if isinstance(space, Box) else ()
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
        acted = self._acted(action)
        if isinstance(acted, np.ndarray):
            acted = acted.copy()  # the environment may change it in place, and a later step may repeat it
        obs, reward, terminated, truncated, info = super().step(acted)
        return self._seen(obs), reward, terminated, truncated, info

    def _shift(self, name: str, value: Value, root: int) -> Any:
        """The value of a parameter in the episode with the number `root`."""
        if isinstance(value, tuple):
            return value[0] + (value[1] - value[0]) * _generator(root, name).random()
        return value

    def _put(self) -> None:
        super()._put()
        for name, value in self.shifts.items():
            self.adjustable[name].put(value)

    def _own_generator(self) -> np.random.Generator:
        generator = getattr(self.unwrapped, "np_random", None)
        if not isinstance(generator, np.random.Generator):
            raise UserError(f"{self.label} has no generator np_random, from which perturbations could be drawn")
        return generator

    def _seen(self, obs: Any) -> Any:
        """The observation that the member receives in place of `obs [obs]`."""
        if not self.perturbations.observation_noise:
            return obs
        obs = np.asarray(obs)
        noisy = obs + self.observation_scale * self._observing.standard_normal(obs.shape)
        if np.issubdtype(obs.dtype, np.integer):  # without limits, a number could leave its type and wrap around
            assert isinstance(self.observation_space, Box)
            noisy = np.clip(np.rint(noisy), self.observation_space.low, self.observation_space.high)
        return noisy.astype(obs.dtype)

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
        action = np.asarray(action)
        noisy = action + self.action_scale * self._acting.standard_normal(action.shape)
        return np.clip(noisy, *self.action_bounds).astype(action.dtype)


def unit(space: Box) -> np.ndarray:
    """Half of the range of each number of a box, 1 without bounds: float64, in the shape of the box."""
    low, high = space.low.astype(np.float64), space.high.astype(np.float64)
    bounded = (np.abs(low) < UNBOUNDED) & (np.abs(high) < UNBOUNDED)
    return np.where(bounded, (np.where(bounded, high, 0) - np.where(bounded, low, 0)) / 2, 1.0)


def _generator(root: int, purpose: str) -> np.random.Generator:
    """The generator of one perturbation in the episode with the number `root`."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence([root, zlib.crc32(purpose.encode())])))
