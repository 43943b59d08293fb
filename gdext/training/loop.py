"""Epochs of training, with evaluation, early stop, interruption and divergence."""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Callable
from enum import Enum, auto
from types import FrameType, TracebackType
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gdext.training.checkpoint import Position
from gdext.training.dataset import Dataset, Split
from gdext.training.engine import SCHEDULES, Engine


class Outcome(Enum):
    FINISHED = auto()
    TARGET_REACHED = auto()
    INTERRUPTED = auto()


class Diverged(Exception):
    """The loss is no longer finite; the message says since when."""


class StopSignal:
    """While entered, the first SIGINT or SIGTERM is noted in `number`, for the loop to see after
    its present steps; a second one acts as it did before."""

    def __init__(self) -> None:
        self.number: int | None = None

    def __enter__(self) -> StopSignal:
        self._before = {n: signal.signal(n, self._note) for n in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._restore()

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.number = number
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)


class Bar(Protocol):
    def update(self, n: float) -> object: ...
    def close(self) -> object: ...


def train(
    engine: Engine,
    data: Dataset,
    position: Position,
    *,
    batch_size: int,
    epochs: int,
    lr: float,
    schedule: str,
    target_accuracy: float | None,
    loss: str,
    stop: StopSignal,
    open_bar: Callable[[int, int], Bar],
    end_epoch: Callable[[dict[str, float]], None],
) -> Outcome:
    """Trains from `position` on, advancing it, until one of the outcomes.

    The samples of an epoch are taken in the order of torch.randperm under the generator state
    position.order_state. After each epoch its metrics go to position.history and `end_epoch`.
    `open_bar(epoch, samples_done)` gives the epoch's progress bar.

    Raises:
        Diverged: a training step's loss, or the test loss after an epoch, is not finite.
    """
    count = len(data.train.labels)
    steps_per_epoch = -(-count // batch_size)
    chunk = engine.chunk(batch_size)
    generator = torch.Generator()
    while True:
        done = position.history[-1]["test_accuracy"] if position.history else 0.0
        if target_accuracy is not None and done >= target_accuracy:
            return Outcome.TARGET_REACHED
        if position.epoch >= epochs:
            return Outcome.FINISHED
        generator.set_state(position.order_state)
        order = torch.randperm(count, generator=generator).to(data.train.labels.device)
        rates = learning_rates(lr, schedule, position.epoch, epochs, steps_per_epoch)
        bar = open_bar(position.epoch + 1, position.step * batch_size)
        try:
            while position.step < steps_per_epoch:
                if number := engine.processes.greatest(stop.number or 0):  # of any process's signal
                    stop.number = number
                    return Outcome.INTERRUPTED
                begin = time.perf_counter()
                part = order[position.step * batch_size :][: chunk * batch_size]
                with engine.processes.watched():
                    losses = engine.train(
                        data.train.inputs,
                        data.train.targets,
                        part,
                        batch_size,
                        rates[position.step :][:chunk],
                    )
                losses = losses.cpu()  # waits for the device
                position.seconds += time.perf_counter() - begin
                _require_finite(losses, position)
                sizes = torch.tensor([len(batch) for batch in part.split(batch_size)])
                for loss_of_batch in (losses * sizes).tolist():
                    position.loss_sum += loss_of_batch  # in this order, however a run was broken up
                position.step += len(losses)
                bar.update(len(part))
        finally:
            bar.close()
        engine.processes.check_same(engine.model.parameters())
        mean = float(rates.mean())
        row = engine.processes.first(
            lambda: _metrics(engine, mean, data.test, position, count, loss)  # noqa: B023
        )
        if not math.isfinite(row["test_loss"]):
            raise Diverged(
                f"epoch {position.epoch + 1}, after its last step: test loss {row['test_loss']}"
            )
        position.epoch += 1
        position.step, position.loss_sum, position.seconds = 0, 0.0, 0.0
        position.order_state = generator.get_state()
        position.history.append(row)
        end_epoch(row)


def learning_rates(lr: float, schedule: str, epoch: int, epochs: int, steps: int) -> Tensor:
    """float64 [steps], of each step of the epoch numbered from 0."""
    t = epoch + torch.arange(steps, dtype=torch.float64) / steps
    return lr * SCHEDULES[schedule](t, epochs)


def outputs_of(model: nn.Module, inputs: Tensor) -> Tensor:
    """The network's outputs, float64 [N, C] on the CPU, for inputs [N, I]."""
    with torch.no_grad():
        return torch.cat([model(part).double().cpu() for part in inputs.split(4096)])


def loss_per_sample(outputs: Tensor, labels: Tensor, loss: str) -> Tensor:
    """[N], of outputs [N, C] and labels int64 [N]."""
    if loss == "cross_entropy":
        return F.cross_entropy(outputs, labels, reduction="none")
    return (outputs - F.one_hot(labels, outputs.shape[1])).square().mean(dim=1)


def _metrics(
    engine: Engine,
    lr: float,
    test: Split,
    position: Position,
    count: int,
    loss: str,
) -> dict[str, float]:
    outputs, labels = outputs_of(engine.model, test.inputs), test.labels.cpu()
    test_loss = float(loss_per_sample(outputs, labels, loss).mean())
    return {
        "epoch": position.epoch + 1,
        "train_loss": position.loss_sum / count,
        "test_loss": test_loss,
        "test_accuracy": float((outputs.argmax(dim=1) == labels).double().mean()),
        "lr": lr,
        "seconds": position.seconds,
        "samples_per_second": count / position.seconds,
    }


def _require_finite(losses: Tensor, position: Position) -> None:
    bad = (~losses.isfinite()).nonzero()
    if len(bad):
        first = int(bad[0])
        raise Diverged(
            f"epoch {position.epoch + 1}, step {position.step + first + 1}: "
            f"training loss {float(losses[first])}"
        )
