"""A window of past steps as the observation, for networks that attend to them.

    peerage train --env CartPole-v1 --env-args history=8
    peerage train --env CartPole-v1 --env-args 'history={length: 8, action: true, reward: false}'

In Python `History(env, length=8)`, or `EnvMaker("CartPole-v1", {"history": 8})`. `spec.history` of an environment and
`env.layout` are the `HistoryLayout`, whose `tokens(obs)` gives `[..., length, width]`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Discrete
from gymnasium.utils import RecordConstructorArgs

from peerage.envs.batched.program import BatchedEnv, Rows
from peerage.errors import UserError, nearest

MAX_LENGTH = 1000


@dataclass(frozen=True)
class HistoryLayout:
    """The parts of an observation of `History`: `length` slots, the oldest first, each of which has, in this order, the
    observation of a step, the action before it, the reward before it, and 1. Slots before the episode's start are 0."""

    length: int
    """Slots; the last one is the present step."""
    obs: int
    """Numbers of an observation."""
    act: int
    """Numbers of the action: one for each Discrete action (one-hot) or the numbers of a Box action; 0: not included."""
    reward: int
    """1, or 0: not included."""
    valid: int = 1
    """1: the last number of a slot is 1 for a step of this episode and 0 before it."""

    @property
    def width(self) -> int:
        """Numbers of a slot."""
        return self.obs + self.act + self.reward + self.valid

    @property
    def size(self) -> int:
        """Numbers of a window."""
        return self.length * self.width

    def tokens(self, windows: Any) -> Any:
        """An array or tensor of windows `[..., size]` as `[..., length, width]`."""
        return windows.reshape(*windows.shape[:-1], self.length, self.width)

    def present(self, windows: Any) -> Any:
        """The observations of the present step, `[..., obs]`, of windows `[..., size]`."""
        start = self.size - self.width
        return windows[..., start : start + self.obs]


class History(gymnasium.Wrapper, RecordConstructorArgs):
    """Observes the last `length` steps of the episode, the present one included; `layout` says how.

    Observation: float32 `[length * width]`. The first observation of an episode has action and reward 0. `action` and
    `reward`: whether the windows contain them; actions are one-hot, or in the environment's units.

    Raises UserError for observations that are not a flat Box, for actions that are neither Discrete nor a flat Box, and
    for an invalid argument.
    """

    def __init__(self, env: gymnasium.Env, length: int = 8, action: bool = True, reward: bool = True) -> None:
        RecordConstructorArgs.__init__(self, length=length, action=action, reward=reward)
        gymnasium.Wrapper.__init__(self, env)
        seen, acted = env.observation_space, env.action_space
        if isinstance(length, bool) or not isinstance(length, int) or not 1 <= length <= MAX_LENGTH:
            raise UserError(f"history: length must be a whole number of steps, 1 to {MAX_LENGTH}, not {length!r}")
        for name, given in (("action", action), ("reward", reward)):
            if not isinstance(given, bool):
                raise UserError(f"history: {name} must be true or false, not {given!r}")
        if not isinstance(seen, Box) or len(seen.shape) != 1:
            raise UserError(f"history needs flat observations (a Box with one dimension), not {seen}")
        if seen.dtype == np.uint8:
            raise UserError("history does not take images; use gymnasium.wrappers.FrameStackObservation")
        if not isinstance(acted, Discrete) and not (isinstance(acted, Box) and len(acted.shape) == 1):
            raise UserError(f"history needs Discrete actions or a flat Box of actions, not {acted}")
        bounds = [(seen.low, seen.high)]
        if action:
            bounds.append((acted.low, acted.high) if isinstance(acted, Box) else _unit(int(acted.n)))
        if reward:
            bounds.append((np.full(1, -np.inf), np.full(1, np.inf)))
        bounds.append(_unit(1))
        low, high = (np.concatenate(ends).astype(np.float32) for ends in zip(*bounds))
        self.layout = HistoryLayout(length, seen.shape[0], len(bounds[1][0]) if action else 0, int(reward))
        low, high = np.minimum(low, 0), np.maximum(high, 0)  # slots before the episode are 0
        self.observation_space = Box(np.tile(low, length), np.tile(high, length), dtype=np.float32)
        self._window = _Windows(1, self.layout, acted)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        obs, info = self.env.reset(seed=seed, options=options)
        return self._window.begin(0, obs), info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        taken = np.array(action)[None]  # a copy: the environment may change its action in place
        obs, reward, terminated, truncated, info = self.env.step(action)
        windows = self._window.push(slice(None), np.asarray(obs)[None], taken, np.array([reward], np.float64))
        return windows[0], reward, terminated, truncated, info


class BatchedHistory(BatchedEnv):
    """The windows of a batched environment, equal to those of `History` around the environment."""

    def __init__(self, program: BatchedEnv, layout: HistoryLayout, action_space: gymnasium.Space[Any]) -> None:
        super().__init__(program.n)
        self.program, self.generators = program, program.generators
        self.windows = _Windows(program.n, layout, action_space)

    def reset(self, row: int) -> np.ndarray:
        return self.windows.begin(row, self.program.reset(row))

    def step(self, rows: Rows, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        obs, reward, terminated = self.program.step(rows, actions)
        self.infos = self.program.infos
        return self.windows.push(rows, obs, actions, reward), reward, terminated


class _Windows:
    """The windows of `n` environments, float32 `[n, length, width]`."""

    def __init__(self, n: int, layout: HistoryLayout, action_space: gymnasium.Space[Any]) -> None:
        self.layout = layout
        self.windows = np.zeros((n, layout.length, layout.width), np.float32)
        self.one_hot: np.ndarray | None = None
        self.start = 0
        if isinstance(action_space, Discrete):
            self.one_hot, self.start = np.eye(int(action_space.n), dtype=np.float32), int(action_space.start)

    def begin(self, row: int, obs: np.ndarray) -> np.ndarray:
        """The window `[size]` at the start of an episode with `obs [obs]`."""
        window = self.windows[row]
        window[:] = 0
        window[-1, : self.layout.obs], window[-1, -1] = obs, 1
        return window.ravel().copy()

    def push(self, rows: Rows, obs: np.ndarray, actions: np.ndarray, rewards: np.ndarray) -> np.ndarray:
        """The windows `[k, size]` after one more step of the environments `rows`; each argument is `[k, ...]`."""
        layout, old = self.layout, self.windows[rows]
        new = np.empty_like(old)
        new[:, :-1] = old[:, 1:]
        newest = new[:, -1]
        newest[:, : layout.obs] = obs
        if layout.act:
            numbers = actions if self.one_hot is None else self.one_hot[actions - self.start]
            newest[:, layout.obs : layout.obs + layout.act] = numbers
        if layout.reward:
            with np.errstate(over="ignore"):  # an infinite reward is refused where the rewards are read
                newest[:, -2] = rewards
        newest[:, -1] = 1
        self.windows[rows] = new
        return new.reshape(len(new), -1)


def with_history(env: gymnasium.Env, given: Any) -> History:
    """`env` with the windows that `given` describes: a length, or a mapping of `History`'s arguments. Raises
    UserError."""
    settings = given if isinstance(given, Mapping) else {"length": given}
    known = ["length", "action", "reward"]
    if unknown := [name for name in settings if name not in known]:
        hint = nearest(str(unknown[0]), known)
        raise UserError(f"history has no argument {str(unknown[0])!r}{hint}; it has {', '.join(known)}")
    return History(env, **settings)


def history_of(env: gymnasium.Env) -> HistoryLayout | None:
    """The layout of the windows that `env` observes; None without a wrapper `History`."""
    while isinstance(env, gymnasium.Wrapper):
        if isinstance(env, History):
            return env.layout
        env = env.env
    return None


def _unit(size: int) -> tuple[np.ndarray, np.ndarray]:
    return np.zeros(size), np.ones(size)
