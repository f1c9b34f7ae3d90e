"""How much of a result survives: returns in perturbed environments, with silent and with lying advisers.

    found = evaluate_perturbed("experiments/my-run", parse_cases(["observation_noise=0.1,0.2"]), episodes=20)
    for row in found.table(): ...

The unit of statistics is the replica of a group, as everywhere: first the mean over episodes, then over members, and
the interval over replicas.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from peerage.config.adviser_words import parse_members
from peerage.config.perturbations import Perturbations, with_perturbations
from peerage.envs.vector import Maker, check_env_id
from peerage.errors import UserError
from peerage.evaluation.evaluate import SEED, Evaluator
from peerage.statistics import summaries
from peerage.text import number
from peerage.training.restore import Restored, restore

if TYPE_CHECKING:
    from peerage.training.trainer import Trainer


Mean = tuple[float, float | None]
"""Return and share of successes, over episodes."""


class Row(NamedTuple):
    """A member of a replica in one case, beside itself on the same seeds without perturbation; means over episodes."""

    case: str
    """As on the command line; `clean` without perturbation."""
    replica: int
    member: str
    episodes: int
    clean: float
    """Return."""
    perturbed: float
    """Return."""
    clean_success: float | None
    """Share of the episodes; None where the task has none."""
    perturbed_success: float | None

    @property
    def change(self) -> float:
        """Of the return, perturbed minus clean: negative where the perturbation costs something."""
        return self.perturbed - self.clean


@dataclass(frozen=True)
class Robustness:
    """What `evaluate_perturbed` found."""

    rows: list[Row]

    def table(self) -> list[dict[str, Any]]:
        """A line for every case: return and its change (perturbed minus clean), each with the interval over replicas
        (see `interval`), and the share of episodes that succeeded, where the task knows success. One case by itself
        has no change."""
        lines = []
        cases = list(dict.fromkeys(row.case for row in self.rows))
        columns = (("return", "perturbed"), ("change", "change"))[: len(cases)]
        for case in cases:
            mine = [row for row in self.rows if row.case == case]
            line: dict[str, Any] = {"perturbation": case, "replicas": len({row.replica for row in mine})}
            for name, values in columns:
                line |= _interval(name, _per_replica(mine, values))
            successes = [row.perturbed_success for row in mine if row.perturbed_success is not None]
            if successes:
                line["success"] = float(np.mean(successes))
            lines.append(line)
        return lines

    @property
    def interval(self) -> str:
        """What low and high are; empty with one replica, which says nothing about others."""
        return _kind(len({row.replica for row in self.rows}))


@dataclass(frozen=True)
class Case:
    """What is wrong while members are evaluated; by default nothing."""

    perturbations: Perturbations = field(default_factory=Perturbations)
    byzantine_members: tuple[str, ...] = ()
    """As of `peerage.config.adviser_words.parse_members`."""
    advisers: tuple[str, ...] | None = None
    """Names of those in place of the run's fixed advisers."""

    def name(self, env_args: Mapping[str, Any]) -> str:
        """As on the command line; what the environment's own arguments perturb is part of it."""
        own = Perturbations.of({**env_args.get("perturb", {}), **self.perturbations.plain()})
        company = [" ".join(("byzantine", *self.byzantine_members))] if self.byzantine_members else []
        if self.advisers is not None:
            company.append(" ".join(("advisers", *self.advisers)))
        perturbed = [] if company and not own.plain() else [str(own)]
        return ", ".join((*perturbed, *company))


def evaluate_perturbed(
    run: Path | str,
    perturbations: Sequence[Perturbations] = (),
    episodes: int = 10,
    seed: int | None = None,
    members: Sequence[int] | None = None,
    *,
    env: Maker | None = None,
    advised: bool = False,
    byzantine_members: Sequence[str] = (),
    advisers: Sequence[str] | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> Robustness:
    """Evaluate the newest checkpoint of a run without perturbation and in each case of `perturbations`, on the same
    seeds: a row for every case, replica and member, those of the clean environment first.

    `episodes`, `seed`, `members` and `env` as in `peerage.session.evaluate_run`. Members act by themselves,
    or, `advised`, in company (`peerage.evaluation.company`): then advice may be dropped, `byzantine_members` lie in
    every case but the first, and `advisers` stand there in place of as many of the run's. Raises UserError for a member
    that the group has not, a knob that the environment has not, company where there is none, and nothing to compare.
    `say` hears which checkpoint that is, and of damaged ones that are newer.
    """
    wrong = tuple(byzantine_members), None if advisers is None else tuple(advisers)
    lied_to = any(wrong)
    if not advised and (lied_to or any(case.dropped_advice for case in perturbations)):
        what = "dropped_advice, --byzantine-members and --advisers are for members that ask each other"
        raise UserError(f"{what}, and they are evaluated alone: add --advised")
    if not (perturbations or advised):
        raise UserError("--perturb: nothing is perturbed; give a strength above 0, as in observation_noise=0.1")
    spoiled = [Perturbations(), *perturbations] if lied_to else perturbations
    cases = [Case(), *(Case(of_environment, *wrong) for of_environment in spoiled)]
    seed = SEED if seed is None else seed
    restored = _restored(run, env, cases[-1], advised)
    trainer = restored.trainer
    try:
        if unknown := [i for i in members or [] if not 0 <= i < trainer.N]:
            raise UserError(f"{run} has no member {unknown[0]}: its members are 0 to {trainer.N - 1}")
        maker, env_args = trainer.maker, trainer.config.env_args
        named: dict[str, Case] = {}
        for case in cases:  # what the environment has already is no other case, and the clean one stays the first
            named.setdefault(case.name(env_args), case)
        cases = list(named.values())
        args = [with_perturbations(env_args, case.perturbations) for case in cases]
        for arguments in args:  # what the environment cannot do is said before anything takes time
            check_env_id(maker, arguments)
        for line in (*restored.messages, f"after {trainer.step:,} of {trainer.steps:,} steps"):
            say(line)
        if advised:
            found = [_advised(run, env, case, arguments, episodes, seed) for case, arguments in zip(cases, args)]
        else:
            found = [_alone(trainer, arguments, episodes, seed) for arguments in args]
    finally:
        trainer.close()
    rows = []
    for case, here in zip(cases, found):
        for m in range(trainer.group.M):
            if members is not None and m % trainer.N not in members:
                continue
            (clean, clean_success), (perturbed, success) = found[0][m], here[m]
            who = (m // trainer.N, trainer.names[m % trainer.N])
            rows.append(Row(case.name(env_args), *who, episodes, clean, perturbed, clean_success, success))
    return Robustness(rows)


def _restored(run: Path | str, env: Maker | None, case: Case, advised: bool) -> Restored:
    """The run's newest checkpoint; `advised`: as a whole, with whoever lies or stays silent in this case."""
    from peerage.sharing.advice import Advice  # which brings torch
    from peerage.sharing.byzantine import ByzantineMembers

    restored = restore(run, "company" if advised else "policies", env=env, device="cpu")
    trainer = restored.trainer
    if not advised:
        return restored
    try:
        if not isinstance(trainer.sharing, Advice):
            raise UserError(f"{run} has nobody to ask: leave --advised out")
        if trainer.sharing.is_over(trainer.step + 1):
            raise UserError(f"in {run} nobody asks any more after --max-peer-epochs: leave --advised out")
        if case.advisers is not None and len(case.advisers) != len(has := trainer.config.advisers):
            raise UserError(f"--advisers: {run} has {len(has)} ({', '.join(has)}); name as many")
        others = None if case.advisers is None else trainer.copies_of(case.advisers)
        byzantine = parse_members(case.byzantine_members, trainer.N)
        twisted = ByzantineMembers(byzantine, trainer.group, trainer.spec.id) if byzantine else None
        trainer.sharing.disturb(case.perturbations.dropped_advice, twisted, others)
    except UserError:
        trainer.close()
        raise
    return restored


def _alone(trainer: Trainer, env_args: dict[str, Any], episodes: int, seed: int) -> dict[int, Mean]:
    evaluator = Evaluator(trainer.maker, env_args, trainer.group, episodes, seed)
    try:
        return _means(evaluator.run(trainer.step) or [])
    finally:
        evaluator.close()


def _advised(
    run: Path | str, env: Maker | None, case: Case, env_args: dict[str, Any], episodes: int, seed: int
) -> dict[int, Mean]:
    """Every case begins from the checkpoint: what was learned about whom in another one is forgotten."""
    from peerage.evaluation.company import advised_episodes

    trainer = _restored(run, env, case, advised=True).trainer
    try:
        return _means(advised_episodes(trainer, trainer.maker, env_args, episodes, seed))
    finally:
        trainer.close()


def _means(episodes: Sequence[tuple[int, int, Any]]) -> dict[int, Mean]:
    """By member."""
    means: dict[int, Mean] = {}
    for m, of_member in itertools.groupby(episodes, key=lambda entry: entry[0]):
        mine = [episode for _, _, episode in of_member]
        known = [float(episode.success) for episode in mine if episode.success is not None]
        means[m] = float(np.mean([e.return_ for e in mine])), float(np.mean(known)) if known else None
    return means


def _per_replica(rows: Sequence[Row], name: str) -> np.ndarray:
    """`[R]`: means over members."""
    values: dict[int, list[float]] = {}
    for row in rows:
        values.setdefault(row.replica, []).append(getattr(row, name))
    return np.array([np.mean(of_replica) for of_replica in values.values()])


def _interval(name: str, values: np.ndarray) -> dict[str, Any]:
    """Mean of `values [n]` and its interval as three cells; one value has none."""
    spread = summaries.spread(values)
    ends = (float(spread.low), float(spread.high)) if len(values) > 1 else (None, None)
    return {name: float(spread.mean), f"{name} low": ends[0], f"{name} high": ends[1]}


def _kind(n: int) -> str:
    """What an interval of `n` values is."""
    return summaries.spread(np.zeros(n)).kind


def in_words(values: Sequence[float]) -> str:
    """The mean of one value for each replica, and its interval."""
    spread = summaries.spread(np.asarray(values, float))
    if len(values) == 1:
        return f"mean over members: {number(float(spread.mean))}; one replica, which says nothing about others"
    low, high = number(float(spread.low)), number(float(spread.high))
    return f"mean over members and {len(values)} replicas: {number(float(spread.mean))} [{low}, {high}], {spread.kind}"
