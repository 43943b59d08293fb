"""Functions of gdext beside PyTorch's, as pure functions of their tensors, for tests that apply the
same transform to both."""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from inputs import randn

import gdext.functional as G

ACTIVATION = {
    "identity": lambda z: z,
    "relu": F.relu,
    "leaky_relu": F.leaky_relu,
    "elu": F.elu,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "scaled_tanh": lambda z: 1.7159 * torch.tanh(2 / 3 * z),
    "softplus": F.softplus,
    "silu": F.silu,
    "gelu": F.gelu,
    "gelu_tanh": lambda z: F.gelu(z, approximate="tanh"),
}


class Pair(NamedTuple):
    """One function twice, and the shapes of the tensors that it is differentiated by."""

    ours: Callable[..., torch.Tensor]
    theirs: Callable[..., torch.Tensor]
    shapes: tuple[tuple[int, ...], ...]

    def arguments(self, device: str, dtype=torch.float64) -> tuple[torch.Tensor, ...]:
        return tuple(
            randn(*shape, dtype=dtype, device=device, seed=i) for i, shape in enumerate(self.shapes)
        )


def _layer(activation: str) -> Pair:
    return Pair(
        lambda x, w, b: G.linear(x, w, b, activation),
        lambda x, w, b: ACTIVATION[activation](F.linear(x, w, b)),
        ((3, 4), (5, 4), (5,)),
    )


def _classes(x: torch.Tensor) -> torch.Tensor:
    """One of them ignored; the others in range for 4 classes."""
    return torch.tensor([2, -100, 0], device=x.device)


def _class_weight(x: torch.Tensor) -> torch.Tensor:
    return torch.tensor([0.5, 1.0, 2.0, 0.25], device=x.device, dtype=x.dtype)


def _loss(name: str) -> Pair:
    kind, reduction = name.split(", ")

    def call(library):
        if kind == "mse":
            return lambda x, t: library.mse_loss(x, t, reduction=reduction)
        if kind == "weighted mse":
            return lambda x, t: library.mse_loss(
                x, t, reduction=reduction, weight=torch.linspace(0.5, 2, 12).to(x).reshape(3, 4)
            )
        if kind == "classes":
            return lambda x: library.cross_entropy(
                x, _classes(x), _class_weight(x), reduction=reduction, label_smoothing=0.1
            )
        return lambda x, t: library.cross_entropy(
            x, t.softmax(1), _class_weight(x), reduction=reduction, label_smoothing=0.1
        )

    return Pair(call(G), call(F), ((3, 4),) if kind == "classes" else ((3, 4), (3, 4)))


KINDS = ("mse", "weighted mse", "classes", "probabilities")
LOSSES = {
    name: _loss(name)
    for name in (f"{kind}, {reduction}" for kind in KINDS for reduction in ("mean", "sum", "none"))
}
LAYERS = {activation: _layer(activation) for activation in ACTIVATION}
PAIRS = {**LAYERS, **LOSSES}
# One of each kind that has code of its own.
FEW = {
    name: PAIRS[name]
    for name in (
        "identity",
        "relu",
        "tanh",
        "gelu",
        "mse, mean",
        "weighted mse, none",
        "classes, mean",
        "classes, none",
        "probabilities, mean",
    )
}
