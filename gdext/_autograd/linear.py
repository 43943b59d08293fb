"""linear: y = f(x w^T + b) and its derivatives, in reverse and in forward mode. The maths:
csrc/contract/linear.h.

Reverse and forward mode are made of S(u, v, r, dy) = <u, dx> + <v, dw> + <r, db>, where the
gradients dx, dw and db are linear in dy: dS/d(dy) is the tangent of y along (u, v, r).

Letters: B batch, I in_features, O out_features; ``[*, I]`` stands for any leading dimensions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor
from torch.autograd import Function

from gdext._autograd.eager import (
    Apply,
    eager_form,
    first_output,
    is_differentiated,
    not_wanted,
    tangent_of_constant,
    with_jvp,
)
from gdext._autograd.linear_ops import (
    ACTIVATIONS,
    IDENTITY,
    PIECEWISE_LINEAR,
    SAVES_Z,
    _linear,
    _linear_backward,
)
from gdext._autograd.linear_twice import (
    Grads,
    double_backward,
    gradients_of_tangent,
    tangent,
    tangent_of_tangent,
    tangents_of_gradients,
)
from gdext._autograd.twice import last_derivative


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

    ``want_z``: keep what the derivatives need; without it only y is of use.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(
        x: Tensor, weight: Tensor, bias: Tensor | None, activation: int, want_z: bool
    ) -> tuple[Tensor, Tensor]:
        return _linear(x, weight, bias, activation, want_z)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> Any:
        x, weight, bias, ctx.activation, _ = inputs
        y, z = output
        ctx.mark_non_differentiable(z)
        ctx.set_materialize_grads(False)
        # All: needs_input_grad knows of one transform, and a second may differentiate the first's
        # result by an input that this one took for a constant.
        needed = True, True, True
        to_save = values_to_save(needed, x, weight, bias, ctx.activation, y, z)
        ctx.save_for_backward(*to_save)
        return to_save

    @staticmethod
    def backward(ctx: Any, dy: Tensor | None, _dz: None = None) -> Grads:
        return *_gradients(ctx, dy, ctx.activation, False), None, None


def _gradients(ctx: Any, dy: Tensor | None, activation: int, is_eager: bool) -> Grads:
    """dx, dw and db in a backward whose first three inputs are x, weight and bias."""
    if dy is None:
        return None, None, None
    x, weight, bias, saved = ctx.saved_tensors
    need_x, need_w, need_b, *_ = ctx.needs_input_grad
    if is_differentiated():
        if is_eager:  # what has come to require a gradient since the forward was a constant there
            x, weight, bias = (
                t.detach() if t is not None and not need else t
                for t, need in zip((x, weight, bias), ctx.needs_input_grad, strict=True)
            )
        dx, dw, db = linear_backward(dy, saved, x, weight, bias, activation, need_x, need_w, need_b)
    else:  # spare the node
        wanted = [need_x, need_w, need_b]
        dx, dw, db = _linear_backward(dy, saved, x, weight, activation, wanted)
    return dx if need_x else None, dw if need_w else None, db if need_b else None


def _eager_linear(activation: int) -> Apply:
    """(x, weight, bias) -> y. Autograd alone differentiates, and tells all that it needs."""
    run = _linear._op

    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        y: Tensor
        y, z = run(x, weight, bias, activation, True)
        ctx.materialize_grads = False
        ctx.to_save = values_to_save(ctx.needs_input_grad, x, weight, bias, activation, y, z)
        return y

    def backward(ctx: Any, dy: Tensor | None) -> Grads:
        return _gradients(ctx, dy, activation, True)

    return eager_form("Linear", forward, backward)


# For each activation: what a node has of its own takes time at every call.
_EAGER = [_eager_linear(activation) for activation in range(len(ACTIVATIONS))]


def _apply_eager(x: Tensor, weight: Tensor, bias: Tensor | None, activation: int, _: bool) -> Any:
    return _EAGER[activation](x, weight, bias)


def _linear_jvp(ctx: Any, *tangents: Any) -> Grads:
    tx, tw, tb, *_ = tangents
    *_, saved = ctx.saved_tensors
    ty = linear_along(tx, tw, tb, *ctx.saved_tensors, ctx.activation)
    return ty, tangent_of_constant(saved) if ctx.activation in SAVES_Z else None


linear = first_output(Linear, _linear, _linear_jvp, _apply_eager)


class LinearBackward(Function):
    """(dy [*, O], saved, x [*, I], weight [O, I], bias, activation, whether dx, dw and db are
    wanted) -> dx, dw, db.

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
        want_x: bool,
        want_w: bool,
        want_b: bool,
    ) -> tuple[Tensor, Tensor, Tensor]:
        return _linear_backward(dy, saved, x, weight, activation, [want_x, want_w, want_b])

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> Any:
        dy, saved, x, weight, _, ctx.activation, *ctx.wanted = inputs
        ctx.mark_non_differentiable(*not_wanted(output, ctx.wanted))
        ctx.set_materialize_grads(False)
        to_save = dy, saved, x, weight
        ctx.save_for_backward(*to_save)
        return to_save

    @staticmethod
    def backward(ctx: Any, u: Tensor | None, v: Tensor | None, r: Tensor | None) -> Grads:
        if u is None and v is None and r is None:
            return (None,) * 9
        needed = ctx.needs_input_grad[2:5]
        gdy, gx, gw, gb = last_derivative(
            double_backward, u, v, r, *ctx.saved_tensors, ctx.activation, *needed
        )
        return gdy, None, gx, gw, gb, None, None, None, None


def _linear_backward_jvp(ctx: Any, *tangents: Any) -> Grads:
    tdy, _, tx, tw, tb, *_ = tangents
    return last_derivative(
        tangents_of_gradients, tdy, tx, tw, tb, *ctx.saved_tensors, ctx.activation, *ctx.wanted
    )


linear_backward = with_jvp(LinearBackward, _linear_backward_jvp)


class LinearAlong(Function):
    """(u, v, r, x, weight, bias, saved, activation) -> y's tangent along the tangents u of x, v of
    weight and r of bias, each of them perhaps None. ``saved``: as in LinearBackward."""

    generate_vmap_rule = True

    @staticmethod
    def forward(
        u: Tensor | None,
        v: Tensor | None,
        r: Tensor | None,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        saved: Tensor | None,
        activation: int,
    ) -> Tensor:
        return tangent(u, v, r, saved, x, weight, activation)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> Any:
        u, v, r, x, weight, _, saved, ctx.activation = inputs
        ctx.set_materialize_grads(False)
        to_save = u, v, r, saved, x, weight
        ctx.save_for_backward(*to_save)
        return to_save

    @staticmethod
    def backward(ctx: Any, dy: Tensor | None) -> Grads:
        if dy is None:
            return (None,) * 8
        needed = ctx.needs_input_grad[:6]
        grads = last_derivative(
            gradients_of_tangent, dy, *ctx.saved_tensors, ctx.activation, *needed
        )
        return *grads, None, None


def _linear_along_jvp(ctx: Any, *tangents: Any) -> Tensor:
    *along, _, _ = tangents
    return last_derivative(tangent_of_tangent, *along, *ctx.saved_tensors, ctx.activation)[0]


linear_along = with_jvp(LinearAlong, _linear_along_jvp)
