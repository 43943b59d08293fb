"""Compile C++ drivers in the tests, from csrc or from a copy with a fault planted."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

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


def compile_objects(sources: Sequence[Path], flags: Sequence[object], folder: Path) -> list[Path]:
    """The objects of `sources`, in `folder`."""
    objects = [folder / f"{source.name}.o" for source in sources]

    def compile_one(source: Path, obj: Path) -> None:
        succeed(["g++", *flags, "-c", source, "-o", obj])

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(compile_one, sources, objects))
    return objects


def link(objects: Sequence[Path], driver: Path, flags: Sequence[object] = ()) -> Path:
    succeed(["g++", *flags, *objects, "-o", driver, "-pthread"])
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
