"""The methods that a configuration can name: learners, kinds of trust, exchanges.

A method describes itself in a light module (no torch): its name, its settings, and where its implementation is, as
`"module:attribute"`. The implementation is imported when a run is built. Peerage's own methods register themselves
when `peerage` is imported; `peerage.register_learner`, `register_trust` and `register_exchange` add more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, ClassVar, Generic, Literal, TypeVar

from peerage.config.fields import limited
from peerage.errors import UserError, nearest


@dataclass(frozen=True)
class Method:
    """What every method says about itself."""

    name: str
    """The word in configurations and on the command line."""
    build: str | Callable[..., Any]
    """The implementation: a callable, or `"module:attribute"` of one."""
    settings: type | None = None
    """A frozen dataclass; None: the method has no settings of its own."""
    about: str = field(default="", kw_only=True)
    """One line for the help of the setting that names the method."""

    def load(self) -> Callable[..., Any]:
        """The implementation."""
        return loaded(self.build)


def loaded(target: str | Callable[..., Any]) -> Callable[..., Any]:
    """A callable, or the one that `"module:attribute"` names."""
    if not isinstance(target, str):
        return target
    module, _, attribute = target.partition(":")
    found: Callable[..., Any] = getattr(import_module(module), attribute)
    return found


@dataclass(frozen=True)
class LearnerSettings:
    """The settings that every learner has, for one member. A learner's own settings are a subclass, with its defaults.

    `structural` names the settings that members of one stack must share; every other setting is a column per member.
    None: all of them are structural.
    """

    structural: ClassVar[tuple[str, ...] | None] = None

    algorithm: str = ""
    """The learner's name."""
    learning_rate: float = limited(3e-4, "(0, inf)")
    """Adam's step size, of all networks and the entropy coefficient. Typical: 1e-4 to 1e-3."""
    gamma: float = limited(0.99, "[0, 1]")
    """Discount factor."""
    net_arch: tuple[int, ...] = limited((64, 64), "[1, inf)")
    """Hidden layers of every network of a member; written 256,256 on the command line."""
    max_grad_norm: float = limited(0.0, "[0, inf)")
    """Gradient-norm clipping per member; 0 switches it off."""
    learning_starts: int = limited(0, "[0, inf)")
    """Steps of uniformly random actions before learning and advice begin."""
    load_paths: str = "none"
    """Pretrained members: `RUN[:member]` of ours or an SB3 zip, or `none`. A loaded member acts and advises but does
    not learn."""

    @property
    def stack_key(self) -> tuple[Any, ...]:
        """Members with equal keys share a stack."""
        names = self.structural
        if names is None:
            names = tuple(name for name in self.__dataclass_fields__ if name != "load_paths")
        return (self.algorithm, *(getattr(self, name) for name in names))


@dataclass(frozen=True)
class LearnerMethod(Method):
    """A learning algorithm. `build(settings, stream_keys, space, total_steps, *, device, dtype)` makes a
    `peerage.learners.base.Learner` for the members of a stack."""

    settings: type[LearnerSettings] = LearnerSettings
    actions: tuple[Literal["discrete", "box"], ...] = ("discrete", "box")
    """The kinds of action spaces that it can act in."""
    is_default: bool = False
    """`auto` takes it where it can act."""
    on_policy: bool = False
    """It learns from its own actions only."""
    has_action_value: bool = True
    """It has a Q-function: `action_value`, which the critic term of advice reads."""

    def fits(self, discrete: bool) -> bool:
        """Can it act with Discrete (or else Box) actions?"""
        return ("discrete" if discrete else "box") in self.actions


ADVICE_COLUMNS = ("step", "replica", "asker", "adviser", "chosen", "score", "agent_value", "critic")
"""Columns of advice.csv that do not belong to a kind of trust."""


@dataclass(frozen=True)
class TrustMethod(Method):
    """A kind of trust. `build(context)` makes a `peerage.trust.signals.Signal` from a
    `peerage.trust.context.TrustContext`. Reports, loggers and advice.csv use only what is described here.

    Raises ValueError for a column that is not an identifier or belongs to `ADVICE_COLUMNS`.
    """

    part: str = ""
    """The section of its settings in a configuration; two kinds can share one. Empty: it has no section."""
    resolve: str | Callable[[Any, Any], dict[str, Any]] | None = None
    """`resolve(settings, spec)` gives the values of settings that depend on the environment."""
    needs: tuple[str, ...] = ()
    """What it reads besides its own state: `td` (trust by temporal differences), `action_value` (the members'
    Q-functions)."""
    columns: Mapping[str, str] = field(default_factory=dict)
    """Columns of advice.csv with a value for every asker and adviser, and their titles in figures. The first one is the
    trust that reports show, unless there is a `combine`."""
    asker_columns: Mapping[str, str] = field(default_factory=dict)
    """Columns of advice.csv with a number about the asker, the same for all advisers, and their titles in figures. The
    signal reports the same numbers as the metrics `trust/COLUMN`."""
    curves: Mapping[str, str] = field(default_factory=dict)
    """Further metrics of the signal that reports draw over time, such as `trust/loss`, and their titles."""
    combine: str | Callable[[Any], Any] | None = None
    """`combine(advice)` computes the trust that reports show from rows of advice.csv: DataFrame -> Series."""
    combined: str = ""
    """What `combine` computes, in words."""
    stands_alone: bool = False
    """The critic and agent-value terms are off by default beside it."""
    uses_threads: bool = False
    """Its networks are large enough for several CPU threads."""

    def __post_init__(self) -> None:
        for column in (*self.columns, *self.asker_columns):
            if not column.isidentifier() or column in ADVICE_COLUMNS:
                raise ValueError(f"{column!r} cannot be a column of advice.csv for the kind of trust {self.name!r}")


@dataclass(frozen=True)
class ExchangeMethod(Method):
    """A way of exchanging what members have learned. `build(settings, group, every)` makes a
    `peerage.sharing.exchanges.base.Exchange`."""

    part: str = ""
    """The section of its settings in a configuration. Empty: it has no section."""
    critic: str | Callable[..., Any] | None = None
    """A `peerage.learners.critics.CriticFactory` that makes the members' critics; None: the learners' own."""


M = TypeVar("M", bound=Method)


class Registry(Generic[M]):
    """Methods of one kind by name, in the order in which they were registered."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.methods: dict[str, M] = {}

    def register(self, method: M) -> M:
        """Raises ValueError for a name that is taken or is not a name."""
        name = method.name
        if name in self.methods or name in ("auto", "none") or not name.replace("-", "_").isidentifier():
            raise ValueError(f"{name!r} cannot be the name of another {self.kind}")
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
        """The methods that have a description, for a help text: `name: what it does; ...`."""
        return "; ".join(f"{method.name}: {method.about}" for method in self.methods.values() if method.about)


LEARNERS: Registry[LearnerMethod] = Registry("algorithm")
TRUST: Registry[TrustMethod] = Registry("kind of trust")
EXCHANGES: Registry[ExchangeMethod] = Registry("exchange")


def register_learner(
    name: str,
    build: str | Callable[..., Any],
    settings: type[LearnerSettings] = LearnerSettings,
    *,
    actions: tuple[Literal["discrete", "box"], ...] = ("discrete", "box"),
    on_policy: bool = False,
    has_action_value: bool = False,
) -> None:
    """Make a learner available as `--algorithm NAME`; its settings become flags and YAML keys.

    `build(settings, stream_keys, space, total_steps, *, device, dtype)` makes a `peerage.Learner`, usually a subclass;
    a string `"module:attribute"` is imported when it is needed. The other arguments are those of `LearnerMethod`.
    Raises ValueError for a name that is taken.
    """
    LEARNERS.register(
        LearnerMethod(
            name, build, settings, actions=actions, on_policy=on_policy, has_action_value=has_action_value
        )
    )


def register_trust(
    name: str,
    build: str | Callable[..., Any],
    settings: type | None = None,
    *,
    part: str = "",
    about: str = "",
    needs: tuple[str, ...] = (),
    columns: Mapping[str, str] | None = None,
    asker_columns: Mapping[str, str] | None = None,
    curves: Mapping[str, str] | None = None,
    stands_alone: bool = False,
    uses_threads: bool = False,
) -> None:
    """Make a kind of trust available as `--trust NAME`.

    `build(context)` makes a `peerage.Signal` from a `peerage.trust.context.TrustContext`. `settings`, a frozen
    dataclass, is the part `part` of a configuration. `columns` and `asker_columns` are those that the signal's `report`
    adds to advice.csv, `curves` are metrics of the signal, each with its title in figures. The other arguments are
    those of `TrustMethod`. Raises ValueError for a name or a column that is taken.
    """
    TRUST.register(
        TrustMethod(
            name,
            build,
            settings,
            about=about,
            part=part or (name.replace("-", "_") if settings is not None else ""),
            needs=needs,
            columns=columns or {},
            asker_columns=asker_columns or {},
            curves=curves or {},
            stands_alone=stands_alone,
            uses_threads=uses_threads,
        )
    )


def register_exchange(
    name: str, build: str | Callable[..., Any], settings: type | None = None, *, part: str = ""
) -> None:
    """Make an exchange available as `--exchange NAME`.

    `build(settings, group, every)` makes a `peerage.Exchange`. `settings`, a frozen dataclass, is the part `part` of a
    configuration. Raises ValueError for a name that is taken.
    """
    part = part or (name.replace("-", "_") if settings is not None else "")
    EXCHANGES.register(ExchangeMethod(name, build, settings, part=part))
