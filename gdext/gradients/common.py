"""What the engines share: their arguments, read and checked once; the forward pass; the result.

Letters: B samples; layers l = 1..L with I[l] inputs and O[l] outputs; P parameters in all.
z[l] = a[l-1] w[l]^T + b[l], a[l] = f[l](z[l]), a[0] = x, y^ = a[L], C = loss(y^, y).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from gdext import nn as gdext_nn
from gdext._autograd.linear_ops import IDENTITY, SAVES_Z, _activation_double_backward, _linear
from gdext._fused.network import Network

Model = nn.Module | Sequence[int]
Loss = Callable[[Tensor, Tensor], Tensor]

_USER = "gdext.gradients"  # as messages name it


@dataclass(frozen=True)
class Gradients:
    """What every engine returns.

    Attributes:
        grads: dC/dp of each parameter p of the model, by its name, in p's dtype; also where
            p.requires_grad is False.
        loss: C.
        multiplications: how many were done: those of the matrix products, by slopes f'(z) and by
            dC/dy^. Not counted: those inside of an activation, of its slope or of the loss.
        seconds: the time from the checked arguments to the gradients.
        errors: an estimate of how far each number of ``grads`` may be off, by the same names; None
            where it is rounding alone.
        model: the model that was given, or the one made from sizes.

    Shape:
        grads, errors: that of each parameter.
        loss: ``[]``.

    Example::

        >>> loss, x, y = gdext.nn.MSELoss(), torch.randn(4, 3), torch.randn(4, 2)
        >>> found = gdext.gradients.backprop([3, 5, 2], loss, x, y)
        >>> {name: list(grad.shape) for name, grad in found.grads.items()}
        {'0.weight': [5, 3], '0.bias': [5], '1.weight': [2, 5], '1.bias': [2]}
    """

    grads: dict[str, Tensor]
    loss: Tensor
    multiplications: int
    seconds: float
    errors: dict[str, Tensor] | None
    model: nn.Module


class Shape(NamedTuple):
    """What a cost depends on: I, O, whether there is a bias (1 or 0), whether there is an
    activation, and with it a slope to multiply by (1 or 0)."""

    I: int
    O: int
    bias: int
    slope: int


class Layer(NamedTuple):
    """weight [O, I], bias [O] or None, and the activation's number."""

    weight: Tensor
    bias: Tensor | None
    activation: int

    @property
    def shape(self) -> Shape:
        O, I = self.weight.shape
        return Shape(I, O, int(self.bias is not None), int(self.activation != IDENTITY))


@dataclass
class Problem:
    """Checked arguments, and the count of multiplications that an engine has done with them."""

    layers: list[Layer]
    loss: Loss
    x: Tensor
    y: Tensor
    multiplications: int = 0

    @property
    def parameters(self) -> list[Tensor]:
        """Each layer's weight, then its bias if it has one."""
        return [p for layer in self.layers for p in layer[:2] if isinstance(p, Tensor)]

    def linear(self, a: Tensor, layer: Layer) -> tuple[Tensor, Tensor | None]:
        """a[l] [B, O] of the input a [B, I], and what f' is taken from (None: f' = 1)."""
        y, z = _linear(a, layer.weight, layer.bias, layer.activation, True)
        self.multiplications += a.shape[0] * layer.weight.numel()
        if layer.activation == IDENTITY:
            return y, None
        return y, z if layer.activation in SAVES_Z else y

    def cost(self, output: Tensor) -> Tensor:
        """C of the output y^ [B, O].

        Raises:
            TypeError, ValueError: the loss returns no floating-point scalar tensor.
        """
        C = self.loss(output, self.y)
        if not isinstance(C, Tensor):
            raise TypeError(
                f"loss: wanted a function that returns a Tensor, got {type(C).__name__}"
            )
        if C.dim() != 0:
            raise ValueError(f"loss: wanted a scalar (shape []), got shape {list(C.shape)}")
        if not C.is_floating_point():
            raise TypeError(f"loss: wanted a floating-point scalar, got {C.dtype}")
        return C

    def cost_and_gradient(self, output: Tensor) -> tuple[Tensor, Tensor]:
        """C and dC/dy^ [B, O].

        Raises:
            ValueError: C is no differentiable function of the output.
        """
        leaf = output.detach().requires_grad_()
        with torch.enable_grad():
            C = self.cost(leaf)
        if not C.requires_grad:
            raise ValueError("loss: wanted a differentiable function of the output, got a constant")
        (dy,) = torch.autograd.grad(C, leaf, allow_unused=True)
        if dy is None:
            raise ValueError("loss: wanted a function of the output, got one of other tensors")
        return C.detach(), dy


class Forward(NamedTuple):
    """One forward pass: the input of each layer a[l-1] [B, I], what its f' is taken from (None:
    f' = 1), and y^ [B, O]."""

    inputs: list[Tensor]
    saved: list[Tensor | None]
    output: Tensor


def forward(problem: Problem) -> Forward:
    """B sum_l I[l] O[l] multiplications."""
    a, inputs, saved = problem.x, [], []
    for layer in problem.layers:
        inputs.append(a)
        a, s = problem.linear(a, layer)
        saved.append(s)
    return Forward(inputs, saved, a)


def forward_cost(shapes: Sequence[Shape], B: int) -> int:
    return B * sum(s.I * s.O for s in shapes)


def parameter_count(shapes: Sequence[Shape]) -> int:
    """P."""
    return sum(s.O * (s.I + s.bias) for s in shapes)


def slopes(problem: Problem, saved: Sequence[Tensor | None]) -> list[Tensor | None]:
    """f'(z[l]) [B, O] of each layer, None where it is 1."""
    result: list[Tensor | None] = []
    for layer, s in zip(problem.layers, saved, strict=True):
        one = None if s is None else torch.ones_like(s)
        # Its first output is (cotangent of dz) f'(z): with ones, f'(z).
        result.append(
            None if one is None else _activation_double_backward(one, one, s, layer.activation)[0]
        )
    return result


class Found(NamedTuple):
    """What an engine finds: C, and for each of ``Problem.parameters`` a gradient and perhaps an
    error."""

    loss: Tensor
    grads: list[Tensor]
    errors: list[Tensor] | None = None


@torch.inference_mode(False)
def measure(
    engine: Callable[[Problem], Found], model: Model, loss: Loss, x: Tensor, y: Tensor
) -> Gradients:
    """What ``engine`` finds, under the parameters' names, counted and timed."""
    module = model_of(model, x)
    names, problem = read(module, loss, x, y)
    begin = time.perf_counter()
    with torch.no_grad():
        found = engine(problem)
    seconds = time.perf_counter() - begin
    return Gradients(
        dict(zip(names, found.grads, strict=True)),
        found.loss,
        problem.multiplications,
        seconds,
        None if found.errors is None else dict(zip(names, found.errors, strict=True)),
        module,
    )


def model_of(model: Model, x: Tensor) -> nn.Module:
    """``model``, or a gdext.nn.MLP of these sizes with tanh between its layers, in x's dtype."""
    if isinstance(model, nn.Module):
        return model
    if not isinstance(x, Tensor) or not x.is_floating_point():
        _refuse_input(x)
    return _from_sizes(model, dtype=x.dtype, device=x.device)


def read(model: nn.Module, loss: Loss, x: Tensor, y: Tensor) -> tuple[list[str], Problem]:
    """The parameters' names, and the arguments checked: see ``gdext.gradients``."""
    network = _network_of(model)
    first = network.params[0]
    if first.dtype not in (torch.float32, torch.float64):
        raise TypeError(
            f"{network.name_of(first)}: wanted dtype float32 or float64, got {first.dtype}"
        )
    if not callable(loss):
        raise TypeError(f"loss: wanted a function of (output, y), got {type(loss).__name__}")
    if not isinstance(x, Tensor):
        _refuse_input(x)
    if not isinstance(y, Tensor):
        raise TypeError(f"y: wanted a Tensor, got {type(y).__name__}")
    for name, t in (("x", x), ("y", y)):
        if t.dtype is not first.dtype and (name == "x" or t.is_floating_point()):
            raise TypeError(
                f"{name}: wanted dtype {first.dtype} (that of the parameters), got {t.dtype}"
            )
        if not t.is_cpu or t.layout is not torch.strided:
            raise NotImplementedError(
                f"{name}: wanted a dense tensor on the CPU, got {t.layout} on {t.device}"
            )
    layers = _layers_of(network)
    I = layers[0].weight.shape[1]
    if x.dim() < 2 or x.shape[0] == 0 or x.flatten(1).shape[1] != I:
        raise ValueError(
            f"x: wanted shape [B, {I}] (in_features of the first layer), B at least 1, "
            f"got {list(x.shape)}"
        )
    names = [network.name_of(p) for p in network.params]
    return names, Problem(layers, loss, x.detach().flatten(1).contiguous(), y.detach())


def shapes_of(model: Model) -> list[Shape]:
    """What the cost of ``model`` depends on."""
    if isinstance(model, nn.Module):
        network = _network_of(model)
    else:  # without memory, and without drawing from the generator
        network = Network(_from_sizes(model, device="meta"), _USER, ("cpu",))
    return [layer.shape for layer in _layers_of(network)]


def _from_sizes(sizes: Sequence[int], **options: Any) -> nn.Module:
    if not isinstance(sizes, Sequence) or isinstance(sizes, str):
        raise TypeError(
            f"model: wanted a torch.nn.Module or a sequence of sizes, got {type(sizes).__name__}"
        )
    return gdext_nn.MLP(sizes, activation="tanh", **options)


def _network_of(model: nn.Module) -> Network:
    network = Network(model, _USER, ("cpu",))
    network.check_parameters()
    network.check_hooks()
    for p in network.params:
        if p.numel() == 0:
            raise ValueError(
                f"{network.name_of(p)}: wanted layers of width 1 or more, got shape {list(p.shape)}"
            )
    return network


def _layers_of(network: Network) -> list[Layer]:
    params = iter([p.detach().contiguous() for p in network.params])
    return [
        Layer(next(params), next(params) if bias else None, activation)
        for bias, activation in zip(network.biases, network.activations, strict=True)
    ]


def _refuse_input(x: object) -> None:
    got = x.dtype if isinstance(x, Tensor) else type(x).__name__
    raise TypeError(f"x: wanted a Tensor of float32 or float64, got {got}")
