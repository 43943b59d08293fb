"""The command scripts/train_mnist.py: options in, exit code out."""

from __future__ import annotations

import signal
import sys
import warnings
from argparse import Namespace
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import torch

from gdext.data import DataError
from gdext.training import checkpoint, dataset, engine, loop, options, output, plots
from gdext.training.checkpoint import Position
from gdext.training.loop import Outcome
from gdext.training.options import UsageError
from gdext.training.report import Report


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the trainer on `arguments` (default: the process's own) and returns its exit code,
    which `--help` explains. Every foreseeable error is one line on stderr."""
    warnings.formatwarning = lambda message, *_: f"warning: {message}\n"
    try:
        with ExitStack() as stack:
            return _run(arguments, stack)
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


def _run(arguments: Sequence[str] | None, stack: ExitStack) -> int:
    given = options.parse(arguments)
    resumed = output.checkpoint_to_resume(given)
    saved = checkpoint.load(resumed) if resumed is not None else None
    chosen = options.complete(given, saved["options"] if saved else None)
    device = _device(chosen.device)
    if chosen.engine == "fused" and device.type != "cpu":
        raise UsageError(f"--engine fused: runs on the CPU alone, and --device is {device.type}")
    folder = output.choose_folder(given.get("out"), resumed)
    stack.enter_context(output.locked(folder))
    data = dataset.load(chosen, device)
    samples = len(data.train.labels)
    batch_size = samples if chosen.batch_size == "full" else chosen.batch_size
    trainer = engine.build(chosen, device)
    if saved is not None:
        position = checkpoint.restore(saved, samples, trainer)
    else:
        position = Position(order_state=torch.Generator().manual_seed(chosen.seed).get_state())
    report = Report(folder, chosen.epochs, samples, position.history)
    print(_headline(chosen, trainer.name, data, device, folder), flush=True)
    if position.epoch or position.step:
        print(f"resuming after epoch {position.epoch}, step {position.step}", flush=True)

    path = folder / output.CHECKPOINT

    def save() -> None:
        checkpoint.save(path, options.to_save(chosen), samples, trainer, position)

    def end_epoch(row: dict[str, float]) -> None:
        save()  # first: the report fails where stdout is a closed pipe
        report.end_epoch(row)

    if saved is not None and not path.exists():
        save()  # --out is another folder than the checkpoint's: it too is whole from the start

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
        name = signal.Signals(stop.number).name
        print(
            f"stopped by {name} in epoch {position.epoch + 1} after {position.step} of its steps; "
            f"saved, --resume {path} continues"
        )
        return 128 + stop.number
    plots.draw_all(folder, trainer, data.test, position.history, chosen)
    return _conclude(chosen, position, outcome, folder)


def _is_out_of_memory(error: BaseException) -> bool:
    known = isinstance(error, MemoryError | torch.OutOfMemoryError)
    return known or "can't allocate memory" in str(error)  # what PyTorch's CPU allocator says


def _device(name: str) -> torch.device:
    if name == "cuda" and not torch.cuda.is_available():
        raise UsageError("--device cuda: torch finds no CUDA device here")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def _headline(
    chosen: Namespace, engine_name: str, data: dataset.Dataset, device: torch.device, folder: Path
) -> str:
    sizes = "-".join(map(str, [784, *chosen.hidden, 10]))
    return (
        f"{data.source}\n"
        f"{sizes} {chosen.activation}, {chosen.loss}, {len(data.train.labels):,} training images, "
        f"batch size {chosen.batch_size}; {engine_name} engine, {chosen.dtype} on {device}"
        f"{f' with {torch.get_num_threads()} threads' if device.type == 'cpu' else ''}; "
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
        return 1
    return 0
