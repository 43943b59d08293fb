"""mse: C = sum_i w_i (x_i - t_i)^2 / norm and its two backward passes. The maths:
csrc/contract/mse.h."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from gdext._autograd.checks import check_devices
from gdext._autograd.eager import first_output
from gdext._autograd.twice import BackwardOfBackward

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
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        x, target, weight, ctx.reduction = inputs
        _, norm = output
        ctx.mark_non_differentiable(norm)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(x, target, weight, norm)

    @staticmethod
    def backward(ctx: Any, dy: Tensor | None, _dnorm: None = None) -> tuple[Tensor | None, ...]:
        if dy is None:
            return None, None, None, None
        need_x, need_t, _, _ = ctx.needs_input_grad
        if torch.is_grad_enabled():
            dx = MseBackward.apply(dy, *ctx.saved_tensors, ctx.reduction)
        else:  # nothing will differentiate this: spare the node
            dx = _mse_backward(dy, *ctx.saved_tensors)
        return dx if need_x else None, -dx if need_t else None, None, None


mse = first_output(Mse, _mse)


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
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        *tensors, ctx.reduction = inputs
        ctx.save_for_backward(*tensors)

    @staticmethod
    def backward(ctx: Any, u: Tensor) -> tuple[Tensor | None, ...]:
        _, need_x, need_t, _, _, _ = ctx.needs_input_grad
        gdy, gx = BackwardOfBackward.apply(
            _mse_double_backward, u, *ctx.saved_tensors, ctx.reduction
        )
        return gdy, gx if need_x else None, -gx if need_t else None, None, None, None
