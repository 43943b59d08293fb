"""Is gdext's op as accurate as PyTorch's on these inputs? compare.py's rule, with reference.py's
oracles as the truth: for the output, and for the gradient of every input that has one."""

import math

import numpy as np
import torch
import torch.nn.functional as F
from compare import assert_as_accurate, to_numpy
from inputs import leaf
from reference import ACTIVATION
from reference import cross_entropy as cross_entropy_oracle
from reference import linear as linear_oracle
from reference import mse as mse_oracle
from test_reference import TORCH as TORCH_ACTIVATION

import gdext.functional as G

# y and f' as z goes to -inf and to inf, also where the formula itself is inf * 0 there.
LIMITS = {
    "identity": (-math.inf, math.inf, 1, 1),
    "relu": (0, math.inf, 0, 1),
    "leaky_relu": (-math.inf, math.inf, 0.01, 1),
    "elu": (-1, math.inf, 0, 1),
    "sigmoid": (0, 1, 0, 0),
    "tanh": (-1, 1, 0, 0),
    "scaled_tanh": (-1.7159, 1.7159, 0, 0),
    "softplus": (0, math.inf, 0, 1),
    "silu": (0, math.inf, 0, 1),
    "gelu": (0, math.inf, 0, 1),
    "gelu_tanh": (0, math.inf, 0, 1),
}


def torch_linear(x, weight, bias=None, activation="identity"):
    return TORCH_ACTIVATION[activation](F.linear(x, weight, bias))


def assert_linear(x, weight, bias, activation, dy):
    """x [*, I], weight [O, I] and bias [O] or None, leaves that require grad; dy [*, O]."""
    inputs = [t for t in (x, weight, bias) if t is not None]
    O, I = weight.shape
    b = None if bias is None else to_numpy(bias)
    oracle = linear_oracle(
        to_numpy(x).reshape(-1, I) if x.numel() else np.zeros((math.prod(x.shape[:-1]), I)),
        to_numpy(weight),
        b,
        activation,
        to_numpy(dy).reshape(-1, O),
    )
    got, peer = (f(*inputs, activation=activation) for f in (G.linear, torch_linear))
    # f's own terms, and z's rounding carried through f (|f'| is at most about 1.13).
    y_scale = oracle.z_scale + ACTIVATION[activation].scale(oracle.z)
    assert_as_accurate(got, peer, oracle.y.reshape(got.shape), y_scale.reshape(got.shape), "y")
    grads = [torch.autograd.grad(y, inputs, dy) for y in (got, peer)]
    for name, g, p in zip(("dx", "dw", "db"), *grads, strict=False):
        exact, scale, stored = (
            getattr(oracle, name + part).reshape(p.shape) for part in ("", "_scale", "_stored")
        )
        assert_as_accurate(g, p, exact, scale, name, stored)


def assert_mse(x, target, weight, reduction, dy):
    """x and target, leaves that require grad, and weight or None: of one shape; dy of C's."""
    X, T, W, DY = (None if v is None else to_numpy(v) for v in (x, target, weight, dy))
    exact, exact_dx = mse_oracle(X, T, W, reduction, DY)
    got, peer = (f(x, target, reduction=reduction, weight=weight) for f in (G.mse_loss, F.mse_loss))
    assert_as_accurate(got, peer, np.asarray(exact), name="loss")
    (dx, dt), (peer_dx, peer_dt) = (torch.autograd.grad(c, (x, target), dy) for c in (got, peer))
    assert_as_accurate(dx, peer_dx, exact_dx, name="dx")
    assert_as_accurate(dt, peer_dt, -exact_dx, name="dt")


def assert_cross_entropy(
    x, target, weight, dy, reduction="mean", ignore_index=-100, label_smoothing=0.0
):
    """x [N, C, *], a leaf that requires grad; target [N, *], or such a leaf of x's shape; weight
    [C] or None; dy of the loss's shape."""
    by_index = not target.is_floating_point()
    inputs = [x] if by_index else [x, target]
    options = dict(
        weight=weight,
        reduction=reduction,
        ignore_index=ignore_index,
        label_smoothing=label_smoothing,
    )
    got, peer = (f(x, target, **options) for f in (G.cross_entropy, F.cross_entropy))
    n, c = x.shape[:2]
    T = target.cpu().numpy().reshape(n, -1) if by_index else to_numpy(target).reshape(n, c, -1)
    DY = to_numpy(dy).reshape(n, -1) if reduction == "none" else to_numpy(dy)
    W = None if weight is None else to_numpy(weight)
    exact = cross_entropy_oracle(
        to_numpy(x).reshape(n, c, -1), T, W, reduction, ignore_index, label_smoothing, DY
    )
    loss, scale = (np.asarray(v).reshape(got.shape) for v in (exact.loss, exact.loss_scale))
    assert_as_accurate(got, peer, loss, scale, "loss")
    grads = [torch.autograd.grad(v, inputs, dy) for v in (got, peer)]
    for name, g, p in zip(("dx", "dt"), *grads, strict=False):
        value, scale = (getattr(exact, name + part).reshape(g.shape) for part in ("", "_scale"))
        assert_as_accurate(g, p, value, scale, name)


def activate(z, activation):
    """f(z) by gdext, through linear with weight [[1]], where x w^T is z exactly."""
    one = torch.ones(1, 1, dtype=z.dtype, device=z.device)
    return G.linear(z.unsqueeze(-1), one, activation=activation).squeeze(-1)


def derivatives(f, z):
    """f(z), f'(z), f''(z)."""
    z = leaf(z)
    y = f(z)
    (first,) = torch.autograd.grad(y.sum(), z, create_graph=True)
    if not first.requires_grad:
        return y.detach(), first.detach(), torch.zeros_like(z)
    (second,) = torch.autograd.grad(first.sum(), z, allow_unused=True)
    return y.detach(), first.detach(), torch.zeros_like(z) if second is None else second


def assert_activation(z, activation, every=1):
    """y, f' and f'' at every so-manieth element of z, of any shape; at the infinities the limit is
    the truth."""
    got, peer = (
        [t.reshape(-1)[::every] for t in derivatives(f, z)]
        for f in (lambda z: activate(z, activation), TORCH_ACTIVATION[activation])
    )
    oracle, exact_z = ACTIVATION[activation], to_numpy(z).reshape(-1)[::every]
    finite = np.where(np.isinf(exact_z), 0, exact_z)
    exact = [f(finite) for f in (oracle.f, oracle.df, oracle.d2f)]
    limits = [*LIMITS[activation], 0, 0]
    for k, value in enumerate(exact):
        value[np.isneginf(exact_z)], value[np.isposinf(exact_z)] = limits[2 * k : 2 * k + 2]
    # f' and f'' are sums of terms of size 1 to 2: z times a bell, (4/3)^2 1.7159/2 (1 - t^2), ...
    scales = (oracle.scale(finite), np.ones_like(exact_z), np.full_like(exact_z, 2))
    for name, *values in zip(("y", "f'", "f''"), got, peer, exact, scales, strict=True):
        assert_as_accurate(*values, name=name)
