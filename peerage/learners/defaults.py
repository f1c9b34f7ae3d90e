"""Fills in the defaults of settings of the members and of advice. No torch."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import fields, replace
from typing import Any

from peerage.config.check import flag, is_offline
from peerage.config.fields import hints
from peerage.config.file import with_sharing
from peerage.config.methods import EXCHANGES, LEARNERS, NETS, TRUST, LearnerSettings, column
from peerage.config.tree import AdviceConfig, Config, learner_part, settings
from peerage.errors import UserError
from peerage.text import count

ADVICE_DEFAULTS: dict[str, dict[str, Any]] = {
    "paper": {"trust": "td", "temperature": 1.0, "lr": 0.001, "epsilon": 0.0, "self_share": 0.0},
    "standardised": {"trust": "in-context", "temperature": 0.1, "lr": 0.05, "epsilon": 0.03, "self_share": 0.1},
    "greedy": {"trust": "td", "temperature": 1.0, "lr": 0.05, "epsilon": 0.05, "self_share": 0.0},
    "uniform": {"trust": "td", "temperature": 1.0, "lr": 0.05, "epsilon": 0.0, "self_share": 0.0},
}
"""Defaults by `choice`: kind of trust, temperature of the softmax, learning rate of trust, share of uniform choices,
and share of choices in which a member follows itself. Chosen on Room-v21 (docs/methods/peer-learning.md)."""


IMITATING_SELF_SHARE = 0.5
"""Default share of choices in which a member that imitates follows itself, so that it gets labels in states that it
reaches by itself (docs/methods/imitation.md)."""


def fits(setting: str, algorithm: str) -> bool:
    """Whether the learner `algorithm` has this setting. True for settings that do not belong to learners, and for
    `auto`."""
    if algorithm == "auto" or setting not in hints(learner_part()):
        return True
    return setting in hints(LEARNERS[algorithm].settings)


def default_algorithm(discrete: bool) -> str:
    """The algorithm that `auto` selects: the first registered default that supports the action space."""
    return next(m.name for m in LEARNERS.methods.values() if m.fits(discrete) and m.is_default)


def default_settings(algorithm: str) -> Any:
    """The default settings of a member with this algorithm."""
    return LEARNERS[algorithm].settings(algorithm=algorithm)


def member_settings(config: Config, discrete: bool) -> list[LearnerSettings]:
    """The settings of members 0 to n_peers - 1. Raises UserError for a learner that does not support the action
    space."""
    members = []
    keys = {setting.name: key for key, setting in settings().items() if setting.part == "learner"}
    for i in range(config.n_peers):
        algorithm = one(config.learner.algorithm, i, "algorithm", config.n_peers)
        if algorithm == "auto":
            algorithm = default_algorithm(discrete)
        method = LEARNERS[algorithm]
        if not method.fits(discrete):
            space = "Discrete" if discrete else "Box"
            alike = [m for m in LEARNERS.methods.values() if m.offline == method.offline]
            fit = ", ".join(m.name for m in alike if m.fits(discrete))
            why = f"{algorithm} does not fit {config.env}, whose actions are {space}"
            raise UserError(f"{why}: use --algorithm with one of {fit}")
        given = {
            name: one(getattr(config.learner, name), i, keys[name], config.n_peers)
            for name in hints(method.settings)
            if name != "algorithm" and getattr(config.learner, name)
        }
        made = method.settings(algorithm=algorithm, **given)
        net = method.net or (NETS[made.net] if hasattr(made, "net") else None)
        if net is not None and (part := net.part):
            made = replace(made, net_settings=getattr(config, part))
        weight = getattr(made, "imitation_weight", 1.0)
        if config.advice.imitate != "none" and method.imitates and weight > 0 and made.load_paths == "none":
            made = replace(made, imitates=True)
        made.check()
        members.append(made)
    return members


def environments_per_member(members: Sequence[LearnerSettings]) -> int:
    """The number of environments of each member. Raises UserError if it differs between members."""
    counts = {getattr(settings, "n_envs", 1) for settings in members}
    if len(counts) > 1:
        raise UserError("all members must have the same number of environments: --n-envs above 1 is for groups of ppo")
    return int(counts.pop())


def one(values: Sequence[Any], member: int, name: str, n_peers: int) -> Any:
    """The value for `member` of a setting with one value for all members or one value per member."""
    if len(values) not in (1, n_peers):
        given = f"{len(values)} values for {count(n_peers, 'member')}"
        raise UserError(f"{flag(name)} has {given}: give one value, or one per member")
    return values[0] if len(values) == 1 else values[member]


def resolve(config: Config, discrete: bool) -> Config:
    """The configuration with every default filled in: the content of `config.yaml`.

    `peerage.config.file.from_run` fills in the same values for the settings that an earlier version did not have.
    """
    config = with_sharing(config)
    members = member_settings(config, discrete)
    columns = {f.name: column(members, f.name) for f in fields(learner_part())}
    has_action_value = all(LEARNERS[m.algorithm].has_action_value for m in members)
    advice = resolve_advice(config.advice, has_action_value)
    return replace(config, total_timesteps=config.steps, learner=learner_part()(**columns), advice=advice)


def check_learning(members: Sequence[LearnerSettings], steps: int) -> list[str]:
    """Messages about members that do not learn in a run of `steps` steps: members of `load_paths`, if all members are
    loaded, and members whose first gradient step is after the end of the run. Raises UserError if no member would learn
    and not all members are loaded, and for a batch that is larger than the replay buffer."""
    for member in members:
        if LEARNERS[member.algorithm].offline:
            continue
        batch, buffer = getattr(member, "batch_size", 0), getattr(member, "buffer_size", math.inf)
        if batch > buffer and member.load_paths == "none":
            raise UserError(
                f"--batch-size {batch} is more than the {buffer:,} transitions that --buffer-size keeps: decrease "
                "--batch-size, or increase --buffer-size"
            )
    if all(member.load_paths != "none" for member in members):
        return [ALL_LOADED]
    learners = {i: member for i, member in enumerate(members) if member.load_paths == "none"}
    idle = {i: _learning_start(member) for i, member in learners.items() if first_update(member) > steps}
    if len(idle) == len(learners):
        why = "; ".join(dict.fromkeys(idle.values()))
        raise UserError(f"no member would learn in {steps:,} steps: {why}; decrease this, or increase the steps")
    return [f"member {i} does not learn in {steps:,} steps: {why}" for i, why in idle.items()]


ALL_LOADED = (
    "no member learns: all are loaded by --load-paths, which freezes them (with --init-from they continue to learn)"
)


def first_update(member: LearnerSettings) -> int:
    """The first step after which a member makes a gradient step."""
    every = getattr(member, "train_freq", 1)
    return (member.learning_starts // every + 1) * every


def _learning_start(member: LearnerSettings) -> str:
    starts, every = member.learning_starts, getattr(member, "train_freq", 1)
    freq = f", every {every:,} steps (--train-freq)" if every > 1 else ""
    return f"a member learns after step {starts:,} (--learning-starts){freq}"


def refuse_other_learners(algorithms: Iterable[str], given: Iterable[str]) -> None:
    """Raise UserError if one of the settings `given` (keys) belongs to learners, but to none of `algorithms`."""
    names = sorted(set(algorithms))
    for key in given:
        if not any(fits(key, name) for name in names):
            if key == "net" and all(LEARNERS[name].images for name in names):
                raise UserError(f"--net is for ppo: {' and '.join(names)} uses cnn for images by itself, leave it out")
            have = "do not have" if len(names) > 1 else "does not have"
            raise UserError(f"{flag(key)} has no effect: {' and '.join(names)} {have} this setting")


def refuse_unused_settings(config: Config, given: Iterable[str]) -> None:
    """Raise UserError if one of the settings `given` (keys) belongs to a learner, a kind of trust or an exchange that
    is not used."""
    if is_offline(config):
        refuse_online_settings(config.learner.algorithm[0], given)
    refuse_other_learners(config.learner.algorithm, given)
    advice = resolve_advice(config.advice)
    trust = f"--trust {advice.trust}" if advice.sharing != "none" else "--sharing none"
    used = {TRUST[advice.trust].part} if advice.trust and advice.sharing != "none" else set()
    known = settings()
    for key in given:
        part = known[key].part if key in known else ""
        owners = [m.name for m in TRUST.methods.values() if m.part and m.part == part]
        if owners and part not in used:
            raise UserError(f"{flag(key)} is for --trust {' or '.join(owners)}, but this is {trust}")
        exchanges = [m.name for m in EXCHANGES.methods.values() if m.part and m.part == part]
        if exchanges and not set(exchanges) & set(config.exchange):
            raise UserError(f"{flag(key)} has no effect without --exchange {' or '.join(exchanges)}")
        nets = [m.name for m in NETS.methods.values() if m.part and m.part == part]
        if nets and not set(nets) & set(getattr(config.learner, "net", ())):
            raise UserError(f"{flag(key)} has no effect without --net {' or '.join(nets)}")
        learners = [m.name for m in LEARNERS.methods.values() if m.net is not None and m.net.part == part]
        if learners and not set(learners) & set(config.learner.algorithm):
            raise UserError(f"{flag(key)} is for --algorithm {' or '.join(learners)}")
        if key == "n_queries" and getattr(config, known[key].part).tokens != "set":
            raise UserError("--n-queries has no effect without --tokens set: the other tokens have one query")
        if key == "net_arch" and config.learner.net and all(NETS[net].part for net in config.learner.net):
            net = config.learner.net[0]
            raise UserError(f"--net-arch has no effect with --net {net}: use --d-model, --n-layers and --readout")
        if key == "imitation_weight" and config.advice.imitate == "none":
            raise UserError("--imitation-weight has no effect without --imitate trusted")
        if key == "exchange_freq" and not config.exchange:
            raise UserError("--exchange-freq has no effect without --exchange")


def refuse_online_settings(algorithm: str, given: Iterable[str]) -> None:
    """Raise UserError if one of the settings `given` (keys) has no effect on an offline `algorithm`."""
    known = settings()
    for key in given:
        part = known[key].part if key in known else ""
        if key == "exchange_freq" or (part == "advice" and key != "sharing"):
            raise UserError(
                f"{flag(key)} has no effect with {algorithm}, whose members learn alone, from data: remove it"
            )


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
        raise UserError(f"--trust {advice.trust} has no effect with {why}: remove one of the two")
    if unread:
        missing["trust"] = placeholder
    if advice.imitate != "none" and advice.self_share is None:
        missing["self_share"] = IMITATING_SELF_SHARE
    resolved = replace(advice, **missing)
    assert resolved.trust is not None
    other_terms = not TRUST[resolved.trust].stands_alone or not resolved.use_trust
    for name in ("use_critic", "use_agent_values"):
        if getattr(resolved, name) is None:
            missing[name] = other_terms and (has_action_value or name != "use_critic")
    resolved = replace(resolved, **missing)
    # The sum of both shares is at most 1: reduce the default of the share that the user did not give
    if advice.self_share is None:
        resolved = replace(resolved, self_share=min(resolved.self_share or 0.0, 1 - (resolved.epsilon or 0.0)))
    elif advice.epsilon is None:
        resolved = replace(resolved, epsilon=min(resolved.epsilon or 0.0, 1 - advice.self_share))
    return resolved
