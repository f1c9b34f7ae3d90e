"""Names of the numbers in observations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import gymnasium
import numpy as np

from peerage.envs.history import HistoryLayout, history_of

CARTPOLE = ("position", "velocity", "angle", "angular velocity")
CUE = ("value", "mark", "question")
KNOWN: dict[str, tuple[str, ...]] = {
    "CartPole": CARTPOLE,
    "CartPoleNoVelocities": CARTPOLE[::2],
    "Acrobot": ("cos 1", "sin 1", "cos 2", "sin 2", "angular velocity 1", "angular velocity 2"),
    "MountainCar": ("position", "velocity"),
    "MountainCarContinuous": ("position", "velocity"),
    "Pendulum": ("cos", "sin", "angular velocity"),
    "LunarLander": ("x", "y", "vx", "vy", "angle", "angular velocity", "left leg", "right leg"),
    "LunarLanderContinuous": ("x", "y", "vx", "vy", "angle", "angular velocity", "left leg", "right leg"),
    "MarkedCue": CUE,
    "PlainCue": CUE,
}
"""Names of the features of some environments, by the id without its version."""
REST = {"CartPoleDistractors": (CARTPOLE, "noise"), "AskedCue": (("value", "question"), "key")}
"""Environments whose first features have names, and the name of the others."""


@dataclass(frozen=True)
class FeatureNames:
    """The names of the numbers of an observation, which is one step or a window of steps."""

    features: tuple[str, ...]
    """The numbers of the observation of a step."""
    window: HistoryLayout
    """The layout; a single step without actions, reward and flag where the observation is no window."""

    @property
    def step(self) -> list[str]:
        """The numbers of a step: features, actions, reward, but not the flag."""
        actions = [f"action[{i}]" for i in range(self.window.act)]
        return [*self.features, *actions, *["reward"] * self.window.reward]

    @property
    def steps(self) -> list[str]:
        """The steps of a window, the oldest first: `t-7` ... `t-1`, `t`."""
        return [f"t-{age}" if age else "t" for age in reversed(range(self.window.length))]

    @property
    def is_window(self) -> bool:
        """Whether the observation is a window of steps."""
        return self.window.length > 1 or bool(self.window.valid)

    @property
    def inside(self) -> list[str]:
        """All numbers of a step of a window: features, actions, reward and the flag `valid`."""
        return [*self.step, *["valid"] * self.window.valid]

    @property
    def numbers(self) -> list[str]:
        """All numbers of an observation, including flags: `t-2: velocity`; without a window `velocity`."""
        if not self.is_window:
            return self.step
        return [f"{step}: {name}" for step in self.steps for name in self.inside]

    @property
    def flags(self) -> np.ndarray:
        """bool [D]: the numbers that say whether a step of a window belongs to the episode."""
        column = np.arange(self.window.size) % self.window.width
        return (column == self.window.width - 1) & bool(self.window.valid)

    def groups(self, of: str) -> tuple[list[str], np.ndarray]:
        """The names `[K]` and the numbers, bool `[K, D]`, of the features of one kind.

        numbers: each number but the flags; steps: each step of a window with its flag; features: each feature in all
        steps, where all numbers of an action are one feature.
        """
        w = self.window
        column = np.tile(np.arange(w.width), w.length)
        step = np.repeat(np.arange(w.length), w.width)
        if of == "numbers":
            kept = ~self.flags
            return [name for name, keep in zip(self.numbers, kept) if keep], np.eye(w.size, dtype=bool)[kept]
        if of == "steps":
            return self.steps, step == np.arange(w.length)[:, None]
        first_action, reward = w.obs, w.obs + w.act
        columns = np.where((column >= first_action) & (column < reward), first_action, column)
        kinds = [*range(w.obs), *[first_action] * bool(w.act), *[reward] * w.reward]
        names = [*self.features, *["action"] * bool(w.act), *["reward"] * w.reward]
        return names, columns == np.array(kinds)[:, None]


def feature_names(env: gymnasium.Env, obs_dim: int) -> FeatureNames:
    """The names of the observations of an environment that `peerage.envs.make` has built.

    The features are those of the attribute `feature_names` of the environment, if it has one, or those of `KNOWN`,
    otherwise `obs[0]`, `obs[1]`, ....
    """
    window = history_of(env) or HistoryLayout(1, obs_dim, 0, 0, 0)
    found: Sequence[str] = ()
    if env.has_wrapper_attr("feature_names"):
        found = [str(name) for name in env.get_wrapper_attr("feature_names")]
    elif env.spec is not None:
        name = env.spec.id.rpartition("/")[2].rpartition("-v")[0]
        first, other = REST.get(name, ((), ""))
        found = KNOWN.get(name) or [*first, *(f"{other}[{i}]" for i in range(window.obs - len(first)) if first)]
    if len(found) != window.obs:
        found = [f"obs[{i}]" for i in range(window.obs)]
    return FeatureNames(tuple(found), window)
