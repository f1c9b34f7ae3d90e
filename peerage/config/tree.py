"""The configuration: a tree of frozen dataclasses, light to import (no torch, no Gymnasium).

`Config()` holds the values given by the user; `None` means "not given". `learners.defaults.resolve` fills in the
defaults when the environment and the algorithm are known, and `config.yaml` contains the resolved tree. Steps are
environment steps *per member* everywhere.

The tree consists of parts. `learner`, `advice` and `run` always exist; every registered kind of trust and every
exchange can add a part with its settings (`peerage.config.methods`). `parts()` lists the parts, `settings()` lists all
fields. Fields of `learner` are tuples: one value for all members, or one value per member.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, fields, make_dataclass, replace
from typing import Any, Literal

from peerage.config.fields import docs, hints, intervals, limited, one_of
from peerage.config.methods import (
    EXCHANGES,
    LEARNERS,
    TRUST,
    LearnerSettings,
    Registry,
    methods_with_parts,
    until_registered,
)
from peerage.errors import UserError, nearest

Choice = Literal["standardised", "paper", "greedy", "uniform"]
EvalMode = Literal["alone", "together", "test"]


@dataclass(frozen=True)
class AdviceConfig:
    """How members learn from each other (arXiv 2312.09950; the equations are in docs/methods)."""

    sharing: Literal["advice", "none"] | None = None
    """advice: peer learning; none: every member learns alone. By default advice; none for groups of on-policy learners
    (ppo) without fixed advisers, which learned less with advice (docs/methods/ppo.md)."""
    trust: str | None = one_of(None, TRUST)
    """How the trust term is computed; the default depends on choice."""
    choice: Choice = "standardised"
    """How an adviser is chosen from the scores. standardised: softmax of standardised values; paper: Eq. 9 and 2;
    greedy: epsilon-greedy on the scores; uniform: uniformly at random."""
    use_trust: bool = True
    """Use the trust term v^T (Eq. 4, 5), one value per asker and adviser. Without it, the critic and agent values
    are on by default."""
    use_agent_values: bool | None = None
    """Use the agent-value term v^A (Eq. 6, 7), one value per adviser, shared by the group. On by default, except with
    kinds of trust that learn from the whole group."""
    use_critic: bool | None = None
    """Use the critic term v^C (Eq. 3): the asker's own Q-value of each suggestion. Same default as use_agent_values."""
    use_advantage: bool = True
    """Compute trust and agent values from advantages instead of returns (Eq. 8)."""
    follow_steps: int = limited(10, "[1, inf)")
    """Steps for which a member follows an adviser before it chooses again. Typical: 1 to 100."""
    follow_across_episodes: bool = False
    """Keep following the same adviser when an episode ends before follow_steps, as in the paper; otherwise a member
    chooses again at the start of every episode."""
    switch_ratio: int = limited(0, "[0, inf)")
    """Number of peer epochs before each solo epoch, in which all members follow themselves; 0: no solo epochs."""
    max_peer_epochs: int | None = limited(None, "[0, inf)")
    """Number of epochs with advice, after which all members follow themselves; by default all epochs."""
    only_follow_others: bool = False
    """Members never choose themselves."""
    sample_with_noise: bool = True
    """Members answer others with an action sampled from their policy (SAC) instead of its mode."""
    epsilon: float | None = limited(None, "[0, 1]")
    """Share of choices, 0 to 1, that are uniform over all advisers; the default depends on choice."""
    self_share: float | None = limited(None, "[0, 1]")
    """Share of choices, 0 to 1, in which a member follows itself regardless of the scores, so that it learns to act
    without advice; the default depends on choice, and is 0.5 with imitate."""
    imitate: Literal["none", "trusted"] = "none"
    """Learning from suggestions. none: members only follow them; trusted: members also imitate the adviser that they
    trust most, in states in which trust says that it is better than the member itself (docs/methods/imitation.md)."""
    temperature: tuple[float, ...] = limited((), "[1e-6, 1e6]")
    """Temperature of the softmax over the scores (Eq. 2); one value, or one per member; the default depends on
    choice."""
    temperature_decay: tuple[float, ...] = limited((0.0,), "[0, inf)")
    """Decay rate of the temperature: T = T0 exp(-decay * epoch); one value, or one per member."""
    lr: float | None = limited(None, "(0, 1]")
    """Step size alpha of trust by temporal differences and of agent values (Eq. 5, 7), in (0, 1]; the default depends
    on choice. It is not the learning rate of the learners, which is learning_rate."""
    init_trust_values: float = 200.0
    """Initial trust of every asker in every adviser."""
    init_agent_values: float = 200.0
    """Initial agent value of every adviser."""
    trust_buffer_size: int = limited(1000, "[1, inf)")
    """Number of most recent transitions from which trust is estimated."""
    trust_batch_size: int = limited(10, "[1, inf)")
    """Transitions per update of trust; an update of agent values uses max(1, trust_batch_size // n_peers) transitions
    of every member."""
    byzantine_members: tuple[str, ...] = ()
    """Members that give other members changed suggestions: MEMBER:sign-flip, MEMBER:random, MEMBER:noise[:SCALE]
    (docs/robustness.md)."""
    shuffle_advisers: bool = False
    """Shuffle the fixed advisers in every replica, so that an adviser's position carries no information."""


@dataclass(frozen=True)
class RunConfig:
    """The run folder, evaluations, logs and checkpoints."""

    exp_name: str | None = None
    """Name of the run folder. With a preset it is by default composed of the preset and the seed, otherwise (and with
    none) of environment, algorithm, group size and seed."""
    log_dir: str = "experiments"
    """Parent folder of the run folders."""
    overwrite: bool = False
    """Replace an existing run folder."""
    eval_freq: int = limited(5000, "[0, inf)")
    """Steps between evaluations, which use separate environments; 0: no evaluations."""
    n_eval_episodes: int = limited(10, "[1, inf)")
    """Episodes per member in an evaluation."""
    eval_starts: Literal["by-replica", "shared"] = "by-replica"
    """Seeds of evaluation episodes. by-replica: each replica has its own start states, which depend on the seed of the
    run and the number of the replica, so that intervals over replicas include the choice of start states; shared: all
    replicas have the same start states."""
    max_eval_steps: int | None = limited(None, "[1, inf)")
    """Maximum length of an evaluation episode in steps; longer episodes are truncated. By default the time limit of the
    environment, or 100,000 steps if it has none."""
    eval_modes: tuple[EvalMode, ...] = ("alone",)
    """Evaluation modes. alone: each member without advice; together: the group with advice, while neither members nor
    trust learn; test: each member without advice in the split `test` of the environment, such as other goals. Reports
    and comparisons use the episodes of mode alone."""
    target_return: tuple[float, ...] = ()
    """Target returns of evaluations, for algorithms that act for a target return. The first one is that of learning
    curves and comparisons; the others are evaluated at the end. By default the largest return of the data, its 10, 50
    and 90% quantiles, and 1.2 times the largest one."""
    clip_targets: bool = False
    """Limit the targets to the largest return of the data, and the returns-to-go in evaluations to its range at each
    timestep."""
    success: Literal["last", "any"] = "last"
    """An episode is a success if the environment reports success in its last step (last) or in any step (any).
    Success rates are shown only if every evaluation episode reports it."""
    log_freq: int = limited(500, "[1, inf)")
    """Steps between rows of metrics.csv and advice.csv."""
    checkpoint_freq: int = limited(50_000, "[0, inf)")
    """Steps between checkpoints; 0: only at the start and the end."""
    keep_checkpoints: int = limited(2, "[1, inf)")
    """Number of checkpoints to keep; older ones are deleted."""
    keep_best: bool = False
    """Also keep the checkpoint with the best evaluation: the highest mean return, mode alone, over all members and
    replicas. Use it in paths as RUN@best."""
    use_tensorboard: bool = False
    """Also write the metrics for TensorBoard."""
    use_wandb: bool = False
    """Also log the metrics to Weights & Biases."""
    wandb_project: str = "peerage"
    """Weights & Biases project."""
    callback: tuple[str, ...] = ()
    """Your own listeners, as MODULE:CLASS; the class is a subclass of peerage.Listener and is called without arguments.
    Repeatable (docs/python.md)."""
    verbose: int = limited(1, "[0, 2]")
    """0: silent; 1: progress; 2: every event."""


@dataclass(frozen=True)
class Config:
    """The complete configuration of a training."""

    env: str = "LunarLander-v3"
    """A Gymnasium id (`peerage envs`), or MODULE:FUNCTION of an importable module. Observations: a
    flat Box or a Dict of them; actions: Box, Discrete or a small MultiDiscrete (docs/environments.md)."""
    env_args: dict[str, Any] = field(default_factory=dict)
    """Arguments of the environment's constructor, as in `name=value`."""
    perturb: dict[str, Any] = field(default_factory=dict)
    """Perturbations of the training, but not of its evaluations: observation_noise, action_noise, sticky_actions,
    action_delay, dropped_advice, and parameters of the environment (gravity, mass_scale, ...) as a value or as a range
    LOW..HIGH that is sampled in every episode (docs/robustness.md)."""
    n_peers: int = limited(4, "[1, 64]")
    """Number of members (learners) of the group, 1 to 64. With an offline algorithm the default is 1."""
    advisers: tuple[str, ...] = ()
    """Fixed advisers: expert, adversary, random, constant[:ACTION], negated:ADVISER,
    checkpoint:PATH[:MEMBER][@best|@STEP], dt:FOLDER[:MEMBER][@TARGET] (a Decision Transformer); for tests of trust:
    turncoat, convert, regional:a, regional:b, noise:[SCALE:]ADVISER, sign-flip:ADVISER, colluding[:NAME]; or a name
    registered with `peerage.register_adviser`."""
    replicas: int = limited(1, "[1, 10000]")
    """Independent copies of the whole group with different seeds. Statistics treat each replica as one sample."""
    member_offset: int | None = limited(None, "[0, 1000000]")
    """Number of the first member in random streams, and in environments that take the number of a member, so that
    processes can train different members of one group. By default 0; in a federation the number of the members of the
    participants before this one."""
    seed: int = limited(0, "[0, inf)")
    """Seed of all random numbers of the run."""
    data: str = ""
    """Dataset of an offline algorithm: the name of a local Minari dataset, or the path of one or of parquet files
    (docs/methods/offline.md). The environment is that of the dataset, unless env names another."""
    data_fraction: float = limited(1.0, "(0, 1]")
    """Learn from the episodes with the highest returns that hold this share of the steps of the dataset. With bc, 0.1
    is 10%-BC."""
    data_epochs: int | None = limited(None, "[1, inf)")
    """Length of an offline run in passes over the episodes: total_timesteps is this number times ceil(episodes /
    batch_size)."""
    data_fingerprint: str = ""
    """SHA-256 of the dataset, which config.yaml records: other data is refused. By default that of the dataset."""
    total_timesteps: int | None = limited(None, "[1, inf)")
    """Environment steps per member, in an offline run gradient steps; overrides n_epochs. By default n_epochs *
    epoch_length."""
    n_epochs: int = limited(100, "[1, inf)")
    """Length of the run in epochs."""
    epoch_length: int = limited(1000, "[1, inf)")
    """Steps per epoch, the unit of temperature_decay, switch_ratio and max_peer_epochs."""
    device: str = "auto"
    """cpu, cuda, cuda:N, or auto (a GPU if one is available)."""
    threads: int | None = limited(None, "[1, 1024]")
    """CPU threads used by torch; the default depends on the size of the networks (docs/performance.md)."""
    exchange: tuple[str, ...] = one_of((), EXCHANGES)
    """Exchanges between members after learning, in addition to advice: average (the mean of the members' parameters);
    by default none."""
    exchange_freq: int = limited(1000, "[1, inf)")
    """Steps between exchanges."""
    federation: str = ""
    """Folder through which the processes of a federation exchange parameters; all of them must be able to read and
    write it. By default only the members of this process exchange parameters."""
    participant: str = ""
    """Name of this process in the federation."""
    participants: tuple[str, ...] = ()
    """All participants of the federation, as NAME or NAME:MEMBERS; MEMBERS is the n_peers of that process, by default
    1. The members of all participants are numbered in the order of the names."""
    min_participants: int | None = limited(None, "[1, inf)")
    """Number of participants, including this one, with which a round goes on after participant_timeout; by default
    every round waits for all."""
    participant_timeout: float = limited(600.0, "[0, inf)")
    """Seconds for which a round waits for missing participants, if min_participants are there."""
    learner: Any = field(default_factory=lambda: learner_part()())
    advice: AdviceConfig = field(default_factory=AdviceConfig)
    methods: Mapping[str, Any] = field(default_factory=dict)
    """Part -> the settings of a kind of trust or an exchange. Parts are also attributes: `config.context`."""
    run: RunConfig = field(default_factory=RunConfig)

    def __post_init__(self) -> None:
        known = method_parts()
        if unknown := [part for part in self.methods if part not in known]:
            raise UserError(f"unknown part of the configuration {unknown[0]!r}: use one of {', '.join(known)}")
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
        """Environment steps per member."""
        return self.n_epochs * self.epoch_length if self.total_timesteps is None else self.total_timesteps


def learner_part() -> type:
    """The dataclass of the part `learner`: `algorithm`, and one tuple for every setting of the registered learners. An
    empty tuple selects the learner's default."""
    return _learner_part()


@until_registered
def _learner_part() -> type:
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
_ALGORITHM = "Learning algorithm; auto selects sac for Box actions and dqn for Discrete actions."


def method_parts() -> dict[str, type]:
    """Part -> settings class, for the registered kinds of trust, exchanges and networks that have settings."""
    found: dict[str, type] = {}
    for method in methods_with_parts():
        if method.settings is not None:
            found.setdefault(method.part, method.settings)
    return found


def parts() -> dict[str, type]:
    """The class of each part of the tree by name; "" is the top level."""
    return {"": Config, "learner": learner_part(), "advice": AdviceConfig, **method_parts(), "run": RunConfig}


PUBLIC_NAMES = {"lr": "trust_lr"}
"""Key -> the name for users where it differs from the key, which is accepted, too: `lr` is the name in published
commands and in config.yaml."""


def public_name(key: str) -> str:
    """The name of a setting for users."""
    return PUBLIC_NAMES.get(key, key)


OTHER_NAMES = {"clip_ratio": "clip_range", "epochs": "data_epochs"}
"""Names of published files and commands -> the keys of the same settings. Both are accepted everywhere."""


def key_of(name: Any) -> Any:
    """The key of the setting with this public or other name; other words are returned as they are."""
    if name in OTHER_NAMES and name not in settings():  # a registered method may have a setting of this name
        return OTHER_NAMES[name]
    return next((key for key, public in PUBLIC_NAMES.items() if public == name), name)


@dataclass(frozen=True)
class Setting:
    """One field of the tree."""

    key: str
    """The name outside the tree: on the command line, in sweeps, in Python. It is the name of the field, or
    `part_field` if another part has a field of this name: Peerage's own methods come before registered ones, and the
    settings of the run and of advice before those of methods."""
    part: str
    name: str
    hint: Any
    default: Any
    doc: str
    interval: str | None
    """The permitted values of its numbers, such as `(0, 1]`."""


@until_registered
def settings() -> Mapping[str, Setting]:
    """All fields of the tree by key, in order."""
    found: dict[str, Setting] = {}
    owners = _owners()
    for part, cls in parts().items():
        texts, limits, types = _texts(part, cls), intervals(cls), hints(cls)
        for f in fields(cls):
            if (not part and f.name in ("learner", "advice", "methods", "run")) or f.name not in types:
                continue
            key = f.name if owners[f.name] == part else f"{part}_{f.name}"
            default = f.default_factory() if callable(f.default_factory) else f.default
            text, limit = texts.get(f.name, ""), limits.get(f.name)
            if isinstance(names := f.metadata.get("names"), Registry) and (about := names.about()):
                text = f"{text} {about}."
            found[key] = Setting(key, part, f.name, types[f.name], default, text, limit)
    return found


def _owners() -> dict[str, str]:
    """Field name -> the part whose field has this name as its key."""
    known = parts()
    own = [m for m in LEARNERS.methods.values() if m.is_builtin]
    methods = methods_with_parts()
    claims = [(part, list(hints(known[part]))) for part in ("", "advice", "run")]
    claims += [("learner", ["algorithm", *(name for m in own for name in hints(m.settings))])]
    claims += [(m.part, list(hints(known[m.part]))) for m in methods if m.is_builtin and m.part in known]
    claims += [(part, list(hints(cls))) for part, cls in known.items()]
    owners: dict[str, str] = {}
    for part, names in claims:
        for name in names:
            owners.setdefault(name, part)
    return owners


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
    """`config` with some fields replaced. `changes`: part -> field -> value."""
    made = {part: replace(getattr(config, part), **changes.get(part, {})) for part in parts() if part}
    methods = {part: made.pop(part) for part in method_parts()}
    return replace(config, **made, methods=methods, **changes.get("", {}))


def with_settings(config: Config, values: Mapping[str, Any]) -> Config:
    """`config` with some settings replaced. `values`: key (see `settings`) -> value; lists become tuples.

    Values that would override or contradict them are reset (`released`). Raises UserError for an unknown key.
    """
    config = released(config, {key_of(key) for key in values})
    known = settings()
    changes: dict[str, dict[str, Any]] = {part: {} for part in parts()}
    for key, value in values.items():
        key = key_of(key)
        if key not in known:
            raise UserError(f"unknown setting {key!r}{nearest(key, list(known))}")
        setting = known[key]
        changes[setting.part][setting.name] = tuple(value) if isinstance(value, list) else value
    return changed(config, changes)


def released(config: Config, given: Collection[str]) -> Config:
    """`config` without the values that would override or contradict the settings `given` (keys): a number of epochs
    resets a number of steps, and another dataset the fingerprint."""
    if {"n_epochs", "data_epochs"} & set(given) and "total_timesteps" not in given:
        config = replace(config, total_timesteps=None)
    if "data" in given and "data_fingerprint" not in given:
        config = replace(config, data_fingerprint="")
    return config


def with_part(config: Config, part: str, **values: Any) -> Config:
    """`config` with some fields of one part replaced."""
    return changed(config, {part: values})


RESUMABLE = (
    "max_eval_steps", "checkpoint_freq", "keep_checkpoints", "keep_best", "use_tensorboard", "use_wandb",
    "wandb_project", "callback", "verbose",
)  # fmt: skip
"""Fields of `RunConfig` that may change on resuming, because the training does not depend on them. `max_eval_steps`
applies to evaluations after the resume; logged values do not depend on the others."""
HARDWARE_FIELDS = ("device", "threads")
"""Fields of `Config` that may change on resuming; the continued run is then not bit-identical."""
FREE = {
    "exp_name", "log_dir", "overwrite", "data", "federation", "min_participants", "participant_timeout", *RESUMABLE,
    *HARDWARE_FIELDS,
}  # fmt: skip
"""Fields in which two configurations of the same training may differ."""
