"""The command scripts/compare_descent.py."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from gdext.data import DataError
from gdext.instruments import command, descent_figures, least_squares, mnist
from gdext.training.options import UsageError, integer_between
from gdext.training.output import make_writable

PROGRAM = "compare_descent.py"

DESCRIPTION = """\
Compares gradient descent, mini-batch and one-sample SGD, each with learning rates that are too
small, right and too large: in the plane of two parameters and on MNIST. Measures the noise of
one-sample gradients. Writes descent.json and pictures of trajectories, MNIST and noise."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code (command.run)."""
    return command.run(PROGRAM, _run, arguments)


def _run(given: list[str]) -> None:
    parser = command.Parser(PROGRAM, DESCRIPTION)
    add = parser.add_argument
    add("--images", type=integer_between(2, 10**6), metavar="N",
        help="train on the first N images only (default: all)")  # fmt: skip
    epochs = [60, 10, 5]
    add("--epochs", type=integer_between(1, 1000), nargs=3, default=epochs, metavar="N",
        help="of gradient descent, mini-batch and one-sample SGD "
        f"(default {' '.join(map(str, epochs))})")  # fmt: skip
    add("--noise-epochs", type=integer_between(1, 1000), default=3, metavar="N",
        help="of training before the noise is measured again (default 3)")  # fmt: skip
    chosen = parser.parse_args(given)
    try:
        images = mnist.load(chosen.images)
    except DataError as error:
        raise UsageError(str(error)) from error
    folder = Path(chosen.out)
    make_writable(folder)
    results = command.head(PROGRAM, given)
    results["least_squares"] = least_squares.run(chosen.seed)
    runs = []
    for method, count in zip(mnist.METHODS, chosen.epochs, strict=True):
        for rate in method.rates:
            runs.append(mnist.run(images, method, rate, count, chosen.seed))
            curve = runs[-1]["curve"]
            print(
                f"{method.name:18}  learning rate {runs[-1]['gamma']:<6g} ({rate}): "
                f"{count} epochs, {curve['seconds'][-1]:.2f} s, loss {curve['loss'][-1]:.4f}",
                flush=True,
            )
    noise = mnist.gradient_noise(images, chosen.noise_epochs, chosen.seed)
    for found in noise:
        print(
            f"after {found['epochs']} epochs the gradient of one sample is {found['deviation']:.1f}"
            " times the full gradient's norm away from it; the mean of all of them is "
            f"{found['bias']:.0e} times that away",
            flush=True,
        )
    results["mnist"] = {
        "images": len(images.labels),
        "source": images.source,
        "network": f"{images.pixels.shape[1]}-{mnist.HIDDEN}-10",
        "runs": runs,
        "noise": noise,
    }
    command.save(
        folder,
        "descent",
        results,
        {
            "descent-trajectories": lambda new: descent_figures.trajectories(new, results),
            "descent-mnist": lambda new: descent_figures.mnist(new, results),
            "descent-noise": lambda new: descent_figures.noise(new, results),
        },
    )
