"""Deliberate disturbances of a training: perturbations, dropped advice, Byzantine members, adversarial advisers."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from peerage.config.file import to_yaml
from peerage.envs.perturbed import Perturbations
from peerage.errors import UserError
from peerage.runs.folder import as_mapping
from peerage.runs.listeners import is_member
from peerage.text import listing, short

SIDES = {"adversary": -1, "colluding": -1, "expert": 1, "turncoat": 0, "convert": 0, "regional": 0}
"""Kind of adviser -> 1: acts as the expert, -1: acts as an adversary, 0: acts as either, depending on time or state."""


def disturbances(config: Mapping[str, Any], advisers: Sequence[str]) -> list[str]:
    """One line per kind of disturbance; an empty list for an undisturbed training.

    `config` is the resolved configuration as plain data and is not trusted: it may come from an edited file.
    `advisers` are the names of all advisers, as in advice.csv. docs/robustness.md explains the kinds.
    """
    perturb = dict(as_mapping(config.get("perturb")))
    dropped = perturb.pop("dropped_advice", 0)
    lines = []
    if training := _assigned(perturb):
        lines.append(f"perturbed in training, not in evaluations: {training}")
    if always := _assigned(as_mapping(as_mapping(config.get("env_args")).get("perturb"))):
        lines.append(f"perturbed environment, in training and evaluations: {always}")
    if isinstance(dropped, int | float) and dropped:
        lines.append(f"advice dropped: {dropped:.0%} of the suggestions do not reach the member that chooses")
    byzantine = as_mapping(config.get("advice")).get("byzantine_members")
    if isinstance(byzantine, list | tuple) and byzantine:
        named = [f"member-{member} ({kind})" for member, _, kind in (str(word).partition(":") for word in byzantine)]
        lines.append(f"Byzantine members, which give others false advice: {listing(named)}")
    fixed = [name for name in advisers if not is_member(name)]
    for side, words in (
        (-1, "adversarial advisers"),
        (0, "advisers that are adversarial at some times or in some places"),
    ):
        if names := [short(name, 40) for name in fixed if _side(name) == side]:
            lines.append(f"{words}: {listing(names)}")
    if names := [short(name, 40) for name in fixed if name.startswith("noise:")]:
        lines.append(f"advisers disturbed by noise: {listing(names)}")
    return lines


def _side(adviser: str) -> int | None:
    """The entry of `SIDES`; None for an adviser that acts neither as expert nor as adversary, or of an unknown kind."""
    kind, _, rest = adviser.partition(":")
    if kind in ("sign-flip", "negated"):
        side = _side(rest)
        return -1 if side is None else -side  # the opposite of a checkpoint's policy is adversarial too
    return SIDES.get(kind if rest else re.sub(r"-\d+$", "", kind))  # expert-2 is a second expert


def _assigned(values: Mapping[str, Any]) -> str:
    """Perturbations as on the command line, without those of strength zero."""
    try:
        return str(Perturbations.of(values)) if Perturbations.of(values) != Perturbations() else ""
    except (UserError, TypeError, ValueError, AttributeError):  # of another version of Peerage
        return setting_text(dict(values))


def setting_text(value: Any) -> str:
    """A value as in config.yaml, without brackets around a single one."""
    if isinstance(value, tuple):
        value = [list(v) if isinstance(v, tuple) else v for v in value]
        value = value[0] if len(value) == 1 else value
    if value in (None, [], {}):
        return "–" if value is None else "none"
    return to_yaml({"x": value}).partition(":")[2].strip()
