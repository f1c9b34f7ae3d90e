"""The running episodes, recorded so that a resumed run can replay them.

The state of a simulator cannot be copied exactly: MuJoCo's `qpos` and `qvel` are only a part of it, and Box2D does not
expose its state at all. Recorded instead are the state of the environment's generator before the reset that began the
episode, and the actions since. The result of a replay is compared with the recorded observation and return.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from peerage.envs.stepping import Stepper, set_state, state_of
from peerage.errors import UserError
from peerage.text import first_line, place

MAX_STEPS = 20_000
"""Longer episodes are not recorded: their actions would take too much memory, and their replay too much time."""


class Replayed(NamedTuple):
    """An episode after its replay."""

    obs: np.ndarray
    """float32 [obs]: the last observation."""
    total: float
    """The sum of rewards."""
    generator: dict[str, Any] | None
    """The state of the environment's generator (`state_of`)."""


class RunningEpisodes:
    """A record of the running episode of each of `n` environments.

    `begun[i]` is `{"seed": s}` if the reset was seeded, otherwise `{"generator": state}` with the state before the
    reset, and None for an environment without a generator `np_random`. `actions [n, capacity, ...]` are the actions as
    the group got them; the first `lengths[i]` of row i belong to the running episode.
    """

    def __init__(self, n: int, action_shape: tuple[int, ...], dtype: type) -> None:
        self.begun: list[dict[str, Any] | None] = [None] * n
        self.actions: np.ndarray = np.zeros((n, 64, *action_shape), dtype)
        self.rows = np.arange(n)
        self.room = 64  # steps that fit without another look at the lengths

    def begin(self, i: int, seed: int | None, generator: np.random.Generator | None) -> None:
        """Record that environment i, which has this generator, is about to be reset, with `seed` or without."""
        if seed is not None:
            self.begun[i] = {"seed": seed}
        else:
            state = state_of(generator)
            self.begun[i] = None if state is None else {"generator": state}

    def add(self, actions: np.ndarray, lengths: np.ndarray) -> None:
        """Record `actions [n, ...]`, taken in episodes that have `lengths [n]` steps so far."""
        if self.room == 0:
            capacity = self.actions.shape[1]
            self.room = capacity - int(lengths.max())
            if self.room <= 0:
                more = min(capacity, MAX_STEPS - capacity)
                if more > 0:
                    self.actions = np.concatenate((self.actions, np.zeros_like(self.actions[:, :more])), axis=1)
                self.room = max(more, 1)
        self.room -= 1
        # An episode beyond MAX_STEPS overwrites its own beginning and cannot be replayed
        self.actions[self.rows, lengths % self.actions.shape[1]] = actions

    def state(self, lengths: np.ndarray) -> dict[str, Any]:
        """For `load_state`: plain data and one array."""
        longest = min(int(lengths.max()), self.actions.shape[1])
        actions = self.actions[:, :longest].copy()
        actions[np.arange(longest) >= lengths[:, None]] = 0  # actions of earlier episodes
        return {"begun": copy.deepcopy(self.begun), "actions": actions}

    def load_state(self, state: dict[str, Any]) -> None:
        """Continue the record of `state`. Raises ValueError for a state of other environments."""
        actions = np.asarray(state["actions"])
        if actions.shape[::2] != self.actions.shape[::2] or actions.dtype != self.actions.dtype:
            raise ValueError("actions of other environments")
        if len(state["begun"]) != len(self.begun):
            raise ValueError(f"{len(state['begun'])} episodes for {len(self.begun)} environments")
        self.begun = copy.deepcopy(list(state["begun"]))
        capacity = max(64, actions.shape[1])
        self.actions = np.zeros((len(actions), capacity, *actions.shape[2:]), actions.dtype)
        self.actions[:, : actions.shape[1]] = actions
        self.room = 0  # `add` computes it from the lengths

    def replay(
        self, stepper: Stepper, rows: Sequence[int], convert: Callable[[np.ndarray], np.ndarray], lengths: list[int],
        clock: int,
    ) -> dict[int, Replayed | str]:
        """Reset the environments `rows` as their running episodes began and take their recorded actions, the last of
        which was step `clock` of the training. `convert`: from recorded actions to those of the environments.

        Returns what the replay of each of them has led to, or the reason why its episode cannot be replayed.
        """
        failed: dict[int, Replayed | str] = {}
        obs, totals = {}, dict.fromkeys(rows, 0.0)
        try:
            for i in rows:
                begun = self.begun[i]
                if begun is None:
                    raise UserError("it has no generator np_random")
                stepper.set_clock(i, clock - lengths[i], running=True)
                if "seed" not in begun:
                    set_state(stepper.generator(i), begun["generator"])
                obs[i] = stepper.reset(i, int(begun["seed"]) if "seed" in begun else None)
            only = np.zeros(len(self.begun), bool)
            for k in range(max((lengths[i] for i in rows), default=0)):
                active = [i for i in rows if lengths[i] > k and i not in failed]
                only[:] = False
                only[active] = True
                result = stepper.step(convert(self.actions[:, k]), only)
                for i in active:
                    obs[i] = result.obs[i]
                    totals[i] += float(result.reward[i])
                    if result.terminated[i] or result.truncated[i]:
                        failed[i] = f"it ended after {k + 1} of {lengths[i]} steps"
        except UserError as error:
            return dict.fromkeys(rows, str(error))
        except Exception as error:
            return dict.fromkeys(rows, f"it raised {type(error).__name__}: {first_line(error)}{place(error)}")
        return {i: Replayed(obs[i], totals[i], state_of(stepper.generator(i))) for i in rows} | failed
