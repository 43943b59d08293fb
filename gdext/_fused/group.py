"""The processes that share FusedTrainer's steps, and what they must agree on."""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Iterable
from typing import NamedTuple, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

T = TypeVar("T")


class Claims(NamedTuple):
    """What every rank must have alike, as numbers: `digest`s and `checksum`s."""

    steps: int
    layers: int
    options: int
    rates: int
    tensors: int


_NAMES = (
    "number of steps",
    "layers",
    "options of optimizer and loss",
    "learning rates",
    "parameters and momentum buffers",
)


class Group:
    """``process_group`` as the fused step uses it: for tensors on the CPU.

    Raises:
        TypeError: no process group, or one that this process is no member of.
        RuntimeError: it has no backend for the CPU.
    """

    def __init__(self, process_group: object) -> None:
        if not dist.is_available() or not isinstance(process_group, dist.ProcessGroup):
            kind = type(process_group).__name__
            raise TypeError(
                "process_group: wanted None or a torch.distributed process group that this "
                f"process is a member of (dist.group.WORLD, say), got {kind}"
            )
        try:
            process_group._get_backend(torch.device("cpu"))
        except RuntimeError:
            raise RuntimeError(
                "process_group: wanted a backend for tensors on the CPU (gloo, or "
                f"cpu:gloo,cuda:nccl), got {process_group.name()}"
            ) from None
        self._process_group = process_group
        self.size = process_group.size()

    def together(self, prepare: Callable[[], T], claims: Callable[[T], Claims]) -> T:
        """What ``prepare`` returns, once it has returned on every rank, with the same claims.

        Raises:
            RuntimeError: it has raised on another rank, or claims differ.
            Exception: what it has raised here.
        """
        try:
            result = prepare()
            claimed = claims(result)
        except Exception:
            self._gather([0] * (1 + len(Claims._fields)))
            raise
        rows = self._gather([1, *claimed])
        refused = [rank for rank, row in enumerate(rows) if not row[0]]
        if refused:
            raise RuntimeError(
                f"process_group: rank {refused[0]} has refused what it was given, with an error of "
                "its own; no rank has changed anything"
            )
        for name, *got in zip(_NAMES, *(row[1:] for row in rows), strict=True):
            other = next((rank for rank, value in enumerate(got) if value != got[0]), None)
            if other is not None:
                shown = f" ({got[0]} and {got[other]})" if name == "number of steps" else ""
                raise RuntimeError(
                    f"process_group: wanted the same {name} on every rank, ranks 0 and {other} "
                    f"have different ones{shown}; no rank has changed anything"
                )
        return result

    def sum_(self, t: Tensor) -> None:
        """Put the sum over all ranks, the same bits on each, in the place of ``t``."""
        self._call(lambda: dist.all_reduce(t, group=self._process_group))

    def _gather(self, numbers: list[int]) -> list[list[int]]:
        mine = torch.tensor(numbers)
        of_all = [torch.empty_like(mine) for _ in range(self.size)]
        self._call(lambda: dist.all_gather(of_all, mine, group=self._process_group))
        return [t.tolist() for t in of_all]

    def _call(self, collective: Callable[[], object]) -> None:
        try:
            collective()
        except RuntimeError as error:
            raise RuntimeError(
                "process_group: another rank has ended, lost its connection, or takes other "
                f"steps than this one, and training cannot go on ({reason_of(error)})"
            ) from error


def reason_of(error: BaseException) -> str:
    """What went wrong in a collective, without the place in its source and the advice."""
    line = str(error).partition("\n")[0].partition(". This is typically")[0]
    return re.sub(r"^\[[^]]*/[^]]*\] *", "", line)


def digest(*values: object) -> int:
    """A number for plain values: equal if they are, and as good as never else."""
    return zlib.crc32(repr(values).encode())


def checksum(tensors: Iterable[Tensor]) -> int:
    """A number for the bits of tensors and their order: that of elements within one is not seen."""
    total = 0
    for i, t in enumerate(tensors):
        bits = t.detach().contiguous().view(-1)
        bits = bits.view(
            {1: torch.int8, 2: torch.int16, 4: torch.int32}.get(t.itemsize, torch.int64)
        )
        per_word = 8 // bits.itemsize
        if bits.storage_offset() % per_word == 0:  # in words of 8 bytes, several times faster
            whole = len(bits) // per_word * per_word
            total += (2 * i + 1) * int(bits[:whole].view(torch.int64).sum())
            bits = bits[whole:]
        total += (2 * i + 1) * int(bits.sum())
    return (total + 2**63) % 2**64 - 2**63  # as an int64
