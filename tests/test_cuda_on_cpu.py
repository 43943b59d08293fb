"""The CUDA kernels' logic, run on the CPU by the stand-in for CUDA in tests/cuda_on_cpu.

Faults planted in copies of the kernels show that the comparison finds them.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from native_build import CSRC, TESTS, compile_objects, folder_of_this_run, link, run, succeed
from native_build import missing as missing_compiler

import gdext

DRIVER = TESTS / "cuda_on_cpu"
OPS = TESTS / "native"
PRIMITIVES = DRIVER / "primitives"

sys.path.insert(0, str(DRIVER))
sys.path.insert(0, str(TESTS.parent / "scripts"))
from build_support.environment import find_torch  # noqa: E402
from build_support.ninja_build import TORCH_TARGET_VERSION, Plan, config_flags  # noqa: E402
from faults import OP_FAULTS, PRIMITIVE_FAULTS, READ_BEYOND, OpFault  # noqa: E402

# -O1 compiles faster than -O2 by more than it runs slower. The vector types' alignment is checked
# in every build.
SANITIZE = ["-fsanitize=alignment", "-fno-sanitize-recover=all"]
ALL_SANITIZERS = ["-fsanitize=address,undefined", "-fno-sanitize=null", "-fno-sanitize-recover=all"]
# Local arrays have bounds that UBSan checks: AddressSanitizer's red zones around them take a third
# of the compilation.
ALL_SANITIZERS += ["--param=asan-stack=0"]
COMPILE = [
    "-x",
    "c++",
    "-std=c++20",
    "-O1",
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
UNINSTRUMENTED = ["--param=asan-instrument-reads=0", "--param=asan-instrument-writes=0"]
TRAP_EXIT_CODE = 77  # kTrapExitCode in emulation.h
# peak.cu, which the CPU has no twin of, beside main.cpp; the forms of mlp.cu with it.
TESTED_ELSEWHERE = {"peak", "mlp_layers", "mlp_resident"}
# The suites that run in Python with the CUDA kernels under them (cuda_on_cpu/module/suites.py).
SUITES = {
    "layers": ["activation", "linear", "linear_edges", "layers"],
    "losses": ["mse", "cross_entropy", "cross_entropy_edges"],
    "optimizer": ["sgd_op", "sgd", "sgd_state", "sgd_training", "pytorch_sgd"],
    "trainer": ["mlp_op", "fused", "fused_arguments", "fused_errors", "fused_state"],
    "trainer's forms": ["fused_devices"],
}
CPP_TYPES = {"f32": "float", "f64": "double", "bf16": "bfloat16", "f16": "float16"}
DTYPES = [*CPP_TYPES]


def missing() -> str | None:
    """Why the driver cannot be built here, or None where it can."""
    if platform.machine() != "x86_64":
        return f"the fibers are written for x86-64, this is {platform.machine()}"
    return missing_compiler()


pytestmark = pytest.mark.skipif(missing() is not None, reason=str(missing()))


def keep_dtype(csrc: Path, dtype: str) -> None:
    """Makes the others an error in `for_dtype`, so that no kernels are compiled for them."""
    file = csrc / "common" / "dtype.h"
    text = file.read_text()
    for name, cpp_type in CPP_TYPES.items():
        call = f"      f({cpp_type}{{}});\n      return;\n"
        assert text.count(call) == 1, f"not once in {file}: {call}"
        if name != dtype:
            text = text.replace(call, "      break;\n")
    file.write_text(text)


class Build:
    """The two drivers, one for the ops and one for the primitives."""

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
            self.compile(sorted(files), [*flags, *more], folder / part, shared and shared / part)
            for part, files, more in (
                ("emulation", emulation, FAST + UNINSTRUMENTED),
                ("emulation", others, FAST),
                ("ops", [*kernels, *tests, *DRIVER.glob("*.cpp")], []),
                ("primitives", primitives, []),
            )
        )
        self.emulation = threads + memory
        self.ops_driver = link([*self.ops, *self.emulation], folder / "ops_driver", sanitize)
        self.primitives_driver = link(
            [*self.primitives, *self.emulation], folder / "primitives_driver", sanitize
        )

    def compile(
        self, sources: list[Path], flags: list[str], folder: Path, shared: Path | None = None
    ) -> list[Path]:
        # With symbols, so that sanitizers name lines.
        return compile_objects(sources, [*COMPILE, "-g1", *self.sanitize, *flags], folder, shared)

    def with_fault_in_csrc(self, fault: OpFault, folder: Path) -> Path:
        csrc = fault.plant(CSRC, folder)
        source = csrc / "cuda" / f"{fault.unit or fault.op}.cu"
        flags = [f"-I{csrc}"]
        if source.stem in {"linear", "mlp_layers", "mlp_resident"}:
            # Of many kernels but one is at fault: it is not worth the time to compile them well,
            # nor for other types.
            flags.append("-O0")
            keep_dtype(csrc, fault.dtype)
        kept = [obj for obj in self.ops if obj.name != f"{source.name}.o"]
        if not source.exists():  # a header's, which has a test of its own; of the dtype alone
            source = DRIVER / f"test_{fault.op}.cpp"
            flags += ["-O0", f"-DGDEXT_ONLY={CPP_TYPES[fault.dtype]}"]
        # The faulty object first: the linker takes the first of equal templates.
        faulty = self.compile([source], flags, folder)
        return link([*faulty, *kept, *self.emulation], folder / "driver", self.sanitize)

    def module(self, package: Path, shared: Path) -> None:
        """The Python package in `package`, with these kernels and none of the CPU's."""
        torch = find_torch()
        plan = Plan(gdext.__version__, CSRC.parent, torch, ["g++"], None, ())
        # No Python threads' pool, which is the CPU kernels'.
        sources = [*{*(CSRC / "torch").glob("*.cpp")} - {CSRC / "torch" / "parallel.cpp"}]
        sources += (DRIVER / "module").glob("*.cpp")
        flags = ["-DGDEXT_CUDA=1", "-isystem", torch.include_dir, *config_flags(plan)]
        flags += [f"-DTORCH_TARGET_VERSION={TORCH_TARGET_VERSION}", "-DTORCH_STABLE_ONLY"]
        (folder := package / "torch").mkdir(parents=True)
        objects = self.compile(sources, [f"-I{CSRC}", *flags], folder, shared)
        kernels = [obj for obj in self.ops if obj.name.endswith(".cu.o")]
        source = Path(gdext.__file__).parent
        compiled = shutil.ignore_patterns("*.so", "__pycache__")
        copy = shutil.copytree(source, package / "gdext", ignore=compiled)
        link(
            [*objects, *kernels, *self.emulation],
            copy / "_C.abi3.so",
            ["-shared", *self.sanitize],
            [f"-L{torch.library_dir}", "-Wl,--no-as-needed", "-ltorch", "-ltorch_cpu"],
        )


def make_build(name: str, sanitize: list[str], tmp_path_factory) -> Build:
    shared = folder_of_this_run(tmp_path_factory) / f"{name}_objects"
    return Build(tmp_path_factory.mktemp(name), sanitize, shared)


@pytest.fixture(scope="module")
def build(tmp_path_factory) -> Build:
    return make_build("cuda_on_cpu", SANITIZE, tmp_path_factory)


@pytest.fixture(scope="module")
def sanitized(tmp_path_factory) -> Build:
    return make_build("cuda_on_cpu_sanitized", ALL_SANITIZERS, tmp_path_factory)


@pytest.fixture(scope="module")
def module(build, tmp_path_factory) -> Path:
    package = tmp_path_factory.mktemp("cuda_on_cpu_module")
    build.module(package, folder_of_this_run(tmp_path_factory) / "cuda_on_cpu_module_objects")
    return package


def check_op(driver: Path, dtype: str, seed: int, *op: str) -> None:
    done = run(driver, dtype, seed, *op, env={"ASAN_OPTIONS": "detect_leaks=0"})
    last = re.fullmatch(
        rf"{dtype}, seed {seed}: (\d+) numbers compared in (\d+) launches, 0 failures",
        (done.stdout.splitlines() or [""])[-1],
    )
    assert done.returncode == 0 and last, done.stdout + done.stderr
    assert int(last[1]) > 0 and int(last[2]) > 0


def check_primitives(driver: Path, seed: int) -> None:
    done = run(driver, seed, env={"ASAN_OPTIONS": "detect_leaks=0"})
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.fullmatch(
        rf"primitives, seed {seed}: [1-9]\d* numbers compared, 0 failures\n", done.stdout
    )


# A schedule each, so that both together see two.
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_op(build, dtype):
    check_op(build.ops_driver, dtype, 2)


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_op_under_sanitizers(sanitized, dtype):
    check_op(sanitized.ops_driver, dtype, 1)


@pytest.mark.parametrize("name", SUITES)
def test_a_suite_of_python_s(name, module, tmp_path):
    files = [TESTS / f"test_{suite}.py" for suite in SUITES[name]]
    # What the emulation says of an error it prints as it ends the process.
    options = ["-q", "--capture=sys", "-p", "no:cacheprovider", "-p", "suites"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, *files],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": f"{module}{os.pathsep}{DRIVER / 'module'}"},
        capture_output=True,
        text=True,
        errors="replace",
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"^\d{2,} passed", done.stdout.splitlines()[-1]), done.stdout


@pytest.mark.parametrize("seed", [1, 2, 3, 4])
def test_what_kernels_are_made_of(build, seed):
    check_primitives(build.primitives_driver, seed)


def test_a_class_index_out_of_bounds_is_printed_and_traps(build):
    done = run(build.ops_driver, "trap")
    assert done.returncode == TRAP_EXIT_CODE
    assert done.stdout == "Target 3 is out of bounds.\n"


@pytest.mark.parametrize("name", OP_FAULTS)
def test_a_planted_fault_is_found(name, build, tmp_path):
    fault = OP_FAULTS[name]
    driver = build.with_fault_in_csrc(fault, tmp_path)
    env = {"STOP_AT_FIRST_FAILURE": "1"}
    done = run(driver, fault.dtype, fault.seed, fault.op, env=env)
    assert done.returncode != 0
    assert fault.says.format(op=fault.op) in done.stdout + done.stderr


@pytest.mark.parametrize("name", PRIMITIVE_FAULTS)
def test_a_fault_planted_in_a_primitive_is_found(name, build, tmp_path):
    fault = PRIMITIVE_FAULTS[name]
    source = fault.plant(PRIMITIVES, tmp_path) / fault.file
    faulty = build.compile([source], [f"-I{CSRC}"], tmp_path)
    kept = [obj for obj in build.primitives if obj.name != f"{source.name}.o"]
    driver = link([*faulty, *kept, *build.emulation], tmp_path / "driver", build.sanitize)
    for seed in (1, 2, 3):
        done = run(driver, seed)
        assert done.returncode != 0, f"not found with seed {seed}"
        assert fault.says in done.stdout + done.stderr


def test_what_kernels_are_made_of_under_sanitizers(sanitized):
    check_primitives(sanitized.primitives_driver, 1)


def test_reading_beyond_a_row_is_found_by_a_sanitizer(sanitized, tmp_path):
    done = run(sanitized.with_fault_in_csrc(READ_BEYOND, tmp_path), "f32", 1, "linear")
    assert done.returncode != 0
    assert READ_BEYOND.says in done.stderr
    assert re.search(r"in kernel gemm_kernel<.*, thread \(\d+,0,0\) of block \(", done.stderr)


@pytest.mark.skipif(not shutil.which("nvcc"), reason="nvcc is not on PATH")
@pytest.mark.parametrize("arch", ["75", "80", "90a", "120"])
def test_ptx_compiles_for(arch, tmp_path):
    """The functions of csrc/cuda/ptx, in kernels that call them."""
    for name in ("copies", "mma"):
        source = PRIMITIVES / f"{name}.cu"
        flags = ["-std=c++20", "-Werror", "all-warnings", f"-arch=sm_{arch}", f"-I{CSRC}"]
        succeed(["nvcc", *flags, "-cubin", source, "-o", tmp_path / f"{name}.cubin"])
