"""What a benchmark keeps, and the arithmetic done with it: nothing here measures anything."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field
from typing import NamedTuple

# Quartiles of the machine's own limit further apart than this: something else was running.
QUIET = 1.15

# The contestant that the others' speed is given in multiples of.
BASELINE = {"steps": "eager", "epoch": "fused", "ops": "torch", "optimizer": "torch fused"}


@dataclass
class Row:
    """One comparison: the same work, done by every contestant in each round.

    section: "steps", "epoch", "ops" or "optimizer"; group, label: what the work is; batch: samples
    per step (steps and epoch only); precision: of precision.py.
    flops: floating-point operations that the work needs; bytes: what must be read and written at
    least.
    times: seconds that the work took each contestant, one number for each round.
    limits: seconds that it would take the machine at its peak of multiply-adds in that precision
    ("arithmetic") and at its memory bandwidth ("traffic"), both measured anew in each round.
    notes: why a contestant has no times. other_work: those of them that were left out because they
    did other work than the rest.
    """

    section: str
    group: str
    label: str
    flops: float
    bytes: float
    batch: int | None = None
    precision: str = "float32"
    times: dict[str, list[float]] = field(default_factory=dict)
    limits: dict[str, list[float]] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)
    other_work: list[str] = field(default_factory=list)


class Spread(NamedTuple):
    """The median and the quartiles around it."""

    low: float
    median: float
    high: float


class Floor(NamedTuple):
    """The least seconds the machine needs, and what keeps it from less."""

    seconds: float
    bound: str


def spread(times: list[float]) -> Spread:
    if len(times) == 1:
        return Spread(times[0], times[0], times[0])
    low, median, high = statistics.quantiles(times, n=4, method="inclusive")
    return Spread(low, median, high)


def floor(row: Row) -> Floor:
    """The larger of the row's limits: arithmetic and traffic can overlap, so not their sum."""
    seconds, bound = max((statistics.median(times), name) for name, times in row.limits.items())
    return Floor(seconds, bound)


def share_of_limit(row: Row, contestant: str) -> float:
    """How near to the floor: 1 is the machine's limit, 0.5 takes twice as long."""
    return floor(row).seconds / statistics.median(row.times[contestant])


def disturbed(row: Row) -> bool:
    """Whether the machine itself was slower in some rounds than in others."""
    low, _, high = spread(row.limits[floor(row).bound])
    return high > QUIET * low


def speed(row: Row, contestant: str, than: str) -> float:
    """How many times as fast `contestant` is as `than`: the ratio of their medians."""
    return statistics.median(row.times[than]) / statistics.median(row.times[contestant])
