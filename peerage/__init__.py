"""Peerage: groups of reinforcement-learning agents that learn from each other.

    import peerage

    run = peerage.train(env="Room-v21", n_peers=2, advisers=["expert"], total_timesteps=10_000)
    print(run.evaluations.groupby("step")["return"].mean())

`import peerage` is fast: each name below is imported on first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

import peerage.learners  # these four register the methods that they hold
import peerage.nets
import peerage.sharing.exchanges
import peerage.trust  # noqa: F401
from peerage.version import __version__

__all__ = [
    "Adviser",
    "Config",
    "Exchange",
    "Learner",
    "LearnerSettings",
    "Listener",
    "Run",
    "RunInfo",
    "Signal",
    "UserError",
    "__version__",
    "collect",
    "load",
    "load_data",
    "register_adviser",
    "register_batched_env",
    "register_exchange",
    "register_expert",
    "register_features",
    "register_learner",
    "register_trust",
    "resume",
    "train",
]

if TYPE_CHECKING:
    from peerage.api import Run, load, resume, train
    from peerage.config import Config
    from peerage.config.methods import LearnerSettings
    from peerage.config.register import register_exchange, register_learner, register_trust
    from peerage.envs.batched import register_batched_env
    from peerage.envs.scripted import register_expert
    from peerage.errors import UserError
    from peerage.evaluation.collect import collect
    from peerage.learners.base import Learner
    from peerage.offline.trajectories import load_data
    from peerage.runs.listeners import Listener, RunInfo
    from peerage.sharing.adviser import Adviser
    from peerage.sharing.advisers import register_adviser
    from peerage.sharing.exchanges.base import Exchange
    from peerage.trust.features import register_features
    from peerage.trust.signals import Signal

_MODULE_OF = {
    "Adviser": "peerage.sharing.adviser",
    "Run": "peerage.api",
    "load": "peerage.api",
    "load_data": "peerage.offline.trajectories",
    "resume": "peerage.api",
    "train": "peerage.api",
    "collect": "peerage.evaluation.collect",
    "Config": "peerage.config",
    "Exchange": "peerage.sharing.exchanges.base",
    "Learner": "peerage.learners.base",
    "LearnerSettings": "peerage.config.methods",
    "Listener": "peerage.runs.listeners",
    "RunInfo": "peerage.runs.listeners",
    "Signal": "peerage.trust.signals",
    "UserError": "peerage.errors",
    "register_adviser": "peerage.sharing.advisers",
    "register_batched_env": "peerage.envs.batched",
    "register_exchange": "peerage.config.register",
    "register_learner": "peerage.config.register",
    "register_trust": "peerage.config.register",
    "register_expert": "peerage.envs.scripted",
    "register_features": "peerage.trust.features",
}
"""Public name -> the module that defines it."""


def __dir__() -> list[str]:
    return [*globals(), *_MODULE_OF]


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'peerage' has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULE_OF[name]), name)
