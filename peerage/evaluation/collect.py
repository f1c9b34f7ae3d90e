"""Records episodes of trained members and advisers as a dataset.

    from peerage.evaluation.collect import collect

    data = collect(["experiments/my-run:0@best", "random=0.5"], "mixed-v0", episodes=200, noise=0.1)
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from peerage.config.file import to_dict
from peerage.config.sources import Source, divided, parse_source, runs_of
from peerage.envs.actions import ActionConverter
from peerage.envs.make import EnvMaker, Maker, Spec, check_env_id
from peerage.envs.names import imported, recorded_name
from peerage.envs.vector import EnvGroup
from peerage.errors import UserError
from peerage.evaluation.evaluate import limit_episodes
from peerage.extras import optional
from peerage.interop.single import space_of
from peerage.learners.base import Space
from peerage.learners.streams import StreamKey
from peerage.learners.transition import HostTransition
from peerage.offline.episodes import Episode, Recording
from peerage.offline.trajectories import Trajectories, trajectories_of
from peerage.offline.writing import Target, Written, description, statistics, target, write
from peerage.runs.environment import versions
from peerage.runs.folder import RunFolder
from peerage.sharing.adviser import Adviser, Suggests, as_adviser
from peerage.sharing.advisers import Trained, make_adviser
from peerage.sharing.byzantine import Noisy, check_scale
from peerage.sharing.fixed_advisers import FixedAdvisers
from peerage.text import count

EPISODES = 100
N_ENVS = 16
"""Default number of environments that are stepped together."""


@dataclass
class _Askers:
    """The environments of a source as a group of one replica that asks one adviser."""

    N: int
    space: Space
    R: int = 1

    @property
    def M(self) -> int:
        return self.N


@dataclass
class _Part:
    """One source: its name, its policy and its number of episodes."""

    name: str
    policy: Adviser
    episodes: int
    share: float
    recorded: list[Written] = field(default_factory=list)


def collect(
    sources: str | Path | Suggests | Sequence[str | Path | Suggests],
    out: str | Path,
    *,
    episodes: int = EPISODES,
    env: Maker | None = None,
    env_args: Mapping[str, Any] | None = None,
    seed: int = 0,
    noise: float = 0.0,
    sample: bool = False,
    max_episode_steps: int | None = None,
    n_envs: int = N_ENVS,
    overwrite: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Trajectories:
    """Record `episodes` episodes and write them as a Minari dataset.

    Args:
        sources: trained members (`RUN[:MEMBER][@best|@STEP]`, or a zip file of Stable-Baselines3), names of advisers,
            or adviser objects. The episodes are shared equally, or by the weights in `SOURCE=SHARE`.
        out: the name of the dataset, which is then in Minari's folder, or the path of a folder.
        env: the environment; by default that of the first run among the sources.
        env_args: its arguments, in addition to those of the run.
        seed: the seed of the episodes and of the noise.
        noise: exploration noise. Box: normal noise with a standard deviation of `noise` times half of the range of each
            number; Discrete: the probability of a uniformly drawn action.
        sample: trained members sample their actions, as in their training; by default they take the mode of their
            policies. For SAC and PPO.
        max_episode_steps: the length after which an episode is truncated. A Decision Transformer as a source truncates
            episodes after its timesteps (`max_ep_len`).
        n_envs: the number of environments that are stepped together. The data depends on it where a policy is random.
        overwrite: whether to replace an existing dataset.
        progress: called with the numbers of finished and of all episodes.

    Raises UserError, in one line and before anything is written, if the sources, the environment and `out` do not fit.
    """
    optional("minari", "offline", "a Minari dataset")
    optional("h5py", "offline", "a Minari dataset")
    where = target(out, overwrite)
    if isinstance(sources, str) or not isinstance(sources, Sequence):
        sources = [sources]
    given = [parse_source(str(source)) if isinstance(source, str | Path) else source for source in sources]
    if not given:
        raise UserError("there is nothing to collect: name at least one source")
    if not 0 <= noise < np.inf or n_envs < 1 or episodes < 1 or (max_episode_steps or 1) < 1 or seed < 0:
        raise UserError("noise must not be negative; episodes, n_envs and max_episode_steps must be at least 1")
    maker = _environment([source for source in given if isinstance(source, Source)], env, dict(env_args or {}))
    spec = check_env_id(maker.env, maker.env_args)
    if spec.image is not None:
        raise UserError(f"{spec.id} has images as observations; a dataset needs flat observations")
    maker = replace(maker, own_random=spec.own_random)
    parts = _parts(given, spec, episodes, noise, sample)
    done = 0

    def one_more() -> None:
        nonlocal done
        done += 1
        progress(done, episodes)

    for position, part in enumerate(parts):
        key = StreamKey(seed, 0, position)
        part.recorded = _play(part, maker, spec, key, min(n_envs, part.episodes), max_episode_steps, one_more)
    settings = {
        "seed": seed, "noise": noise, "sample": sample, "n_envs": n_envs, "max_episode_steps": max_episode_steps,
        "sources": [
            {"source": part.name, "share": part.share, **statistics([episode.rewards for episode in part.recorded])}
            for part in parts
        ],
    }  # fmt: skip
    provenance = ", ".join(f"{part.name} ({count(part.episodes, 'episode')})" for part in parts)
    provenance += ", sampled" * sample + (f", noise {noise:g}" if noise else "")
    return save(where, [e for part in parts for e in part.recorded], maker, spec, provenance, settings)


def save(
    where: Target,
    episodes: Sequence[Written],
    maker: EnvMaker,
    spec: Spec,
    provenance: str,
    settings: Mapping[str, Any],
) -> Trajectories:
    """Write recorded episodes of an environment, and return them as `load_data` does. `settings` describe how they were
    recorded."""
    name = recorded_name(maker.env)
    name = "" if name.startswith("<") else name  # a function without a name that another process can import
    env_args = plain(maker.env_args)
    returns = statistics([episode.rewards for episode in episodes])
    about = {
        "env": name, "env_args": env_args, "provenance": provenance, **settings, **returns,
        "versions": versions(), "fingerprint": dict(spec.fingerprint),
    }  # fmt: skip
    built = maker.make()
    packages = spec.fingerprint.get("packages", {})
    try:
        write(
            where,
            episodes,
            spec.observation_space,
            spec.action_space,
            None if callable(imported(maker.env)) else built,
            algorithm=provenance,
            description=f"{description(name or spec.id, returns)}; recorded by peerage collect",
            requirements=[f"{package}=={version}" for package, version in packages.items()],
            about=about,
        )
    finally:
        built.close()
    start = int(getattr(spec.action_space, "start", 0)) if spec.discrete else 0
    low, high = (None, None) if spec.discrete else (spec.action_low, spec.action_high)
    recording = Recording(
        [Episode(e.obs, e.actions, e.rewards, e.terminated) for e in episodes],
        name, env_args, spec.discrete, spec.n_actions, start, low, high, provenance,
    )  # fmt: skip
    return trajectories_of(recording, where.name if where.in_minari else str(where.path))


def plain(env_args: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of an environment that a file can hold; other objects are left out."""
    kinds = (bool, int, float, str, type(None), list, tuple, dict)
    return {name: value for name, value in env_args.items() if isinstance(value, kinds)}


def _environment(sources: Sequence[Source], env: Maker | None, env_args: dict[str, Any]) -> EnvMaker:
    """The environment to record: `env`, or that of the runs among the sources. Raises UserError if it is unknown."""
    if env is not None:
        return EnvMaker(env, env_args)
    runs = {run: RunFolder.open(run).resolved() for run in runs_of(sources)}
    if not runs:
        raise UserError("no source names the environment: add --env")
    first, config = next(iter(runs.items()))
    for run, other in runs.items():
        if (other.env, to_dict(other)["env_args"]) != (config.env, to_dict(config)["env_args"]):
            one, two = (f"{c.env} {plain(c.env_args) or ''}".strip() for c in (config, other))
            raise UserError(f"{first} was trained on {one}, {run} on {two}: choose one with --env and --env-args")
    return EnvMaker(config.env, {**config.env_args, **env_args})


def _parts(
    given: Sequence[Source | Suggests], spec: Spec, episodes: int, noise: float, sample: bool
) -> list[_Part]:
    shares = [source.share if isinstance(source, Source) else 1.0 for source in given]
    counts = divided(episodes, shares)
    parts = []
    for source, n, share in zip(given, counts, shares):
        if isinstance(source, Source):
            name, policy = source.text, make_adviser(source.adviser.text, spec)
        else:
            policy = as_adviser(copy.deepcopy(source))
            name = str(getattr(source, "name", type(source).__name__.lower()))
        if not n:
            raise UserError(f"{name} gets none of {count(episodes, 'episode')}: raise --episodes or its share")
        if sample and (trained := _trained(policy)) is not None:
            trained.sample()
        if noise:
            check_scale(noise, spec.discrete, f"--noise {noise:g}")
            policy = Noisy(policy, spec.action_space, noise)
        parts.append(_Part(name, policy, n, share))
    if sample and not any(_trained(part.policy) for part in parts):
        raise UserError("--sample has no effect: no source is a trained member")
    return parts


def _trained(policy: Any) -> Trained | None:
    """The trained member inside an adviser."""
    while policy is not None and not isinstance(policy, Trained):
        policy = getattr(policy, "inner", None)
    return policy


def _play(
    part: _Part,
    maker: EnvMaker,
    spec: Spec,
    key: StreamKey,
    n_envs: int,
    max_steps: int | None,
    one_more: Callable[[], None],
) -> list[Written]:
    """Play the episodes of a source in `n_envs` environments. Environment i plays the episodes i, i + n_envs, ..., so
    that short episodes are not played more often than long ones."""
    seeds = key.generator("episodes").integers(2**31, size=part.episodes).tolist()
    envs = EnvGroup([maker] * n_envs, [seeds[i::n_envs] for i in range(n_envs)])
    limit_episodes(envs, max_steps, part.policy.max_steps)
    try:
        askers: Any = _Askers(n_envs, space_of(spec.observation_space, spec.action_space))
        advisers = FixedAdvisers([[part.policy]], askers, key.seed, 2**31, shuffle=False)
        advisers.advisers[0].rng = key.generator("policy")
        convert = ActionConverter(spec.action_space)
        envs.set_clock(0, running=False)
        obs, first = envs.reset(), np.ones(n_envs, bool)
        running: list[list[tuple[Any, ...]]] = [[] for _ in range(n_envs)]  # the steps of the running episodes
        played = np.zeros(n_envs, np.int64)
        wanted = np.array([len(seeds[i::n_envs]) for i in range(n_envs)])
        found: dict[int, Written] = {}
        alone, always = np.full(n_envs, n_envs), np.ones(n_envs, bool)  # all follow this one adviser, in every step
        while (pending := played < wanted).any():
            advisers.begin_step(1)
            answers = advisers.ask(obs, first, pending, np.zeros(n_envs, np.int64))[:, 0]
            actions = answers[:, 0].astype(np.int64) if spec.discrete else answers
            step = envs.step(actions, only=pending)
            advisers.observe(
                HostTransition(
                    obs, answers, step.reward, step.next_obs, step.terminated, step.truncated, step.done, first,
                    alone, always,
                )
            )  # fmt: skip
            taken = convert(actions)
            for i in np.flatnonzero(pending).tolist():
                running[i].append((obs[i], taken[i], step.reward[i]))
                if step.done[i]:
                    seen, acted, rewards = map(list, zip(*running[i]))
                    seen.append(step.next_obs[i])
                    episode, ended = i + int(played[i]) * n_envs, bool(step.terminated[i])
                    arrays = (np.stack(seen), np.stack(acted), np.stack(rewards))
                    found[episode] = Written(*arrays, ended, seeds[episode], {"source": part.name})
                    running[i] = []
                    played[i] += 1
                    one_more()
            obs, first = step.obs, step.done
    finally:
        envs.close()
    return [found[episode] for episode in range(part.episodes)]
