"""The commands that read run folders: `peerage evaluate`, `report`, `compare` and `export`."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path

from peerage.commands.base import Command, add_run, number, print_table, run_folder, say_where
from peerage.config.flags import Parser
from peerage.errors import UserError

EVALUATION_COLUMNS = ("replica", "member", "episode", "return", "length", "success")


def _evaluate_arguments(parser: Parser) -> None:
    add_run(parser)
    parser.add_argument(
        "--episodes", type=number(1), default=10, metavar="N", help="episodes of every member (default: 10)"
    )
    parser.add_argument(
        "--seed", type=number(0), metavar="N", help="seed of the episodes (default: as in the run)"
    )
    parser.add_argument(
        "--members", type=number(0), nargs="+", metavar="N", help="which members, from 0 (default: all)"
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
    run = run_folder(args.run)
    if args.perturb or args.advised or args.byzantine_members or args.advisers:
        from peerage.config.perturbations import parse_cases
        from peerage.evaluation.perturbed import evaluate_perturbed

        company = {name: getattr(args, name) for name in ("advised", "byzantine_members", "advisers")}
        cases = parse_cases(args.perturb or [])
        found = evaluate_perturbed(run, cases, args.episodes, args.seed, args.members, **company, say=print)
        print_table(found.table())
        meaning = f"low and high: {found.interval}" if found.interval else "one replica: no interval"
        print(f"\n{'change: perturbed minus clean; ' if len(found.table()) > 1 else ''}{meaning}")
        return
    from peerage.session import evaluate_run

    rows = evaluate_run(run, args.episodes, args.seed, args.members, say=print)
    print_table(dict(zip(EVALUATION_COLUMNS, row)) for row in rows)
    returns: dict[tuple[int, str], list[float]] = {}
    for row in rows:
        returns.setdefault((row[0], row[1]), []).append(row[3])
    print()
    print_table(
        {"replica": r, "member": m, "mean return": sum(v) / len(v), "episodes": len(v)}
        for (r, m), v in returns.items()
    )
    print(f"\n{_overall(returns)}")


def _overall(returns: Mapping[tuple[int, str], list[float]]) -> str:
    """The mean over members and replicas, and what is known of it; `returns`: (replica, member) -> of its episodes."""
    from peerage.evaluation.robustness import in_words

    replicas: dict[int, list[float]] = {}
    for (r, _), mine in returns.items():
        replicas.setdefault(r, []).append(sum(mine) / len(mine))
    return in_words([sum(means) / len(means) for means in replicas.values()])


EVALUATE = Command(
    "RUN [--episodes N] [--seed N] [--members N ...] [--perturb NAME=VALUE ...] [--advised] [flags]",
    "Let the trained members of a run play without exploration, alone or advised, and print their returns.",
    _evaluate_arguments,
    _evaluate,
    "EXAMPLES\n  peerage evaluate experiments/my-run --episodes 20 --members 0 2\n"
    "  peerage evaluate experiments/my-run --perturb observation_noise=0,0.1,0.2 action_noise=0.05\n"
    "  peerage evaluate experiments/my-run --advised --perturb dropped_advice=0.5 --byzantine-members 1:sign-flip\n",
)


def _report(args: argparse.Namespace, command: list[str]) -> None:
    runs = [run_folder(text) for text in args.run]
    from peerage.reports.report import write_report
    from peerage.statistics.analysis import analyse

    for run in runs:
        write_report(run)
        say_where(run, verbose=1)
        found = analyse(run)
        if len(found.advisers) > 1:  # who can ask only itself trusts nobody
            print(f"\n{found.table()}")


REPORT = Command(
    "RUN [RUN ...]",
    "Draw the figures of finished or running runs again, write report.html and, with advice, print the analysis.",
    lambda parser: add_run(parser, nargs="+"),
    _report,
)


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
    from peerage.statistics.compare import compare
    from peerage.statistics.formats import as_json, as_latex, as_text

    if args.json and args.latex:
        raise UserError("--json and --latex are two formats: choose one of them")
    if args.sensitivity:
        for flag in ("by", "reference", "json", "latex", "metric", "measure", "threshold", "target", "paired", "out"):
            if getattr(args, flag, None) not in (None, False, "return", "final"):
                raise UserError(f"--sensitivity prints a table about all settings and knows no --{flag}: leave one out")
        from peerage.statistics.sensitivity import sensitivity
        from peerage.statistics.sources import find

        of_sweep = len(args.runs) == 1 and not (Path(args.runs[0]) / "config.yaml").exists()
        asked = args.runs[0] if of_sweep and "*" not in args.runs[0] else [source.folder for source in find(args.runs)]
        told = sensitivity(asked)
        print_table(told.table())
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
    from peerage.reports.comparison_page import write_comparison

    print(as_text(found))
    print(f"page:    {write_comparison(found, args.out, command)}")


COMPARE = Command(
    "RUN|SWEEP [RUN ...] [--by AXIS] [--reference NAME] [--metric NAME] [--measure NAME] [--paired] [flags]",
    "Is one way of training better than another? A table with intervals over replicas, a verdict and a page.",
    _compare_arguments,
    _compare,
    "EXAMPLES\n  peerage compare experiments/td experiments/in-context\n"
    "  peerage compare 'experiments/td-seed-*' 'experiments/in-context-seed-*' --threshold 200\n"
    "  peerage compare experiments/quick --reference sharing=advice\n"
    "  peerage compare experiments/ablation --by values --reference values=none\n",
)


def _export_arguments(parser: Parser) -> None:
    add_run(parser)
    parser.add_argument(
        "--member", type=number(0), default=0, metavar="N", help="which member, from 0 (default: 0)"
    )
    parser.add_argument(
        "--replica", type=number(0), default=0, metavar="N", help="of which replica, from 0 (default: 0)"
    )
    about = "format: a zip of Stable-Baselines3 (default: sb3)"
    parser.add_argument("--to", choices=["sb3"], default="sb3", metavar="sb3", help=about)
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help="the file to write (default: in the run folder)"
    )


def _export(args: argparse.Namespace, command: list[str]) -> None:
    run = run_folder(args.run)
    from peerage.interop.sb3_export import export_member

    print(export_member(run, args.member, args.replica, args.out))


EXPORT = Command(
    "RUN [--member N] [--replica N] [--to sb3] [--out FILE]",
    "Write one member of a run in the format of another library.",
    _export_arguments,
    _export,
    "EXAMPLES\n  peerage export experiments/my-run --member 0 --to sb3\n",
)
