"""A vector of environments that step in lockstep, one for each member."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import gymnasium
import numpy as np

from peerage.envs.changing import Changing
from peerage.envs.make import Maker, Spec, check_env_id, make_env, one_line, spec_of
from peerage.envs.running import MAX_STEPS, RunningEpisodes, generator_state, set_generator_state
from peerage.errors import Terminated, UserError

__all__ = ["EnvGroup", "Episode", "Maker", "Spec", "Step", "check_env_id", "make_env"]


class Episode(NamedTuple):
    """An episode that ended in this step."""

    env: int
    """Which environment, 0 to n - 1."""
    return_: float
    """Sum of the rewards, undiscounted."""
    length: int
    """Steps."""
    success: bool | None
    """`info["is_success"]` of its last step; None where the environment does not say."""


@dataclass(slots=True)
class Step:
    """What one step of all environments gave. The arrays are new in every step: keep them as you like."""

    obs: np.ndarray
    """float32 [n, obs]: what to act on next; where an episode ended, the first one of the next episode."""
    next_obs: np.ndarray
    """float32 [n, obs]: what truly followed; differs from `obs` exactly where an episode ended."""
    reward: np.ndarray
    """float32 [n]"""
    terminated: np.ndarray
    """bool [n]: the task is over, nothing follows: do not bootstrap."""
    truncated: np.ndarray
    """bool [n]: cut off, as by a time limit: bootstrap from `next_obs`."""
    done: np.ndarray
    """bool [n]: either."""
    episodes: list[Episode]


class EnvGroup:
    """`len(seeds)` environments of one kind, which reset themselves in the step that ends an episode.

    Environment i is seeded with `seeds[i]` at its first reset only; after that its own generator runs on. With `keep`
    the running episodes are kept, so that `state` and `restore` can take them from one process to another.
    Attributes, as in `Spec`: n, spec, observation_space, action_space, obs_dim, discrete, n_actions,
    act_dim, action_low, action_high.

    Raises UserError in one line if the environment cannot be built or has spaces that Peerage cannot train
    on and, naming environment and step, if it raises or gives numbers that are not finite while it runs.
    """

    def __init__(self, env: Maker, env_args: dict[str, Any], seeds: Sequence[int], *, keep: bool = False):
        if len(seeds) == 0:
            raise UserError("a group of environments needs at least one seed")
        self.n = len(seeds)
        self.seeds = [int(seed) for seed in seeds]
        self.envs: list[gymnasium.Env] = []
        try:
            for _ in seeds:
                self.envs.append(make_env(env, env_args))
            self.spec = spec_of(self.envs[0], env)
            self._check_alike()
        except UserError:
            self.close()
            raise
        self.observation_space, self.action_space = self.spec.observation_space, self.spec.action_space
        self.obs_dim, self.act_dim = self.spec.obs_dim, self.spec.act_dim
        self.discrete, self.n_actions = self.spec.discrete, self.spec.n_actions
        self.action_low, self.action_high = self.spec.action_low, self.spec.action_high
        space = self.action_space
        self._first_action = int(space.start) if isinstance(space, gymnasium.spaces.Discrete) else 0
        self._action_shape = (self.n,) if self.discrete else (self.n, self.act_dim)
        self._seeded = False
        self._steps = 0
        self._returns = np.zeros(self.n)
        self._lengths = np.zeros(self.n, np.int64)
        self._obs = np.zeros((self.n, self.obs_dim), np.float32)
        self._running: RunningEpisodes | None = None
        if keep:
            self._running = RunningEpisodes(self.n, self._action_shape[1:], np.int64 if self.discrete else np.float32)

    def reset(self, *, reseed: bool = False) -> np.ndarray:
        """Begin new episodes everywhere; what was under way is dropped. Returns obs, float32 [n, obs].

        With `reseed` every environment starts from its seed again, as at the first reset.
        """
        obs = np.empty((self.n, self.obs_dim), np.float32)
        self._reset(range(self.n), obs, self.seeds if reseed or not self._seeded else None)
        self._seeded = True
        self._returns[:] = 0
        self._lengths[:] = 0
        self._obs = obs
        return obs.copy()

    def step(self, actions: np.ndarray, only: np.ndarray | None = None) -> Step:
        """One step of every environment; call `reset` first.

        `actions`: Discrete: integers [n] in 0 ... n_actions - 1 (the space's own start is added here);
        Box: [n, act] in the environment's units, passed on as they are, as float32. `only [n]` bool: the others
        rest (zeros, and nothing has happened to them).
        """
        if np.shape(actions) != self._action_shape:
            raise ValueError(f"actions must have shape {self._action_shape}, not {np.shape(actions)}")
        # A copy for Box: an environment that changes its action in place must not reach the caller's.
        batch = self._batch(actions)
        if self._running is not None:
            self._running.add(actions, self._lengths)
        next_obs = np.zeros((self.n, self.obs_dim), np.float32)
        reward = np.zeros(self.n)
        terminated, truncated = np.zeros(self.n, bool), np.zeros(self.n, bool)
        infos: dict[int, dict[str, Any]] = {}
        self._steps += 1
        i = 0
        try:
            for i in range(self.n) if only is None else np.flatnonzero(only).tolist():
                seen, reward[i], terminated[i], truncated[i], infos[i] = self.envs[i].step(batch[i])
                self._see(i, seen, next_obs)
        except (UserError, Terminated):
            raise
        except (Exception, SystemExit) as error:  # sys.exit() of somebody's is a failure, too
            raise self._failed(i, error) from error
        with np.errstate(over="ignore"):  # becomes infinite, and is refused
            single = reward.astype(np.float32)
        if not (np.isfinite(next_obs).all() and np.isfinite(single).all()):
            self._refuse(next_obs, single)

        self._returns += reward
        self._lengths += 1 if only is None else only
        obs, done, episodes = next_obs.copy(), terminated | truncated, []
        if done.any():
            ended = np.flatnonzero(done).tolist()
            for i in ended:
                success = infos[i].get("is_success")
                episodes.append(
                    Episode(
                        env=i,
                        return_=float(self._returns[i]),
                        length=int(self._lengths[i]),
                        success=None if success is None else bool(success),
                    )
                )
            self._returns[ended] = 0
            self._lengths[ended] = 0
            self._reset(ended, obs, None)
        if self._running is not None:
            self._obs = obs.copy()
        return Step(obs, next_obs, single, terminated, truncated, done, episodes)

    def state(self) -> dict[str, Any]:
        """Everything that `restore` needs: plain data and arrays. Only of a group made with `keep`."""
        assert self._running is not None
        return {
            **self._running.state(self._lengths),
            "generators": [generator_state(env) for env in self.envs],
            "lengths": self._lengths.copy(),
            "returns": self._returns.copy(),
            "obs": self._obs.copy(),
        }

    def restore(self, state: dict[str, Any], clock: int) -> tuple[np.ndarray, dict[int, str]]:
        """Live the running episodes again, which stood where they stood after `clock` steps of training.

        Returns the observations `[n, obs]` and, for every environment that did not come out where it had been, why;
        its episode has been begun anew, with the generator as it was. Raises ValueError, TypeError or KeyError for a
        state that is not of these environments.
        """
        assert self._running is not None
        lengths, returns = np.asarray(state["lengths"], np.int64), np.asarray(state["returns"], np.float64)
        obs = np.asarray(state["obs"], np.float32)
        if obs.shape != (self.n, self.obs_dim) or lengths.shape != (self.n,) or returns.shape != (self.n,):
            raise ValueError(f"episodes of other environments than {self.n} of {self.spec.id}")
        if len(state["generators"]) != self.n or (lengths < 0).any():
            raise ValueError("no state of environments")
        self._running.load_state(state)
        self._seeded, self._steps = True, clock
        anew: dict[int, str] = {}
        for i, (env, length) in enumerate(zip(self.envs, lengths.tolist())):
            taken = self._running.actions[:, :length].swapaxes(0, 1)  # [length, n, ...]
            try:
                if len(taken) < length:
                    raise UserError(f"it is longer than {MAX_STEPS:,} steps")
                actions = [self._batch(at)[i] for at in taken]
                now, total, generator = self._running.relive(i, env, actions, clock)
                if now.tobytes() != obs[i].tobytes():
                    raise UserError(f"its observation after {length} steps is another one")
                if total != returns[i] or generator != state["generators"][i]:
                    raise UserError(f"its rewards or random numbers in {length} steps were others")
            except UserError as error:
                anew[i] = str(error)
        self._lengths, self._returns, self._obs = lengths.copy(), returns.copy(), obs.copy()
        for i in anew:
            if state["generators"][i] is not None:
                set_generator_state(self.envs[i], state["generators"][i])
            if isinstance(env := self.envs[i], Changing):
                env.steps, env.running = clock, True
            self._lengths[i], self._returns[i] = 0, 0.0
        self._reset(list(anew), self._obs, None)
        return self._obs.copy(), anew

    def set_clock(self, steps: int, *, running: bool = True) -> None:
        """Tell environments that change under way how many `steps` were made so far; call `reset` afterwards.

        With `running` off they stay in the state that belongs to it, however many steps are made now.
        """
        for env in self.envs:
            if isinstance(env, Changing):
                env.steps, env.running = steps, running

    def close(self) -> None:
        """Close all environments."""
        for env in self.envs:
            env.close()

    def _batch(self, actions: np.ndarray) -> Any:
        """What the environments' own `step` takes, one entry each."""
        return (actions + self._first_action).tolist() if self.discrete else np.array(actions, np.float32)

    def _reset(self, which: Sequence[int], obs: np.ndarray, seeds: list[int] | None) -> None:
        """Reset the environments `which` and write what they show to their rows of `obs`."""
        i = 0
        try:
            for i in which:
                if self._running is not None:
                    self._running.begin(i, self.envs[i], None if seeds is None else seeds[i])
                seen, _ = self.envs[i].reset(seed=None if seeds is None else seeds[i])
                self._see(i, seen, obs)
        except (UserError, Terminated):
            raise
        except (Exception, SystemExit) as error:  # sys.exit() of somebody's is a failure, too
            raise self._failed(i, error) from error
        if not np.isfinite(obs).all():
            self._refuse(obs, np.zeros(self.n))

    def _see(self, i: int, seen: Any, obs: np.ndarray) -> None:
        """Write what environment i shows to its row of `obs`."""
        if np.shape(seen) != (self.obs_dim,):
            where = f"{self.spec.id}, environment {i}, step {self._steps}"
            raise UserError(f"{where}: an observation of shape {np.shape(seen)}, not {(self.obs_dim,)}")
        if getattr(seen, "dtype", None) == np.float32:
            obs[i] = seen
        else:
            with np.errstate(over="ignore"):
                obs[i] = seen

    def _check_alike(self) -> None:
        """A function of the user's may return anything."""
        if len({id(env.unwrapped) for env in self.envs}) < self.n:
            raise UserError(f"{self.spec.id} gave the same environment twice; every member needs its own")
        for env in self.envs:
            alike = env.observation_space == self.spec.observation_space
            if not alike or env.action_space != self.spec.action_space:
                raise UserError(f"{self.spec.id} made environments with different spaces")

    def _failed(self, index: int, error: BaseException) -> UserError:
        where = f"{self.spec.id}, environment {index}, step {self._steps}"
        return UserError(f"{where}: the environment raised {type(error).__name__}: {one_line(error)}")

    def _refuse(self, obs: np.ndarray, reward: np.ndarray) -> None:
        bad_obs = ~np.isfinite(obs).all(axis=1)
        index = int(np.flatnonzero(bad_obs | ~np.isfinite(reward))[0])
        what = "an observation" if bad_obs[index] else "a reward"
        where = f"{self.spec.id}, environment {index}, step {self._steps}"
        raise UserError(f"{where}: the environment gave {what} that is not finite")
