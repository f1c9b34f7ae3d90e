"""Pictures of a trained member: a GIF file, or a window.

    from peerage.evaluation import video

    video.record("experiments/my-run", "lander.gif", member=0, episodes=2)
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from peerage.config.adviser_words import checkpoint_word
from peerage.envs.make import Maker, one_line
from peerage.envs.vector import EnvGroup, Step
from peerage.errors import UserError
from peerage.evaluation.actors import MemberActor
from peerage.evaluation.evaluate import SEED, Actor, episode_seeds, limit_episodes, play
from peerage.nets import workers
from peerage.training.restore import restore

FPS = 30
"""Pictures per second where the environment does not say how many."""
GIF_FPS = 50
"""The largest rate of a GIF that viewers show at the right speed: they round delays to hundredths of a second."""
MAX_FRAMES = 1000


@dataclass(frozen=True)
class Film:
    """What was recorded."""

    path: Path
    frames: int
    returns: list[float]
    """Return of every complete episode."""


class _Enough(Exception):
    """The largest number of frames was reached."""


class _Filmed(Actor):
    """Calls `frame(picture)` before every action of another actor."""

    parallel = False

    def __init__(self, actor: Actor, envs: EnvGroup, frame: Callable[[Any], None]) -> None:
        self.actor, self.envs, self.frame = actor, envs, frame
        self.returns: list[float] = []

    def act(self, obs: np.ndarray) -> np.ndarray:
        try:
            picture = self.envs.envs[0].render()
        except Exception as error:  # rendering needs drivers and packages that may be missing
            hint = "; MuJoCo needs a screen, or MUJOCO_GL=egl or osmesa" if "mujoco" in sys.modules else ""
            raise UserError(f"{self.envs.names[0]} cannot be rendered: {one_line(error)}{hint}") from error
        self.frame(picture)
        return self.actor.act(obs)

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
) -> Film:
    """Play `episodes` episodes of a member without exploration and write them as a GIF.

    `out`: the file; by default `member-N.gif` in the run folder. Evaluations start from the same states, unless `seed`
    is given. `checkpoint`: `"best"` or a step; by default the newest. The film stops after `max_frames` pictures.
    Faster environments are shown with fewer pictures per second.

    Raises UserError if the file exists and `overwrite` is false, for a member that does not exist, and for an
    environment that cannot be rendered.
    """
    path = Path(out) if out is not None else Path(run) / f"member-{member}.gif"
    if path.suffix.lower() != ".gif":
        raise UserError(f"{path} must end in .gif: videos are written as GIF")
    if path.exists() and not overwrite:
        raise UserError(f"{path} exists: choose another file with --out, or replace it with --overwrite")
    if not path.parent.is_dir():
        raise UserError(f"{path.parent} is not a folder: create it first")
    pictures: list[Image.Image] = []

    def add(picture: Any) -> None:
        if not isinstance(picture, np.ndarray) or picture.ndim != 3:
            raise UserError("the environment returned no picture: it does not support render_mode rgb_array")
        if len(pictures) == max_frames:
            raise _Enough
        pictures.append(Image.fromarray(np.ascontiguousarray(picture[..., :3], dtype=np.uint8)))

    fps, returns = _play(run, "rgb_array", add, member, replica, episodes, seed, checkpoint, env)
    every = max(round(fps / GIF_FPS), 1)  # show every second picture of an environment with 100 per second, and so on
    shown = pictures[::every]
    partial = path.with_name(path.name + ".tmp")
    shown[0].save(
        partial, format="GIF", save_all=True, append_images=shown[1:], duration=1000 * every / fps, loop=0
    )
    os.replace(partial, path)
    return Film(path, len(shown), returns)


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
        raise UserError("there is no screen to show a window on: use `peerage video` to write a GIF")
    # Environments with a window wait between pictures by themselves.
    return _play(run, "human", lambda picture: None, member, replica, episodes, seed, checkpoint, env)[1]


def _play(
    run: Path | str,
    mode: str,
    frame: Callable[[Any], None],
    member: int,
    replica: int,
    episodes: int,
    seed: int | None,
    checkpoint: str | int,
    env: Maker | None,
) -> tuple[float, list[float]]:
    """Play the episodes with `frame` called at every step. Returns the pictures per second and the returns."""
    trainer = restore(run, "policies", env=env, which=checkpoint_word(checkpoint)).trainer
    workers.configure(trainer.threads)
    try:
        if not (0 <= member < trainer.N and 0 <= replica < trainer.R):
            raise UserError(f"{run} has members 0 to {trainer.N - 1} and replicas 0 to {trainer.R - 1}")
        row = replica * trainer.N + member
        maker = trainer.evaluation_makers[row]
        maker = replace(maker, env_args={**maker.env_args, "render_mode": mode})
        seeds = episode_seeds(trainer.config, episodes, SEED if seed is None else seed)[row]
        envs = EnvGroup([maker], [seeds], success=trainer.config.run.success)
        limit_episodes(envs, trainer.config.run.max_eval_steps)
    except UserError:
        trainer.close()
        raise
    try:
        envs.set_clock(trainer.step, running=False)
        actor = _Filmed(MemberActor(trainer.group, row), envs, frame)
        with suppress(_Enough):
            play(envs, actor, episodes, rest=True)
        return float(envs.envs[0].metadata.get("render_fps") or FPS), actor.returns
    finally:
        envs.close()
        trainer.close()
