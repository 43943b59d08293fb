"""The command scripts/train_mnist.py: options in, exit code out."""

from __future__ import annotations

import contextlib
import io
import signal
import sys
import warnings
from argparse import Namespace
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch

from gdext.data import DataError
from gdext.training import checkpoint, dataset, engine, loop, options, output, plots
from gdext.training.checkpoint import Position
from gdext.training.loop import Outcome
from gdext.training.options import UsageError
from gdext.training.processes import Apart, Lost, PeerError, Processes
from gdext.training.report import NoReport, Report


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the trainer on `arguments` (default: the process's own) and returns its exit code,
    which `--help` explains. Every foreseeable error is one line on stderr."""
    warnings.formatwarning = lambda message, *_: f"warning: {message}\n"
    processes = Processes()
    try:
        with ExitStack() as stack:
            given = options.parse(arguments) if processes.is_first else _quietly_parse(arguments)
            return _run(given, stack, stack.enter_context(processes))
    except PeerError:
        return 2
    except Apart as error:
        if processes.is_first:
            print(f"train_mnist.py: {error}; the last checkpoint is older", file=sys.stderr)
        return 3
    except Lost as error:
        print(
            f"train_mnist.py: process {processes.rank}: another process of this run has ended or "
            f"cannot be reached ({error}); --resume continues from the last checkpoint",
            file=sys.stderr,
        )
        return 3
    except (UsageError, DataError, ImportError, OSError) as error:
        print(f"train_mnist.py: error: {error}", file=sys.stderr)
        return 2
    except (RuntimeError, MemoryError) as error:
        if not _is_out_of_memory(error):
            raise
        reason = " ".join(str(error).split())
        print(f"train_mnist.py: error: out of memory: {reason}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("train_mnist.py: interrupted, nothing more was saved", file=sys.stderr)
        return 128 + signal.SIGINT


def _quietly_parse(arguments: Sequence[str] | None) -> dict[str, Any]:
    """What the first process says of the options is enough."""
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # --help
            return options.parse(arguments)
    except UsageError as error:
        raise PeerError from error


def _run(given: dict[str, Any], stack: ExitStack, processes: Processes) -> int:
    def load() -> tuple[Path | None, dict[str, Any] | None]:
        resumed = output.checkpoint_to_resume(given)
        return resumed, None if resumed is None else checkpoint.load(resumed)

    resumed, saved = processes.first(load)
    chosen = processes.each(lambda: options.complete(given, saved["options"] if saved else None))
    processes.alike("the options", options.to_save(chosen))
    device = processes.each(lambda: _device(chosen, processes))
    folder = processes.first(lambda: output.choose_folder(given.get("out"), resumed))
    processes.first(lambda: stack.enter_context(output.locked(folder)))
    data = processes.in_turn(lambda: dataset.load(chosen, device))  # the others find it there
    samples = processes.alike("the numbers of training samples", len(data.train.labels))
    batch_size = samples if chosen.batch_size == "full" else chosen.batch_size
    processes.first(lambda: _check_shares(batch_size, processes))
    with processes.watched():
        trainer = engine.build(chosen, device, processes)
    if saved is not None:
        position = processes.each(lambda: checkpoint.restore(saved, samples, trainer))
    else:
        position = Position(order_state=torch.Generator().manual_seed(chosen.seed).get_state())
    report: Report | NoReport = NoReport()
    if processes.is_first:
        report = Report(folder, chosen.epochs, samples, position.history)
        print(_headline(chosen, trainer.name, data, device, folder, processes), flush=True)
        if position.epoch or position.step:
            print(f"resuming after epoch {position.epoch}, step {position.step}", flush=True)

    path = folder / output.CHECKPOINT

    def save() -> None:
        processes.first(
            lambda: checkpoint.save(path, options.to_save(chosen), samples, trainer, position)
        )

    def end_epoch(row: dict[str, float]) -> None:
        save()  # first: the report fails where stdout is a closed pipe
        report.end_epoch(row)

    # --out is another folder than the checkpoint's, or a process may be lost: so that it too is
    # whole from the start.
    if processes.first(lambda: not path.exists() and (saved is not None or processes.size > 1)):
        save()

    try:
        with loop.StopSignal() as stop:
            outcome = loop.train(
                trainer,
                data,
                position,
                batch_size=batch_size,
                epochs=chosen.epochs,
                lr=chosen.lr,
                schedule=chosen.schedule,
                target_accuracy=chosen.target_accuracy,
                loss=chosen.loss,
                stop=stop,
                open_bar=report.open_bar,
                end_epoch=end_epoch,
            )
            if outcome is Outcome.INTERRUPTED:
                save()
    except loop.Diverged as error:
        if not processes.is_first:
            return 1
        kept = f"{path} holds epoch {position.epoch}" if position.epoch else "no epoch was saved"
        print(
            f"train_mnist.py: training diverged in {error}; {kept}. Try a smaller --lr than "
            f"{chosen.lr:g}, a smaller --momentum or a wider --dtype",
            file=sys.stderr,
        )
        return 1
    finally:
        report.close()
    if outcome is Outcome.INTERRUPTED:
        assert stop.number is not None
        if processes.is_first:
            print(
                f"stopped by {signal.Signals(stop.number).name} in epoch {position.epoch + 1} "
                f"after {position.step} of its steps; saved, --resume {path} continues"
            )
        return 128 + stop.number
    if not processes.is_first:
        return _code(chosen, outcome)
    plots.draw_all(folder, trainer, data.test, position.history, chosen)
    return _conclude(chosen, position, outcome, folder)


def _check_shares(batch_size: int, processes: Processes) -> None:
    if batch_size < processes.size:
        raise UsageError(
            f"--batch-size {batch_size}: wanted a sample for each of the {processes} at least"
        )


def _is_out_of_memory(error: BaseException) -> bool:
    known = isinstance(error, MemoryError | torch.OutOfMemoryError)
    return known or "can't allocate memory" in str(error)  # what PyTorch's CPU allocator says


def _device(chosen: Namespace, processes: Processes) -> torch.device:
    name = chosen.device
    if name == "cuda" and not torch.cuda.is_available():
        raise UsageError("--device cuda: torch finds no CUDA device here")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and processes.size > 1:
        if processes.local_rank >= torch.cuda.device_count():
            raise UsageError(
                f"--device cuda: wanted a GPU for each process, torch finds "
                f"{torch.cuda.device_count()} here"
            )
        torch.cuda.set_device(processes.local_rank)
        return torch.device("cuda", processes.local_rank)
    return torch.device(name)


def _headline(
    chosen: Namespace,
    engine_name: str,
    data: dataset.Dataset,
    device: torch.device,
    folder: Path,
    processes: Processes,
) -> str:
    sizes = "-".join(map(str, [784, *chosen.hidden, 10]))
    return (
        f"{data.source}\n"
        f"{sizes} {chosen.activation}, {chosen.loss}, {len(data.train.labels):,} training images, "
        f"batch size {chosen.batch_size}; {engine_name} engine, {chosen.dtype} on {device}"
        f"{f' with {torch.get_num_threads()} threads' if device.type == 'cpu' else ''}"
        f"{f' in each of {processes}' if processes.size > 1 else ''}; "
        f"seed {chosen.seed}; into {folder}"
    )


def _conclude(chosen: Namespace, position: Position, outcome: Outcome, folder: Path) -> int:
    accuracy = position.history[-1]["test_accuracy"]
    seconds = sum(row["seconds"] for row in position.history)
    epochs = "epoch" if position.epoch == 1 else "epochs"
    print(
        f"test accuracy {accuracy:.2%} after {position.epoch} {epochs}, {seconds:.1f} s of "
        f"training; everything is in {folder}"
    )
    if outcome is Outcome.TARGET_REACHED:
        print(f"stopped: --target-accuracy {chosen.target_accuracy:g} is reached")
    elif chosen.target_accuracy is not None:
        print(
            f"train_mnist.py: --target-accuracy {chosen.target_accuracy:g} was not reached",
            file=sys.stderr,
        )
    return _code(chosen, outcome)


def _code(chosen: Namespace, outcome: Outcome) -> int:
    missed = chosen.target_accuracy is not None and outcome is not Outcome.TARGET_REACHED
    return int(missed)
