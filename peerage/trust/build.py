"""Which signals a configuration asks for."""

from __future__ import annotations

from peerage.config import Config
from peerage.config.methods import TRUST
from peerage.envs.make import Spec
from peerage.learners.group import Group
from peerage.trust.context import TrustContext
from peerage.trust.signals import Signal
from peerage.trust.suggestions import SuggestionTrust


def make_signals(config: Config, spec: Spec, group: Group, n_advisers: int, total_steps: int) -> dict[str, Signal]:
    """The signals of a group with `n_advisers` advisers, the critic aside, by name."""
    advice = config.advice
    if advice.choice == "uniform" or n_advisers < 2:
        return {}  # no choice reads values
    method = TRUST[advice.trust if advice.use_trust and advice.trust else "td"]
    uses_td = method.name == "td" or "td" in method.needs
    signals: dict[str, Signal] = {}
    td: SuggestionTrust | None = None
    if advice.use_agent_values or (advice.use_trust and uses_td):
        td = SuggestionTrust(advice, group, n_advisers, learns_trust=uses_td, enters=method.name == "td")
        signals["td"] = td
    if method.name != "td":
        mixed_with = td if "td" in method.needs else None
        context = TrustContext(config, group, spec, n_advisers, total_steps, mixed_with)
        signals[method.name] = method.load()(context)
    return signals
