"""linear's ops, the numbers of the activations, and the fake kernels (shapes without data)."""

from __future__ import annotations

import torch
from torch import Tensor

from gdext._autograd.checks import check_devices

# The order is csrc/common/activation.h's.
ACTIVATIONS = (
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
)
IDENTITY = 0
# Those with f'' = 0 wherever it exists: their second derivatives need less.
PIECEWISE_LINEAR = frozenset(ACTIVATIONS.index(name) for name in ("identity", "relu", "leaky_relu"))
# Those whose derivative is taken from z; the others' is taken from y (saves_z in activation.h).
SAVES_Z = frozenset(
    ACTIVATIONS.index(name)
    for name in ("elu", "scaled_tanh", "softplus", "silu", "gelu", "gelu_tanh")
)

_linear = torch.ops.gdext.linear.default
_linear_backward = torch.ops.gdext.linear_backward.default
_activation_double_backward = torch.ops.gdext.activation_double_backward.default


@torch.library.register_fake("gdext::linear")
def _(
    x: Tensor, weight: Tensor, bias: Tensor | None, activation: int, want_z: bool
) -> tuple[Tensor, Tensor]:
    check_devices(x, weight=weight, bias=bias)
    torch._check(
        x.shape[-1] == weight.shape[1],
        lambda: (
            f"input: wanted last dimension {weight.shape[1]} (in_features of weight "
            f"{list(weight.shape)}), got shape {list(x.shape)}"
        ),
    )
    shape = (*x.shape[:-1], weight.shape[0])
    z_shape = shape if want_z and activation in SAVES_Z else (0,)
    return x.new_empty(shape), x.new_empty(z_shape)


@torch.library.register_fake("gdext::linear_backward")
def _(
    dy: Tensor,
    saved: Tensor | None,
    x: Tensor | None,
    weight: Tensor | None,
    activation: int,
    wanted: list[bool],
) -> tuple[Tensor, Tensor, Tensor]:
    check_devices(dy, saved=saved, x=x, weight=weight)
    *leading, out_features = dy.shape
    dx, dw, db = (dy.new_empty(0) for _ in range(3))  # each its own: outputs do not alias
    if wanted[0]:
        assert weight is not None
        dx = dy.new_empty((*leading, weight.shape[1]))
    if wanted[1]:
        assert x is not None
        dw = dy.new_empty((out_features, x.shape[-1]))
    if wanted[2]:
        db = dy.new_empty(out_features)
    return dx, dw, db


@torch.library.register_fake("gdext::activation_double_backward")
def _(q: Tensor, dy: Tensor, saved: Tensor, activation: int) -> tuple[Tensor, Tensor, Tensor]:
    check_devices(q, dy=dy, saved=saved)
    return q.new_empty(q.shape), q.new_empty(q.shape), q.new_empty(q.shape)
