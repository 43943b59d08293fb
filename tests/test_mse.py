"""mse_loss: derivatives, accuracy, shapes, options and edges, against oracle and PyTorch."""

import itertools
import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from compare import assert_bits_equal, assert_same_nonfinite, to_numpy
from hypothesis import given, settings
from hypothesis import strategies as st
from inputs import DTYPES, dtypes, leaf, randn, seeds, strided
from judge import assert_mse
from reference import mse as mse_oracle
from torch.autograd import gradcheck, gradgradcheck

from gdext.functional import mse_loss

DTYPE = pytest.mark.parametrize("dtype", DTYPES, ids=str)
REDUCTIONS = ["none", "mean", "sum"]
REDUCTION = pytest.mark.parametrize("reduction", REDUCTIONS)
WEIGHTED = pytest.mark.parametrize("weighted", [False, True])
SHAPE = pytest.mark.parametrize("shape", [(), (5,), (4, 3), (2, 3, 2), (2, 1, 2, 3)], ids=str)


def positive(*shape, dtype=torch.float64, device="cpu"):
    return randn(*shape, dtype=torch.float64).abs().add(0.1).to(device, dtype)


@SHAPE
@REDUCTION
@WEIGHTED
def test_gradcheck(device, shape, reduction, weighted):
    x, t = (leaf(randn(*shape, device=device)) for _ in range(2))
    weight = positive(*shape, device=device) if weighted else None

    def f(x, t):
        return mse_loss(x, t, reduction=reduction, weight=weight)

    assert gradcheck(f, (x, t))
    assert gradgradcheck(f, (x, t))
    torch.testing.assert_close(f(x, t), F.mse_loss(x, t, reduction=reduction, weight=weight))


@REDUCTION
@pytest.mark.parametrize("needs", list(itertools.product([False, True], repeat=2)), ids=str)
def test_needs_input_grad(device, reduction, needs):
    x, t = (randn(4, 3, device=device).requires_grad_(n) for n in needs)
    got, want = mse_loss(x, t, reduction=reduction), F.mse_loss(x, t, reduction=reduction)
    assert got.requires_grad == any(needs)
    wanted = [v for v in (x, t) if v.requires_grad]
    if not wanted:
        return
    dy = torch.randn_like(got)
    got.backward(dy)
    for v, g in zip(wanted, torch.autograd.grad(want, wanted, dy), strict=True):
        torch.testing.assert_close(v.grad, g)
    assert all(v.grad is None for v in (x, t) if not v.requires_grad)


@REDUCTION
@WEIGHTED
def test_non_contiguous_and_stride_0(device, reduction, weighted):
    plain = [leaf(randn(3, 4, device=device)) for _ in range(2)]
    views = [leaf(strided(v)) for v in plain]
    weight = positive(3, 4, device=device) if weighted else None
    view = None if weight is None else strided(weight)
    want = F.mse_loss(*plain, reduction=reduction, weight=weight)
    got = mse_loss(*views, reduction=reduction, weight=view)
    torch.testing.assert_close(got, want)
    for dy in (
        torch.full((), 0.3, dtype=torch.float64, device=device).expand(want.shape),
        strided(want.detach()),
    ):
        grads = [
            torch.autograd.grad(c, v, dy, retain_graph=True)
            for c, v in ((got, views), (want, plain))
        ]
        for g, w in zip(*grads, strict=True):
            torch.testing.assert_close(g, w)


@settings(max_examples=150)
@given(
    dtypes,
    st.sampled_from(REDUCTIONS),
    st.booleans(),
    st.sampled_from([1, 2, 7, 8, 9, 31, 64, 127, 1000, 1023, 1025, 4096, 20_011, 70_001]),
    st.sampled_from([1e-3, 1.0, 30.0]),
    seeds,
)
def test_accuracy(device, dtype, reduction, weighted, n, spread, seed):
    x, t = (randn(n, dtype=dtype, device=device, seed=seed + k) * spread for k in range(2))
    w = randn(n, seed=seed + 2).abs().to(device, dtype) if weighted else None
    dy = randn(*((n,) if reduction == "none" else ()), dtype=dtype, device=device, seed=seed + 3)
    assert_mse(leaf(x), leaf(t), w, reduction, dy)


@DTYPE
@REDUCTION
def test_small_integers_are_exact(device, dtype, reduction):
    x, t = (torch.randint(-4, 5, (16, 16)).to(device, dtype) for _ in range(2))
    got = mse_loss(leaf(x), t, reduction=reduction)
    want = F.mse_loss(leaf(x.double()), t.double(), reduction=reduction)
    assert_bits_equal(got, want.to(dtype))


@DTYPE
@REDUCTION
@WEIGHTED
@pytest.mark.parametrize("shape", [(0,), (0, 4), (3, 0)], ids=str)
def test_empty(device, dtype, reduction, weighted, shape):
    x, t = (leaf(randn(*shape, dtype=dtype, device=device)) for _ in range(2))
    weight = positive(*shape, dtype=dtype, device=device) if weighted else None
    got, want = (f(x, t, reduction=reduction, weight=weight) for f in (mse_loss, F.mse_loss))
    assert_bits_equal(got, want)  # sum: 0; mean: NaN
    for g in torch.autograd.grad(got, (x, t), torch.ones_like(got)):
        assert g.shape == shape and g.dtype == dtype


@DTYPE
@REDUCTION
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf"), 1e4, 3e38])
def test_extreme_values_are_torch_s(device, dtype, reduction, value):
    x, t = randn(9, 5, dtype=dtype, device=device), randn(9, 5, dtype=dtype, device=device)
    x[4, 2] = value
    x[5, 0] = t[5, 0] = value  # inf - inf is NaN
    x = leaf(x)
    got, want = (f(x, t, reduction=reduction) for f in (mse_loss, F.mse_loss))
    exact, exact_dx = mse_oracle(
        to_numpy(x), to_numpy(t), None, reduction, to_numpy(torch.ones_like(got))
    )
    assert_same_nonfinite(got, want, "loss", np.asarray(exact))
    dx, want_dx = (torch.autograd.grad(c, x, torch.ones_like(c))[0] for c in (got, want))
    assert_same_nonfinite(dx, want_dx, "dx", exact_dx)


@pytest.mark.parametrize("size_average", [None, False, True])
@pytest.mark.parametrize("reduce", [None, False, True])
def test_legacy_arguments(device, size_average, reduce):
    x, t = randn(4, 3, device=device), randn(4, 3, device=device)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        want = F.mse_loss(x, t, size_average, reduce)
        got = mse_loss(x, t, size_average, reduce)
    torch.testing.assert_close(got, want)
    if size_average is not None or reduce is not None:
        with pytest.warns(UserWarning, match="size_average and reduce"):
            mse_loss(x, t, size_average, reduce)


@REDUCTION
@pytest.mark.parametrize(
    "shapes",
    [
        ((3, 4), (4,)),
        ((3, 1), (1, 4)),
        ((3, 1), (3,)),
        ((2, 3), (1,)),
        ((4,), (2, 1, 4)),
        ((), (3,)),
    ],
    ids=str,
)
def test_broadcasting_warns_and_matches(device, reduction, shapes):
    x, t = (leaf(randn(*s, device=device)) for s in shapes)
    with pytest.warns(UserWarning, match="target .*size.* input .*broadcast"):
        got = mse_loss(x, t, reduction=reduction)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        want = F.mse_loss(x, t, reduction=reduction)
    torch.testing.assert_close(got, want)
    dy = torch.randn_like(got)
    for g, w in zip(*(torch.autograd.grad(c, (x, t), dy) for c in (got, want)), strict=True):
        torch.testing.assert_close(g, w)


def test_no_warning_without_broadcasting(device):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        mse_loss(randn(4, 3, device=device), randn(4, 3, device=device))


@pytest.mark.parametrize("left", [torch.float32, torch.float16, torch.float64], ids=str)
@pytest.mark.parametrize(
    "right", [torch.float64, torch.float32, torch.int64, torch.bfloat16], ids=str
)
def test_mixed_dtypes_promote_as_torch_s(device, left, right):
    x = leaf(randn(4, 3, dtype=left, device=device))
    t = randn(4, 3, device=device).mul(3).to(right)
    # Promoted by hand: some releases of torch have no backward for differing dtypes.
    both = torch.promote_types(left, right)
    got, want = mse_loss(x, t), F.mse_loss(x.to(both), t.to(both))
    assert got.dtype == F.mse_loss(x, t).dtype
    tolerance = 4 * torch.finfo(want.dtype).eps
    torch.testing.assert_close(got, want, rtol=tolerance, atol=0)
    (dx,), (want_dx,) = (torch.autograd.grad(c, x) for c in (got, want))
    tolerance = 4 * torch.finfo(left).eps
    torch.testing.assert_close(dx, want_dx, rtol=tolerance, atol=tolerance)


@DTYPE
@REDUCTION
def test_same_inputs_same_bits(device, dtype, reduction):
    x, t = (randn(50_000, dtype=dtype, device=device) for _ in range(2))
    first = mse_loss(x, t, reduction=reduction)
    assert_bits_equal(mse_loss(x, t, reduction=reduction), first)


@REDUCTION
def test_zero_weights_are_torch_s(device, reduction):
    x, t = leaf(randn(4, device=device)), randn(4, device=device)
    weight = torch.zeros(4, dtype=torch.float64, device=device)
    got, want = (f(x, t, reduction=reduction, weight=weight) for f in (mse_loss, F.mse_loss))
    torch.testing.assert_close(got, want, equal_nan=True)  # mean: 0 / 0
