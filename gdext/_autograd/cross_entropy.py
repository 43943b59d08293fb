"""cross_entropy: C = -sum_c q_c log p_c per sample, reduced, and its two backward passes. The
maths: csrc/contract/cross_entropy.h.

Letters: N batch, C classes, d1... further dimensions of the samples.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from gdext._autograd.checks import check_devices
from gdext._autograd.eager import first_output
from gdext._autograd.mse import NONE, accumulation_dtype
from gdext._autograd.twice import BackwardOfBackward

_cross_entropy = torch.ops.gdext.cross_entropy.default
_cross_entropy_backward = torch.ops.gdext.cross_entropy_backward.default
_cross_entropy_double_backward = torch.ops.gdext.cross_entropy_double_backward.default


def _sample_shape(x: Tensor) -> torch.Size:
    """x's shape [C], [N, C] or [N, C, d1, ...] without its C."""
    return x.shape[1:] if x.dim() == 1 else x.shape[:1] + x.shape[2:]


@torch.library.register_fake("gdext::cross_entropy")
def _(
    x: Tensor,
    target: Tensor,
    weight: Tensor | None,
    reduction: int,
    ignore_index: int,
    label_smoothing: float,
) -> tuple[Tensor, Tensor, Tensor]:
    check_devices(x, target=target, weight=weight)
    samples = _sample_shape(x)
    accumulated = accumulation_dtype(x)
    return (
        x.new_empty(samples if reduction == NONE else ()),
        x.new_empty((2, *samples), dtype=accumulated),
        x.new_empty((), dtype=accumulated),
    )


@torch.library.register_fake("gdext::cross_entropy_backward")
def _(
    dy: Tensor,
    x: Tensor,
    target: Tensor,
    weight: Tensor | None,
    stats: Tensor,
    norm: Tensor,
    ignore_index: int,
    label_smoothing: float,
    wanted: list[bool],
) -> tuple[Tensor, Tensor]:
    check_devices(x, target=target, weight=weight, dy=dy, stats=stats, norm=norm)
    dx, dt = (x.new_empty(x.shape if want else (0,)) for want in wanted)
    return dx, dt


@torch.library.register_fake("gdext::cross_entropy_double_backward")
def _(
    u: Tensor | None,
    v: Tensor | None,
    dy: Tensor,
    x: Tensor,
    target: Tensor,
    weight: Tensor | None,
    stats: Tensor,
    norm: Tensor,
    reduction: int,
    ignore_index: int,
    label_smoothing: float,
    want_gt: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    check_devices(x, target=target, weight=weight, u=u, v=v, dy=dy, stats=stats, norm=norm)
    gdy = x.new_empty(_sample_shape(x) if reduction == NONE else ())
    return gdy, x.new_empty(x.shape), x.new_empty(x.shape if want_gt else (0,))


class CrossEntropy(Function):
    """(x, target, weight or None, reduction, ignore_index, label_smoothing) -> loss, stats,
    norm."""

    generate_vmap_rule = True

    @staticmethod
    def forward(
        x: Tensor,
        target: Tensor,
        weight: Tensor | None,
        reduction: int,
        ignore_index: int,
        label_smoothing: float,
    ) -> tuple[Tensor, Tensor, Tensor]:
        return _cross_entropy(x, target, weight, reduction, ignore_index, label_smoothing)

    @staticmethod
    def setup_context(
        ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]
    ) -> None:
        x, target, weight, *ctx.options = inputs
        _, stats, norm = output
        ctx.mark_non_differentiable(stats, norm)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(x, target, weight, stats, norm)

    @staticmethod
    def backward(
        ctx: Any, dy: Tensor | None, _dstats: None = None, _dnorm: None = None
    ) -> tuple[Tensor | None, ...]:
        if dy is None:
            return (None,) * 6
        wanted = list(ctx.needs_input_grad[:2])
        _, ignore_index, label_smoothing = ctx.options
        if torch.is_grad_enabled():
            dx, dt = CrossEntropyBackward.apply(dy, *ctx.saved_tensors, *ctx.options, wanted)
        else:  # nothing will differentiate this: spare the node
            dx, dt = _cross_entropy_backward(
                dy, *ctx.saved_tensors, ignore_index, label_smoothing, wanted
            )
        need_x, need_t = wanted
        return dx if need_x else None, dt if need_t else None, None, None, None, None


cross_entropy = first_output(CrossEntropy, _cross_entropy)


class CrossEntropyBackward(Function):
    """(dy, x, target, weight, stats, norm, options..., wanted) -> dx, dt."""

    generate_vmap_rule = True

    @staticmethod
    def forward(
        dy: Tensor,
        x: Tensor,
        target: Tensor,
        weight: Tensor | None,
        stats: Tensor,
        norm: Tensor,
        reduction: int,
        ignore_index: int,
        label_smoothing: float,
        wanted: list[bool],
    ) -> tuple[Tensor, Tensor]:
        return _cross_entropy_backward(
            dy, x, target, weight, stats, norm, ignore_index, label_smoothing, wanted
        )

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        *tensors, reduction, ignore_index, label_smoothing, _ = inputs
        ctx.options = reduction, ignore_index, label_smoothing
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*tensors)

    @staticmethod
    def backward(ctx: Any, u: Tensor | None, v: Tensor | None) -> tuple[Tensor | None, ...]:
        _, need_x, need_t, *_ = ctx.needs_input_grad
        gdy, gx, gt = BackwardOfBackward.apply(
            _cross_entropy_double_backward, u, v, *ctx.saved_tensors, *ctx.options, need_t
        )
        return gdy, gx if need_x else None, gt if need_t else None, *(None,) * 7
