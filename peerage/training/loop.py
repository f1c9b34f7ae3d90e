"""The training loop: environments, sharing and learners of all members in lockstep, one step after the other."""

from __future__ import annotations

import copy
import inspect
import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from peerage.config import Config
from peerage.configfile import to_dict, validate
from peerage.envs.vector import EnvGroup, Episode, Maker, Step, check_env_id
from peerage.errors import UserError
from peerage.evaluation.evaluate import Evaluator
from peerage.learners.base import Space
from peerage.learners.defaults import member_settings, resolve
from peerage.learners.group import Group
from peerage.nets import passes
from peerage.pretrained import load_members, member_networks
from peerage.runs.folder import RunFolder
from peerage.runs.listeners import EvaluationRow, Listeners, RunInfo
from peerage.sharing.advice import Advice
from peerage.sharing.advisers import Adviser, adviser_names, make_adviser
from peerage.sharing.build import make_signals
from peerage.sharing.none import NoSharing
from peerage.training import checkpoint
from peerage.trust.features import family_name
from peerage.trust.signals import Transition

PROGRESS_SECONDS = 0.2
TOO_BIG = "the group does not fit into memory: use fewer members or replicas, or a smaller --buffer-size or --net-arch"


class Interrupt:
    """Remembers a Ctrl-C instead of raising at once; the second one raises. Only in the main thread."""

    asked = False

    def __enter__(self) -> Interrupt:
        self.before = None
        if threading.current_thread() is threading.main_thread():
            self.before = signal.signal(signal.SIGINT, self._hear)
        return self

    def _hear(self, number: int, frame: object) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True

    def __exit__(self, *error: object) -> None:
        if self.before is not None:
            signal.signal(signal.SIGINT, self.before)


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
        # Wide layers are spread over threads row by row; for everything else a second thread is too late
        torch.set_num_threads(1 if passes.ONEDNN else self.threads)
        passes.WORKERS.set_threads(self.threads)
        box = (None, None) if self.spec.discrete else (self.spec.action_low, self.spec.action_high)
        space = Space(self.spec.obs_dim, self.spec.act_dim, self.spec.n_actions, *box)
        members = member_settings(config, self.spec.discrete)
        advise = config.advice.sharing == "advice"
        self.steps, self.N, self.R = config.steps, config.n_peers, config.replicas
        copies = [[self._adviser(a) for _ in range(self.R)] for a in chosen]
        if advise and config.advice.only_follow_others and len(self.names) < 2:
            raise UserError("--only-follow-others needs somebody else: use --n-peers 2 or more, or --advisers")
        try:
            self.group = Group(
                members, self.R, config.seed, space, self.steps, advise=advise, device=self.device, dtype=dtype
            )
        except (MemoryError, RuntimeError) as error:  # torch says RuntimeError for what it cannot allocate
            raise UserError(f"{TOO_BIG} ({type(error).__name__}: {error})"[:300]) from error
        if pretrained:
            load_members(self.group, self.spec.observation_space, self.spec.action_space)
        self.sharing: Advice | NoSharing = (
            Advice(
                config.advice,
                self.group,
                copies,
                seed=config.seed,
                epoch_length=config.epoch_length,
                total_steps=self.steps,
                signals=make_signals(config, self.spec, self.group, len(self.names), self.steps),
            )
            if advise and len(self.names) > 1
            else NoSharing(self.group)  # with one adviser, oneself, advice changes nothing
        )
        seeds = [int(seat.generator("environment").integers(2**31)) for seat in self.group.seats]
        self.envs = EnvGroup(maker, config.env_args, seeds)
        self.evaluator = Evaluator(maker, config.env_args, self.group, config.run.n_eval_episodes)
        self.listeners = Listeners()
        self.step = 0
        self.frozen = ~self.group.active()  # pretrained members do not learn, and that is no news
        self.episodes: list[Episode] = []
        self.evaluated_at = -1
        self.read_offsets: Callable[[], dict[str, int]] = dict
        self.offsets: dict[str, int] = {}

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
        """Begin the first episodes, or all of them anew."""
        self.sharing.reset()
        self.host_obs = self.envs.reset()
        self.obs = self._tensor(self.host_obs)
        self.episode_start = np.ones(self.group.M, bool)

    def advance(self) -> Step:
        """One environment step of every member, and all the learning that belongs to it."""
        self.step += 1
        actions = self.sharing.act(self.obs, self.host_obs, self.episode_start, self.step)
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

        Ctrl-C finishes the step and writes a checkpoint before it raises KeyboardInterrupt; a second one does not wait.
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
            advisers=tuple(self.names) if isinstance(self.sharing, Advice) else (),
            replicas=self.R,
            total_steps=self.steps,
            start_step=self.step,
            config=to_dict(self.config),
        )
        self.listeners.on_start(info)
        self.reset()
        began = shown = logged_at = time.perf_counter()
        logged_step = self.step
        if self.step == 0 and run.eval_freq:
            self.evaluate()
        paused = time.perf_counter() - began  # evaluation and checkpoints do not count as training time
        while self.step < self.steps:
            self.advance()
            if interrupt.asked:
                self.log()
                if folder is not None:
                    self.save(folder)
                raise KeyboardInterrupt
            now = time.perf_counter()
            if now - shown > PROGRESS_SECONDS:
                self.listeners.on_progress(self.step, now - began)
                shown = now
            last = self.step == self.steps
            if last or self.step % run.log_freq == 0:
                self.log()
                if folder is not None:
                    self._report_frozen(folder)
                seconds = now - logged_at - paused
                rate = (self.step - logged_step) * self.group.M / max(seconds, 1e-9)
                self.listeners.on_timing(self.step, now - began, rate)
                logged_at, logged_step, paused = now, self.step, 0.0
            pause = time.perf_counter()
            if run.eval_freq and (last or self.step % run.eval_freq == 0):
                self.evaluate()
            if folder is not None and (last or (run.checkpoint_freq and self.step % run.checkpoint_freq == 0)):
                self.save(folder)
            paused += time.perf_counter() - pause

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

    def evaluate(self) -> None:
        """Every member by itself, acting by the mode of its policy, on separate environments with fixed seeds."""
        if self.evaluated_at == self.step:
            return
        self.evaluated_at = self.step
        self.listeners.on_evaluations(self.step, self.evaluation_rows())

    def evaluation_rows(self) -> list[EvaluationRow]:
        """(replica, member, episode, return, length, success) of an evaluation now."""
        rows: list[EvaluationRow] = []
        for m, number, e in self.evaluator.run(self.step):
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
            dump = checkpoint.dump(folder.path, name, self.member_state(int(m)))
            text = f"{self.names[i]} of replica {r} is frozen: its update was not finite (kept in {dump.name})"
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

    def save(self, folder: RunFolder) -> None:
        checkpoint.save(folder.path, self.step, self.state())

    def state(self) -> dict[str, Any]:
        return {
            "step": self.step,
            "group": self.group.state(),
            "sharing": self.sharing.state(),
            "environments": self.envs.rng_states(),
            "frozen": self.frozen.tolist(),
            "episodes": [list(episode) for episode in self.episodes],
            "offsets": self.read_offsets(),
        }

    def load_state(self, state: dict[str, Any], *, policies_only: bool = False) -> None:
        """Go on from `state`; episodes that were under way begin anew. `policies_only`: the members alone."""
        self.step = int(state["step"])
        self.group.load_state(state["group"])
        if not policies_only:
            self.sharing.load_state(state["sharing"])
            self.envs.set_rng_states(state["environments"])
        self.envs.set_clock(self.step)
        self.frozen = np.array(state["frozen"], bool)
        self.episodes = [Episode(*episode) for episode in state["episodes"]]
        self.offsets = state["offsets"]

    def close(self) -> None:
        self.envs.close()
        self.evaluator.close()


def pick_device(name: str) -> torch.device:
    """`auto` is a GPU where there is one. Raises UserError for a device that this machine or torch has not."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        if device.type not in ("cpu", "cuda"):
            raise RuntimeError
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError):
        raise UserError(f"--device {name} is not to be had on this machine: use cpu or auto") from None
    return device


def device_name(device: torch.device) -> str:
    """For the record: `cpu` or the GPU's name."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)


def pick_threads(config: Config) -> int:
    """CPU threads: one for small networks, whose layers end before a second thread is awake (docs/performance.md)."""
    if config.threads is not None:
        return config.threads
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    widest = max((width for arch in config.learner.net_arch for width in arch), default=0)
    batch = max(config.learner.batch_size, default=0)
    transformer = config.advice.sharing == "advice" and config.advice.trust in ("transformer", "hybrid")
    return min(cores, 4) if transformer or widest * batch >= 128 * 128 else 1
