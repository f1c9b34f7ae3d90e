"""The configuration: one tree of frozen dataclasses, light to import (no torch, no Gymnasium).

`Config()` holds what the user gave; `None` means "not given". `learners.defaults.resolve` fills in the defaults once
the environment and the algorithm are known, and `config.yaml` holds the resolved tree. `step` means environment steps
*per member* everywhere.

The tree has parts. `learner`, `advice` and `run` are always there; every registered kind of trust and every exchange
can have a part with its own settings (`peerage.config.methods`). `parts()` lists them, `settings()` lists all fields.
Fields of `learner` are tuples: one value for all members, or one value per member.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, make_dataclass, replace
from typing import Any, Literal

from peerage.config.fields import docs, hints, intervals, limited, one_of
from peerage.config.methods import EXCHANGES, LEARNERS, TRUST, ExchangeMethod, LearnerSettings, Registry, TrustMethod
from peerage.errors import UserError, nearest

Choice = Literal["standardised", "paper", "greedy", "uniform"]
EvalMode = Literal["alone", "together"]


@dataclass(frozen=True)
class AdviceConfig:
    """How members learn from each other (arXiv 2312.09950; the equations are in docs/methods)."""

    sharing: Literal["advice", "none"] = "advice"
    """advice: peer learning. none: every member for itself."""
    trust: str | None = one_of(None, TRUST)
    """How the trust term is computed; by default as the `choice` does."""
    choice: Choice = "standardised"
    """How scores become a choice. standardised: ours; paper: Eq. 9 and 2; greedy: epsilon-greedy on the
    scores; uniform: random advice."""
    use_trust: bool = True
    """The trust term v^T (Eq. 4, 5), one value per asker and adviser; without it the critic and agent values
    are on by default."""
    use_agent_values: bool | None = None
    """The agent-value term v^A (Eq. 6, 7), one value per adviser, shared by the group; by default on, except
    beside kinds of trust that learn from the whole group themselves."""
    use_critic: bool | None = None
    """The critic term v^C (Eq. 3): the asker's own Q of each suggestion; by default as use_agent_values."""
    use_advantage: bool = True
    """Trust and agent values of advantages instead of returns (Eq. 8)."""
    follow_steps: int = limited(10, "[1, inf)")
    """Steps that a member follows an adviser before it chooses again. Typical: 1 to 100."""
    follow_across_episodes: bool = False
    """Let the count of follow_steps run on over the end of an episode, as the paper does; otherwise a new
    episode forces a new choice."""
    switch_ratio: int = limited(0, "[0, inf)")
    """Peer epochs per solo epoch, in which everybody follows itself; 0: no solo epochs."""
    max_peer_epochs: int | None = limited(None, "[0, inf)")
    """Advice only in the first so many epochs, then everybody follows itself; by default in all."""
    only_follow_others: bool = False
    """Never choose oneself."""
    sample_with_noise: bool = True
    """Other members suggest what they would do while exploring (SAC: a sample), not their mean action."""
    epsilon: float | None = limited(None, "[0, 1]")
    """Share of choices that are uniform, whatever the scores say, 0 to 1; by default the one of the `choice`."""
    self_share: float | None = limited(None, "[0, 1]")
    """Share of choices that a member keeps for itself, whatever the scores say, so that it learns to stand alone;
    by default the one of the `choice`. 0 to 1."""
    temperature: tuple[float, ...] = limited((), "[1e-6, 1e6]")
    """Temperature of the softmax over the scores (Eq. 2); one value, or one per member; by default the
    one of the `choice`."""
    temperature_decay: tuple[float, ...] = limited((0.0,), "[0, inf)")
    """T = T0 exp(-decay * epoch); one value, or one per member."""
    lr: float | None = limited(None, "(0, 1]")
    """alpha of trust and agent values (Eq. 5, 7), in (0, 1]; by default the one of the `choice`."""
    init_trust_values: float = 200.0
    """Trust of every pair at the start."""
    init_agent_values: float = 200.0
    """Agent value of every adviser at the start."""
    trust_buffer_size: int = limited(1000, "[1, inf)")
    """Last transitions with the adviser followed, from which trust is estimated."""
    trust_batch_size: int = limited(10, "[1, inf)")
    """Transitions per update of trust; agent values take max(1, this // N) of every member."""
    byzantine_members: tuple[str, ...] = ()
    """Members that answer others with something else than they would do: MEMBER:sign-flip, MEMBER:random,
    MEMBER:noise[:SCALE] (docs/robustness.md)."""
    shuffle_advisers: bool = False
    """Every replica has the fixed advisers in an order of its own, so that no place in the group means
    anything."""


@dataclass(frozen=True)
class RunConfig:
    """Where the run goes and what it says on the way."""

    exp_name: str | None = None
    """Name of the run folder; by default made of environment, algorithm, group size and seed."""
    log_dir: str = "experiments"
    """Folder that holds the run folders."""
    overwrite: bool = False
    """Replace an existing run folder."""
    eval_freq: int = limited(5000, "[0, inf)")
    """Steps between evaluations on separate environments; 0: never."""
    n_eval_episodes: int = limited(10, "[1, inf)")
    """Episodes of every member in an evaluation."""
    eval_modes: tuple[EvalMode, ...] = ("alone",)
    """Ways to evaluate the members. alone: each by itself, without advice; together: the group with advice, where
    neither members nor trust learn. Reports and comparisons use the episodes alone."""
    success: Literal["last", "any"] = "last"
    """An episode succeeds if the environment reports success in its last step, or in any step of it."""
    log_freq: int = limited(500, "[1, inf)")
    """Steps between rows of metrics.csv and advice.csv."""
    checkpoint_freq: int = limited(50_000, "[0, inf)")
    """Steps between checkpoints; 0: only at the beginning and the end."""
    keep_checkpoints: int = limited(2, "[1, inf)")
    """The newest so many checkpoints stay on the disk, at least 1."""
    use_tensorboard: bool = False
    """Write the metrics for TensorBoard as well."""
    use_wandb: bool = False
    """Send the metrics to Weights & Biases as well."""
    wandb_project: str = "peerage"
    """Project there."""
    verbose: int = limited(1, "[0, 2]")
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
    n_peers: int = limited(4, "[1, 64]")
    """Learners in the group, 1 to 64."""
    advisers: tuple[str, ...] = ()
    """Fixed advisers: expert, adversary, random, constant[:ACTION], negated:ADVISER,
    checkpoint:PATH[:MEMBER]; to put trust to the proof turncoat, convert, regional:a, regional:b,
    noise:[SCALE:]ADVISER, sign-flip:ADVISER, colluding[:NAME]; or a name registered with `peerage.register_adviser`."""
    replicas: int = limited(1, "[1, 10000]")
    """Independent copies of the whole group, each with another seed: the unit of statistics."""
    seed: int = limited(0, "[0, inf)")
    """Fixes every random draw of the run."""
    total_timesteps: int | None = limited(None, "[1, inf)")
    """Environment steps of every member; by default n_epochs * epoch_length, which it beats."""
    n_epochs: int = limited(100, "[1, inf)")
    """Length of the run in epochs."""
    epoch_length: int = limited(1000, "[1, inf)")
    """Steps in an epoch, the clock of temperature decay, switch_ratio and max_peer_epochs."""
    device: str = "auto"
    """cpu, cuda, cuda:N, or auto: a GPU where there is one."""
    threads: int | None = limited(None, "[1, 1024]")
    """CPU threads of torch; by default chosen by network size (docs/performance.md)."""
    exchange: tuple[str, ...] = one_of((), EXCHANGES)
    """What members exchange after learning, beside any advice: average (the mean of the members' parameters); by
    default nothing."""
    exchange_freq: int = limited(1000, "[1, inf)")
    """Steps between two exchanges."""
    learner: Any = field(default_factory=lambda: learner_part()())
    advice: AdviceConfig = field(default_factory=AdviceConfig)
    methods: Mapping[str, Any] = field(default_factory=dict)
    """Part -> the settings of a kind of trust or an exchange. Attributes read them: `config.context`."""
    run: RunConfig = field(default_factory=RunConfig)

    def __post_init__(self) -> None:
        known = method_parts()
        if unknown := [part for part in self.methods if part not in known]:
            raise UserError(f"no method has the settings {unknown[0]!r}: use one of {', '.join(known)}")
        methods = {part: self.methods.get(part) or cls() for part, cls in known.items()}
        object.__setattr__(self, "methods", methods)

    def __getattr__(self, name: str) -> Any:
        methods = self.__dict__.get("methods", {})
        if name in methods:
            return methods[name]
        if name in (known := method_parts()):  # registered after this configuration was made
            return known[name]()
        raise AttributeError(f"a configuration has no part {name!r}")

    @property
    def steps(self) -> int:
        """Environment steps of every member."""
        return self.n_epochs * self.epoch_length if self.total_timesteps is None else self.total_timesteps


def learner_part() -> type:
    """The dataclass of the part `learner`: `algorithm`, and a tuple for every setting of the registered learners. An
    empty tuple takes the learner's default."""
    names: Any = Literal.__getitem__(("auto", *LEARNERS))
    made: dict[str, Any] = {"algorithm": tuple[names, ...]}
    limits: dict[str, str] = {}
    for method in LEARNERS.methods.values():
        for name, hint in hints(method.settings).items():
            item = tuple[hint, ...]  # type: ignore[valid-type]
            if made.setdefault(name, item) != item and name != "algorithm":
                raise ValueError(f"learners disagree about the type of {name}")
        limits |= intervals(method.settings)
    key = tuple(made.items())
    if key not in _LEARNER_PARTS:
        columns: list[tuple[str, Any, Any]] = [("algorithm", made.pop("algorithm"), field(default=("auto",)))]
        for name, hint in made.items():
            interval = {"interval": limits[name]} if name in limits else {}
            columns.append((name, hint, field(default=(), metadata=interval)))
        _LEARNER_PARTS[key] = make_dataclass("LearnerConfig", columns, frozen=True, namespace={"__module__": __name__})
    return _LEARNER_PARTS[key]


_LEARNER_PARTS: dict[tuple[Any, ...], type] = {}
_ALGORITHM = "Learning algorithm; auto takes sac for Box actions and dqn for Discrete actions."


def method_parts() -> dict[str, type]:
    """Part -> the settings of the registered kinds of trust and exchanges that have settings."""
    found: dict[str, type] = {}
    methods: list[TrustMethod | ExchangeMethod] = [*TRUST.methods.values(), *EXCHANGES.methods.values()]
    for method in methods:
        if method.part and method.settings is not None:
            found.setdefault(method.part, method.settings)
    return found


def parts() -> dict[str, type]:
    """The tree: the class of each part by name; "" is the top."""
    return {"": Config, "learner": learner_part(), "advice": AdviceConfig, **method_parts(), "run": RunConfig}


@dataclass(frozen=True)
class Setting:
    """One field of the tree."""

    key: str
    """Its name wherever settings have no parts: on the command line, in sweeps, in Python. The name of the field; for
    a field whose name an earlier part has taken, `part_field`."""
    part: str
    name: str
    hint: Any
    default: Any
    doc: str
    interval: str | None
    """The values that its numbers may have."""


def settings() -> dict[str, Setting]:
    """Every field of the tree by its key, in order."""
    found: dict[str, Setting] = {}
    for part, cls in parts().items():
        texts, limits, types = _texts(part, cls), intervals(cls), hints(cls)
        for f in fields(cls):
            if not part and f.name in ("learner", "advice", "methods", "run"):
                continue
            key = f.name if f.name not in found else f"{part}_{f.name}"
            default = f.default_factory() if callable(f.default_factory) else f.default
            text, limit = texts.get(f.name, ""), limits.get(f.name)
            if isinstance(names := f.metadata.get("names"), Registry) and (about := names.about()):
                text = f"{text} {about}."
            found[key] = Setting(key, part, f.name, types[f.name], default, text, limit)
    return found


def _texts(part: str, cls: type) -> dict[str, str]:
    if part != "learner":
        return docs(cls)
    found = {"algorithm": _ALGORITHM}
    shared = docs(LearnerSettings)
    for method in LEARNERS.methods.values():
        for name, text in docs(method.settings).items():
            found.setdefault(name, text)
    for name, text in found.items():
        users = [m.name for m in LEARNERS.methods.values() if name in hints(m.settings)]
        if name not in shared and name != "algorithm" and len(users) < len(LEARNERS):
            found[name] = f"{', '.join(users)}: {text}"
    return found


def changed(config: Config, changes: Mapping[str, Mapping[str, Any]]) -> Config:
    """`config` with other values in its parts: part -> field -> value."""
    made = {part: replace(getattr(config, part), **changes.get(part, {})) for part in parts() if part}
    methods = {part: made.pop(part) for part in method_parts()}
    return replace(config, **made, methods=methods, **changes.get("", {}))


def with_settings(config: Config, values: Mapping[str, Any]) -> Config:
    """`config` with the settings `values` (by key, see `settings`) replaced; lists become tuples.

    `n_epochs` without `total_timesteps` resets `total_timesteps`, so that the length that is given takes effect. Raises
    UserError for a key that is not a setting.
    """
    if "n_epochs" in values and "total_timesteps" not in values:
        config = replace(config, total_timesteps=None)
    known = settings()
    changes: dict[str, dict[str, Any]] = {part: {} for part in parts()}
    for key, value in values.items():
        if key not in known:
            raise UserError(f"there is no setting {key!r}{nearest(key, list(known))}")
        setting = known[key]
        changes[setting.part][setting.name] = tuple(value) if isinstance(value, list) else value
    return changed(config, changes)


def with_part(config: Config, part: str, **values: Any) -> Config:
    """`config` with other values of the fields of one part."""
    return changed(config, {part: values})


RESUMABLE = ("checkpoint_freq", "keep_checkpoints", "use_tensorboard", "use_wandb", "wandb_project", "verbose")
"""Fields of `RunConfig` that a resume may change: nothing that is trained or logged depends on them."""
HARDWARE_FIELDS = ("device", "threads")
"""Fields of `Config` that a resume may change, but then the run does not continue bit for bit."""
FREE = {"exp_name", "log_dir", "overwrite", *RESUMABLE, *HARDWARE_FIELDS}
"""The fields in which two configurations of one training may differ."""
