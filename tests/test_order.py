"""The order of what happens in a step, by exact numbers: choice, trust, learning, exchange.

Trust of step t is learned from the networks that the members have before they learn in step t. Updates are deferred,
so a wrong order would use later networks, and only an exact comparison shows it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor

from peerage.config import AdviceConfig, Config, LearnerConfig, RunConfig
from peerage.learners.streams import Streams
from peerage.sharing import choice
from peerage.training.trainer import Trainer

F64 = torch.float64
STEPS, BATCH, MEMORY, LR, START = 60, 4, 40, 0.3, 20.0
TRAIN_FREQ, EXCHANGE_FREQ = 5, 4

pytestmark = pytest.mark.usefixtures("one_thread")


def small(algorithm: str, exchange: tuple[str, ...] = ()) -> Config:
    """Two replicas of two members and an adviser. Members learn every 5 steps, and in between updates of trust are
    deferred, except at choices, every 7 steps; there can be an exchange every 4 steps."""
    return Config(
        env="Room-v6" if algorithm == "dqn" else "Pendulum-v1",
        n_peers=2,
        replicas=2,
        advisers=("random",),
        total_timesteps=STEPS,
        device="cpu",
        exchange=exchange,
        exchange_freq=EXCHANGE_FREQ,
        learner=LearnerConfig(
            algorithm=(algorithm,),
            learning_starts=(6,),
            batch_size=(8,),
            net_arch=((8,),),
            train_freq=(TRAIN_FREQ,),
            gradient_steps=(1,),
            learning_rate=(0.03,),
        ),
        advice=AdviceConfig(
            trust="td",
            choice="paper",
            follow_steps=7,
            lr=LR,
            trust_batch_size=BATCH,
            trust_buffer_size=MEMORY,
            init_trust_values=START,
            init_agent_values=START,
        ),
        run=RunConfig(eval_freq=0, verbose=0),
    )


@dataclass
class Networks:
    """What the members have learned before a step, stack by stack, and whose critics count in agent values `[M]`."""

    parameters: list[dict[str, Tensor]]
    sound: np.ndarray


def networks(trainer: Trainer) -> Networks:
    learners = [stack.learner for stack in trainer.group.stacks]
    copies = [{name: values.clone() for name, values in learner.parameters().items()} for learner in learners]
    return Networks(copies, trainer.group.active() | trainer.group.pretrained)


def advance(trainer: Trainer, steps: int) -> list[Networks]:
    """Make some steps; the networks before each of them."""
    before = []
    for _ in range(steps):
        before.append(networks(trainer))
        trainer.advance()
    return before


def by_hand(trainer: Trainer, twin: Trainer, before: list[Networks]) -> tuple[Tensor, Tensor]:
    """Trust `[M, K]` and agent values `[R, K]` after all steps, by Equations 4 to 8 written as loops. The update of a
    step uses the networks `before` it. `twin` is another trainer of the same configuration, to compute values with."""
    g, K = trainer.group, len(trainer.names)
    n_agents = max(1, BATCH // g.N)
    n = BATCH + n_agents
    samples, noise = Streams(g.stream_keys, "trust", (n,), "uniform"), None
    if g.noise_shape is not None:
        noise = Streams(g.stream_keys, "trust-noise", (n, g.noise_shape.width), "normal", dtype=F64)
    steps = g.recent_transitions(torch.arange(len(before) - 1, -1, -1).expand(g.M, -1))  # in their order
    trust = [[START] * K for _ in range(g.M)]
    agents = [[START] * K for _ in range(g.R)]
    everybody = torch.arange(g.M).unsqueeze(1)
    for step, now in enumerate(before, start=1):
        for stack, parameters in zip(twin.group.stacks, now.parameters, strict=True):
            stack.learner.load_parameters(parameters)
        available = np.minimum(step - g.learning_starts, MEMORY)  # [M]
        age = (samples.next() * torch.as_tensor(np.maximum(available, 1)).unsqueeze(1)).long()  # [M, n]
        drawn = [column[everybody, step - 1 - age] for column in steps]
        obs, _, rewards, next_obs, terminated, followed = drawn
        z = None if noise is None else noise.next()
        following = g.gamma() * (1 - terminated) * twin.group.state_value(next_obs, z)
        target = (rewards + following - twin.group.state_value(obs, z)).tolist()
        whom = followed.tolist()
        pools: list[list[list[float]]] = [[[] for _ in range(K)] for _ in range(g.R)]
        for m in range(g.M):
            if available[m] < BATCH:
                continue
            for j in range(K):
                own = [target[m][b] for b in range(BATCH) if whom[m][b] == j]
                if own:
                    trust[m][j] += LR * (sum(own) / len(own) - trust[m][j])
            for b in range(BATCH, n):
                if now.sound[m]:
                    pools[m // g.N][whom[m][b]].append(target[m][b])
        for r in range(g.R):
            for j in range(K):
                if pools[r][j]:
                    agents[r][j] += LR * (sum(pools[r][j]) / len(pools[r][j]) - agents[r][j])
    return torch.tensor(trust, dtype=F64), torch.tensor(agents, dtype=F64)


def same(trainer: Trainer, expected: tuple[Tensor, Tensor]) -> bool:
    """Are trust and agent values those `expected`, but for rounding?"""
    seen = trainer.sharing.signals["td"].report()
    found = seen["trust_td"], seen["agent_value"][:: trainer.N]
    return all(torch.allclose(x, y, rtol=1e-9, atol=1e-9) for x, y in zip(found, expected, strict=True))


@pytest.mark.parametrize("exchange", [(), ("average",)])
@pytest.mark.parametrize("algorithm", ["dqn", "sac", "td3"])
def test_trust_is_learned_from_the_networks_before_learning_and_exchange(begin, algorithm, exchange):
    config = small(algorithm, exchange)
    trainer, twin = begin(config, dtype=F64), begin(config, dtype=F64)
    assert trainer.sharing.signals["td"].max_deferred > TRAIN_FREQ  # updates are really deferred until then
    before = advance(trainer, STEPS)
    assert same(trainer, by_hand(trainer, twin, before))
    # The networks after learning, or after the exchange, give other numbers
    after = [*before[1:], networks(trainer)]
    for freq in (TRAIN_FREQ, EXCHANGE_FREQ)[: 1 + len(exchange)]:
        late = [after[t] if (t + 1) % freq == 0 else before[t] for t in range(STEPS)]
        assert not same(trainer, by_hand(trainer, twin, late))


@pytest.mark.parametrize("why", ["diverged", "pretrained"])
def test_agent_values_ignore_the_critic_of_a_diverged_member(begin, why):
    """From the step after its update was not finite. A pretrained member does not learn either, but it counts."""
    config = small("dqn")
    trainer, twin = begin(config, dtype=F64), begin(config, dtype=F64)
    learner = trainer.group.stacks[0].learner
    before = advance(trainer, 22)
    if why == "diverged":
        learner.replay.data[1, :, -2] = math.nan  # rewards: its next gradient, in step 25, is not finite
    else:
        trainer.group.pretrained[1], learner.active[1] = True, False
    before += advance(trainer, STEPS - 22)
    assert trainer.group.active().tolist() == [True, False, True, True]
    changed = [t for t in range(STEPS) if not before[t].sound[1]]
    assert changed == (list(range(25, STEPS)) if why == "diverged" else [])
    assert same(trainer, by_hand(trainer, twin, before))
    for now in before:  # the opposite rule
        now.sound = np.array([True, why == "diverged", True, True])
    assert not same(trainer, by_hand(trainer, twin, before))


def test_temperature_falls_at_the_first_step_of_every_epoch(begin, monkeypatch):
    """Epochs of 4 steps: T = T0 in steps 1 to 4, T0 exp(-decay) in 5 to 8, T0 exp(-2 decay) in 9 to 12."""
    chances = []

    def pick(p, uniform):
        chances.append(p)
        return original(p, uniform)

    original = choice.pick
    monkeypatch.setattr(choice, "pick", pick)
    advice = AdviceConfig(
        trust="td", choice="paper", follow_steps=1, temperature=(0.5, 2.0), temperature_decay=(0.7, 0.1)
    )
    config = Config(
        env="Room-v6", n_peers=2, advisers=("random",), total_timesteps=13, epoch_length=4, device="cpu",
        learner=LearnerConfig(learning_starts=(0,), batch_size=(2,), net_arch=((4,),)), advice=advice,
        run=RunConfig(eval_freq=0, verbose=0),
    )  # fmt: skip
    trainer = begin(config, dtype=F64)
    for step in range(1, 14):
        trainer.advance()
        scores = trainer.sharing.last["score"]
        epoch = [0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3][step - 1]
        temperature = torch.tensor([[0.5 * math.exp(-0.7 * epoch)], [2.0 * math.exp(-0.1 * epoch)]], dtype=F64)
        expected = torch.softmax(scores / temperature, dim=1)
        torch.testing.assert_close(chances[step - 1], expected, rtol=1e-12, atol=1e-12)
        assert (scores.std(dim=1) > 1e-3).all()  # equal scores would hide the temperature
    assert len(chances) == 13
