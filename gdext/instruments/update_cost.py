"""The cost of one SGD update against the number of layers, for each engine of gdext.gradients.

An update is a gradient and the step that gdext.optim.SGD takes with it, one sample, float64. All
engines take turns, on the same networks: L layers of one width, tanh between them.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from gdext import gradients
from gdext import nn as gdext_nn
from gdext.optim import SGD

LEAST_ROUNDS = 3
# A round repeats its update for at least so many seconds, and takes the mean.
TURN = 0.01


@dataclass(frozen=True)
class Effort:
    """rounds: how often each point is measured. budget: seconds for each point, all of its rounds
    together; one that would need more even for LEAST_ROUNDS is left out, and so are all larger."""

    rounds: int
    budget: float


class Point(NamedTuple):
    """seconds: of one update, once for each round. multiplications: as counted."""

    engine: str
    layers: int
    seconds: list[float]
    multiplications: int


class Fit(NamedTuple):
    """seconds = factor L base^L, through the points from ``first`` to ``last`` layers."""

    factor: float
    base: float
    first: int
    last: int

    def seconds(self, layers: float) -> float:
        return self.factor * layers * self.base**layers


def measure(width: int, layers: int, effort: Effort, seed: int) -> Iterator[Point]:
    """Points of 1, 2, ... ``layers`` layers, of each engine as far as it is feasible."""
    feasible = list(gradients.ENGINES)
    last: dict[str, Point] = {}
    _update_seconds("backprop", *_problem(width, 1, seed))  # the first calls of all are slow
    for L in range(1, layers + 1):
        model, x, y = _problem(width, L, seed)
        rounds = {}
        for engine in feasible:
            expected = _expected_seconds(last.get(engine), model)
            rounds[engine] = min(effort.rounds, int(effort.budget / expected))
        feasible = [
            engine
            for engine in feasible
            if rounds[engine] >= min(LEAST_ROUNDS, effort.rounds)
            and (engine != "path_sum" or gradients.path_count(model) <= gradients.PATH_LIMIT)
        ]
        seconds: dict[str, list[float]] = {engine: [] for engine in feasible}
        counts = {}
        for n in range(effort.rounds):
            for engine in feasible:
                if n < rounds[engine]:
                    taken, counts[engine] = _update_seconds(engine, model, x, y)
                    seconds[engine].append(taken)
        for engine in feasible:
            last[engine] = Point(engine, L, seconds[engine], counts[engine])
            yield last[engine]


def fit(points: list[Point]) -> Fit:
    """Least squares in log(seconds / L), on the upper third of the points' layers: below, the time
    is that of the calls and not of the arithmetic.

    Raises:
        ValueError: there is only one such point, or none.
    """
    last = max((p.layers for p in points), default=0)
    upper = [p for p in points if 3 * p.layers > 2 * last]
    if len(upper) < 2:
        raise ValueError(f"wanted 4 or more points to fit, got {len(points)}")
    L = [p.layers for p in upper]
    logs = [math.log(statistics.median(p.seconds) / p.layers) for p in upper]
    slope, constant = np.polyfit(L, logs, 1)
    return Fit(math.exp(constant), math.exp(slope), L[0], last)


def claims(fits: dict[str, Fit], width: int, layers: int) -> dict[str, Any]:
    """What the picture says, in numbers: exp(L) / L, and how many times as long path_sum takes as
    backprop by the fits and by the multiplications."""
    sizes = [width] * (layers + 1)
    path_sum, backprop = fits["path_sum"], fits["backprop"]
    return {
        "layers": layers,
        "width": width,
        "exp(L)/L": math.exp(layers) / layers,
        "path_sum/backprop, seconds by the fits": path_sum.seconds(layers)
        / backprop.seconds(layers),
        "path_sum/backprop, multiplications": gradients.cost("path_sum", sizes)
        / gradients.cost("backprop", sizes),
        "path_sum, seconds by the fit": path_sum.seconds(layers),
        "backprop, seconds by the fit": backprop.seconds(layers),
    }


def _problem(width: int, layers: int, seed: int) -> tuple[nn.Module, Tensor, Tensor]:
    torch.manual_seed(seed)
    model = gdext_nn.MLP([width] * (layers + 1), "tanh", dtype=torch.float64)
    x, y = torch.randn(2, 1, width, dtype=torch.float64)
    return model, x, y


def _expected_seconds(smaller: Point | None, model: nn.Module) -> float:
    """By the time of the network with a layer less, and the multiplications."""
    if smaller is None:
        return TURN
    growth = gradients.cost(smaller.engine, model) / smaller.multiplications
    return statistics.median(smaller.seconds) * growth + TURN


def _update_seconds(engine: str, model: nn.Module, x: Tensor, y: Tensor) -> tuple[float, int]:
    """The mean seconds of an update, checks of arguments left out, and its multiplications."""
    optimizer = SGD(model.parameters(), lr=1e-3)
    seconds: list[float] = []
    while sum(seconds) < TURN:
        found = gradients.compute(engine, model, gdext_nn.MSELoss(), x, y)
        for name, p in model.named_parameters():
            p.grad = found.grads[name]
        begin = time.perf_counter()
        optimizer.step()
        seconds.append(found.seconds + time.perf_counter() - begin)
    return statistics.mean(seconds), found.multiplications
