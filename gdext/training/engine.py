"""The engines: who runs the forward pass, the backward pass and the update.

An engine is a model, its optimizer, and `train`, which takes as many SGD steps as the given order
of samples has batches. All engines start from the same weights for the same seed, and their
state_dicts have the same keys ("0.weight", "0.bias", "1.weight", ...), so that a run can change
engines at a checkpoint.
"""

from __future__ import annotations

from argparse import Namespace
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.optim import lr_scheduler

DTYPES = {
    "float32": torch.float32,
    "float64": torch.float64,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


class ScaledTanh(nn.Module):
    """1.7159 tanh(2/3 a), after LeCun et al., "Efficient BackProp" (1998)."""

    def forward(self, a: Tensor) -> Tensor:
        return 1.7159 * torch.tanh(2 / 3 * a)


ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "identity": nn.Identity,
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "elu": nn.ELU,
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
    "scaled_tanh": ScaledTanh,
    "softplus": nn.Softplus,
    "silu": nn.SiLU,
    "gelu": nn.GELU,
    "gelu_tanh": lambda: nn.GELU(approximate="tanh"),
}


@dataclass
class Engine:
    """Ordinary PyTorch steps over any model, optimizer and loss."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    loss: nn.Module

    def train(self, inputs: Tensor, targets: Tensor, order: Tensor, batch_size: int) -> Tensor:
        """One SGD step per batch of `order`; the last batch may be short.

        Args:
            inputs: [N, I]; targets: int64 [N] (cross entropy) or [N, C] (mse).
            order: int64 [M], the samples to take, M >= 1.

        Returns:
            float64 [ceil(M / batch_size)], each step's mean loss, before its update.
        """
        losses = []
        for batch in order.split(batch_size):
            loss = self.loss(self.model(inputs[batch]), targets[batch])
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            self.optimizer.step()
            losses.append(loss.detach())
        return torch.stack(losses).double()


def _layers(sizes: list[int], activation: str, loss: str) -> tuple[nn.Module, type, nn.Module]:
    import gdext.nn
    import gdext.optim

    losses = {"cross_entropy": gdext.nn.CrossEntropyLoss, "mse": gdext.nn.MSELoss}
    return gdext.nn.MLP(sizes, activation=activation), gdext.optim.SGD, losses[loss]()


def _torch(sizes: list[int], activation: str, loss: str) -> tuple[nn.Module, type, nn.Module]:
    modules: OrderedDict[str, nn.Module] = OrderedDict()
    for i, (fan_in, fan_out) in enumerate(pairwise(sizes)):
        modules[str(i)] = nn.Linear(fan_in, fan_out)
        if i < len(sizes) - 2:
            modules[f"{activation}{i}"] = ACTIVATIONS[activation]()
    return nn.Sequential(modules), torch.optim.SGD, LOSSES[loss]()


LOSSES: dict[str, Callable[[], nn.Module]] = {
    "cross_entropy": nn.CrossEntropyLoss,
    "mse": nn.MSELoss,
}
ENGINES = {"layers": _layers, "torch": _torch}


def build(options: Namespace, device: torch.device) -> Engine:
    """The engine that `options` ask for. Weights are drawn on the CPU in float32, then converted:
    a seed means the same network for every engine, device and (up to rounding) dtype.

    Raises:
        ImportError: --engine layers and gdext's extension module cannot be loaded.
    """
    torch.manual_seed(options.seed)
    sizes = [28 * 28, *options.hidden, 10]
    model, sgd, loss = ENGINES[options.engine](sizes, options.activation, options.loss)
    model.to(device=device, dtype=DTYPES[options.dtype])
    optimizer = sgd(
        model.parameters(),
        lr=options.lr,
        momentum=options.momentum,
        weight_decay=options.weight_decay,
        nesterov=options.nesterov,
    )
    return Engine(model, optimizer, loss)


SCHEDULES: dict[str, Callable[[torch.optim.Optimizer, int], lr_scheduler.LRScheduler]] = {
    "constant": lambda sgd, epochs: lr_scheduler.ConstantLR(sgd, factor=1.0, total_iters=0),
    "step": lambda sgd, epochs: lr_scheduler.StepLR(sgd, step_size=-(-epochs // 3), gamma=0.1),
    "exponential": lambda sgd, epochs: lr_scheduler.ExponentialLR(sgd, gamma=0.01 ** (1 / epochs)),
    "cosine": lambda sgd, epochs: lr_scheduler.CosineAnnealingLR(sgd, T_max=epochs),
}
