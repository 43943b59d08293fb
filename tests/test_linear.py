"""linear: derivatives, accuracy, layouts and edge cases, against the oracle and PyTorch."""

import itertools

import pytest
import torch
from compare import assert_bits_equal, assert_close
from hypothesis import given, settings
from hypothesis import strategies as st
from inputs import DTYPES, dtypes, leaf, randn, seeds, shapes, strided
from judge import assert_linear, torch_linear
from reference import ACTIVATIONS, KINKED
from torch.autograd import gradcheck, gradgradcheck
from torch.utils._python_dispatch import TorchDispatchMode

from gdext.functional import linear

ACTIVATION_NAMES = pytest.mark.parametrize("activation", ACTIVATIONS)
DTYPE = pytest.mark.parametrize("dtype", DTYPES, ids=str)
LEADING = pytest.mark.parametrize("leading", [(), (4,), (2, 3), (2, 1, 3)], ids=str)


def operands(device, leading=(4,), i=3, o=2, bias=True, dtype=torch.float64):
    """x [*leading, I], weight [O, I], bias [O] or None, as leaves."""
    sizes = [(*leading, i), (o, i)] + ([(o,)] if bias else [])
    tensors = [leaf(randn(*s, dtype=dtype, device=device)) for s in sizes]
    return tensors if bias else [*tensors, None]


def grads(y, inputs, dy):
    """Gradients of the inputs that are tensors."""
    return torch.autograd.grad(y, [t for t in inputs if t is not None], dy)


@ACTIVATION_NAMES
@LEADING
@pytest.mark.parametrize("bias", [False, True])
def test_gradcheck(device, activation, leading, bias):
    inputs = operands(device, leading, bias=bias)

    def f(*args):
        return linear(*args, activation=activation)

    assert gradcheck(f, inputs)
    assert gradgradcheck(f, inputs)


def assert_double_backward_is_torch_s(inputs, activation):
    """Every second derivative, the first gradients weighed by fixed random numbers."""
    dy = leaf(randn(*linear(*inputs).shape, device=inputs[0].device, dtype=inputs[0].dtype))
    weights = [torch.randn_like(t) for t in inputs]
    results = []
    for f in (linear, torch_linear):
        y = f(*inputs, activation=activation)
        first = torch.autograd.grad(y, inputs, dy, create_graph=True)
        total = sum((g * v).sum() for g, v in zip(first, weights, strict=True))
        results.append(torch.autograd.grad(total, [*inputs, dy], allow_unused=True))
    for name, got, want in zip(("x", "weight", "bias", "dy"), *results, strict=True):
        zero = torch.zeros_like(next((g for g in (got, want) if g is not None), dy))
        got, want = (zero if g is None else g for g in (got, want))
        assert_close(got, want, 1e-11, name)


@ACTIVATION_NAMES
def test_double_backward_is_torch_s(device, activation):
    # gradgradcheck takes the first gradient for granted; this does not.
    assert_double_backward_is_torch_s(operands(device, (5,)), activation)


@ACTIVATION_NAMES
def test_non_contiguous(device, activation):
    plain = operands(device, (3, 5), 7, 6)
    views = [leaf(strided(t)) for t in plain]
    assert not any(v.is_contiguous() for v in views)
    dy = randn(3, 5, 6, device=device)
    want = linear(*plain, activation=activation)
    got = linear(*views, activation=activation)
    torch.testing.assert_close(got, want, rtol=1e-14, atol=1e-14)
    for g, w in zip(grads(got, views, strided(dy)), grads(want, plain, dy), strict=True):
        torch.testing.assert_close(g, w, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("which", ["x", "weight", "bias"])
def test_expanded_inputs(device, which):
    x, weight, bias = operands(device, (4,), 3, 2)
    dense = dict(x=x, weight=weight, bias=bias)
    narrow = dense[which].detach()[:1]
    dense[which] = leaf(narrow.expand(dense[which].shape).contiguous())
    stride0 = dense | {which: leaf(narrow.expand(dense[which].shape))}
    assert 0 in stride0[which].stride()
    got, want = (linear(d["x"], d["weight"], d["bias"], "tanh") for d in (stride0, dense))
    assert_bits_equal(got, want)
    dy = torch.ones_like(want)
    for g, w in zip(grads(got, stride0.values(), dy), grads(want, dense.values(), dy), strict=True):
        torch.testing.assert_close(g, w, rtol=1e-14, atol=1e-14)


@ACTIVATION_NAMES
@pytest.mark.parametrize("form", ["sum", "expanded rows", "expanded columns"])
def test_stride_0_gradients(device, activation, form):
    inputs = operands(device, (2, 3), 5, 4)
    y, want_y = linear(*inputs, activation=activation), torch_linear(*inputs, activation)
    if form == "sum":
        dy = torch.ones((), dtype=y.dtype, device=device).expand(y.shape)
    else:
        shape = (4,) if form == "expanded rows" else (2, 3, 1)
        dy = randn(*shape, device=device).expand(y.shape)
    assert 0 in dy.stride()
    for g, w in zip(grads(y, inputs, dy), grads(want_y, inputs, dy), strict=True):
        torch.testing.assert_close(g, w, rtol=1e-12, atol=1e-13)


class BackwardCalls(TorchDispatchMode):
    """Records each call of gdext::linear_backward: which gradients were wanted, and their sizes."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if func is torch.ops.gdext.linear_backward.default:
            self.calls.append((tuple(args[5]), tuple(t.numel() for t in out)))
        return out


@pytest.mark.parametrize("needs", list(itertools.product([False, True], repeat=3)), ids=str)
@pytest.mark.parametrize("activation", [None, "relu", "silu"])
def test_needs_input_grad(needs, activation):
    # On the CPU: the mode is seen by the thread that runs the backward.
    inputs = [t.requires_grad_(n) for t, n in zip(operands("cpu"), needs, strict=True)]
    y = linear(*inputs, activation=activation)
    assert y.requires_grad == any(needs)
    if not any(needs):
        return
    with BackwardCalls() as seen:
        y.backward(torch.ones_like(y))
    want = torch_linear(*inputs, activation or "identity")
    wanted = [t for t in inputs if t.requires_grad]
    for t, g in zip(wanted, torch.autograd.grad(want, wanted, torch.ones_like(want)), strict=True):
        torch.testing.assert_close(t.grad, g, rtol=1e-12, atol=1e-13)
    assert all(t.grad is None for t in inputs if not t.requires_grad)
    sizes = tuple(t.numel() if n else 0 for t, n in zip(inputs, needs, strict=True))
    assert seen.calls == [(needs, sizes)]


@ACTIVATION_NAMES
def test_nothing_is_saved_without_grad(device, activation):
    inputs = operands(device)
    with torch.no_grad():
        y = linear(*inputs, activation=activation)
    assert not y.requires_grad and y.grad_fn is None
    assert_bits_equal(y, linear(*inputs, activation=activation).detach())


def accuracy(device, activation, dtype, shape, bias, seed):
    B, I, O = shape
    sizes = {"x": (B, I), "w": (O, I), "b": (O,), "dy": (B, O)}
    x, w, b, dy = (
        randn(*s, dtype=dtype, device=device, seed=seed + k) for k, s in enumerate(sizes.values())
    )
    if activation in KINKED:
        # Where z is 0 to rounding, f' is either of two numbers: no gradient comes from there.
        z = x.double() @ w.double().T + (b.double() if bias else 0)
        dy[z.abs() < 1e-2] = 0
    inputs = [leaf(t) for t in ((x, w, b) if bias else (x, w))]
    assert_linear(*inputs[:2], inputs[2] if bias else None, activation, dy)


@settings(max_examples=300)
@given(st.sampled_from(ACTIVATIONS), dtypes, shapes, st.booleans(), seeds)
def test_accuracy(device, activation, dtype, shape, bias, seed):
    accuracy(device, activation, dtype, shape, bias, seed)


@DTYPE
@pytest.mark.parametrize(
    "shape", [(1, 4096, 10), (8, 784, 96), (64, 10, 4096), (200, 64, 65)], ids=str
)
def test_accuracy_of_common_shapes(device, dtype, shape):
    accuracy(device, "relu", dtype, shape, True, 11)


@settings(max_examples=60)
@given(dtypes, shapes, st.sampled_from(["identity", "relu"]), seeds)
def test_small_integers_are_exact(device, dtype, shape, activation, seed):
    # Every partial sum is an integer that float32 holds; a 16-bit result is rounded once.
    generator = torch.Generator().manual_seed(seed)
    B, I, O = shape
    x, w, b, dy = (
        torch.randint(-3, 4, s, generator=generator).to(device, dtype)
        for s in ((B, I), (O, I), (O,), (B, O))
    )
    inputs = [leaf(t) for t in (x, w, b)]
    y = linear(*inputs, activation=activation)
    exact = [leaf(t.double()) for t in inputs]
    exact_y = torch_linear(*exact, activation=activation)
    assert_bits_equal(y, exact_y.to(dtype), "y")
    results = zip(
        ("dx", "dw", "db"), grads(y, inputs, dy), grads(exact_y, exact, dy.double()), strict=True
    )
    for name, got, want in results:
        assert_bits_equal(got, want.to(dtype), name)
