"""The gradient by the chain rule written out: the sum over every path from a parameter to the cost
of the product of all derivatives along it (csrc/contract/path_sum.h), nothing used twice.

A parameter of layer l has O[l+1] ... O[L] paths for each sample. In a path there are, with s[m] = 1
where layer m has an activation, else 0, M[l] = s[l] + sum_(m>l) (1 + s[m]) multiplications for a
bias, and one more, by a[l-1], for a weight. Cost: the forward pass, then

    B sum_l O[l] O[l+1] ... O[L] (I[l] (M[l] + 1) + bias[l] M[l])

At width n this is about 2 L n^(L+1): exponential in the number of layers. Memory: a[l] and f'(z[l])
of each layer.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

import gdext._autograd.path_sum  # noqa: F401  (registers the op's fake kernel)
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
    slopes,
)

# Some ten seconds to a minute.
PATH_LIMIT = 10**9

# How long a native call may take before Python sees signals again.
_SECONDS = 0.1

_path_sum = torch.ops.gdext.path_sum_.default


def path_sum(
    model: Model, loss: Loss, x: Tensor, y: Tensor, *, limit: int = PATH_LIMIT
) -> Gradients:
    """The gradient by the naive chain rule, one path at a time.

    dC/dp is the sum over every path from p to C of the product of all derivatives along it. All but
    the forward pass is computed in float64. Ctrl-C stops it. Cost: B sum_l I[l] O[l] +
    B sum_l O[l] O[l+1] ... O[L] (I[l] (M[l] + 1) + bias[l] M[l]) multiplications,
    M[l] = s[l] + sum_(m>l) (1 + s[m]).

    Args:
        model: a torch.nn.Module, or the sizes of an MLP; see ``gdext.gradients``.
        loss: a function of (output, y) that returns C.
        x: the inputs.
        y: the targets, as the loss takes them.
        limit: the number of paths, samples times paths through the network, above which it does
            not start.

    Shape:
        x: ``[B, I]``, or ``[B, *]`` with I elements each. Output: ``[B, O]``. C: ``[]``.

    Returns:
        ``Gradients``: dC/dp by the name of each parameter p, C, the number of multiplications, the
        time.

    Raises:
        TypeError, ValueError, RuntimeError, NotImplementedError: see ``gdext.gradients``.
        ValueError: there are more paths than ``limit``; the message says how many.

    Source: csrc/contract/path_sum.h; the chain rule.

    Example::

        >>> x, y = torch.tensor([[1.0, 2.0]]), torch.tensor([[0.0]])
        >>> model = torch.nn.Sequential(torch.nn.Linear(2, 1, bias=False))
        >>> _ = torch.nn.init.ones_(model[0].weight)
        >>> found = gdext.gradients.path_sum(model, gdext.nn.MSELoss(), x, y)
        >>> found.grads["0.weight"].tolist(), found.multiplications
        ([[6.0, 12.0]], 4)
    """
    return measure(partial(_path_sum_of, limit=limit), model, loss, x, y)


def cost(shapes: Sequence[Shape], B: int) -> int:
    """The multiplications that ``path_sum`` does."""
    total, paths, M = forward_cost(shapes, B), 1, 0
    for s in reversed(shapes):
        M += s.slope
        total += B * s.O * paths * (s.I * (M + 1) + s.bias * M)
        paths, M = paths * s.O, M + 1
    return total


def paths(shapes: Sequence[Shape]) -> int:
    """How many there are through the network, from all parameters together:
    sum_l (I[l] + bias[l]) O[l] O[l+1] ... O[L]."""
    above = [math.prod(s.O for s in shapes[l:]) for l in range(len(shapes))]
    return sum((s.I + s.bias) * n for s, n in zip(shapes, above, strict=True))


def _path_sum_of(problem: Problem, limit: int) -> Found:
    shapes = [layer.shape for layer in problem.layers]
    B, each = len(problem.x), paths(shapes)
    if B * each > limit:
        raise ValueError(
            f"path_sum: wanted at most {limit:,} paths (limit), got {B * each:,}: {B:,} samples "
            f"times {each:,} paths through {len(shapes)} layers"
        )
    inputs, saved, output = forward(problem)
    C, dy = problem.cost_and_gradient(output)
    f64 = torch.float64
    weights = [layer.weight.to(f64) for layer in problem.layers]
    nothing = dy.new_empty(0, dtype=f64)
    f = [nothing if s is None else s.to(f64).contiguous() for s in slopes(problem, saved)]
    a = [t.to(f64).contiguous() for t in inputs]
    dw = [torch.zeros_like(w) for w in weights]
    db = [nothing.new_zeros(0 if b is None else len(b)) for _, b, _ in problem.layers]
    counts = dy.new_zeros(2, dtype=torch.int64)
    dy = dy.to(f64).contiguous()
    while int(counts[0]) < each:  # which may be beyond int64; the op refuses that
        _path_sum(weights, a, f, dy, dw, db, counts, _SECONDS)
    problem.multiplications += int(counts[1])
    grads = [
        grad.to(problem.x.dtype)
        for pair in zip(dw, db, strict=True)
        for grad in pair
        if grad.numel() > 0
    ]
    return Found(C, grads)
