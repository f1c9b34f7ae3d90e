"""Acting with a Decision Transformer: a window of the last steps for every episode that runs.

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


class Contexts:
    """The windows of `B` episodes, of the last K steps each, the newest last; K is the context length of `net`.

    The return-to-go of a step is the target minus the rewards of earlier steps. With several networks in `net`, each
    serves as many consecutive episodes: episode b belongs to network `b // (B // S)`. With `clip`, the model gets
    returns-to-go within the data's range at each timestep (`Preprocessing.clipped`).

    `act` changes nothing, so that an episode can ask in any steps; `observe` must be called after every step.
    """

    def __init__(self, net: StackedGPT, preprocessing: Preprocessing, n: int, *, clip: bool = False) -> None:
        if n % net.rows:
            raise ValueError(f"{n} episodes cannot be shared equally by {net.rows} networks")
        self.net, self.preprocessing, self.n, self.clip = net, preprocessing, n, clip
        k = net.settings.context_length
        self.states = np.zeros((n, k, net.obs), np.float32)  # standardised
        self.actions = np.zeros((n, k, net.act), np.float32)  # of the model
        self.rtg = np.zeros((n, k), np.float64)  # as the model got it, not yet divided by the scale
        self.lengths = np.zeros(n, np.int64)  # steps of the running episode
        self.left = np.zeros(n, np.float64)  # the target minus the rewards of the running episode
        self.targets = np.zeros(n, np.float64)

    def begin(self, rows: np.ndarray, targets: np.ndarray | float) -> None:
        """New episodes start in `rows` (indices, or bool `[B]`) with these target returns."""
        self.targets[rows] = targets
        self.left[rows] = self.targets[rows]
        self.lengths[rows] = 0

    def act(self, obs: np.ndarray, rows: np.ndarray | None = None) -> np.ndarray:
        """Actions of the environment, float32 `[b, act]`, for the observations `obs [b, obs]` of some episodes (int64
        `[b]`; None: all). Some of them need a `net` with one row.

        Raises UserError for a step that has no timestep in the model.
        """
        rows = np.arange(self.n) if rows is None else rows
        if not len(rows):
            return np.zeros((0, self.preprocessing.act_dim), np.float32)
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
        rtg = np.concatenate((self.rtg[rows, 1:], self._to_go(rows)[:, None]), axis=1) / prepared.scale
        parts = (states, actions, rtg[..., None])
        tensors = [torch.as_tensor(x, dtype=net.flat.dtype, device=net.flat.device) for x in parts]
        tensors += [torch.as_tensor(x, device=net.flat.device) for x in (timesteps.clip(min=0), timesteps >= 0)]
        found = net(*(x.unflatten(0, (net.rows, -1)) for x in tensors), newest=True)  # [S, b / S, width]
        return prepared.to_env(found.flatten(0, 1).cpu().numpy())

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
        newest = (
            (self.states, self.preprocessing.states(obs)),
            (self.actions, self.preprocessing.to_model(np.asarray(actions).reshape(len(rows), -1))),
            (self.rtg, self._to_go(rows)),
        )
        for window, step in newest:
            window[rows, :-1] = window[rows, 1:]
            window[rows, -1] = step
        self.left[rows] -= rewards
        self.lengths[rows] += 1
        self.begin(rows[done], self.targets[rows[done]])

    def _to_go(self, rows: np.ndarray) -> np.ndarray:
        """The returns-to-go of the current step, `[b]`."""
        return self.preprocessing.clipped(self.left[rows], self.lengths[rows]) if self.clip else self.left[rows]

    def take(self, other: Contexts) -> None:
        """Copy the windows of `other`, which has at most as many, to the first ones."""
        for name in STATE:
            getattr(self, name)[: other.n] = getattr(other, name)

    def state(self) -> dict[str, np.ndarray]:
        """The windows for a checkpoint."""
        return {name: getattr(self, name).copy() for name in STATE}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Restore a `state`. Raises ValueError if it has other sizes."""
        for name in STATE:
            own, saved = getattr(self, name), np.asarray(state[name])
            if own.shape != saved.shape:
                raise ValueError(f"{name} has the shape {list(saved.shape)} instead of {list(own.shape)}")
            own[...] = saved


STATE = ("states", "actions", "rtg", "lengths", "left", "targets")
