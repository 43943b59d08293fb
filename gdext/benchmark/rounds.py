"""Taking time: all contestants in turn, several rounds, so that whatever the machine does meanwhile
(another process, a change of clock frequency) meets all of them alike."""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from gdext.benchmark import gpu, limits
from gdext.benchmark.results import Row

# Does the work so many times in a row and returns the seconds that all of them took.
Timer = Callable[[int], float]

# Before a turn. Threads that have no more to do look out for more before they sleep: those of
# PyTorch (GNU's OpenMP) for 7 ms, as measured, on processors that the next contestant's threads
# need.
PAUSE = 0.02


class Unavailable(Exception):
    """A contestant cannot take part, or no longer; the message says why."""


class OtherWork(Unavailable):
    """A contestant does not do the work that it is compared on: where it is gdext's, a fault."""


@dataclass(frozen=True)
class Effort:
    """How long to measure: `rounds`, turns of at least `turn` seconds, limits for `limit` seconds.
    A turn of training steps has `flops` operations, `samples` samples or `steps` steps, whichever
    is the most."""

    rounds: int
    turn: float
    limit: float
    flops: float
    samples: int
    steps: int


THOROUGH = Effort(rounds=5, turn=0.03, limit=0.02, flops=2e10, samples=2048, steps=16)
QUICK = Effort(rounds=3, turn=0.005, limit=0.005, flops=5e8, samples=2048, steps=1)


def timer(work: Callable[[], object], device: str = "cpu") -> Timer:
    """What a user waits for: on a GPU from when it is idle until it is idle again."""
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None

    def time_work(repeats: int) -> float:
        wait()
        begin = time.perf_counter()
        for _ in range(repeats):
            work()
        wait()
        return time.perf_counter() - begin

    return time_work


def measure(
    row: Row, timers: dict[str, Timer], working_set: int, effort: Effort, device: str = "cpu"
) -> Row:
    """Fills in row.times and row.limits, and row.notes of who drops out on the way.

    Args:
        timers: of each contestant.
        working_set: bytes that are read and written again and again: the smaller, the nearer the
            cache they stay in, and the higher the bandwidth.
    """
    arithmetic, traffic = _limit_timers(row, working_set, effort.limit, device)
    everyone = {"arithmetic": arithmetic, "traffic": traffic, **timers}
    repeats = {}
    for name, timer in list(everyone.items()):
        try:
            seconds = timer(1)
            if seconds < effort.turn:
                seconds = timer(1)  # warm now
        except Unavailable as error:
            row.notes[name] = str(error)
            del everyone[name]
            continue
        repeats[name] = max(1, math.ceil(effort.turn / max(seconds, 1e-9)))
    times: dict[str, list[float]] = {name: [] for name in everyone}
    names = list(everyone)
    gc.collect()
    gc.disable()
    try:
        for i in range(effort.rounds):
            start = i % len(names)
            for name in names[start:] + names[:start]:
                if name not in times:
                    continue
                time.sleep(PAUSE)
                try:
                    times[name].append(everyone[name](repeats[name]) / repeats[name])
                except Unavailable as error:  # without the rounds that it did take part in
                    row.notes[name] = str(error)
                    del times[name]
    finally:
        gc.enable()
    row.limits = {name: times.pop(name) for name in ("arithmetic", "traffic")}
    row.times = times
    return row


def _limit_timers(row: Row, working_set: int, seconds: float, device: str) -> tuple[Timer, Timer]:
    """The work at the machine's limits. They measure a rate, whatever the repeats."""
    if device == "cuda":
        rate, bandwidth = gpu.arithmetic_rate, gpu.update_rate
    else:
        rate, bandwidth = limits.arithmetic_rate, torch.ops.gdext._bandwidth

    def arithmetic(repeats: int) -> float:
        return repeats * row.flops / rate(row.precision, seconds)

    def traffic(repeats: int) -> float:
        return repeats * row.bytes / bandwidth(max(working_set, 1024), seconds)

    return arithmetic, traffic
