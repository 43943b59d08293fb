"""mse: C = sum_i w_i (x_i - t_i)^2 / norm and its derivatives, in reverse and in forward mode. The
maths: csrc/contract/mse.h.

Both modes are made of S(u, dy, x - t) = sum_i u_i 2 w_i dy_i (x_i - t_i) / norm, linear in each of
the three: the gradient dx is dS/du, and the tangent of C along u is dS/d(dy).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from gdext._autograd.checks import check_devices
from gdext._autograd.eager import (
    eager_form,
    first_output,
    is_differentiated,
    tangent_of_constant,
    with_jvp,
)
from gdext._autograd.twice import last_derivative

NONE = 0

_mse = torch.ops.gdext.mse.default
_mse_backward = torch.ops.gdext.mse_backward.default
_mse_double_backward = torch.ops.gdext.mse_double_backward.default


def accumulation_dtype(x: Tensor) -> torch.dtype:
    """float64 for float64, else float32: the type that sums over x are kept in."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


@torch.library.register_fake("gdext::mse")
def _(x: Tensor, target: Tensor, weight: Tensor | None, reduction: int) -> tuple[Tensor, Tensor]:
    check_devices(x, target=target, weight=weight)
    loss = x.new_empty(x.shape if reduction == NONE else ())
    return loss, x.new_empty((), dtype=accumulation_dtype(x))


@torch.library.register_fake("gdext::mse_backward")
def _(dy: Tensor, x: Tensor, target: Tensor, weight: Tensor | None, norm: Tensor) -> Tensor:
    check_devices(x, target=target, weight=weight, dy=dy, norm=norm)
    return x.new_empty(x.shape)


@torch.library.register_fake("gdext::mse_double_backward")
def _(
    u: Tensor,
    dy: Tensor,
    x: Tensor,
    target: Tensor,
    weight: Tensor | None,
    norm: Tensor,
    reduction: int,
) -> tuple[Tensor, Tensor]:
    check_devices(x, target=target, weight=weight, u=u, dy=dy, norm=norm)
    return x.new_empty(x.shape if reduction == NONE else ()), x.new_empty(x.shape)


class Mse(Function):
    """(x, target, weight or None: all of one shape; reduction) -> loss, norm."""

    generate_vmap_rule = True

    @staticmethod
    def forward(
        x: Tensor, target: Tensor, weight: Tensor | None, reduction: int
    ) -> tuple[Tensor, Tensor]:
        return _mse(x, target, weight, reduction)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> Any:
        x, target, weight, ctx.reduction = inputs
        _, norm = output
        ctx.mark_non_differentiable(norm)
        ctx.set_materialize_grads(False)
        to_save = x, target, weight, norm
        ctx.save_for_backward(*to_save)
        return to_save

    @staticmethod
    def backward(ctx: Any, dy: Tensor | None, _dnorm: None = None) -> tuple[Tensor | None, ...]:
        if dy is None:
            return None, None, None, None
        need_x, need_t, need_w, _ = ctx.needs_input_grad
        refuse_derivative("mse_loss", need_w)
        if is_differentiated():
            dx = mse_backward(dy, *ctx.saved_tensors, ctx.reduction)
        else:  # spare the node
            dx = _mse_backward(dy, *ctx.saved_tensors)
        return dx if need_x else None, -dx if need_t else None, None, None


def _mse_jvp(ctx: Any, *tangents: Any) -> tuple[Tensor, Tensor | None]:
    tx, tt, tw, _ = tangents
    refuse_derivative("mse_loss", tw is not None)
    *_, norm = ctx.saved_tensors
    return mse_along(tx, tt, *ctx.saved_tensors, ctx.reduction), tangent_of_constant(norm)


def _eager_forward(
    ctx: Any, x: Tensor, target: Tensor, weight: Tensor | None, reduction: int
) -> Tensor:
    loss: Tensor
    loss, norm = _mse._op(x, target, weight, reduction)
    ctx.reduction = reduction
    ctx.materialize_grads = False
    ctx.to_save = x, target, weight, norm
    return loss


mse = first_output(Mse, _mse, _mse_jvp, eager_form("Mse", _eager_forward, Mse.backward))


class MseBackward(Function):
    """(dy, x, target, weight, norm, reduction) -> dx; dt is -dx."""

    generate_vmap_rule = True

    @staticmethod
    def forward(
        dy: Tensor,
        x: Tensor,
        target: Tensor,
        weight: Tensor | None,
        norm: Tensor,
        reduction: int,
    ) -> Tensor:
        return _mse_backward(dy, x, target, weight, norm)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> Any:
        *to_save, ctx.reduction = inputs
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*to_save)
        return to_save

    @staticmethod
    def backward(ctx: Any, u: Tensor | None) -> tuple[Tensor | None, ...]:
        if u is None:
            return (None,) * 6
        _, need_x, need_t, need_w, _, _ = ctx.needs_input_grad
        refuse_derivative("mse_loss", need_w)
        gdy, gx = last_derivative(_mse_double_backward, u, *ctx.saved_tensors, ctx.reduction)
        return gdy, gx if need_x else None, -gx if need_t else None, None, None, None


def _mse_backward_jvp(ctx: Any, *tangents: Any) -> Tensor:
    tdy, tx, tt, tw, *_ = tangents
    refuse_derivative("mse_loss", tw is not None)
    return last_derivative(_tangent_of_gradient, tdy, tx, tt, *ctx.saved_tensors, ctx.reduction)[0]


mse_backward = with_jvp(MseBackward, _mse_backward_jvp)


class MseAlong(Function):
    """(u or None, v or None, x, target, weight, norm, reduction) -> C's tangent along the tangents
    u of x and v of target."""

    generate_vmap_rule = True

    @staticmethod
    def forward(
        u: Tensor | None,
        v: Tensor | None,
        x: Tensor,
        target: Tensor,
        weight: Tensor | None,
        norm: Tensor,
        reduction: int,
    ) -> Tensor:
        return _tangent(_difference(u, v, x), x, target, weight, norm, reduction)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> Any:
        *to_save, ctx.reduction = inputs
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*to_save)
        return to_save

    @staticmethod
    def backward(ctx: Any, dy: Tensor | None) -> tuple[Tensor | None, ...]:
        if dy is None:
            return (None,) * 7
        need_u, need_v, need_x, need_t, need_w, _, _ = ctx.needs_input_grad
        refuse_derivative("mse_loss", need_w)
        gu, gx = last_derivative(_gradients_of_tangent, dy, *ctx.saved_tensors, ctx.reduction)
        return (
            gu if need_u else None,
            -gu if need_v else None,
            gx if need_x else None,
            -gx if need_t else None,
            *(None,) * 3,
        )


def _mse_along_jvp(ctx: Any, *tangents: Any) -> Tensor:
    *along, tw, _, _ = tangents
    refuse_derivative("mse_loss", tw is not None)
    return last_derivative(_tangent_of_tangent, *along, *ctx.saved_tensors, ctx.reduction)[0]


mse_along = with_jvp(MseAlong, _mse_along_jvp)


# Derivatives of S, of tensors without a graph. `constants`: weight, norm, reduction.


def _tangent(u: Tensor, x: Tensor, target: Tensor, *constants: Any) -> Tensor:
    """dS/d(dy)."""
    dy = x.new_zeros(())  # S is linear in it
    return _mse_double_backward(u, dy, x, target, *constants)[0]


def _gradients_of_tangent(
    dy: Tensor, u: Tensor | None, v: Tensor | None, x: Tensor, target: Tensor, *constants: Any
) -> tuple[Tensor, Tensor]:
    """dS/du and dS/dx."""
    weight, norm, _ = constants
    gx = _mse_double_backward(_difference(u, v, x), dy, x, target, *constants)[1]
    return _mse_backward(dy, x, target, weight, norm), gx


def _tangent_of_gradient(
    tdy: Tensor | None,
    tx: Tensor | None,
    tt: Tensor | None,
    dy: Tensor,
    x: Tensor,
    target: Tensor,
    *constants: Any,
) -> tuple[Tensor]:
    """dS/du with x - t replaced by its tangent, and with dy replaced by tdy."""
    weight, norm, _ = constants
    tdx = _mse_double_backward(_difference(tx, tt, x), dy, x, target, *constants)[1]
    if tdy is not None:
        tdx = tdx + _mse_backward(tdy, x, target, weight, norm)
    return (tdx,)


def _tangent_of_tangent(
    tu: Tensor | None,
    tv: Tensor | None,
    tx: Tensor | None,
    tt: Tensor | None,
    u: Tensor | None,
    v: Tensor | None,
    x: Tensor,
    target: Tensor,
    *constants: Any,
) -> tuple[Tensor]:
    """dS/d(dy) with u replaced by its tangent, and with x - t replaced by its own."""
    by_u = _tangent(_difference(tu, tv, x), x, target, *constants)
    difference = _difference(tx, tt, x)
    zero = torch.zeros_like(difference)
    return (by_u + _tangent(_difference(u, v, x), difference, zero, *constants),)


def _difference(tx: Tensor | None, tt: Tensor | None, x: Tensor) -> Tensor:
    """The tangent of x - t."""
    if tt is None:
        return torch.zeros_like(x) if tx is None else tx
    return -tt if tx is None else tx - tt


def refuse_derivative(loss: str, is_wanted: bool) -> None:
    """Raise where a transform differentiates ``loss`` by its weight: a part would be left out."""
    if is_wanted:
        raise RuntimeError(
            f"{loss}: weight: wanted a constant, since gdext has no derivative by it; got one that "
            "is differentiated. Use weight.detach()"
        )
