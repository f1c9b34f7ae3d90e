"""The episodes under way, kept so that a resumed run can live them again.

The state of a simulator cannot be copied exactly: MuJoCo's `qpos` and `qvel` are not all of it, Box2D's cannot be had.
What is exact is the way there: the state of the environment's generator before the episode's reset, and the actions
since. Whether it led to the same place is checked.
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

MAX_STEPS = 20_000
"""An episode longer than this is not kept: its actions would fill the memory, and living it again takes too long."""


class RunningEpisodes:
    """How the running episode of each of `n` environments came about.

    `begun[i]`: `{"seed": s}` if its reset was seeded, `{"generator": state}` before the reset otherwise, and None
    without a generator in `np_random`. `actions [n, capacity, ...]`, as they were given to the group, of which the
    first `lengths[i]` count.
    """

    def __init__(self, n: int, action_shape: tuple[int, ...], dtype: type) -> None:
        self.begun: list[dict[str, Any] | None] = [None] * n
        self.actions: np.ndarray = np.zeros((n, 64, *action_shape), dtype)
        self.rows = np.arange(n)
        self.room = 64  # steps that surely still fit

    def begin(self, i: int, env: gymnasium.Env, seed: int | None) -> None:
        """Environment i is about to be reset."""
        if seed is not None:
            self.begun[i] = {"seed": seed}
        else:
            state = generator_state(env)
            self.begun[i] = None if state is None else {"generator": state}

    def add(self, actions: np.ndarray, lengths: np.ndarray) -> None:
        """`actions [n, ...]` are taken in episodes that had `lengths [n]` steps before."""
        if self.room == 0:
            capacity = self.actions.shape[1]
            self.room = capacity - int(lengths.max())
            if self.room <= 0:
                more = min(capacity, MAX_STEPS - capacity)
                if more > 0:
                    self.actions = np.concatenate((self.actions, np.zeros_like(self.actions[:, :more])), axis=1)
                self.room = max(more, 1)
        self.room -= 1
        # Beyond MAX_STEPS it turns round, and is of no use any more
        self.actions[self.rows, lengths % self.actions.shape[1]] = actions

    def state(self, lengths: np.ndarray) -> dict[str, Any]:
        """For `load_state`: what is JSON-able, and one array."""
        longest = min(int(lengths.max()), self.actions.shape[1])
        actions = self.actions[:, :longest].copy()
        actions[np.arange(longest) >= lengths[:, None]] = 0  # left by episodes before
        return {"begun": copy.deepcopy(self.begun), "actions": actions}

    def load_state(self, state: dict[str, Any]) -> None:
        """Raises ValueError for what is of other environments."""
        actions = np.asarray(state["actions"])
        if actions.shape[::2] != self.actions.shape[::2] or actions.dtype != self.actions.dtype:
            raise ValueError("actions of other environments")
        if len(state["begun"]) != len(self.begun):
            raise ValueError(f"{len(state['begun'])} episodes for {len(self.begun)} environments")
        self.begun = copy.deepcopy(list(state["begun"]))
        capacity = max(64, actions.shape[1])
        self.actions = np.zeros((len(actions), capacity, *actions.shape[2:]), actions.dtype)
        self.actions[:, : actions.shape[1]] = actions
        self.room = 0  # looked at with the next action

    def relive(
        self, i: int, env: gymnasium.Env, actions: Sequence[Any], clock: int
    ) -> tuple[np.ndarray, float, dict[str, Any] | None]:
        """Take environment i through its episode: reset, then `actions`, which end with the last one taken after
        `clock` steps of training. Returns the observation, the sum of rewards and the generator's state now.

        Raises UserError, saying what went another way, if that cannot be done.
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
            raise UserError(f"it raised {type(error).__name__}: {one_line(error)}") from error
        return np.asarray(obs, np.float32), total, generator_state(env)


def generator_state(env: gymnasium.Env) -> dict[str, Any] | None:
    """The state of the generator behind an environment, fit for JSON; None: not every environment has one."""
    generator = getattr(getattr(env.unwrapped, "np_random", None), "bit_generator", None)
    if generator is None:
        return None
    state: dict[str, Any] = json.loads(json.dumps(dict(generator.state), default=lambda x: x.tolist()))
    return state


def set_generator_state(env: gymnasium.Env, state: dict[str, Any]) -> None:
    """Put back what `generator_state` gave. Raises ValueError, TypeError or KeyError for what does not fit."""
    generator = getattr(getattr(env.unwrapped, "np_random", None), "bit_generator", None)
    if generator is None:
        raise ValueError("the environment has no generator np_random")
    generator.state = copy.deepcopy(state)
