"""The Python interface. It corresponds to the command line, but environments and advisers may also be Python objects.

Importing this module does not import torch and pandas: modules that need them are imported when they are used.
"""

from __future__ import annotations

import functools
import json
import re
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, ParamSpec, TypeVar, get_args, get_origin

from peerage.config import Config, with_settings
from peerage.config.adviser_words import checkpoint_word
from peerage.config.check import flag as flag_of
from peerage.config.file import load as load_config
from peerage.config.file import validate, with_members
from peerage.config.tree import Setting, key_of, public_name
from peerage.config.tree import settings as all_settings
from peerage.errors import UserError
from peerage.learners.defaults import refuse_unused_settings
from peerage.loading import deferred
from peerage.runs.folder import RunFolder
from peerage.runs.listeners import Listener
from peerage.runs.tables import evaluation_table, read_advice, read_evaluations, read_metrics

if TYPE_CHECKING:
    import pandas as pd

    from peerage.envs.make import Maker
    from peerage.evaluation.importance import Importance
    from peerage.evaluation.policy import Policy
    from peerage.sharing.adviser import Suggests

_run_training = deferred("peerage.session:run_training")
_resume = deferred("peerage.session:resume")
_evaluate_run = deferred("peerage.session:evaluate_run")
_policy_of = deferred("peerage.evaluation.policy:policy_of")
_importance = deferred("peerage.evaluation.importance:importance")
_record = deferred("peerage.evaluation.video:record")
_write_report = deferred("peerage.reports.report:write_report")

ARGUMENTS = {"--stretch-schedules": "stretch_schedules=True", "--checkpoint": "checkpoint", "--out": "out"}
"""Flags of the command line that are arguments in Python, but not settings."""
P = ParamSpec("P")
T = TypeVar("T")


def python_names(text: str) -> str:
    """An error message of the command line with the names of Python: `--n-peers 2` becomes `n_peers=2`, and
    `peerage resume RUN` becomes `peerage.resume("RUN")`.

    Only flags of settings and `ARGUMENTS` are replaced. A number or a known word after a flag becomes its value.
    """
    known = {flag_of(key): setting for key, setting in all_settings().items()}

    def python_name(found: re.Match[str]) -> str:
        flag, value = found["flag"], found["value"]
        if flag in ARGUMENTS:
            return found[0].replace(flag, ARGUMENTS[flag], 1)
        negated = flag not in known and flag.startswith("--no-")
        setting = known.get(f"--{flag.removeprefix('--no-')}" if negated else flag)
        if setting is None or (negated and not _is_switch(setting)):
            return found[0]
        rest = f" {value}" if value else ""
        name = public_name(setting.key)
        if _is_switch(setting):
            return f"{name}={not negated}{rest}"
        if value in _words(setting):
            return f'{name}="{value}"'
        if value and setting.hint is str and re.fullmatch(r"[A-Z]+(\|[A-Z]+)*", value):  # NAME|PATH
            return f'{name}="{value.partition("|")[0]}"'
        if not value or not re.match(r"-?\d", value):
            return f"{name}{rest}"
        return f"{name}=({value.replace(',', ', ')})" if "," in value else f"{name}={value}"

    text = re.sub(r"`peerage resume (?P<path>[^`]+)`", _resume_call, text)
    return re.sub(r"(?<![\w-])(?P<flag>--[a-z][a-z0-9-]*)(?: (?P<value>(?!--)[\w.+,|-]*\w))?", python_name, text)


def _resume_call(found: re.Match[str]) -> str:
    """The call that does what a command `peerage resume RUN` does; other commands are returned unchanged."""
    words = shlex.split(found["path"])
    return f"`peerage.resume({json.dumps(words[0])})`" if len(words) == 1 else found[0]


def _is_switch(setting: Setting) -> bool:
    return bool in (setting.hint, *get_args(setting.hint))


def _words(setting: Setting) -> tuple[Any, ...]:
    """The words that a setting accepts; empty unless they are listed."""
    found = [setting.hint, *get_args(setting.hint)]
    return tuple(word for hint in found if get_origin(hint) is Literal for word in get_args(hint))


def _with_python_names(call: Callable[P, T]) -> Callable[P, T]:
    """`call` with errors that name settings as in Python. A Ctrl-C in a training leaves it as a KeyboardInterrupt
    whose message says how to continue, without the traceback of Peerage's own code."""

    @functools.wraps(call)
    def translated(*args: P.args, **named: P.kwargs) -> T:
        try:
            return call(*args, **named)
        except UserError as error:
            error.args = (python_names(str(error)),)
            raise
        except KeyboardInterrupt as error:
            if then := getattr(error, "then", ""):
                raise KeyboardInterrupt(f"interrupted; {python_names(then)}") from None
            raise

    return translated


@_with_python_names
def train(
    env: str | Maker | None = None,
    *,
    advisers: Sequence[str | Suggests] | None = None,
    config: Config | str | Path | None = None,
    listeners: Sequence[Listener] = (),
    **settings: Any,
) -> Run:
    """Train a group and return its run.

    Args:
        env: a Gymnasium id, `module:function`, or a function or class that makes an environment. If it can be imported,
            it is recorded as `module:function`; otherwise (a lambda, a local function, one of the main program)
            `resume`, `evaluate` and `policy` need it again: `peerage.load(folder, env=...)`.
        advisers: names as on the command line, or objects with a `suggest` method
            (`peerage.Adviser`).
        config: the configuration to start from: a `Config`, a YAML file, a preset or a run folder.
        listeners: objects that receive the log of the training (`peerage.runs.Listener`).
        settings: fields of `peerage.config` by name (`n_peers=4, learning_rate=1e-3, choice="paper"`), which override
            `config`; one value for all members, or a tuple with one value per member.

    Raises UserError for an invalid setting, before anything is written.
    """
    if isinstance(advisers, str):
        advisers = [advisers]
    if isinstance(env, str):
        settings["env"], env = env, None
    data = settings.get("data")
    if isinstance(data, Path):
        settings["data"] = str(data)
    elif hasattr(data, "save"):  # Trajectories, which need imports
        raise UserError('data is in memory: save it with data.save("NAME"), and train with data="NAME"')
    if advisers is not None and all(isinstance(a, str) for a in advisers):
        settings["advisers"], advisers = tuple(advisers), None

    def configured(base: Config) -> Config:
        start = base if config is None else config if isinstance(config, Config) else load_config(config, base)
        return with_settings(start, settings)

    checked = validate(with_members(configured))
    given = [key_of(name) for name, value in settings.items() if value != ()]
    refuse_unused_settings(checked, given)
    folder = _run_training(checked, given=given, env=env, advisers=advisers, listeners=listeners)
    return Run(folder, env=env, advisers=advisers)


@_with_python_names
def resume(
    run: Run | str | Path,
    *,
    total_timesteps: int | None = None,
    stretch_schedules: bool = False,
    listeners: Sequence[Listener] = (),
    **settings: Any,
) -> Run:
    """Continue a run from its newest checkpoint. A finished run stays as it is.

    Args:
        run: a `Run`, or its folder.
        total_timesteps: extends the run, finished or not, to this number of steps per member. By default an interrupted
            run is continued to the length that it was started with.
        stretch_schedules: extend the run although schedules depend on its length, such as DQN's exploration; from then
        on they follow the new length. Without it, such a run is refused. listeners: as in `train`. settings: fields of
        `RunConfig` that do not affect the training, `device` and `threads`.

    Raises UserError, before anything is written.
    """
    run = run if isinstance(run, Run) else load(run)
    objects: dict[str, Any] = {"env": run.env, "advisers": run.advisers, "listeners": listeners}
    longer: dict[str, Any] = {"total_timesteps": total_timesteps, "stretch_schedules": stretch_schedules}
    _resume(run.folder, **objects, **longer, say=_say, **settings)
    return run


def _say(line: str) -> None:
    print(python_names(line))


def load(
    folder: str | Path, *, env: Maker | None = None, advisers: Sequence[str | Suggests] | None = None
) -> Run:
    """The run in `folder`. Raises UserError if there is none.

    A run that was trained with an environment or advisers given as objects needs the same objects to act, evaluate or
    resume.
    """
    return Run(RunFolder.open(folder).path, env=env, advisers=advisers)


@dataclass(frozen=True)
class Run:
    """A training on disk. The tables are pandas DataFrames with the columns of docs/run-folder.md."""

    folder: Path
    env: Maker | None = None
    advisers: Sequence[str | Suggests] | None = None

    @property
    def config(self) -> Config:
        """The resolved configuration, with every default filled in: `run.config.learner.gamma`."""
        return RunFolder.open(self.folder).resolved()

    @property
    def evaluations(self) -> pd.DataFrame:
        """Every evaluation episode: step, replica, member, episode, return, length, success, mode (`alone` or
        `together`, see `RunConfig.eval_modes`, or `targets`), target."""
        return read_evaluations(self.folder, mode=None)

    @property
    def metrics(self) -> pd.DataFrame:
        """The training metrics: step, replica, member, name, value."""
        return read_metrics(self.folder)

    @property
    def advice(self) -> pd.DataFrame:
        """The advice log: a row per step, replica, asker and adviser, with the choices and the values behind them."""
        return read_advice(self.folder)

    @_with_python_names
    def report(self) -> Path:
        """Draw the figures and write report.html; returns its path."""
        path: Path = _write_report(self.folder)
        return path

    @_with_python_names
    def evaluate(
        self,
        episodes: int = 10,
        *,
        checkpoint: str | int = "",
        seed: int | None = None,
        members: Sequence[int] | None = None,
        max_eval_steps: int | None = None,
        target_return: float | Sequence[float] = (),
        clip_targets: bool = False,
    ) -> pd.DataFrame:
        """Evaluate the newest checkpoint: every member alone, without exploration.

        Args:
            episodes: episodes per member.
            checkpoint: `"best"` (see `RunConfig.keep_best`) or a step selects another checkpoint than the newest.
            seed: seed of the episodes; by default that of the run's evaluations.
            members: numbers of the members to evaluate; by default all.
            max_eval_steps: the longest episode in steps; by default that of the run's evaluations.
            target_return: one or several target returns, for algorithms that act for one; by default those of the run.
            clip_targets: limit targets and returns-to-go to the range of the data.

        Returns:
            A row per episode with the columns of `evaluations`: step (of the checkpoint), replica, member
            (`member-0`), episode (from 0), return (sum of rewards), length (steps), success (1.0, 0.0, or NaN if the
            environment did not report it), mode (`alone`; `targets` for the second and later targets), target.
        """
        more: dict[str, Any] = {"which": checkpoint_word(checkpoint), "max_steps": max_eval_steps, "env": self.env}
        more |= {"target_return": target_return, "clip_targets": clip_targets}
        found = _evaluate_run(self.folder, episodes, seed, members, **more)
        return evaluation_table(found.step, found.rows)

    @_with_python_names
    def video(
        self,
        out: Path | str | None = None,
        *,
        member: int = 0,
        replica: int = 0,
        episodes: int = 1,
        seed: int | None = None,
        checkpoint: str | int = "",
        max_frames: int = 1000,
        overwrite: bool = False,
        target_return: float | None = None,
        clip_targets: bool = False,
    ) -> Path:
        """Write a GIF or MP4 of a member, which acts alone and without exploration, and return its path.

        Args:
            out: the file, which ends in .gif or .mp4 (extra `video`); by default
                `member-<i>-replica-<r>[-<checkpoint>].gif` in the run folder.
            member: number of the member.
            replica: number of the replica.
            episodes: number of episodes.
            seed: seed of the episodes; by default they start as those of `evaluate`.
            checkpoint: as in `evaluate`.
            max_frames: the largest number of frames, at least 1.
            overwrite: whether to replace an existing file.
            target_return: for a member that acts for one; by default the first one of the run's evaluations.
            clip_targets: limit the target and returns-to-go to the range of the data.

        Raises UserError if the file exists, and for an environment that cannot be rendered.
        """
        which: dict[str, Any] = {"member": member, "replica": replica, "checkpoint": checkpoint, "env": self.env}
        played: dict[str, Any] = {"episodes": episodes, "seed": seed, "max_frames": max_frames, "overwrite": overwrite}
        targets: dict[str, Any] = {"target_return": target_return, "clip_targets": clip_targets}
        path: Path = _record(self.folder, out, **which, **played, **targets).path
        return path

    @_with_python_names
    def policy(self, member: int = 0, replica: int = 0, *, checkpoint: str | int = "") -> Policy:
        """The policy of a trained member: `action = run.policy(0)(obs)` for one observation `[obs]` or a batch
        `[B, obs]`. `checkpoint` as in `evaluate`."""
        policy: Policy = _policy_of(self.folder, member, replica, self.env, checkpoint_word(checkpoint))
        return policy

    @_with_python_names
    def attention(self, member: int = 0, replica: int = 0, **settings: Any) -> Importance:
        """What a member attends to, and what its policy depends on: attention weights, occlusion, gradients and
        deletion curves, as of `peerage attention`.

        `settings`: `checkpoint`, `episodes`, `seed`, `of`, `deletion`, as of
        `peerage.evaluation.importance.importance`.
        """
        found: Importance = _importance(self.folder, member=member, replica=replica, env=self.env, **settings)
        return found
