"""Videos of a trained member: a GIF file, or a window.

    from peerage.evaluation import video

    video.record("experiments/my-run", "lander.gif", member=0, episodes=2)
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from peerage.config.adviser_words import checkpoint_word
from peerage.envs.make import Maker
from peerage.envs.vector import EnvGroup, Step
from peerage.errors import UserError
from peerage.evaluation.actors import MemberActor
from peerage.evaluation.evaluate import SEED, Actor, episode_seeds, limit_episodes, play
from peerage.nets import workers
from peerage.text import first_line
from peerage.training.restore import restore

FPS = 30
"""Frames per second if the environment does not define it."""
GIF_FPS = 50
"""The maximum frame rate of a GIF that viewers show at the right speed: they round delays to hundredths of a second."""
MAX_FRAMES = 1000


@dataclass(frozen=True)
class Video:
    """What was recorded."""

    path: Path
    frames: int
    returns: list[float]
    """Return of every complete episode."""


class _FrameLimit(Exception):
    """The maximum number of frames was reached."""


class _RecordedActor(Actor):
    """Calls `frame(image)` before every `every`th action of another actor; None: nothing is rendered."""

    parallel = False

    def __init__(self, actor: Actor, envs: EnvGroup, frame: Callable[[Any], None] | None, every: int) -> None:
        self.actor, self.envs, self.frame, self.every = actor, envs, frame, every
        self.steps = 0
        self.returns: list[float] = []

    def act(self, obs: np.ndarray) -> np.ndarray:
        if self.frame is not None and self.steps % self.every == 0:
            self.frame(self._picture())
        self.steps += 1
        return self.actor.act(obs)

    def _picture(self) -> Any:
        try:
            return self.envs.envs[0].render()
        except Exception as error:  # rendering needs drivers and packages that may be missing
            hint = "; MuJoCo needs a screen, or MUJOCO_GL=egl or osmesa" if "mujoco" in sys.modules else ""
            if isinstance(error, NotImplementedError):
                hint = "; its method render must return an image"
            raise UserError(f"{self.envs.names[0]} cannot be rendered: {first_line(error)}{hint}") from error

    def observe_step(self, step: Step) -> None:
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
    env: Maker | None = None,
) -> Video:
    """Play `episodes` episodes of a member without exploration and write them as a GIF.

    `out`: the file; by default `member-<i>-replica-<r>[-<checkpoint>].gif` in the run folder. Evaluations start from
    the same states, unless `seed` is given. `checkpoint`: `"best"` or a step; by default the newest. The video ends
    after `max_frames` frames, at least 1. An environment with more than 50 frames per second is shown at its speed with
    every second frame, or fewer.

    Raises UserError if the file exists and `overwrite` is false, for a member that does not exist, and for an
    environment that cannot be rendered.
    """
    which = checkpoint_word(checkpoint)
    name = f"member-{member}-replica-{replica}{f'-{which}' if which else ''}.gif"
    path = Path(out) if out is not None else Path(run) / name
    if max_frames < 1:
        raise UserError(f"max_frames must be at least 1, got {max_frames}")
    if path.suffix.lower() != ".gif":
        raise UserError(f"{path} must end in .gif: videos are written as GIF")
    if path.exists() and not overwrite:
        raise UserError(f"{path} exists: choose another file with --out, or replace it with --overwrite")
    if not path.parent.is_dir():
        raise UserError(f"{path.parent} is not a folder: create it first")
    pictures: list[Image.Image] = []

    def add(picture: Any) -> None:
        if not isinstance(picture, np.ndarray) or picture.ndim != 3:
            raise UserError("the environment returned no image: it does not support render_mode rgb_array")
        if len(pictures) == max_frames:
            raise _FrameLimit
        colours = Image.fromarray(np.ascontiguousarray(picture[..., :3], dtype=np.uint8))
        pictures.append(colours.quantize())  # a byte for each pixel, as in the file

    rate, returns = _play(run, "rgb_array", add, member, replica, episodes, seed, which, env)
    partial = path.with_name(path.name + ".tmp")
    pictures[0].save(
        partial, format="GIF", save_all=True, append_images=pictures[1:], duration=_delays(len(pictures), rate), loop=0
    )
    os.replace(partial, path)
    return Video(path, len(pictures), returns)


def _delays(pictures: int, rate: float) -> list[int]:
    """The duration of each frame in ms. Durations in GIFs are multiples of 10 ms, so frames can have different
    durations to match `rate`, the frames per second."""
    ends = [10 * math.floor(100 * k / rate + 0.5) for k in range(pictures + 1)]
    return [stop - start for start, stop in pairwise(ends)]


def watch(
    run: Path | str,
    *,
    member: int = 0,
    replica: int = 0,
    episodes: int = 1,
    seed: int | None = None,
    checkpoint: str | int = "",
    env: Maker | None = None,
) -> list[float]:
    """Show a member in a window. Returns the return of every episode. Raises UserError without a screen."""
    if sys.platform.startswith("linux") and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        raise UserError("there is no screen: use `peerage video` to write a GIF")
    # In this mode, `reset` and `step` of an environment render and wait between frames.
    return _play(run, "human", None, member, replica, episodes, seed, checkpoint_word(checkpoint), env)[1]


def _play(
    run: Path | str,
    mode: str,
    frame: Callable[[Any], None] | None,
    member: int,
    replica: int,
    episodes: int,
    seed: int | None,
    which: str,
    env: Maker | None,
) -> tuple[float, list[float]]:
    """Play the episodes and call `frame` for each image. Returns the frames per second, at most `GIF_FPS`, and the
    returns."""
    trainer = restore(run, "policies", env=env, which=which).trainer
    workers.configure(trainer.threads)
    try:
        if not (0 <= member < trainer.N and 0 <= replica < trainer.R):
            raise UserError(f"{run} has members 0 to {trainer.N - 1} and replicas 0 to {trainer.R - 1}")
        row = replica * trainer.N + member
        maker = trainer.evaluation_makers[row]
        maker = replace(maker, env_args={**maker.env_args, "render_mode": mode})
        seeds = episode_seeds(trainer.config, episodes, SEED if seed is None else seed)[row]
        envs = EnvGroup([maker], [seeds], success=trainer.config.run.success, batched=False)
        limit_episodes(envs, trainer.config.run.max_eval_steps)
    except UserError as error:
        trainer.close()
        if "argument" in str(error):  # it was just built without this argument
            raise UserError(f"{error}; a video needs an environment with an argument render_mode") from error
        raise
    try:
        envs.set_clock(trainer.step, running=False)
        fps = float(envs.envs[0].metadata.get("render_fps") or FPS)
        every = math.ceil(fps / GIF_FPS)
        actor = _RecordedActor(MemberActor(trainer.group, row), envs, frame, every)
        with suppress(_FrameLimit):
            play(envs, actor, episodes, rest=True)
        return fps / every, actor.returns
    finally:
        envs.close()
        trainer.close()
