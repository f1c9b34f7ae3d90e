"""`peerage train` and `peerage resume`."""

from __future__ import annotations

import argparse
from dataclasses import replace

from peerage.commands.base import Command, add_run, check_run, number
from peerage.config import HARDWARE_FIELDS, RESUMABLE, Config
from peerage.config.file import load, validate, with_members
from peerage.config.flags import Parser, add_flags, override, train_flags
from peerage.errors import UserError

EXAMPLES = """EXAMPLES
  Four agents that learn LunarLander from each other:
    peerage train --env LunarLander-v3 --n-peers 4 --total-timesteps 100000
  An experiment of the paper, with three replicas and fewer epochs:
    peerage train --config peer-hopper --replicas 3 --n-epochs 10
  Members with different network sizes and learning rates:
    peerage train --env Room-v21 --n-peers 2 --net-arch 64,64 256,256 --learning-rate 1e-3 5e-4
  Two learners with a scripted expert and a scripted adversary among their advisers:
    peerage train --env Room-v21 --n-peers 2 --advisers expert adversary
  Independent agents without advice, as a baseline:
    peerage train --env Hopper-v5 --sharing none
  Repeat a run under another name:
    peerage train --config experiments/my-run/config.yaml --exp-name my-run-again
"""


def _train_arguments(parser: Parser) -> None:
    parser.add_argument(
        "--config",
        metavar="FILE|PRESET|RUN",
        help="start from a YAML file, a preset (`peerage presets`) or the config.yaml of a run folder; flags "
        "override it",
    )
    add_flags(parser, train_flags())


def _check_train(args: argparse.Namespace) -> None:
    given = dict(vars(args))
    source = given.pop("config")
    validate(with_members(lambda base: override(base if source is None else load(source, base), given)))


TRAIN = Command(
    "[--config FILE|PRESET|RUN] [flags]",
    "Train a group of agents that learn from each other. A step is one environment step of every member.",
    _train_arguments,
    "peerage.commands.actions.train:train",
    EXAMPLES,
    _check_train,
)


OWN_RESUME_FLAGS = ("run", "total_timesteps", "stretch_schedules")
"""Arguments of `peerage resume` that do not override a setting of `RunConfig`."""


def _resume_arguments(parser: Parser) -> None:
    add_run(parser)
    group = parser.add_argument_group("length")
    about = "extend the run, finished or not, to this number of environment steps per member"
    group.add_argument("--total-timesteps", type=number(1), metavar="N", help=about)
    about = (
        "with --total-timesteps: extend the run although schedules depend on its length, such as DQN's exploration; "
        "from then on they follow the new length"
    )
    group.add_argument("--stretch-schedules", action="store_true", help=about)
    flags = [flag for flag in train_flags() if flag.name in RESUMABLE + HARDWARE_FIELDS]
    add_flags(parser, [replace(flag, shows_default=False) for flag in flags])


def _check_resume(args: argparse.Namespace) -> None:
    check_run(args)
    if args.stretch_schedules and args.total_timesteps is None:
        raise UserError("--stretch-schedules has no effect without --total-timesteps")
    validate(override(Config(), {name: words for name, words in vars(args).items() if name not in OWN_RESUME_FLAGS}))


RESUME = Command(
    "RUN [--total-timesteps N] [flags]",
    "Continue a run from its last checkpoint, or extend it. Settings without a flag keep their values.",
    _resume_arguments,
    "peerage.commands.actions.train:resume",
    "EXAMPLES\n  peerage resume experiments/my-run\n"
    "  peerage resume experiments/my-run --checkpoint-freq 10000\n"
    "  peerage resume experiments/my-run --total-timesteps 200000\n",
    _check_resume,
)
