"""A sweep file, read and checked; `plan` turns it into runs. docs/sweeps.md describes the format."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from peerage.config import parts, settings
from peerage.config.file import MAX_BYTES, convert
from peerage.config.plain_yaml import parse, short
from peerage.config.tree import key_of
from peerage.errors import UserError, nearest
from peerage.runs.folder import check_name
from peerage.sweeps.choices import (
    Choice,
    check_choices,
    hint_of,
    label_of,
    matching_choices,
    named_choice,
    settings_of,
    word_choice,
)

FILES = Path(__file__).parent / "files"
KEYS = ("name", "title", "base", "where", "common", "environments", "axes", "exclude", "seeds", "replicas")
PLACEHOLDER = re.compile(r"\{([^{}]*)\}")
"""An axis in braces in `base`."""


def sweep_names() -> list[str]:
    """The names of the built-in sweeps."""
    return sorted(path.stem for path in FILES.glob("*.yaml"))


def describe(name: str) -> str:
    """One line about a built-in sweep."""
    return str(read(name)[0].get("title", ""))


def read(source: str) -> tuple[dict[str, Any], Path]:
    """The content of a sweep file (`source`: its path, or the name of a built-in sweep) and its path."""
    path = FILES / f"{source}.yaml" if source in sweep_names() else Path(source)
    try:
        if not path.is_file():
            guess = nearest(source, sweep_names())
            known = ", ".join(sweep_names())
            raise UserError(f"neither a file nor a built-in sweep: {short(source)}{guess}; built in are {known}")
        if path.stat().st_size > MAX_BYTES:
            raise UserError(f"{path}: larger than {MAX_BYTES:,} bytes, so not a sweep file")
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {short(source)}: {error}") from None
    data = parse(text, str(path))
    if not isinstance(data, dict):
        raise UserError(f"{path}: expected a mapping with {', '.join(KEYS)}, got {short(data)}")
    return data, path


class SweepFile:
    """The parts of a sweep file. Raises UserError for an invalid one."""

    def __init__(self, data: dict[str, Any], path: Path) -> None:
        for key in data:
            if key not in KEYS:
                hint = f" (settings belong under `common`: `{key}: ...`)" if key in (*settings(), *parts()) else ""
                raise UserError(f"unknown key {short(key)}{hint or nearest(str(key), KEYS)}")
        self.data, self.path = data, path
        self.name = self._text("name", path.stem)
        try:
            check_name(self.name)
        except UserError as error:  # the message names the flag of a run's name
            raise UserError(f"name: {str(error).removeprefix('--exp-name ')}") from None
        self.template = self._text("base", "")
        self.common = settings_of(data.get("common"), "common")
        if "replicas" in data:
            if "replicas" in self.common:
                raise UserError("replicas are given here and in `common`: remove one of the two")
            self.common["replicas"] = convert(int, data["replicas"], "replicas")
        self.words = set(PLACEHOLDER.findall(self.template))
        self.environments = self._environments(data.get("environments"))
        self.axes = self._axes(data.get("axes"))
        known = [*self.axes, *(["environment"] if self.environments else [])]
        if unknown := sorted(self.words - set(known)):
            guess = nearest(unknown[0], known)
            raise UserError(f"base: {{{unknown[0]}}} is not an axis{guess}; braces contain an axis or {{environment}}")
        self.title, self.where = self._text("title", ""), Path(self._text("where", f"experiments/{self.name}"))
        self.seeds, self.excluded = self._seeds(), self._excluded()

    def _text(self, key: str, default: str) -> str:
        value = self.data.get(key, default)
        if not isinstance(value, str) or (key in self.data and not value.strip()) or not value.isprintable():
            quote = " (quote it if it begins with a brace)" if isinstance(value, dict) else ""
            raise UserError(f"{key}: expected text, got {short(value)}{quote}")
        return value

    def _environments(self, given: Any) -> list[Choice]:
        if given is None:
            return []
        if isinstance(given, Mapping):
            chosen = [named_choice(name, values, "environments") for name, values in given.items()]
        elif isinstance(given, list):
            for env in given:
                if not isinstance(env, str) or not env.strip():
                    raise UserError(f"environments: expected the id of an environment, got {short(env)}")
            picks = "environment" in self.words
            chosen = [Choice(env, env, env, {} if picks else {"env": env}) for env in given]
        else:
            raise UserError("environments: expected a list of ids, or names with settings")
        return check_choices(chosen, "environments")

    def _axes(self, given: Any) -> dict[str, list[Choice]]:
        if given is not None and not isinstance(given, Mapping):
            raise UserError(f"axes: expected names with their values, got {short(given)}")
        axes: dict[str, list[Choice]] = {}
        for name, values in (given or {}).items():
            where = f"axes.{name}"
            if not isinstance(name, str) or not name.strip() or name in ("environment", "folder"):
                raise UserError(f"axes: {short(name)} cannot be the name of an axis")
            if name in ("env", "seed"):
                raise UserError(f"{where}: `{'environments' if name == 'env' else 'seeds'}` lists them")
            if isinstance(values, Mapping):
                chosen = [named_choice(alternative, of, where) for alternative, of in values.items()]
            elif not isinstance(values, list):
                raise UserError(f"{where}: expected a list of values, or names with settings, got {short(values)}")
            elif name in self.words:
                chosen = [word_choice(name, value, where) for value in values]
            else:
                hint = hint_of(name, where, " or a name in the braces of `base`")
                if name == "env_args":
                    raise UserError(f"{where}: give each a name, as in `{name}: {{left: {{{name}: {{goals: left}}}}}}`")
                chosen = []
                for value in values:
                    converted = convert(hint, value, where)
                    chosen.append(Choice(value, f"{name}={label_of(converted)}", None, {key_of(name): converted}))
            axes[name] = check_choices(chosen, where)
        return axes

    def _seeds(self) -> list[int | None]:
        """The seeds; None: that of the base."""
        if "seeds" not in self.data:
            return [None]
        given = self.data["seeds"]
        if not isinstance(given, list) or not given:
            raise UserError(f"seeds: expected a list of whole numbers, got {short(given)}")
        seeds = [convert(int, seed, "seeds") for seed in given]
        if min(seeds) < 0 or len(set(seeds)) < len(seeds):
            raise UserError(f"seeds: expected different numbers of at least 0, got {short(given)}")
        return list(seeds)

    def _excluded(self) -> list[dict[str, list[Choice]]]:
        """Per entry: axis (or `environment`) -> the excluded choices."""
        given = self.data.get("exclude")
        if given is None:
            return []
        if not isinstance(given, list):
            raise UserError(f"exclude: expected a list of combinations, got {short(given)}")
        known = {**({"environment": self.environments} if self.environments else {}), **self.axes}
        excluded = []
        for entry in given:
            if not isinstance(entry, Mapping) or not entry:
                raise UserError(f"exclude: expected axes with their values, got {short(entry)}")
            chosen = {}
            for name, values in entry.items():
                if name not in known:
                    raise UserError(f"exclude: there is no axis {short(name)}{nearest(str(name), list(known))}")
                chosen[name] = matching_choices(known[name], values, f"exclude.{name}")
            excluded.append(chosen)
        return excluded
