"""The statistics of a dataset that a model keeps."""

from __future__ import annotations

import numpy as np

from peerage.offline.preprocessing import Preprocessing
from peerage.offline.trajectories import Trajectories
from peerage.offline.windows import default_scale, returns_to_go, statistics

QUANTILES = np.linspace(0, 1, 101)


def preprocessing_of(
    data: Trajectories,
    longest: int,
    low: np.ndarray | None = None,
    high: np.ndarray | None = None,
    *,
    scale: float = 0.0,
    gamma: float = 1.0,
) -> Preprocessing:
    """The statistics of `data`. `longest`: the number of timesteps whose range of returns-to-go is known; after the
    longest episode, it is that of the last step. `low`, `high`: the bounds of Box actions, [act]. `scale`: 0 for
    `default_scale`."""
    mean, std = statistics(data)
    to_go = returns_to_go(data, gamma)
    last = int(data.lengths.max())
    lowest, largest = np.full(last, np.inf), np.full(last, -np.inf)
    np.minimum.at(lowest, data.timesteps, to_go)
    np.maximum.at(largest, data.timesteps, to_go)
    ranges = [np.pad(x, (0, longest - last), mode="edge").astype(np.float32) for x in (lowest, largest)]
    bounds = {} if low is None or high is None else {"low": low, "high": high}
    return Preprocessing(
        mean,
        std,
        scale=scale or default_scale(data),
        gamma=gamma,
        n_actions=data.source.n_actions,
        rtg_low=ranges[0],
        rtg_high=ranges[1],
        returns=np.quantile(data.returns, QUANTILES).astype(np.float32),
        **bounds,
    )
