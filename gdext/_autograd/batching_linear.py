"""linear's ops under torch.func.vmap: as few products as the shapes allow.

Letters: V samples or models, I in_features, O out_features; ``[*, I]`` stands for the dimensions
of one of the V. One product does for all V where they can be taken together as rows, [V, *] for
shared weights, or as columns, [V O] for a shared input; otherwise each of the V has its own.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gdext._autograd.batching import Dim, Results, in_front, one_by_one, optional_in_front
from gdext._autograd.linear_ops import (
    SAVES_Z,
    _activation_double_backward,
    _linear,
    _linear_backward,
)


@torch.library.register_vmap("gdext::linear")
def _(
    info: Any,
    dims: tuple[Dim, ...],
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    activation: int,
    want_z: bool,
) -> Results:
    x_dim, weight_dim, bias_dim, *_ = dims
    size = info.batch_size
    saves_z = want_z and activation in SAVES_Z
    if weight_dim is None and bias_dim is None:  # rows
        y, z = _linear(in_front(x, x_dim, size), weight, bias, activation, want_z)
        return (y, z), (0, 0 if saves_z else None)
    w, b = in_front(weight, weight_dim, size), optional_in_front(bias, bias_dim, size)
    if x_dim is None:  # columns
        flat = None if b is None else b.flatten()
        y, z = _linear(x, w.flatten(0, 1), flat, activation, want_z)
        models = (size, w.shape[1])
        if saves_z:
            z = z.unflatten(-1, models)
        y = y.unflatten(-1, models)
        dim = y.dim() - 2
        return (y, z), (dim, dim if saves_z else None)
    args = (x, w, b, activation, want_z)
    y, z = one_by_one(_linear, size, (x_dim, 0, None if b is None else 0), args)
    return (y, z), (0, 0 if saves_z else None)


@torch.library.register_vmap("gdext::linear_backward")
def _(
    info: Any,
    dims: tuple[Dim, ...],
    dy: Tensor,
    saved: Tensor | None,
    x: Tensor | None,
    weight: Tensor | None,
    activation: int,
    wanted: list[bool],
) -> Results:
    size, (_, _, x_dim, weight_dim, *_) = info.batch_size, dims
    dy, saved = in_front(dy, dims[0], size), optional_in_front(saved, dims[1], size)
    want_x, want_w, want_b = wanted
    grads: list[Tensor] = [dy.new_empty(0) for _ in wanted]
    left = [False, False, False]  # what takes a product for each

    if want_x and weight_dim is None:  # rows
        grads[0] = _linear_backward(dy, saved, None, weight, activation, [True, False, False])[0]
    else:
        left[0] = want_x

    if want_w and x_dim is not None and dy.dim() == 2:  # one sample each: dw = dz x^T
        assert x is not None
        dz = _dz(dy, saved, activation)
        grads[1] = (dz.unsqueeze(2) * x.movedim(x_dim, 0).unsqueeze(1)).to(dy.dtype)
        if want_b:
            grads[2] = dz.to(dy.dtype)
    elif want_w and x_dim is not None:
        left[1:] = [True, want_b]
    elif want_w or want_b:  # columns
        columns = [None if t is None else t.movedim(0, -2).flatten(-2) for t in (dy, saved)]
        _, *both = _linear_backward(*columns, x, None, activation, [False, want_w, want_b])
        for i, want in ((1, want_w), (2, want_b)):
            if want:
                grads[i] = both[i - 1].unflatten(0, (size, dy.shape[-1]))

    if True in left:
        in_dims = 0, None if saved is None else 0, x_dim, weight_dim
        args = (dy, saved, x, weight, activation, left)
        each = one_by_one(_linear_backward, size, in_dims, args)
        grads = [own if is_left else g for own, g, is_left in zip(each, grads, left, strict=True)]
    dx, dw, db = grads
    return (dx, dw, db), tuple(0 if want else None for want in wanted)


def _dz(dy: Tensor, saved: Tensor | None, activation: int) -> Tensor:
    """dy f'(z), not rounded to 16 bits."""
    wide = dy.to(torch.promote_types(dy.dtype, torch.float32))
    if saved is None:
        return wide
    return _activation_double_backward(wide, wide, saved.to(wide.dtype), activation)[0]


@torch.library.register_vmap("gdext::activation_double_backward")
def _(
    info: Any, dims: tuple[Dim, ...], q: Tensor, dy: Tensor, saved: Tensor, activation: int
) -> Results:
    tensors = (in_front(t, d, info.batch_size) for t, d in zip((q, dy, saved), dims, strict=False))
    return _activation_double_backward(*tensors, activation), (0, 0, 0)
