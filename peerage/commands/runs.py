"""The commands that read run folders: `peerage evaluate`, `video`, `watch`, `report`, `compare`, `attention`
and `export`."""

from __future__ import annotations

import argparse
import math
from pathlib import Path

from peerage.commands.base import Command, add_json, add_run, check_run, number
from peerage.config.adviser_words import is_checkpoint
from peerage.config.check import refuse_target_settings
from peerage.config.flags import Parser
from peerage.errors import UserError
from peerage.runs.folder import RunFolder


def _checkpoint(text: str) -> str:
    """The type of an argument: `best` or the number of a step."""
    if not is_checkpoint(text):
        raise argparse.ArgumentTypeError(f"expected best or the number of a step, got {text[:40]!r}")
    return text


def _finite(text: str) -> float:
    """The type of an argument: a finite number."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"expected a number, got {text[:40]!r}")
    return value


def _add_checkpoint(parser: Parser) -> None:
    about = "best (needs a run with --keep-best) or the step of a checkpoint (default: the newest)"
    parser.add_argument("--checkpoint", type=_checkpoint, metavar="best|STEP", help=about)


def _add_env(parser: Parser) -> None:
    about = "environment for a folder of Hugging Face's DecisionTransformerModel instead of a run (default: its own)"
    parser.add_argument("--env", metavar="ID", help=about)


def _check_run_with_targets(args: argparse.Namespace) -> None:
    """UserError unless RUN is a run folder, and for target returns for members that take none."""
    check_run(args)
    targets, clip = getattr(args, "target_return", None) not in (None, []), getattr(args, "clip_targets", False)
    if targets or clip:
        refuse_target_settings(RunFolder.open(args.run).resolved().learner.algorithm, targets, clip)


def _check_run_or_model(args: argparse.Namespace) -> None:
    """UserError unless RUN is a run folder, or a folder of Hugging Face's DecisionTransformerModel."""
    if not (Path(args.run) / "config.json").is_file():
        _check_run_with_targets(args)


def _evaluate_arguments(parser: Parser) -> None:
    add_run(parser, hugging_face=True)
    _add_env(parser)
    _add_checkpoint(parser)
    parser.add_argument(
        "--episodes", type=number(1), default=10, metavar="N", help="episodes per member (default: 10)"
    )
    parser.add_argument(
        "--seed", type=number(0), metavar="N", help="seed of the episodes (default: that of the run's evaluations)"
    )
    parser.add_argument(
        "--members", type=number(0), nargs="+", metavar="N", help="members to evaluate, from 0 (default: all)"
    )
    parser.add_argument(
        "--max-eval-steps",
        type=number(1),
        metavar="N",
        help="maximum length of an episode in steps (default: that of the run's evaluations)",
    )
    parser.add_argument(
        "--target-return",
        type=_finite,
        nargs="+",
        default=[],
        metavar="X",
        help="target returns, for algorithms that act for one (default: those of the run)",
    )
    parser.add_argument(
        "--clip-targets",
        action="store_true",
        help="limit target returns and returns-to-go to the range of the data",
    )
    parser.add_argument(
        "--perturb",
        nargs="+",
        metavar="NAME=VALUE",
        help="perturb the environment as in a training and compare with the same episodes unperturbed; a list, as in "
        "observation_noise=0,0.1,0.2, gives a row per value (docs/robustness.md)",
    )
    parser.add_argument(
        "--advised",
        action="store_true",
        help="evaluate the group together: members choose whom to follow, as at the end of the training, and trust "
        "keeps learning",
    )
    parser.add_argument(
        "--byzantine-members",
        nargs="+",
        default=[],
        metavar="MEMBER:KIND",
        help="with --advised: members that give false advice to others, as in a training",
    )
    parser.add_argument(
        "--advisers",
        nargs="+",
        metavar="ADVISER",
        help="with --advised: fixed advisers, such as sign-flip:expert, that replace those of the run one by one",
    )
    add_json(parser)


EVALUATE = Command(
    "RUN|FOLDER [--checkpoint best|STEP] [--episodes N] [--members N ...] [--perturb NAME=VALUE ...] [--advised] "
    "[--json] [flags]",
    "Evaluate the trained members of a run without exploration, alone or advised, and print their returns.",
    _evaluate_arguments,
    "peerage.commands.actions.evaluate:evaluate",
    "EXAMPLES\n  peerage evaluate experiments/my-run --episodes 20 --members 0 2\n"
    "  peerage evaluate experiments/my-run --perturb observation_noise=0,0.1,0.2 action_noise=0.05\n"
    "  peerage evaluate experiments/my-run --advised --perturb dropped_advice=0.5 --byzantine-members 1:sign-flip\n",
    _check_run_or_model,
)


def _report_arguments(parser: Parser) -> None:
    add_run(parser, nargs="+")
    add_json(parser, "print the paths and the analysis as JSON")


REPORT = Command(
    "RUN [RUN ...] [--json]",
    "Draw the figures and write report.html of runs, finished or not; for runs with advice, print the analysis.",
    _report_arguments,
    "peerage.commands.actions.report:report",
    check=check_run,
)


def _compare_arguments(parser: Parser) -> None:
    parser.add_argument(
        "runs",
        metavar="RUN",
        nargs="+",
        help="run folders, patterns such as 'experiments/td-*', or the folder of a sweep; the first is the reference. "
        "Runs that differ only in their seed are replicas of one side",
    )
    parser.add_argument(
        "--by",
        metavar="AXIS",
        help="compare the values of this axis of a sweep, with all other settings fixed; for other runs, a setting in "
        "which they differ, such as advice.trust",
    )
    about = "name of the side with which all others are compared, as in the table (default: the first)"
    parser.add_argument("--reference", metavar="NAME", help=about)
    parser.add_argument(
        "--metric",
        choices=["return", "success", "length"],
        default="return",
        help="metric of the evaluation episodes (default: return)",
    )
    parser.add_argument(
        "--measure",
        choices=["final", "area", "last"],
        help="compared quantity: the last evaluation that all runs have (final), the area under the learning curve, or "
        "the last evaluation of each run, whatever its step (last) (default: last if offline and online runs are "
        "compared, otherwise final)",
    )
    about = "evaluations: members alone, together with advice, or alone in the test split (default: alone)"
    parser.add_argument("--mode", choices=["alone", "together", "test"], default="alone", help=about)
    parser.add_argument("--threshold", type=float, metavar="X", help="report the steps until a group's mean reaches X")
    about = "report the spread of evaluations late in the training, and the steps until a group converged"
    parser.add_argument("--stability", action="store_true", help=about)
    parser.add_argument("--target", type=float, metavar="X", help="report the optimality gap below X")
    parser.add_argument("--paired", action="store_true", help="compare replicas with the same seed as pairs")
    about = "compare runs of different environments, or with different arguments of an environment, all the same"
    parser.add_argument("--across-tasks", action="store_true", help=about)
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FOLDER",
        help="folder for the page, figures, JSON and LaTeX (default: one in comparisons/)",
    )
    about = "print how the return depends on each setting in which the runs of a sweep differ; write nothing"
    parser.add_argument("--sensitivity", action="store_true", help=about)
    add_json(parser, "print JSON and write nothing")
    parser.add_argument("--latex", action="store_true", help="print a LaTeX table and write nothing")


NOT_FOR_SENSITIVITY = (
    "by", "reference", "latex", "metric", "measure", "mode", "threshold", "target", "stability", "paired",
    "across_tasks", "out",
)  # fmt: skip
"""Arguments of `peerage compare` that --sensitivity excludes."""


def _check_compare(args: argparse.Namespace) -> None:
    if args.json and args.latex:
        raise UserError("--json and --latex cannot be combined: choose one")
    if args.sensitivity:
        for name in NOT_FOR_SENSITIVITY:
            if getattr(args, name, None) not in (None, False, "return", "final", "alone"):
                flag = name.replace("_", "-")
                raise UserError(f"--sensitivity and --{flag} cannot be combined: remove one of them")


COMPARE = Command(
    "RUN|SWEEP [RUN ...] [--by AXIS] [--reference NAME] [--metric NAME] [--measure NAME] [--paired] [flags]",
    "Compare methods: a table with intervals over replicas, verdicts and an HTML page.",
    _compare_arguments,
    "peerage.commands.actions.compare:compare",
    "EXAMPLES\n  peerage compare experiments/td experiments/in-context\n"
    "  peerage compare 'experiments/td-seed-*' 'experiments/in-context-seed-*' --threshold 200\n"
    "  peerage compare experiments/quick --reference sharing=advice\n"
    "  peerage compare experiments/ablation --by values --reference values=none\n",
    _check_compare,
)


def _member_arguments(parser: Parser, hugging_face: bool = False) -> None:
    add_run(parser, hugging_face=hugging_face)
    _add_checkpoint(parser)
    parser.add_argument("--member", type=number(0), default=0, metavar="N", help="member, from 0 (default: 0)")
    parser.add_argument("--replica", type=number(0), default=0, metavar="N", help="replica, from 0 (default: 0)")


def _watch_arguments(parser: Parser) -> None:
    _member_arguments(parser, hugging_face=True)
    _add_env(parser)
    parser.add_argument("--episodes", type=number(1), default=1, metavar="N", help="episodes (default: 1)")
    about = "seed of the first episode (default: that of the run's evaluations)"
    parser.add_argument("--seed", type=number(0), metavar="N", help=about)
    about = "target return, for algorithms that act for one (default: the first of the run's evaluations)"
    parser.add_argument("--target-return", type=_finite, metavar="X", help=about)
    about = "limit the target return and returns-to-go to the range of the data"
    parser.add_argument("--clip-targets", action="store_true", help=about)


def _video_arguments(parser: Parser) -> None:
    _watch_arguments(parser)
    about = "maximum number of frames (default: 1000)"
    parser.add_argument("--max-frames", type=number(1), default=1000, metavar="N", help=about)
    about = "file to write, FILE.gif or FILE.mp4 (default: member-I-replica-R[-CHECKPOINT].gif in the run folder)"
    parser.add_argument("--out", type=Path, metavar="FILE", help=about)
    parser.add_argument("--overwrite", action="store_true", help="replace an existing file")


VIDEO = Command(
    "RUN|FOLDER [--member N] [--replica N] [--checkpoint best|STEP] [--episodes N] [--seed N] [--out FILE] [flags]",
    "Write a GIF or MP4 of a trained member, which acts alone and without exploration.",
    _video_arguments,
    "peerage.commands.actions.video:video",
    "EXAMPLES\n  peerage video experiments/my-run --member 1 --episodes 3 --out lander.gif\n"
    "  peerage video experiments/my-run --out experiments/my-run/film.mp4 && peerage report experiments/my-run\n",
    _check_run_or_model,
)


WATCH = Command(
    "RUN|FOLDER [--member N] [--replica N] [--checkpoint best|STEP] [--episodes N] [--seed N]",
    "Show a trained member in a window.",
    _watch_arguments,
    "peerage.commands.actions.video:watch",
    check=_check_run_or_model,
)


def _attention_arguments(parser: Parser) -> None:
    _member_arguments(parser)
    about = "episodes, without exploration (default: 10)"
    parser.add_argument("--episodes", type=number(1), default=10, metavar="N", help=about)
    about = "seed of the first episode (default: that of the run's evaluations)"
    parser.add_argument("--seed", type=number(0), metavar="N", help=about)
    parser.add_argument(
        "--of",
        choices=["auto", "numbers", "steps", "features"],
        default="auto",
        help="in windows of steps: each number, each step, or each feature in all steps (default: what the network "
        "attends over)",
    )
    parser.add_argument("--no-deletion", action="store_true", help="do not play episodes with deleted features")
    about = "folder for the figures (default: figures/attention-member-I-replica-R[-CHECKPOINT] in the run folder)"
    parser.add_argument("--out", type=Path, metavar="FOLDER", help=about)
    add_json(parser, "print JSON, and draw figures only with --out")


def _check_attention(args: argparse.Namespace) -> None:
    check_run(args)
    if args.out is not None and args.out.exists() and not args.out.is_dir():
        raise UserError(f"--out {args.out} is a file: choose a folder")


ATTENTION = Command(
    "RUN [--member N] [--replica N] [--checkpoint best|STEP] [--episodes N] [--of KIND] [--out FOLDER] [--json]",
    "Show what a member attends to, and what its policy depends on.",
    _attention_arguments,
    "peerage.commands.actions.attention:attention",
    "EXAMPLES\n  peerage attention experiments/my-run --member 1\n"
    "  peerage attention experiments/my-run --of features --out figures\n",
    _check_attention,
)


def _export_arguments(parser: Parser) -> None:
    _member_arguments(parser, hugging_face=True)
    about = "format: sb3, a zip file of Stable-Baselines3; hf, a folder of Hugging Face's DecisionTransformerModel"
    parser.add_argument("--to", choices=["sb3", "hf"], default="sb3", help=f"{about} (default: sb3)")
    about = "with --to hf and a folder of Hugging Face instead of a run: the dataset whose statistics complete it"
    parser.add_argument("--stats-from", metavar="DATASET", help=about)
    about = "file or folder to write (default: in the run folder)"
    parser.add_argument("--out", type=Path, metavar="PATH", help=about)


def _check_export(args: argparse.Namespace) -> None:
    if args.to != "hf":
        check_run(args)
    _check_run_or_model(args)


EXPORT = Command(
    "RUN|FOLDER [--member N] [--replica N] [--checkpoint best|STEP] [--to sb3|hf] [--stats-from DATASET] [--out PATH]",
    "Export one member of a run to the format of another library.",
    _export_arguments,
    "peerage.commands.actions.export:export",
    "EXAMPLES\n  peerage export experiments/my-run --member 0 --to sb3\n"
    "  peerage export experiments/my-dt --to hf --out my-model\n"
    "  peerage export a-model-of-others --to hf --stats-from halfcheetah-expert-v0 --out my-model\n",
    _check_export,
)
