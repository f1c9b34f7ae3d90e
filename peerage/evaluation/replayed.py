"""Makes a dataset of the replay buffer of a member, which contains the episodes of its training."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from peerage.envs.actions import ActionConverter
from peerage.envs.make import EnvMaker, Maker, check_env_id
from peerage.errors import UserError
from peerage.evaluation.collect import save
from peerage.extras import optional
from peerage.interop.pretrained import parse_spec
from peerage.interop.single import space_of
from peerage.learners.base import BoxScale
from peerage.learners.defaults import member_settings
from peerage.learners.group import stack_positions
from peerage.offline.trajectories import Trajectories
from peerage.offline.writing import Written, target
from peerage.runs import checkpoint
from peerage.runs.folder import RunFolder
from peerage.text import count


def from_replay(
    member: str,
    out: str | Path,
    *,
    replica: int = 0,
    episodes: int | None = None,
    env: Maker | None = None,
    overwrite: bool = False,
) -> tuple[Trajectories, str]:
    """Write the complete episodes in the replay buffer of `member`, `RUN[:MEMBER][@best|@STEP]`, as a Minari dataset.
    `episodes`: only the newest ones. `env`: the environment of a run that was started with a function.

    Returns the data, and a message about the steps of incomplete episodes. Raises UserError, in one line, for a member
    without a replay buffer and if it contains no complete episode.
    """
    optional("minari", "offline", "a Minari dataset")
    optional("h5py", "offline", "a Minari dataset")
    where = target(out, overwrite)
    run, number, which = parse_spec(member)
    config = RunFolder.open(run).resolved()
    for what, given, n in (("member", number, config.n_peers), ("replica", replica, config.replicas)):
        if not 0 <= given < n:
            raise UserError(f"{run} has no {what} {given}: use 0 to {n - 1}")
    maker = EnvMaker(env if env is not None else config.env, config.env_args)
    spec = check_env_id(maker.env, maker.env_args)
    if spec.image is not None:
        raise UserError(f"{spec.id} has images as observations; a dataset needs flat observations")
    folder, state, _ = checkpoint.load_one(run, which)
    settings = member_settings(config, discrete=spec.discrete)
    k, positions = next((k, p) for k, p in enumerate(stack_positions(settings)) if number in p)
    try:
        replay = state["trainer"]["group"]["stacks"][str(k)]["learner"].get("replay")
        if replay is None:
            raise UserError(f"member {number} of {run} has no replay buffer: {settings[number].algorithm} keeps none")
        row = replica * len(positions) + positions.index(number)
        buffer = replay["data"]
        data = torch.cat([tensors["data"][row] for _, _, tensors in buffer.pieces()]).numpy()
        if data.shape[1] != 2 * spec.obs_dim + spec.act_dim + 2:
            raise ValueError("of another environment")
    except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError, OSError) as error:
        raise UserError(f"the replay buffer of {folder} cannot be read: the checkpoint is damaged") from error
    o, a = spec.obs_dim, spec.act_dim
    obs, actions, next_obs = data[:, :o], data[:, o : o + a], data[:, o + a : 2 * o + a]
    rewards, terminated = data[:, -2], data[:, -1] > 0.5
    pieces = cut(obs, next_obs, terminated, spec.max_episode_steps, from_start=buffer.start == 0)
    used = sum(stop - start for start, stop in pieces)
    if not pieces:
        raise UserError(f"the replay buffer of member {number} of {run} contains no complete episode")
    pieces = pieces[-episodes:] if episodes is not None else pieces
    if spec.discrete:
        taken = ActionConverter(spec.action_space)(actions[:, 0].astype(np.int64))
    else:
        scale = BoxScale(space_of(spec.observation_space, spec.action_space), "cpu", torch.float32)
        taken = ActionConverter(spec.action_space)(scale.to_env(torch.from_numpy(actions)).numpy())
    about = {"source": f"replay buffer of {run}:{number}"}
    found = [
        Written(
            np.concatenate([obs[start:stop], next_obs[stop - 1 : stop]]),
            taken[start:stop],
            rewards[start:stop].copy(),
            bool(terminated[stop - 1]),
            about=about,
        )
        for start, stop in pieces
    ]
    step = int(state["trainer"]["step"])
    provenance = f"replay buffer of {run}:{number} at step {step:,}"
    settings_of_data = {"from_replay": f"{run}:{number}", "replica": replica, "step": step}
    saved = save(where, found, maker, spec, provenance, settings_of_data)
    dropped = len(data) - used
    note = f"{count(dropped, 'step')} of incomplete episodes at the ends of the buffer were dropped" if dropped else ""
    return saved, note


def cut(
    obs: np.ndarray, next_obs: np.ndarray, terminated: np.ndarray, limit: int | None, from_start: bool
) -> list[tuple[int, int]]:
    """The complete episodes in consecutive transitions, as (first step, step after the last one).

    An episode ends in a terminal state, after `limit` steps, or where the observation after a step is not that before
    the next one. The last episode is complete only if it ended in one of the first two ways, the first one only with
    `from_start`: the transitions start with the first step of an episode.
    """
    if not len(obs):
        return []
    breaks = terminated.copy()
    breaks[:-1] |= (next_obs[:-1] != obs[1:]).any(axis=1)
    pieces: list[tuple[int, int]] = []
    start = 0
    for end in [*np.flatnonzero(breaks).tolist(), len(obs)]:
        stop = min(end + 1, len(obs))
        known = from_start or start > 0
        while limit is not None and known and stop - start > limit:  # the next episode began where this one ended
            pieces.append((start, start + limit))
            start += limit
        if known and start < stop and (end < len(obs) or stop - start == limit):
            pieces.append((start, stop))
        start = stop
    return pieces
