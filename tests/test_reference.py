"""The oracles themselves: against PyTorch in float64, derivatives against difference quotients."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from reference import ACTIVATION, ACTIVATIONS, KINKED, cross_entropy, erf, linear, mse

TORCH = {
    "identity": lambda z: z,
    "relu": F.relu,
    "leaky_relu": F.leaky_relu,
    "elu": F.elu,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "scaled_tanh": lambda z: 1.7159 * torch.tanh(2 / 3 * z),
    "softplus": F.softplus,
    "silu": F.silu,
    "gelu": F.gelu,
    "gelu_tanh": lambda z: F.gelu(z, approximate="tanh"),
}


def grid() -> np.ndarray:
    z = np.concatenate([np.linspace(-30, 30, 601), np.linspace(-1e-3, 1e-3, 21)])
    return z[(z != 0) & (z != 20)].astype(np.longdouble)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activation_is_torch_s(name):
    z = grid()
    want = TORCH[name](torch.from_numpy(z.astype(np.float64))).numpy()
    np.testing.assert_allclose(
        ACTIVATION[name].f(z).astype(np.float64), want, rtol=1e-13, atol=1e-14
    )


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_derivatives_are_difference_quotients(name):
    oracle, z, h = ACTIVATION[name], grid(), np.longdouble(1e-5)
    z = z[(np.abs(z) > 2 * h) & (np.abs(z - 20) > 2 * h)]
    for f, df in ((oracle.f, oracle.df), (oracle.df, oracle.d2f)):
        quotient = (f(z + h) - f(z - h)) / (2 * h)
        np.testing.assert_allclose(df(z), quotient, rtol=1e-8, atol=1e-9)


def test_kinked_are_those_whose_derivative_jumps():
    tiny = np.array([1e-12], dtype=np.longdouble)
    jumps = {n for n in ACTIVATIONS if abs(ACTIVATION[n].df(tiny) - ACTIVATION[n].df(-tiny)) > 0.1}
    assert jumps == KINKED


def test_erf():
    z = np.linspace(-8, 8, 1601)
    np.testing.assert_allclose(
        erf(z.astype(np.longdouble)).astype(np.float64), torch.erf(torch.from_numpy(z)), rtol=1e-14
    )


def double(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, requires_grad=True)


def long(tensor: torch.Tensor) -> np.ndarray:
    return tensor.detach().numpy().astype(np.longdouble)


def close(got: np.ndarray, want: torch.Tensor) -> None:
    np.testing.assert_allclose(
        np.asarray(got, dtype=np.float64), want.detach().numpy(), rtol=1e-12, atol=1e-13
    )


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_linear_is_torch_s(name):
    x, w, b, dy = double(5, 7), double(3, 7), double(3), double(5, 3)
    got = linear(*map(long, (x, w, b)), name, long(dy))
    y = TORCH[name](F.linear(x, w, b))
    close(got.y, y)
    for value, want in zip(
        (got.dx, got.dw, got.db), torch.autograd.grad(y, (x, w, b), dy), strict=True
    ):
        close(value, want)


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("weighted", [False, True])
def test_mse_is_torch_s(reduction, weighted):
    x, t = double(4, 3), double(4, 3)
    w = torch.rand(4, 3, dtype=torch.float64) if weighted else None
    loss = F.mse_loss(x, t, reduction=reduction, weight=w)
    dy = torch.randn_like(loss)
    got, dx = mse(long(x), long(t), None if w is None else long(w), reduction, long(dy))
    close(got, loss)
    close(dx, torch.autograd.grad(loss, x, dy)[0])


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("probabilities", [False, True])
@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_cross_entropy_is_torch_s(reduction, probabilities, smoothing):
    x, w = double(4, 5, 3), torch.rand(5, dtype=torch.float64)
    if probabilities:
        target = torch.rand(4, 5, 3, dtype=torch.float64, requires_grad=True)
        oracle_target, ignore = long(target), -100
    else:
        target = torch.randint(0, 5, (4, 3))
        oracle_target, ignore = target.numpy(), 2
        assert (target == ignore).any()
    options = {"reduction": reduction, "label_smoothing": smoothing, "ignore_index": ignore}
    loss = F.cross_entropy(x, target, weight=w, **options)
    dy = torch.randn_like(loss)
    got = cross_entropy(long(x), oracle_target, long(w), **options, dy=long(dy))
    close(got.loss, loss)
    close(got.dx, torch.autograd.grad(loss, x, dy, retain_graph=True)[0])
    if probabilities:
        close(got.dt, torch.autograd.grad(loss, target, dy)[0])
