"""How closely members follow their target returns: the return achieved for each target, at the last evaluation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from peerage.statistics import summaries


@dataclass(frozen=True)
class Calibration:
    """Targets and achieved returns at the last evaluation with several targets."""

    step: int
    achieved: pd.DataFrame
    """Mean return over episodes and members: a row per target, ascending, and a column per replica."""
    returns: np.ndarray
    """The 0, 1, ..., 100% quantiles of the returns of the data, `[101]`; empty if they are unknown."""

    @property
    def targets(self) -> np.ndarray:
        """float `[T]`"""
        return self.achieved.index.to_numpy(float)

    @property
    def spread(self) -> summaries.Spread:
        """Mean and interval over replicas, `[T]`."""
        return summaries.spread(self.achieved.to_numpy())

    @property
    def _inside(self) -> np.ndarray:
        """Whether the data has a return at least as high as the target, `[T]` bool; all, if the returns are unknown."""
        return self.targets <= (self.returns[-1] if len(self.returns) else np.inf)

    @property
    def correlation(self) -> float:
        """The correlation of target and achieved return over the targets inside the data; NaN for fewer than three, or
        if one of the two does not vary."""
        targets, achieved = self.targets[self._inside], self.spread.mean[self._inside]
        if len(targets) < 3 or not np.ptp(targets) or not np.ptp(achieved):
            return float("nan")
        return float(np.corrcoef(targets, achieved)[0, 1])

    @property
    def error(self) -> float:
        """The mean absolute difference of target and achieved return over the targets inside the data, as a share of
        the range of the data's returns; NaN if they are unknown or equal."""
        if not len(self.returns) or self.returns[-1] <= self.returns[0] or not self._inside.any():
            return float("nan")
        differences = np.abs(self.targets - self.spread.mean)[self._inside]
        return float(differences.mean() / (self.returns[-1] - self.returns[0]))


def calibration(evaluations: pd.DataFrame, returns: Any = ()) -> Calibration | None:
    """The calibration of a run. `evaluations`: as of `read_evaluations(mode=None)`; `returns`: the quantiles of the
    returns of its data, as in environment.json. None for a run without several targets."""
    found = evaluations[evaluations["target"].notna()]
    found = found[found["step"].isin(found[found["mode"] == "targets"]["step"])]
    if found.empty:
        return None
    last = found[found["step"] == found["step"].max()]
    members = last.groupby(["target", "replica", "member"])["return"].mean()
    achieved = members.groupby(["target", "replica"]).mean().unstack("replica").sort_index()
    try:
        quantiles = np.asarray(returns, float)
    except (TypeError, ValueError):  # the file was edited
        quantiles = np.zeros(0)
    if quantiles.shape != (101,) or not np.isfinite(quantiles).all():
        quantiles = np.zeros(0)
    return Calibration(int(last["step"].iloc[0]), achieved, quantiles)


def histogram(quantiles: np.ndarray, bins: int = 20) -> tuple[np.ndarray, np.ndarray]:
    """Edges `[bins + 1]` and shares `[bins]` of a histogram of the values with these quantiles (0, 1, ..., 100%)."""
    edges = np.linspace(quantiles[0], quantiles[-1], bins + 1)
    middles = (quantiles[1:] + quantiles[:-1]) / 2
    return edges, np.histogram(middles, edges)[0] / len(middles)
