"""torch.utils.flop_counter.FlopCounterMode on gdext's functions, layers and FusedTrainer."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import gdext

SIZES = [6, 9, 8, 4]


def counts(work):
    """Operations of each module; of all under "Global"."""
    with FlopCounterMode(display=False) as counter:
        work()
    return {name: sum(ops.values()) for name, ops in counter.get_flop_counts().items()}


def train_once(model, loss_fn, device):
    x, y = torch.randn(7, 6, device=device), torch.randint(4, (7,), device=device)
    return counts(lambda: loss_fn(model(x), y).backward())


def total(linear, device, shape, bias=True, of_x=True):
    """Of y = linear(x, weight, bias), forward and backward."""
    x = torch.randn(*shape, 5, device=device, requires_grad=of_x)
    weight, b = (torch.randn(s, device=device, requires_grad=True) for s in ((4, 5), (4,)))
    return counts(lambda: linear(x, weight, b if bias else None).sum().backward())["Global"]


@pytest.mark.parametrize("of_x", [True, False])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(), (3,), (2, 3), (2, 3, 2), (0,)], ids=str)
def test_linear(device, shape, bias, of_x):
    ours = total(lambda *a: gdext.functional.linear(*a, "silu"), device, shape, bias, of_x)
    theirs = total(lambda *a: F.silu(F.linear(*a)), device, shape, bias, of_x)
    assert ours == theirs
    assert (ours > 0) == (0 not in shape)


def test_each_layer_of_an_mlp(device):
    """Modules of like numbers in order: gdext's have no modules for the activations."""
    mlp = gdext.nn.MLP(SIZES, activation="tanh", device=device)
    pairs = [(nn.Linear(i, o), nn.Tanh()) for i, o in pairwise(SIZES)]
    layers = [layer for pair in pairs for layer in pair]
    theirs = train_once(nn.Sequential(*layers).to(device), nn.CrossEntropyLoss(), device)
    ours = train_once(mlp, gdext.nn.CrossEntropyLoss(), device)
    assert [ours[f"MLP.{i}"] for i in range(3)] == [theirs[f"Sequential.{2 * i}"] for i in range(3)]
    assert ours["Global"] == theirs["Global"] == 2 * 7 * (2 * 6 * 9 + 3 * 9 * 8 + 3 * 8 * 4)


def test_compiled():
    model = gdext.nn.MLP(SIZES)
    x = torch.randn(7, 6)
    eager = counts(lambda: model(x).sum().backward())
    model.compile(backend="aot_eager")
    assert counts(lambda: model(x).sum().backward())["Global"] == eager["Global"] > 0


def test_what_is_counted_is_what_is_computed():
    """Where gdext takes other products than PyTorch."""
    product = 2 * 7 * 6 * 4
    x, weight = torch.randn(7, 6, requires_grad=True), torch.randn(4, 6, requires_grad=True)

    def by_x_alone(linear):
        y = linear(x, weight).sum()
        return counts(lambda: torch.autograd.grad(y, x))["Global"]

    def per_sample(linear):
        grad = torch.func.grad(lambda w, row: linear(row, w).sum())
        return counts(lambda: torch.func.vmap(grad, (None, 0))(weight, x))["Global"]

    # A Function is not told which of its inputs' gradients are wanted in this backward.
    assert by_x_alone(F.linear) == product
    assert by_x_alone(gdext.functional.linear) == 2 * product
    # dw of one sample is an outer product, which PyTorch takes for a matrix product.
    assert per_sample(F.linear) == 2 * product
    assert per_sample(gdext.functional.linear) == product


def test_fused_trainer_is_refused():
    """Its steps call no modules, which the counter follows by hooks."""
    model = gdext.nn.MLP(SIZES)
    optimizer = gdext.optim.SGD(model.parameters(), lr=0.1)
    trainer = gdext.FusedTrainer(model, optimizer, gdext.nn.MSELoss())
    x, y = torch.randn(7, 6), torch.randn(7, 4)
    with pytest.raises(RuntimeError, match="wanted no hooks"):
        counts(lambda: trainer.step(x, y))
    trainer.step(x, y)
