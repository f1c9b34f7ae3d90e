"""How important each feature of the observation is to a trained member, by three measures side by side.

    found = importance("experiments/my-run", episodes=10)
    print(found.table())

Attention weights say where a network looks. They do not measure importance by themselves: compare them with what
happens to the policy when a feature changes. Definitions: docs/attention-analysis.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd
import torch

from peerage.envs.make import Maker
from peerage.envs.vector import EnvGroup, Step
from peerage.errors import UserError
from peerage.evaluation.alone import MemberActor
from peerage.evaluation.attention import token_labels
from peerage.evaluation.deletion import Deletion, delete
from peerage.evaluation.evaluate import SEED, episode_seeds, limit_episodes, play
from peerage.evaluation.member import Member, opened
from peerage.evaluation.token_weights import feature_weights, token_weights
from peerage.statistics.measures import spearman

Kind = Literal["auto", "numbers", "steps", "features"]
MAX_STATES = 1000
"""The largest number of states; of more, some are drawn."""
PERMUTATIONS = 10
RANDOM_ORDERS = 10
DISTANCE = 0.01
"""The distance to both sides of the differences that give the gradients, in standard deviations."""


@dataclass(frozen=True)
class Importance:
    """Measures of the importance of `K` features."""

    names: list[str]
    weight: np.ndarray | None
    """[K]: mean attention weight (`peerage.evaluation.token_weights`); None without attention, or where the tokens are
    larger than the features. NaN for single features of which this is true."""
    occlusion: np.ndarray
    """[K]: mean change of the policy if the feature comes from another state."""
    gradient: np.ndarray
    """[K]: mean absolute derivative of the policy, per standard deviation of the feature."""
    unit: str
    """What `occlusion` measures: KL divergence, lost value, or distance of actions."""
    correlations: dict[str, float]
    """Spearman's rank correlations over the features, by pairs such as `weight, occlusion`. NaN with fewer than three
    features."""
    deletion: Deletion | None
    """The returns when features are deleted in the order of each measure; None if it was not asked for."""
    layers: dict[str, np.ndarray]
    """Mean attention weights over the states by the name of the layer, [heads, queries, keys]."""
    tokens: dict[str, tuple[list[str], list[str]]]
    """The labels of queries and keys of each layer."""
    states: int
    episodes: int
    step: int
    """Environment steps of the member before this checkpoint."""

    @property
    def measures(self) -> dict[str, np.ndarray]:
        """The measures by name, without those that do not exist."""
        found = {"weight": self.weight, "occlusion": self.occlusion, "gradient": self.gradient}
        return {name: values for name, values in found.items() if values is not None}

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain data."""
        curves = None
        if self.deletion is not None:
            curves = {
                name: {
                    "returns": curve.returns.mean(axis=1).tolist(),
                    "area": curve.area,
                    "difference_from_random": curve.difference,
                    "low": curve.low,
                    "high": curve.high,
                }
                for name, curve in self.deletion.curves.items()
            }
            curves = {"deleted": self.deletion.deleted.tolist(), "curves": curves}
        layers = {
            name: {"queries": self.tokens[name][0], "keys": self.tokens[name][1], "weights": weights.tolist()}
            for name, weights in self.layers.items()
        }
        return {
            "features": self.records(),
            "occlusion_unit": self.unit,
            "correlations": self.correlations,
            "deletion": curves,
            "layers": layers,
            "states": self.states,
            "episodes": self.episodes,
            "step": self.step,
        }

    def table(self) -> pd.DataFrame:
        """`records` as a table."""
        return pd.DataFrame(self.records())

    def records(self) -> list[dict[str, Any]]:
        """A row per feature."""
        rows = zip(*(values.tolist() for values in self.measures.values()))
        return [{"feature": name, **dict(zip(self.measures, row))} for name, row in zip(self.names, rows)]


def importance(
    run: Path | str,
    *,
    member: int = 0,
    replica: int = 0,
    checkpoint: str | int = "",
    episodes: int = 10,
    seed: int | None = None,
    of: Kind = "auto",
    deletion: bool = True,
    env: Maker | None = None,
) -> Importance:
    """The importance of features in the states of `episodes` episodes without exploration, at most `MAX_STATES`.

    Args:
        run: the run folder.
        checkpoint: `best` or a step; by default the newest.
        seed: seed of the episodes and the permutations; by default that of the run's evaluations.
        of: `numbers` (each number of the observation), or in a window `steps` (all numbers of a step together) or
            `features` (a feature in all steps together). `auto`: what the network attends over; for other networks
            steps of a window, otherwise numbers.
        deletion: whether to compute the deletion curves.
        env: the environment of a run that was trained with a Python object.

    Returns, with the policy `pi` in states `s` and the features `j`:
        occlusion: the mean over states of `KL(pi(s) || pi(s'))`, in nats, where `s'` is `s` with the numbers of `j`
            from another state, the mean of 10 random permutations of the states without fixed points. With steps, the
            flag that says whether the step belongs to the episode is replaced, too; otherwise the other state of a
            window has the same number of steps.
        gradient: the mean over states and over actions `a` drawn from the policy of `|d log pi(a | s) / d x|` times the
            standard deviation of `x`, summed over the numbers `x` of `j`; by central differences.
        For DQN and deterministic policies: `peerage.evaluation.outputs`.

    Raises UserError for a member that does not exist and for `of` steps or features without a window.
    """
    if of not in get_args(Kind):
        raise UserError(f"of must be {', '.join(get_args(Kind))}, got {of!r}")
    if episodes < 1:
        raise UserError(f"episodes must be at least 1, got {episodes}")
    with opened(run, member, replica, checkpoint, env) as found:
        start = SEED if seed is None else seed
        seeds = episode_seeds(found.trainer.config, episodes, start)[found.row]
        return analysed(found, seeds, _kind(found, of), np.random.default_rng(start), deletion)


def _kind(member: Member, of: Kind) -> str:
    windows = member.names.window.length > 1
    if of in ("steps", "features") and not windows:
        raise UserError(f"of {of} needs a window of steps (--env-args history=8): use numbers")
    if of != "auto":
        return of
    if not windows:
        return "numbers"
    tokens = member.attention_net.settings.tokens if member.attention_net else "history"
    return {"features": "numbers", "set": "features"}.get(tokens, "steps")


def analysed(
    member: Member, seeds: list[int], kind: str, rng: np.random.Generator, deletion: bool
) -> Importance:
    """`importance` of a member that is open. `kind`: numbers, steps or features."""
    names, groups = member.names.groups(kind)
    states = visited(member, seeds)
    if len(states) > MAX_STATES:
        states = states[rng.choice(len(states), MAX_STATES, replace=False)]
    mean, std = moments(member, states)
    weights = member.weights(states)
    weight: np.ndarray | None = None
    if weights:
        weight = feature_weights(groups, *token_weights(member, weights), member.names.flags).mean(axis=0)
        weight = None if np.isnan(weight).all() else weight
    measures = {"weight": weight, "occlusion": occlusion(member, states, groups, rng)}
    measures["gradient"] = gradient(member, states, groups & ~member.names.flags, std)
    known = {name: values for name, values in measures.items() if values is not None}
    curves = None
    if deletion:
        orders = {name: np.argsort(-np.nan_to_num(values), kind="stable") for name, values in known.items()}
        longest = member.trainer.config.run.max_eval_steps
        replaced = groups & ~member.names.flags
        curves = delete(member, orders, replaced, mean, seeds, rng, random_orders=RANDOM_ORDERS, max_steps=longest)
    return Importance(
        names=names,
        weight=weight,
        occlusion=known["occlusion"],
        gradient=known["gradient"],
        unit=member.output(states[:1]).unit,
        correlations={f"{a}, {b}": spearman(known[a], known[b]) for a, b in combinations(known, 2)},
        deletion=curves,
        layers={name: _mean_layer(values) for name, values in weights.items()},
        tokens={name: token_labels(member, name) for name in weights},
        states=len(states),
        episodes=len(seeds),
        step=member.trainer.step,
    )


def _mean_layer(weights: np.ndarray) -> np.ndarray:
    """The mean over states, `[heads, queries, keys]`; of `number.pool` a query per step."""
    found = weights.mean(axis=0)
    return found if found.ndim == 3 else found[:, :, 0].swapaxes(0, 1)


class _Recording(MemberActor):
    """Keeps the observations in which it acts."""

    def begin(self, n: int) -> None:
        self.going, self.seen = np.ones(n, bool), list[np.ndarray]()

    def act(self, obs: np.ndarray) -> np.ndarray:
        self.seen.append(obs[self.going])
        return super().act(obs)

    def observe_step(self, step: Step) -> None:
        self.going &= ~step.done


def visited(member: Member, seeds: list[int]) -> np.ndarray:
    """The states of one episode for each seed, `[B, obs]`."""
    envs = EnvGroup([member.maker] * len(seeds), seeds)
    actor = _Recording(member.group, member.row)
    try:
        limit_episodes(envs, member.trainer.config.run.max_eval_steps).set_clock(member.trainer.step, running=False)
        play(envs, actor, 1, rest=True)
    finally:
        envs.close()
    return np.concatenate(actor.seen)


def moments(member: Member, states: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The means and standard deviations `[obs]` of the numbers, over the states in which their step belongs to the
    episode."""
    window = member.names.window
    counts = np.ones_like(states, bool)
    if window.valid:
        counts = np.repeat(window.tokens(states)[..., -1] > 0, window.width, axis=1)
    number = counts.sum(axis=0).clip(min=1)
    mean = np.where(counts, states, 0).sum(axis=0, dtype=np.float64) / number
    variance = np.square(np.where(counts, states - mean, 0)).sum(axis=0) / number
    return mean.astype(np.float32), np.sqrt(variance)


def occlusion(member: Member, states: np.ndarray, groups: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The mean change of the output, `[K]`, when the numbers of each of `groups [K, obs]` come from another state."""
    before: Any = member.output(states)
    total = np.zeros(len(groups))
    flags = member.names.flags
    # A number of a step that the other state lacks would be 0: only whole steps come from any state
    mixes = (groups & flags).any() or not flags.any()
    strata = np.zeros(len(states), int) if mixes else (states[:, flags] > 0).sum(axis=1)
    for _ in range(PERMUTATIONS):
        other = states[donors(strata, rng)]
        for k, group in enumerate(groups):
            total[k] += float(before.change(member.output(np.where(group, other, states))).mean())
    return total / PERMUTATIONS


def donors(strata: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """For each state another one from the same stratum, `[B]`: a random permutation, which has a fixed point only where
    a state is alone in its stratum. `strata [B]` (int)."""
    order = rng.permutation(len(strata))
    order = order[np.argsort(strata[order], kind="stable")]
    by_order = strata[order]
    is_last = np.append(by_order[1:] != by_order[:-1], True)
    following = np.where(is_last, np.searchsorted(by_order, by_order), np.arange(len(order)) + 1)
    found = np.empty_like(order)
    found[order] = order[following]
    return found


def gradient(member: Member, states: np.ndarray, groups: np.ndarray, std: np.ndarray) -> np.ndarray:
    """The mean absolute derivative of the output, per standard deviation, summed over the numbers of each of
    `groups [K, obs]`: `[K]`."""
    before: Any = member.output(states)
    slopes = np.zeros(states.shape[1])
    for i in np.flatnonzero(groups.any(axis=0) & (std > 0)):
        up, down = states.copy(), states.copy()
        up[:, i] += DISTANCE * std[i]
        down[:, i] -= DISTANCE * std[i]
        gap = (up[:, i].astype(np.float64) - down[:, i]) / std[i]  # of the rounded inputs
        some = gap > 0
        if some.any():
            found = before.slope(member.output(up), member.output(down), torch.from_numpy(np.where(some, gap, 1)))
            slopes[i] = float(found.numpy()[some].sum()) / len(states)
    return groups.astype(float) @ slopes
