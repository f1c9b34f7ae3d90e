"""The configuration: the tree of dataclasses, its YAML, checks, command-line flags and presets."""

from peerage.config.tree import (
    FREE,
    HARDWARE_FIELDS,
    PARTS,
    RESUMABLE,
    AdviceConfig,
    Algorithm,
    AttentionConfig,
    Choice,
    Config,
    ContextConfig,
    LearnerConfig,
    RunConfig,
    changed,
)

__all__ = [
    "FREE",
    "HARDWARE_FIELDS",
    "PARTS",
    "RESUMABLE",
    "AdviceConfig",
    "Algorithm",
    "AttentionConfig",
    "Choice",
    "Config",
    "ContextConfig",
    "LearnerConfig",
    "RunConfig",
    "changed",
]
