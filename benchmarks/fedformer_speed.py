"""CPU time of one update of a member with FedFormer's critics, beside torch modules in a loop and plain SAC.

    python -m benchmarks.fedformer_speed [--rounds 5] [--write-docs]

Settings are those of the preset `fedformer-small` on a task of Meta-World; all members have been heard of. Contenders
alternate in one process on one thread, and each number is the smallest CPU time over rounds, so other load affects all
alike. The loop has one set of torch modules for each member, with `torch.nn.TransformerEncoder` and one optimizer per
network. The floor is the time of the matrix products alone, at the rate of a large float32 product.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from copy import deepcopy
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from benchmarks.trust_probes import with_part
from peerage.config.file import load
from peerage.config.tree import Config
from peerage.envs.metaworld import ACT, OBS
from peerage.learners.base import Space
from peerage.learners.critics import N_CRITICS, TwinCritic
from peerage.learners.defaults import member_settings, resolve
from peerage.learners.fedformer_critic import DEPTH, FedFormerCritic
from peerage.learners.replay import Batch
from peerage.learners.sac import SAC
from peerage.learners.streams import StreamKey
from peerage.nets import workers

DOCS = Path(__file__).parent.parent / "docs" / "methods" / "fedformer.md"
OURS = "Peerage, {n} members"
LOOP, PLAIN = "torch modules in a loop, {n} members", "Peerage's SAC without exchange, {n} members"


class Ours:
    """`n` members of Peerage; `exchange`: with FedFormer's critics."""

    def __init__(self, config: Config, n: int, *, exchange: bool = True) -> None:
        one = np.ones(ACT, np.float32)
        critic = partial(FedFormerCritic, settings=config.fedformer, n_peers=n) if exchange else TwinCritic
        settings: Any = [member_settings(config, False)[0]] * n
        keys = [StreamKey(0, 0, i) for i in range(n)]
        self.learner = SAC(settings, keys, Space(OBS, ACT, 0, -one, one), 10**6, critic=critic)
        if isinstance(self.learner.critic, FedFormerCritic):
            self.learner.critic.received.copy_(self.learner.critic.encoders)
            self.learner.critic.heard.fill_(True)
        self.batch, self.noise = data(n, settings[0].batch_size)

    def __call__(self) -> None:
        self.learner.update(self.batch, self.noise)


def data(n: int, size: int) -> tuple[Batch, Tensor]:
    """A batch of `n` members, and the noise of an update."""
    generator = torch.Generator().manual_seed(0)
    draw = partial(torch.randn, generator=generator)
    obs, actions, next_obs = draw(n, size, OBS), draw(n, size, ACT).tanh(), draw(n, size, OBS)
    batch = Batch(obs, actions, torch.cat((obs, actions), 2), draw(n, size), next_obs, torch.zeros(n, size))
    return batch, draw(n, 2, size, ACT)


def mlp(*sizes: int) -> nn.Sequential:
    layers = [layer for a, b in pairwise(sizes) for layer in (nn.Linear(a, b), nn.ReLU())]
    return nn.Sequential(*layers[:-1])


class Critic(nn.Module):
    """One Q-function of one member, as in the paper. `received`: an encoder of every member, frozen."""

    def __init__(self, config: Config, me: int, received: list[nn.Module]) -> None:
        super().__init__()
        of, self.me = config.fedformer, me
        width = of.fedformer_width
        self.encoder = mlp(OBS + ACT, *[width] * (DEPTH + 1))
        self.others = [encoder for j, encoder in enumerate(received) if j != me]
        self.cls = nn.Parameter(torch.zeros(1, width))
        self.position = nn.Parameter(torch.zeros(len(received) + 1, width))
        layer = nn.TransformerEncoderLayer(
            width, of.fedformer_heads, of.fedformer_hidden, dropout=0.0, batch_first=True
        )
        self.transformer = nn.TransformerEncoder(layer, of.fedformer_layers, enable_nested_tensor=False)
        self.decoder = mlp(2 * width, *[width] * DEPTH, 1)

    def forward(self, x: Tensor) -> Tensor:
        own = self.encoder(x)
        encoded = [encoder(x) for encoder in self.others]
        encoded.insert(self.me, own)
        z = torch.stack([self.cls.expand(len(x), -1), *encoded], dim=1) + self.position
        q: Tensor = self.decoder(torch.cat((self.transformer(z)[:, 0], own), dim=1))[:, 0]
        return q


class Member:
    """SAC with FedFormer's critics in plain torch."""

    def __init__(self, config: Config, me: int, received: list[list[nn.Module]]) -> None:
        settings: Any = member_settings(config, False)[0]
        self.gamma, self.tau = settings.gamma, settings.tau
        self.actor = mlp(OBS, *settings.net_arch, 2 * ACT)
        self.critics = nn.ModuleList(Critic(config, me, received[k]) for k in range(N_CRITICS))
        self.targets = nn.ModuleList(Critic(config, me, received[k]) for k in range(N_CRITICS))
        self.targets.load_state_dict(self.critics.state_dict())
        self.log_alpha = nn.Parameter(torch.zeros(1))
        adam = partial(torch.optim.Adam, lr=settings.learning_rate)
        self.of_actor, self.of_critics = adam(self.actor.parameters()), adam(self.critics.parameters())
        self.of_alpha = adam([self.log_alpha])

    def act(self, obs: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_std = self.actor(obs).chunk(2, dim=1)
        log_std = log_std.clamp(-20, 2)
        actions = (mean + log_std.exp() * noise).tanh()
        log_prob = -0.5 * noise**2 - log_std - 0.5 * np.log(2 * np.pi) - (1 - actions**2 + 1e-6).log()
        return actions, log_prob.sum(dim=1)

    def update(self, batch: Batch, noise: Tensor, i: int) -> None:
        obs, next_obs, alpha = batch.obs[i], batch.next_obs[i], self.log_alpha.exp().detach()
        actions, log_prob = self.act(obs, noise[i, 0])
        self.of_alpha.zero_grad()
        (-(self.log_alpha * (log_prob.detach() - ACT)).mean()).backward()
        self.of_alpha.step()
        with torch.no_grad():
            next_actions, next_log_prob = self.act(next_obs, noise[i, 1])
            x = torch.cat((next_obs, next_actions), dim=1)
            value = torch.stack([target(x) for target in self.targets]).amin(dim=0) - alpha * next_log_prob
            wanted = batch.rewards[i] + self.gamma * (1 - batch.terminated[i]) * value
        self.of_critics.zero_grad()
        sum(0.5 * mse_loss(critic(batch.obs_actions[i]), wanted) for critic in self.critics).backward()
        self.of_critics.step()
        self.critics.requires_grad_(False)
        x = torch.cat((obs, actions), dim=1)
        self.of_actor.zero_grad()
        (alpha * log_prob - torch.stack([critic(x) for critic in self.critics]).amin(dim=0)).mean().backward()
        self.of_actor.step()
        self.critics.requires_grad_(True)
        with torch.no_grad():
            ours, theirs = list(self.targets.parameters()), list(self.critics.parameters())
            torch._foreach_lerp_(ours, theirs, self.tau)


class Loop:
    """`n` members in plain torch, one after another."""

    def __init__(self, config: Config, n: int) -> None:
        sizes = (OBS + ACT, *[config.fedformer.fedformer_width] * (DEPTH + 1))
        first = [[mlp(*sizes).requires_grad_(False) for _ in range(n)] for _ in range(N_CRITICS)]
        received: Any = deepcopy(first)
        self.members = [Member(config, i, received) for i in range(n)]
        self.batch, self.noise = data(n, member_settings(config, False)[0].batch_size)

    def __call__(self) -> None:
        for i, member in enumerate(self.members):
            member.update(self.batch, self.noise, i)


def update_flops(config: Config, n: int) -> float:
    """Floating-point operations of the matrix products in one update of one of `n` members, with one query in the last
    layer and without keys and values of single tokens there; a multiplication with addition counts as two.

    A part of a critic is evaluated three times: at s' by the targets, at s with gradients, and at s with the gradient
    of the actions. Each gradient takes as much as an evaluation.
    """
    of, settings = config.fedformer, member_settings(config, False)[0]
    d, heads, tokens = of.fedformer_width, of.fedformer_heads, n + 1
    first, encoder = (OBS + ACT) * d, (OBS + ACT) * d + DEPTH * d * d
    feed_forward, projections = 2 * d * of.fedformer_hidden, 4 * d * d
    last = projections + d * d + 2 * heads * tokens * d + feed_forward  # query, folded keys, values, output
    other = tokens * (projections + 2 * tokens * d + feed_forward)
    decoder = 2 * d * d + (DEPTH - 1) * d * d + d
    own = last + (of.fedformer_layers - 1) * other + decoder
    critic = 6 * own + 6 * encoder - first + (n - 1) * 4 * encoder  # the others' encoders have no gradients of weights
    sizes = (OBS, *settings.net_arch, 2 * ACT)
    products = [a * b for a, b in pairwise(sizes)]
    actor = 4 * sum(products) - products[0]
    return float(2 * settings.batch_size * (N_CRITICS * critic + actor))


def peak() -> float:
    """Floating-point operations per second of CPU time of a large float32 product."""
    a = torch.randn(512, 512)
    best = float("inf")
    for _ in range(20):
        start = time.process_time()
        for _ in range(5):
            a @ a
        best = min(best, time.process_time() - start)
    return 5 * 2 * 512**3 / best


def measure(config: Config, sizes: tuple[int, int], rounds: int) -> tuple[dict[str, float], float]:
    """Seconds of CPU time per update of a member, by contender, and those of the floor for the smaller group."""
    small, large = sizes
    contenders: dict[str, tuple[Callable[[], None], int]] = {
        OURS.format(n=small): (Ours(config, small), small),
        OURS.format(n=large): (Ours(config, large), large),
        LOOP.format(n=small): (Loop(config, small), small),
        PLAIN.format(n=small): (Ours(config, small, exchange=False), small),
    }
    best, fastest = dict.fromkeys(contenders, float("inf")), 0.0
    for n in range(rounds + 1):  # the first is a warm-up
        fastest = max(fastest, peak())
        for name, (update, members) in contenders.items():
            start = time.process_time()
            update()
            seconds = (time.process_time() - start) / members
            best[name] = min(best[name], seconds) if n else best[name]
    return best, update_flops(config, small) / fastest


def table(seconds: dict[str, float], floor: float) -> list[str]:
    ours = next(iter(seconds.values()))
    lines = ["| an update of one member | CPU time (ms) | relative |", "| --- | --: | --: |"]
    for name, value in {**seconds, "floor (matrix products alone)": floor}.items():
        lines.append(f"| {name} | {1000 * value:.1f} | {value / ours:.2f} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fedformer_speed", description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--write-docs", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    workers.configure(1)
    lines = table(*measure(resolve(load("fedformer-small"), False), (5, 10), args.rounds))
    print("\n".join(lines))
    if args.write_docs:
        DOCS.write_text(with_part(DOCS.read_text(encoding="utf-8"), "speed", lines), encoding="utf-8")


if __name__ == "__main__":
    main()
