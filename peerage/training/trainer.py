"""The training loop in memory: steps the environments, advice and learners of all members in lockstep."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import astuple, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from peerage.config import Config, RunConfig
from peerage.config.adviser_words import parse_members
from peerage.config.file import validate
from peerage.config.methods import EXCHANGES, loaded
from peerage.config.perturbations import Perturbations, with_perturbations
from peerage.config.roster import roster_of
from peerage.envs.changing import changing_of
from peerage.envs.make import Spec, makers_of, running_statistics, takes
from peerage.envs.names import display_name
from peerage.envs.vector import EnvGroup, EnvMaker, Episode, Maker, Step, check_env_id
from peerage.errors import UserError
from peerage.interop.pretrained import load_members
from peerage.learners.base import Learner, Space
from peerage.learners.defaults import member_settings
from peerage.learners.group import Group
from peerage.nets.attention_net import Window
from peerage.nets.cnn import Image
from peerage.nets.kernels import pad_single_rows
from peerage.offline.trajectories import Trajectories
from peerage.runs.listeners import MetricRow
from peerage.sharing.advice import Advice
from peerage.sharing.adviser import Adviser, Suggests
from peerage.sharing.advisers import adviser_copies, adviser_names
from peerage.sharing.byzantine import ByzantineMembers
from peerage.sharing.exchanges.base import Exchange
from peerage.sharing.none import NoSharing
from peerage.sharing.steps import Before, make_transition
from peerage.sharing.transports.base import Waiting
from peerage.sharing.transports.folder import Folder
from peerage.training.machine import pick_device, pick_threads
from peerage.training.prepare import prepare, rollout_size
from peerage.trust.build import make_signals
from peerage.trust.signals import Signal
from peerage.trust.suggestions import MAX_DEFERRED

NOT_REPLAYABLE = ("BipedalWalker",)
"""Environments whose episodes depend on hidden state from earlier episodes."""
USUAL = (0.01, 100.0)
"""Limits of the largest standard deviation of an observation; outside, the user gets a message."""
NOTED, NOTING = 200, 10
"""Number of last transitions, of all members together, from which it is computed, and number of logs at which it is
computed."""
DUMPED, DUMPED_IMAGES = 1000, 32
"""Number of last transitions that are saved of a member that has diverged, for debugging; of images, which take
thousands of times as much memory."""


class Trainer:
    """Builds all components of a training and steps them. Building checks the configuration and writes no files.

    `env` may be a function that makes an environment, and `advisers` may contain adviser objects (see
    `peerage.Adviser`); they replace what the configuration names. `pretrained=False` does not load the members of
    `load_paths`, because a checkpoint will be loaded. `spec`: the result of `check_env_id`, if it is known. `data` are
    the episodes from which offline learners learn (`peerage.training.offline`). `peerage.training.runner.Runner` adds
    logs, evaluations and checkpoints.
    """

    def __init__(
        self,
        config: Config,
        *,
        env: Maker | None = None,
        advisers: Sequence[str | Suggests] | None = None,
        dtype: torch.dtype = torch.float32,
        pretrained: bool = True,
        spec: Spec | None = None,
        data: Trajectories | None = None,
    ) -> None:
        config = validate(config)
        self.data = data
        maker: Maker = config.env if env is None else env
        self.spec = check_env_id(maker, config.env_args) if spec is None else spec
        self.env_name = display_name(maker, self.spec.id)
        chosen = config.advisers if advisers is None else tuple(advisers)
        self.names = adviser_names(config.n_peers, chosen)
        if advisers is not None:  # the configuration contains the names of the given objects
            named = tuple(a if isinstance(a, str) else n for a, n in zip(chosen, self.names[config.n_peers :]))
            config = replace(config, advisers=named)
        self.config = config = prepare(config, self.spec, data)
        self.device = pick_device(config.device)
        self.threads = pick_threads(config)
        self.steps, self.N, self.R = config.steps, config.n_peers, config.replicas
        self.offset, self.roster = config.member_offset or 0, roster_of(config)
        self.waiting = Waiting()
        self.pads = self.roster is not None or self.offset > 0
        """A member has the bits that it has in a larger group, also alone in its stack."""
        pad_single_rows(self.pads)
        advise = config.advice.sharing == "advice"
        copies = self.copies_of(chosen)
        self.fixed = {name: some[0] for name, some in zip(self.names[self.N :], copies, strict=True)}
        """The fixed advisers by their names, those of replica 0."""
        self.group = self._make_group(dtype)
        if pretrained:
            spaces = self.spec.observation_space, self.spec.action_space
            load_members(self.group, *spaces, self.spec.fingerprint, self.spec.image)
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
            else NoSharing(self.group)  # a member without other advisers always follows itself
        )
        self.exchanges: dict[str, Exchange] = {}
        for name in config.exchange:
            method = EXCHANGES[name]
            settings = getattr(config, method.part) if method.part else None
            self.exchanges[name] = exchange = method.load()(settings, self.group, config.exchange_freq)
            if self.roster is not None:
                folder, least = Path(config.federation), config.min_participants
                exchange.transport = Folder(folder, self.roster, name, self.waiting, least, config.participant_timeout)
        self._make_environments(maker, perturbations)
        evaluation = EnvMaker(maker, config.env_args, self.spec.own_random)
        self.evaluation_makers = makers_of(evaluation, self.N, self.R, self.offset)
        """Makers of the evaluation environments, one for each of the M members. They are not perturbed, so that
        evaluations of different runs are comparable."""
        self.test_makers: list[EnvMaker] = []
        """Those of the split `test`, for the evaluation mode `test`."""
        if "test" in config.run.eval_modes:
            self.test_makers = makers_of(self._test_split(evaluation), self.N, self.R, self.offset)
        self.step = 0
        self.stride = self.group.E
        """Steps of a member per call of `advance`."""
        self.begun = False  # `begin` was called
        self._notes_left = NOTING
        self.episodes: list[Episode] = []  # finished since the last `metrics`

    def _make_environments(self, maker: Maker, perturbations: Perturbations) -> None:
        """Make the environments of the training."""
        config = self.config
        generators = [key.generator("environment") for key in self.group.stream_keys]
        seeds = [int(rng.integers(2**31)) for rng in generators for _ in range(self.group.E)]
        training = EnvMaker(maker, with_perturbations(config.env_args, perturbations), self.spec.own_random)
        makers = [made for made in makers_of(training, self.N, self.R, self.offset) for _ in range(self.group.E)]
        self.envs = EnvGroup(makers, seeds, keep=True, success=config.run.success)
        changing = changing_of(self.envs.envs[0])
        if self.group.E > 1 and changing is not None and changing.change_at is not None:
            raise UserError("an environment that changes during the run needs --n-envs 1")

    def _test_split(self, maker: EnvMaker) -> EnvMaker:
        """The same environment with its test split. Raises UserError if it has none."""
        if not takes(maker.env, "split"):
            raise UserError(
                f"--eval-modes test needs an environment whose constructor takes `split`, and {self.spec.id} does not"
            )
        return replace(maker, env_args={**maker.env_args, "split": "test"})

    def environment_problem(self) -> str | None:
        """An error message about wrappers of the environment that prevent an exact resume; None if there are none."""
        return running_statistics(self.envs.envs[0])

    def _make_group(self, dtype: torch.dtype) -> Group:
        config, spec = self.config, self.spec
        low, high = (None, None) if spec.discrete else (spec.action_low, spec.action_high)
        image = Image.of(spec.image) if spec.image else None
        window = Window(*astuple(spec.history)) if spec.history else None
        members = member_settings(config, spec.discrete)
        critics: list[Callable[..., Any]] = []
        for method in (EXCHANGES[name] for name in config.exchange):
            if method.critic is not None:
                more = {"settings": getattr(config, method.part), "n_peers": len(members)} if method.part else {}
                if self.roster is not None:
                    more |= {"total": self.roster.total, "offset": self.roster.offset}
                critics.append(partial(loaded(method.critic), **more))
        return Group(
            members,
            self.R,
            config.seed,
            Space(spec.obs_dim, spec.act_dim, spec.n_actions, low, high, image, window),
            self.steps,
            recent=self._recent(),
            critic=critics[0] if critics else None,
            data=self.data,
            offset=self.offset,
            device=self.device,
            dtype=dtype,
        )

    def _recent(self) -> int:
        """The number of last transitions to keep. Transitions of images are large, so only those that are read are
        kept."""
        advice = self.config.advice
        for_trust = advice.trust_buffer_size + MAX_DEFERRED
        if self.spec.image is None or self.config.exchange:  # a registered exchange may read them
            return max(DUMPED, for_trust)
        learned = (advice.use_trust or advice.use_agent_values) and advice.choice != "uniform"
        reads = advice.sharing == "advice" and len(self.names) > 1 and learned
        return max(DUMPED_IMAGES, for_trust if reads else 0)

    def copies_of(self, advisers: Sequence[str | Suggests]) -> list[list[Adviser]]:
        """The fixed advisers, `[F][R]`: one for each replica."""
        return adviser_copies(advisers, self.spec, self.R)

    # --- one step -------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Begin the first episodes."""
        self._set_observations(self.envs.reset(), np.ones(self.envs.n, bool))
        self.group.see(self.obs)

    def _set_observations(self, obs: np.ndarray, first: np.ndarray) -> None:
        """Set the current observations `obs [M E, obs]`; `first [M E]` bool: at the start of an episode."""
        self.host_obs, self.obs, self.first, self.begun = obs, self._tensor(obs), first, True

    def advance(self) -> Step:
        """One step of every environment, and all the learning that belongs to it. It counts as one step of a member
        for each of its environments."""
        pad_single_rows(self.pads)
        self.step += self.stride
        chosen = self.sharing.act(self.obs, self.host_obs, self.first, self.step)
        actions = self.group.clip(chosen)
        host = actions.cpu().numpy()
        result = self.envs.step(host[:, 0].astype(np.int64) if self.spec.discrete else host)
        before = Before(self.obs, self.host_obs, self.first)
        transition = make_transition(before, chosen, actions, host, result, self.sharing)
        next_obs = self._tensor(result.obs) if result.episodes else transition.next_obs
        self.group.see(next_obs, transition.rewards, result.done)
        self.group.observe(transition)
        self.sharing.observe(transition)
        self.sharing.after_step(self.step)
        self.group.learn(self.step)
        self._exchange()
        self.obs, self.host_obs, self.first = next_obs, result.obs, result.done
        self.episodes += result.episodes
        return result

    def _exchange(self) -> None:
        due = [exchange for exchange in self.exchanges.values() if exchange.due(self.step)]
        if due:
            self.sharing.catch_up()
        for exchange in due:
            exchange.after_learning(self.group, self.step)

    def _tensor(self, array: np.ndarray) -> torch.Tensor:
        return torch.as_tensor(array, device=self.device, dtype=self.group.dtype)

    # --- reports --------------------------------------------------------------------------------------------

    def run_info(self) -> dict[str, Any]:
        """The environment's name, the members' algorithms and the steps between long updates, for listeners."""
        algorithms = tuple(s.algorithm for s in self.group.settings)
        return {"env": self.env_name, "algorithms": algorithms, "cycle": rollout_size(self.group.settings)}

    def metrics(self) -> list[MetricRow]:
        """(replica, member's name, name, value) since the last call. Call `advice_rows` first if both are needed,
        because this method resets the counts."""
        rows = [*self.group.metrics(), *self.sharing.metrics()]
        for exchange in self.exchanges.values():
            rows += exchange.metrics()
            for name, value in exchange.transport.metrics().items():
                rows += [(r, i, name, value) for r in range(self.R) for i in range(self.N)]
        named = [(r, self.names[i], name, value) for r, i, name, value in rows]
        for m in range(self.group.M):
            done = [e for e in self.episodes if e.env // self.group.E == m]
            if done:
                r, name = m // self.N, self.names[m % self.N]
                named.append((r, name, "train/return", float(np.mean([e.return_ for e in done]))))
                named.append((r, name, "train/length", float(np.mean([e.length for e in done]))))
                named.append((r, name, "train/episodes", float(len(done))))
        self.episodes = []
        self.sharing.reset_counts()
        return named

    def advice_rows(self) -> list[dict[str, Any]]:
        """Rows of advice.csv since the last `metrics`."""
        return self.sharing.advice_rows(self.names)

    def notes(self) -> list[str]:
        """A message if the observations of the last steps are far from 1 in size: at most once, and only at the first
        logs of a process."""
        plain = [s for s in self.group.settings if getattr(s, "normalize_obs", None) is False]
        if not self._notes_left or not plain or self.group.space.image is not None:
            return []
        self._notes_left -= 1
        each = math.ceil(NOTED / self.envs.n)
        age = torch.arange(min(each, self.group.recent.size), device=self.device)
        obs = self.group.recent_transitions(age.expand(self.envs.n, -1)).obs.flatten(0, 1)
        largest = float(obs.double().std(dim=0, correction=0).max())
        if USUAL[0] <= largest <= USUAL[1] or not largest > 0:
            return []
        self._notes_left = 0
        size = f"{'up to' if largest > 1 else 'only'} {largest:.2g}"
        return [
            f"observations have a standard deviation of {size}: learning, and trust in advisers, work better with "
            "values near 1; try --normalize-obs"
        ]

    def diverged(self, known: np.ndarray) -> np.ndarray:
        """Members `[n]` whose updates were not finite, without those that are already `known [M]` (bool)."""
        return np.flatnonzero(~self.group.active() & ~self.group.pretrained & ~known)

    def member_state(self, m: int) -> dict[str, Any]:
        """The networks of member `m` and the last transitions of its environments, one environment after the other, for
        debugging."""
        age = torch.arange(min(math.ceil(DUMPED / self.group.E), self.group.recent.size), device=self.device)
        batch = self.group.recent_transitions(age.expand(self.envs.n, -1))
        first = m * self.group.E  # its first environment
        own = slice(first, first + self.group.E)
        transitions = {name: getattr(batch, name)[own].flatten(0, 1) for name in batch._fields}
        return {"networks": self.group.member_parameters(m), "transitions": transitions}

    # --- state ----------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """Everything that a resume needs; call it after `begin`. Does not change the training."""
        running = self.envs.state()
        environments = {n: torch.from_numpy(x) if isinstance(x, np.ndarray) else x for n, x in running.items()}
        transports = {name: exchange.transport.state() for name, exchange in self.exchanges.items()}
        return {
            **({} if self.roster is None else {"federation": transports}),
            "step": self.step,
            "group": self.group.state(),
            "sharing": self.sharing.state(),
            "exchanges": {name: exchange.state() for name, exchange in self.exchanges.items()},
            "environments": environments,
            "first": self.first.tolist(),
            "episodes": [list(episode) for episode in self.episodes],
        }

    def load_policies(self, state: dict[str, Any]) -> None:
        """Load only the members' parameters and the step from a `state`."""
        self.step = int(state["step"])
        self.group.load_policies(state["group"])

    def load_company(self, state: dict[str, Any]) -> None:
        """Load members, trust and advisers from a `state` for an evaluation, without the running episodes."""
        self.step = int(state["step"])
        self.group.load_state(state["group"])
        self.sharing.load_state(state["sharing"])

    def schedules(self) -> list[str]:
        """What depends on the length of the run: descriptions of schedules of learners and fixed advisers."""
        return [*self.group.schedules(), *self.sharing.schedules()]

    def undeclared(self) -> list[str]:
        """The classes of learners and signals outside Peerage that do not say by `schedules` whether they depend on
        the length of the run."""
        signals = self.sharing.signals.values() if isinstance(self.sharing, Advice) else ()
        parts: list[Learner | Signal] = [*(stack.learner for stack in self.group.stacks), *signals]
        silent = [type(part) for part in parts if type(part).schedules in (Learner.schedules, Signal.schedules)]
        return list(dict.fromkeys(cls.__name__ for cls in silent if not cls.__module__.startswith("peerage.")))

    def lengthened(self, state: dict[str, Any], total_steps: int) -> dict[str, Any]:
        """Convert a `state` of the same training with fewer `total_steps` to the length of this one."""
        return {**state, "sharing": self.sharing.lengthened(state["sharing"], total_steps)}

    def load_state(self, state: dict[str, Any]) -> list[str]:
        """Continue from `state`. Returns messages about episodes that cannot be replayed and are restarted."""
        self.load_company(state)
        for name, exchange in self.exchanges.items():
            exchange.load_state(state["exchanges"][name])
            if self.roster is not None:
                exchange.transport.load_state(state["federation"][name])
        self.episodes = [Episode(*episode) for episode in state["episodes"]]
        environments = {n: x.numpy() if isinstance(x, torch.Tensor) else x for n, x in state["environments"].items()}
        obs, restarted = self.envs.restore(environments, self.step)
        who = np.isin(np.arange(self.envs.n), list(restarted))
        self._set_observations(obs, np.array(state["first"], bool) | who)
        self.sharing.reset(who)
        messages = []
        if self.spec.id.split(":")[-1].startswith(NOT_REPLAYABLE):
            messages.append(
                f"the resumed run is not bit-identical: {self.spec.id} keeps state between episodes, and it is "
                "restarted"
            )
        for env, why in restarted.items():
            r, i = divmod(env // self.group.E, self.N)
            of = f"{self.names[i]}{f' in replica {r}' if self.R > 1 else ''}"
            messages.append(f"{self.spec.id}: the episode of {of} could not be replayed and is restarted: {why}")
        return messages

    def set_run_config(self, run: RunConfig) -> None:
        """Replace the part `run` of the configuration, which does not affect the training."""
        self.config = replace(self.config, run=run)

    def close(self) -> None:
        """Close the environments."""
        self.envs.close()
