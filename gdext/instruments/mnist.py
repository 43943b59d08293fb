"""Gradient descent, mini-batch and one-sample SGD on MNIST: the loss over the whole training set
against epochs, samples seen and seconds of training."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from gdext import FusedTrainer, data
from gdext import nn as gdext_nn
from gdext.instruments import noise
from gdext.optim import SGD
from gdext.training.options import UsageError

HIDDEN = 32
# Points of a curve for each factor of 10 in samples.
POINTS_PER_DECADE = 8
# For the noise the first so many images are all there are: a gradient is taken of each.
NOISE_IMAGES = 10_000
NOISE_BATCHES = (1, 4, 16, 64, 256, 1024)


@dataclass(frozen=True)
class Method:
    """batch_size None: all samples."""

    name: str
    batch_size: int | None
    rates: dict[str, float]


METHODS = (
    Method("gradient descent", None, {"too small": 0.02, "right": 0.5, "too large": 5.0}),
    Method("mini-batches of 32", 32, {"too small": 0.003, "right": 0.2, "too large": 4.0}),
    Method("one sample", 1, {"too small": 0.0003, "right": 0.01, "too large": 0.3}),
)


@dataclass(frozen=True)
class Images:
    """pixels: uint8 [N, 784]. labels: int64 [N]."""

    pixels: Tensor
    labels: Tensor
    source: str

    @cached_property
    def floats(self) -> Tensor:
        """The pixels from 0 to 1, float32."""
        return self.pixels.float().div_(255)


def load(count: int | None) -> Images:
    """The first ``count`` training images, or all.

    Raises:
        UsageError: there are not so many. gdext.data.DataError, ImportError: there are none.
    """
    train = data.mnist()
    if count is not None and count > len(train.labels):
        raise UsageError(f"--images {count}: the training set has {len(train.labels)} samples")
    images = train.images[:count].flatten(1)
    return Images(images, train.labels[:count], train.source.partition(" from ")[0])


def run(images: Images, method: Method, rate: str, epochs: int, seed: int) -> dict[str, Any]:
    """One training run; its curve has a point at the start and several for each factor of 10 in
    samples. It ends early where the loss is no longer finite."""
    N = len(images.labels)
    B = min(method.batch_size or N, N)
    torch.manual_seed(seed)
    model = gdext_nn.MLP([images.pixels.shape[1], HIDDEN, 10])
    optimizer = SGD(model.parameters(), lr=method.rates[rate])
    trainer = FusedTrainer(model, optimizer, gdext_nn.CrossEntropyLoss())
    steps = epochs * math.ceil(N / B)
    order = torch.cat([_epoch(N, B, seed + n) for n in range(epochs)])
    done, loss = 0, loss_of(model, images)
    samples, seconds, losses = [0], [0.0], [loss]
    for stop in _checkpoints(steps):
        begin = time.perf_counter()
        trainer.run(images.pixels, images.labels, B, order=order[done * B : stop * B])
        taken = time.perf_counter() - begin
        loss, done = loss_of(model, images), stop
        if not math.isfinite(loss):
            break
        samples.append(done * B)
        seconds.append(seconds[-1] + taken)
        losses.append(loss)
    return {
        "method": method.name,
        "batch_size": B,
        "rate": rate,
        "gamma": method.rates[rate],
        "epochs": epochs,
        "finite": math.isfinite(loss),
        "curve": {"samples": samples, "seconds": seconds, "loss": losses},
    }


def gradient_noise(images: Images, epochs: int, seed: int) -> list[dict[str, Any]]:
    """The noise of one-sample and mini-batch gradients before training and after ``epochs``."""
    x = images.pixels[:NOISE_IMAGES].double().div_(255)
    y = images.labels[:NOISE_IMAGES]
    N = len(y)
    torch.manual_seed(seed)
    model = gdext_nn.MLP([x.shape[1], HIDDEN, 10], dtype=torch.float64)
    sizes = [B for B in NOISE_BATCHES if 2 * B <= N]
    generator = torch.Generator().manual_seed(seed)
    found = [{"epochs": 0} | noise.measure(model, x, y, sizes, generator)]
    optimizer = SGD(model.parameters(), lr=METHODS[1].rates["right"])
    trainer = FusedTrainer(model, optimizer, gdext_nn.CrossEntropyLoss())
    for _ in range(epochs):
        trainer.run(x, y, min(32, N), order=generator)
    found.append({"epochs": epochs} | noise.measure(model, x, y, sizes, generator))
    return found


def loss_of(model: torch.nn.Module, images: Images) -> float:
    """The mean cross entropy over all images, in nats."""
    with torch.no_grad():
        return float(gdext_nn.CrossEntropyLoss()(model(images.floats), images.labels))


def _epoch(N: int, B: int, seed: int) -> Tensor:
    """The samples of an epoch, [N], filled up from its start to whole batches."""
    order = torch.randperm(N, generator=torch.Generator().manual_seed(seed))
    return torch.cat([order, order[: -N % B]])


def _checkpoints(steps: int) -> list[int]:
    """Numbers of steps, evenly spaced on a logarithmic scale, ``steps`` the last."""
    count = math.ceil(POINTS_PER_DECADE * math.log10(steps))
    return sorted({round(steps ** (i / count)) for i in range(count)} | {steps}) if count else [1]
