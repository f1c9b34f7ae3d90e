"""A vector of environments that step in lockstep, one for each member."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import gymnasium
import numpy as np

from peerage.envs.actions import ActionConverter
from peerage.envs.adapted import Conversion
from peerage.envs.changing import Changing
from peerage.envs.make import EnvMaker, Maker, Spec, check_env_id, make_env, one_line, spec_of
from peerage.envs.returned import WrongReturn, checked_reset, checked_step
from peerage.envs.running import MAX_STEPS, RunningEpisodes, generator_state, set_generator_state
from peerage.envs.success import SuccessRule, either, success_of
from peerage.errors import Terminated, UserError
from peerage.text import place

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

    The environments may differ in everything but their observation and action space. `seeds[i]` is one seed, for the
    first episode of environment i, or one for each of its first episodes; later episodes continue the environment's
    own generator. With `keep` the running episodes are recorded, so that `state` and `restore` can move them from one
    process to another. `success` says how the success of an episode follows from its steps.

    Attributes, as in `Spec`: n, spec (of the first environment), observation_space, action_space, obs_dim, discrete,
    n_actions, act_dim, action_low, action_high. Set `max_steps` to truncate long episodes.

    Raises UserError in one line if an environment cannot be built or has spaces that Peerage cannot train on, if two
    environments have different spaces, and, naming environment and step, if an environment raises, returns something
    else than Gymnasium's interface asks for, or numbers that are not finite.
    """

    def __init__(
        self,
        makers: Sequence[EnvMaker],
        seeds: Sequence[int] | Sequence[Sequence[int]],
        *,
        keep: bool = False,
        success: SuccessRule = "last",
    ):
        if len(makers) == 0:
            raise UserError("a group of environments needs at least one environment")
        if len(makers) != len(seeds):
            raise ValueError(f"{len(makers)} environments need as many seeds, not {len(seeds)}")
        self.n = len(makers)
        self.seeds = [[int(s) for s in seed] if isinstance(seed, Iterable) else [int(seed)] for seed in seeds]
        self.envs: list[gymnasium.Env] = []
        try:
            for maker in makers:
                self.envs.append(maker.make())
            self.names = [m.name if env.spec is None else env.spec.id for m, env in zip(makers, self.envs)]
            self.spec = spec_of(self.envs[0], makers[0].env)
            self._check_alike()
        except UserError:
            self.close()
            raise
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
        # For Box a copy: an environment may change its action in place, and the caller's array must not change.
        batch = self._batch(actions)
        if self._running is not None:
            self._running.add(actions, self._lengths)
        next_obs = np.zeros((self.n, self.obs_dim), np.float32)
        reward = np.zeros(self.n)
        terminated, truncated = np.zeros(self.n, bool), np.zeros(self.n, bool)
        infos: dict[int, Mapping[str, Any]] = {}
        self._steps += 1
        i = 0
        try:
            for i in range(self.n) if only is None else np.flatnonzero(only).tolist():
                result = self.envs[i].step(batch[i])
                next_obs[i], reward[i], terminated[i], truncated[i], infos[i] = checked_step(result, self.obs_dim)
        except (UserError, Terminated):
            raise
        except WrongReturn as error:
            raise UserError(f"{self._where(i)}: {error}") from None
        except (Exception, SystemExit) as error:  # an environment that calls sys.exit() has failed as well
            raise self._failed(i, error) from error
        with np.errstate(over="ignore"):  # an overflow gives infinity, which is refused below
            single = reward.astype(np.float32)
        if not (np.isfinite(next_obs).all() and np.isfinite(single).all()):
            self._refuse(next_obs, single)

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
        if done.any():
            ended = np.flatnonzero(done).tolist()
            for i in ended:
                success = self._success[i] if self._any_step else success_of(infos[i])
                episodes.append(Episode(i, float(self._returns[i]), int(self._lengths[i]), success))
                self._success[i] = None
            self._returns[ended] = 0
            self._lengths[ended] = 0
            self._reset(ended, obs)
        if self._running is not None:
            self._obs = obs.copy()
        return Step(obs, next_obs, single, terminated, truncated, done, episodes)

    def state(self) -> dict[str, Any]:
        """Everything that `restore` needs: plain data and arrays. Only of a group made with `keep`."""
        assert self._running is not None
        state = {
            **self._running.state(self._lengths),
            "generators": [generator_state(env) for env in self.envs],
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
        self._next_seeds, self._steps = [iter(()) for _ in self.envs], clock
        restarted: dict[int, str] = {}
        for i, (env, length) in enumerate(zip(self.envs, lengths.tolist())):
            taken = self._running.actions[:, :length].swapaxes(0, 1)  # [length, n, ...]
            try:
                if len(taken) < length:
                    raise UserError(f"it is longer than {MAX_STEPS:,} steps")
                actions = [self._batch(at)[i] for at in taken]
                now, total, generator = self._running.replay(i, env, actions, clock)
                if now.tobytes() != obs[i].tobytes():
                    raise UserError(f"its observation after {length} steps differs")
                if total != returns[i] or generator != state["generators"][i]:
                    raise UserError(f"its rewards or random numbers in {length} steps differ")
            except UserError as error:
                restarted[i] = str(error)
        self._lengths, self._returns, self._obs = lengths.copy(), returns.copy(), obs.copy()
        self._success = [None if known < 0 else bool(known) for known in success.tolist()]
        for i in restarted:
            if state["generators"][i] is not None:
                set_generator_state(self.envs[i], state["generators"][i])
            if isinstance(env := self.envs[i], Changing):
                env.steps, env.running = clock, True
            self._lengths[i], self._returns[i], self._success[i] = 0, 0.0, None
        self._reset(list(restarted), self._obs)
        return self._obs.copy(), restarted

    def set_clock(self, steps: int, *, running: bool = True) -> None:
        """Set the clock of environments that change during a run to `steps`; call `reset` afterwards.

        With `running` off the clock stands still: the environments do not change, whatever steps follow.
        """
        for env in self.envs:
            if isinstance(env, Changing):
                env.steps, env.running = steps, running

    def close(self) -> None:
        """Close all environments."""
        for env in self.envs:
            env.close()

    def _batch(self, actions: np.ndarray) -> Any:
        """A copy of the actions as the `step` of the environments takes them, one entry for each."""
        converted = self._converted(actions)
        return converted.tolist() if self.discrete else converted

    def _reset(self, which: Sequence[int], obs: np.ndarray) -> None:
        """Reset the environments `which` and write their observations to their rows of `obs`."""
        assert self._next_seeds is not None
        i = 0
        try:
            for i in which:
                seed = next(self._next_seeds[i], None)
                if self._running is not None:
                    self._running.begin(i, self.envs[i], seed)
                obs[i] = checked_reset(self.envs[i].reset(seed=seed), self.obs_dim)
        except (UserError, Terminated):
            raise
        except WrongReturn as error:
            raise UserError(f"{self._where(i)}: {error}") from None
        except (Exception, SystemExit) as error:  # an environment that calls sys.exit() has failed as well
            raise self._failed(i, error) from error
        if not np.isfinite(obs).all():
            self._refuse(obs, np.zeros(self.n))

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

    def _where(self, index: int) -> str:
        return f"{self.names[index]}, environment {index}, step {self._steps}"

    def _failed(self, index: int, error: BaseException) -> UserError:
        what = f"{type(error).__name__}: {one_line(error)}{place(error)}"
        return UserError(f"{self._where(index)}: the environment raised {what}")

    def _refuse(self, obs: np.ndarray, reward: np.ndarray) -> None:
        bad_obs = ~np.isfinite(obs).all(axis=1)
        index = int(np.flatnonzero(bad_obs | ~np.isfinite(reward))[0])
        what = "an observation" if bad_obs[index] else "a reward"
        raise UserError(f"{self._where(index)}: the environment returned {what} that is not finite")


def _short(space: gymnasium.Space[Any] | None) -> str:
    text = " ".join(str(space).split())
    return text if len(text) <= 80 else f"{text[:77]}..."
