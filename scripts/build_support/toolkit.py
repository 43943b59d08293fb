"""Find a CUDA toolkit that can really build gdext, and choose the GPU architectures.

A toolkit counts only if it holds nvcc, cuda_runtime.h and libcudart_static.a. The folder above the
nvcc on PATH is not enough: it may be a symbolic link, a distribution's split installation, or a
wrapper script that calls the real nvcc elsewhere. ``nvcc --dryrun`` tells where the real one lives
and what it would include and link.
"""

from __future__ import annotations

import itertools
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

# Binary code for sm_X0 runs on every later sm_XY of the same major version, so one entry for each
# major version (two for 8.x, whose consumer parts have twice the float32 pipes) serves all GPUs
# from Turing on. 9.0a: the same GPUs as 9.0, and instructions that those alone have (wgmma).
DEFAULT_ARCHS = ("7.5", "8.0", "8.6", "9.0a", "10.0", "12.0")

# The first with cudaGetDriverEntryPointByVersion (csrc/cuda/tensor_map.cuh).
OLDEST_RELEASE = (12, 5)

HOW_TO_GET_TOOLKIT = (
    "install the CUDA toolkit (nvcc and cudart), or set CUDA_HOME to the folder that holds "
    "bin/nvcc, include/cuda_runtime.h and lib64/libcudart_static.a, "
    "or build for the CPU alone with GDEXT_CUDA=0"
)


class ToolkitError(Exception):
    """No usable CUDA toolkit, or an architecture list that it cannot compile."""


@dataclass(frozen=True)
class CudaToolkit:
    """A CUDA toolkit that was checked to hold all that the build uses."""

    nvcc: Path
    include_dir: Path
    library_dir: Path
    version: str
    supported_archs: tuple[str, ...]


def find_toolkit(
    environ: Mapping[str, str],
    well_known: tuple[str, ...] = ("/usr/local/cuda", "/usr/local/cuda-*"),
) -> CudaToolkit:
    """The first usable toolkit of: CUDA_HOME, CUDA_PATH, nvcc on PATH, the well-known folders.

    Raises:
        ToolkitError: none is usable; the message lists every place tried and what was missing
        there.
    """
    tried = []
    seen = set()
    for origin, nvcc in _candidates(environ, well_known):
        if nvcc in seen:
            continue
        seen.add(nvcc)
        try:
            return inspect_toolkit(nvcc)
        except ToolkitError as error:
            tried.append(f"  {origin}: {error}")
    places = "\n".join(tried) or "  no nvcc in CUDA_HOME, CUDA_PATH, PATH or /usr/local/cuda*"
    raise ToolkitError(f"no usable CUDA toolkit was found:\n{places}\n{HOW_TO_GET_TOOLKIT}")


def _candidates(
    environ: Mapping[str, str], well_known: tuple[str, ...]
) -> Iterator[tuple[str, Path]]:
    for name in ("CUDA_HOME", "CUDA_PATH"):
        if environ.get(name):
            yield f"{name}={environ[name]}", Path(environ[name]) / "bin" / "nvcc"
    on_path = shutil.which("nvcc", path=environ.get("PATH", ""))
    if on_path:
        yield f"{on_path} (on PATH)", Path(on_path)
    for pattern in well_known:
        for home in sorted(Path("/").glob(pattern.lstrip("/")), key=_version_key, reverse=True):
            yield str(home), home / "bin" / "nvcc"


def _version_key(path: Path) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", path.name))


def inspect_toolkit(nvcc: Path) -> CudaToolkit:
    """The toolkit that this nvcc (the program, a link to it or a wrapper script) belongs to.

    Raises:
        ToolkitError: the program does not run, the toolkit is too old, or a part of it is missing;
        the message says which.
    """
    if not nvcc.is_file():
        raise ToolkitError(f"{nvcc} does not exist")
    release = re.search(r"release (\d+\.\d+)", _output([str(nvcc), "--version"]))
    if release is None:
        raise ToolkitError(f"{nvcc} --version does not name a CUDA release")
    if tuple(map(int, release[1].split("."))) < OLDEST_RELEASE:
        oldest = ".".join(map(str, OLDEST_RELEASE))
        raise ToolkitError(f"wanted CUDA {oldest} or newer, got {release[1]}")
    plan = _output([str(nvcc), "--dryrun", "-x", "cu", "/dev/null"])
    top = re.search(r"^#\$ TOP=(.+)$", plan, re.MULTILINE)
    home = Path(top[1].strip()).resolve() if top else nvcc.resolve().parent.parent

    targets = sorted(home.glob("targets/*"))
    include_dir = _holding(
        "cuda_runtime.h",
        [home / "include", *(t / "include" for t in targets), *_paths(plan, "INCLUDES", "-I")],
    )
    library_dir = _holding(
        "libcudart_static.a",
        [
            home / "lib64",
            home / "lib",
            *(t / "lib" for t in targets),
            *_paths(plan, "LIBRARIES", "-L"),
        ],
    )
    real_nvcc = home / "bin" / "nvcc"
    archs = re.findall(r"compute_(\d+)(\d)\b", _output([str(nvcc), "--list-gpu-arch"]))
    return CudaToolkit(
        nvcc=real_nvcc if real_nvcc.is_file() else nvcc,
        include_dir=include_dir,
        library_dir=library_dir,
        version=release[1],
        supported_archs=tuple(f"{major}.{minor}" for major, minor in archs),
    )


def _holding(name: str, folders: list[Path]) -> Path:
    for folder in folders:
        if (folder / name).is_file():
            return folder
    raise ToolkitError(f"{name} is in none of {', '.join(str(folder) for folder in folders)}")


def _paths(plan: str, variable: str, flag: str) -> list[Path]:
    line = re.search(rf"^#\$ {variable}=(.*)$", plan, re.MULTILINE)
    words = shlex.split(line[1]) if line else []
    return [Path(word[len(flag) :]) for word in words if word.startswith(flag)]


def _output(command: list[str]) -> str:
    try:
        done = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=60
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ToolkitError(f"{command[0]} cannot be run: {error}") from error
    return done.stdout


def default_archs(supported: tuple[str, ...]) -> list[str]:
    """Those of DEFAULT_ARCHS that a toolkit can compile for."""
    return [arch for arch in DEFAULT_ARCHS if arch.rstrip("af") in supported]


def choose_archs(requested: str, supported: tuple[str, ...]) -> tuple[str, ...]:
    """Architectures to compile for, in TORCH_CUDA_ARCH_LIST's notation: "9.0", "9.0a", "12.0+PTX".

    Args:
        requested: the value of TORCH_CUDA_ARCH_LIST; separated by blanks, commas or semicolons.
            "9.0" means "9.0a", which runs on the same GPUs; "9.0+PTX" is for newer ones too.
            Empty: those of DEFAULT_ARCHS that the toolkit supports, and PTX of the last for newer
            GPUs.
        supported: what the toolkit can compile for, e.g. ("7.5", "8.0").

    Raises:
        ToolkitError: an entry that is not of that notation, or that the toolkit does not support.
    """
    names = [name for name in re.split(r"[\s,;]+", requested) if name]
    if not names:
        default = default_archs(supported)
        if not default:
            raise ToolkitError(
                f"this CUDA toolkit supports none of {', '.join(DEFAULT_ARCHS)}, "
                f"only {', '.join(supported) or 'nothing'}: "
                "set TORCH_CUDA_ARCH_LIST to what you want to build for"
            )
        # PTX of 9.0a is for 9.0 alone: what newer GPUs can use is that of 9.0.
        with_ptx = default[-1].rstrip("af") + "+PTX"
        return (*default, with_ptx) if default[-1] == "9.0a" else (*default[:-1], with_ptx)
    for name in names:
        match = re.fullmatch(r"(\d+\.\d)[af]?(\+PTX)?", name)
        if match is None:
            raise ToolkitError(
                'TORCH_CUDA_ARCH_LIST: entries must look like "9.0", "9.0a" or "9.0+PTX", '
                f'got "{name}"'
            )
        if match[1] not in supported:
            raise ToolkitError(
                "TORCH_CUDA_ARCH_LIST: this CUDA toolkit supports "
                f"{', '.join(supported)}, got {name}"
            )
    machine_code = {"9.0": ["9.0a"], "9.0+PTX": ["9.0a", "9.0+PTX"]}
    chosen = itertools.chain.from_iterable(machine_code.get(name, [name]) for name in names)
    return tuple(dict.fromkeys(chosen))


def gencode_flags(archs: tuple[str, ...]) -> list[str]:
    """nvcc's flags for choose_archs' result. Where there is machine code of 9.0a, there is none of
    9.0 beside it: a GPU would have two to choose from."""
    flags = []
    for arch in archs:
        number = arch.removesuffix("+PTX").replace(".", "")
        if number != "90" or "9.0a" not in archs:
            flags.append(f"-gencode=arch=compute_{number},code=sm_{number}")
        if arch.endswith("+PTX"):
            flags.append(f"-gencode=arch=compute_{number},code=compute_{number}")
    return flags
