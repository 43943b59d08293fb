"""The gradient by central differences: C itself, at four places for each parameter.

    D(h) = (C(p + h) - C(p - h)) / 2h = dC/dp + h^2 C'''/6 + ... + rounding

h = eps^(1/3) max(1, |p|), where the truncation, which grows as h^2, and the rounding, which grows
as eps / h, are about equal (eps: the dtype's; C and its third derivative taken for alike in size).
The gradient is D(h); the error that goes with it is

    |D(2h) - D(h)| / 3  +  4 (L + 1) eps |C| / h

the truncation, which D(2h) has four times, and a bound on the rounding of two values of C, each the
end of L + 1 operations in a row.

Cost in multiplications: a forward pass for C and four for each of P parameters, two of those for
the error,

    (4 P + 1) B sum_l I[l] O[l]

Quadratic in the number of layers. Memory: two layers' numbers.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

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
    parameter_count,
)


def finite_difference(model: Model, loss: Loss, x: Tensor, y: Tensor) -> Gradients:
    """The gradient by central differences, with an estimate of its error.

    dC/dp = (C(p + h) - C(p - h)) / 2h. Where a kink (relu's, say) lies within 2h of a parameter,
    the estimate says so. Cost: (4 P + 1) B sum_l I[l] O[l] multiplications.

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

    Source of the step h: Press et al., "Numerical Recipes", 3rd edition, section 5.7.

    Example::

        >>> x, y = torch.tensor([[1.0, 2.0]]), torch.tensor([[0.0]])
        >>> model = torch.nn.Sequential(torch.nn.Linear(2, 1, bias=False))
        >>> _ = torch.nn.init.ones_(model[0].weight)
        >>> found = gdext.gradients.finite_difference(model, gdext.nn.MSELoss(), x, y)
        >>> error = (found.grads["0.weight"] - torch.tensor([[6.0, 12.0]])).abs()
        >>> bool((error <= found.errors["0.weight"]).all()), found.multiplications
        (True, 18)
    """
    return measure(_finite_difference, model, loss, x, y)


def cost(shapes: Sequence[Shape], B: int) -> int:
    """The multiplications that ``finite_difference`` does, but for those for the step itself."""
    return (4 * parameter_count(shapes) + 1) * forward_cost(shapes, B)


def _finite_difference(problem: Problem) -> Found:
    # Copies: what is moved to and fro is not the model.
    problem.layers = [
        Layer(layer.weight.clone(), None if layer.bias is None else layer.bias.clone(), layer[2])
        for layer in problem.layers
    ]
    C = problem.cost(forward(problem).output)
    eps = torch.finfo(problem.x.dtype).eps
    rounding = 4 * (len(problem.layers) + 1) * eps * abs(float(C))
    grads, errors = [], []
    for p in problem.parameters:
        grad, error = torch.empty_like(p), torch.empty_like(p)
        for number, place in zip(p.view(-1), range(p.numel()), strict=True):
            h = eps ** (1 / 3) * max(1.0, abs(float(number)))
            near, far = _quotient(problem, number, h), _quotient(problem, number, 2 * h)
            grad.view(-1)[place] = near
            error.view(-1)[place] = abs(far - near) / 3 + rounding / h
        grads.append(grad)
        errors.append(error)
    return Found(C, grads, errors)


def _quotient(problem: Problem, number: Tensor, h: float) -> float:
    """D(h) for ``number``, an element of a parameter."""
    value = float(number)
    places, costs = [], []
    for moved in (value - h, value + h):
        number.fill_(moved)
        places.append(float(number))  # as rounded
        costs.append(float(problem.cost(forward(problem).output)))
    number.fill_(value)
    return (costs[1] - costs[0]) / (places[1] - places[0])
