"""Acting for a target return: with a Decision Transformer, a window of the last steps for every episode that runs.

    contexts = Contexts(net, preprocessing, 8)
    contexts.begin(np.arange(8), targets)
    actions = contexts.act(obs)                       # [8, act]
    contexts.observe(obs, actions, rewards, done)     # the actions that were executed, whoever chose them
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from peerage.errors import UserError
from peerage.nets.gpt import StackedGPT
from peerage.offline.preprocessing import Preprocessing


class Conditioned:
    """Acts in `n` episodes for target returns. Subclasses implement `choose`.

    The first return-to-go of an episode is the target; each reward is subtracted from it (`R <- (R - r) / gamma`). With
    `clip`, the model gets returns-to-go within the data's range at each timestep (`Preprocessing.clipped`).

    `act` changes nothing, so that an episode can ask in any steps; `observe` must be called after every step.
    """

    state_names: tuple[str, ...] = ("lengths", "left", "targets")
    """The arrays of `state`, with one row per episode."""
    max_steps: int | None = None
    """The longest episode in which it can act, in steps; None: any."""

    def __init__(self, preprocessing: Preprocessing, n: int, *, clip: bool = False) -> None:
        self.preprocessing, self.n, self.clip = preprocessing, n, clip
        self.lengths = np.zeros(n, np.int64)  # steps of the running episode
        self.left = np.zeros(n, np.float64)  # the return-to-go, not clipped
        self.targets = np.zeros(n, np.float64)

    def begin(self, rows: np.ndarray, targets: np.ndarray | float) -> None:
        """New episodes start in `rows` (indices, or bool `[n]`) with these target returns."""
        self.targets[rows] = targets
        self.left[rows] = self.targets[rows]
        self.lengths[rows] = 0

    def act(self, obs: np.ndarray, rows: np.ndarray | None = None) -> np.ndarray:
        """Actions of the environment, float32 `[b, act]`, for the observations `obs [b, obs]` of some episodes (int64
        `[b]`; None: all). Raises UserError for a step that the model cannot act in."""
        rows = np.arange(self.n) if rows is None else rows
        if not len(rows):
            return np.zeros((0, self.preprocessing.act_dim), np.float32)
        return self.choose(obs, rows, self.to_go(rows))

    def choose(self, obs: np.ndarray, rows: np.ndarray, to_go: np.ndarray) -> np.ndarray:
        """The actions of `act`; `to_go [b]` are the returns-to-go, not yet divided by the scale."""
        raise NotImplementedError

    def observe(
        self,
        obs: np.ndarray,
        actions: np.ndarray,
        rewards: np.ndarray,
        done: np.ndarray,
        rows: np.ndarray | None = None,
    ) -> None:
        """One step of some episodes (int64 `[b]`; None: all): the observations `[b, obs]` before it, the actions
        `[b, act]` that were executed, in the environment's units, and the rewards `[b]`. Where `done` (bool `[b]`), a
        new episode with the same target starts."""
        rows = np.arange(self.n) if rows is None else rows
        self.left[rows] = (self.left[rows] - rewards) / self.preprocessing.gamma
        self.lengths[rows] += 1
        self.begin(rows[done], self.targets[rows[done]])

    def to_go(self, rows: np.ndarray) -> np.ndarray:
        """The returns-to-go of the current step, float64 `[b]`."""
        return self.preprocessing.clipped(self.left[rows], self.lengths[rows]) if self.clip else self.left[rows]

    def take(self, other: Conditioned) -> None:
        """Copy the episodes of `other`, which has at most as many, to the first ones."""
        for name in self.state_names:
            getattr(self, name)[: other.n] = getattr(other, name)

    def state(self) -> dict[str, np.ndarray]:
        """The episodes for a checkpoint."""
        return {name: getattr(self, name).copy() for name in self.state_names}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Restore a `state`. Raises ValueError if it has other sizes."""
        for name in self.state_names:
            own, saved = getattr(self, name), np.asarray(state[name])
            if own.shape != saved.shape:
                raise ValueError(f"{name} has the shape {list(saved.shape)} instead of {list(own.shape)}")
            own[...] = saved


class Contexts(Conditioned):
    """A Decision Transformer in `n` episodes: windows of the last K steps, the newest last; K is the context length of
    `net`.

    `rows` are the networks of `net` that act, by default all S. With several of them, each serves as many consecutive
    episodes: episode b belongs to network `b // (n // S)`. Then `act` computes all episodes.
    """

    state_names = ("states", "actions", "rtg", *Conditioned.state_names)

    def __init__(
        self,
        net: StackedGPT,
        preprocessing: Preprocessing,
        n: int,
        *,
        clip: bool = False,
        rows: slice = slice(None),
    ) -> None:
        super().__init__(preprocessing, n, clip=clip)
        self.networks, self.n_networks = rows, len(range(net.rows)[rows])
        if n % self.n_networks:
            raise ValueError(f"{n} episodes cannot be shared equally by {self.n_networks} networks")
        self.net, k = net, net.settings.context_length
        self.max_steps = net.settings.max_ep_len
        self.states = np.zeros((n, k, net.obs), np.float32)  # standardised
        self.actions = np.zeros((n, k, net.act), np.float32)  # of the model
        self.rtg = np.zeros((n, k), np.float64)  # as the model got it, not yet divided by the scale

    def choose(self, obs: np.ndarray, rows: np.ndarray, to_go: np.ndarray) -> np.ndarray:
        net, prepared, k = self.net, self.preprocessing, self.net.settings.context_length
        now = self.lengths[rows]  # [b]
        if now.max() >= net.settings.max_ep_len:
            raise UserError(
                f"step {now.max() + 1:,} of an episode: the Decision Transformer has timesteps for "
                f"{net.settings.max_ep_len:,} steps only (max_ep_len)"
            )
        timesteps = now[:, None] - np.arange(k)[::-1]  # [b, K]
        # The window of this step: the last K - 1 steps, and this one without an action
        states = np.concatenate((self.states[rows, 1:], prepared.states(obs).astype(np.float32)[:, None]), axis=1)
        actions = np.concatenate((self.actions[rows, 1:], np.zeros((len(rows), 1, net.act), np.float32)), axis=1)
        rtg = np.concatenate((self.rtg[rows, 1:], to_go[:, None]), axis=1) / prepared.scale
        parts = (states, actions, rtg[..., None])
        tensors = [torch.as_tensor(x, dtype=net.flat.dtype, device=net.flat.device) for x in parts]
        tensors += [torch.as_tensor(x, device=net.flat.device) for x in (timesteps.clip(min=0), timesteps >= 0)]
        shared = (x.unflatten(0, (self.n_networks, -1)) for x in tensors)
        found = net(*shared, rows=self.networks, newest=True)  # [S, b / S, width]
        return prepared.to_env(found.flatten(0, 1).cpu().numpy())

    def observe(
        self,
        obs: np.ndarray,
        actions: np.ndarray,
        rewards: np.ndarray,
        done: np.ndarray,
        rows: np.ndarray | None = None,
    ) -> None:
        rows = np.arange(self.n) if rows is None else rows
        newest = (
            (self.states, self.preprocessing.states(obs)),
            (self.actions, self.preprocessing.to_model(np.asarray(actions).reshape(len(rows), -1))),
            (self.rtg, self.to_go(rows)),
        )
        for window, step in newest:
            window[rows, :-1] = window[rows, 1:]
            window[rows, -1] = step
        super().observe(obs, actions, rewards, done, rows)
