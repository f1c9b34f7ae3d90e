"""The console script `peerage`. Nothing heavy is imported before a command needs it.

Whatever the user can mend is one line on stderr, `peerage: ...`, and exit status 2.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import shlex
import sys
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from peerage.config import ELSEWHERE, PARTS, RESUMABLE, Config
from peerage.configfile import load, to_yaml, validate
from peerage.errors import UserError, nearest
from peerage.flags import Parser, add_flags, override, train_flags

NO_MEMORY = "there is not enough memory: close other programs, or raise the limit (`ulimit -v`, that of the container)"
COLOUR = re.compile(r"\x1b\[[0-9;]*m")
"""Gymnasium's warnings are yellow."""
GOES_ON = "`peerage resume` with the run's folder goes on with a training"
EVALUATION_COLUMNS = ("replica", "member", "episode", "return", "length", "success")

TRAIN_EXAMPLES = """EXAMPLES
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


@dataclass(frozen=True)
class Command:
    usage: str
    summary: str
    add_arguments: Callable[[Parser], None]
    run: Callable[[argparse.Namespace, list[str]], None]
    examples: str = ""

    def parser(self, name: str) -> Parser:
        parser = Parser(
            prog=f"peerage {name}",
            usage=f"peerage {name} {self.usage}".rstrip(),
            description=self.summary,
            epilog=self.examples,
        )
        self.add_arguments(parser)
        return parser


# --- train and resume ---------------------------------------------------------------------------------


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
    from peerage.presets import preset_names

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

    from peerage.training.session import run_training

    _say_where(run_training(config, command), config.run.verbose)


def _refuse_idle_flags(config: Config, given: Mapping[str, Any]) -> None:
    """No flag of the command line may be without effect."""
    from peerage.learners.defaults import fits, refuse_idle_trust

    if config.advice.sharing == "none":
        from peerage.config import AdviceConfig

        for name in given:
            if name in AdviceConfig.__dataclass_fields__ and name != "sharing":
                flag = "--" + name.replace("_", "-")
                raise UserError(f"{flag} with --sharing none: nobody asks for advice; leave one of the two out")
    refuse_idle_trust(config.advice, given)
    algorithms = set(config.learner.algorithm)
    if "auto" in algorithms and any(not fits(name, algorithm) for name in given for algorithm in ("dqn", "sac")):
        from peerage.envs.make import check_env_id

        algorithms = algorithms - {"auto"} | {"dqn" if check_env_id(config.env, config.env_args).discrete else "sac"}
    for name in given:
        if not any(fits(name, algorithm) for algorithm in algorithms):
            raise UserError(f"--{name.replace('_', '-')} is nothing that {' or '.join(sorted(algorithms))} has")


# The flags by which one tells a command of the published transformer-trust code.
PUBLISHED = ("use_phase_aware", "sequence_length", "warmup_steps")


def _as_published(config: Config, given: Mapping[str, Any]) -> Config:
    """The settings of the published transformer trust, if the flags are those of its commands and do not themselves
    say how to trust or choose."""
    asked = any(name in PUBLISHED or name.startswith("attention_") for name in given)
    if not asked or "trust" in given or "choice" in given:
        return config
    from peerage.configfile import from_dict
    from peerage.envs.make import check_env_id
    from peerage.presets import seed_flags

    named = override(config, {name: given[name] for name in ("env", "env_args") if name in given})
    discrete = check_env_id(named.env, named.env_args).discrete
    return from_dict(seed_flags("dqn" if discrete else "sac"), config)


def _resume_arguments(parser: Parser) -> None:
    _add_run(parser)
    flags = [flag for flag in train_flags() if flag.name in RESUMABLE + ELSEWHERE]
    add_flags(parser, [replace(flag, default=None) for flag in flags])  # the default is the run's own


def _resume(args: argparse.Namespace, command: list[str]) -> None:
    given = vars(args)
    run = _run_folder(given.pop("run"))
    checked = validate(override(Config(), given))

    from peerage.training.session import resume

    settings = {name: getattr(checked if name in ELSEWHERE else checked.run, name) for name in given}
    resume(run, command=command, **settings)
    _say_where(run, checked.run.verbose)


def _say_where(run: Path, verbose: int) -> None:
    if verbose:
        try:
            print(f"figures: {run / 'figures'}\nreport:  {run / 'report.html'}", flush=True)
        except (OSError, ValueError):  # the run is there, whether anybody hears of it or not
            _leave_stdout()


def _sweep_arguments(parser: Parser) -> None:
    about = "a sweep file, or the name of a shipped one; without it those are listed"
    parser.add_argument("file", metavar="FILE|NAME", nargs="?", help=about)
    about = "print the runs, what would be done to each, and the time; write nothing"
    parser.add_argument("--dry-run", action="store_true", help=about)
    about = "with --dry-run: time some hundred steps of runs of unknown speed"
    parser.add_argument("--measure", action="store_true", help=about)
    about = "runs at the same time (default: as many as there are cores for)"
    parser.add_argument("--jobs", type=_number(1), metavar="N", help=about)
    add_flags(parser, [flag for flag in train_flags() if flag.name not in ("seed", "exp_name", "overwrite")])


def _sweep(args: argparse.Namespace, command: list[str]) -> None:
    from peerage.sweeps import describe, run, sweep_names

    given = vars(args)
    own = {name: given.pop(name) for name in ("file", "dry_run", "measure", "jobs") if name in given}
    if (file := own.pop("file")) is None:
        _print_table({"sweep": name, "about": describe(name)} for name in sweep_names())
        return
    config = override(Config(), given)
    values: dict[str, Any] = {}
    for part in PARTS:
        values |= vars(getattr(config, part) if part else config)
    settings = {name: values[name] for name in given}
    about = {name: settings.pop(name) for name in ("log_dir", "verbose") if name in settings}
    if status := run(file, **own, **about, settings=settings, command=command):
        raise SystemExit(status)


# --- what reads a run folder --------------------------------------------------------------------------


def _add_run(parser: Parser, nargs: str | None = None) -> None:
    parser.add_argument("run", metavar="RUN", nargs=nargs, help="a run folder, such as experiments/my-run")


def _run_folder(text: str) -> Path:
    run = Path(text)
    if not (run / "config.yaml").is_file():
        raise UserError(f"{text!r} is not a run folder: it holds no config.yaml")
    return run


def _number(low: int) -> Callable[[str], int]:
    def whole(text: str) -> int:
        if not text.isdecimal() or not low <= int(text) < 2**63:
            raise argparse.ArgumentTypeError(f"expected a whole number of at least {low}, got {text[:40]!r}")
        return int(text)

    return whole


def _evaluate_arguments(parser: Parser) -> None:
    _add_run(parser)
    parser.add_argument(
        "--episodes", type=_number(1), default=10, metavar="N", help="episodes of every member (default: 10)"
    )
    parser.add_argument(
        "--seed", type=_number(0), metavar="N", help="seed of the episodes (default: as in the run)"
    )
    parser.add_argument(
        "--members", type=_number(0), nargs="+", metavar="N", help="which members, from 0 (default: all)"
    )
    parser.add_argument(
        "--perturb",
        nargs="+",
        metavar="NAME=VALUE",
        help="disturb as in a training, and compare with the same episodes undisturbed; a list, as in "
        "observation_noise=0,0.1,0.2, gives a line for each (docs/robustness.md)",
    )
    parser.add_argument(
        "--advised",
        action="store_true",
        help="in company: members choose whom to follow, as at the end of the training, and trust goes on learning",
    )
    parser.add_argument(
        "--byzantine-members",
        nargs="+",
        default=[],
        metavar="MEMBER:KIND",
        help="with --advised: members that lie to others, as in a training",
    )
    parser.add_argument(
        "--advisers",
        nargs="+",
        metavar="ADVISER",
        help="with --advised: as many as the run has, in their places, such as sign-flip:expert",
    )


def _evaluate(args: argparse.Namespace, command: list[str]) -> None:
    run = _run_folder(args.run)
    if args.perturb or args.advised or args.byzantine_members or args.advisers:
        from peerage.envs.perturbed import parse_cases
        from peerage.evaluation.robustness import evaluate_perturbed

        company = {name: getattr(args, name) for name in ("advised", "byzantine_members", "advisers")}
        cases = parse_cases(args.perturb or [])
        found = evaluate_perturbed(run, cases, args.episodes, args.seed, args.members, **company)
        _print_table(found.table())
        meaning = f"low and high: {found.interval}" if found.interval else "one replica: no interval"
        print(f"\n{'change: perturbed minus clean; ' if len(found.table()) > 1 else ''}{meaning}")
        return
    from peerage.training.session import evaluate_run

    rows = evaluate_run(run, args.episodes, args.seed, args.members, say=print)
    _print_table(dict(zip(EVALUATION_COLUMNS, row)) for row in rows)
    returns: dict[tuple[int, str], list[float]] = {}
    for row in rows:
        returns.setdefault((row[0], row[1]), []).append(row[3])
    print()
    _print_table(
        {"replica": r, "member": m, "mean return": sum(v) / len(v), "episodes": len(v)}
        for (r, m), v in returns.items()
    )


def _report(args: argparse.Namespace, command: list[str]) -> None:
    runs = [_run_folder(text) for text in args.run]
    from peerage.evaluation.analysis import analyse
    from peerage.runs.report import write_report

    for run in runs:
        write_report(run)
        _say_where(run, verbose=1)
        found = analyse(run)
        if len(found.advisers) > 1:  # who can ask only itself trusts nobody
            print(f"\n{found.table()}")


def _compare_arguments(parser: Parser) -> None:
    parser.add_argument(
        "runs",
        metavar="RUN",
        nargs="+",
        help="run folders, patterns such as 'experiments/td-*', or a sweep's folder; the first is the reference. Runs "
        "that differ in nothing but their seed are replicas of one side",
    )
    parser.add_argument(
        "--by",
        metavar="AXIS",
        help="compare the values of this axis of a sweep, everything else held fixed; of other runs, of a setting in "
        "which they differ, such as advice.trust",
    )
    about = "the side that all others are compared with, as the table names it (default: the first)"
    parser.add_argument("--reference", metavar="NAME", help=about)
    parser.add_argument(
        "--metric",
        choices=["return", "success", "length"],
        default="return",
        help="of evaluation episodes (default: return)",
    )
    parser.add_argument(
        "--measure",
        choices=["final", "area"],
        default="final",
        help="what the verdict is about: the last evaluation, or the area under the learning curve (default: final)",
    )
    parser.add_argument("--threshold", type=float, metavar="X", help="also the steps until a group's mean reaches X")
    parser.add_argument("--target", type=float, metavar="X", help="also the optimality gap below X")
    parser.add_argument("--paired", action="store_true", help="replicas with the same seed are pairs")
    parser.add_argument(
        "--out", type=Path, metavar="FOLDER", help="where page, figures, JSON and LaTeX go (default: in comparisons/)"
    )
    about = "how the return depends on each setting in which the runs of a sweep differ; write nothing"
    parser.add_argument("--sensitivity", action="store_true", help=about)
    parser.add_argument("--json", action="store_true", help="print JSON and write nothing")
    parser.add_argument("--latex", action="store_true", help="print a LaTeX table and write nothing")


def _compare(args: argparse.Namespace, command: list[str]) -> None:
    from peerage.evaluation.compare import compare
    from peerage.evaluation.formats import as_json, as_latex, as_text

    if args.json and args.latex:
        raise UserError("--json and --latex are two formats: choose one of them")
    if args.sensitivity:
        for flag in ("by", "reference", "json", "latex"):
            if getattr(args, flag, None):
                raise UserError(f"--sensitivity prints a table about all settings and knows no --{flag}: leave one out")
        from peerage.evaluation.sensitivity import sensitivity
        from peerage.evaluation.sources import find

        of_sweep = len(args.runs) == 1 and not (Path(args.runs[0]) / "config.yaml").exists()
        asked = args.runs[0] if of_sweep and "*" not in args.runs[0] else [source.folder for source in find(args.runs)]
        told = sensitivity(asked)
        _print_table(told.table())
        print("".join(f"\n{note}" for note in told.notes))
        return
    found = compare(
        args.runs,
        by=args.by,
        reference=args.reference,
        metric=args.metric,
        measure=args.measure,
        threshold=args.threshold,
        target=args.target,
        paired=args.paired,
    )
    if args.json or args.latex:
        print(as_json(found) if args.json else as_latex(found), end="")
        return
    from peerage.runs.comparison_page import write_comparison

    print(as_text(found))
    print(f"page:    {write_comparison(found, args.out, command)}")


def _export_arguments(parser: Parser) -> None:
    _add_run(parser)
    parser.add_argument(
        "--member", type=_number(0), default=0, metavar="N", help="which member, from 0 (default: 0)"
    )
    parser.add_argument(
        "--replica", type=_number(0), default=0, metavar="N", help="of which replica, from 0 (default: 0)"
    )
    about = "format: a zip of Stable-Baselines3 (default: sb3)"
    parser.add_argument("--to", choices=["sb3"], default="sb3", metavar="sb3", help=about)
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help="the file to write (default: in the run folder)"
    )


def _export(args: argparse.Namespace, command: list[str]) -> None:
    run = _run_folder(args.run)
    from peerage.sb3_export import export_member

    print(export_member(run, args.member, args.replica, args.out))


# --- what there is ------------------------------------------------------------------------------------


def _envs(args: argparse.Namespace, command: list[str]) -> None:
    from peerage.envs.catalogue import list_envs

    _print_table(list_envs())


def _presets_arguments(parser: Parser) -> None:
    parser.add_argument("name", nargs="?", metavar="NAME", help="print this preset's settings")


def _presets(args: argparse.Namespace, command: list[str]) -> None:
    from peerage.presets import describe, preset, preset_names

    if args.name is not None:
        print(f"# {args.name}: {describe(args.name)}\n{to_yaml(preset(args.name))}", end="")
        return
    width = max(map(len, preset_names()))
    for name in preset_names():
        print(f"{name:{width}}  {describe(name)}")


def _print_table(rows: Iterable[Mapping[str, Any]]) -> None:
    rows = list(rows)
    names = list(rows[0]) if rows else []
    lines = [names, *([_cell(row.get(name)) for name in names] for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(names))]
    for line in lines:
        print("  ".join(f"{cell:{width}}" for cell, width in zip(line, widths)).rstrip())


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if not isinstance(value, float):
        return str(value)
    text = f"{value:.2f}"
    return text.replace("-", "−") if float(text) else text.lstrip("-")


COMMANDS: dict[str, Command] = {
    "train": Command(
        "[--config FILE|PRESET|RUN] [flags]",
        "Train a group of agents that learn from each other. A step is one environment step of every member.",
        _train_arguments,
        _train,
        TRAIN_EXAMPLES,
    ),
    "resume": Command(
        "RUN [flags]",
        "Go on with a run from its last checkpoint. What no flag changes stays as it was.",
        _resume_arguments,
        _resume,
        "EXAMPLES\n  peerage resume experiments/my-run\n"
        "  peerage resume experiments/my-run --checkpoint-freq 10000\n",
    ),
    "sweep": Command(
        "[FILE|NAME] [--dry-run] [--jobs N] [flags]",
        "Train every combination of settings, environments and seeds that a file names: what is missing, no more.",
        _sweep_arguments,
        _sweep,
        "EXAMPLES\n  peerage sweep quick\n  peerage sweep ablation --dry-run\n  peerage compare experiments/quick\n",
    ),
    "evaluate": Command(
        "RUN [--episodes N] [--seed N] [--members N ...] [--perturb NAME=VALUE ...]",
        "Let the trained members of a run play without exploration and print their returns.",
        _evaluate_arguments,
        _evaluate,
        "EXAMPLES\n  peerage evaluate experiments/my-run --episodes 20 --members 0 2\n"
        "  peerage evaluate experiments/my-run --perturb observation_noise=0,0.1,0.2 action_noise=0.05\n",
    ),
    "report": Command(
        "RUN [RUN ...]",
        "Draw the figures of finished or running runs again, write report.html and, with advice, print the analysis.",
        lambda parser: _add_run(parser, nargs="+"),
        _report,
    ),
    "compare": Command(
        "RUN|SWEEP [RUN ...] [--by AXIS] [--reference NAME] [--metric NAME] [--measure NAME] [--paired] [flags]",
        "Is one way of training better than another? A table with intervals over replicas, a verdict and a page.",
        _compare_arguments,
        _compare,
        "EXAMPLES\n  peerage compare experiments/td experiments/in-context\n"
        "  peerage compare 'experiments/td-seed-*' 'experiments/in-context-seed-*' --threshold 200\n"
        "  peerage compare experiments/quick --reference sharing=advice\n"
        "  peerage compare experiments/ablation --by values --reference values=none\n",
    ),
    "export": Command(
        "RUN [--member N] [--replica N] [--to sb3] [--out FILE]",
        "Write one member of a run in the format of another library.",
        _export_arguments,
        _export,
        "EXAMPLES\n  peerage export experiments/my-run --member 0 --to sb3\n",
    ),
    "envs": Command("", "List the environments that are known to work.", lambda parser: None, _envs),
    "presets": Command(
        "[NAME]",
        "List the experiments that can be run by name, or print the settings of one as YAML.",
        _presets_arguments,
        _presets,
        "EXAMPLES\n  peerage presets peer-hopper > mine.yaml\n  peerage train --config mine.yaml\n",
    ),
}


def manual() -> str:
    """What `peerage --help` prints."""
    commands = "\n".join(f"  {name:9} {command.summary}" for name, command in COMMANDS.items())
    return f"""usage: peerage COMMAND ...

Groups of reinforcement-learning agents that learn from each other.

COMMANDS
{commands}

  --help, -h     show this and exit; `peerage COMMAND --help` explains a command and all its flags
  --version      print the version and exit

EXAMPLES
  peerage train --env LunarLander-v3 --n-peers 4 --total-timesteps 100000
  peerage train --config peer-hopper --replicas 3
  peerage presets
  peerage evaluate experiments/my-run --episodes 20

A mistake on the command line or in a file is answered with one line and exit status 2.
"""


def _dispatch(words: list[str]) -> None:
    if not words or words[0] in ("--help", "-h", "help"):
        print(manual(), end="")
        return
    name, rest = words[0], words[1:]
    if name == "--version":
        from peerage import __version__

        print(f"peerage {__version__}")
        return
    if name not in COMMANDS:
        kind = "flag" if name.startswith("-") else "command"
        known = [*COMMANDS, "--help", "--version"]
        raise UserError(f"unknown {kind} {name[:60]!r}{nearest(name, known)}; see `peerage --help`")
    command = COMMANDS[name]
    command.run(command.parser(name).parse(rest), ["peerage", *words])


def _say(line: str) -> None:
    """On stderr, if anybody is there to read it; nothing in it can move a terminal's cursor."""
    line = "".join(c if c.isprintable() else repr(c)[1:-1] for c in line)[:1500]
    with contextlib.suppress(OSError, ValueError):
        print(f"peerage: {line}", file=sys.stderr)


def _warn(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
    """A warning in a line of ours, not in two with a place in the program; those for programmers stay out."""
    if not issubclass(category, DeprecationWarning | PendingDeprecationWarning | ResourceWarning):
        _say(" ".join(COLOUR.sub("", str(message)).split()))


def main(argv: list[str] | None = None) -> int:
    """Run one command; the exit status: 0, 2 for a mistake of the user, 128 + the signal that ended a training (130 for
    Ctrl-C), 1 for a fault of ours."""
    words = sys.argv[1:] if argv is None else list(argv)
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _warn
            _dispatch(words)
        if sys.stdout is not None:  # closed before the start, as by >&-
            sys.stdout.flush()
    except UserError as error:
        _say(" ".join(str(error).split()))
        return 2
    except KeyboardInterrupt as error:
        again = f"`{shlex.join(['peerage', *words])}` goes on" if words[:1] == ["sweep"] else ""
        otherwise = GOES_ON if words[:1] in (["train"], ["resume"]) else again
        _say("; ".join(filter(None, ["interrupted", getattr(error, "then", otherwise)])))
        return 130
    except BrokenPipeError:  # `peerage presets | head`
        return 0
    except MemoryError:
        _say(NO_MEMORY)
        return 2
    except OSError as error:  # a full disk, a folder that may not be read, a name that is too long
        _say(" ".join(str(error).split()))
        return 2
    except SystemExit as stop:  # argparse after --help; a training that was told to end
        if isinstance(stop.code, int) and stop.code > 128 and words[:1] != ["sweep"]:  # which has said so itself
            _say("; ".join(filter(None, [f"ended by a signal ({stop.code - 128})", getattr(stop, "then", "")])))
        if stop.code is not None and not isinstance(stop.code, int):
            _say(" ".join(str(stop.code).split()))
            return 1
        return int(stop.code or 0)
    except Exception as error:
        if os.environ.get("PEERAGE_TRACEBACK"):
            raise
        if isinstance(error, ImportError) and "failed to map segment" in str(error):
            _say(NO_MEMORY)
            return 2
        what = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        _say(f"a fault of Peerage: {what} (with PEERAGE_TRACEBACK=1 it says where)")
        return 1
    finally:
        _leave_stdout()
    return 0


def _leave_stdout() -> None:
    """What cannot be written (a pipe, a terminal or a disk that is gone) must not be tried again when Python ends: it
    would change the exit status."""
    if sys.stdout is None:
        return
    try:
        sys.stdout.flush()
    except (OSError, ValueError):
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    raise SystemExit(main())
