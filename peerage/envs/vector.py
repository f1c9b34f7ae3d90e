"""A vector of environments that step in lockstep, one for each member."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import gymnasium
import numpy as np

from peerage.envs.actions import ActionConverter
from peerage.envs.adapted import Conversion
from peerage.envs.make import EnvMaker, Maker, Spec, check_env_id, make_env, spec_of
from peerage.envs.returned import WrongReturn
from peerage.envs.running import MAX_STEPS, RunningEpisodes
from peerage.envs.stepping import LoopStepper, set_state, state_of, stepper_for
from peerage.envs.success import SuccessRule, either, success_of
from peerage.errors import Terminated, UserError
from peerage.text import first_line, place

__all__ = ["EnvGroup", "EnvMaker", "Episode", "Maker", "Spec", "Step", "SuccessRule", "check_env_id", "make_env"]


class Episode(NamedTuple):
    """An episode that ended in this step."""

    env: int
    """Index of the environment, 0 to n - 1."""
    return_: float
    """Sum of the rewards, undiscounted."""
    length: int
    """Steps."""
    success: bool | None
    """By the success rule of the group (`peerage.envs.success`); None where the environment does not report it."""


@dataclass(slots=True)
class Step:
    """The result of one step of all environments. The arrays are new in every step, so the caller may keep them."""

    obs: np.ndarray
    """float32 [n, obs]: the observations to act on next; where an episode ended, the first one of the next episode."""
    next_obs: np.ndarray
    """float32 [n, obs]: the observations that followed the actions; differs from `obs` only where an episode ended."""
    reward: np.ndarray
    """float32 [n]"""
    terminated: np.ndarray
    """bool [n]: the episode reached a terminal state; do not bootstrap."""
    truncated: np.ndarray
    """bool [n]: the episode was cut off, for example by a time limit; bootstrap from `next_obs`."""
    done: np.ndarray
    """bool [n]: terminated or truncated."""
    episodes: list[Episode]


class EnvGroup:
    """`n` environments that reset themselves in the step that ends an episode; environment i is built by `makers[i]`.

    The environments may differ in everything except their observation and action spaces. `seeds[i]` is one seed, for
    the first episode of environment i, or one for each of its first episodes; later episodes continue the environment's
    own generator. With `keep` the running episodes are recorded, so that `state` and `restore` can move them from one
    process to another. `success` says how the success of an episode follows from its steps. `batched`: None steps the
    environments in one program if there is one for them (`peerage.envs.batched`), which changes no bit; False steps
    them one by one; True uses a program for very few environments, too.

    Attributes, as in `Spec`: n, spec (of the first environment), observation_space, action_space, obs_dim, discrete,
    n_actions, act_dim, action_low, action_high; `envs`, the Gymnasium environments, only the first if they are stepped
    in one program; `limits [n]`, their time limits, None without one. Set `max_steps` to truncate long episodes.

    Raises UserError in one line if an environment cannot be built or has spaces that Peerage cannot train on, if two
    environments have different spaces, and, naming environment and step, if an environment raises an exception,
    violates Gymnasium's interface, or returns numbers that are not finite.
    """

    def __init__(
        self,
        makers: Sequence[EnvMaker],
        seeds: Sequence[int] | Sequence[Sequence[int]],
        *,
        keep: bool = False,
        success: SuccessRule = "last",
        batched: bool | None = None,
    ):
        if len(makers) == 0:
            raise UserError("a group of environments needs at least one environment")
        if len(makers) != len(seeds):
            raise ValueError(f"{len(makers)} environments need as many seeds, not {len(seeds)}")
        self.n = len(makers)
        self.seeds = [[int(s) for s in seed] if isinstance(seed, Iterable) else [int(seed)] for seed in seeds]
        stepper = stepper_for(makers, batched)
        if stepper is not None:
            self.envs = stepper.envs
            self.spec = spec_of(self.envs[0], makers[0].env)
            self.names = [self.spec.id] * self.n
        else:
            self.envs = []
            try:
                for maker in makers:
                    self.envs.append(maker.make())
                self.names = [m.name if env.spec is None else env.spec.id for m, env in zip(makers, self.envs)]
                self.spec = spec_of(self.envs[0], makers[0].env)
                self._check_alike()
            except UserError:
                for env in self.envs:
                    env.close()
                raise
            stepper = LoopStepper(self.envs, self.spec.obs_dim)
        self._stepper = stepper
        self.limits = stepper.limits
        self.observation_space, self.action_space = self.spec.observation_space, self.spec.action_space
        self.obs_dim, self.act_dim = self.spec.obs_dim, self.spec.act_dim
        self.discrete, self.n_actions = self.spec.discrete, self.spec.n_actions
        self.action_low, self.action_high = self.spec.action_low, self.spec.action_high
        self._converted = ActionConverter(self.action_space)
        self._action_shape = (self.n,) if self.discrete else (self.n, self.act_dim)
        self._next_seeds: list[Iterator[int]] | None = None  # None: not reset yet
        self._steps = 0
        self._returns = np.zeros(self.n)
        self._lengths = np.zeros(self.n, np.int64)
        self.max_steps: np.ndarray | None = None
        """int64 [n]: episodes of environment i are truncated after `max_steps[i]` steps; None: never."""
        self.cut = 0
        """The length of the longest episode that `max_steps` has truncated; 0: none."""
        self._any_step = success == "any"
        self._success: list[bool | None] = [None] * self.n  # of the running episodes; used by `any` alone
        self._obs = np.zeros((self.n, self.obs_dim), np.float32)
        self._running: RunningEpisodes | None = None
        if keep:
            if max(map(len, self.seeds)) > 1:
                raise ValueError("a group that keeps its running episodes takes one seed for each environment")
            self._running = RunningEpisodes(self.n, self._action_shape[1:], np.int64 if self.discrete else np.float32)

    def reset(self, *, reseed: bool = False) -> np.ndarray:
        """Begin new episodes in all environments and drop the running ones. Returns obs, float32 [n, obs].

        With `reseed` every environment starts from its seeds again, as at the first reset.
        """
        if reseed or self._next_seeds is None:
            self._next_seeds = [iter(seeds) for seeds in self.seeds]
        obs = np.empty((self.n, self.obs_dim), np.float32)
        self._reset(range(self.n), obs)
        self._returns[:] = 0
        self._lengths[:] = 0
        self._success = [None] * self.n
        self._obs = obs
        return obs.copy()

    def step(self, actions: np.ndarray, only: np.ndarray | None = None) -> Step:
        """One step of every environment; call `reset` first.

        `actions`: Discrete: integers [n] in 0 ... n_actions - 1 (the start of the space is added here);
        Box: [n, act] in the environment's units, clipped to the box and passed on as float32 (float16 if that is the
        type of the box), so that the action space contains them. `only [n]` bool: the other environments do not step,
        and their rows of the result are zero.
        """
        if np.shape(actions) != self._action_shape:
            raise ValueError(f"actions must have shape {self._action_shape}, not {np.shape(actions)}")
        if self._running is not None:
            self._running.add(actions, self._lengths)
        self._steps += 1
        with self._failures():
            # A copy of the actions: an environment may change its action in place, and the caller's must not change.
            next_obs, reward, terminated, truncated, infos = self._stepper.step(self._converted(actions), only)
        single = self._finite(next_obs, reward)
        self._returns += reward
        self._lengths += 1 if only is None else only
        if self._any_step:
            for i, info in infos.items():
                self._success[i] = either(self._success[i], success_of(info))
        if self.max_steps is not None:
            over = (self._lengths >= self.max_steps) & ~(terminated | truncated)
            self.cut = max(self.cut, *self._lengths[over].tolist(), 0)
            truncated |= over
        obs, done, episodes = next_obs.copy(), terminated | truncated, []
        if np.count_nonzero(done):  # twice as fast as `any`
            ended = np.flatnonzero(done).tolist()
            for i in ended:
                success = self._success[i] if self._any_step else success_of(infos.get(i))
                episodes.append(Episode(i, float(self._returns[i]), int(self._lengths[i]), success))
                self._success[i] = None
            self._returns[ended] = 0
            self._lengths[ended] = 0
            self._reset(ended, obs)
        if self._running is not None:
            self._obs = obs.copy() if only is None else np.where(only[:, None], obs, self._obs)
        return Step(obs, next_obs, single, terminated, truncated, done, episodes)

    def state(self) -> dict[str, Any]:
        """Everything that `restore` needs: plain data and arrays. Only of a group made with `keep`."""
        assert self._running is not None
        state = {
            **self._running.state(self._lengths),
            "generators": [state_of(self._stepper.generator(i)) for i in range(self.n)],
            "lengths": self._lengths.copy(),
            "returns": self._returns.copy(),
            "obs": self._obs.copy(),
        }
        if self._any_step:
            state["success"] = np.array([-1 if known is None else known for known in self._success], np.int8)
        return state

    def restore(self, state: dict[str, Any], clock: int) -> tuple[np.ndarray, dict[int, str]]:
        """Replay the running episodes of `state`, which was taken after `clock` steps of training.

        Returns the observations `[n, obs]` and, by environment, the reason why its replay differed from the recorded
        episode; such an environment has begun a new episode, with the state of its generator restored. Raises
        ValueError, TypeError or KeyError for a state of other environments.
        """
        assert self._running is not None
        lengths, returns = np.asarray(state["lengths"], np.int64), np.asarray(state["returns"], np.float64)
        obs = np.asarray(state["obs"], np.float32)
        success = np.asarray(state["success"], np.int8) if self._any_step else np.full(self.n, -1, np.int8)
        if obs.shape != (self.n, self.obs_dim) or {lengths.shape, returns.shape, success.shape} != {(self.n,)}:
            raise ValueError(f"episodes of other environments than {self.n} of {self.spec.id}")
        if len(state["generators"]) != self.n or (lengths < 0).any():
            raise ValueError("not a state of environments")
        self._running.load_state(state)
        self._next_seeds, self._steps = [iter(()) for _ in range(self.n)], clock
        too_long = np.flatnonzero(lengths > self._running.actions.shape[1]).tolist()
        restarted = dict.fromkeys(too_long, f"it is longer than {MAX_STEPS:,} steps")
        for part in self._stepper.parts:
            rows = [i for i in part if i not in restarted]
            for i, found in self._running.replay(self._stepper, rows, self._converted, lengths.tolist(), clock).items():
                if isinstance(found, str):
                    restarted[i] = found
                elif found.obs.tobytes() != obs[i].tobytes():
                    restarted[i] = f"its observation after {lengths[i]} steps differs"
                elif found.total != returns[i] or found.generator != state["generators"][i]:
                    restarted[i] = f"its rewards or random numbers in {lengths[i]} steps differ"
        self._lengths, self._returns, self._obs = lengths.copy(), returns.copy(), obs.copy()
        self._success = [None if known < 0 else bool(known) for known in success.tolist()]
        for i in restarted:
            if state["generators"][i] is not None:
                set_state(self._stepper.generator(i), state["generators"][i])
            self._stepper.set_clock(i, clock, running=True)
            self._lengths[i], self._returns[i], self._success[i] = 0, 0.0, None
        self._reset(list(restarted), self._obs)
        return self._obs.copy(), restarted

    def set_clock(self, steps: int, *, running: bool = True) -> None:
        """Set the clock of environments that change during a run to `steps`; call `reset` afterwards.

        If `running` is False, the clock stops, and the environments do not change in later steps.
        """
        for i in range(self.n):
            self._stepper.set_clock(i, steps, running=running)

    def close(self) -> None:
        """Close all environments."""
        self._stepper.close()

    def _reset(self, which: Sequence[int], obs: np.ndarray) -> None:
        """Reset the environments `which` and write their observations to their rows of `obs`."""
        assert self._next_seeds is not None
        with self._failures():
            for i in which:
                seed = next(self._next_seeds[i], None)
                if self._running is not None:
                    self._running.begin(i, seed, self._stepper.generator(i))
                obs[i] = self._stepper.reset(i, seed)
        self._finite(obs, np.zeros(self.n))

    def _check_alike(self) -> None:
        """UserError unless the environments are different objects with the same spaces."""
        if len({id(env.unwrapped) for env in self.envs}) < self.n:
            raise UserError(f"{self.names[0]} returned the same environment twice; every member needs its own")
        for name, env in zip(self.names, self.envs):
            for what, first, own in (
                ("observations", self.spec.observation_space, env.observation_space),
                ("actions", self.spec.action_space, env.action_space),
                ("actions", self.spec.conversion.action_space, Conversion.of(env).action_space),
            ):
                if own != first:
                    spaces = f"{what} {_short(first)} and {_short(own)}; the members of a group need the same"
                    if name == self.names[0]:
                        raise UserError(f"{name} created environments with different spaces: {spaces}")
                    raise UserError(f"{self.names[0]} and {name} have different spaces: {spaces}")

    def _where(self, index: int | None) -> str:
        which = "batched environments" if index is None else f"environment {index}"
        return f"{self.names[index or 0]}, {which}, step {self._steps}"

    @contextmanager
    def _failures(self) -> Iterator[None]:
        """Turn what an environment raises into a UserError that names the environment and the step."""
        try:
            yield
        except (UserError, Terminated):
            raise
        except WrongReturn as error:
            raise UserError(f"{self._where(self._stepper.at)}: {error}") from None
        except (Exception, SystemExit) as error:  # an environment that calls sys.exit() has failed as well
            what = f"{type(error).__name__}: {first_line(error)}{place(error)}"
            raise UserError(f"{self._where(self._stepper.at)}: the environment raised {what}") from error

    def _finite(self, obs: np.ndarray, reward: np.ndarray) -> np.ndarray:
        """The rewards as float32. Raises UserError for numbers that are not finite as float32."""
        if np.vdot(obs, obs) < np.inf and np.vdot(reward, reward) < 1e76:  # fast; fails for some large numbers, too
            return reward.astype(np.float32)
        with np.errstate(over="ignore"):  # an overflow gives infinity
            reward = reward.astype(np.float32)
        bad_obs = ~np.isfinite(obs).all(axis=1)
        if not (bad_obs | ~np.isfinite(reward)).any():
            return reward
        index = int(np.flatnonzero(bad_obs | ~np.isfinite(reward))[0])
        what = "an observation" if bad_obs[index] else "a reward"
        raise UserError(f"{self._where(index)}: the environment returned {what} that is not finite")


def _short(space: gymnasium.Space[Any] | None) -> str:
    text = " ".join(str(space).split())
    return text if len(text) <= 80 else f"{text[:77]}..."
