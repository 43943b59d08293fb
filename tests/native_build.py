"""Compile C++ drivers in the tests, from csrc or from a copy with a fault planted."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parent
CSRC = TESTS.parent / "csrc"


def missing() -> str | None:
    """Why no driver can be built here, or None where one can."""
    if not CSRC.is_dir():
        return "the kernels' sources are not here"
    return None if shutil.which("g++") else "g++ is not on PATH"


def succeed(command: Sequence[object]) -> None:
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def folder_of_this_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same for all processes of pytest-xdist, and for no other run."""
    folder = tmp_path_factory.getbasetemp()
    return folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder


def precompile(header: Path, flags: Sequence[object], folder: Path) -> list[object]:
    """What includes `header`, compiled with `flags`, in front of a source of the same flags.

    Processes that share the folder compile it once.
    """
    copy, compiled = folder / header.name, folder / f"{header.name}.gch"
    with open(folder / f"{header.name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not compiled.exists():
            shutil.copy(header, copy)
            succeed(["g++", *flags, "-x", "c++-header", "-c", copy, "-o", f"{compiled}.part"])
            os.rename(f"{compiled}.part", compiled)
    return ["-Winvalid-pch", "-include", copy]


def compile_objects(
    sources: Sequence[Path],
    flags: Sequence[object],
    folder: Path,
    shared: Path | None = None,
    prefix: Path | None = None,
) -> list[Path]:
    """The objects of `sources`, in `folder`.

    `shared`: a folder where processes that want the same objects, of sources that do not change,
    find those that another has made; the folder's name stands for the flags. `prefix`: a header to
    include in front of every source.
    """
    objects = [folder / f"{source.name}.o" for source in sources]
    included: list[object] = []

    def compile_one(source: Path, obj: Path) -> None:
        succeed(["g++", *included, *flags, "-c", source, "-o", obj])

    def copy_or_compile(source: Path, obj: Path) -> None:
        assert shared is not None
        common = shared / obj.name
        with open(f"{common}.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not common.exists():
                compile_one(source, obj)
                obj.rename(common)
        obj.hardlink_to(common)

    if shared is not None:
        shared.mkdir(parents=True, exist_ok=True)
    if prefix is not None:
        included = precompile(prefix, flags, shared or folder)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(compile_one if shared is None else copy_or_compile, sources, objects))
    return objects


def link(
    objects: Sequence[Path],
    driver: Path,
    flags: Sequence[object] = (),
    libraries: Sequence[object] = (),
) -> Path:
    succeed(["g++", *flags, *objects, "-o", driver, "-pthread", *libraries])
    return driver


def run(
    driver: Path, *args: object, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [driver, *map(str, args)],
        capture_output=True,
        text=True,
        timeout=600,
        errors="replace",
        env={**os.environ, **(env or {})},
    )


@dataclass(frozen=True)
class Fault:
    """Replaces `old`, which occurs once in `file`, by `new`."""

    file: str
    old: str
    new: str

    def plant(self, tree: Path, folder: Path) -> Path:
        """A copy of `tree`, which has the file, in `folder`, with the fault."""
        copy = folder / tree.name
        shutil.copytree(tree, copy)
        text = (copy / self.file).read_text()
        assert text.count(self.old) == 1, f"not once in {self.file}: {self.old}"
        (copy / self.file).write_text(text.replace(self.old, self.new))
        return copy
