"""Single ops beside their twins in torch, called as a user calls them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

import gdext.functional
import gdext.nn
from gdext.benchmark import rounds
from gdext.benchmark.networks import FLOAT
from gdext.benchmark.results import Row
from gdext.benchmark.rounds import Effort, timer
from gdext.training.engine import ACTIVATIONS

# (B, I, O)
PRODUCTS = [(32, 784, 512), (128, 784, 512), (512, 512, 512), (1024, 1024, 1024)]
LAYERS = [(1, 784, 512), (32, 64, 64), *PRODUCTS]
ONE_SAMPLE_ACTIVATIONS = ("identity", "relu", "tanh", "silu", "gelu")
WIDE_OUTPUT = (2048, 8, 512)  # where the activation outweighs the product
CROSS_ENTROPIES = [(128, 10), (4096, 10), (512, 1000)]  # (B, C)
ERRORS = [(32, 4), (4096, 512)]  # (B, O)

Work = Callable[[], object]


class Op(NamedTuple):
    """One comparison; numbers: float32 values read or written at least."""

    group: str
    label: str
    flops: int
    numbers: int
    ours: Work
    theirs: Work


def run(effort: Effort, device: str = "cpu") -> Iterator[Row]:
    for make in (_products, _layers, _activations, _losses, _one_sample):
        for op in make(device):
            size = FLOAT * op.numbers
            row = Row("ops", op.group, op.label, op.flops, size)
            timers = {"gdext": timer(op.ours, device), "torch": timer(op.theirs, device)}
            yield rounds.measure(row, timers, size, effort, device)


def _products(device: str = "cpu") -> Iterator[Op]:
    for B, I, O in PRODUCTS:
        yield from _products_of(B, I, O, device)


def _products_of(B: int, I: int, O: int, device: str) -> Iterator[Op]:
    """The three products of a linear layer, against torch.mm."""
    linear, backward = torch.ops.gdext.linear.default, torch.ops.gdext.linear_backward.default
    x, w, dz = (torch.randn(s, device=device) for s in ((B, I), (O, I), (B, O)))

    def op(name: str, ours: Work, theirs: Work) -> Op:
        numbers = B * I + I * O + B * O
        return Op("product", f"{name}, B {B}, I {I}, O {O}", 2 * B * I * O, numbers, ours, theirs)

    yield op("x w^T", lambda: linear(x, w, None, 0, False), lambda: torch.mm(x, w.t()))
    yield op(
        "dz w",
        lambda: backward(dz, None, None, w, 0, [True, False, False]),
        lambda: torch.mm(dz, w),
    )
    yield op(
        "dz^T x",
        lambda: backward(dz, None, x, None, 0, [False, True, False]),
        lambda: torch.mm(dz.t(), x),
    )


def _layers(device: str = "cpu") -> Iterator[Op]:
    for B, I, O in LAYERS:
        yield from _linear("linear", "identity", B, I, O, device)


def _activations(device: str = "cpu") -> Iterator[Op]:
    for name in ACTIVATIONS:
        if name != "identity":
            yield from _linear("activation", name, *WIDE_OUTPUT, device)


def _linear(group: str, activation: str, B: int, I: int, O: int, device: str) -> Iterator[Op]:
    def ours(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        return gdext.functional.linear(x, w, b, activation)

    module = ACTIVATIONS[activation]()

    def theirs(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        return module(F.linear(x, w, b))

    inputs = [torch.randn(s, device=device) for s in ((B, I), (O, I), (O,))]
    label = f"linear, {activation}, B {B}, I {I}, O {O}"
    yield from _both_ways(group, label, ours, theirs, inputs, 2 * B * I * O)


def _losses(device: str = "cpu") -> Iterator[Op]:
    for B, C in CROSS_ENTROPIES:
        t = torch.randint(C, (B,), device=device)
        yield from _both_ways(
            "loss",
            f"cross entropy, B {B}, C {C}",
            lambda x, t=t: gdext.functional.cross_entropy(x, t),
            lambda x, t=t: F.cross_entropy(x, t),
            [torch.randn(B, C, device=device)],
            0,
        )
    for B, O in ERRORS:
        t = torch.randn(B, O, device=device)
        yield from _both_ways(
            "loss",
            f"mse, B {B}, O {O}",
            lambda x, t=t: gdext.functional.mse_loss(x, t),
            lambda x, t=t: F.mse_loss(x, t),
            [torch.randn(B, O, device=device)],
            0,
        )


def _one_sample(device: str = "cpu") -> Iterator[Op]:
    """Forward and backward as in training, where what is around the kernels counts."""
    x, dy, t = (torch.randn(1, n, device=device) for n in (8, 64, 64))

    def of(label: str, ours: Callable[..., Tensor], theirs: Callable[..., Tensor]) -> Op:
        return Op("one sample", f"{label}, forward and backward", 4 * 512, 2 * 656, ours, theirs)

    def layer(module: torch.nn.Module) -> Callable[[], Tensor]:
        params = list(module.parameters())

        def work() -> Tensor:
            y: Tensor = module(x)
            torch.autograd.backward([y], [dy])
            for p in params:
                p.grad = None
            return y

        return work

    for name in ONE_SAMPLE_ACTIVATIONS:
        ours = gdext.nn.Linear(8, 64, activation=name, device=device)
        linear = torch.nn.Linear(8, 64, device=device)
        linear.load_state_dict(ours.state_dict())
        theirs = linear if name == "identity" else torch.nn.Sequential(linear, ACTIVATIONS[name]())
        yield of(f"Linear(8, 64), {name}, B 1", layer(ours), layer(theirs))

    def loss(module: torch.nn.Module, target: Tensor) -> Callable[[], Tensor]:
        leaf = dy.clone().requires_grad_()

        def work() -> Tensor:
            y: Tensor = module(leaf, target)
            torch.autograd.backward([y])
            leaf.grad = None
            return y

        return work

    yield of("mse, B 1, O 64", loss(gdext.nn.MSELoss(), t), loss(torch.nn.MSELoss(), t))
    c = torch.tensor([3], device=device)
    ce = loss(gdext.nn.CrossEntropyLoss(), c), loss(torch.nn.CrossEntropyLoss(), c)
    yield of("cross entropy, B 1, C 64", *ce)


def _both_ways(
    group: str,
    label: str,
    ours: Callable[..., Tensor],
    theirs: Callable[..., Tensor],
    inputs: list[Tensor],
    flops: int,
) -> Iterator[Op]:
    """Forward without autograd, then backward to all inputs, which costs twice the products."""
    read = sum(t.numel() for t in inputs)
    written = theirs(*inputs).numel()
    yield Op(
        group,
        f"{label}, forward",
        flops,
        read + written,
        lambda: ours(*inputs),
        lambda: theirs(*inputs),
    )

    def backward(f: Callable[..., Tensor]) -> Work:
        leaves = [t.clone().requires_grad_() for t in inputs]
        y = f(*leaves)
        dy = torch.randn_like(y)
        return lambda: torch.autograd.grad(y, leaves, dy, retain_graph=True)

    yield Op(
        group,
        f"{label}, backward",
        2 * flops,
        2 * read + written,
        backward(ours),
        backward(theirs),
    )
