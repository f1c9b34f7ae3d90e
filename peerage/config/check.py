"""What must hold for a configuration to make sense, as far as it can be known without an environment."""

from __future__ import annotations

import math
import re

from peerage.config import PARTS, AdviceConfig, Config, LearnerConfig, RunConfig
from peerage.errors import UserError

ADVISERS = ("expert", "adversary", "random", "constant", "negated", "sign-flip", "noise", "colluding", "checkpoint")

# Field -> interval; a bracket includes its end, a parenthesis does not.
INTERVALS: dict[str, str] = {
    "n_peers": "[1, 64]",
    "replicas": "[1, 10000]",
    "seed": "[0, inf)",
    "total_timesteps": "[1, inf)",
    "n_epochs": "[1, inf)",
    "epoch_length": "[1, inf)",
    "threads": "[1, 1024]",
    "learning_rate": "(0, inf)",
    "batch_size": "[1, inf)",
    "buffer_size": "[1, inf)",
    "learning_starts": "[0, inf)",
    "train_freq": "[1, inf)",
    "gradient_steps": "[1, inf)",
    "tau": "(0, 1]",
    "gamma": "[0, 1]",
    "net_arch": "[1, inf)",
    "target_update_interval": "[1, inf)",
    "exploration_fraction": "[0, 1]",
    "exploration_final_eps": "[0, 1]",
    "action_noise": "[0, inf)",
    "max_grad_norm": "[0, inf)",
    "follow_steps": "[1, inf)",
    "switch_ratio": "[0, inf)",
    "max_peer_epochs": "[0, inf)",
    "epsilon": "[0, 1]",
    "self_share": "[0, 1]",
    "temperature": "[1e-6, 1e6]",
    "temperature_decay": "[0, inf)",
    "lr": "(0, 1]",
    "trust_buffer_size": "[1, inf)",
    "trust_batch_size": "[1, inf)",
    "attention_lr": "(0, inf)",
    "attention_update_freq": "[1, inf)",
    "attention_batch_size": "[1, inf)",
    "sequence_length": "[2, 200]",
    "attention_history": "[2, inf)",
    "warmup_steps": "[1, inf)",
    "max_attention_weight": "[0, 1]",
    "context_lr": "(0, inf)",
    "context_update_freq": "[1, inf)",
    "context_batch_size": "[1, inf)",
    "context_length": "[2, 200]",
    "context_history": "[2, inf)",
    "context_hide_identity": "[0, 1]",
    "eval_freq": "[0, inf)",
    "n_eval_episodes": "[1, inf)",
    "log_freq": "[1, inf)",
    "checkpoint_freq": "[0, inf)",
    "keep_checkpoints": "[1, inf)",
    "verbose": "[0, 2]",
}


def flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def check(config: Config) -> None:
    """Raise a one-line UserError for the first thing that is wrong."""
    for part in (getattr(config, part) if part else config for part in PARTS):
        for name, interval in INTERVALS.items():
            for value in _numbers(getattr(part, name, ())):
                if not inside(value, interval):
                    raise UserError(f"{flag(name)} must be {_in_words(interval)}, got {value:g}")
    _check_lengths(config)
    _check_learner(config.learner)
    _check_group(config)
    _check_advice(config.advice, config.n_peers + len(config.advisers))
    _check_run(config.run)
    if not config.env.strip():
        raise UserError("--env is empty; see `peerage envs`")
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", config.device):
        raise UserError(f"--device must be auto, cpu, cuda or cuda:N, got {config.device!r}")


def _numbers(value: object) -> list[float]:
    """The numbers in a field: itself, the members' values, or the widths of all networks."""
    if isinstance(value, tuple):
        return [number for item in value for number in _numbers(item)]
    return [value] if isinstance(value, int | float) else []


def inside(value: float, interval: str) -> bool:
    low, high = (float(end) for end in interval[1:-1].split(","))
    above = value >= low if interval[0] == "[" else value > low
    below = value <= high if interval[-1] == "]" else value < high
    return above and below


def _in_words(interval: str) -> str:
    if interval.endswith("inf)"):
        low = interval[1:-1].split(",")[0]
        return f"at least {low}" if interval[0] == "[" else f"above {low}"
    return f"in {interval}"


def _check_lengths(config: Config) -> None:
    per_member = {name: getattr(config.learner, name) for name in LearnerConfig.__dataclass_fields__}
    per_member |= {name: getattr(config.advice, name) for name in ("temperature", "temperature_decay")}
    for name, values in per_member.items():
        if len(values) not in (0, 1, config.n_peers):
            given = f"{len(values)} values for {config.n_peers} members"
            raise UserError(f"{flag(name)} has {given}; give one, or one for each")
    for name in ("algorithm", "temperature_decay"):
        if not per_member[name]:
            raise UserError(f"{flag(name)} needs a value")


def _check_learner(learner: LearnerConfig) -> None:
    if "dqn" in learner.algorithm and {"sac", "td3"} & set(learner.algorithm):
        raise UserError("--algorithm: dqn needs Discrete actions, sac and td3 Box; a group cannot mix them")
    if not all(learner.net_arch):
        raise UserError("--net-arch: a network needs at least one hidden layer, such as 64,64")
    for text in learner.ent_coef:
        if not _is_ent_coef(text):
            raise UserError(f"--ent-coef must be auto, auto_X with X above 0, or a number >= 0, got {text!r}")
    for text in learner.load_paths:
        if text != "none":
            _check_path(text, f"--load-paths {text!r}")


def _is_ent_coef(text: str) -> bool:
    if text == "auto":
        return True
    start = text.removeprefix("auto_")
    try:
        value = float(start)
    except ValueError:
        return False
    return math.isfinite(value) and (value > 0 if start != text else value >= 0)


def _check_path(text: str, where: str) -> None:
    """`PATH` or `PATH:MEMBER`; whether it exists is for the reader of it to say."""
    path, colon, member = text.rpartition(":")
    if not colon:
        path = text
    elif not member.isdecimal() and "/" not in member and "\\" not in member:
        raise UserError(f"{where}: after the last colon stands a member's number, got {member!r}")
    if not path.strip() or "\0" in text:
        raise UserError(f"{where}: the path is empty or cannot be a path")


def check_adviser(text: str, where: str = "") -> None:
    """Only the form: whether a name is registered is known when the group is built."""
    where = where or f"--advisers {text!r}"
    name, colon, rest = text.partition(":")
    if not re.fullmatch(r"[A-Za-z_][\w.-]*", name):
        raise UserError(f"{where}: no adviser can have this name ({', '.join(ADVISERS)}, or a registered one)")
    if name in ("negated", "sign-flip", "noise"):
        if not rest:
            raise UserError(f"{where}: say which adviser, as in {name}:expert")
        if text.count(":") > 16:
            raise UserError(f"{where}: too many advisers in one another")
        scale, _, inner = rest.partition(":")
        check_adviser(inner if name == "noise" and _is_number(scale) else rest, where)
    elif name == "checkpoint":
        if not rest:
            raise UserError(f"{where}: say which run or file, as in checkpoint:experiments/my-run:0")
        _check_path(rest, where)
    elif name == "constant" and colon and not _is_number(rest):
        raise UserError(f"{where}: expected a number after constant:, got {rest!r}")
    elif name in ("expert", "adversary", "random") and colon:
        raise UserError(f"{where}: {name} takes nothing after a colon")


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def _check_group(config: Config) -> None:
    for adviser in config.advisers:
        check_adviser(adviser)
    if config.perturb:
        from peerage.envs.perturbed import Perturbations

        if Perturbations.of(config.perturb).dropped_advice and config.advice.sharing == "none":
            raise UserError("--perturb dropped_advice with --sharing none: there is no advice; leave one out")
    if config.advice.byzantine_members:
        from peerage.sharing.byzantine import parse_members

        parse_members(config.advice.byzantine_members, config.n_peers)
        if config.advice.sharing == "none" or config.n_peers == 1:
            raise UserError("--byzantine-members: nobody would hear them; it takes --sharing advice and two members")
    if config.advice.sharing == "none" and config.advisers:
        raise UserError("--advisers with --sharing none: nobody would listen; leave one of the two out")


def _check_advice(advice: AdviceConfig, n_advisers: int) -> None:
    if advice.sharing != "none" and advice.only_follow_others and n_advisers < 2:
        raise UserError("--only-follow-others needs at least two advisers, members and fixed ones together")
    if (advice.epsilon or 0) + (advice.self_share or 0) > 1:
        raise UserError("--epsilon and --self-share are shares of the same choices: together at most 1")


def _check_run(run: RunConfig) -> None:
    name = run.exp_name
    if name is not None and (not re.fullmatch(r"[^/\\\0\n\r]+", name) or name.strip(". ") == ""):
        raise UserError(f"--exp-name must be the name of a folder, without slashes, got {name!r}")
    if not run.log_dir.strip() or "\0" in run.log_dir:
        raise UserError("--log-dir is empty or cannot be a path")
    if "alone" not in run.eval_modes or len(set(run.eval_modes)) < len(run.eval_modes):
        given = " ".join(run.eval_modes) or "nothing"
        raise UserError(f"--eval-modes must be alone, or alone and together, got {given}")
    if run.use_wandb and not run.wandb_project.strip():
        raise UserError("--wandb-project is empty")
