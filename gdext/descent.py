"""Gradient descent on any differentiable function of a tensor, with its whole trajectory.

    x[n+1] = x[n] - gamma[n] grad f(x[n])

The gradient is autograd's, the update gdext's SGD kernel.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from numbers import Integral, Real

import torch
from torch import Tensor

from gdext.optim import SGD

__all__ = ["DivergenceError", "Trajectory", "descend"]

# So many values in a row, each larger than the one before and than the first, are divergence.
PATIENCE = 10

Gamma = float | Sequence[float] | Callable[[int], float] | None


@dataclass(frozen=True)
class Trajectory:
    """Where gradient descent has been, N steps.

    Attributes:
        points: x[0], ..., x[N].
        values: f there.
        gradients: grad f there.
        gammas: the learning rate of each step, float64; ones where there was none.

    Shape:
        points, gradients: ``[N + 1, *]``, * the shape of x.
        values: ``[N + 1]``.
        gammas: ``[N]``.

    Example::

        >>> path = gdext.descent.descend(lambda x: x**2, torch.tensor(4.0), gamma=0.25, steps=2)
        >>> path.points.tolist(), path.values.tolist(), path.gammas.tolist()
        ([4.0, 2.0, 1.0], [16.0, 4.0, 1.0], [0.25, 0.25])
    """

    points: Tensor
    values: Tensor
    gradients: Tensor
    gammas: Tensor


class DivergenceError(ArithmeticError):
    """Gradient descent ran away; ``trajectory`` is what there is of it.

    Args:
        message: what is said.
        trajectory: up to the point where that was seen.

    Example::

        >>> try:
        ...     gdext.descent.descend(lambda x: x**2, torch.tensor(1.0), gamma=2.0)
        ... except gdext.descent.DivergenceError as error:
        ...     print(error.trajectory.points[:3].tolist())
        [1.0, -3.0, 9.0]
    """

    def __init__(self, message: str, trajectory: Trajectory) -> None:
        super().__init__(message)
        self.trajectory = trajectory


@torch.inference_mode(False)
def descend(
    f: Callable[[Tensor], Tensor], x0: Tensor, gamma: Gamma = None, steps: int | None = None
) -> Trajectory:
    """Takes ``steps`` steps of gradient descent on ``f`` from ``x0``, which is left as it is:
    x[n+1] = x[n] - gamma[n] grad f(x[n]).

    Args:
        f: a differentiable function of a tensor of x0's shape and dtype; returns a scalar. It is
            given the same tensor in every call, which the steps change in place.
        x0: floating-point, any shape.
        gamma: the learning rate: one number for all steps; one for each; or a schedule, a function
            of the step's number n = 0, 1, ... None: no learning rate, x[n+1] = x[n] - grad f(x[n]).
        steps: N; by default as many as ``gamma`` has numbers, else 100.

    Shape:
        x0: ``[*]``, any; f returns ``[]``.

    Returns:
        The trajectory: points, values, gradients and learning rates.

    Raises:
        DivergenceError: f or its gradient is infinite or NaN, or f has grown for 10 steps in a row
            to more than f(x0). Its ``trajectory`` ends with the point where that was seen.
        TypeError: x0 is no floating-point tensor, f returns none, gamma is none of the above or
            gives something else than numbers.
        ValueError: f returns no scalar, or one that does not depend on x; a learning rate that is
            negative, infinite or NaN; steps < 0 or more than gamma has numbers; x0 is empty.

    Source: Cauchy, "Methode generale pour la resolution des systemes d'equations simultanees",
    1847.

    Example::

        >>> x0 = torch.tensor(-3.0)
        >>> gdext.descent.descend(lambda x: x**2, x0, gamma=1.0, steps=3).points.tolist()
        [-3.0, 3.0, -3.0, 3.0]
    """
    if not isinstance(x0, Tensor) or not x0.is_floating_point():
        got = x0.dtype if isinstance(x0, Tensor) else type(x0).__name__
        raise TypeError(f"x0: wanted a floating-point Tensor, got {got}")
    if x0.numel() == 0:
        raise ValueError(f"x0: wanted at least one element, got shape {list(x0.shape)}")
    count, rate = _read_gamma(gamma, steps)
    x = x0.detach().clone().requires_grad_()
    optimizer = SGD([x], lr=1.0)
    points: list[Tensor] = []
    values: list[Tensor] = []
    gradients: list[Tensor] = []
    gammas: list[float] = []
    growing = 0
    while True:
        value, x.grad = _value_and_gradient(f, x)
        growing = growing + 1 if values and value > values[-1] else 0
        points.append(x.detach().clone())
        values.append(value)
        gradients.append(x.grad)
        n = len(gammas)
        reason = None
        if not (value.isfinite() and x.grad.isfinite().all()):
            reason = f"f is {float(value):g}, its gradient's norm {float(x.grad.norm()):g}"
        elif growing >= PATIENCE and value > values[0]:
            reason = f"f has grown for {PATIENCE} steps, to {float(value):g}"
        if reason or n == count:
            break
        gammas.append(rate(n))
        optimizer.param_groups[0]["lr"] = gammas[-1]
        optimizer.step()
    trajectory = Trajectory(
        torch.stack(points),
        torch.stack(values),
        torch.stack(gradients),
        torch.tensor(gammas, dtype=torch.float64),
    )
    if reason:
        last = f", learning rate {gammas[-1]:g}" if gammas and gamma is not None else ""
        raise DivergenceError(
            f"descend: diverged at step {n}: {reason}, from {float(values[0]):g} at x0{last}",
            trajectory,
        )
    return trajectory


def _read_gamma(gamma: Gamma, steps: int | None) -> tuple[int, Callable[[int], float]]:
    """The number of steps, and the learning rate of each."""
    rate: Callable[[int], float]
    most: float
    if isinstance(gamma, Sequence) and not isinstance(gamma, str | bytes):
        rates = [_checked(number, n) for n, number in enumerate(gamma)]
        most, rate = len(rates), rates.__getitem__
    elif gamma is None or isinstance(gamma, Real):
        number = _checked(1.0 if gamma is None else gamma, 0)
        most, rate = math.inf, lambda n: number
    elif callable(gamma):
        schedule = gamma
        most, rate = math.inf, lambda n: _checked(schedule(n), n)
    else:
        raise TypeError(
            "gamma: wanted a number, a sequence of numbers, a function of the step or None, got "
            f"{type(gamma).__name__}"
        )
    if steps is None:
        steps = 100 if math.isinf(most) else int(most)
    if not isinstance(steps, Integral) or not 0 <= steps <= most:
        limit = "" if math.isinf(most) else f" to {most} (the numbers of gamma)"
        raise ValueError(f"steps: wanted an integer from 0{limit}, got {steps!r}")
    return int(steps), rate


def _checked(rate: object, n: int) -> float:
    if not isinstance(rate, Real | Tensor):
        raise TypeError(f"gamma: wanted a number, got {type(rate).__name__} for step {n}")
    number = float(rate)
    if not math.isfinite(number) or number < 0:
        raise ValueError(f"gamma: wanted a finite number >= 0, got {number} for step {n}")
    return number


def _value_and_gradient(f: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    with torch.enable_grad():
        value = f(x)
    if not isinstance(value, Tensor):
        raise TypeError(f"f: wanted a function that returns a Tensor, got {type(value).__name__}")
    if value.dim() != 0:
        raise ValueError(f"f: wanted a scalar (shape []), got shape {list(value.shape)}")
    if not value.is_floating_point():
        raise TypeError(f"f: wanted a floating-point scalar, got {value.dtype}")
    if not value.requires_grad:
        raise ValueError("f: wanted a differentiable function of x, got a constant")
    (gradient,) = torch.autograd.grad(value, x, allow_unused=True)
    if gradient is None:
        raise ValueError("f: wanted a function of x, got one of other tensors")
    # Copies: f may return a part of x, and a gradient may be x itself, which the step will change.
    return value.detach().clone(), gradient.detach().clone()
