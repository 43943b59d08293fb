"""What the batching rules (batching_linear.py, batching_losses.py) share. A rule computes an op for
V samples or models at once, where torch.func.vmap would else call it V times.

Each gets the tensors with the dimension that is batched, or None, and returns its outputs likewise.
An op's empty outputs, the ones that were not wanted, are not batched.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

Dim = int | None
Results = tuple[tuple[Tensor, ...], tuple[Dim, ...]]


def in_front(t: Tensor, dim: Dim, size: int) -> Tensor:
    """t with its batch dimension first; expanded to one, without a copy, if it has none."""
    return t.expand(size, *t.shape) if dim is None else t.movedim(dim, 0)


def optional_in_front(t: Tensor | None, dim: Dim, size: int) -> Tensor | None:
    return None if t is None else in_front(t, dim, size)


def one_by_one(
    op: Callable[..., Any], size: int, dims: Sequence[Dim], args: Sequence[Any]
) -> list[Tensor]:
    """The op's outputs for each of the ``size`` slices of ``args`` along ``dims``, stacked; those
    that are empty, as they were not wanted, come as one.

    What ``dims`` does not reach, and what has None there, is the same for all.
    """
    columns = [
        [arg] * size if dim is None else arg.unbind(dim)
        for arg, dim in zip(args, [*dims, *[None] * (len(args) - len(dims))], strict=True)
    ]
    outputs = [op(*slices) for slices in zip(*columns, strict=True)]
    return [
        column[0] if column[0].shape == (0,) else torch.stack(column)
        for column in zip(*outputs, strict=True)
    ]
