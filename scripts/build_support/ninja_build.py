"""Compile and link the extension with ninja, in one folder per PyTorch and CUDA version.

torch.utils.cpp_extension is not used: it guesses CUDA_HOME wrongly where nvcc is a wrapper, refuses
a toolkit of another major version than PyTorch's, and rebuilds everything in an editable install,
whose build folder is temporary. ninja compares commands and headers' times itself, so a build with
nothing changed does nothing.
"""

from __future__ import annotations

import json
import os
import platform
import shlex
import subprocess
from dataclasses import dataclass
from pathlib import Path

from build_support.environment import BuildError, Torch
from build_support.toolkit import CudaToolkit, gencode_flags

# LibTorch's stable ABI as of 2.11, in torch/headeronly/version.h's encoding: major, minor, patch, a
# byte each.
TORCH_TARGET_VERSION = "0x020b000000000000"

NINJA_RULES = """\
ninja_required_version = 1.5
rule cxx
  command = $cxx -MMD -MF $out.d $flags -c $in -o $out
  description = $in
  depfile = $out.d
  deps = gcc
rule nvcc
  command = $nvcc -MD -MF $out.d $flags -c $in -o $out
  description = $in
  depfile = $out.d
  deps = gcc
rule link
  command = $cxx -shared $in $flags -o $out
  description = link $out
"""


@dataclass(frozen=True)
class Plan:
    """All that decides what the compiled extension is."""

    version: str
    root: Path
    torch: Torch
    cxx: list[str]
    toolkit: CudaToolkit | None
    archs: tuple[str, ...]

    @property
    def build_dir(self) -> Path:
        cuda = f"cuda{self.toolkit.version}" if self.toolkit else "cpu"
        return self.root / "build" / f"{platform.machine()}-torch{self.torch.version}-{cuda}"


def sources(root: Path, cuda: bool) -> list[Path]:
    """Source files of the extension, relative to root."""
    patterns = ["csrc/cpu/*.cpp", "csrc/torch/*.cpp"] + (["csrc/cuda/*.cu"] if cuda else [])
    return [path.relative_to(root) for pattern in patterns for path in sorted(root.glob(pattern))]


def common_flags(plan: Plan) -> list[str]:
    """Flags of every compilation, host and device."""
    flags = [
        "-std=c++20",
        "-O3",
        f"-I{plan.root / 'csrc'}",
        f"-DTORCH_TARGET_VERSION={TORCH_TARGET_VERSION}",
        "-DTORCH_STABLE_ONLY",
    ]
    if plan.toolkit:
        flags += ["-DGDEXT_CUDA=1", "-DUSE_CUDA", "-isystem", str(plan.toolkit.include_dir)]
    return flags


def cxx_flags(plan: Plan) -> list[str]:
    """Flags of the .cpp files."""
    return [
        *common_flags(plan),
        *("-fPIC", "-fvisibility=hidden", "-Wall", "-Wextra"),
        *("-isystem", str(plan.torch.include_dir)),
    ]


def config_flags(plan: Plan) -> list[str]:
    """What build_info() reports of the build, as string macros for csrc/torch."""
    values = {
        "GDEXT_VERSION": plan.version,
        "GDEXT_BUILT_WITH_TORCH": plan.torch.version,
        "GDEXT_CUDA_VERSION": plan.toolkit.version if plan.toolkit else "",
    }
    return [*(f'-D{name}="{value}"' for name, value in values.items()), archs_flag(plan)]


def archs_flag(plan: Plan) -> str:
    """For csrc/torch, which reports them, and csrc/cuda, whose launch errors name them."""
    return f'-DGDEXT_CUDA_ARCHS="{" ".join(plan.archs)}"'


def nvcc_flags(plan: Plan) -> list[str]:
    """Flags of the .cu files."""
    return [
        *common_flags(plan),
        "--expt-relaxed-constexpr",
        # The last word that is no flag: CXX may be "ccache g++" or "g++ -m64".
        f"-ccbin={[word for word in plan.cxx if not word.startswith('-')][-1]}",
        "-Xcompiler=-fPIC,-fvisibility=hidden,-Wall,-Wextra",
        archs_flag(plan),
        *gencode_flags(plan.archs),
    ]


def compilation(plan: Plan, source: Path) -> tuple[list[str], list[str]]:
    """The compiler of a source file, and its flags."""
    if source.suffix == ".cu":
        assert plan.toolkit is not None
        return [str(plan.toolkit.nvcc)], nvcc_flags(plan)
    config = config_flags(plan) if source.parent.name == "torch" else []
    return plan.cxx, [*cxx_flags(plan), *config]


def link_flags(plan: Plan) -> list[str]:
    """Flags of the link. cudart is linked in: the file must load where no CUDA library exists."""
    # libtorch.so is but a list of PyTorch's parts, the CUDA one too where there is one: needed
    # although nothing is taken from it, so that a weak reference finds that part (device.h).
    flags = [f"-L{plan.torch.library_dir}", "-Wl,--no-as-needed", "-ltorch"]
    flags += ["-Wl,--as-needed", "-ltorch_cpu"]
    if plan.toolkit:
        cudart = plan.toolkit.library_dir / "libcudart_static.a"
        flags += [str(cudart), "-Wl,--exclude-libs,ALL", "-ldl", "-lrt", "-lpthread"]
    return flags


def ninja_file(plan: Plan, extension: Path) -> str:
    """The text of build.ninja."""
    lines = [NINJA_RULES, f"cxx = {_command(plan.cxx)}"]
    if plan.toolkit:
        lines.append(f"nvcc = {_command([str(plan.toolkit.nvcc)])}")
    objects = []
    for source in sources(plan.root, cuda=plan.toolkit is not None):
        out = _path(plan.build_dir / source.with_suffix(source.suffix + ".o"))
        rule = "nvcc" if source.suffix == ".cu" else "cxx"
        _, flags = compilation(plan, source)
        lines += [
            f"build {out}: {rule} {_path(plan.root / source)}",
            f"  flags = {_command(flags)}",
        ]
        objects.append(out)
    lines += [
        f"build {_path(extension)}: link {' '.join(objects)}",
        f"  flags = {_command(link_flags(plan))}",
    ]
    return "\n".join(lines) + "\n"


def _command(words: list[str]) -> str:
    return shlex.join(words).replace("$", "$$")


def _path(path: Path) -> str:
    return str(path).replace("$", "$$").replace(" ", "$ ").replace(":", "$:")


def build(plan: Plan, ninja: Path) -> Path:
    """Bring the extension up to date and return its path.

    Raises:
        BuildError: the compiler or the linker failed; what it said is above.
    """
    extension = plan.build_dir / "_C.abi3.so"
    plan.build_dir.mkdir(parents=True, exist_ok=True)
    (plan.build_dir / "build.ninja").write_text(ninja_file(plan, extension))
    jobs = os.environ.get("MAX_JOBS")
    command = [str(ninja), "-C", str(plan.build_dir), *(["-j", jobs] if jobs else [])]
    if subprocess.run(command).returncode != 0:
        raise BuildError("the compilation failed; the first error is above")
    database = [str(ninja), "-C", str(plan.build_dir), "-t", "compdb", "cxx", "nvcc"]
    commands = json.loads(subprocess.run(database, check=True, capture_output=True).stdout)
    (plan.root / "compile_commands.json").write_text(json.dumps(commands, indent=1))
    return extension
