"""Deletion curves: the return of a policy whose features are replaced by their means, one after the other.

If an order of importance is right, the return falls faster when the features are deleted in this order than in a random
one: its area is smaller.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from peerage.envs.vector import EnvGroup
from peerage.evaluation.alone import MemberActor
from peerage.evaluation.evaluate import Actor, limit_episodes, play
from peerage.evaluation.member import Member
from peerage.statistics.intervals import interval

RANDOM = "random"
FEW = 4
"""Up to this many features, `random` is the mean over all orders."""
MAX_LEVELS = 10
"""The largest number of points of a curve after the first."""
MAX_ENVS = 256
"""Environments that step together."""


@dataclass(frozen=True)
class Curve:
    """The curve of one order."""

    returns: np.ndarray
    """[L, E]: the return of each episode with `deleted` features replaced."""
    area: float
    """The mean of the return over the shares of deleted features from 0 to 1, by the trapezoidal rule."""
    difference: float
    """`area` minus that of random orders; below 0: the return falls faster than at random."""
    low: float
    """The 95% t interval of the difference over the episodes; NaN for a single episode."""
    high: float


@dataclass(frozen=True)
class Deletion:
    """The curves of several orders, with the same episodes."""

    deleted: np.ndarray
    """[L]: the number of deleted features, 0 to all."""
    curves: dict[str, Curve]
    """By the name of the order; `random` is the mean of many orders."""


class _Replacing(Actor):
    """A member that sees `means [obs]` in place of the numbers `masks [rows, obs]` (bool)."""

    def __init__(self, member: Member, masks: np.ndarray, means: np.ndarray) -> None:
        self.actor, self.masks, self.means = MemberActor(member.group, member.row), masks, means

    def act(self, obs: np.ndarray) -> np.ndarray:
        return self.actor.act(np.where(self.masks, self.means, obs))


def delete(
    member: Member,
    orders: Mapping[str, np.ndarray],
    groups: np.ndarray,
    means: np.ndarray,
    seeds: Sequence[int],
    rng: np.random.Generator,
    *,
    random_orders: int,
    max_steps: int | None,
) -> Deletion:
    """Delete features in each of `orders`, which name a permutation `[K]` of the features, the first to be deleted
    first, and in random orders.

    `groups [K, obs]` (bool): the numbers of each feature. `means [obs]`: what replaces them. `seeds`: of the episodes,
    the same for all points. `random` is the mean of `random_orders` orders; of all orders up to `FEW` features. Every
    set of features is played once, however many orders contain it.
    """
    count = len(groups)
    deleted = np.unique(np.linspace(0, count, min(count, MAX_LEVELS) + 1).round().astype(int))
    if count <= FEW:
        drawn = [np.array(order) for order in itertools.permutations(range(count))]
    else:
        drawn = [rng.permutation(count) for _ in range(random_orders)]
    points = {name: [[_key(order[:k])] for k in deleted] for name, order in orders.items()}
    points[RANDOM] = [[_key(order[:k]) for order in drawn] for k in deleted]
    subsets = list(dict.fromkeys(key for levels in points.values() for keys in levels for key in keys))
    masks = np.stack([groups[list(key)].any(axis=0) if key else np.zeros(groups.shape[1], bool) for key in subsets])
    returns = dict(zip(subsets, _play(member, masks, means, seeds, max_steps)))
    found = {name: np.stack([_mean(returns, keys) for keys in levels]) for name, levels in points.items()}
    shares = deleted / count
    areas = {name: np.trapezoid(values, shares, axis=0) for name, values in found.items()}  # [E] each
    return Deletion(deleted, {name: _curve(found[name], areas[name], areas[RANDOM]) for name in found})


def _mean(returns: Mapping[tuple[int, ...], np.ndarray], keys: Sequence[tuple[int, ...]]) -> np.ndarray:
    return np.asarray(np.mean([returns[key] for key in keys], axis=0))


def _key(features: np.ndarray) -> tuple[int, ...]:
    return tuple(sorted(features.tolist()))


def _curve(returns: np.ndarray, areas: np.ndarray, at_random: np.ndarray) -> Curve:
    difference = areas - at_random
    found = interval(difference, "mean")
    return Curve(returns, float(areas.mean()), found.estimate, found.low, found.high)


def _play(
    member: Member, masks: np.ndarray, means: np.ndarray, seeds: Sequence[int], max_steps: int | None
) -> np.ndarray:
    """The returns `[subsets, E]` of the episodes with each of the masks `[subsets, obs]`."""
    at_once = max(1, MAX_ENVS // len(seeds))
    found = []
    for start in range(0, len(masks), at_once):
        some = masks[start : start + at_once]
        rows = np.repeat(some, len(seeds), axis=0)
        envs = EnvGroup([member.maker] * len(rows), list(seeds) * len(some))
        try:
            limit_episodes(envs, max_steps).set_clock(member.trainer.step, running=False)
            played = play(envs, _Replacing(member, rows, means), 1, rest=True) or []
        finally:
            envs.close()
        found += [episode.return_ for _, _, episode in played]
    return np.array(found).reshape(len(masks), len(seeds))
