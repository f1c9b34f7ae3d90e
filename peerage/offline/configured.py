"""The dataset that a configuration names: loading, the part to learn from, and the settings that follow from it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from peerage.config import Config
from peerage.config.methods import LEARNERS
from peerage.config.tree import with_part
from peerage.envs.make import Spec
from peerage.errors import UserError
from peerage.offline.places import find, is_path, minari_root
from peerage.offline.trajectories import Trajectories, load_data
from peerage.text import count, one_line

BOUNDS_TOLERANCE = 1e-6
"""Relative difference below which two bounds of an action space are the same number, written by another program."""


def load_configured(
    config: Config, *, keep_env: bool = False, load: Callable[[str], Trajectories] = load_data
) -> tuple[Config, Trajectories]:
    """The episodes to learn from, and `config` with the settings that follow from the dataset.

    The environment is that of the dataset if `config` has the default one; with `keep_env`, and for a configuration
    that names the fingerprint of its data, it stays as it is. Default batch sizes are at most the steps of the data.
    `load` reads a dataset by its name or path. Raises UserError for data that cannot be read, and for data with another
    fingerprint.
    """
    data = load(config.data)
    source = data.source
    if config.data_fingerprint not in ("", source.fingerprint):
        raise UserError(
            f"the data in {config.data} has changed since it was first used (data_fingerprint "
            f"{config.data_fingerprint[:12]}, now {source.fingerprint[:12]}): "
            "restore it, or train a new run on the new data with --data NAME"
        )
    if not keep_env and not config.data_fingerprint and config.env == Config.env:
        if not source.env:
            raise UserError(f"{config.data} does not name its environment: add --env ID")
        if ":" in source.env:
            named = one_line(source.env)[:80]
            raise UserError(
                f"{config.data} names the environment {named}, whose module would be executed: add --env {named} if "
                "you trust it"
            )
        config = replace(config, env=source.env, env_args={**source.env_args, **config.env_args})
    chosen = best_episodes(data, config.data_fraction)
    defaults = [getattr(LEARNERS[name].settings(), "batch_size", 1) for name in config.learner.algorithm]
    if not config.learner.batch_size and max(defaults) > chosen.steps:
        config = with_part(config, "learner", batch_size=tuple(min(size, chosen.steps) for size in defaults))
    batch = max(config.learner.batch_size or defaults)
    if batch > chosen.steps:
        what = f"{chosen.steps:,} {'' if chosen is data else 'chosen '}steps of the data"
        raise UserError(f"--batch-size {batch:,} is more than the {what}: decrease it")
    if config.data_epochs is not None and config.total_timesteps is None:
        steps = config.data_epochs * math.ceil(chosen.episodes / batch)
        config = replace(config, total_timesteps=steps)
    return replace(config, data=_pinned(config.data), data_fingerprint=source.fingerprint), chosen


def _pinned(name_or_path: str) -> str:
    """What finds the same dataset later: an absolute path, or a name with its version."""
    path = find(name_or_path)
    if not is_path(name_or_path) and path.is_relative_to(minari_root()):
        return path.relative_to(minari_root()).as_posix()
    return str(path.absolute())


def with_longest_episode(config: Config, spec: Spec, data: Trajectories) -> Config:
    """`config` with the settings that are the length of the longest episode: the time limit of the environment or the
    longest episode of the data, whichever is longer. Raises UserError for a shorter length."""
    longest = int(max(spec.max_episode_steps or 0, data.lengths.max()))
    nets = {net.part for name in config.learner.algorithm if (net := LEARNERS[name].net) is not None}
    for part in nets:
        given = getattr(config, part).max_ep_len
        if 0 < given < longest:
            what = "the longest episode of the data" if longest > (spec.max_episode_steps or 0) else f"{spec.id}"
            raise UserError(f"--max-ep-len {given:,} is less than the {longest:,} steps of {what}: increase it")
        config = with_part(config, part, max_ep_len=given or longest)
    if short := [h for h in config.learner.return_horizon if 0 < h < longest]:
        raise UserError(f"--return-horizon {short[0]:,} is less than the {longest:,} steps of an episode: increase it")
    return with_part(config, "learner", return_horizon=tuple(h or longest for h in config.learner.return_horizon))


def best_episodes(data: Trajectories, fraction: float) -> Trajectories:
    """The episodes with the highest returns that together have at most this share of the steps, in (0, 1], and at least
    the best episode, in the order of the data. Of episodes with equal returns, earlier ones come first."""
    if fraction == 1:
        return data
    order = np.argsort(-data.returns, kind="stable")
    limit = fraction * data.steps * (1 + 1e-12)  # 0.29 * 100 is below 29
    count = max(1, int(np.searchsorted(np.cumsum(data.lengths[order]), limit, side="right")))
    return data.select(np.sort(order[:count]))


def check_fits(data: Trajectories, spec: Spec) -> None:
    """Raise UserError, which names both sides, if the spaces of the data are not those of the environment."""
    source = data.source
    discrete = source.n_actions > 0
    ours = _spaces(data.obs.shape[1], source.n_actions, data.actions.shape[1], source.low, source.high)
    theirs = _spaces(spec.obs_dim, spec.n_actions, spec.act_dim, spec.action_low, spec.action_high)
    alike = data.obs.shape[1] == spec.obs_dim and discrete == spec.discrete and source.n_actions == spec.n_actions
    if alike and not discrete:
        alike = data.actions.shape[1] == spec.act_dim
        for bound, other in ((source.low, spec.action_low), (source.high, spec.action_high)) if alike else ():
            known = np.isfinite(bound)
            alike = alike and np.allclose(bound[known], other[known], rtol=BOUNDS_TOLERANCE, atol=0)
    if not alike:
        same = "use data and an environment (--env) with the same spaces"
        raise UserError(f"the data in {source.name} has {ours}, but {spec.id} has {theirs}: {same}")


def _spaces(obs: int, n_actions: int, act: int, low: np.ndarray, high: np.ndarray) -> str:
    """The sizes of spaces in words."""
    seen = f"observations of {count(obs, 'number')}"
    if n_actions:
        return f"{seen} and {n_actions} discrete actions"
    bounds = f"{low.min():g} to {high.max():g}" if np.isfinite(low).all() and np.isfinite(high).all() else "any number"
    return f"{seen} and actions of {count(act, 'number')} ({bounds})"
