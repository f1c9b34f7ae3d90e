"""The running episodes, recorded so that a resumed run can replay them.

The state of a simulator cannot be copied exactly: MuJoCo's `qpos` and `qvel` are only a part of it, and Box2D does not
expose its state at all. Recorded instead are the state of the environment's generator before the reset that began the
episode, and the actions since. The result of a replay is compared with the recorded observation and return.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np

from peerage.envs.changing import Changing
from peerage.envs.make import one_line
from peerage.errors import UserError
from peerage.text import place

MAX_STEPS = 20_000
"""Longer episodes are not recorded: their actions would take too much memory, and their replay too much time."""


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

    def begin(self, i: int, env: gymnasium.Env, seed: int | None) -> None:
        """Record that environment i is about to be reset, with `seed` or without."""
        if seed is not None:
            self.begun[i] = {"seed": seed}
        else:
            state = generator_state(env)
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
        self, i: int, env: gymnasium.Env, actions: Sequence[Any], clock: int
    ) -> tuple[np.ndarray, float, dict[str, Any] | None]:
        """Reset environment i as its running episode began and take `actions`, the last of which was step `clock` of
        the training. Returns the observation, the sum of rewards and the generator's state after them.

        Raises UserError with the reason if the episode cannot be replayed.
        """
        begun = self.begun[i]
        if begun is None:
            raise UserError("it has no generator np_random")
        if isinstance(env, Changing):
            env.steps, env.running = clock - len(actions), True
        try:
            if "seed" in begun:
                obs, _ = env.reset(seed=int(begun["seed"]))
            else:
                set_generator_state(env, begun["generator"])
                obs, _ = env.reset()
            total = 0.0
            for k, action in enumerate(actions):
                obs, reward, terminated, truncated, _ = env.step(action)
                total += float(reward)
                if terminated or truncated:
                    raise UserError(f"it ended after {k + 1} of {len(actions)} steps")
        except UserError:
            raise
        except Exception as error:
            raise UserError(f"it raised {type(error).__name__}: {one_line(error)}{place(error)}") from error
        return np.asarray(obs, np.float32), total, generator_state(env)


def generator_state(env: gymnasium.Env) -> dict[str, Any] | None:
    """The state of the environment's generator `np_random` as JSON-able data; None if it has no such generator."""
    generator = getattr(getattr(env.unwrapped, "np_random", None), "bit_generator", None)
    if generator is None:
        return None
    state: dict[str, Any] = json.loads(json.dumps(dict(generator.state), default=lambda x: x.tolist()))
    return state


def set_generator_state(env: gymnasium.Env, state: dict[str, Any]) -> None:
    """Restore a state from `generator_state`. Raises ValueError, TypeError or KeyError if it does not fit."""
    generator = getattr(getattr(env.unwrapped, "np_random", None), "bit_generator", None)
    if generator is None:
        raise ValueError("the environment has no generator np_random")
    generator.state = copy.deepcopy(state)
