"""Loads trained members from runs of Peerage and from Stable-Baselines3, as advisers or as members of a group.

A trained member is named `PATH[:MEMBER][@best|@STEP]`: a run folder, the number of the member (default 0; always in
replica 0) and the checkpoint (default: the newest), or a zip file of Stable-Baselines3. Loading never executes code
from these files.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import gymnasium as gym
import numpy as np
from torch import Tensor

from peerage.config import file as configfile
from peerage.config.adviser_words import split_checkpoint
from peerage.config.methods import EXCHANGES, LearnerSettings
from peerage.envs.adapted import CombinedAction
from peerage.envs.make import check_env_id
from peerage.envs.trial import described_space
from peerage.errors import UserError
from peerage.interop import sb3
from peerage.interop.single import set_member_parameters, shape_of, single, space_of
from peerage.learners.base import Learner, Space
from peerage.learners.defaults import member_settings
from peerage.learners.group import Group, stack_positions
from peerage.loading import not_a_run
from peerage.nets.attention_net import Window
from peerage.runs import checkpoint
from peerage.runs.environment import other_environment, versions
from peerage.runs.folder import RunFolder

BOUNDS = ("low", "high")
SWITCHES = ("use_sde", "normalize_obs", "normalize_reward")
"""Settings that a pretrained member must share with the run that it comes from, and that are on or off."""


def parse_spec(spec: str) -> tuple[Path, int, str]:
    """Split `PATH[:MEMBER][@best|@STEP]` into a path, a member's number and a checkpoint (empty: the newest). If the
    whole text is an existing path, the number is 0."""
    if not spec:
        raise UserError("a trained member is given as RUN[:MEMBER][@STEP] or as the path of a Stable-Baselines3 zip")
    if os.path.exists(spec):
        return Path(spec), 0, ""
    rest, which = split_checkpoint(spec)
    head, colon, tail = rest.rpartition(":")
    if colon and head and tail.isdecimal() and len(tail) < 10 and not os.path.exists(rest):
        return Path(head), int(tail), which
    return Path(rest), 0, which


def load_policy(
    spec: str,
    observation_space: gym.Space[Any],
    action_space: gym.Space[Any],
    fingerprint: Mapping[str, Any] = MappingProxyType({}),
    image: Sequence[int] | None = None,
) -> tuple[Learner, bool]:
    """Load the trained member `spec`. Returns a learner of one row, and whether its actions are discrete. `image` is
    the shape of observations that are flattened images.

    A run that was trained on an environment with another `fingerprint` gives a warning. Raises UserError if the member
    does not exist or does not fit the spaces.
    """
    space = space_of(observation_space, action_space, image)
    return _load(spec, space, {}, fingerprint, acting=True), space.discrete


def load_members(
    group: Group,
    observation_space: gym.Space[Any],
    action_space: gym.Space[Any],
    fingerprint: Mapping[str, Any] = MappingProxyType({}),
    image: Sequence[int] | None = None,
) -> None:
    """Load the members whose `load_paths` or `init_from` is not `none` in all replicas. Members of `load_paths` are
    frozen: they act and advise, but do not learn. Members of `init_from` start from these networks; a fixed entropy
    coefficient stays that of the configuration. `image` is the shape of observations that are flattened images.

    A run that was trained on an environment with another `fingerprint` gives a warning. Raises UserError for a policy
    whose spaces, algorithm or networks differ from those of the member, and for a member with both settings.
    """
    space, runs = space_of(observation_space, action_space, image), dict[tuple[Path, str], SavedRun]()
    for stack in group.stacks:
        for column, i in enumerate(stack.positions):
            frozen, first = group.settings[i].load_paths, group.settings[i].init_from
            if frozen != "none" and first != "none":
                both = f"--load-paths {frozen} and --init-from {first}"
                raise UserError(f"member {i} has {both}: use none for one of them")
            if (spec := first if frozen == "none" else frozen) == "none":
                continue
            source = _load(spec, space, runs, fingerprint)
            _check_alike(i, group.settings[i], spec, source.settings[0])
            for replica in range(group.R):
                row = replica * len(stack.positions) + column
                if frozen != "none":
                    set_member_parameters(stack.learner, row, source.parameters())
                    stack.learner.active[row] = False
                else:
                    set_member_parameters(stack.learner, row, _to_start_from(source, stack.learner, row, spec))


def _to_start_from(source: Learner, learner: Learner, row: int, spec: str) -> dict[str, Tensor]:
    """The parameters `[1, P]` with which the member in `row` starts: those of `source`, except settings of the member
    (`Learner.exchanged`), and an entropy coefficient of 0, which an automatic one cannot leave. Networks include the
    statistics of their inputs, which the training updates."""
    parameters, learned = source.parameters(), learner.exchanged() | learner.statistics()
    for name, own in learner.parameters().items():
        finite = bool(parameters[name].isfinite().all()) if name in parameters else True
        if name not in learned or (name == "log_ent_coef" and not finite):
            parameters[name] = own[row : row + 1]
        elif not finite:
            raise UserError(f"--init-from {spec}: its networks contain numbers that are not finite, so it cannot learn")
    return parameters


def _load(
    spec: str,
    space: Space,
    runs: dict[tuple[Path, str], SavedRun],
    fingerprint: Mapping[str, Any],
    acting: bool = False,
) -> Learner:
    """Load a trained member. `runs` caches the runs that were read; `acting` as in `SavedRun.learner`."""
    path, member, which = parse_spec(spec)
    if os.path.isdir(path):
        saved = runs[path, which] if (path, which) in runs else SavedRun(path, which)
        learner = saved.learner(member, 0, space, acting)
        if (path, which) not in runs and (other := saved.other_environment(fingerprint)):
            warnings.warn(f"{path} was trained on another environment ({other})", stacklevel=2)
        runs[path, which] = saved
        return learner
    if not os.path.exists(path):
        raise UserError(f"no trained member at {spec!r}: there is no such run folder or file")
    if member:
        raise UserError(f"{path} is a file with a single member: remove :{member}")
    if which:
        raise UserError(f"{path} is a file without checkpoints: remove @{which}")
    return sb3.learner_of(sb3.read_zip(path), space)


def _check_alike(member: int, place: LearnerSettings, spec: str, source: LearnerSettings) -> None:
    sizes = ("net_arch",) if source.net_settings is None else ()  # other networks have their own settings
    for name in ("algorithm", "net", *sizes, *SWITCHES):
        here, there = (_as_written(getattr(s, name, None)) for s in (place, source))
        if here != there:
            flag = name.replace("_", "-")
            fix = f"--{flag} {there}"
            if name in SWITCHES:
                fix = f"--{flag}" if there == "true" else f"--no-{flag}"
            raise UserError(f"member {member} has {name} {here} but {spec} has {there}: use {fix} for this member")
    if place.algorithm == "dqn" and place.imitates != source.imitates:  # the head is a part of the network
        has, lacks = (f"member {member}", spec) if place.imitates else (spec, f"member {member}")
        raise UserError(f"{has} has an imitation head (--imitate trusted), and {lacks} does not: their networks differ")
    for name, there in vars(source.net_settings).items() if source.net_settings is not None else ():
        if name != "dropout" and (here := getattr(place.net_settings, name)) != there:
            now, then = _as_written(here), _as_written(there)
            flag = name.replace("_", "-")
            raise UserError(f"{spec} has networks with --{flag} {then}, but this run has {now}: use --{flag} {then}")


def _as_written(value: object) -> str:
    """The value in the syntax of the command line."""
    return ",".join(map(str, value)) or "none" if isinstance(value, tuple) else str(value).lower()


class SavedRun:
    """The policies in the newest intact checkpoint of a run folder, or in another one: `which` is `best` or a step."""

    def __init__(self, path: Path, which: str = "") -> None:
        if not (path / "config.yaml").is_file():
            raise UserError(not_a_run(path))
        self.path, self.environment = path, RunFolder.open(path).environment()
        self.config = configfile.validate(configfile.load(path / "config.yaml"))
        # config.yaml contains all defaults, so every algorithm is known
        _, state, damaged = checkpoint.load_one(path, which, buffers=False)
        for line in damaged.values():
            warnings.warn(line, stacklevel=2)
        try:
            self.step, group = int(state["trainer"]["step"]), state["trainer"]["group"]
            stacks, self.space = group["stacks"], {str(name): int(size) for name, size in group["space"].items()}
            self.members = member_settings(self.config, discrete=self.space["n_actions"] > 0)
            self.parts = [stacks[str(k)]["learner"]["parameters"] for k in range(len(stack_positions(self.members)))]
        except (AttributeError, LookupError, OverflowError, TypeError, ValueError):
            raise self._damaged() from None

    def learner(self, member: int, replica: int, space: Space, acting: bool = False) -> Learner:
        """Load a member as a learner of one row. Raises UserError if it does not exist or does not fit `space`, and for
        a member with critics of an exchange, which need the other members; with `acting` such a member is loaded
        without its critics."""
        for what, number, count in (
            ("member", member, len(self.members)),
            ("replica", replica, self.config.replicas),
        ):
            if not 0 <= number < count:
                raise UserError(f"{self.path} has no {what} {number}: use 0 to {count - 1}")
        settings, space = self.members[member], replace(space, window=self.window)
        known = space.state(), replace(space, image=None).state()  # the second: without a layout, of an earlier version
        if self.space not in known:
            raise self._misfit(space)
        if not space.discrete:
            self._check_bounds(space)
        learner = single(settings, space)
        replaced = [name for name in self.config.exchange if EXCHANGES[name].critic is not None]
        if replaced and not acting:
            raise UserError(
                f"the critics of {self.path} belong to --exchange {replaced[0]}: its members cannot be exported or "
                "become members of another group, but they can be advisers"
            )
        k, positions = next((k, p) for k, p in enumerate(stack_positions(self.members)) if member in p)
        rows, row = self.config.replicas * len(positions), replica * len(positions) + positions.index(member)
        try:
            if any(len(values) != rows for values in self.parts[k].values()):
                raise ValueError("the checkpoint of another number of members")
            weights = {name: values[row : row + 1] for name, values in self.parts[k].items()}
            if replaced:
                weights |= {name: own for name, own in learner.parameters().items() if name.startswith("critic")}
            set_member_parameters(learner, 0, weights)
        except (AttributeError, LookupError, RuntimeError, TypeError, ValueError):
            raise self._damaged() from None
        return learner

    @property
    def window(self) -> Window | None:
        """The layout of its members' observations, if they are windows of steps."""
        names = [f"window_{name}" for name in Window._fields]
        return Window(*(self.space[name] for name in names)) if names[0] in self.space else None

    @property
    def images(self) -> bool:
        """Whether its members learn from images."""
        return "channels" in self.space

    def spaces(self) -> tuple[gym.Space[Any], gym.Space[Any], bool]:
        """The observation and action space of its environment, and whether the actions are converted MultiDiscrete
        ones; for a function that cannot be imported by name, from environment.json. Raises UserError if they are
        unknown."""
        if not self.config.env.startswith("<"):
            spec = check_env_id(self.config.env, self.config.env_args)
            return spec.observation_space, spec.action_space, spec.conversion.action_space is not None
        try:
            found = self.environment["fingerprint"]
            observations, actions = (described_space(found[name]) for name in ("observations", "actions"))
            return observations, actions, CombinedAction.__name__ in found["wrappers"]
        except (AssertionError, KeyError, TypeError, ValueError, OverflowError) as error:
            file = self.path / "environment.json"
            raise UserError(f"{file} does not describe the spaces of {self.config.env}: restore it") from error

    def other_environment(self, fingerprint: Mapping[str, Any]) -> str:
        """How the environment of this run differs from the one with `fingerprint`; empty if it does not."""
        return other_environment(self.environment, {"versions": versions(), "fingerprint": fingerprint})

    def _check_bounds(self, space: Space) -> None:
        """UserError if the actions of this run have other bounds than those of the box `space`: a policy acts in units
        of its box, so its actions would be rescaled."""
        assert space.low is not None
        try:
            actions = self.environment["fingerprint"]["actions"]
            shape = space.low.shape
            low, high = (np.broadcast_to(np.asarray(actions[name], np.float32), shape) for name in BOUNDS)
        except (KeyError, TypeError, ValueError):  # a run without a fingerprint, of an earlier version
            try:
                spec = check_env_id(self.config.env, self.config.env_args)
            except UserError:  # its bounds are unknown
                return
            low, high = spec.action_low, spec.action_high
        sb3.check_bounds(self.path, space, low, high)

    def _misfit(self, space: Space) -> UserError:
        """The error for a policy of this run that cannot act in `space`."""
        name = self.config.env
        try:
            spec = check_env_id(name, self.config.env_args)
        except UserError:  # the environment is not registered, so its spaces are unknown
            return UserError(f"{self.path} was trained on {name}, whose spaces are not {shape_of(space)}")
        theirs = shape_of(space_of(spec.observation_space, spec.action_space, spec.image))
        if theirs == shape_of(space):
            return self._damaged()
        return UserError(f"{self.path} was trained on {name} with {theirs}; this environment has {shape_of(space)}")

    def _damaged(self) -> UserError:
        return UserError(f"the checkpoint of {self.path} does not fit its config.yaml")
