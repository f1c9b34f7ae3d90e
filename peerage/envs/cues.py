"""Tasks in which it is known what an agent must attend to: MarkedCue, AskedCue, PlainCue, MarkedFeature and TMaze."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Discrete

from peerage.envs.draw import cells_picture, grid_picture

VALUE, MARK, QUESTION = range(3)
"""Positions in an observation of `MarkedCue`."""
ASKED, KEYS = 1, 2
"""Positions in an observation of `AskedCue`, after the value: the question, and the first number of the key."""


class MarkedCue(gymnasium.Env[np.ndarray, np.int64]):
    """One of `n_values` values is marked; after all of them the agent is asked for it.

    Observation: float32 [3], (value, mark, question). In each of the first `n_values` steps the value is -1 or 1, each
    with probability 1/2, and the mark is 1 in one of these steps, which is uniformly distributed, otherwise 0. The next
    observation is (0, 0, 1), the question.
    Actions: 0 and 1. Only the action on the question counts: 0 says that the marked value was -1, 1 that it was 1.
    Reward: on the question 1 if the answer is right and -1 if it is wrong; 0 before it. The episode terminates there,
    after `n_values` + 1 steps, and `info["is_success"]` of this step says whether the answer was right. Without memory
    half of the answers are right.

    With `plain` the first value is marked and the others are 0: only memory is needed (`PlainCue-v0`).

    With the last `n_values` + 1 steps as observation (`--env-args history=9`), the question should attend to the slot
    `marked(tokens)`. Raises ValueError for `n_values` under 1 and for an unknown action.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 4}  # noqa: RUF012

    def __init__(self, n_values: int = 8, plain: bool = False, render_mode: str | None = None) -> None:
        self.render_mode = render_mode
        if isinstance(n_values, bool) or not isinstance(n_values, int) or n_values < 1:
            raise ValueError(f"n_values must be a whole number of at least 1, not {n_values!r}")
        self.n_values, self.plain = n_values, plain
        self.observation_space = Box(np.array([-1, 0, 0], np.float32), np.ones(3, np.float32))
        self.action_space = Discrete(2)
        self.shown = np.zeros((n_values + 1, 3), np.float32)
        """All observations of the episode."""
        self.count = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.shown, self.count = self._draw(), 0
        return self.shown[0].copy(), {}

    def step(self, action: int | np.int64) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        if action not in (0, 1):
            raise ValueError(f"action must be 0 or 1, not {action!r}")
        self.count += 1
        if self.count <= self.n_values:
            return self.shown[self.count].copy(), 0.0, False, False, {}
        right = bool(action == self._answer())
        return self.shown[-1].copy(), 1.0 if right else -1.0, True, False, {"is_success": right}

    def render(self) -> np.ndarray | None:
        """With `render_mode="rgb_array"` an image, uint8 [height, width, 3], otherwise None: the values so far, and
        below each the other numbers of its observation, from top to bottom."""
        if self.render_mode != "rgb_array":
            return None
        return cells_picture(self.shown[:, VALUE], self.shown[:, VALUE + 1 :], min(self.count, self.n_values))

    def _draw(self) -> np.ndarray:
        return draw_cues(self.np_random, self.n_values, self.plain)

    def _answer(self) -> int:
        return int(answers(self.shown))


class AskedCue(MarkedCue):
    """Every one of `n_values` values has a key; after all of them the agent is asked for the value of one key.

    Observation: float32 [2 + n_values], (value, question, key). In each of the first `n_values` steps the value is -1
    or 1, each with probability 1/2, the question is 0, and the key is one-hot; the keys are a random permutation, so
    that every key occurs once. In the next observation the value is 0, the question 1, and the key one of them,
    uniformly distributed. Actions, rewards and ends are those of `MarkedCue`; the value of this key counts as marked.

    Which value counts is known only at the end, and the question must be compared with the keys. With a window of the
    episode (`--env-args history=9`), the question should attend to the slot `asked(tokens)`.
    """

    def __init__(self, n_values: int = 8, render_mode: str | None = None) -> None:
        super().__init__(n_values, render_mode=render_mode)
        self.observation_space = Box(np.append(-1, np.zeros(n_values + 1)).astype(np.float32), 1.0, dtype=np.float32)

    def _draw(self) -> np.ndarray:
        return draw_keys(self.np_random, self.n_values)

    def _answer(self) -> int:
        return int(asked_answers(self.shown))


def draw_keys(generator: np.random.Generator, n_values: int) -> np.ndarray:
    """The observations of an episode of `AskedCue`, float32 `[n_values + 1, 2 + n_values]`."""
    shown = np.zeros((n_values + 1, KEYS + n_values), np.float32)
    drawn = generator.random(n_values + 1)
    shown[:-1, VALUE] = np.where(drawn[:-1] < 0.5, -1, 1)
    shown[np.arange(n_values), KEYS + generator.permutation(n_values)] = 1
    shown[-1, ASKED] = shown[-1, KEYS + int(drawn[-1] * n_values)] = 1
    return shown


def asked(tokens: Any) -> Any:
    """The index `[...]` of the slot with the key of the last slot. Tokens `[..., slots, 2 + n_values]`: observations of
    `AskedCue`, the last one a question (`tokens[..., : layout.obs]` of a window), as an array or a tensor."""
    keys = tokens[..., KEYS:]
    return (keys[..., :-1, :] * keys[..., -1:, :]).sum(-1).argmax(-1)


def asked_answers(tokens: np.ndarray) -> np.ndarray:
    """The right actions, int64 `[...]`, for an array of tokens as in `asked`."""
    value = np.take_along_axis(tokens[..., VALUE], asked(tokens)[..., None], axis=-1)[..., 0]
    return (value > 0).astype(np.int64)


def draw_cues(generator: np.random.Generator, n_values: int, plain: bool) -> np.ndarray:
    """The observations of an episode of `MarkedCue`, float32 `[n_values + 1, 3]`."""
    shown = np.zeros((n_values + 1, 3), np.float32)
    shown[-1, QUESTION] = 1
    drawn = generator.random(1 if plain else n_values + 1)  # one draw, because it is slow compared with a step
    if plain:
        shown[0] = -1 if drawn[0] < 0.5 else 1, 1, 0
    else:
        shown[:-1, VALUE] = np.where(drawn[:-1] < 0.5, -1, 1)
        shown[int(drawn[-1] * n_values), MARK] = 1
    return shown


def marked(tokens: Any) -> Any:
    """The index `[...]` of the marked token. Tokens `[..., slots, width]`: the slots of a window of `MarkedCue`, or the
    features of `MarkedFeature` (`obs.reshape(..., -1, 2)`), as an array or a tensor. Undefined without a mark."""
    return tokens[..., MARK].argmax(-1)


def answers(tokens: np.ndarray) -> np.ndarray:
    """The right actions, int64 `[...]`, for an array of tokens as in `marked`."""
    value = np.take_along_axis(tokens[..., VALUE], marked(tokens)[..., None], axis=-1)[..., 0]
    return (value > 0).astype(np.int64)


class MarkedFeature(gymnasium.Env[np.ndarray, np.int64]):
    """In every step, one of `n_values` features is marked; the right action depends on its sign.

    Observation: float32 [2 * n_values]; numbers 2 i and 2 i + 1 are the value of feature i, uniform in [-1, 1), and its
    mark: 1 for one feature, which is uniformly distributed, otherwise 0. All are drawn anew in every step.
    Actions: 0 is right if the marked value is 0 or less, 1 if it is more than 0.
    Reward: 1 for the right action, -1 for the wrong one. `info["is_success"]` of a step says whether it was right.
    Terminates after `steps` steps.

    Raises ValueError for `n_values` or `steps` under 1 and for an unknown action.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 4}  # noqa: RUF012

    def __init__(self, n_values: int = 8, steps: int = 16, render_mode: str | None = None) -> None:
        self.render_mode = render_mode
        for name, number in (("n_values", n_values), ("steps", steps)):
            if isinstance(number, bool) or not isinstance(number, int) or number < 1:
                raise ValueError(f"{name} must be a whole number of at least 1, not {number!r}")
        self.n_values, self.steps = n_values, steps
        self.observation_space = Box(np.tile(np.array([-1, 0], np.float32), n_values), 1.0, dtype=np.float32)
        self.action_space = Discrete(2)
        self.features = np.zeros((n_values, 2), np.float32)
        self.count = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.count = 0
        return self._draw(), {}

    def step(self, action: int | np.int64) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        if action not in (0, 1):
            raise ValueError(f"action must be 0 or 1, not {action!r}")
        self.count += 1
        right = bool(action == answers(self.features))
        return self._draw(), 1.0 if right else -1.0, self.count >= self.steps, False, {"is_success": right}

    def render(self) -> np.ndarray | None:
        """With `render_mode="rgb_array"` an image, uint8 [height, width, 3], otherwise None: the features with their
        marks."""
        if self.render_mode != "rgb_array":
            return None
        return cells_picture(self.features[:, VALUE], self.features[:, MARK:])

    def _draw(self) -> np.ndarray:
        self.features[:, VALUE] = self.np_random.uniform(-1, 1, self.n_values)
        self.features[:, MARK] = 0
        self.features[self.np_random.integers(self.n_values), MARK] = 1
        return self.features.ravel().copy()


class TMaze(gymnasium.Env[np.ndarray, np.int64]):
    """A corridor that ends in a T; a sign at its start says where to turn.

    Source: Bakker 2001, "Reinforcement Learning with Long Short-Term Memory".

    Observation: float32 [3]: at the start (0, 1, 1) if the goal is in the north and (1, 1, 0) if it is in the south,
    each with probability 1/2; (1, 0, 1) in the corridor; (0, 1, 0) at the junction, `length` cells east of the start.
    Actions: 0 to 3 for east, west, north, south. At a wall nothing moves.
    Reward: 4 for a step north or south at the junction if the goal is there, -0.1 if it is not; -0.1 for a step that
    does not move; otherwise 0. A step north or south at the junction terminates the episode. The best return is 4, in
    `length` + 1 steps. `info["is_success"]` says whether the step reached the goal.

    The observation after the last step is that of the junction. Raises ValueError for a length under 1 and for an
    unknown action.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012

    def __init__(self, length: int = 20, render_mode: str | None = None) -> None:
        self.render_mode = render_mode
        if isinstance(length, bool) or not isinstance(length, int) or length < 1:
            raise ValueError(f"length must be a whole number of at least 1, not {length!r}")
        self.length = length
        self.observation_space = Box(0.0, 1.0, (3,), np.float32)
        self.action_space = Discrete(4)
        self.x, self.north = 0, True

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.x, self.north = 0, bool(self.np_random.integers(2))
        return self._observe(), {}

    def step(self, action: int | np.int64) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        if action not in (0, 1, 2, 3):
            raise ValueError(f"action must be 0, 1, 2 or 3, not {action!r}")
        if action >= 2 and self.x == self.length:
            right = bool((action == 2) == self.north)
            return self._observe(), 4.0 if right else -0.1, True, False, {"is_success": right}
        before = self.x
        if action == 0:
            self.x = min(self.x + 1, self.length)
        elif action == 1:
            self.x = max(self.x - 1, 0)
        return self._observe(), 0.0 if self.x != before else -0.1, False, False, {"is_success": False}

    def _observe(self) -> np.ndarray:
        if self.x == 0:
            return np.array([0, 1, 1] if self.north else [1, 1, 0], np.float32)
        return np.array([0, 1, 0] if self.x == self.length else [1, 0, 1], np.float32)

    def render(self) -> np.ndarray | None:
        """With `render_mode="rgb_array"` an image, uint8 [height, width, 3], otherwise None. The goal is green; the
        agent sees it only at the start."""
        if self.render_mode != "rgb_array":
            return None
        walls = [(x, y) for x in range(self.length) for y in (0, 2)]
        goal = (self.length, 2 if self.north else 0)
        return grid_picture((self.length + 1, 3), (0, 1), goal, (self.x, 1), walls=walls)
