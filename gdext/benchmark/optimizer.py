"""The SGD update alone: many tensors, large tensors, with momentum and without."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch

import gdext.optim
from gdext.benchmark import rounds
from gdext.benchmark.networks import FLOAT
from gdext.benchmark.results import Row
from gdext.benchmark.rounds import Effort, timer

# (tensors, elements of each)
LISTS = [
    (1, 10),
    (1, 10_000),
    (1, 1_000_000),
    (1, 100_000_000),
    (6, 100_000),
    (10, 10),
    (100, 100),
    (100, 10_000),
    (1000, 10),
    (1000, 1_000),
    (1000, 100_000),
    (5000, 1_000),
]

REFERENCE = "torch fused"
STEPS = 3  # of the check: the first makes the momentum, the others use it
PIECE = 2**20


def run(
    effort: Effort,
    most_elements: int,
    device: str = "cpu",
    lists: Sequence[tuple[int, int]] | None = None,
) -> Iterator[Row]:
    """Lists (default: LISTS) of more than `most_elements` elements are left out."""
    for tensors, elements in LISTS if lists is None else lists:
        if tensors * elements <= most_elements:
            for momentum in (0.0, 0.9):
                yield _compare(tensors, elements, momentum, effort, device)


def _compare(
    tensors: int, elements: int, momentum: float, effort: Effort, device: str = "cpu"
) -> Row:
    params = [torch.empty(elements, requires_grad=True, device=device) for _ in range(tensors)]
    for p in params:
        p.grad = torch.linspace(0.5, 1.5, elements, device=device)
    # All update the same parameters, so that there is room for the largest.
    contestants = {
        "gdext": gdext.optim.SGD(params, lr=0.01, momentum=momentum),
        "torch fused": torch.optim.SGD(params, lr=0.01, momentum=momentum, fused=True),
        "torch foreach": torch.optim.SGD(params, lr=0.01, momentum=momentum, foreach=True),
    }
    # p is read and written, g is read, and m is read and written.
    total, moved = tensors * elements, 5 if momentum else 3
    row = Row(
        "optimizer",
        f"momentum {momentum:g}",
        f"{tensors:,} x {elements:,}, momentum {momentum:g}",
        flops=(4 if momentum else 2) * total,
        bytes=FLOAT * moved * total,
    )
    row.notes = other_work(params, contestants)
    row.other_work = [*row.notes]
    timers = {
        name: timer(sgd.step, device) for name, sgd in contestants.items() if name not in row.notes
    }
    return rounds.measure(row, timers, FLOAT * total * (3 if momentum else 2), effort, device)


def other_work(
    params: list[torch.Tensor], contestants: Mapping[str, torch.optim.Optimizer]
) -> dict[str, str]:
    """Of each contestant whose few steps do not end at the parameters of REFERENCE's: that."""
    wanted: list[torch.Tensor] = []
    notes = {}
    for name in (REFERENCE, *(name for name in contestants if name != REFERENCE)):
        _start(params)
        for _ in range(STEPS):
            contestants[name].step()
        if name == REFERENCE:
            wanted = [p.detach().clone() for p in params]
        elif not all(map(_close, params, wanted)):
            notes[name] = f"ends at other parameters than {REFERENCE}"
    return notes


def _start(params: list[torch.Tensor]) -> None:
    """Other values in every element and tensor, so that none can stand in for another."""
    for i, p in enumerate(params):
        torch.linspace(-1, 1 + i / len(params), len(p), out=p.detach())


def _close(p: torch.Tensor, wanted: torch.Tensor) -> bool:
    """In pieces: allclose needs several times the memory of what it is given."""
    pairs = zip(p.detach().split(PIECE), wanted.split(PIECE), strict=True)
    return all(torch.allclose(a, b, rtol=1e-6, atol=1e-6) for a, b in pairs)
