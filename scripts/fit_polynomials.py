#!/usr/bin/env python3
"""The polynomials of csrc/cpu/vmath.inl: prints their coefficients and the error of each.

Each is a minimax fit by Remez' exchange algorithm in 60 decimal digits. Coefficients are rounded to
the element type one after the other, the lowest power first, and the others fitted again each time,
so that they make up for what rounding took.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import mpmath as mp
import numpy as np

mp.mp.dps = 60
POINTS = 1200


@dataclass(frozen=True)
class Fit:
    """`f` by a polynomial of `terms` coefficients on [low, high]; `weight` times the difference is
    the relative error of what it is used for."""

    name: str
    dtype: type[np.floating]
    terms: int
    f: Callable[[mp.mpf], mp.mpf]
    weight: Callable[[mp.mpf], mp.mpf]
    low: mp.mpf
    high: mp.mpf


def evaluate(coefficients: list[mp.mpf], x: mp.mpf) -> mp.mpf:
    return mp.polyval(coefficients[::-1], x)


def remez(fit: Fit, grid: list[mp.mpf], f: list[mp.mpf], w: list[mp.mpf], fixed: list[mp.mpf]):
    """All coefficients, the first ones being `fixed`, and the largest weighted error on `grid`."""
    first, free = len(fixed), fit.terms - len(fixed)
    rest = [y - evaluate(fixed, x) if fixed else y for x, y in zip(grid, f, strict=True)]
    nodes = [
        round((POINTS - 1) * (1 - float(mp.cos(mp.pi * i / free))) / 2) for i in range(free + 1)
    ]
    best: tuple[list[mp.mpf], mp.mpf] | None = None
    for _ in range(30):
        system, right = mp.matrix(free + 1, free + 1), mp.matrix(free + 1, 1)
        for row, node in enumerate(nodes):
            for column in range(free):
                system[row, column] = grid[node] ** (first + column)
            system[row, free] = (-1) ** row / w[node]
            right[row] = rest[node]
        solution = mp.lu_solve(system, right)
        coefficients = [*fixed, *solution[:free]]
        errors = [
            weight * (y - evaluate(coefficients, x))
            for x, y, weight in zip(grid, f, w, strict=True)
        ]
        worst = max(abs(e) for e in errors)
        if best is None or worst < best[1]:
            best = coefficients, worst
        if worst <= abs(solution[free]) * mp.mpf("1.001"):
            break
        nodes = extrema(errors, free + 1)
    assert best is not None
    return best


def extrema(errors: list[mp.mpf], wanted: int) -> list[int]:
    """Where the error is largest between its changes of sign: `wanted` places, alternating."""
    places: list[int] = []
    for i, error in enumerate(errors):
        if places and (error > 0) == (errors[places[-1]] > 0):
            if abs(error) > abs(errors[places[-1]]):
                places[-1] = i
        else:
            places.append(i)
    while len(places) > wanted:
        places.pop(0 if abs(errors[places[0]]) < abs(errors[places[-1]]) else -1)
    if len(places) < wanted:
        raise SystemExit("fit_polynomials: the exchange found too few changes of sign")
    return places


def fit_rounded(fit: Fit) -> tuple[list[np.floating], mp.mpf]:
    middle, half = (fit.low + fit.high) / 2, (fit.high - fit.low) / 2
    # Chebyshev's points, without the ends, where f may be 0 / 0.
    angles = [mp.pi * (2 * i + 1) / (2 * POINTS) for i in range(POINTS)]
    grid = [middle - half * mp.cos(angle) for angle in angles]
    f, w = [fit.f(x) for x in grid], [fit.weight(x) for x in grid]
    rounded: list[np.floating] = []
    error = mp.mpf(0)
    while len(rounded) < fit.terms:
        coefficients, error = remez(fit, grid, f, w, [mp.mpf(float(c)) for c in rounded])
        rounded.append(fit.dtype(mp.nstr(coefficients[len(rounded)], 30)))
    final = [mp.mpf(float(c)) for c in rounded]
    error = max(
        abs(weight * (y - evaluate(final, x))) for x, y, weight in zip(grid, f, w, strict=True)
    )
    return rounded, error


HALF_LN2 = mp.log(2) / 2 * mp.mpf("1.0001")  # the rounding of x / ln 2 lets r overstep a little
ATANH_LIMIT = (mp.sqrt(2) - 1) ** 4 * mp.mpf("1.0001")


def exp_rest(r: mp.mpf) -> mp.mpf:
    """q in exp(r) = 1 + r + r^2 q(r)."""
    return (mp.expm1(r) - r) / r**2


def exp_weight(r: mp.mpf) -> mp.mpf:
    """That of expm1, r^2 / expm1(r), kept away from its zero, where the exchange finds no way."""
    return max(abs(r**2 / mp.expm1(r)), HALF_LN2 / 10)


def atanh_rest(z: mp.mpf) -> mp.mpf:
    """p in 2 atanh(s) = 2 s + s z p(z), z = s^2."""
    s = mp.sqrt(z)
    return (2 * mp.atanh(s) / s - 2) / z


def erf_exponent(x: mp.mpf) -> mp.mpf:
    """h in erf(x) = -expm1(-(x + x h(x)))."""
    return -mp.log(mp.erfc(x)) / x - 1


def erf_weight(x: mp.mpf) -> mp.mpf:
    return x * mp.erfc(x) / mp.erf(x)


def fits(dtype: type[np.floating], exp: int, log: int, erf: int, erf_end: float) -> list[Fit]:
    zero = mp.mpf(0)
    return [
        Fit("exp", dtype, exp, exp_rest, exp_weight, -HALF_LN2, HALF_LN2),
        Fit("log", dtype, log, atanh_rest, lambda z: z / 2, zero, ATANH_LIMIT),
        Fit("erf", dtype, erf, erf_exponent, erf_weight, zero, mp.mpf(erf_end)),
    ]


def main() -> None:
    for fit in [*fits(np.float32, 6, 3, 9, 4.0), *fits(np.float64, 11, 7, 24, 6.0)]:
        coefficients, error = fit_rounded(fit)
        print(f"{fit.name} {fit.dtype.__name__}, error 2^{float(mp.log(error, 2)):.1f}:")
        print(
            "  "
            + ", ".join(repr(c.item()) if fit.dtype == np.float64 else str(c) for c in coefficients)
        )


if __name__ == "__main__":
    main()
