"""Gradient descent and SGD in a plane: v = p[0] + p[1] u through N points, by least squares.

    C(p) = 1/N sum_i (p[0] + p[1] u_i - v_i)^2        H = 2/N sum_i [[1, u_i], [u_i, u_i^2]]

Gradient descent converges for gamma < 2 / lambda, the largest eigenvalue of the Hessian H. SGD is
the same descent on a C that is drawn anew for each step: B samples out of N.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gdext import functional, gradients
from gdext import nn as gdext_nn
from gdext.descent import DivergenceError, descend

SAMPLES = 200
TRUTH, NOISE = (1.0, -2.0), 0.7
START = (-2.0, 1.5)
STEPS = 80
BATCHES = {"gradient descent": SAMPLES, "mini-batches of 16": 16, "one sample": 1}
# Learning rates as shares of 2 / lambda.
RATES = {"too small": 0.02, "right": 0.3, "too large": 1.03}


@dataclass(frozen=True)
class Problem:
    """u, v: float64 [N]."""

    u: Tensor
    v: Tensor

    def cost(self, p: Tensor, samples: Tensor | slice = slice(None)) -> Tensor:
        """C of p [2] on these samples, by gdext's layer and loss."""
        line = functional.linear(self.u[samples, None], p[1:, None], p[:1])
        return functional.mse_loss(line, self.v[samples, None])

    def hessian(self) -> Tensor:
        """H, [2, 2]."""
        features = torch.stack([torch.ones_like(self.u), self.u])
        return 2 / len(self.u) * features @ features.T

    def minimum(self) -> Tensor:
        """The p [2] of the least C."""
        features = torch.stack([torch.ones_like(self.u), self.u], dim=1)
        return torch.linalg.lstsq(features, self.v[:, None]).solution[:, 0]


def problem(seed: int) -> Problem:
    generator = torch.Generator().manual_seed(seed)
    u = 2 * torch.rand(SAMPLES, generator=generator, dtype=torch.float64)
    noise = NOISE * torch.randn(SAMPLES, generator=generator, dtype=torch.float64)
    return Problem(u, TRUTH[0] + TRUTH[1] * u + noise)


def run(seed: int) -> dict[str, Any]:
    """A trajectory for each batch size and learning rate, and the one-sample gradients at START."""
    given = problem(seed)
    minimum, limit = given.minimum(), 2 / float(torch.linalg.eigvalsh(given.hessian())[-1])
    return {
        "samples": SAMPLES,
        "u": given.u.tolist(),
        "v": given.v.tolist(),
        "minimum": minimum.tolist(),
        "least_cost": float(given.cost(minimum)),
        "hessian": given.hessian().tolist(),
        "largest_stable_rate": limit,
        "trajectories": [
            {"method": name, "batch_size": B, "rate": rate, "gamma": share * limit}
            | _trajectory(given, B, share * limit, seed)
            for rate, share in RATES.items()
            for name, B in BATCHES.items()
        ],
        "gradients": _gradients(given),
    }


def _trajectory(given: Problem, B: int, gamma: float, seed: int) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(seed)

    def cost(p: Tensor) -> Tensor:
        if B == SAMPLES:
            return given.cost(p)
        return given.cost(p, torch.randperm(SAMPLES, generator=generator)[:B])

    start, diverged = torch.tensor(START, dtype=torch.float64), None
    try:
        trajectory = descend(cost, start, gamma, STEPS)
    except DivergenceError as error:
        trajectory, diverged = error.trajectory, str(error)
    costs = [float(given.cost(p)) for p in trajectory.points]
    return {"points": trajectory.points.tolist(), "costs": costs, "diverged": diverged}


def _gradients(given: Problem) -> dict[str, Any]:
    """At START: the gradient of each sample by itself, [N, 2], and the full one."""
    model = gdext_nn.MLP([1, 1], dtype=torch.float64)
    with torch.no_grad():
        model[0].bias.fill_(START[0])
        model[0].weight.fill_(START[1])

    def gradient(samples: slice) -> Tensor:
        x, y = given.u[samples, None], given.v[samples, None]
        found = gradients.backprop(model, gdext_nn.MSELoss(), x, y).grads
        return torch.cat([found["0.bias"], found["0.weight"][0]])

    each = torch.stack([gradient(slice(i, i + 1)) for i in range(SAMPLES)])
    full = gradient(slice(None))
    off = (each - full).square().sum(dim=1).mean().sqrt() / full.norm()
    return {
        "each": each.tolist(),
        "full": full.tolist(),
        "mean": each.mean(dim=0).tolist(),
        "bias": float((each.mean(dim=0) - full).norm() / full.norm()),
        "deviation": float(off),
    }
