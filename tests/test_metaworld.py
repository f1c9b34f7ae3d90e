"""Meta-World's tasks: goals of each member, splits, regions, exact resumes and scripted experts."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest

import peerage
from peerage.envs.make import EnvMaker, make_env, makers_of
from peerage.envs.metaworld import MT10
from peerage.envs.scripted import expert_for
from peerage.errors import UserError
from peerage.statistics.compare import compare

pytestmark = pytest.mark.usefixtures("no_reports")

REACH = "metaworld/reach-v3"


def goals(**env_args) -> np.ndarray:
    env = make_env(REACH, env_args)
    found = np.array(env.unwrapped.goals)
    env.close()
    return found


def test_each_member_has_its_own_goals_which_its_seed_determines():
    mine = goals(goals=3, member=1)
    assert mine.shape == (3, 6) and len(np.unique(mine, axis=0)) == 3
    np.testing.assert_array_equal(mine, goals(goals=3, member=1))
    np.testing.assert_array_equal(mine[:2], goals(goals=2, member=1))
    for other in ({"member": 2}, {"split": "test"}, {"goal_seed": 1}):
        others = goals(**{"goals": 3, "member": 1, **other})
        assert not set(map(tuple, others)) & set(map(tuple, mine))


def test_an_episode_has_a_goal_of_the_member_which_the_seed_of_the_reset_selects():
    """It does not depend on earlier episodes: simulation and random numbers begin anew."""
    env, fresh = (make_env(REACH, {"goals": 3, "member": 1}) for _ in range(2))
    known = {tuple(goal[3:]) for goal in env.unwrapped.goals}
    seen = set()
    for seed in range(8):
        obs, _ = env.reset(seed=seed)
        seen.add(tuple(obs[36:39]))
        for _ in range(3):
            env.step(env.action_space.sample())
        np.testing.assert_array_equal(obs, fresh.reset(seed=seed)[0])
        assert env.observation_space.contains(obs)
    assert seen <= known and len(seen) > 1


def test_without_a_number_of_goals_every_episode_has_a_new_one():
    env = make_env(REACH, {})
    found = [tuple(env.reset(seed=seed if seed < 2 else None)[0][36:39]) for seed in range(4)]
    assert len(set(found)) == 4 and env.unwrapped.goals == []
    assert tuple(env.reset(seed=1)[0][36:39]) == found[1]


def test_halves_give_neighbours_goals_in_different_halves():
    """The widest coordinate of drawer-close is the drawer's x, from -0.1 to 0.1."""
    found = {
        (member, split): np.array(
            make_env(
                "metaworld/drawer-close-v3", {"goals": 8, "member": member, "region": "halves", "split": split}
            ).unwrapped.goals
        )[:, 0]
        for member in (0, 1)
        for split in ("train", "test")
    }
    assert (found[0, "train"] < 0).all() and (found[1, "train"] > 0).all()
    for member in (0, 1):
        assert (found[member, "test"] < 0).any() and (found[member, "test"] > 0).any()


@pytest.mark.parametrize("region", ["all", "halves"])
def test_overlapping_goals_are_the_same_for_all_members(region):
    own = {member: goals(goals=5, member=member, region=region) for member in (0, 1)}
    two = {member: goals(goals=5, member=member, region=region, overlap=0.4) for member in (0, 1)}
    np.testing.assert_array_equal(two[0][:2], two[1][:2])
    for member in (0, 1):
        np.testing.assert_array_equal(two[member][2:], own[member][:3])
        tests = [goals(goals=5, member=member, split="test", overlap=x) for x in (0, 0.4)]
        np.testing.assert_array_equal(*tests)
    assert len({tuple(goal) for member in (0, 1) for goal in two[member]}) == 8
    np.testing.assert_array_equal(goals(goals=3, member=0, overlap=1), goals(goals=3, member=1, overlap=1.0))


@pytest.mark.parametrize("more", [{}, {"split": "test"}, {"region": "halves"}, {"overlap": 0.5}])
def test_a_pooled_learner_has_the_goals_of_all_members(more):
    of_members = [goals(goals=2, member=member, **more) for member in range(3)]
    np.testing.assert_array_equal(goals(goals=2, pooled=3, **more), np.concatenate(of_members))


def test_members_of_mt10_have_different_tasks():
    makers = makers_of(EnvMaker("metaworld/mt10", {}), 11, 2)
    tasks = [maker.env_args["member"] for maker in makers]
    assert tasks == [*range(11)] * 2
    names = [gymnasium.make("metaworld/mt10", **maker.env_args).unwrapped.task for maker in makers[9:11]]
    assert names == [MT10[9], MT10[0]]
    own = gymnasium.make("metaworld/mt10", member=1, tasks=["reach-v3", "push-v3"]).unwrapped.task
    assert own == "push-v3"
    assert makers_of(EnvMaker("CartPole-v1", {}), 2, 1)[0].env_args == {}


@pytest.mark.parametrize("task", [MT10[0], MT10[3]])
def test_the_expert_succeeds_at_some_step(task):
    env = make_env(f"metaworld/{task}", {})
    policy = expert_for(f"metaworld/{task}", EnvMaker(f"metaworld/{task}").spec())
    obs, _ = env.reset(seed=0)
    for _ in range(300):
        obs, _, _, _, info = env.step(policy(obs[None], np.random.default_rng(0))[0])
        if info["success"]:
            return
    raise AssertionError("the expert did not succeed")


SETTINGS = dict(
    env=REACH, env_args={"goals": 2}, algorithm=("sac",), n_peers=2, sharing="none", net_arch=((8,),),
    learning_starts=10, batch_size=4, total_timesteps=60, eval_freq=30, n_eval_episodes=1, log_freq=20,
    checkpoint_freq=25, max_eval_steps=10, eval_modes=("alone", "test"), success="any", verbose=0, device="cpu",
)  # fmt: skip


@pytest.mark.long
def test_a_run_evaluates_both_splits_and_resumes_bit_for_bit(tmp_path):
    """It is killed in the middle of an episode: a resume must find the goals again."""

    class Kill(peerage.Listener):
        def on_metrics(self, step, rows):
            if step == 40:
                raise KeyboardInterrupt

    where = {"log_dir": str(tmp_path)}
    whole = peerage.train(**SETTINGS, **where, exp_name="whole")
    with pytest.raises(KeyboardInterrupt):
        peerage.train(**SETTINGS, **where, exp_name="killed", listeners=[Kill()])
    resumed = peerage.resume(tmp_path / "killed")
    for name in ("metrics.csv", "evaluations.csv"):
        assert (whole.folder / name).read_bytes() == (resumed.folder / name).read_bytes()
    rows = whole.evaluations
    assert set(rows["mode"]) == {"alone", "test"} and len(rows) == 3 * 2 * 2
    by_mode = rows[rows["step"] == 60].groupby("mode")["return"]
    assert by_mode.get_group("alone").tolist() != by_mode.get_group("test").tolist()
    runs = [str(whole.folder), str(resumed.folder)]
    found = {mode: compare(runs, mode=mode).tasks[0].rows[0].mean.estimate for mode in ("alone", "test")}
    assert found["test"] == pytest.approx(by_mode.get_group("test").mean()) and found["test"] != found["alone"]
    with pytest.raises(UserError, match="no evaluations of mode together: train it with --eval-modes alone together"):
        compare(runs, mode="together")


def test_refusals(tmp_path):
    where = {"log_dir": str(tmp_path)}
    with pytest.raises(UserError, match=r"no task 'reach-v9' .did you mean 'reach-v3'"):
        peerage.train(**{**SETTINGS, "env_args": {"tasks": ["reach-v9"]}}, **where)
    with pytest.raises(UserError, match="region all or halves, not 'train' and 'north'"):
        peerage.train(**{**SETTINGS, "env_args": {"region": "north"}}, **where)
    with pytest.raises(UserError, match="goals must be a number of goals"):
        peerage.train(**{**SETTINGS, "env_args": {"goals": -1}}, **where)
    for wrong, message in (
        ({"goals": 2, "overlap": 1.5}, "overlap must be the share"),
        ({"goals": 2, "pooled": -1}, "pooled must be a number of members"),
        ({"pooled": 2}, "need a number of goals: add goals=5"),
        ({"goals": 2, "pooled": 2, "tasks": ["reach-v3", "push-v3"]}, "same task, not push-v3, reach-v3"),
    ):
        with pytest.raises(UserError, match=message):
            peerage.train(**{**SETTINGS, "env_args": wrong}, **where)
    with pytest.raises(UserError, match="needs an environment whose constructor takes `split`, and Pendulum-v1"):
        peerage.train(**{**SETTINGS, "env": "Pendulum-v1", "env_args": {}}, **where)
    assert not list(tmp_path.iterdir())
