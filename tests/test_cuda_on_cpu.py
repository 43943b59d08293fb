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
from collections.abc import Sequence
from pathlib import Path

import pytest
from native_build import CSRC, TESTS, compile_objects, folder_of_this_run, link, run, succeed
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
from faults import (  # noqa: E402
    FAULT_FLAGS,
    OP_FAULTS,
    PRIMITIVE_FAULTS,
    READ_BEYOND,
    Fault,
    plant,
    switch_on,
)

# -Og compiles faster than -O1 and -O2 by more than it runs slower; -O0 does not. The vector types'
# alignment is checked in every build.
SANITIZE = ["-fsanitize=alignment", "-fno-sanitize-recover=all"]
ALL_SANITIZERS = ["-fsanitize=address,undefined", "-fno-sanitize=null", "-fno-sanitize-recover=all"]
# What takes long to compile: AddressSanitizer's red zones around local arrays, a third of the time
# (UBSan checks the bounds of those that are indexed), and its checks in place instead of by calls.
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
TRAP_EXIT_CODE = 77  # kTrapExitCode in emulation.h
# peak.cu, which the CPU has no twin of, beside main.cpp; the forms of mlp.cu with it.
TESTED_ELSEWHERE = {"peak", "mlp_layers", "mlp_resident"}
# The suites that run in Python with the CUDA kernels under them (cuda_on_cpu/module/suites.py).
SUITES = {
    "layers": ["activation", "layers"],
    "linear": ["linear", "linear_edges"],
    "losses": ["mse", "cross_entropy", "cross_entropy_edges"],
    "trainer": ["fused", "fused_devices"],
}
# These are under sanitizers: what csrc/torch hands to the kernels is theirs above all.
SANITIZED_SUITES = {
    "optimizer": ["sgd_op", "sgd", "sgd_state", "sgd_training", "pytorch_sgd"],
    "trainer's calls": ["mlp_op", "fused_arguments", "fused_errors", "fused_state"],
}
CPP_TYPES = {"f32": "float", "f64": "double", "bf16": "bfloat16", "f16": "float16"}
DTYPES = [*CPP_TYPES]


def missing() -> str | None:
    """Why the driver cannot be built here, or None where it can."""
    if platform.machine() != "x86_64":
        return f"the fibers are written for x86-64, this is {platform.machine()}"
    return missing_compiler()


pytestmark = pytest.mark.skipif(missing() is not None, reason=str(missing()))


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
def with_faults(build, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("cuda_on_cpu_faults")
    shared = folder_of_this_run(tmp_path_factory) / "cuda_on_cpu_faults_objects"
    sources = [*sorted((CSRC / "cuda").glob("*.cu")), DRIVER / "test_gemm.cpp"]
    return build.with_faults([*OP_FAULTS.values()], sources, folder, shared)


@pytest.fixture(scope="module")
def primitives_with_faults(build, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("cuda_on_cpu_primitive_faults")
    shared = folder_of_this_run(tmp_path_factory) / "cuda_on_cpu_primitive_faults_objects"
    return build.with_faults_in_primitives([*PRIMITIVE_FAULTS.values()], folder, shared)


def make_module(build: Build, name: str, tmp_path_factory) -> Path:
    """The folder that Python finds it in."""
    site, objects = (tmp_path_factory.mktemp(f"{name}_{part}") for part in ("site", "objects"))
    build.module(site, objects, folder_of_this_run(tmp_path_factory) / f"{name}_module_objects")
    return site


@pytest.fixture(scope="module")
def module(build, tmp_path_factory) -> Path:
    return make_module(build, "cuda_on_cpu", tmp_path_factory)


@pytest.fixture(scope="module")
def sanitized_module(sanitized, tmp_path_factory) -> Path:
    return make_module(sanitized, "cuda_on_cpu_sanitized", tmp_path_factory)


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


def run_suites(
    suites: list[str], site: Path, folder: Path, more_env: dict[str, str]
) -> subprocess.CompletedProcess[str]:
    files = [TESTS / f"test_{suite}.py" for suite in suites]
    # What the emulation says of an error it prints as it ends the process.
    options = ["-q", "--capture=sys", "-p", "no:cacheprovider", "-p", "suites"]
    paths = [str(site), str(DRIVER / "module"), os.environ.get("PYTHONPATH", "")]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths)), **more_env}
    # A GPU, and whoever wants one, is not for this module.
    env["CUDA_VISIBLE_DEVICES"] = ""
    for ours in ("GDEXT_REQUIRE_CUDA", "PYTEST_ADDOPTS"):
        env.pop(ours, None)
    return subprocess.run(
        [sys.executable, "-m", "pytest", *options, *files],
        cwd=folder,
        env=env,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=600,
    )


def check_suites(
    suites: list[str], site: Path, folder: Path, more_env: dict[str, str] | None = None
) -> None:
    done = run_suites(suites, site, folder, more_env or {})
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"^\d{2,} passed", done.stdout.splitlines()[-1]), done.stdout


@pytest.mark.parametrize("name", SUITES)
def test_a_python_suite_on_the_cuda_kernels(name, module, tmp_path):
    check_suites(SUITES[name], module, tmp_path, {"SCHEDULE_SEED": "1"})


@pytest.mark.parametrize("name", SANITIZED_SUITES)
def test_a_python_suite_on_the_cuda_kernels_under_sanitizers(name, sanitized_module, tmp_path):
    libraries = [
        subprocess.check_output(["g++", f"-print-file-name={name}"], text=True).strip()
        for name in ("libasan.so", "libstdc++.so")
    ]
    # Python needs neither, and the first must come before all others.
    options = {"LD_PRELOAD": " ".join(libraries), "ASAN_OPTIONS": "detect_leaks=0"}
    env = {**options, "SCHEDULE_SEED": "2"}
    check_suites(SANITIZED_SUITES[name], sanitized_module, tmp_path, env)


def test_a_module_with_cpu_kernels_is_refused(tmp_path):
    done = run_suites(SUITES["layers"], Path(gdext.__file__).parents[1], tmp_path, {})
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert "this gdext has CPU kernels" in done.stderr


@pytest.mark.parametrize("seed", [1, 2, 3, 4])
def test_what_kernels_are_made_of(build, seed):
    check_primitives(build.primitives_driver, seed)


def test_a_class_index_out_of_bounds_is_printed_and_traps(build):
    done = run(build.ops_driver, "trap")
    assert done.returncode == TRAP_EXIT_CODE
    assert done.stdout == "Target 3 is out of bounds.\n"


@pytest.mark.parametrize("name", OP_FAULTS)
def test_a_planted_fault_is_found(name, with_faults):
    fault = OP_FAULTS[name]
    env = {"STOP_AT_FIRST_FAILURE": "1", **switch_on(fault, [*OP_FAULTS.values()])}
    done = run(with_faults, fault.dtype, fault.seed, fault.op, env=env)
    assert done.returncode != 0
    assert fault.says.format(op=fault.op) in done.stdout + done.stderr


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("name", PRIMITIVE_FAULTS)
def test_a_fault_planted_in_a_primitive_is_found(name, seed, primitives_with_faults):
    fault = PRIMITIVE_FAULTS[name]
    env = switch_on(fault, [*PRIMITIVE_FAULTS.values()])
    done = run(primitives_with_faults, seed, env=env)
    assert done.returncode != 0
    assert fault.says in done.stdout + done.stderr


@pytest.mark.parametrize("dtype", sorted({fault.dtype for fault in OP_FAULTS.values()}))
def test_no_fault_is_found_where_none_is_switched_on(dtype, with_faults):
    faults = [fault for fault in OP_FAULTS.values() if fault.dtype == dtype]
    for op, seed in sorted({(fault.op, fault.seed) for fault in faults}):
        check_op(with_faults, dtype, seed, op)


def test_no_fault_is_found_in_primitives_where_none_is_switched_on(primitives_with_faults):
    check_primitives(primitives_with_faults, 1)


def test_what_kernels_are_made_of_under_sanitizers(sanitized):
    check_primitives(sanitized.primitives_driver, 1)


def test_reading_beyond_a_row_is_found_by_a_sanitizer(sanitized, tmp_path):
    sources = [CSRC / "cuda" / "linear.cu"]
    driver = sanitized.with_faults([READ_BEYOND], sources, tmp_path)
    check_op(driver, "f32", 1, "linear")  # with none switched on
    done = run(driver, "f32", 1, "linear", env=switch_on(READ_BEYOND, [READ_BEYOND]))
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
