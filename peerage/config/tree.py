"""The configuration: one tree of frozen dataclasses, light to import (no torch, no Gymnasium).

`Config()` holds what the user said; `None` means "not said". What is not said is filled in by
`learners.defaults.resolve` once the environment and the algorithm are known, and the resolved tree is
what `config.yaml` holds. `step` means environment steps *per member* everywhere.

Settings of the learners are tuples: one value for all members, or one for each.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

Algorithm = Literal["auto", "dqn", "sac", "td3"]
Choice = Literal["standardised", "paper", "greedy", "uniform"]
EvalMode = Literal["alone", "together"]


@dataclass(frozen=True)
class LearnerConfig:
    """Settings of the learning algorithms, with Stable-Baselines3's names.

    Every field is a tuple with one value for all members or one value per member (`n_peers` of them).
    An empty tuple takes the algorithm's default (`peerage.learners.defaults`).
    """

    algorithm: tuple[Algorithm, ...] = ("auto",)
    """dqn (Discrete actions), sac or td3 (Box actions); auto: sac for Box, dqn for Discrete."""
    learning_rate: tuple[float, ...] = ()
    """Adam's step size, of actors, critics and entropy coefficients. Typical: 1e-4 to 1e-3."""
    batch_size: tuple[int, ...] = ()
    """Transitions per gradient step. Typical: 32 to 512."""
    buffer_size: tuple[int, ...] = ()
    """Transitions that the replay buffer of a member holds; cut to `total_timesteps`."""
    learning_starts: tuple[int, ...] = ()
    """Steps of uniformly random actions before learning and advice begin."""
    train_freq: tuple[int, ...] = ()
    """Environment steps between two rounds of gradient steps."""
    gradient_steps: tuple[int, ...] = ()
    """Gradient steps in a round."""
    tau: tuple[float, ...] = ()
    """Soft update of the target networks: target += tau (online - target). 1 copies."""
    gamma: tuple[float, ...] = ()
    """Discount factor, in [0, 1]."""
    net_arch: tuple[tuple[int, ...], ...] = ()
    """Hidden layers of every network of a member; written 256,256 on the command line."""
    target_update_interval: tuple[int, ...] = ()
    """SAC: gradient steps, DQN: environment steps between two updates of the target network."""
    exploration_fraction: tuple[float, ...] = ()
    """DQN: share of the run over which epsilon falls from 1 to its final value."""
    exploration_final_eps: tuple[float, ...] = ()
    """DQN: epsilon after that."""
    action_noise: tuple[float, ...] = ()
    """TD3: standard deviation of the exploration noise, as a share of half the action range."""
    use_sde: tuple[bool, ...] = ()
    """SAC: state-dependent exploration (gSDE)."""
    log_std_init: tuple[float, ...] = ()
    """SAC with gSDE: initial log standard deviation."""
    ent_coef: tuple[str, ...] = ()
    """SAC: `auto`, `auto_0.1` (automatic, with that start) or a fixed number."""
    max_grad_norm: tuple[float, ...] = ()
    """Gradient-norm clipping per member; 0 switches it off. Stable-Baselines3 clips DQN at 10."""
    load_paths: tuple[str, ...] = ()
    """Pretrained members: `RUN[:member]` of ours or an SB3 zip, or `none`. A loaded member acts and
    advises but does not learn."""


@dataclass(frozen=True)
class AdviceConfig:
    """How members learn from each other (arXiv 2312.09950; the equations are in docs/methods)."""

    sharing: Literal["advice", "none"] = "advice"
    """advice: peer learning. none: every member for itself."""
    trust: Literal["td", "transformer", "hybrid", "in-context"] | None = None
    """How the trust term is computed, by default as the `choice` does. td: temporal differences (Eq. 4, 5);
    transformer: the reward that a transformer predicts if the adviser had been followed; hybrid: both,
    weighted by confidence; in-context: what a transformer over past decisions expects of following the
    adviser now."""
    choice: Choice = "standardised"
    """How scores become a choice. standardised: ours; paper: Eq. 9 and 2; greedy: epsilon-greedy on the
    scores; uniform: random advice."""
    use_trust: bool = True
    """The trust term v^T (Eq. 4, 5), one value per asker and adviser; without it the critic and agent values
    are on by default."""
    use_agent_values: bool | None = None
    """The agent-value term v^A (Eq. 6, 7), one value per adviser, shared by the group; by default on, but off
    beside in-context trust, which has learned from the whole group already."""
    use_critic: bool | None = None
    """The critic term v^C (Eq. 3): the asker's own Q of each suggestion; by default as use_agent_values."""
    use_advantage: bool = True
    """Trust and agent values of advantages instead of returns (Eq. 8)."""
    follow_steps: int = 10
    """Steps that a member follows an adviser before it chooses again. Typical: 1 to 100."""
    follow_across_episodes: bool = False
    """Let the count of follow_steps run on over the end of an episode, as the paper does; otherwise a new
    episode forces a new choice."""
    switch_ratio: int = 0
    """Peer epochs per solo epoch, in which everybody follows itself; 0: no solo epochs."""
    max_peer_epochs: int | None = None
    """Advice only in the first so many epochs, then everybody follows itself; by default in all."""
    only_follow_others: bool = False
    """Never choose oneself."""
    sample_with_noise: bool = True
    """Other members suggest what they would do while exploring (SAC: a sample), not their mean action."""
    epsilon: float | None = None
    """Share of choices that are uniform, whatever the scores say, 0 to 1; by default the one of the `choice`."""
    self_share: float | None = None
    """Share of choices that a member keeps for itself, whatever the scores say, so that it learns to stand alone;
    by default the one of the `choice`. 0 to 1."""
    temperature: tuple[float, ...] = ()
    """Temperature of the softmax over the scores (Eq. 2); one value, or one per member; by default the
    one of the `choice`."""
    temperature_decay: tuple[float, ...] = (0.0,)
    """T = T0 exp(-decay * epoch); one value, or one per member."""
    lr: float | None = None
    """alpha of trust and agent values (Eq. 5, 7), in (0, 1]; by default the one of the `choice`."""
    init_trust_values: float = 200.0
    """Trust of every pair at the start."""
    init_agent_values: float = 200.0
    """Agent value of every adviser at the start."""
    trust_buffer_size: int = 1000
    """Last transitions with the adviser followed, from which trust is estimated."""
    trust_batch_size: int = 10
    """Transitions per update of trust; agent values take max(1, this // N) of every member."""
    byzantine_members: tuple[str, ...] = ()
    """Members that answer others with something else than they would do: MEMBER:sign-flip, MEMBER:random,
    MEMBER:noise[:SCALE] (docs/robustness.md)."""
    shuffle_advisers: bool = False
    """Every replica has the fixed advisers in an order of its own, so that no place in the group means
    anything."""


@dataclass(frozen=True)
class AttentionConfig:
    """The trust transformer over the last steps (trust: transformer or hybrid; docs/methods/transformer-trust.md)."""

    use_phase_aware: bool = False
    """Let the attention depend on the phase of the task (a family of features has phases, or none)."""
    features: str = "auto"
    """Family of features: auto (by environment), lunarlander, hopper, walker2d, ant, room, generic, or a
    name registered with `peerage.register_features`."""
    attention_lr: float = 1e-5
    """Adam's learning rate of the trust transformer."""
    attention_update_freq: int = 20
    """Steps between its gradient steps."""
    attention_batch_size: int = 32
    """Windows in a gradient step."""
    sequence_length: int = 50
    """Steps in a window, 2 to 200."""
    attention_history: int = 10_000
    """Steps of its history that a member keeps."""
    warmup_steps: int = 500_000
    """Steps over which the transformer's weight in the hybrid rises to its limit."""
    max_attention_weight: float = 0.5
    """That limit, 0 to 1."""
    wiring: Literal["causal", "seed"] = "causal"
    """causal: a step sees itself and the past, and predictions cannot see their own reward; seed: as published,
    in both directions."""
    lagged_rewards: bool = True
    """Features describe rewards before the step whose reward is predicted; off: as published, with it."""


@dataclass(frozen=True)
class ContextConfig:
    """In-context trust: a transformer over the group's last decisions (docs/methods/in-context-trust.md)."""

    context_length: int = 100
    """Decisions in a window, the query included. Typical: 30 to 200."""
    context_history: int = 2000
    """Decisions that a member keeps."""
    context_lr: float = 1e-3
    """Adam's learning rate."""
    context_update_freq: int = 20
    """Steps between gradient steps."""
    context_batch_size: int = 32
    """Windows in a gradient step, per replica."""
    context_estimator: Literal["both", "kernel", "transformer"] = "both"
    """kernel: means over past decisions in similar states; transformer: learned alone; both: the transformer
    corrects the kernel."""
    context_critics: bool = True
    """Let it see what the askers' critics say of all suggestions, now and in past decisions."""
    context_identity: bool = False
    """Let it see who the candidate is, so that it can remember names."""
    context_hide_identity: float = 0.5
    """Share of the training windows in which names are hidden all the same, 0 to 1."""


@dataclass(frozen=True)
class RunConfig:
    """Where the run goes and what it says on the way."""

    exp_name: str | None = None
    """Name of the run folder; by default made of environment, algorithm, group size and seed."""
    log_dir: str = "experiments"
    """Folder that holds the run folders."""
    overwrite: bool = False
    """Replace an existing run folder."""
    eval_freq: int = 5000
    """Steps between evaluations on separate environments; 0: never."""
    n_eval_episodes: int = 10
    """Episodes of every member in an evaluation."""
    eval_modes: tuple[EvalMode, ...] = ("alone",)
    """Ways to evaluate the members. alone: each by itself, without advice; together: the group with advice, where
    neither members nor trust learn. Reports and comparisons use the episodes alone."""
    success: Literal["last", "any"] = "last"
    """An episode succeeds if the environment reports success in its last step, or in any step of it."""
    log_freq: int = 500
    """Steps between rows of metrics.csv and advice.csv."""
    checkpoint_freq: int = 50_000
    """Steps between checkpoints; 0: only at the beginning and the end."""
    keep_checkpoints: int = 2
    """The newest so many checkpoints stay on the disk, at least 1."""
    use_tensorboard: bool = False
    """Write the metrics for TensorBoard as well."""
    use_wandb: bool = False
    """Send the metrics to Weights & Biases as well."""
    wandb_project: str = "peerage"
    """Project there."""
    verbose: int = 1
    """0: silent; 1: progress; 2: every event."""


@dataclass(frozen=True)
class Config:
    """Everything about one training."""

    env: str = "LunarLander-v3"
    """A Gymnasium id with flat Box observations and Box or Discrete actions (`peerage envs`)."""
    env_args: dict[str, Any] = field(default_factory=dict)
    """Arguments of the environment's constructor, `name=value`."""
    perturb: dict[str, Any] = field(default_factory=dict)
    """Disturb the training, not its evaluations: observation_noise, action_noise, sticky_actions, action_delay,
    dropped_advice, and what the environment can change (gravity, mass_scale, ...) as a value or a range LOW..HIGH drawn
    anew per episode (docs/robustness.md)."""
    n_peers: int = 4
    """Learners in the group, 1 to 64."""
    advisers: tuple[str, ...] = ()
    """Fixed advisers: expert, adversary, random, constant[:ACTION], negated:ADVISER,
    checkpoint:PATH[:MEMBER]; to put trust to the proof turncoat, convert, regional:a, regional:b,
    noise:[SCALE:]ADVISER, sign-flip:ADVISER, colluding[:NAME]; or a name registered with `peerage.register_adviser`."""
    replicas: int = 1
    """Independent copies of the whole group, each with another seed: the unit of statistics."""
    seed: int = 0
    """Fixes every random draw of the run."""
    total_timesteps: int | None = None
    """Environment steps of every member; by default n_epochs * epoch_length, which it beats."""
    n_epochs: int = 100
    """Length of the run in epochs."""
    epoch_length: int = 1000
    """Steps in an epoch, the clock of temperature decay, switch_ratio and max_peer_epochs."""
    device: str = "auto"
    """cpu, cuda, cuda:N, or auto: a GPU where there is one."""
    threads: int | None = None
    """CPU threads of torch; by default chosen by network size (docs/performance.md)."""
    learner: LearnerConfig = field(default_factory=LearnerConfig)
    advice: AdviceConfig = field(default_factory=AdviceConfig)
    attention: AttentionConfig = field(default_factory=AttentionConfig)
    context: ContextConfig = field(default_factory=ContextConfig)
    run: RunConfig = field(default_factory=RunConfig)

    @property
    def steps(self) -> int:
        """Environment steps of every member."""
        return self.n_epochs * self.epoch_length if self.total_timesteps is None else self.total_timesteps


PARTS: dict[str, type] = {
    "": Config,
    "learner": LearnerConfig,
    "advice": AdviceConfig,
    "attention": AttentionConfig,
    "context": ContextConfig,
    "run": RunConfig,
}
"""The tree: the name of each part ("" is the top), no field name in two of them."""


def changed(config: Config, changes: Mapping[str, Mapping[str, Any]]) -> Config:
    """`config` with other values in its parts: part -> field -> value."""
    parts = {part: replace(getattr(config, part), **changes.get(part, {})) for part in PARTS if part}
    return replace(config, **parts, **changes.get("", {}))


RESUMABLE = ("checkpoint_freq", "keep_checkpoints", "use_tensorboard", "use_wandb", "wandb_project", "verbose")
"""Fields of `RunConfig` that may be others when a run goes on: nothing that is trained or logged depends on them."""
HARDWARE_FIELDS = ("device", "threads")
"""Fields of `Config` that may be others as well: the run goes on, but not bit for bit."""
FREE = {"exp_name", "log_dir", "overwrite", *RESUMABLE, *HARDWARE_FIELDS}
"""All that two configurations of one training need not have in common."""
