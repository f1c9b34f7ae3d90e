"""Find the runs to compare: run folders from names and patterns, axes of a sweep, settings in which runs differ.

Only names and settings are read, no results.
"""

from __future__ import annotations

import glob
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from peerage.config import HARDWARE_FIELDS, AdviceConfig, Config
from peerage.config import parts as config_parts
from peerage.config.file import to_dict
from peerage.config.plain_yaml import parse, short
from peerage.errors import UserError, nearest
from peerage.learners.defaults import resolve_advice
from peerage.runs.folder import RunFolder, is_run
from peerage.text import listing

MANIFEST = "sweep.yaml"
"""The file in the folder of a sweep that lists its runs."""


class SweepRun(NamedTuple):
    """A run of a sweep, from its manifest."""

    folder: Path
    env: str
    axes: dict[str, Any]


@dataclass(frozen=True)
class Source:
    """A run folder to compare, as the user named it."""

    folder: Path
    label: str | None = None
    """The name of its side; None: the name of the folder."""
    planned: SweepRun | None = None
    """Its entry in the manifest of a sweep, if it was found there."""
    task: str | None = None
    """The task, if that is more than the environment."""


# --- finding runs ---------------------------------------------------------------------------------------------


def find_runs(words: Iterable[str]) -> list[Source]:
    """The runs that words of a command line name: a run folder, a pattern with * ? [], or a sweep (its folder or its
    sweep.yaml). Each run is returned once. Raises UserError for a word that names none."""
    found: list[Source] = []
    for word in words:
        path = Path(word)
        manifest = path if path.name == MANIFEST else path / MANIFEST
        if is_run(path):
            found.append(Source(path))
        elif manifest.is_file():
            found += _of_sweep(manifest)
        elif glob.has_magic(word):
            runs = [Path(match) for match in sorted(glob.glob(word)) if is_run(Path(match))]
            if not runs:
                raise UserError(f"no run matches {word!r}")
            found += [Source(run) for run in runs]
        else:
            RunFolder.open(path)  # raises with the reason, in most cases
            raise UserError(f"{word!r} is not a run of Peerage: its config.yaml was not written by Peerage")
    seen: set[Path] = set()
    return [source for source in found if not ((p := source.folder.resolve()) in seen or seen.add(p))]  # type: ignore[func-returns-value]


def sweep_runs(path: Path) -> list[SweepRun]:
    """All runs of a sweep (its folder or its sweep.yaml), trained or not. Raises UserError if it is not a sweep."""
    manifest = path / MANIFEST if path.is_dir() else path
    try:
        runs = parse(manifest.read_text(encoding="utf-8"), str(manifest))["runs"]
        return [SweepRun(manifest.parent / str(r["folder"]), str(r["env"]), dict(r["axes"])) for r in runs]
    except UserError:
        raise
    except OSError as error:
        raise UserError(f"there is no sweep at {path}: {error.strerror or error}") from error
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise UserError(f"{manifest} is not the manifest of a sweep: {type(error).__name__}: {error}") from error


def unfinished_sweeps(words: Iterable[str]) -> list[str]:
    """A message for each sweep among the words of which not all runs are done."""
    lines = []
    for word in words:
        path = Path(word)
        manifest = path if path.name == MANIFEST else path / MANIFEST
        if not is_run(path) and manifest.is_file():
            runs = sweep_runs(manifest)
            if unfinished := [run for run in runs if not RunFolder(run.folder).has_ended()]:
                left = f"{len(unfinished)} of {len(runs)} runs are not done"
                lines.append(f"{manifest.parent}: {left}; `peerage sweep` continues it")
    return lines


def _of_sweep(manifest: Path) -> list[Source]:
    begun = [run for run in sweep_runs(manifest) if is_run(run.folder)]
    if not begun:
        raise UserError(f"{manifest.parent}: no run of this sweep has started yet; `peerage sweep` trains them")
    return [Source(run.folder, _label(run.axes) or None, run) for run in begun]


# --- by one axis ----------------------------------------------------------------------------------------------


def by_axis(sources: Sequence[Source], axis: str) -> list[Source]:
    """The same runs with the values of `axis` as sides and all other axes as part of the task: by `sharing`,
    `group=2, sharing=none` on Room-v6 becomes `sharing=none` on `Room-v6, group=2`.

    `axis` is an axis of the sweep that all sources are from; for other runs, a setting by its dotted name in which they
    differ. Raises UserError, with the possible axes, for another.
    """
    planned = [source.planned for source in sources if source.planned is not None]
    of_sweep = len(planned) == len(sources)
    runs = planned if of_sweep else differing_settings([source.folder for source in sources])
    names = list(dict.fromkeys(name for run in runs for name in run.axes))
    if axis not in names:
        outside = "to use the axes of a sweep name its folder; settings in which these runs differ:"
        there = f"{'axes of the sweep:' if of_sweep else outside} {listing(names) or 'none'}"
        raise UserError(f"--by {short(axis)}: there is no such axis{nearest(axis, names)}; {there}")
    if without := [run.folder for run in runs if axis not in run.axes]:
        raise UserError(f"--by {axis}: {without[0]} has no run with another value to compare with: remove it")
    found = []
    for source, run in zip(sources, runs):
        fixed = _label({name: value for name, value in run.axes.items() if name != axis})
        task = ", ".join(filter(None, [run.env, fixed]))
        found.append(replace(source, label=_label({axis: run.axes[axis]}), task=task))
    return found


def differing_settings(folders: Sequence[Path]) -> list[SweepRun]:
    """Run folders as runs of a sweep whose axes are the settings in which runs of the same environment differ.

    Seed, replicas, run folder and machine are no axes, nor are settings that only follow from the defaults of others.
    """
    resolved = [RunFolder.open(folder).resolved() for folder in folders]
    configs = [to_dict(config) for config in resolved]
    settings = [compared_settings(to_dict(_without_derived(config))) for config in resolved]
    runs = []
    for folder, config, own in zip(folders, configs, settings):
        same_env = [other for other, its in zip(settings, configs) if its["env"] == config["env"]]
        names = [n for n in own if n not in ("env", "seed", "replicas")]
        differing = [n for n in names if len({json.dumps(its[n], sort_keys=True) for its in same_env}) > 1]
        if "data" in differing:  # the fingerprint follows from it
            differing = [n for n in differing if n != "data_fingerprint"]
        axes = {n: value for n, value in compared_settings(config).items() if n in differing}
        runs.append(SweepRun(folder, str(config["env"]), axes))
    return runs


def _without_derived(config: Config) -> Config:
    """The configuration with those settings of advice unset that follow from others; some kinds of trust, for example,
    disable the critic by default."""
    reduced = config.advice
    for name, default in vars(AdviceConfig()).items():
        if default in (None, ()):
            unset = replace(reduced, **{name: default})
            reduced = unset if resolve_advice(unset) == config.advice else reduced
    return replace(config, advice=reduced)


def _label(axes: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={_label_text(value)}" for name, value in axes.items())


def _label_text(value: Any) -> str:
    """A value as in the name of a run of a sweep: `0.001`, `true`, `none`, `16,64x64`."""
    if value is None or value == []:
        return "none"
    if isinstance(value, list):
        items = ("x".join(map(_label_text, item)) if isinstance(item, list) else _label_text(item) for item in value)
        return ",".join(items)
    return json.dumps(value) if isinstance(value, bool | dict) else str(value)


# --- settings -------------------------------------------------------------------------------------------------


def dotted_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a configuration (plain data) by dotted names: `n_peers`, `learner.gamma`, `run.eval_freq`."""
    parts = {part: values for part, values in config.items() if part in config_parts()}
    inner = {f"{part}.{name}": value for part, values in parts.items() for name, value in values.items()}
    return {name: value for name, value in config.items() if name not in parts} | inner


def compared_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings by dotted names, without those of the run folder and the machine."""
    settings = dotted_settings(config)
    return {n: value for n, value in settings.items() if not n.startswith("run.") and n not in HARDWARE_FIELDS}
