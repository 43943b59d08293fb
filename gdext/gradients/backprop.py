"""The gradient by backpropagation: from the last layer down, each layer's result used for the next.

    da[L] = dC/dy^
    dz[l] = da[l] f'(z[l])    dw[l] = dz[l]^T a[l-1]    db[l] = sum_b dz[l]    da[l-1] = dz[l] w[l]

Cost in multiplications, s[l] = 1 where layer l has an activation, else 0: the forward pass, the
slopes, dw of each layer and da of each but the first,

    B sum_l (2 I[l] O[l] + s[l] O[l]) + B sum_(l>1) I[l] O[l]

It is linear in the number of layers, and about three times the forward pass whatever their number.
Memory: a[l] of each layer, B sum_l O[l] numbers.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from gdext._autograd.linear_ops import _linear_backward
from gdext.gradients.common import (
    Found,
    Gradients,
    Loss,
    Model,
    Problem,
    Shape,
    forward,
    forward_cost,
    measure,
)


def backprop(model: Model, loss: Loss, x: Tensor, y: Tensor) -> Gradients:
    """The gradient by backpropagation, on the kernels of gdext's layers.

    dz[l] = da[l] f'(z[l]), dw[l] = dz[l]^T a[l-1], db[l] = sum_b dz[l], da[l-1] = dz[l] w[l]. Cost:
    B sum_l (2 I[l] O[l] + s[l] O[l]) + B sum_(l>1) I[l] O[l] multiplications.

    Args:
        model: a torch.nn.Module, or the sizes of an MLP; see ``gdext.gradients``.
        loss: a function of (output, y) that returns C.
        x: the inputs.
        y: the targets, as the loss takes them.

    Shape:
        x: ``[B, I]``, or ``[B, *]`` with I elements each. Output: ``[B, O]``. C: ``[]``.

    Returns:
        ``Gradients``: dC/dp by the name of each parameter p, C, the number of multiplications, the
        time.

    Raises:
        TypeError, ValueError, RuntimeError, NotImplementedError: see ``gdext.gradients``.

    Source: Rumelhart, Hinton and Williams, "Learning representations by back-propagating errors",
    1986.

    Example::

        >>> x, y = torch.tensor([[1.0, 2.0]]), torch.tensor([[0.0]])
        >>> model = torch.nn.Sequential(torch.nn.Linear(2, 1, bias=False))
        >>> _ = torch.nn.init.ones_(model[0].weight)
        >>> found = gdext.gradients.backprop(model, gdext.nn.MSELoss(), x, y)
        >>> found.grads["0.weight"].tolist(), found.multiplications
        ([[6.0, 12.0]], 4)
    """
    return measure(_backprop, model, loss, x, y)


def cost(shapes: Sequence[Shape], B: int) -> int:
    """The multiplications that ``backprop`` does."""
    own = sum(s.I * s.O + s.slope * s.O for s in shapes)
    down = sum(s.I * s.O for s in shapes[1:])
    return forward_cost(shapes, B) + B * (own + down)


def _backprop(problem: Problem) -> Found:
    inputs, saved, output = forward(problem)
    C, da = problem.cost_and_gradient(output)
    grads: list[Tensor] = []
    for l in range(len(problem.layers) - 1, -1, -1):
        weight, bias, activation = problem.layers[l]
        wanted = [l > 0, True, bias is not None]
        below, dw, db = _linear_backward(da, saved[l], inputs[l], weight, activation, wanted)
        B, O, I = len(da), *weight.shape
        problem.multiplications += B * I * O  # dw
        problem.multiplications += B * O if saved[l] is not None else 0  # dz
        problem.multiplications += B * I * O if l > 0 else 0  # da
        grads = [dw, db, *grads] if bias is not None else [dw, *grads]
        da = below
    return Found(C, grads)
