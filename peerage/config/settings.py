"""Set fields of the configuration by their names, in whichever part of the tree they are."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

from peerage.config.tree import PARTS, Config, changed
from peerage.errors import UserError, nearest


def with_settings(config: Config, settings: dict[str, Any]) -> Config:
    """`config` with the named fields replaced; lists become tuples.

    `n_epochs` without `total_timesteps` resets `total_timesteps`, so that the length that is given takes effect.
    Raises UserError for a name that is not a field.
    """
    if "n_epochs" in settings and "total_timesteps" not in settings:
        config = replace(config, total_timesteps=None)
    part_of = {f.name: part for part, cls in PARTS.items() for f in fields(cls) if f.name not in PARTS}
    changes: dict[str, dict[str, Any]] = {part: {} for part in PARTS}
    for name, value in settings.items():
        if name not in part_of:
            raise UserError(f"there is no setting {name!r}{nearest(name, list(part_of))}")
        changes[part_of[name]][name] = tuple(value) if isinstance(value, list) else value
    return changed(config, changes)
