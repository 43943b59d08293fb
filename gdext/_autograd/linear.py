"""linear: y = f(x w^T + b), its backward, and the backward of that. The maths:
csrc/contract/linear.h.

Letters: B batch, I in_features, O out_features; ``[*, I]`` stands for any leading dimensions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from gdext._autograd.checks import check_devices
from gdext._autograd.eager import first_output
from gdext._autograd.twice import BackwardOfBackward

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


Grads = tuple[Tensor | None, ...]


def values_to_save(
    needed: Sequence[bool],
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    activation: int,
    y: Tensor,
    z: Tensor,
) -> Grads:
    """x, weight, bias and what f' is taken from, each None where the backward can do without.

    ``needed``: which of dx, dw and db there will be. dx is made of weight and dw of x. Where f'' is
    not 0, the second derivative also goes to each of x, weight and bias that has a gradient, by way
    of the last of the four.
    """
    need_x, need_w, need_b = needed
    curved = activation not in PIECEWISE_LINEAR
    return (
        x if need_w or (need_x and curved) else None,
        weight if need_x or (need_w and curved) else None,
        bias if need_b and curved else None,
        None if activation == IDENTITY else z if activation in SAVES_Z else y,
    )


class Linear(Function):
    """(x [*, I], weight [O, I], bias [O] or None, activation, want_z) -> y [*, O], z.

    ``want_z``: keep what the backward needs; without it only y is of use.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(
        x: Tensor, weight: Tensor, bias: Tensor | None, activation: int, want_z: bool
    ) -> tuple[Tensor, Tensor]:
        return _linear(x, weight, bias, activation, want_z)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        x, weight, bias, activation, _ = inputs
        y, z = output
        ctx.activation = activation
        ctx.mark_non_differentiable(z)
        ctx.set_materialize_grads(False)
        needed = ctx.needs_input_grad[:3]
        ctx.save_for_backward(*values_to_save(needed, x, weight, bias, activation, y, z))

    @staticmethod
    def backward(ctx: Any, dy: Tensor | None, _dz: None = None) -> Grads:
        if dy is None:
            return None, None, None, None, None
        x, weight, bias, saved = ctx.saved_tensors
        need_x, need_w, need_b, _, _ = ctx.needs_input_grad
        wanted = [need_x, need_w, need_b]
        if torch.is_grad_enabled():
            dx, dw, db = LinearBackward.apply(dy, saved, x, weight, bias, ctx.activation, wanted)
        else:  # nothing will differentiate this: spare the node
            dx, dw, db = _linear_backward(dy, saved, x, weight, ctx.activation, wanted)
        return dx if need_x else None, dw if need_w else None, db if need_b else None, None, None


linear = first_output(Linear, _linear)


class LinearBackward(Function):
    """(dy [*, O], saved, x [*, I], weight [O, I], bias, activation, wanted) -> dx, dw, db.

    ``saved`` depends on x, weight and bias. Its part in the second derivative is given to them and
    not to it, which is why bias is an argument although dx, dw and db are computed without it. Each
    of the three is None where neither this nor the gradients that are wanted need it.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(
        dy: Tensor,
        saved: Tensor | None,
        x: Tensor | None,
        weight: Tensor | None,
        bias: Tensor | None,
        activation: int,
        wanted: list[bool],
    ) -> tuple[Tensor, Tensor, Tensor]:
        return _linear_backward(dy, saved, x, weight, activation, wanted)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        dy, saved, x, weight, _, ctx.activation, _ = inputs
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(dy, saved, x, weight)

    @staticmethod
    def backward(ctx: Any, u: Tensor | None, v: Tensor | None, r: Tensor | None) -> Grads:
        if u is None and v is None and r is None:
            return (None,) * 7
        wanted = ctx.needs_input_grad[2:5]
        gdy, gx, gw, gb = BackwardOfBackward.apply(
            _double_backward, u, v, r, *ctx.saved_tensors, ctx.activation, wanted
        )
        return gdy, None, gx, gw, gb, None, None


def _double_backward(
    u: Tensor | None,
    v: Tensor | None,
    r: Tensor | None,
    dy: Tensor,
    saved: Tensor | None,
    x: Tensor | None,
    weight: Tensor | None,
    activation: int,
    wanted: tuple[bool, bool, bool],
) -> Grads:
    """Gradients of dy, x, weight and bias from the cotangents u of dx, v of dw and r of db, not all
    of them None."""
    need_x, need_w, need_b = wanted
    q = _cotangent_of_dz(u, v, r, x, weight, dy)
    if saved is None:
        gdy, dz = q, dy
        gx = gw = gb = None
    else:
        gdy, gz, dz = _activation_double_backward(q, dy, saved, activation)
        # through z: gz takes the place of dz in the first backward
        grads = _linear_backward(gz, None, x, weight, IDENTITY, [need_x, need_w, need_b])
        gx, gw, gb = grads[0] if need_x else None, grads[1] if need_w else None, grads[2]

    # through the products: S = <u, dz w> + <v, dz^T x>: x's gradient is dz v, weight's dz^T u
    through_v, through_u = need_x and v is not None, need_w and u is not None
    if through_v or through_u:
        dz_v, dz_u, _ = _linear_backward(dz, None, u, v, IDENTITY, [through_v, through_u, False])
        gx = _sum(gx, dz_v if through_v else None)
        gw = _sum(gw, dz_u if through_u else None)
    return gdy, gx, gw, gb if need_b else None


def _cotangent_of_dz(
    u: Tensor | None,
    v: Tensor | None,
    r: Tensor | None,
    x: Tensor | None,
    weight: Tensor | None,
    dy: Tensor,
) -> Tensor:
    """q = u w^T + x v^T + r, of dy's shape."""
    q = None
    if u is not None:
        q, r = _linear(u, weight, r, IDENTITY, False)[0], None
    if v is not None:
        q, r = _sum(q, _linear(x, v, r, IDENTITY, False)[0]), None
    if q is None:
        assert r is not None
        q = r.expand(dy.shape)
    return q


def _sum(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    if a is None or b is None:
        return b if a is None else a
    return a + b
