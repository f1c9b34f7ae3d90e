"""Environments that change during a run: other rewards, goals or physics from a given step on.

`make_env` takes two arguments besides those of the constructor: `change_at`, the number of steps after which the change
happens, and `change`, the values from then on, a mapping of *parameters*:

    peerage train --env Room-v21 --env-args goals=left change_at=50000 'change={goals: right}'
    peerage train --env LunarLander-v3 --env-args change_at=50000 'change={enable_wind: true, gravity: -6}'

Every environment has the parameter `reward_scale` (default 1; -1 inverts the task). Room has `goals` (any, left, right:
the side of the middle column on which goals are drawn; left means x / (length - 1) < 0.5) and `reward_at` (shown,
opposite: the rewarded cell is the mirror image, through the centre, of the goal that is observed). The classic tasks
have their physical constants (`CLASSIC`), MuJoCo environments `gravity`, `damping_scale`, `friction_scale` and
`mass_scale`. Further parameters are all arguments of the constructor that are numbers or booleans and that the
environment stores in an attribute of the same name (LunarLander's `enable_wind`) or with a leading underscore
(HalfCheetah's `forward_reward_weight`), except those that set sizes or images. Parameters that the constructor does not
accept (`goals`, CartPole's `length`) can also be given without a change; they then apply from the start. A value that
is given, changed or perturbed must lie in a plausible range (`Parameter.span`), for example 0 to 980 for CartPole's
`gravity`.

The change happens between two episodes: step `change_at` truncates its episode, so that no episode belongs to both
tasks and no value is bootstrapped from one task into the other.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import gymnasium
import numpy as np
from gymnasium.utils import RecordConstructorArgs

from peerage.envs.room import Room
from peerage.errors import UserError, nearest

CLASSIC: dict[str, tuple[str, ...]] = {
    "CartPole": ("length", "gravity", "masscart", "masspole", "force_mag"),
    "Pendulum": ("g", "m", "l", "max_torque"),
    "MountainCar": ("gravity", "force"),
    "MountainCarContinuous": ("power",),
    "Acrobot": ("LINK_LENGTH_1", "LINK_MASS_1", "LINK_MASS_2", "torque_noise_max"),
}
"""Attributes that are physical constants, by the id without its version, in the units of Gymnasium's documentation
(CartPole's `length` is half the length of the pole)."""

MUJOCO: dict[str, tuple[str, ...]] = {  # factor -> fields of mujoco.MjModel
    "damping_scale": ("dof_damping",),
    "friction_scale": ("geom_friction",),
    "mass_scale": ("body_mass", "body_inertia"),
}
CHOICES = {"goals": ("any", "left", "right"), "reward_at": ("shown", "opposite")}
NO_TASK = {  # arguments on which spaces, images or Gymnasium's wrappers depend
    "length", "n_actions", "continuous", "max_episode_steps", "width", "height", "camera_id", "use_contact_forces",
    "exclude_current_positions_from_observation", "include_cinert_in_observation", "include_cvel_in_observation",
    "include_qfrc_actuator_in_observation", "include_cfrc_ext_in_observation", "main_body",
}  # fmt: skip
WHOLE = ("frame_skip",)
MAX_CHANGE_FACTOR = 100.0
"""The largest plausible value of a physical constant, as a multiple of its default."""
POSITIVE = ("length", "masscart", "masspole", "m", "l", "max_torque", "LINK_LENGTH_1", "LINK_MASS_1", "LINK_MASS_2")

OWN = frozenset({"reward_scale", "gravity", *CHOICES, *MUJOCO, *(name for names in CLASSIC.values() for name in names)})
"""Parameters that may exist without being arguments of the constructor."""
PHYSICS = OWN - {"reward_scale", *CHOICES} | {*WHOLE}


@dataclass(frozen=True)
class Parameter:
    """A property of an environment that can be set to a value of the type of `default`."""

    default: Any
    """The value if it is not set: a number, a switch or one of `choices`."""
    put: Callable[[Any], None]
    choices: tuple[str, ...] = ()
    low: float = -math.inf
    """Numbers lie strictly between `low` and `high`."""
    high: float = math.inf
    span: tuple[float, float] = (-math.inf, math.inf)
    """The plausible values of a number, both ends included."""
    whole: bool = False

    @property
    def ranges(self) -> bool:
        """Whether it can take any value between two numbers."""
        return not (self.choices or self.whole or isinstance(self.default, bool))

    def check(self, name: str, value: Any) -> None:
        """UserError unless `value` is valid for this parameter."""
        if self.choices:
            if value not in self.choices:
                raise UserError(f"{name} must be {', '.join(self.choices)}, not {value!r}")
        elif isinstance(self.default, bool):
            if not isinstance(value, bool):
                raise UserError(f"{name} must be true or false, not {value!r}")
        elif isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise UserError(f"{name} must be a number, not {value!r}")
        elif not self.low < value < self.high:
            above = f"above {self.low:g}" if self.high == math.inf else f"between {self.low:g} and {self.high:g}"
            raise UserError(f"{name} must be {above}, not {value:g}")
        elif not self.span[0] <= value <= self.span[1]:
            raise UserError(f"{name} must be in [{self.span[0]:g}, {self.span[1]:g}], not {value:g}")
        elif self.whole and value != int(value):
            raise UserError(f"{name} must be one whole number, not {value:g}")


class Changing(gymnasium.Wrapper, RecordConstructorArgs):
    """An environment with parameters set to `given` and, from the first episode after `change_at` steps, to `change`.

    `steps` is the clock: the number of steps so far, over all episodes. A resume only needs to set the clock.
    `running = False` stops the clock, for evaluations. Both may be set at any time; the next `reset` uses them.

    Observations, actions and random draws are those of the wrapped environment. `parameters` are the names of its
    constructor's arguments. Raises UserError, in one line, for a parameter or value that the environment does not have.
    """

    def __init__(
        self,
        env: gymnasium.Env,
        given: Mapping[str, Any],
        change_at: int | None = None,
        change: Mapping[str, Any] | None = None,
        parameters: frozenset[str] = frozenset(),
    ) -> None:
        RecordConstructorArgs.__init__(  # so that `spec.make` builds this wrapper, too
            self, given=given, change_at=change_at, change=change, parameters=parameters
        )
        gymnasium.Wrapper.__init__(self, env)
        self.reward_scale, self.goals, self.reward_at = 1.0, "any", "shown"
        self.adjustable = self._find_adjustable(parameters)
        name = env.spec.id if env.spec is not None else type(env.unwrapped).__name__
        if (change_at is None) != (change is None):
            missing = "change_at=STEPS" if change_at is None else "change={NAME: VALUE}"
            raise UserError(f"{name}: change and change_at must be given together; add {missing}")
        if change_at is not None and (isinstance(change_at, bool) or not isinstance(change_at, int) or change_at < 1):
            raise UserError(f"{name}: change_at must be a whole number of steps, at least 1, not {change_at!r}")
        if change is not None and (not isinstance(change, Mapping) or not change):
            raise UserError(f"{name}: change must be a mapping, as in {{reward_scale: -1}}, not {change!r}")
        for parameter, value in [*given.items(), *(change or {}).items()]:
            if parameter not in self.adjustable:
                hint = nearest(str(parameter), list(self.adjustable))
                known = ", ".join(self.adjustable)
                raise UserError(f"{name} has no adjustable parameter {str(parameter)!r}{hint}: use one of {known}")
            self.adjustable[parameter].check(f"{name}: {parameter}", value)
        self.change_at = change_at
        before = {key: self.adjustable[key].default for key in {**given, **(change or {})}} | dict(given)
        self.phases = (before, before | dict(change or {}))
        self.steps = 0
        self.running = True
        self.now: dict[str, Any] = {}
        self._put()

    @property
    def changed(self) -> bool:
        """Whether an episode that begins now is after the change."""
        return self.change_at is not None and self.steps >= self.change_at

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        self._put()
        obs, info = self.env.reset(seed=seed, options=options)
        room = self.unwrapped
        if isinstance(room, Room):
            if not (options and "goal" in options):
                while self.goals != "any" and (2 * room.goal_x < room.last) != (self.goals == "left"):
                    obs, info = self.env.reset()  # rejection sampling: the distribution of goals, given the side
            if self.reward_at == "opposite":  # the observation keeps the goal that the reset wrote
                room.goal_x, room.goal_y = room.last - room.goal_x, room.last - room.goal_y
        return obs, info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        obs, reward, terminated, truncated, info = self.env.step(action)
        if self.running:
            self.steps += 1
            truncated = truncated or self.steps == self.change_at
        return obs, reward * self.reward_scale, terminated, truncated, info  # type: ignore[operator]

    def _put(self) -> None:
        """Set the parameters to their values at the current step of the clock, if they differ."""
        wanted = self.phases[self.changed]
        if wanted != self.now:
            for name, value in wanted.items():
                self.adjustable[name].put(value)
            self.now = dict(wanted)

    def _find_adjustable(self, parameters: frozenset[str]) -> dict[str, Parameter]:
        """All parameters of the environment, by name."""
        inner: Any = self.unwrapped
        found = {"reward_scale": Parameter(1.0, partial(setattr, self, "reward_scale"))}
        if isinstance(inner, Room):
            for name, choices in CHOICES.items():
                found[name] = Parameter(choices[0], partial(setattr, self, name), choices)
            return found  # its other argument is the size, which must not change during a run
        family = self.env.spec.id.split(":")[-1].rsplit("-v", 1)[0] if self.env.spec is not None else ""
        constants = CLASSIC.get(family, ())
        for name in (*constants, *sorted(parameters.difference(NO_TASK, constants))):
            kept = name if hasattr(inner, name) else f"_{name}"
            if not isinstance(getattr(inner, kept, None), bool | int | float):
                continue
            low, high = (0.0 if name in POSITIVE else -math.inf), math.inf
            if name == "gravity" and family.startswith("LunarLander"):
                low, high = -12.0, 0.0  # Gymnasium's own bounds
            default, whole, put = getattr(inner, kept), name in WHOLE, partial(_put_attribute, inner, kept)
            found[name] = Parameter(default, put, (), low, high, _span(name, default), whole)
        model: Any = getattr(inner, "model", None)
        if hasattr(model, "dof_damping") and hasattr(model, "opt"):
            down = float(model.opt.gravity[2])
            found["gravity"] = Parameter(down, partial(model.opt.gravity.__setitem__, 2), span=_span("gravity", down))
            for name, arrays in MUJOCO.items():
                found[name] = Parameter(1.0, _scaler(model, arrays), (), 0.0, span=_span(name, 1.0))
        return found


def changing_of(env: gymnasium.Env) -> Changing | None:
    """The wrapper `Changing` of an environment, which may be inside other wrappers."""
    while isinstance(env, gymnasium.Wrapper):
        if isinstance(env, Changing):
            return env
        env = env.env
    return None


def _span(name: str, default: float) -> tuple[float, float]:
    """The plausible values of a number: physical constants keep the sign of their default and are at most
    `MAX_CHANGE_FACTOR` times as large; rewards are not limited."""
    if not default or name not in PHYSICS:
        return -math.inf, math.inf
    far = MAX_CHANGE_FACTOR * float(default)
    return (1.0 if name in WHOLE else min(0.0, far)), max(0.0, far)


def _put_attribute(env: Any, name: str, value: Any) -> None:
    setattr(env, name, int(value) if name in WHOLE else value)
    if hasattr(env, "polemass_length"):  # CartPole computes these two in its constructor
        env.total_mass = env.masspole + env.masscart
        env.polemass_length = env.masspole * env.length


def _scaler(model: Any, arrays: tuple[str, ...]) -> Callable[[float], None]:
    """A function that sets `arrays` of a MuJoCo model to a multiple of their current values."""
    original = {name: np.array(getattr(model, name)) for name in arrays}

    def scale(factor: float) -> None:
        for name, values in original.items():
            getattr(model, name)[:] = values * factor

    return scale
