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
    advice = config.advice
    reads = advice.choice in choice.RULES and n_advisers > 1
    trust = advice.trust if reads and advice.use_trust else "td"
    signals: dict[str, Signal] = {}
    if reads and (advice.use_agent_values or (advice.use_trust and trust in ("td", "hybrid"))):
        signals["td"] = td = SuggestionTrust(
            advice, group, n_advisers, learns_trust=trust in ("td", "hybrid"), enters=trust == "td"
        )
    if trust in ("transformer", "hybrid"):
        from peerage.trust.hybrid import TransformerTrust

        mixed_with = td if trust == "hybrid" else None
        signals[trust] = TransformerTrust(config.attention, group, spec, n_advisers, total_steps, mixed_with)
    if trust == "in-context":
        from peerage.trust.in_context import InContextTrust

        signals[trust] = InContextTrust(
            config.context,
            group,
            n_advisers,
            seed=config.seed,
            follow_steps=advice.follow_steps,
            total_steps=total_steps,
        )
    return signals
