"""Four ways to the gradient of a cost C = loss(model(x), y) with respect to every parameter, alike
in arguments and result, counted and timed, so that one can see what each costs:

    backprop            layer by layer from the last, every result used again: ~ L
    forward_mode        one pass per parameter: ~ L^2
    finite_difference   four evaluations of C per parameter: ~ L^2, and not exact
    path_sum            every path from a parameter to the cost: ~ L width^L

They are instruments, on the kernels that gdext trains with; to train, use gdext.nn, gdext.optim and
gdext.FusedTrainer, which get their gradients by backpropagation.

Each is called as ``engine(model, loss, x, y)``:

    model: layers of torch.nn.Linear or gdext.nn.Linear, each followed by at most one activation
        that gdext.nn.convert knows, in torch.nn.Sequential; gdext.nn.MLP is one. Or the sizes of a
        gdext.nn.MLP with tanh between its layers, which is then drawn from torch's generator.
        Parameters on the CPU, float32 or float64, none in two layers. Nothing about the model is
        changed.
    loss: a function of (output [B, O], y) that returns C, a differentiable scalar tensor, such as
        gdext.nn.MSELoss().
    x: shape [B, I], or [B, ...] with I elements each, of the parameters' dtype.
    y: the target, as the loss takes it; of the parameters' dtype unless it is of integers.

and returns ``Gradients``. Each raises

    TypeError: an argument of another kind, or a dtype that is another than the first parameter's.
    ValueError: shapes that do not fit; no layers, or one of width 0; layers that share a parameter;
        a loss that returns no scalar, or (but for finite_difference) none that depends on the
        output.
    RuntimeError: hooks on the model or its parameters.
    NotImplementedError: a tensor that is not on the CPU.

Source: Griewank and Walther, "Evaluating Derivatives", 2nd edition, 2008, chapters 1 to 4.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from torch import Tensor

from gdext.gradients.backprop import backprop
from gdext.gradients.backprop import cost as _backprop_cost
from gdext.gradients.common import Gradients, Loss, Model, Shape, shapes_of
from gdext.gradients.finite_difference import cost as _finite_difference_cost
from gdext.gradients.finite_difference import finite_difference
from gdext.gradients.forward_mode import cost as _forward_mode_cost
from gdext.gradients.forward_mode import forward_mode
from gdext.gradients.path_sum import PATH_LIMIT, path_sum, paths
from gdext.gradients.path_sum import cost as _path_sum_cost

__all__ = [
    "ENGINES",
    "PATH_LIMIT",
    "Gradients",
    "backprop",
    "compute",
    "cost",
    "finite_difference",
    "forward_mode",
    "path_count",
    "path_sum",
]


class Engine(NamedTuple):
    """A way to the gradient, and the number of multiplications that it takes."""

    run: Callable[[Model, Loss, Tensor, Tensor], Gradients]
    cost: Callable[[Sequence[Shape], int], int]


ENGINES: dict[str, Engine] = {
    "backprop": Engine(backprop, _backprop_cost),
    "forward_mode": Engine(forward_mode, _forward_mode_cost),
    "finite_difference": Engine(finite_difference, _finite_difference_cost),
    "path_sum": Engine(path_sum, _path_sum_cost),
}


def compute(engine: str, model: Model, loss: Loss, x: Tensor, y: Tensor) -> Gradients:
    """The gradient by the engine of that name.

    Args:
        engine: one of ``ENGINES``.
        model, loss, x, y: the engine's, see ``gdext.gradients``.

    Shape:
        As the engine's.

    Returns:
        What the engine returns, ``Gradients``.

    Raises:
        ValueError: there is no such engine. Else as the engine.

    Example::

        >>> x, y = torch.randn(4, 3), torch.randn(4, 2)
        >>> model = gdext.nn.MLP([3, 5, 2], activation="tanh")
        >>> for engine in gdext.gradients.ENGINES:
        ...     found = gdext.gradients.compute(engine, model, gdext.nn.MSELoss(), x, y)
        ...     print(engine, found.multiplications)
        backprop 260
        forward_mode 1556
        finite_difference 12900
        path_sum 580
    """
    return _engine(engine).run(model, loss, x, y)


def cost(engine: str, model: Model, B: int = 1) -> int:
    """The multiplications that the engine of that name does for B samples, by its formula.

    Args:
        engine: one of ``ENGINES``.
        model: a torch.nn.Module, or the sizes of an MLP.
        B: the number of samples.

    Returns:
        The number, exact, however large.

    Raises:
        ValueError: there is no such engine, or B < 1. TypeError, ValueError, RuntimeError: for the
            model, as the engines.

    Source: the modules of the engines.

    Example::

        >>> sizes = [10] * 11
        >>> [f"{gdext.gradients.cost(e, sizes):.1e}" for e in ("backprop", "path_sum")]
        ['3.0e+03', '2.3e+12']
    """
    formula = _engine(engine).cost
    _check_samples(B)
    return formula(shapes_of(model), B)


def path_count(model: Model, B: int = 1) -> int:
    """The paths that ``path_sum`` walks for B samples: B sum_l (I[l] + bias[l]) O[l] ... O[L].

    Args:
        model: a torch.nn.Module, or the sizes of an MLP.
        B: the number of samples.

    Returns:
        The number, exact, however large.

    Raises:
        As ``cost``.

    Example::

        >>> gdext.gradients.path_count([2, 3, 1])
        13
    """
    _check_samples(B)
    return B * paths(shapes_of(model))


def _check_samples(B: int) -> None:
    if not isinstance(B, int) or B < 1:
        raise ValueError(f"B: wanted a number of samples >= 1, got {B!r}")


def _engine(name: str) -> Engine:
    if name not in ENGINES:
        raise ValueError(f"engine: wanted one of {', '.join(ENGINES)}, got {name!r}")
    return ENGINES[name]
