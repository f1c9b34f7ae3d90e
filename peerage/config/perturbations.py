"""Perturbations of an environment as plain data: parsing from the command line and YAML, and checks.

    peerage train --env Hopper-v5 --perturb observation_noise=0.05 action_noise=0.1 mass_scale=0.8..1.2
    peerage evaluate RUN --perturb observation_noise=0,0.1,0.2

`peerage.envs.perturbed` applies them to an environment.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from peerage.config.plain_yaml import parse_scalar, short
from peerage.errors import UserError

Value = float | bool | str | tuple[float, float]
"""The value of a parameter, or the two ends of a range."""

MAX_DELAY = 100
MAX_CASES = 100
_NUMBER = r"[-+]?(?:\d+(?:\.\d+)?|\.\d+)(?:[eE][-+]?\d+)?"
_RANGE = re.compile(rf"({_NUMBER})\.\.({_NUMBER})")


@dataclass(frozen=True)
class Perturbations:
    """The perturbations of an environment. By default there are none.

    Create one with `Perturbations.of` or `parse_perturbations`, which check the values. A *unit* is half of the range
    of a number, or 1 if the number is unbounded (`peerage.envs.perturbed.unit`).
    """

    observation_noise: float = 0.0
    """Standard deviation, in units, of the normal noise added to every number of an observation; at least 0."""
    action_noise: float = 0.0
    """Box: standard deviation, in units, of the normal noise added to every number of an action, which is then clipped
    to the box. Discrete: probability, 0 to 1, of replacing the action by one drawn uniformly from all actions."""
    sticky_actions: float = 0.0
    """Probability, 0 to 1, of repeating the action of the previous step (arXiv 1709.06009)."""
    action_delay: int = 0
    """Number of steps, 0 to 100, by which actions are delayed. The first steps of an episode use its first action."""
    dropped_advice: float = 0.0
    """Probability, 0 to 1, that an adviser does not answer (`peerage.sharing.advice`)."""
    physics: tuple[tuple[str, Value], ...] = ()
    """Parameters of `peerage.envs.changing`: a value, or (low, high) to draw uniformly from [low, high) in every
    episode."""

    @classmethod
    def of(cls, data: Mapping[str, Any]) -> Perturbations:
        """Create perturbations from plain data, name -> value; the inverse of `plain`. Ranges are `[low, high]` or
        `low..high`.

        Raises UserError for invalid values. Building the environment checks that it has the parameters.
        """
        own: dict[str, Any] = {}
        physics: dict[str, Value] = {}
        for name, value in data.items():
            if not isinstance(name, str) or not name.isidentifier():
                known = ", ".join(NAMES)
                raise UserError(f"--perturb: {short(name)} is not a name: use {known}, or an environment parameter")
            if name in NAMES:
                own[name] = _strength(name, value)
            else:
                physics[name] = _parameter_value(name, value)
        return cls(**own, physics=tuple(sorted(physics.items())))

    def plain(self) -> dict[str, Any]:
        """The perturbations as plain data for YAML and JSON, without zeros."""
        own = {name: getattr(self, name) for name in NAMES if getattr(self, name)}
        return own | {name: list(value) if isinstance(value, tuple) else value for name, value in self.physics}

    def __str__(self) -> str:
        """The perturbations in the syntax of the command line; `clean` if there are none."""
        return " ".join(f"{name}={_as_word(value)}" for name, value in self.plain().items()) or "clean"

    @property
    def of_environment(self) -> Perturbations:
        """The perturbations of the environment: all except `dropped_advice`."""
        return replace(self, dropped_advice=0.0)

    @property
    def random(self) -> bool:
        """Whether the perturbations of the environment draw random numbers."""
        noise = self.observation_noise or self.action_noise or self.sticky_actions
        return bool(noise) or any(isinstance(value, tuple) for _, value in self.physics)


NAMES = tuple(field.name for field in fields(Perturbations) if field.name != "physics")


def parse_perturbations(words: Sequence[str]) -> Perturbations:
    """Parse words of the command line, as in `observation_noise=0.1 gravity=-11..-8 enable_wind=true`. Raises UserError
    for a malformed word."""
    return Perturbations.of({name: _read(name, value) for name, value in _assigned(words).items()})


def overridden(before: Mapping[str, Any], words: Sequence[str]) -> dict[str, Any]:
    """Plain data `before`, overridden by words of the command line; `observation_noise=0` removes a perturbation."""
    more = {name: _read(name, value) for name, value in _assigned(words).items()}
    return Perturbations.of({**before, **more}).plain()


def with_perturbations(env_args: Mapping[str, Any], perturbations: Perturbations) -> dict[str, Any]:
    """Arguments for `make_env`: `env_args` with `perturbations` added. They override perturbations in `env_args`."""
    more = perturbations.of_environment.plain()
    return {**env_args, "perturb": {**env_args.get("perturb", {}), **more}} if more else dict(env_args)


def parse_cases(words: Sequence[str]) -> list[Perturbations]:
    """Parse words with lists of values. `observation_noise=0,0.1,0.2` gives three cases; several lists give all
    combinations, with the last list varying fastest. Cases without perturbations and duplicates are removed."""
    given = {name: [_read(name, part) for part in value.split(",")] for name, value in _assigned(words).items()}
    number = math.prod(len(values) for values in given.values())
    if number > MAX_CASES:
        raise UserError(f"--perturb: {number} combinations exceed the maximum of {MAX_CASES}: give fewer values")
    cases = [Perturbations.of(dict(zip(given, values))) for values in itertools.product(*given.values())]
    return [case for case in dict.fromkeys(cases) if case != Perturbations()]


def _assigned(words: Sequence[str]) -> dict[str, str]:
    """The parts of words `NAME=VALUE`: name -> value as text. Raises UserError for a malformed or repeated name."""
    found: dict[str, str] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or not name.isidentifier() or not value:
            known = f"use {', '.join(NAMES)}, or a parameter of the environment"
            raise UserError(f"--perturb: expected NAME=VALUE, as in observation_noise=0.1, got {short(word)}; {known}")
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
        raise UserError(f"--perturb action_delay: expected a whole number, 0 to {MAX_DELAY}, got {value:g}")
    if name in ("sticky_actions", "dropped_advice") and not 0 <= value <= 1:
        raise UserError(f"--perturb {name}: expected a probability, 0 to 1, got {value:g}")
    if value < 0:
        raise UserError(f"--perturb {name}: must be at least 0, got {value:g}")
    return int(value) if name == "action_delay" else float(value)


def _parameter_value(name: str, value: Any) -> Value:
    if isinstance(value, str) and ".." in value:
        ends = _RANGE.fullmatch(value)
        if ends is None:
            raise UserError(f"--perturb {name}: a range is LOW..HIGH, as in 0.8..1.2, got {short(value)}")
        value = [float(ends[1]), float(ends[2])]
    if isinstance(value, str) and not value.isidentifier():
        hint = "; only `peerage evaluate` accepts lists" if "," in value else ""
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
