"""An episode of a trained member with its attention weights and its policy in every step.

    episode = play_episode("experiments/my-run", member=0)
    episode.weights["pool"]  # [T, heads, queries, keys]

`peerage.evaluation.importance` compares the weights with other measures of importance.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from peerage.envs.make import Maker
from peerage.envs.vector import EnvGroup
from peerage.errors import UserError
from peerage.evaluation.alone import MemberActor
from peerage.evaluation.evaluate import limit_episodes
from peerage.evaluation.member import Member, opened
from peerage.text import one_line


@dataclass(frozen=True)
class Episode:
    """An episode of `T` steps without exploration."""

    obs: np.ndarray
    """float32 [T, obs]: the observations in which the member acted."""
    actions: np.ndarray
    """float32 [T, act]; a Discrete action is its index, a Box action is clipped to the box."""
    rewards: np.ndarray
    """float32 [T]"""
    names: list[str]
    """[obs]: the numbers of an observation, such as `velocity`, `obs[3]` or `t-2: obs[3]`."""
    ended: bool
    """False: the episode was cut after `max_steps`."""
    probabilities: np.ndarray | None = None
    """float32 [T, A]: of a policy with Discrete actions; None for others."""
    values: np.ndarray | None = None
    """float32 [T, A]: Q-values, for DQN, which are no probabilities."""
    mean: np.ndarray | None = None
    """float32 [T, act]: of a normally distributed policy."""
    std: np.ndarray | None = None
    """float32 [T, act]"""
    weights: dict[str, np.ndarray] = field(default_factory=dict)
    """Attention weights by the name of the layer, float32 [T, heads, queries, keys], each row with sum 1;
    `number.pool`, which pools the numbers of each step of a window, is [T, steps, heads, 1, numbers]. Empty for other
    networks."""
    tokens: dict[str, tuple[list[str], list[str]]] = field(default_factory=dict)
    """The labels of queries and keys of each layer."""
    window: tuple[list[str], list[str]] | None = None
    """The labels of the steps of a window, `[steps]`, and of the numbers of a step, `[numbers]`, where the observation
    is a window of past steps: `obs` is `[T, steps * numbers]`. None for other observations."""
    frames: list[np.ndarray] | None = None
    """Images uint8 [height, width, 3] before each action; None if they were not asked for."""


def play_episode(
    run: Path | str,
    *,
    member: int = 0,
    replica: int = 0,
    checkpoint: str | int = "",
    seed: int = 0,
    max_steps: int = 500,
    frames: bool = False,
    env: Maker | None = None,
) -> Episode:
    """Play one episode of a member alone, without exploration.

    Args:
        run: the run folder.
        checkpoint: `best` or a step; by default the newest.
        seed: seed of the episode.
        max_steps: the episode is cut after this number of steps.
        frames: whether to record images.
        env: the environment of a run that was trained with a Python object.

    Raises UserError for a member that does not exist, and for `frames` of an environment that cannot be rendered.
    """
    if max_steps < 1:
        raise UserError(f"max_steps must be at least 1, got {max_steps}")
    with opened(run, member, replica, checkpoint, env) as found:
        return _play(found, seed, max_steps, frames)


def _play(member: Member, seed: int, max_steps: int, frames: bool) -> Episode:
    maker = member.maker
    if frames:
        maker = replace(maker, env_args={**maker.env_args, "render_mode": "rgb_array"})
    envs = limit_episodes(EnvGroup([maker], [[seed]], batched=False), None)
    actor = MemberActor(member.group, member.row)
    seen: list[np.ndarray] = []
    actions: list[Any] = []
    rewards: list[float] = []
    images: list[np.ndarray] = []
    ended = False
    try:
        envs.set_clock(member.trainer.step, running=False)
        obs = envs.reset(reseed=True)
        while not ended and len(seen) < max_steps:
            if frames:
                images.append(_image(envs))
            action = actor.act(obs)
            step = envs.step(action)
            seen.append(obs[0])
            actions.append(action[0] if envs.discrete else action[0].clip(envs.action_low, envs.action_high))
            rewards.append(float(step.reward[0]))
            obs, ended = step.obs, bool(step.done[0])
    finally:
        envs.close()
    states = np.stack(seen)
    weights = member.weights(states)
    return Episode(
        obs=states,
        actions=np.array(actions, np.float32).reshape(len(actions), -1),
        rewards=np.array(rewards, np.float32),
        names=member.names.numbers,
        ended=ended,
        weights=weights,
        tokens={name: token_labels(member, name) for name in weights},
        window=(member.names.steps, member.names.inside) if member.names.is_window else None,
        frames=images if frames else None,
        **member.output(states).arrays(),
    )


def _image(envs: EnvGroup) -> np.ndarray:
    try:
        picture: Any = envs.envs[0].render()
    except Exception as error:  # rendering needs drivers and packages that may be missing
        raise UserError(f"{envs.names[0]} cannot be rendered: {one_line(error)}") from error
    if not isinstance(picture, np.ndarray) or picture.ndim != 3:
        raise UserError(f"{envs.names[0]} returned no image: it does not support render_mode rgb_array")
    return np.ascontiguousarray(picture[..., :3], dtype=np.uint8)


def token_labels(member: Member, layer: str) -> tuple[list[str], list[str]]:
    """The labels of the queries and the keys of a layer of an attention network."""
    net, names = member.attention_net, member.names
    assert net is not None
    kind = net.settings.tokens
    keys = names.steps if kind in ("history", "both") else list(names.features) if kind == "set" else names.numbers
    if layer == "number.pool":
        return ["query"], names.step
    if layer == "present":
        return ["t"], keys
    if layer == "pool":
        count = net.settings.n_queries if kind == "set" else 1
        return [f"query {n}" for n in range(count)] if count > 1 else ["query"], keys
    return keys, keys
