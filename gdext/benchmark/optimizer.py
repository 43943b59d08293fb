"""The SGD update alone: many tensors, large tensors, with momentum and without."""

from __future__ import annotations

from collections.abc import Iterator

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
]


def run(effort: Effort, most_elements: int) -> Iterator[Row]:
    """Lists of more than `most_elements` elements are left out."""
    for tensors, elements in LISTS:
        if tensors * elements <= most_elements:
            for momentum in (0.0, 0.9):
                yield _compare(tensors, elements, momentum, effort)


def _compare(tensors: int, elements: int, momentum: float, effort: Effort) -> Row:
    params = [torch.ones(elements, requires_grad=True) for _ in range(tensors)]
    for p in params:
        p.grad = torch.full_like(p, 1e-3)
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
    timers = {name: timer(sgd.step) for name, sgd in contestants.items()}
    return rounds.measure(row, timers, FLOAT * total * (3 if momentum else 2), effort)
