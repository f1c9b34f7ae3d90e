"""The training loop: environments, sharing and learners of all members in lockstep, one step after the other."""

from __future__ import annotations

import copy
import inspect
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from peerage.config import Config
from peerage.config.file import to_dict, validate
from peerage.envs.perturbed import Perturbations, with_perturbations
from peerage.envs.vector import EnvGroup, Episode, Maker, Step, check_env_id
from peerage.errors import UserError
from peerage.evaluation.evaluate import Evaluator
from peerage.interop.pretrained import load_members, member_networks
from peerage.learners.base import Space
from peerage.learners.defaults import member_settings, resolve
from peerage.learners.group import Group
from peerage.nets import workers
from peerage.runs import checkpoint
from peerage.runs.folder import RunFolder
from peerage.runs.listeners import EvaluationRow, Listeners, RunInfo
from peerage.sharing.advice import Advice
from peerage.sharing.advisers import Adviser, adviser_names, make_adviser
from peerage.sharing.build import make_signals
from peerage.sharing.byzantine import ByzantineMembers, parse_members
from peerage.sharing.none import NoSharing
from peerage.training.machine import describe, give_memory_back, pick_device, pick_threads
from peerage.training.signals import Interrupt
from peerage.trust.features import family_name
from peerage.trust.signals import Transition

PROGRESS_SECONDS = 0.2
OUTLIVES = ("BipedalWalker",)
"""Environments whose episodes depend on those before, in a way that cannot be seen."""


class Trainer:
    """One training in memory. Building it checks everything and writes nothing; `run` trains.

    `env` may be a function that makes an environment, and `advisers` may hold objects with a `suggest` method (see
    `peerage.sharing.advisers.Adviser`), where the configuration has names. Without `pretrained`, the members of
    `load_paths` stay as they were drawn: a checkpoint will say what they are.
    """

    def __init__(
        self,
        config: Config,
        *,
        env: Maker | None = None,
        advisers: Sequence[str | Adviser] | None = None,
        dtype: torch.dtype = torch.float32,
        pretrained: bool = True,
    ) -> None:
        config = validate(config)
        maker: Maker = config.env if env is None else env
        self.spec = check_env_id(maker, config.env_args)
        chosen = config.advisers if advisers is None else tuple(advisers)
        self.names = adviser_names(config.n_peers, chosen)
        if env is not None or advisers is not None:  # the configuration names what was given as objects
            named = tuple(a if isinstance(a, str) else n for a, n in zip(chosen, self.names[config.n_peers :]))
            config = replace(config, env=self.spec.id, advisers=named)
        config = resolve(config, self.spec.discrete)
        if config.advice.trust in ("transformer", "hybrid"):  # what `auto` means may be registered in this process only
            family = family_name(config.attention.features, self.spec)
            config = replace(config, attention=replace(config.attention, features=family))
        self.config = config
        self.device = pick_device(config.device)
        self.threads = pick_threads(config)
        workers.configure(self.threads)
        box = (None, None) if self.spec.discrete else (self.spec.action_low, self.spec.action_high)
        space = Space(self.spec.obs_dim, self.spec.act_dim, self.spec.n_actions, *box)
        members = member_settings(config, self.spec.discrete)
        advise = config.advice.sharing == "advice"
        self.steps, self.N, self.R = config.steps, config.n_peers, config.replicas
        copies = self.copies_of(chosen)
        if advise and config.advice.only_follow_others and len(self.names) < 2:
            raise UserError("--only-follow-others needs somebody else: use --n-peers 2 or more, or --advisers")
        self.group = Group(
            members, self.R, config.seed, space, self.steps, advise=advise, device=self.device, dtype=dtype
        )
        if pretrained:
            load_members(self.group, self.spec.observation_space, self.spec.action_space)
        perturbations = Perturbations.of(config.perturb)
        byzantine = parse_members(config.advice.byzantine_members, self.N)
        self.sharing: Advice | NoSharing = (
            Advice(
                config.advice,
                self.group,
                copies,
                seed=config.seed,
                epoch_length=config.epoch_length,
                total_steps=self.steps,
                signals=make_signals(config, self.spec, self.group, len(self.names), self.steps),
                dropped=perturbations.dropped_advice,
                byzantine=ByzantineMembers(byzantine, self.group, self.spec.id) if byzantine else None,
            )
            if advise and len(self.names) > 1
            else NoSharing(self.group)  # with one adviser, oneself, advice changes nothing
        )
        seeds = [int(key.generator("environment").integers(2**31)) for key in self.group.stream_keys]
        self.envs = EnvGroup(maker, with_perturbations(config.env_args, perturbations), seeds, keep=True)
        # What is trained is disturbed, what is evaluated is not: evaluations of all runs compare
        self.evaluator = Evaluator(maker, config.env_args, self.group, config.run.n_eval_episodes)
        self.listeners = Listeners()
        self.step = 0
        self.begun = False  # an episode is under way
        self.checkpoint: Path | None = None  # the one that this training has written or gone on from last
        self.saved: tuple[int, int] | None = None  # step and last evaluation of that checkpoint
        self.frozen = ~self.group.active()  # pretrained members do not learn, and that is no news
        self.episodes: list[Episode] = []
        self.evaluated_at = -1
        self.read_offsets: Callable[[], dict[str, int]] = dict
        self.offsets: dict[str, int] = {}
        self.resumed = False  # gone on from a checkpoint
        self.damaged: list[Path] = []  # newer checkpoints that a resume has passed over
        self.pending_messages: list[str] = []  # to be told when the training goes on

    def copies_of(self, advisers: Sequence[str | Adviser]) -> list[list[Adviser]]:
        """Every adviser once for each replica."""
        return [[self._adviser(adviser) for _ in range(self.R)] for adviser in advisers]

    def _adviser(self, adviser: str | Adviser) -> Adviser:
        if isinstance(adviser, str):
            return make_adviser(adviser, self.spec)
        name = getattr(adviser, "__name__", type(adviser).__name__)
        if isinstance(adviser, type):
            raise UserError(f"an adviser is an object, not a class: pass {name}(), not {name}")
        if not callable(getattr(adviser, "suggest", None)):
            raise UserError(f"{adviser!r} is no adviser: it has no method suggest(obs, asker, episode_start, rng)")
        try:
            inspect.signature(adviser.suggest).bind(None, None, None, None)
        except TypeError as error:
            raise UserError(f"adviser {name}: suggest must take (obs, asker, episode_start, rng): {error}") from None
        return copy.deepcopy(adviser)

    # --- one step -------------------------------------------------------------------------------------------

    def reset(self) -> None:
        """Begin the first episodes."""
        self._set_observations(self.envs.reset(), np.ones(self.group.M, bool))

    def _set_observations(self, obs: np.ndarray, episode_start: np.ndarray) -> None:
        """This is what everybody sees now: `obs [M, obs]`, and who is at the start of an episode, `[M]` bool."""
        self.host_obs, self.obs, self.episode_start, self.begun = obs, self._tensor(obs), episode_start, True

    def advance(self, *, learn: bool = True) -> Step:
        """One environment step of every member, and all the learning that belongs to it. Without `learn` members do
        what they think best and stay as they are; whom to trust they go on learning, from what they remember."""
        self.step += 1
        actions = self.sharing.act(self.obs, self.host_obs, self.episode_start, self.step, greedy=not learn)
        host = actions.cpu().numpy()
        result = self.envs.step(host[:, 0].astype(np.int64) if self.spec.discrete else host)
        next_obs = self._tensor(result.next_obs)
        self.group.observe(
            self.obs, actions, self._tensor(result.reward), next_obs, self._tensor(result.terminated)
        )
        self.sharing.observe(
            Transition(
                obs=self.obs,
                next_obs=next_obs,
                host_obs=self.host_obs,
                host_actions=host,
                rewards=result.reward,
                terminated=result.terminated,
                done=result.done,
                first=self.episode_start,
            )
        )
        self.sharing.after_step(self.step)
        if learn:
            self.group.after_step(self.step)
        self.host_obs, self.episode_start = result.obs, result.done
        self.obs = self._tensor(result.obs) if result.episodes else next_obs
        self.episodes += result.episodes
        return result

    def _tensor(self, array: np.ndarray) -> torch.Tensor:
        return torch.as_tensor(array, device=self.device, dtype=self.group.dtype)

    # --- the whole training ---------------------------------------------------------------------------------

    def run(self, folder: RunFolder | None = None) -> None:
        """Train to the end, evaluating, logging and writing checkpoints into `folder` on the way.

        Ctrl-C, SIGTERM and SIGHUP finish the step and write a checkpoint before they raise what
        `peerage.training.signals.Interrupt.error` says; a second one does not wait.
        """
        with Interrupt() as interrupt:
            self._run(folder, interrupt)

    def _run(self, folder: RunFolder | None, interrupt: Interrupt) -> None:
        run = self.config.run
        info = RunInfo(
            folder=folder.path if folder else None,
            env=self.spec.id,
            algorithms=tuple(s.algorithm for s in self.group.settings),
            members=tuple(self.names[: self.N]),
            advisers=tuple(self.names),
            replicas=self.R,
            total_steps=self.steps,
            start_step=self.step,
            resumed=self.resumed,
            config=to_dict(self.config),
        )
        self.listeners.on_start(info)
        for text in self.pending_messages:
            self.listeners.on_message(self.step, text)
        if not self.begun:
            self.reset()
            self._save(folder)  # before the first evaluation: a run can be resumed from its first moment on
        began = shown = logged_at = time.perf_counter()
        logged_step = self.step
        self._evaluate_if_due(interrupt)
        self._leave_if_asked(folder, interrupt)
        paused = time.perf_counter() - began  # evaluation and checkpoints do not count as training time
        while self.step < self.steps:
            self.advance()
            now = time.perf_counter()
            if now - shown > PROGRESS_SECONDS:
                self.listeners.on_progress(self.step, now - began)
                shown = now
            if self.step == self.steps or self.step % run.log_freq == 0:
                self.log()
                if folder is not None:
                    self._report_frozen(folder)
                seconds = now - logged_at - paused
                rate = (self.step - logged_step) * self.group.M / max(seconds, 1e-9)
                self.listeners.on_timing(self.step, now - began, rate)
                logged_at, logged_step, paused = now, self.step, 0.0
            pause = time.perf_counter()
            self._evaluate_if_due(interrupt)
            self._leave_if_asked(folder, interrupt)
            if run.checkpoint_freq and self.step % run.checkpoint_freq == 0 and self.step < self.steps:
                self._save(folder)
            paused += time.perf_counter() - pause
        self._save(folder)

    def _leave_if_asked(self, folder: RunFolder | None, interrupt: Interrupt) -> None:
        if interrupt.asked:
            self._save(folder)
            raise interrupt.error()

    def log(self) -> None:
        """Metrics and advice since the last call."""
        rows = [(r, self.names[i], name, value) for r, i, name, value in self.group.metrics()]
        rows += [(r, self.names[i], name, value) for r, i, name, value in self.sharing.metrics()]
        for m in range(self.group.M):
            done = [e for e in self.episodes if e.env == m]
            if done:
                r, name = m // self.N, self.names[m % self.N]
                rows.append((r, name, "train/return", float(np.mean([e.return_ for e in done]))))
                rows.append((r, name, "train/length", float(np.mean([e.length for e in done]))))
                rows.append((r, name, "train/episodes", float(len(done))))
        self.episodes = []
        self.listeners.on_metrics(self.step, rows)
        if advice := self.sharing.advice_rows(self.names):
            self.listeners.on_advice(self.step, advice)
        self.sharing.reset_counts()

    @property
    def evaluation_due(self) -> bool:
        """Is an evaluation after this step asked for, and not made yet?"""
        freq = self.config.run.eval_freq
        return bool(freq) and (self.step == self.steps or self.step % freq == 0) and self.evaluated_at < self.step

    @property
    def finished(self) -> bool:
        """Is nothing left to do?"""
        return self.step >= self.steps and not self.evaluation_due

    def _evaluate_if_due(self, interrupt: Interrupt) -> None:
        if self.evaluation_due:
            rows = self.evaluation_rows(lambda: interrupt.asked)
            if rows is not None:  # otherwise it is made when the run is resumed
                self.evaluated_at = self.step
                self.listeners.on_evaluations(self.step, rows)

    def evaluation_rows(self, stop: Callable[[], bool] = lambda: False) -> list[EvaluationRow] | None:
        """Every member by itself, acting by the mode of its policy, on separate environments with fixed seeds:
        (replica, member, episode, return, length, success). None if `stop()` became true under way."""
        found = self.evaluator.run(self.step, stop)
        if found is None:
            return None
        rows: list[EvaluationRow] = []
        for m, number, e in found:
            success = None if e.success is None else float(e.success)
            rows.append((m // self.N, self.names[m % self.N], number, e.return_, e.length, success))
        return rows

    def _report_frozen(self, folder: RunFolder) -> None:
        """Say which members have diverged since the last look, and keep what they looked like."""
        diverged = ~self.group.active() & ~self.frozen
        self.frozen |= diverged
        for m in np.flatnonzero(diverged):
            r, i = divmod(int(m), self.N)
            name = f"diverged-replica-{r}-member-{i}-step-{self.step}"
            text = f"{self.names[i]} of replica {r} is frozen: its update was not finite"
            try:
                text += f" (kept in {checkpoint.dump(folder.path, name, self.member_state(int(m))).name})"
            except OSError as error:
                text += f" (and cannot be kept: {error.strerror or error})"
            self.listeners.on_message(self.step, text)

    def member_state(self, m: int) -> dict[str, Any]:
        """The networks of member `m` and its last transitions, for a look at what went wrong."""
        stack = next(s for s in self.group.stacks if m in s.index.tolist())
        row = stack.index.tolist().index(m)
        age = torch.arange(min(1000, stack.learner.replay.size), device=self.device)
        batch = stack.learner.replay.recent(age.expand(len(stack.index), -1))
        transitions = {name: getattr(batch, name)[row] for name in batch._fields}
        return {"networks": member_networks(stack.learner, row), "transitions": transitions}

    # --- state ----------------------------------------------------------------------------------------------

    def _save(self, folder: RunFolder | None) -> None:
        """Write a checkpoint, if there is a folder and anything to add to the last one."""
        now = (self.step, self.evaluated_at)
        if folder is not None and self.saved != now:
            self.checkpoint = checkpoint.save(
                folder.path,
                self.step,
                self.state(),
                about={**describe(self.device, self.threads), "config": to_dict(self.config)},
                after=self.checkpoint,
                keep=self.config.run.keep_checkpoints,
            )
            self.saved = now
            give_memory_back()

    def state(self) -> dict[str, Any]:
        """Everything, of a training whose episodes have begun. Looking at it changes nothing."""
        running = self.envs.state()
        environments = {n: torch.from_numpy(x) if isinstance(x, np.ndarray) else x for n, x in running.items()}
        return {
            "step": self.step,
            "evaluated_at": self.evaluated_at,
            "group": self.group.state(),
            "sharing": self.sharing.state(),
            "environments": environments,
            "episode_start": self.episode_start.tolist(),
            "frozen": self.frozen.tolist(),
            "episodes": [list(episode) for episode in self.episodes],
            "offsets": self.read_offsets(),
        }

    def load_state(
        self, state: dict[str, Any], *, policies_only: bool = False, without_episodes: bool = False
    ) -> None:
        """Go on from `state`. `policies_only`: the members alone, without what they remember; `without_episodes`:
        those who are restored begin new ones.

        An episode that cannot be lived again begins anew, and `news` says so.
        """
        self.step = int(state["step"])
        self.group.load_state(state["group"], policies_only=policies_only)
        if policies_only:
            return
        self.sharing.load_state(state["sharing"])
        self.evaluated_at = int(state["evaluated_at"])
        self.frozen = np.array(state["frozen"], bool)
        self.episodes = [Episode(*episode) for episode in state["episodes"]]
        self.offsets = {str(name): int(offset) for name, offset in state["offsets"].items()}
        if without_episodes:
            return
        environments = {n: x.numpy() if isinstance(x, torch.Tensor) else x for n, x in state["environments"].items()}
        obs, anew = self.envs.restore(environments, self.step)
        self.saved, self.resumed = (self.step, self.evaluated_at), True
        if self.spec.id.split(":")[-1].startswith(OUTLIVES):
            self.pending_messages.append(
                f"not bit for bit: the world of {self.spec.id} outlives its episodes, and is begun anew"
            )
        who = np.isin(np.arange(self.group.M), list(anew))
        self._set_observations(obs, np.array(state["episode_start"], bool) | who)
        self.sharing.reset(who)
        for m, why in anew.items():
            r, i = divmod(m, self.N)
            self.pending_messages.append(
                f"{self.spec.id}: the episode of {self.names[i]}{f' in replica {r}' if self.R > 1 else ''} begins anew,"
                f" because it could not be lived again: {why}"
            )

    def close(self) -> None:
        self.envs.close()
        self.evaluator.close()
