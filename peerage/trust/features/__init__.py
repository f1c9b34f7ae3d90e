"""Features and phases for transformer trust: families for five environments, a generic one, and those of users.

A family turns the steps of a member into the transformer's input, which consists of named blocks. `make_features`
selects a family by name or by environment; `register_features` adds one (`examples/custom_features.py`,
docs/features.md).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import pairwise

import numpy as np

from peerage.envs.make import Spec
from peerage.errors import UserError, nearest
from peerage.trust.features import ant, hopper, lunarlander, room, walker2d
from peerage.trust.features.family import ADVISER, Family, Features, guarded
from peerage.trust.features.feature_history import HISTORY, FeatureHistory, columns, inverse, norm, one_hot
from peerage.trust.features.generic import generic
from peerage.trust.transformer_settings import TrustTransformerSettings

__all__ = [
    "ADVISER",
    "HISTORY",
    "Family",
    "FeatureHistory",
    "Features",
    "columns",
    "family_for",
    "family_name",
    "inverse",
    "make_features",
    "norm",
    "one_hot",
    "register_features",
]

Factory = Callable[[Spec], Family]
_factories: dict[str, Factory] = {
    "lunarlander": lunarlander.lunarlander,
    "hopper": hopper.hopper,
    "walker2d": walker2d.walker2d,
    "ant": ant.ant,
    "room": room.room,
    "generic": generic,
}
# The families that `auto` selects: the id must match, and the spaces must fit (arguments of the constructor can change
# the layout, and the continuous LunarLander has other actions).
_automatic: list[tuple[str, Callable[[Spec], bool], str]] = [
    (r"LunarLander-v\d+", lunarlander.fits, "lunarlander"),
    (r"Hopper-v[45]", hopper.fits, "hopper"),
    (r"Walker2d-v[45]", walker2d.fits, "walker2d"),
    (r"Ant-v[45]", ant.fits, "ant"),
    (r"Room-v\d+", room.fits, "room"),
]


def register_features(name: str, factory: Factory) -> None:
    """Register `factory(spec) -> Family` as the feature family `name`; it replaces a built-in family of that name.

    `auto` selects a family with the name of the environment (`CartPole-v1`), if there is one. `factory` should raise
    UserError for an environment that it does not fit. Raises UserError for the name `auto`.
    """
    if name == "auto":
        raise UserError("a feature family cannot be called 'auto'; choose another name")
    _factories[name] = factory


def family_for(name: str, spec: Spec) -> Family:
    """The family `name`. `auto` selects a family registered under the environment's id, else the built-in one for the
    environment, else the generic one. Raises UserError for an unknown name or an environment that does not fit."""
    name = family_name(name, spec)
    if name not in _factories:
        known = ["auto", *_factories]
        raise UserError(f"unknown feature family {name!r}{nearest(name, known)}: use one of {', '.join(known)}")
    family = guarded(f"feature family {name!r}", _factories[name], spec)
    if not isinstance(family, Family):
        raise UserError(f"feature family {name!r}: the factory returned a {type(family).__name__}, not a Family")
    return family


def make_features(name: str, spec: Spec, n_members: int, n_advisers: int, lagged: bool = True) -> Features:
    """Features of `n_members` members with `n_advisers` advisers in an environment, by the family `name` (or `auto`).

    The family is first tested on synthetic steps. Raises UserError for an unknown name, an environment that does not
    fit, blocks of the wrong width or with NaN (the message names the block), phases out of range, a missing or second
    block `adviser`, and features that depend on how the steps are cut into chunks.
    """
    family = family_for(name, spec)
    _try_out(family, spec, n_advisers, lagged)
    return Features(family, n_members, n_advisers, lagged)


def family_name(name: str, spec: Spec) -> str:
    """The name of a registered family: `name` itself, or the family that `auto` selects for an environment."""
    if name != "auto":
        return name
    env_id = spec.id.split(":")[-1]
    if env_id in _factories:
        return env_id
    for pattern, fits, name in _automatic:
        if re.fullmatch(pattern, env_id) and fits(spec):
            return name
    return "generic"


def resolve_features(settings: TrustTransformerSettings, spec: Spec) -> dict[str, str]:
    """Replace `auto` by the family for the environment: another process may have other families registered."""
    return {"features": family_name(settings.features, spec)}


def _try_out(family: Family, spec: Spec, n_advisers: int, lagged: bool) -> None:
    """Run a family on synthetic steps, cut into chunks in two ways. The steps of the first of two members are constant,
    which reveals divisions by a standard deviation or length of 0; those of the second are random."""
    rng, steps = np.random.default_rng(0), 2 * HISTORY + 10
    low, high = _bounds(spec)
    obs = rng.uniform(low, high, (2, steps, spec.obs_dim))
    if spec.discrete:
        action: np.ndarray = rng.integers(spec.n_actions, size=(2, steps))
    else:
        action = rng.uniform(spec.action_low, spec.action_high, (2, steps, spec.act_dim))
    reward, adviser = rng.normal(size=(2, steps)), rng.integers(n_advisers, size=(2, steps))
    obs[0], reward[0], adviser[0] = np.clip(0, low, high), 0, 0
    action[0] = 0 if spec.discrete else np.clip(0, spec.action_low, spec.action_high)
    first = np.zeros((2, steps), dtype=bool)
    first[:, [0, 5]] = True
    chunk = (obs, action, reward, adviser, first)

    whole, parts = Features(family, 2, n_advisers, lagged), Features(family, 2, n_advisers, lagged)
    where = f"feature family {family.name!r}"
    with np.errstate(all="ignore"):  # the result is checked
        features, phases = guarded(where, whole.extend, *chunk)
        edges = pairwise((0, 40, 45, 46, 50, steps))
        cut = [guarded(where, parts.extend, *(x[:, start:end] for x in chunk)) for start, end in edges]
    again, phases_again = (np.concatenate(results, axis=1) for results in zip(*cut))
    depends = f"depends on how the steps are cut into chunks; use at most the last {HISTORY} steps and no later ones"
    for name, block in whole.slices.items():
        if not np.allclose(features[..., block], again[..., block], rtol=1e-3, atol=1e-3):
            raise UserError(f"{where}: block {name!r} {depends}")
    if not np.array_equal(phases, phases_again):
        raise UserError(f"{where}: the result of phases {depends}")


def _bounds(spec: Spec) -> tuple[np.ndarray, np.ndarray]:
    """Bounds for synthetic observations: those of the space where they are finite, otherwise 10 or 20 apart."""
    low, high = spec.observation_space.low.astype(np.float64), spec.observation_space.high.astype(np.float64)
    has_low, has_high = np.abs(low) < 1e6, np.abs(high) < 1e6
    made_low = np.where(has_low, low, np.where(has_high, high - 10, -10))
    return made_low, np.where(has_high, high, np.where(has_low, low + 10, 10))
