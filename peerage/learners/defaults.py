"""Fills in what the user left out: the settings of every member and of advice. No torch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import fields, replace
from typing import Any

from peerage.config.check import flag
from peerage.config.fields import hints
from peerage.config.methods import LEARNERS, TRUST, LearnerSettings
from peerage.config.tree import AdviceConfig, Config, learner_part, settings
from peerage.errors import UserError

ADVICE_DEFAULTS: dict[str, dict[str, Any]] = {
    "paper": {"trust": "td", "temperature": 1.0, "lr": 0.001, "epsilon": 0.0, "self_share": 0.0},
    "standardised": {"trust": "in-context", "temperature": 0.1, "lr": 0.05, "epsilon": 0.03, "self_share": 0.1},
    "greedy": {"trust": "td", "temperature": 1.0, "lr": 0.05, "epsilon": 0.05, "self_share": 0.0},
    "uniform": {"trust": "td", "temperature": 1.0, "lr": 0.05, "epsilon": 0.0, "self_share": 0.0},
}
"""Defaults by `choice`: kind of trust, temperature of the softmax, learning rate of trust, share of uniform choices,
and share of choices that a member keeps for itself. Measured on Room-v21: docs/methods/peer-learning.md."""


def fits(setting: str, algorithm: str) -> bool:
    """Does the learner `algorithm` read this setting? True for settings that are not a learner's, and for `auto`."""
    if algorithm == "auto" or setting not in hints(learner_part()):
        return True
    return setting in hints(LEARNERS[algorithm].settings)


def default_algorithm(discrete: bool) -> str:
    """What `auto` means: the first registered learner whose method is a default for such actions."""
    return next(m.name for m in LEARNERS.methods.values() if m.fits(discrete) and m.is_default)


def default_settings(algorithm: str) -> Any:
    """The settings of a member that were not given any."""
    return LEARNERS[algorithm].settings(algorithm=algorithm)


def member_settings(config: Config, discrete: bool) -> list[LearnerSettings]:
    """The settings of members 0 ... n_peers-1. Raises UserError for a learner that cannot act with such actions."""
    members = []
    for i in range(config.n_peers):
        algorithm = one(config.learner.algorithm, i, "algorithm", config.n_peers)
        if algorithm == "auto":
            algorithm = default_algorithm(discrete)
        method = LEARNERS[algorithm]
        if not method.fits(discrete):
            space = "Discrete" if discrete else "Box"
            fit = " or ".join(m.name for m in LEARNERS.methods.values() if m.fits(discrete))
            raise UserError(f"{algorithm} does not fit {config.env}, whose actions are {space}: use --algorithm {fit}")
        given = {
            name: one(getattr(config.learner, name), i, name, config.n_peers)
            for name in hints(method.settings)
            if name != "algorithm" and getattr(config.learner, name)
        }
        members.append(method.settings(algorithm=algorithm, **given))
    return members


def one(values: Sequence[Any], member: int, name: str, n_peers: int) -> Any:
    """The value for `member` of a setting with one value for all members or one value per member."""
    if len(values) not in (1, n_peers):
        raise UserError(f"{flag(name)} has {len(values)} values for {n_peers} members: give one, or one for each")
    return values[0] if len(values) == 1 else values[member]


def resolve(config: Config, discrete: bool) -> Config:
    """The configuration with every default filled in: the content of `config.yaml`.

    A learner setting that is the same for all members is written once. One that a member's learner does not have is
    empty, or in a mixed group the value of a member that has it.
    """
    members = member_settings(config, discrete)
    columns: dict[str, Any] = {}
    for f in fields(learner_part()):
        known = [getattr(m, f.name) for m in members if hasattr(m, f.name)]
        values = tuple(getattr(m, f.name, known[0]) for m in members) if known else ()
        columns[f.name] = values[:1] if len(set(values)) == 1 else values
    has_action_value = all(LEARNERS[m.algorithm].has_action_value for m in members)
    advice = resolve_advice(config.advice, has_action_value)
    return replace(config, total_timesteps=config.steps, learner=learner_part()(**columns), advice=advice)


def refuse_unused_settings(config: Config, given: Iterable[str]) -> None:
    """UserError if one of the settings `given` (by key) belongs to a kind of trust or an exchange that is not used."""
    advice = resolve_advice(config.advice)
    trust = f"--trust {advice.trust}" if advice.sharing == "advice" else "--sharing none"
    used = {TRUST[advice.trust].part} if advice.trust and advice.sharing == "advice" else set()
    known = settings()
    for key in given:
        part = known[key].part if key in known else ""
        owners = [m.name for m in TRUST.methods.values() if m.part and m.part == part]
        if owners and part not in used:
            raise UserError(f"{flag(key)} is for --trust {' or '.join(owners)}, but this is {trust}")


def resolve_advice(advice: AdviceConfig, has_action_value: bool = True) -> AdviceConfig:
    """`advice` with the defaults of its `choice` filled in. `has_action_value`: the members have Q-functions."""
    missing: Any = {
        name: (value,) if name == "temperature" else value
        for name, value in ADVICE_DEFAULTS[advice.choice].items()
        if getattr(advice, name) in (None, ())
    }
    unread = not advice.use_trust or advice.choice == "uniform"
    placeholder = ADVICE_DEFAULTS["uniform"]["trust"]
    if unread and advice.trust not in (None, placeholder):
        why = "--choice uniform" if advice.choice == "uniform" else "--no-use-trust"
        raise UserError(f"--trust {advice.trust} with {why}: no choice would read it; leave one of the two out")
    if unread:
        missing["trust"] = placeholder
    resolved = replace(advice, **missing)
    assert resolved.trust is not None
    beside = not TRUST[resolved.trust].stands_alone or not resolved.use_trust
    for name in ("use_critic", "use_agent_values"):
        if getattr(resolved, name) is None:
            missing[name] = beside and (has_action_value or name != "use_critic")
    resolved = replace(resolved, **missing)
    # A share that the user gave leaves less for the default of the other share
    if advice.self_share is None:
        resolved = replace(resolved, self_share=min(resolved.self_share or 0.0, 1 - (resolved.epsilon or 0.0)))
    elif advice.epsilon is None:
        resolved = replace(resolved, epsilon=min(resolved.epsilon or 0.0, 1 - advice.self_share))
    return resolved
