"""`peerage train` and `peerage resume`."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from peerage.commands.base import Command, add_run, run_folder, say_where
from peerage.config import HARDWARE_FIELDS, RESUMABLE, Config
from peerage.config.file import load, validate
from peerage.config.flags import Parser, add_flags, override, train_flags
from peerage.errors import UserError

EXAMPLES = """EXAMPLES
  Four agents that learn LunarLander from each other:
    peerage train --env LunarLander-v3 --n-peers 4 --total-timesteps 100000
  An experiment of the paper, three replicas of it, shortened:
    peerage train --config peer-hopper --replicas 3 --n-epochs 10
  A member of a size and learning rate of its own:
    peerage train --env Room-v21 --n-peers 2 --net-arch 64,64 256,256 --learning-rate 1e-3 5e-4
  Two learners with a scripted expert and a scripted adversary among their advisers:
    peerage train --env Room-v21 --n-peers 2 --advisers expert adversary
  Every agent for itself, for comparison:
    peerage train --env Hopper-v5 --sharing none
  The same run again, elsewhere:
    peerage train --config experiments/my-run/config.yaml --exp-name my-run-again
"""

# The flags by which one tells a command of the published transformer-trust code.
PUBLISHED = ("use_phase_aware", "sequence_length", "warmup_steps")


def _train_arguments(parser: Parser) -> None:
    parser.add_argument(
        "--config",
        metavar="FILE|PRESET|RUN",
        help="start from a YAML file, a preset (`peerage presets`) or the config.yaml of a run folder; flags "
        "override it",
    )
    add_flags(parser, train_flags())


def _train(args: argparse.Namespace, command: list[str]) -> None:
    given = vars(args)
    from peerage.config.presets import preset_names

    source = given.pop("config")
    base = load(source) if source is not None else Config()
    start = _as_published(base, given) if source is None else base
    config = validate(override(start, given))
    _refuse_idle_flags(config, given)
    if start is not base and config.run.verbose:
        print(
            "These flags mean the published transformer trust: its choice rule (paper) and its learners' settings; "
            "with --trust hybrid the house's own."
        )
    if source in preset_names() and config.run.exp_name is None:  # two presets of one environment are two runs
        config = replace(config, run=replace(config.run, exp_name=f"{source}-seed-{config.seed}"))

    from peerage.session import run_training

    say_where(run_training(config, command), config.run.verbose)


def _refuse_idle_flags(config: Config, given: Mapping[str, Any]) -> None:
    """No flag of the command line may be without effect."""
    from peerage.learners.defaults import fits, refuse_unused_settings

    if config.advice.sharing == "none":
        from peerage.config import AdviceConfig

        for name in given:
            if name in AdviceConfig.__dataclass_fields__ and name != "sharing":
                flag = "--" + name.replace("_", "-")
                raise UserError(f"{flag} with --sharing none: nobody asks for advice; leave one of the two out")
    refuse_unused_settings(config, given)
    algorithms = set(config.learner.algorithm)
    if "auto" in algorithms and any(not fits(name, algorithm) for name in given for algorithm in ("dqn", "sac")):
        from peerage.envs.make import check_env_id

        algorithms = algorithms - {"auto"} | {"dqn" if check_env_id(config.env, config.env_args).discrete else "sac"}
    for name in given:
        if not any(fits(name, algorithm) for algorithm in algorithms):
            raise UserError(f"--{name.replace('_', '-')} is nothing that {' or '.join(sorted(algorithms))} has")


def _as_published(config: Config, given: Mapping[str, Any]) -> Config:
    """The settings of the published transformer trust, if the flags are those of its commands and do not themselves
    say how to trust or choose."""
    asked = any(name in PUBLISHED or name.startswith("attention_") for name in given)
    if not asked or "trust" in given or "choice" in given:
        return config
    from peerage.config.file import from_dict
    from peerage.config.presets import seed_flags
    from peerage.envs.make import check_env_id

    named = override(config, {name: given[name] for name in ("env", "env_args") if name in given})
    discrete = check_env_id(named.env, named.env_args).discrete
    return from_dict(seed_flags("dqn" if discrete else "sac"), config)


def _resume_arguments(parser: Parser) -> None:
    add_run(parser)
    flags = [flag for flag in train_flags() if flag.name in RESUMABLE + HARDWARE_FIELDS]
    add_flags(parser, [replace(flag, shows_default=False) for flag in flags])  # the default is the run's own


def _resume(args: argparse.Namespace, command: list[str]) -> None:
    given = vars(args)
    run = run_folder(given.pop("run"))
    checked = validate(override(Config(), given))

    from peerage.session import resume

    settings = {name: getattr(checked if name in HARDWARE_FIELDS else checked.run, name) for name in given}
    resume(run, command=command, **settings)
    say_where(run, checked.run.verbose)


TRAIN = Command(
    "[--config FILE|PRESET|RUN] [flags]",
    "Train a group of agents that learn from each other. A step is one environment step of every member.",
    _train_arguments,
    _train,
    EXAMPLES,
)

RESUME = Command(
    "RUN [flags]",
    "Go on with a run from its last checkpoint. What no flag changes stays as it was.",
    _resume_arguments,
    _resume,
    "EXAMPLES\n  peerage resume experiments/my-run\n"
    "  peerage resume experiments/my-run --checkpoint-freq 10000\n",
)
