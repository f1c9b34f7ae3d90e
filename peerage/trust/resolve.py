"""Settings of trust that depend on the environment. No torch."""

from __future__ import annotations

from peerage.config.methods import TRUST, loaded
from peerage.config.tree import Config, with_part
from peerage.envs.make import Spec


def resolve_trust(config: Config, spec: Spec) -> Config:
    """`config`, resolved, with those settings of its kind of trust filled in that depend on the environment."""
    method = TRUST[config.advice.trust or "td"]
    if method.resolve is None:
        return config
    return with_part(config, method.part, **loaded(method.resolve)(getattr(config, method.part), spec))
