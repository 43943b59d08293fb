"""gdext.descent: x[n+1] = x[n] - gamma grad f(x[n]), its trajectory, and how it ends."""

from __future__ import annotations

import re

import pytest
import torch
from inputs import randn

from gdext.descent import PATIENCE, DivergenceError, descend


def square(x):
    return x**2


START = torch.tensor(-3.0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("gamma", [1.0, None])
def test_a_learning_rate_of_1_jumps_to_and_fro(dtype, gamma):
    found = descend(square, START.to(dtype), gamma, steps=20)
    assert found.points.tolist() == [-3.0, 3.0] * 10 + [-3.0]
    assert found.values.tolist() == [9.0] * 21
    assert found.gradients.tolist() == [-6.0, 6.0] * 10 + [-6.0]
    assert found.gammas.tolist() == [1.0] * 20
    assert found.points.dtype is dtype


def test_a_small_learning_rate_converges():
    found = descend(square, START.double(), 0.1)
    assert found.points.tolist() == pytest.approx([-3 * 0.8**n for n in range(101)], rel=1e-12)
    assert abs(found.points[-1]) < 1e-8
    assert (found.values.diff() < 0).all()


def test_a_large_learning_rate_diverges_and_says_so():
    message = r"at step 10: f has grown for 10 steps, to 345\.\d+, from 9 at x0, learning rate 1\.1"
    with pytest.raises(DivergenceError, match=message) as error:
        descend(square, START.double(), 1.1, steps=1000)
    kept = error.value.trajectory
    assert kept.points.tolist() == pytest.approx([-3 * (-1.2) ** n for n in range(PATIENCE + 1)])
    assert len(kept.values) == len(kept.gradients) == PATIENCE + 1 == len(kept.gammas) + 1


@pytest.mark.parametrize(
    ("f", "gamma", "message"),
    [
        (lambda x: x.log(), 10.0, "f is nan, its gradient's norm"),
        (lambda x: 1e30 * x**4, 1e30, "f is inf"),
        (lambda x: (x - 1).sqrt(), 1.0, "f is 0, its gradient's norm inf"),
    ],
)
def test_numbers_that_are_not_finite_stop_it(f, gamma, message):
    with pytest.raises(DivergenceError, match=message) as error:
        descend(f, torch.tensor(1.0), gamma)
    kept = error.value.trajectory
    assert torch.equal(kept.points[0], torch.tensor(1.0))
    good = kept.values[:-1].isfinite() & kept.gradients[:-1].isfinite()
    assert good.all() and len(kept.gammas) == len(kept.points) - 1


def test_growth_that_ends_below_the_start_is_no_divergence():
    # From 4 down to 0 at once, then up a slope that never gets back to where f began.
    heights = [4.0] + [0.1 * n for n in range(PATIENCE + 5)]
    calls = iter(heights)
    found = descend(lambda x: 0 * x + next(calls), torch.tensor(0.0), 1.0, len(heights) - 1)
    assert found.values.tolist() == pytest.approx(heights)


def test_a_sequence_and_a_schedule():
    rates = [0.5, 0.25, 0.125]
    a = descend(square, START.double(), rates)
    b = descend(square, START.double(), lambda n: rates[n], steps=3)
    assert a.points.tolist() == b.points.tolist() == [-3.0, 0.0, 0.0, 0.0]
    assert a.gammas.tolist() == b.gammas.tolist() == rates
    assert descend(square, START, rates, steps=1).points.tolist() == [-3.0, 0.0]
    assert descend(square, START, 0.1, steps=0).points.tolist() == [-3.0]


def test_any_shape_follows_the_formula():
    A, x0 = randn(6, 6, seed=1), randn(2, 3, seed=2)
    A = A @ A.T / 40

    def f(x):
        v = x.reshape(-1)
        return v @ A @ v / 2

    found = descend(f, x0, 0.3, steps=50)
    x = x0.reshape(-1)
    for n in range(51):
        torch.testing.assert_close(found.points[n].reshape(-1), x, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(found.gradients[n].reshape(-1), A @ x, rtol=1e-12, atol=1e-12)
        x = x - 0.3 * (A @ x)
    assert found.points.shape == found.gradients.shape == (51, 2, 3)


def test_the_start_is_left_alone_also_without_gradients():
    x0 = randn(3).requires_grad_()
    before = x0.detach().clone()
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            found = descend(lambda x: (x**2).sum(), x0, 0.1, 5)
    assert torch.equal(x0, before) and x0.grad is None
    assert not found.points.requires_grad and not found.values.requires_grad


class HalfSquare(torch.autograd.Function):
    """|x|^2 / 2, whose gradient is x, the very tensor."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.square().sum() / 2

    @staticmethod
    def backward(ctx, grad):
        return ctx.saved_tensors[0]


def test_what_f_gives_of_x_itself_is_kept_as_it_was():
    line = descend(lambda x: x, torch.tensor(1.0), 0.25, 2)
    assert line.values.tolist() == line.points.tolist() == [1.0, 0.75, 0.5]
    part = descend(lambda x: x[1], torch.tensor([4.0, 1.0]), 0.25, 2)
    assert part.values.tolist() == [1.0, 0.75, 0.5]
    bowl = descend(HalfSquare.apply, torch.tensor([4.0, 1.0]), 0.5, 2)
    assert bowl.gradients.tolist() == bowl.points.tolist() == [[4.0, 1.0], [2.0, 0.5], [1.0, 0.25]]
    assert not bowl.gradients.requires_grad


def test_numbers_of_other_kinds():
    number = pytest.importorskip("numpy")
    found = descend(square, START, number.float32(0.5), steps=number.int64(1))
    assert found.points.tolist() == [-3.0, 0.0]
    found = descend(square, START, lambda n: torch.tensor(0.5), steps=1)
    assert found.points.tolist() == [-3.0, 0.0]


BAD = {
    "x0 a number": ((square, -3.0), TypeError, "x0: wanted a floating-point Tensor, got float"),
    "x0 of integers": ((square, torch.tensor(3)), TypeError,
        "x0: wanted a floating-point Tensor, got torch.int64"),
    "x0 empty": ((torch.sum, torch.ones(0)), ValueError,
        "x0: wanted at least one element, got shape [0]"),
    "no scalar": ((square, torch.ones(2)), ValueError,
        "f: wanted a scalar (shape []), got shape [2]"),
    "no tensor": ((float, START), TypeError,
        "f: wanted a function that returns a Tensor, got float"),
    "no real number": ((lambda x: x * 1j, START), TypeError,
        "f: wanted a floating-point scalar, got torch.complex64"),
    "a constant": ((lambda x: torch.tensor(1.0), START), ValueError,
        "f: wanted a differentiable function of x, got a constant"),
    "of something else": ((lambda x: torch.ones(1, requires_grad=True).sum(), START), ValueError,
        "f: wanted a function of x, got one of other tensors"),
    "gamma a string": ((square, START, "0.1"), TypeError,
        "gamma: wanted a number, a sequence of numbers, a function of the step or None, got str"),
    "gamma negative": ((square, START, -0.1), ValueError,
        "gamma: wanted a finite number >= 0, got -0.1 for step 0"),
    "gamma NaN": ((square, START, [0.1, float("nan")]), ValueError,
        "gamma: wanted a finite number >= 0, got nan for step 1"),
    "gamma of no numbers": ((square, START, [0.1, None]), TypeError,
        "gamma: wanted a number, got NoneType for step 1"),
    "a schedule of no numbers": ((square, START, str), TypeError,
        "gamma: wanted a number, got str for step 0"),
    "steps negative": ((square, START, 0.1, -1), ValueError,
        "steps: wanted an integer from 0, got -1"),
    "steps a float": ((square, START, 0.1, 1.5), ValueError,
        "steps: wanted an integer from 0, got 1.5"),
    "too many steps": ((square, START, [0.1, 0.1], 3), ValueError,
        "steps: wanted an integer from 0 to 2 (the numbers of gamma), got 3"),
}  # fmt: skip


def test_a_bad_learning_rate_is_found_before_the_first_step():
    def f(x):
        raise AssertionError

    with pytest.raises(ValueError, match=r"gamma: .* got -1\.0 for step 2"):
        descend(f, START, [0.1, 0.1, -1.0])


@pytest.mark.parametrize("case", list(BAD))
def test_bad_argument(case):
    given, kind, message = BAD[case]
    with pytest.raises(kind, match=re.escape(message)):
        descend(*given)
