"""The methods that a configuration can name: learners, kinds of trust, exchanges.

A method is described in a light module (no torch): its name, its settings, and the location of its implementation as
`"module:attribute"`. The implementation is imported when a run is built. Peerage's own methods are registered when
`peerage` is imported; `peerage.register_learner`, `register_trust` and `register_exchange` add more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import wraps
from importlib import import_module
from typing import Any, ClassVar, Generic, Literal, TypeVar

from peerage.config.fields import limited
from peerage.errors import UserError, nearest


@dataclass(frozen=True)
class Method:
    """The description of a method."""

    name: str
    """The name in configurations and on the command line."""
    build: str | Callable[..., Any]
    """The implementation: a callable, or `"module:attribute"` of one."""
    settings: type | None = None
    """A frozen dataclass, or None if the method has no settings."""
    about: str = field(default="", kw_only=True)
    """One line for the help of the setting that names the method."""

    @property
    def is_builtin(self) -> bool:
        """Whether the method is part of Peerage."""
        return isinstance(self.build, str) and self.build.startswith("peerage.")

    def load(self) -> Callable[..., Any]:
        """Import and return the implementation."""
        return loaded(self.build)


def loaded(target: str | Callable[..., Any]) -> Callable[..., Any]:
    """Return a callable as it is; import one given as `"module:attribute"`."""
    if not isinstance(target, str):
        return target
    module, _, attribute = target.partition(":")
    found: Callable[..., Any] = getattr(import_module(module), attribute)
    return found


@dataclass(frozen=True)
class LearnerSettings:
    """The settings that all learners have, for one member. A subclass adds a learner's own settings and defaults.

    `structural` names the settings that must be equal for all members of a stack; the other settings are stored as one
    value per member. None: all settings are structural.
    """

    structural: ClassVar[tuple[str, ...] | None] = None
    sb3_defaults: ClassVar[Mapping[str, Any]] = {}
    """The defaults of Stable-Baselines3 that differ, by the name of the setting."""

    algorithm: str = ""
    """The learner's name."""
    learning_rate: float = limited(3e-4, "(0, inf)")
    """Adam's step size for all networks of the learners and the entropy coefficient. Typical: 1e-4 to 1e-3. The step
    size of trust is trust_lr."""
    gamma: float = limited(0.99, "[0, 1]")
    """Discount factor."""
    net_arch: tuple[int, ...] = limited((64, 64), "[1, inf)")
    """Widths of the hidden layers of every network of a member, as in 256,256."""
    max_grad_norm: float = limited(0.0, "[0, inf)")
    """Maximum gradient norm, per member; 0 disables clipping."""
    learning_starts: int = limited(0, "[0, inf)")
    """Steps with uniformly random actions before learning and advice start."""
    load_paths: str = "none"
    """Pretrained members: a run folder as RUN[:MEMBER][@best|@STEP], a Stable-Baselines3 zip, or none. A loaded member
    acts and advises but does not learn."""
    init_from: str = "none"
    """Networks to start from, as for load_paths: the member acts with them from the first step, without the uniformly
    random actions before learning_starts (DQN explores by epsilon-greedy as usual), and learns on after learning_starts
    steps, with a new optimizer and replay buffer."""
    net_settings: Any = field(default=None, metadata={"internal": True})
    """The settings of the member's kind of network, from their part of the configuration."""

    imitates: bool = field(default=False, metadata={"internal": True})
    """The member also learns from labels, the suggestions of the adviser that it trusts most (--imitate)."""

    def check(self) -> None:
        """Raise UserError in one line for settings that do not fit together. The constructor checks single values; this
        is called for the settings of a member."""

    @property
    def stack_key(self) -> tuple[Any, ...]:
        """Members with equal keys share a stack."""
        every = [field.name for field in fields(self) if field.name not in ("algorithm", "load_paths", "init_from")]
        names = self.structural
        if names is None:
            names = tuple(every)
        else:  # the class that declares them does not know the fields of its subclasses
            declaring = next(cls for cls in type(self).__mro__ if "structural" in vars(cls))
            known = {field.name for field in fields(declaring)}
            names += tuple(name for name in every if name not in known)
        return (self.algorithm, *(getattr(self, name) for name in names))


def column(members: Sequence[LearnerSettings], name: str) -> tuple[Any, ...]:
    """The setting `name` of all members, as config.yaml has it: one value if all are equal, else one per member. It is
    empty if no member's learner has the setting; if only some have it, the others get the value of the first one."""
    known = [getattr(member, name) for member in members if hasattr(member, name)]
    values = tuple(getattr(member, name, known[0]) for member in members) if known else ()
    return values[:1] if len(set(values)) == 1 else values


@dataclass(frozen=True)
class LearnerMethod(Method):
    """A learning algorithm. `build(settings, stream_keys, space, total_steps, *, device, dtype)` returns a
    `peerage.learners.base.Learner` for the members of a stack."""

    settings: type[LearnerSettings] = LearnerSettings
    actions: tuple[Literal["discrete", "box"], ...] = ("discrete", "box")
    """The supported action spaces."""
    is_default: bool = False
    """`auto` selects the first registered default that supports the action space."""
    images: bool = False
    """The learner accepts images as observations: `space.image` gives their layout in the flat observations."""
    on_policy: bool = False
    """The learner must be trained on its own actions."""
    offline: bool = False
    """The learner learns from a dataset instead of environment steps: `build` also takes `data`, a
    `peerage.offline.trajectories.Trajectories`, or None for a learner that only acts."""
    takes_target: bool = False
    """The learner acts for a target return: it implements `conditioned`."""
    imitates: bool = False
    """The learner has a loss for labels (`Transition.label`), so that its members can use --imitate. Members whose
    settings have `imitates` get labels."""
    takes_critic: bool = False
    """It accepts a `critic` (`peerage.learners.critics.CriticFactory`) when it is built."""
    has_action_value: bool = True
    """The learner implements `action_value`, its Q-function, which the critic term of advice needs."""

    net: NetMethod | None = None
    """The kind of network that only this learner has; its settings are a part of the configuration."""

    def fits(self, discrete: bool) -> bool:
        """Whether the learner supports Discrete actions (Box actions if not `discrete`)."""
        return ("discrete" if discrete else "box") in self.actions


ADVICE_COLUMNS = ("step", "replica", "asker", "adviser", "chosen", "score", "agent_value", "critic")
"""Columns of advice.csv that do not belong to a kind of trust."""


@dataclass(frozen=True)
class TrustMethod(Method):
    """A kind of trust. `build(context)` returns a `peerage.trust.signals.Signal` for a
    `peerage.trust.context.TrustContext`. Reports, loggers and advice.csv use this description alone.

    Raises ValueError for a column that is not an identifier or belongs to `ADVICE_COLUMNS`.
    """

    part: str = ""
    """The part of a configuration that holds the settings; several kinds can share one. Empty: no part."""
    resolve: str | Callable[[Any, Any], dict[str, Any]] | None = None
    """`resolve(settings, spec)` returns the values of settings that depend on the environment."""
    needs: tuple[str, ...] = ()
    """Other inputs: `td` (trust by temporal differences), `action_value` (the members' Q-functions)."""
    columns: Mapping[str, str] = field(default_factory=dict)
    """Columns of advice.csv with a value for every asker and adviser, with their titles in figures. Reports show the
    first one as trust, unless `combine` is given."""
    asker_columns: Mapping[str, str] = field(default_factory=dict)
    """Columns of advice.csv with a value for every asker, equal for all advisers, with their titles in figures. The
    signal also reports them as the metrics `trust/COLUMN`."""
    curves: Mapping[str, str] = field(default_factory=dict)
    """Other metrics of the signal that reports plot over time, such as `trust/loss`, with their titles."""
    combine: str | Callable[[Any], Any] | None = None
    """`combine(advice)` computes the trust shown in reports from rows of advice.csv: DataFrame -> Series."""
    combined: str = ""
    """A short description of the result of `combine`."""
    stands_alone: bool = False
    """The critic and agent-value terms are off by default with this kind of trust."""
    uses_threads: bool = False
    """The networks are large enough to benefit from several CPU threads."""

    def __post_init__(self) -> None:
        for column in (*self.columns, *self.asker_columns):
            if not column.isidentifier() or column in ADVICE_COLUMNS:
                raise ValueError(f"{column!r} cannot be a column of advice.csv for the kind of trust {self.name!r}")


@dataclass(frozen=True)
class ExchangeMethod(Method):
    """An exchange of what members have learned. `build(settings, group, every)` returns a
    `peerage.sharing.exchanges.base.Exchange`."""

    part: str = ""
    """The part of a configuration that holds the settings. Empty: no part."""
    critic: str | Callable[..., Any] | None = None
    """A `peerage.learners.critics.CriticFactory` for the members' critics; None: the learners' own critics. With a
    `part`, it also receives `settings`, this part, and `n_peers`, the number of members of a replica; in a federation
    also `total`, the number of members of all participants, and `offset`, that of the participants before this one."""
    federated: bool = False
    """Whether it exchanges parameters through `Exchange.transport`, so that the members can be in several processes."""


@dataclass(frozen=True)
class NetMethod(Method):
    """A kind of network. `build(rows, inputs, outputs, settings, *, window, extra, device, dtype)` returns a
    `peerage.nets.stack.Stack` of `rows` networks that is called as `StackedMLP`. `settings` are those of a member;
    `settings.net_settings` are those of the network. With `images`, `build` also gets the layout `image`."""

    part: str = ""
    """The part of a configuration that holds the settings. Empty: no part."""
    images: bool = False
    """The network is for images as observations; other networks are for flat observations."""


M = TypeVar("M", bound=Method)


class Registry(Generic[M]):
    """Methods of one kind by name, in order of registration."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.methods: dict[str, M] = {}

    def register(self, method: M) -> M:
        """Add a method. A method with the same `build`, by module and name, replaces the earlier one. Raises ValueError
        if the name is invalid or belongs to another method."""
        name = method.name
        if name in ("auto", "none") or not name.replace("-", "_").isidentifier():
            raise ValueError(f"{name!r} cannot be the name of a method: use letters, digits and dashes")
        if name in self.methods and _origin(self.methods[name]) != _origin(method):
            raise ValueError(f"the name {name!r} belongs to another {self.kind}: choose another name")
        self.methods[name] = method
        return method

    def __getitem__(self, name: str) -> M:
        if name not in self.methods:
            known = ", ".join(self.methods)
            raise UserError(f"unknown {self.kind} {name!r}{nearest(name, list(self.methods))}: use one of {known}")
        return self.methods[name]

    def __contains__(self, name: object) -> bool:
        return name in self.methods

    def __iter__(self) -> Iterator[str]:
        return iter(self.methods)

    def __len__(self) -> int:
        return len(self.methods)

    def about(self) -> str:
        """The methods with a description, for a help text: `name: description; ...`."""
        return "; ".join(f"{method.name}: {method.about}" for method in self.methods.values() if method.about)


def _origin(method: Method) -> object:
    """The identity of `build`: a class that is defined again in a notebook equals the earlier one."""
    build = method.build
    return build if isinstance(build, str) else (build.__module__, getattr(build, "__qualname__", build))


LEARNERS: Registry[LearnerMethod] = Registry("algorithm")
TRUST: Registry[TrustMethod] = Registry("kind of trust")
EXCHANGES: Registry[ExchangeMethod] = Registry("exchange")
NETS: Registry[NetMethod] = Registry("kind of network")


def methods_with_parts() -> list[TrustMethod | ExchangeMethod | NetMethod]:
    """The methods whose settings are a part of the configuration."""
    every: list[TrustMethod | ExchangeMethod | NetMethod] = [*TRUST.methods.values()]
    every += [*EXCHANGES.methods.values(), *NETS.methods.values()]
    every += list(dict.fromkeys(m.net for m in LEARNERS.methods.values() if m.net is not None))
    return [method for method in every if method.part]

R = TypeVar("R")


def until_registered(compute: Callable[[], R]) -> Callable[[], R]:
    """A function that returns the result of `compute`, and computes it again only if the registered methods changed.
    Callers must not modify the result."""
    known: list[Method] = []
    result: list[R] = []

    @wraps(compute)
    def cached() -> R:
        registries: tuple[Registry[Any], ...] = (LEARNERS, TRUST, EXCHANGES, NETS)
        now = [method for registry in registries for method in registry.methods.values()]
        if not result or len(now) != len(known) or any(a is not b for a, b in zip(now, known)):
            result[:] = [compute()]
            known[:] = now
        return result[0]

    return cached
