"""The fixed advisers of all replicas: asking them, checking what they say, and knowing who stands where."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from peerage.errors import Terminated, UserError
from peerage.learners.group import Group
from peerage.learners.streams import StreamKey
from peerage.sharing.advisers import Adviser


@dataclass
class FixedAdviser:
    """One fixed adviser of one replica, or of all replicas if it is stateless."""

    adviser: Adviser
    rows: np.ndarray  # the members it answers
    columns: np.ndarray  # for each of them, its place among all K advisers
    rng: np.random.Generator


class FixedAdvisers:
    """`F` fixed advisers beside the `N` members of each replica; `advisers[f][r]` is adviser `f` of replica `r`.

    With `shuffle` every replica has them in an order of its own, so that no place means anything; `order[r, p]` says
    which adviser stands at place `N + p`.
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
        place = self.order.argsort(axis=1)  # [R, F]
        self.step = 0
        self.fixed_advisers: list[FixedAdviser] = []
        for f, copies in enumerate(advisers):
            shared = getattr(copies[0], "stateless", False)
            for r in range(1 if shared else R):
                replicas = np.arange(R) if shared else np.array([r])
                rows = (replicas[:, None] * N + np.arange(N)).ravel()
                columns = np.repeat(N + place[replicas, f], N)
                rng = StreamKey(seed, r, N + f).generator("adviser")
                self.fixed_advisers.append(FixedAdviser(copies[r], rows, columns, rng))
                if begin := getattr(copies[r], "begin", None):  # the same draws for every adviser of a replica
                    begin(StreamKey(seed, r, N).generator("advisers"), total_steps)
        self.clocks: list[Any] = [fixed.adviser for fixed in self.fixed_advisers if hasattr(fixed.adviser, "at")]
        self.has_roles = any(hasattr(fixed.adviser, "role") for fixed in self.fixed_advisers)

    def __len__(self) -> int:
        return len(self.fixed_advisers)

    def begin_step(self, step: int) -> None:
        """Tell the advisers with a clock that environment step `step` begins."""
        self.step = step
        for adviser in self.clocks:
            try:
                adviser.at(step)
            except (Exception, SystemExit) as error:
                raise self._failed(adviser, "at", error) from error

    def ask(
        self, obs: np.ndarray, episode_start: np.ndarray, due: np.ndarray, followed: np.ndarray
    ) -> np.ndarray:
        """Suggestions `[M, F, act]`: for members who choose now from all, for the others from the one they follow
        (`followed [M]`); what was not asked is 0. `obs [M, obs]`, `episode_start, due [M]` bool."""
        group = self.group
        answers = np.zeros((group.M, self.order.shape[1], group.space.act_dim), np.float32)
        for fixed in self.fixed_advisers:
            asking = due[fixed.rows] | (followed[fixed.rows] == fixed.columns)
            if asking.any():
                rows, columns = fixed.rows[asking], fixed.columns[asking]
                try:
                    said = fixed.adviser.suggest(obs[rows], rows % group.N, episode_start[rows], fixed.rng)
                except (Exception, SystemExit) as error:
                    raise self._failed(fixed.adviser, "suggest", error) from error
                answers[rows, columns - group.N] = self._checked(said, len(rows), fixed)
        return answers

    def _failed(self, adviser: Any, where: str, error: BaseException) -> BaseException:
        if isinstance(error, UserError | Terminated):
            return error
        what = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        return UserError(f"adviser {type(adviser).__name__} failed in {where}, step {self.step}: {what}")

    def _checked(self, said: Any, rows: int, fixed: FixedAdviser) -> np.ndarray:
        """An adviser's answer as `[rows, act]`; what lies outside a box is clipped to it."""
        space, name = self.group.space, type(fixed.adviser).__name__
        try:
            actions = np.asarray(said, np.float32).reshape(rows, space.act_dim)
        except (TypeError, ValueError):
            raise UserError(f"adviser {name} must answer {rows} askers with {rows} actions, not {said!r:.80}") from None
        if space.discrete:
            wrong = ~np.isin(actions, np.arange(space.n_actions))
        else:
            wrong = ~np.isfinite(actions)
            actions = np.clip(actions, space.low, space.high)
        if wrong.any():
            raise UserError(f"adviser {name} suggested {actions[wrong][0]:g}, which is no action here")
        return actions

    def roles(self, obs: np.ndarray, due: np.ndarray, followed: np.ndarray) -> np.ndarray:
        """`[M]`: +1 where a member that chooses now follows a fixed adviser that acts as the expert here, -1 where
        one that acts as an adversary, else 0."""
        roles = np.zeros(self.group.M, np.int64)
        for fixed in self.fixed_advisers:
            if hasattr(fixed.adviser, "role"):
                rows = fixed.rows[due[fixed.rows] & (followed[fixed.rows] == fixed.columns)]
                if len(rows):
                    try:
                        roles[rows] = fixed.adviser.role(obs[rows])
                    except (Exception, SystemExit) as error:
                        raise self._failed(fixed.adviser, "role", error) from error
        return roles

    def state(self) -> list[dict[str, Any]]:
        states = []
        for fixed in self.fixed_advisers:
            try:
                state = fixed.adviser.state() if hasattr(fixed.adviser, "state") else None
            except (Exception, SystemExit) as error:
                raise self._failed(fixed.adviser, "state", error) from error
            states.append({"rng": fixed.rng.bit_generator.state, "state": state})
        return states

    def load_state(self, state: list[dict[str, Any]]) -> None:
        for fixed, saved in zip(self.fixed_advisers, state, strict=True):
            fixed.rng.bit_generator.state = saved["rng"]
            if saved["state"] is not None and hasattr(fixed.adviser, "load_state"):
                fixed.adviser.load_state(saved["state"])
