"""The CUDA kernels' logic, run on the CPU by the stand-in for CUDA in tests/cuda_on_cpu.

Faults planted in copies of the kernels show that the comparison finds them.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from cuda_on_cpu_build import (
    ALL_SANITIZERS,
    CPP_TYPES,
    DRIVER,
    PRIMITIVES,
    SANITIZE,
    Build,
    missing,
)
from faults import OP_FAULTS, PRIMITIVE_FAULTS, READ_BEYOND, switch_on
from native_build import CSRC, TESTS, folder_of_this_run, run, succeed

import gdext

TRAP_EXIT_CODE = 77  # kTrapExitCode in emulation.h
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
DTYPES = [*CPP_TYPES]

pytestmark = pytest.mark.skipif(missing() is not None, reason=str(missing()))


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
    assert int(last[1]) > 0
    assert int(last[2]) > 0 or op == ("pinned",)  # which is about the host's memory alone


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


def check_suites(suites: list[str], site: Path, folder: Path, more_env: dict[str, str]) -> None:
    done = run_suites(suites, site, folder, more_env)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"^\d{2,} passed", done.stdout.splitlines()[-1]), done.stdout


@pytest.mark.parametrize("name", SUITES)
def test_a_python_suite_on_the_cuda_kernels(name, module, tmp_path):
    check_suites(SUITES[name], module, tmp_path, {"SCHEDULE_SEED": "1"})


@pytest.mark.parametrize("name", SANITIZED_SUITES)
def test_a_python_suite_on_the_cuda_kernels_under_sanitizers(name, sanitized_module, tmp_path):
    libraries = [
        subprocess.check_output(["g++", f"-print-file-name={library}"], text=True).strip()
        for library in ("libasan.so", "libstdc++.so")
    ]
    env = {
        # Python needs neither, and the first must come before all others.
        "LD_PRELOAD": " ".join(libraries),
        "ASAN_OPTIONS": "detect_leaks=0",
        "SCHEDULE_SEED": "2",
    }
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
@pytest.mark.parametrize("arch", ["75", "80", "120"])
def test_ptx_compiles_for(arch, tmp_path):
    """The functions of csrc/cuda/ptx, in kernels that call them (90a: test_cuda_primitives.py)."""
    for name in ("copies", "mma"):
        source = PRIMITIVES / f"{name}.cu"
        flags = ["-std=c++20", "-Werror", "all-warnings", f"-arch=sm_{arch}", f"-I{CSRC}"]
        succeed(["nvcc", *flags, "-cubin", source, "-o", tmp_path / f"{name}.cubin"])
