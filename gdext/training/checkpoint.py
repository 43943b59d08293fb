"""A run on disk: everything the next step depends on, in one file that is whole or absent."""

from __future__ import annotations

import pickle
import zipfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gdext.training.engine import Engine
from gdext.training.options import DEFAULTS, UsageError
from gdext.training.output import write_atomically

FORMAT = "gdext MNIST run, version 2"
PARTS = {"options", "samples", "model", "optimizer", "position"}


@dataclass
class Position:
    """How far a run has come.

    epoch: completed epochs; step: completed steps of the epoch after them; order_state: the
    state of the sample-order generator at that epoch's start; loss_sum: its loss so far, summed
    over samples; seconds: its training time so far; history: a row of metrics per epoch.
    """

    order_state: Tensor
    epoch: int = 0
    step: int = 0
    loss_sum: float = 0.0
    seconds: float = 0.0
    history: list[dict[str, float]] = field(default_factory=list)


def save(
    path: Path,
    options: dict[str, Any],
    samples: int,
    engine: Engine,
    position: Position,
) -> None:
    content = {
        "format": FORMAT,
        "options": options,
        "samples": samples,
        "model": engine.model.state_dict(),
        "optimizer": engine.optimizer.state_dict(),
        "position": asdict(position),
    }
    write_atomically(path, lambda file: torch.save(content, file))


def load(path: Path) -> dict[str, Any]:
    """What `save` wrote, tensors on the CPU.

    Raises:
        UsageError: there is no such file, or it is no intact checkpoint of this trainer.
    """
    try:
        with zipfile.ZipFile(path) as file:  # torch.load does not compare the checksums in the file
            if (damaged := file.testzip()) is not None:
                raise zipfile.BadZipFile(f"wrong CRC-32 in {damaged}")
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UsageError(f"--resume: there is no checkpoint {path}") from None
    except pickle.UnpicklingError as error:  # torch's text advises to load the file unsafely
        raise UsageError(
            f"--resume: {path} is no checkpoint of this trainer: it holds more than tensors and "
            "plain values, and was not loaded"
        ) from error
    except Exception as error:  # whatever unzipping and unpickling raise
        reason = str(error).partition("\n")[0]
        raise UsageError(
            f"--resume: {path} is corrupt or no checkpoint ({type(error).__name__}: {reason})"
        ) from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise UsageError(f'--resume: {path} is no checkpoint of the format "{FORMAT}"')
    if missing := PARTS - content.keys():
        raise UsageError(f"--resume: {path} has no {', '.join(sorted(missing))}")
    if unknown := content["options"].keys() - DEFAULTS.keys():
        raise UsageError(f"--resume: {path} has options unknown here: {', '.join(sorted(unknown))}")
    return content


def restore(content: dict[str, Any], samples: int, engine: Engine) -> Position:
    """Puts a loaded checkpoint's state into `engine`.

    Raises:
        UsageError: the checkpoint was made on another number of training samples, or its parts
            do not fit together.
    """
    if content["samples"] != samples:
        raise UsageError(
            f"--resume: the checkpoint was trained on {content['samples']} samples, "
            f"the data here has {samples}"
        )
    try:
        engine.model.load_state_dict(content["model"])
        engine.optimizer.load_state_dict(content["optimizer"])
        return Position(**content["position"])
    except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise UsageError(
            f"--resume: the checkpoint does not fit its own options: {reason}"
        ) from error
