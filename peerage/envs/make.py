"""Building one environment from the user's specification, with error messages that say how to fix it."""

from __future__ import annotations

import inspect
import os
import re
import sys
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import gymnasium
import gymnasium.wrappers
import numpy as np
from gymnasium.envs.registration import load_env_creator
from gymnasium.spaces import Box, Discrete

from peerage.config.perturbations import Perturbations
from peerage.envs.actions import inner_bounds
from peerage.envs.adapted import MAX_COMBINATIONS, UNCHANGED, Conversion, adapted, help_with_observations
from peerage.envs.changing import OWN, Changing
from peerage.envs.history import HistoryLayout, history_of, with_history
from peerage.envs.names import Maker, imported, name_of
from peerage.envs.own_random import SOURCES, OwnRandom, Source
from peerage.envs.perturbed import Perturbed
from peerage.envs.trial import fingerprint, run_trial
from peerage.errors import UserError, nearest
from peerage.text import first_line, place

EXTRAS = {
    "Box2D": ("Box2D", "box2d"),
    "mujoco": ("MuJoCo", "mujoco"),
    "metaworld": ("Meta-World", "metaworld"),
}
"""Modules of optional simulators: their names, and the extras of Peerage that install them."""


@dataclass(frozen=True, eq=False)
class Spec:
    """The properties of an environment that the rest of the library uses."""

    id: str
    """The id with its version; for a function its name."""
    observation_space: Box
    action_space: Box | Discrete
    obs_dim: int
    discrete: bool
    n_actions: int
    """Discrete: the number of actions, always counted from 0 here; Box: 0."""
    act_dim: int
    """Box: numbers in an action; Discrete: 1."""
    action_low: np.ndarray
    """Box: float32 [act_dim]; Discrete: float32 [0]."""
    action_high: np.ndarray
    max_episode_steps: int | None
    """The time limit; None where neither Gymnasium nor a wrapper `TimeLimit` has one."""
    image: tuple[int, int, int] | None = None
    """The shape of observations that are images, which are flattened for the rest of the library."""
    conversion: Conversion = UNCHANGED
    """How observations and actions of the environment were converted to these spaces."""
    history: HistoryLayout | None = None
    """The parts of an observation that is a window of past steps (`peerage.envs.history`)."""
    fingerprint: Mapping[str, Any] = field(default_factory=dict)
    """What the environment is, for environment.json (`peerage.envs.trial`); empty before a trial."""
    repeats: bool = True
    """Whether two episodes with the same seed and actions were equal in a trial."""
    own_random: frozenset[Source] = frozenset()
    """The sources of random numbers that it needs for itself (`peerage.envs.own_random`), according to a trial."""


@dataclass(frozen=True)
class EnvMaker:
    """How to build an environment; one for each member of an `EnvGroup`.

    A group may mix different makers: members with different tasks, goals or disturbances.
    """

    env: Maker
    env_args: Mapping[str, Any] = field(default_factory=dict)
    """Arguments, as of `make_env`."""
    own_random: frozenset[Source] = frozenset()
    """Whether the environment gets random generators of its own, as in `make_env`."""

    @property
    def name(self) -> str:
        """The id, or the name of the function that builds the environment."""
        return name_of(self.env)

    def make(self) -> gymnasium.Env:
        """A new environment. Raises UserError as `make_env` does."""
        return make_env(self.env, self.env_args, own_random=self.own_random)

    def spec(self) -> Spec:
        """The properties of the environment, which is built once to determine them. Raises UserError as `check_env_id`
        does."""
        return check_env_id(self.env, self.env_args)


def check_env_id(env: Maker, env_args: Mapping[str, Any]) -> Spec:
    """Build the environment, try its first steps, close it and return its properties; called before a run writes
    anything. An environment whose seed does not determine its episodes is built and tried a second time, with its own
    random generators.

    Raises UserError for an environment that cannot be built or that Peerage cannot train on.
    """
    built = make_env(env, env_args)
    try:
        spec = spec_of(built, env)
        trial = run_trial(built)
        found = fingerprint(built, env, spec.max_episode_steps, trial.steps)
    finally:
        built.close()
    if trial.repeats and not trial.draws:
        return replace(spec, fingerprint=found)
    again = make_env(env, env_args, own_random=SOURCES)
    try:
        second = run_trial(again)
    finally:
        again.close()
    if not second.repeats and trial.steps != second.steps:
        found = {**found, "steps": None}
    elif second.repeats:
        found = {**found, "steps": second.steps}
    own_random: frozenset[Source] = trial.draws | {"reset"} if trial.draws or second.repeats else frozenset()
    return replace(spec, fingerprint=found, repeats=second.repeats, own_random=own_random)


def make_env(
    env: Maker, env_args: Mapping[str, Any], *, own_random: frozenset[Source] = frozenset()
) -> gymnasium.Env:
    """One environment, without Gymnasium's passive checker. Each of its warnings is shown once in a process.

    A copy of `env_args` is passed to the constructor; with an id, `max_episode_steps` replaces the time limit (-1:
    none). `own_random`: the sources of random numbers that become its own (`peerage.envs.own_random`).
    `change_at`, `change` and parameters that the constructor does not accept wrap the environment in a
    `peerage.envs.changing.Changing`; `perturb`, a mapping as of `Perturbations.plain` (peerage.config.perturbations),
    in a `Perturbed`, unless all its strengths are zero; `history` in a `History` (`peerage.envs.history`).
    Raises UserError, in one line, for an unknown id, a missing package or arguments that do not fit.
    """
    name = name_of(env)
    env = imported(env)
    env_args = plain_copy(dict(env_args))
    ours = {"change_at", "change", "perturb", "history", *OWN} & env_args.keys()
    known = frozenset(_parameters(env)) if ours else frozenset()
    changes = {key: env_args[key] for key in env_args if key in ours - known}
    env_args = {key: value for key, value in env_args.items() if key not in changes}
    perturb = _perturbations(changes.pop("perturb", {}))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            if not isinstance(env, str):
                built = env(**env_args)
            elif {"id", "disable_env_checker"} & env_args.keys():
                raise UserError(f"{name} takes no arguments id and disable_env_checker")
            else:
                built = gymnasium.make(env, disable_env_checker=True, **env_args)
        except UserError:
            raise
        except (gymnasium.error.DependencyNotInstalled, ImportError) as error:
            raise UserError(f"{name} {_missing(error)}") from error
        except gymnasium.error.Error as error:
            if isinstance(env, str) and env.split(":")[-1] not in gymnasium.registry:
                hint = nearest(env, list(gymnasium.registry))
                raise UserError(f"unknown environment {env!r}{hint}; `peerage envs` lists some") from error
            raise UserError(f"{name} could not be built: {first_line(error)}") from error
        except TypeError as error:
            raise UserError(f"{name} could not be built: {_explain(error, env)}") from error
        except Exception as error:
            reason = f"{type(error).__name__}: {first_line(error)}{place(error)}{_graphics()}"
            raise UserError(f"{name} could not be built: {reason}") from error
    _show_once(caught)
    if not isinstance(built, gymnasium.Env):
        raise UserError(f"{name} returned a {type(built).__name__}, not a gymnasium.Env")
    if own_random:
        built = OwnRandom(built, own_random)
    built = adapted(built)
    windows = "history" in changes
    history = changes.pop("history", None)
    try:
        if changes or perturb.plain():
            change_at, change = changes.pop("change_at", None), changes.pop("change", None)
            if perturb.plain():
                built = Perturbed(built, perturb, changes, change_at, change, known)
            else:
                built = Changing(built, changes, change_at, change, known)
        return with_history(built, history) if windows else built
    except UserError:
        built.close()
        raise


def makers_of(maker: EnvMaker, members: int, replicas: int, offset: int = 0) -> list[EnvMaker]:
    """Makers for each member of each replica, `[R * N]`. An environment whose constructor takes `member` gets the
    number of the member, from `offset` on, so that members can have tasks or goals of their own, unless `env_args`
    contains it."""
    if "member" in maker.env_args or not takes(maker.env, "member"):
        return [maker] * (members * replicas)
    of_members = [replace(maker, env_args={**maker.env_args, "member": offset + i}) for i in range(members)]
    return of_members * replicas


def takes(env: Maker, parameter: str) -> bool:
    """Whether the constructor of an environment has a parameter of this name."""
    return parameter in _parameters(imported(env))


NORMALISERS: dict[type[gymnasium.Wrapper], str] = {
    gymnasium.wrappers.NormalizeObservation: "--normalize-obs",
    gymnasium.wrappers.NormalizeReward: "--normalize-reward",
}
"""Wrappers with running statistics, and the flags that replace them."""


def running_statistics(env: gymnasium.Env) -> str | None:
    """An error message about a wrapper of `env` with running statistics, and how to replace it; None if there is no
    such wrapper. Wrappers with frozen statistics (`update_running_mean = False`) are accepted."""
    while isinstance(env, gymnasium.Wrapper):
        flag = next((flag for kind, flag in NORMALISERS.items() if isinstance(env, kind)), None)
        if flag is not None and getattr(env, "update_running_mean", True):
            return (
                f"the environment has the wrapper {type(env).__name__}, whose statistics are lost on a resume and "
                f"reset in evaluations: remove it and use {flag}"
            )
        env = env.env
    return None


def _graphics() -> str:
    """A hint if MuJoCo was imported, or should be, with a kind of OpenGL that may be missing."""
    kind = os.environ.get("MUJOCO_GL", "egl")
    mujoco = any(name.partition(".")[0] == "mujoco" for name in sys.modules)
    return f"; MUJOCO_GL={kind} may be the reason: use MUJOCO_GL=egl, or unset it" if mujoco and kind != "egl" else ""


def _perturbations(data: Any) -> Perturbations:
    if not isinstance(data, Mapping):
        raise UserError(f"--env-args perturb must be a mapping, as in {{observation_noise: 0.1}}, not {data!r}")
    perturb = Perturbations.of(data)
    if perturb.dropped_advice:
        raise UserError("--env-args perturb: dropped_advice is not a property of the environment; use --perturb")
    return perturb


def spec_of(built: gymnasium.Env, env: Maker) -> Spec:
    """The properties of a built environment. Raises UserError if Peerage cannot train on its spaces."""
    made = built.spec
    name = made.id if made is not None else name_of(env)
    observation, action = built.observation_space, built.action_space
    if not isinstance(observation, Box) or len(observation.shape) != 1 or observation.shape[0] == 0:
        raise UserError(
            f"{name} has observations {observation}; Peerage needs a flat (one-dimensional) Box, or a Dict of them: "
            f"use {help_with_observations(observation)}"
        )
    discrete = isinstance(action, Discrete)
    low = high = np.zeros(0, np.float32)
    if isinstance(action, Box):
        if len(action.shape) != 1 or action.shape[0] == 0 or not np.issubdtype(action.dtype, np.floating):
            raise UserError(
                f"{name} has actions {action}; a Box of actions must be flat, of real numbers: use "
                "gymnasium.wrappers.TransformAction"
            )
        low, high = action.low.astype(np.float32), action.high.astype(np.float32)
        inside_low, inside_high = inner_bounds(action)
        if not (np.isfinite(low).all() and np.isfinite(high).all() and (inside_low < inside_high).all()):
            raise UserError(
                f"{name} has actions {action}; a Box of actions needs finite bounds, low < high: use "
                "gymnasium.wrappers.TransformAction"
            )
    elif not discrete:
        raise UserError(
            f"{name} has actions {action}; Peerage needs Box or Discrete actions, or MultiDiscrete actions with at "
            f"most {MAX_COMBINATIONS} combinations: use gymnasium.wrappers.TransformAction"
        )
    conversion = Conversion.of(built)
    return Spec(
        id=name,
        observation_space=observation,
        action_space=action,  # type: ignore[arg-type]  # Box or Discrete, as checked above
        obs_dim=observation.shape[0],
        discrete=discrete,
        n_actions=int(action.n) if isinstance(action, Discrete) else 0,
        act_dim=1 if discrete else len(low),
        action_low=low,
        action_high=high,
        max_episode_steps=made.max_episode_steps if made is not None else time_limit(built),
        image=conversion.image,
        conversion=conversion,
        history=history_of(built),
    )


def time_limit(env: gymnasium.Env) -> int | None:
    """The limit of a wrapper `TimeLimit` of the environment; None if there is no such wrapper."""
    while isinstance(env, gymnasium.Wrapper):
        if isinstance(env, gymnasium.wrappers.TimeLimit):
            return int(env._max_episode_steps)
        env = env.env
    return None


def plain_copy(value: Any) -> Any:
    """A copy of nested dictionaries, lists and tuples, so that the code that gets it cannot change those of its caller.
    Other objects, such as spaces, are the same."""
    if type(value) is dict:
        return {key: plain_copy(item) for key, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(map(plain_copy, value))
    return value.copy() if isinstance(value, np.ndarray) else value


def _missing(error: BaseException) -> str:
    """The missing package of an environment, from the error of its import."""
    cause = error.__cause__ if isinstance(error, gymnasium.error.DependencyNotInstalled) else error
    if isinstance(cause, ModuleNotFoundError) and cause.name in EXTRAS:
        title, extra = EXTRAS[cause.name]
        return f'needs {title}, which is not installed: pip install "peerage[{extra}]"'
    if isinstance(error, ImportError):
        return f"cannot be imported: {first_line(error)}"
    return f"needs a package that is not installed: {first_line(error)}"


def _explain(error: TypeError, env: Maker) -> str:
    """The meaning of a constructor's TypeError, in one line."""
    found = re.search(r"unexpected keyword argument '(\w+)'", str(error))
    if not found:
        # Gymnasium adds the whole list of arguments to the message: too long for one line.
        return first_line(error).split(" was raised from the environment creator")[0]
    return f"it takes no argument {found[1]!r}{nearest(found[1], _parameters(env))}"


def _parameters(env: Maker) -> list[str]:
    """Names of the constructor's parameters, including those of its base classes; empty if they cannot be found."""
    try:
        creator: Any = env
        if isinstance(env, str):
            entry = gymnasium.spec(env.split(":")[-1]).entry_point
            creator = load_env_creator(entry) if isinstance(entry, str) else entry
        bases = inspect.getmro(creator) if inspect.isclass(creator) else ()
        makers = [vars(base)["__init__"] for base in bases if "__init__" in vars(base)] or [creator]
        names = {name for maker in makers for name in inspect.signature(maker).parameters}
    except Exception:  # the names only improve error messages, so any failure gives none
        return []
    return sorted(names - {"self", "args", "kwargs"} | {"max_episode_steps"})


_shown: set[str] = set()


def _show_once(caught: list[warnings.WarningMessage]) -> None:
    """Show the warnings that were not shown before: Gymnasium repeats them for every environment that is built."""
    for warning in caught:
        text = re.sub(r"\x1b\[\d+m", "", str(warning.message))
        if not text.startswith("WARN: "):  # not Gymnasium's: pass it on
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
            continue
        text = text.removeprefix("WARN: ")
        if text not in _shown:
            _shown.add(text)
            warnings.warn(text, UserWarning, stacklevel=4)
