"""Attention trust: the rewards that each member's own transformer predicts for its advisers
(docs/methods/transformer-trust.md).

Every member stores its last 10,000 steps (features, phase, reward) and trains a trust transformer on windows of them.
Trust in adviser j is counterfactual: the mean reward that the transformer predicts for the member's latest window if
all its steps had followed j, with everything else unchanged.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from peerage.append_buffer import AppendBuffer
from peerage.errors import UserError
from peerage.learners.streams import StreamKey, Streams
from peerage.nets.adam import StackedAdam
from peerage.nets.dropout import Dropout
from peerage.nets.trust_transformer import DROPOUT, MAX_STEPS, TrustTransformer, Windows, Wiring, mean_valid

MAX_GRAD_NORM = 1.0  # per member
STORED = ("features", "rewards", "phases", "begins")  # of a step, in the history
LOSSES = 50  # latest losses stored per member, from which the hybrid computes its confidence


class History:
    """The last `capacity` steps of `rows` members, with the first step of each step's episode.

    Steps are numbered from 0 and the same for all members; step n is at `n % capacity`. `total` counts all steps that
    were stored.
    """

    def __init__(
        self, rows: int, capacity: int, n_features: int, device: torch.device | str, dtype: torch.dtype
    ) -> None:
        self.rows, self.capacity = rows, capacity
        # `empty` instead of `zeros`: pages that are never written take no memory
        self.features = torch.empty(rows, capacity, n_features, device=device, dtype=dtype)
        self.rewards = torch.empty(rows, capacity, device=device, dtype=dtype)
        self.phases = torch.empty(rows, capacity, device=device, dtype=torch.int64)
        self.begins = torch.empty(rows, capacity, device=device, dtype=torch.int64)  # first step of its episode
        self.episode = torch.zeros(rows, 1, device=device, dtype=torch.int64)  # first step of the running episode
        self.offsets = torch.arange(rows, device=device).unsqueeze(1) * capacity
        self.total = 0

    @property
    def size(self) -> int:
        return min(self.total, self.capacity)

    def append(self, features: Tensor, phases: Tensor, rewards: Tensor, first: Tensor) -> None:
        """Append steps of every member: `features [M, T, F]`, `phases, rewards, first [M, T]`."""
        steps = first.shape[1]
        if steps == 0:
            return
        numbers = torch.arange(self.total, self.total + steps, device=first.device)
        begins = torch.cat((self.episode, torch.where(first, numbers, 0)), dim=1).cummax(dim=1).values[:, 1:]
        self.episode = begins[:, -1:].clone()
        skip = max(0, steps - self.capacity)  # steps that this call would overwrite itself
        done = skip
        while done < steps:
            start = (self.total + done) % self.capacity
            count = min(steps - done, self.capacity - start)
            to, here = slice(start, start + count), slice(done, done + count)
            self.features[:, to], self.rewards[:, to] = features[:, here], rewards[:, here]
            self.phases[:, to], self.begins[:, to] = phases[:, here], begins[:, here]
            done += count
        self.total += steps

    def windows(self, ends: Tensor, length: int) -> tuple[Windows, Tensor]:
        """The windows whose last steps have the ages `ends [M, B]` (0: the last stored step), and their rewards
        `[M, B, T]`. A window has at most `length` steps of one episode. Valid steps come first; the padding after them
        repeats the last one."""
        length = min(length, self.size)
        last = self.total - 1 - ends  # [M, B], step numbers
        begin = self.begins.flatten()[last % self.capacity + self.offsets]
        start = torch.maximum(last - (length - 1), begin).clamp(min=self.total - self.size)
        steps = start.unsqueeze(2) + torch.arange(length, device=ends.device)  # [M, B, T]
        valid = steps <= last.unsqueeze(2)
        steps = torch.minimum(steps, last.unsqueeze(2))
        index = (steps % self.capacity + self.offsets.unsqueeze(2)).flatten()
        features = self.features.view(-1, self.features.shape[2]).index_select(0, index).view(*steps.shape, -1)
        phases = self.phases.view(-1).index_select(0, index).view(steps.shape)
        rewards = self.rewards.view(-1).index_select(0, index).view(steps.shape)
        return Windows(features, valid, phases), rewards

    def state(self) -> dict[str, Any]:
        return {"steps": AppendBuffer(self.total - self.size, self.total, self._read), "episode": self.episode}

    def load_state(self, state: dict[str, Any]) -> None:
        entries = state["steps"]
        if entries.stop - entries.start != min(entries.stop, self.capacity):
            raise ValueError("a history of another capacity")
        for start, stop, tensors in entries.pieces():
            slots = torch.arange(start, stop) % self.capacity
            for name in STORED:
                kept, values = getattr(self, name), tensors[name]
                if values.shape != (self.rows, stop - start, *kept.shape[2:]) or values.dtype != kept.dtype:
                    raise ValueError("a history of other members or features")
                kept[:, slots.to(kept.device)] = values.to(kept.device)
        self.total = int(entries.stop)
        self.episode.copy_(state["episode"])

    def _read(self, start: int, stop: int) -> dict[str, Tensor]:
        slots = torch.arange(start, stop, device=self.rewards.device) % self.capacity
        return {name: getattr(self, name)[:, slots] for name in STORED}


class AttentionTrust:
    """The histories and trust transformers of `M` members, a row each; `K` advisers.

    `adviser` is the slice of the features with the one-hot of the adviser that was followed. `n_phases` is 0 for the
    base model. No more than `total_steps` are stored, so that short runs allocate less than `capacity`.
    """

    def __init__(
        self,
        stream_keys: Sequence[StreamKey],
        n_features: int,
        adviser: slice,
        n_advisers: int,
        n_phases: int = 0,
        *,
        sequence_length: int = 50,
        lr: float = 1e-5,
        update_freq: int = 20,
        batch: int = 32,
        capacity: int = 10_000,
        total_steps: int | None = None,
        wiring: Wiring = "causal",
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        if not 2 <= sequence_length <= MAX_STEPS:
            raise UserError(f"--sequence-length is {sequence_length}: it must be from 2 to {MAX_STEPS} steps")
        first, last, stride = adviser.indices(n_features)
        if last - first != n_advisers or stride != 1:
            raise UserError(
                f"the slice 'adviser' of the features is {adviser.start}:{adviser.stop} of {n_features}, and there are"
                f" {n_advisers} advisers: it needs one number per adviser"
            )
        rows = len(stream_keys)
        self.adviser, self.n_advisers, self.n_phases = slice(first, last), n_advisers, n_phases
        self.sequence_length, self.update_freq, self.batch = sequence_length, update_freq, batch
        self.device, self.dtype = torch.device(device), dtype
        self.model = TrustTransformer(rows, n_features, n_phases, wiring=wiring, device=device, dtype=dtype)
        self.model.init_([key.generator("trust-init") for key in stream_keys])
        flat, grad = self.model.stack.flat, self.model.stack.grad
        column = torch.ones(rows, 1, device=device, dtype=dtype)
        self.optimizer = StackedAdam(flat, grad, column * lr, max_grad_norm=column * MAX_GRAD_NORM)
        self.dropout = Dropout(DROPOUT, [key.generator("trust-dropout") for key in stream_keys], device, dtype)
        self.sampler = Streams(stream_keys, "trust-windows", (batch,), "uniform", device)
        kept = capacity if total_steps is None else min(capacity, total_steps)
        self.history = History(rows, max(kept, 2), n_features, device, dtype)
        self.active = torch.ones(rows, dtype=torch.bool, device=device)
        self.one_hot = torch.eye(n_advisers, device=device, dtype=dtype)
        self.recent = torch.zeros(LOSSES, rows, device=device, dtype=dtype)  # a ring
        self.updates = 0

    def append(
        self,
        features: np.ndarray | Tensor,
        phases: np.ndarray | Tensor | None,
        rewards: np.ndarray | Tensor,
        first: np.ndarray | Tensor,
    ) -> None:
        """Store the next `T` steps of every member: `features [M, T, F]`, `phases [M, T]` (None for the base model),
        `rewards [M, T]`, and whether the step is the `first [M, T]` of an episode. `T` may differ between calls."""
        rows, steps = first.shape
        if features.shape != (rows, steps, self.history.features.shape[2]):
            raise UserError(
                f"the features of {rows} members and {steps} steps are {list(features.shape)}, and"
                f" {self.history.features.shape[2]} numbers per step were expected: correct the feature family"
            )
        if phases is None or not self.n_phases:
            phases = np.zeros((rows, steps), np.int64)
        elif torch.as_tensor(phases).device.type == "cpu" and steps:  # on a GPU this would wait for the device
            low, high = int(phases.min()), int(phases.max())
            if low < 0 or high >= self.n_phases:
                raise UserError(f"phase {low if low < 0 else high}: phases are numbered 0 to {self.n_phases - 1}")
        on = self.device
        self.history.append(
            torch.as_tensor(features).to(on, self.dtype),
            torch.as_tensor(phases).to(on, torch.int64),
            torch.as_tensor(rewards).to(on, self.dtype),
            torch.as_tensor(first).to(on, torch.bool),
        )

    def due(self, step: int) -> bool:
        """Whether to train after environment step `step`."""
        return step % self.update_freq == 0

    def train(self) -> None:
        """One Adam step of every active member on `batch` windows from its history, each ending at a random step.
        Members whose gradient is not finite are frozen. Does nothing before two steps are stored."""
        size = self.history.size
        if size < 2:
            return
        windows, rewards = self.history.windows((self.sampler.next() * size).long(), self.sequence_length)
        self.optimizer.zero_grad()
        loss = self.model.learn(windows, rewards, self.dropout)
        self.active &= self.optimizer.finite()
        self.optimizer.step(self.active)
        self.recent[self.updates % LOSSES] = loss
        self.updates += 1

    def losses(self) -> Tensor:
        """The losses of the latest updates, at most `LOSSES`, oldest first: `[M, n]`."""
        if self.updates <= LOSSES:
            return self.recent[: self.updates].T.clone()
        return self.recent.roll(-(self.updates % LOSSES), dims=0).T

    def values(self, rows: Sequence[int] | Tensor | None = None) -> Tensor:
        """`v_attn [len(rows), K]` of some members (None: all): the mean prediction over the member's latest window if
        all its steps had followed adviser j. One call of the model, without dropout.

        The window ends with the last stored step and lies within that step's episode. At the first step of an episode
        it is therefore the last window of the episode before. Values are 0 before two steps are stored and where they
        are not finite. A member's bits do not depend on `rows`.
        """
        asked = range(self.history.rows) if rows is None else torch.as_tensor(rows).tolist()
        if self.history.size < 2 or not asked:
            return torch.zeros(len(asked), self.n_advisers, device=self.device, dtype=self.dtype)
        # A CPU computes each row separately. Elsewhere a product of one row could have other bits than one of many.
        members = [asked[0]] * 2 if len(asked) == 1 and self.device.type != "cpu" else list(asked)
        windows = self.counterfactual(members)
        out = mean_valid(self.model.predict(windows, members=members), windows.valid)
        # Features are checked, too, because a ReLU may turn NaN into 0.
        sound = out.isfinite() & windows.features.flatten(2).sum(dim=2).isfinite()  # [n, K]
        return torch.where(sound, out, 0.0)[: len(asked)]

    def counterfactual(self, members: Sequence[int]) -> Windows:
        """The latest windows of `members`, once per adviser, with the slice `adviser` of all steps replaced by the
        adviser's one-hot: features `[n, K, T, F]`, valid and phases `[n, K, T]`."""
        ends = torch.zeros(self.history.rows, 1, device=self.device, dtype=torch.int64)
        latest, _ = self.history.windows(ends, self.sequence_length)  # [M, 1, T, ...]
        index = torch.as_tensor(members, device=self.device)

        def repeated(part: Tensor) -> Tensor:
            return part[index].expand(-1, self.n_advisers, *part.shape[2:])

        features = repeated(latest.features).clone()
        features[..., self.adviser] = self.one_hot.unsqueeze(1)  # [K, 1, K]
        phases = repeated(latest.phases) if self.n_phases and latest.phases is not None else None
        return Windows(features, repeated(latest.valid), phases)

    def state(self) -> dict[str, Any]:
        """Everything that a resume needs: tensors and JSON-able values, nested in dicts."""
        return {
            "model": self.model.stack.flat,
            "optimizer": self.optimizer.state(),
            "history": self.history.state(),
            "active": self.active,
            "recent": self.recent,
            "updates": self.updates,
            "streams": {"windows": self.sampler.state(), "dropout": self.dropout.state()},
        }

    def load_state(self, state: dict[str, Any]) -> None:
        self.model.stack.flat.copy_(state["model"])
        self.optimizer.load_state(state["optimizer"])
        self.history.load_state(state["history"])
        self.active.copy_(state["active"])
        self.recent.copy_(state["recent"])
        self.updates = int(state["updates"])
        self.sampler.load_state(state["streams"]["windows"])
        self.dropout.load_state(state["streams"]["dropout"])
