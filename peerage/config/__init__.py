"""The configuration: the tree of dataclasses, its YAML, checks, command-line flags and presets."""

from typing import Any

from peerage.config.tree import (
    FREE,
    HARDWARE_FIELDS,
    RESUMABLE,
    AdviceConfig,
    Choice,
    Config,
    RunConfig,
    Setting,
    changed,
    learner_part,
    parts,
    settings,
    with_part,
    with_settings,
)

__all__ = [
    "FREE",
    "HARDWARE_FIELDS",
    "RESUMABLE",
    "AdviceConfig",
    "Choice",
    "Config",
    "LearnerConfig",
    "RunConfig",
    "Setting",
    "changed",
    "learner_part",
    "parts",
    "settings",
    "with_part",
    "with_settings",
]


def __getattr__(name: str) -> Any:
    if name == "LearnerConfig":  # built from the currently registered learners
        return learner_part()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
