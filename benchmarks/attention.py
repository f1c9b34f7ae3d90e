"""Measures what attention networks cost compared with a 64-64 tanh perceptron: forward and backward passes.

    python -m benchmarks.attention               8 networks, 256 samples, some seconds; prints a table
    python -m benchmarks.attention --rows 1      one network

All cases are measured in one process on one thread, in turn, by CPU time. A time is the shortest of all rounds, because
other load on the machine can only add to it; so ratios are comparable from run to run, times are not.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from peerage.nets import workers
from peerage.nets.attention_net import StackedAttention, Window
from peerage.nets.attention_settings import AttentionSettings
from peerage.nets.stacked import StackedMLP

OUT = 2
FEATURES = 4
WINDOW = Window(8, obs=FEATURES, act=2, reward=1)
BASE = "64-64 tanh perceptron"
CASES: dict[str, AttentionSettings] = {
    "features, pooling alone": AttentionSettings(n_layers=0),
    "features, self-attention and pooling": AttentionSettings(),
    "history of 8 steps, present alone": AttentionSettings("history", n_layers=0),
    "history of 8 steps, self-attention": AttentionSettings("history"),
    "history of 8 steps, self-attention and gates": AttentionSettings("history", gate=True),
    "both, 8 steps, present alone": AttentionSettings("both", n_layers=0),
    "set of 4 sensors, pooling alone": AttentionSettings("set", n_layers=0),
}


def passes(rows: int, batch: int) -> dict[str, Callable[[], None]]:
    """For each case a function that computes one forward and backward pass of `rows` networks."""
    nets: dict[str, StackedMLP | StackedAttention] = {
        BASE: StackedMLP(rows, (FEATURES, 64, 64, OUT), activation="tanh")
    }
    for name, settings in CASES.items():
        window = WINDOW if settings.tokens in ("history", "both") else None
        inputs = FEATURES if window is None else window.length * window.width
        nets[name] = StackedAttention(rows, inputs, OUT, settings, window=window)
    return {name: _pass(net, rows, batch) for name, net in nets.items()}


def _pass(net: StackedMLP | StackedAttention, rows: int, batch: int) -> Callable[[], None]:
    net.init_([np.random.default_rng(row) for row in range(rows)])
    inputs = net.sizes[0] if isinstance(net, StackedMLP) else net.inputs
    x: Tensor = torch.randn(rows, batch, inputs)
    pull = torch.randn(rows, batch, OUT)

    def compute() -> None:
        _, backward = net.tape(x)
        backward(pull)

    return compute


def measure(rows: int, batch: int, rounds: int) -> dict[str, float]:
    """Seconds of CPU time of one pass of each case."""
    cases = passes(rows, batch)
    best = dict.fromkeys(cases, float("inf"))
    for _ in range(rounds):
        for name, compute in cases.items():
            compute()  # its memory and caches
            start = time.process_time()
            compute()
            best[name] = min(best[name], time.process_time() - start)
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=8, help="networks")
    parser.add_argument("--batch", type=int, default=256, help="samples of each network")
    parser.add_argument("--rounds", type=int, default=40, help="rounds of all cases")
    given = parser.parse_args()
    workers.configure(1)
    found = measure(given.rows, given.batch, given.rounds)
    print(f"{given.rows} networks, {given.batch} samples, forward and backward")
    print(f"{'network':<46} {'ms':>7} {'ratio':>6}")
    for name, seconds in found.items():
        print(f"{name:<46} {seconds * 1e3:>7.2f} {seconds / found[BASE]:>6.1f}")


if __name__ == "__main__":
    main()
