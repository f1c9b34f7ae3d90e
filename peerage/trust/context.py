"""The arguments from which a kind of trust is built."""

from __future__ import annotations

from typing import NamedTuple

from peerage.config import Config
from peerage.envs.make import Spec
from peerage.learners.group import Group
from peerage.trust.suggestions import SuggestionTrust


class TrustContext(NamedTuple):
    """The configuration, the group, and the signals that the kind of trust `needs`."""

    config: Config
    group: Group
    spec: Spec
    n_advisers: int
    """K: members and fixed advisers."""
    total_steps: int
    td: SuggestionTrust | None
    """Trust by temporal differences, for a kind that `needs` it."""
