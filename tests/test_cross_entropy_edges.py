"""cross_entropy at its edges: huge and infinite logits, empty sums, layouts, legacy arguments."""

import itertools
import math
import warnings

import pytest
import torch
import torch.nn.functional as F
from compare import assert_bits_equal, assert_same_nonfinite, to_numpy
from inputs import DTYPES, leaf, randn, strided
from test_cross_entropy import (
    IGNORED,
    REDUCTION,
    SHAPE,
    SMOOTHING,
    WEIGHTED,
    assert_is_torch_s,
    class_indices,
    class_probabilities,
    class_weights,
    to,
)

from gdext.functional import cross_entropy

DTYPE = pytest.mark.parametrize("dtype", DTYPES, ids=str)
INF = math.inf


@DTYPE
@REDUCTION
@pytest.mark.parametrize("probabilities", [False, True])
@pytest.mark.parametrize("top", [1e4, -1e4, 6e4])
def test_large_logits_are_stable(device, dtype, reduction, probabilities, top):
    # exp overflows and m + log sum loses every digit after the point, unless m is kept apart.
    x = torch.tensor([[top, 0, -top], [top, top, top], [0, 0, top]], dtype=dtype, device=device)
    x = leaf(x)
    target = class_probabilities((3, 3), dtype) if probabilities else torch.tensor([0, 1, 2])
    (target,) = to(device, target)
    got, peer = (f(x, target, reduction=reduction) for f in (cross_entropy, F.cross_entropy))
    exact = F.cross_entropy(
        x.double(), target.double() if probabilities else target, reduction=reduction
    )
    tolerance = 8 * torch.finfo(dtype).eps
    assert_same_nonfinite(got, peer, exact=to_numpy(exact))
    finite = got.isfinite()
    torch.testing.assert_close(got[finite].double(), exact[finite], rtol=tolerance, atol=tolerance)
    dx, peer_dx = (torch.autograd.grad(c.sum(), x)[0] for c in (got, peer))
    torch.testing.assert_close(dx, peer_dx, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@REDUCTION
@pytest.mark.parametrize(
    "row",
    [[0.0, -INF], [-INF, 0.0], [-INF, -INF], [0.0, INF], [math.nan, 0.0]],
    ids=str,
)
@pytest.mark.parametrize("target", [0, 1, IGNORED, (1.0, 0.0), (0.3, 0.7)], ids=str)
def test_non_finite_logits_are_torch_s(device, smoothing, reduction, row, target):
    # Beside a sound sample, which must not be touched where the reduction is none.
    x = leaf(torch.tensor([row, [1.0, 2.0]], dtype=torch.float64, device=device))
    if isinstance(target, tuple):
        target = torch.tensor([target, (0.5, 0.5)], dtype=torch.float64, device=device)
    else:
        target = torch.tensor([target, 1], device=device)
    got, want = (
        f(x, target, reduction=reduction, label_smoothing=smoothing)
        for f in (cross_entropy, F.cross_entropy)
    )
    torch.testing.assert_close(got, want, equal_nan=True)
    dx, want_dx = (torch.autograd.grad(c.sum(), x)[0] for c in (got, want))
    torch.testing.assert_close(dx, want_dx, equal_nan=True)


@DTYPE
@REDUCTION
@WEIGHTED
@SMOOTHING
def test_all_ignored(device, dtype, reduction, weighted, smoothing):
    x = leaf(randn(4, 5, dtype=dtype, device=device))
    target = torch.full((4,), IGNORED, device=device)
    (weight,) = to(device, class_weights((4, 5), weighted, dtype))
    options = dict(weight=weight, reduction=reduction, label_smoothing=smoothing)
    got, want = (f(x, target, **options) for f in (cross_entropy, F.cross_entropy))
    assert_bits_equal(got, want)  # none, sum: 0; mean: NaN
    dx, want_dx = (torch.autograd.grad(c.sum(), x)[0] for c in (got, want))
    assert_bits_equal(dx, want_dx)


@DTYPE
@REDUCTION
@pytest.mark.parametrize("probabilities", [False, True])
@pytest.mark.parametrize("shape", [(0, 5), (0, 5, 2), (3, 5, 0)], ids=str)
def test_empty_batch(device, dtype, reduction, probabilities, shape):
    x = leaf(randn(*shape, dtype=dtype, device=device))
    target = class_probabilities(shape, dtype) if probabilities else class_indices(shape)
    (target,) = to(device, target)
    if probabilities:
        target.requires_grad_()
    got, want = (f(x, target, reduction=reduction) for f in (cross_entropy, F.cross_entropy))
    assert_bits_equal(got, want)
    inputs = (x, target) if probabilities else (x,)
    for grad in torch.autograd.grad(got, inputs, torch.ones_like(got)):
        assert grad.shape == shape and grad.dtype == dtype


@SHAPE
@pytest.mark.parametrize("probabilities", [False, True])
def test_non_contiguous_and_stride_0(device, shape, probabilities):
    x = leaf(strided(randn(*shape, device=device)))
    target = class_probabilities(shape) if probabilities else class_indices(shape)
    target = strided(target.to(device).double())
    target = target if probabilities else target.long().expand(target.shape)
    plain = leaf(x.detach().contiguous()), target.detach().contiguous()
    weight = strided(class_weights(shape, True)).to(device)
    got = cross_entropy(x, target, weight, reduction="none")
    want = F.cross_entropy(*plain, weight.contiguous(), reduction="none")
    torch.testing.assert_close(got, want)
    for dy in (
        torch.full((), 0.3, dtype=torch.float64, device=device).expand(want.shape),
        strided(want.detach()),
    ):
        (dx,), (want_dx,) = (
            torch.autograd.grad(c, v, dy, retain_graph=True)
            for c, v in ((got, x), (want, plain[0]))
        )
        torch.testing.assert_close(dx, want_dx)


@pytest.mark.parametrize(
    ("size_average", "reduce"), list(itertools.product([None, False, True], repeat=2))
)
def test_legacy_arguments(device, size_average, reduce):
    x, target = randn(4, 5, device=device), class_indices((4, 5)).to(device)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        got, want = (
            f(x, target, size_average=size_average, reduce=reduce)
            for f in (cross_entropy, F.cross_entropy)
        )
    torch.testing.assert_close(got, want)


@REDUCTION
def test_byte_targets_and_one_element_target_as_torch_s(device, reduction):
    x = leaf(randn(4, 5, device=device))
    assert_is_torch_s(x, class_indices((4, 5)).to(device, torch.uint8), reduction=reduction)
    # Forward only: PyTorch 2.14's own backward fails for this form.
    x, target = randn(5, device=device), torch.tensor([3], device=device)
    got, want = (f(x, target, reduction=reduction) for f in (cross_entropy, F.cross_entropy))
    torch.testing.assert_close(got, want)


@DTYPE
def test_same_inputs_same_bits(device, dtype):
    x, target = randn(3000, 11, dtype=dtype, device=device), class_indices((3000, 11)).to(device)
    assert_bits_equal(cross_entropy(x, target), cross_entropy(x, target))


def test_infinite_weight_of_another_class(device):
    x, other = (leaf(randn(3, 4, dtype=torch.float32, seed=1, device=device)) for _ in range(2))
    weight = torch.tensor([1.0, 2.0, float("inf"), 1.0], device=device)
    target = torch.tensor([0, 1, 3], device=device)
    cross_entropy(x, target, weight).backward()
    F.cross_entropy(other, target, weight).backward()
    torch.testing.assert_close(x.grad, other.grad)


def test_backward_ops_check_the_class_indices():
    """On the CPU: the backward reads weight[index], which must not lie outside."""
    x, weight = randn(3, 4), torch.ones(4, dtype=torch.float64)
    dy, *stats = torch.ops.gdext.cross_entropy(x, torch.tensor([0, 1, 2]), weight, 1, -100, 0.0)
    bad = torch.tensor([0, 1, 7])
    with pytest.raises(IndexError, match="Target 7 is out of bounds"):
        torch.ops.gdext.cross_entropy_backward(dy, x, bad, weight, *stats, -100, 0.0, [True, False])


@pytest.mark.parametrize("name", ["input", "target"])
def test_what_is_no_tensor_is_refused_as_by_torch(name):
    arguments = {"input": torch.zeros(2, 3), "target": torch.tensor([0, 2])}
    arguments[name] = arguments[name].tolist()
    for function in (cross_entropy, F.cross_entropy):
        with pytest.raises(TypeError, match=name):
            function(**arguments)
