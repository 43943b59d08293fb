"""The losses' ops under torch.func.vmap: V losses as one without a reduction, reduced afterwards.

As in the kernels, sums are taken in float64 and 16-bit types are rounded once, when stored: what is
computed here in between is float32. norm, by which a mean divides, is one number for each of the V,
so the gradients dy are divided by it here and the ops get norm = 1.

Letters: V samples or models, N batch, C classes, d1... further dimensions of the samples.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from gdext._autograd.batching import Dim, Results, in_front, one_by_one, optional_in_front
from gdext._autograd.cross_entropy_ops import (
    _cross_entropy,
    _cross_entropy_backward,
    _cross_entropy_double_backward,
)
from gdext._autograd.mse import (
    NONE,
    _mse,
    _mse_backward,
    _mse_double_backward,
)

MEAN = 1


@torch.library.register_vmap("gdext::mse")
def _(
    info: Any,
    dims: tuple[Dim, ...],
    x: Tensor,
    target: Tensor,
    weight: Tensor | None,
    reduction: int,
) -> Results:
    size = info.batch_size
    dtype = x.dtype
    x, target, w = _wide(size, dims, x, target, weight)
    terms, norm = _mse(x, target, w, NONE)
    norm_dim = None
    if reduction == MEAN:
        norm, norm_dim = norm.new_full((), math.prod(x.shape[1:])), None
        if w is not None:
            norm, norm_dim = _sum(w).to(norm.dtype), 0
    loss = terms if reduction == NONE else _sum(terms) / norm
    return (loss.to(dtype), norm), (0, norm_dim)


@torch.library.register_vmap("gdext::mse_backward")
def _(
    info: Any,
    dims: tuple[Dim, ...],
    dy: Tensor,
    x: Tensor,
    target: Tensor,
    weight: Tensor | None,
    norm: Tensor,
) -> tuple[Tensor, int]:
    size = info.batch_size
    dtype = x.dtype
    x, target, w = _wide(size, dims[1:], x, target, weight)
    g = _over_norm(size, (dims[0], dims[4]), dy, norm, x.shape)
    return _mse_backward(g, x, target, w, norm.new_ones(())).to(dtype), 0


@torch.library.register_vmap("gdext::mse_double_backward")
def _(
    info: Any,
    dims: tuple[Dim, ...],
    u: Tensor,
    dy: Tensor,
    x: Tensor,
    target: Tensor,
    weight: Tensor | None,
    norm: Tensor,
    reduction: int,
) -> Results:
    size = info.batch_size
    dtype = x.dtype
    u, x, target, w = _wide(size, (dims[0], *dims[2:]), u, x, target, weight)
    g = _over_norm(size, (dims[1], dims[5]), dy, norm, x.shape)
    gdy, gx = _mse_double_backward(u, g, x, target, w, norm.new_ones(()), NONE)
    if reduction != NONE:
        gdy = _sum(gdy) / in_front(norm, dims[5], size)
    return (gdy.to(dtype), gx.to(dtype)), (0, 0)


@torch.library.register_vmap("gdext::cross_entropy")
def _(
    info: Any,
    dims: tuple[Dim, ...],
    x: Tensor,
    target: Tensor,
    weight: Tensor | None,
    reduction: int,
    ignore_index: int,
    label_smoothing: float,
) -> Results:
    size = info.batch_size
    if dims[2] is not None:  # a weight for each
        args = (x, target, weight, reduction, ignore_index, label_smoothing)
        loss, stats, norm = one_by_one(_cross_entropy, size, dims[:3], args)
        return (loss, stats, norm), (0, 0, 0)
    samples = _Samples(size, dims, x, target, weight)
    terms, stats, norm = _cross_entropy(*samples.args, NONE, ignore_index, label_smoothing)
    norm_dim = None
    if reduction == MEAN:
        norm, norm_dim = samples.norm(ignore_index, norm.dtype)
    terms = samples.unfold(terms)
    loss = terms if reduction == NONE else _sum(terms) / norm
    return (loss.to(x.dtype), samples.unfold(stats, 1), norm), (0, 1, norm_dim)


@torch.library.register_vmap("gdext::cross_entropy_backward")
def _(
    info: Any,
    dims: tuple[Dim, ...],
    dy: Tensor,
    x: Tensor,
    target: Tensor,
    weight: Tensor | None,
    stats: Tensor,
    norm: Tensor,
    ignore_index: int,
    label_smoothing: float,
    wanted: list[bool],
) -> Results:
    size = info.batch_size
    out_dims = tuple(0 if want else None for want in wanted)
    if dims[3] is not None:
        args = (dy, x, target, weight, stats, norm, ignore_index, label_smoothing, wanted)
        dx, dt = one_by_one(_cross_entropy_backward, size, dims[:6], args)
        return (dx, dt), out_dims
    samples = _Samples(size, dims[1:], x, target, weight)
    g = samples.fold(_over_norm(size, (dims[0], dims[5]), dy, norm, samples.shape))
    constants = samples.fold_stats(stats, dims[4]), norm.new_ones(())
    options = ignore_index, label_smoothing
    grads = _cross_entropy_backward(g, *samples.args, *constants, *options, wanted)
    dx, dt = (
        samples.unfold(grad).to(x.dtype) if want else grad
        for grad, want in zip(grads, wanted, strict=True)
    )
    return (dx, dt), out_dims


@torch.library.register_vmap("gdext::cross_entropy_double_backward")
def _(
    info: Any,
    dims: tuple[Dim, ...],
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
) -> Results:
    size = info.batch_size
    options = ignore_index, label_smoothing, want_gt
    out_dims = 0, 0, 0 if want_gt else None
    if dims[5] is not None:
        args = (u, v, dy, x, target, weight, stats, norm, reduction, *options)
        gdy, gx, gt = one_by_one(_cross_entropy_double_backward, size, dims[:8], args)
        return (gdy, gx, gt), out_dims
    samples = _Samples(size, dims[3:], x, target, weight)
    g = samples.fold(_over_norm(size, (dims[2], dims[7]), dy, norm, samples.shape))
    u, v = (
        None if t is None else samples.fold(in_front(t, dim, size).to(g.dtype))
        for t, dim in zip((u, v), dims, strict=False)
    )
    constants = samples.fold_stats(stats, dims[6]), norm.new_ones(())
    gdy, gx, gt = _cross_entropy_double_backward(u, v, g, *samples.args, *constants, NONE, *options)
    gdy = samples.unfold(gdy)
    if reduction != NONE:
        gdy = _sum(gdy) / in_front(norm, dims[7], size)
    gt = samples.unfold(gt).to(x.dtype) if want_gt else gt
    return (gdy.to(x.dtype), samples.unfold(gx).to(x.dtype), gt), out_dims


class _Samples:
    """V x N samples as one list of them: logits [V, N, C, d1, ...] as [V N, C, d1, ...] and what
    goes with them likewise, in float32 at least; [V, C] are already such a list."""

    def __init__(
        self,
        size: int,
        dims: tuple[Dim, ...],
        x: Tensor,
        target: Tensor,
        weight: Tensor | None,
    ) -> None:
        self.size = size
        self.is_list = x.dim() == (1 if dims[0] is None else 2)
        x = in_front(x, dims[0], size)
        self.shape = x.shape[:1] if self.is_list else x.shape[:2] + x.shape[3:]
        self.outer = x.shape[:2]
        target = in_front(target, dims[1], size)
        self.args = (
            self.fold(_widened(x)),
            self.fold(target if target.dtype == torch.int64 else _widened(target)),
            None if weight is None else _widened(weight),
        )

    def fold(self, t: Tensor) -> Tensor:
        return t if self.is_list else t.flatten(0, 1)

    def unfold(self, t: Tensor, dim: int = 0) -> Tensor:
        return t if self.is_list else t.unflatten(dim, self.outer)

    def fold_stats(self, stats: Tensor, dim: Dim) -> Tensor:
        """[2, N, d1, ...] for each of the V as [2, V N, d1, ...]."""
        stats = in_front(stats, dim, self.size).movedim(0, 1)
        return stats if self.is_list else stats.flatten(1, 2)

    def norm(self, ignore_index: int, dtype: torch.dtype) -> tuple[Tensor, Dim]:
        """What the mean over the samples of each of the V divides by."""
        _, target, weight = self.args
        if target.dtype != torch.int64:
            return torch.full(
                (), math.prod(self.shape[1:]), dtype=dtype, device=target.device
            ), None
        kept = target != ignore_index
        terms = kept if weight is None else weight[target.where(kept, 0)] * kept
        return _sum(self.unfold(terms)).to(dtype), 0


def _widened(t: Tensor) -> Tensor:
    return t.to(torch.promote_types(t.dtype, torch.float32))


def _wide(size: int, dims: tuple[Dim, ...], *tensors: Tensor | None) -> list[Any]:
    """Each with its batch dimension first, in float32 at least."""
    fronts = (optional_in_front(t, d, size) for t, d in zip(tensors, dims, strict=False))
    return [None if t is None else _widened(t) for t in fronts]


def _over_norm(
    size: int, dims: tuple[Dim, Dim], dy: Tensor, norm: Tensor, shape: tuple[int, ...]
) -> Tensor:
    """dy / norm, one number for each of ``shape``, which starts with V."""
    dy, norm = (in_front(t, d, size) for t, d in zip((dy, norm), dims, strict=True))
    g = _widened(dy)
    g = g.reshape(*g.shape, *[1] * (len(shape) - g.dim()))
    return (g / norm.reshape(size, *[1] * (len(shape) - 1))).expand(shape)


def _sum(terms: Tensor) -> Tensor:
    """[V]: the sum of each of the V's terms."""
    return terms.reshape(len(terms), math.prod(terms.shape[1:])).sum(1, dtype=torch.float64)
