"""The speed of a training, for the display."""

from __future__ import annotations

from collections import deque

RATE_SECONDS = 30.0
"""The speed is computed over this many last seconds, or over the last rollout with its update if that takes longer."""
UPDATE_PER_ROLLOUT = 5.0
"""An update takes about this many times as long as its rollout; used until the first update has been timed."""


class Pace:
    """The speed of a training from (seconds, step) during it.

    `cycle` is the number of steps from one long update to the next (`RunInfo.cycle`), of which the training makes
    `stride` at a time, up to step `total`. The speed is that of whole cycles, because the steps of a rollout are much
    faster than its update.
    """

    def __init__(self, cycle: int = 1, stride: int = 1, total: int = 0) -> None:
        self.cycle, self.stride, self.total = cycle, stride, total
        self.entries = 0
        self.updating = False
        """Whether the next step contains a long update."""
        self.update_seconds = 0.0
        """The expected duration of this update."""
        self._clock: deque[tuple[float, int]] = deque()  # (seconds, step), at the ends of cycles
        self._timed: float | None = None  # seconds of the last update
        self._begun = 0.0  # when the update began, in seconds

    def add(self, seconds: float, step: int) -> None:
        """Add that `step` steps had been completed after `seconds`, which do not decrease."""
        self.entries += 1
        clock = self._clock
        if step % self.cycle and step < self.total:
            self.updating = (step + self.stride) % self.cycle == 0 or step + self.stride >= self.total
            if self.updating:
                self._begun = seconds
                rollout = seconds - clock[-1][0] if clock else 0.0
                self.update_seconds = UPDATE_PER_ROLLOUT * rollout if self._timed is None else self._timed
            return
        if self.updating:
            self._timed, self.updating = seconds - self._begun, False
        clock.append((seconds, step))
        while len(clock) > 2 and clock[0][0] < seconds - RATE_SECONDS:
            clock.popleft()

    @property
    def rate(self) -> float | None:
        """Steps per member and second; None if unknown."""
        if len(self._clock) < 2:
            return None
        (t0, s0), (t1, s1) = self._clock[0], self._clock[-1]
        return (s1 - s0) / (t1 - t0) if t1 > t0 and s1 > s0 else None
