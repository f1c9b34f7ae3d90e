"""Compares the CPU time of two checkouts of Peerage, case by case.

    python -m benchmarks.bench_commits OLD NEW                    all cases, five rounds, about 20 minutes
    python -m benchmarks.bench_commits OLD NEW --only room-dqn/1  one case
    python -m benchmarks.bench_commits OLD NEW --rounds 3 --out FILE.json

The cases are those of `benchmarks.bench`. Each measurement is a process that trains through `peerage.train` and reads
the CPU time of the process between two logs, so that the checkouts may differ in their internals. Checkouts alternate
(old, new, new, old, ...): other load on the machine affects both. A ratio above 1 means that NEW is slower; the table
gives the median of the ratios of each round and their range.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

DQN: dict[str, Any] = {
    "algorithm": "dqn", "net_arch": (64, 64), "learning_rate": 5e-4, "buffer_size": 100_000, "train_freq": 4,
    "gradient_steps": 1, "target_update_interval": 250, "learning_starts": 100,
}  # fmt: skip
ADVICE = {"sharing": "advice", "trust": "td", "use_critic": True, "use_agent_values": True}


def cases() -> dict[str, dict[str, Any]]:
    """Name -> settings of `peerage.train`, with `from` and `to`: the steps between which CPU time is measured."""
    found: dict[str, dict[str, Any]] = {
        "hopper-sac/4": {
            "env": "Hopper-v4", "n_peers": 4, "algorithm": "sac", "net_arch": (256, 256), "buffer_size": 100_000,
            "learning_starts": 50, **ADVICE, "from": 100, "to": 300,
        },
        "lunarlander-dqn/4": {
            "env": "LunarLander-v3", "n_peers": 4, **DQN, "batch_size": 128, **ADVICE, "from": 500, "to": 3500,
        },
    }  # fmt: skip
    for n in (1, 2, 4, 8, 16, 32, 64):
        steps = 6000 if n <= 4 else 3000 if n <= 16 else 1500
        found[f"room-dqn/{n}"] = {
            "env": "Room-v21", "n_peers": n, **DQN, "batch_size": 64, **ADVICE, "from": 500, "to": 500 + steps,
        }  # fmt: skip
    for trust in ("td", "hybrid", "in-context"):
        for name, config, n, steps in (
            ("lunarlander", "seed-hybrid-lunarlander", 4, 1200),
            ("hopper", "seed-hybrid-hopper", 4, 200),
            ("room", "seed-hybrid-room-v21", 4, 1200),
            ("room", "seed-hybrid-room-v21", 16, 600),
        ):
            found[f"{name}-{trust}/{n}"] = {
                "config": config, "n_peers": n, "trust": trust, "learning_starts": 100, "from": 200, "to": 200 + steps,
            }  # fmt: skip
    return found


TRAIN = """
import json, os, sys, time
import peerage
from peerage.runs import Listener

case, place, per_member = json.loads(sys.argv[1]), sys.argv[2], sys.argv[3].split()
first, last = case.pop("from"), case.pop("to")

class Clock(Listener):
    def on_metrics(self, step, rows):
        if step == first:
            self.began = time.process_time()
        if step == last:
            print((time.process_time() - self.began) / (last - first), flush=True)
            os._exit(0)

settings = {name: (value,) if name in per_member else value for name, value in case.items()}
peerage.train(listeners=[Clock()], log_dir=place, exp_name="run", total_timesteps=100_000, threads=1, device="cpu",
              eval_freq=0, checkpoint_freq=0, log_freq=first, verbose=0, **settings)
"""
PER_MEMBER = [*DQN, "batch_size"]
"""Settings of learners, which are tuples in Python."""


def measure(checkout: Path, case: dict[str, Any]) -> float:
    """CPU microseconds per member and step."""
    threads = {f"{library}_NUM_THREADS": "1" for library in ("OMP", "MKL", "OPENBLAS", "NUMEXPR")}
    environment = {**os.environ, **threads, "PYTHONPATH": str(checkout.resolve()), "CUDA_VISIBLE_DEVICES": ""}
    with tempfile.TemporaryDirectory() as place:
        words = [sys.executable, "-W", "ignore", "-c", TRAIN, json.dumps(case), place, " ".join(PER_MEMBER)]
        done = subprocess.run(words, capture_output=True, text=True, env=environment, cwd=place)
    if done.returncode:
        raise SystemExit(f"{checkout}: {done.stderr.strip().splitlines()[-1:]}")
    return 1e6 * float(done.stdout) / int(case["n_peers"])


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Compare the CPU time of two checkouts of Peerage.")
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    parser.add_argument("--only", nargs="*", choices=[*cases()], help="measure these cases")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, help="write the measurements to this JSON file")
    given = parser.parse_args(arguments)
    chosen = {name: case for name, case in cases().items() if not given.only or name in given.only}
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in chosen}
    for number in range(given.rounds):
        for name, case in chosen.items():
            order = [given.old, given.new] if number % 2 == 0 else [given.new, given.old]
            times = {checkout: measure(checkout, dict(case)) for checkout in order}
            found[name].append((times[given.old], times[given.new]))
            if given.out:
                given.out.write_text(json.dumps(found, indent=1))
            print(f"round {number + 1}, {name}: {times[given.old]:.0f} and {times[given.new]:.0f} us", flush=True)
    print("\n| case | old, us | new, us | new / old | range |\n| --- | --- | --- | --- | --- |")
    for name, pairs in found.items():
        ratios = sorted(new / old for old, new in pairs)
        old, new = (median(column) for column in zip(*pairs))
        print(f"| {name} | {old:.0f} | {new:.0f} | {median(ratios):.3f} | {ratios[0]:.2f} to {ratios[-1]:.2f} |")


if __name__ == "__main__":
    main()
