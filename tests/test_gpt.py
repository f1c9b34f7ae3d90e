"""The network of the Decision Transformer: equality with Hugging Face's, masks, rows of a stack, training."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from peerage.errors import UserError
from peerage.interop.hf_weights import from_hf, to_hf
from peerage.nets import kernels
from peerage.nets.dropout import Dropout
from peerage.nets.gpt import Sequences, StackedGPT
from peerage.nets.gpt_settings import GPTSettings

OBS, ACT, K, B = 5, 3, 10, 6
F64 = torch.float64
SMALL = {"context_length": K, "d_model": 16, "n_layers": 2, "n_heads": 2, "max_ep_len": 40}

pytestmark = pytest.mark.usefixtures("one_thread")


def make_net(rows=1, dtype=torch.float32, **settings):
    tanh = settings.pop("tanh", True)
    net = StackedGPT(rows, OBS, ACT, GPTSettings(**{**SMALL, **settings}), tanh=tanh, dtype=dtype)
    net.init_([np.random.default_rng(row) for row in range(rows)])
    torch.manual_seed(3)
    net.flat.add_(0.1 * torch.randn(net.flat.shape[1], dtype=F64).to(dtype))  # no zeros, no ones
    return net


def make_batch(rows=1, dtype=torch.float32, padded=""):
    """`padded`: left or right; the windows have 1 to K steps."""
    torch.manual_seed(4)
    draw = [torch.randn(rows, B, K, size, dtype=F64).to(dtype) for size in (OBS, ACT, 1)]
    timesteps = torch.randint(0, SMALL["max_ep_len"] - K, (rows, B, 1)) + torch.arange(K)
    length = torch.tensor([K, 1, 4, 9, 2, 7]).unsqueeze(1)
    steps = torch.arange(K)
    mask = {"left": steps >= K - length, "right": steps < length}.get(padded, torch.ones(B, K, dtype=torch.bool))
    return Sequences(*draw, timesteps, mask.expand(rows, B, K).clone())


def hugging_face(net, attention="eager"):
    transformers = pytest.importorskip("transformers")
    own = net.settings
    config = transformers.DecisionTransformerConfig(
        state_dim=net.obs, act_dim=net.act, hidden_size=own.d_model, max_ep_len=own.max_ep_len, action_tanh=net.tanh,
        n_layer=own.n_layers, n_head=own.n_heads, activation_function=own.activation, bos_token_id=None,
        eos_token_id=None, attn_implementation=attention,
    )  # fmt: skip
    return transformers.DecisionTransformerModel(config).to(net.flat.dtype).eval()


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_predictions_equal_those_of_hugging_face(attention):
    """In both directions, with every activation, without padding and with padding on either side."""
    for activation in ("relu", "gelu", "gelu_new"):
        net = make_net(dtype=F64, activation=activation, tanh=activation != "gelu")
        model = hugging_face(net, attention)
        model.load_state_dict(to_hf(net))
        other = make_net(dtype=F64, activation=activation, tanh=net.tanh)
        other.flat.zero_()
        from_hf(other, model.state_dict())
        assert torch.equal(other.flat, net.flat)
        for padded in ("", "left", "right"):
            batch = make_batch(dtype=F64, padded=padded)
            states, actions, rtg, timesteps, mask = (part[0] for part in batch)
            with torch.no_grad():
                theirs = model(
                    states=states, actions=actions, rewards=rtg, returns_to_go=rtg, timesteps=timesteps,
                    attention_mask=mask.long(),
                ).action_preds  # fmt: skip
            valid = mask.unsqueeze(2)
            assert ((net(*batch)[0] - theirs) * valid).abs().max() < 1e-12
            if padded != "right":
                assert (net(*batch, newest=True)[0] - theirs[:, -1]).abs().max() < 1e-12


@pytest.mark.parametrize("decoupled", [False, True])
def test_a_prediction_depends_on_earlier_tokens_only(decoupled):
    net, batch = make_net(dtype=F64, tanh=False, decoupled=decoupled), make_batch(dtype=F64)
    before = net(*batch)[0]

    def first_change(**changed):
        after = net(*batch._replace(**changed))[0]
        return int((after != before).any(dim=2).any(dim=0).nonzero()[0])

    for name, first in (("actions", 8), ("states", 7), ("rtg", 7)):
        changed = getattr(batch, name).clone()
        changed[:, :, 7] += 1
        assert first_change(**{name: changed}) == first
    changed = batch.actions.clone()
    changed[:, :, -1] += 1  # the action to predict
    assert torch.equal(net(*batch._replace(actions=changed))[0], before)


@pytest.mark.parametrize("padded", ["left", "right"])
@pytest.mark.parametrize("decoupled", [False, True])
def test_padding_has_no_effect(padded, decoupled):
    """A window gives the same as its valid steps alone, whatever the padding holds."""
    net, batch = make_net(dtype=F64, decoupled=decoupled), make_batch(dtype=F64, padded=padded)
    found = net(*batch)[0]
    garbage = [part.masked_fill(~batch.mask.unsqueeze(3), float("nan")) for part in batch[:3]]
    timesteps = batch.timesteps.masked_fill(~batch.mask, 10**9)
    assert torch.equal(net(*garbage, timesteps, batch.mask)[0][batch.mask[0]], found[batch.mask[0]])
    for b in range(B):
        valid = batch.mask[0, b]
        alone = net(*(part[:, b : b + 1, valid] for part in batch))[0, 0]
        assert (alone - found[b, valid]).abs().max() < 1e-12


def test_rows_of_a_stack_do_not_depend_on_each_other():
    """Predictions, losses, gradients and dropout of three rows equal those of single networks, bit for bit."""
    net, batch = make_net(3), make_batch(3, padded="right")

    def losses(predictions, rows):
        error = (predictions - batch.actions[rows]) * batch.mask[rows].unsqueeze(3)
        return error.square().flatten(1).mean(dim=1)

    together, dropout = net(*batch), Dropout(0.1, [np.random.default_rng(row) for row in range(3)])
    assert torch.equal(net(*(part[1:] for part in batch), rows=slice(1, None)), together[1:])
    loss = net.learn(batch, losses, dropout)
    for row in range(3):
        own = batch.of(slice(row, row + 1))
        single = make_net(1)
        single.flat.copy_(net.flat[row : row + 1])
        assert torch.equal(single(*own)[0], together[row])
        drawn = Dropout(0.1, [np.random.default_rng(row)])
        alone = single.learn(own, lambda x, _, row=row: losses(x, slice(row, row + 1)), drawn)
        assert torch.equal(alone[0], loss[row])
        assert torch.equal(single.grad[0], net.grad[row])


def test_a_decoupled_network_is_modulated_by_the_return_of_the_step():
    """The equations of a network with one layer, written out for the last step of a window of two."""
    settings = GPTSettings(context_length=2, d_model=4, n_layers=1, max_ep_len=9, decoupled=True)
    net = StackedGPT(1, OBS, ACT, settings, dtype=F64)
    net.init_([np.random.default_rng(0)])
    net.flat.mul_(20)
    batch = Sequences(*(part[:, :1, :2] for part in make_batch(dtype=F64)))._replace(timesteps=torch.tensor([[[3, 4]]]))
    w = {name: x[0].numpy() for name, x in net.weights().items()}
    states, actions, (_, R) = batch.states[0, 0].numpy(), batch.actions[0, 0].numpy(), batch.rtg[0, 0, :, 0].numpy()

    def linear(name, x):
        return x @ w[f"{name}.weight"] + w[f"{name}.bias"][0]

    def norm(x):
        return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)

    def affine(name, x):
        return norm(x) * w[f"{name}.weight"][0] + w[f"{name}.bias"][0]

    time = w["timestep.weight"]
    tokens = [linear("state", states[0]) + time[3], linear("action", actions[0]) + time[3]]
    tokens = affine("norm", np.array([*tokens, linear("state", states[1]) + time[4]])) + w["position.weight"][0]
    normed = affine("0.norm1", tokens)
    keys, values = np.split(linear("0.key_value", normed), 2, axis=1)
    logits = np.exp(linear("0.query", normed[2]) @ keys.T / 2)
    x = tokens[2] + linear("0.found", logits / logits.sum() @ values)
    x = x + linear("0.ff2", np.maximum(linear("0.ff1", affine("0.norm2", x)), 0))

    def action(R):
        hidden = linear("return", np.array([R]))
        gamma, beta = np.split(linear("modulate", hidden / (1 + np.exp(-hidden))), 2)
        return np.tanh(linear("out", norm(x) * (1 + gamma) + beta))

    assert net(*batch)[0, 0, 1].numpy() == pytest.approx(action(R), abs=1e-12)
    assert net(*batch, newest=True)[0, 0].numpy() == pytest.approx(action(R), abs=1e-12)
    other = batch._replace(rtg=batch.rtg + torch.tensor([[[[1.0], [0.5]]]], dtype=F64))  # only the last one matters
    assert net(*other, newest=True)[0, 0].numpy() == pytest.approx(action(R + 0.5), abs=1e-12)
    assert np.abs(action(R) - action(R + 0.5)).max() > 0.01
    with pytest.raises(UserError, match="Hugging Face has no Decoupled Decision Transformer"):
        to_hf(net)


def test_gradients_equal_those_of_hugging_face():
    net, batch = make_net(dtype=F64), make_batch(dtype=F64, padded="right")
    model = hugging_face(net)
    model.load_state_dict(to_hf(net))
    states, actions, rtg, timesteps, mask = (part[0] for part in batch)
    theirs = model(
        states=states, actions=actions, rewards=rtg, returns_to_go=rtg, timesteps=timesteps, attention_mask=mask.long()
    )
    (theirs.action_preds - actions)[mask].square().mean().backward()
    net.learn(batch, lambda x, rows: (x - batch.actions)[batch.mask].square().mean().view(1))
    as_net = make_net(dtype=F64)
    grads = {name: torch.zeros_like(x) if x.grad is None else x.grad for name, x in model.named_parameters()}
    from_hf(as_net, grads)
    assert (as_net.flat - net.grad).abs().max() < 1e-12
    assert net.grad.abs().max() > 1e-3


@pytest.mark.parametrize("rowwise", [True, False])
def test_products_in_bfloat16_are_close_and_rows_stay_independent(rowwise, monkeypatch):
    """Row by row, as on most CPUs, and batched; parameters, gradients and predictions stay float32."""
    monkeypatch.setattr(kernels.native, "row_products", lambda: "torch" if rowwise else None)
    exact, low, batch = make_net(2), make_net(2, precision="bf16"), make_batch(2, padded="right")
    low.copy_(exact)

    def loss(predictions, rows):
        return ((predictions - batch.actions[rows]).square() * batch.mask[rows].unsqueeze(3)).flatten(1).mean(dim=1)

    found, expected = low(*batch), exact(*batch)
    assert found.dtype == torch.float32 and not torch.equal(found, expected)
    assert (found - expected)[batch.mask].abs().max() < 0.05
    losses = low.learn(batch, loss)
    torch.testing.assert_close(losses, exact.learn(batch, loss), rtol=0.02, atol=0.01)
    assert torch.cosine_similarity(low.grad, exact.grad).min() > 0.999
    single = make_net(1, precision="bf16")
    single.flat.copy_(low.flat[1:])
    assert torch.equal(single(*batch.of(slice(1, 2)))[0], found[1])


def test_initial_weights_are_those_of_gpt_2():
    net = StackedGPT(1, 17, 6, GPTSettings(max_ep_len=1000))
    net.init_([np.random.default_rng(0)])
    w = {name: x[0] for name, x in net.weights().items()}
    for name, x in w.items():
        if name.endswith("bias"):
            assert not x.any()
        elif "norm" in name:
            assert (x == 1).all()
        elif x.numel() > 500:
            std = 0.02 / 6**0.5 if "found" in name or "ff2" in name else 0.02
            assert x.std().item() == pytest.approx(std, rel=0.1), name


def test_dropout_acts_in_training_only():
    net, batch = make_net(), make_batch()
    assert torch.equal(net(*batch), net(*batch))
    loss = [
        net.learn(batch, lambda x, rows: x.square().flatten(1).mean(dim=1), Dropout(0.5, [np.random.default_rng(seed)]))
        for seed in (0, 0, 1)
    ]
    assert loss[0] == loss[1] != loss[2]


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"n_heads": 3}, "n_heads 3 does not divide d_model 128"), ({"dropout": 0.001}, "multiple of 1/256")],
)
def test_invalid_settings_are_refused(settings, message):
    with pytest.raises(UserError, match=message):
        GPTSettings(**settings)
