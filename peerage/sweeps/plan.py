"""A sweep file as a list of runs: environments x settings x seeds. Nothing is written and nothing is trained here.

    sweep = plan_sweep("quick")                    # one that is shipped, or a file
    for run in sweep.runs: print(run.name, run.axes)

What does not fit is a UserError: the parts of the file (`file`), two axes that set the same field, combinations that
would be the same training twice.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from peerage.config import AdviceConfig, Config, with_settings
from peerage.config.file import load, to_dict, validate
from peerage.config.methods import EXCHANGES, TRUST
from peerage.config.perturbations import Perturbations, with_perturbations
from peerage.config.plain_yaml import to_yaml
from peerage.config.presets import preset_names
from peerage.envs.make import Spec, check_env_id
from peerage.errors import UserError
from peerage.learners.defaults import resolve
from peerage.sharing.advisers import make_adviser
from peerage.sweeps.choices import Choice, settings_of
from peerage.sweeps.file import FILES, PLACE, SweepFile, read
from peerage.sweeps.launch import Task
from peerage.text import listing
from peerage.trust.resolve import resolve_trust

MAX_RUNS = 10_000
_UNSAFE = re.compile(r"[^A-Za-z0-9._+=,-]+")


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
    notes: tuple[str, ...] = ()
    """Lines that whoever trains it should read."""

    def folder(self, run: PlannedRun) -> Path:
        return self.where / run.name

    def task(
        self, run: PlannedRun, *, resume: bool = False, command: Sequence[str] = (), measure: int = 0
    ) -> Task:
        """What a worker has to do for a run; the arguments are those of `Task`."""
        folder, threads = str(self.folder(run)), run.config.threads or 1
        return Task(run.name, folder, to_dict(run.config), resume, threads, tuple(command), measure)

    @property
    def threads(self) -> int:
        """CPU threads of the run that has most."""
        return max(run.config.threads or 1 for run in self.runs)

    def manifest(self) -> str:
        """sweep.yaml: what was asked for and a line for every run; folders are relative to it."""
        runs = ({"folder": run.name, "env": run.env, "axes": run.axes, "seed": run.seed} for run in self.runs)
        lines = "".join(f"- {json.dumps(run, ensure_ascii=False)}\n" for run in runs)
        return f"{to_yaml({'name': self.name, 'title': self.title})}runs:\n{lines}{to_yaml({'asked': self.asked})}"


def plan_sweep(source: str, *, log_dir: str | None = None, settings: Mapping[str, Any] | None = None) -> Sweep:
    """The runs of a sweep, by its name or file. `log_dir` beats its `where`, and `settings` (fields of
    `peerage.config` by name) beat its base, `common` and environments. UserError for whatever does not fit."""
    data, path = read(source)
    try:
        return _plan(SweepFile(data, path), log_dir, dict(settings or {}))
    except UserError as error:
        raise UserError(f"{path if path.parent != FILES else path.name}: {error}") from None


# --- the product --------------------------------------------------------------------------------------------


def _plan(file: SweepFile, log_dir: str | None, overrides: dict[str, Any]) -> Sweep:
    if log_dir is not None and (not log_dir.strip() or "\0" in log_dir):
        raise UserError("--log-dir is empty or cannot be a path")
    where = file.where if log_dir is None else Path(log_dir)
    overrides = settings_of(overrides, "overrides")
    for axis, choices in file.axes.items():
        if both := sorted({name for c in choices for name in c.settings} & set(overrides)):
            raise UserError(f"axes.{axis} says what {both[0]} is: leave --{both[0].replace('_', '-')} out")
    if "env" in overrides and file.environments:
        raise UserError("environments says which: leave --env out")
    columns = [file.environments or [Choice(None, "", None, {})], *file.axes.values()]
    if (size := math.prod(map(len, columns)) * len(file.seeds)) > MAX_RUNS:
        raise UserError(f"{size:,} runs are too many: at most {MAX_RUNS:,}")
    names = ["environment", *file.axes]
    combinations = [dict(zip(names, chosen)) for chosen in itertools.product(*columns)]
    left = [c for c in combinations if not any(_all_in(c, entry) for entry in file.excluded)]
    if not left:
        raise UserError("exclude: nothing is left")
    bases = cache(lambda name: _base(file, name))
    with warnings.catch_warnings(record=True) as caught:
        runs = [_run(file, where, c, seed, bases, overrides) for seed in file.seeds for c in left]
    asked = {**file.data, **({"overrides": _plain(overrides)} if overrides else {})}
    runs = _with_envs(runs, left * len(file.seeds))
    _refuse_twins(runs)
    return Sweep(file.name, file.title, where, asked, tuple(runs), _notes([str(w.message) for w in caught]))


def _notes(said: Sequence[str]) -> tuple[str, ...]:
    """Warnings of Gymnasium's as lines; those about versions, of which there is one for each environment, as one."""
    old = [found[1] for text in said if (found := re.search(r"environment (\S+) is out of date", text))]
    others = dict.fromkeys(" ".join(text.split()) for text in said if "is out of date" not in text)
    about = f"Gymnasium has newer versions of {listing(old)}: results of two versions do not compare"
    return (*([about] if old else []), *others)


def _base(file: SweepFile, name: str) -> Config:
    """A preset, a file beside the sweep's, or whatever else `--config` takes."""
    beside = file.path.parent / name
    try:
        return load(beside if name not in preset_names() and beside.exists() else name)
    except UserError as error:
        raise UserError(f"base: {error}") from None


def _run(
    file: SweepFile,
    where: Path,
    chosen: dict[str, Choice],
    seed: int | None,
    bases: Callable[[str], Config],
    overrides: dict[str, Any],
) -> PlannedRun:
    """One combination, with everything filled in and checked."""
    words = {name: choice.word for name, choice in chosen.items()}
    for name in file.words:
        if words[name] is None:
            raise UserError(f"axes.{name}: the base takes words and whole numbers")
    config = Config()
    if file.template:
        config = bases(PLACE.sub(lambda place: str(words[place[1]]), file.template))
    for layer in (file.common, chosen["environment"].settings, overrides):
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
    labels = [chosen["environment"].label or config.env, *(c.label for n, c in chosen.items() if n in file.axes)]
    name = _name([*labels, f"seed{config.seed}"])
    run = replace(config.run, exp_name=name, log_dir=str(where), overwrite=False, verbose=0)
    try:
        config = validate(replace(config, run=run))
        resolved = _resolve(config)
    except UserError as error:
        raise UserError(f"{name}: {error}") from None
    axes = {axis: chosen[axis].value for axis in file.axes}
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
def _spec(env: str, args: str) -> Spec:
    return check_env_id(env, json.loads(args))


def _resolve(config: Config) -> Config:
    """As the training will do it (`peerage.training.trainer.Trainer`)."""
    spec = _spec(config.env, json.dumps(config.env_args))
    if config.perturb:  # of the environments that members learn in, by knobs that these may not have
        _spec(config.env, json.dumps(with_perturbations(config.env_args, Perturbations.of(config.perturb))))
    if named := [adviser for adviser in config.advisers if not adviser.startswith("checkpoint:")]:  # that may come yet
        for adviser in named:
            make_adviser(adviser, spec)
    return resolve_trust(resolve(config, spec.discrete), spec)


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
    used = {TRUST[advice.trust].part} if advice.trust and advice.sharing == "advice" else set[str]()
    used |= {EXCHANGES[name].part for name in config.exchange}
    return replace(
        config,
        advice=advice,
        methods={part: values for part, values in config.methods.items() if part in used},
        run=replace(config.run, exp_name=None, log_dir="-"),
    )
