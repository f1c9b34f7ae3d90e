"""What a learner's settings are when the user has not said: our defaults for each algorithm, without torch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from peerage.config import AdviceConfig, AttentionConfig, Config, ContextConfig, LearnerConfig
from peerage.errors import UserError


@dataclass(frozen=True)
class Settings:
    """The resolved settings of one member; the fields are explained at `peerage.config.LearnerConfig`."""

    algorithm: str
    learning_rate: float
    batch_size: int
    buffer_size: int
    learning_starts: int
    train_freq: int
    gradient_steps: int
    tau: float
    gamma: float
    net_arch: tuple[int, ...]
    target_update_interval: int
    exploration_fraction: float
    exploration_final_eps: float
    action_noise: float
    use_sde: bool
    log_std_init: float
    ent_coef: str
    max_grad_norm: float
    load_paths: str

    @property
    def stack_key(self) -> tuple[Any, ...]:
        """Members with equal keys can live in one stack: the rest is a column per member."""
        return (
            self.algorithm,
            self.net_arch,
            self.batch_size,
            self.buffer_size,
            self.learning_starts,
            self.train_freq,
            self.gradient_steps,
            self.target_update_interval,
            self.use_sde,
            self.ent_coef.startswith("auto"),
        )


_COMMON = Settings(
    algorithm="dqn",
    learning_rate=5e-4,
    batch_size=128,
    buffer_size=100_000,
    learning_starts=500,
    train_freq=4,
    gradient_steps=4,
    tau=1.0,
    gamma=0.99,
    net_arch=(64, 64),
    target_update_interval=250,
    exploration_fraction=0.1,
    exploration_final_eps=0.05,
    action_noise=0.1,
    use_sde=False,
    log_std_init=-3.0,
    ent_coef="auto",
    max_grad_norm=10.0,
    load_paths="none",
)
_ACTOR_CRITIC = replace(
    _COMMON,
    learning_rate=3e-4,
    batch_size=256,
    buffer_size=1_000_000,
    learning_starts=1_000,
    train_freq=1,
    gradient_steps=1,
    tau=0.005,
    net_arch=(256, 256),
    target_update_interval=1,
    max_grad_norm=0.0,
)
DEFAULTS: dict[str, Settings] = {
    "dqn": _COMMON,
    "sac": replace(_ACTOR_CRITIC, algorithm="sac"),
    "td3": replace(_ACTOR_CRITIC, algorithm="td3"),
}
"""By algorithm. SAC and TD3 are Stable-Baselines3's but for 1,000 random steps at the start instead of 100 and TD3's
exploration noise; DQN's were chosen by trials on Room-v21 (docs/methods/dqn.md)."""

ADVICE_DEFAULTS: dict[str, dict[str, Any]] = {
    "paper": {"trust": "td", "temperature": 1.0, "lr": 0.001, "epsilon": 0.0, "self_share": 0.0},
    "standardised": {"trust": "in-context", "temperature": 0.1, "lr": 0.05, "epsilon": 0.03, "self_share": 0.1},
    "greedy": {"trust": "td", "temperature": 1.0, "lr": 0.05, "epsilon": 0.05, "self_share": 0.0},
    "uniform": {"trust": "td", "temperature": 1.0, "lr": 0.05, "epsilon": 0.0, "self_share": 0.0},
}
"""By `choice`, where the user has not said: the kind of trust, softmax temperature, learning rate of trust, share of
uniform choices and of choices a member keeps for itself. Measured on Room-v21: docs/methods/peer-learning.md."""


_ONLY = {  # settings that not every algorithm has
    "exploration_fraction": ("dqn",),
    "exploration_final_eps": ("dqn",),
    "action_noise": ("td3",),
    "use_sde": ("sac",),
    "log_std_init": ("sac",),
    "ent_coef": ("sac",),
}


def fits(setting: str, algorithm: str) -> bool:
    """Does `algorithm` (or `auto`, which may become any) read this setting?"""
    return algorithm == "auto" or algorithm in _ONLY.get(setting, (algorithm,))


def member_settings(config: Config, discrete: bool) -> list[Settings]:
    """The settings of members 0 ... n_peers-1. Raises UserError for an algorithm unfit for the actions."""
    learner = config.learner
    members = []
    for i in range(config.n_peers):
        algorithm = one(learner.algorithm, i, "algorithm", config.n_peers)
        if algorithm == "auto":
            algorithm = "dqn" if discrete else "sac"
        if algorithm not in DEFAULTS:
            raise UserError(f"unknown algorithm {algorithm!r}: use {', '.join(DEFAULTS)} or auto")
        if (algorithm == "dqn") != discrete:
            space, fit = ("Discrete", "dqn") if discrete else ("Box", "sac or td3")
            raise UserError(f"{algorithm} does not fit {config.env}, whose actions are {space}: use --algorithm {fit}")
        given = {
            f.name: one(getattr(learner, f.name), i, f.name, config.n_peers)
            for f in fields(LearnerConfig)
            if f.name != "algorithm" and getattr(learner, f.name)
        }
        members.append(replace(DEFAULTS[algorithm], algorithm=algorithm, **given))
    return members


def one(values: Sequence[Any], member: int, name: str, n_peers: int) -> Any:
    """The value for `member` of a setting with one value for all or one for each."""
    if len(values) not in (1, n_peers):
        flag = "--" + name.replace("_", "-")
        raise UserError(f"{flag} has {len(values)} values for {n_peers} members: give one, or one for each")
    return values[0] if len(values) == 1 else values[member]


def resolve(config: Config, discrete: bool) -> Config:
    """The configuration with every default filled in: what `config.yaml` holds and a run is made of.

    A setting that is the same for all members is written once.
    """
    members = member_settings(config, discrete)
    columns: dict[str, Any] = {}
    for f in fields(LearnerConfig):
        values = tuple(getattr(m, f.name) for m in members)
        columns[f.name] = values[:1] if len(set(values)) == 1 else values
    return replace(
        config, total_timesteps=config.steps, learner=LearnerConfig(**columns), advice=resolve_advice(config.advice)
    )


def refuse_idle_trust(advice: AdviceConfig, given: Iterable[str]) -> None:
    """UserError if one of the settings that were `given` by name belongs to another kind of trust than `advice` has."""
    resolved = resolve_advice(advice)
    trust = f"--trust {resolved.trust}" if advice.sharing == "advice" else "--sharing none"
    for name in given:
        flag = "--" + name.replace("_", "-")
        if name in AttentionConfig.__dataclass_fields__ and resolved.trust not in ("transformer", "hybrid"):
            raise UserError(f"{flag} is for --trust transformer or hybrid, but this is {trust}")
        if name in ContextConfig.__dataclass_fields__ and trust != "--trust in-context":
            raise UserError(f"{flag} is for --trust in-context, but this is {trust}")


def resolve_advice(advice: AdviceConfig) -> AdviceConfig:
    """`advice` with the defaults of its `choice` filled in."""
    missing: Any = {
        name: (value,) if name == "temperature" else value
        for name, value in ADVICE_DEFAULTS[advice.choice].items()
        if getattr(advice, name) in (None, ())
    }
    unread = not advice.use_trust or advice.choice == "uniform"
    if unread and advice.trust not in (None, "td"):
        why = "--choice uniform" if advice.choice == "uniform" else "--no-use-trust"
        raise UserError(f"--trust {advice.trust} with {why}: nobody would read it; leave one of the two out")
    if unread:
        missing["trust"] = "td"
    resolved = replace(advice, **missing)
    # The other signals add nothing to in-context trust (docs/results/transformer-trust.md)
    beside = resolved.trust != "in-context" or not resolved.use_trust
    for name in ("use_critic", "use_agent_values"):
        if getattr(resolved, name) is None:
            missing[name] = beside
    resolved = replace(resolved, **missing)
    # What the user gave of the two shares leaves less for the default of the other.
    if advice.self_share is None:
        resolved = replace(resolved, self_share=min(resolved.self_share or 0.0, 1 - (resolved.epsilon or 0.0)))
    elif advice.epsilon is None:
        resolved = replace(resolved, epsilon=min(resolved.epsilon or 0.0, 1 - advice.self_share))
    return resolved
