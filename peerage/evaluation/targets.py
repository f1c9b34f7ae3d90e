"""Evaluations of members that act for a target return, such as Decision Transformers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from peerage.config.check import refuse_target_settings
from peerage.config.methods import LEARNERS
from peerage.config.tree import Config
from peerage.envs.vector import Step
from peerage.errors import UserError
from peerage.evaluation.alone import GroupActor, MemberActor, for_envs
from peerage.evaluation.evaluate import Actor
from peerage.learners.group import Group
from peerage.offline.context import Conditioned
from peerage.offline.preprocessing import Preprocessing
from peerage.text import number


def takes_target(algorithm: str) -> bool:
    """Whether the members of an algorithm act for a target return."""
    return LEARNERS[algorithm].takes_target


def refuse_targets(algorithm: str, why: str) -> None:
    """Raise UserError for an algorithm that acts for a target return, which depends on the steps of the episode."""
    if takes_target(algorithm):
        raise UserError(f"members of {algorithm} act for a target return, which depends on past rewards, but {why}")


class TargetActor(Actor):
    """Every member acts alone for target returns; members that take none act with the mode of their policies.

    `targets [E]`: those of the E rows of each member. Each step is one batched forward pass for each stack of members.
    Rows whose episode has ended are not computed where a stack has one member.
    """

    def __init__(self, group: Group, targets: Sequence[float], *, clip: bool = False) -> None:
        self.group, self.targets, self.clip = group, np.asarray(targets, np.float64), clip
        limits = [found.max_steps for s in group.stacks if (found := _conditioned(s.learner)) is not None]
        self.max_steps = min((n for n in limits if n is not None), default=None)

    def begin(self, n: int) -> None:
        E, M = len(self.targets), self.group.M
        assert n == M * E, "one row for each member and target"
        self.running = np.ones((M, E), bool)
        self.conditioned: list[tuple[np.ndarray, Conditioned]] = []  # members, and what acts for them
        for stack in self.group.stacks:
            if takes_target(stack.learner.settings[0].algorithm):
                conditioned = stack.learner.conditioned(E, clip=self.clip)
                assert conditioned is not None, "a learner with takes_target implements conditioned"
                conditioned.begin(np.arange(conditioned.n), np.tile(self.targets, len(stack.index)))
                self.conditioned.append((stack.index.cpu().numpy(), conditioned))

    def act(self, obs: np.ndarray) -> np.ndarray:
        M, E = self.running.shape
        self.obs = obs
        if sum(len(members) for members, _ in self.conditioned) < M:  # some members take no target
            tensor = torch.as_tensor(obs, device=self.group.device, dtype=self.group.dtype)
            actions = self.group.mode(tensor.view(M, E, -1)).cpu().numpy()
        else:
            actions = np.zeros((M, E, self.group.space.act_dim), np.float32)
        obs = obs.reshape(M, E, -1)
        for members, conditioned in self.conditioned:
            rows = np.flatnonzero(self.running[members]) if len(members) == 1 else np.arange(conditioned.n)
            of_stack = actions[members].reshape(conditioned.n, -1)
            of_stack[rows] = conditioned.act(obs[members].reshape(conditioned.n, -1)[rows], rows)
            actions[members] = of_stack.reshape(len(members), E, -1)
        self.actions = actions.reshape(M * E, -1)
        return for_envs(self.actions, self.group)

    def observe_step(self, step: Step) -> None:
        M, E = self.running.shape
        self.running &= ~step.done.reshape(M, E)
        columns = self.obs, self.actions, step.reward[:, None], step.done[:, None]
        shaped = [x.reshape(M, E, -1) for x in columns]
        for members, conditioned in self.conditioned:
            obs, actions, rewards, done = (x[members].reshape(conditioned.n, -1) for x in shaped)
            conditioned.observe(obs, actions, rewards[:, 0], done[:, 0])


class MemberTargetActor(Actor):
    """One member acts alone for the return `target`. `row`: `replica * n_peers + member`."""

    def __init__(self, group: Group, row: int, target: float, *, clip: bool = False) -> None:
        self.group, self.row, self.target, self.clip = group, row, target, clip
        self.stack = next(stack for stack in group.stacks if row in stack.index.tolist())
        found = _conditioned(self.stack.learner)
        self.max_steps = None if found is None else found.max_steps

    def begin(self, n: int) -> None:
        place = self.stack.index.tolist().index(self.row)
        conditioned = self.stack.learner.conditioned(n, clip=self.clip, rows=slice(place, place + 1))
        assert conditioned is not None, "a learner with takes_target implements conditioned"
        self.conditioned = conditioned
        self.conditioned.begin(np.arange(n), self.target)

    def act(self, obs: np.ndarray) -> np.ndarray:
        self.obs, self.actions = obs, self.conditioned.act(obs)
        return for_envs(self.actions, self.group)

    def observe(self, rewards: np.ndarray, done: np.ndarray) -> None:
        self.conditioned.observe(self.obs, self.actions, rewards, done)


class Targets:
    """The target returns of a group's evaluations.

    `given`: those of the user; by default the largest return of the data, its 10, 50 and 90% quantiles, and 1.2 times
    the largest one. The first one is the target of learning curves and comparisons.
    """

    def __init__(self, group: Group, given: Sequence[float] = (), *, clip: bool = False) -> None:
        """Raises UserError for targets for a group that takes none, for a target that is not finite, and for a group
        without targets whose data is unknown."""
        self.group, self.clip, self.messages = group, clip, list[str]()
        known = [p for stack in group.stacks if (p := preprocessing_of(stack.learner)) is not None]
        self.exist = bool(known)
        if not known:
            refuse_target_settings([s.algorithm for s in group.settings], bool(given), clip)
            return
        if bad := [target for target in given if not np.isfinite(target)]:
            raise UserError(f"--target-return {bad[0]:g} is not a finite number")
        self.values = list(dict.fromkeys(map(float, given))) or known[0].targets()
        if not self.values:
            raise UserError("the returns of the data are unknown: choose target returns with --target-return")
        largest = min(p.largest for p in known)
        if clip:
            self.values = list(dict.fromkeys(min(target, largest) for target in self.values))
        elif given and max(self.values) > largest:
            self.messages.append(
                f"the target return {number(max(self.values))} exceeds the largest return of the data, "
                f"{number(largest)}: models often become worse there (--clip-targets limits targets to the data)"
            )

    def actor(self, targets: Sequence[float], episodes: int) -> TargetActor:
        """An actor that plays `episodes` episodes for each of `targets`, one target after the other."""
        return TargetActor(self.group, np.repeat(targets, episodes).tolist(), clip=self.clip)

    def alone(self, episodes: int) -> Actor:
        """An actor that plays `episodes` episodes of every member alone, for the first target if there is one."""
        return self.actor(self.values[:1], episodes) if self.exist else GroupActor(self.group)

    def member(self, row: int) -> Actor:
        """An actor for one member alone, for the first target if it takes one. `row`: `replica * n_peers + member`."""
        settings = self.group.settings[row % self.group.N]
        if self.exist and takes_target(settings.algorithm):
            return MemberTargetActor(self.group, row, self.values[0], clip=self.clip)
        return MemberActor(self.group, row)


def targets_of(group: Group, config: Config, given: float | Sequence[float] = (), *, clip: bool = False) -> Targets:
    """The target or targets `given`, or those of the configuration of a run. Raises UserError as `Targets`."""
    values = np.atleast_1d(given).tolist() or config.run.target_return
    return Targets(group, values, clip=clip or config.run.clip_targets)


def preprocessing_of(learner: Any) -> Preprocessing | None:
    """The statistics of the data of a learner that takes targets; None for other learners."""
    found = _conditioned(learner)
    return None if found is None else found.preprocessing


def _conditioned(learner: Any) -> Conditioned | None:
    """What acts in one episode of each member of a learner; None if the learner takes no targets."""
    if not takes_target(learner.settings[0].algorithm):
        return None
    found: Conditioned | None = learner.conditioned(1)
    return found
