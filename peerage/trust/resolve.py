"""Settings of trust that depend on the environment. No torch."""

from __future__ import annotations

from peerage.config.methods import TRUST, loaded
from peerage.config.tree import Config, with_part
from peerage.envs.make import Spec


def resolve_trust(config: Config, spec: Spec) -> Config:
    """Fill in the settings of the kind of trust that depend on the environment. `config` has its other defaults
    filled in already (`learners.defaults.resolve`)."""
    if config.advice.trust is None:
        return config
    method = TRUST[config.advice.trust]
    if method.resolve is None:
        return config
    return with_part(config, method.part, **loaded(method.resolve)(getattr(config, method.part), spec))
