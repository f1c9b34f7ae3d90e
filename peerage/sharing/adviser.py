"""The base class of fixed advisers, and the conversion of user objects to it."""

from __future__ import annotations

import inspect
from typing import Any, Protocol

import numpy as np

from peerage.errors import UserError
from peerage.learners.streams import StreamKey
from peerage.learners.transition import HostTransition


class Adviser:
    """Base class of fixed advisers, which suggest actions to the members of a group.

    Subclasses must implement `suggest`; the other methods have defaults that do nothing. The members that an adviser
    serves are its *askers*. Every replica gets its own copy of an adviser, unless it is `stateless` or `shared`.

    In every environment step, methods are called in the order `at`, `suggest`, `role`, `observe`. An exception ends the
    run with a message that names the adviser, the method and the step.
    """

    name: str
    """Optional: the name in config.yaml and advice.csv. Default: the name of the class in lower case."""
    stateless: bool = False
    """Whether the adviser neither uses `rng` nor has memory. A single object then serves the askers of all replicas in
    one call."""
    shared: bool = False
    """Whether a single object can serve the askers of all replicas although it has memory. It must keep separate memory
    for each asker's row. If it uses `rng`, which all replicas share, the results of a replica depend on the number of
    replicas."""
    max_steps: int | None = None
    """The longest episode in which the adviser can act, in steps; None: any. Trainings in environments with longer
    episodes are refused."""

    def suggest(self, obs: np.ndarray, rows: np.ndarray, first: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Actions for `B` askers.

        Args:
            obs: float32 `[B, obs]`, the askers' observations.
            rows: int64 `[B]`, the askers' rows among all members: `replica * N + member`, with `N` members per group.
            first: bool `[B]`, whether this is the first step of the asker's episode.
            rng: the adviser's own generator. Its state is restored when a run is resumed.

        Returns:
            Discrete: integers from 0 to n - 1, `[B]` or `[B, 1]`. Box: `[B, act]` in the environment's units, or `[B]`
            if an action is a single number; values are clipped to the box.

        Only members that choose an adviser in this step or follow this adviser ask. Override `observe` to receive every
        step of all askers.
        """
        raise NotImplementedError

    def observe(self, transition: HostTransition, rows: np.ndarray) -> None:
        """Called after every environment step with the step of all askers, whichever adviser they followed.

        `transition` contains one entry for each of the askers `rows` (int64 `[B]`, as in `suggest`, but always all
        askers in the same order).
        """

    def begin(self, rng: np.random.Generator, total_steps: int) -> None:
        """Called once before the first step; in a resumed run, before `load_state`.

        `rng` is keyed by (seed, replica). All advisers of a replica get a fresh copy of it, so that several advisers
        can draw the same numbers (`replica_generator`). An adviser that serves all replicas gets the generator of
        replica 0. `total_steps` is the length of the run in environment steps per member.
        """

    def schedule(self) -> str:
        """A description of what depends on `total_steps`; empty if nothing does. A run with such an adviser is extended
        only on request (`peerage resume --stretch-schedules`). By default, an adviser that overrides `begin` may depend
        on it."""
        return "begin(rng, total_steps) may depend on the steps" if overrides(self, "begin") else ""

    def at(self, step: int) -> None:
        """Called at the start of environment step `step` (1, 2, ...), before `suggest`."""

    def role(self, obs: np.ndarray) -> np.ndarray:
        """The role of the adviser at `obs [B, obs]`: int `[B]`, +1 expert, -1 adversary, 0 neither.

        Used only for the metrics `advice/right` and `advice/wrong`, which exist if an adviser overrides this method.
        """
        return np.zeros(len(obs), np.int64)

    def state(self) -> Any:
        """The memory of the adviser for a checkpoint: numbers, text, arrays, tensors, lists of these, and dictionaries
        of these with text keys. None: no memory."""
        return None

    def load_state(self, state: Any) -> None:
        """Restore the result of `state` when a run is resumed. Not called if it was None."""

    @property
    def label(self) -> str:
        """The name in error messages."""
        return type(self).__name__


class Suggests(Protocol):
    """An object that `as_adviser` accepts: an `Adviser`, or any object with a method `suggest`."""

    def suggest(
        self, obs: np.ndarray, rows: np.ndarray, first: np.ndarray, rng: np.random.Generator, /
    ) -> np.ndarray: ...


HOOKS = ("observe", "begin", "schedule", "at", "role", "state", "load_state")
"""The optional methods of an adviser."""


def overrides(adviser: Adviser, method: str) -> bool:
    """Whether `adviser` overrides a method of `Adviser`."""
    return getattr(getattr(adviser, method), "__func__", None) is not getattr(Adviser, method)


def serves_all(adviser: Adviser) -> bool:
    """Whether a single object serves the askers of all replicas."""
    return adviser.stateless or adviser.shared


def delegate(adviser: Adviser, target: Any, methods: tuple[str, ...]) -> None:
    """Forward `methods` of `adviser` to `target`, except methods that `target` lacks or, if it is an `Adviser`, does
    not override."""
    for name in methods:
        own = overrides(target, name) if isinstance(target, Adviser) else callable(getattr(target, name, None))
        if own:
            setattr(adviser, name, getattr(target, name))


class PlainAdviser(Adviser):
    """Wraps an object that is not an `Adviser` but has `suggest` and any of the optional methods."""

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
    """Convert an object to an `Adviser`. It needs a method `suggest(obs, rows, first, rng)`, which is called with
    positional arguments, and may have any of the other methods of `Adviser`.

    Raises UserError for a class instead of an object, for an object without `suggest`, and for a `suggest` with other
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
    """The generator passed to `Adviser.begin`: equal for all advisers of a replica, different between replicas. Its
    stream key follows those of the replica's `n_peers` members."""
    return StreamKey(seed, replica, n_peers).generator("advisers")
