"""GIFs of trained members."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest
from PIL import Image

import peerage
from peerage.cli import main
from peerage.envs.make import make_env
from peerage.evaluation.evaluate import SEED
from peerage.evaluation.video import record, watch

pytestmark = pytest.mark.usefixtures("no_reports")


@pytest.fixture
def run(tmp_path):
    return peerage.train(
        "Room-v6", n_peers=2, replicas=2, total_timesteps=60, learning_starts=10, env_args={"max_episode_steps": 7},
        eval_freq=0, log_dir=str(tmp_path), exp_name="run", verbose=0, threads=1,
    )  # fmt: skip


def frames(path) -> list[np.ndarray]:
    with Image.open(path) as film:
        found = []
        for k in range(film.n_frames):
            film.seek(k)
            found.append(np.asarray(film.convert("RGB")))
    return found


def test_a_video_shows_the_episodes_of_an_evaluation(run, capsys):
    """The frames are those of the environment under the policy's actions."""
    path = run.video(member=1, episodes=2)
    assert path == run.folder / "member-1-replica-0.gif"
    env = make_env("Room-v6", {"max_episode_steps": 7, "render_mode": "rgb_array"})
    policy, expected = run.policy(1), []
    for episode in range(2):
        obs, _ = env.reset(seed=SEED + episode)
        done = False
        while not done:
            expected.append(env.render())
            obs, _, terminated, truncated, _ = env.step(policy(obs))
            done = terminated or truncated
    shown = frames(path)
    # A GIF merges frames that do not change, and has 256 colours
    distinct = [p for k, p in enumerate(expected) if k == 0 or not np.array_equal(p, expected[k - 1])]
    assert len(shown) == len(distinct) and shown[0].shape == distinct[0].shape
    assert all(np.abs(a.astype(int) - b).mean() < 2 for a, b in zip(shown, distinct))


def test_the_command_writes_a_video_and_overwrites_nothing(run, tmp_path, capsys):
    words = ["video", str(run.folder), "--replica", "1", "--max-frames", "3", "--out", str(tmp_path / "a.gif")]
    assert main(words) == 0 and "3 frames" in capsys.readouterr().out
    before = (tmp_path / "a.gif").read_bytes()
    assert main(words) == 2 and "exists: choose another file with --out" in capsys.readouterr().err
    assert main([*words, "--overwrite"]) == 0 and (tmp_path / "a.gif").read_bytes() == before


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["video", "--member", "2"], "has members 0 to 1 and replicas 0 to 1"),
        (["video", "--out", "film.mp4"], "must end in .gif"),
        (["video", "--out", "nowhere/film.gif"], "nowhere is not a folder"),
        (["watch"], "there is no screen: use `peerage video`"),
    ],
)
def test_environments_that_cannot_be_recorded_give_a_one_line_error(run, monkeypatch, capsys, words, message):
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(run.folder.parent)
    assert main([words[0], str(run.folder), *words[1:]]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not list(run.folder.parent.rglob("*.gif*"))


def test_an_environment_without_images_is_named(tmp_path, capsys):
    run = peerage.train(
        "Pendulum-v1", n_peers=1, total_timesteps=20, learning_starts=5, eval_freq=0, env_args={"g": 9.0},
        log_dir=str(tmp_path), verbose=0,
    )  # fmt: skip

    class Blind(type(make_env("Pendulum-v1", {}).unwrapped)):
        def render(self):
            return None

    blind = peerage.load(run.folder, env=Blind)
    with pytest.raises(peerage.UserError, match="returned no image"):
        blind.video()
    class_ = type(make_env("Pendulum-v1", {}).unwrapped)
    with pytest.raises(peerage.UserError, match="a video needs an environment with an argument render_mode"):
        peerage.load(run.folder, env=lambda g: class_(g=g)).video()
    Blind.render = gymnasium.Env.render
    with pytest.raises(peerage.UserError, match="its method render must return an image"):
        blind.video()


class Bright(gymnasium.Wrapper):
    """Every frame is brighter than the previous one. `shown` counts the frames."""

    shown = 0

    def __init__(self, **kwargs):
        super().__init__(make_env("Room-v6", {**kwargs, "max_episode_steps": 40}))
        self.metadata = {"render_modes": ["rgb_array", "human"], "render_fps": self.fps}

    def render(self):
        Bright.shown += 1
        return np.full((8, 8, 3), 3 * (Bright.shown % 80), np.uint8)


@pytest.mark.parametrize(("fps", "every"), [(60, 2), (75, 2), (30, 1), (125, 3)])
def test_a_video_has_the_speed_of_the_environment(run, fps, every):
    Bright.shown, Bright.fps = 0, fps
    path = peerage.load(run.folder, env=Bright).video(replica=1, checkpoint=60, seed=3)
    assert path.name == "member-0-replica-1-60.gif"
    with Image.open(path) as film:
        delays = [(film.seek(k), film.info["duration"])[1] for k in range(film.n_frames)]
    assert len(delays) == Bright.shown  # nothing is rendered that is not shown
    assert all(delay % 10 == 0 and delay >= 20 for delay in delays)
    assert abs(sum(delays) - 1000 * every * len(delays) / fps) <= 10


def test_a_window_is_drawn_by_the_environment_alone(run, monkeypatch):
    monkeypatch.setenv("DISPLAY", ":0")
    Bright.shown, Bright.fps = 0, 30
    assert len(watch(run.folder, env=Bright)) == 1 and Bright.shown == 0
    with pytest.raises(peerage.UserError, match="max_frames must be at least 1"):
        run.video(max_frames=0)
    assert record(run.folder, max_frames=2, env=Bright).frames == 2
