"""Which runs are compared with which: run folders from words, the axes of a sweep, the settings in which runs differ.

Reads names and settings, no results.
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


class SweepRun(NamedTuple):
    """A run of a sweep, as its manifest names it."""

    folder: Path
    env: str
    axes: dict[str, Any]


@dataclass(frozen=True)
class Source:
    """A run folder to compare, as the user named it."""

    folder: Path
    label: str | None = None
    """What its side is called; without one it is named after the folder."""
    planned: SweepRun | None = None
    """Its line in a sweep's manifest, if it was named as part of one."""
    task: str | None = None
    """What it is compared on, where that is more than its environment."""


# --- words -> runs --------------------------------------------------------------------------------------------


def find(words: Iterable[str]) -> list[Source]:
    """Run folders from what stands on a command line: a run, a pattern with * ? [], or a sweep (its folder or its
    sweep.yaml). UserError for a word that names none."""
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
            RunFolder.open(path)  # says what is missing
            raise UserError(f"{word!r} is not a run of Peerage: its config.yaml is not one of ours")
    seen: set[Path] = set()
    return [source for source in found if not ((p := source.folder.resolve()) in seen or seen.add(p))]  # type: ignore[func-returns-value]


def sweep_runs(path: Path) -> list[SweepRun]:
    """All runs of a sweep (its folder or its sweep.yaml), trained or not. UserError if it is none."""
    manifest = path / MANIFEST if path.is_dir() else path
    try:
        runs = parse(manifest.read_text(encoding="utf-8"), str(manifest))["runs"]
        return [SweepRun(manifest.parent / str(r["folder"]), str(r["env"]), dict(r["axes"])) for r in runs]
    except UserError:
        raise
    except OSError as error:
        raise UserError(f"there is no sweep at {path}: {error.strerror or error}") from error
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise UserError(f"{manifest} is no sweep's manifest: {type(error).__name__}: {error}") from error


def missing(words: Iterable[str]) -> list[str]:
    """A line for every sweep among the words that is not trained to its end."""
    lines = []
    for word in words:
        path = Path(word)
        manifest = path if path.name == MANIFEST else path / MANIFEST
        if not is_run(path) and manifest.is_file():
            runs = sweep_runs(manifest)
            if lacking := [run for run in runs if not (run.folder / "DONE").exists()]:
                left = f"{len(lacking)} of {len(runs)} runs are not done"
                lines.append(f"{manifest.parent}: {left}; `peerage sweep` goes on")
    return lines


def _of_sweep(manifest: Path) -> list[Source]:
    there = [run for run in sweep_runs(manifest) if is_run(run.folder)]
    if not there:
        raise UserError(f"{manifest.parent}: no run of this sweep has begun yet; `peerage sweep` trains them")
    return [Source(run.folder, _label(run.axes) or None, run) for run in there]


# --- by one axis ----------------------------------------------------------------------------------------------


def by_axis(sources: Sequence[Source], axis: str) -> list[Source]:
    """The same runs, where the values of `axis` are the sides and all else is the task: `group=2, sharing=none` on
    Room-v6 by `sharing` becomes `sharing=none` on `Room-v6, group=2`.

    An axis of the sweep that the sources are from; without one a setting by its dotted name, if they differ in it.
    UserError for any other, naming those that there are.
    """
    planned = [source.planned for source in sources if source.planned is not None]
    of_sweep = len(planned) == len(sources)
    runs = planned if of_sweep else differing_settings([source.folder for source in sources])
    names = list(dict.fromkeys(name for run in runs for name in run.axes))
    if axis not in names:
        by_hand = "name a sweep's folder for its axes; settings in which these differ:"
        what = "axes of the sweep:" if of_sweep else by_hand
        there = f"{what} {listing(names) or 'none'}"
        raise UserError(f"--by {short(axis)}: there is no such axis{nearest(axis, names)}; {there}")
    if lacking := [run.folder for run in runs if axis not in run.axes]:
        raise UserError(f"--by {axis}: {lacking[0]} has no other value of it beside it: leave it out")
    found = []
    for source, run in zip(sources, runs):
        fixed = _label({name: value for name, value in run.axes.items() if name != axis})
        task = ", ".join(filter(None, [run.env, fixed]))
        found.append(replace(source, label=_label({axis: run.axes[axis]}), task=task))
    return found


def differing_settings(folders: Sequence[Path]) -> list[SweepRun]:
    """Run folders as if of a sweep: their axes are the settings that are not the same in all runs of an environment
    (seed, replicas, run folder and machine aside), and not what the others set by default."""
    resolved = [RunFolder.open(folder).resolved() for folder in folders]
    configs = [to_dict(config) for config in resolved]
    settings = [flat(to_dict(_as_asked(config))) for config in resolved]
    runs = []
    for folder, config, mine in zip(folders, configs, settings):
        alike = [other for other, its in zip(settings, configs) if its["env"] == config["env"]]
        names = [n for n in mine if n not in ("env", "seed", "replicas")]
        differing = [n for n in names if len({json.dumps(its[n], sort_keys=True) for its in alike}) > 1]
        axes = {n: value for n, value in flat(config).items() if n in differing}
        runs.append(SweepRun(folder, str(config["env"]), axes))
    return runs


def _as_asked(config: Config) -> Config:
    """Without what the other settings of advice make of a setting that is left out: in-context trust, say, has no
    critic beside it."""
    asked = config.advice
    for name, default in vars(AdviceConfig()).items():
        if default in (None, ()):
            left_out = replace(asked, **{name: default})
            asked = left_out if resolve_advice(left_out) == config.advice else asked
    return replace(config, advice=asked)


def _label(axes: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={_text(value)}" for name, value in axes.items())


def _text(value: Any) -> str:
    """A value as it stands in the name of a sweep's run: `0.001`, `true`, `none`, `16,64x64`."""
    if value is None or value == []:
        return "none"
    if isinstance(value, list):
        return ",".join("x".join(map(_text, item)) if isinstance(item, list) else _text(item) for item in value)
    return json.dumps(value) if isinstance(value, bool | dict) else str(value)


# --- settings -------------------------------------------------------------------------------------------------


def dotted(config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration as plain data, by dotted names: `n_peers`, `learner.gamma`, `run.eval_freq`."""
    parts = {part: values for part, values in config.items() if part in config_parts()}
    inner = {f"{part}.{name}": value for part, values in parts.items() for name, value in values.items()}
    return {name: value for name, value in config.items() if name not in parts} | inner


def flat(config: Mapping[str, Any]) -> dict[str, Any]:
    """Settings by their dotted names, without those of the run folder and the machine."""
    return {n: value for n, value in dotted(config).items() if not n.startswith("run.") and n not in HARDWARE_FIELDS}
