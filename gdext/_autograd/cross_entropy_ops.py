"""cross_entropy's ops and their fake kernels (shapes without data).

Letters: N batch, C classes, d1... further dimensions of the samples.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gdext._autograd.checks import check_devices
from gdext._autograd.mse import NONE, accumulation_dtype

_cross_entropy = torch.ops.gdext.cross_entropy.default
_cross_entropy_backward = torch.ops.gdext.cross_entropy_backward.default
_cross_entropy_double_backward = torch.ops.gdext.cross_entropy_double_backward.default


def sample_shape(x: Tensor) -> torch.Size:
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
    samples = sample_shape(x)
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
    gdy = x.new_empty(sample_shape(x) if reduction == NONE else ())
    return gdy, x.new_empty(x.shape), x.new_empty(x.shape if want_gt else (0,))
