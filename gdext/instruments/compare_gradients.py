"""The command scripts/compare_gradients.py."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path

from gdext import gradients
from gdext.instruments import command, gradients_figure, update_cost
from gdext.instruments.update_cost import Effort, Point
from gdext.training.options import UsageError, integer_between, number_from
from gdext.training.output import make_writable

PROGRAM = "compare_gradients.py"

DESCRIPTION = """\
Measures the time of one SGD update against the number of layers, with the gradient by
backpropagation, forward mode, finite differences, and the chain rule path by path. Writes
gradients.json, gradients.png and gradients.svg."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code (command.run)."""
    return command.run(PROGRAM, _run, arguments)


def _run(given: list[str]) -> None:
    parser = command.Parser(PROGRAM, DESCRIPTION)
    add = parser.add_argument
    add("--layers", type=integer_between(4, 50), default=20, metavar="N",
        help="measure networks of 1 to N layers (default 20)")  # fmt: skip
    add("--width", type=integer_between(1, 64), default=3, metavar="N",
        help="units in every layer (default 3, the nearest to e)")  # fmt: skip
    add("--rounds", type=integer_between(1, 1000), default=9, metavar="N",
        help="measurements of each point (default 9)")  # fmt: skip
    add("--budget", type=number_from(0.0, exclusive=True), default=8.0, metavar="SECONDS",
        help="for the measurements of one point: what needs more is extrapolated (default 8)",
    )  # fmt: skip
    chosen = parser.parse_args(given)
    folder = Path(chosen.out)
    make_writable(folder)
    results = command.head(PROGRAM, given)
    results |= {name: vars(chosen)[name] for name in ("layers", "width", "rounds", "budget")}
    points: list[Point] = []
    effort = Effort(chosen.rounds, chosen.budget)
    for point in update_cost.measure(chosen.width, chosen.layers, effort, chosen.seed):
        points.append(point)
        print(
            f"{point.layers:3} layers  {point.engine:17}  "
            f"{statistics.median(point.seconds):.3e} s  "
            f"{point.multiplications:.3e} multiplications",
            flush=True,
        )
    try:
        fits = {
            engine: update_cost.fit([p for p in points if p.engine == engine])
            for engine in gradients.ENGINES
        }
    except ValueError as error:
        raise UsageError(f"--budget {chosen.budget:g} is too little: {error}") from error
    results["points"] = [point._asdict() for point in points]
    results["multiplications"] = {
        engine: [
            gradients.cost(engine, [chosen.width] * (L + 1)) for L in range(1, chosen.layers + 1)
        ]
        for engine in gradients.ENGINES
    }
    results["fits"] = {engine: fit._asdict() for engine, fit in fits.items()}
    results["claims"] = update_cost.claims(fits, chosen.width, chosen.layers)
    for name, value in results["claims"].items():
        print(f"{name}: {value:,.6g}")
    draw = {"gradients": lambda new: gradients_figure.draw(new, results)}
    command.save(folder, "gradients", results, draw)
