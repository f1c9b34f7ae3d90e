"""Feature families: chunks, lag, advisers, episodes, the registry, and every family in its real environment."""

from __future__ import annotations

import itertools
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from peerage.envs.make import Spec, check_env_id, make_env
from peerage.errors import UserError
from peerage.trust.features import (
    ADVISER,
    HISTORY,
    Family,
    FeatureHistory,
    Features,
    columns,
    family_for,
    make_features,
    register_features,
)

M, K, STEPS = 3, 4, 101
ENVS = {
    "lunarlander": "LunarLander-v3",
    "hopper": "Hopper-v5",
    "walker2d": "Walker2d-v5",
    "ant": "Ant-v5",
    "room": "Room-v21",
    "generic": "Pendulum-v1",
}
_specs: dict[str, Spec] = {}


def spec_of(env_id: str) -> Spec:
    if env_id not in _specs:
        _specs[env_id] = check_env_id(env_id, {})
    return _specs[env_id]


Steps = dict[str, np.ndarray]


def steps_of(spec: Spec, steps: int = STEPS, members: int = M, advisers: int = K, seed: int = 0) -> Steps:
    """Made-up steps with values on both sides of every threshold, and episodes of some length."""
    rng = np.random.default_rng(seed)
    obs = rng.normal(0.5, 0.6, (members, steps, spec.obs_dim)).astype(np.float32)
    obs[:, ::3] *= 0.1
    obs[:, 1::4] = obs[:, :1]  # constant values
    if spec.discrete:
        action = rng.integers(spec.n_actions, size=(members, steps))
    else:
        action = rng.uniform(spec.action_low, spec.action_high, (members, steps, spec.act_dim)).astype(np.float32)
    first = rng.random((members, steps)) < 0.02
    first[:, 0] = True
    first[0, 1:] = False  # one member has one long episode
    return {
        "obs": obs,
        "action": action,
        "reward": rng.normal(0, 5, (members, steps)).astype(np.float32),
        "adviser": rng.integers(advisers, size=(members, steps)),
        "first": first,
    }


def run(features: Features, steps: Steps, sizes: list[int] | None = None) -> tuple[np.ndarray, np.ndarray]:
    """All steps through `features`, in chunks of `sizes` (repeated; None: all at once)."""
    total, results, start = steps["reward"].shape[1], [], 0
    for size in itertools.cycle(sizes or [total]):
        if start >= total:
            break
        results.append(features.extend(**{name: x[:, start : start + size] for name, x in steps.items()}))
        start += size
    return np.concatenate([f for f, _ in results], axis=1), np.concatenate([p for _, p in results], axis=1)


def fresh(name: str, lagged: bool = True, members: int = M, advisers: int = K) -> Features:
    return make_features(name, spec_of(ENVS[name]), members, advisers, lagged)


@pytest.mark.parametrize("name", ENVS)
@pytest.mark.parametrize("lagged", [True, False])
def test_the_cut_into_chunks_changes_no_bit(name, lagged):
    steps = steps_of(spec_of(ENVS[name]))
    whole, phases = run(fresh(name, lagged), steps)
    for sizes in ([1], [3], [20], [50], [1, 40, 2, 7]):
        features, again = run(fresh(name, lagged), steps, sizes)
        np.testing.assert_array_equal(features, whole, err_msg=str(sizes))
        np.testing.assert_array_equal(again, phases)


@pytest.mark.parametrize("name", ENVS)
def test_members_do_not_affect_each_other(name):
    steps = steps_of(spec_of(ENVS[name]))
    together, phases = run(fresh(name), steps, [20])
    for member in range(M):
        alone = {key: x[member : member + 1] for key, x in steps.items()}
        features, its_phases = run(fresh(name, members=1), alone, [20])
        np.testing.assert_array_equal(features[0], together[member])
        np.testing.assert_array_equal(its_phases[0], phases[member])


@pytest.mark.parametrize("name", ENVS)
def test_an_episode_does_not_depend_on_the_one_before(name):
    """The same steps, once after 37 others and once as the first ever, have the same features."""
    spec = spec_of(ENVS[name])
    before, episode = steps_of(spec, 37, seed=1), steps_of(spec, 60, seed=2)
    episode["first"][:] = False
    episode["first"][:, 0] = True
    both = {key: np.concatenate((before[key], episode[key]), axis=1) for key in before}
    expected, expected_phases = run(fresh(name), episode)
    for sizes in (None, [20], [1]):
        features, phases = run(fresh(name), both, sizes)
        np.testing.assert_array_equal(features[:, 37:], expected)
        np.testing.assert_array_equal(phases[:, 37:], expected_phases)


@pytest.mark.parametrize("name", ENVS)
def test_a_reward_is_in_the_features_only_after_its_step(name):
    """Lagged, r_t changes no feature at or before t, and some after it; the published way, it changes those at t."""
    steps = steps_of(spec_of(ENVS[name]))
    steps["first"][:, 1:] = False
    t = 41
    other = {**steps, "reward": steps["reward"].copy()}
    other["reward"][:, t] += 3
    apart = run(fresh(name), steps)[0] != run(fresh(name), other)[0]
    assert not apart[:, : t + 1].any()
    assert apart[:, t + 1].any(axis=-1).all()
    published = run(fresh(name, lagged=False), steps)[0] != run(fresh(name, lagged=False), other)[0]
    assert not published[:, :t].any()
    assert published[:, t].any(axis=-1).all()


@pytest.mark.parametrize("name", ENVS)
def test_the_last_reward_of_an_episode_is_not_in_the_next(name):
    steps = steps_of(spec_of(ENVS[name]))
    steps["first"][:] = False
    steps["first"][:, [0, 42]] = True
    other = {**steps, "reward": steps["reward"].copy()}
    other["reward"][:, 41] += 3
    np.testing.assert_array_equal(run(fresh(name), steps)[0], run(fresh(name), other)[0])


@pytest.mark.parametrize("name", ENVS)
@pytest.mark.parametrize("advisers", [1, 2, 4, 64])
def test_only_the_adviser_slice_contains_the_followed_adviser(name, advisers):
    """But for LunarLander's share of the followed adviser's last actions, which by its definition depends on it."""
    spec = spec_of(ENVS[name])
    steps = steps_of(spec, advisers=advisers)
    features = make_features(name, spec, M, advisers)
    assert features.width == sum(width for _, width in features.family.blocks) + advisers
    assert features.adviser == features.slices["adviser"]
    result, phases = run(features, steps, [20])
    np.testing.assert_array_equal(result[..., features.adviser], np.eye(advisers)[steps["adviser"]])

    other = {**steps, "adviser": (steps["adviser"] + 1) % advisers}
    other["adviser"][0] = 0
    changed, same_phases = run(make_features(name, spec, M, advisers), other, [20])
    np.testing.assert_array_equal(phases, same_phases)
    may_differ = {*range(features.adviser.start, features.adviser.stop)}
    if name == "lunarlander":
        may_differ.add(features.slices["action"].stop - 1)
        assert advisers == 1 or (result != changed)[..., features.slices["action"].stop - 1].any()
    differs = {int(column) for column in np.nonzero((result != changed).any(axis=(0, 1)))[0]}
    assert differs <= may_differ
    assert advisers == 1 or differs & {*range(features.adviser.start, features.adviser.stop)}


@pytest.mark.parametrize("name", ENVS)
def test_a_saved_state_continues_with_the_same_bits(name):
    steps = steps_of(spec_of(ENVS[name]))
    whole, phases = run(fresh(name), steps)
    for cut in (1, 45):
        before = fresh(name)
        run(before, {key: x[:, :cut] for key, x in steps.items()}, [7])
        saved = before.state()
        assert all(isinstance(x, np.ndarray) and len(x) == M for x in saved.values())
        run(before, {key: x[:, cut:] for key, x in steps.items()})  # the saved state does not change with it
        after = fresh(name)
        run(after, steps)  # what it knew is forgotten
        after.load_state(saved)
        features, again = run(after, {key: x[:, cut:] for key, x in steps.items()}, [20])
        np.testing.assert_array_equal(features, whole[:, cut:])
        np.testing.assert_array_equal(again, phases[:, cut:])


def test_the_state_of_a_new_object_resets():
    steps, features = steps_of(spec_of("LunarLander-v3")), fresh("lunarlander")
    start = features.state()
    first = run(features, steps)[0]
    features.load_state(start)
    np.testing.assert_array_equal(run(features, steps)[0], first)


REAL = [
    ("LunarLander-v3", "lunarlander", 31, ("cruise", "approach", "landing", "touchdown")),
    ("Hopper-v4", "hopper", 34, ("stance", "swing", "flight", "landing")),
    ("Walker2d-v4", "walker2d", 38, ("left_stance", "right_stance", "double_support", "flight")),
    ("Ant-v4", "ant", 48, ("trot", "pace", "gallop", "stand")),
    ("Ant-v5", "ant", 48, ("trot", "pace", "gallop", "stand")),
    ("Room-v6", "room", 18, ("exploration", "navigation", "approaching", "goal_reached")),
    ("CartPole-v1", "generic", 9, ()),
    ("MountainCarContinuous-v0", "generic", 6, ()),
    ("LunarLanderContinuous-v3", "generic", 13, ()),
    ("Humanoid-v5", "generic", 348 + 17 + 3, ()),
]


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize(("env_id", "family", "width", "phase_names"), REAL)
def test_200_random_steps_of_the_real_environment(env_id, family, width, phase_names):
    spec = spec_of(env_id)
    features = make_features("auto", spec, 1, 4)
    assert features.family.name == family and features.width == width + 4
    assert features.phase_names == phase_names and features.n_phases == len(phase_names)
    env, rng = make_env(env_id, {}), np.random.default_rng(0)
    obs, _ = env.reset(seed=0)
    first, kept = True, {name: [] for name in ("obs", "action", "reward", "adviser", "first")}
    for _ in range(200):
        action = (
            rng.integers(spec.n_actions) if spec.discrete else rng.uniform(spec.action_low, spec.action_high)
        )
        after, reward, terminated, truncated, _ = env.step(action)
        for name, value in zip(kept, (obs, action, reward, rng.integers(4), first)):
            kept[name].append(value)
        obs, first = after, terminated or truncated
        if first:
            obs, _ = env.reset()
    env.close()
    result, phases = run(features, {name: np.array(values)[None] for name, values in kept.items()}, [20])
    assert result.shape == (1, 200, width + 4) and result.dtype == np.float32
    assert np.isfinite(result).all() and np.abs(result).max() < 200
    assert phases.shape == (1, 200) and phases.dtype == np.int64
    assert phases.min() >= 0 and phases.max() < max(1, len(phase_names))
    slices = list(features.slices.values())
    assert [s.start for s in slices] == [0, *(s.stop for s in slices[:-1])] and slices[-1].stop == features.width


def test_past_helpers_on_numbers():
    """Two members; the second begins a new episode at its third step."""
    x = np.array([[1, 2, 4, 8], [1, 2, 4, 8]], dtype=np.float32)
    age = np.array([[0, 1, 2, 3], [0, 1, 0, 1]])
    zeros = np.zeros((2, 4), dtype=np.float32)
    past = FeatureHistory(x[..., None], zeros.astype(int), x, zeros.astype(int), age, new=4, n_advisers=1)
    np.testing.assert_array_equal(past.reward, [[0, 1, 2, 4], [0, 1, 0, 4]])
    np.testing.assert_array_equal(past.reward_change(), [[0, 0, 1, 2], [0, 0, 0, 0]])
    np.testing.assert_allclose(past.mean_reward(2), [[0, 1, 1.5, 3], [0, 1, 0, 4]])
    value, exists = past.previous(x)
    np.testing.assert_array_equal(value, [[0, 1, 2, 4], [0, 1, 0, 4]])
    np.testing.assert_array_equal(exists, [[0, 1, 1, 1], [0, 1, 0, 1]])
    np.testing.assert_array_equal(past.change(x), [[0, 1, 2, 4], [0, 1, 0, 4]])
    np.testing.assert_allclose(past.mean_of_last(x, 3), [[1, 1.5, 7 / 3, 14 / 3], [1, 1.5, 4, 6]])
    np.testing.assert_allclose(past.mean_of_last(x, 3, skip=1), [[0, 2, 3, 14 / 3], [0, 2, 0, 8]])
    np.testing.assert_allclose(past.sum_of_last(x, 2), [[1, 3, 6, 12], [1, 3, 4, 12]])
    np.testing.assert_allclose(past.var_of_last(x, 2), [[0, 0.25, 1, 4], [0, 0.25, 0, 4]])
    np.testing.assert_allclose(past.std_of_last(x, 2), [[0, 0.5, 1, 2], [0, 0.5, 0, 2]])
    both = np.stack((x, 2 * x), axis=2)
    np.testing.assert_allclose(past.std_of_last(both, 2)[..., 1], [[0, 1, 2, 4], [0, 1, 0, 4]])
    np.testing.assert_array_equal(past.value_before(x, 2), [[1, 1, 1, 2], [1, 1, 4, 4]])
    kind = np.array([[0, 1, 1, 2], [0, 1, 2, 2]])
    np.testing.assert_array_equal(past.count_changes(kind, 3), [[0, 1, 1, 1], [0, 1, 0, 0]])
    np.testing.assert_array_equal(past.count_changes(kind, 4), [[0, 1, 1, 2], [0, 1, 0, 0]])
    with pytest.raises(ValueError, match="a window of 31 steps"):
        past.mean_of_last(x, HISTORY + 1)


def test_wrong_advisers_are_refused():
    steps = steps_of(spec_of("Room-v21"))
    for wrong in (-1, K):
        with pytest.raises(ValueError, match=r"advisers must be"):
            fresh("room").extend(**{**steps, "adviser": np.full_like(steps["adviser"], wrong)})


# The registry and a user's own families.


@pytest.fixture
def registered():

    def register(**changes):
        family = {
            "name": "mine",
            "blocks": (("pole", 2), ADVISER, ("reward", 1)),
            "extract": lambda past: {"pole": past.obs[..., 2:], "reward": past.reward},
        } | changes
        register_features("mine", lambda spec: Family(**family))
        return make_features("mine", spec_of("CartPole-v1"), 2, 3)

    return register


def test_a_custom_family(registered):
    features = registered(
        phases=lambda past: (past.obs[..., 2] > 0).astype(int), phase_names=("left", "right")
    )
    assert features.width == 6 and features.adviser == slice(2, 5) and features.n_phases == 2
    steps = steps_of(spec_of("CartPole-v1"), 10, 2, 3)
    result, phases = run(features, steps, [3])
    np.testing.assert_array_equal(result[..., :2], steps["obs"][..., 2:])
    np.testing.assert_array_equal(phases, steps["obs"][..., 2] > 0)


SELF = "feature family 'mine'"
WRONG = {
    "width": (
        {"blocks": (("pole", 3), ADVISER, ("reward", 1))},
        r"block 'pole' should have shape \[M, S, width\] = \[2, 70, 3\], but has \[2, 70, 2\]",
    ),
    "missing": ({"blocks": (("pole", 2), ADVISER, ("sun", 1))}, "extract returned no block 'sun'"),
    "nan": (
        {"extract": lambda past: {"pole": past.obs[..., 2:], "reward": 0 / np.abs(past.reward)}},
        "block 'reward' has numbers that are not finite",
    ),
    "no adviser": ({"blocks": (("pole", 2), ("reward", 1))}, "has 0 blocks named 'adviser'"),
    "two advisers": ({"blocks": (("pole", 2), ADVISER, ADVISER)}, "has 2 blocks named 'adviser'"),
    "a name twice": ({"blocks": (("pole", 2), ADVISER, ("pole", 1))}, "has 2 blocks named 'pole'"),
    "no width": ({"blocks": (("pole", 0), ADVISER)}, "width of block 'pole' must be"),
    "phase": (
        {"phases": lambda past: past.first * 2, "phase_names": ("a", "b")},
        r"phase 2 is out of range; it has 2 phases, 0 \.\.\. 1",
    ),
    "negative phase": (
        {"phases": lambda past: past.first * 1 - 1, "phase_names": ("a", "b")},
        "phase -1 is out of range",
    ),
    "phases of floats": (
        {"phases": lambda past: past.reward, "phase_names": ("a",)},
        "phases must be integers of shape",
    ),
    "phases without names": ({"phases": lambda past: past.age}, "must be given together"),
    "names without phases": ({"phase_names": ("a",)}, "must be given together"),
    "an error": (
        {"extract": lambda past: {"pole": past.height}},
        "AttributeError: 'FeatureHistory' object has no attribute 'height'",
    ),
    "too far back": (
        {"extract": lambda past: {"pole": columns(past.obs[..., 2:].cumsum(axis=1)), "reward": past.reward}},
        "block 'pole' depends on how the steps are cut into chunks; use at most the last 30 steps",
    ),
    "looking ahead": (
        {"extract": lambda past: {"pole": past.obs[..., 2:], "reward": past.reward[:, ::-1]}},
        "block 'reward' depends on how the steps are cut into chunks",
    ),
    "phases too far back": (
        {"phases": lambda past: np.cumsum(past.action, axis=1) % 2, "phase_names": ("a", "b")},
        "the result of phases depends on how the steps are cut into chunks",
    ),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_an_impossible_family_is_refused_when_built(registered, wrong):
    changes, message = WRONG[wrong]
    with pytest.raises(UserError, match=message) as error:
        registered(**changes)
    assert str(error.value).startswith(SELF) and "\n" not in str(error.value)


def test_a_later_error_changes_nothing(registered):
    """Finite on the made-up steps, not on a later one: the whole chunk is refused, and the next one is accepted."""

    def extract(past):
        return {"pole": past.obs[..., 2:], "reward": np.where(past.obs[..., 0] > 99, np.nan, past.reward)}

    features = registered(extract=extract)
    steps = steps_of(spec_of("CartPole-v1"), 10, 2, 3)
    features.extend(**steps)
    before = features.state()
    steps["obs"][1, 4, 0] = 100
    with pytest.raises(UserError, match="block 'reward' has numbers that are not finite"):
        features.extend(**steps)
    for name, x in features.state().items():
        np.testing.assert_array_equal(x, before[name])


def test_names():
    room = spec_of("Room-v21")
    with pytest.raises(UserError, match=r"unknown feature family 'lunar-lander' \(did you mean 'lunarlander'\?\)"):
        family_for("lunar-lander", room)
    for name in ("lunarlander", "hopper", "walker2d", "ant"):
        with pytest.raises(UserError, match=f"Room-v21 does not fit the feature family '{name}'"):
            make_features(name, room, 1, 2)
    with pytest.raises(UserError, match="LunarLanderContinuous-v3 does not fit"):
        family_for("lunarlander", spec_of("LunarLanderContinuous-v3"))
    assert family_for("generic", room).name == "generic"
    with pytest.raises(UserError, match="cannot be called 'auto'"):
        register_features("auto", lambda spec: family_for("generic", spec))


@pytest.mark.parametrize("env_id", ["Hopper-v5", "Walker2d-v5", "Ant-v5"])
def test_another_layout_of_the_same_environment_is_detected(env_id):
    """With the position in front every number has another place."""
    spec = check_env_id(env_id, {"exclude_current_positions_from_observation": False})
    assert family_for("auto", spec).name == "generic"
    with pytest.raises(UserError, match="does not fit the feature family"):
        family_for(env_id.split("-")[0].lower(), spec)


def test_a_family_registered_under_an_id_is_taken_by_auto():
    register_features("Room-v21", lambda spec: family_for("generic", spec))
    assert family_for("auto", spec_of("Room-v21")).name == "generic"
    assert family_for("auto", spec_of("Room-v6")).name == "room"


def test_a_factory_that_fails_or_returns_another_type():
    register_features("mine", lambda spec: 1 / 0)
    with pytest.raises(UserError, match=r"^feature family 'mine': ZeroDivisionError"):
        family_for("mine", spec_of("Room-v21"))
    register_features("mine", lambda spec: "generic")
    with pytest.raises(UserError, match="the factory returned a str, not a Family"):
        family_for("mine", spec_of("Room-v21"))


@pytest.mark.long
def test_the_example_and_the_documentation_work(tmp_path):
    root = Path(__file__).parents[1]
    page = (root / "docs" / "features.md").read_text()
    (tmp_path / "page.py").write_text(page.split("```python\n")[1].split("```")[0])
    runpy.run_path(str(tmp_path / "page.py"))
    features = make_features("auto", spec_of("MountainCarContinuous-v0"), 2, 3)
    assert list(features.slices) == ["car", "adviser", "action"] and features.phase_names == ("left", "right")
    for name, _, width, phase_names in REAL:
        family = family_for("auto", spec_of(name))
        if family.name not in ENVS or family.name == "generic":
            continue
        row = next(line for line in page.splitlines() if line.startswith(f"| `{family.name}`")).split(" | ")
        assert row[2] == f"{width} + K" and row[4].removesuffix(" |") == ", ".join(phase_names)
        assert row[3] == ", ".join(f"{block} {size or 'K'}" for block, size in family.blocks)
    example = [sys.executable, str(root / "examples" / "custom_features.py")]
    done = subprocess.run(example, capture_output=True, text=True, cwd=tmp_path, timeout=600)
    assert done.returncode == 0 and "leaning" in done.stdout, done.stderr
