"""`peerage train` and `peerage resume`."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from peerage.commands.console import print_outputs
from peerage.config import HARDWARE_FIELDS, AdviceConfig, Config
from peerage.config.check import LEARNERS_RATE, flag, is_offline
from peerage.config.file import from_dict, load, validate, with_members, with_sharing
from peerage.config.flags import override
from peerage.config.presets import preset_names, seed_flags
from peerage.envs.make import check_env_id
from peerage.errors import UserError
from peerage.learners.defaults import (
    default_algorithm,
    fits,
    refuse_online_settings,
    refuse_other_learners,
    refuse_unused_settings,
)
from peerage.loading import deferred
from peerage.offline.configured import check_fits, load_configured
from peerage.runs.folder import RunFolder
from peerage.training.prepare import check_training

# Both import torch, which takes seconds; errors of the settings are reported before
run_training = deferred("peerage.session:run_training")
resume_training = deferred("peerage.session:resume")

UNNAMED = "unnamed"
PUBLISHED_FLAGS = ("use_phase_aware", "sequence_length", "warmup_steps")
"""Flags, besides `attention_*`, of the published transformer-trust code: a command with one of them means its
settings."""


def train(args: argparse.Namespace, command: Sequence[str]) -> None:
    given = vars(args)
    source = given.pop("config")
    published = source is None and _is_published(given)

    def configured(base: Config) -> Config:
        start = base if source is None else load(source, base)
        return override(_as_published(start, given) if published else start, given)

    config = validate(with_members(configured))
    _refuse_idle_flags(config, given)
    if published and config.run.verbose:
        print(
            "These flags select the published transformer trust: its choice rule (paper) and its learners' settings. "
            "Add --trust hybrid for Peerage's own settings."
        )
    unnamed = config.run.exp_name is None and "exp_name" not in given  # `--exp-name none` is given
    if source in preset_names() and unnamed:  # presets may share an environment: name runs by them
        config = replace(config, run=replace(config.run, exp_name=f"{source}-seed-{config.seed}"))
    if config.run.exp_name is not None:
        RunFolder.plan(config.run.log_dir, config.run.exp_name, "run", config.run.overwrite)
    data = None
    if is_offline(config):
        config, data = load_configured(config, keep_env="env" in given or _names_env(source))
    spec = check_training(config, given)
    if data is not None:
        check_fits(data, spec)
    run = run_training(config, command, given=list(given), spec=spec, data=data)
    if config.run.verbose:
        print_outputs(run)


def _names_env(source: str | Path | None) -> bool:
    """Whether a configuration file or preset names an environment, be it the default one."""
    return source is not None and load(source, Config(env=UNNAMED)).env != UNNAMED


def _refuse_idle_flags(config: Config, given: Mapping[str, Any]) -> None:
    """UserError for a flag that has no effect."""
    if is_offline(config):
        refuse_online_settings(config.learner.algorithm[0], given)
    elif with_sharing(config).advice.sharing == "none":
        for name in given:
            if name in AdviceConfig.__dataclass_fields__ and name != "sharing":
                if config.advice.sharing is None:
                    learner = " ".join(dict.fromkeys(config.learner.algorithm))
                    why = f"members of {learner} learn alone by default"
                    raise UserError(f"{flag(name)} has no effect, because {why}: add --sharing advice")
                more = f"; {LEARNERS_RATE}" if name == "lr" else ""
                raise UserError(f"{flag(name)} has no effect with --sharing none: remove one of the two{more}")
    refuse_unused_settings(config, given)
    algorithms = set(config.learner.algorithm)
    automatic = [default_algorithm(discrete) for discrete in (True, False)]
    if "auto" in algorithms and any(not fits(name, algorithm) for name in given for algorithm in automatic):
        algorithms = algorithms - {"auto"} | {_default_algorithm(config)}
    refuse_other_learners(algorithms, given)


def _is_published(given: Mapping[str, Any]) -> bool:
    """Whether the flags are those of the commands of the published transformer trust, and do not themselves say how to
    trust or choose."""
    published = any(name in PUBLISHED_FLAGS or name.startswith("attention_") for name in given)
    return published and "trust" not in given and "choice" not in given


def _as_published(config: Config, given: Mapping[str, Any]) -> Config:
    """`config` with the settings of the published transformer trust."""
    named = override(config, {name: given[name] for name in ("env", "env_args") if name in given})
    return from_dict(seed_flags(_default_algorithm(named)), config)


def _default_algorithm(config: Config) -> str:
    """The algorithm that `auto` means in this environment."""
    return default_algorithm(check_env_id(config.env, config.env_args).discrete)


def resume(args: argparse.Namespace, command: Sequence[str]) -> None:
    given = vars(args)
    run = Path(given.pop("run"))
    length = {name: given.pop(name) for name in ("total_timesteps", "stretch_schedules")}
    checked = validate(override(Config(), given))
    settings = {name: getattr(checked if name in HARDWARE_FIELDS else checked.run, name) for name in given}
    resume_training(run, command=command, **length, **settings)
    if checked.run.verbose:
        print_outputs(run)
