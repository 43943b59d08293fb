"""The trainer's command line, its defaults, and what a resumed run may change."""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from typing import Any, NoReturn

from gdext.training.engine import ACTIVATIONS, DTYPES, ENGINES, LOSSES, SCHEDULES

DEFAULTS: dict[str, Any] = {
    "recipe": None,
    "device": "auto",
    "engine": "auto",
    "hidden": [512, 512],
    "activation": "relu",
    "loss": "cross_entropy",
    "batch_size": 128,
    "epochs": 4,
    "lr": 0.05,
    "momentum": 0.9,
    "weight_decay": 0.0,
    "nesterov": False,
    "schedule": "cosine",
    "dtype": "float32",
    "pixels": "standard",
    "seed": 0,
    "limit": None,
    "target_accuracy": None,
    "data_dir": None,
    "out": None,
    "resume": None,
}

# --recipe: options in place of the defaults. How "fast" was found: docs/recipe.md.
RECIPES: dict[str, dict[str, Any]] = {
    "fast": {
        "hidden": [256],
        "batch_size": 32,
        "epochs": 4,
        "lr": 0.7,
        "momentum": 0.0,
        "schedule": "triangle",
        "pixels": "unit",
    },
}

# The others decide every number of a run, so that a checkpoint can only be continued with the same.
CHANGEABLE_ON_RESUME = ("device", "engine", "target_accuracy", "data_dir", "out", "resume")

DESCRIPTION = """\
Trains a multi-layer perceptron on MNIST by stochastic gradient descent."""

EPILOG = """\
exit codes: 0 trained (and --target-accuracy, if given, was reached); 1 the target was missed or
training diverged; 2 bad arguments, data, checkpoint or output folder; 130 stopped by Ctrl-C
(143 by SIGTERM), saved, --resume continues; 3 another process of the run has ended, --resume
continues from the last checkpoint.

several processes, on one machine or more: torchrun --nproc-per-node 2 scripts/train_mnist.py ...
They share each step's samples, hold the same weights, which is checked after each epoch, and the
first one writes and prints. With --device cuda each takes a GPU of its own."""


class UsageError(Exception):
    """What the user asked for cannot be done; the message is one line for stderr."""


class Parser(argparse.ArgumentParser):
    """Raises UsageError in place of printing and exiting."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message} (see --help)")


def parse(arguments: Sequence[str] | None) -> dict[str, Any]:
    """The options that were given, checked one by one; without defaults, which `complete` adds.

    Raises:
        UsageError: an unknown option, or a value out of its range.
    """
    parser = Parser(
        prog="train_mnist.py",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
    )

    def add(name: str, help: str, **kwargs: Any) -> None:
        default = DEFAULTS[name]
        if isinstance(default, list):
            default = " ".join(map(str, default))
        if default is not None and default is not False:
            help += f" (default {default})"
        parser.add_argument("--" + name.replace("_", "-"), help=help, **kwargs)

    add(
        "recipe",
        "other defaults. fast: 98%% test accuracy on the full MNIST in the shortest training time "
        f"on a CPU ({_as_arguments(RECIPES['fast'])})",
        choices=[*RECIPES],
    )
    add("device", "auto takes cuda where there is one", choices=["auto", "cpu", "cuda"])
    add(
        "engine",
        "fused: gdext.FusedTrainer, whole steps in native code; layers: gdext's layers, loss and "
        "SGD; torch: PyTorch's own; auto: fused",
        choices=["auto", *ENGINES],
    )
    add(
        "hidden",
        "widths of the hidden layers; none for softmax regression",
        type=integer_between(1),
        nargs="*",
        metavar="N",
    )
    add("activation", "of the hidden layers", choices=[*ACTIVATIONS])
    add("loss", "mse is taken against one-hot targets", choices=[*LOSSES])
    add(
        "batch_size",
        "samples per step: 1 is the textbook's SGD, full is gradient descent. Of all processes "
        "together, each of which takes its share, so that their number changes no result "
        "but by rounding",
        type=samples,
        metavar="N|full",
    )
    add("epochs", "passes over the training set", type=integer_between(1), metavar="N")
    add(
        "lr",
        "learning rate of the first epoch; the default suits the default batch size and momentum, "
        "--batch-size 1 --momentum 0 wants about 0.01",
        type=number_from(0.0, exclusive=True),
        metavar="X",
    )
    add("momentum", "of SGD", type=number_from(0.0), metavar="X")
    add("weight_decay", "of SGD", type=number_from(0.0), metavar="X")
    add("nesterov", "Nesterov momentum", action=argparse.BooleanOptionalAction)
    add(
        "schedule",
        "learning rate per epoch: constant; step: a tenth after each third of the "
        "epochs; exponential: falls evenly to 1%% over the epochs; cosine: half a wave to 0; "
        "or per step: triangle: rises evenly to --lr over a fifth of the steps, then falls to 0",
        choices=[*SCHEDULES],
    )
    add("dtype", "of parameters and images", choices=[*DTYPES])
    add(
        "pixels",
        "standard: of mean 0 and deviation 1 over the training set; unit: from 0 to 1, where "
        "four fifths are 0, which engine fused skips in small batches",
        choices=["standard", "unit"],
    )
    add(
        "seed",
        "of the initial weights and the order of samples",
        type=integer_between(0, 2**63 - 1),
        metavar="N",
    )
    add(
        "limit",
        "train on the first N samples only; the test set stays whole",
        type=integer_between(1),
        metavar="N",
    )
    add(
        "target_accuracy",
        "stop after the first epoch whose test accuracy reaches this, "
        "written 0.98 or 98%%; exit code 1 if none does",
        type=share,
        metavar="X",
    )
    add("data_dir", "folder of the data (default GDEXT_DATA, else ./data)", metavar="DIR")
    add(
        "out",
        "folder for metrics, plots and checkpoint; one that already holds a run is refused "
        "(default runs/mnist, or runs/mnist-2, -3, ... when taken)",
        type=folder,
        metavar="DIR",
    )
    add(
        "resume",
        "continue a checkpoint (default: that of --out, else of the newest runs/mnist*) "
        "to the same bits as an unbroken run. Options not given are the checkpoint's; only "
        "--engine, --device, --target-accuracy, and with a constant schedule --epochs, may differ",
        nargs="?",
        const="",
        metavar="PATH",
    )
    return vars(parser.parse_args(arguments))


def complete(given: dict[str, Any], saved: dict[str, Any] | None) -> argparse.Namespace:
    """All options of a run: `given`, else those `saved` in the checkpoint to resume, else the
    recipe's, else defaults.

    Raises:
        UsageError: `given` contradicts `saved`, or the options contradict each other.
    """
    recipe = RECIPES.get(given.get("recipe", ""), {})
    options = argparse.Namespace(**{**DEFAULTS, **recipe, **(saved or {}), **given})
    for name, value in (saved or {}).items():
        longer_run = name == "epochs" and options.schedule == "constant"
        if name not in CHANGEABLE_ON_RESUME and not longer_run and getattr(options, name) != value:
            raise UsageError(
                f"--{name.replace('_', '-')} {_shown(getattr(options, name))} contradicts the "
                f"checkpoint, which was made with {_shown(value)}; a resumed run cannot change it"
            )
    if options.nesterov and options.momentum == 0:
        raise UsageError("--nesterov needs --momentum above 0")
    return options


def to_save(options: argparse.Namespace) -> dict[str, Any]:
    """The options a checkpoint carries: all but this machine's folders."""
    return {k: v for k, v in vars(options).items() if k not in ("data_dir", "out", "resume")}


def _as_arguments(options: dict[str, Any]) -> str:
    named = (f"--{name.replace('_', '-')} {_shown(value)}" for name, value in options.items())
    return " ".join(named)


def _shown(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


def integer_between(least: int, most: int = 2**31) -> Any:
    def integer(text: str) -> int:
        value = int(text)
        if not least <= value <= most:
            raise argparse.ArgumentTypeError(f"{text}: wanted an integer from {least} to {most}")
        return value

    return integer


def number_from(least: float, exclusive: bool = False) -> Any:
    def number(text: str) -> float:
        value = float(text)
        if not math.isfinite(value) or value < least or (exclusive and value == least):
            bound = f"above {least:g}" if exclusive else f"of at least {least:g}"
            raise argparse.ArgumentTypeError(f"{text}: wanted a finite number {bound}")
        return value

    return number


def samples(text: str) -> int | str:
    if text == "full":
        return text
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text}: wanted an integer of at least 1, or full")
    return int(text)


def folder(text: str) -> str:
    if not text:
        raise argparse.ArgumentTypeError("wanted the name of a folder, got nothing")
    return text


def share(text: str) -> float:
    percent = text.endswith("%")
    value = float(text.removesuffix("%")) / (100 if percent else 1)
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"{text}: wanted a share in (0, 1], such as 0.98 or 98%")
    return value
