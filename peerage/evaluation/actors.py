"""The evaluations of a group during its training: members without advice, and the group together with advice."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from peerage.config.tree import EvalMode
from peerage.envs.vector import Step
from peerage.errors import UserError
from peerage.evaluation.alone import GroupActor, for_envs
from peerage.evaluation.evaluate import Actor, Evaluator
from peerage.evaluation.targets import Targets, takes_target
from peerage.learners.group import Group
from peerage.learners.transition import Transition
from peerage.runs.listeners import EvaluationRow
from peerage.sharing.advice import Advice
from peerage.sharing.steps import Before, Sharing, make_transition
from peerage.text import one_line, place


class TogetherActor(Actor):
    """The group acts with advice as in training, but without exploration: members suggest and follow the modes of their
    policies. There is one row for each of the M members.

    Neither the members nor trust learn. Signals and advisers still observe the steps, because their values and
    suggestions can depend on the running episodes. Schedules and advisers with a clock stay at environment step `step`
    of the training.

    The state of `sharing` changes: pass a copy from `sharing_copy`.
    """

    parallel = False

    def __init__(self, group: Group, sharing: Sharing, step: int) -> None:
        self.group, self.sharing, self.step = group, sharing, step
        fixed = sharing.fixed_advisers.advisers if isinstance(sharing, Advice) else []
        self.max_steps = min((f.adviser.max_steps for f in fixed if f.adviser.max_steps is not None), default=None)

    def begin(self, n: int) -> None:
        self.first = np.ones(n, bool)  # first step of an episode
        self.sharing.reset(self.first)

    def act(self, obs: np.ndarray) -> np.ndarray:
        self.host_obs, self.obs = obs, self._tensor(obs)
        self.chosen = self.sharing.act(self.obs, obs, self.first, max(self.step, 1), greedy=True)
        self.actions = self.group.clip(self.chosen)
        self.host_actions = self.actions.cpu().numpy()
        return for_envs(self.host_actions, self.group)

    def observe_step(self, step: Step) -> None:
        self.sharing.observe(self.transition(step))
        self.first = step.done

    def transition(self, step: Step) -> Transition:
        """The last step of all members."""
        before = Before(self.obs, self.host_obs, self.first)
        return make_transition(before, self.chosen, self.actions, self.host_actions, step, self.sharing)

    def _tensor(self, array: np.ndarray) -> Tensor:
        return torch.as_tensor(array, device=self.group.device, dtype=self.group.dtype)


def sharing_copy(sharing: Sharing, group: Group) -> Sharing:
    """An independent copy of `sharing` for the same `group`. Changes of the copy do not affect the training.

    Raises UserError if a part of it, such as a user-defined adviser, cannot be copied.
    """
    try:
        copied = copy.deepcopy(sharing, {id(group): group})
    except Exception as error:  # a user-defined __deepcopy__ can raise anything
        what = f"{one_line(f'{type(error).__name__}: {error}')[:200]}{place(error)}"
        raise UserError(f"--eval-modes together needs advisers and trust that can be copied: {what}") from error
    if isinstance(copied, Advice):
        for signal in copied.signals.values():
            signal.catch_up()  # while the group still holds the transitions of deferred updates
    return copied


class Evaluations:
    """Evaluates a group during its training in each of `modes` and returns rows of evaluations.csv.

    A group that takes targets is evaluated for the first one, and from the training step `all_targets_at` on also for
    the others (mode `targets`).
    """

    def __init__(
        self,
        evaluator: Evaluator,
        group: Group,
        sharing: Sharing,
        members: Sequence[str],
        modes: Sequence[EvalMode],
        targets: Targets | None = None,
        all_targets_at: int = 0,
        test: Evaluator | None = None,
    ) -> None:
        """`test`: the environments of the mode `test`."""
        self.evaluator, self.group, self.members = evaluator, group, list(members)
        self.messages: list[str] = []
        """New messages for the user; the caller that shows them removes them. Each is added once."""
        self._said: set[str] = set()
        self._episodes = self._known = 0  # episodes so far, and those of them that reported success
        self.targets = targets if targets is not None and targets.exist else None
        self._others, self._all_targets_at = dict[int, Evaluator](), all_targets_at  # by the number of targets

        def alone(step: int) -> Actor:
            return self.targets.alone(evaluator.episodes) if self.targets else GroupActor(group)

        actors: Mapping[EvalMode, Callable[[int], Actor]] = {
            "alone": alone,
            "together": lambda step: TogetherActor(group, sharing_copy(sharing, group), step),
            "test": alone,
        }
        self._test = test
        self.actors = {mode: actors[mode] for mode in modes}

    def close(self) -> None:
        """Close the environments."""
        for evaluator in (self.evaluator, self._test, *self._others.values()):
            if evaluator is not None:
                evaluator.close()

    def rows(self, trained: int, stop: Callable[[], bool] = lambda: False) -> list[EvaluationRow] | None:
        """Evaluate the group after `trained` steps of training. Returns None if `stop()` became true during it. Does
        not change the training."""
        rows: list[EvaluationRow] = []
        for mode, actor in self.actors.items():
            values = self.targets.values[:1] if self.targets and mode in ("alone", "test") else []
            evaluator = self._test if mode == "test" and self._test is not None else self.evaluator
            found = self._played(evaluator, actor(trained), mode, values, trained, stop)
            if found is None:
                return None
            rows += found
        others = self.targets.values[1:] if self.targets and trained >= self._all_targets_at else []
        if others and self.targets:
            n = len(others)
            seeds = [of_member * n for of_member in self.evaluator.seeds]  # the same episodes for every target
            first = self.evaluator
            again = self._others.setdefault(n, Evaluator(first.makers, seeds, first.success, first.max_steps))
            found = self._played(again, self.targets.actor(others, first.episodes), "targets", others, trained, stop)
            if found is None:
                return None
            rows += found
        return rows

    def _played(
        self,
        evaluator: Evaluator,
        actor: Actor,
        mode: str,
        targets: Sequence[float],
        trained: int,
        stop: Callable[[], bool],
    ) -> list[EvaluationRow] | None:
        """The rows of one evaluation, with as many episodes for each of `targets`; None if it was stopped."""
        played = evaluator.run(actor, trained, stop)
        if played is None:
            return None
        self._episodes += len(played)
        self._known += sum(e.success is not None for _, _, e in played)
        self._notice(evaluator)
        rows = []
        for m, number, e in played:
            replica, i = divmod(m, len(self.members))
            success = None if e.success is None else float(e.success)
            which, episode = divmod(number, self.evaluator.episodes)
            target = targets[which] if targets and takes_target(self.group.settings[i].algorithm) else None
            row = EvaluationRow(replica, self.members[i], episode, e.return_, e.length, success, mode, target)
            if mode != "targets" or target is not None:
                rows.append(row)
        return rows

    def _notice(self, evaluator: Evaluator) -> None:
        """Add messages about truncated episodes, and about success that only some episodes reported."""
        partly = ""
        if 0 < self._known < self._episodes:
            partly = (
                f"the environment reported success in {self._known:,} of {self._episodes:,} evaluation episodes: the "
                "success rate is unknown unless every episode reports True or False"
            )
        for key, text in (("cut", evaluator.note), ("success", partly)):
            if text and key not in self._said:
                self._said.add(key)
                self.messages.append(text)
