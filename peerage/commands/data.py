"""`peerage collect` and `peerage data`."""

from __future__ import annotations

import argparse

from peerage.commands.base import Command, add_json, number
from peerage.config.flags import Flag, Parser
from peerage.config.sources import divided, parse_source
from peerage.config.tree import settings
from peerage.errors import UserError

ONLY_FOR_SOURCES = ("env_args", "seed", "noise", "sample", "max_episode_steps", "n_envs")
"""Arguments that --from-replay excludes."""


def _noise(text: str) -> float:
    """The type of an argument: a number that is not negative."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a number of at least 0, got {text[:40]!r}")
    return value


def _collect_arguments(parser: Parser) -> None:
    parser.add_argument(
        "sources",
        metavar="SOURCE",
        nargs="*",
        help="RUN[:MEMBER][@best|@STEP], a zip file of Stable-Baselines3, or an adviser, such as expert, random or "
        "noise:0.3:expert; SOURCE=SHARE gives it that share of the episodes (default: equal shares)",
    )
    about = "name of the dataset in Minari's folder, such as hopper-mixed-v0, or the path of a folder, such as ./mixed"
    parser.add_argument("--out", metavar="NAME|PATH", required=True, help=about)
    about = "episodes of all sources together (default: 100); with --from-replay: the newest ones (default: all)"
    parser.add_argument("--episodes", type=number(1), metavar="N", help=about)
    parser.add_argument("--env", metavar="ID", help="environment (default: that of the first run among the sources)")
    about = "arguments of the environment, in addition to those of the run"
    parser.add_argument("--env-args", metavar="NAME=VALUE", nargs="+", help=about)
    about = "exploration noise; Box: standard deviation in halves of the range; Discrete: probability (default: 0)"
    parser.add_argument("--noise", type=_noise, metavar="SCALE", help=about)
    about = "trained members sample their actions (sac, ppo; default: the mode of their policies)"
    parser.add_argument("--sample", action="store_true", default=None, help=about)
    about = "length after which an episode is truncated (default: the environment's time limit)"
    parser.add_argument("--max-episode-steps", type=number(1), metavar="N", help=about)
    parser.add_argument("--seed", type=number(0), metavar="N", help="seed of the episodes and the noise (default: 0)")
    about = "environments that are stepped together (default: 16)"
    parser.add_argument("--n-envs", type=number(1), metavar="N", help=about)
    about = "write the episodes in the replay buffer of a member, RUN[:MEMBER][@best|@STEP], instead of playing"
    parser.add_argument("--from-replay", metavar="RUN", help=about)
    about = "with --from-replay: the replica, from 0 (default: 0)"
    parser.add_argument("--replica", type=number(0), metavar="N", help=about)
    parser.add_argument("--overwrite", action="store_true", help="replace an existing dataset")


def _check_collect(args: argparse.Namespace) -> None:
    if args.from_replay is not None:
        given = [name for name in ONLY_FOR_SOURCES if getattr(args, name) is not None]
        if given or args.sources:
            what = f"--{given[0].replace('_', '-')}" if given else f"the source {args.sources[0]}"
            raise UserError(f"--from-replay and {what} cannot be combined: remove one of them")
        return
    if args.replica is not None:
        raise UserError("--replica has no effect without --from-replay")
    if not args.sources:
        raise UserError("there is nothing to collect: name a SOURCE, or a run with --from-replay")
    sources = [parse_source(text) for text in args.sources]
    episodes = args.episodes or 100
    for source, n in zip(sources, divided(episodes, [source.share for source in sources])):
        if not n:
            raise UserError(f"{source.text} gets none of {episodes} episodes: raise --episodes or its share")
    if args.env_args is not None:
        args.env_args = Flag(settings()["env_args"]).value(args.env_args, {})


COLLECT = Command(
    "SOURCE[=SHARE] [SOURCE[=SHARE] ...] --out NAME|PATH [--episodes N] [--env ID] [--noise SCALE] [flags]",
    "Record episodes of trained members or advisers as a Minari dataset, for offline training.",
    _collect_arguments,
    "peerage.commands.actions.data:collect",
    "EXAMPLES\n  peerage collect experiments/hopper:0@best --episodes 200 --noise 0.1 --out hopper-expert\n"
    "  peerage collect experiments/hopper@10000 experiments/hopper=2 random --out hopper-mixed\n"
    "  peerage collect expert random --env Room-v21 --out ./room\n"
    "  peerage collect --from-replay experiments/hopper:1 --out hopper-replay\n",
    _check_collect,
)


def _data_arguments(parser: Parser) -> None:
    about = "name or path of a dataset (default: all in Minari's folder, MINARI_DATASETS_PATH or ~/.minari/datasets)"
    parser.add_argument("names", metavar="NAME|PATH", nargs="*", help=about)
    add_json(parser)


DATA = Command(
    "[NAME|PATH ...] [--json]",
    "List local datasets of episodes: environment, size, returns and source.",
    _data_arguments,
    "peerage.commands.actions.data:print_data",
)
