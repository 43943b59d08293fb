"""Find and check what the build needs; every failure says what was found and what to install."""

from __future__ import annotations

import importlib.util
import re
import runpy
import shlex
import shutil
import subprocess
import sysconfig
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from build_support.toolkit import CudaToolkit, ToolkitError, find_toolkit

OLDEST_TORCH = (2, 11)
OLDEST_COMPILER = "GCC 11 or Clang 14"


class BuildError(Exception):
    """Something the build needs is missing or does not fit."""


@dataclass(frozen=True)
class Torch:
    """The PyTorch to compile against, read from its files: importing it would take seconds."""

    version: str
    cuda_version: str | None
    include_dir: Path
    library_dir: Path


def find_torch() -> Torch:
    """The PyTorch of this interpreter.

    Raises:
        BuildError: it is missing, has no headers, or is older than OLDEST_TORCH.
    """
    wanted = ".".join(map(str, OLDEST_TORCH))
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        raise BuildError(
            f"PyTorch {wanted} or newer must be installed in the environment that builds gdext, "
            'and was not found.\nInstall it (pip install "torch>=2.11"), then run '
            "pip install --no-build-isolation . (the flag lets the build see it)"
        )
    home = Path(spec.origin).parent
    try:
        facts = runpy.run_path(str(home / "version.py"))
    except OSError as error:
        raise BuildError(f"{home} is not a complete PyTorch: {error}. Reinstall torch") from error
    version = str(facts["__version__"])
    numbers = tuple(int(number) for number in re.findall(r"\d+", version)[:2])
    if numbers < OLDEST_TORCH:
        raise BuildError(
            f"gdext needs PyTorch {wanted} or newer, found {version} in {home}.\n"
            'Upgrade it: pip install --upgrade "torch>=2.11"'
        )
    headers = home / "include"
    if not (headers / "torch" / "csrc" / "stable" / "library.h").is_file():
        raise BuildError(
            f"PyTorch {version} in {home} has no C++ headers. Reinstall torch with pip"
        )
    return Torch(version, facts.get("cuda"), headers, home / "lib")


def find_compiler(environ: Mapping[str, str]) -> list[str]:
    """The C++ compiler's command: $CXX, or the first of c++, g++, clang++ on PATH.

    Raises:
        BuildError: there is none, or it does not compile C++20.
    """
    install = (
        f"Install {OLDEST_COMPILER} or newer (Debian, Ubuntu: apt install g++; "
        "Fedora: dnf install gcc-c++), or set CXX to one"
    )
    path = environ.get("PATH", "")
    if environ.get("CXX"):
        command = shlex.split(environ["CXX"])
        if shutil.which(command[0], path=path) is None:
            raise BuildError(f"CXX={environ['CXX']}: no such program.\n{install}")
    else:
        found = [name for name in ("c++", "g++", "clang++") if shutil.which(name, path=path)]
        if not found:
            raise BuildError(
                f"no C++ compiler was found: no c++, g++ or clang++ on PATH.\n{install}"
            )
        command = found[:1]
    probe = "#include <concepts>\n#include <string>\nstatic_assert(std::integral<int>);\n"
    done = subprocess.run(
        [*command, "-std=c++20", "-fsyntax-only", "-x", "c++", "-"],
        input=probe,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=dict(environ),
    )
    if done.returncode != 0:
        said = (done.stdout.strip().splitlines() or ["it failed"])[0]
        raise BuildError(f"{shlex.join(command)} cannot compile C++20: {said}\n{install}")
    return command


def find_ninja(environ: Mapping[str, str]) -> Path:
    """The ninja program: the PyPI package's, beside this interpreter, or on PATH.

    Raises:
        BuildError: there is none.
    """
    folders = [sysconfig.get_path("scripts"), environ.get("PATH", "")]
    if importlib.util.find_spec("ninja") is not None:
        from ninja import BIN_DIR

        folders.insert(0, BIN_DIR)
    for folder in folders:
        program = shutil.which("ninja", path=folder)
        if program:
            return Path(program)
    raise BuildError("ninja was not found. Install it: pip install ninja")


def decide_cuda(environ: Mapping[str, str], torch: Torch) -> tuple[CudaToolkit | None, list[str]]:
    """The toolkit to compile the CUDA backend with (None: CPU alone), and notes for the user.

    GDEXT_CUDA=0 means no, 1 means yes or an error, auto (the default) means yes where this PyTorch
    is a CUDA build and a usable toolkit is found. A GPU is never asked for: the machine that builds
    need not have one.

    Raises:
        BuildError: GDEXT_CUDA has another value, or is 1 and no usable toolkit is found.
    """
    choice = environ.get("GDEXT_CUDA", "auto")
    if choice not in ("auto", "0", "1"):
        raise BuildError(f'GDEXT_CUDA must be auto, 0 or 1, got "{choice}"')
    if choice == "0" or (choice == "auto" and torch.cuda_version is None):
        return None, []
    try:
        toolkit = find_toolkit(environ)
    except ToolkitError as error:
        if choice == "1":
            raise BuildError(f"GDEXT_CUDA=1, but {error}") from error
        return None, [f"building for the CPU alone: {error}"]
    notes = []
    if torch.cuda_version and torch.cuda_version.split(".")[0] != toolkit.version.split(".")[0]:
        notes.append(
            f"the CUDA toolkit is {toolkit.version}, PyTorch was built for CUDA "
            f"{torch.cuda_version}: the driver must support CUDA {toolkit.version} as well"
        )
    return toolkit, notes
