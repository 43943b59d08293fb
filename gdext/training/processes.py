"""The processes of a run: those that torchrun has started, on one machine or several, or one alone.

All of them read the same options, hold the whole training set and the whole network, and take each
step together, each on its share of the batch. The first one alone writes and prints.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch import distributed as dist

from gdext._fused.group import checksum, reason_of
from gdext.training.options import UsageError

T = TypeVar("T")


class PeerError(Exception):
    """Another process has an error, and says so itself."""


class Apart(Exception):
    """The processes hold different weights."""


class Lost(Exception):
    """Another process has ended, or cannot be reached; the message says what was seen of it."""


class Processes:
    """The run's processes, `size` of them, this being the one of number `rank`; a context, in which
    they can reach one another. Where torch.distributed is initialised already, those of its default
    group."""

    def __init__(self) -> None:
        started = {"RANK", "WORLD_SIZE", "MASTER_ADDR"} <= os.environ.keys()  # by torchrun
        self.size = int(os.environ["WORLD_SIZE"]) if started else 1
        self.rank = int(os.environ["RANK"]) if started else 0
        self.local_rank = int(os.environ.get("LOCAL_RANK", 0)) if started else 0
        self._is_ready = dist.is_available() and dist.is_initialized()
        if self._is_ready:
            self.size, self.rank = dist.get_world_size(), dist.get_rank()
        self.is_first = self.rank == 0

    def __str__(self) -> str:
        return f"{self.size} processes"

    def __enter__(self) -> Processes:
        if self.size > 1 and not self._is_ready:
            # Default arguments there keep the group that is there when they are imported: by
            # PyTorch's own optimizers, say. Then destroying the group would not end its threads,
            # and one that frees a tensor while Python shuts down aborts the process.
            from torch.distributed.nn import functional  # noqa: F401

            with self.watched():
                dist.init_process_group(
                    "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
                )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if (
            self.size > 1 and not self._is_ready and error is None
        ):  # else the others may wait for this one, or be gone
            dist.destroy_process_group()

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Raises Lost for whatever error says that another process cannot be reached."""
        try:
            yield
        except RuntimeError as error:
            cause = error.__cause__ or error  # FusedTrainer says more than is wanted here
            known = isinstance(cause, dist.DistError) or re.search(
                "gloo|nccl|[Cc]onnection (closed|reset|refused)", str(cause)
            )
            if self.size == 1 or not known:
                raise
            raise Lost(reason_of(cause)) from error

    def each(self, work: Callable[[], T]) -> T:
        """What `work` returns, once it has returned on all.

        Raises:
            PeerError: it has raised on another, or on others too, of which the first one is to say
                so.
        """
        results: list[T] = []
        self._each(lambda: results.append(work()))
        return results[0]

    def in_turn(self, work: Callable[[], T]) -> T:
        """As `each`, the first process of each machine before the others."""
        results: list[T] = []
        for turn in (True, False):
            mine = turn == (self.local_rank == 0)
            self._each(lambda: results.append(work()) if mine else None)  # noqa: B023
            if self.size == 1:
                break
        return results[0]

    def alike(self, name: str, value: T) -> T:
        """`value`, which all must have alike.

        Raises:
            UsageError: they have not.
        """
        values = self._each(lambda: value)
        other = next((rank for rank, of in enumerate(values) if of != values[0]), None)
        if other is not None:
            message = f"{name} of processes 0 and {other} differ: {values[0]} and {values[other]}"
            if self.is_first:
                raise UsageError(message)
            raise PeerError(message)
        return value

    def first(self, work: Callable[[], T]) -> T:
        """What `work` returns on the first process, where alone it is called.

        Raises:
            PeerError: it has raised there.
        """
        results = self._each(lambda: work() if self.is_first else None)
        return results[0]  # type: ignore[return-value]

    def greatest(self, number: int) -> int:
        """Of the numbers of all."""
        return max(self._each(lambda: number))

    def sum_(self, t: Tensor) -> Tensor:
        """Puts the sum over all in the place of `t`."""
        if self.size > 1:
            with self.watched():
                dist.all_reduce(t)
        return t

    def check_same(self, tensors: Iterable[Tensor]) -> None:
        """Raises Apart unless all hold the same bits."""
        if self.size == 1:
            return
        sums = self._each(lambda: checksum(tensors))
        if len(set(sums)) > 1:
            raise Apart(f"the processes hold different weights, of checksums {sums}")

    def _each(self, work: Callable[[], T]) -> list[T]:
        if self.size == 1:
            return [work()]
        result: T | None = None
        problem: Exception | None = None
        try:
            result = work()
        except Exception as error:
            problem = error
        text = None if problem is None else f"{type(problem).__name__}: {problem}"
        answers: list[Any] = [None] * self.size
        with self.watched():
            dist.all_gather_object(answers, (text, result))
        problems = [text for text, _ in answers]
        if problem is not None and problems.index(text) == self.rank:
            raise problem
        if failed := [text for text in problems if text is not None]:
            raise PeerError(failed[0])
        return [result for _, result in answers]
