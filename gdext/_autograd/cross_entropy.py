"""cross_entropy: C = -sum_c q_c log p_c per sample, reduced, and its derivatives, in reverse and in
forward mode. The maths: csrc/contract/cross_entropy.h.

Both modes are made of S(u, v, dy) = <u, dx> + <v, dt>, where the gradients dx and dt of x and the
target t are linear in dy: dS/d(dy) is the tangent of C along (u, v), and dS/dx and dS/dt are, the
second derivative being symmetric, the tangents of dx and dt along (u, v).
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.autograd import Function

from gdext._autograd.cross_entropy_ops import (
    _cross_entropy,
    _cross_entropy_backward,
    _cross_entropy_double_backward,
)
from gdext._autograd.eager import (
    eager_form,
    first_output,
    is_differentiated,
    not_wanted,
    tangent_of_constant,
    with_jvp,
)
from gdext._autograd.mse import NONE, accumulation_dtype, refuse_derivative
from gdext._autograd.twice import last_derivative

Tensors = tuple[Tensor | None, ...]


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
    ) -> Any:
        x, target, weight, *ctx.options = inputs
        _, stats, norm = output
        ctx.mark_non_differentiable(stats, norm)
        ctx.set_materialize_grads(False)
        to_save = x, target, weight, stats, norm
        ctx.save_for_backward(*to_save)
        return to_save

    @staticmethod
    def backward(ctx: Any, dy: Tensor | None, _dstats: None = None, _dnorm: None = None) -> Tensors:
        if dy is None:
            return (None,) * 6
        need_x, need_t, need_w, *_ = ctx.needs_input_grad
        refuse_derivative("cross_entropy", need_w)
        _, ignore_index, label_smoothing = ctx.options
        if is_differentiated():
            dx, dt = cross_entropy_backward(dy, *ctx.saved_tensors, *ctx.options, need_x, need_t)
        else:  # spare the node
            dx, dt = _cross_entropy_backward(
                dy, *ctx.saved_tensors, ignore_index, label_smoothing, [need_x, need_t]
            )
        return dx if need_x else None, dt if need_t else None, None, None, None, None


def _cross_entropy_jvp(ctx: Any, *tangents: Any) -> Tensors:
    tx, tt, tw, *_ = tangents
    refuse_derivative("cross_entropy", tw is not None)
    *_, stats, norm = ctx.saved_tensors
    t = cross_entropy_along(tx, tt, *ctx.saved_tensors, *ctx.options)
    return t, tangent_of_constant(stats), tangent_of_constant(norm)


def _eager_forward(
    ctx: Any,
    x: Tensor,
    target: Tensor,
    weight: Tensor | None,
    reduction: int,
    ignore_index: int,
    label_smoothing: float,
) -> Tensor:
    loss: Tensor
    loss, stats, norm = _cross_entropy._op(
        x, target, weight, reduction, ignore_index, label_smoothing
    )
    ctx.options = reduction, ignore_index, label_smoothing
    ctx.materialize_grads = False
    ctx.to_save = x, target, weight, stats, norm
    return loss


cross_entropy = first_output(
    CrossEntropy,
    _cross_entropy,
    _cross_entropy_jvp,
    eager_form("CrossEntropy", _eager_forward, CrossEntropy.backward),
)


class CrossEntropyBackward(Function):
    """(dy, x, target, weight, stats, norm, options..., whether dx and dt are wanted) -> dx, dt."""

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
        want_x: bool,
        want_t: bool,
    ) -> tuple[Tensor, Tensor]:
        return _cross_entropy_backward(
            dy, x, target, weight, stats, norm, ignore_index, label_smoothing, [want_x, want_t]
        )

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> Any:
        to_save, ctx.options, ctx.wanted = inputs[:6], inputs[6:9], inputs[9:]
        ctx.mark_non_differentiable(*not_wanted(output, ctx.wanted))
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*to_save)
        return to_save

    @staticmethod
    def backward(ctx: Any, u: Tensor | None, v: Tensor | None) -> Tensors:
        if u is None and v is None:
            return (None,) * 11
        _, need_x, need_t, need_w, *_ = ctx.needs_input_grad
        refuse_derivative("cross_entropy", need_w)
        gdy, gx, gt = last_derivative(
            _cross_entropy_double_backward, u, v, *ctx.saved_tensors, *ctx.options, need_t
        )
        return gdy, gx if need_x else None, gt if need_t else None, *(None,) * 8


def _cross_entropy_backward_jvp(ctx: Any, *tangents: Any) -> Tensors:
    tdy, tx, tt, tw, *_ = tangents
    refuse_derivative("cross_entropy", tw is not None)
    options = *ctx.options, *ctx.wanted
    return last_derivative(_tangents_of_gradients, tdy, tx, tt, *ctx.saved_tensors, *options)


cross_entropy_backward = with_jvp(CrossEntropyBackward, _cross_entropy_backward_jvp)


class CrossEntropyAlong(Function):
    """(u or None, v or None, x, target, weight, stats, norm, options...) -> C's tangent along the
    tangents u of x and v of target."""

    generate_vmap_rule = True

    @staticmethod
    def forward(
        u: Tensor | None,
        v: Tensor | None,
        x: Tensor,
        target: Tensor,
        weight: Tensor | None,
        stats: Tensor,
        norm: Tensor,
        reduction: int,
        ignore_index: int,
        label_smoothing: float,
    ) -> Tensor:
        options = reduction, ignore_index, label_smoothing
        return _tangent(u, v, x, target, weight, stats, norm, *options)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> Any:
        to_save, ctx.options = inputs[:7], inputs[7:]
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*to_save)
        return to_save

    @staticmethod
    def backward(ctx: Any, dy: Tensor | None) -> Tensors:
        if dy is None:
            return (None,) * 10
        need_u, need_v, need_x, need_t, need_w, *_ = ctx.needs_input_grad
        refuse_derivative("cross_entropy", need_w)
        gu, gv, gx, gt = last_derivative(
            _gradients, dy, *ctx.saved_tensors, *ctx.options, need_u, need_v, need_t
        )
        needed = need_u, need_v, need_x, need_t
        grads = (g if need else None for g, need in zip((gu, gv, gx, gt), needed, strict=True))
        return *grads, *(None,) * 6


def _cross_entropy_along_jvp(ctx: Any, *tangents: Any) -> Tensor:
    *along, tw, _, _, _, _, _ = tangents
    refuse_derivative("cross_entropy", tw is not None)
    return last_derivative(_tangent_of_tangent, *along, *ctx.saved_tensors, *ctx.options)[0]


cross_entropy_along = with_jvp(CrossEntropyAlong, _cross_entropy_along_jvp)


# Derivatives of S, of tensors without a graph. `constants`: weight, stats, norm, reduction,
# ignore_index, label_smoothing.


def _tangent(
    u: Tensor | None, v: Tensor | None, x: Tensor, target: Tensor, *constants: Any
) -> Tensor:
    """dS/d(dy)."""
    dy = x.new_zeros(())  # S is linear in it
    return _cross_entropy_double_backward(u, v, dy, x, target, *constants, False)[0]


def _gradients(
    dy: Tensor,
    u: Tensor | None,
    v: Tensor | None,
    x: Tensor,
    target: Tensor,
    *constants: Any,
) -> Tensors:
    """dS/du, dS/dv, dS/dx and dS/dt."""
    *constants_, want_u, want_v, want_t = constants
    weight, stats, norm, _, *options = constants_
    wanted = [want_u, want_v]
    gu, gv = _cross_entropy_backward(dy, x, target, weight, stats, norm, *options, wanted)
    _, gx, gt = _cross_entropy_double_backward(u, v, dy, x, target, *constants_, want_t)
    return gu, gv, gx, gt


def _tangents_of_gradients(
    tdy: Tensor | None,
    tx: Tensor | None,
    tt: Tensor | None,
    dy: Tensor,
    x: Tensor,
    target: Tensor,
    *constants: Any,
) -> Tensors:
    """Those of dx and dt: dS/dx and dS/dt along (tx, tt), and dx and dt with dy replaced by tdy."""
    *constants_, want_x, want_t = constants
    weight, stats, norm, _, *options = constants_
    tangents: list[Tensor | None] = [None, None]
    if tx is not None or tt is not None:
        along = _cross_entropy_double_backward(tx, tt, dy, x, target, *constants_, want_t)[1:]
        tangents = [t if want else None for t, want in zip(along, (want_x, want_t), strict=True)]
    if tdy is not None:
        wanted = [want_x, want_t]
        by_dy = _cross_entropy_backward(tdy, x, target, weight, stats, norm, *options, wanted)
        for i, want in enumerate(wanted):
            if want:
                tangents[i] = _sum(tangents[i], by_dy[i])
    return tuple(tangents)


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
) -> tuple[Tensor | None]:
    """dS/d(dy) with (u, v) replaced by (tu, tv), and <dS/dx, tx> + <dS/dt, tt> for dy = 1."""
    total = None
    if tu is not None or tv is not None:
        total = _tangent(tu, tv, x, target, *constants)
    if tx is not None or tt is not None:
        reduction = constants[3]
        dy = x.new_ones(())
        grads = _cross_entropy_double_backward(u, v, dy, x, target, *constants, tt is not None)[1:]
        terms = [
            (g.to(accumulation_dtype(x)) * t)
            for g, t in zip(grads, (tx, tt), strict=True)
            if t is not None
        ]
        products = terms[0] if len(terms) == 1 else terms[0] + terms[1]
        class_dim = 0 if x.dim() == 1 else 1
        dims = [class_dim] if reduction == NONE else list(range(x.dim()))
        total = _sum(total, products.sum(dims).to(x.dtype))
    return (total,)


def _sum(a: Tensor | None, b: Tensor) -> Tensor:
    return b if a is None else a + b
