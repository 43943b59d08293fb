"""Forward-mode differentiation of the layers and losses, alone and with reverse mode around it or
in it: PyTorch's numbers for the same transform."""

import itertools

import pytest
import torch
from inputs import randn
from torch.autograd import forward_ad, gradcheck, gradgradcheck
from torch.func import grad, hessian, jacfwd, jacrev, jvp, linearize, vjp
from transforms import FEW, PAIRS

import gdext

PAIR = pytest.mark.parametrize("name", PAIRS)
FEW_PAIRS = pytest.mark.parametrize("name", FEW)

close = torch.testing.assert_close


def tangents_like(args):
    return tuple(randn(*a.shape, device=a.device, seed=50 + i) for i, a in enumerate(args))


def both(pair):
    return pair.ours, pair.theirs


def subsets(n):
    return [s for k in range(1, n + 1) for s in itertools.combinations(range(n), k)]


def with_fixed(f, args, free):
    """f as a function of the arguments numbered ``free`` alone."""

    def g(*values):
        merged = list(args)
        for i, value in zip(free, values, strict=True):
            merged[i] = value
        return f(*merged)

    return g


@PAIR
def test_jvp(device, name):
    """Along every set of arguments: the others are constants."""
    pair = PAIRS[name]
    args = pair.arguments(device)
    tangents = tangents_like(args)
    for free in subsets(len(args)):
        chosen = [[every[i] for i in free] for every in (args, tangents)]
        got, want = (jvp(with_fixed(f, args, free), *map(tuple, chosen)) for f in both(pair))
        close(got, want, msg=lambda m, free=free: f"{free}: {m}")


@PAIR
@pytest.mark.parametrize("grad_mode", [True, False])
def test_dual_tensors(device, name, grad_mode):
    pair = PAIRS[name]
    args = pair.arguments(device)
    results = []
    for f in both(pair):
        with forward_ad.dual_level(), torch.set_grad_enabled(grad_mode):
            duals = map(forward_ad.make_dual, args, tangents_like(args))
            results.append(tuple(forward_ad.unpack_dual(f(*duals))))
    close(*results)


@PAIR
def test_gradcheck(device, name):
    """PyTorch's own checker: every mode against finite differences, batched too."""
    pair = PAIRS[name]
    args = tuple(a.requires_grad_() for a in pair.arguments(device))
    modes = dict(check_forward_ad=True, check_batched_grad=True, check_batched_forward_grad=True)
    assert gradcheck(pair.ours, args, **modes)
    seconds = dict(check_fwd_over_rev=True, check_rev_over_rev=True, check_batched_grad=True)
    assert gradgradcheck(pair.ours, args, **seconds)


@FEW_PAIRS
def test_linearize(device, name):
    pair = PAIRS[name]
    args = pair.arguments(device)
    tangents = tangents_like(args)
    (y, push), (want_y, want_push) = (linearize(f, *args) for f in both(pair))
    close(y, want_y)
    for factor in (1, -3):  # the same linear map for more than one tangent
        scaled = tuple(factor * t for t in tangents)
        close(push(*scaled), want_push(*scaled))


@FEW_PAIRS
def test_vjp_and_jacobians(device, name):
    pair = PAIRS[name]
    args = pair.arguments(device)
    numbers = tuple(range(len(args)))
    (y, pull), (want_y, want_pull) = (vjp(f, *args) for f in both(pair))
    close(y, want_y)
    dy = randn(*y.shape, device=device, seed=9)
    close(pull(dy), want_pull(dy))
    for jacobian in (jacfwd, jacrev):
        close(*(jacobian(f, numbers)(*args) for f in both(pair)))
    for chunk in (1, 4):
        close(*(jacrev(f, numbers, chunk_size=chunk)(*args) for f in both(pair)))


@FEW_PAIRS
@pytest.mark.parametrize(
    "second",
    [
        pytest.param(lambda f, n: jacrev(jacrev(f, n), n), id="reverse over reverse"),
        pytest.param(lambda f, n: jacfwd(jacrev(f, n), n), id="forward over reverse"),
        pytest.param(lambda f, n: jacrev(jacfwd(f, n), n), id="reverse over forward"),
        pytest.param(lambda f, n: jacfwd(jacfwd(f, n), n), id="forward over forward"),
        pytest.param(hessian, id="hessian"),
    ],
)
def test_hessian(device, name, second):
    """Every pair of arguments, so the mixed second derivatives too."""
    pair = PAIRS[name]
    args = pair.arguments(device)
    numbers = tuple(range(len(args)))
    close(*(second(lambda *a, f=f: f(*a).square().sum(), numbers)(*args) for f in both(pair)))


@FEW_PAIRS
@pytest.mark.parametrize("outer", [jacrev, jacfwd])
@pytest.mark.parametrize("inner", [jacrev, jacfwd])
def test_derivative_by_one_argument_of_the_derivative_by_another(device, name, outer, inner):
    """The inner transform takes the outer's argument for a constant."""
    pair = PAIRS[name]
    args = pair.arguments(device)
    for i, k in itertools.permutations(range(len(args)), 2):
        got, want = (
            outer(inner(lambda *a, f=f: f(*a).square().sum(), i), k)(*args) for f in both(pair)
        )
        close(got, want, msg=lambda m, which=(k, i): f"derivative by {which}: {m}")


@FEW_PAIRS
def test_hessian_vector_products(device, name):
    pair = PAIRS[name]
    args = pair.arguments(device)
    numbers, tangents = tuple(range(len(args))), tangents_like(args)

    def products(f):
        def loss(*a):
            return f(*a).square().sum()

        yield jvp(grad(loss, numbers), args, tangents)[1]
        yield grad(lambda *a: jvp(loss, a, tangents)[1], numbers)(*args)
        # Autograd's own double backward, and forward mode around its backward.
        leaves = tuple(a.clone().requires_grad_() for a in args)
        grads = torch.autograd.grad(loss(*leaves), leaves, create_graph=True)
        yield torch.autograd.grad(grads, leaves, tangents)
        with forward_ad.dual_level():
            duals = tuple(map(forward_ad.make_dual, leaves, tangents))
            grads = torch.autograd.grad(loss(*duals), duals)
            got = tuple(forward_ad.unpack_dual(g).tangent for g in grads)
        yield got  # now that the level is closed

    for got, want in zip(products(pair.ours), products(pair.theirs), strict=True):
        close(got, want)


def test_no_derivative_by_weight():
    """Of a loss: in reverse mode and in forward mode an error, where torch.mse_loss has one."""
    x, t, w = randn(4, 3), randn(4, 3), randn(4, 3).abs()
    classes, class_weight = torch.tensor([0, 1, 2, 1]), randn(3).abs()
    losses = {
        "mse_loss": (lambda w: gdext.functional.mse_loss(x, t, weight=w), w),
        "cross_entropy": (lambda w: gdext.functional.cross_entropy(x, classes, w), class_weight),
    }
    for name, (loss, weight) in losses.items():
        with pytest.raises(RuntimeError, match=name):
            grad(loss)(weight)
        with pytest.raises(RuntimeError, match=name):
            jvp(loss, (weight,), (torch.ones_like(weight),))
