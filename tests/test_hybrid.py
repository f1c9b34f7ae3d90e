"""Transformer trust in the whole system: its equations by hand, and its behaviour in real groups and environments."""

from __future__ import annotations

import csv
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

import peerage
from peerage.cli import main
from peerage.config import AdviceConfig, Config, LearnerConfig, RunConfig
from peerage.evaluation.actors import Evaluations
from peerage.learners.streams import StreamKey
from peerage.runs import checkpoint
from peerage.runs.listeners import Listener
from peerage.trust.attention import LOSSES, AttentionTrust
from peerage.trust.features import ADVISER, Family, make_features
from peerage.trust.hybrid import TransformerTrust, confidence, normalised, omega
from peerage.trust.transformer_settings import TrustTransformerSettings

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")

F64 = torch.float64
FAMILIES = {  # environment of each of the five families
    "lunarlander": "LunarLander-v3",
    "hopper": "Hopper-v4",
    "walker2d": "Walker2d-v4",
    "ant": "Ant-v4",
    "room": "Room-v6",
}


pytestmark = pytest.mark.usefixtures("one_thread")


def near(ours, expected, tolerance=1e-9):
    torch.testing.assert_close(ours, torch.tensor(expected, dtype=ours.dtype), rtol=tolerance, atol=tolerance)


LEARNER = LearnerConfig(learning_starts=(4,), batch_size=(8,), net_arch=((8,),), train_freq=(4,), gradient_steps=(1,))
ADVICE = AdviceConfig(trust="hybrid", choice="paper", follow_steps=3, lr=0.3, use_advantage=False)
ATTENTION = TrustTransformerSettings(
    attention_update_freq=4,
    attention_batch_size=4,
    sequence_length=12,
    warmup_steps=40,
    attention_history=60,
    attention_lr=1e-3,
)


def small(env="Room-v6", n_peers=2, **changes) -> Config:
    """A group whose transformers are trained and asked within a few dozen steps."""
    base = Config(
        env=env,
        n_peers=n_peers,
        advisers=("random",),
        total_timesteps=80,
        device="cpu",
        learner=LEARNER,
        advice=ADVICE,
        methods={"trust_transformer": ATTENTION},
        run=RunConfig(eval_freq=0, log_freq=20, verbose=0),
    )
    return replace(base, **changes)


def hybrid(trainer) -> TransformerTrust:
    return next(s for s in trainer.sharing.signals.values() if isinstance(s, TransformerTrust))


# --- equations ------------------------------------------------------------------------------------------------


SIGMOID_1, SIGMOID_2 = 0.7310585786300049, 0.8807970779778823


@pytest.mark.parametrize(
    ("losses", "expected"),
    [
        ([], 0.5),
        ([3.0], 0.5),
        # w = 1: dL = 1 - 2, sigma = 0.5
        ([2.0, 1.0], 0.7 * SIGMOID_1 + 0.3 / 1.5),
        # w = 1: dL = 3 - 2; sigma^2 = (1 + 1 + 0) / 3
        ([4.0, 2.0, 3.0], 0.7 * (1 - SIGMOID_1) + 0.3 / (1 + math.sqrt(2 / 3))),
        # w = 10: dL = 1 - 3, the first one is in sigma alone: mean 45/21, mean square 125/21
        ([5.0] + [3.0] * 10 + [1.0] * 10, 0.7 * SIGMOID_2 + 0.3 / (1 + math.sqrt(200 / 147))),
    ],
)
def test_confidence(losses, expected):
    near(confidence(torch.tensor([losses], dtype=F64)), [expected])


def test_confidence_looks_back_on_fifty_losses():
    """Ten losses of 1000, forty of 2, ten of 0: sigma knows the last fifty, mean 1.6 and variance 0.64."""
    trust = AttentionTrust([StreamKey(0, 0, 0)], 3, slice(0, 2), 2, dtype=F64)
    for loss in [1000.0] * 10 + [2.0] * 40 + [0.0] * 10:
        trust.recent[trust.updates % LOSSES] = loss
        trust.updates += 1
    near(confidence(trust.losses()), [0.7 * SIGMOID_2 + 0.3 / 1.8])


def test_confidence_is_of_the_member():
    losses = torch.tensor([[2.0, 1.0], [1.0, 1.0], [math.nan, 1.0], [math.inf, 1.0], [1.0, -math.inf]], dtype=F64)
    c = confidence(losses)
    near(c, [0.7 * SIGMOID_1 + 0.2, 0.35 + 0.3, 0.5, 0.5, 0.5])
    for row in range(5):
        assert torch.equal(confidence(losses[row : row + 1])[0], c[row])


def test_omega():
    c = torch.tensor([0.8, 0.5], dtype=F64)
    near(omega(0, 1000, 0.5, c), [0.0, 0.0])
    near(omega(250, 1000, 0.5, c), [0.1, 0.0625])
    near(omega(1000, 1000, 0.5, c), [0.4, 0.25])
    near(omega(5000, 1000, 0.3, c), [0.24, 0.15])


def test_normalised():
    values = torch.tensor([[-4.0, 2.0, 1.0], [0.0, 0.0, 0.0], [0.5, -0.1, 0.0]], dtype=F64)
    near(normalised(values), [[-1.0, 0.5, 0.25], [0.0, 0.0, 0.0], [1.0, -0.2, 0.0]])


def test_the_mixture_by_hand(begin):
    """Negative values on both sides, and members that do not affect each other."""
    trainer = begin(small(n_peers=2, advisers=()), 10, dtype=F64)
    signal = hybrid(trainer)
    # Member 0's transformer predicts -3 for both advisers, member 1's predicts 0; TD trust is set, too.
    weights = signal.attention.model.stack.weights()
    weights["outcome2.weight"].zero_()
    weights["outcome2.bias"][:] = torch.tensor([-3.0, 0.0], dtype=F64).view(2, 1, 1)
    signal.td.catch_up()
    signal.td.trust.values = torch.tensor([[-4.0, 2.0], [1.0, -0.5]], dtype=F64)
    # 30 equal losses: c = 0.35 + 0.3. Member 1's loss fell from 3 to 1: sigma 1, the last twenty count for dL.
    signal.attention.updates = 30
    signal.attention.recent[:30, 0] = 7.0
    signal.attention.recent[:30, 1] = torch.tensor([3.0] * 15 + [1.0] * 15, dtype=F64)
    everybody = np.ones(2, bool)
    mixed = signal.values(trainer.obs, None, everybody, step=20)  # half of the warm-up of 40
    assert list(mixed) == ["trust_hybrid"]
    # member 0: omega = 0.5 * 0.5 * 0.65 = 0.1625, norm(attn) = (-1, -1), norm(td) = (-1, 0.5)
    # member 1: dL = 1 - (5 * 3 + 5 * 1) / 10 = -1; norm(attn) = 0
    c = 0.7 * SIGMOID_1 + 0.3 / 2
    near(mixed["trust_hybrid"], [[-1.0, -0.1625 + 0.8375 * 0.5], [1 - 0.25 * c, -0.5 * (1 - 0.25 * c)]])
    report = signal.report()
    near(report["trust_attention"], [[-3.0, -3.0], [0.0, 0.0]])
    near(report["confidence"], [[0.65, 0.65], [c, c]])
    near(report["omega"], [[0.1625, 0.1625], [0.25 * c, 0.25 * c]])
    # a member that does not choose keeps its last values
    signal.attention.recent[:30] = math.nan
    signal.values(trainer.obs, None, np.array([True, False]), step=40)
    near(signal.report()["omega"], [[0.25, 0.25], [0.25 * c, 0.25 * c]])


@pytest.mark.parametrize("trust", ["transformer", "hybrid"])
def test_the_score_is_equation_9_with_transformer_trust(begin, trust):
    """From the columns of advice.csv alone, as they are when members choose."""
    config = small(n_peers=3, replicas=2, advice=replace(ADVICE, trust=trust, follow_steps=1))
    trainer = begin(config, 30, dtype=F64)
    trainer.step += 1
    trainer.sharing.act(trainer.obs, trainer.host_obs, trainer.first, trainer.step)
    rows = trainer.sharing.advice_rows(trainer.names)
    assert len(rows) == 2 * 3 * 4
    seen = set()
    for replica in range(2):
        for asker in trainer.names[:3]:
            own = [row for row in rows if row["replica"] == replica and row["asker"] == asker]

            def norm(column, own=own):
                top = max(abs(row[column]) for row in own)
                return [row[column] / top for row in own]

            expected = norm("trust_attention")
            if trust == "hybrid":
                weight = own[0]["omega"]
                assert all(row["omega"] == weight and row["confidence"] == own[0]["confidence"] for row in own)
                assert weight == pytest.approx(31 / 40 * 0.5 * own[0]["confidence"], rel=1e-12)
                expected = [weight * a + (1 - weight) * t for a, t in zip(expected, norm("trust_td"))]
            else:
                assert "trust_td" not in own[0] and "omega" not in own[0]
            top = max(map(abs, expected))
            score = [v / top + a + c for v, a, c in zip(expected, norm("agent_value"), norm("critic"))]
            assert [row["score"] for row in own] == pytest.approx(score, rel=1e-9, abs=1e-9)
            seen |= {row["trust_attention"] for row in own}
    assert len(seen) == 2 * 3 * 4  # every pair has its own value


def test_every_component_is_in_the_run_folder(tmp_path):
    command = (
        "train --env Room-v6 --n-peers 2 --advisers expert --total-timesteps 60 --trust hybrid --learning-starts 5 "
        f"--warmup-steps 50 --log-freq 20 --eval-freq 0 --verbose 0 --exp-name run --log-dir {tmp_path}"
    )
    assert main(command.split()) == 0
    with open(tmp_path / "run" / "advice.csv") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 3 * 2 * 3
    for row in rows[6:]:  # the model is trained from step 20 on
        for column in ("score", "trust_td", "trust_attention", "agent_value", "critic", "confidence", "omega"):
            assert math.isfinite(float(row[column])), column
        assert row["in_context"] == ""
        assert 0 < float(row["confidence"]) < 1 and 0 < float(row["omega"]) <= 0.5
    with open(tmp_path / "run" / "metrics.csv") as file:
        logged = {(row["member"], row["name"]) for row in csv.DictReader(file)}
    for name in ("trust/loss", "trust/confidence", "trust/omega"):
        assert {member for member, other in logged if other == name} == {"member-0", "member-1"}


# --- the counterfactual, through the whole system -------------------------------------------------------------


def record_steps(signal):
    """What the signal observes from now on: obs, action, reward, adviser, first, a list of `[M, ...]` each."""
    steps = ([], [], [], [], [])
    real = signal.observe

    def observe(transition):
        t = transition.host
        actions = t.actions[:, 0].astype(np.int64) if signal.discrete else t.actions
        for column, now in zip(steps, (t.obs, actions, t.rewards, t.followed, t.first), strict=True):
            column.append(np.array(now))
        real(transition)

    signal.observe = observe
    return steps


def spy(monkeypatch, signal):
    """Records the windows and members of every prediction."""
    asked = []
    real = signal.attention.model.predict

    def predict(windows, *, members=None, **more):
        asked.append((windows, list(members)))
        return real(windows, members=members, **more)

    monkeypatch.setattr(signal.attention.model, "predict", predict)
    return asked


@pytest.mark.parametrize("phases", [False, True])
@pytest.mark.parametrize("name", FAMILIES)
def test_only_the_adviser_differs(begin, monkeypatch, name, phases):
    """Five families in their environments: what the model is given of every adviser is the recorded past."""
    config = small(FAMILIES[name], n_peers=2, methods={"trust_transformer": replace(ATTENTION, use_phase_aware=phases)})
    trainer = begin(config)
    signal = hybrid(trainer)
    assert signal.features.family.name == name
    steps, asked = record_steps(signal), spy(monkeypatch, signal)
    K, length, checked = 3, ATTENTION.sequence_length, 0
    for _ in range(34):
        asked.clear()
        before = len(steps[0])
        trainer.advance()
        if not trainer.sharing.chose.any():
            assert not asked  # without a choice nothing is computed
            continue
        assert len(asked) == 1
        windows, members = asked[0]
        assert members == np.flatnonzero(trainer.sharing.chose).tolist()
        assert windows.features.shape[:2] == (len(members), K)
        # the features computed again from raw steps in one chunk
        anew = make_features("auto", trainer.spec, 2, K)
        features, phase = anew.extend(*(np.stack(column[:before], axis=1) for column in steps))
        others = np.ones(anew.width, bool)
        others[anew.adviser] = False
        for row, m in enumerate(members):
            first = np.flatnonzero(np.stack(steps[4][:before], axis=1)[m])[-1]
            past = slice(max(first, before - length), before)
            n = past.stop - past.start
            for j in range(K):
                assert windows.valid[row, j].sum() == n and windows.valid[row, j, :n].all()
                given = windows.features[row, j, :n].numpy()
                stored = signal.attention.history.features[m, past].numpy()
                assert np.array_equal(given[:, others], stored[:, others])
                np.testing.assert_allclose(given[:, others], features[m, past][:, others], rtol=1e-4, atol=1e-5)
                assert np.array_equal(given[:, anew.adviser], np.tile(np.eye(K)[j], (n, 1)))
                if phases:
                    assert np.array_equal(windows.phases[row, j, :n], phase[m, past])
            checked += 1
        followed = features[..., anew.adviser].argmax(axis=2)
        assert np.array_equal(followed, np.stack(steps[3][:before], axis=1))
    assert checked >= 10


def test_only_members_that_choose_are_computed(begin, monkeypatch):
    """In CartPole episodes end at different times, and a new one forces a choice."""
    trainer = begin(small("CartPole-v1", n_peers=4))
    asked = spy(monkeypatch, hybrid(trainer))
    sizes = set()
    for _ in range(80):
        asked.clear()
        trainer.advance()
        due = np.flatnonzero(trainer.sharing.chose).tolist()
        assert [members for _, members in asked] == ([due] if due else [])
        sizes.add(len(due))
    assert len(sizes) >= 3


@pytest.mark.parametrize(("n", "fixed"), [(1, 1), (2, 0), (5, 3), (60, 4), (64, 0)])
def test_any_number_of_advisers(begin, monkeypatch, n, fixed):
    advisers = ("expert", "adversary", "random", "constant:1")[:fixed]
    methods = {"trust_transformer": replace(ATTENTION, attention_update_freq=12)}
    trainer = begin(small(n_peers=n, advisers=advisers, methods=methods))
    signal = hybrid(trainer)
    asked = spy(monkeypatch, signal)
    while trainer.step < 14:
        trainer.advance()
    windows, members = asked[-1]
    assert windows.features.shape[:2] == (n, n + fixed) and members == list(range(n))
    values = signal.report()["trust_attention"]
    assert values.shape == (n, n + fixed) and values.isfinite().all()
    assert signal.attention.updates == 1
    assert (values.std(dim=1) > 0).all()  # the model tells advisers apart


# --- members, replicas, stacks --------------------------------------------------------------------------------


def test_members_of_other_algorithms_and_stacks_have_the_same_trust(begin):
    """What a member's transformer learns from its steps depends on nothing but these steps."""

    def group(*algorithms):
        learner = replace(LEARNER, algorithm=algorithms, net_arch=((8,), (8,), (12,)))
        return begin(small("Pendulum-v1", n_peers=3, advisers=(), learner=learner))

    alike, mixed = group("sac", "sac", "sac"), group("sac", "td3", "sac")
    assert len(alike.group.stacks) == 2 and len(mixed.group.stacks) == 3
    transitions = []
    signal, other = hybrid(alike), hybrid(mixed)
    real = signal.observe
    signal.observe = lambda seen: (transitions.append(seen), real(seen))
    for _ in range(40):
        alike.advance()
    for step, seen in enumerate(transitions, start=1):
        other.observe(seen)
        other.after_step(step)
    assert torch.equal(signal.attention.model.stack.flat, other.attention.model.stack.flat)
    assert torch.equal(signal.attention.losses(), other.attention.losses())
    assert torch.equal(signal.attention.values(), other.attention.values())


def test_a_mixed_group_trains(begin):
    learner = replace(LEARNER, algorithm=("sac", "td3"))
    trainer = begin(small("Pendulum-v1", advisers=(), learner=learner), 60)
    report = hybrid(trainer).report()
    assert all(values.isfinite().all() for values in report.values())
    assert hybrid(trainer).attention.updates == 15 and (trainer.sharing.counts.sum(axis=0) > 0).all()


# --- what predictions depend on -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FAMILIES)
def test_a_prediction_does_not_depend_on_its_own_reward(begin, name):
    """A history of the real environment with one reward changed, through the real features."""
    env = FAMILIES[name]
    origin = begin(small(env, n_peers=2))
    steps = record_steps(hybrid(origin))
    for _ in range(24):
        origin.advance()
    edges = np.append(np.flatnonzero(np.stack(steps[4])[:, 0]), 24)  # of member 0's episodes
    longest = np.diff(edges).argmax()
    begins, end = edges[longest], edges[longest + 1]
    columns = [np.stack(column[:end], axis=1) for column in steps]
    n = end - begins
    assert n >= 5

    def changed(wiring, lagged):
        """Where the prediction for a step moves with the step's own reward, along that episode."""
        attention = replace(ATTENTION, wiring=wiring, lagged_rewards=lagged, sequence_length=24)
        trainer = begin(small(env, n_peers=2, methods={"trust_transformer": attention}))
        signal = hybrid(trainer)

        def predict(changed_reward):
            features = make_features("auto", trainer.spec, 2, 3, signal.features.lagged)
            obs, action, reward, adviser, first = columns
            reward = reward.copy()
            if changed_reward is not None:
                reward[0, changed_reward] += 0.7
            made, phases = features.extend(obs, action, reward, adviser, first)
            trust = signal.attention
            trust.history.total = 0
            trust.append(made, phases, reward, first)
            windows, rewards = trust.history.windows(torch.zeros(2, 1, dtype=torch.int64), 24)
            assert windows.valid[0, 0].sum() == n
            if changed_reward is None:  # first learn a little, so that what can be seen is used
                trust.model.stack.grad.zero_()
                trust.model.learn(windows, rewards, None)
                trust.model.stack.flat.sub_(0.01 * trust.model.stack.grad)
            return trust.model.predict(windows)[0, 0]

        before = predict(None)
        return [bool(predict(begins + t)[t] != before[t]) for t in range(n)]

    assert changed("causal", True) == [False] * n
    # as published, the next step contains the reward; the last step has no next one
    assert changed("seed", True) == [True] * (n - 1) + [False]
    assert changed("causal", False) == [True] * n


# --- resume --------------------------------------------------------------------------


@pytest.mark.parametrize("env", ["LunarLander-v3", "Ant-v4", "CartPole-v1"])
def test_a_resumed_run_continues_with_the_same_trust(begin, same, tmp_path, env):
    """Through a checkpoint on disk, in the middle of windows, warm-up and steps whose features are not made yet."""
    config = small(env, replicas=2)
    first = begin(config, 39)
    state = checkpoint.load(checkpoint.save(tmp_path, 39, first.state()))
    second = begin(config)
    second.load_state(state)
    for _ in range(30):
        one, two = first.advance(), second.advance()
        assert np.array_equal(one.next_obs, two.next_obs)
    a, b = hybrid(first), hybrid(second)
    assert a.attention.updates == 17
    assert torch.equal(a.attention.model.stack.flat, b.attention.model.stack.flat)
    assert torch.equal(a.attention.losses(), b.attention.losses())
    same(a.state(), b.state())
    same(a.attention.history.state(), b.attention.history.state())
    rows, again = (trainer.sharing.advice_rows(trainer.names) for trainer in (first, second))
    assert rows == again and "trust_attention" in rows[0]
    assert [m for m in first.sharing.metrics() if m[2] == "trust/loss"] != []


# --- as published ---------------------------------------------------------------------------------------------


COMMON = (
    "--n-peers 4 --total-timesteps {steps} --epoch-length {epoch} --use-trust --use-agent-values --temperature 1.0 "
    "--lr 0.95 --use-phase-aware --attention-lr 1e-5 --attention-update-freq 20 --sequence-length 50 "
    "--warmup-steps 500000 --exp-name published --log-dir {folder} --use-wandb --wandb-project trust --seed 3 "
    "--verbose 1"
)
ANT = (
    "--n-peers 4 --total-timesteps {steps} --seed 3 --use-phase-aware --attention-lr 1e-5 --warmup-steps 500000 "
    "--use-trust --use-agent-values --verbose 1 --use-wandb --wandb-project trust --exp-name published "
    "--epoch-length 10000 --log-dir {folder}"
)
COMMANDS = {
    "LunarLander-v3": COMMON,
    "Hopper-v4": COMMON,
    "Walker2d-v4": COMMON,
    "Ant-v4": ANT,
    "Room-v6": COMMON + " --device cpu",
    "Room-v21": COMMON + " --device cpu",
    "Room-v27": COMMON + " --device cpu",
    "Room-v33": COMMON + " --device cpu",
}


@pytest.mark.parametrize("env", COMMANDS)
def test_the_published_commands_run(env, tmp_path, monkeypatch):
    """Their flags as they are, shortened by --total-timesteps; without evaluations and report."""
    pytest.importorskip("wandb")
    # W&B has separate tests; once "disabled", wandb would stay disabled for the rest of the process
    monkeypatch.setattr("peerage.session.WandbLog", lambda project, figures: Listener())
    monkeypatch.setattr(Evaluations, "rows", lambda self, step, stop=None: [])
    monkeypatch.setattr("peerage.session.write_report", lambda folder: folder)
    for module in ("peerage.session", "peerage.training.prepare"):  # their learning begins later
        monkeypatch.setattr(f"{module}.check_learning", lambda members, steps: [])
    epoch = 5000 if env.startswith("Room") else 1000
    words = COMMANDS[env].format(steps=45, epoch=epoch, folder=tmp_path).split()
    assert main(["train", "--env", env, *words]) == 0
    run = tmp_path / "published"
    assert (run / "DONE").exists()
    with open(run / "metrics.csv") as file:
        losses = [float(row["value"]) for row in csv.DictReader(file) if row["name"] == "trust/loss"]
    assert len(losses) == 4 and all(math.isfinite(loss) and loss > 0 for loss in losses)
    config = (run / "config.yaml").read_text()
    for line in ("trust: hybrid", "choice: paper", "use_phase_aware: true", "lr: 0.95"):
        assert line in config
    family = "room" if env.startswith("Room") else env.split("-")[0].lower()
    assert f"features: {family}" in config  # what `auto` meant, by name


def test_a_short_published_run_chooses_by_the_hybrid(begin):
    """With learning begun early: phases, warm-up and mixture as the command means them."""
    from peerage.config import changed
    from peerage.config.file import load

    config = changed(
        load("seed-hybrid-lunarlander"),
        {"learner": {"learning_starts": (10,)}, "": {"total_timesteps": 60, "device": "cpu"}},
    )
    trainer = begin(config, 60)
    signal = hybrid(trainer)
    assert signal.attention.n_phases == 4 and signal.attention.updates == 3
    assert signal.attention.model.stack.count == 115_269
    report = signal.report()
    near(report["omega"].double(), (51 / 500_000 * 0.5 * report["confidence"].double()).tolist(), 1e-6)


# --- bad input ------------------------------------------------------------------------------------------------


def wrong_width(spec):
    return Family("wide", (("place", 3), ADVISER), lambda past: {"place": past.obs[..., :2]})


def third_of_two_phases(spec):
    return Family(
        "third",
        (("place", 2), ADVISER),
        lambda past: {"place": past.obs[..., :2]},
        phases=lambda past: np.full(past.age.shape, 2),
        phase_names=("one", "two"),
    )


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--env Acrobot-v1 --use-phase-aware", "generic' have no phases"),
        ("--env Room-v6 --features wide-block --trust hybrid", "block 'place' should have shape"),
        ("--env Room-v6 --features third-phase --use-phase-aware", "phase 2 is out of range"),
        ("--env Room-v6 --features lunarlander --trust hybrid", "lunarlander"),
        ("--env Room-v6 --features rooom --trust hybrid", "did you mean 'room'"),
        ("--env Room-v6 --sequence-length 201", "--sequence-length must be in [2, 200]"),
        ("--env Room-v6 --warmup-steps 0", "--warmup-steps must be at least 1"),
        ("--env Room-v6 --attention-update-freq 0", "--attention-update-freq must be at least 1"),
        ("--env Room-v6 --attention-lr 0", "--attention-lr must be above 0"),
        ("--env Room-v6 --trust hybrid --max-attention-weight 1.5", "--max-attention-weight must be in [0, 1]"),
        ("--env Room-v6 --trust hybrid --wiring best", "--wiring"),
    ],
)
def test_invalid_input_gives_a_one_line_error_and_nothing_is_written(tmp_path, capsys, words, said):
    peerage.register_features("wide-block", wrong_width)
    peerage.register_features("third-phase", third_of_two_phases)
    folder = tmp_path / "runs"
    assert main(["train", *words.split(), "--total-timesteps", "2000", "--log-dir", str(folder)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and error.startswith("peerage: ") and said in error
    assert not folder.exists()
