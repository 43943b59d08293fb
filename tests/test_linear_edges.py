"""linear at its edges: NaN and infinity, empty sizes, 1-D weights, bias that broadcasts."""

import pytest
import torch
import torch.nn.functional as F
from compare import assert_bits_equal, assert_close, assert_same_nonfinite
from inputs import DTYPES, leaf, randn
from test_linear import (
    ACTIVATION_NAMES,
    LEADING,
    assert_double_backward_is_torch_s,
    grads,
    operands,
    torch_linear,
)

from gdext.functional import linear

DTYPE = pytest.mark.parametrize("dtype", DTYPES, ids=str)


@DTYPE
@pytest.mark.parametrize("activation", ["identity", "relu", "tanh", "silu"])
@pytest.mark.parametrize("where", ["x", "weight", "bias", "dy"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("batch", [1, 9])
def test_non_finite_values_spread_as_torch_s(device, dtype, activation, where, value, batch):
    x, weight, bias = operands(device, (batch,), 19, 17, dtype=dtype)
    dy = randn(batch, 17, dtype=dtype, device=device)
    with torch.no_grad():
        # A zero beside it: 0 times inf is NaN, and no kernel may skip the zero.
        x[:, 3] = 0
        weight[5] = 0
        {"x": x, "weight": weight, "bias": bias, "dy": dy}[where].view(-1)[3] = value
    inputs = (x, weight, bias)
    y, want = linear(*inputs, activation=activation), torch_linear(*inputs, activation)
    assert_same_nonfinite(y, want, "y")
    for name, got, peer in zip(
        ("dx", "dw", "db"), grads(y, inputs, dy), grads(want, inputs, dy), strict=True
    ):
        assert_same_nonfinite(got, peer, name)


@DTYPE
@ACTIVATION_NAMES
@pytest.mark.parametrize(
    "shape",
    [((0,), 3, 2), ((2, 0), 3, 2), ((4,), 0, 2), ((4,), 3, 0), ((0,), 0, 0)],
    ids=["B=0", "2x0", "I=0", "O=0", "all 0"],
)
def test_empty_sizes(device, dtype, activation, shape):
    inputs = operands(device, *shape, dtype=dtype)
    exact = [leaf(t.double()) for t in inputs]
    y, want = linear(*inputs, activation=activation), torch_linear(*exact, activation)
    tolerance = 8 * torch.finfo(dtype).eps
    assert_close(y, want.to(dtype), tolerance)
    dy = torch.ones_like(y)
    for got, w in zip(grads(y, inputs, dy), grads(want, exact, dy.double()), strict=True):
        assert_close(got, w.to(dtype), tolerance)
    if dtype == torch.float64:
        assert_double_backward_is_torch_s(inputs, activation)


@LEADING
@pytest.mark.parametrize("bias", [(1, 2), (1,), ()], ids=str)
def test_bias_broadcasts_as_torch_s(device, leading, bias):
    x, weight, _ = operands(device, leading, bias=False)
    b = leaf(randn(*bias, device=device))
    try:
        want = F.linear(x, weight, b)
    except RuntimeError:
        with pytest.raises(RuntimeError):
            linear(x, weight, b)
        return
    got = linear(x, weight, b)
    torch.testing.assert_close(got, want)
    dy = torch.ones_like(want)
    for g, w in zip(grads(got, (x, weight, b), dy), grads(want, (x, weight, b), dy), strict=True):
        torch.testing.assert_close(g, w)


@LEADING
def test_one_dimensional_weight(device, leading):
    x, weight = leaf(randn(*leading, 3, device=device)), leaf(randn(3, device=device))
    got, want = linear(x, weight, activation="tanh"), torch.tanh(F.linear(x, weight))
    torch.testing.assert_close(got, want)
    dy = randn(*want.shape, device=device)
    for g, w in zip(grads(got, (x, weight), dy), grads(want, (x, weight), dy), strict=True):
        torch.testing.assert_close(g, w)


@DTYPE
def test_same_inputs_same_bits(device, dtype):
    x, weight, bias = operands(device, (37,), 131, 61, dtype=dtype)
    dy = randn(37, 61, dtype=dtype, device=device)
    runs = [grads(linear(x, weight, bias, "gelu"), (x, weight, bias), dy) for _ in range(3)]
    for again in runs[1:]:
        for name, got, want in zip(("dx", "dw", "db"), again, runs[0], strict=True):
            assert_bits_equal(got, want, name)


@ACTIVATION_NAMES
def test_no_activation_is_identity(device, activation):
    inputs = operands(device)
    same = torch.equal(linear(*inputs, activation=None), linear(*inputs, activation=activation))
    assert same == (activation == "identity")


@pytest.mark.parametrize("name", ["identity", "relu", "silu"])
def test_only_what_the_gradients_need_is_saved(device, name):
    """dx is made of weight, dw of x; a curved activation's second derivative needs more of them."""
    x, w, b = randn(3, 5, device=device), randn(4, 5, device=device), randn(4, device=device)

    def saved_shapes(*leaves):
        for t in (x, w, b):
            t.requires_grad_(any(t is leaf for leaf in leaves))
        y = linear(x, w, b, name)
        return [tuple(t.shape) for t in y.grad_fn.saved_tensors if t is not None]

    own = [] if name == "identity" else [(3, 4)]  # y or z
    assert saved_shapes(x) == ([(3, 5)] if name == "silu" else []) + [(4, 5), *own]
    assert saved_shapes(w) == [(3, 5)] + ([(4, 5)] if name == "silu" else []) + own
    assert saved_shapes(b) == ([(4,)] if name == "silu" else []) + own


def test_bias_may_change_between_forward_and_backward(device):
    """As with torch.nn.functional.linear, whose backward does not read it either."""
    x, w = randn(3, 5, device=device), leaf(randn(4, 5, device=device))
    b = leaf(randn(4, device=device))
    y = linear(x, w, b, "relu")
    with torch.no_grad():
        b.add_(1)
    y.sum().backward()
    assert_close(w.grad, F.relu(y.detach()).sign().T @ x, 1e-12, "dw")


def test_an_input_that_the_backward_reads_may_not_change(device):
    x, w = randn(3, 5, device=device), leaf(randn(4, 5, device=device))
    y = linear(x, w)
    x.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()
