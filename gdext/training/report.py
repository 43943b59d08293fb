"""What a run tells: a line per epoch, metrics.jsonl, TensorBoard events, a progress bar."""

from __future__ import annotations

import importlib
import json
import sys
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

from gdext.training.output import METRICS, write_atomically


def optional(module: str, package: str, purpose: str) -> ModuleType | None:
    """The module, or None after one line saying what is lost without its package."""
    if find_spec(package) is None:
        print(f"{package} is not installed: no {purpose} (pip install {package})", flush=True)
        return None
    return importlib.import_module(module)


class NoReport:
    """Tells nothing: another process does."""

    def open_bar(self, epoch: int, samples_done: int) -> Any:
        return _NoBar()

    def end_epoch(self, row: dict[str, float]) -> None:
        pass

    def close(self) -> None:
        pass


class Report:
    """Writes a run's metrics as they come. Rows of `history`, from before a resume, go to
    metrics.jsonl again, so that it holds each epoch once however the run was interrupted."""

    def __init__(
        self, folder: Path, epochs: int, samples: int, history: list[dict[str, float]]
    ) -> None:
        self._epochs = epochs
        self._samples = samples
        self._path = folder / METRICS
        self._lines = [json.dumps(row) for row in history]
        if self._lines:
            self._write()
        self._tqdm = optional("tqdm", "tqdm", "progress bar") if _on_terminal() else None
        self._events: Any = None
        tensorboard = optional("torch.utils.tensorboard", "tensorboard", "TensorBoard events")
        if tensorboard is not None:
            self._events = tensorboard.SummaryWriter(
                str(folder / "tensorboard"), purge_step=len(history) + 1
            )

    def open_bar(self, epoch: int, samples_done: int) -> Any:
        if self._tqdm is None:
            return _NoBar()
        return self._tqdm.tqdm(
            total=self._samples,
            initial=samples_done,
            desc=f"epoch {epoch}/{self._epochs}",
            unit=" samples",
            unit_scale=True,
            leave=False,
        )

    def end_epoch(self, row: dict[str, float]) -> None:
        print(
            f"epoch {row['epoch']}/{self._epochs}  loss {row['train_loss']:.4f}  "
            f"test loss {row['test_loss']:.4f}  test accuracy {row['test_accuracy']:.2%}  "
            f"{row['samples_per_second']:,.0f} samples/s  lr {row['lr']:.3g}",
            flush=True,
        )
        self._lines.append(json.dumps(row))
        self._write()
        if self._events is not None:
            for name, value in row.items():
                if name != "epoch":
                    self._events.add_scalar(name, value, row["epoch"])
            self._events.flush()

    def close(self) -> None:
        if self._events is not None:
            self._events.close()

    def _write(self) -> None:
        text = "".join(line + "\n" for line in self._lines)
        write_atomically(self._path, lambda file: file.write(text.encode()))


def _on_terminal() -> bool:
    return sys.stderr is not None and sys.stderr.isatty()  # None where it was closed


class _NoBar:
    def update(self, n: float) -> None:
        pass

    def close(self) -> None:
        pass
