"""Builds the signals of a configuration."""

from __future__ import annotations

from peerage.config import Config
from peerage.config.methods import LEARNERS, TRUST
from peerage.envs.make import Spec
from peerage.errors import UserError
from peerage.learners.group import Group
from peerage.trust.context import TrustContext
from peerage.trust.signals import Signal
from peerage.trust.suggestions import SuggestionTrust


def make_signals(config: Config, spec: Spec, group: Group, n_advisers: int, total_steps: int) -> dict[str, Signal]:
    """The signals of a group with `n_advisers` advisers, without the critic, by name.

    `config` has its defaults filled in. Trust by temporal differences and agent values are one signal, `td`, because
    they share the sampled transitions. Raises UserError if the kind of trust needs Q-functions that members lack, or
    reports a column that it was not registered with.
    """
    advice = config.advice
    if advice.choice == "uniform" or n_advisers < 2:
        return {}  # choices do not depend on values
    assert advice.trust is not None
    method = TRUST[advice.trust] if advice.use_trust else None
    needs = () if method is None else method.needs
    if "action_value" in needs and not group.has_action_value:
        without = next(s.algorithm for s in group.settings if not LEARNERS[s.algorithm].has_action_value)
        raise UserError(f"--trust {advice.trust} needs Q-functions, and {without} has none: use another kind of trust")
    signals: dict[str, Signal] = {}
    td: SuggestionTrust | None = None
    if advice.use_agent_values or "td" in needs:
        td = SuggestionTrust(advice, group, n_advisers, learns_trust="td" in needs, is_component=False)
        signals["td"] = td
    if method is not None:
        context = TrustContext(config, group, spec, n_advisers, total_steps, td if "td" in needs else None)
        signal = method.load()(context)
        if signal is not td:
            if unknown := signal.report().keys() - {*method.columns, *method.asker_columns}:
                column = min(unknown)
                raise UserError(f"--trust {method.name} reports {column!r}: register it as a column of advice.csv")
            signals[method.name] = signal
    return signals


def make_td_trust(context: TrustContext) -> SuggestionTrust:
    """Trust by temporal differences as the trust term of the choice: the signal that other kinds read, too."""
    assert context.td is not None
    context.td.is_component = True
    return context.td
