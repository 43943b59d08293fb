"""What is trained: the networks, their batch sizes, and the samples they are fed."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cache
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from gdext.benchmark.precision import PRECISIONS

LEARNING_RATE = 0.01
FLOAT = 4  # bytes

ALL_BATCHES = (1, 8, 32, 128, 512, 4096)
MORE_BATCHES = (1, 8, 32, 64, 128, 256, 512, 4096)


@dataclass(frozen=True)
class Network:
    """An MLP, the loss it is trained with, its input: "dense" (normal random numbers) or "mnist"
    (pixels in [0, 1], four fifths of them zero), and its precision, of PRECISIONS."""

    sizes: tuple[int, ...]
    activation: str
    loss: str
    input: str = "dense"
    batches: tuple[int, ...] = ALL_BATCHES
    precision: str = "float32"

    @property
    def name(self) -> str:
        marks = [self.input] * (self.input != "dense")
        marks += [self.precision] * (self.precision != "float32")
        return ":".join(["-".join(map(str, self.sizes)), *marks])

    @property
    def dtype(self) -> torch.dtype:
        return PRECISIONS[self.precision].dtype

    @property
    def title(self) -> str:
        sizes = "-".join(map(str, self.sizes))
        loss = {"mse": "MSE", "cross_entropy": "cross entropy"}[self.loss]
        source = {"dense": "dense input", "mnist": "MNIST pixels"}[self.input]
        precision = "" if self.precision == "float32" else f", {self.precision}"
        return f"{sizes}, {self.activation}, {loss}, {source}{precision}"

    @property
    def layers(self) -> list[tuple[int, int]]:
        """(I, O) of each layer."""
        return list(pairwise(self.sizes))

    @property
    def weights(self) -> int:
        return sum(i * o for i, o in self.layers)

    @property
    def parameters(self) -> int:
        return self.weights + sum(self.sizes[1:])

    def flops(self, batch: int) -> int:
        """Of one training step. Each layer has three products of 2 B I O operations, y = x w^T,
        dw = dz^T x and dx = dz w, but that the first one's dx is not needed. What else there is
        (activations, the loss, the update) is small beside them and is left out."""
        first = self.sizes[0] * self.sizes[1]
        return 2 * batch * (3 * self.weights - first)

    def bytes(self, batch: int) -> int:
        """That one training step must move: each parameter is read and written, each input read."""
        return self.dtype.itemsize * (2 * self.parameters + batch * self.sizes[0])

    @property
    def working_set(self) -> int:
        return self.dtype.itemsize * self.parameters


NETWORKS = {
    network.name: network
    for network in (
        Network((4, 64, 64, 2), "tanh", "mse", batches=MORE_BATCHES),
        Network((8, 64, 64, 4), "tanh", "mse", batches=MORE_BATCHES),
        Network((32, 64, 64, 8), "tanh", "mse", batches=MORE_BATCHES),
        Network((32, 256, 256, 8), "relu", "mse", batches=MORE_BATCHES),
        Network((784, 512, 512, 10), "relu", "cross_entropy"),
        Network((784, 512, 512, 10), "relu", "cross_entropy", "mnist"),
        Network((784, 1000, 500, 10), "relu", "cross_entropy"),
        Network((784, 1024, 1024, 1024, 1024, 10), "relu", "cross_entropy"),
    )
}

WIDE = "784-1024-1024-1024-1024-10"
LOW_PRECISION = (f"{WIDE}:tf32", f"{WIDE}:bf16")


def find(name: str) -> Network | None:
    """The network of that name: of NETWORKS, or one of those with its precision after a colon."""
    base, _, precision = name.rpartition(":")
    if name not in NETWORKS and base in NETWORKS and precision in PRECISIONS:
        return replace(NETWORKS[base], precision=precision)
    return NETWORKS.get(name)


# Those in the README; the others are in benchmark.md alone.
FEATURED = ("8-64-64-4", "32-256-256-8", "784-512-512-10", "784-512-512-10:mnist")


def of_device(device: str, names: Iterable[str]) -> list[str]:
    """`names`, and on a GPU those in the precisions of its matrix units."""
    return [*names, *(LOW_PRECISION if device == "cuda" else ())]


@dataclass(frozen=True)
class Case:
    """One pass of a network over a handful of batches: what every contestant does in a turn.

    inputs: [steps B, I]; targets: int64 [steps B] or [steps B, O]; initial: the parameters to start
    from, w [O,I] and b [O] of each layer in turn.
    """

    network: Network
    batch: int
    steps: int
    inputs: Tensor
    targets: Tensor
    initial: list[Tensor]

    @property
    def device(self) -> str:
        return self.inputs.device.type

    @property
    def batches(self) -> list[tuple[Tensor, Tensor]]:
        inputs, targets = self.inputs.split(self.batch), self.targets.split(self.batch)
        return list(zip(inputs, targets, strict=True))


def make_case(network: Network, batch: int, steps: int, device: str = "cpu") -> Case:
    """The same numbers on every device."""
    count = steps * batch
    random = torch.Generator().manual_seed(1)
    outputs = network.sizes[-1]
    if network.input == "mnist":
        pixels, labels, _ = mnist()
        chosen = torch.randint(len(pixels), (count,), generator=random)
        inputs, targets = pixels[chosen], labels[chosen]
    else:
        inputs = torch.randn(count, network.sizes[0], generator=random)
        if network.loss == "mse":
            targets = torch.randn(count, outputs, generator=random)
        else:
            targets = torch.randint(outputs, (count,), generator=random)
    initial = []
    for i, o in network.layers:  # torch.nn.Linear's initialisation
        for shape in ((o, i), (o,)):
            initial.append((torch.rand(shape, generator=random) * 2 - 1) / i**0.5)

    def place(t: Tensor) -> Tensor:
        return t.to(device, network.dtype if t.is_floating_point() else t.dtype)

    return Case(network, batch, steps, place(inputs), place(targets), [place(p) for p in initial])


class Digits(NamedTuple):
    """pixels: [N, 784] in [0, 1]; labels: int64 [N]; source: what they are."""

    pixels: Tensor
    labels: Tensor
    source: str


@cache
def mnist() -> Digits:
    """MNIST's training images, or, where they are not to be had, made-up ones."""
    from gdext import data

    try:
        train = data.mnist(download=False)
    except (data.DataError, ImportError) as error:
        print(f"MNIST is not there, made-up pixels stand in: {error}", file=sys.stderr)
        return made_up_digits(4096)
    return Digits(train.images.flatten(1) / 255, train.labels, "MNIST's training images")


def made_up_digits(count: int) -> Digits:
    """As in MNIST, 19% of the pixels are not zero, and those all lie in the middle 20 x 20."""
    random = torch.Generator().manual_seed(2)
    ink = torch.rand(count, 20, 20, generator=random)
    ink *= torch.rand(count, 20, 20, generator=random) < 0.19 * 28 * 28 / 20**2
    pixels = torch.zeros(count, 28, 28)
    pixels[:, 4:24, 4:24] = ink
    labels = torch.randint(10, (count,), generator=random)
    return Digits(pixels.flatten(1), labels, "made up, as sparse as MNIST's")
