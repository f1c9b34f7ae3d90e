"""The basis of a resume: replayed episodes, checkpoints in chunks, locks and signals."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch

import peerage
import peerage.runs.folder
from peerage.append_buffer import AppendBuffer
from peerage.cli import main
from peerage.config import AdviceConfig, Config, LearnerConfig, RunConfig
from peerage.config.plain_yaml import parse, to_yaml
from peerage.envs import running
from peerage.envs.vector import EnvGroup, EnvMaker
from peerage.errors import UserError
from peerage.learners.replay import Replay
from peerage.nets import native
from peerage.runs import checkpoint, chunks, disk
from peerage.runs.folder import HEADER, RunFolder
from peerage.runs.listeners import Listener, Listeners
from peerage.training.machine import differences
from peerage.training.signals import Interrupt

pytestmark = pytest.mark.usefixtures("no_reports")

running_fcntl = peerage.runs.folder.fcntl


def actions_for(group: EnvGroup, steps: int, seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    if group.discrete:
        return list(rng.integers(0, group.n_actions, (steps, group.n)))
    return list(rng.uniform(group.action_low, group.action_high, (steps, group.n, group.act_dim)).astype(np.float32))


def group_of(env, args: dict, seeds: list[int]) -> EnvGroup:
    """Environments of one kind, whose running episodes can be moved to another process."""
    return EnvGroup([EnvMaker(env, args)] * len(seeds), seeds, keep=True)


def through_a_file(group: EnvGroup) -> dict:
    """A state as a checkpoint brings it back: arrays as they were, everything else by way of JSON."""
    state = group.state()
    return {n: x if isinstance(x, np.ndarray) else json.loads(json.dumps(x)) for n, x in state.items()}


# --- episodes that are lived again ----------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "env, args, steps",
    [
        ("Room-v21", {}, 130),
        ("CartPole-v1", {}, 100),
        ("Pendulum-v1", {}, 250),
        ("LunarLander-v3", {"enable_wind": True}, 150),
        ("LunarLanderContinuous-v3", {}, 150),
        ("Hopper-v4", {}, 75),
        ("Ant-v5", {}, 70),
        ("Room-v21", {"change_at": 60, "change": {"reward_scale": -1}}, 55),
        ("CartPole-v1", {"change_at": 20, "change": {"length": 1.5}}, 30),
    ],
)
def test_an_episode_is_replayed_bit_for_bit(env, args, steps):
    """Observations, rewards, ends and later episodes, with episodes of different age at the same time."""
    one, two = group_of(env, args, [1, 2, 3]), group_of(env, args, [7, 8, 9])
    one.reset()
    taken = actions_for(one, steps + 300)
    for k in range(steps):
        last = one.step(taken[k])
    assert (one.state()["lengths"] > 0).any()
    obs, anew = two.restore(through_a_file(one), steps)
    assert anew == {} and obs.tobytes() == last.obs.tobytes()
    ended = 0
    for k in range(steps, steps + 300):
        a, b = one.step(taken[k]), two.step(taken[k])
        assert a.obs.tobytes() == b.obs.tobytes() and a.next_obs.tobytes() == b.next_obs.tobytes()
        assert a.reward.tobytes() == b.reward.tobytes() and a.episodes == b.episodes
        ended += len(a.episodes)
    assert ended > 0
    again, state = one.state(), two.state()
    assert all(np.array_equal(again[name], state[name]) for name in ("actions", "lengths", "returns", "obs"))
    assert again["begun"] == state["begun"]


def test_right_after_the_first_reset():
    one, two = group_of("CartPole-v1", {}, [1, 2]), group_of("CartPole-v1", {}, [1, 2])
    obs = one.reset()
    again, anew = two.restore(through_a_file(one), 0)
    assert not anew and again.tobytes() == obs.tobytes() and again.any()


class Odd(gym.Env):
    """Not all that happens here is decided by `np_random`."""

    observation_space = gym.spaces.Box(-9, 9, (2,), np.float32)
    action_space = gym.spaces.Discrete(2)
    made = 0

    def __init__(self, how: str = "sound") -> None:
        Odd.made += 1
        self.how, self.number, self.episode = how, Odd.made, 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.count, self.episode = 0, self.episode + 1
        self.seen = self.np_random.random()
        return self._obs(), {}

    def _obs(self):
        return np.array([self.seen, self.number if self.how == "number" else 0], np.float32)

    def step(self, action):
        self.count += 1
        self.seen = self.np_random.random()
        reward = float(self.number) if self.how == "reward" else 1.0
        if self.how == "draws" and self.number % 2:  # an odd one among even ones
            self.np_random.random(self.number)
        over = self.count == (3 + self.number if self.how == "ends" else 9)
        if self.how == "raises" and self.number > 5:
            raise RuntimeError("no more of these")
        return self._obs(), reward, over, False, {}


@pytest.mark.parametrize(
    "how, steps, why",
    [
        ("number", 4, "its observation after 4 steps differs"),
        ("reward", 4, "its rewards or random numbers in 4 steps differ"),
        ("draws", 4, "its observation after 4 steps differs"),
        ("raises", 4, "it raised RuntimeError: no more of these"),
        ("sound", 8, ""),
    ],
)
def test_an_episode_that_cannot_be_replayed_is_restarted(how, steps, why):
    Odd.made = 0
    one = group_of(Odd, {"how": how}, [1, 2])
    Odd.made = 7 if how == "draws" else 5
    two = group_of(Odd, {"how": how}, [1, 2])
    one.reset()
    for _ in range(steps):
        one.step(np.zeros(2, np.int64))
    state = through_a_file(one)
    obs, anew = two.restore(state, steps)
    if not why:
        assert anew == {}
        return
    assert why in anew[0]
    lengths = two.state()["lengths"]
    assert all(lengths[i] == (0 if i in anew else steps) for i in range(2)) and np.isfinite(obs).all()
    if how in ("number", "reward"):  # the generator continues from its state, as if that episode had just ended
        expected = np.random.Generator(np.random.PCG64())
        expected.bit_generator.state = state["generators"][0]
        assert obs[0, 0] == np.float32(expected.random())


def test_an_episode_that_ends_too_early():
    Odd.made = 2
    one = group_of(Odd, {"how": "ends"}, [1])  # ends after 6 steps
    Odd.made = -1
    two = group_of(Odd, {"how": "ends"}, [1])  # after 3
    one.reset()
    for _ in range(5):
        one.step(np.zeros(1, np.int64))
    assert two.restore(through_a_file(one), 5)[1] == {0: "it ended after 3 of 5 steps"}


def test_very_long_episodes_are_not_recorded(monkeypatch):
    """Neither in memory nor in a checkpoint; shorter episodes are recorded."""
    monkeypatch.setattr(running, "MAX_STEPS", 100)
    monkeypatch.setattr("peerage.envs.vector.MAX_STEPS", 100)
    args = {"max_episode_steps": -1}
    one, two = group_of("Pendulum-v1", args, [1, 2]), group_of("Pendulum-v1", args, [1, 2])
    one.reset()
    for k, actions in enumerate(actions_for(one, 230)):
        one.step(actions)
        if k in (99, 100):
            anew = two.restore(through_a_file(one), k + 1)[1]
            assert anew == ({} if k == 99 else {i: "it is longer than 100 steps" for i in (0, 1)})
    assert one.state()["actions"].shape == (2, 100, 1)


def test_a_state_of_other_environments_is_refused():
    one = group_of("CartPole-v1", {}, [1, 2])
    one.reset()
    for other in (group_of("CartPole-v1", {}, [1]), group_of("Pendulum-v1", {}, [1, 2])):
        with pytest.raises(ValueError, match="other environments"):
            other.restore(one.state(), 0)


def test_the_run_names_the_restarted_episode_and_continues(tmp_path):
    class Heard(Listener):
        text = ""

        def on_message(self, step, text):
            self.text += text

    Odd.made = 0
    config = small(n_peers=2, advisers=(), run=replace(small().run, log_dir=str(tmp_path), checkpoint_freq=70))
    with pytest.raises(KeyboardInterrupt):
        peerage.train(lambda: Odd("number"), config=config, exp_name="run", listeners=[Stop(104)])
    heard = Heard()
    run = peerage.load(tmp_path / "run", env=lambda: Odd("number"))
    peerage.resume(run, listeners=[heard])
    assert "the episode of member-0 could not be replayed and is restarted: its observation" in heard.text
    assert (tmp_path / "run" / "DONE").exists()


# --- checkpoints ----------------------------------------------------------------------------------------------


def buffer(total: int, capacity: int = 1000, width: int = 3) -> AppendBuffer:
    """Entry n of member s is filled with 1000 s + n."""

    def read(a: int, b: int) -> dict[str, torch.Tensor]:
        numbers = torch.arange(a, b).view(1, -1, 1) + torch.tensor([0, 1000]).view(2, 1, 1)
        return {"data": numbers.expand(2, b - a, width).float()}

    return AppendBuffer(max(0, total - capacity), total, read)


def content(state: dict) -> list[int]:
    entries = state["buffer"]
    parts = [tensors["data"] for _, _, tensors in entries.pieces()]
    if not parts:
        return []
    numbers = torch.cat(parts, dim=1)
    assert torch.equal(numbers[0] + 1000, numbers[1])
    return numbers[0, :, 0].int().tolist()


def names(run: Path) -> list[str]:
    return sorted(path.name for path in (run / "checkpoints" / "chunks").iterdir())


def test_a_checkpoint_writes_only_new_entries(tmp_path, monkeypatch):
    monkeypatch.setattr(chunks, "SMALL", 0)
    after, written = None, {}
    for total in (0, 40, 90, 91, 200):
        after = checkpoint.save(tmp_path, total, {"buffer": buffer(total)}, after=after)
        for path in (tmp_path / "checkpoints" / "chunks").iterdir():
            assert written.setdefault(path.name, path.stat().st_mtime_ns) == path.stat().st_mtime_ns
        assert content(checkpoint.load(after)) == list(range(total))
    assert [n[7:26] for n in names(tmp_path)] == [
        "000000000-000000040", "000000040-000000090", "000000090-000000091", "000000091-000000200",
    ]
    assert [path.name for path in checkpoint.checkpoints(tmp_path)] == ["step_000000091", "step_000000200"]


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("how", ["longer", "gone"])
def test_changed_chunks_are_not_reused(tmp_path, monkeypatch, which, how):
    """Neither they nor what follows them: the new checkpoint is whole."""
    monkeypatch.setattr(chunks, "SMALL", 0)
    after = None
    for total in (40, 90):
        after = checkpoint.save(tmp_path, total, {"buffer": buffer(total)}, after=after)
    path = tmp_path / "checkpoints" / "chunks" / names(tmp_path)[which]
    path.unlink() if how == "gone" else path.write_bytes(path.read_bytes() + b" ")
    folder = checkpoint.save(tmp_path, 100, {"buffer": buffer(100)}, after=after)
    assert content(checkpoint.load(folder)) == list(range(100))
    used = checkpoint.read_manifest(folder).chunks["buffer"]
    assert [(c.start, c.stop) for c in used] == [[(0, 100)], [(0, 40), (40, 100)]][which]


def test_chunks_of_dropped_entries_are_not_reused(tmp_path, monkeypatch):
    """A buffer that holds less than before, at its end or at its beginning."""
    monkeypatch.setattr(chunks, "SMALL", 0)
    after = None
    for total in (40, 90):
        after = checkpoint.save(tmp_path, total, {"buffer": buffer(total)}, after=after)
    shorter = checkpoint.save(tmp_path, 91, {"buffer": buffer(60)}, after=after)
    assert content(checkpoint.load(shorter)) == list(range(60))
    later = checkpoint.save(tmp_path, 92, {"buffer": buffer(120, capacity=25)}, after=after)
    assert content(checkpoint.load(later)) == list(range(95, 120))
    assert [(c.start, c.stop) for c in checkpoint.read_manifest(later).chunks["buffer"]] == [(95, 120)]


def test_a_ring_leaves_no_old_chunks_behind(tmp_path, monkeypatch):
    """The disk holds the buffer, and what of the oldest chunk is no longer in it: not the whole run."""
    monkeypatch.setattr(chunks, "SMALL", 0)
    after = None
    for total in range(0, 1000, 50):
        after = checkpoint.save(tmp_path, total, {"buffer": buffer(total, capacity=120)}, after=after, keep=2)
        assert content(checkpoint.load(after)) == list(range(max(0, total - 120), total))
        assert len(names(tmp_path)) <= 5
    for folder in checkpoint.checkpoints(tmp_path):
        checkpoint.load(folder)


def test_many_checkpoints_do_not_create_many_files(tmp_path):
    after = None
    for total in range(0, 300, 3):
        after = checkpoint.save(tmp_path, total, {"buffer": buffer(total, 250)}, after=after)
        assert content(checkpoint.load(after)) == list(range(max(0, total - 250), total))
    assert len(names(tmp_path)) <= 4


def test_large_buffers_are_split(tmp_path, monkeypatch):
    monkeypatch.setattr(chunks, "LARGE", 24 * 64)  # an entry has 2 * 3 * 4 bytes
    folder = checkpoint.save(tmp_path, 5, {"buffer": buffer(150)})
    assert [n[7:26] for n in names(tmp_path)] == [
        "000000000-000000064", "000000064-000000128", "000000128-000000150",
    ]
    assert content(checkpoint.load(folder)) == list(range(150))


def test_a_replay_buffer_comes_back_from_its_chunks(tmp_path, monkeypatch):
    monkeypatch.setattr(chunks, "SMALL", 0)
    one, two = Replay(2, 70, 3, 1), Replay(2, 70, 3, 1)
    after = None
    for n in range(200):
        x = torch.full((2, 3), float(n))
        one.add(x, x[:, :1], x[:, 0], x + 0.5, x[:, 0])
        if n % 33 == 0:
            after = checkpoint.save(tmp_path, n, one.state(), after=after)
    after = checkpoint.save(tmp_path, 200, one.state(), after=after)
    two.load_state(checkpoint.load(after))
    assert torch.equal(one.data, two.data) and (one.total, one.position, one.size) == (200, 60, 70)
    assert (two.total, two.position, two.size) == (200, 60, 70)
    for other in (Replay(2, 71, 3, 1), Replay(2, 70, 4, 1), Replay(3, 70, 3, 1)):
        with pytest.raises(ValueError, match="the replay buffer has another"):
            other.load_state(checkpoint.load(after))


def spoil(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(bytes(data))


@pytest.mark.parametrize("how", ["state.safetensors", "state.json", "manifest.json", "chunk", "cut", "gone", "empty"])
def test_a_damaged_checkpoint_is_skipped(tmp_path, monkeypatch, how):
    monkeypatch.setattr(chunks, "SMALL", 0)
    first = checkpoint.save(tmp_path, 10, {"buffer": buffer(10), "x": torch.arange(9)})
    second = checkpoint.save(tmp_path, 20, {"buffer": buffer(20), "x": torch.ones(9)}, after=first)
    new = tmp_path / "checkpoints" / "chunks" / "buffer-000000010-000000020.safetensors"
    match how:
        case "chunk":
            spoil(new)
        case "cut":
            new.write_bytes(new.read_bytes()[:-1])
        case "gone":
            new.unlink()
        case "empty":
            for file in second.iterdir():
                file.write_bytes(b"")
        case _:
            spoil(second / how)
    folder, state, passed_over = checkpoint.load_latest(tmp_path)
    assert folder == first and content(state) == list(range(10)) and torch.equal(state["x"], torch.arange(9))
    assert list(passed_over) == [second]
    assert "step_000000020" in passed_over[second] and "\n" not in passed_over[second]
    # The run continues from the intact one, and the damaged one is not used again, but kept for inspection
    checkpoint.retire(second)
    assert (tmp_path / "checkpoints" / "damaged_step_000000020").is_dir()
    third = checkpoint.save(tmp_path, 15, {"buffer": buffer(15), "x": torch.ones(1)}, after=folder)
    assert checkpoint.checkpoints(tmp_path) == [first, third] and content(checkpoint.load(third)) == list(range(15))
    spoil(first / "state.json")
    spoil(third / "state.json")
    with pytest.raises(UserError, match=r"has no intact checkpoint, train it again: .*15 is damaged: .*10 is damaged"):
        checkpoint.load_latest(tmp_path)


def test_a_removed_chunk_is_written_again(tmp_path, monkeypatch):
    monkeypatch.setattr(chunks, "SMALL", 0)
    after = None
    for total in (10, 20, 30):
        after = checkpoint.save(tmp_path, total, {"buffer": buffer(total)}, after=after)
    (tmp_path / "checkpoints" / "chunks" / names(tmp_path)[1]).unlink()
    after = checkpoint.save(tmp_path, 40, {"buffer": buffer(40)}, after=after)
    assert content(checkpoint.load(after)) == list(range(40))


def test_saving_a_step_again_always_keeps_a_checkpoint(tmp_path, monkeypatch):
    """Even if only one is kept, and the process ends at any point."""
    first = checkpoint.save(tmp_path, 7, {"x": 1}, keep=1)
    for name in ("rename", "rmtree"):
        with monkeypatch.context() as patch:
            owner = os if name == "rename" else checkpoint.shutil
            patch.setattr(owner, name, lambda *a, **k: (_ for _ in ()).throw(KeyboardInterrupt))
            with pytest.raises(KeyboardInterrupt):
                checkpoint.save(tmp_path, 7, {"x": 2}, after=first, keep=1)
        assert checkpoint.load_latest(tmp_path)[1]["x"] in (1, 2)
    third = checkpoint.save(tmp_path, 7, {"x": 3}, after=first, keep=1)
    assert checkpoint.checkpoints(tmp_path) == [third] and checkpoint.step_of(third) == 7
    assert checkpoint.load_latest(tmp_path)[1]["x"] == 3


def test_an_unreadable_checkpoint_is_not_treated_as_damaged(tmp_path, monkeypatch):
    first = checkpoint.save(tmp_path, 10, {"buffer": buffer(10)})
    second = checkpoint.save(tmp_path, 20, {"buffer": buffer(20)}, after=first)

    def broken(path):
        raise OSError(5, "Input/output error", str(path))

    with monkeypatch.context() as patch:
        patch.setattr(disk, "sha256", broken)
        with pytest.raises(UserError, match="cannot be read now: Input/output error"):
            checkpoint.load_latest(tmp_path)
    # A manifest that is unreadable for a moment costs no chunk
    read = checkpoint.read_manifest
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "read_manifest", lambda f: broken(f) if f == first else read(f))
        patch.setattr(checkpoint, "_known_chunks", lambda after: {})
        with pytest.raises(OSError):
            checkpoint._clean(tmp_path, 20, 2)
    assert content(checkpoint.load(first)) == list(range(10)) and content(checkpoint.load(second)) == list(range(20))


def test_a_state_is_restored_unchanged(tmp_path):
    """With any names of entries in the state of an adviser; unsupported values are reported before anything is lost."""
    state = {
        "$tensor": "x", "tensor": {"tensor": 1}, "$$": [1.5, None, True, "t"], "a/b": torch.ones(1), "~1": 2,
        "a": {"b": torch.zeros(2)}, "array": np.arange(3, dtype=np.int16), "$buffer": {"start": 0, "stop": 1},
    }  # fmt: skip
    back = checkpoint.load(checkpoint.save(tmp_path, 1, state))
    assert back.keys() == state.keys() and back["$tensor"] == "x" and back["$buffer"] == {"start": 0, "stop": 1}
    assert torch.equal(back["a/b"], torch.ones(1)) and torch.equal(back["a"]["b"], torch.zeros(2))
    assert back["array"].dtype == np.int16 and back["array"].tolist() == [0, 1, 2] and back["$$"] == state["$$"]
    with pytest.raises(UserError, match="cannot hold adviser/seen, a set: use numbers"):
        checkpoint.save(tmp_path, 2, {"adviser": {"seen": {1, 2}}})


def test_an_older_format_is_named(tmp_path):
    checkpoint.save(tmp_path, 1, {"x": 1})  # is not used instead, because newer steps would be lost
    folder = checkpoint.save(tmp_path, 3, {"x": 1})
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({"format": 1, "step": 3, "sha256": manifest["files"]}))
    match = "checkpoint format 1 by Peerage of another version, but this version reads format 3"
    with pytest.raises(UserError, match=match):
        checkpoint.load(folder)
    with pytest.raises(UserError, match=match):
        checkpoint.load_latest(tmp_path)


def test_a_sealed_manifest_may_not_name_files_elsewhere(tmp_path):
    (tmp_path / "secret.safetensors").write_bytes(b"")
    folder = checkpoint.save(tmp_path, 3, {"buffer": buffer(5)})
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest.pop("seal")
    manifest["chunks"]["buffer"][0]["name"] = "../../secret.safetensors"
    manifest["seal"] = checkpoint._seal(manifest)
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(UserError, match="is not a valid name"):
        checkpoint.load(folder)
    checkpoint.save(tmp_path, 4, {"x": 1}, after=folder)
    assert (tmp_path / "secret.safetensors").exists()


# --- runs -----------------------------------------------------------------------------------------------------


class Stop(Listener):
    """As Ctrl-C would, once a row of metrics is that far."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_metrics(self, step, rows):
        if step >= self.step:
            raise KeyboardInterrupt


def small(**changes) -> Config:
    learner = LearnerConfig(
        learning_starts=(20,), batch_size=(16,), net_arch=((16,),), train_freq=(4,), gradient_steps=(1,),
        buffer_size=(60,),
    )
    run = RunConfig(eval_freq=100, n_eval_episodes=1, log_freq=13, checkpoint_freq=40, verbose=0)
    base = Config(env="Room-v6", n_peers=2, advisers=("expert",), total_timesteps=150, learner=learner, run=run)
    return replace(base, **changes)


@pytest.fixture
def stopped(tmp_path) -> Path:
    """A run that came to an end at step 91: its last checkpoint is that of step 80."""
    with pytest.raises(KeyboardInterrupt):
        peerage.train(config=small(), log_dir=str(tmp_path), exp_name="run", listeners=[Stop(90)])
    return tmp_path / "run"


def test_settings_that_were_changed_are_named(stopped, capsys):
    path = stopped / "config.yaml"
    for part, name, value in (("learner", "batch_size", [17]), ("", "n_peers", 3), ("advice", "self_share", 0.5)):
        before = path.read_text()
        config = parse(before, "config.yaml")
        (config if not part else config[part])[name] = value
        path.write_text(HEADER + to_yaml(config))
        assert main(["resume", str(stopped)]) == 2
        said = capsys.readouterr().err
        assert said.count("\n") == 1 and f"config.yaml says {f'{part}.' if part else ''}{name}: " in said
        path.write_text(before)
    path.write_text(before.replace("batch_size:", "batchsize:"))  # a slip of the hand, in a file that is named
    for command in (["resume"], ["evaluate"], ["export"]):
        assert main([*command, str(stopped)]) == 2
        assert f"{path}: unknown key 'learner.batchsize'" in capsys.readouterr().err
    path.write_text(before)
    assert main(["resume", str(stopped), "--keep-checkpoints", "1", "--checkpoint-freq", "50"]) == 0
    assert [folder.name for folder in checkpoint.checkpoints(stopped)] == ["step_000000150"]


def test_a_run_without_a_sound_checkpoint(stopped, capsys):
    for folder in checkpoint.checkpoints(stopped):
        spoil(folder / "state.safetensors")
    assert main(["resume", str(stopped)]) == 2
    said = capsys.readouterr().err
    assert said.count("does not match its checksum") == 2 and "has no intact checkpoint" in said


def test_one_process_at_a_time(stopped, capsys):
    files = {path: path.read_bytes() for path in stopped.rglob("*") if path.is_file()}
    words = (
        "import sys; from peerage.runs.folder import RunFolder\n"
        "run = RunFolder(sys.argv[1]); run.lock(); print('locked', flush=True); sys.stdin.read()"
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    other = subprocess.Popen([sys.executable, "-c", words, str(stopped)], text=True, **pipes)
    try:
        assert other.stdout.readline() == "locked\n"
        where = ["--log-dir", str(stopped.parent), "--exp-name", "run"]
        for command in (["resume", str(stopped)], ["train", "--env", "Room-v6", "--overwrite", *where]):
            assert main(command) == 2
            assert f"is being trained by process {other.pid} on " in capsys.readouterr().err
        files.pop(stopped / ".lock")
        assert {p: p.read_bytes() for p in stopped.rglob("*") if p.is_file() and p.name != ".lock"} == files
    finally:
        other.kill()
        other.wait()
    assert main(["resume", str(stopped), "--verbose", "0"]) == 0  # the lock ended with the process


def test_two_trainings_of_one_name(tmp_path, monkeypatch):
    """The second one finds out when it wants to put its folder there, and leaves nothing behind."""
    plan = RunFolder.plan

    def quicker(*args, **kwargs):
        planned = plan(*args, **kwargs)
        monkeypatch.setattr(RunFolder, "plan", plan)
        RunFolder.create(*args[:3], {"env": "first"}).unlock()
        return planned

    monkeypatch.setattr(RunFolder, "plan", quicker)
    with pytest.raises(UserError, match="has just been created by another training"):
        RunFolder.create(tmp_path, "run", "x", {"env": "second"})
    assert RunFolder(tmp_path / "run").config() == {"env": "first"}
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_a_run_that_never_wrote_a_checkpoint_is_restarted(tmp_path):
    """Killed between the birth of its folder and its first checkpoint."""
    whole = peerage.train(config=small(), log_dir=str(tmp_path), exp_name="whole")
    young = RunFolder.create(tmp_path, "young", "x", parse((whole.folder / "config.yaml").read_text(), ""))
    young.unlock()
    (young.path / "metrics.csv").write_text("step,repl")  # half a header
    run = peerage.resume(young.path)
    for name in ("metrics.csv", "evaluations.csv", "advice.csv"):
        assert (run.folder / name).read_bytes() == (whole.folder / name).read_bytes()


def test_a_run_with_removed_checkpoints_is_not_changed(stopped, capsys):
    shutil.rmtree(stopped / "checkpoints")
    before = {p: p.read_bytes() for p in stopped.rglob("*") if p.is_file() and p.name != ".lock"}
    assert main(["resume", str(stopped)]) == 2
    assert "has rows but no checkpoint: its checkpoints were removed" in capsys.readouterr().err
    assert {p: p.read_bytes() for p in stopped.rglob("*") if p.is_file() and p.name != ".lock"} == before


@pytest.mark.report
def test_killed_while_the_report_was_drawn(stopped):
    run = peerage.resume(stopped)
    pictures = {p.name: p.read_bytes() for p in (stopped / "figures").iterdir()}
    (stopped / "report.html").unlink()
    next((stopped / "figures").iterdir()).write_bytes(b"half")
    assert main(["resume", str(stopped)]) == 0
    assert (stopped / "report.html").exists() and pictures
    assert {p.name: p.read_bytes() for p in (stopped / "figures").iterdir()} == pictures
    assert peerage.resume(run) is run  # nothing to do


def test_a_lock_on_a_replaced_folder_is_not_valid(tmp_path, monkeypatch):
    config = {"env": "x"}
    RunFolder.create(tmp_path, "run", "x", config).unlock()
    late = RunFolder(tmp_path / "run")
    flock = running_fcntl.flock

    def overtaken(file, how):
        monkeypatch.setattr(running_fcntl, "flock", flock)
        RunFolder.create(tmp_path, "run", "x", config, overwrite=True)
        return flock(file, how)

    monkeypatch.setattr(running_fcntl, "flock", overtaken)
    with pytest.raises(UserError, match="has just been replaced by another training"):
        late.lock()


def test_an_adviser_is_unchanged_even_if_its_run_has_continued(tmp_path):
    """The networks of a `checkpoint:` adviser are in the checkpoint, not where they came from."""
    teacher = peerage.train(config=small(advisers=()), log_dir=str(tmp_path), exp_name="teacher")
    other = peerage.train(config=small(advisers=(), seed=9), log_dir=str(tmp_path), exp_name="other")
    config = small(advisers=(f"checkpoint:{teacher.folder}",))
    whole = peerage.train(config=config, log_dir=str(tmp_path), exp_name="whole")
    with pytest.raises(KeyboardInterrupt):
        peerage.train(config=config, log_dir=str(tmp_path), exp_name="run", listeners=[Stop(90)])
    shutil.rmtree(teacher.folder)
    shutil.copytree(other.folder, teacher.folder)
    run = peerage.resume(tmp_path / "run")
    for name in ("metrics.csv", "evaluations.csv", "advice.csv"):
        assert (run.folder / name).read_bytes() == (whole.folder / name).read_bytes()


def test_a_closed_output_does_not_end_the_training(tmp_path):
    """`peerage train ... | head -1`. The pipe holds a page and the training prints more than that, so it has not ended
    before the reader goes."""
    words = ["train", "--env", "Room-v6", "--n-peers", "2", "--total-timesteps", "300", "--eval-freq", "2"]
    words += ["--n-eval-episodes", "1", "--log-dir", str(tmp_path), "--exp-name", "run", "--verbose", "2"]
    words += ["--learning-starts", "50"]
    ours, theirs = os.pipe()
    if hasattr(fcntl, "F_SETPIPE_SZ"):
        fcntl.fcntl(theirs, fcntl.F_SETPIPE_SZ, 4096)
    command = [sys.executable, "-m", "peerage", *words]
    training = subprocess.Popen(command, stdout=theirs, stderr=subprocess.PIPE, text=True)
    os.close(theirs)
    assert os.read(ours, 1)
    os.close(ours)
    said = training.communicate()[1]
    assert (tmp_path / "run" / "DONE").exists() and training.returncode == 0, said
    assert "Display is switched off, the training continues" in said


def test_another_machine_is_recorded_and_reported(stopped):
    class Heard(Listener):
        texts: list[str] = []  # noqa: RUF012

        def on_message(self, step, text):
            self.texts.append(text)

    newest = checkpoint.checkpoints(stopped)[-1]
    manifest = json.loads((newest / "manifest.json").read_text())
    manifest.pop("seal")
    assert manifest["about"]["matrix_products"] == native.row_products()
    manifest["about"]["versions"]["torch"], manifest["about"]["threads"] = "1.0", 7
    manifest["about"]["matrix_products"] = "another"
    (newest / "manifest.json").write_text(json.dumps({**manifest, "seal": checkpoint._seal(manifest)}))
    heard = Heard()
    peerage.resume(stopped, listeners=[heard], threads=1)
    expected = [f"torch 1.0, now {torch.__version__.split('+')[0]}", "threads 7, now 1"]
    expected.append(f"matrix_products another, now {native.row_products()}")
    assert len(heard.texts) == 2 and heard.texts[0].startswith("memory: ")
    assert heard.texts[1].startswith("the resumed run is not bit-identical: torch 1.0, now")
    environment = json.loads((stopped / "environment.json").read_text())
    assert environment["hardware"]["matrix_products"] == native.row_products()
    noted = environment["resumed"]
    assert [n["step"] for n in noted] == [80] and noted[0]["threads"] == 1
    assert [d.split("+")[0] for d in noted[0]["different"]] == expected
    same = {"versions": {"torch": "2", "python": "3.11"}, "cpu": "x", "config": 1}
    # A run of an earlier version, which used oneDNN and did not record it
    now = {**same, "config": 2, "versions": {"torch": "2", "python": "3.12"}, "matrix_products": "oneDNN"}
    assert differences(same, now) == []
    assert differences(same, {**now, "matrix_products": "torch"}) == ["matrix_products oneDNN, now torch"]


# --- signals --------------------------------------------------------------------------------------------------


class Signal(Listener):
    def __init__(self, number: int, step: int = 26, times: int = 1) -> None:
        self.number, self.step, self.times = number, step, times

    def on_metrics(self, step, rows):
        if step == self.step:
            for _ in range(self.times):
                os.kill(os.getpid(), self.number)


@pytest.mark.parametrize("number, status", [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_signal_writes_a_checkpoint_and_the_resumed_run_is_the_same(tmp_path, monkeypatch, capsys, number, status):
    whole = peerage.train(config=small(), log_dir=str(tmp_path), exp_name="whole")
    init = Listeners.__init__
    monkeypatch.setattr(Listeners, "__init__", lambda self, some=(): init(self, [*some, Signal(number)]))
    command = ["train", "--config", str(whole.folder), "--log-dir", str(tmp_path), "--exp-name", "run"]
    before = signal.getsignal(number)
    assert main(command) == status and signal.getsignal(number) is before
    assert "peerage resume" in capsys.readouterr().err
    monkeypatch.undo()
    run = tmp_path / "run"
    assert [folder.name for folder in checkpoint.checkpoints(run)] == ["step_000000000", "step_000000026"]
    assert json.loads((run / "FAILED").read_text())["why"] == "interrupted"
    assert main(["resume", str(run)]) == 0
    for name in ("metrics.csv", "evaluations.csv", "advice.csv"):
        assert (run / name).read_bytes() == (whole.folder / name).read_bytes()


def test_the_second_signal_does_not_wait(tmp_path):
    with pytest.raises(SystemExit) as caught:
        peerage.train(
            config=small(), log_dir=str(tmp_path), exp_name="run", listeners=[Signal(signal.SIGTERM, times=2)]
        )
    assert caught.value.code == 143
    run = tmp_path / "run"
    assert [folder.name for folder in checkpoint.checkpoints(run)] == ["step_000000000"]  # no other was written
    assert peerage.resume(run).metrics["step"].max() == 150


def test_a_signal_interrupts_an_evaluation(tmp_path, monkeypatch):
    """The evaluation is discarded and repeated by the resumed run."""
    from peerage.evaluation.evaluate import Evaluator

    whole = peerage.train(config=small(), log_dir=str(tmp_path), exp_name="whole")
    run = Evaluator.run

    def with_signal(self, actor, trained, stop):
        if trained == 100:
            os.kill(os.getpid(), signal.SIGTERM)
        return run(self, actor, trained, stop)

    monkeypatch.setattr(Evaluator, "run", with_signal)
    with pytest.raises(SystemExit):
        peerage.train(config=small(), log_dir=str(tmp_path), exp_name="run")
    monkeypatch.undo()
    assert peerage.load(tmp_path / "run").evaluations["step"].max() == 0
    assert checkpoint.checkpoints(tmp_path / "run")[-1].name == "step_000000100"
    again = peerage.resume(tmp_path / "run")
    assert (again.folder / "evaluations.csv").read_bytes() == (whole.folder / "evaluations.csv").read_bytes()


def test_ignored_signals_stay_ignored():
    """`nohup peerage train` continues after its terminal is closed."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Interrupt() as interrupt:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not interrupt.asked and interrupt.name == ""
            os.kill(os.getpid(), signal.SIGINT)
            assert interrupt.asked and interrupt.name == "SIGINT"
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_finished_run_is_not_resumed(stopped):
    """A finished run is not resumed, unless it was killed before DONE was written."""
    run = peerage.resume(stopped)
    peerage.resume(run)
    rows = {name: (stopped / name).read_bytes() for name in ("metrics.csv", "evaluations.csv", "advice.csv")}
    (stopped / "DONE").unlink()
    (stopped / "report.html").unlink()
    peerage.resume(run)
    assert (stopped / "DONE").exists() and (stopped / "report.html").exists()
    assert {name: (stopped / name).read_bytes() for name in rows} == rows


def test_a_single_agent_resumes_too(tmp_path):
    config = small(n_peers=1, advisers=(), advice=AdviceConfig(sharing="none"))
    whole = peerage.train(config=config, log_dir=str(tmp_path), exp_name="whole")
    with pytest.raises(KeyboardInterrupt):
        peerage.train(config=config, log_dir=str(tmp_path), exp_name="run", listeners=[Stop(90)])
    run = peerage.resume(tmp_path / "run")
    assert (run.folder / "metrics.csv").read_bytes() == (whole.folder / "metrics.csv").read_bytes()
