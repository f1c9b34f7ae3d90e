"""The trust transformer: sizes, masks, wirings, history, training, counterfactual."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch

from peerage.errors import UserError
from peerage.learners.streams import StreamKey
from peerage.nets import kernels
from peerage.nets.dropout import Dropout
from peerage.nets.trust_transformer import TrustTransformer, Windows, mean_valid
from peerage.runs.checkpoint import load, save
from peerage.trust.attention import AttentionTrust, History

F64 = torch.float64
N_FEATURES, PHASES, B, T = 9, 4, 5, 12


pytestmark = pytest.mark.usefixtures("one_thread")


def generators(rows, start=0):
    return [np.random.default_rng(start + row) for row in range(rows)]


def make_model(rows=2, n_phases=PHASES, wiring="causal", dtype=torch.float32):
    model = TrustTransformer(rows, N_FEATURES, n_phases, wiring=wiring, dtype=dtype)
    model.init_(generators(rows))
    torch.manual_seed(11)
    model.stack.flat.add_(0.05 * torch.randn(1, model.stack.count, dtype=F64).to(dtype))  # no zeros, no ones
    return model


def make_windows(rows=2, steps=T, dtype=torch.float32):
    torch.manual_seed(21)
    features = torch.randn(rows, B, T, N_FEATURES, dtype=F64).to(dtype)[:, :, :steps]
    phases = torch.randint(0, PHASES, (rows, B, T))[:, :, :steps]
    lengths = torch.tensor([T, 5, 1, 7, 3]).clamp(max=steps)
    valid = (torch.arange(steps) < lengths.unsqueeze(1)).expand(rows, B, steps)
    return Windows(features, valid, phases)


@pytest.mark.parametrize(
    ("n_features", "base", "aware"),
    [
        (35, 112_769, 115_269),
        (38, 112_961, 115_461),
        (42, 113_217, 115_717),
        (52, 113_857, 116_357),
        (22, 111_937, 114_437),
    ],
)
def test_the_number_of_parameters_is_as_published(n_features, base, aware):
    for wiring in ("seed", "causal"):
        assert TrustTransformer(1, n_features, 0, wiring=wiring).stack.flat.shape == (1, base)
        assert TrustTransformer(1, n_features, 4, wiring=wiring).stack.flat.shape == (1, aware)


def test_parameters_of_the_parts_in_ant():
    counts: dict[str, int] = {}
    for name, part in TrustTransformer(1, 52, 4).stack.parts.items():
        group = ".".join(name.split(".")[:-1])
        counts[group] = counts.get(group, 0) + math.prod(part.shape)
    assert counts["project"] == 3_392 and counts["fuse"] == 8_256
    assert counts["outcome1"] + counts["outcome2"] == 2_113
    assert counts["0.attention.in"] + counts["0.attention.out"] == 16_640
    assert counts["1.ff1"] + counts["1.ff2"] == 33_088
    assert counts["phase"] == 256 and counts["0.scale"] == 16


# --- masks --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wiring", ["causal", "seed"])
@pytest.mark.parametrize("n_phases", [0, PHASES])
def test_padding_changes_nothing(wiring, n_phases):
    model, windows = make_model(n_phases=n_phases, wiring=wiring), make_windows()
    rewards = torch.randn(2, B, T)

    def run(windows, rewards):
        model.stack.grad.zero_()
        loss = model.learn(windows, rewards, None)
        return model.predict(windows), loss, model.stack.grad.clone()

    out, loss, grad = run(windows, rewards)
    for wild in (1e6, float("nan")):
        features = torch.where(windows.valid.unsqueeze(-1), windows.features, wild)
        phases = torch.where(windows.valid, windows.phases, 3 - windows.phases)
        others = run(Windows(features, windows.valid, phases), torch.where(windows.valid, rewards, 1e9))
        assert torch.equal(others[0][windows.valid], out[windows.valid])
        assert torch.equal(others[1], loss) and torch.equal(others[2], grad)
    # more padding: another size of products, so close rather than equal
    longer = Windows(*(torch.cat((part, part), dim=2) for part in windows))
    longer.valid[:, :, T:] = False
    others = run(longer, rewards.repeat(1, 1, 2))
    torch.testing.assert_close(others[0][:, :, :T][windows.valid], out[windows.valid], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(others[2], grad, rtol=1e-3, atol=1e-5)
    # and a window is alone
    alone = model.predict(Windows(*(part[:, 1:2, :5].contiguous() for part in windows)))
    torch.testing.assert_close(alone[:, 0], out[:, 1, :5], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("wiring", ["causal", "seed"])
def test_a_fully_padded_window_gives_zero_and_no_gradient(wiring):
    model, windows = make_model(wiring=wiring), make_windows()
    valid = windows.valid.clone()
    valid[:, 1] = False
    windows = windows._replace(valid=valid)
    out = model.predict(windows)
    assert out.isfinite().all()
    assert (mean_valid(out, valid)[:, 1] == 0).all()
    model.learn(windows, torch.randn(2, B, T), None)
    assert model.stack.grad.isfinite().all() and model.stack.grad.abs().max() > 0
    model.stack.grad.zero_()
    nothing = model.learn(windows._replace(valid=torch.zeros_like(valid)), torch.randn(2, B, T), None)
    assert (nothing == 0).all() and (model.stack.grad == 0).all()


def test_attention_weights_are_the_ones_used():
    model, windows = make_model(), make_windows()
    attention = []
    out = model.predict(windows, attention=attention)
    assert torch.equal(out, model.predict(windows))
    assert [a.shape for a in attention] == [(2, B, 4, T, T)] * 2
    for weights in attention:
        seen = windows.valid[:, :, None, None, :].expand(weights.shape)
        torch.testing.assert_close((weights * seen).sum(-1), torch.ones(2, B, 4, T))
        assert (weights[~seen] == 0).all()
        assert (weights.triu(1) == 0).all()
    # Layer 0 by hand, from the parameters alone: member 1, window 0, head 2
    w = {name: value[1] for name, value in model.stack.weights().items()}
    x = torch.nn.functional.layer_norm(
        windows.features[1, 0] @ w["project.weight"] + w["project.bias"],
        (64,),
        w["project.norm.weight"][0],
        w["project.norm.bias"][0],
    ).relu()
    x = x + model.positions[:T] + w["phase.weight"][windows.phases[1, 0]]
    q, k, _ = (x @ w["0.attention.in.weight"] + w["0.attention.in.bias"]).chunk(3, dim=1)
    logits = q[:, 32:48] @ k[:, 32:48].T / 4 * w["0.scale.weight"][windows.phases[1, 0], 2].unsqueeze(1)
    logits = logits.masked_fill(torch.ones(T, T, dtype=torch.bool).triu(1), -torch.inf)
    torch.testing.assert_close(attention[0][1, 0, 2], logits.softmax(-1), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("wiring", ["causal", "seed"])
def test_phase_scaling_in_the_first_layer_changes_queries_of_its_phase_alone(wiring):
    model, windows = make_model(wiring=wiring), make_windows()
    before, after = [], []
    model.predict(windows, attention=before)
    model.stack.weights()["0.scale.weight"][:, 2] *= 3
    model.predict(windows, attention=after)
    of_phase = (windows.phases == 2)[:, :, None, :, None].expand(before[0].shape)
    assert torch.equal(before[0][~of_phase], after[0][~of_phase])
    # a query that can only see one step has weight 1 there, whatever its scale; all the others change
    sees_more = (before[0] > 0).sum(-1, keepdim=True) > 1
    changed = (before[0] != after[0]).any(dim=-1, keepdim=True)
    assert changed[of_phase[..., :1] & sees_more].all()
    assert not torch.equal(before[1], after[1])


def test_phase_scales_are_one_at_first():
    model, windows = TrustTransformer(2, N_FEATURES, PHASES), make_windows()
    model.init_(generators(2))
    out = model.predict(windows)
    for layer in "01":
        assert (model.stack.weights()[f"{layer}.scale.weight"] == 1).all()
    base = TrustTransformer(2, N_FEATURES)
    for name, value in base.stack.weights().items():
        value.copy_(model.stack.weights()[name])
    model.stack.weights()["phase.weight"].zero_()
    assert not torch.equal(out, model.predict(windows))
    assert torch.equal(base.predict(windows), model.predict(windows))


# --- learning -----------------------------------------------------------------------------------------------


def test_loss_by_hand():
    """Squared error and 0.3 cross-entropy, over valid steps alone."""
    model, windows = make_model(rows=1, dtype=F64), make_windows(1, dtype=F64)
    rewards = torch.randn(1, B, T, dtype=F64)
    out, logits = model.forward(model.stack.weights(), windows)
    total, count = 0.0, 0
    for b in range(B):
        for t in range(T):
            if windows.valid[0, b, t]:
                total += (out[0, b, t] - rewards[0, b, t]).item() ** 2
                p = logits[0, b, t].exp()
                total -= 0.3 * math.log(p[windows.phases[0, b, t]] / p.sum())
                count += 1
    assert count == 12 + 5 + 1 + 7 + 3
    assert model.learn(windows, rewards, None).item() == pytest.approx(total / count, rel=1e-9)


@pytest.mark.parametrize("wiring", ["causal", "seed"])
@pytest.mark.parametrize("n_phases", [0, PHASES])
def test_gradients_are_the_slope_of_the_loss(wiring, n_phases):
    model = make_model(n_phases=n_phases, wiring=wiring, dtype=F64)
    windows, rewards = make_windows(dtype=F64), torch.randn(2, B, T, dtype=F64)

    def loss():
        return model.learn(windows, rewards, Dropout(0.1, generators(2), dtype=F64))  # the same masks each time

    loss()
    grad, start = model.stack.grad.clone(), model.stack.flat.clone()
    torch.manual_seed(31)
    for part in ("project", "phase.", "0.", "1.", "fuse", "outcome", "phase1"):
        direction, column = torch.zeros_like(start), 0
        for name, shape in ((name, p.shape) for name, p in model.stack.parts.items()):
            if name.startswith(part):
                count = math.prod(shape)
                direction[:, column : column + count] = torch.randn(2, count, dtype=F64)
            column += math.prod(shape)
        ends = []
        for sign in (1, -1):
            model.stack.flat.copy_(start + sign * 1e-8 * direction)  # between the ReLUs' kinks
            ends.append(loss())
        slope = (ends[0] - ends[1]) / 2e-8
        torch.testing.assert_close((grad * direction).sum(dim=1), slope, rtol=1e-5, atol=1e-6, msg=part)
        assert (slope != 0).all() == (n_phases > 0 or not part.startswith("phase"))
        model.stack.flat.copy_(start)


@pytest.mark.parametrize("threads", [1, 2])
def test_rows_of_a_stack_do_not_affect_each_other(threads):
    kernels.WORKERS.set_threads(threads)
    whole, windows, rewards = make_model(4), make_windows(4), torch.randn(4, B, T)
    stream_keys = list(range(4))
    losses = whole.learn(windows, rewards, Dropout(0.1, [np.random.default_rng(s) for s in stream_keys]))
    out = whole.predict(windows)
    for members in ([1], [2, 0], [3, 1, 2]):
        part = make_model(len(members))
        part.stack.flat.copy_(whole.stack.flat[members])
        some = Windows(*(tensor[members] for tensor in windows))
        mine = part.learn(some, rewards[members], Dropout(0.1, [np.random.default_rng(s) for s in members]))
        assert torch.equal(mine, losses[members])
        assert torch.equal(part.stack.grad, whole.stack.grad[members])
        assert torch.equal(part.predict(some), out[members])
        assert torch.equal(whole.predict(some, members=members), out[members])


def test_dropout_acts_in_learning_and_never_in_predicting():
    model, windows = make_model(), make_windows()
    rewards = torch.randn(2, B, T)
    plain = model.learn(windows, rewards, None)
    dropout = Dropout(0.1, generators(2))
    first, second = model.learn(windows, rewards, dropout), model.learn(windows, rewards, dropout)
    assert len({plain[0].item(), first[0].item(), second[0].item()}) == 3
    assert torch.equal(model.learn(windows, rewards, Dropout(0.1, generators(2))), first)
    assert torch.equal(model.predict(windows), model.predict(windows))
    outcome, _ = model.forward(model.stack.weights(slice(0, 1)), windows.of(slice(0, 1)))
    assert torch.equal(model.predict(windows)[:1], outcome)


# --- what may be known --------------------------------------------------------------------------------------


def lagged(rewards):
    """Features with the reward of the step before, its change and a running mean, as the families have them."""
    torch.manual_seed(41)
    features = torch.randn(1, 1, T, N_FEATURES)
    before = torch.cat((torch.zeros(1), rewards[:-1]))
    features[0, 0, :, 0] = before
    features[0, 0, 1:, 1] = before[1:] - before[:-1]
    features[0, 0, :, 2] = before.cumsum(0) / torch.arange(1, T + 1)
    return features


@pytest.mark.parametrize(("wiring", "leaks"), [("causal", False), ("seed", True)])
def test_a_prediction_does_not_depend_on_its_own_reward(wiring, leaks):
    """After some training, so that the model would use what it can see."""
    model = make_model(1, wiring=wiring)
    torch.manual_seed(42)
    rewards = torch.randn(T)
    valid, phases = torch.ones(1, 1, T, dtype=torch.bool), torch.zeros(1, 1, T, dtype=torch.int64)
    model.learn(Windows(lagged(rewards), valid, phases), rewards.view(1, 1, T), None)
    model.stack.flat.sub_(0.01 * model.stack.grad)
    out = model.predict(Windows(lagged(rewards), valid, phases))
    changed = []
    for t in range(T):
        other = rewards.clone()
        other[t] += 5
        again = model.predict(Windows(lagged(other), valid, phases))
        changed.append(not torch.equal(again[..., t], out[..., t]))
        assert t == T - 1 or not torch.equal(again, out)  # it does change something
    # nothing follows the last step, so not even the seed's wiring can know its reward
    assert changed == [leaks] * (T - 1) + [False]


# --- history ------------------------------------------------------------------------------------------------


def fill(target, steps, rows=2, chunk=7, episode=(10, 13), width=N_FEATURES, n_phases=PHASES, seed=0):
    """Append `steps` steps in uneven chunks; returns what was appended. Member m's episodes last `episode[m]`."""
    rng = np.random.default_rng(seed)
    features = rng.standard_normal((rows, steps, width), dtype=np.float32)
    phases = rng.integers(0, max(n_phases, 1), (rows, steps))
    rewards = rng.standard_normal((rows, steps), dtype=np.float32)
    first = np.stack([np.arange(steps) % episode[m % len(episode)] == 0 for m in range(rows)])
    start = 0
    while start < steps:
        stop = min(steps, start + 1 + (start + chunk) % chunk)
        part = [x[:, start:stop] for x in (features, phases, rewards, first)]
        if isinstance(target, History):
            part = [torch.from_numpy(x) for x in part]
        target.append(*part)
        start = stop
    return features, phases, rewards, first


@pytest.mark.parametrize("total", [9, 40, 95])
def test_windows_lie_within_episodes_and_the_buffer(total):
    """Against the same taken from the whole past, step by step."""
    capacity, length = 30, 8
    history = History(2, capacity, N_FEATURES, "cpu", torch.float32)
    features, phases, rewards, first = fill(history, total)
    size = min(total, capacity)
    ends = torch.arange(size).expand(2, size)
    windows, got = history.windows(ends, length)
    assert windows.valid.shape == (2, size, min(length, size))
    for m in range(2):
        for age in range(size):
            last = total - 1 - age
            begin = max(n for n in range(last + 1) if first[m, n])
            steps = list(range(max(begin, last - length + 1, total - size), last + 1))
            n = len(steps)
            assert windows.valid[m, age].tolist() == [True] * n + [False] * (min(length, size) - n)
            np.testing.assert_array_equal(windows.features[m, age, :n], features[m, steps])
            np.testing.assert_array_equal(windows.phases[m, age, :n], phases[m, steps])
            np.testing.assert_array_equal(got[m, age, :n], rewards[m, steps])


def test_a_chunk_longer_than_the_buffer():
    one, two = (History(2, 8, N_FEATURES, "cpu", torch.float32) for _ in range(2))
    features, phases, rewards, first = fill(one, 30)
    two.append(*(torch.from_numpy(x) for x in (features, phases, rewards, first)))
    ages = torch.arange(8).expand(2, 8)
    for a, b in zip(one.windows(ages, 5)[0], two.windows(ages, 5)[0]):
        assert torch.equal(a, b)


# --- the trust --------------------------------------------------------------------------------------------------


ADVISER = slice(3, 6)  # in the middle
K = 3


def make_trust(rows=2, n_phases=PHASES, first_member=0, **changes):
    stream_keys = [StreamKey(5, 0, first_member + m) for m in range(rows)]
    settings = {"sequence_length": 8, "batch": 4, "capacity": 40, **changes}
    return AttentionTrust(stream_keys, N_FEATURES, ADVISER, K, n_phases, **settings)


@pytest.mark.parametrize("n_phases", [0, PHASES])
def test_the_counterfactual_replaces_the_adviser_and_nothing_else(n_phases, monkeypatch):
    """What the model is really given."""
    trust = make_trust(n_phases=n_phases)
    features, phases, _, first = fill(trust, 57)
    seen = []
    real = trust.model.predict
    monkeypatch.setattr(trust.model, "predict", lambda w, **k: seen.append((w, k)) or real(w, **k))
    values = trust.values()
    assert values.shape == (2, K) and len(seen) == 1  # one call
    windows = seen[0][0]
    assert windows.features.shape == (2, K, 8, N_FEATURES)
    for m in range(2):
        begin = max(n for n in range(57) if first[m, n])
        steps = list(range(max(begin, 57 - 8), 57))
        n = len(steps)
        assert windows.valid[m].sum(dim=-1).tolist() == [n] * K
        for j in range(K):
            expected = features[m, steps].copy()
            expected[:, ADVISER] = np.eye(K, dtype=np.float32)[j]
            np.testing.assert_array_equal(windows.features[m, j, :n], expected)
            if n_phases:
                np.testing.assert_array_equal(windows.phases[m, j, :n], phases[m, steps])
            one = Windows(*(None if p is None else p[m : m + 1, j : j + 1, :n].contiguous() for p in windows))
            own = real(one, members=[m])
            assert values[m, j].item() == pytest.approx(own.mean().item(), rel=1e-4, abs=1e-5)
    assert len({round(v, 6) for v in values.flatten().tolist()}) == 2 * K


def test_values_do_not_depend_on_other_askers():
    trust = make_trust(rows=4)
    fill(trust, 33, rows=4)
    whole = trust.values()
    for rows in ([2], [3, 1], torch.tensor([0, 1, 2]), [1, 1]):
        assert torch.equal(trust.values(rows), whole[torch.as_tensor(rows)])
    assert trust.values([]).shape == (0, K)


def test_values_change_nothing():
    one, two = make_trust(), make_trust()
    for trust in (one, two):
        fill(trust, 30)
    for _ in range(3):
        one.values()
        for trust in (one, two):
            trust.train()
    assert torch.equal(one.model.stack.flat, two.model.stack.flat)
    assert torch.equal(one.values(), two.values())


def test_values_before_there_is_a_history_and_at_an_episodes_start():
    trust = make_trust()
    assert (trust.values() == 0).all()
    trust.train()
    assert trust.updates == 0 and trust.losses().shape == (2, 0)
    rng = np.random.default_rng(0)
    part = rng.standard_normal((2, 12, N_FEATURES), dtype=np.float32)
    first = np.zeros((2, 12), bool)
    first[:, [0, 10]] = True

    def append(start, stop):
        steps = slice(start, stop)
        trust.append(part[:, steps], np.zeros((2, stop - start), int), part[:, steps, 0], first[:, steps])

    append(0, 1)
    assert (trust.values() == 0).all()
    append(1, 10)
    # The running episode (from step 10) has none stored yet: the last window of the one before.
    assert trust.values().abs().min() > 0
    assert (trust.counterfactual([0, 1]).valid.sum(dim=-1) == 8).all()
    append(10, 11)
    assert (trust.counterfactual([0, 1]).valid.sum(dim=-1) == 1).all()


def test_training_is_adam_on_the_members_own_windows():
    """One step by hand: the member's windows, its clipped gradient, Adam's first step of size lr."""
    trust = make_trust(lr=1e-3)
    fill(trust, 30)
    twin = make_trust()
    size = 30
    windows, rewards = trust.history.windows((twin.sampler.next() * size).long(), 8)
    before = trust.model.stack.flat.clone()
    loss = twin.model.learn(windows, rewards, twin.dropout)
    trust.train()
    torch.testing.assert_close(trust.losses(), loss.unsqueeze(1))
    grad = twin.model.stack.grad.double()
    grad = grad * (1 / (grad.norm(dim=1, keepdim=True) + 1e-6)).clamp(max=1)
    expected = before - 1e-3 * grad / (grad.abs() + 1e-8)
    torch.testing.assert_close(trust.model.stack.flat, expected.float(), rtol=1e-4, atol=2e-6)
    assert (trust.model.stack.flat != before).float().mean() > 0.9


def test_members_alone_and_together():
    """Not in any bit do members depend on each other."""
    together = make_trust(rows=3, lr=1e-3)
    features, phases, rewards, first = fill(together, 30, rows=3)
    for _ in range(4):
        together.train()
    for m in range(3):
        alone = make_trust(rows=1, first_member=m, lr=1e-3)
        own = slice(m, m + 1)
        alone.append(features[own], phases[own], rewards[own], first[own])
        for _ in range(4):
            alone.train()
        assert torch.equal(alone.model.stack.flat[0], together.model.stack.flat[m])
        assert torch.equal(alone.losses()[0], together.losses()[m])
        assert torch.equal(alone.values()[0], together.values()[m])


def test_a_diverged_member_is_frozen_and_the_others_continue():
    sound, spoilt = make_trust(lr=1e-3), make_trust(lr=1e-3)
    for trust in (sound, spoilt):
        fill(trust, 20)
        trust.train()
    before = spoilt.model.stack.flat.clone()
    spoilt.history.rewards[0] = float("nan")
    for trust in (sound, spoilt):
        trust.train()
        trust.train()
    assert spoilt.active.tolist() == [False, True]
    assert torch.equal(spoilt.model.stack.flat[0], before[0])
    assert torch.equal(spoilt.model.stack.flat[1], sound.model.stack.flat[1])
    assert torch.equal(spoilt.values()[1], sound.values()[1])
    spoilt.history.features[0] = float("nan")
    assert (spoilt.values()[0] == 0).all()


def test_losses_are_the_last_ones_in_order():
    trust = make_trust(batch=1, sequence_length=2)
    fill(trust, 20)
    seen = []
    for n in range(53):
        trust.train()
        seen.append(trust.recent[n % 50].clone())
        if n == 9:
            assert torch.equal(trust.losses(), torch.stack(seen).T)
    assert trust.losses().shape == (2, 50)
    assert torch.equal(trust.losses(), torch.stack(seen[-50:]).T)


@pytest.mark.parametrize("n_phases", [0, PHASES])
def test_resume_is_exact(n_phases, tmp_path):
    whole = make_trust(n_phases=n_phases, lr=1e-3)
    fill(whole, 55)
    for _ in range(3):
        whole.train()
    resumed = make_trust(n_phases=n_phases, lr=1e-3)
    resumed.load_state(load(save(tmp_path, 1, whole.state())))  # through the file format
    json.dumps(whole.state()["streams"])
    for trust in (whole, resumed):
        fill(trust, 17, seed=1)
        trust.train()
    assert torch.equal(whole.model.stack.flat, resumed.model.stack.flat)
    assert torch.equal(whole.values(), resumed.values())
    assert torch.equal(whole.losses(), resumed.losses())
    with pytest.raises(ValueError, match="history of other"):
        make_trust(rows=3, n_phases=n_phases).history.load_state(whole.history.state())


def test_a_short_run_needs_a_small_buffer():
    assert make_trust(total_steps=12).history.capacity == 12
    assert make_trust(total_steps=12_000).history.capacity == 40
    assert AttentionTrust([StreamKey(0, 0, 0)], N_FEATURES, ADVISER, K).history.capacity == 10_000
    assert [step for step in range(1, 61) if make_trust().due(step)] == [20, 40, 60]


@pytest.mark.parametrize("length", [1, 201])
def test_refuses_a_sequence_length(length):
    with pytest.raises(UserError, match=rf"--sequence-length is {length}: .*2 to 200"):
        make_trust(sequence_length=length)


def test_refuses_features_and_phases_that_do_not_fit():
    with pytest.raises(UserError, match=r"slice 'adviser'.*there are 4 advisers"):
        AttentionTrust([StreamKey(0, 0, 0)], N_FEATURES, ADVISER, 4)
    trust = make_trust()
    steps = np.zeros((2, 1))
    with pytest.raises(UserError, match="9 numbers per step were expected"):
        trust.append(np.zeros((2, 1, 8), np.float32), steps, steps, steps)
    for phase in (-1, PHASES):
        with pytest.raises(UserError, match=rf"phase {phase}: phases are numbered 0 to 3"):
            trust.append(np.zeros((2, 1, N_FEATURES), np.float32), steps + phase, steps, steps)
    assert trust.history.total == 0


# --- does it find out? --------------------------------------------------------------------------------------


@pytest.mark.long
@pytest.mark.parametrize(
    ("n_phases", "wiring", "lr", "updates"),
    [(0, "causal", 1e-5, 250), (0, "causal", 1e-3, 30), (PHASES, "causal", 1e-3, 30), (0, "seed", 1e-3, 30)],
)
def test_the_better_adviser_is_recognised(n_phases, wiring, lr, updates):
    """Following adviser 1 earns 1 more a step, with noise of 0.3; advisers change every five steps. The published
    rate of 1e-5 needs 250 updates (of 16 windows), which are 5,000 steps; 1e-3 needs 30."""
    rows, steps = 3, 1000
    trust = make_trust(rows, n_phases, lr=lr, batch=16, capacity=1000, sequence_length=20, wiring=wiring)
    rng = np.random.default_rng(8)
    features = rng.standard_normal((rows, steps, N_FEATURES), dtype=np.float32)
    followed = np.repeat(rng.integers(0, K, (rows, steps // 5)), 5, axis=1)
    features[:, :, ADVISER] = np.eye(K, dtype=np.float32)[followed]
    rewards = (followed == 1) + 0.3 * rng.standard_normal((rows, steps), dtype=np.float32)
    first = np.tile(np.arange(steps) % 40 == 0, (rows, 1))
    trust.append(features, rng.integers(0, PHASES, (rows, steps)), rewards, first)
    for _ in range(updates):
        trust.train()
    values = trust.values()
    assert values.argmax(dim=1).tolist() == [1] * rows
    lead = values[:, 1] - torch.maximum(values[:, 0], values[:, 2])
    assert (lead > 0.03).all(), lead
    variance = torch.from_numpy(rewards.var(axis=1))  # the loss of the best constant
    assert (trust.losses()[:, -10:].mean(dim=1) < variance).all()
