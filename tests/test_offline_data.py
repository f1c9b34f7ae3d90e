"""Datasets of recorded episodes: reading them, and windows for sequence models."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import gymnasium
import h5py
import minari
import numpy as np
import pyarrow as pa
import pytest
import torch
from minari.data_collector import EpisodeBuffer
from minari.dataset.minari_storage import MinariStorage
from pyarrow import parquet
from scipy import stats

import peerage
import peerage.offline.windows as windows_module
from peerage.cli import main
from peerage.errors import UserError
from peerage.offline.episodes import Episode
from peerage.offline.trajectories import Trajectories, load_data, trajectories
from peerage.offline.windows import Windows, default_scale, returns_to_go, statistics


def made(lengths: list[int], obs: int = 3, act: int = 2, seed: int = 0, **known) -> Trajectories:
    """Random episodes; the first number of an observation is the number of its episode, the second one the step."""
    rng = np.random.default_rng(seed)
    episodes = []
    for number, steps in enumerate(lengths):
        seen = rng.normal(size=(steps + 1, obs)).astype(np.float32)
        seen[:, 0], seen[:, 1] = number, np.arange(steps + 1)
        actions = rng.uniform(-1, 1, (steps, act)).astype(np.float32)
        episodes.append(Episode(seen, actions, rng.normal(size=steps).astype(np.float32), number % 2 == 0))
    return trajectories(episodes, **known)


@pytest.fixture(autouse=True)
def datasets(tmp_path, monkeypatch):
    """Minari's folder of datasets."""
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "datasets"))
    return tmp_path / "datasets"


def write(folder, episodes, observations, actions, spec=None, data_format="hdf5", **metadata) -> None:
    """A Minari dataset, written by Minari."""
    (folder / "data").mkdir(parents=True)
    storage = MinariStorage.new(folder / "data", observations, actions, spec, data_format)
    about = {"dataset_id": folder.name, "minari_version": "0.5.4", "algorithm_name": "by hand", **metadata}
    storage.update_metadata(about)
    storage.update_episodes(episodes)


def buffer(obs, actions, rewards, terminated: bool) -> EpisodeBuffer:
    ends = np.zeros(len(rewards), bool)
    ends[-1] = True
    flags = {"terminations": ends & terminated, "truncations": ends & ~terminated}
    return EpisodeBuffer(observations=obs, actions=actions, rewards=rewards, **flags)


# --- trajectories ---------------------------------------------------------------------------------


def test_trajectories_by_hand() -> None:
    one = Episode(np.array([[0, 1], [2, 3], [4, 5]]), np.array([[1], [2]]), np.array([1.0, 2.0]), True)
    two = Episode(np.array([[6, 7], [8, 9]]), np.array([[3]]), np.array([5.0]), False)
    data = trajectories([one, two], low=np.array([-3.0]), high=np.array([3.0]))
    assert data.steps == 3 and data.episodes == 2 and data.lengths.tolist() == [2, 1]
    assert data.returns.tolist() == [3, 5] and data.quantiles() == [3.2, 4, 4.8, 5]
    assert data.obs.tolist() == [[0, 1], [2, 3], [6, 7]] and data.obs.dtype == np.float32
    assert data.next_obs().tolist() == [[2, 3], [4, 5], [8, 9]] and data.last_obs.tolist() == [[4, 5], [8, 9]]
    assert data.terminated.tolist() == [True, False] and data.starts.tolist() == [0, 2, 3]
    assert data.source.low.tolist() == [-3] and data.source.n_actions == 0
    best = data.select(data.returns > 4)
    assert repr(data) == "Trajectories(the data, 2 episodes, 3 steps, returns 3 to 5)"
    named = replace(best, source=replace(best.source, name="lean-v0", env="CartPole-v1"))
    assert repr(named) == "Trajectories(lean-v0: CartPole-v1, 1 episode, 1 step, returns 5 to 5)"
    assert best.obs.tolist() == [[6, 7]] and best.starts.tolist() == [0, 1] and best.last_obs.tolist() == [[8, 9]]
    assert best.source.fingerprint == trajectories([two]).source.fingerprint != data.source.fingerprint
    assert data.select([1, 0]).actions.tolist() == [[3], [1], [2]]
    with pytest.raises(ValueError):
        data.select([])
    with pytest.raises(ValueError):
        data.obs[0, 0] = 1


@pytest.mark.parametrize("discrete", (True, False))
def test_selected_episodes_become_a_dataset(discrete, datasets, tmp_path) -> None:
    """What is read back is the same, every bit, also if the first action is not 0 or the bounds are unknown."""
    rng, episodes = np.random.default_rng(0), []
    for steps in (4, 3, 2):
        actions = np.array([5, 7, 5, 7])[:steps] if discrete else rng.normal(size=(steps, 1)).astype(np.float32)
        rewards = rng.normal(size=steps).astype(np.float32)
        episodes.append(Episode(rng.normal(size=(steps + 1, 2)).astype(np.float32), actions, rewards, steps == 2))
    space = {"discrete": True, "n_actions": 4, "start": 5} if discrete else {"low": np.array([-9.0]), "high": None}
    data = trajectories(episodes, env="Mine-v0", env_args={"size": 3}, provenance="by hand", **space)
    saved = data.select([2, 0]).save("mine/best")
    read = load_data("mine/best")
    assert read.source.fingerprint == saved.source.fingerprint == data.select([2, 0]).source.fingerprint
    assert saved.source.name == "mine/best-v0" and read.source.provenance == "by hand"
    assert (read.source.env, read.source.env_args) == ("Mine-v0", {"size": 3})
    for name in ("n_actions", "start", "low", "high"):
        assert np.array_equal(getattr(read.source, name), getattr(data.source, name))
    first = minari.load_dataset("mine/best-v0")[0]
    assert first.actions.tolist() == ([5, 7] if discrete else data.actions[-2:].tolist())
    assert first.terminations.tolist() == [False, True] and first.observations.shape == (3, 2)
    with pytest.raises(UserError, match="exists: choose another name"):
        data.save("mine/best")
    data.save("mine/best", overwrite=True)
    assert load_data(datasets / "mine" / "best-v0").episodes == 3
    assert data.save(tmp_path / "there").source.name == str(tmp_path / "there")
    with pytest.raises(UserError, match=r'data is in memory: save it with data.save\("NAME"\)'):
        peerage.train(algorithm="bc", data=data)


@pytest.mark.long
def test_the_example_of_offline_learning_runs(tmp_path) -> None:
    example = [sys.executable, str(Path(__file__).parents[1] / "examples" / "offline.py")]
    done = subprocess.run(example, capture_output=True, text=True, cwd=tmp_path, timeout=600)
    assert done.returncode == 0, done.stderr
    assert "room: Room-v6, 60 episodes, 3,000 steps" in done.stdout and done.stdout.count("Trajectories(") == 2
    assert load_data(tmp_path / "room-best").episodes >= 30 and "Name: return" in done.stdout


@pytest.mark.parametrize("change, words", [
    ({"rewards": np.zeros(0)}, "episode 1 is empty"),
    ({"rewards": np.array([1.0, np.nan])}, "a reward is not finite (row 3)"),
    ({"actions": np.zeros((3, 1))}, "3 actions and 2 rewards"),
    ({"actions": np.zeros((2, 2))}, "an action is not a list of numbers"),
    ({"obs": np.zeros((3, 4))}, "observations that are not flat, or of several sizes"),
    ({"obs": np.full((3, 2), np.inf)}, "an observation is not finite"),
    ({"obs": np.full((3, 2), 1e300)}, "an observation is not finite"),
    ({"actions": np.array([[0.5], [2.0]])}, "an action 2 outside its space, -1 to 1"),
])  # fmt: skip
def test_episodes_that_cannot_be_used_are_refused(change, words) -> None:
    good = {"obs": np.zeros((3, 2)), "actions": np.zeros((2, 1)), "rewards": np.zeros(2), "terminated": True}
    with pytest.raises(UserError, match=words.replace("(", r"\(").replace(")", r"\)")):
        trajectories([Episode(**good), Episode(**(good | change))], low=np.full(1, -1.0), high=np.ones(1))


def test_box_actions_that_leave_the_space_by_rounding_are_clipped() -> None:
    episode = Episode(np.zeros((3, 2)), np.array([[1 + 1e-6], [-0.5]]), np.zeros(2), True)
    assert trajectories([episode], low=-np.ones(1), high=np.ones(1)).actions.tolist() == [[1], [-0.5]]
    with pytest.raises(UserError, match="actions of 1 numbers, but its space has 3"):
        trajectories([episode], low=-np.ones(3), high=np.ones(3))


@pytest.mark.parametrize("actions, words", [
    ([1, 4], "actions from 1 to 4, but its space has 1 to 3"), ([0, 1], "actions from 0"), ([1, 1.5], "whole numbers"),
    ([1, np.nan], "whole numbers"), (["a", "b"], "not numbers"),
])  # fmt: skip
def test_discrete_actions_outside_the_space_are_refused(actions, words) -> None:
    episode = Episode(np.zeros((3, 2)), np.array(actions), np.zeros(2), True)
    with pytest.raises(UserError, match=words):
        trajectories([episode], discrete=True, n_actions=3, start=1)


# --- Minari ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("data_format", ["hdf5", "parquet", "arrow"])
def test_a_minari_dataset_with_box_actions_is_read(datasets, data_format) -> None:
    rng = np.random.default_rng(0)
    env = gymnasium.make("Pendulum-v1", max_episode_steps=50, g=9.0)
    episodes = [
        buffer(rng.normal(size=(n + 1, 3)), rng.uniform(-2, 2, (n, 1)), rng.normal(size=n), n == 4) for n in (4, 7)
    ]
    spaces = env.observation_space, env.action_space
    if data_format != "hdf5":  # its types are those of the space
        for episode in episodes:
            object.__setattr__(episode, "observations", episode.observations.astype(np.float32))
            object.__setattr__(episode, "actions", episode.actions.astype(np.float32))
    write(datasets / "pendulum" / "mixed-v0", episodes, *spaces, env.spec, data_format, description="a test")
    data = load_data("pendulum/mixed-v0")
    assert data.obs.tobytes() == np.concatenate([e.observations[:-1] for e in episodes]).astype("f4").tobytes()
    assert data.actions.tobytes() == np.concatenate([e.actions for e in episodes]).astype("f4").tobytes()
    assert data.rewards.tobytes() == np.concatenate([e.rewards for e in episodes]).astype("f4").tobytes()
    assert (data.last_obs == np.stack([e.observations[-1] for e in episodes]).astype("f4")).all()
    assert data.terminated.tolist() == [True, False] and data.lengths.tolist() == [4, 7]
    source = data.source
    assert (source.env, source.env_args) == ("Pendulum-v1", {"g": 9.0, "max_episode_steps": 50})
    assert (source.low, source.high, source.provenance, source.name) == (-2, 2, "by hand", "pendulum/mixed-v0")
    again = load_data(datasets / "pendulum" / "mixed-v0" / "data")
    assert again.source.fingerprint == source.fingerprint


def test_discrete_actions_and_dict_observations_of_a_minari_dataset(datasets) -> None:
    box = gymnasium.spaces.Box(-1, 1, (2,))
    space = gymnasium.spaces.Dict({"b": box, "a": box})
    seen = {"a": np.arange(6).reshape(3, 2), "b": 10 + np.arange(6).reshape(3, 2)}
    actions = gymnasium.spaces.Discrete(3, start=5)
    write(datasets / "d-v1", [buffer(seen, np.array([5, 7]), np.zeros(2), True)], space, actions)
    data = load_data("d")
    assert data.actions.tolist() == [[0], [2]] and data.source.n_actions == 3 and data.source.low.shape == (0,)
    flat = [gymnasium.spaces.flatten(space, {name: part[t] for name, part in seen.items()}) for t in range(2)]
    assert (data.obs == np.stack(flat)).all()
    assert data.source.env == ""


def test_the_newest_version_of_a_name_is_loaded(datasets) -> None:
    box, discrete = gymnasium.spaces.Box(-1, 1, (1,)), gymnasium.spaces.Discrete(2)
    for version in (2, 10):
        episode = buffer(np.zeros((2, 1)), np.array([0]), np.array([version]), True)
        write(datasets / f"d-v{version}", [episode], box, discrete)
    assert load_data("d").rewards.tolist() == [10] and load_data("d-v2").rewards.tolist() == [2]
    with pytest.raises(UserError, match=r"no dataset 'd-v3' in .*did you mean 'd-v2'"):
        load_data("d-v3")
    with pytest.raises(UserError, match=r"there are d-v10, d-v2; `peerage data` lists them"):
        load_data("something else")
    with pytest.raises(UserError, match="no such file or folder"):
        load_data("./d")


def test_unsuitable_minari_datasets_are_refused_in_one_line(datasets) -> None:
    box, discrete = gymnasium.spaces.Box(-1, 1, (1,)), gymnasium.spaces.Discrete(2)
    image = gymnasium.spaces.Box(0, 255, (4, 4), np.uint8)
    multi = gymnasium.spaces.MultiDiscrete([2, 2])
    episode = buffer(np.zeros((2, 4, 4), np.uint8), np.array([0]), np.zeros(1), True)
    write(datasets / "image-v0", [episode], image, discrete)
    write(datasets / "multi-v0", [buffer(np.zeros((2, 1)), np.zeros((1, 2), int), np.zeros(1), True)], box, multi)
    write(datasets / "none-v0", [], box, discrete)
    for name, words in (("image", "observations Box"), ("multi", "actions MultiDiscrete"), ("none", "no episodes")):
        with pytest.raises(UserError, match=words) as caught:
            load_data(name)
        assert "\n" not in str(caught.value)
    two = buffer(np.zeros((4, 1)), np.zeros((3, 1)), np.zeros(3), True)
    two.terminations[0] = True
    write(datasets / "two-v0", [two], box, box)
    with pytest.raises(UserError, match="episode 0 ends at step 1 but has 3 steps"):
        load_data("two")
    metadata = datasets / "none-v0" / "data" / "metadata.json"
    about = json.loads(metadata.read_text())
    del about["observation_space"]
    metadata.write_text(json.dumps(about | {"env_spec": json.dumps({"id": "x", "entry_point": "os:abort"})}))
    with pytest.raises(UserError, match="does not describe its spaces"):
        load_data("none")
    metadata.write_text("{" * 100_000)
    with pytest.raises(UserError, match="cannot be read"):
        load_data("none")


# --- Parquet --------------------------------------------------------------------------------------


def table(**columns) -> pa.Table:
    rows = {
        "observations": [[[0.0, 1], [2, 3], [4, 5]], [[6.0, 7]]], "actions": [[[1.0], [2], [3]], [[4.0]]],
        "rewards": [[1.0, 2, 3], [4.0]], "dones": [[False, False, True], [False]],
    }  # fmt: skip
    return pa.table({name: column for name, column in (rows | columns).items() if column is not None})


def test_parquet_with_a_trajectory_in_each_row_is_read(tmp_path) -> None:
    folder = tmp_path / "halfcheetah" / "data"
    folder.mkdir(parents=True)
    parquet.write_table(table(), folder / "train-0.parquet")
    following = [[[2.0, 3], [4, 5], [8, 8]], [[9.0, 9]]]
    parquet.write_table(table(next_observations=following), folder / "train-1.parquet", row_group_size=1)
    one, both = load_data(folder / "train-0.parquet"), load_data(str(tmp_path / "halfcheetah"))
    assert one.obs.tolist() == [[0, 1], [2, 3], [4, 5], [6, 7]] and one.actions.tolist() == [[1], [2], [3], [4]]
    assert one.returns.tolist() == [6, 4] and one.terminated.tolist() == [True, False]
    assert one.last_obs.tolist() == [[4, 5], [6, 7]]  # unknown
    assert both.last_obs.tolist() == [[4, 5], [6, 7], [8, 8], [9, 9]] and both.starts.tolist() == [0, 3, 4, 7, 8]
    assert both.source.env == "" and both.source.low == -np.inf and both.source.high == np.inf


def test_parquet_with_discrete_actions_is_read(tmp_path) -> None:
    parquet.write_table(table(actions=[[0, 3, 1], [2]]), tmp_path / "d.parquet")
    data = load_data(tmp_path / "d.parquet")
    assert data.actions.tolist() == [[0], [3], [1], [2]]
    assert data.source.n_actions == 4 and data.source.low.shape == (0,)


def test_parquet_with_one_real_number_per_action_is_box(tmp_path) -> None:
    parquet.write_table(table(actions=[[0.5, 1, 1], [0.0]]), tmp_path / "d.parquet")
    data = load_data(tmp_path / "d.parquet")
    assert data.actions.tolist() == [[0.5], [1], [1], [0]] and data.source.n_actions == 0


@pytest.mark.parametrize("columns, words", [
    ({"dones": None}, "it has no column dones"),
    ({"rewards": [[1.0, 2], [4.0]]}, "row 0 has 2 rewards and 3 dones"),
    ({"rewards": [[1.0, None, 3], [4.0]]}, "rewards of row 0 has missing values"),
    ({"rewards": [[1.0, 2, 3], None]}, "rewards of row 1 is empty"),
    ({"rewards": [[], []], "dones": [[], []]}, "episode 0 is empty"),
    ({"rewards": [[1.0, float("nan"), 3], [4.0]]}, "a reward is not finite"),
    ({"observations": [[[0.0, 1], [2, 3], [4]], [[6.0, 7]]]}, "elements of several sizes"),
    ({"observations": [[[0.0, 1], [2, 3], [4, 5]], [[6.0]]]}, "of several sizes"),
    ({"observations": [[[[0.0]]] * 3, [[[1.0]]]]}, "is not flat"),
    ({"rewards": ["abc", "d"]}, "is not a readable dataset"),
    ({"rewards": [["a", "b", "c"], ["d"]]}, "a reward is not a list of numbers"),
    ({"dones": [[True, False, True], [False]]}, "row 0 ends at step 1 but has 3 steps"),
    ({"next_observations": [[[0.0, 1]], [[6.0, 7]]]}, "row 0 has 3 observations and 1 next_observations"),
    ({"actions": [[-1, 1, 1], [0]]}, "has actions from -1"),
])  # fmt: skip
def test_unsuitable_parquet_is_refused_in_one_line(columns, words, tmp_path) -> None:
    parquet.write_table(table(**columns), tmp_path / "d.parquet")
    with pytest.raises(UserError, match=words) as caught:
        load_data(tmp_path / "d.parquet")
    assert "\n" not in str(caught.value)


# --- hostile files --------------------------------------------------------------------------------


class Trap:
    """Creates a file if it is unpickled."""

    def __init__(self, path) -> None:
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, "w")


def test_broken_and_hostile_files_are_refused_and_nothing_is_executed(datasets, tmp_path, monkeypatch, capsys) -> None:
    """One line and status 2 each."""
    sprung = tmp_path / "sprung"
    trap = pickle.dumps(Trap(sprung))
    (tmp_path / "data.pkl").write_bytes(trap)
    (tmp_path / "data.parquet").write_bytes(trap)
    parquet.write_table(table(), tmp_path / "cut.parquet")
    (tmp_path / "cut.parquet").write_bytes((tmp_path / "cut.parquet").read_bytes()[:-20])
    parquet.write_table(pa.table({"x": [trap]}), tmp_path / "pickled.parquet")
    (tmp_path / "empty").mkdir()
    (tmp_path / "a-pickle").mkdir()
    np.save(tmp_path / "a-pickle" / "data.npy", np.array([Trap(sprung)], object), allow_pickle=True)
    env = gymnasium.make("CartPole-v1")
    spec = json.loads(env.spec.to_json())
    hostile = {"id": "Hostile-v0", "entry_point": "builtins:open", "kwargs": {"file": str(sprung), "mode": "w"}}
    for name in ("cut", "text", "pickled", "linked", "typed", "types", "pipe", "named"):
        rows = np.zeros((3, 4), np.float32), np.zeros(2, int), np.zeros(2)
        write(datasets / f"{name}-v0", [buffer(*rows, True)], env.observation_space, env.action_space)
        data = datasets / f"{name}-v0" / "data"
        about = json.loads((data / "metadata.json").read_text())
        file = data / "main_data.hdf5"
        if name == "cut":
            file.write_bytes(file.read_bytes()[:2000])
        elif name == "text":
            file.write_bytes(b"not HDF5")
        elif name == "pickled":
            file.write_bytes(trap)
        elif name == "linked":
            with h5py.File(file, "a") as opened:
                del opened["episode_0/rewards"]
                opened["episode_0/rewards"] = h5py.ExternalLink(str(datasets / "named-v0" / "x.hdf5"), "/")
        elif name == "typed":
            with h5py.File(file, "a") as opened:
                del opened["episode_0/rewards"]
                opened["episode_0"].create_dataset("rewards", data=[b"a", b"b"])
        elif name == "types":
            about["observation_space"] = json.dumps({"type": "Box", "dtype": "O", "shape": [2], "low": 0, "high": 1})
        elif name == "pipe":
            file.unlink()
            os.mkfifo(file)  # opening it would wait for ever
        elif name == "named":
            about["env_spec"] = json.dumps(spec | hostile)
        (data / "metadata.json").write_text(json.dumps(about))
    assert load_data("named").source.env == "Hostile-v0"  # named, not built
    for name in ("cut", "text", "pickled", "linked", "typed", "types", "pipe"):
        assert main(["data", name]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and f"{name}-v0" in error.replace(f"{name}: a reward", f"{name}-v0"), error
    for name in ("data.pkl", "data.parquet", "cut.parquet", "pickled.parquet", "empty", "a-pickle"):
        assert main(["data", str(tmp_path / name)]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and name in error, error
    assert not sprung.exists()


def test_a_missing_package_is_named(datasets, monkeypatch, capsys) -> None:
    write(datasets / "d-v0", [], gymnasium.spaces.Box(-1, 1, (1,)), gymnasium.spaces.Discrete(2))
    monkeypatch.setitem(sys.modules, "h5py", None)
    assert main(["data", "d"]) == 2
    hint = 'a Minari dataset needs h5py, which is not installed: pip install "peerage[offline]"'
    assert hint in capsys.readouterr().err


# --- windows --------------------------------------------------------------------------------------


def test_returns_to_go_by_hand() -> None:
    rewards = Episode(np.zeros((4, 1)), np.zeros((3, 1)), np.array([1, 2, 3]), True)
    other = Episode(np.zeros((2, 1)), np.zeros((1, 1)), np.array([7]), True)
    data = trajectories([rewards, other])
    batch = Windows(data, 3, scale=10).sample(torch.tensor([0, 1, 3]))
    assert torch.allclose(batch.rtg[..., 0], torch.tensor([[0.6, 0.5, 0.3], [0.5, 0.3, 0], [0.7, 0, 0]]))
    assert batch.mask.tolist() == [[True] * 3, [True, True, False], [True, False, False]]
    assert batch.timesteps.tolist() == [[0, 1, 2], [1, 2, 0], [0, 0, 0]]
    assert returns_to_go(data, 0.5).tolist() == [1 + 1 + 0.75, 2 + 1.5, 3, 7]
    few = made([50, 40], seed=1)  # computed by episode, and 60 episodes by step
    rewards = np.split(few.rewards, few.starts[1:-1]) * 30
    together = trajectories([Episode(np.zeros((len(r) + 1, 1)), np.zeros((len(r), 1)), r, True) for r in rewards])
    np.testing.assert_array_equal(returns_to_go(together, 0.9)[:90], returns_to_go(few, 0.9))


def test_windows_stay_in_their_episode_and_are_padded_with_zeros() -> None:
    data = made([1, 4, 30, 2, 9])
    windows = Windows(data, 5)
    first = torch.arange(data.steps)
    batch = windows.sample(first)
    states = batch.states * torch.from_numpy(windows.state_std) + torch.from_numpy(windows.state_mean)
    for t in range(data.steps):
        episode = int(np.searchsorted(data.starts, t, "right")) - 1
        n = min(5, int(data.starts[episode + 1]) - t)
        assert batch.mask[t].tolist() == [True] * n + [False] * (5 - n)
        assert torch.allclose(states[t, :n], torch.from_numpy(data.obs[t : t + n].copy()), atol=1e-5)
        assert batch.actions[t, :n].tolist() == data.actions[t : t + n].tolist()
        assert batch.timesteps[t, :n].tolist() == data.obs[t : t + n, 1].tolist()
        assert not any(part[t, n:].any() for part in batch)
    together = windows.sample(first[:6].view(2, 3).numpy())
    assert together.states.shape == (2, 3, 5, 3) and together.timesteps.shape == (2, 3, 5)
    assert torch.equal(together.rtg[1, 2], batch.rtg[5])


def test_states_are_standardised_with_the_statistics_of_the_data() -> None:
    data = made([40, 60])
    constant = np.full((data.steps, 1), 12345.678, np.float32)
    data = trajectories([Episode(np.hstack([data.obs, constant]), data.actions, data.rewards, True)])
    mean, std = statistics(data)
    states = Windows(data, 1).sample(torch.arange(data.steps)).states[:, 0].double()
    assert torch.allclose(states.mean(0), torch.zeros(4).double(), atol=1e-3)
    assert torch.allclose(states[:, :3].std(0, unbiased=False), torch.ones(3).double(), atol=1e-5)
    assert mean[3] == constant[0] and std[3] == 1 and not states[:, 3].any()


def test_first_steps_are_drawn_uniformly_over_all_steps() -> None:
    """So episodes are drawn in proportion to their lengths."""
    data = made([1, 3, 17, 50, 129])
    windows = Windows(data, 4)
    batch = windows.sample(torch.Generator().manual_seed(3), 40_000)
    states = batch.states[:, 0].double() * torch.from_numpy(windows.state_std) + torch.from_numpy(windows.state_mean)
    episode, step = states[:, 0].round().long(), batch.timesteps[:, 0]
    counts = np.bincount(episode, minlength=5)
    assert stats.chisquare(counts, 40_000 * data.lengths / data.steps).pvalue > 0.01
    drawn = np.bincount(torch.from_numpy(data.starts.copy())[episode] + step, minlength=data.steps)
    assert stats.chisquare(drawn).pvalue > 0.01
    same = windows.sample(torch.Generator().manual_seed(3), 40_000)
    assert all(torch.equal(a, b) for a, b in zip(batch, same))


def test_the_scale_of_returns() -> None:
    data = made([5, 5])
    cancelling = Episode(np.zeros((4, 1)), np.zeros((3, 1)), np.array([2.0, 1.0, -3.0]), True)
    assert default_scale(trajectories([cancelling])) == 3  # the returns-to-go are 0, -2, -3
    assert default_scale(made([5], env="Hopper-v5")) == windows_module.MUJOCO_SCALE
    assert default_scale(trajectories([Episode(np.zeros((2, 1)), np.zeros((1, 1)), np.zeros(1), True)])) == 1
    for wrong in ({"length": 0}, {"scale": 0.0}, {"gamma": 1.5}):
        with pytest.raises(ValueError):
            Windows(data, **({"length": 2} | wrong))
