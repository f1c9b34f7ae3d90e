"""What a run was made of, in words: its settings, what made it harder, versions, machine, and how to repeat it."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from peerage.config import AdviceConfig, Config, learner_part
from peerage.config import settings as known_settings
from peerage.config.file import from_dict, validate
from peerage.config.plain_yaml import to_yaml
from peerage.errors import UserError
from peerage.reports import page
from peerage.runs.folder import RunFolder
from peerage.runs.listeners import is_member
from peerage.text import listing, short

SIDES = {"adversary": -1, "colluding": -1, "expert": 1, "turncoat": 0, "convert": 0, "regional": 0}
"""Kinds of advisers that take a side: the expert's, an adversary's, or now this and now that."""
UNREAD = ("exp_name", "log_dir", "overwrite", "verbose", "n_epochs", "epoch_length")
"""Names and places, and what `total_timesteps` has taken in."""


def reproduce(run: RunFolder, name: str) -> str:
    """The command that repeats the run, the one that started it, and the packages it used."""
    config = shlex.quote(f"{run.path}/config.yaml")
    again = shlex.quote(f"{name}-again")
    parts = [page.code(f"peerage train --config {config} --exp-name {again}")]
    if commands := run.commands():
        started = "It was started with" if len(commands) == 1 else "It was started, and gone on with,"
        parts += [page.paragraph(started), page.code("\n".join(commands))]
    words = "The same seed on the same machine with the same versions gives the same numbers."
    environment = run.environment()
    commit = _mapping(environment.get("git")).get("commit")
    if isinstance(commit, str):
        words += f" The code was that of git commit {commit}"
        words += ", with changes that are in no commit." if _mapping(environment["git"]).get("modified") else "."
    return "\n".join([*parts, page.paragraph(words)])


def settings(run: RunFolder) -> str:
    """What is not as by default, and config.yaml as it stands."""
    text = (run.path / "config.yaml").read_text(encoding="utf-8", errors="replace")
    whole = page.details("Every setting (config.yaml)", page.code(text))
    rows = changed(run.config())
    if rows is None:
        return page.paragraph("This version of Peerage does not know all of its settings.") + whole
    if not rows:
        return page.paragraph("Every setting has its default value.") + whole
    table = page.table(["setting", "value", "default"], rows, text=True, caption="What is not as by default")
    return table + whole


def changed(data: Mapping[str, Any]) -> list[list[str]] | None:
    """Settings that are not as by default, as rows of name, value and default; None if `data` is no configuration.

    Defaults are those of the algorithm and of the rule of choice that the run has: changing these two is one
    change, not a dozen.
    """
    from peerage.learners.defaults import ADVICE_DEFAULTS, resolve

    try:
        config = validate(from_dict(data))
        algorithms = config.learner.algorithm
        trust = config.advice.trust if config.advice.use_trust and config.advice.choice != "uniform" else None
        standard = Config(
            n_peers=config.n_peers,
            learner=learner_part()(algorithm=algorithms),
            advice=AdviceConfig(choice=config.advice.choice, trust=trust, use_trust=config.advice.use_trust),
        )
        standard = resolve(standard, discrete=any(name == "dqn" for name in algorithms))
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
        "": replace(standard, n_peers=Config.n_peers),
        "learner": replace(standard.learner, algorithm=algorithms),
        "advice": advice,
    }
    rows = []
    for setting in known_settings().values():
        part, name = setting.part, setting.name
        value = getattr(getattr(config, part) if part else config, name)
        default = getattr(defaults.get(part, getattr(standard, part) if part else None), name)
        # A setting that this configuration leaves open says nothing.
        if name not in UNREAD and name != "env" and value != default and value not in (None, ()):
            rows.append([f"{part}.{name}" if part else name, _text(value), _text(default)])
    return rows


def _text(value: Any) -> str:
    """A value as config.yaml would have it, without brackets around a single one."""
    if isinstance(value, tuple):
        value = [list(v) if isinstance(v, tuple) else v for v in value]
        value = value[0] if len(value) == 1 else value
    if value in (None, [], {}):
        return "–" if value is None else "none"
    return to_yaml({"x": value}).partition(":")[2].strip()


def hardships(config: Mapping[str, Any], advisers: Sequence[str]) -> list[str]:
    """What was done to a training on purpose, a line each; nothing for one that was left alone.

    `config` is the resolved configuration as plain data, which may be anybody's; `advisers` are the names of all of
    them, as in advice.csv. docs/robustness.md says what is what.
    """
    perturb = dict(_mapping(config.get("perturb")))
    dropped = perturb.pop("dropped_advice", 0)
    lines = []
    if training := _assigned(perturb):
        lines.append(f"perturbed while training, not in evaluations: {training}")
    if always := _assigned(_mapping(_mapping(config.get("env_args")).get("perturb"))):
        lines.append(f"an environment that is perturbed, in evaluations too: {always}")
    if isinstance(dropped, int | float) and dropped:
        lines.append(f"advice dropped: {dropped:.0%} of the answers to a member that chooses are not given")
    byzantine = _mapping(config.get("advice")).get("byzantine_members")
    if isinstance(byzantine, list | tuple) and byzantine:
        named = [f"member-{member} ({kind})" for member, _, kind in (str(word).partition(":") for word in byzantine)]
        lines.append(f"Byzantine members, who advise others what they would not do: {listing(named)}")
    fixed = [name for name in advisers if not is_member(name)]
    for side, words in ((-1, "adversarial advisers"), (0, "advisers that are adversarial at times or in places")):
        if names := [short(name, 40) for name in fixed if _side(name) == side]:
            lines.append(f"{words}: {listing(names)}")
    if names := [short(name, 40) for name in fixed if name.startswith("noise:")]:
        lines.append(f"advisers disturbed by noise: {listing(names)}")
    return lines


def _side(adviser: str) -> int | None:
    """+1: the expert's, -1: an adversary's, 0: now this and now that, None: neither, or nobody knows."""
    kind, _, rest = adviser.partition(":")
    if kind in ("sign-flip", "negated"):
        side = _side(rest)
        return -1 if side is None else -side  # the opposite of what a checkpoint has learned, too
    return SIDES.get(kind if rest else re.sub(r"-\d+$", "", kind))  # expert-2 is a second one


def _assigned(values: Mapping[str, Any]) -> str:
    """Perturbations as on the command line, without those of no strength."""
    from peerage.config.perturbations import Perturbations

    try:
        return str(Perturbations.of(values)) if Perturbations.of(values) != Perturbations() else ""
    except (UserError, TypeError, ValueError, AttributeError):  # another version's
        return _text(dict(values))


def machine(run: RunFolder) -> str:
    """Versions, machine, and where the run was gone on with."""
    environment = run.environment()
    rows = [[key, value or "not installed"] for key, value in _mapping(environment.get("versions")).items()]
    git = _mapping(environment.get("git"))
    if git:
        rows.append(["git commit", f"{git.get('commit')}{' (with changes)' if git.get('modified') else ''}"])
    rows += [[key, value] for key, value in _mapping(environment.get("hardware")).items()]
    rows += [[key, environment[key]] for key in ("platform", "env") if key in environment]
    if not rows:
        return page.paragraph("environment.json is missing or damaged.")
    parts = [page.table(["what", "value"], [[str(cell) for cell in row] for row in rows], text=True)]
    resumed = environment.get("resumed")
    again = [_resumption(_mapping(entry)) for entry in resumed if entry] if isinstance(resumed, list) else []
    if again:
        caption = "Where the run was gone on with from a checkpoint"
        head = ["after step", "device", "threads", "different from before"]
        parts.append(page.table(head, again, text=True, caption=caption))
    return "\n".join(parts)


def _resumption(entry: Mapping[str, Any]) -> list[str]:
    step, different = entry.get("step"), entry.get("different")
    words = ", ".join(map(str, different)) if isinstance(different, list) and different else "nothing"
    device = " on ".join(str(entry[key]) for key in ("device", "cpu") if key in entry) or "–"
    return [f"{step:,}" if isinstance(step, int) else "–", device, str(entry.get("threads", "–")), words]


def _mapping(value: Any) -> Mapping[str, Any]:
    """A part of environment.json, or nothing where somebody has put something else."""
    return value if isinstance(value, Mapping) else {}
