"""Builds the CUDA kernels' tests with the stand-in for CUDA in tests/cuda_on_cpu."""

from __future__ import annotations

import platform
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from native_build import CSRC, TESTS, compile_objects, link
from native_build import missing as missing_compiler

import gdext

DRIVER = TESTS / "cuda_on_cpu"
OPS = TESTS / "native"
PRIMITIVES = DRIVER / "primitives"
PREFIX = DRIVER / "prefix.h"

sys.path.insert(0, str(DRIVER))
sys.path.insert(0, str(TESTS.parent / "scripts"))
from build_support.environment import find_torch  # noqa: E402
from build_support.ninja_build import TORCH_TARGET_VERSION, Plan, config_flags  # noqa: E402
from faults import FAULT_FLAGS, Fault, plant  # noqa: E402

# -Og compiles faster than -O1 and -O2 by more than it runs slower; -O0 does not. The vector types'
# alignment is checked in every build.
SANITIZE = ["-fsanitize=alignment", "-fno-sanitize-recover=all"]
ALL_SANITIZERS = ["-fsanitize=address,undefined", "-fno-sanitize=null", "-fno-sanitize-recover=all"]
# No red zones around local arrays: they took a third of the time to compile (UBSan checks the
# bounds of those that are indexed), and the threads' stacks are none that AddressSanitizer is told
# of. Its checks in place, instead of by calls, take long to compile too.
ALL_SANITIZERS += ["--param=asan-stack=0", "--param=asan-instrumentation-with-call-threshold=0"]
COMPILE = [
    "-x",
    "c++",
    "-std=c++20",
    "-Og",
    "-Wno-psabi",
    "-DGDEXT_BACKEND=cuda",
    f"-I{DRIVER}",
    f"-I{OPS}",
    # The kernels are linked into a library, too, for Python.
    "-fPIC",
    "-fvisibility=hidden",
]
# The emulation is compiled well, and where it only runs threads and multiplies fragments, whose
# addresses it checks itself, not instrumented: it is not what is tested.
RUNS_THREADS = ("barriers", "fiber", "products", "schedule")
FAST = ["-O2", "-fno-sanitize=undefined"]
UNINSTRUMENTED = ["-fno-sanitize=all"]
# What the CPU has no twin of, beside main.cpp; the forms of mlp.cu with it.
TESTED_ELSEWHERE = {"peak", "mlp_layers", "mlp_resident", "pinned"}
CPP_TYPES = {"f32": "float", "f64": "double", "bf16": "bfloat16", "f16": "float16"}


def missing() -> str | None:
    """Why the driver cannot be built here, or None where it can."""
    if platform.machine() != "x86_64":
        return f"the fibers are written for x86-64, this is {platform.machine()}"
    return missing_compiler()


def keep_float32(csrc: Path) -> None:
    """Makes the others an error in `for_dtype`, so that no kernels are compiled for them."""
    file = csrc / "common" / "dtype.h"
    text = file.read_text()
    for cpp_type in CPP_TYPES.values():
        call = f"      f({cpp_type}{{}});\n      return;\n"
        assert text.count(call) == 1, f"not once in {file}: {call}"
        if cpp_type != "float":
            text = text.replace(call, "      break;\n")
    file.write_text(text)


class Build:
    """The two drivers, one for the ops and one for the primitives; what else is made of them."""

    def __init__(self, folder: Path, sanitize: list[str], shared: Path | None = None):
        """`shared`: where other processes find, or have left, the same objects."""
        self.sanitize = sanitize
        kernels = sorted((CSRC / "cuda").glob("*.cu"))
        stems = {kernel.stem for kernel in kernels} - TESTED_ELSEWHERE
        tests = [OPS / f"test_{stem}.cpp" for stem in sorted(stems)]
        primitives = sorted(PRIMITIVES.glob("*.cu"))
        for part in ("emulation", "ops", "primitives"):
            (folder / part).mkdir()
        emulation = {DRIVER / "emulation" / f"{name}.cpp" for name in RUNS_THREADS}
        others = {*(DRIVER / "emulation").glob("*.cpp")} - emulation
        flags = [f"-I{CSRC}"]
        threads, memory, self.ops, self.primitives = (
            self.compile(
                sorted(files), [*flags, *more], folder / part, shared and shared / part, prefix
            )
            for part, files, more, prefix in (
                ("emulation", emulation, FAST + UNINSTRUMENTED, None),
                ("emulation", others, FAST, None),
                ("ops", [*kernels, *tests, *DRIVER.glob("*.cpp")], [], PREFIX),
                ("primitives", primitives, [], PREFIX),
            )
        )
        self.emulation = threads + memory
        self.ops_driver = link([*self.ops, *self.emulation], folder / "ops_driver", sanitize)
        self.primitives_driver = link(
            [*self.primitives, *self.emulation], folder / "primitives_driver", sanitize
        )

    def compile(
        self,
        sources: list[Path],
        flags: list[str],
        folder: Path,
        shared: Path | None = None,
        prefix: Path | None = PREFIX,
    ) -> list[Path]:
        # With symbols, so that sanitizers name lines.
        flags = [*COMPILE, "-g1", *self.sanitize, *flags]
        return compile_objects(sources, flags, folder, shared, prefix)

    def with_faults(
        self, faults: Sequence[Fault], sources: list[Path], folder: Path, shared: Path | None = None
    ) -> Path:
        """A driver of the ops with faults in csrc, which are switched on one at a time.

        `sources`: those that have them. The ops are for float32 alone.
        """
        csrc = plant(faults, CSRC, folder)
        keep_float32(csrc)
        planted = [
            csrc / source.relative_to(CSRC) if source.is_relative_to(CSRC) else source
            for source in sources
        ]
        faulty = self.compile(planted, [f"-I{csrc}", *FAULT_FLAGS], folder, shared)
        names = {obj.name for obj in faulty}
        kept = [obj for obj in self.ops if obj.name not in names]
        # The faulty objects first: the linker takes the first of equal templates.
        return link([*faulty, *kept, *self.emulation], folder / "driver", self.sanitize)

    def with_faults_in_primitives(
        self, faults: Sequence[Fault], folder: Path, shared: Path | None = None
    ) -> Path:
        tree = plant(faults, PRIMITIVES, folder)
        sources = sorted(tree.glob("*.cu"))
        objects = self.compile(sources, [f"-I{CSRC}", *FAULT_FLAGS], folder, shared)
        return link([*objects, *self.emulation], folder / "driver", self.sanitize)

    def module(self, site: Path, folder: Path, shared: Path) -> None:
        """The Python package in `site`, with these kernels and none of the CPU's."""
        torch = find_torch()
        plan = Plan(
            version=gdext.__version__,
            root=CSRC.parent,
            torch=torch,
            cxx=["g++"],
            toolkit=None,
            archs=(),
        )
        # No Python threads' pool, which is the CPU kernels'.
        sources = [*{*(CSRC / "torch").glob("*.cpp")} - {CSRC / "torch" / "parallel.cpp"}]
        sources += (DRIVER / "module").glob("*.cpp")
        flags = ["-DGDEXT_CUDA=1", "-isystem", torch.include_dir, *config_flags(plan)]
        flags += [f"-DTORCH_TARGET_VERSION={TORCH_TARGET_VERSION}", "-DTORCH_STABLE_ONLY"]
        prefix = DRIVER / "module" / "prefix.h"
        objects = self.compile(sources, [f"-I{CSRC}", *flags], folder, shared, prefix)
        kernels = [obj for obj in self.ops if obj.name.endswith(".cu.o")]
        source = Path(gdext.__file__).parent
        compiled = shutil.ignore_patterns("*.so", "__pycache__")
        copy = shutil.copytree(source, site / "gdext", ignore=compiled)
        link(
            [*objects, *kernels, *self.emulation],
            copy / "_C.abi3.so",
            ["-shared", *self.sanitize],
            [f"-L{torch.library_dir}", "-Wl,--no-as-needed", "-ltorch", "-ltorch_cpu"],
        )
