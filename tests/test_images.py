"""Images as observations: the stacked Nature CNN, replay buffers of bytes, and DQN with both."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import gymnasium
import numpy as np
import pytest
import stable_baselines3 as sb3
import torch
from gymnasium.spaces import Box, Discrete
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.type_aliases import ReplayBufferSamples
from test_ppo import ENVS, STEPS, Given, feed, feed_reference, rollout_data

import peerage
from peerage.config import Config, with_settings
from peerage.config.perturbations import Perturbations
from peerage.envs.adapted import adapted, is_image
from peerage.envs.perturbed import Perturbed
from peerage.interop.pretrained import SavedRun, load_policy
from peerage.interop.sb3_export import export_member
from peerage.interop.single import space_of
from peerage.learners.base import Space
from peerage.learners.defaults import default_settings
from peerage.learners.dqn import DQN
from peerage.learners.ppo import PPO
from peerage.learners.recent import RecentTransitions
from peerage.learners.replay import Batch, ImageReplay, Replay
from peerage.learners.streams import StreamKey
from peerage.nets.cnn import CONVOLUTIONS, Image, StackedCNN, build_cnn
from peerage.runs import checkpoint
from peerage.training.trainer import Trainer

pytestmark = pytest.mark.usefixtures("no_reports")
F64 = torch.float64
SHAPE = (2, 36, 40)  # channels first
KEYS = [StreamKey(3, 0, m) for m in range(2)]


class Pixels(gymnasium.Env):
    """Name the half of the image with the bright square: reward 1 if correct. Six steps per episode."""

    action_space = Discrete(2)

    def __init__(self, shape=(36, 36, 1)):
        self.observation_space = Box(0, 255, shape, np.uint8)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.left = 6
        return self._picture(), {}

    def step(self, action):
        reward, self.left = float(action == self.side), self.left - 1
        return self._picture(), reward, self.left == 0, False, {}

    def _picture(self):
        self.side = int(self.np_random.integers(2))
        picture = np.zeros(self.observation_space.shape, np.uint8)
        first = picture.shape[0] < picture.shape[2]
        image = picture[0] if first else picture[..., 0]
        image[4:30, 2 + 18 * self.side : 14 + 18 * self.side] = 250
        return picture


def torch_network(net: StackedCNN, row: int) -> torch.nn.Sequential:
    """One row as a module of torch."""
    w, layers, channels = net.weights(), [], net.image.channels
    for n, (out, kernel, stride) in enumerate(CONVOLUTIONS):
        conv = torch.nn.Conv2d(channels, out, kernel, stride, dtype=F64)
        conv.weight.data, conv.bias.data = w[f"conv{n}.weight"][row].clone(), w[f"conv{n}.bias"][row].clone()
        layers += [conv, torch.nn.ReLU()]
        channels = out
    layers.append(torch.nn.Flatten())
    for n, (fan_in, fan_out) in enumerate(zip(net.sizes, net.sizes[1:])):
        linear = torch.nn.Linear(fan_in, fan_out, dtype=F64)
        linear.weight.data, linear.bias.data = w[f"{n}.weight"][row].t().clone(), w[f"{n}.bias"][row, 0].clone()
        layers += [linear, torch.nn.ReLU()]
    return torch.nn.Sequential(*layers[:-1])


def gradients(module: torch.nn.Module) -> torch.Tensor:
    """Of one row, in the order of a stack, where weights of linear layers are `[in, out]`."""
    return torch.cat([(p.grad.t() if p.dim() == 2 else p.grad).flatten() for p in module.parameters()])


@pytest.mark.parametrize("shape", [SHAPE, (36, 40, 3)])
def test_the_stacked_network_and_its_gradients_equal_those_of_torch(shape):
    net = StackedCNN(2, Image.of(shape), (7, 3), dtype=F64)
    net.init_([key.generator("init") for key in KEYS])
    rng = np.random.default_rng(0)
    x = torch.tensor(rng.integers(256, size=(2, 5, *shape)), dtype=F64)
    pull = torch.tensor(rng.standard_normal((2, 5, 3)))
    out, backward = net.tape(x.flatten(2))
    backward(pull)
    for row in range(2):
        reference = torch_network(net, row)
        image = x[row] if shape is SHAPE else x[row].permute(0, 3, 1, 2)
        expected = reference(image / 255)
        (expected * pull[row]).sum().backward()
        torch.testing.assert_close(out[row], expected, rtol=0, atol=1e-12)
        torch.testing.assert_close(net.grad[row], gradients(reference), rtol=0, atol=1e-10)
    # Other ways to call it
    torch.testing.assert_close(net(x.flatten(2)), out, rtol=0, atol=0)
    torch.testing.assert_close(net(x[1:].flatten(2), rows=slice(1, 2)), out[1:], rtol=0, atol=0)
    some = torch.tensor([1, 1])
    torch.testing.assert_close(net(x[some].flatten(2), rows=some), out[some], rtol=0, atol=0)


def test_a_row_does_not_depend_on_the_others():
    both, one = StackedCNN(2, Image.of(SHAPE), (3,)), StackedCNN(1, Image.of(SHAPE), (3,))
    both.init_([key.generator("init") for key in KEYS])
    one.init_([KEYS[1].generator("init")])
    x = torch.randint(256, (2, 33, 2 * 36 * 40)).float()
    assert torch.equal(both(x)[1], one(x[1:])[0])


def test_an_update_equals_one_of_stable_baselines3(monkeypatch):
    """In float64. The images of Stable-Baselines3 are divided by 255 by hand, because it converts them to float32."""
    monkeypatch.setattr("stable_baselines3.common.policies.preprocess_obs", lambda obs, *args, **kwargs: obs / 255)
    settings = [default_settings("dqn") for _ in KEYS]
    space = Space(int(np.prod(SHAPE)), 1, n_actions=2, image=Image.of(SHAPE))
    learner = DQN(settings, KEYS, space, 100, dtype=F64)
    learner.q_target.flat.mul_(0.9)  # a separate target network
    rng = np.random.default_rng(1)
    obs, next_obs = (torch.tensor(rng.integers(256, size=(2, 6, *SHAPE)), dtype=F64) for _ in range(2))
    actions = torch.tensor(rng.integers(2, size=(2, 6, 1)), dtype=F64)
    rewards, ends = torch.tensor(rng.standard_normal((2, 6))), torch.tensor([[0.0, 1, 0, 0, 1, 0]] * 2, dtype=F64)
    models = []
    for row in range(2):
        env = Pixels(SHAPE)
        model = sb3.DQN("CnnPolicy", env, policy_kwargs={"net_arch": [64, 64]}, learning_rate=5e-4, gamma=0.99)
        model.policy.double()
        for theirs, ours in ((model.q_net, learner.q), (model.q_net_target, learner.q_target)):
            reference = torch_network(ours, row)
            for a, b in zip(theirs.parameters(), reference.parameters(), strict=True):
                a.data = b.data.clone()
        model.policy.optimizer = torch.optim.Adam(model.q_net.parameters(), lr=5e-4, eps=1e-8)
        columns = ends[row, :, None], rewards[row, :, None]
        batch = ReplayBufferSamples(obs[row], actions[row].long(), next_obs[row], *columns)
        model.replay_buffer = SimpleNamespace(sample=lambda *args, batch=batch, **kwargs: batch)
        model._logger = Logger(None, [])
        model.train(1, 6)
        models.append(model)
    learner.update(Batch(obs.flatten(2), actions, actions, rewards, next_obs.flatten(2), ends))
    for row, model in enumerate(models):
        expected = torch.cat([(p.t() if p.dim() == 2 else p).detach().flatten() for p in model.q_net.parameters()])
        torch.testing.assert_close(learner.q.flat[row], expected, rtol=0, atol=1e-9)


def views_of_ppo(learner, member):
    """The parameters of a member of PPO under the names of Stable-Baselines3's CnnPolicy."""
    w, views = learner.net.weights(), {}
    for row, (features, hidden, last, outputs) in enumerate(
        [
            ("pi_features_extractor", "mlp_extractor.policy_net", "action_net", None),
            ("vf_features_extractor", "mlp_extractor.value_net", "value_net", 1),
        ],
        start=2 * member,
    ):
        for n in range(len(CONVOLUTIONS)):
            views |= {f"{features}.cnn.{2 * n}.{kind}": w[f"conv{n}.{kind}"][row] for kind in ("weight", "bias")}
        for n, name in enumerate((f"{features}.linear.0", f"{hidden}.0", last)):
            used = slice(outputs if n == 2 else None)
            views |= {f"{name}.weight": w[f"{n}.weight"][row].T[used], f"{name}.bias": w[f"{n}.bias"][row, 0][used]}
    return views


def test_an_update_of_ppo_equals_one_of_stable_baselines3(monkeypatch):
    """In float64, with separate encoders of actor and critic, terminations, truncations and clipping."""
    monkeypatch.setattr("stable_baselines3.common.policies.preprocess_obs", lambda obs, *args, **kwargs: obs / 255)

    class Four(Pixels):
        action_space = Discrete(4)

    settings = [
        replace(
            default_settings("ppo"), net="cnn", net_arch=(16,), n_envs=ENVS, n_steps=STEPS, batch_size=7,
            update_epochs=2, learning_rate=rate, ent_coef="0.01",
        )
        for rate in (1e-3, 1e-4)
    ]  # fmt: skip
    space = Space(int(np.prod(SHAPE)), 1, n_actions=4, image=Image.of(SHAPE))
    learner = PPO(settings, KEYS, space, 1000, dtype=F64)
    count, rng = STEPS * ENVS, np.random.default_rng(5)
    orders, flat, models = [[rng.permutation(count) for _ in range(2)] for _ in range(2)], [], []
    for s in range(2):
        model = sb3.PPO(
            "CnnPolicy", sb3.common.vec_env.DummyVecEnv([lambda: Four(SHAPE)] * ENVS), n_steps=STEPS, batch_size=7,
            n_epochs=2, learning_rate=settings[s].learning_rate, ent_coef=0.01, device="cpu", seed=s,
            policy_kwargs={"net_arch": [16], "share_features_extractor": False},
        )  # fmt: skip
        model.policy.double()
        model.set_logger(Logger(None, []))
        theirs, views = model.policy.state_dict(), views_of_ppo(learner, s)
        # Its state also has the extractor of a shared encoder, which is that of the actor
        assert views.keys() == {name for name in theirs if not name.startswith("features_extractor.")}
        with torch.no_grad():
            for name, view in views.items():
                view.copy_(theirs[name])
        data = rollout_data(s, space)
        data.obs, data.final_obs = (
            rng.integers(256, size=(*x.shape[:2], *SHAPE)).astype(float) for x in (data.obs, data.final_obs)
        )
        feed_reference(model, data)
        given = iter([(epoch[s] % ENVS) * STEPS + epoch[s] // ENVS for epoch in orders])
        monkeypatch.setattr(np.random, "permutation", lambda n, given=given: next(given))
        model.train()
        models.append(model)
        data.obs, data.final_obs = (x.reshape(*x.shape[:2], -1) for x in (data.obs, data.final_obs))
        flat.append(data)
    feed(learner, flat)
    assert learner.rollout.obs.dtype == torch.uint8
    learner.shuffle = Given([torch.tensor(np.stack([np.argsort(o) for o in epoch])) / count for epoch in orders])
    before = learner.net.flat.clone()
    learner.update()
    assert (learner.net.flat != before).any(dim=1).all()
    for s, model in enumerate(models):
        theirs = model.policy.state_dict()
        for name, view in views_of_ppo(learner, s).items():
            torch.testing.assert_close(view, theirs[name], rtol=0, atol=1e-9)


def test_new_networks_of_ppo_for_images_are_orthogonal():
    net = build_cnn(2, 0, 3, SimpleNamespace(net_arch=(8,)), image=Image.of(SHAPE), extra={"log_std": (3,)}, dtype=F64)
    net.init_([key.generator("init") for key in KEYS])
    w = net.weights()
    for n, (out, *_) in enumerate(CONVOLUTIONS):
        matrix = w[f"conv{n}.weight"][1].flatten(1)
        torch.testing.assert_close(matrix @ matrix.T, 2 * torch.eye(out, dtype=F64))
        assert not w[f"conv{n}.bias"].any()
    torch.testing.assert_close(w["1.weight"][0].T @ w["1.weight"][0], 2 * torch.eye(8, dtype=F64))
    torch.testing.assert_close(w["2.weight"][0].T @ w["2.weight"][0], torch.eye(3, dtype=F64))
    assert net.head == "2" and not w["log_std"].any()


@pytest.mark.parametrize("box", [False, True])
def test_ppo_learns_from_images_and_resumes_bit_for_bit(tmp_path, box):
    class Env(Pixels):
        action_space = Box(-1, 1, (1,), np.float32) if box else Pixels.action_space

        def step(self, action):
            return super().step(int(action[0] > 0) if box else action)

    class Stop(peerage.Listener):
        essential = True

        def on_metrics(self, step, rows):
            if step == 20:
                raise KeyboardInterrupt

    place = {
        "log_dir": str(tmp_path), "algorithm": "ppo", "n_peers": 2, "n_envs": 2, "n_steps": 8, "batch_size": 8,
        "update_epochs": 1, "total_timesteps": 32, "eval_freq": 16, "n_eval_episodes": 1, "log_freq": 4, "verbose": 0,
        "net_arch": (8,),
    }  # fmt: skip
    whole = peerage.train(Env, exp_name="whole", **place)
    assert whole.config.learner.net == ("cnn",)
    with pytest.raises(KeyboardInterrupt):
        peerage.train(Env, exp_name="run", listeners=[Stop()], net="cnn", **place)
    run = peerage.resume(peerage.load(tmp_path / "run", env=Env))
    for name in ("metrics.csv", "evaluations.csv"):
        assert (run.folder / name).read_bytes() == (whole.folder / name).read_bytes(), name
    picture, _ = Env().reset(seed=0)
    assert np.array_equal(whole.policy(1)(picture), run.policy(1)(picture))
    with pytest.raises(peerage.UserError, match="cannot be exported"):
        export_member(run.folder, 0)


@pytest.mark.parametrize(
    ("env", "settings", "message"),
    [
        ("Room-v3", {"net": "cnn"}, 'net="cnn" is for images, and Room-v3 has flat observations: use net="mlp"'),
        (Pixels, {"net": "mlp"}, 'net="mlp" is for flat observations, and Pixels has images: use net="cnn"'),
        (Pixels, {"net": "attention"}, 'net="attention" is for flat observations'),
        (Pixels, {"normalize_obs": True}, "does not support images"),
        (Pixels, {"algorithm": "dqn", "net": "cnn"}, "is for ppo: dqn uses cnn for images by itself"),
    ],
)
def test_networks_that_do_not_fit_the_observations_are_refused_in_one_line(tmp_path, env, settings, message):
    with pytest.raises(peerage.UserError) as caught:
        peerage.train(env, **{"algorithm": "ppo", "log_dir": str(tmp_path), "verbose": 0, **settings})
    assert message in str(caught.value) and "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_a_replay_buffer_of_images_holds_what_one_of_numbers_holds(same):
    images, numbers = ImageReplay(2, 4, 10, 1), Replay(2, 4, 10, 1)
    rng = np.random.default_rng(2)
    for k in range(7):  # beyond the capacity
        obs, next_obs = (torch.tensor(rng.integers(256, size=(2, 10)), dtype=torch.float32) for _ in range(2))
        step = (obs, torch.full((2, 1), k % 2 * 1.0), torch.tensor([k, -k]) * 0.5, next_obs, torch.zeros(2))
        images.add(*step)
        numbers.add(*step)
    uniform = torch.tensor(rng.random((2, 20)), dtype=torch.float32)
    for name in ("obs", "actions", "rewards", "next_obs", "terminated"):
        assert torch.equal(getattr(images.sample(uniform), name), getattr(numbers.sample(uniform), name)), name
    assert images.frames.dtype == torch.uint8 and images.data.shape[2] == 3
    again = ImageReplay(2, 4, 10, 1)
    again.load_state(images.state())
    same(again.state(), images.state())


SETTINGS = dict(
    n_peers=2, total_timesteps=60, learning_starts=10, batch_size=8, buffer_size=50, train_freq=4, eval_freq=30,
    n_eval_episodes=2, checkpoint_freq=25, log_freq=20, verbose=0, threads=1, trust_buffer_size=20,
)  # fmt: skip


@pytest.mark.parametrize("shape", [(36, 36, 1), (1, 36, 36)])
def test_a_group_learns_from_images_and_resumes_bit_for_bit(tmp_path, shape):
    class Stop(peerage.Listener):
        essential = True

        def on_metrics(self, step, rows):
            if step == 40:
                raise KeyboardInterrupt

    def make_pixels():
        return Pixels(shape)

    place = {"log_dir": str(tmp_path), **SETTINGS}
    whole = peerage.train(make_pixels, exp_name="whole", **place)
    assert whole.config.advice.trust == "td"
    with pytest.raises(KeyboardInterrupt):
        peerage.train(make_pixels, exp_name="run", listeners=[Stop()], **place)
    run = peerage.resume(peerage.load(tmp_path / "run", env=make_pixels))
    for name in ("metrics.csv", "evaluations.csv", "advice.csv"):
        assert (run.folder / name).read_bytes() == (whole.folder / name).read_bytes(), name
    picture, _ = make_pixels().reset(seed=0)
    policies = whole.policy(1), run.policy(1)
    assert policies[0](picture) == policies[1](picture) and policies[0](picture) in (0, 1)


def test_a_member_trained_on_images_advises_is_loaded_and_starts_others(tmp_path):
    def networks(run, which=""):
        group = checkpoint.load_one(run.folder, which)[1]["trainer"]["group"]
        return group["stacks"]["0"]["learner"]["parameters"]["q"]

    place = {"log_dir": str(tmp_path), **SETTINGS, "eval_freq": 0, "total_timesteps": 20, "checkpoint_freq": 10}
    source = peerage.train(Pixels, exp_name="source", **place)
    name, before = str(source.folder), networks(source)
    others = {"load_paths": (name, "none"), "init_from": ("none", f"{name}:1"), "advisers": [f"checkpoint:{name}"]}
    run = peerage.train(Pixels, exp_name="run", **place, **others)
    assert torch.equal(networks(run, "10"), before)
    assert torch.equal(networks(run)[0], before[0]) and not torch.equal(networks(run)[1], before[1])
    assert f"checkpoint:{name}" in set(run.advice["adviser"])
    # The adviser acts as the member
    picture, spaces = Pixels().reset(seed=1)[0], (Box(0, 255, (36 * 36,), np.uint8), Discrete(2))
    adviser, _ = load_policy(name, *spaces, image=(36, 36, 1))
    assert int(adviser.suggest(torch.tensor(picture).float().reshape(1, 1, -1), None)) == source.policy(0)(picture)
    # Another layout of as many numbers, and a checkpoint of an earlier version, without the layout
    with pytest.raises(peerage.UserError, match=r"with images 36 x 36 x 1 .* has images 1 x 36 x 36"):
        load_policy(name, *spaces, image=(1, 36, 36))
    with pytest.raises(peerage.UserError, match=r"with images 36 x 36 x 1 .* has 1296 observations"):
        load_policy(name, *spaces)
    saved = SavedRun(source.folder)
    saved.space = {key: saved.space[key] for key in ("obs_dim", "act_dim", "n_actions")}
    assert torch.equal(saved.learner(1, 0, space_of(*spaces, (36, 36, 1))).q.flat, before[1:])
    with pytest.raises(peerage.UserError, match=r"learn from images, as those of .*, cannot be exported"):
        export_member(source.folder, 0)
    assert not (source.folder / "export").exists()


@pytest.mark.long
def test_the_toy_task_is_learned_from_pixels(tmp_path):
    run = peerage.train(
        Pixels, n_peers=2, sharing="none", total_timesteps=1500, eval_freq=1500, n_eval_episodes=5, train_freq=2,
        gradient_steps=1, batch_size=32, learning_starts=100, log_dir=str(tmp_path), verbose=0,
    )  # fmt: skip
    last = run.evaluations[run.evaluations["step"] == 1500]
    assert last["return"].mean() > 5.5  # of 6; at random 3


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"trust": "in-context"}, "in-context trust needs vectors"),
        ({"train_freq": 4, "algorithm": "sac"}, "sac does not accept images, which Moves has as observations: use ppo"),
    ],
)
def test_settings_that_do_not_support_images_give_a_one_line_error(tmp_path, settings, message):
    class Moves(Pixels):
        action_space = Box(-1, 1, (2,), np.float32)

    env = Moves if "algorithm" in settings else Pixels
    with pytest.raises(peerage.UserError, match=message):
        peerage.train(env, **{**SETTINGS, **settings}, log_dir=str(tmp_path))
    assert not list(tmp_path.iterdir())


def test_small_and_flat_images_are_refused_and_the_wrapper_is_named(tmp_path):
    with pytest.raises(peerage.UserError, match="of at least 36 by 36 pixels"):
        peerage.train(lambda: Pixels((20, 20, 3)), log_dir=str(tmp_path))


@pytest.mark.parametrize("shape", [(84, 3, 84), (3, 84, 20), (84, 20, 3), (84, 84, 84)])
def test_the_height_and_width_of_the_layout_decide_whether_it_is_an_image(shape):
    """The convolutions compute what is accepted."""
    accepted = is_image(Box(0, 255, shape, np.uint8))
    assert accepted == (shape == (84, 84, 84))
    if accepted:
        assert StackedCNN(1, Image.of(shape), (3,))(torch.zeros(1, 1, int(np.prod(shape)))).shape == (1, 1, 3)


def test_noisy_images_stay_in_range():
    env = Perturbed(adapted(Pixels()), Perturbations(observation_noise=0.1))
    seen, clean = env.reset(seed=0)[0], adapted(Pixels()).reset(seed=0)[0].astype(int)
    assert seen.dtype == np.uint8 and set(clean) == {0, 250}
    noise = seen.astype(int) - clean  # a standard deviation of 12.75
    assert noise[clean == 0].min() == 0 and 8 < noise[clean == 250].std() < 13
    assert seen[clean == 250].min() > 150 and seen[clean == 0].max() < 100 and seen.max() == 255


def test_only_transitions_that_trust_reads_are_kept(same):
    def kept(**settings):
        start = {"env": "<Pixels>", **SETTINGS, "total_timesteps": 500, **settings}
        trainer = Trainer(with_settings(Config(), start), env=Pixels)
        trainer.close()
        return trainer.group.recent.capacity

    assert kept() == 20 + 16 and kept(trust_buffer_size=10) == 32
    assert kept(sharing="none") == kept(choice="uniform") == kept(n_peers=1) == 32
    assert kept(use_trust=False, use_agent_values=True) == 36 and kept(exchange=("average",)) == 500
    # A run of an earlier version has kept more
    where = (1, 1, "cpu", torch.float32)
    old, new, again = (RecentTransitions(2, size, *where) for size in (50, 32, 32))
    for k in range(70):
        x, n = torch.full((2, 1), float(k)), torch.full((2,), float(k))
        step = SimpleNamespace(obs=x, actions=x, next_obs=x, rewards=n, terminated=n, followed=n)
        old.add(step)
        new.add(step)
    again.load_state(old.state())
    same(again.gather(torch.arange(32).expand(2, -1))._asdict(), new.gather(torch.arange(32).expand(2, -1))._asdict())
