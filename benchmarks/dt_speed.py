"""CPU time of the Decision Transformer beside Hugging Face's: gradient steps, batches, and acting.

    python -m benchmarks.dt_speed [--rounds 5] [--write-docs]

Both train the same network (K 20, batch 64, 128-3-1, 17 observations, 6 actions, dropout 0.1) in one process on one
thread. They alternate, and each number is the smallest CPU time over rounds, so other load affects both alike.

The batches beside ours are those of the published example of Hugging Face ("Train your first Decision Transformer"): a
Python loop over the windows, which reads each episode from an Arrow table as lists, as the library `datasets` does, and
computes returns-to-go from the rewards each time. Acting beside ours is the loop of
the same example, one episode at a time.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow
import torch
from transformers import DecisionTransformerConfig, DecisionTransformerModel

from benchmarks.trust_probes import with_part
from peerage.learners.base import Space
from peerage.learners.dt import DT
from peerage.learners.dt_settings import DTSettings
from peerage.learners.streams import StreamKey
from peerage.nets import workers
from peerage.nets.gpt import Sequences
from peerage.nets.gpt_settings import GPTSettings
from peerage.offline.episodes import Episode
from peerage.offline.trajectories import Trajectories, trajectories

DOCS = Path(__file__).parent.parent / "docs" / "methods" / "decision-transformer.md"
OBS, ACT, K, BATCH, STEPS, EPISODES, PLAYED = 17, 6, 20, 64, 1000, 40, 50


def make_data() -> Trajectories:
    rng = np.random.default_rng(0)
    episodes = [
        Episode(rng.normal(size=(STEPS + 1, OBS)), rng.uniform(-1, 1, (STEPS, ACT)), rng.normal(size=STEPS), False)
        for _ in range(EPISODES)
    ]
    return trajectories(episodes, low=-np.ones(ACT, np.float32), high=np.ones(ACT, np.float32))


class Ours:
    def __init__(self, data: Trajectories, precision: Literal["float32", "bf16"]) -> None:
        one = np.ones(ACT, np.float32)
        gpt = GPTSettings(max_ep_len=STEPS, precision=precision)
        settings = DTSettings("dt", net_settings=gpt, batch_size=BATCH)
        self.learner = DT([settings], [StreamKey(0, 0, 0)], Space(OBS, ACT, 0, -one, one), 10**6, data=data)
        found = self.learner.windows.sample(torch.arange(BATCH).unsqueeze(0) * 7)
        self.batch = Sequences(*found)
        self.contexts = self.learner.conditioned(PLAYED)
        self.contexts.begin(np.arange(PLAYED), 100.0)
        rng = np.random.default_rng(1)
        self.obs = rng.normal(size=(PLAYED, OBS)).astype(np.float32)
        for _ in range(K):
            self._observe(np.zeros((PLAYED, ACT), np.float32))

    def _observe(self, actions: np.ndarray) -> None:
        self.contexts.observe(self.obs, actions, np.zeros(PLAYED), np.zeros(PLAYED, bool))

    def step(self) -> None:
        self.learner.update(self.batch, 10**5)

    def batch_and_step(self) -> None:
        self.learner.learn(10**5)

    def act(self) -> None:
        self._observe(self.contexts.act(self.obs))
        self.contexts.lengths[:] = K


class HuggingFace:
    def __init__(self, data: Trajectories) -> None:
        config = DecisionTransformerConfig(
            state_dim=OBS, act_dim=ACT, max_ep_len=STEPS, bos_token_id=None, eos_token_id=None
        )
        self.data, self.model, self.rng = data, DecisionTransformerModel(config), np.random.default_rng(0)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-4, weight_decay=1e-4)
        self.lengths = data.lengths / data.lengths.sum()
        self.table = pyarrow.table({
            name: [column[begin:end].tolist() for begin, end in pairwise(data.starts)]
            for name, column in (("observations", data.obs), ("actions", data.actions), ("rewards", data.rewards))
        })  # fmt: skip
        self.batch = self.collate()
        torch.manual_seed(0)
        self.window = [torch.randn(1, K, size) for size in (OBS, ACT, 1)]

    def step(self) -> None:
        self.train(self.batch)

    def batch_and_step(self) -> None:
        self.train(self.collate())

    def train(self, batch: tuple[torch.Tensor, ...]) -> None:
        states, actions, rtg, timesteps, mask = batch
        self.model.train()
        self.optimizer.zero_grad()
        found = self.model(
            states=states, actions=actions, rewards=rtg, returns_to_go=rtg, timesteps=timesteps, attention_mask=mask
        ).action_preds
        ((found - actions)[mask > 0]).square().mean().backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 0.25)
        self.optimizer.step()

    def collate(self) -> tuple[torch.Tensor, ...]:
        """The batch of the published example: padded at the start, with returns-to-go computed for each window."""
        data, columns = self.data, [list[np.ndarray]() for _ in range(5)]
        for episode in self.rng.choice(data.episodes, BATCH, p=self.lengths):
            row = {name: column[0] for name, column in self.table.slice(episode, 1).to_pydict().items()}
            first = int(self.rng.integers(len(row["rewards"]) - 1))
            rewards = np.array(row["rewards"])
            states = np.array(row["observations"][first : first + K]).reshape(1, -1, OBS)
            actions = np.array(row["actions"][first : first + K]).reshape(1, -1, ACT)
            n = states.shape[1]
            timesteps = np.arange(first, first + n).reshape(1, -1)
            rest = rewards[first:]
            to_go = np.zeros_like(rest)
            to_go[-1] = rest[-1]
            for t in reversed(range(len(rest) - 1)):
                to_go[t] = rest[t] + to_go[t + 1]
            to_go = to_go[:n].reshape(1, -1, 1)
            for column, part, fill in (
                (columns[0], states, 0.0), (columns[1], actions, -10.0), (columns[2], to_go / 1000, 0.0),
            ):  # fmt: skip
                column.append(np.concatenate([np.full((1, K - n, part.shape[2]), fill), part], axis=1))
            columns[3].append(np.concatenate([np.zeros((1, K - n)), timesteps], axis=1))
            columns[4].append(np.concatenate([np.zeros((1, K - n)), np.ones((1, n))], axis=1))
        states, actions, rtg, timesteps, mask = (torch.from_numpy(np.concatenate(column)) for column in columns)
        return states.float(), actions.float(), rtg.float(), timesteps.long(), mask.long()

    @torch.no_grad()
    def act(self) -> None:
        self.model.eval()
        states, actions, rtg = self.window
        timesteps, mask = torch.arange(K).unsqueeze(0), torch.ones(1, K, dtype=torch.long)
        for _ in range(PLAYED):
            self.model(
                states=states, actions=actions, rewards=rtg, returns_to_go=rtg, timesteps=timesteps, attention_mask=mask
            )


WORK = {
    "gradient step": "step",
    "batch and gradient step": "batch_and_step",
    f"acting, one step of {PLAYED} episodes": "act",
}


def seconds(call: Callable[[], None]) -> float:
    start = time.process_time()
    call()
    return time.process_time() - start


def measure(rounds: int) -> dict[str, list[float]]:
    """What -> CPU milliseconds of Hugging Face, of Peerage, and of Peerage in bfloat16."""
    torch.set_num_threads(1)
    workers.configure(1)
    torch.set_num_threads(1)
    data = make_data()
    sides = HuggingFace(data), Ours(data, "float32"), Ours(data, "bf16")
    found = {}
    for what, name in WORK.items():
        calls = [getattr(side, name) for side in sides]
        for call in calls:
            call()  # the first calls prepare kernels and memory
        times = [[seconds(call) for call in calls] for _ in range(rounds)]
        found[what] = [1000 * min(column) for column in zip(*times)]
    return found


def table(found: dict[str, list[float]]) -> list[str]:
    lines = ["| CPU milliseconds (and share) | Hugging Face | Peerage | Peerage, bf16 |", "| --- | --: | --: | --: |"]
    for what, (theirs, *ours) in found.items():
        cells = [f"{theirs:.0f}", *(f"{each:.0f} ({each / theirs:.2f})" for each in ours)]
        lines.append(f"| {what} | {' | '.join(cells)} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--write-docs", action="store_true", help=f"write the table to {DOCS.name}")
    args = parser.parse_args()
    lines = table(measure(args.rounds))
    print("\n".join(lines))
    if args.write_docs:
        DOCS.write_text(with_part(DOCS.read_text(encoding="utf-8"), "speed", lines), encoding="utf-8")


if __name__ == "__main__":
    main()
