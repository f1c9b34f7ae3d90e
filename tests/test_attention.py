"""The building blocks of stacked transformers equal those of torch, and a row depends on no other row."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from torch import nn

from peerage.nets.attention import attention_bias, encoder_layer, encoder_part
from peerage.nets.dropout import Dropout
from peerage.nets.layers import (
    embedding,
    embedding_part,
    layer_norm,
    linear,
    linear_part,
    norm_part,
    positions,
)
from peerage.nets.stack import Stack
from peerage.nets.workers import WORKERS, by_rows

F64 = torch.float64
WIDTH, HEADS, HIDDEN, B, T = 16, 4, 24, 3, 6


pytestmark = pytest.mark.usefixtures("one_thread")


def generators(rows, start=0):
    return [np.random.default_rng(start + row) for row in range(rows)]


def make_stack(rows, layers=2, dtype=torch.float32):
    parts = linear_part("embed", 5, WIDTH)
    for n in range(layers):
        parts |= encoder_part(f"{n}", WIDTH, HIDDEN)
    stack = Stack(rows, parts, dtype=dtype)
    stack.init_(generators(rows))
    # Norms and biases start as ones and zeros. With these values, a test could not see whether they are used.
    torch.manual_seed(7)
    nudge = torch.randn(1, stack.count, dtype=F64).to(dtype)
    stack.flat.add_(0.1 * nudge)
    return stack


def named(stack, flat):
    """The columns of `flat` by the names of the stack's parameters."""
    columns = flat.split([math.prod(part.shape) for part in stack.parts.values()], dim=1)
    return {name: x.view(-1, *part.shape) for (name, part), x in zip(stack.parts.items(), columns, strict=True)}


def torch_layer(weights, name, row):
    """`torch.nn.TransformerEncoderLayer` with the parameters of one row."""
    layer = nn.TransformerEncoderLayer(WIDTH, HEADS, HIDDEN, 0.0, batch_first=True, dtype=F64)
    own = {
        "self_attn.in_proj_weight": "attention.in.weight",
        "self_attn.in_proj_bias": "attention.in.bias",
        "self_attn.out_proj.weight": "attention.out.weight",
        "self_attn.out_proj.bias": "attention.out.bias",
        "linear1.weight": "ff1.weight",
        "linear1.bias": "ff1.bias",
        "linear2.weight": "ff2.weight",
        "linear2.bias": "ff2.bias",
        "norm1.weight": "norm1.weight",
        "norm1.bias": "norm1.bias",
        "norm2.weight": "norm2.weight",
        "norm2.bias": "norm2.bias",
    }
    state = {theirs: weights[f"{name}.{ours}"][row].t().squeeze().contiguous() for theirs, ours in own.items()}
    layer.load_state_dict(state)
    return layer, own


def some_windows(rows, dtype=F64):
    torch.manual_seed(3)
    x = torch.randn(rows, B, T, WIDTH, dtype=F64).to(dtype)
    valid = torch.ones(rows, B, T, dtype=torch.bool)
    valid[:, 1, 4:] = False
    valid[-1, 2, 2:] = False
    return x, valid


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("grouping", ["row by row", "all at once"])
def test_the_encoder_and_its_gradients_equal_those_of_torch(causal, grouping):
    rows = 2
    stack = make_stack(rows, dtype=F64)
    x, valid = some_windows(rows)
    x.requires_grad_()
    torch.manual_seed(5)
    pull = torch.randn(x.shape, dtype=F64) * valid.unsqueeze(-1)  # outputs at padding are arbitrary

    def work(which):
        w, h = stack.weights(which, grad=True), x[which]
        for name in ("0", "1"):
            h = encoder_layer(w, name, h, heads=HEADS, bias=attention_bias(valid[which], causal, F64))
        return h

    out = by_rows(work, rows, "cpu") if grouping == "row by row" else work(slice(0, rows))
    (out * pull).sum().backward()
    for row in range(rows):
        layers = [torch_layer(stack.weights(), name, row) for name in ("0", "1")]
        theirs = x[row].detach().clone().requires_grad_()
        h = theirs
        mask = torch.ones(T, T, dtype=torch.bool).triu(1) if causal else None
        for layer, _ in layers:
            h = layer(h, src_mask=mask, src_key_padding_mask=~valid[row])
        torch.testing.assert_close(out[row][valid[row]], h[valid[row]], rtol=0, atol=1e-12)
        (h * pull[row]).sum().backward()
        torch.testing.assert_close(x.grad[row], theirs.grad, rtol=0, atol=1e-11)
        gradients = named(stack, stack.grad)
        for name, (layer, own) in zip("01", layers):
            for parameter, value in layer.named_parameters():
                ours = gradients[f"{name}.{own[parameter]}"][row].t().squeeze()
                torch.testing.assert_close(ours, value.grad, rtol=0, atol=1e-11, msg=parameter)


def plain_encoder_layer(w, name, x, bias, scale, mask):
    """The equations of the layer for one row, `x [B, T, D]`, with the parameters `w` by name."""

    def norm(which, x):
        centred = x - x.mean(-1, keepdim=True)
        unit = centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
        return unit * w[f"{name}.{which}.weight"] + w[f"{name}.{which}.bias"]

    def affine(which, x):
        return x @ w[f"{name}.{which}.weight"] + w[f"{name}.{which}.bias"]

    def drop(x):
        return x * mask((1, *x.shape))[0]

    heads = [part.split(WIDTH // HEADS, dim=-1) for part in affine("attention.in", x).chunk(3, dim=-1)]
    logits = [q @ k.transpose(1, 2) / math.sqrt(WIDTH // HEADS) for q, k in zip(*heads[:2])]  # of each head
    weights = torch.stack([scale[..., h, None] * logit + bias for h, logit in enumerate(logits)], dim=1).softmax(-1)
    found = [weight @ v for weight, v in zip(drop(weights).unbind(1), heads[2])]
    y = norm("norm1", x + drop(affine("attention.out", torch.cat(found, dim=-1))))
    hidden = drop(affine("ff1", y).relu())
    return norm("norm2", y + drop(affine("ff2", hidden)))


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (F64, 1e-13)])
@pytest.mark.parametrize("grouping", ["row by row", "all at once"])
def test_the_encoder_computes_the_equations_and_their_gradients(dtype, tolerance, grouping):
    """With masks, scales and dropout: outputs and all gradients, relative to the largest value."""
    rows = 2
    x, valid = some_windows(rows)
    torch.manual_seed(6)
    scale, pull = torch.rand(rows, B, T, HEADS, dtype=F64), torch.randn(x.shape, dtype=F64)
    bias = attention_bias(valid, True, F64)
    stack = make_stack(rows, layers=1, dtype=dtype)
    dropout = Dropout(0.2, generators(rows, 30), dtype=dtype)
    mine, own_scale = x.to(dtype).requires_grad_(), scale.to(dtype).requires_grad_()

    def work(which):
        w = stack.weights(which, grad=True)
        masks = {"bias": bias[which].to(dtype), "scale": own_scale[which], "mask": dropout.of(which)}
        return encoder_layer(w, "0", mine[which], heads=HEADS, **masks)

    out = by_rows(work, rows, "cpu") if grouping == "row by row" else work(slice(0, rows))
    (out * pull.to(dtype)).sum().backward()
    found = out.detach(), mine.grad, own_scale.grad, stack.grad

    flat = stack.flat.to(F64).requires_grad_()
    x.requires_grad_(), scale.requires_grad_()
    again = Dropout(0.2, generators(rows, 30), dtype=F64)
    outs = [
        plain_encoder_layer(
            {name: value[row] for name, value in named(stack, flat).items()},
            "0", x[row], bias[row, :, 0], scale[row], again.of(slice(row, row + 1)),
        )
        for row in range(rows)
    ]  # fmt: skip
    expected = torch.stack(outs)
    (expected * pull).sum().backward()
    for ours, theirs in zip(found, (expected.detach(), x.grad, scale.grad, flat.grad), strict=True):
        largest = theirs.abs().max()
        assert largest > 0.1
        assert (ours.to(F64) - theirs).abs().max() < tolerance * largest


def test_linear_norm_and_embedding_equal_those_of_torch():
    rows = 2
    parts = linear_part("l", 5, 7) | norm_part("n", 7) | embedding_part("e", 4, 7)
    stack = Stack(rows, parts, dtype=F64)
    stack.init_(generators(rows))
    torch.manual_seed(1)
    stack.flat.add_(0.1 * torch.randn(stack.flat.shape, dtype=F64))
    x = torch.randn(rows, B, T, 5, dtype=F64, requires_grad=True)
    index = torch.randint(0, 4, (rows, B, T))
    pull = torch.randn(rows, B, T, 7, dtype=F64)
    for which in (slice(0, 2), slice(1, 2)):
        stack.grad.zero_()
        x.grad = None
        w = stack.weights(which, grad=True)
        out = layer_norm(w, "n", linear(w, "l", x[which], relu=True)) + embedding(w, "e", index[which])
        (out * pull[which]).sum().backward()
        for at, row in enumerate(range(*which.indices(rows))):
            p = {name: value[row].clone().requires_grad_() for name, value in stack.weights().items()}
            theirs = x[row].detach().clone().requires_grad_()
            h = (theirs @ p["l.weight"] + p["l.bias"]).relu()
            h = nn.functional.layer_norm(h, (7,), p["n.weight"][0], p["n.bias"][0]) + p["e.weight"][index[row]]
            (h * pull[row]).sum().backward()
            torch.testing.assert_close(out[at], h, rtol=0, atol=1e-12)
            torch.testing.assert_close(x.grad[row], theirs.grad, rtol=0, atol=1e-12)
            for name, value in p.items():
                gradient = named(stack, stack.grad)[name][row]
                torch.testing.assert_close(gradient, value.grad, rtol=0, atol=1e-12, msg=name)


def test_attention_weights_are_distributions_over_the_allowed_steps():
    stack = make_stack(2)
    x, valid = some_windows(2, torch.float32)
    for causal in (False, True):
        keep = []
        encoder_layer(stack.weights(), "0", x, heads=HEADS, bias=attention_bias(valid, causal), keep=keep)
        assert keep[0].shape == (2, B, HEADS, T, T)
        torch.testing.assert_close(keep[0].sum(-1), torch.ones(2, B, HEADS, T))
        seen = valid[:, :, None, None, :].expand(2, B, HEADS, T, T)
        if causal:
            seen = seen & torch.ones(T, T, dtype=torch.bool).tril()
        assert (keep[0][~seen] == 0).all()
        assert (keep[0][seen] > 0).all()


def test_a_fully_padded_window_stays_finite():
    stack = make_stack(1)
    x = torch.randn(1, B, T, WIDTH, requires_grad=True)
    valid = torch.zeros(1, B, T, dtype=torch.bool)
    w = stack.weights(slice(0, 1), grad=True)
    for causal in (False, True):
        out = encoder_layer(w, "0", x, heads=HEADS, bias=attention_bias(valid, causal))
        out.square().sum().backward()
        assert out.isfinite().all()
        assert stack.grad.isfinite().all()


def test_queries_are_scaled_per_head():
    """A query with scale 0 attends uniformly; scale 1 changes nothing."""
    stack = make_stack(2)
    x, _ = some_windows(2, torch.float32)
    plain, neutral, scaled = [], [], []
    scale = torch.ones(2, B, T, HEADS)
    encoder_layer(stack.weights(), "0", x, heads=HEADS, keep=plain)
    encoder_layer(stack.weights(), "0", x, heads=HEADS, scale=scale, keep=neutral)
    assert torch.equal(plain[0], neutral[0])
    scale[1, 2, 3, 0] = 0
    encoder_layer(stack.weights(), "0", x, heads=HEADS, scale=scale, keep=scaled)
    torch.testing.assert_close(scaled[0][1, 2, 0, 3], torch.full((T,), 1 / T))
    scaled[0][1, 2, 0, 3] = plain[0][1, 2, 0, 3]
    assert torch.equal(plain[0], scaled[0])


def test_the_gradient_of_scales_is_the_slope():
    stack = make_stack(1, dtype=F64)
    x, valid = some_windows(1)
    torch.manual_seed(2)
    scale = torch.rand(1, B, T, HEADS, dtype=F64).requires_grad_()
    bias = attention_bias(valid, True, F64)

    def total(s):
        out = encoder_layer(stack.weights(slice(0, 1), grad=True), "0", x, heads=HEADS, bias=bias, scale=s)
        return out.pow(3).sum()

    total(scale).backward()
    direction = torch.randn(scale.shape, dtype=F64)
    with torch.no_grad():
        slope = (total(scale + 1e-5 * direction) - total(scale - 1e-5 * direction)) / 2e-5
    assert abs(slope) > 1e-3
    torch.testing.assert_close((scale.grad * direction).sum(), slope, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("threads", [1, 2])
def test_a_row_has_the_same_bits_in_any_stack(threads):
    WORKERS.set_threads(threads)
    x, _ = some_windows(4, torch.float32)
    whole = make_stack(4)

    def run(stack, rows, seeds):
        dropout = Dropout(0.1, seeds)

        def work(which):
            w, mask = stack.weights(which, grad=True), dropout.of(which)
            h = encoder_layer(w, "0", rows[which], heads=HEADS, bias=None, mask=mask)
            h.pow(3).sum().backward()
            return h.detach()

        return by_rows(work, stack.rows, "cpu"), stack.grad

    out, grad = run(whole, x, generators(4, 50))
    assert whole.grad.abs().sum() > 0
    for members in ([2], [3, 1], [1, 2, 3]):
        part = whole.select(members)
        assert torch.equal(part.flat, whole.flat[members])
        some, some_grad = run(part, x[members], [np.random.default_rng(50 + m) for m in members])
        assert torch.equal(some, out[members])
        assert torch.equal(some_grad, grad[members])


def test_initial_parameters():
    stack = Stack(2, encoder_part("0", 64, 256) | embedding_part("e", 50, 64))
    stack.init_(generators(2))
    w = stack.weights()
    # Xavier: sqrt(6 / (64 + 192)) = 0.1531; a linear layer of 64 inputs: 1/8, of 256: 1/16
    bounds = {"0.attention.in.weight": 0.153094, "0.attention.out.weight": 0.125, "0.ff1.weight": 0.125}
    for name, bound in {**bounds, "0.ff1.bias": 0.125, "0.ff2.weight": 0.0625}.items():
        top = w[name].abs().flatten(1).amax(dim=1)
        assert (top <= bound).all() and (top > 0.97 * bound).all(), name
    for name in ("0.attention.in.bias", "0.attention.out.bias", "0.norm1.bias"):
        assert (w[name] == 0).all()
    assert (w["0.norm2.weight"] == 1).all()
    assert abs(w["e.weight"].std() - 1) < 0.05 and abs(w["e.weight"].mean()) < 0.05
    assert not torch.equal(stack.flat[0], stack.flat[1])
    again = Stack(1, stack.parts)
    again.init_([np.random.default_rng(1)])
    assert torch.equal(again.flat[0], stack.flat[1])


def test_positions():
    table = positions(200, 64, dtype=F64)
    assert table.shape == (200, 64)
    assert table[0].tolist() == [0.0, 1.0] * 32
    # pos 3, i 2: 3 / 10000^(4/64)
    angle = 3 / 10000 ** (4 / 64)
    assert table[3, 4].item() == pytest.approx(math.sin(angle), abs=1e-12)
    assert table[3, 5].item() == pytest.approx(math.cos(angle), abs=1e-12)


# --- dropout ------------------------------------------------------------------------------------------------


def test_dropout_has_the_rate_and_keeps_the_mean():
    dropout = Dropout(0.1, generators(2))
    assert dropout.p == 26 / 256
    factors = dropout.of(slice(0, 1))((1, 1000, 1000))
    kept = np.float32(1 / (1 - 26 / 256))
    assert set(factors.unique().tolist()) == {0.0, float(kept)}
    share = (factors == 0).double().mean().item()
    assert abs(share - 26 / 256) < 4 * math.sqrt(0.1 * 0.9 / 1e6)  # four standard deviations
    assert abs(factors.double().mean().item() - 1) < 2e-3
    # Neighbouring factors are uncorrelated.
    off = (factors.view(-1) == 0).double() - 26 / 256
    for lag in (1, 7, 8, 64):
        assert abs((off[lag:] * off[:-lag]).mean().item()) < 4 * 0.1 * 0.9 / 1e3


def test_factors_depend_on_row_and_seed():
    shape = (2, 5, 37)
    together = Dropout(0.5, generators(2))
    first = together.of(slice(0, 2))(shape)
    assert not torch.equal(first[0], first[1])
    assert not torch.equal(first, together.of(slice(0, 2))(shape))
    alone = Dropout(0.5, generators(2))
    assert torch.equal(alone.of(slice(1, 2))((1, 5, 37))[0], first[1])
    assert torch.equal(alone.of(slice(0, 1))((1, 5, 37))[0], first[0])


def test_dropout_continues_from_a_state():
    dropout = Dropout(0.25, generators(2))
    dropout.of(slice(0, 2))((2, 3))
    state = json.loads(json.dumps(dropout.state()))
    expected = dropout.of(slice(0, 2))((2, 100))
    other = Dropout(0.25, generators(2, 9))
    other.load_state(state)
    assert torch.equal(other.of(slice(0, 2))((2, 100)), expected)
    with pytest.raises(ValueError, match="another number of rows"):
        Dropout(0.25, generators(3)).load_state(state)


def test_extreme_rates_of_dropout():
    assert Dropout(0.0, generators(1)).of(slice(0, 1)) is None
    for p in (-0.1, 1.0):
        with pytest.raises(ValueError, match="rate must be in"):
            Dropout(p, generators(1))
    with pytest.raises(ValueError, match="1/256"):
        Dropout(0.001, generators(1))


def test_the_gradient_under_dropout_is_the_slope():
    stack = make_stack(1, dtype=F64)
    x, valid = some_windows(1)
    bias = attention_bias(valid, True, F64)

    def total():
        mask = Dropout(0.4, generators(1), dtype=F64).of(slice(0, 1))  # the same factors each time
        w = stack.weights(slice(0, 1), grad=True)
        return encoder_layer(w, "0", x, heads=HEADS, bias=bias, mask=mask)[valid].pow(3).sum()

    total().backward()
    start = stack.flat.clone()
    torch.manual_seed(4)
    direction = torch.randn(start.shape, dtype=F64)
    with torch.no_grad():
        ends = []
        for sign in (1, -1):
            stack.flat.copy_(start + sign * 1e-6 * direction)
            ends.append(total())
    slope = (ends[0] - ends[1]) / 2e-6
    torch.testing.assert_close((stack.grad * direction).sum(), slope, rtol=1e-5, atol=1e-6)
