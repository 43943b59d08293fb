"""Which folder a run writes into, and writing files so that they are whole or absent."""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from gdext.training.options import UsageError

DEFAULT_FOLDER = Path("runs/mnist")
CHECKPOINT, METRICS = "checkpoint.pt", "metrics.jsonl"


def checkpoint_to_resume(given: dict[str, Any]) -> Path | None:
    """The checkpoint that --resume means, or None without --resume; it may not exist."""
    if "resume" not in given:
        return None
    if given["resume"]:
        path = Path(given["resume"])
        return path / CHECKPOINT if path.is_dir() else path
    if "out" in given:
        return Path(given["out"]) / CHECKPOINT
    taken = [folder for folder in _default_folders() if (folder / CHECKPOINT).exists()]
    return (taken[-1] if taken else DEFAULT_FOLDER) / CHECKPOINT


def choose_folder(given_out: str | None, resumed: Path | None) -> Path:
    """The run's folder, made and found writable: --out, else the resumed checkpoint's, else the
    first of runs/mnist, runs/mnist-2, ... that holds no run.

    Raises:
        UsageError: --out holds a run other than the resumed one, or cannot be written to.
    """
    if given_out is not None:
        folder = Path(given_out)
    elif resumed is not None:
        folder = resumed.parent
    else:
        folder = _default_folders()[-1]
    same = resumed is not None and folder.resolve() == resumed.parent.resolve()
    if holds_run(folder) and not same:
        raise UsageError(
            f"--out {folder} already holds a run: continue it with --resume, choose another "
            "folder, or remove it"
        )
    make_writable(folder)
    return folder


def make_writable(folder: Path) -> None:
    """Makes `folder` if there is none.

    Raises:
        UsageError: it cannot be written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UsageError(f"--out {folder} cannot be written to: {error.strerror}") from error


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keeps other runs out of `folder`, which holds no file that says so before the first epoch.

    Raises:
        UsageError: another run is writing into `folder`.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise UsageError(f"another run is writing into {folder}: choose another --out") from None
    except OSError:
        pass  # some network file systems have no locks
    try:
        yield
    finally:
        os.close(descriptor)


def holds_run(folder: Path) -> bool:
    return (folder / CHECKPOINT).exists() or (folder / METRICS).exists()


def write_atomically(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Calls `write` on a new file that takes the name `path` once it is safely on disk."""
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    try:
        with os.fdopen(descriptor, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())  # mkstemp's own mode shuts out everyone else
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)  # an interrupt may come just after os.replace
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _default_folders() -> list[Path]:
    """runs/mnist, runs/mnist-2, ... up to the first that holds no run."""
    folders = [DEFAULT_FOLDER]
    while holds_run(folders[-1]):
        folders.append(Path(f"{DEFAULT_FOLDER}-{len(folders) + 1}"))
    return folders


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
