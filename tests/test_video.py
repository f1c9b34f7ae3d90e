"""GIF and MP4 files of trained members."""

from __future__ import annotations

import base64
import os
import sys
from inspect import signature

import gymnasium
import imageio_ffmpeg
import numpy as np
import pytest
from PIL import Image
from test_targets import Untrained, settings

import peerage
from peerage.cli import main
from peerage.config.methods import LEARNERS
from peerage.envs.make import make_env
from peerage.evaluation.evaluate import SEED
from peerage.evaluation.video import record, use_egl, watch
from peerage.evaluation.video_files import Mp4
from peerage.reports import videos
from peerage.reports.report import render
from peerage.runs.folder import RunFolder

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
        (["video", "--out", "film.avi"], "must end in .gif or .mp4"),
        (["video", "--out", "nowhere/film.mp4"], "nowhere is not a folder"),
        (["video", "--out", "film.mp4", "--member", "2"], "has members 0 to 1 and replicas 0 to 1"),
        (["video", "--target-return", "5"], "--target-return is for dt, ddt and rvs, but this is dqn"),
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
    assert not list(run.folder.parent.rglob("*.gif*")) + list(run.folder.parent.rglob("*.mp4*"))


def mp4_frames(path) -> tuple[dict, list[np.ndarray]]:
    """What ffmpeg says about a file, and its frames."""
    reader = imageio_ffmpeg.read_frames(str(path))
    about = next(reader)
    width, height = about["size"]
    return about, [np.frombuffer(frame, np.uint8).reshape(height, width, 3) for frame in reader]


def test_an_mp4_shows_what_a_gif_shows(run, tmp_path, monkeypatch, capsys):
    """At up to 60 frames per second; the file is written under another name first, and the report embeds it."""
    Bright.shown, Bright.fps = 0, 60
    bright = peerage.load(run.folder, env=Bright)
    path = bright.video(run.folder / "film.mp4", member=1, max_frames=12)
    about, shown = mp4_frames(path)
    assert about["fps"] == 60 and about["codec"] == "h264" and len(shown) == 12 and "yuv420p" in about["pix_fmt"]
    assert [abs(frame.mean() - 3 * (k + 1)) < 2 for k, frame in enumerate(shown)] == [True] * 12
    before = path.read_bytes()
    Bright.shown = 0
    bright.video(path, member=1, max_frames=12, overwrite=True)
    assert path.read_bytes() == before
    assert sorted(f.name for f in run.folder.iterdir() if "film" in f.name) == ["film.mp4"]
    gif = run.video()
    html = render(RunFolder.open(run.folder))
    assert f"data:video/mp4;base64,{base64.b64encode(before).decode()}" in html
    assert f"data:image/gif;base64,{base64.b64encode(gif.read_bytes()).decode()}" in html
    monkeypatch.setattr(videos, "MAX_BYTES", 10)
    html = render(RunFolder.open(run.folder))
    assert "base64" not in html and "film.mp4 is not shown here" in html


def test_mp4_files_of_odd_sizes_and_failures(tmp_path, monkeypatch):
    film = Mp4(tmp_path / "odd.mp4")
    film.rate = 41.5
    for k in range(3):
        film.add(np.full((7, 9, 4), 80 * k, np.uint8))
    film.finish()
    about, shown = mp4_frames(film.path)
    assert about["size"] == (10, 8) and about["fps"] == 41.5 and len(shown) == 3
    other = Mp4(tmp_path / "other.mp4")
    other.add(np.zeros((8, 8, 3), np.uint8))
    with pytest.raises(peerage.UserError, match="images of several sizes"):
        other.add(np.zeros((8, 10, 3), np.uint8))
    other.discard()
    assert [path.name for path in tmp_path.iterdir()] == ["odd.mp4"]
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    with pytest.raises(peerage.UserError, match=r'needs imageio_ffmpeg, .*: pip install "peerage\[video\]"'):
        Mp4(tmp_path / "x.mp4")


def test_mujoco_renders_without_a_screen(monkeypatch):
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "MUJOCO_GL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(sys, "platform", "linux")
    environment = dict(os.environ)
    use_egl()
    assert os.environ["MUJOCO_GL"] == "egl"
    for name, value, expected in (("MUJOCO_GL", "osmesa", "osmesa"), ("DISPLAY", ":0", None)):
        monkeypatch.delenv("MUJOCO_GL", raising=False)
        monkeypatch.setenv(name, value)
        use_egl()
        assert os.environ.get("MUJOCO_GL") == expected
        monkeypatch.delenv(name)
    assert dict(os.environ) == environment


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


def test_a_member_is_shown_acting_for_a_target(tmp_path, monkeypatch, capsys):
    """The returns are those of the evaluation for this target, for every member and replica."""
    monkeypatch.setattr(LEARNERS, "methods", dict(LEARNERS.methods))
    peerage.register_learner("untrained", Untrained, takes_target=True)
    run = peerage.train("CartPole-v1", **settings(log_dir=str(tmp_path), exp_name="run", eval_freq=0))
    found = {}
    for target in (5.0, 60.0):
        table = run.evaluate(2, target_return=[target])
        for member, replica in ((0, 0), (1, 1)):
            which = {"member": member, "replica": replica, "episodes": 2, "target_return": target, "max_frames": 200}
            shown = record(run.folder, tmp_path / "film.gif", overwrite=True, **which)
            rows = table[(table["member"] == f"member-{member}") & (table["replica"] == replica)]
            assert shown.returns == rows.sort_values("episode")["return"].tolist()
            found[target, member] = shown.returns
    assert found[5.0, 0] != found[60.0, 0] or found[5.0, 1] != found[60.0, 1]
    assert run.video(tmp_path / "own.gif", member=1, replica=1, episodes=2, target_return=60, max_frames=200).exists()
    assert (tmp_path / "own.gif").read_bytes() == (tmp_path / "film.gif").read_bytes()
    ours, theirs = signature(peerage.Run.video).parameters, signature(record).parameters
    assert {name: p.default for name, p in theirs.items() if name not in ("run", "env")} == {
        name: p.default for name, p in ours.items() if name != "self"
    }
    default = record(run.folder, tmp_path / "film.gif", overwrite=True)
    assert default.returns == run.evaluate(1, target_return=[100.0])["return"].tolist()[:1]
    words = ["video", str(run.folder), "--out", str(tmp_path / "film.gif"), "--overwrite", "--target-return"]
    with pytest.warns(UserWarning, match=r"exceeds the largest return of the data, 100\.0"):
        record(run.folder, tmp_path / "film.gif", overwrite=True, target_return=500)
    assert main([*words, "500", "--clip-targets"]) == 0 and "film.gif" in capsys.readouterr().out
    assert main([*words, "much"]) == 2


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
