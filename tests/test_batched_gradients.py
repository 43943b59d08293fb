"""Gradients that autograd batches by itself: is_grads_batched, jacobian and hessian with
vectorize=True."""

import pytest
import torch
from inputs import leaf, randn
from torch import nn
from torch.autograd.functional import hessian, jacobian

import gdext


def mlps():
    """The same layers as a gdext.nn.MLP and as torch's."""
    ours = gdext.nn.MLP([5, 6, 3], "tanh", dtype=torch.float64)
    theirs = nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 3)).double()
    for mine, twin in zip(ours, theirs[::2], strict=True):
        twin.load_state_dict(mine.state_dict())
    return ours, theirs


def pairs():
    """Functions of x [4, 5], gdext's and torch's."""
    weight, bias, target = randn(3, 5), randn(3), randn(4, 5)
    classes = torch.tensor([0, 4, 2, 1])
    F, T = gdext.functional, nn.functional
    return {
        "linear": (
            lambda x: F.linear(x, weight, bias, "tanh"),
            lambda x: T.linear(x, weight, bias).tanh(),
        ),
        "mse_loss": tuple(lambda x, m=m: m.mse_loss(x, target, reduction="none") for m in (F, T)),
        "cross_entropy": tuple(
            lambda x, m=m: m.cross_entropy(x, classes, reduction="none") for m in (F, T)
        ),
        "MLP": mlps(),
    }


NAMES = pytest.mark.parametrize("name", ["linear", "mse_loss", "cross_entropy", "MLP"])


@NAMES
def test_batched_gradients(name):
    x = leaf(randn(4, 5))

    def gradients(f):
        y = f(x)
        v = randn(3, *y.shape, seed=3)
        return (
            torch.autograd.grad(y, x, v, is_grads_batched=True),
            jacobian(f, x, vectorize=True),
            hessian(lambda x: f(x).square().sum(), x, vectorize=True),
        )

    ours, theirs = pairs()[name]
    torch.testing.assert_close(gradients(ours), gradients(theirs))


@NAMES
def test_they_can_not_be_differentiated_again(name):
    """PyTorch would give them no graph and a penalty on them no gradient, without a word."""
    f, _ = pairs()[name]
    x = leaf(randn(4, 5))
    with pytest.raises(RuntimeError, match=r"batched .* can not be\s+differentiated again"):
        jacobian(f, x, create_graph=True, vectorize=True)
    with pytest.raises(RuntimeError, match=r"batched .* can not be\s+differentiated again"):
        hessian(lambda x: f(x).square().sum(), x, create_graph=True, vectorize=True)
    want = jacobian(f, x, create_graph=True)
    assert want.requires_grad
    torch.testing.assert_close(torch.func.jacrev(f)(x), want)
