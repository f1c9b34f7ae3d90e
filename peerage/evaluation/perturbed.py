"""Evaluation of trained runs under perturbations, from their newest checkpoints.

    found = evaluate_perturbed("experiments/my-run", parse_cases(["observation_noise=0.1,0.2"]), episodes=20)
    print(found.table())
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from peerage.config.adviser_words import parse_members
from peerage.config.check import is_offline
from peerage.config.perturbations import Perturbations, with_perturbations
from peerage.envs.make import EnvMaker, Maker
from peerage.errors import UserError
from peerage.evaluation.company import advised_episodes
from peerage.evaluation.evaluate import SEED, Evaluator, Played, episode_seeds
from peerage.evaluation.robustness import Case, Robustness, Row, means
from peerage.evaluation.targets import targets_of
from peerage.nets import workers
from peerage.runs.folder import RunFolder
from peerage.sharing.advice import Advice
from peerage.sharing.byzantine import ByzantineMembers
from peerage.text import listing
from peerage.training.restore import Restored, restore
from peerage.training.trainer import Trainer


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
    which: str = "",
    max_steps: int | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> Robustness:
    """Evaluate the newest checkpoint of a run without perturbations and in each case of `perturbations`, with the same
    seeds. Rows are sorted by case, replica and member; the rows without perturbations come first.

    `episodes`, `seed`, `members`, `max_steps`, `env` and `which` are those of `peerage.session.evaluate_run`. By
    default, members act alone. With `advised`, they use advice (`peerage.evaluation.company`), and perturbations may be
    `dropped_advice`, too. In all cases except the first, `byzantine_members` give changed suggestions, and `advisers`
    replace the same number of fixed advisers of the run. `say` receives messages: the step of the checkpoint, newer
    checkpoints that are damaged, and truncated episodes.

    Raises UserError for an unknown member, a parameter that the environment does not have, `advised` for a run without
    advice, and if there is nothing to compare.
    """
    wrong = tuple(byzantine_members), None if advisers is None else tuple(advisers)
    wrong_advice = any(wrong)
    of_advice = {
        "--perturb dropped_advice": any(case.dropped_advice for case in perturbations),
        "--byzantine-members": bool(wrong[0]),
        "--advisers": bool(wrong[1]),
    }
    needs_advice = [name for name, given in of_advice.items() if given]
    if (advised or needs_advice) and is_offline(RunFolder.open(run).resolved()):
        raise UserError(f"{run} was trained without advice: remove {needs_advice[0] if needs_advice else '--advised'}")
    if needs_advice and not advised:
        verb = "needs" if len(needs_advice) == 1 else "need"
        raise UserError(f"{listing(needs_advice)} {verb} an evaluation with advice: add --advised")
    if not (perturbations or advised):
        raise UserError("--perturb: there is no perturbation; give a value above 0, as in observation_noise=0.1")
    perturbed = [Perturbations(), *perturbations] if wrong_advice else perturbations
    cases = [Case(), *(Case(of_environment, *wrong) for of_environment in perturbed)]
    seed = SEED if seed is None else seed
    restored = _restored(run, env, cases[-1], advised, which)
    trainer = restored.trainer
    workers.configure(trainer.threads)
    try:
        if unknown := [i for i in members or [] if not 0 <= i < trainer.N]:
            raise UserError(f"{run} has no member {unknown[0]}: its members are 0 to {trainer.N - 1}")
        env_args = trainer.config.env_args
        named: dict[str, Case] = {}
        for case in cases:  # a case with only the environment's own perturbations is the clean case
            named.setdefault(case.name(env_args), case)
        cases = list(named.values())
        makers = [_perturbed(trainer.evaluation_makers, case.perturbations) for case in cases]
        for line in (*restored.messages, f"after {trainer.step:,} of {trainer.steps:,} steps"):
            say(line)
        longest = max_steps or trainer.config.run.max_eval_steps
        if advised:
            more = (episodes, seed, longest, which)
            played = [_advised(run, env, case, some, *more) for case, some in zip(cases, makers)]
        else:
            played = [_alone(trainer, some, episodes, seed, longest) for some in makers]
        for note in dict.fromkeys(note for _, note in played if note):
            say(note)
        found = [means(episodes_played) for episodes_played, _ in played]
    finally:
        trainer.close()
    rows = []
    for case, here in zip(cases, found):
        for m in range(trainer.group.M):
            if members is not None and m % trainer.N not in members:
                continue
            (clean, clean_success), (disturbed, success) = found[0][m], here[m]
            who = (m // trainer.N, trainer.names[m % trainer.N])
            rows.append(Row(case.name(env_args), *who, episodes, clean, disturbed, clean_success, success))
    return Robustness(rows)


def _perturbed(makers: Sequence[EnvMaker], perturbations: Perturbations) -> list[EnvMaker]:
    """The makers with perturbations. Raises UserError for perturbations that an environment does not support."""
    unique = {
        id(maker): replace(maker, env_args=with_perturbations(maker.env_args, perturbations)) for maker in makers
    }
    for maker in unique.values():
        maker.spec()
    return [unique[id(maker)] for maker in makers]


def _restored(run: Path | str, env: Maker | None, case: Case, advised: bool, which: str) -> Restored:
    """Restore the newest checkpoint of the run, or `which`; with `advised`, including advice with the disturbances of
    `case`."""
    restored = restore(run, "company" if advised else "policies", env=env, device="cpu", which=which)
    trainer = restored.trainer
    if not advised:
        return restored
    try:
        if not isinstance(trainer.sharing, Advice):
            raise UserError(f"{run} was trained without advice: remove --advised")
        if trainer.sharing.is_over(trainer.step + 1):
            raise UserError(f"the advice in {run} ended after --max-peer-epochs: remove --advised")
        if case.advisers is not None and len(case.advisers) != len(has := trainer.config.advisers):
            raise UserError(f"--advisers: {run} has {len(has)} ({', '.join(has)}); give the same number")
        others = None if case.advisers is None else trainer.copies_of(case.advisers)
        byzantine = parse_members(case.byzantine_members, trainer.N)
        twisted = ByzantineMembers(byzantine, trainer.group, trainer.spec.id) if byzantine else None
        trainer.sharing.disturb(case.perturbations.dropped_advice, twisted, others)
    except UserError:
        trainer.close()
        raise
    return restored


def _alone(
    trainer: Trainer, makers: Sequence[EnvMaker], episodes: int, seed: int, max_steps: int | None
) -> tuple[Played, str]:
    """The episodes, and a message about truncated ones."""
    seeds = episode_seeds(trainer.config, episodes, seed)
    evaluator = Evaluator(makers, seeds, trainer.config.run.success, max_steps)
    try:
        actor = targets_of(trainer.group, trainer.config).alone(episodes)
        return evaluator.run(actor, trainer.step) or [], evaluator.note
    finally:
        evaluator.close()


def _advised(
    run: Path | str,
    env: Maker | None,
    case: Case,
    makers: Sequence[EnvMaker],
    episodes: int,
    seed: int,
    max_steps: int | None,
    which: str,
) -> tuple[Played, str]:
    """The episodes of one case with advice, and a message about truncated ones. Each case restores the checkpoint, so
    that trust learned in one case does not affect another."""
    trainer = _restored(run, env, case, advised=True, which=which).trainer
    try:
        starts = [seeds[0] for seeds in episode_seeds(trainer.config, 1, seed)]
        return advised_episodes(trainer, makers, episodes, starts, max_steps)
    finally:
        trainer.close()
