"""Sections of the report about the origin of a run: how to repeat it, its settings, versions and machine."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from peerage.config import AdviceConfig, Config, learner_part
from peerage.config import settings as known_settings
from peerage.config.file import default_members, from_dict, validate
from peerage.config.methods import LEARNERS
from peerage.errors import UserError
from peerage.learners.defaults import ADVICE_DEFAULTS, resolve
from peerage.reports import page
from peerage.runs.disturbances import setting_text
from peerage.runs.folder import RunFolder, as_mapping

NOT_LISTED = ("exp_name", "log_dir", "overwrite", "verbose", "n_epochs", "epoch_length", "env")
"""Settings that the table leaves out: names and places, and the length, which `total_timesteps` holds."""


def reproduce(run: RunFolder, name: str) -> str:
    """The command that repeats the run, the commands that it was trained with, and the git commit."""
    config = shlex.quote(f"{run.path}/config.yaml")
    again = shlex.quote(f"{name}-again")
    parts = [page.code(f"peerage train --config {config} --exp-name {again}")]
    if commands := run.commands():
        started = "It was started with" if len(commands) == 1 else "It was started and resumed with"
        parts += [page.paragraph(started), page.code("\n".join(commands))]
    words = "The same seed on the same machine with the same versions gives the same numbers."
    environment = run.environment()
    commit = as_mapping(environment.get("git")).get("commit")
    if isinstance(commit, str):
        words += f" The code was that of git commit {commit}"
        words += ", with uncommitted changes." if as_mapping(environment["git"]).get("modified") else "."
    return "\n".join([*parts, page.paragraph(words)])


def settings(run: RunFolder) -> str:
    """The settings that differ from the defaults, and config.yaml in full."""
    text = (run.path / "config.yaml").read_text(encoding="utf-8", errors="replace")
    complete = page.details("Every setting (config.yaml)", page.code(text))
    rows = non_default_settings(run.config())
    if rows is None:
        return page.paragraph("This version of Peerage does not know all of its settings.") + complete
    if not rows:
        return page.paragraph("Every setting has its default value.") + complete
    caption = "Settings that differ from the defaults"
    return page.table(["setting", "value", "default"], rows, text=True, caption=caption) + complete


def non_default_settings(data: Mapping[str, Any]) -> list[list[str]] | None:
    """Rows of (name, value, default) of the settings that differ from their defaults; None if `data` is not a valid
    configuration.

    The defaults are those of the run's algorithm and of its rule of choice, so that another algorithm or rule counts as
    a single change.
    """
    try:
        config = validate(from_dict(data))
        algorithms = config.learner.algorithm
        trust = config.advice.trust if config.advice.use_trust and config.advice.choice != "uniform" else None
        standard = Config(
            n_peers=config.n_peers,
            learner=learner_part()(algorithm=algorithms),
            advice=AdviceConfig(choice=config.advice.choice, trust=trust, use_trust=config.advice.use_trust),
        )
        standard = resolve(standard, discrete=all(LEARNERS[name].fits(discrete=True) for name in algorithms))
    except (UserError, TypeError, ValueError, KeyError, AttributeError):
        return None
    usual = AdviceConfig()
    advice = replace(
        standard.advice,
        choice=usual.choice,
        trust=ADVICE_DEFAULTS[config.advice.choice]["trust"],
        use_trust=usual.use_trust,
    )
    defaults = {
        "": replace(standard, n_peers=default_members(config)),
        "learner": replace(standard.learner, algorithm=algorithms),
        "advice": advice,
    }
    rows = []
    for setting in known_settings().values():
        part, name = setting.part, setting.name
        value = getattr(getattr(config, part) if part else config, name)
        default = getattr(defaults.get(part, getattr(standard, part) if part else None), name)
        # An unset value differs from its default only where another setting makes it irrelevant.
        if name not in NOT_LISTED and value != default and value not in (None, ()):
            rows.append([f"{part}.{name}" if part else name, setting_text(value), setting_text(default)])
    return rows


def machine(run: RunFolder) -> str:
    """Versions and hardware, and what changed in them at each resume."""
    environment = run.environment()
    rows = [[key, value or "not installed"] for key, value in as_mapping(environment.get("versions")).items()]
    git = as_mapping(environment.get("git"))
    if git:
        rows.append(["git commit", f"{git.get('commit')}{' (with changes)' if git.get('modified') else ''}"])
    rows += [[key, value] for key, value in as_mapping(environment.get("hardware")).items()]
    rows += [[key, environment[key]] for key in ("platform", "env") if key in environment]
    if not rows:
        return page.paragraph("environment.json is missing or damaged.")
    parts = [page.table(["item", "value"], [[str(cell) for cell in row] for row in rows], text=True)]
    resumed = environment.get("resumed")
    resumes = [_resume_row(as_mapping(entry)) for entry in resumed if entry] if isinstance(resumed, list) else []
    if resumes:
        head = ["after step", "device", "threads", "changed since the part before"]
        parts.append(page.table(head, resumes, text=True, caption="Resumes from a checkpoint"))
    extended = environment.get("extended")
    for entry in map(as_mapping, extended if isinstance(extended, list) else []):
        start, end, step, stretched = (entry.get(key) for key in ("from", "to", "step", "stretched"))
        line = f"The run was extended from {start} to {end} steps after step {step}"
        if isinstance(stretched, list) and stretched:
            line += f"; stretched schedules: {'; '.join(map(str, stretched))}"
        parts.append(page.paragraph(f"{line}."))
    return "\n".join(parts)


def _resume_row(entry: Mapping[str, Any]) -> list[str]:
    step, different = entry.get("step"), entry.get("different")
    changes = ", ".join(map(str, different)) if isinstance(different, list) and different else "nothing"
    device = " on ".join(str(entry[key]) for key in ("device", "cpu") if key in entry) or "–"
    return [f"{step:,}" if isinstance(step, int) else "–", device, str(entry.get("threads", "–")), changes]
