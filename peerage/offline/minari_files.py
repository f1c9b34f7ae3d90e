"""Reads Minari datasets (https://minari.farama.org). Only data is read: the environment is never built, and nothing is
downloaded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Dict, Discrete, Space

from peerage.errors import UserError
from peerage.extras import optional
from peerage.offline.episodes import Episode, Recording
from peerage.offline.places import METADATA, data_folder
from peerage.text import one_line

OURS = "peerage"
"""The entry of the metadata of a dataset that `peerage collect` has written."""
MAX_METADATA = 1 << 26
"""Bytes of the largest metadata.json that is read."""


def read_metadata(folder: Path) -> dict[str, Any]:
    """The content of metadata.json of the Minari dataset `folder`. Raises UserError for a damaged file."""
    data = data_folder(folder)
    if data is None:
        raise UserError(f"{folder} is not a Minari dataset: it contains no {METADATA}")
    try:
        if (data / METADATA).stat().st_size > MAX_METADATA:
            raise ValueError("it is too large")
        metadata = json.loads((data / METADATA).read_text(encoding="utf-8"))
        if not isinstance(metadata, dict):
            raise ValueError("it is not a mapping")
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{data / METADATA} cannot be read: {one_line(error)[:200]}") from error
    return metadata


def read_minari(folder: Path) -> Recording:
    """The episodes of the Minari dataset `folder`. Raises UserError, in one line, for a dataset that is damaged or that
    has spaces that Peerage cannot learn from."""
    metadata = read_metadata(folder)
    minari = optional("minari.dataset.minari_storage", "offline", "a Minari dataset")
    if not {"observation_space", "action_space"} <= metadata.keys():
        # Minari would build the environment, which may execute any function that the file names.
        raise UserError(f"{folder} does not describe its spaces, which Minari 0.5 writes: create the dataset again")
    _check_files(folder, str(metadata.get("data_format")))
    try:
        storage = minari.MinariStorage.read(data_folder(folder))
    except UserError:
        raise
    except Exception as error:  # a damaged dataset can raise anything
        raise _unreadable(folder, error) from error
    observations, actions = storage.observation_space, storage.action_space
    _check_spaces(folder, observations, actions)
    episodes: list[Episode] = []
    try:
        for found in storage.get_episodes(range(storage.total_episodes)):
            terminated = np.asarray(found["terminations"])
            obs = _flat(found["observations"], observations)
            over = terminated | np.asarray(found["truncations"])
            if over[:-1].any():
                where = f"{folder}: episode {len(episodes)}"
                raise UserError(f"{where} ends at step {int(over.argmax()) + 1:,} but has {len(over):,} steps")
            ended = bool(terminated[-1]) if len(terminated) else False
            episodes.append(Episode(obs, np.asarray(found["actions"]), np.asarray(found["rewards"]), ended))
    except MemoryError as error:
        raise UserError(f"{folder} does not fit into the memory") from error
    except UserError:
        raise
    except Exception as error:
        raise _unreadable(folder, error) from error
    env, env_args = environment(metadata)
    discrete = isinstance(actions, Discrete)
    return Recording(
        episodes,
        env,
        env_args,
        discrete,
        n_actions=int(actions.n) if discrete else 0,
        start=int(actions.start) if discrete else 0,
        low=None if discrete else actions.low,
        high=None if discrete else actions.high,
        provenance=provenance(metadata),
    )


def environment(metadata: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """The environment that a dataset names, and its arguments; `("", {})` if there is none. It is not built."""
    ours = metadata.get(OURS)
    if isinstance(ours, dict) and isinstance(ours.get("env"), str) and isinstance(ours.get("env_args"), dict):
        return ours["env"], ours["env_args"]
    try:
        spec = json.loads(metadata["env_spec"])
        name, arguments, limit = str(spec["id"]), dict(spec.get("kwargs") or {}), spec.get("max_episode_steps")
    except (KeyError, TypeError, ValueError, RecursionError):
        return "", {}
    known = gymnasium.registry.get(name)
    if known is not None and isinstance(limit, int) and limit != known.max_episode_steps:
        arguments["max_episode_steps"] = limit
    return name, arguments


def provenance(metadata: dict[str, Any]) -> str:
    """One line about the policies whose episodes a dataset contains."""
    ours = metadata.get(OURS)
    if isinstance(ours, dict) and isinstance(ours.get("provenance"), str):
        return one_line(ours["provenance"])
    return one_line(metadata.get("algorithm_name") or metadata.get("description") or "")[:300]


def _check_files(folder: Path, data_format: str) -> None:
    """UserError unless the dataset has a format that is read, and its HDF5 file is a regular file."""
    if data_format not in ("hdf5", "arrow", "parquet"):
        raise UserError(f"{folder} has the data format {data_format[:40]!r}: use hdf5, arrow or parquet")
    if data_format != "hdf5":
        optional("pyarrow.dataset", "offline", f"a Minari dataset in the format {data_format}")
        return
    h5py = optional("h5py", "offline", "a Minari dataset")
    path = data_folder(folder) / "main_data.hdf5"  # type: ignore[operator]  # it exists
    if not path.is_file():
        raise UserError(f"{folder} is incomplete: {path} is missing")
    try:
        with h5py.File(path, "r") as file:
            linked = file.visititems_links(lambda name, link: None if isinstance(link, h5py.HardLink) else name)
            if linked is not None:
                raise ValueError(f"its entry {linked!r} is a link")
    except Exception as error:
        raise _unreadable(folder, error) from error


def _check_spaces(folder: Path, observations: Space[Any], actions: Space[Any]) -> None:
    flat = _is_flat(observations) or (isinstance(observations, Dict) and all(map(_is_flat, observations.values())))
    if not flat or not len(observations.spaces if isinstance(observations, Dict) else observations.shape):  # type: ignore[arg-type]
        what = one_line(observations)[:100]
        raise UserError(f"{folder} has observations {what}; Peerage reads flat Box observations, or a Dict of them")
    if not isinstance(actions, Discrete) and not _is_flat(actions):
        raise UserError(f"{folder} has actions {one_line(actions)[:100]}; Peerage reads flat Box and Discrete actions")


def _is_flat(space: Space[Any]) -> bool:
    return isinstance(space, Box) and len(space.shape) == 1 and space.shape[0] > 0


def _flat(observations: Any, space: Space[Any]) -> np.ndarray:
    """`[T + 1, obs]`; the parts of a Dict in the order of the space, as `gymnasium.wrappers.FlattenObservation` has
    them."""
    if isinstance(space, Dict):
        return np.concatenate([np.asarray(observations[name]) for name in space], axis=1)
    return np.asarray(observations)


def _unreadable(folder: Path, error: Exception) -> UserError:
    return UserError(f"{folder} is not a readable Minari dataset: {type(error).__name__}: {one_line(error)[:200]}")
