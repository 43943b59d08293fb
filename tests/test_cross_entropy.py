"""cross_entropy: derivatives, accuracy, targets and options, against oracle and PyTorch."""

import pytest
import torch
import torch.nn.functional as F
from compare import assert_close
from hypothesis import given, settings
from hypothesis import strategies as st
from inputs import DTYPES, dtypes, leaf, randn, seeds
from judge import assert_cross_entropy
from torch.autograd import gradcheck, gradgradcheck

from gdext.functional import cross_entropy

DTYPE = pytest.mark.parametrize("dtype", DTYPES, ids=str)
REDUCTIONS = ["none", "mean", "sum"]
REDUCTION = pytest.mark.parametrize("reduction", REDUCTIONS)
WEIGHTED = pytest.mark.parametrize("weighted", [False, True])
SMOOTHING = pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
# (C), (N, C), (N, C, d1), (N, C, d1, d2); gradgradcheck's time grows with the square of the size.
SMALL_SHAPE = pytest.mark.parametrize("shape", [(4,), (3, 4), (2, 3, 2), (1, 3, 2, 2)], ids=str)
SHAPE = pytest.mark.parametrize("shape", [(5,), (4, 5), (3, 4, 2), (2, 3, 2, 2)], ids=str)
IGNORED = -100


def classes(shape):
    return shape[0] if len(shape) == 1 else shape[1]


def class_indices(shape, ignored=False):
    """Class indices for logits of `shape`, every third one IGNORED where asked."""
    outer = () if len(shape) == 1 else (shape[0], *shape[2:])
    target = torch.randint(0, classes(shape), outer)
    if ignored and target.dim():
        target.view(-1)[::3] = IGNORED
    return target


def class_probabilities(shape, dtype=torch.float64):
    return torch.rand(shape, dtype=torch.float64).softmax(-1 if len(shape) == 1 else 1).to(dtype)


def class_weights(shape, weighted, dtype=torch.float64):
    return torch.rand(classes(shape), dtype=torch.float64).add(0.1).to(dtype) if weighted else None


def to(device, *tensors):
    return [None if t is None else t.to(device) for t in tensors]


@SMALL_SHAPE
@REDUCTION
@WEIGHTED
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_gradcheck_indices(device, shape, reduction, weighted, smoothing):
    x = leaf(randn(*shape, device=device))
    target, weight = to(device, class_indices(shape, ignored=True), class_weights(shape, weighted))

    def f(x):
        return cross_entropy(x, target, weight, reduction=reduction, label_smoothing=smoothing)

    assert gradcheck(f, (x,))
    assert gradgradcheck(f, (x,))


@SMALL_SHAPE
@REDUCTION
@WEIGHTED
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_gradcheck_probabilities(device, shape, reduction, weighted, smoothing):
    x, target = leaf(randn(*shape, device=device)), leaf(class_probabilities(shape).to(device))
    (weight,) = to(device, class_weights(shape, weighted))

    def f(x, target):
        return cross_entropy(x, target, weight, reduction=reduction, label_smoothing=smoothing)

    assert gradcheck(f, (x, target))
    assert gradgradcheck(f, (x, target))


def assert_is_torch_s(x, target, **options):
    """Loss and first gradients (of the target too, where it requires grad), in float64."""
    got, want = cross_entropy(x, target, **options), F.cross_entropy(x, target, **options)
    torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12, equal_nan=True)
    inputs = [t for t in (x, target) if t.requires_grad]
    dy = torch.randn_like(want)
    grads = [torch.autograd.grad(c, inputs, dy) for c in (got, want)]
    for name, g, w in zip(("dx", "dt"), *grads, strict=False):
        assert_close(g, w, 1e-11, name)


@SHAPE
@REDUCTION
@WEIGHTED
@SMOOTHING
@pytest.mark.parametrize("ignore_index", [IGNORED, 1], ids=["ignored outside", "ignored class"])
def test_indices_are_torch_s(device, shape, reduction, weighted, smoothing, ignore_index):
    x = leaf(randn(*shape, device=device))
    target, weight = to(
        device, class_indices(shape, ignore_index < 0), class_weights(shape, weighted)
    )
    options = dict(reduction=reduction, label_smoothing=smoothing, ignore_index=ignore_index)
    assert_is_torch_s(x, target, weight=weight, **options)


@SHAPE
@REDUCTION
@WEIGHTED
@SMOOTHING
@pytest.mark.parametrize("needs", [(True, True), (False, True), (True, False)], ids=str)
def test_probabilities_are_torch_s(device, shape, reduction, weighted, smoothing, needs):
    x, target = randn(*shape, device=device), class_probabilities(shape).to(device)
    (weight,) = to(device, class_weights(shape, weighted))
    inputs = [t.requires_grad_(n) for t, n in zip((x, target), needs, strict=True)]
    assert_is_torch_s(*inputs, weight=weight, reduction=reduction, label_smoothing=smoothing)


@pytest.mark.parametrize("probabilities", [False, True])
@REDUCTION
def test_double_backward_is_torch_s(device, probabilities, reduction):
    shape = (3, 4, 2)
    x = leaf(randn(*shape, device=device))
    target = class_probabilities(shape) if probabilities else class_indices(shape, True)
    target, weight = to(device, target, class_weights(shape, True))
    inputs = [x, target.requires_grad_()] if probabilities else [x]
    options = dict(weight=weight, reduction=reduction, label_smoothing=0.2)
    dy = leaf(torch.randn_like(F.cross_entropy(x, target, **options)))
    weights = [torch.randn_like(t) for t in inputs]
    results = []
    for f in (cross_entropy, F.cross_entropy):
        first = torch.autograd.grad(f(x, target, **options), inputs, dy, create_graph=True)
        total = sum((g * w).sum() for g, w in zip(first, weights, strict=True))
        results.append(torch.autograd.grad(total, [*inputs, dy]))
    for got, want in zip(*results, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-11, atol=1e-12)


@settings(max_examples=200)
@given(
    dtype=dtypes,
    reduction=st.sampled_from(REDUCTIONS),
    n=st.sampled_from([1, 2, 7, 31, 64, 129]),
    c=st.sampled_from([1, 2, 3, 7, 8, 9, 10, 15, 16, 17, 63, 100, 127, 1000, 1025]),
    d=st.sampled_from([1, 1, 1, 2, 9]),
    form=st.sampled_from(["indices", "some ignored", "probabilities"]),
    weighted=st.booleans(),
    smoothing=st.sampled_from([0.0, 0.1]),
    spread=st.sampled_from([0.01, 1.0, 30.0]),
    seed=seeds,
)
def test_accuracy(device, dtype, reduction, n, c, d, form, weighted, smoothing, spread, seed):
    n = min(n, 1 + 60_000 // (c * d))
    torch.manual_seed(seed)
    shape = (n, c, d) if d > 1 else (n, c)
    x = leaf((randn(*shape, dtype=dtype) * spread).to(device))
    target, weight = to(
        device,
        class_indices(shape, form == "some ignored")
        if form != "probabilities"
        else class_probabilities(shape, dtype),
        class_weights(shape, weighted, dtype),
    )
    by_index = form != "probabilities"
    if by_index and reduction == "mean" and bool((target == IGNORED).all()):
        assert cross_entropy(x, target).isnan() and F.cross_entropy(x, target).isnan()
        return
    dy = torch.randn((n, *shape[2:]) if reduction == "none" else ()).to(device, dtype)
    options = dict(reduction=reduction, label_smoothing=smoothing)
    assert_cross_entropy(x, target if by_index else leaf(target), weight, dy, **options)
