"""Trust by temporal differences has its settings in the part `advice`: agent values share them."""

from __future__ import annotations

from peerage.config.methods import TRUST, TrustMethod

TRUST.register(
    TrustMethod("td", "peerage.trust.suggestions:make_td_trust", columns={"trust_td": "trust by temporal differences"})
)
