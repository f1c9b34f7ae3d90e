"""Attention networks: the blocks equal those of torch, the networks have the symmetries and masks that they promise,
and a row of a stack depends on no other row."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn

from benchmarks import attention
from peerage.errors import UserError
from peerage.nets import blocks, step_attention
from peerage.nets.adam import StackedAdam
from peerage.nets.attention import attention_part
from peerage.nets.attention_net import StackedAttention, Window
from peerage.nets.attention_settings import AttentionSettings
from peerage.nets.blocks import (
    add_positions,
    attend,
    block,
    block_part,
    gate_part,
    gated,
    plain_pairs,
    positions_part,
    softmax,
)
from peerage.nets.dropout import Dropout
from peerage.nets.layers import linear, linear_part
from peerage.nets.pooling import pool, pool_numbers, pool_part
from peerage.nets.stack import Part, Stack
from peerage.nets.step_attention import attend_steps

F32, F64 = torch.float32, torch.float64
WIDTH, HEADS, HIDDEN, B = 16, 4, 24, 5

pytestmark = pytest.mark.usefixtures("one_thread")


def generators(rows):
    return [np.random.default_rng(row) for row in range(rows)]


def nudged(stack):
    """Initial parameters, but no zeros and ones: otherwise a test could not see whether biases and norms are used."""
    stack.init_(generators(stack.rows))
    stack.flat.add_(0.1 * random(1, stack.count, seed=7).to(stack.flat))
    return stack


def random(*shape, dtype=F64, seed=3):
    return torch.randn(*shape, dtype=F64, generator=torch.Generator().manual_seed(seed)).to(dtype)


def some_valid(rows, t):
    valid = torch.rand(rows, t, B, generator=torch.Generator().manual_seed(1)) > 0.4
    valid[:, -1] = True
    return valid


def gradients(stack):
    """The gradients of the stack by name."""
    columns = stack.grad.split([math.prod(part.shape) for part in stack.parts.values()], dim=1)
    return {name: x.view(-1, *part.shape) for (name, part), x in zip(stack.parts.items(), columns, strict=True)}


# --- blocks -------------------------------------------------------------------------------------------------


def torch_attention(w, name, row):
    """`torch.nn.MultiheadAttention` with the parameters of one row."""
    module = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True, dtype=F64)
    own = {"in_proj_weight": "in.weight", "in_proj_bias": "in.bias"}
    own |= {f"out_proj.{which}": f"out.{which}" for which in ("weight", "bias")}
    module.load_state_dict({theirs: w[f"{name}.{ours}"][row].to(F64).t().squeeze() for theirs, ours in own.items()})
    return module, own


SHAPES = {
    "pairs": ("self", 5), "products": ("self", 9), "long": ("self", 17), "cross pairs": (3, 6),
    "cross products": (6, 12), "one query": (1, 7),
}  # fmt: skip


@pytest.mark.parametrize(("dtype", "tolerance"), [(F32, 1e-6), (F64, 1e-12)])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_attention_and_its_gradients_equal_those_of_torch(shape, masked, dtype, tolerance):
    rows, (source, t) = 2, SHAPES[shape]
    stack = nudged(Stack(rows, attention_part("a", WIDTH), dtype=dtype))
    tokens = random(rows, t, B, WIDTH, dtype=dtype).requires_grad_()
    queries = tokens
    if source != "self":
        queries = random(rows, source, B, WIDTH, dtype=dtype, seed=4).requires_grad_()
    valid = some_valid(rows, t) if masked else None
    w, keep = stack.weights(grad=True), []
    out = attend(w, "a", queries, tokens, heads=HEADS, valid=valid, keep=keep)
    pull = random(*out.shape, seed=5)
    (out * pull.to(dtype)).sum().backward()
    weights = keep[0]
    assert weights.shape == (rows, B, HEADS, out.shape[1], t)
    torch.testing.assert_close(weights.sum(-1), torch.ones_like(weights.sum(-1)))
    if valid is not None:
        assert ((weights == 0) == ~valid.mT[:, :, None, None, :]).all()  # exactly 0 there, and only there

    close = {"rtol": 0, "atol": tolerance}
    for row in range(rows):
        module, own = torch_attention(stack.weights(), "a", row)
        x = tokens[row].detach().to(F64).requires_grad_()
        q = x if source == "self" else queries[row].detach().to(F64).requires_grad_()
        hidden = None if valid is None else ~valid[row].t()
        expected, theirs = module(
            q.transpose(0, 1), x.transpose(0, 1), x.transpose(0, 1), key_padding_mask=hidden, average_attn_weights=False
        )
        torch.testing.assert_close(out[row].to(F64), expected.transpose(0, 1), **close)
        torch.testing.assert_close(weights[row].to(F64), theirs, **close)
        if dtype == F64:
            (expected.transpose(0, 1) * pull[row]).sum().backward()
            torch.testing.assert_close(tokens.grad[row], x.grad, rtol=0, atol=1e-11)
            mine = gradients(stack)
            for parameter, value in module.named_parameters():
                torch.testing.assert_close(
                    mine[f"a.{own[parameter]}"][row].t().squeeze(), value.grad, rtol=0, atol=1e-11, msg=parameter
                )
            if source != "self":
                torch.testing.assert_close(queries.grad[row], q.grad, rtol=0, atol=1e-11)


@pytest.mark.parametrize(("n", "t"), [(1, 4), (3, 5), (9, 9)])
def test_dropout_that_keeps_everything_changes_nothing(n, t):
    """It also turns off the folded form and the fast form of pairs."""
    stack = nudged(Stack(2, attention_part("a", WIDTH), dtype=F64))
    queries, tokens, w = random(2, n, B, WIDTH), random(2, t, B, WIDTH, seed=4), stack.weights()
    some = {"heads": HEADS, "valid": some_valid(2, t)}
    shapes = []

    def ones(shape):
        shapes.append(shape)
        return torch.ones(shape, dtype=F64)

    found = attend(w, "a", queries, tokens, mask=ones, **some)
    torch.testing.assert_close(found, attend(w, "a", queries, tokens, **some), rtol=0, atol=1e-12)
    assert len(shapes) == 1 and math.prod(shapes[0]) == 2 * B * HEADS * n * t
    nothing = attend(w, "a", queries, tokens, mask=lambda shape: torch.zeros(shape, dtype=F64), **some)
    torch.testing.assert_close(nothing, w["a.out.bias"].unsqueeze(1).expand_as(nothing))


@pytest.mark.parametrize(("dtype", "tolerance"), [(F32, 1e-6), (F64, 1e-12)])
@pytest.mark.parametrize(("n", "t"), [(1, 4), (3, 6), (8, 12)])
def test_pooling_equals_attention_of_torch_with_learned_queries(n, t, dtype, tolerance):
    """The weights of torch give those of the pool, as its docstring says."""
    rows, d = 2, WIDTH // HEADS
    tokens, valid, learned = random(rows, t, B, WIDTH), some_valid(rows, t), random(rows, n, WIDTH, seed=6)
    reference = nudged(Stack(rows, attention_part("a", WIDTH), dtype=F64)).weights()
    stack = Stack(rows, pool_part("p", WIDTH, HEADS, n), dtype=dtype)
    w, expected = stack.weights(grad=True), []
    for row in range(rows):
        module, _ = torch_attention(reference, "a", row)
        of_q, of_k, of_v = module.in_proj_weight.detach().chunk(3)  # [D, D]
        b_q, _, b_v = module.in_proj_bias.detach().chunk(3)
        q = (learned[row] @ of_q.t() + b_q).view(n, HEADS, d).transpose(0, 1)  # [heads, n, d]
        folded = q @ of_k.view(HEADS, d, WIDTH) * d**-0.5
        with torch.no_grad():
            w["p.query.weight"][row].copy_(folded.reshape(HEADS * n, WIDTH))
            w["p.value.weight"][row].copy_(of_v.t())
            w["p.out.weight"][row].copy_(module.out_proj.weight.t())
            w["p.out.bias"][row, 0].copy_(module.out_proj.bias + module.out_proj.weight @ b_v)
        x = tokens[row].transpose(0, 1)
        queries = learned[row].expand(B, n, WIDTH)
        expected.append(module(queries, x, x, key_padding_mask=~valid[row].t(), average_attn_weights=False))
    keep = []
    x = tokens.to(dtype).requires_grad_()
    out = pool(w, "p", x, heads=HEADS, valid=valid, keep=keep)
    for row in range(rows):
        torch.testing.assert_close(out[row].to(F64), expected[row][0].transpose(0, 1), rtol=0, atol=2 * tolerance)
        torch.testing.assert_close(keep[0][row].to(F64), expected[row][1], rtol=0, atol=tolerance)
    assert ((keep[0] == 0) == ~valid.mT[:, :, None, None, :]).all()


@pytest.mark.parametrize("masked", [False, True])
def test_pairs_have_the_gradients_of_their_reference(masked):
    parts = [random(2, HEADS, 3, 2, B).requires_grad_(), random(2, 2, HEADS, 3, 5, B, seed=4).requires_grad_()]
    bias = torch.zeros(2, 5, B, dtype=F64).masked_fill_(~some_valid(2, 5), -1e30) if masked else None
    found, weights = blocks._Pairs.apply(*parts, bias)
    expected, reference = plain_pairs(*parts, bias)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-14)
    torch.testing.assert_close(weights, reference, rtol=0, atol=1e-14)
    pull = random(*found.shape, seed=9)
    mine, theirs = (torch.autograd.grad((out * pull).sum(), parts) for out in (found, expected))
    for one, other in zip(mine, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-13)


def test_the_softmax_of_a_few_logits_equals_that_of_torch():
    logits = (20 * random(3, 7)).requires_grad_()
    with torch.no_grad():
        logits[0, 2:] = -1e30
    mine, theirs = softmax(logits), torch.softmax(logits, dim=-1)
    torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-15)
    assert (mine[0, 2:] == 0).all()
    pull = random(3, 7, seed=4)
    grads = [torch.autograd.grad((out * pull).sum(), logits)[0] for out in (mine, theirs)]
    torch.testing.assert_close(*grads, rtol=0, atol=1e-14)


@pytest.mark.parametrize(("dtype", "tolerance"), [(F32, 2e-6), (F64, 1e-12)])
@pytest.mark.parametrize("t", [4, 9])
def test_a_pre_norm_layer_and_its_gradients_equal_those_of_torch(t, dtype, tolerance):
    stack = nudged(Stack(2, block_part("0", WIDTH, HIDDEN), dtype=dtype))
    x, valid = random(2, t, B, WIDTH, dtype=dtype).requires_grad_(), some_valid(2, t)
    out = block(stack.weights(grad=True), "0", x, heads=HEADS, valid=valid)
    pull = random(*out.shape, seed=5)
    (out * pull.to(dtype)).sum().backward()
    own = {
        "self_attn.in_proj_weight": "attention.in.weight", "self_attn.in_proj_bias": "attention.in.bias",
        "self_attn.out_proj.weight": "attention.out.weight", "self_attn.out_proj.bias": "attention.out.bias",
        "linear1.weight": "ff1.weight", "linear1.bias": "ff1.bias", "linear2.weight": "ff2.weight",
        "linear2.bias": "ff2.bias", "norm1.weight": "norm1.weight", "norm1.bias": "norm1.bias",
        "norm2.weight": "norm2.weight", "norm2.bias": "norm2.bias",
    }  # fmt: skip
    for row in range(2):
        layer = nn.TransformerEncoderLayer(WIDTH, HEADS, HIDDEN, 0.0, batch_first=True, norm_first=True, dtype=F64)
        w = stack.weights()
        layer.load_state_dict({a: w[f"0.{b}"][row].to(F64).t().squeeze().contiguous() for a, b in own.items()})
        theirs = x[row].detach().to(F64).transpose(0, 1).requires_grad_()
        expected = layer(theirs, src_key_padding_mask=~valid[row].t())
        torch.testing.assert_close(out[row].to(F64).transpose(0, 1), expected, rtol=0, atol=tolerance)
        if dtype == F64:
            (expected * pull[row].transpose(0, 1)).sum().backward()
            torch.testing.assert_close(x.grad[row].transpose(0, 1), theirs.grad, rtol=0, atol=1e-11)
            for name, value in layer.named_parameters():
                mine = gradients(stack)[f"0.{own[name]}"][row].t().squeeze()
                torch.testing.assert_close(mine, value.grad, rtol=0, atol=1e-11, msg=name)


@pytest.mark.parametrize("gate", [False, True])
def test_a_layer_for_one_token_equals_the_whole_layer_at_this_token(gate):
    stack = nudged(Stack(2, block_part("0", WIDTH, HIDDEN, gate), dtype=F64))
    x, valid, w = random(2, 6, B, WIDTH), some_valid(2, 6), stack.weights()
    whole = block(w, "0", x, heads=HEADS, valid=valid, gate=gate)
    one = block(w, "0", x[:, -1:], context=x, heads=HEADS, valid=valid, gate=gate)
    torch.testing.assert_close(one, whole[:, -1:], rtol=0, atol=1e-13)


def test_a_gate_computes_the_equation_of_gtrxl_and_starts_near_the_identity():
    stack = Stack(1, gate_part("g", WIDTH), dtype=F64)
    stack.init_(generators(1))
    x, y = random(1, 3, B, WIDTH), random(1, 3, B, WIDTH, seed=4)
    moved, branch = (gated(stack.weights(), "g", x, y) - x).abs().mean(), (y - x).abs().mean()
    assert moved < 0.25 * branch
    nudged(stack)
    p = {name: value[0] for name, value in stack.weights().items()}
    of_y, of_x = ({n: p[f"g.{n}.weight"][part] for n in "rzh"} for part in (slice(WIDTH), slice(WIDTH, None)))
    r = (y @ of_y["r"] + x @ of_x["r"] + p["g.r.bias"]).sigmoid()
    z = (y @ of_y["z"] + x @ of_x["z"] + p["g.z.bias"]).sigmoid()
    h = (y @ of_y["h"] + (r * x) @ of_x["h"] + p["g.h.bias"]).tanh()
    torch.testing.assert_close(gated(stack.weights(), "g", x, y), (1 - z) * x + z * h)


def test_pooled_numbers_equal_pooled_tokens():
    rows, numbers = 2, 6
    stack = nudged(Stack(rows, {**pool_part("p", WIDTH, HEADS), "t": Part((2, numbers, WIDTH))}, dtype=F64))
    x = random(rows, B, numbers).requires_grad_()
    results = []
    for explicit in (False, True):
        stack.grad.zero_()
        x.grad, keep, w = None, [], stack.weights(grad=True)
        if explicit:
            direction, identity = w["t"].unsqueeze(3).unbind(1)
            tokens = x.mT.unsqueeze(3) * direction + identity  # [s, F, B, D]
            out = pool(w, "p", tokens, heads=HEADS, keep=keep)[:, 0]
        else:
            out = pool_numbers(w, "p", x, w["t"], heads=HEADS, keep=keep)
        (out * random(*out.shape, seed=6)).sum().backward()
        results.append([out.detach(), keep[0].detach(), x.grad, stack.grad.clone()])
    for one, other in zip(*results, strict=True):
        assert other.abs().max() > 0.01
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


@pytest.mark.parametrize("masked", [False, True])
def test_attention_over_steps_equals_attention_over_their_tokens(masked, monkeypatch):
    """With the gradients of all parameters; loops, the form for few samples and that with dropout give the same."""
    rows, width, steps = 2, 4, 5
    parts = attention_part("a", WIDTH) | linear_part("step", width, WIDTH) | positions_part("position", steps, WIDTH)
    stack = nudged(Stack(rows, parts, dtype=F64))
    x, query = random(rows, steps, B, width), random(rows, 1, B, WIDTH, seed=3)
    valid = random(rows, steps, B, seed=4) > 0 if masked else None
    if valid is not None:
        valid[:, -1] = True
    results = []
    for way in ("tokens", "loops", "few samples", "dropout"):
        monkeypatch.setattr(step_attention, "LOOP_MIN_BATCH", 1 if way == "loops" else B + 1)
        stack.grad.zero_()
        keep, w = [], stack.weights(grad=True)
        if way == "tokens":
            tokens = add_positions(w, "position", linear(w, "step", x))
            out = attend(w, "a", query, tokens, heads=HEADS, valid=valid, keep=keep)
        else:
            ones = (lambda shape: torch.ones(shape, dtype=F64)) if way == "dropout" else None
            out = attend_steps(w, "a", query, x.mT, heads=HEADS, valid=valid, mask=ones, keep=keep)
        (out * random(*out.shape, seed=6)).sum().backward()
        results.append([out.detach(), keep[0].detach(), stack.grad.clone()])
    for other in results[1:]:
        for mine, theirs in zip(results[0], other, strict=True):
            assert mine.abs().max() > 0.01
            torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-12)


def test_learned_positions_count_back_from_the_newest_token():
    stack = nudged(Stack(2, positions_part("p", 5, WIDTH), dtype=F64))
    x, w = random(2, 5, B, WIDTH), stack.weights()
    assert torch.equal(add_positions(w, "p", x)[1, 4, 0], x[1, 4, 0] + w["p.weight"][1, 4])
    assert torch.equal(add_positions(w, "p", x[:, 2:]), add_positions(w, "p", x)[:, 2:])


# --- networks -----------------------------------------------------------------------------------------------

WINDOW = Window(5, obs=3, act=2, reward=1)
KINDS = {
    "features, pooling alone": (AttentionSettings(n_layers=0), None),
    "features": (AttentionSettings(n_layers=2), None),
    "features, gates": (AttentionSettings(gate=True, readout=0), None),
    "history, present alone": (AttentionSettings("history", n_layers=0), WINDOW),
    "history": (AttentionSettings("history"), WINDOW),
    "history, gates": (AttentionSettings("history", gate=True), WINDOW),
    "both": (AttentionSettings("both"), WINDOW),
    "set": (AttentionSettings("set"), None),
    "set, pooling alone": (AttentionSettings("set", n_layers=0, n_queries=3), WINDOW),
}


def make(kind, rows=3, dtype=F64, **more):
    settings, window = KINDS[kind]
    inputs = 6 if window is None else window.length * window.width
    net = StackedAttention(rows, inputs, 2, settings, window=window, dtype=dtype, **more)
    return nudged(net)


def observations(net, batch=B, dtype=F64):
    """Observations; in windows, a part of the oldest steps is not valid."""
    x = random(net.rows, batch, net.inputs, dtype=dtype)
    if net.window.valid:
        steps = x.view(net.rows, batch, net.window.length, net.window.width)
        first = torch.arange(batch) % net.window.length
        steps[..., -1] = (torch.arange(net.window.length) >= first[:, None]).to(dtype)
    return x


@pytest.mark.parametrize("kind", KINDS)
def test_a_network_computes_rows_and_their_gradients_alone_and_together(kind, monkeypatch):
    """In one pass for all rows, row by row, and in stacks of one row."""
    net = make(kind)
    x = observations(net)
    out, backward = net.tape(x)
    assert (net.grad == 0).all() and not out.requires_grad and out.shape == (3, B, 2)
    pull = random(*out.shape, seed=5)
    backward(pull)
    assert (net.grad != 0).any(dim=1).all()
    close = {"rtol": 0, "atol": 1e-12}
    torch.testing.assert_close(net(x), out, **close)
    torch.testing.assert_close(net(x[1:], rows=slice(1, 3)), out[1:], **close)
    torch.testing.assert_close(net(x[[2, 0]], rows=torch.tensor([2, 0])), out[[2, 0]], **close)
    for row in range(3):
        alone = make(kind, 1)
        alone.flat.copy_(net.flat[row : row + 1])
        own, own_backward = alone.tape(x[row : row + 1])
        own_backward(pull[row : row + 1])
        torch.testing.assert_close(own, out[row : row + 1], **close)
        torch.testing.assert_close(alone.grad, net.grad[row : row + 1], rtol=0, atol=1e-11)
    expected = net.grad.clone()
    net.grad.zero_()
    monkeypatch.setattr("peerage.nets.attention_net.ROWWISE_MIN_WORK", 0)
    again, backward = net.tape(x)
    backward(pull)
    torch.testing.assert_close(again, out, **close)
    torch.testing.assert_close(net(x), out, **close)
    torch.testing.assert_close(net.grad, expected, rtol=0, atol=1e-11)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_of_a_network_are_slopes(kind):
    net = make(kind)
    x, pull = observations(net), random(3, B, 2, seed=5)
    net.tape(x)[1](pull)
    start, direction = net.flat.clone(), random(*net.flat.shape, seed=8)
    ends = []
    for sign in (1, -1):
        net.flat.copy_(start + sign * 1e-8 * direction)
        ends.append((net(x) * pull).sum())
    torch.testing.assert_close((net.grad * direction).sum(), (ends[0] - ends[1]) / 2e-8, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("rowwise", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_a_row_has_the_same_bits_in_any_stack_of_two_or_more(kind, rowwise, monkeypatch):
    """As for multilayer perceptrons. Row by row, also alone and in another row."""
    monkeypatch.setattr("peerage.nets.attention_net.ROWWISE_MIN_WORK", 0 if rowwise else math.inf)
    whole = make(kind, 4, F32)
    x, pull = observations(whole, 40, F32), random(4, 40, 2, dtype=F32)
    out, backward = whole.tape(x)
    backward(pull)
    for members in ([0, 1], [0, 1, 2], *([[2], [3, 1]] if rowwise else [])):
        part = make(kind, len(members), F32)
        part.flat.copy_(whole.flat[members])
        some, backward = part.tape(x[members])
        backward(pull[members])
        assert torch.equal(some, out[members])
        assert torch.equal(part.grad, whole.grad[members])
        assert torch.equal(part(x[members]), whole(x)[members])


@pytest.mark.parametrize("kind", KINDS)
def test_the_attention_of_a_network_sums_to_one_and_reads_no_padding(kind):
    net = make(kind)
    x = observations(net)
    before, grad = net(x), net.grad.clone()
    found = net.attention(x)
    settings, window = net.settings, net.window
    t = window.length if settings.tokens in ("history", "both") else window.obs
    expected = {f"{n}": (3, B, 4, t, t) for n in range(settings.n_layers)}
    if settings.tokens == "both":
        expected = {"number.pool": (3, B, t, 4, 1, 6), **expected}
    if settings.tokens in ("history", "both"):
        expected["present"] = (3, B, 4, 1, t)
    else:
        expected["pool"] = (3, B, 4, settings.n_queries if settings.tokens == "set" else 1, t)
    assert {name: tuple(weights.shape) for name, weights in found.items()} == expected
    assert list(found) == list(expected)
    for weights in found.values():
        torch.testing.assert_close(weights.sum(-1), torch.ones_like(weights[..., 0]))
        assert not weights.requires_grad
    one = net.attention(x[1:2], rows=slice(1, 2))
    assert all(torch.allclose(one[name], weights[1:2], rtol=0, atol=1e-12) for name, weights in found.items())
    assert torch.equal(net(x), before) and torch.equal(net.grad, grad)
    if window.valid:
        steps = x.clone().view(3, B, window.length, window.width)
        valid = steps[..., -1] > 0
        if settings.tokens != "set":  # a sensor has no invalid tokens, but invalid steps
            for weights in (found[name] for name in found if name != "number.pool"):
                assert ((weights == 0) == ~valid[:, :, None, None, :]).all()
        steps[..., :-1][~valid] = math.nan
        torch.testing.assert_close(net(steps.view_as(x)), before, rtol=0, atol=0)
        steps[0, 0, -1, 0] = 7.0
        assert not torch.equal(net(steps.view_as(x)), before)


@pytest.mark.parametrize("window", [None, WINDOW])
@pytest.mark.parametrize("n_layers", [0, 1])
def test_the_order_of_the_sensors_does_not_matter_to_a_set(n_layers, window):
    inputs = 3 if window is None else window.length * window.width
    net = nudged(StackedAttention(2, inputs, 4, AttentionSettings("set", n_layers=n_layers), window=window, dtype=F64))
    x, order = observations(net), [2, 0, 1]
    steps = x.clone().view(2, B, -1, 3 if window is None else window.width)
    steps[..., :3] = steps[..., order]
    mixed = steps.view_as(x)
    assert not torch.equal(mixed, x)
    torch.testing.assert_close(net(mixed), net(x), rtol=0, atol=1e-13)
    weights, same = net.attention(mixed), net.attention(x)
    torch.testing.assert_close(weights["pool"], same["pool"][..., order], rtol=0, atol=1e-13)
    other = nudged(StackedAttention(2, 3, 4, AttentionSettings("features"), dtype=F64))
    y = random(2, B, 3)
    assert not torch.allclose(other(y[..., order]), other(y), atol=1e-3)


def test_the_last_action_changes_the_attention_of_a_set():
    settings, window = AttentionSettings("set", n_layers=0), Window(5, 3, 2, 0)
    net = nudged(StackedAttention(1, 30, 4, settings, window=window, dtype=F64))
    x = random(1, B, 30)
    steps = x.clone().view(1, B, 5, 6)
    steps[..., -1] = 1
    before = net.attention(steps.view(1, B, -1))["pool"]
    steps[:, :, -1, 3:5] += 1
    assert not torch.allclose(net.attention(steps.view(1, B, -1))["pool"], before, atol=1e-3)


@pytest.mark.parametrize("n_layers", [0, 1])
def test_tokens_of_features_are_equivariant_without_identities(n_layers):
    """With the same parameters for all features, a permutation of the features permutes the attention. With their own,
    it does so if their parameters are permuted too."""
    net = nudged(StackedAttention(1, 4, 2, AttentionSettings("features", n_layers=n_layers), dtype=F64))
    x, order, w = random(1, B, 4), [3, 1, 0, 2], net.constants
    before, weights = net(x), net.attention(x)
    tables = w["number.weight"]
    tables.copy_(tables[:, :, order])
    torch.testing.assert_close(net(x[..., order]), before, rtol=0, atol=1e-13)
    tables.copy_(tables[:, :, :1].expand_as(tables).clone())
    torch.testing.assert_close(net(x[..., order]), net(x), rtol=0, atol=1e-13)
    mixed, weights = net.attention(x[..., order]), net.attention(x)
    torch.testing.assert_close(mixed["pool"], weights["pool"][..., order], rtol=0, atol=1e-13)
    if n_layers:
        torch.testing.assert_close(mixed["0"], weights["0"][..., order, :][..., order], rtol=0, atol=1e-13)


def test_initial_parameters_and_extra_ones():
    net = StackedAttention(2, 4, 3, AttentionSettings(), gain=0.01, extra={"log_std": (3,)}, dtype=F64)
    net.init_(generators(2))
    w = net.constants
    products = w["out.weight"].mT @ w["out.weight"], w["hidden.weight"] @ w["hidden.weight"].mT
    for product, squared in zip(products, (1e-4, 2)):
        torch.testing.assert_close(product, squared * torch.eye(product.shape[1], dtype=F64).expand_as(product))
    assert (w["log_std"] == 0).all() and (w["out.bias"] == 0).all()
    net.parameters["log_std"].sum().backward()
    assert (gradients(net)["log_std"] == 1).all()
    assert net(random(2, B, 4)).abs().max() < 0.05
    again = StackedAttention(1, 4, 3, AttentionSettings(), gain=0.01, extra={"log_std": (3,)}, dtype=F64)
    again.init_([np.random.default_rng(1)])
    assert torch.equal(again.flat[0], net.flat[1])


def test_a_larger_network_has_more_activations():
    def count(rows=1, **settings):
        window = WINDOW if settings.get("tokens") in ("history", "both") else None
        inputs = 35 if window else 6
        return StackedAttention(rows, inputs, 2, AttentionSettings(**settings), window=window).activations

    sizes = [count(n_layers=0), count(n_layers=1), count(n_layers=2), count(n_layers=2, gate=True)]
    assert all(a < b for a, b in pairwise(sizes))
    assert count(rows=3) == 3 * count()
    assert count(tokens="both") > count(tokens="history") > 0


def test_dropout_acts_in_the_tape_alone_and_continues_from_a_state():
    net = make("history", dtype=F32)
    x = observations(net, dtype=F32)
    dropout = Dropout(0.5, generators(3))
    state = dropout.state()
    first, backward = net.tape(x, dropout)
    backward(torch.ones_like(first))
    assert not torch.allclose(first, net(x), atol=1e-2) and net.grad.isfinite().all()
    assert not torch.equal(net.tape(x, dropout)[0], first)
    dropout.load_state(state)
    assert torch.equal(net.tape(x, dropout)[0], first)


def test_settings_that_do_not_fit_are_errors():
    with pytest.raises(UserError, match="--n-heads 4 does not divide --d-model 30"):
        AttentionSettings(d_model=30)
    with pytest.raises(ValueError, match="tokens=history needs an observation that is a window"):
        StackedAttention(1, 35, 2, AttentionSettings("history"))
    with pytest.raises(ValueError, match="an observation of 34 numbers is no window of 5 x 7"):
        StackedAttention(1, 34, 2, AttentionSettings("history"), window=WINDOW)


def test_a_network_learns_to_look_at_the_marked_step():
    """One step of a window is marked at random; the target is its value. The mean over the steps explains an eighth."""
    window = Window(8, obs=2, valid=0)
    net = StackedAttention(2, 16, 1, AttentionSettings("history", d_model=16, n_heads=2, n_layers=0), window=window)
    net.init_(generators(2))
    adam = StackedAdam(net.flat, net.grad, torch.full((2, 1), 3e-3))
    random = torch.Generator().manual_seed(0)

    def draw(batch):
        marked = torch.randint(8, (2, batch), generator=random)
        steps = torch.stack((torch.randn(2, batch, 8, generator=random), nn.functional.one_hot(marked, 8)), dim=3)
        return steps.flatten(2), steps[..., 0].gather(2, marked.unsqueeze(2)), marked

    for _ in range(400):
        x, target, _ = draw(64)
        out, backward = net.tape(x)
        adam.zero_grad()
        backward((out - target) / 64)
        adam.step(torch.ones(2, dtype=torch.bool))
    x, target, marked = draw(200)
    assert ((net(x) - target).square().mean(dim=(1, 2)) < 0.15).all()
    weights = net.attention(x)["present"].amax(dim=2)[:, :, 0]  # of the head that looks most
    assert (weights.argmax(dim=2) == marked).float().mean() > 0.9


def test_the_benchmark_measures_every_case():
    found = attention.measure(rows=2, batch=4, rounds=1)
    assert list(found) == [attention.BASE, *attention.CASES]
    assert all(0 <= seconds < math.inf for seconds in found.values())


@pytest.mark.parametrize("kind", KINDS)
def test_a_single_row_acts_with_the_bits_of_the_same_row_in_a_larger_stack(kind):
    """The actor of a single member, with a few states as in a step of its environments."""
    pair, whole = make(kind, 2, F32), make(kind, 8, F32)
    pair.flat.copy_(whole.flat[:2])
    for states in (1, 2, 7):
        x = observations(whole, states, F32)
        expected = whole(x[0::2], rows=slice(0, None, 2))[:1]
        assert torch.equal(pair(x[:1], rows=slice(0, None, 2)), expected)
        assert torch.equal(whole(x[:1], rows=slice(0, 1)), expected)
        assert torch.equal(whole(x[:1], rows=torch.tensor([0])), expected)
    pair.flat.mul_(2)
    assert not torch.equal(pair(x[:1], rows=slice(0, None, 2)), expected)  # the parameters are not copies
