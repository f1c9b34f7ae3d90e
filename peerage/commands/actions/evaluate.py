"""`peerage evaluate`."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

from peerage import session
from peerage.commands.console import print_json, print_table
from peerage.config.perturbations import parse_cases
from peerage.evaluation.perturbed import evaluate_perturbed
from peerage.evaluation.robustness import in_words

COLUMNS = ("replica", "member", "episode", "return", "length", "success", "mode")


def evaluate(args: argparse.Namespace, command: Sequence[str]) -> None:
    run, which = Path(args.run), args.checkpoint or ""
    notes: list[str] = []
    more = {"which": which, "max_steps": args.max_eval_steps, "say": notes.append if args.json else print}
    if args.perturb or args.advised or args.byzantine_members or args.advisers:
        more |= {name: getattr(args, name) for name in ("advised", "byzantine_members", "advisers")}
        found = evaluate_perturbed(run, parse_cases(args.perturb or []), args.episodes, args.seed, args.members, **more)
        if args.json:
            members = [{**row._asdict(), "change": row.change} for row in found.rows]
            table = {"rows": found.table(), "interval": found.interval or None, "members": members}
            print_json({"run": str(run), "notes": notes, **table})
            return
        print_table(found.table())
        meaning = f"low and high: {found.interval}" if found.interval else "one replica: no interval"
        print(f"\n{'change: perturbed minus clean; ' if len(found.table()) > 1 else ''}{meaning}")
        return
    step, rows = session.evaluate_run(run, args.episodes, args.seed, args.members, **more)
    episodes = [dict(zip(COLUMNS, row)) for row in rows]
    returns: dict[tuple[int, str], list[float]] = {}
    for row in rows:
        returns.setdefault((row[0], row[1]), []).append(row[3])
    members = [
        {"replica": r, "member": m, "mean return": sum(v) / len(v), "episodes": len(v)}
        for (r, m), v in returns.items()
    ]
    if args.json:
        print_json({"run": str(run), "step": step, "notes": notes, "episodes": episodes, "members": members})
        return
    print_table(episodes)
    print()
    print_table(members)
    print(f"\n{_overall(returns)}")


def _overall(returns: Mapping[tuple[int, str], list[float]]) -> str:
    """The mean over members and replicas with its interval; `returns`: (replica, member) -> returns of its episodes."""
    replicas: dict[int, list[float]] = {}
    for (r, _), of_member in returns.items():
        replicas.setdefault(r, []).append(sum(of_member) / len(of_member))
    return in_words([sum(means) / len(means) for means in replicas.values()])
