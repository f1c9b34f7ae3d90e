"""Measures how well a trust transformer predicts rewards, for both wirings, with lagged and with current rewards.

    python -m benchmarks.trust_prediction                             some minutes on one core; prints a table
    python -m benchmarks.trust_prediction --steps 900 --updates 20    a quick test

Two DQN members learn with the scripted expert, the published settings and TD trust, and their steps are recorded.
Phase-aware transformers are trained on the first three quarters of the steps as in a group (32 windows of 50 steps per
update). The last quarter is held out. The columns of the table are:

mse      squared error of the predictions of single rewards r_t
steps    explained share of the variance of r_t, 1 - mse / variance
windows  explained share of the variance of the mean reward of a window, which v_attn estimates
spread   standard deviation of v_attn over the advisers, relative to that of r_t
expert   share of windows in which v_attn is largest for the expert; at random: 0.33

An explained share below 0 is worse than predicting the held-out mean.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

MEMBERS, ADVISERS, WINDOW, HELD_OUT = 2, 3, 50, 0.25
PRESETS = {"LunarLander-v3": "seed-td-lunarlander", "Room-v21": "seed-td-room-v21"}
WAYS = [("causal", True), ("causal", False), ("seed", True), ("seed", False)]


def record(env: str, steps: int) -> tuple[Any, list[np.ndarray]]:
    """Train a group and record its steps. Returns the environment's spec and obs, action, reward, adviser, first, each
    `[M, steps, ...]`."""
    from peerage.config import changed
    from peerage.config.file import load
    from peerage.training.trainer import Trainer

    run = {"n_peers": MEMBERS, "advisers": ("expert",), "total_timesteps": steps, "device": "cpu"}
    learner = {"learning_starts": (200,), "exploration_fraction": (0.5,)}
    trainer = Trainer(changed(load(PRESETS[env]), {"": run, "learner": learner}))
    followed, first = [], []
    trainer.begin()
    for _ in range(steps):
        first.append(trainer.first)
        trainer.advance()
        followed.append(trainer.sharing.followed.copy())  # type: ignore[union-attr]
    age = torch.arange(steps - 1, -1, -1).expand(MEMBERS, -1)
    kept = trainer.group.stacks[0].learner.replay.recent(age)  # `group.recent` keeps fewer steps
    trainer.close()
    actions = kept.actions[..., 0].long()
    stored = [x.numpy() for x in (kept.obs, actions, kept.rewards)]
    return trainer.spec, [*stored, np.stack(followed, axis=1), np.stack(first, axis=1)]


def measure(
    spec: Any, columns: list[np.ndarray], wiring: Any, lagged: bool, lr: float, updates: int
) -> list[float]:
    """Means over members of mse, steps, windows, spread and expert (see the module's docstring)."""
    from peerage.learners.streams import StreamKey
    from peerage.trust.attention import AttentionTrust
    from peerage.trust.features import make_features

    maker = make_features("auto", spec, MEMBERS, ADVISERS, lagged)
    features, phases = maker.extend(*columns)
    rewards, first = columns[2], columns[4]
    steps = rewards.shape[1]
    learned = steps - int(HELD_OUT * steps)
    stream_keys = [StreamKey(0, 0, m) for m in range(MEMBERS)]
    trust = AttentionTrust(
        stream_keys, maker.width, maker.adviser, ADVISERS, maker.n_phases, lr=lr, wiring=wiring, capacity=steps
    )
    trust.append(features[:, :learned], phases[:, :learned], rewards[:, :learned], first[:, :learned])
    for _ in range(updates):
        trust.train()

    asked = []
    for start in range(learned, steps - WINDOW + 1, WINDOW):  # v_attn as computed during a training
        part = slice(start, start + WINDOW)
        trust.append(features[:, part], phases[:, part], rewards[:, part], first[:, part])
        asked.append(trust.values())
    values = torch.stack(asked)  # [windows, M, K]
    ends = torch.arange(0, WINDOW * len(asked), WINDOW).expand(MEMBERS, -1)
    windows, r = trust.history.windows(ends, WINDOW)
    predicted, on = trust.model.predict(windows), windows.valid
    found = []
    for m in range(MEMBERS):
        real, guess = r[m][on[m]], predicted[m][on[m]]
        mse = (real - guess).square().mean()
        count = on[m].sum(dim=1)
        of_window, guessed = ((x[m] * on[m]).sum(dim=1) / count for x in (r, predicted))
        explained = 1 - (of_window - guessed).square().mean() / of_window.var(correction=0)
        apart = values[:, m].std(dim=1, correction=0).mean() / real.std()
        expert = (values[:, m].argmax(dim=1) == ADVISERS - 1).double().mean()
        found.append([mse, 1 - mse / real.var(correction=0), explained, apart, expert])
    return torch.tensor(found).mean(dim=0).tolist()


def table(envs: Sequence[str], steps: int, updates: int, rates: Sequence[float]) -> str:
    lines = [
        "| environment | learning rate | wiring | rewards in features | mse | steps | windows | spread | expert |",
        "| --- | --- | --- | --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for env in envs:
        spec, columns = record(env, steps)
        for lr in rates:
            for wiring, lagged in WAYS:
                mse, each, windows, spread, expert = measure(spec, columns, wiring, lagged, lr, updates)
                which = "before the step" if lagged else "the step's own"
                numbers = f"{mse:.3g} | {each:.3f} | {windows:.3f} | {spread:.2g} | {expert:.2f}"
                lines.append(f"| {env} | {lr:g} | {wiring} | {which} | {numbers} |")
                print(lines[-1], flush=True)
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.trust_prediction")
    parser.add_argument("--env", nargs="+", choices=list(PRESETS), default=list(PRESETS))
    parser.add_argument("--steps", type=int, default=8000, help="steps per member (default 8000)")
    parser.add_argument("--updates", type=int, default=400, help="updates (default 400, as in 8000 steps)")
    parser.add_argument("--lr", type=float, nargs="+", default=[1e-5, 1e-3], help="learning rates (default 1e-5 1e-3)")
    args = parser.parse_args(arguments)
    if args.steps * HELD_OUT < 2 * WINDOW:
        parser.error(f"--steps must be at least {round(2 * WINDOW / HELD_OUT)}, so that two windows are held out")
    torch.set_num_threads(1)
    print("\n" + table(args.env, args.steps, args.updates, args.lr))


if __name__ == "__main__":
    main()
