"""What a model keeps of the data that it was trained on: how its inputs and outputs relate to the environment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np

from peerage.offline.trajectories import Trajectories

_NOTHING = np.zeros(0, np.float32)
TARGET_QUANTILES = (1.0, 0.1, 0.5, 0.9)
"""The quantiles of the data's returns among the default targets. The first one is that of learning curves."""
MAX_ACTIONS = 100_000
BEYOND = 0.2
"""The last default target exceeds the data's largest return by this share of its absolute value."""


@dataclass(frozen=True, eq=False)
class Preprocessing:
    """The statistics of a dataset, saved with the models that are trained on it."""

    state_mean: np.ndarray
    """float32 [obs]"""
    state_std: np.ndarray
    """float32 [obs], positive"""
    scale: float = 1.0
    """Divides returns."""
    gamma: float = 1.0
    """Discount of returns-to-go, in (0, 1]."""
    n_actions: int = 0
    """Discrete: the number of actions; Box: 0."""
    low: np.ndarray = field(default_factory=lambda: _NOTHING)
    """float32 [act]: the bounds of Box actions; infinite if they are unknown."""
    high: np.ndarray = field(default_factory=lambda: _NOTHING)
    """float32 [act]"""
    rtg_low: np.ndarray = field(default_factory=lambda: _NOTHING)
    """float32 [L]: the smallest return-to-go of the data at each timestep. Empty if it is unknown."""
    rtg_high: np.ndarray = field(default_factory=lambda: _NOTHING)
    """float32 [L]: the largest one."""
    returns: np.ndarray = field(default_factory=lambda: _NOTHING)
    """float32 [101]: the 0, 1, ..., 100% quantiles of the data's returns. Empty if they are unknown."""

    def check(self) -> None:
        """Raise ValueError if sizes or numbers are impossible. For statistics that come from a file."""
        names = (each.name for each in fields(self) if each.name not in ("scale", "gamma", "n_actions"))
        arrays = {name: getattr(self, name) for name in names}
        if bad := next((name for name, x in arrays.items() if not isinstance(x, np.ndarray) or x.ndim != 1), ""):
            raise ValueError(f"{bad} is not a list of numbers")
        if type(self.n_actions) is not int or not 0 <= self.n_actions <= MAX_ACTIONS:
            raise ValueError("n_actions is not a number of actions")
        if type(self.scale) not in (int, float) or not 0 < self.scale < np.inf:
            raise ValueError("scale is not a positive number")
        if type(self.gamma) not in (int, float) or not 0 < self.gamma <= 1:
            raise ValueError("gamma is not in (0, 1]")
        pairs = (("state_mean", "state_std"), ("low", "high"), ("rtg_low", "rtg_high"))
        if bad := next((f"{a} and {b}" for a, b in pairs if len(arrays[a]) != len(arrays[b])), ""):
            raise ValueError(f"{bad} have different lengths")
        if not len(self.state_mean) or bool(self.n_actions) == bool(len(self.low)) or len(self.returns) not in (0, 101):
            raise ValueError("the sizes do not fit together")
        finite = all(np.isfinite(arrays[name]).all() for name in ("state_mean", "state_std", "returns"))
        ordered = (self.low < self.high).all() and (self.rtg_low <= self.rtg_high).all()
        if not finite or not ordered or not (self.state_std > 0).all() or (np.diff(self.returns) < 0).any():
            raise ValueError("numbers are not finite, not positive or not in order")

    @property
    def obs_dim(self) -> int:
        return len(self.state_mean)

    @property
    def act_dim(self) -> int:
        """Numbers of an action of the environment; 1 for Discrete."""
        return 1 if self.n_actions else len(self.low)

    @property
    def width(self) -> int:
        """Numbers of an action of the model, and of its output."""
        return self.n_actions or len(self.low)

    @property
    def bounded(self) -> bool:
        """Whether the actions are a Box with known bounds: the model's actions are then in [-1, 1]."""
        return not self.n_actions and bool(np.isfinite(self.low).all() and np.isfinite(self.high).all())

    def states(self, obs: np.ndarray) -> np.ndarray:
        """Observations `[..., obs]`, standardised."""
        return (obs - self.state_mean) / self.state_std

    def to_model(self, actions: np.ndarray) -> np.ndarray:
        """Actions of the environment `[..., act]` -> of the model, float32 `[..., width]`: one-hot for Discrete, in
        [-1, 1] for a bounded Box."""
        if self.n_actions:
            return np.equal(actions, np.arange(self.n_actions)).astype(np.float32)
        if not self.bounded:
            return np.asarray(actions, np.float32)
        scaled = 2 * (actions - self.low) / (self.high - self.low) - 1
        return np.clip(scaled, -1, 1).astype(np.float32)

    def to_env(self, output: np.ndarray) -> np.ndarray:
        """The model's output `[..., width]` -> actions of the environment, float32 `[..., act]`: the index of the
        largest logit for Discrete. NaN, the output of a diverged model, becomes 0 (the middle of a bounded Box)."""
        if self.n_actions:
            return output.argmax(axis=-1)[..., None].astype(np.float32)
        output = np.nan_to_num(output)
        if not self.bounded:
            return output.astype(np.float32)
        return (self.low + 0.5 * (output + 1) * (self.high - self.low)).astype(np.float32)

    def clipped(self, rtg: np.ndarray, timesteps: np.ndarray) -> np.ndarray:
        """Returns-to-go within the data's range at these timesteps; after the longest episode, that of its last step.
        Unchanged if the range is unknown."""
        if not len(self.rtg_low):
            return rtg
        at = np.minimum(timesteps, len(self.rtg_low) - 1)
        return np.clip(rtg, self.rtg_low[at], self.rtg_high[at])

    @property
    def largest(self) -> float:
        """The largest return of the data; infinite if it is unknown."""
        return float(self.returns[-1]) if len(self.returns) else np.inf

    def targets(self) -> list[float]:
        """The default targets of evaluations: the largest return of the data, its 10, 50 and 90% quantiles, and 1.2
        times the largest one (for a negative one, 0.8 times). Empty if the returns are unknown."""
        if not len(self.returns):
            return []
        found = [float(self.returns[round(100 * q)]) for q in TARGET_QUANTILES]
        return list(dict.fromkeys([*found, found[0] + BEYOND * abs(found[0])]))

    def state(self) -> dict[str, Any]:
        """For a checkpoint or JSON: numbers and lists of numbers."""
        found = {each.name: getattr(self, each.name) for each in fields(self)}
        return {name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in found.items()}

    @classmethod
    def of_state(cls, state: Mapping[str, Any]) -> Preprocessing:
        """The inverse of `state`. Raises TypeError or ValueError for something else."""
        arrays = {name: np.asarray(value, np.float32) for name, value in state.items() if isinstance(value, list)}
        return cls(**{**state, **arrays})


def described(data: Trajectories) -> dict[str, Any]:
    """A description of the episodes to learn from, for environment.json: name, fingerprint, provenance, sizes, and the
    0, 1, ..., 100% quantiles of the returns. `all_episodes` and `all_steps` are those of the whole dataset."""
    return {
        "name": data.source.name,
        "fingerprint": data.source.fingerprint,
        "episodes": data.episodes,
        "steps": data.steps,
        "all_episodes": data.source.all_episodes,
        "all_steps": data.source.all_steps,
        "provenance": data.source.provenance,
        "returns": [float(f"{q:.9g}") for q in np.quantile(data.returns, np.linspace(0, 1, 101))],
    }
