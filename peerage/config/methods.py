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


@dataclass(frozen=True)
class TrustMethod(Method):
    """A kind of trust. `build(context)` makes a `peerage.trust.signals.Signal` from a
    `peerage.trust.context.TrustContext`."""

    part: str = ""
    """The section of its settings in a configuration; two kinds can share one. Empty: it has no section."""
    resolve: str | Callable[[Any, Any], dict[str, Any]] | None = None
    """`resolve(settings, spec)` gives the values of settings that depend on the environment."""
    needs: tuple[str, ...] = ()
    """What it reads beside its own state: `td` (values of trust by temporal differences), `action_value` (Q-functions
    of the members)."""
    columns: Mapping[str, str] = field(default_factory=dict)
    """Column in advice.csv -> what it is, as a figure's title."""


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
    needs: tuple[str, ...] = (),
    columns: Mapping[str, str] | None = None,
) -> None:
    """Make a kind of trust available as `--trust NAME`.

    `build(context)` makes a `peerage.Signal` from a `peerage.trust.context.TrustContext`. `settings`, a frozen
    dataclass, is the part `part` of a configuration; `columns` are those that the signal's `report` adds to advice.csv.
    The other arguments are those of `TrustMethod`. Raises ValueError for a name that is taken.
    """
    part = part or (name.replace("-", "_") if settings is not None else "")
    TRUST.register(TrustMethod(name, build, settings, part=part, needs=needs, columns=columns or {}))


def register_exchange(
    name: str, build: str | Callable[..., Any], settings: type | None = None, *, part: str = ""
) -> None:
    """Make an exchange available as `--exchange NAME`.

    `build(settings, group, every)` makes a `peerage.Exchange`. `settings`, a frozen dataclass, is the part `part` of a
    configuration. Raises ValueError for a name that is taken.
    """
    part = part or (name.replace("-", "_") if settings is not None else "")
    EXCHANGES.register(ExchangeMethod(name, build, settings, part=part))
