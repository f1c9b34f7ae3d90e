"""Meta-World's manipulation tasks (Yu et al. 2019, arXiv 1910.10897) with goals for each member of a group.

    make_env("metaworld/reach-v3", {"member": 2, "goals": 5, "split": "test"})

Needs the extra `metaworld`. Observations are 39 numbers: two steps of hand, gripper and objects, and the goal.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, Literal

import gymnasium
import mujoco
import numpy as np

from peerage.errors import UserError, nearest

MT10 = (
    "reach-v3", "push-v3", "pick-place-v3", "door-open-v3", "drawer-open-v3", "drawer-close-v3",
    "button-press-topdown-v3", "peg-insert-side-v3", "window-open-v3", "window-close-v3",
)  # fmt: skip
OBS, ACT = 39, 4
SPLITS = ("train", "test")


class MetaWorld(gymnasium.Env[np.ndarray, np.ndarray]):
    """A task of Meta-World, whose goals depend on the member.

    Args:
        task: the name of a task such as `reach-v3`; `mt10`: member i gets task i of MT10, then the first again.
        tasks: instead of `task`, names that the members get in turn.
        member: the number of the member; a training passes it.
        goals: the number of goals of the member, from which `reset` draws one; 0: a new goal in every episode. A goal
            includes the initial position of the object.
        split: `train` or `test`: other goals. The evaluation mode `test` of a training passes `test`.
        goal_seed: seed of the goals.
        region: where the goals of `train` are: `all`, or `halves`: even members have goals in the lower half of the
            widest coordinate, odd members in the upper half. Goals of `test` are everywhere.
        overlap: the share of the goals of `train` that all members with the same task have in common, in [0, 1]. With
            `halves`, these are everywhere. Goals of `test` are the member's own.
        pooled: a number of members: the goals are those of the members 0 to `pooled` - 1 together, for one learner with
            the data of all of them; 0: the member's own goals.
        render_mode: `rgb_array` or None.

    Raises UserError for an unknown task, split or region, a number out of range, and for pooled members with different
    tasks.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 80}  # noqa: RUF012

    def __init__(
        self,
        task: str = "",
        *,
        tasks: Sequence[str] = (),
        member: int = 0,
        goals: int = 0,
        split: Literal["train", "test"] = "train",
        goal_seed: int = 0,
        region: Literal["all", "halves"] = "all",
        overlap: float = 0.0,
        pooled: int = 0,
        render_mode: str | None = None,
    ) -> None:
        chosen = [tasks] if isinstance(tasks, str) else list(tasks)
        chosen = chosen or (list(MT10) if task == "mt10" else [task])
        if split not in SPLITS or region not in ("all", "halves"):
            raise UserError(f"split must be train or test, and region all or halves, not {split!r} and {region!r}")
        if isinstance(goals, bool) or not isinstance(goals, int) or goals < 0:
            raise UserError(f"goals must be a number of goals, or 0 for a new goal in every episode, not {goals!r}")
        if isinstance(overlap, bool) or not isinstance(overlap, int | float) or not 0 <= overlap <= 1:
            raise UserError(f"overlap must be the share of the goals that members have in common, not {overlap!r}")
        if isinstance(pooled, bool) or not isinstance(pooled, int) or pooled < 0:
            raise UserError(f"pooled must be a number of members, or 0, not {pooled!r}")
        if (overlap or pooled) and not goals:
            raise UserError("overlap and pooled need a number of goals: add goals=5, for example")
        members = range(pooled) if pooled else [member]
        if len(names := {chosen[m % len(chosen)] for m in members}) > 1:
            raise UserError(f"pooled members must have the same task, not {', '.join(sorted(names))}")
        self.task, self.render_mode = chosen[members[0] % len(chosen)], render_mode
        self.inner = _inner(self.task, render_mode)
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (OBS,), np.float64)
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (ACT,), np.float32)
        space = self.inner._random_reset_space
        self._everywhere = gymnasium.spaces.Box(space.low, space.high, dtype=np.float64)
        self.inner._random_reset_space = self._everywhere
        common = round(overlap * goals) if split == "train" else 0
        shared = self._drawn(common, [goal_seed, 0, len(SPLITS)])
        self.goals: list[np.ndarray] = []
        """float64 [goals][3 or 6]: what Meta-World calls a random vector."""
        for m in members:
            if region == "halves" and split == "train":
                self.inner._random_reset_space = self._half(upper=m % 2 == 1)
            self.goals += shared + self._drawn(goals - common, [goal_seed, m, SPLITS.index(split)])

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        if self.goals:
            goal = self.goals[int(self.np_random.integers(len(self.goals)))]
        else:
            goal = self._draw(self.np_random)
        self.inner._freeze_rand_vec, self.inner._last_rand_vec = True, goal
        return self._begin(), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        obs, reward, terminated, truncated, info = self.inner.step(action)
        return obs, float(reward), bool(terminated), bool(truncated), {"success": bool(info["success"])}

    def render(self) -> np.ndarray | None:
        image = self.inner.render()
        return None if image is None else np.flipud(image)

    def close(self) -> None:
        self.inner.close()

    def _half(self, *, upper: bool) -> gymnasium.spaces.Box:
        """Half of the space of goals, divided in its widest coordinate."""
        low, high = self._everywhere.low.copy(), self._everywhere.high.copy()
        widest = int((high - low).argmax())
        (low if upper else high)[widest] = (low[widest] + high[widest]) / 2
        return gymnasium.spaces.Box(low, high, dtype=np.float64)

    def _drawn(self, count: int, key: Sequence[int]) -> list[np.ndarray]:
        rng = np.random.default_rng(key)
        return [self._draw(rng) for _ in range(count)]

    def _draw(self, rng: np.random.Generator) -> np.ndarray:
        """A goal, drawn by Meta-World's task, which rejects some."""
        self.inner._freeze_rand_vec, self.inner.seeded_rand_vec, self.inner.np_random = False, True, rng
        self._begin()
        return np.array(self.inner._last_rand_vec)

    def _begin(self) -> np.ndarray:
        """Begin an episode, from a simulation that does not remember the last one."""
        mujoco.mj_resetData(self.inner.model, self.inner.data)
        obs, _ = self.inner.reset()
        return obs


def _inner(task: str, render_mode: str | None) -> Any:
    """The environment of Meta-World, with the goal in the observation."""
    known = _tasks()
    if task not in known:
        raise UserError(f"Meta-World has no task {task!r}{nearest(task, list(known))}: use a name such as reach-v3")
    inner = known[task](render_mode=render_mode, camera_name="corner2" if render_mode else None)
    inner._partially_observable = False
    inner.__dict__.pop("sawyer_observation_space", None)  # it is computed once
    inner._set_task_called = True
    return inner


@lru_cache(1)
def _tasks() -> dict[str, Callable[..., Any]]:
    from metaworld import ALL_V3_ENVIRONMENTS

    return dict(ALL_V3_ENVIRONMENTS)

