"""Turn a sweep file into a list of runs: environments x settings x seeds. Nothing is written or trained here.

    sweep = plan_sweep("quick")                    # a built-in sweep, or a file
    for run in sweep.runs: print(run.name, run.axes)

A UserError is raised for an invalid file, for two axes that set the same field, and for two combinations that would be
the same training.
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

from peerage.config import AdviceConfig, Config, settings, with_settings
from peerage.config.check import flag, is_offline
from peerage.config.file import load, to_dict, validate, with_members
from peerage.config.methods import EXCHANGES, LEARNERS, NETS, TRUST
from peerage.config.perturbations import Perturbations, with_perturbations
from peerage.config.plain_yaml import to_yaml
from peerage.config.presets import preset_names
from peerage.envs.make import Spec, check_env_id
from peerage.errors import UserError
from peerage.learners.defaults import check_learning, member_settings
from peerage.loading import deferred
from peerage.offline.configured import load_configured
from peerage.offline.trajectories import Trajectories, load_data
from peerage.runs.folder import plain_data
from peerage.sweeps.choices import Choice, settings_of
from peerage.sweeps.file import FILES, PLACEHOLDER, SweepFile, read
from peerage.sweeps.launch import Task
from peerage.text import count, listing, one_line
from peerage.training.prepare import prepare

make_adviser = deferred("peerage.sharing.advisers:make_adviser")  # imports torch, and few sweeps have advisers
check_length = deferred("peerage.sharing.targeted:check_length")
MAX_RUNS = 10_000
_UNSAFE = re.compile(r"[^A-Za-z0-9._+=,-]+")


@dataclass(frozen=True)
class PlannedRun:
    """One run of a sweep."""

    name: str
    env: str
    """The environment for comparisons: its id, or its name in the file where several entries share an id."""
    axes: dict[str, Any]
    """Axis -> value as in the file; for named alternatives the name."""
    seed: int
    config: Config
    """The configuration that is trained."""
    resolved: Config
    """The configuration with all defaults filled in, as in the run's config.yaml."""


@dataclass(frozen=True)
class Sweep:
    """All runs of a sweep file; all combinations with the first seed come first."""

    name: str
    title: str
    where: Path
    """The folder that holds the run folders and sweep.yaml."""
    asked: dict[str, Any]
    """The content of the file, and under `overrides` the settings that override it."""
    runs: tuple[PlannedRun, ...]
    notes: tuple[str, ...] = ()
    """Messages for the user."""

    def folder(self, run: PlannedRun) -> Path:
        """The run folder of a run."""
        return self.where / run.name

    def task(
        self,
        run: PlannedRun,
        *,
        resume: bool = False,
        command: Sequence[str] = (),
        measure: int = 0,
        stretch: bool = False,
    ) -> Task:
        """The task of a worker for a run; the arguments are fields of `Task`."""
        folder, threads = str(self.folder(run)), run.config.threads or 1
        return Task(run.name, folder, to_dict(run.config), resume, threads, tuple(command), measure, stretch)

    @property
    def threads(self) -> int:
        """The largest number of CPU threads of a run."""
        return max(run.config.threads or 1 for run in self.runs)

    def manifest(self) -> str:
        """The content of sweep.yaml: the file and a line per run, with its folder relative to sweep.yaml."""
        runs = ({"folder": run.name, "env": run.env, "axes": run.axes, "seed": run.seed} for run in self.runs)
        lines = "".join(f"- {json.dumps(run, ensure_ascii=False)}\n" for run in runs)
        return f"{to_yaml({'name': self.name, 'title': self.title})}runs:\n{lines}{to_yaml({'asked': self.asked})}"


def plan_sweep(source: str, *, log_dir: str | None = None, settings: Mapping[str, Any] | None = None) -> Sweep:
    """The runs of a sweep, by its name or file.

    `log_dir` overrides its `where`. `settings` (fields of `peerage.config` by name) override its base, `common` and
    environments. Raises UserError for an invalid sweep.
    """
    data, path = read(source)
    try:
        return _plan(SweepFile(data, path), log_dir, dict(settings or {}))
    except UserError as error:
        raise UserError(f"{path if path.parent != FILES else path.name}: {error}") from None


# --- the combinations ---------------------------------------------------------------------------------------


def _plan(file: SweepFile, log_dir: str | None, overrides: dict[str, Any]) -> Sweep:
    if log_dir is not None and (not log_dir.strip() or "\0" in log_dir):
        raise UserError("--log-dir is empty or cannot be a path")
    where = file.where if log_dir is None else Path(log_dir)
    overrides = settings_of(overrides, "overrides")
    for axis, choices in file.axes.items():
        if both := sorted({name for c in choices for name in c.settings} & set(overrides)):
            raise UserError(f"axes.{axis} sets {both[0]}: remove {flag(both[0])}")
    if "env" in overrides and file.environments:
        raise UserError("`environments` lists the environments: remove --env")
    columns = [file.environments or [Choice(None, "", None, {})], *file.axes.values()]
    if (size := math.prod(map(len, columns)) * len(file.seeds)) > MAX_RUNS:
        raise UserError(f"{size:,} runs are too many: at most {MAX_RUNS:,}")
    names = ["environment", *file.axes]
    combinations = [dict(zip(names, chosen)) for chosen in itertools.product(*columns)]
    left = [c for c in combinations if not any(_matches(c, entry) for entry in file.excluded)]
    if not left:
        raise UserError("exclude: no combination is left")
    bases = cache(lambda name, n_peers: _base(file, name, n_peers))
    with warnings.catch_warnings(record=True) as caught:
        runs = [_run(file, where, c, seed, bases, overrides) for seed in file.seeds for c in left]
    asked = {**file.data, **({"overrides": plain_data(overrides)} if overrides else {})}
    runs = _name_environments(runs, left * len(file.seeds))
    _refuse_duplicates(runs)
    notes = (*_notes([str(w.message) for w in caught]), *_equal_trainings(runs))
    return Sweep(file.name, file.title, where, asked, tuple(runs), notes)


def _notes(said: Sequence[str]) -> tuple[str, ...]:
    """Gymnasium's warnings as messages; those about outdated versions of environments are merged into one."""
    old = [found[1] for text in said if (found := re.search(r"environment (\S+) is out of date", text))]
    others = dict.fromkeys(one_line(text) for text in said if "is out of date" not in text)
    about = f"Gymnasium has newer versions of {listing(old)}: results of different versions are not comparable"
    return (*([about] if old else []), *others)


def _base(file: SweepFile, name: str, n_peers: int) -> Config:
    """The base configuration: a file next to the sweep file, or anything that `--config` accepts. `n_peers` is the
    default of this setting."""
    beside = file.path.parent / name
    try:
        source = beside if name not in preset_names() and beside.exists() else name
        return load(source, Config(n_peers=n_peers))
    except UserError as error:
        raise UserError(f"base: {error}") from None


def _run(
    file: SweepFile,
    where: Path,
    chosen: dict[str, Choice],
    seed: int | None,
    bases: Callable[[str, int], Config],
    overrides: dict[str, Any],
) -> PlannedRun:
    """One combination as a run, resolved and checked."""
    words = {name: choice.word for name, choice in chosen.items()}
    for name in file.words:
        if words[name] is None:
            raise UserError(f"axes.{name}: `base` accepts words and whole numbers only")
    layers = [file.common, chosen["environment"].settings, overrides]
    by: dict[str, str] = {}  # field -> the axis that sets it
    for axis, choice in chosen.items():
        if axis == "environment":
            continue
        for name in choice.settings:
            other = "environments" if name in chosen["environment"].settings else by.get(name, axis)
            if name != "env_args" and other != axis:
                raise UserError(f"axes.{axis} and {other} both set {name}")
            by[name] = axis
        layers.append(choice.settings)

    def configured(config: Config) -> Config:
        if file.template:
            config = bases(PLACEHOLDER.sub(lambda place: str(words[place[1]]), file.template), config.n_peers)
        for layer in layers:
            config = _override(config, layer)
        return config

    config = with_members(configured)
    config = replace(config, seed=config.seed if seed is None else seed, threads=config.threads or 1)
    if is_offline(config) and config.data:  # the environment is that of the data
        try:
            config, _ = load_configured(config, keep_env="env" in chosen["environment"].settings, load=_data)
        except UserError as error:
            raise UserError(f"data: {error}") from None
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


def _matches(combination: dict[str, Choice], entry: dict[str, list[Choice]]) -> bool:
    return all(combination[name] in choices for name, choices in entry.items())


def _override(config: Config, layer: dict[str, Any]) -> Config:
    """`config` with the fields of `layer`; arguments of the environment are added to those in `config`."""
    if "env_args" in layer:
        layer = {**layer, "env_args": {**config.env_args, **layer["env_args"]}}
    return with_settings(config, layer)


def _name(labels: Sequence[str]) -> str:
    """The name of a run, such as `Room-v6_sharing=none_seed0`. A name that is changed or shortened to be a valid folder
    name ends in a checksum of the labels, so that it does not depend on the other runs."""
    name = "_".join(labels)
    safe = _UNSAFE.sub("-", name).strip(".-")
    if safe != name or len(safe) > 150:
        safe = f"{safe[:130]}-{hashlib.sha256(json.dumps(list(labels)).encode()).hexdigest()[:8]}"
    return safe


def _name_environments(runs: list[PlannedRun], combinations: list[dict[str, Choice]]) -> list[PlannedRun]:
    """Use the names in the file instead of ids that several environments share: with other arguments they are different
    tasks."""
    names = {(c["environment"].value, run.env) for run, c in zip(runs, combinations) if c["environment"].value}
    ids = [env for _, env in names]
    return [
        replace(run, env=c["environment"].value) if ids.count(run.env) > 1 else run
        for run, c in zip(runs, combinations)
    ]


@cache
def _data(name: str) -> Trajectories:
    return load_data(name)


@cache
def _spec(env: str, args: str) -> Spec:
    return check_env_id(env, json.loads(args))


def _resolve(config: Config) -> Config:
    """Fill in defaults and check advisers and features as `peerage.training.trainer.Trainer` does."""
    spec = _spec(config.env, json.dumps(config.env_args))
    if config.perturb:  # check that the training environments have these parameters
        _spec(config.env, json.dumps(with_perturbations(config.env_args, Perturbations.of(config.perturb))))
    for adviser in config.advisers:
        if not adviser.startswith("checkpoint:"):  # the checkpoint may not exist yet
            check_length(make_adviser(adviser, spec).max_steps, spec, adviser)
    resolved = prepare(config, spec)
    check_learning(member_settings(resolved, spec.discrete), resolved.steps)
    return resolved


def _refuse_duplicates(runs: Sequence[PlannedRun]) -> None:
    """UserError for two runs with the same name on a case-insensitive file system, or with the same training."""
    named: dict[str, PlannedRun] = {}
    trained: dict[str, PlannedRun] = {}
    for run in runs:
        if other := named.get(run.name.casefold()):
            raise UserError(f"two runs would have the name {run.name}: {other.axes} and {run.axes}; rename one")
        named[run.name.casefold()] = run
        what = json.dumps(to_dict(_effective(run.resolved)))
        if other := trained.get(what):
            raise UserError(f"{other.name} and {run.name} are the same training; remove one with `exclude`")
        trained[what] = run


CAPACITIES = ("buffer_size", "context_history", "attention_history", "trust_buffer_size")
"""Settings of which a run uses no more than its number of steps."""


def _equal_trainings(runs: Sequence[PlannedRun]) -> list[str]:
    """A message about runs that are the same training although their settings differ, because a capacity is larger than
    the number of steps. One message for each set of settings, with the first two runs."""
    first: dict[str, PlannedRun] = {}
    pairs: dict[tuple[str, ...], list[tuple[PlannedRun, PlannedRun]]] = {}
    for run in runs:
        used, steps = _effective(run.resolved), run.resolved.steps
        known = [setting for setting in settings().values() if setting.name in CAPACITIES]
        values = {s.key: getattr(getattr(used, s.part), s.name) for s in known}
        limited = {key: _at_most(value, steps) for key, value in values.items()}
        what = json.dumps(to_dict(with_settings(used, limited)))
        other = first.setdefault(what, run)
        if other is not run:
            theirs = _effective(other.resolved)
            names = tuple(s.key for s in known if values[s.key] != getattr(getattr(theirs, s.part), s.name))
            pairs.setdefault(names, []).append((other, run))
    lines = []
    for names, found in pairs.items():
        (a, b), more = found[0], len(found) - 1
        also = f" ({count(more, 'more pair')})" if more else ""
        why = f"{listing(list(names))} cannot be more than the {a.resolved.steps:,} steps of a run"
        lines.append(f"{a.name} and {b.name} are the same training{also}: {why}; remove one value")
    return lines


def _at_most(value: Any, steps: int) -> Any:
    return tuple(min(one, steps) for one in value) if isinstance(value, tuple) else min(value, steps)


def _effective(config: Config) -> Config:
    """The configuration without the name and folder of the run and without unused settings."""
    advice = config.advice if config.advice.sharing != "none" else AdviceConfig(sharing="none")
    used = {TRUST[advice.trust].part} if advice.trust and advice.sharing != "none" else set[str]()
    used |= {EXCHANGES[name].part for name in config.exchange}
    used |= {NETS[name].part for name in config.learner.net}
    used |= {net.part for name in config.learner.algorithm if (net := LEARNERS[name].net) is not None}
    return replace(
        config,
        advice=advice,
        methods={part: values for part, values in config.methods.items() if part in used},
        run=replace(config.run, exp_name=None, log_dir="-"),
    )
