"""Which signals a configuration asks for."""

from __future__ import annotations

from peerage.config import Config
from peerage.envs.make import Spec
from peerage.learners.group import Group
from peerage.sharing import choice
from peerage.trust.signals import Signal
from peerage.trust.suggestions import SuggestionTrust


def make_signals(config: Config, spec: Spec, group: Group, n_advisers: int, total_steps: int) -> dict[str, Signal]:
    """The signals of a group with `n_advisers` advisers, the critic aside, by name."""
    reads = config.advice.choice in choice.RULES and n_advisers > 1
    td = SuggestionTrust(config.advice, group, n_advisers, reads=reads, enters=config.advice.trust == "td")
    return {"td": td}
