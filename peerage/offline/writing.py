"""Writes Minari datasets. A dataset appears under its name only when it is complete."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Discrete

from peerage.errors import UserError
from peerage.extras import optional
from peerage.offline.minari_files import OURS
from peerage.offline.places import DATA, NAME, expanded, is_minari, is_path, minari_root
from peerage.runs import disk
from peerage.text import count, number, one_line

FIRST_VERSION = "-v0"


@dataclass(frozen=True)
class Target:
    """Where a dataset is written."""

    path: Path
    name: str
    """The id of Minari, `[namespace/]name-v0`."""
    in_minari: bool
    """Whether it is in Minari's folder, so that its name finds it."""


@dataclass
class Written:
    """One episode of a dataset. Arrays as in the environment; T steps."""

    obs: Any
    """[T + 1, obs]"""
    actions: Any
    """[T] or [T, act]"""
    rewards: Any
    """[T]"""
    terminated: bool
    seed: int | None = None
    """The seed of the environment's reset."""
    about: Mapping[str, Any] = field(default_factory=dict)
    """Metadata of the episode: text and numbers."""


def target(out: str | Path, overwrite: bool = False) -> Target:
    """Where `out` is: a name, which gets the version 0 if it has none, is in Minari's folder; a path is a folder.

    Raises UserError for an invalid name, if a dataset exists and `overwrite` is false, and if there is something else.
    """
    text = str(out)
    if isinstance(out, Path) or is_path(text):
        path = expanded(text).absolute()
        base = re.sub(r"[^-\w]+", "-", path.name, flags=re.ASCII).strip("-") or "data"
        where = Target(path, _versioned(base), False)
        if not path.name or "\0" in text:
            raise UserError(f"{text!r} is not the path of a folder")
    else:
        if not NAME.fullmatch(text):
            example = "hopper-mixed-v0 or mine/hopper-mixed-v0"
            raise UserError(f"{text!r} is neither the name of a dataset, as {example}, nor a path, as ./hopper-mixed")
        name = _versioned(text)
        where = Target(minari_root().absolute() / name, name, True)
    if not os.path.lexists(where.path):
        return where
    if not is_minari(where.path):
        raise UserError(f"{where.path} exists and is not a dataset: choose another name or path")
    if not overwrite:
        raise UserError(
            f"{where.path} exists: choose another name, or replace it with --overwrite (in Python overwrite=True)"
        )
    return where


def write(
    where: Target,
    episodes: Sequence[Written],
    observation_space: Box,
    action_space: Box | Discrete,
    env: gymnasium.Env | None,
    *,
    algorithm: str,
    description: str,
    requirements: Sequence[str] = (),
    about: Mapping[str, Any],
) -> None:
    """Write the episodes as a Minari dataset in HDF5, and replace a dataset that is there.

    `env`: an environment of the data; its spec is stored if Gymnasium can build it again from the spec. `about` is
    stored in metadata.json under the key `peerage`. Raises OSError.
    """
    minari = optional("minari", "offline", "a Minari dataset")
    storage_module = optional("minari.dataset.minari_storage", "offline", "a Minari dataset")
    buffers = optional("minari.data_collector.episode_buffer", "offline", "a Minari dataset")
    partial = where.path.with_name(f".{where.path.name}.partial")
    old = where.path.with_name(f".{where.path.name}.old")
    for left in (partial, old):  # left by a process that was killed
        disk.remove(left)
    data = partial / DATA
    data.mkdir(parents=True)
    try:
        spec = rebuildable_spec(env)
        storage = storage_module.MinariStorage.new(data, observation_space, action_space, spec, jpeg_encoding=False)
        storage.update_metadata(
            {
                "dataset_id": where.name,
                "minari_version": minari.__version__,
                "algorithm_name": algorithm,
                "description": description,
                "requirements": list(requirements),
                OURS: dict(about),
            }
        )
        storage.update_episodes(buffers.EpisodeBuffer(**_buffer(episode)) for episode in episodes)
        storage.update_episode_metadata([dict(episode.about) for episode in episodes])
        for path in (*data.iterdir(), data, partial):
            disk.sync(path)
        if os.path.lexists(where.path):
            os.rename(where.path, old)
        os.rename(partial, where.path)
        disk.sync(where.path.parent)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        if old.exists() and not where.path.exists():
            os.rename(old, where.path)
        raise
    disk.remove(old)
    if where.in_minari:
        _add_namespaces(where.name)


def statistics(rewards: Sequence[np.ndarray]) -> dict[str, Any]:
    """What metadata.json says about the rewards of some episodes: their number, steps, returns and lengths."""
    returns = np.array([np.sum(each, dtype=np.float64) for each in rewards])
    lengths = np.array([len(each) for each in rewards])
    if not len(returns):
        return {"episodes": 0, "steps": 0}
    quantiles = np.quantile(returns, [0, 0.1, 0.5, 0.9, 1])
    return {
        "episodes": len(returns),
        "steps": int(lengths.sum()),
        "return_mean": float(returns.mean()),
        "return_std": float(returns.std()),
        "return_quantiles": dict(zip(("0", "10", "50", "90", "100"), map(float, quantiles))),
        "length_min": int(lengths.min()),
        "length_mean": float(lengths.mean()),
        "length_max": int(lengths.max()),
    }


def description(env: str, about: Mapping[str, Any]) -> str:
    """One line about the episodes of an environment with these `statistics`."""
    quantiles = about["return_quantiles"]
    spread = f"{number(quantiles['0'])} to {number(quantiles['100'])}, median {number(quantiles['50'])}"
    return f"{count(about['episodes'], 'episode')} of {env}, {count(about['steps'], 'step')}, returns {spread}"


def rebuildable_spec(env: gymnasium.Env | None) -> Any:
    """The spec of `env` if it is JSON and Gymnasium can build the environment from it; otherwise None."""
    spec = None if env is None else env.spec
    if spec is None or spec.id not in gymnasium.registry or any(w.kwargs is None for w in spec.additional_wrappers):
        return None
    try:
        json.loads(spec.to_json())
    except (TypeError, ValueError):  # an argument that JSON does not have
        return None
    return spec


def _versioned(name: str) -> str:
    return name if (match := NAME.fullmatch(name)) and match["version"] else name + FIRST_VERSION


def _buffer(episode: Written) -> dict[str, Any]:
    """The arguments of Minari's EpisodeBuffer."""
    ends = [False] * (len(episode.rewards) - 1)
    return {
        "seed": episode.seed,
        "observations": episode.obs,
        "actions": episode.actions,
        "rewards": episode.rewards,
        "terminations": [*ends, episode.terminated],
        "truncations": [*ends, not episode.terminated],
    }


def _add_namespaces(name: str) -> None:
    """Minari's files for the namespaces of a dataset in its folder."""
    namespace = optional("minari.namespace", "offline", "a Minari dataset")
    folder = name.rpartition("/")[0]
    if folder and not (minari_root() / folder / namespace.NAMESPACE_METADATA_FILENAME).exists():
        try:
            namespace.create_namespace(folder)
        except ValueError as error:
            raise UserError(f"{name} was written, but not its namespace: {one_line(error)}") from error
