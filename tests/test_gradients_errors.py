"""gdext.gradients: bad arguments, and the error that says what was wanted and given."""

from __future__ import annotations

import re

import pytest
import torch
from inputs import randn
from torch import nn

import gdext
from gdext import gradients

ENGINE = pytest.mark.parametrize("engine", list(gradients.ENGINES))
MSE = gdext.nn.MSELoss()


def model(dtype=torch.float64):
    return gdext.nn.MLP([3, 4, 2], "tanh", dtype=dtype)


def mixed():
    network = model()
    network[1].float()
    return network


def hooked():
    network = model()
    network[0].register_forward_hook(lambda *_: None)
    return network


def hooked_parameter():
    network = model()
    network[1].bias.register_hook(lambda grad: 2 * grad)
    return network


def shared():
    layer = nn.Linear(3, 3).double()
    return nn.Sequential(layer, nn.Tanh(), layer)


GOOD = {"model": model, "loss": MSE, "x": randn(5, 3), "y": randn(5, 2)}

BAD = {
    "no sizes": ({"model": []}, ValueError, "sizes: wanted two or more positive integers, got []"),
    "no layers": ({"model": [3]}, ValueError,
        "sizes: wanted two or more positive integers, got [3]"),
    "width 0": ({"model": [3, 0, 2]}, ValueError,
        "sizes: wanted two or more positive integers, got [3, 0, 2]"),
    "an empty model": ({"model": nn.Sequential}, ValueError,
        "model: wanted at least one Linear, got none"),
    "a name": ({"model": "mlp"}, TypeError,
        "model: wanted a torch.nn.Module or a sequence of sizes, got str"),
    "another layer": ({"model": lambda: nn.Sequential(nn.Conv1d(1, 1, 1))}, TypeError,
        "model.0: wanted a Linear, an activation that gdext knows"),
    "layers that do not fit": ({"model": lambda: nn.Sequential(nn.Linear(3, 4), nn.Linear(3, 2))},
        ValueError, "model.1: wanted in_features 4 (out_features of the Linear before it), got 3"),
    "hooks": ({"model": hooked}, RuntimeError,
        "model.0: wanted no hooks, which gdext.gradients would not call; got some"),
    "hooks of a parameter": ({"model": hooked_parameter}, RuntimeError,
        "1.bias: wanted no hooks, which gdext.gradients would not call; got some"),
    "a layer used twice": ({"model": shared}, ValueError,
        "model.0.weight: wanted a parameter of this layer alone"),
    "mixed parameters": ({"model": mixed}, TypeError,
        "1.weight: wanted dtype torch.float64 (that of 0.weight), got torch.float32"),
    "half precision": ({"model": lambda: model(torch.bfloat16), "x": randn(5, 3).bfloat16()},
        TypeError, "0.weight: wanted dtype float32 or float64, got torch.bfloat16"),
    "elsewhere": ({"model": lambda: model().to("meta")}, NotImplementedError,
        "0.weight: wanted a parameter on cpu (gdext.gradients has no kernel for another "
        "device), got device meta"),
    "no function": ({"loss": "mse"}, TypeError,
        "loss: wanted a function of (output, y), got str"),
    "no scalar": ({"loss": nn.MSELoss(reduction="none")}, ValueError,
        "loss: wanted a scalar (shape []), got shape [5, 2]"),
    "one element": ({"loss": lambda o, y: (o - y).square().mean()[None]}, ValueError,
        "loss: wanted a scalar (shape []), got shape [1]"),
    "a number": ({"loss": lambda o, y: 3.0}, TypeError,
        "loss: wanted a function that returns a Tensor, got float"),
    "a complex loss": ({"loss": lambda o, y: (o * 1j).sum()}, TypeError,
        "loss: wanted a floating-point scalar, got torch.complex128"),
    "a loss of integers": ({"loss": lambda o, y: o.sum().long()}, TypeError,
        "loss: wanted a floating-point scalar, got torch.int64"),
    "x a list": ({"x": [[1.0]]}, TypeError, "x: wanted a Tensor of float32 or float64, got list"),
    "x of integers": ({"x": torch.ones(5, 3, dtype=torch.int64)}, TypeError,
        "x: wanted dtype torch.float64 (that of the parameters), got torch.int64"),
    "x of integers, sizes": ({"model": [3, 2], "x": torch.ones(5, 3, dtype=torch.int64)}, TypeError,
        "x: wanted a Tensor of float32 or float64, got torch.int64"),
    "x of another dtype": ({"x": randn(5, 3).float()}, TypeError,
        "x: wanted dtype torch.float64 (that of the parameters), got torch.float32"),
    "y of another dtype": ({"y": randn(5, 2).float()}, TypeError,
        "y: wanted dtype torch.float64 (that of the parameters), got torch.float32"),
    "y a list": ({"y": [1]}, TypeError, "y: wanted a Tensor, got list"),
    "x elsewhere": ({"x": randn(5, 3).to("meta")}, NotImplementedError,
        "x: wanted a dense tensor on the CPU, got torch.strided on meta"),
    "x sparse": ({"x": randn(5, 3).to_sparse()}, NotImplementedError,
        "x: wanted a dense tensor on the CPU, got torch.sparse_coo on cpu"),
    "x of another width": ({"x": randn(5, 4)}, ValueError,
        "x: wanted shape [B, 3] (in_features of the first layer), B at least 1, got [5, 4]"),
    "no samples": ({"x": randn(0, 3)}, ValueError, "B at least 1, got [0, 3]"),
    "one sample without B": ({"x": randn(3)}, ValueError, "B at least 1, got [3]"),
}  # fmt: skip


@ENGINE
@pytest.mark.parametrize("case", list(BAD))
def test_bad_argument(engine, case):
    changed, kind, message = BAD[case]
    given = {**GOOD, **changed}
    if callable(given["model"]):
        given["model"] = given["model"]()
    with pytest.raises(kind, match=re.escape(message)):
        gradients.compute(engine, **given)


@pytest.mark.parametrize("engine", ["backprop", "forward_mode", "path_sum"])
@pytest.mark.parametrize("loss", [lambda o, y: y.sum(), lambda o, y: o.detach().sum()])
def test_a_loss_of_something_else(engine, loss):
    with pytest.raises(ValueError, match=r"loss: wanted a differentiable function of the output"):
        gradients.compute(engine, model(), loss, GOOD["x"], GOOD["y"])
    other = torch.ones(2, requires_grad=True)
    with pytest.raises(ValueError, match=r"loss: wanted a function of the output, got one of othe"):
        gradients.compute(engine, model(), lambda o, y: other.sum(), GOOD["x"], GOOD["y"])


@ENGINE
def test_a_layer_of_width_0(engine):
    with pytest.warns(UserWarning, match="zero-element"):
        network = nn.Sequential(nn.Linear(3, 0), nn.Linear(0, 2)).double()
    with pytest.raises(ValueError, match=r"0\.weight: wanted layers of width 1 or more, got shape"):
        gradients.compute(engine, network, MSE, GOOD["x"], GOOD["y"])


def test_unknown_engine():
    wanted = "engine: wanted one of backprop, forward_mode, finite_difference, path_sum, got 'adj'"
    with pytest.raises(ValueError, match=wanted):
        gradients.compute("adj", **{**GOOD, "model": [3, 2]})
    with pytest.raises(ValueError, match=wanted):
        gradients.cost("adj", [3, 2])


@pytest.mark.parametrize("B", [0, -1, 1.5, "2"])
def test_cost_of_nothing(B):
    message = re.escape(f"B: wanted a number of samples >= 1, got {B!r}")
    with pytest.raises(ValueError, match=message):
        gradients.cost("backprop", [3, 2], B)
    with pytest.raises(ValueError, match=message):
        gradients.path_count([3, 2], B)
