"""Statistics of a run for the open questions: return alone, choices of advisers, number of queries.

Every number belongs to one replica: a mean over its members, which are not independent samples because they learn from
each other. Members that do not learn (`load_paths`) count as advisers, not as askers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.trust_counts import decisions
from peerage.config import Config
from peerage.config.file import load
from peerage.runs.tables import read_advice, read_evaluations, read_metrics
from peerage.statistics.summaries import by_replica, member_values


@dataclass(frozen=True)
class Part:
    """Members of one kind in a run. The first part of a run contains all learners and has an empty label."""

    label: str
    steps: int
    curve: pd.DataFrame  # mean return alone: a row per evaluation (step), a column per replica
    better: np.ndarray  # [R] share of choices for better advisers; NaN without choices
    uniform: np.ndarray  # [R] this share for uniform choices
    queries: np.ndarray  # [R] queries per step of a member
    change_at: int | None = None

    @property
    def end(self) -> np.ndarray:
        """[R]: return alone at the last evaluation."""
        return self.curve.iloc[-1].to_numpy()

    def moments(self, changes: bool) -> list[np.ndarray]:
        """Return alone at the last evaluation; with `changes`, at the last evaluation before the change, the first one
        after it, and the last one.

        An evaluation at step `change_at` uses the changed environment, before members have learned in it.
        """
        if not changes:
            return [self.end]
        assert self.change_at is not None
        before, after = (self.curve[self.curve.index < self.change_at], self.curve[self.curve.index >= self.change_at])
        return [before.iloc[-1].to_numpy(), after.iloc[0].to_numpy(), self.end]


def read(folder: Path) -> list[Part]:
    """The parts of a run: all learners and, if they differ in algorithm or network, the learners of each kind."""
    config = load(folder / "config.yaml")
    advice, metrics, evaluations = read_advice(folder), read_metrics(folder), read_evaluations(folder)
    level = member_values(evaluations, "return")
    replicas = range(config.replicas)
    parts = []
    for label, members in kinds(config).items():
        mine = level[level["member"].isin(members)]
        if len(advice) == 0:
            share = pd.DataFrame(np.nan, index=replicas, columns=["better", "uniform"])
        elif config.advisers:
            own = advice[advice["asker"].isin(members)]
            share = expert_share(own, metrics[metrics["member"].isin(members)], config)
        else:
            share = better_share(advice[advice["asker"].isin(members)], level, config.n_peers)
        share = share.reindex(replicas)
        asked = metrics[(metrics["name"] == "advice/queries") & metrics["member"].isin(members)]
        total = asked.groupby("replica")["value"].sum().reindex(replicas, fill_value=0.0)
        parts.append(
            Part(
                label=label,
                steps=config.steps,
                curve=by_replica(mine),
                better=share["better"].to_numpy(),
                uniform=share["uniform"].to_numpy(),
                queries=total.to_numpy() / (config.steps * len(members)),
                change_at=config.env_args.get("change_at"),
            )
        )
    return parts


def kinds(config: Config) -> dict[str, list[str]]:
    """Label -> learners: first all of them (empty label), then one entry for each combination of differing algorithms
    and networks."""

    def column(name: str) -> Sequence[object]:
        values = getattr(config.learner, name) or ("none",)
        return values if len(values) == config.n_peers else values * config.n_peers

    learners = [i for i, path in enumerate(column("load_paths")) if path == "none"]
    found: dict[str, list[str]] = {"": [f"member-{i}" for i in learners]}
    differing = [name for name in ("algorithm", "net_arch") if len({column(name)[i] for i in learners}) > 1]
    if differing:
        for i in learners:
            words = [column(name)[i] for name in differing]
            label = " ".join(",".join(map(str, w)) if isinstance(w, tuple) else str(w) for w in words)
            found.setdefault(label, []).append(f"member-{i}")
    return found


def better_share(advice: pd.DataFrame, level: pd.DataFrame, n_advisers: int) -> pd.DataFrame:
    """Share of choices for members better than the asker: index replica, columns better and uniform.

    `advice`: rows of advice.csv; `level`: step, replica, member, value, with the mean return of each evaluation. An
    adviser is better if its last evaluation before the steps of the row had a higher mean than the asker's. `uniform`:
    the number of better advisers divided by `n_advisers`, weighted by the choices of each row. Both are totals over
    askers and rows; NaN for a replica without choices.
    """
    times = np.unique(advice["step"])
    begins = dict(zip(times, np.concatenate(([0], times[:-1]))))
    frame = advice[["step", "replica", "asker", "adviser", "chosen"]].assign(begin=advice["step"].map(begins))
    frame = frame.astype({"begin": "int64"}).sort_values("begin", kind="stable")
    for who in ("asker", "adviser"):
        known = level.rename(columns={"member": who, "step": "begin", "value": f"of_{who}"}).sort_values("begin")
        frame = pd.merge_asof(frame, known, on="begin", by=["replica", who])
    frame["is_better"] = frame["of_adviser"] > frame["of_asker"]
    frame["better"] = frame["chosen"] * frame["is_better"]
    row = frame.groupby(["replica", "asker", "step"])[["chosen", "better", "is_better"]].sum()
    row["uniform"] = row["chosen"] * row["is_better"] / n_advisers
    total = row.groupby("replica")[["chosen", "better", "uniform"]].sum()
    return total[["better", "uniform"]].div(total["chosen"].where(total["chosen"] > 0), axis=0)


def expert_share(advice: pd.DataFrame, metrics: pd.DataFrame, config: Config) -> pd.DataFrame:
    """The same with fixed advisers, which are not evaluated: the share of choices for advisers that act as experts."""
    counted = decisions(advice, metrics).groupby("replica")[["choices", "right"]].sum()
    share = counted["right"] / counted["choices"].where(counted["choices"] > 0)
    experts = config.advisers.count("expert") / (config.n_peers + len(config.advisers))
    return pd.DataFrame({"better": share, "uniform": np.where(share.isna(), np.nan, experts)})
