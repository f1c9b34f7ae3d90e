"""The input of a feature family: the latest steps of all members, and helpers that respect the ends of episodes."""

from __future__ import annotations

import numpy as np

HISTORY = 30  # steps before a chunk that a family can read; the longest window of the built-in families


def _read_only(x: np.ndarray) -> np.ndarray:
    """A view that a family cannot write to, because later chunks and other families use the same array."""
    view = x.view()
    view.flags.writeable = False
    return view


class FeatureHistory:
    """The steps of a chunk and up to `HISTORY` steps before it, for all members.

    A family computes values for all `S` steps, and the library keeps those of the last `new` steps, which are the
    chunk. A value may depend on at most `HISTORY` earlier steps in total (a mean of the last 20 changes depends on 20).
    Then results do not depend on how the steps are cut into chunks.

    Arrays: `obs [M, S, obs]` float32; `action` int64 `[M, S]`, counted from 0, for Discrete, float32 `[M, S, act]` in
    the environment's units for Box; `reward [M, S]` float32, that of the step *before* (`r_{t-1}`, 0 at the first step
    of an episode), or with `lagged=False` that of the step itself; `adviser [M, S]` int64, the followed adviser;
    `age [M, S]` int64, steps since the episode began (0: its first step); `first [M, S]` bool; `has_previous [M, S]`
    bool, whether the step before belongs to the same episode; `phase [M, S]` int64 for `extract`, if the family has
    phases. The arrays of steps are read-only. `memory` holds the family's own arrays between chunks: it may replace
    them, but not modify them.
    """

    phase: np.ndarray

    def __init__(
        self,
        obs: np.ndarray,
        action: np.ndarray,
        rewards: np.ndarray,
        adviser: np.ndarray,
        age: np.ndarray,
        new: int,
        n_advisers: int,
        lagged: bool = True,
        memory: dict[str, np.ndarray] | None = None,
    ) -> None:
        """`rewards [M, S]`: those of the steps themselves, also with `lagged`."""
        self.obs, self.action, self.adviser, self.age = map(_read_only, (obs, action, adviser, age))
        self.new = new
        self.n_advisers, self.lagged = n_advisers, lagged
        self.memory = {} if memory is None else memory
        self.steps = age.shape[1]
        self._place = np.arange(self.steps)
        self._windows: dict[tuple[int, int], tuple[np.ndarray, np.ndarray, np.ndarray]] = {}
        self.first = age == 0
        self.has_previous = ~self.first & (self._place > 0)
        self.reward = self.previous(rewards)[0] if lagged else _read_only(rewards)
        # Number of first steps of an episode whose `reward` is the placeholder 0
        self._unrewarded = int(lagged)

    def previous(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The value of `x [M, S, ...]` one step before, 0 at the first step of an episode, and `has_previous`."""
        before = np.zeros_like(x)
        before[:, 1:] = x[:, :-1]
        before[~self.has_previous] = 0
        return before, self.has_previous

    def change(self, x: np.ndarray) -> np.ndarray:
        """`x_t - x_{t-1}`, 0 at the first step of an episode; as `x [M, S, ...]`."""
        change = np.zeros_like(x)
        change[:, 1:] = x[:, 1:] - x[:, :-1]
        change[~self.has_previous] = 0
        return change

    def changed(self, x: np.ndarray) -> np.ndarray:
        """`[M, S]` bool: whether `x [M, S]` differs from one step before. False at the first step of an episode."""
        changed = np.zeros(x.shape, dtype=bool)
        changed[:, 1:] = x[:, 1:] != x[:, :-1]
        return changed & self.has_previous

    def mean_of_last(self, x: np.ndarray, n: int, skip: int = 0) -> np.ndarray:
        """The mean of `x [M, S]` or `[M, S, d]` over the last `n` steps of the episode, including the current one, or
        over fewer at its beginning; float32 in the shape of `x`. The first `skip` steps of an episode do not count (1
        for a change); the mean of no steps is 0."""
        window, valid, count = self._window(x, n, skip)
        return self._shaped((window * valid).sum(axis=-1) / count, x)

    def sum_of_last(self, x: np.ndarray, n: int, skip: int = 0) -> np.ndarray:
        """The sum over the last `n` steps, as in `mean_of_last`."""
        window, valid, _ = self._window(x, n, skip)
        return self._shaped((window * valid).sum(axis=-1), x)

    def var_of_last(self, x: np.ndarray, n: int, skip: int = 0) -> np.ndarray:
        """The population variance over the last `n` steps, as in `mean_of_last`; 0 for a single value."""
        window, valid, count = self._window(x, n, skip)
        mean = (window * valid).sum(axis=-1) / count
        apart = (window - mean[..., None]) * valid
        return self._shaped((apart * apart).sum(axis=-1) / count, x)

    def std_of_last(self, x: np.ndarray, n: int, skip: int = 0) -> np.ndarray:
        """The population standard deviation over the last `n` steps, as in `mean_of_last`."""
        return np.sqrt(self.var_of_last(x, n, skip))

    def count_changes(self, x: np.ndarray, n: int) -> np.ndarray:
        """The number of changes of `x [M, S]` within the last `n` steps, 0 to n - 1; float32 `[M, S]`."""
        return self.sum_of_last(self.changed(x), n - 1)

    def value_before(self, x: np.ndarray, n: int) -> np.ndarray:
        """The value of `x [M, S, ...]` n steps before, or at the first step of the episode if that is later."""
        back = np.minimum(np.minimum(self.age, n), self._place)
        return x[np.arange(len(x))[:, None], self._place - back]

    def reward_change(self) -> np.ndarray:
        """`[M, S]`: the last reward minus the one before it; 0 before the episode has had two."""
        change = self.change(self.reward)
        change[self.age <= self._unrewarded] = 0
        return change

    def mean_reward(self, n: int) -> np.ndarray:
        """`[M, S]`: the mean of the last `n` rewards, or of fewer at the start of an episode; 0 before the first."""
        return self.mean_of_last(self.reward, n, skip=self._unrewarded)

    def _window(self, x: np.ndarray, n: int, skip: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """`x` over the last n steps `[M, (d,) S, n]`, newest first; which of them count; their number, at least 1."""
        if not 1 <= n <= HISTORY:
            raise ValueError(f"a window of {n} steps: it must be 1 to {HISTORY}")
        if (n, skip) not in self._windows:
            lag = np.arange(n)
            reach = np.minimum(self.age - skip, self._place)
            valid = lag <= reach[..., None]  # [M, S, n]
            count = np.maximum(valid.sum(axis=-1), 1).astype(np.float32)
            self._windows[n, skip] = np.maximum(self._place[:, None] - lag, 0), valid, count
        index, valid, count = self._windows[n, skip]
        if x.ndim == 3:
            x, valid, count = x.swapaxes(1, 2), valid[:, None], count[:, None]
        # `take` and not `x[..., index]`: its result is contiguous, so that a window is summed in the same order and has
        # the same bits for any number of steps.
        return np.take(x, index, axis=-1).astype(np.float32, copy=False), valid, count

    @staticmethod
    def _shaped(result: np.ndarray, x: np.ndarray) -> np.ndarray:
        return result.swapaxes(1, 2) if x.ndim == 3 else result


def columns(*parts: np.ndarray) -> np.ndarray:
    """Concatenate arrays `[M, S]` (one column each) and `[M, S, d]` of any type: float32 `[M, S, width]`."""
    widths = [part.shape[2] if part.ndim == 3 else 1 for part in parts]
    result = np.empty((*parts[0].shape[:2], sum(widths)), dtype=np.float32)
    start = 0
    for part, width in zip(parts, widths):
        if part.ndim == 3:
            result[..., start : start + width] = part
        else:
            result[..., start] = part
        start += width
    return result


def norm(x: np.ndarray) -> np.ndarray:
    """The Euclidean length of the vectors in the last dimension: `[..., d]` -> `[...]`."""
    return np.sqrt((x * x).sum(axis=-1))


def one_hot(index: np.ndarray, n: int) -> np.ndarray:
    """`[...]` int -> bool `[..., n]`."""
    return index[..., None] == np.arange(n)


def inverse(x: np.ndarray) -> np.ndarray:
    """`1 / (1 + x)` for x >= 0: 1 at 0, decreasing towards 0."""
    return 1 / (1 + x)
