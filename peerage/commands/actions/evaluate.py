"""`peerage evaluate`."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from peerage import session
from peerage.commands.console import print_json, print_table
from peerage.config.perturbations import parse_cases
from peerage.errors import UserError
from peerage.evaluation.folder import evaluate_folder
from peerage.evaluation.perturbed import evaluate_perturbed
from peerage.evaluation.robustness import in_words
from peerage.interop.hf_dt import is_hf
from peerage.runs.listeners import EvaluationRow
from peerage.text import number

COLUMNS = ("replica", "member", "episode", "return", "length", "success", "mode", "target")


def evaluate(args: argparse.Namespace, command: Sequence[str]) -> None:
    run, which = Path(args.run), args.checkpoint or ""
    notes: list[str] = []
    more = {"which": which, "max_steps": args.max_eval_steps, "say": notes.append if args.json else print}
    if args.perturb or args.advised or args.byzantine_members or args.advisers:
        if is_hf(run):
            raise UserError(f"{run} is not a run: remove --perturb and --advised")
        if args.target_return or args.clip_targets:
            raise UserError("--target-return cannot be combined with --perturb and --advised")
        more |= {name: getattr(args, name) for name in ("advised", "byzantine_members", "advisers")}
        found = evaluate_perturbed(run, parse_cases(args.perturb or []), args.episodes, args.seed, args.members, **more)
        if args.json:
            members = [{**row._asdict(), "change": row.change} for row in found.rows]
            table = {"rows": found.records(), "interval": found.interval or None, "members": members}
            print_json({"run": str(run), "notes": notes, **table})
            return
        print_table(found.records())
        meaning = f"low and high: {found.interval}" if found.interval else "one replica: no interval"
        print(f"\n{'change: perturbed minus clean; ' if len(found.records()) > 1 else ''}{meaning}")
        return
    if is_hf(run):
        rows = _of_folder(run, args, more["say"])
        step = None
    else:
        if args.env:
            raise UserError("--env is for folders of Hugging Face; a run has its environment")
        more |= {"target_return": args.target_return, "clip_targets": args.clip_targets}
        step, rows = session.evaluate_run(run, args.episodes, args.seed, args.members, **more)
    has_targets = any(row.target is not None for row in rows)
    episodes = [dict(zip(COLUMNS, row if has_targets else row[:-1])) for row in rows]
    of_targets: dict[float | None, dict[tuple[int, str], list[float]]] = {}
    for row in rows:
        of_targets.setdefault(row.target, {}).setdefault((row.replica, row.member), []).append(row.return_)
    members = [
        {"replica": r, "member": m, **({"target": target} if has_targets else {}), "mean return": sum(v) / len(v),
         "episodes": len(v)}
        for target, returns in of_targets.items()
        for (r, m), v in returns.items()
    ]  # fmt: skip
    if args.json:
        print_json({"run": str(run), "step": step, "notes": notes, "episodes": episodes, "members": members})
        return
    # The mode says which target was the first: the column target says more
    print_table([{name: row[name] for name in row if name != "mode" or not has_targets} for row in episodes])
    print()
    print_table(members)
    print()
    for target, returns in of_targets.items():
        print(f"{'' if target is None else f'target {number(target)}: '}{_overall(returns)}")


def _of_folder(folder: Path, args: argparse.Namespace, say: Callable[[str], None]) -> list[EvaluationRow]:
    if args.checkpoint or args.members:
        raise UserError(f"{folder} is a folder with a single model: remove --checkpoint and --members")
    wanted = {"targets": args.target_return, "clip": args.clip_targets, "max_steps": args.max_eval_steps}
    return evaluate_folder(folder, args.env or "", args.episodes, args.seed, **wanted, say=say)


def _overall(returns: Mapping[tuple[int, str], list[float]]) -> str:
    """The mean over members and replicas with its interval; `returns`: (replica, member) -> returns of its episodes."""
    replicas: dict[int, list[float]] = {}
    for (r, _), of_member in returns.items():
        replicas.setdefault(r, []).append(sum(of_member) / len(of_member))
    return in_words([sum(means) / len(means) for means in replicas.values()])
