"""The data, and the settings of the members, of advice and of exchanges, in words, for the start of a training."""

from __future__ import annotations

from typing import Any

from peerage.config.check import without_td
from peerage.config.fields import hints
from peerage.config.file import from_dict
from peerage.config.flags import written
from peerage.config.methods import LEARNERS, NETS
from peerage.config.tree import settings
from peerage.errors import UserError
from peerage.runs.folder import as_mapping
from peerage.runs.listeners import RunInfo
from peerage.text import count, listing

MAX_LINES = 8
"""Largest number of lines: members with equal settings share one."""


def about_run(info: RunInfo) -> list[str]:
    """The lines about the data, the members, advice and exchanges."""
    data = [f"data: {info.data}"] if info.data else []
    return [*data, *hyperparameters(info), *advice_settings(info), *exchange_settings(info)]


def exchange_settings(info: RunInfo) -> list[str]:
    """Lines such as `exchange: fedformer every 500 steps` and `federation: ann (this run) and bob, in /shared`; none
    without exchanges."""
    names = info.config.get("exchange")
    if not isinstance(names, list | tuple) or not names:
        return []
    lines = [f"exchange: {listing([str(name) for name in names])} every {count(info.config['exchange_freq'], 'step')}"]
    if folder := info.config.get("federation"):
        own, everyone = info.config.get("participant"), sorted(map(str, info.config.get("participants", ())))
        marked = [f"{name} (this run)" if name.partition(":")[0] == own else name for name in everyone]
        lines.append(f"federation: {listing(marked)}, in {folder}")
    return lines


def hyperparameters(info: RunInfo) -> list[str]:
    """Lines such as `all members: dqn, learning_rate 0.0005, gamma 0.99, ...`; none for an unknown configuration."""
    learner = as_mapping(info.config.get("learner"))
    imitates = as_mapping(info.config.get("advice")).get("imitate", "none") != "none"
    same: dict[str, list[str]] = {}
    for i, member in enumerate(info.members):
        algorithm = _of(info.algorithms, i, len(info.members))
        if algorithm not in LEARNERS:
            continue
        method, parts = LEARNERS[algorithm], [str(algorithm)]
        for name in hints(method.settings):
            value = _of(learner.get(name), i, len(info.members))
            if value is None or name == "algorithm" or (name in ("load_paths", "init_from") and value == "none"):
                continue
            if name == "imitation_weight" and not imitates:
                continue
            parts.append(f"{name} {_written(value)}")
        net = _of(learner.get("net"), i, len(info.members)) if "net" in hints(method.settings) else None
        if kind := method.net or NETS.methods.get(str(net)):
            of_net = as_mapping(info.config.get(kind.part)) if kind.part else {}
            known = [setting for setting in settings().values() if setting.part == kind.part]
            parts += [f"{setting.key} {_written(of_net[setting.name])}" for setting in known if setting.name in of_net]
        same.setdefault(", ".join(parts), []).append(member)
    lines = [
        f"{'all members' if 1 < len(members) == len(info.members) else listing(members)}: {text}"
        for text, members in same.items()
    ]
    if len(lines) > MAX_LINES:
        others = sum(map(len, list(same.values())[MAX_LINES - 1 :]))
        lines = [*lines[: MAX_LINES - 1], f"and {count(others, 'member')} with other settings (config.yaml)"]
    return lines


def advice_settings(info: RunInfo) -> list[str]:
    """A line such as `advice: choice paper, trust td, trust_lr 0.001`; none without advice and for an unknown
    configuration."""
    try:
        advice = from_dict({"advice": info.config.get("advice")}).advice
    except UserError:
        return []
    if advice.sharing == "none" or len(info.advisers) < 2 or advice.trust is None:
        return []
    parts = [f"choice {advice.choice}"]
    if advice.choice != "uniform":
        parts.append(f"trust {advice.trust if advice.use_trust else 'off'}")
    if not without_td(advice, len(info.advisers)) and advice.lr is not None:
        parts.append(f"trust_lr {written(advice.lr)}")
    if advice.imitate != "none":
        parts.append(f"imitate {advice.imitate}, self_share {written(advice.self_share)}")
    return [f"advice: {', '.join(parts)}"]


def _written(value: Any) -> str:
    return written(tuple(value) if isinstance(value, list) else value)


def _of(values: Any, member: int, members: int) -> Any:
    """The value for a member: one for all members, or one for each; None if there is none."""
    if not isinstance(values, list | tuple) or not values:
        return None
    return values[member] if len(values) == members else values[0]
