"""Trust by temporal differences. Its settings are in the part `advice`, because agent values share them."""

from __future__ import annotations

from peerage.config.methods import TRUST, TrustMethod

TRUST.register(
    TrustMethod(
        "td",
        "peerage.trust.build:make_td_trust",
        about="temporal differences (Eq. 4, 5)",
        needs=("td",),
        columns={"trust_td": "trust (TD)"},
    )
)
