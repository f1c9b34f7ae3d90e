"""A sweep file as a list of runs: environments x settings x seeds. Nothing is written and nothing is trained here.

    sweep = plan_sweep("quick")                    # one that is shipped, or a file
    for run in sweep.runs: print(run.name, run.axes)

The format is in docs/sweeps.md and as strict as a configuration: unknown keys, values of the wrong type, two axes that
set the same field and combinations that would be the same training twice are UserErrors.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from peerage.api import with_settings
from peerage.config import PARTS, AdviceConfig, AttentionConfig, Config, ContextConfig
from peerage.configfile import MAX_BYTES, convert, load, parse, short, to_dict, to_yaml, validate
from peerage.errors import UserError, nearest
from peerage.learners.defaults import resolve
from peerage.runs.folder import check_name
from peerage.sweeps.choices import HINTS, Choice, checked, hint_of, label_of, meant, named, settings_of, word

FILES = Path(__file__).parent / "files"
KEYS = ("name", "title", "base", "where", "common", "environments", "axes", "exclude", "seeds", "replicas")
MAX_RUNS = 10_000
_UNSAFE = re.compile(r"[^A-Za-z0-9._+=,-]+")
_PLACE = re.compile(r"\{([^{}]*)\}")


@dataclass(frozen=True)
class PlannedRun:
    """One run folder that the sweep asks for."""

    name: str
    env: str
    """What runs are compared on: the environment's id, or its name in the file where two have the same id."""
    axes: dict[str, Any]
    """Axis -> value, as the file has it; of named alternatives the name."""
    seed: int
    config: Config
    """What is trained."""
    resolved: Config
    """With every default filled in: what its config.yaml will hold."""


@dataclass(frozen=True)
class Sweep:
    """All runs of a sweep file, those of the first seed first."""

    name: str
    title: str
    where: Path
    """The folder that holds the run folders and sweep.yaml."""
    asked: dict[str, Any]
    """What the file holds, and under `overrides` what was said beside it."""
    runs: tuple[PlannedRun, ...]

    def folder(self, run: PlannedRun) -> Path:
        return self.where / run.name

    @property
    def threads(self) -> int:
        """CPU threads of the run that has most."""
        return max(run.config.threads or 1 for run in self.runs)

    def manifest(self) -> str:
        """sweep.yaml: what was asked for and a line for every run; folders are relative to it."""
        runs = ({"folder": run.name, "env": run.env, "axes": run.axes, "seed": run.seed} for run in self.runs)
        lines = "".join(f"- {json.dumps(run, ensure_ascii=False)}\n" for run in runs)
        return f"{to_yaml({'name': self.name, 'title': self.title})}runs:\n{lines}{to_yaml({'asked': self.asked})}"


# --- files --------------------------------------------------------------------------------------------------


def sweep_names() -> list[str]:
    """The sweeps that are shipped."""
    return sorted(path.stem for path in FILES.glob("*.yaml"))


def describe(name: str) -> str:
    """One line about a shipped sweep."""
    return str(_read(name)[0].get("title", ""))


def _read(source: str) -> tuple[dict[str, Any], Path]:
    """What a sweep file holds, and its path."""
    path = FILES / f"{source}.yaml" if source in sweep_names() else Path(source)
    try:
        if not path.is_file():
            guess = nearest(source, sweep_names())
            known = ", ".join(sweep_names())
            raise UserError(f"neither a file nor a sweep: {short(source)}{guess}; there are {known}")
        if path.stat().st_size > MAX_BYTES:
            raise UserError(f"{path}: larger than {MAX_BYTES:,} bytes, so no sweep")
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {short(source)}: {error}") from None
    data = parse(text, str(path))
    if not isinstance(data, dict):
        raise UserError(f"{path}: expected a mapping with {', '.join(KEYS)}, got {short(data)}")
    return data, path


def plan_sweep(source: str, *, log_dir: str | None = None, settings: Mapping[str, Any] | None = None) -> Sweep:
    """The runs of a sweep, by its name or file. `log_dir` beats its `where`, and `settings` (fields of
    `peerage.config` by name) beat its base, `common` and environments. UserError for whatever does not fit."""
    data, path = _read(source)
    try:
        return _Planner(data, path).plan(log_dir, dict(settings or {}))
    except UserError as error:
        raise UserError(f"{path if path.parent != FILES else path.name}: {error}") from None


# --- the parts of a file ------------------------------------------------------------------------------------


class _Planner:
    """Reads a file's parts, each once."""

    def __init__(self, data: dict[str, Any], path: Path) -> None:
        for key in data:
            if key not in KEYS:
                hint = f" (settings stand under `common`: `{key}: ...`)" if key in (*HINTS, *PARTS) else ""
                raise UserError(f"unknown key {short(key)}{hint or nearest(str(key), KEYS)}")
        self.data, self.path = data, path
        self.name = self._text("name", path.stem)
        check_name(self.name)
        self.template = self._text("base", "")
        self.common = settings_of(data.get("common"), "common")
        if "replicas" in data:
            if "replicas" in self.common:
                raise UserError("replicas stand in `common` too: leave one of the two out")
            self.common["replicas"] = convert(int, data["replicas"], "replicas")
        self.words = set(_PLACE.findall(self.template))
        self.environments = self._environments(data.get("environments"))
        self.axes = self._axes(data.get("axes"))
        known = [*self.axes, *(["environment"] if self.environments else [])]
        if unknown := sorted(self.words - set(known)):
            guess = nearest(unknown[0], known)
            raise UserError(f"base: {{{unknown[0]}}} is no axis{guess}; in braces stand axes and {{environment}}")

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
            chosen = [named(name, values, "environments") for name, values in given.items()]
        elif isinstance(given, list):
            for env in given:
                if not isinstance(env, str) or not env.strip():
                    raise UserError(f"environments: expected the id of an environment, got {short(env)}")
            picks = "environment" in self.words
            chosen = [Choice(env, env, env, {} if picks else {"env": env}) for env in given]
        else:
            raise UserError("environments: expected a list of ids, or names with settings of their own")
        return checked(chosen, "environments")

    def _axes(self, given: Any) -> dict[str, list[Choice]]:
        if given is not None and not isinstance(given, Mapping):
            raise UserError(f"axes: expected names with their values, got {short(given)}")
        axes: dict[str, list[Choice]] = {}
        for name, values in (given or {}).items():
            where = f"axes.{name}"
            if not isinstance(name, str) or not name.strip() or name in ("environment", "folder"):
                raise UserError(f"axes: no axis can be called {short(name)}")
            if name in ("env", "seed"):
                raise UserError(f"{where}: `{'environments' if name == 'env' else 'seeds'}` says which")
            if isinstance(values, Mapping):
                chosen = [named(alternative, of, where) for alternative, of in values.items()]
            elif not isinstance(values, list):
                raise UserError(f"{where}: expected a list of values, or names with settings, got {short(values)}")
            elif name in self.words:
                chosen = [word(name, value, where) for value in values]
            else:
                hint = hint_of(name, where, " or a word in the braces of `base`")
                if name == "env_args":
                    raise UserError(f"{where}: give each a name, as in `{name}: {{left: {{{name}: {{goals: left}}}}}}`")
                chosen = []
                for value in values:
                    converted = convert(hint, value, where)
                    chosen.append(Choice(value, f"{name}={label_of(converted)}", None, {name: converted}))
            axes[name] = checked(chosen, where)
        return axes

    def _seeds(self) -> list[int | None]:
        """None: the base's own."""
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
        """Each: axis (or `environment`) -> the choices it speaks of."""
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
                chosen[name] = meant(known[name], values, f"exclude.{name}")
            excluded.append(chosen)
        return excluded

    # --- the product ------------------------------------------------------------------------------------

    def plan(self, log_dir: str | None, overrides: dict[str, Any]) -> Sweep:
        where = Path(self._text("where", f"experiments/{self.name}"))
        if log_dir is not None:
            if not log_dir.strip() or "\0" in log_dir:
                raise UserError("--log-dir is empty or cannot be a path")
            where = Path(log_dir)
        overrides = settings_of(overrides, "overrides")
        for axis, choices in self.axes.items():
            if both := sorted({name for c in choices for name in c.settings} & set(overrides)):
                raise UserError(f"axes.{axis} says what {both[0]} is: it cannot be said beside it")
        seeds, excluded = self._seeds(), self._excluded()
        columns = [self.environments or [Choice(None, "", None, {})], *self.axes.values()]
        if (size := math.prod(map(len, columns)) * len(seeds)) > MAX_RUNS:
            raise UserError(f"{size:,} runs are too many: at most {MAX_RUNS:,}")
        names = ["environment", *self.axes]
        combinations = [dict(zip(names, chosen)) for chosen in itertools.product(*columns)]
        left = [c for c in combinations if not any(_all_in(c, entry) for entry in excluded)]
        if not left:
            raise UserError("exclude: nothing is left")
        bases = cache(self._base)
        runs = [self._run(where, c, seed, bases, overrides) for seed in seeds for c in left]
        asked = {**self.data, **({"overrides": _plain(overrides)} if overrides else {})}
        sweep = Sweep(self.name, self._text("title", ""), where, asked, tuple(_with_envs(runs, left * len(seeds))))
        _refuse_twins(sweep.runs)
        return sweep

    def _base(self, name: str) -> Config:
        """A preset, a file beside the sweep's, or whatever else `--config` takes."""
        from peerage.presets import preset_names

        beside = self.path.parent / name
        try:
            return load(beside if name not in preset_names() and beside.exists() else name)
        except UserError as error:
            raise UserError(f"base: {error}") from None

    def _run(
        self, where: Path, chosen: dict[str, Choice], seed: int | None, bases: Any, overrides: dict[str, Any]
    ) -> PlannedRun:
        words = {name: choice.word for name, choice in chosen.items()}
        for name in self.words:
            if words[name] is None:
                raise UserError(f"axes.{name}: the base takes words and whole numbers")
        config = Config()
        if self.template:
            config = bases(_PLACE.sub(lambda place: str(words[place[1]]), self.template))
        for layer in (self.common, chosen["environment"].settings, overrides):
            config = _lay_over(config, layer)
        by: dict[str, str] = {}  # field -> the axis that sets it
        for axis, choice in chosen.items():
            if axis == "environment":
                continue
            for name in choice.settings:
                other = "environments" if name in chosen["environment"].settings else by.get(name, axis)
                if name != "env_args" and other != axis:
                    raise UserError(f"axes.{axis} and {other} both set {name}")
                by[name] = axis
            config = _lay_over(config, choice.settings)
        config = replace(config, seed=config.seed if seed is None else seed, threads=config.threads or 1)
        labels = [chosen["environment"].label or config.env, *(c.label for n, c in chosen.items() if n in self.axes)]
        name = _name([*labels, f"seed{config.seed}"])
        run = replace(config.run, exp_name=name, log_dir=str(where), overwrite=False, verbose=0)
        try:
            config = validate(replace(config, run=run))
            resolved = _resolve(config)
        except UserError as error:
            raise UserError(f"{name}: {error}") from None
        axes = {axis: chosen[axis].value for axis in self.axes}
        return PlannedRun(name, config.env, axes, config.seed, config, resolved)


def _all_in(combination: dict[str, Choice], entry: dict[str, list[Choice]]) -> bool:
    return all(combination[name] in choices for name, choices in entry.items())


def _lay_over(config: Config, layer: dict[str, Any]) -> Config:
    """`layer` over `config`; arguments of the environment are added to those that are there."""
    if "env_args" in layer:
        layer = {**layer, "env_args": {**config.env_args, **layer["env_args"]}}
    return with_settings(config, layer)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, tuple) else value


# --- runs ---------------------------------------------------------------------------------------------------


def _name(labels: Sequence[str]) -> str:
    """`Room-v6_sharing=none_seed0`. What had to be changed or cut ends in a checksum of what it was, so that a run
    keeps its name whatever else is asked for."""
    whole = "_".join(labels)
    safe = _UNSAFE.sub("-", whole).strip(".-")
    if safe != whole or len(safe) > 150:
        safe = f"{safe[:130]}-{hashlib.sha256(json.dumps(list(labels)).encode()).hexdigest()[:8]}"
    return safe


def _with_envs(runs: list[PlannedRun], combinations: list[dict[str, Choice]]) -> list[PlannedRun]:
    """Environments of one id with other arguments are other tasks: then the file's names stand for the ids."""
    names = {(c["environment"].value, run.env) for run, c in zip(runs, combinations) if c["environment"].value}
    ids = [env for _, env in names]
    return [
        replace(run, env=c["environment"].value) if ids.count(run.env) > 1 else run
        for run, c in zip(runs, combinations)
    ]


@cache
def _spec(env: str, args: str) -> Any:
    from peerage.envs.make import check_env_id

    return check_env_id(env, json.loads(args))


def _resolve(config: Config) -> Config:
    """As the training will do it (`peerage.training.loop.Trainer`)."""
    spec = _spec(config.env, json.dumps(config.env_args))
    resolved = resolve(config, spec.discrete)
    if resolved.advice.trust in ("transformer", "hybrid"):
        from peerage.trust.features import family_name

        features = family_name(resolved.attention.features, spec)
        resolved = replace(resolved, attention=replace(resolved.attention, features=features))
    return resolved


def _refuse_twins(runs: Sequence[PlannedRun]) -> None:
    """UserError for two runs of one name, on any file system, or that would train the same."""
    named: dict[str, PlannedRun] = {}
    trained: dict[str, PlannedRun] = {}
    for run in runs:
        if other := named.get(run.name.casefold()):
            raise UserError(f"two runs would be called {run.name}: {other.axes} and {run.axes}; rename one")
        named[run.name.casefold()] = run
        what = json.dumps(to_dict(_what_acts(run.resolved)))
        if other := trained.get(what):
            raise UserError(f"{other.name} and {run.name} are the same training; leave one out by `exclude`")
        trained[what] = run


def _what_acts(config: Config) -> Config:
    """Without the run's name and place and the settings that nobody reads."""
    advice = config.advice if config.advice.sharing == "advice" else AdviceConfig(sharing="none")
    trust = advice.trust if config.advice.sharing == "advice" else None
    return replace(
        config,
        advice=advice,
        attention=config.attention if trust in ("transformer", "hybrid") else AttentionConfig(),
        context=config.context if trust == "in-context" else ContextConfig(),
        run=replace(config.run, exp_name=None, log_dir="-"),
    )
