"""The base class of fixed advisers, and how an object of the user becomes one."""

from __future__ import annotations

import inspect
from typing import Any, Protocol

import numpy as np

from peerage.errors import UserError
from peerage.learners.streams import StreamKey
from peerage.learners.transition import HostTransition


class Adviser:
    """Suggests actions to the members of a group without being one of them.

    Only `suggest` must be written; the other methods do nothing and need not be overridden. The members that an adviser
    serves are its *askers*. Every replica gets its own copy of an adviser, unless it is `stateless` or `shared`.

    All methods of one environment step are called in this order: `at`, `suggest`, `role`, `observe`. Exceptions end the
    run with a message that names the adviser, the method and the step.
    """

    name: str
    """Optional: the name in config.yaml and advice.csv. Default: the name of the class in lower case."""
    stateless: bool = False
    """Whether it draws nothing from `rng` and remembers nothing of what it is asked or told. One object then serves the
    askers of all replicas in one call."""
    shared: bool = False
    """Whether one object may serve the askers of all replicas although it has memory; it must then keep a memory for
    each asker's row. If it also draws from `rng`, which all replicas share then, the results of a replica depend on the
    number of replicas."""

    def suggest(self, obs: np.ndarray, rows: np.ndarray, first: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Actions for `B` askers.

        Args:
            obs: float32 `[B, obs]`, what the askers observe.
            rows: int64 `[B]`, the askers' rows among all members: `replica * N + member`, with `N` members a group.
            first: bool `[B]`, whether the asker's episode has just begun.
            rng: the adviser's own generator, restored when a run is resumed.

        Returns:
            Discrete: integers from 0 to n - 1, `[B]` or `[B, 1]`. Box: `[B, act]` in the environment's units, or `[B]`
            if an action is one number; values outside the box are clipped to it.

        In one step only those members ask that choose an adviser now or follow this one, so an adviser that needs every
        step of its askers overrides `observe`.
        """
        raise NotImplementedError

    def observe(self, transition: HostTransition, rows: np.ndarray) -> None:
        """Called after every environment step with the step of all askers, no matter which adviser they followed.

        `transition` holds one entry for each of the askers `rows` (int64 `[B]`, as in `suggest`, always the same ones
        in the same order). An adviser that does not override this method is not called.
        """

    def begin(self, rng: np.random.Generator, total_steps: int) -> None:
        """Called once before the first step; in a resumed run too, before `load_state`.

        `rng` is keyed by (seed, replica), and all advisers of a replica get a fresh copy of it, so that two of them can
        draw the same numbers (`replica_generator`); one that serves all replicas gets the one of replica 0.
        `total_steps` is in environment steps per member.
        """

    def at(self, step: int) -> None:
        """Called before environment step `step` (1, 2, ...), before anyone asks."""

    def role(self, obs: np.ndarray) -> np.ndarray:
        """Whether it acts as an expert at `obs [B, obs]`: int `[B]`, +1 expert, -1 adversary, 0 neither.

        Used for the metrics `advice/right` and `advice/wrong` alone, which exist if an adviser overrides this method.
        """
        return np.zeros(len(obs), np.int64)

    def state(self) -> Any:
        """Its memory for the checkpoint: numbers, text, arrays, tensors, and lists and dictionaries with text keys of
        them; or None. A resumed run gives it back to `load_state`."""
        return None

    def load_state(self, state: Any) -> None:
        """Restore what `state` returned; not called if that was None."""

    @property
    def label(self) -> str:
        """The name in error messages."""
        return type(self).__name__


class Suggests(Protocol):
    """An object that `as_adviser` accepts: an `Adviser`, or anything else with `suggest`."""

    def suggest(
        self, obs: np.ndarray, rows: np.ndarray, first: np.ndarray, rng: np.random.Generator, /
    ) -> np.ndarray: ...


HOOKS = ("observe", "begin", "at", "role", "state", "load_state")
"""The methods that an adviser may leave out."""


def overrides(adviser: Adviser, method: str) -> bool:
    """Whether `adviser` has a method of its own in place of the one of `Adviser`."""
    return getattr(getattr(adviser, method), "__func__", None) is not getattr(Adviser, method)


def serves_all(adviser: Adviser) -> bool:
    """Whether one object serves the askers of all replicas."""
    return adviser.stateless or adviser.shared


def delegate(adviser: Adviser, target: Any, methods: tuple[str, ...]) -> None:
    """Make `methods` of `adviser` those of `target`, as far as it has them: an `Adviser` has those it overrides."""
    for name in methods:
        own = overrides(target, name) if isinstance(target, Adviser) else callable(getattr(target, name, None))
        if own:
            setattr(adviser, name, getattr(target, name))


class PlainAdviser(Adviser):
    """An adviser made of an object that is not an `Adviser` and has `suggest` and any of the other methods."""

    def __init__(self, target: Any) -> None:
        self.target = target
        self.stateless = bool(getattr(target, "stateless", False))
        self.shared = bool(getattr(target, "shared", False))
        delegate(self, target, HOOKS)

    def suggest(self, obs: np.ndarray, rows: np.ndarray, first: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return self.target.suggest(obs, rows, first, rng)

    @property
    def label(self) -> str:
        return type(self.target).__name__


def as_adviser(given: Any) -> Adviser:
    """`given` as an `Adviser`: itself if it is one, or an object with a method `suggest(obs, rows, first, rng)`, which
    is called with positional arguments, and any of the other methods of `Adviser`.

    Raises UserError for a class in place of an object, for an object without `suggest`, and for a `suggest` with other
    parameters.
    """
    name = getattr(given, "__name__", type(given).__name__)
    if isinstance(given, type):
        raise UserError(f"an adviser is an object, not a class: pass {name}(), not {name}")
    missing = isinstance(given, Adviser) and not overrides(given, "suggest")
    if missing or not callable(getattr(given, "suggest", None)):
        raise UserError(f"{given!r} is not an adviser: it has no method suggest(obs, rows, first, rng)")
    try:
        inspect.signature(given.suggest).bind(None, None, None, None)
    except TypeError as error:
        raise UserError(f"adviser {name}: suggest must take (obs, rows, first, rng): {error}") from None
    return given if isinstance(given, Adviser) else PlainAdviser(given)


def replica_generator(seed: int, replica: int, n_peers: int) -> np.random.Generator:
    """The generator that `Adviser.begin` gets: the same numbers for every adviser of a replica, other numbers in every
    other replica. Its stream key is the first one after those of the replica's `n_peers` members."""
    return StreamKey(seed, replica, n_peers).generator("advisers")
