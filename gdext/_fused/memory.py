"""Where the elements of tensors lie, to find those that share memory."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from itertools import accumulate
from typing import NamedTuple

import torch
from torch import Tensor


class _Region(NamedTuple):
    """The bytes from ``begin`` to ``end``, of which a tensor's elements may leave out some."""

    begin: int
    end: int
    name: str
    itemsize: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class Memory:
    """The memory of named strided tensors.

    Raises:
        ValueError: two elements, of one tensor or of two, share an address.
    """

    def __init__(self, named: Iterable[tuple[str, Tensor]]) -> None:
        # Numbers alone: a tensor here would keep memory that its owner has given up.
        self._regions = sorted(_region(name, t) for name, t in named if t.numel())
        for region in self._regions:
            _refuse_self_overlap(region)
        self._begins = [r.begin for r in self._regions]
        # Of all regions up to each one. Where all elements lie side by side, these and the begins
        # tell all; where there are gaps, tensors may lie in those of one another.
        self._ends = list(accumulate((r.end for r in self._regions), max))
        start = 0
        for i in range(1, len(self._regions) + 1):
            if i == len(self._regions) or self._begins[i] >= self._ends[i - 1]:
                _refuse_overlaps(self._regions[start:i])
                start = i

    def owner(self, t: Tensor) -> str | None:
        """The name of a tensor that an element of ``t`` is an element of too, or None."""
        # A number stands for one place, on whichever of these devices it is.
        if not (t.is_cpu or t.is_cuda) or t.layout is not torch.strided:
            return None
        begin = t.data_ptr()
        end = begin + (t.nbytes if t.is_contiguous() else _extent(t.shape, t.stride(), t.itemsize))
        last = bisect_left(self._begins, end)
        if last == 0 or self._ends[last - 1] <= begin or not t.numel():
            return None
        region = _region("", t)
        near = (r for r in self._regions[:last] if r.end > begin)
        return next((r.name for r in near if _share(r, region)), None)


def memory_key(params: Sequence[Tensor], buffers: Sequence[Tensor]) -> object:
    """What says where all elements of these lie, or None if one has no memory of the usual kind.

    Every step asks for it, so it leaves out what the op itself checks at every call: that all have
    one dtype, and a buffer its parameter's shape.
    """
    tensors = [*params, *buffers]
    try:
        return (
            params[0].dtype,
            [p.shape for p in params],
            list(map(Tensor.data_ptr, tensors)),
            list(map(Tensor.stride, tensors)),
        )
    except (RuntimeError, TypeError):  # a sparse tensor; no tensor
        return None


def _extent(shape: Sequence[int], strides: Sequence[int], itemsize: int) -> int:
    """Bytes from the first element to the end of the last one."""
    return (sum((n - 1) * s for n, s in zip(shape, strides, strict=True)) + 1) * itemsize


def _region(name: str, t: Tensor) -> _Region:
    begin, shape, strides = t.data_ptr(), tuple(t.shape), t.stride()
    return _Region(
        begin, begin + _extent(shape, strides, t.itemsize), name, t.itemsize, shape, strides
    )


def _refuse_self_overlap(region: _Region) -> None:
    dims = [(n, s) for n, s in zip(region.shape, region.strides, strict=True) if n > 1]
    kind = None
    if any(s == 0 for _, s in dims):
        kind = "an expanded"
    elif len(dims) == 2:  # more there are only of tensors that are no parameters of a Linear
        # i s = j t for steps i < n, j < m: the least are i = t / gcd, j = s / gcd.
        (n, s), (m, t) = dims
        divisor = math.gcd(s, t)
        if t // divisor < n and s // divisor < m:
            kind = "an overlapping"
    if kind:
        raise ValueError(
            f"{region.name}: wanted every element at an address of its own, got {kind} tensor of "
            f"shape {list(region.shape)} with strides {list(region.strides)}"
        )


def _refuse_overlaps(regions: Sequence[_Region]) -> None:
    if len(regions) == 1:
        return
    marks = _Marks(regions)
    for i, region in enumerate(regions):
        view = marks.of(region)
        if view.any():
            below = next(r.name for r in regions[:i] if _share(r, region))
            raise ValueError(f"{region.name}: wanted memory of its own, got memory of {below}")
        view.fill_(True)


def _share(a: _Region, b: _Region) -> bool:
    marks = _Marks((a, b))
    marks.of(a).fill_(True)
    return bool(marks.of(b).any())


class _Marks:
    """A mark for each address, or each run of addresses that regions have as a whole or not.

    Whether two tensors with gaps meet has no simple formula; marks are a byte for each element.
    """

    def __init__(self, regions: Sequence[_Region]) -> None:
        self._begin = min(r.begin for r in regions)
        self._unit = math.gcd(*(n for r in regions for n in (r.begin - self._begin, r.itemsize)))
        size = max(r.end for r in regions) - self._begin
        self._marks = torch.zeros(size // self._unit, dtype=torch.bool)

    def of(self, region: _Region) -> Tensor:
        units = region.itemsize // self._unit
        # Dimensions of stride 0 have one address, and PyTorch writes to no such tensor.
        dims = [(n, s * units) for n, s in zip(region.shape, region.strides, strict=True) if s]
        shape, strides = zip(*dims, (units, 1), strict=True)
        return self._marks.as_strided(shape, strides, (region.begin - self._begin) // self._unit)
