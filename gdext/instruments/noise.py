"""One-sample and mini-batch gradients around the full gradient of a network: unbiased, and noisy.

With g_i the gradient of sample i alone and g the full one, g = 1/N sum_i g_i. The mean of B samples
drawn from the N has the mean g and, around it, the variance

    E |g_B - g|^2 = s^2 / B (N - B) / (N - 1),        s^2 = 1/N sum_i |g_i - g|^2
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from gdext import gradients
from gdext import nn as gdext_nn


def measure(
    model: nn.Module, x: Tensor, y: Tensor, sizes: Sequence[int], generator: torch.Generator
) -> dict[str, Any]:
    """Deviations of batches from the full gradient, relative to its norm.

    Args:
        model: float64. x: [N, I], float64. y: [N] classes.
        sizes: B of the batches to measure; of each as many disjoint batches as N allows.

    Returns:
        full: |g|. deviation: s / |g|. bias: |1/N sum_i g_i - g| / |g|, rounding alone if the
        estimate is unbiased. batches: for each B, {"batch_size", "deviation", "expected"}: the root
        of the mean of |g_B - g|^2 / |g|^2, as measured and by the formula above.
    """
    N = len(x)
    full = _gradient(model, x, y)
    norm = full.norm()
    sums = {B: torch.zeros_like(full) for B in sizes}
    squares = dict.fromkeys(sizes, 0.0)
    total, variance = torch.zeros_like(full), 0.0
    for count, i in enumerate(torch.randperm(N, generator=generator).tolist(), 1):
        g = _gradient(model, x[i : i + 1], y[i : i + 1])
        total += g
        variance += float((g - full).square().sum()) / N
        for B, partial in sums.items():
            partial += g
            if count % B == 0:
                squares[B] += float((partial / B - full).square().sum())
                partial.zero_()
    return {
        "samples": N,
        "full": float(norm),
        "bias": float((total / N - full).norm() / norm),
        "deviation": variance**0.5 / float(norm),
        "batches": [
            {
                "batch_size": B,
                "deviation": (squares[B] / (N // B)) ** 0.5 / float(norm),
                "expected": (variance / B * (N - B) / max(N - 1, 1)) ** 0.5 / float(norm),
            }
            for B in sizes
        ],
    }


def _gradient(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    found = gradients.backprop(model, gdext_nn.CrossEntropyLoss(), x, y)
    return torch.cat([g.reshape(-1) for g in found.grads.values()])
