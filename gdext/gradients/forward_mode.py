"""The gradient by forward mode: for each parameter, one pass that carries its tangent to the cost.

For p = w[l][i,j] the tangents are, with 1 in place of a[l-1][:,j] for p = b[l][i],

    dz[l]/dp = a[l-1][:,j] in column i, else 0      da[m]/dp = dz[m]/dp f'(z[m])      m >= l
    dz[m]/dp = da[m-1]/dp w[m]^T                    dC/dp = sum_b <dC/dy^, da[L]/dp>  m > l

Cost in multiplications, s[l] = 1 where layer l has an activation, else 0, and P[l] the number of
layer l's parameters: the forward pass once, then the tangent passes,

    B sum_l I[l] O[l] + B sum_l P[l] (s[l] O[l] + sum_(m>l) (I[m] O[m] + s[m] O[m]) + O[L])

As many passes as parameters: quadratic in the number of layers. Memory: two layers' numbers.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from gdext._autograd.linear_ops import IDENTITY
from gdext.gradients.common import (
    Found,
    Gradients,
    Layer,
    Loss,
    Model,
    Problem,
    Shape,
    forward,
    forward_cost,
    measure,
    slopes,
)


def forward_mode(model: Model, loss: Loss, x: Tensor, y: Tensor) -> Gradients:
    """The gradient by forward mode, one pass per parameter.

    Cost: B sum_l I[l] O[l] +
    B sum_l P[l] (s[l] O[l] + sum_(m>l) (I[m] O[m] + s[m] O[m]) + O[L]) multiplications.

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

    Source: Wengert, "A simple automatic derivative evaluation program", 1964.

    Example::

        >>> x, y = torch.tensor([[1.0, 2.0]]), torch.tensor([[0.0]])
        >>> model = torch.nn.Sequential(torch.nn.Linear(2, 1, bias=False))
        >>> _ = torch.nn.init.ones_(model[0].weight)
        >>> found = gdext.gradients.forward_mode(model, gdext.nn.MSELoss(), x, y)
        >>> found.grads["0.weight"].tolist(), found.multiplications
        ([[6.0, 12.0]], 4)
    """
    return measure(_forward_mode, model, loss, x, y)


def cost(shapes: Sequence[Shape], B: int) -> int:
    """The multiplications that ``forward_mode`` does."""
    total = forward_cost(shapes, B)
    for l, s in enumerate(shapes):
        above = sum(m.I * m.O + m.slope * m.O for m in shapes[l + 1 :])
        total += B * s.O * (s.I + s.bias) * (s.slope * s.O + above + shapes[-1].O)
    return total


def _forward_mode(problem: Problem) -> Found:
    inputs, saved, output = forward(problem)
    slope = slopes(problem, saved)
    C, dy = problem.cost_and_gradient(output)

    def derivative(l: int, i: int, source: Tensor | float) -> float:
        """dC/dp for the parameter whose tangent enters column i of z[l] as ``source``."""
        dz = dy.new_zeros(len(dy), len(problem.layers[l].weight))
        dz[:, i] = source
        for m in range(l, len(problem.layers)):
            if m > l:
                dz, _ = problem.linear(dz, Layer(problem.layers[m].weight, None, IDENTITY))
            if (f := slope[m]) is not None:
                dz *= f  # now da
                problem.multiplications += dz.numel()
        problem.multiplications += dy.numel()
        return float((dy * dz).sum())

    grads: list[Tensor] = []
    for l, (weight, bias, _) in enumerate(problem.layers):
        O, I = weight.shape
        dw = [[derivative(l, i, inputs[l][:, j]) for j in range(I)] for i in range(O)]
        grads.append(weight.new_tensor(dw))
        if bias is not None:
            grads.append(bias.new_tensor([derivative(l, i, 1.0) for i in range(O)]))
    return Found(C, grads)
