"""Recorded episodes in memory.

    from peerage.offline.trajectories import load_data

    data = load_data("hopper-mixed-v0")
    best = data.select(data.returns >= np.quantile(data.returns, 0.9))
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium.spaces import Box, Discrete

from peerage.errors import UserError
from peerage.offline.episodes import Episode, Recording
from peerage.offline.minari_files import read_minari
from peerage.offline.parquet_files import parquet_files, read_parquet
from peerage.offline.places import find, is_minari
from peerage.offline.writing import Written, description, statistics, target, write
from peerage.runs.environment import versions
from peerage.text import count

BOX_TOLERANCE = 1e-4
"""By how much an action may leave a Box through rounding, relative to its size."""
QUANTILES = (0.1, 0.5, 0.9, 1.0)
"""Quantiles of the returns that describe a dataset."""


@dataclass(frozen=True, eq=False)
class DataSource:
    """What is known about the environment and the origin of a dataset."""

    name: str = ""
    """The name or path that the data was loaded from."""
    env: str = ""
    """The environment's id or `module:function`; empty if it is unknown."""
    env_args: Mapping[str, Any] = field(default_factory=dict)
    n_actions: int = 0
    """Discrete: the number of actions; Box: 0."""
    start: int = 0
    """Discrete: the first action of the environment."""
    low: np.ndarray = field(default_factory=lambda: np.zeros(0, np.float32))
    """Box: float32 [act], -inf where the bounds are unknown; Discrete: [0]."""
    high: np.ndarray = field(default_factory=lambda: np.zeros(0, np.float32))
    """Box: float32 [act], inf where the bounds are unknown; Discrete: [0]."""
    provenance: str = ""
    """One line about the policies that acted."""
    fingerprint: str = ""
    """SHA-256 of the arrays, in hexadecimal."""
    all_episodes: int = 0
    """Episodes of the whole dataset, of which `select` may have selected some."""
    all_steps: int = 0


@dataclass(frozen=True, eq=False)
class Trajectories:
    """Episodes of one environment, concatenated: T steps, E episodes."""

    obs: np.ndarray
    """float32 [T, obs]"""
    actions: np.ndarray
    """float32 [T, act], in the environment's units; Discrete: the index counted from 0, act = 1."""
    rewards: np.ndarray
    """float32 [T]"""
    starts: np.ndarray
    """int64 [E + 1]; episode e is the steps `starts[e]` to `starts[e + 1] - 1`."""
    terminated: np.ndarray
    """bool [E]: the episode ended in a terminal state; otherwise it was truncated."""
    last_obs: np.ndarray
    """float32 [E, obs]: the observation after the last step. Where a file does not contain it (parquet), the last
    observation."""
    source: DataSource

    def __repr__(self) -> str:
        name = ": ".join(filter(None, (self.source.name, self.source.env)))
        size = f"{count(self.episodes, 'episode')}, {count(self.steps, 'step')}"
        returns = f"returns {self.returns.min():,g} to {self.returns.max():,g}"
        return f"Trajectories({name + ', ' if name else ''}{size}, {returns})"

    @property
    def steps(self) -> int:
        return len(self.rewards)

    @property
    def episodes(self) -> int:
        return len(self.terminated)

    @property
    def lengths(self) -> np.ndarray:
        """int64 [E]"""
        return np.diff(self.starts)

    @property
    def timesteps(self) -> np.ndarray:
        """int64 [T]: the number of earlier steps of the same episode"""
        return np.arange(self.steps) - np.repeat(self.starts[:-1], self.lengths)

    @property
    def returns(self) -> np.ndarray:
        """float64 [E]: the undiscounted sums of rewards."""
        return np.add.reduceat(self.rewards.astype(np.float64), self.starts[:-1])

    def quantiles(self) -> list[float]:
        """The 10, 50, 90 and 100% quantiles of the returns."""
        return [float(q) for q in np.quantile(self.returns, QUANTILES)]

    def next_obs(self) -> np.ndarray:
        """float32 [T, obs]: the observation after every step."""
        found = np.empty_like(self.obs)
        found[:-1] = self.obs[1:]
        found[self.starts[1:] - 1] = self.last_obs
        return found

    def select(self, episodes: np.ndarray | Sequence[int]) -> Trajectories:
        """Some of the episodes: their numbers, or bool [E]. Raises ValueError if there is none."""
        if not len(episodes):
            raise ValueError("no episode is selected")
        rows = np.arange(self.episodes)[np.asarray(episodes)]
        steps = np.concatenate([np.arange(self.starts[e], self.starts[e + 1]) for e in rows])
        starts = np.concatenate([[0], np.cumsum(self.lengths[rows])])
        return _finished(
            replace(
                self,
                obs=self.obs[steps],
                actions=self.actions[steps],
                rewards=self.rewards[steps],
                starts=starts,
                terminated=self.terminated[rows],
                last_obs=self.last_obs[rows],
            )
        )


    def save(self, name_or_path: str | Path, *, overwrite: bool = False) -> Trajectories:
        """Write the episodes as a Minari dataset, for `peerage train --data` and `peerage.train(data=...)`.

        `name_or_path`: the name of the dataset, which is then in Minari's folder, or the path of a folder (a `Path`,
        or text that begins with `./`, `../`, `~` or `/`). An existing dataset is replaced only with `overwrite`.
        Returns the episodes with this name. Raises UserError, before anything is written.
        """
        where, source = target(name_or_path, overwrite), self.source
        discrete = source.n_actions > 0
        rewards = np.split(self.rewards, self.starts[1:-1])
        actions = self.actions[:, 0].astype(np.int64) + source.start if discrete else self.actions
        returns = statistics(rewards)
        about = {"env": source.env, "env_args": dict(source.env_args), "provenance": source.provenance, **returns}
        parts = zip(np.split(self.obs, self.starts[1:-1]), np.split(actions, self.starts[1:-1]), rewards)
        write(
            where,
            [
                Written(np.concatenate([obs, last[None]]), acted, earned, bool(ended))
                for (obs, acted, earned), last, ended in zip(parts, self.last_obs, self.terminated)
            ],
            Box(-np.inf, np.inf, self.obs.shape[1:], np.float32),
            Discrete(source.n_actions, start=source.start) if discrete else Box(source.low, source.high),
            None,
            algorithm=source.provenance,
            description=description(source.env or "an unknown environment", returns),
            about={**about, "versions": versions(), "selected_from": source.name},
        )
        return replace(self, source=replace(source, name=where.name if where.in_minari else str(where.path)))


def load_data(name_or_path: str | Path) -> Trajectories:
    """Load a dataset: the name of a local Minari dataset, the path of its folder, or the path of a Parquet file or of a
    folder of Parquet files with one trajectory in each row (`peerage.offline.parquet_files`).

    Nothing is downloaded or executed. Raises UserError, in one line, if there is no such dataset or it cannot be used.
    """
    path = find(str(name_or_path))
    if is_minari(path):
        recording = read_minari(path)
    elif parquet_files(path):
        recording = read_parquet(path)
    else:
        raise _not_data(path)
    return trajectories_of(recording, str(name_or_path))


PICKLES = (".pkl", ".pickle", ".pt", ".pth", ".joblib", ".npy", ".npz")
"""Files that can contain pickles."""


def _not_data(path: Path) -> UserError:
    """The error for something that is not a dataset."""
    use = "use a Minari dataset, or Parquet with one trajectory in each row (docs/data.md)"
    inside = path.iterdir() if path.is_dir() else [path]
    if pickle := next((file for file in inside if file.suffix.lower() in PICKLES), None):
        return UserError(f"{pickle} can contain a pickle, which executes code when it is opened: {use}")
    return UserError(f"{path} is not a dataset: {use}")


def trajectories_of(recording: Recording, name: str) -> Trajectories:
    """The episodes of a recording as arrays. Raises UserError, which begins with `name`, for empty episodes, for arrays
    of different lengths, for numbers that are not finite, and for actions outside the space."""
    episodes = recording.episodes
    if not episodes:
        raise UserError(f"{name} contains no episodes")
    width = {np.shape(episode.obs)[1:] for episode in episodes}
    if len(width) > 1 or len(next(iter(width))) != 1:
        raise UserError(f"{name} has observations that are not flat, or of several sizes: {sorted(width)[:2]}")
    for number, episode in enumerate(episodes):
        steps = len(episode.rewards)
        if not steps:
            raise UserError(f"{name}: episode {number} is empty")
        if len(episode.actions) != steps or len(episode.obs) not in (steps, steps + 1):
            sizes = f"{len(episode.obs)} observations, {len(episode.actions)} actions and {steps} rewards"
            raise UserError(f"{name}: episode {number} has {sizes}")
    low, high = (_bounds(bound, recording, sign) for bound, sign in ((recording.low, -1), (recording.high, 1)))
    lengths = [len(episode.rewards) for episode in episodes]
    data = Trajectories(
        obs=_joined([e.obs[:n] for e, n in zip(episodes, lengths)], name, "an observation", 2),
        actions=_actions(recording, name, low, high),
        rewards=_joined([e.rewards for e in episodes], name, "a reward", 1),
        starts=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        terminated=np.array([e.terminated for e in episodes], bool),
        last_obs=_joined([e.obs[-1:] for e in episodes], name, "an observation", 2),
        source=DataSource(
            name,
            recording.env,
            recording.env_args,
            recording.n_actions,
            recording.start,
            low,
            high,
            all_episodes=len(episodes),
            all_steps=sum(lengths),
        ),
    )
    n_actions = recording.n_actions or (int(data.actions.max()) + 1 if recording.discrete else 0)
    return _finished(replace(data, source=replace(data.source, n_actions=n_actions, provenance=recording.provenance)))


def _actions(recording: Recording, name: str, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """float32 [T, act]; Box actions that leave the space by rounding are clipped."""
    episodes = recording.episodes
    if not recording.discrete:
        found = _joined([e.actions for e in episodes], name, "an action", 2)
        if found.shape[1:] != low.shape:
            raise UserError(f"{name} has actions of {found.shape[1]} numbers, but its space has {len(low)}")
        inside = np.clip(found, low, high)
        if (np.abs(found - inside) > BOX_TOLERANCE * np.maximum(1, np.abs(inside))).any():
            worst = found.flat[np.abs(found - inside).argmax()]
            raise UserError(f"{name} has an action {worst:g} outside its space, {low.min():g} to {high.max():g}")
        return inside
    found = np.concatenate([np.asarray(e.actions).reshape(len(e.rewards), -1) for e in episodes])
    try:
        found = found.astype(np.float64)
    except (TypeError, ValueError) as error:
        raise UserError(f"{name} has Discrete actions that are not numbers") from error
    if found.shape[1:] != (1,) or not np.isfinite(found).all() or (found != np.floor(found)).any():
        raise UserError(f"{name} has Discrete actions that are not whole numbers")
    index = found.astype(np.int64) - recording.start
    if index.min() < 0 or (recording.n_actions and index.max() >= recording.n_actions):
        first, last = recording.start, recording.start + recording.n_actions - 1
        given = f"{found.min():g} to {found.max():g}"
        raise UserError(f"{name} has actions from {given}, but its space has {first} to {last}")
    return index.astype(np.float32)


def _bounds(bound: np.ndarray | None, recording: Recording, sign: int) -> np.ndarray:
    if recording.discrete:
        return np.zeros(0, np.float32)
    if bound is not None:
        return np.asarray(bound, np.float32)
    shape = np.shape(recording.episodes[0].actions)
    return np.full(shape[-1] if len(shape) > 1 else 1, sign * np.inf, np.float32)


def _joined(parts: list[Any], name: str, what: str, dimensions: int) -> np.ndarray:
    """The parts in one float32 array. Raises UserError for other shapes, and for numbers that are not finite."""
    try:
        with np.errstate(over="ignore"):
            found = np.concatenate(parts).astype(np.float32)
    except (TypeError, ValueError) as error:
        raise UserError(f"{name}: {what} is not a list of numbers of the same size as the others") from error
    if found.ndim != dimensions:
        raise UserError(f"{name}: {what} has {found.ndim - 1} dimensions instead of {dimensions - 1}")
    bad = ~np.isfinite(found.reshape(len(found), -1)).all(axis=1)
    if bad.any():
        raise UserError(f"{name}: {what} is not finite (row {int(np.flatnonzero(bad)[0])})")
    return found


def _finished(data: Trajectories) -> Trajectories:
    """The data with its fingerprint, and arrays that cannot be changed by accident."""
    digest = hashlib.sha256()
    for each in fields(data):
        array = getattr(data, each.name)
        if isinstance(array, np.ndarray):
            array.flags.writeable = False
            digest.update(f"{each.name} {array.dtype.str} {array.shape};".encode())
            digest.update(np.ascontiguousarray(array).data)
    return replace(data, source=replace(data.source, fingerprint=digest.hexdigest()))


def trajectories(episodes: Sequence[Episode], **known: Any) -> Trajectories:
    """Episodes in memory; `known` are fields of `Recording`."""
    return trajectories_of(Recording(list(episodes), **known), "the data")
