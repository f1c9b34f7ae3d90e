"""Registers the Nature CNN as a network of learners. The layers after its encoder are the setting `net_arch`."""

from __future__ import annotations

from peerage.config.methods import NETS, NetMethod

NETS.register(
    NetMethod(
        "cnn",
        "peerage.nets.cnn:build_cnn",
        images=True,
        about="the convolutions of the Nature CNN, then hidden layers (net_arch); the default for images",
    )
)
