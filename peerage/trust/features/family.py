"""A feature family, and the object that computes the features of all members' steps with it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from peerage.errors import UserError
from peerage.text import first_line, place
from peerage.trust.features.feature_history import HISTORY, FeatureHistory, one_hot

ADVISER = ("adviser", 0)
"""The block with the adviser's one-hot, which the library fills. A family has it exactly once, in any place."""


@dataclass(frozen=True)
class Family:
    """Features in named blocks, and the phases of a task.

    `blocks`: (name, width) in order, with `ADVISER` among them. `extract(past)` returns an array `[M, S, width]` (or
    `[M, S]` for a width of 1) for every other block. `phases(past)` returns integers `[M, S]`, indices into
    `phase_names`; it runs before `extract`, which can read its result in `past.phase`. Both get all members at once and
    must not modify their input. `memory(n_members, n_advisers)` returns arrays `[n_members, ...]` that the family keeps
    beyond the last `HISTORY` steps (`past.memory`); it is rarely needed.
    """

    name: str
    blocks: tuple[tuple[str, int], ...]
    extract: Callable[[FeatureHistory], Mapping[str, np.ndarray]]
    phases: Callable[[FeatureHistory], np.ndarray] | None = None
    phase_names: tuple[str, ...] = ()
    memory: Callable[[int, int], dict[str, np.ndarray]] | None = None


class Features:
    """Computes features and phases from the transitions of `n_members` members, in chunks of any length.

    A step has `width` features in `slices` (name -> columns, in order); `adviser` is the slice of the followed
    adviser's one-hot. `n_phases` and `phase_names` are 0 and () if the family has no phases. With `lagged`, reward
    features describe rewards before the step; without, as published, they contain the step's own reward.
    Raises UserError for inconsistent blocks or phases.
    """

    def __init__(self, family: Family, n_members: int, n_advisers: int, lagged: bool = True) -> None:
        _check(family)
        self.family, self.n_members, self.n_advisers, self.lagged = family, n_members, n_advisers, lagged
        self.slices: dict[str, slice] = {}
        self.width = 0
        for name, width in family.blocks:
            width = n_advisers if name == "adviser" else width
            self.slices[name] = slice(self.width, self.width + width)
            self.width += width
        self.adviser = self.slices["adviser"]
        self.phase_names = tuple(family.phase_names)
        self.n_phases = len(self.phase_names)
        self._context: dict[str, np.ndarray] = {}  # raw steps [M, up to HISTORY, ...]
        self._memory = family.memory(n_members, n_advisers) if family.memory else {}

    def extend(
        self, obs: np.ndarray, action: np.ndarray, reward: np.ndarray, adviser: np.ndarray, first: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """The next T >= 1 steps of all members -> features float32 `[M, T, width]`, phases int64 `[M, T]` (0 if none).

        `obs [M, T, obs]`: before the action; `action [M, T]` (Discrete, from 0) or `[M, T, act]` (Box, environment
        units); `reward [M, T]`: of the step itself; `adviser [M, T]` int in 0 ... K - 1: the followed adviser;
        `first [M, T]` bool: whether the step is the first of an episode (the very first step always counts as one).
        Raises UserError, with the name of the block, if the family returns an array of the wrong shape, a number that
        is not finite or a phase out of range. The state is unchanged then.
        """
        adviser = np.asarray(adviser, dtype=np.int64)
        new = adviser.shape[1]
        if new < 1 or adviser.min() < 0 or adviser.max() >= self.n_advisers:
            raise ValueError(f"advisers must be [{self.n_members}, T], in 0 ... {self.n_advisers - 1}")
        action = np.asarray(action)
        chunk = {
            "obs": np.asarray(obs, dtype=np.float32),
            "action": action.astype(np.float32 if action.ndim == 3 else np.int64, copy=False),
            "reward": np.asarray(reward, dtype=np.float32),
            "adviser": adviser,
            "age": self._ages(np.asarray(first, dtype=bool)),
        }
        if self._context:
            chunk = {name: np.concatenate((self._context[name], x), axis=1) for name, x in chunk.items()}
        past = FeatureHistory(
            chunk["obs"],
            chunk["action"],
            chunk["reward"],
            chunk["adviser"],
            chunk["age"],
            new,
            self.n_advisers,
            self.lagged,
            dict(self._memory),
        )
        features, phases = self._compute(past)
        self._memory = {name: past.memory[name] for name in self._memory}
        self._context = {name: x[:, -HISTORY:].copy() for name, x in chunk.items()}
        return features, phases

    def _ages(self, first: np.ndarray) -> np.ndarray:
        """`first [M, T]` -> steps since the episode began `[M, T]`, across chunks."""
        place = np.arange(first.shape[1])
        start = np.maximum.accumulate(np.where(first, place, -1), axis=1)
        carried = self._context["age"][:, -1:] if self._context else np.full((len(first), 1), -1)
        return np.where(start >= 0, place - start, carried + 1 + place)

    def _compute(self, past: FeatureHistory) -> tuple[np.ndarray, np.ndarray]:
        family, shape = self.family, (self.n_members, past.steps)
        phases = np.zeros((self.n_members, past.new), dtype=np.int64)
        if family.phases is not None:
            phase = np.asarray(family.phases(past))
            if phase.shape != shape or not np.issubdtype(phase.dtype, np.integer):
                raise UserError(
                    f"feature family {family.name!r}: phases must be integers of shape [M, S] = {list(shape)}, "
                    f"not {phase.dtype} of shape {list(phase.shape)}"
                )
            past.phase = phase
            phases[:] = phase[:, -past.new :]
            if phases.min() < 0 or phases.max() >= self.n_phases:
                wrong = phases.min() if phases.min() < 0 else phases.max()
                raise UserError(
                    f"feature family {family.name!r}: phase {wrong} is out of range; "
                    f"it has {self.n_phases} phases, 0 ... {self.n_phases - 1}"
                )
        blocks = family.extract(past)
        features = np.empty((self.n_members, past.new, self.width), dtype=np.float32)
        features[..., self.adviser] = one_hot(past.adviser[:, -past.new :], self.n_advisers)
        for name, columns in self.slices.items():
            if name != "adviser":
                features[..., columns] = self._block(blocks, name, shape)[:, -past.new :]
        if not np.isfinite(features).all():
            bad = [name for name, columns in self.slices.items() if not np.isfinite(features[..., columns]).all()]
            raise UserError(f"feature family {family.name!r}: block {bad[0]!r} has numbers that are not finite")
        return features, phases

    def _block(self, blocks: Mapping[str, np.ndarray], name: str, shape: tuple[int, int]) -> np.ndarray:
        if name not in blocks:
            raise UserError(f"feature family {self.family.name!r}: extract returned no block {name!r}")
        block, width = blocks[name], self.slices[name].stop - self.slices[name].start
        if block.ndim == 2:
            block = block[..., None]
        if block.shape != (*shape, width):
            raise UserError(
                f"feature family {self.family.name!r}: block {name!r} should have shape [M, S, width] = "
                f"{[*shape, width]}, but has {list(block.shape)}"
            )
        return block

    def state(self) -> dict[str, np.ndarray]:
        """Everything that later chunks depend on, as arrays `[M, ...]`. Before the first step it is the family's own
        memory only."""
        context = {f"context.{name}": x.copy() for name, x in self._context.items()}
        return context | {f"memory.{name}": x.copy() for name, x in self._memory.items()}

    def load_state(self, state: dict[str, np.ndarray]) -> None:
        """Restore what `state` returned."""
        missing = [name for name in self._memory if f"memory.{name}" not in state]
        if missing:
            raise ValueError(f"the state is not one of the feature family {self.family.name!r}: no {missing[0]}")
        self._memory = {name: np.array(state[f"memory.{name}"]) for name in self._memory}
        self._context = {
            name.removeprefix("context."): np.array(x) for name, x in state.items() if name.startswith("context.")
        }


def _check(family: Family) -> None:
    """Raise UserError for inconsistent blocks or phases."""
    where = f"feature family {family.name!r}"
    names = [name for name, _ in family.blocks]
    if names.count("adviser") != 1:
        raise UserError(f"{where} has {names.count('adviser')} blocks named 'adviser'; include ADVISER exactly once")
    for name, width in family.blocks:
        if names.count(name) > 1:
            raise UserError(f"{where} has {names.count(name)} blocks named {name!r}; names must be unique")
        if name != "adviser" and (not isinstance(width, int) or width < 1):
            raise UserError(f"{where}: the width of block {name!r} must be a whole number of at least 1, not {width!r}")
    if (family.phases is None) != (len(family.phase_names) == 0):
        raise UserError(f"{where}: phases and phase_names must be given together")


def guarded(where: str, call: Callable[..., Any], *args: Any) -> Any:
    """`call(*args)`; exceptions become a UserError of one line that begins with `where`."""
    try:
        return call(*args)
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{where}: {type(error).__name__}: {first_line(error)}{place(error)}") from error
