"""Stacks and their linear kernel: the fast ways compute the equation, private functions of torch have equivalents, and
nothing changes the process before a run asks for it."""

from __future__ import annotations

import json
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from peerage import processor
from peerage.nets import kernels, native, workers
from peerage.nets.adam import StackedAdam
from peerage.nets.layers import embedding_part, linear_part
from peerage.nets.stack import Part, Stack, orthogonal
from peerage.nets.stacked import StackedMLP

F32, F64 = torch.float32, torch.float64
WIDTHS = (5, 128, 130, 20, 9, 3)  # wide enough for oneDNN
ACTIVATIONS = ("relu", None, "tanh", "tanh", None)

pytestmark = pytest.mark.usefixtures("one_thread")


def generators(rows):
    return [np.random.default_rng(row) for row in range(rows)]


@pytest.fixture
def public_functions_only(monkeypatch):
    """A torch without private functions."""

    def missing(*args, **kwargs):
        raise AssertionError("a private function of torch was called")

    monkeypatch.setattr(native, "available", lambda name: False)
    for name in ("onednn_linear", "fused_adam_", "threshold_backward", "fused_tanh_backward"):
        monkeypatch.setattr(native, name, missing)


def needs(name):
    return pytest.mark.skipif(not native.available(name), reason=f"torch has no {name}")


WAYS = [pytest.param("oneDNN", marks=needs("onednn_linear")), "torch"]
"""The results of `native.row_products` that work on this machine, whatever its processor is."""


def use(way, monkeypatch):
    monkeypatch.setattr(native, "row_products", lambda: way)


# --- one pass -----------------------------------------------------------------------------------------------


def make_pass(rows, dtype, dropout):
    """A stack, its layers with a ReLU, with tanh and without activation, with and without dropout, and an input that
    wants its gradient."""
    parts = {}
    for n, (fan_in, fan_out) in enumerate(pairwise(WIDTHS)):
        parts |= linear_part(f"{n}", fan_in, fan_out)
    stack = Stack(rows, parts, dtype=dtype)
    stack.init_(generators(rows))
    w = stack.weights(grad=True)
    layers = [w.layer(f"{n}", activation) for n, activation in enumerate(ACTIVATIONS)]
    torch.manual_seed(1)
    x = torch.randn(rows, 40, WIDTHS[0], dtype=F64).to(dtype).requires_grad_()
    if dropout:  # behind each activation
        for n in (0, 1, 2):
            factors = (torch.rand(rows, 40, WIDTHS[n + 1], dtype=F64) > 0.2) * 1.25
            layers[n] = layers[n].with_factors(factors.to(dtype))
    return stack, layers, x


def results(stack, out, x):
    """Output and all gradients of a loss that is no sum, in double precision."""
    pull = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view(out.shape)
    (out.square() * pull).sum().backward()
    return [part.detach().to(F64).clone() for part in (out, x.grad, stack.grad)]


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("dropout", [False, True])
@pytest.mark.parametrize(
    ("dtype", "way"),
    [(F64, None), (F32, None), pytest.param(F32, "oneDNN", marks=needs("onednn_linear")), (F32, "torch")],
)
def test_a_pass_computes_the_equation_and_its_gradients(rows, dropout, dtype, way, monkeypatch):
    use(way, monkeypatch)
    tolerance = 1e-13 if dtype == F64 else 3e-6  # of the largest value
    stack, layers, x = make_pass(rows, dtype, dropout)
    found = results(stack, kernels.run(x, layers, rowwise=True), x)
    stack, layers, x = make_pass(rows, F64, dropout)
    expected = results(stack, kernels.plain(x, layers), x)
    for mine, theirs in zip(found, expected, strict=True):
        assert theirs.abs().max() > 0.01
        assert (mine - theirs).abs().max() < tolerance * theirs.abs().max()


def test_gradients_are_slopes():
    """Finite differences in double precision, of input and parameters."""
    stack, layers, x = make_pass(2, F64, dropout=True)
    x = x.detach()[:, :3].requires_grad_()
    layers = [layer if layer.factors is None else layer.with_factors(layer.factors[:, :3]) for layer in layers]
    assert torch.autograd.gradcheck(lambda x: kernels.run(x, layers), x, fast_mode=True)
    stack.grad.zero_()

    def loss():
        return kernels.run(x, layers).square().sum()

    loss().backward()
    torch.manual_seed(2)
    start, direction = stack.flat.clone(), torch.randn(stack.flat.shape, dtype=F64)
    ends = []
    with torch.no_grad():
        for sign in (1, -1):
            stack.flat.copy_(start + sign * 1e-7 * direction)
            ends.append(loss())
    torch.testing.assert_close((stack.grad * direction).sum(), (ends[0] - ends[1]) / 2e-7, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("activation", ["relu", "tanh"])
@pytest.mark.parametrize("sizes", [(6, 9, 2), (6, 128, 128, 2)])
def test_a_tape_has_the_gradients_of_autograd(sizes, activation, way, monkeypatch):
    use(way, monkeypatch)
    net = StackedMLP(2, sizes, activation=activation)
    net.init_(generators(2))
    x, pull = torch.randn(2, 64, 6), torch.randn(2, 64, 2)
    out = net(x, grad=True)
    (out * pull).sum().backward()
    expected = net.grad.clone()
    net.grad.zero_()
    again, backward = net.tape(x)
    assert (net.grad == 0).all() and not again.requires_grad
    backward(pull)
    assert torch.equal(again, out) and torch.equal(net.grad, expected)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("threads", [1, 2])
def test_rows_have_the_same_bits_alone_and_with_any_number_of_threads(threads, way, monkeypatch):
    use(way, monkeypatch)
    workers.WORKERS.set_threads(threads)
    stack, layers, x = make_pass(3, F32, dropout=True)
    whole = results(stack, kernels.run(x, layers), x)
    for row in range(3):
        alone, own, _ = make_pass(3, F32, dropout=True)
        w = alone.weights(slice(row, row + 1), grad=True)
        own = [w.layer(f"{n}", layer.activation) for n, layer in enumerate(layers)]
        for n in (0, 1, 2):
            own[n] = own[n].with_factors(layers[n].factors[row : row + 1])
        mine = x.detach()[row : row + 1].requires_grad_()
        out = kernels.run(mine, own)
        pull = torch.linspace(-1, 1, 3 * out.numel()).view(3, *out.shape[1:])[row : row + 1]
        (out.square() * pull).sum().backward()
        for one, all_rows in zip((out, mine.grad, alone.grad[row : row + 1]), whole, strict=True):
            assert torch.equal(one.detach().to(F64), all_rows[row : row + 1])


# --- the processor ------------------------------------------------------------------------------------------


CPUINFO = """processor\t: 0
vendor_id\t: {vendor}
model name\t: A Processor
"""


@pytest.mark.parametrize(
    ("cpuinfo", "reported", "vendor", "products"),
    [
        (CPUINFO.format(vendor="GenuineIntel"), "", "Intel", "torch"),
        (CPUINFO.format(vendor="AuthenticAMD"), "", "AMD", "oneDNN"),
        (CPUINFO.format(vendor="Another"), "GenuineIntel", "other", "oneDNN"),
        ("processor\t: 0\n", "", "other", "oneDNN"),  # as on ARM
        (None, "Intel64 Family 6 Model 85 Stepping 7, GenuineIntel", "Intel", "torch"),  # Windows
        (None, "arm", "other", "oneDNN"),  # macOS
    ],
)
def test_the_vendor_of_the_processor_decides(cpuinfo, reported, vendor, products, tmp_path, monkeypatch):
    path = tmp_path / "cpuinfo"
    if cpuinfo is not None:
        path.write_text(cpuinfo)
    monkeypatch.setattr(processor, "CPUINFO", path)
    monkeypatch.setattr("platform.processor", lambda: reported)
    assert processor.cpu_vendor.__wrapped__() == vendor
    monkeypatch.setattr(native, "cpu_vendor", lambda: vendor)
    monkeypatch.setattr(native, "available", lambda name: name == "onednn_linear")
    assert native.row_products() == products
    monkeypatch.setattr(native, "available", lambda name: False)
    assert native.row_products() == (products if products == "torch" else None)


# --- private functions of torch --------------------------------------------------------------------------------


@needs("onednn_linear")
@needs("threshold_backward")
def test_without_private_functions_a_network_is_the_same(request, monkeypatch):
    """oneDNN and the gradients of ReLU and tanh."""
    monkeypatch.setattr(native, "cpu_vendor", lambda: "AMD")  # uses oneDNN if it is available

    def compute():
        stack, layers, x = make_pass(2, F32, dropout=True)
        return results(stack, kernels.run(x, layers), x)

    with_them = compute()
    assert native.row_products() == "oneDNN"
    request.getfixturevalue("public_functions_only")
    for one, other in zip(with_them, compute(), strict=True):
        assert (one - other).abs().max() < 3e-6 * other.abs().max()


@needs("threshold_backward")
def test_the_gradient_of_a_relu_has_the_same_bits_either_way(request):
    grad = torch.tensor([1.0, -2.0, float("nan"), float("inf"), 3.0])
    out = torch.tensor([0.0, 4.0, 0.0, 0.0, float("nan")])
    private = native.relu_backward(grad, out)
    request.getfixturevalue("public_functions_only")
    assert native.relu_backward(grad, out).numpy().tobytes() == private.numpy().tobytes()
    assert private.tolist()[:4] == [0.0, -2.0, 0.0, 0.0]


@needs("fused_tanh_backward")
def test_the_gradient_of_a_tanh_is_the_same_either_way(request):
    grad, out = torch.tensor([1.0, -2.0, 0.0]), torch.tensor([0.3, -0.999, 0.5])
    private = native.tanh_backward(grad, out)
    request.getfixturevalue("public_functions_only")
    torch.testing.assert_close(native.tanh_backward(grad, out), private, rtol=1e-4, atol=0)
    torch.testing.assert_close(private, torch.tensor([0.91, -2 * (1 - 0.999**2), 0.0]))


@needs("fused_adam")
@pytest.mark.parametrize("clip", [None, [[0.5], [1e-3], [1e9]]])
def test_without_private_functions_adam_is_the_same(clip, request):
    def compute():
        torch.manual_seed(4)
        flat, lr = torch.randn(3, 50), torch.tensor([[1e-2], [1e-3], [1e-2]])
        limit = None if clip is None else torch.tensor(clip)
        adam = StackedAdam(flat, torch.zeros(3, 50), lr, max_grad_norm=limit)
        for n in range(6):
            adam.grad.copy_(torch.randn(3, 50))
            adam.step(torch.tensor([True, n < 3, True]))
        return flat, adam.rows_by_lr

    fused, rows = compute()
    assert list(rows.values()) == [[0, 2], [1]]
    request.getfixturevalue("public_functions_only")
    plain, rows = compute()
    assert not rows
    torch.testing.assert_close(fused, plain, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", list(native.CHECKS))
def test_a_private_function_that_is_missing_or_different_is_not_used(name, monkeypatch):
    function = {"fused_adam": "fused_adam_"}.get(name, name)
    uncached = native.available.__wrapped__
    assert uncached(name) == native.available(name)

    def missing(*args, **kwargs):
        raise AttributeError(name)

    monkeypatch.setattr(native, function, missing)
    assert not uncached(name)
    monkeypatch.setattr(native, function, lambda *args, **kwargs: torch.tensor([[7.0]]))  # another result
    assert not uncached(name)


def test_only_known_functions_can_be_asked_for():
    with pytest.raises(KeyError):
        native.available("onednn")


# --- the stack ----------------------------------------------------------------------------------------------


PARTS = {**linear_part("l", 3, 4), **embedding_part("e", 2, 5), "c": Part((2,), constant=7.0)}


def test_names_are_views_of_one_tensor():
    stack = Stack(4, PARTS, dtype=F64)
    stack.init_(generators(4))
    assert stack.flat.shape == stack.grad.shape == (4, 3 * 4 + 4 + 10 + 2)
    assert list(stack.weights()) == list(PARTS)
    assert torch.equal(torch.cat([w.flatten(1) for w in stack.weights().values()], dim=1), stack.flat)
    for rows in (slice(None), slice(1, 3), slice(None, None, 2), slice(1, None, 2)):
        w = stack.weights(rows)
        assert w is stack.weights(rows) and w is not stack.weights(rows, grad=True)
        assert w["l.weight"].shape == (len(range(4)[rows]), 3, 4) and w["c"].shape[1:] == (2,)
        stack.flat += 1
        assert torch.equal(w["e.weight"].flatten(1), stack.flat[rows, 16:26])
        assert not any(x.requires_grad for x in w.values())


@pytest.mark.parametrize("shape", [(3, 7), (7, 3), (5, 5)])
def test_orthogonal_matrices_equal_those_of_torch(shape):
    expected = torch.empty(shape, dtype=F64)
    torch.nn.init.orthogonal_(expected, gain=1.5, generator=torch.Generator().manual_seed(8))
    drawn = torch.empty(shape, dtype=F64).normal_(generator=torch.Generator().manual_seed(8))  # as torch does
    torch.testing.assert_close(torch.from_numpy(orthogonal(drawn.numpy(), 1.5)), expected, rtol=0, atol=1e-13)


def test_a_network_with_gains_is_orthogonal_at_first():
    """And tanh is its activation."""
    net = StackedMLP(2, (6, 8, 8, 3), activation="tanh", gains=(2**0.5, 2**0.5, 0.01), dtype=F64)
    net.init_(generators(2))
    w = net.constants
    products = [w["0.weight"] @ w["0.weight"].mT, w["1.weight"] @ w["1.weight"].mT, w["2.weight"].mT @ w["2.weight"]]
    for product, squared_gain in zip(products, (2, 2, 1e-4)):
        torch.testing.assert_close(product, squared_gain * torch.eye(product.shape[1], dtype=F64).expand_as(product))
    assert all((w[f"{n}.bias"] == 0).all() for n in range(3))
    assert not torch.allclose(w["1.weight"][0], w["1.weight"][1])  # each row has its own generator
    x = torch.randn(2, 5, 6, dtype=F64)
    hidden = ((x @ w["0.weight"]).tanh() @ w["1.weight"]).tanh()
    torch.testing.assert_close(net.trunk(x), hidden)
    torch.testing.assert_close(net(x), hidden @ w["2.weight"])
    with pytest.raises(ValueError, match="gains has 2 values, but there are 3 layers"):
        StackedMLP(1, (6, 8, 8, 3), gains=(1.0, 1.0))


@pytest.mark.parametrize("rows", [slice(None), slice(1, 3), slice(None, None, 2)])
def test_gradients_are_added_to_the_rows_that_were_used(rows):
    stack = Stack(4, PARTS, dtype=F64)
    stack.init_(generators(4))
    stack.grad.fill_(1.0)
    for _ in range(2):  # through autograd alone, and through the kernel
        w = stack.weights(rows, grad=True)
        (w["c"].square().sum() + (3 * w["e.weight"]).sum()).backward()
        out = kernels.run(torch.ones(len(w["c"]), 6, 3, dtype=F64), [w.layer("l")])
        out.sum().backward()
        assert all(x.grad is None for x in w.values())
    expected = torch.ones(4, 28, dtype=F64)
    expected[rows] += 2 * torch.tensor([6.0] * 16 + [3.0] * 10 + [14.0] * 2, dtype=F64)
    assert torch.equal(stack.grad, expected)


def test_gradients_of_several_rows_cause_no_warning(recwarn):
    """torch warns about gradients that are views of a wider tensor."""
    torch.set_warn_always(True)
    try:
        net = StackedMLP(3, (2, 4), extra={"more": (2, 3)})
        for _ in range(2):
            (net(torch.ones(3, 5, 2), grad=True).sum() + net.parameters["more"].exp().sum()).backward()
    finally:
        torch.set_warn_always(False)
    assert not recwarn.list
    assert torch.equal(net.grad[:, -6:], torch.full((3, 6), 2.0))


def test_selected_rows_are_a_copy():
    stack = Stack(3, PARTS)
    stack.init_(generators(3))
    part = stack.select([2, 0])
    assert torch.equal(part.flat, stack.flat[[2, 0]])
    part.flat.zero_()
    assert (stack.flat != 0).any(dim=1).all()


# --- the process -------------------------------------------------------------------------------------------------


PROCESS = """
import json, os, sys, warnings
import torch
def settings():
    caches = {name: value for name, value in os.environ.items() if "CACHE_CAPACITY" in name}
    return [caches, torch.get_num_threads(), len(warnings.filters)]
torch.set_num_threads(2)
seen = [settings()]
from peerage.nets import trust_transformer, workers
from peerage.nets.adam import StackedAdam
from peerage.nets.stacked import StackedMLP
net = StackedMLP(2, (3, 128, 128, 1))
StackedAdam(net.flat, net.grad, torch.ones(2, 1))
trust_transformer.TrustTransformer(1, 5)
net(torch.zeros(2, 64, 3))
seen += [settings(), workers.WORKERS.threads]
workers.configure(3)
seen += [settings(), workers.WORKERS.threads]
print(json.dumps(seen))
"""


def test_only_configure_changes_the_process():
    root = Path(__file__).parent.parent
    done = subprocess.run([sys.executable, "-c", PROCESS], capture_output=True, text=True, cwd=root, check=True)
    before, after, threads, configured, then = json.loads(done.stdout)
    assert after == before and threads == 1
    caches, torch_threads, _ = configured
    assert caches.keys() >= {"ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"}
    assert torch_threads == (1 if native.row_products() else 3) and then == 3


def test_without_onednn_torch_itself_has_the_threads(monkeypatch, public_functions_only):
    for name in ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"):
        monkeypatch.setenv(name, "64")
    monkeypatch.setattr(native, "cpu_vendor", lambda: "AMD")
    workers.configure(2)
    assert torch.get_num_threads() == workers.WORKERS.threads == 2
