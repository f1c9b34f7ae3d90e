"""Trained members from a run of ours or from Stable-Baselines3, to act as advisers or to sit in a group.

A trained member is named `PATH[:MEMBER]`: a run folder and the member's number there (0 by default; always of
replica 0), or a zip that Stable-Baselines3 wrote. Nothing in either of them is ever executed.
"""

from __future__ import annotations

import os
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

from peerage.config import file as configfile
from peerage.envs.make import check_env_id
from peerage.errors import UserError
from peerage.learners.base import Space
from peerage.learners.defaults import Settings, member_settings
from peerage.learners.group import LEARNERS, AnyLearner, Group
from peerage.learners.sac import SAC
from peerage.learners.streams import StreamKey
from peerage.runs import checkpoint
from peerage.runs.folder import RunFolder


def parse_spec(spec: str) -> tuple[Path, int]:
    """`PATH[:MEMBER]` as a path and a member's number; a path that exists as it stands wins."""
    head, colon, tail = spec.rpartition(":")
    if colon and head and tail.isdecimal() and len(tail) < 10 and not os.path.exists(spec):
        return Path(head), int(tail)
    if not spec:
        raise UserError("a trained member is written RUN[:member], or as the path of an SB3 zip")
    return Path(spec), 0


def load_policy(spec: str, observation_space: gym.Space[Any], action_space: gym.Space[Any]) -> tuple[AnyLearner, bool]:
    """The trained member that `spec` names as a learner of one row, and whether its actions are discrete.

    Raises UserError where there is none or where it does not fit the spaces.
    """
    space = space_of(observation_space, action_space)
    return _load(spec, space, {}), space.discrete


def load_members(group: Group, observation_space: gym.Space[Any], action_space: gym.Space[Any]) -> None:
    """Put trained members in their places, in all replicas, and freeze them: they act and advise, but do not
    learn. These are the members whose `load_paths` is not `none`.

    Raises UserError for a policy whose spaces, algorithm or networks are not those of its place.
    """
    space, runs = space_of(observation_space, action_space), dict[Path, SavedRun]()
    for stack in group.stacks:
        for column, i in enumerate(stack.positions):
            spec = group.settings[i].load_paths
            if spec == "none":
                continue
            source = _load(spec, space, runs)
            _check_alike(i, group.settings[i], spec, source.settings[0])
            for replica in range(group.R):
                row = replica * len(stack.positions) + column
                set_member_networks(stack.learner, row, member_networks(source, 0))
                stack.learner.active[row] = False


def _load(spec: str, space: Space, runs: dict[Path, SavedRun]) -> AnyLearner:
    """`runs` keeps what was read, so that four members of one run cost one reading."""
    from peerage.interop import sb3

    path, member = parse_spec(spec)
    if os.path.isdir(path):
        if path not in runs:
            runs[path] = SavedRun(path)
        return runs[path].learner(member, 0, space)
    if not os.path.exists(path):
        raise UserError(f"no trained member at {spec!r}: neither a run folder nor a file is there")
    if member:
        raise UserError(f"{path} is a file, which holds one member: leave :{member} out")
    return sb3.learner_of(sb3.read_zip(path), space)


def _check_alike(member: int, place: Settings, spec: str, source: Settings) -> None:
    for name in ("algorithm", "net_arch", "use_sde"):
        here, there = (_as_written(getattr(s, name)) for s in (place, source))
        if here != there:
            flag = "--" + name.replace("_", "-")
            if name == "use_sde":
                fix = "--use-sde" if source.use_sde else "--no-use-sde"
            else:
                fix = f"{flag} {there}"
            raise UserError(f"member {member} has {name} {here} but {spec} has {there}: use {fix} for this member")


def _as_written(value: object) -> str:
    """As on the command line."""
    return ",".join(map(str, value)) or "none" if isinstance(value, tuple) else str(value).lower()


class SavedRun:
    """The policies in the newest sound checkpoint of a run folder."""

    def __init__(self, path: Path) -> None:
        if not (path / "config.yaml").is_file():
            raise UserError(f"{path} is not a run folder: it holds no config.yaml")
        RunFolder.open(path)
        self.path = path
        self.config = configfile.validate(configfile.load(path / "config.yaml"))
        # The algorithm, which a run's config.yaml always names, tells what kind of actions there were.
        self.members = member_settings(self.config, discrete="dqn" in self.config.learner.algorithm)
        _, state, damaged = checkpoint.load_latest(path, buffers=False)
        for line in damaged.values():
            warnings.warn(line, stacklevel=2)
        try:
            self.step = int(state.get("step", 0))
            self.parts = [
                (state["group"][str(k)]["learner"], int(state["group"][str(k)]["replay"]["width"]))
                for k in range(len(self._stacks()))
            ]
        except (AttributeError, LookupError, OverflowError, TypeError, ValueError):
            raise self._damaged() from None

    def _stacks(self) -> list[list[int]]:
        """The members of every stack, in the order of `peerage.learners.group.Group`."""
        stacks: dict[tuple[Any, ...], list[int]] = {}
        for i, settings in enumerate(self.members):
            stacks.setdefault(settings.stack_key, []).append(i)
        return list(stacks.values())

    def learner(self, member: int, replica: int, space: Space) -> AnyLearner:
        """A member as a learner of one row. Raises UserError if it does not exist or does not fit `space`."""
        for what, number, count in (
            ("member", member, len(self.members)),
            ("replica", replica, self.config.replicas),
        ):
            if not 0 <= number < count:
                raise UserError(f"{self.path} has no {what} {number}: its last one is {count - 1}")
        settings = self.members[member]
        if (settings.algorithm == "dqn") != space.discrete:
            raise self._misfit(space)
        learner = single(settings, space)
        k, positions = next((k, p) for k, p in enumerate(self._stacks()) if member in p)
        part, width = self.parts[k]
        rows, row = self.config.replicas * len(positions), replica * len(positions) + positions.index(member)
        try:
            weights = {name: flat.view(rows, -1)[row] for name, flat in part["networks"].items()}
            if "log_ent_coef" in part:
                weights["log_ent_coef"] = part["log_ent_coef"][row]
        except (AttributeError, LookupError, RuntimeError, TypeError, ValueError):
            raise self._damaged() from None
        # The width of a transition tells apart the few shapes that have as many parameters as another one.
        if width != learner.replay.width or not _fits(learner, weights):
            raise self._misfit(space)
        set_member_networks(learner, 0, weights)
        return learner

    def _misfit(self, space: Space) -> UserError:
        """Why a policy of this run cannot act in `space`."""
        name = self.config.env
        try:
            spec = check_env_id(name, self.config.env_args)
        except UserError:  # an environment that is not here; its name must do
            return UserError(f"{self.path} was trained on {name}, whose spaces are not {shape_of(space)}")
        theirs = shape_of(space_of(spec.observation_space, spec.action_space))
        if theirs == shape_of(space):
            return self._damaged()
        return UserError(f"{self.path} was trained on {name} with {theirs}; here are {shape_of(space)}")

    def _damaged(self) -> UserError:
        return UserError(f"the checkpoint of {self.path} does not fit its config.yaml")


# --- learners of one row --------------------------------------------------------------------------------


def single(settings: Settings, space: Space) -> AnyLearner:
    """A learner of one row that acts and judges; it gets no memory to learn from."""
    settings = replace(settings, buffer_size=1, batch_size=1)
    return LEARNERS[settings.algorithm]([settings], [StreamKey(0, 0, 0)], space, 1)


def space_of(observation_space: gym.Space[Any], action_space: gym.Space[Any]) -> Space:
    """Gymnasium's spaces as the learners want them."""
    if not isinstance(observation_space, gym.spaces.Box) or len(observation_space.shape) != 1:
        raise UserError(f"trained members need flat observations, not {observation_space}")
    if isinstance(action_space, gym.spaces.Discrete):
        return Space(observation_space.shape[0], 1, int(action_space.n))
    if not isinstance(action_space, gym.spaces.Box) or len(action_space.shape) != 1:
        raise UserError(f"trained members need Discrete or flat Box actions, not {action_space}")
    low, high = (bound.astype(np.float32) for bound in (action_space.low, action_space.high))
    return Space(observation_space.shape[0], len(low), 0, low, high)


def shape_of(space: Space) -> str:
    """For error messages."""
    actions = f"{space.n_actions} discrete actions" if space.discrete else f"Box({space.act_dim}) actions"
    return f"{space.obs_dim} observations and {actions}"


def _views(learner: AnyLearner, row: int) -> dict[str, Tensor]:
    """All that one member has learned, as flat views into its learner: networks (both critics of a member are
    one), targets and, in SAC, the entropy coefficient."""
    rows = len(learner.settings)
    views = {name: net.flat.view(rows, -1)[row] for name, net in learner.networks().items()}
    if isinstance(learner, SAC):
        views["log_ent_coef"] = learner.log_ent_coef[row]
    return views


def _fits(learner: AnyLearner, weights: dict[str, Tensor]) -> bool:
    own = {name: view.shape for name, view in _views(learner, 0).items()}
    return own == {name: weight.shape for name, weight in weights.items()}


def member_networks(learner: AnyLearner, row: int) -> dict[str, Tensor]:
    """A copy of all that the member in `row` has learned, by name."""
    return {name: view.clone() for name, view in _views(learner, row).items()}


@torch.no_grad()
def set_member_networks(learner: AnyLearner, row: int, weights: dict[str, Tensor]) -> None:
    """Give the member in `row` what `member_networks` took from one of the same algorithm and shape."""
    if not _fits(learner, weights):
        raise ValueError("the weights are those of another algorithm or shape")
    for name, view in _views(learner, row).items():
        view.copy_(weights[name])
