"""Peerage: groups of reinforcement-learning agents that learn from each other.

    import peerage

    run = peerage.train(env="Room-v21", n_peers=2, advisers=["expert"], total_timesteps=10_000)
    print(run.evaluations.groupby("step")["return"].mean())

Importing this is light; torch comes in with the first training.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import peerage.learners  # these three register what they hold
import peerage.sharing.exchanges
import peerage.trust  # noqa: F401

__version__ = "0.2.0"
__all__ = [
    "Adviser",
    "Config",
    "Run",
    "UserError",
    "load",
    "register_adviser",
    "register_expert",
    "register_features",
    "resume",
    "train",
]

if TYPE_CHECKING:
    from peerage.api import Run, load, resume, train
    from peerage.config import Config
    from peerage.envs.scripted import register_expert
    from peerage.errors import UserError
    from peerage.sharing.adviser import Adviser
    from peerage.sharing.advisers import register_adviser
    from peerage.trust.features import register_features

_WHERE = {
    "Adviser": "peerage.sharing.adviser",
    "Run": "peerage.api",
    "load": "peerage.api",
    "resume": "peerage.api",
    "train": "peerage.api",
    "Config": "peerage.config",
    "UserError": "peerage.errors",
    "register_adviser": "peerage.sharing.advisers",
    "register_expert": "peerage.envs.scripted",
    "register_features": "peerage.trust.features",
}


def __dir__() -> list[str]:
    return [*globals(), *_WHERE]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'peerage' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_WHERE[name]), name)
