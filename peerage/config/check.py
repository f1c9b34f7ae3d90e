"""Checks of a configuration that need no environment."""

from __future__ import annotations

import re
from collections.abc import Iterable

from peerage.config.adviser_words import check_trained, parse_adviser, parse_members
from peerage.config.fields import describe_interval, hints, is_inside
from peerage.config.methods import LEARNERS, TRUST
from peerage.config.perturbations import Perturbations
from peerage.config.roster import check_federation
from peerage.config.tree import AdviceConfig, Config, RunConfig, public_name, settings
from peerage.errors import UserError
from peerage.text import count, listing


def flag(name: str) -> str:
    """The flag of a setting, by its key."""
    return "--" + public_name(name).replace("_", "-")


def check(config: Config) -> None:
    """Raise a one-line UserError for the first invalid setting."""
    for setting in settings().values():
        if setting.interval is None:
            continue
        part = getattr(config, setting.part) if setting.part else config
        for value in _numbers(getattr(part, setting.name, ())):
            if not is_inside(value, setting.interval):
                raise UserError(f"{flag(setting.key)} must be {describe_interval(setting.interval)}, got {value:g}")
    _check_lengths(config)
    _check_learner(config)
    _check_data(config)
    check_federation(config)
    _check_exchanges(config)
    _check_group(config)
    _check_advice(config.advice)
    _check_run(config.run)
    if not config.env.strip():
        raise UserError("--env is empty; see `peerage envs`")
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", config.device):
        raise UserError(f"--device must be auto, cpu, cuda or cuda:N, got {config.device!r}")


def _numbers(value: object) -> list[float]:
    """The numbers in the value of a field: a number, one per member, or the widths of all networks."""
    if isinstance(value, tuple):
        return [number for item in value for number in _numbers(item)]
    return [value] if isinstance(value, int | float) else []


def _check_lengths(config: Config) -> None:
    per_member = {s.key: getattr(config.learner, s.name) for s in settings().values() if s.part == "learner"}
    per_member |= {name: getattr(config.advice, name) for name in ("temperature", "temperature_decay")}
    for name, values in per_member.items():
        if len(values) not in (0, 1, config.n_peers):
            given = f"{len(values)} values for {count(config.n_peers, 'member')}"
            raise UserError(f"{flag(name)} has {given}; give one value, or one per member")
    for name in ("algorithm", "temperature_decay"):
        if not per_member[name]:
            raise UserError(f"{flag(name)} needs a value")


def _check_learner(config: Config) -> None:
    learner = config.learner
    named = [LEARNERS[name] for name in learner.algorithm if name != "auto"]
    if named and not any(all(method.fits(discrete) for method in named) for discrete in (True, False)):
        needs = [f"{m.name} needs {'Discrete' if m.fits(True) else 'Box'} actions" for m in dict.fromkeys(named)]
        raise UserError(f"--algorithm: {', '.join(needs)}; a group cannot mix them")
    if not all(learner.net_arch):
        raise UserError("--net-arch: a network needs at least one hidden layer, such as 64,64")
    for method in named if "auto" not in learner.algorithm else LEARNERS.methods.values():
        for name in hints(method.settings):  # the constructor of the settings checks each value
            for value in getattr(learner, name) if name != "algorithm" else ():
                method.settings(**{name: value})
    for name in ("load_paths", "init_from"):
        for text in getattr(learner, name):
            if text != "none":
                check_trained(text, f"{flag(name)} {text!r}")


def refuse_target_settings(algorithms: Iterable[str], targets: bool, clip: bool) -> None:
    """Raise UserError if --target-return (`targets`) or --clip-targets (`clip`) is given and none of `algorithms` takes
    a target return."""
    names = sorted(set(algorithms))
    given = "--target-return" if targets else "--clip-targets" if clip else ""
    if given and not any(name in LEARNERS and LEARNERS[name].takes_target for name in names):
        takers = listing([method.name for method in LEARNERS.methods.values() if method.takes_target])
        raise UserError(f"{given} is for {takers or 'algorithms with a target return'}, but this is {listing(names)}")


def is_offline(config: Config) -> bool:
    """Whether the members learn from a dataset."""
    return bool(config.data) or any(name != "auto" and LEARNERS[name].offline for name in config.learner.algorithm)


def _check_data(config: Config) -> None:
    known = ", ".join(name for name in LEARNERS if LEARNERS[name].offline)
    if not is_offline(config):
        for name in ("data_fraction", "data_epochs", "data_fingerprint"):
            if getattr(config, name) not in (None, "", 1.0):
                raise UserError(f"{flag(name)} has no effect without --data: it is for offline algorithms ({known})")
        return
    names = list(dict.fromkeys(config.learner.algorithm))
    if online := [name for name in names if name == "auto" or not LEARNERS[name].offline]:
        if config.data:
            what = "" if online[0] == "auto" else f", and {online[0]} is not one"
            raise UserError(f"--data needs an offline algorithm{what}: use --algorithm with one of {known}")
        raise UserError(f"{names[0]} learns from data and {online[0]} from steps: a group cannot mix them")
    name = names[0]
    if not config.data:
        raise UserError(f"{name} learns from a dataset: add --data NAME|PATH (`peerage data` lists the local ones)")
    unused = {
        "advisers": config.advisers,
        "perturb": config.perturb,
        "exchange": config.exchange,
        "federation": config.federation,
        "sharing": config.advice.sharing == "advice",
        "byzantine_members": config.advice.byzantine_members,
        "eval_modes": "together" in config.run.eval_modes,
    }
    for key, given in unused.items():
        if given:
            raise UserError(f"{flag(key)} has no effect with {name}, whose members learn alone, from data: remove it")


def _check_exchanges(config: Config) -> None:
    if len(set(config.exchange)) < len(config.exchange):
        raise UserError("--exchange names the same exchange twice")
    if config.exchange and config.n_peers == 1 and not config.participants:
        raise UserError("--exchange needs at least two members: use --n-peers 2, or remove it")


def _check_group(config: Config) -> None:
    for adviser in config.advisers:
        parse_adviser(adviser, f"--advisers {adviser!r}")
    if Perturbations.of(config.perturb).dropped_advice and config.advice.sharing == "none":
        raise UserError("--perturb dropped_advice cannot be used with --sharing none: remove one of the two")
    if config.advice.byzantine_members:
        parse_members(config.advice.byzantine_members, config.n_peers)
        if config.advice.sharing == "none" or config.n_peers == 1:
            raise UserError("--byzantine-members needs --sharing advice and at least two members")
    if config.advice.sharing == "none" and config.advisers:
        raise UserError("--advisers cannot be used with --sharing none: remove one of the two")


def _check_advice(advice: AdviceConfig) -> None:
    if (advice.epsilon or 0) + (advice.self_share or 0) > 1:
        raise UserError("--epsilon and --self-share are shares of the same choices: their sum must be at most 1")


def _check_run(run: RunConfig) -> None:
    name = run.exp_name
    if name is not None and (not re.fullmatch(r"[^/\\\0\n\r]+", name) or name.strip(". ") == ""):
        raise UserError(f"--exp-name must be the name of a folder, without slashes, got {name!r}")
    if not run.log_dir.strip() or "\0" in run.log_dir:
        raise UserError("--log-dir is empty or cannot be a path")
    if "alone" not in run.eval_modes or len(set(run.eval_modes)) < len(run.eval_modes):
        given = " ".join(run.eval_modes) or "nothing"
        raise UserError(f"--eval-modes must be alone, with or without together and test, got {given}")
    for text in run.callback:
        if not re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", text):
            raise UserError(f"--callback must be MODULE:CLASS, such as my_module:MyListener, got {text!r}")
    if run.keep_best and not run.eval_freq:
        raise UserError("--keep-best needs evaluations: set --eval-freq above 0")
    if run.use_wandb and not run.wandb_project.strip():
        raise UserError("--wandb-project is empty")


def refuse_unused_trust_settings(advice: AdviceConfig, given: Iterable[str], n_advisers: int) -> None:
    """Raise UserError if one of the settings `given` (keys) has no effect, because the group learns neither trust by
    temporal differences nor agent values. `advice` has its defaults filled in."""
    why = without_td(advice, n_advisers)
    for key in given:
        if why and key in TD_SETTINGS:
            more = f"; {LEARNERS_RATE}" if key == "lr" else ""
            raise UserError(f"{flag(key)} has no effect with {why}: leave it out{more}")


def refuse_imitation_alone(advice: AdviceConfig, n_advisers: int) -> None:
    """Raise UserError for a training in which members imitate, but get no advice. Members that are restored without
    their advisers keep `imitate`, which determines their networks. `advice` has its defaults filled in."""
    if advice.imitate != "none" and (advice.sharing == "none" or n_advisers < 2):
        raise UserError(
            "--imitate needs advisers: use --sharing advice with --n-peers 2 or more, or add --advisers; or remove it"
        )


def without_td(advice: AdviceConfig, n_advisers: int) -> str:
    """Why a group with `n_advisers` advisers learns neither trust by temporal differences nor agent values; empty if
    it does. `advice` has its defaults filled in. Registered kinds of trust may use all settings."""
    if advice.sharing == "none":
        return "--sharing none"
    if n_advisers < 2:
        return "a single member without advisers"
    if advice.choice == "uniform":
        return "--choice uniform"
    if not advice.use_trust:
        return "" if advice.use_agent_values else "--no-use-trust and --no-use-agent-values"
    assert advice.trust is not None
    method = TRUST[advice.trust]
    learns = advice.use_agent_values or "td" in method.needs or not method.is_builtin
    return "" if learns else f"--trust {advice.trust} without --use-agent-values"


LEARNERS_RATE = "the learning rate of the learners is --learning-rate"
TD_SETTINGS = ("lr", "init_trust_values", "init_agent_values", "trust_batch_size")
"""Settings of trust by temporal differences and of agent values."""
