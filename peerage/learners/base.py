"""The interface of learners, which advice, training and evaluation use, and code shared by learners."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from peerage.config.methods import LearnerSettings
from peerage.learners.streams import StreamKey
from peerage.learners.transition import Transition
from peerage.nets.attention_net import Window
from peerage.nets.cnn import Image
from peerage.nets.stacked import Rows
from peerage.offline.context import Conditioned


@dataclass(frozen=True)
class Space:
    """The sizes of an environment's spaces. `low` and `high` are `[act]`, or None for Discrete actions."""

    obs_dim: int
    act_dim: int
    n_actions: int = 0
    low: np.ndarray | None = None
    high: np.ndarray | None = None
    image: Image | None = None
    """The layout of observations that are images."""
    window: Window | None = None
    """The layout of observations that are windows of steps."""

    @property
    def discrete(self) -> bool:
        return self.n_actions > 0

    def state(self) -> dict[str, int]:
        """The sizes, and the layout of images and windows, for a checkpoint."""
        sizes = {"obs_dim": self.obs_dim, "act_dim": self.act_dim, "n_actions": self.n_actions}
        if self.image is not None:
            sizes |= {name: int(value) for name, value in self.image._asdict().items()}
        if self.window is not None:
            sizes |= {f"window_{name}": value for name, value in self.window._asdict().items()}
        return sizes


class NoiseShape(NamedTuple):
    """The distribution and number of the random numbers that a stochastic policy needs for one action."""

    kind: Literal["normal", "uniform"]
    width: int


class Learner:
    """Base class of learning algorithms for the `S` members of a stack. Subclasses must implement `suggest`; the other
    methods have defaults.

    Actions are in the environment's units; a Discrete action is its index as a float, with a last dimension of 1.
    `settings` contains one object per member; the settings named in `structural` are equal. All random numbers of a
    learner must come from streams keyed by `stream_keys`, one key per member, so that the results of a member do not
    depend on other members.
    """

    noise_shape: NoiseShape | tuple[Literal["normal", "uniform"], int] | None = None
    """(kind, width) of the noise that `suggest` needs to sample an action; None: the policy is deterministic."""

    fixed_state = False
    """The keys, shapes and types of `state` are the same from the first step on. A resume then compares the checkpoint
    with it before anything is loaded; otherwise only `load_state` checks the entries other than the parameters."""

    normalises = False
    """Whether the members have running statistics, which `see` updates."""

    def __init__(
        self,
        settings: Sequence[Any],
        stream_keys: Sequence[StreamKey],
        space: Space,
        total_steps: int,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.settings, self.stream_keys, self.space, self.total_steps = settings, stream_keys, space, total_steps
        self.rows, self.device, self.dtype = len(settings), torch.device(device), dtype
        self.active = torch.ones(self.rows, dtype=torch.bool, device=device)
        """`[S]` bool: whether the member learns. False for pretrained members and after an update that was not
        finite."""
        self.means = Means()

    def suggest(self, obs: Tensor, noise: Tensor | None) -> Tensor:
        """The members' actions: `obs [S, B, obs]` -> `[S, B, act]`. A stochastic policy samples with
        `noise [S, B, width]` (see `noise_shape`); without noise, the mode of the policy is returned."""
        raise NotImplementedError

    def suggest_rows(self, obs: Tensor, noise: Tensor | None, rows: Rows) -> Tensor:
        """`suggest` for some members of the stack: `obs [s, B, obs]` -> `[s, B, act]`. The default computes the whole
        stack; override it if the networks can compute some rows only."""
        everyone = obs.new_zeros(self.rows, *obs.shape[1:])
        everyone[rows] = obs
        drawn = None
        if noise is not None:
            drawn = noise.new_zeros(self.rows, *noise.shape[1:])
            drawn[rows] = noise
        return self.suggest(everyone, drawn)[rows]

    def explore(self, actions: Tensor, step: int) -> Tensor:
        """Add exploration to the actions of members that follow themselves: `[S, act]` -> `[S, act]`."""
        return actions

    def conditioned(self, episodes: int, *, clip: bool = False, rows: slice = slice(None)) -> Conditioned | None:
        """Acts for target returns in `episodes` episodes of each of the members `rows` of the stack, those of a member
        in consecutive rows; `clip` as of `Conditioned`. None: the learner takes no target. Called only if it is
        registered with `takes_target`."""
        return None

    def state_value(self, obs: Tensor, noise: Tensor | None) -> Tensor:
        """`V_i(s)`: `obs [S, B, obs]` -> `[S, B]`. The default is 0."""
        return obs.new_zeros(obs.shape[:2])

    def action_value(self, obs: Tensor, actions: Tensor) -> Tensor:
        """`min_k Q_i^k(s, a)`: `obs [S, B, obs]`, `actions [S, B, act]` -> `[S, B]`. Called only if the learner is
        registered with `has_action_value`."""
        raise NotImplementedError

    def action_values(self, obs: Tensor, actions: Tensor) -> Tensor:
        """`action_value` of several actions in each state: `obs [S, B, obs]`, `actions [S, B, K, act]` ->
        `[S, B, K]`."""
        rows, states, count, width = actions.shape
        q = self.action_value(obs.repeat_interleave(count, dim=1), actions.reshape(rows, states * count, width))
        return q.view(rows, states, count)

    def see(self, obs: Tensor, rewards: Tensor | None = None, done: Tensor | None = None) -> None:
        """Called after every environment step, before `observe`, if the learner `normalises`: `obs [S, obs]` are the
        observations that the members act on next, `rewards [S]` and `done [S]` (bool) the result of the step. At the
        start of a training, it is called with the first observations only."""

    def observe(self, transition: Transition) -> None:
        """Called after every environment step with the step of all members."""

    def learns(self, step: int) -> bool:
        """Whether `learn(step)` will change what `suggest`, `state_value` and `action_value` use. Deferred updates of
        trust are performed before it."""
        return False

    def learn(self, step: int) -> None:
        """Learn after environment step `step` (1, 2, ...): gradient steps, updates of target networks."""

    def schedules(self) -> list[str]:
        """Descriptions of the schedules that depend on `total_steps`, such as exploration that decays over a share of
        the run. A run with such a schedule is extended only on request (`peerage resume --stretch-schedules`). Override
        it also if there is none, so that an extension does not warn."""
        return []

    def cut_by(self, length: int) -> list[str]:
        """Descriptions of what a run of `length` steps did at its end and a longer run would not have done. Such a run
        is extended only on request, as one with `schedules`."""
        return []

    def batch_floats(self) -> int:
        """Approximate number of temporary floats in a gradient step, for the memory budget."""
        return 0

    def metrics(self) -> dict[str, Tensor]:
        """Means `[S]` since the last call."""
        return self.means.take()

    def parameters(self) -> dict[str, Tensor]:
        """All learned parameters by name, as views `[S, P]`. The target network of `NAME` is called `NAME_target`."""
        return {}

    def statistics(self) -> dict[str, Tensor]:
        """The entries of `parameters` that are running statistics: `NAME_mean`, `NAME_var` and `NAME_count`. They
        belong to the networks, but are not among `exchanged`."""
        return {}

    def exchanged(self) -> dict[str, Tensor]:
        """The parameters that an exchange may change: by default all but the running statistics."""
        statistics = self.statistics()
        return {name: values for name, values in self.parameters().items() if name not in statistics}

    def own_steps(self, transition: Transition) -> Tensor:
        """bool `[S]`: the member followed itself. An on-policy learner learns from these steps only."""
        own = [key.member for key in self.stream_keys]
        return transition.followed == torch.tensor(own, device=transition.followed.device)

    def load_parameters(self, parameters: dict[str, Tensor]) -> None:
        """Load parameters returned by `parameters`. Raises KeyError for a missing name, RuntimeError for another
        shape."""
        for name, values in self.parameters().items():
            values.copy_(parameters[name].view_as(values))

    def state(self) -> dict[str, Any]:
        """Everything that a resume needs: a nested dict of tensors, buffers and JSON-able values."""
        return {"parameters": self.parameters(), "active": self.active, "means": self.means.state()}

    def load_state(self, state: dict[str, Any]) -> None:
        """Continue from `state`."""
        self.load_parameters(state["parameters"])
        self.active.copy_(state["active"])
        self.means.load_state(state["means"], self.active)


def column(settings: Sequence[LearnerSettings], get: Callable[[Any], float], like: Tensor) -> Tensor:
    """A per-member setting as a tensor `[S, 1]`, with the device and dtype of `like`."""
    return torch.tensor([[float(get(s))] for s in settings], device=like.device, dtype=like.dtype)


def clip_column(settings: Sequence[LearnerSettings], like: Tensor) -> Tensor | None:
    """Maximum gradient norms `[S, 1]`, infinite for a setting of 0; None if it is 0 for all members."""
    if all(s.max_grad_norm == 0 for s in settings):
        return None
    return column(settings, lambda s: s.max_grad_norm or float("inf"), like)


class Means:
    """Running means `[S]` that stay on the device until they are logged."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.counts: dict[str, Any] = {}  # int, or [S] for means of some rows

    def add(self, name: str, value: Tensor, who: Tensor | None = None) -> None:
        """Add `value [S]`, of the rows `who [S]` (bool) alone if it is given."""
        value = value.detach() if who is None else torch.where(who, value.detach(), 0.0)
        self.sums[name] = self.sums[name] + value if name in self.sums else value
        self.counts[name] = self.counts.get(name, 0) + (1 if who is None else who.long())

    def state(self) -> dict[str, Any]:
        return {"sums": self.sums, "counts": self.counts}

    def load_state(self, state: dict[str, Any], like: Tensor) -> None:
        self.sums = {name: total.to(like.device) for name, total in state["sums"].items()}
        self.counts = {n: c.to(like.device) if isinstance(c, Tensor) else c for n, c in state["counts"].items()}

    def take(self) -> dict[str, Tensor]:
        counts = {n: c.clamp(min=1) if isinstance(c, Tensor) else c for n, c in self.counts.items()}
        means = {name: total / counts[name] for name, total in self.sums.items()}
        self.sums, self.counts = {}, {}
        return means


class BoxScale:
    """Scales actions between the environment's units and [-1, 1], which SAC and TD3 use."""

    def __init__(self, space: Space, device: torch.device | str, dtype: torch.dtype) -> None:
        assert space.low is not None and space.high is not None
        self.low = torch.as_tensor(space.low, device=device, dtype=dtype)
        self.high = torch.as_tensor(space.high, device=device, dtype=dtype)
        self.unit = bool((self.low == -1).all() and (self.high == 1).all())

    def to_env(self, actions: Tensor) -> Tensor:
        """From [-1, 1] to the environment's units. NaN, the output of a diverged network, becomes the middle of the
        box, so that it does not reach the environment or other members."""
        actions = actions.nan_to_num(0.0)
        return actions if self.unit else self.low + 0.5 * (actions + 1) * (self.high - self.low)

    def from_env(self, actions: Tensor) -> Tensor:
        """From the environment's units to [-1, 1]; values outside the box are clipped."""
        scaled = actions if self.unit else 2 * (actions - self.low) / (self.high - self.low) - 1
        return scaled.clamp(-1, 1)
