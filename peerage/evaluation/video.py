"""Videos of a trained member: a GIF or MP4 file, or a window.

    from peerage.evaluation import video

    video.record("experiments/my-run", "lander.gif", member=0, episodes=2)
"""

from __future__ import annotations

import math
import os
import sys
import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from peerage.config.adviser_words import checkpoint_word
from peerage.envs.make import EnvMaker, Maker
from peerage.envs.success import SuccessRule
from peerage.envs.vector import EnvGroup, Step
from peerage.errors import UserError
from peerage.evaluation.evaluate import SEED, Actor, episode_seeds, limit_episodes, play
from peerage.evaluation.folder import acting_for, model_and_environment
from peerage.evaluation.targets import targets_of
from peerage.evaluation.video_files import VideoFile, video_file
from peerage.interop.hf_dt import is_hf
from peerage.nets import workers
from peerage.text import first_line
from peerage.training.restore import restore

FPS = 30
"""Frames per second if the environment does not define it."""
MAX_FRAMES = 1000


@dataclass(frozen=True)
class Video:
    """What was recorded."""

    path: Path
    frames: int
    returns: list[float]
    """Return of every complete episode."""


class _Acting(NamedTuple):
    """Who acts."""

    member: int
    replica: int
    target: float | None
    """Target return; None: the default one."""
    clip: bool
    """Whether targets are limited to the range of the data."""


class _FrameLimit(Exception):
    """The maximum number of frames was reached."""


class _RecordedActor(Actor):
    """Adds an image to `file` before every `every`th action of another actor, at most `max_frames`. Without a file,
    nothing is rendered."""

    parallel = False

    def __init__(self, actor: Actor, envs: EnvGroup, file: VideoFile | None, every: int, max_frames: int) -> None:
        self.actor, self.envs, self.file, self.every, self.max_frames = actor, envs, file, every, max_frames
        self.steps = 0
        self.returns: list[float] = []

    def act(self, obs: np.ndarray) -> np.ndarray:
        if self.file is not None and self.steps % self.every == 0:
            picture = self._picture()
            if self.file.frames == self.max_frames:
                raise _FrameLimit
            self.file.add(picture)
        self.steps += 1
        return self.actor.act(obs)

    def _picture(self) -> Any:
        try:
            return self.envs.envs[0].render()
        except Exception as error:  # rendering needs drivers and packages that may be missing
            hint = ""
            if isinstance(error, NotImplementedError):
                hint = "; its method render must return an image"
            elif "mujoco" in sys.modules:
                hint = "; MuJoCo needs a screen, or MUJOCO_GL=egl and a driver of EGL, such as that of Mesa"
            raise UserError(f"{self.envs.names[0]} cannot be rendered: {first_line(error)}{hint}") from error

    def begin(self, n: int) -> None:
        self.actor.begin(n)

    def observe_step(self, step: Step) -> None:
        self.actor.observe_step(step)
        self.returns += [episode.return_ for episode in step.episodes]


def record(
    run: Path | str,
    out: Path | str | None = None,
    *,
    member: int = 0,
    replica: int = 0,
    episodes: int = 1,
    seed: int | None = None,
    checkpoint: str | int = "",
    max_frames: int = MAX_FRAMES,
    overwrite: bool = False,
    target_return: float | None = None,
    clip_targets: bool = False,
    env: Maker | None = None,
) -> Video:
    """Play `episodes` episodes of a member without exploration and write them as a GIF or MP4.

    `run`: a run folder, or a folder of Hugging Face's DecisionTransformerModel, which has one member and needs `env` if
    it does not name its environment. `out`: the file, which ends in .gif or .mp4 (extra `video`); by default
    `member-<i>-replica-<r>[-<checkpoint>].gif` in the run folder. Evaluations start from the same states, unless `seed`
    is given. `checkpoint`: `"best"` or a step; by default the newest. The video ends after `max_frames` frames, at
    least 1. An environment with more than 50 frames per second (MP4: 60) is shown at its speed with every second frame,
    or fewer. `target_return`: for members that act for one; by default the first one of the run's evaluations.
    `clip_targets` limits it and returns-to-go to the range of the data.

    Raises UserError if the file exists and `overwrite` is false, for a member that does not exist, and for an
    environment that cannot be rendered.
    """
    which = checkpoint_word(checkpoint)
    name = f"member-{member}-replica-{replica}{f'-{which}' if which else ''}.gif"
    path = Path(out) if out is not None else Path(run) / name
    if max_frames < 1:
        raise UserError(f"max_frames must be at least 1, got {max_frames}")
    file = video_file(path)
    if path.exists() and not overwrite:
        raise UserError(f"{path} exists: choose another file with --out, or replace it with --overwrite")
    if not path.parent.is_dir():
        raise UserError(f"{path.parent} is not a folder: create it first")
    use_egl()
    try:
        actor = _Acting(member, replica, target_return, clip_targets)
        returns = _play(run, "rgb_array", file, max_frames, actor, episodes, seed, which, env)
        file.finish()
    except BaseException:
        file.discard()
        raise
    return Video(path, file.frames, returns)


def use_egl() -> None:
    """Let MuJoCo render with EGL on a Linux machine without a screen, where its default fails. A user's setting of
    MUJOCO_GL is kept."""
    if sys.platform.startswith("linux") and not _has_screen():
        os.environ.setdefault("MUJOCO_GL", "egl")


def _has_screen() -> bool:
    return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def watch(
    run: Path | str,
    *,
    member: int = 0,
    replica: int = 0,
    episodes: int = 1,
    seed: int | None = None,
    checkpoint: str | int = "",
    target_return: float | None = None,
    clip_targets: bool = False,
    env: Maker | None = None,
) -> list[float]:
    """Show a member in a window; arguments as of `record`. Returns the return of every episode. Raises UserError
    without a screen."""
    if sys.platform.startswith("linux") and not _has_screen():
        raise UserError("there is no screen: use `peerage video` to write a file")
    # In this mode, `reset` and `step` of an environment render and wait between frames.
    actor = _Acting(member, replica, target_return, clip_targets)
    return _play(run, "human", None, MAX_FRAMES, actor, episodes, seed, checkpoint_word(checkpoint), env)


@dataclass(frozen=True)
class _Scene:
    """One environment and the member that acts in it."""

    maker: EnvMaker
    actor: Actor
    seeds: list[int]
    """Of the episodes."""
    max_steps: int | None
    """The maximum length of an episode, as of `limit_episodes`."""
    success: SuccessRule = "last"
    clock: int = 0
    """The step of the training, for environments that change."""
    close: Callable[[], None] = lambda: None


def _of_run(
    run: Path | str, actor: _Acting, episodes: int, seed: int | None, which: str, env: Maker | None
) -> _Scene:
    trainer = restore(run, "policies", env=env, which=which).trainer
    try:
        workers.configure(trainer.threads)
        if not (0 <= actor.member < trainer.N and 0 <= actor.replica < trainer.R):
            raise UserError(f"{run} has members 0 to {trainer.N - 1} and replicas 0 to {trainer.R - 1}")
        row = actor.replica * trainer.N + actor.member
        targets = targets_of(
            trainer.group, trainer.config, [] if actor.target is None else [actor.target], clip=actor.clip
        )
        for message in targets.messages:
            _warn(message)
        seeds = episode_seeds(trainer.config, episodes, SEED if seed is None else seed)[row]
    except UserError:
        trainer.close()
        raise
    settings = trainer.config.run
    return _Scene(
        trainer.evaluation_makers[row],
        targets.member(row),
        seeds,
        settings.max_eval_steps,
        settings.success,
        trainer.step,
        trainer.close,
    )


def _of_folder(
    folder: Path | str, actor: _Acting, episodes: int, seed: int | None, which: str, env: Maker | None
) -> _Scene:
    if actor.member or actor.replica or which:
        raise UserError(f"{folder} is a folder with a single model: remove --member, --replica and --checkpoint")
    model, maker = model_and_environment(folder, env)
    acting = acting_for(folder, model, actor.target, clip=actor.clip, say=_warn)
    first = SEED if seed is None else seed
    return _Scene(maker, acting, list(range(first, first + episodes)), None)


def _warn(message: str) -> None:
    warnings.warn(message, stacklevel=2)


def _play(
    run: Path | str,
    mode: str,
    file: VideoFile | None,
    max_frames: int,
    actor: _Acting,
    episodes: int,
    seed: int | None,
    which: str,
    env: Maker | None,
) -> list[float]:
    """Play the episodes and add their images to `file`. Returns the return of every complete episode."""
    scene = (_of_folder if is_hf(Path(run)) else _of_run)(run, actor, episodes, seed, which, env)
    maker = replace(scene.maker, env_args={**scene.maker.env_args, "render_mode": mode})
    try:
        envs = EnvGroup([maker], [scene.seeds], success=scene.success, batched=False)
    except UserError as error:
        scene.close()
        if "argument" in str(error):  # it was just built without this argument
            raise UserError(f"{error}; a video needs an environment with an argument render_mode") from error
        raise
    try:
        limit_episodes(envs, scene.max_steps, scene.actor.max_steps)
        envs.set_clock(scene.clock, running=False)
        every = 1
        if file is not None:
            fps = float(envs.envs[0].metadata.get("render_fps") or FPS)
            every = math.ceil(fps / file.max_fps)
            file.rate = fps / every
        recorded = _RecordedActor(scene.actor, envs, file, every, max_frames)
        with suppress(_FrameLimit):
            play(envs, recorded, episodes, rest=True)
        return recorded.returns
    finally:
        envs.close()
        scene.close()
