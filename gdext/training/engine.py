"""The engines: who runs the forward pass, the backward pass and the update.

An engine is a model, its optimizer, and `train`, which takes as many SGD steps as the given order
of samples has batches. "fused" has them taken by gdext.FusedTrainer, the others by an ordinary loop
over gdext's layers and over PyTorch's own. Several processes take each step together: sample i of a
batch is that of process i modulo their number. All engines start from the same weights for the same
seed, and their state_dicts have the same keys ("0.weight", "0.bias", "1.weight", ...), so that a
run can change engines at a checkpoint.
"""

from __future__ import annotations

import math
from argparse import Namespace
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from gdext import FusedTrainer
    from gdext.training.processes import Processes

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


# How many steps and samples an engine trains between two looks at the stop signal: enough to keep
# Python out of its way, and little enough for Ctrl-C to act at once.
CHUNKS = {"fused": (16384, 16384), "layers": (256, 2048), "torch": (256, 2048)}


@dataclass
class Engine:
    """Steps of SGD: by `trainer` where there is one, else PyTorch's ordinary steps."""

    name: str
    model: nn.Module
    optimizer: torch.optim.Optimizer
    loss: nn.Module
    trainer: FusedTrainer | None
    processes: Processes

    def __post_init__(self) -> None:
        self._forward: nn.Module = self.model
        if self.processes.size > 1 and self.trainer is None:
            self._forward = nn.parallel.DistributedDataParallel(self.model)

    def train(
        self, inputs: Tensor, targets: Tensor, order: Tensor, batch_size: int, lr: Tensor
    ) -> Tensor:
        """One SGD step per batch of `order`; the last batch may be short.

        Args:
            inputs: [N, I]; targets: int64 [N] (cross entropy) or [N, C] (mse).
            order: int64 [M], the samples to take, M >= 1.
            lr: float64 [ceil(M / batch_size)], the learning rate of each step.

        Returns:
            float64 [ceil(M / batch_size)], each step's mean loss, before its update.
        """
        rank, size = self.processes.rank, self.processes.size
        if self.trainer is not None and size > 1:
            own = order[torch.arange(len(order)) % batch_size % size == rank]
            own_size = len(range(rank, batch_size, size))
            return self.trainer.run(inputs, targets, own_size, order=own, lr=lr, steps=len(lr))
        if self.trainer is not None:
            return self.trainer.run(inputs, targets, batch_size, order=order, lr=lr)
        losses = []
        for batch, rate in zip(order.split(batch_size), lr.tolist(), strict=True):
            for group in self.optimizer.param_groups:
                group["lr"] = rate
            own = batch[rank::size]
            output = self._forward(inputs[own])
            # The mean of no samples is no number; their sum is 0, and so are its gradients.
            loss = self.loss(output, targets[own]) if len(own) else output.sum()
            self.optimizer.zero_grad(set_to_none=True)
            # DistributedDataParallel takes the mean over the processes, of unlike shares too.
            weight = len(own) * size / len(batch)
            (loss if weight == 1 else loss * weight).backward()
            self.optimizer.step()
            losses.append(loss.detach())
        means = torch.stack(losses).double()
        if size == 1:
            return means
        shares = [len(batch[rank::size]) / len(batch) for batch in order.split(batch_size)]
        return self.processes.sum_(means * torch.tensor(shares).to(means))

    def chunk(self, batch_size: int) -> int:
        """The number of steps for one call of `train`."""
        steps, samples = CHUNKS[self.name]
        return min(steps, max(1, samples // batch_size))


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
ENGINES = {"fused": _layers, "layers": _layers, "torch": _torch}


def build(options: Namespace, device: torch.device, processes: Processes) -> Engine:
    """The engine that `options` ask for. Weights are drawn on the CPU in float32, then converted:
    a seed means the same network for every engine, device and (up to rounding) dtype.

    Raises:
        ImportError: another --engine than torch, and gdext's extension module cannot be loaded.
    """
    torch.manual_seed(options.seed)
    name = "fused" if options.engine == "auto" else options.engine
    sizes = [28 * 28, *options.hidden, 10]
    model, sgd, loss = ENGINES[name](sizes, options.activation, options.loss)
    model.to(device=device, dtype=DTYPES[options.dtype])
    optimizer = sgd(
        model.parameters(),
        lr=options.lr,
        momentum=options.momentum,
        weight_decay=options.weight_decay,
        nesterov=options.nesterov,
    )
    trainer = None
    if name == "fused":
        from gdext import FusedTrainer

        group = torch.distributed.group.WORLD if processes.size > 1 else None
        trainer = FusedTrainer(model, optimizer, loss, process_group=group)
    return Engine(name, model, optimizer, loss, trainer, processes)


# The learning rate's factor at t epochs after the start (float64, any shape), of so many epochs.
SCHEDULES: dict[str, Callable[[Tensor, int], Tensor]] = {
    "constant": lambda t, epochs: torch.ones_like(t),
    "step": lambda t, epochs: 0.1 ** (t.floor() // -(-epochs // 3)),
    "exponential": lambda t, epochs: 0.01 ** (t.floor() / epochs),
    "cosine": lambda t, epochs: (1 + torch.cos(math.pi * t.floor() / epochs)) / 2,
    "triangle": lambda t, epochs: torch.minimum(5 * t / epochs, 1.25 * (1 - t / epochs)),
}
