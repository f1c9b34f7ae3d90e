"""Registers multilayer perceptrons as networks of learners. Their sizes are the setting `net_arch`."""

from __future__ import annotations

from peerage.config.methods import NETS, NetMethod

NETS.register(NetMethod("mlp", "peerage.nets.stacked:build_mlp", about="hidden layers (net_arch) with tanh"))
