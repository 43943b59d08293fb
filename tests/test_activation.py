"""Every activation's y, f' and f'', through linear with weight [[1]], where z = x exactly."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from compare import assert_close, to_numpy
from inputs import DTYPES
from judge import LIMITS, activate, assert_activation, derivatives
from reference import ACTIVATION, ACTIVATIONS, KINKED, SAVES_Z
from test_reference import TORCH

import gdext
import gdext.functional as G

ACTIVATION_NAMES = pytest.mark.parametrize("activation", ACTIVATIONS)
DTYPE = pytest.mark.parametrize("dtype", DTYPES, ids=str)


def region(name, dtype):
    """Numbers of one size (judged together, so that one size's errors cannot hide another's)."""
    tiny = torch.finfo(dtype).smallest_normal
    positive = {
        "subnormal": torch.linspace(0.05, 1, 20, dtype=torch.float64) * tiny,
        "small": torch.logspace(math.log10(tiny), -2, 60, dtype=torch.float64),
        "unit": torch.linspace(0.01, 3, 300, dtype=torch.float64),
        "moderate": torch.linspace(3, 19.9, 170, dtype=torch.float64),
        "large": torch.logspace(math.log10(20.2), 4, 60, dtype=torch.float64),
    }[name]
    z = torch.cat([-positive.flip(0), positive]).to(dtype)
    return z[z != 0]


# Whether the CPU's products of bfloat16 are by pairs.
PAIRS = gdext.build_info()["cpu"]["in_use"] == "avx512bf16"
REGIONS = ["subnormal", "small", "unit", "moderate", "large"]


@DTYPE
@ACTIVATION_NAMES
@pytest.mark.parametrize("size", REGIONS)
def test_accuracy(device, dtype, activation, size):
    z = region(size, dtype)
    if device == "cpu" and dtype == torch.bfloat16 and PAIRS:
        z = z[z.abs() >= torch.finfo(dtype).smallest_normal]  # see test_subnormal_bfloat16
    assert_activation(z.to(device), activation)


def test_subnormal_bfloat16():
    """vdpbf16ps takes subnormal numbers for zeros, also in PyTorch's product (oneDNN's)."""
    z = region("subnormal", torch.bfloat16)
    x, one = torch.diag(z), torch.eye(len(z), dtype=z.dtype)
    y = G.linear(x, one)
    if PAIRS:
        normal = z.abs() >= torch.finfo(z.dtype).smallest_normal
        assert torch.equal(y, torch.diag(z * normal)) and 0 < normal.sum() < len(z)
        assert torch.equal(F.linear(x, one), y)
    else:
        assert torch.equal(y, x)


@DTYPE
@ACTIVATION_NAMES
def test_zero(device, dtype, activation):
    z = torch.tensor([0.0, -0.0], dtype=dtype, device=device)
    for name, got, want in zip(
        ("y", "f'", "f''"),
        derivatives(lambda z: activate(z, activation), z),
        derivatives(TORCH[activation], z),
        strict=True,
    ):
        eps = 2 * torch.finfo(dtype).eps
        assert_close(got, want, eps, name)


@DTYPE
@ACTIVATION_NAMES
def test_infinities(device, dtype, activation):
    # Either the limit or what PyTorch gives (inf * 0 = NaN for silu and gelu), never a third thing.
    z = torch.tensor([-math.inf, math.inf], dtype=dtype, device=device)
    y, first, _ = derivatives(lambda z: activate(z, activation), z)
    torch_y, torch_first, _ = derivatives(TORCH[activation], z)
    limits = torch.tensor(LIMITS[activation], dtype=dtype, device=device)
    tolerance = 4 * torch.finfo(dtype).eps
    for name, got, peer, limit in (
        ("y", y, torch_y, limits[:2]),
        ("f'", first, torch_first, limits[2:]),
    ):
        as_limit = torch.isclose(got, limit, rtol=tolerance, atol=tolerance)
        as_torch = torch.isclose(got, peer, rtol=tolerance, atol=tolerance, equal_nan=True)
        assert bool((as_limit | as_torch).all()), f"{name}: {got}, limit {limit}, PyTorch {peer}"


@DTYPE
@ACTIVATION_NAMES
@pytest.mark.parametrize("n", [1, 7, 40])
def test_nan_stays_nan(device, dtype, activation, n):
    # At every position: vector lanes and the remainder of a row are different code.
    for position in range(n):
        z = torch.linspace(-2, 2, n, dtype=torch.float64).to(device, dtype)
        z[position] = math.nan
        nan = activate(z, activation).isnan()
        assert nan[position] and nan.sum() == 1


@ACTIVATION_NAMES
@pytest.mark.parametrize("n", [1, 7, 16, 33, 1000])
@DTYPE
def test_no_lane_is_special(device, dtype, activation, n):
    z = torch.full((n,), 0.7, dtype=dtype, device=device)
    results = derivatives(lambda z: activate(z, activation), z)
    tolerance = 4 * torch.finfo(dtype).eps
    for name, values in zip(("y", "f'", "f''"), results, strict=True):
        first = values[:1].expand(n)
        assert_close(values, first, tolerance, name)


@ACTIVATION_NAMES
def test_op_saves_z_only_where_the_derivative_needs_it(device, activation):
    index = ACTIVATIONS.index(activation)
    x = torch.linspace(-2, 2, 10, dtype=torch.float64, device=device).reshape(5, 2)
    weight = torch.eye(2, dtype=torch.float64, device=device)
    y, z = torch.ops.gdext.linear(x, weight, None, index, True)
    _, unwanted = torch.ops.gdext.linear(x, weight, None, index, False)
    assert unwanted.shape == (0,)
    if activation in SAVES_Z:
        torch.testing.assert_close(z, x, rtol=0, atol=0)
    else:
        assert z.shape == (0,)
    torch.testing.assert_close(y, TORCH[activation](x), rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("activation", [a for a in ACTIVATIONS if a != "identity"])
def test_double_backward_op(device, activation):
    z = torch.linspace(-3, 3, 40, dtype=torch.float64, device=device).reshape(8, 5)
    oracle = ACTIVATION[activation]
    saved = z if activation in SAVES_Z else TORCH[activation](z)
    q, dy = torch.randn_like(z), torch.randn_like(z)
    got = torch.ops.gdext.activation_double_backward(q, dy, saved, ACTIVATIONS.index(activation))
    Z, Q, DY = map(to_numpy, (z, q, dy))
    want = (Q * oracle.df(Z), Q * DY * oracle.d2f(Z), DY * oracle.df(Z))
    for name, g, w in zip(("gdy", "gz", "dz"), got, want, strict=True):
        w = torch.from_numpy(w.astype(np.float64)).to(device)
        assert_close(g, w, 1e-12, name)


@pytest.mark.parametrize("activation", sorted(KINKED))
def test_gradient_at_the_kink_is_torch_s(device, activation):
    z = torch.tensor([0.0, -0.0, 5e-324, -5e-324], dtype=torch.float64, device=device)
    _, got, _ = derivatives(lambda z: activate(z, activation), z)
    _, want, _ = derivatives(TORCH[activation], z)
    assert torch.equal(got, want)
