"""Oracles: the formulas of csrc/contract, written out naively in long double.

Nothing here calls PyTorch's functional; test_reference.py checks these against it, and every
derivative against a difference quotient.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

# In the order of csrc/common/activation.h: the position is the op's `activation` argument.
ACTIVATIONS = [
    "identity",
    "relu",
    "leaky_relu",
    "elu",
    "sigmoid",
    "tanh",
    "scaled_tanh",
    "softplus",
    "silu",
    "gelu",
    "gelu_tanh",
]
SAVES_Z = {"elu", "scaled_tanh", "softplus", "silu", "gelu", "gelu_tanh"}
# f' jumps at 0.
KINKED = {"relu", "leaky_relu"}

_LD = np.longdouble
_PI = _LD("3.14159265358979323846264338327950288")


def erf(z: np.ndarray) -> np.ndarray:
    """2/sqrt(pi) exp(-z^2) sum_n 2^n z^(2n+1) / (2n+1)!!: nothing cancels."""
    x = np.minimum(np.abs(z), _LD(6.6))  # erfc(6.6) is below long double's resolution at 1
    term, total = x.copy(), x.copy()
    for n in range(1, 160):
        term = term * (2 * x * x) / (2 * n + 1)
        total = total + term
    return np.sign(z) * np.minimum(2 / np.sqrt(_PI) * np.exp(-x * x) * total, _LD(1))


def sigmoid(z: np.ndarray) -> np.ndarray:
    e = np.exp(-np.abs(z))
    return np.where(z >= 0, 1, e) / (1 + e)


def _phi(z: np.ndarray) -> np.ndarray:
    return np.exp(-z * z / 2) / np.sqrt(2 * _PI)


def _cdf(z: np.ndarray) -> np.ndarray:
    return (1 + erf(z / np.sqrt(_LD(2)))) / 2


def _gelu_tanh(z: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    k, c = np.sqrt(2 / _PI), _LD("0.044715")
    t = np.tanh(k * (z + c * z**3))
    du, d2u = k * (1 + 3 * c * z**2), 6 * k * c * z
    sech2 = 1 - t * t
    first = (1 + t) / 2 + z / 2 * sech2 * du
    second = sech2 * du + z / 2 * (sech2 * d2u - 2 * t * sech2 * du * du)
    return z / 2 * (1 + t), first, second


@dataclass(frozen=True)
class Activation:
    """y = f(z) and its derivatives; `scale` is the magnitude of the terms in f (see compare)."""

    f: Callable
    df: Callable
    d2f: Callable
    scale: Callable


def _always(value: float) -> Callable:
    return lambda z: np.full_like(z, value)


_A, _B = _LD("1.7159"), _LD(2) / 3
_SLOPE = _LD("0.01")


def _softplus(z: np.ndarray) -> np.ndarray:
    return np.where(z > 20, z, np.log1p(np.exp(np.minimum(z, 20))))


ACTIVATION = {
    "identity": Activation(lambda z: z, _always(1), _always(0), np.abs),
    "relu": Activation(
        lambda z: np.maximum(z, 0), lambda z: np.where(z > 0, _LD(1), _LD(0)), _always(0), np.abs
    ),
    "leaky_relu": Activation(
        lambda z: np.where(z > 0, z, _SLOPE * z),
        lambda z: np.where(z > 0, _LD(1), _SLOPE),
        _always(0),
        np.abs,
    ),
    "elu": Activation(
        lambda z: np.where(z > 0, z, np.expm1(np.minimum(z, 0))),
        lambda z: np.exp(np.minimum(z, 0)),
        lambda z: np.where(z > 0, _LD(0), np.exp(np.minimum(z, 0))),
        lambda z: np.minimum(np.abs(z), np.maximum(z, 1)),
    ),
    "sigmoid": Activation(
        sigmoid,
        lambda z: sigmoid(z) * sigmoid(-z),
        lambda z: sigmoid(z) * sigmoid(-z) * (1 - 2 * sigmoid(z)),
        _always(1),
    ),
    "tanh": Activation(
        np.tanh,
        lambda z: 1 / np.cosh(np.minimum(np.abs(z), 5000)) ** 2,
        lambda z: -2 * np.tanh(z) / np.cosh(np.minimum(np.abs(z), 5000)) ** 2,
        lambda z: np.minimum(np.abs(z), 1),
    ),
    "scaled_tanh": Activation(
        lambda z: _A * np.tanh(_B * z),
        lambda z: _A * _B / np.cosh(np.minimum(np.abs(_B * z), 5000)) ** 2,
        lambda z: (
            -2 * _A * _B**2 * np.tanh(_B * z) / np.cosh(np.minimum(np.abs(_B * z), 5000)) ** 2
        ),
        lambda z: np.minimum(_A * np.abs(z), _A),
    ),
    "softplus": Activation(
        _softplus,
        lambda z: np.where(z > 20, _LD(1), sigmoid(z)),
        lambda z: np.where(z > 20, _LD(0), sigmoid(z) * sigmoid(-z)),
        _softplus,
    ),
    "silu": Activation(
        lambda z: z * sigmoid(z),
        lambda z: sigmoid(z) * (1 + z * sigmoid(-z)),
        lambda z: sigmoid(z) * sigmoid(-z) * (2 + z * (1 - 2 * sigmoid(z))),
        np.abs,
    ),
    "gelu": Activation(
        lambda z: z * _cdf(z),
        lambda z: _cdf(z) + z * _phi(z),
        lambda z: _phi(z) * (2 - z * z),
        np.abs,
    ),
    "gelu_tanh": Activation(*[(lambda z, i=i: _gelu_tanh(z)[i]) for i in range(3)], np.abs),
}


@dataclass(frozen=True)
class Linear:
    """linear's outputs, and beside each the magnitude of the terms that were summed into it."""

    z: np.ndarray
    z_scale: np.ndarray
    y: np.ndarray
    dx: np.ndarray
    dx_scale: np.ndarray
    dw: np.ndarray
    dw_scale: np.ndarray
    db: np.ndarray
    db_scale: np.ndarray
    # How dz's relative rounding moves dx, dw, db (`stored` in compare).
    dx_stored: np.ndarray
    dw_stored: np.ndarray
    db_stored: np.ndarray


def linear(x, w, b, activation: str, dy) -> Linear:
    """csrc/contract/linear.h for x [B,I], w [O,I], b [O] or None, dy [B,O] (long double)."""
    f = ACTIVATION[activation]
    z, z_scale = x @ w.T, abs(x) @ abs(w).T
    if b is not None:
        z, z_scale = z + b, z_scale + abs(b)
    dz = dy * f.df(z)
    # dz's errors: f' has one of its own, of terms of size 1; z's rounding comes in through f''.
    size = abs(dy) * (np.maximum(abs(f.df(z)), 1) + abs(f.d2f(z)) * z_scale)
    # What is stored on the way: dz, and z or y (identity stores neither).
    walk = np.zeros_like(dy)
    if activation != "identity":
        walk = (dy * (np.maximum(abs(f.df(z)), 1) + abs(f.d2f(z) * z))) ** 2
    return Linear(
        z, z_scale, f.f(z),
        dz @ w, size @ abs(w),
        dz.T @ x, size.T @ abs(x),
        dz.sum(0), size.sum(0),
        np.sqrt(walk @ w**2), np.sqrt(walk.T @ x**2), np.sqrt(walk.sum(0)),
    )  # fmt: skip


@np.errstate(invalid="ignore")  # inf - inf is meant
def mse(x, t, w, reduction: str, dy):
    """csrc/contract/mse.h, all of one shape; dy of C's shape. Returns (C, dx)."""
    weights = np.ones_like(x) if w is None else w
    loss = weights * (x - t) ** 2
    norm = _LD(1)
    if reduction == "mean":
        norm = _LD(x.size) if w is None else weights.sum()
    total = loss if reduction == "none" else loss.sum() / norm
    return total, dy * 2 * weights * (x - t) / norm


@dataclass(frozen=True)
class CrossEntropy:
    loss: np.ndarray
    dx: np.ndarray
    dt: np.ndarray | None
    loss_scale: np.ndarray
    dx_scale: np.ndarray
    dt_scale: np.ndarray | None


def cross_entropy(
    x, target, w, reduction: str, ignore_index: int, label_smoothing: float, dy
) -> CrossEntropy:
    """csrc/contract/cross_entropy.h: x [N,C,D]; target [N,D] int or [N,C,D]; dy [N,D] or one."""
    n, c, d = x.shape
    weights = np.ones(c, dtype=_LD) if w is None else w
    e = _LD(label_smoothing)
    wc = weights.reshape(1, c, 1)
    by_index = target.dtype == np.int64
    if by_index:
        kept = target != ignore_index
        safe = np.where(kept, target, 0)
        hot = (np.arange(c).reshape(1, c, 1) == safe[:, None, :]).astype(_LD)
        q = wc * ((1 - e) * hot + e / c) * kept[:, None, :]
        norm = (weights[safe] * kept).sum()
    else:
        q = wc * ((1 - e) * target + e / c)
        norm = _LD(n * d)
    m = x.max(axis=1, keepdims=True)
    # The largest term, 1, is left to log1p: beside it, small ones would be rounded away.
    largest = np.arange(x.shape[1])[None, :, None] == x.argmax(axis=1, keepdims=True)
    log_sum = np.log1p(np.where(largest, 0, np.exp(x - m)).sum(axis=1, keepdims=True))
    log_p = x - m - log_sum
    terms = np.where(q == 0, 0, q * log_p) if by_index else q * log_p
    loss = -terms.sum(axis=1)
    # log p is a difference of x, m and l: that is where its digits are lost.
    sizes = (abs(q) * (abs(x - m) + abs(log_sum))).sum(axis=1)
    if reduction != "mean":
        norm = _LD(1)
    g = np.broadcast_to(dy / norm, (n, d))[:, None, :]
    total = q.sum(axis=1, keepdims=True)
    dx = g * (total * np.exp(log_p) - q)
    dx_scale = abs(g) * (abs(total) * np.exp(log_p) * (1 + abs(x - m) + abs(log_sum)) + abs(q))
    dt = None if by_index else g * wc * (1 - e) * -log_p
    dt_scale = None if by_index else abs(g * wc) * (1 - e) * (abs(x - m) + abs(log_sum))
    if reduction != "none":
        loss, sizes = loss.sum() / norm, sizes.sum() / abs(norm)
    return CrossEntropy(loss, dx, dt, sizes, dx_scale, dt_scale)
