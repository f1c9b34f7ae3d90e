"""The fixed advisers of all replicas: collects and checks their suggestions, passes steps on, and saves their state."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from peerage.errors import Terminated, UserError
from peerage.learners.group import Group
from peerage.learners.streams import StreamKey
from peerage.learners.transition import HostTransition
from peerage.sharing.adviser import Adviser, overrides, replica_generator, serves_all
from peerage.text import one_line, place


@dataclass
class FixedAdviser:
    """One fixed adviser of one replica, or of all replicas if one object serves them all."""

    adviser: Adviser
    rows: np.ndarray
    """int64 `[B]`: the members that it serves."""
    columns: np.ndarray
    """int64 `[B]`: the adviser's number among the `K` advisers of each of these members."""
    rng: np.random.Generator


class FixedAdvisers:
    """`F` fixed advisers of the `N` members of each replica; `advisers[f][r]` is adviser `f` of replica `r`.

    With `shuffle`, the order of the advisers is random in every replica, so that an adviser's number carries no
    information: adviser `order[r, p]` has the number `N + p` in replica `r`.
    """

    def __init__(
        self, advisers: Sequence[Sequence[Adviser]], group: Group, seed: int, total_steps: int, shuffle: bool
    ) -> None:
        self.group = group
        N, R, F = group.N, group.R, len(advisers)
        self.order = np.tile(np.arange(F), (R, 1))
        if shuffle:
            for r in range(R):
                self.order[r] = StreamKey(seed, r, N).generator("order of advisers").permutation(F)
        position = self.order.argsort(axis=1)  # [R, F]
        self.step = 0
        self.advisers: list[FixedAdviser] = []
        for f, copies in enumerate(advisers):
            shared = serves_all(copies[0])
            for r in range(1 if shared else R):
                replicas = np.arange(R) if shared else np.array([r])
                rows = (replicas[:, None] * N + np.arange(N)).ravel()
                columns = np.repeat(N + position[replicas, f], N)
                rng = StreamKey(seed, r, N + f).generator("adviser")
                self.advisers.append(FixedAdviser(copies[r], rows, columns, rng))
                with self._named(copies[r], "begin"):
                    copies[r].begin(replica_generator(seed, r, N), total_steps)
        self._with_clock = self._overriding("at")
        self._with_memory = self._overriding("observe")
        self._with_role = self._overriding("role")

    def __len__(self) -> int:
        return len(self.advisers)

    @property
    def has_roles(self) -> bool:
        """Whether any adviser overrides `role`."""
        return bool(self._with_role)

    def _overriding(self, method: str) -> list[FixedAdviser]:
        return [fixed for fixed in self.advisers if overrides(fixed.adviser, method)]

    @contextmanager
    def _named(self, adviser: Adviser, method: str) -> Iterator[None]:
        """Convert an exception of `adviser` in `method` to a UserError that names the adviser, method and step."""
        try:
            yield
        except (UserError, Terminated):
            raise
        except (Exception, SystemExit) as error:
            what = f"{one_line(f'{type(error).__name__}: {error}')[:200]}{place(error)}"
            raise UserError(f"adviser {adviser.label} failed in {method}, step {self.step}: {what}") from error

    def schedules(self) -> list[str]:
        """What depends on the length of the run, with the class of the adviser."""
        found: dict[str, None] = {}
        for fixed in self.advisers:
            with self._named(fixed.adviser, "schedule"):
                if text := fixed.adviser.schedule():
                    found[f"adviser {fixed.adviser.label}: {text}"] = None
        return list(found)

    def begin_step(self, step: int) -> None:
        """Start environment step `step`: calls `at` of the advisers that override it."""
        self.step = step
        for fixed in self._with_clock:
            with self._named(fixed.adviser, "at"):
                fixed.adviser.at(step)

    def ask(
        self,
        obs: np.ndarray,
        first: np.ndarray,
        due: np.ndarray,
        followed: np.ndarray,
        label_from: np.ndarray | None = None,
    ) -> np.ndarray:
        """Suggestions float32 `[M, F, act]`, in the order of the advisers' numbers; 0 if an adviser was not asked.

        Members that choose now (`due [M]` bool) ask all advisers; other members ask only the one that they follow
        (`followed [M]`), and the one that gives them a label (`label_from [M]`; -1: none). `obs [M, obs]`; `first [M]`
        bool: first step of an episode.
        """
        N = self.group.N
        answers = np.zeros((self.group.M, self.order.shape[1], self.group.space.act_dim), np.float32)
        for fixed in self.advisers:
            asking = due[fixed.rows] | (followed[fixed.rows] == fixed.columns)
            if label_from is not None:
                asking |= label_from[fixed.rows] == fixed.columns
            if asking.any():
                rows, columns = fixed.rows[asking], fixed.columns[asking]
                with self._named(fixed.adviser, "suggest"):
                    answer = fixed.adviser.suggest(obs[rows], rows, first[rows], fixed.rng)
                answers[rows, columns - N] = self._checked(answer, len(rows), fixed.adviser.label)
        return answers

    def _checked(self, answer: Any, n: int, name: str) -> np.ndarray:
        """Check an adviser's answer to `n` askers and return it as float32 `[n, act]`, clipped to the box. Raises
        UserError for a wrong shape and for invalid actions."""
        space = self.group.space
        shape = (n, space.act_dim)
        allowed = [shape, (n,)] if space.act_dim == 1 else [shape]
        try:
            actions = np.asarray(answer, np.float32)
        except (TypeError, ValueError, RuntimeError):  # RuntimeError: a tensor that needs gradients
            actions = None
        if actions is None or actions.shape not in allowed:
            shapes = " or ".join(str(list(form)) for form in allowed)
            got = f"{answer!r:.80}"
            if actions is not None and (actions.ndim > 0 or isinstance(answer, np.ndarray)):
                got = f"shape {list(actions.shape)}"
            what = "1 action" if n == 1 else f"{n} actions"
            raise UserError(f"adviser {name} must return {what} of shape {shapes}, got {got}")
        actions = actions.reshape(shape)
        if space.discrete:
            invalid = ~np.isin(actions, np.arange(space.n_actions))
        else:
            invalid = ~np.isfinite(actions)
            actions = np.clip(actions, space.low, space.high)
        if invalid.any():
            raise UserError(f"adviser {name} suggested {actions[invalid][0]:g}, which is not a valid action")
        return actions

    def observe(self, transition: HostTransition) -> None:
        """Pass the step `transition [M]` of the askers to the advisers that override `observe`."""
        for fixed in self._with_memory:
            with self._named(fixed.adviser, "observe"):
                fixed.adviser.observe(transition.rows(fixed.rows), fixed.rows.copy())

    def roles(self, obs: np.ndarray, due: np.ndarray, followed: np.ndarray) -> np.ndarray:
        """int64 `[M]`: +1 where a member that chooses now (`due`) follows a fixed adviser that acts as an expert at
        `obs`, -1 where it follows one that acts as an adversary, otherwise 0."""
        roles = np.zeros(self.group.M, np.int64)
        for fixed in self._with_role:
            rows = fixed.rows[due[fixed.rows] & (followed[fixed.rows] == fixed.columns)]
            if len(rows):
                with self._named(fixed.adviser, "role"):
                    roles[rows] = fixed.adviser.role(obs[rows])
        return roles

    def state(self) -> list[dict[str, Any]]:
        states = []
        for fixed in self.advisers:
            with self._named(fixed.adviser, "state"):
                states.append({"rng": fixed.rng.bit_generator.state, "state": fixed.adviser.state()})
        return states

    def load_state(self, state: list[dict[str, Any]]) -> None:
        for fixed, saved in zip(self.advisers, state, strict=True):
            fixed.rng.bit_generator.state = saved["rng"]
            if saved["state"] is not None:
                with self._named(fixed.adviser, "load_state"):
                    fixed.adviser.load_state(saved["state"])
