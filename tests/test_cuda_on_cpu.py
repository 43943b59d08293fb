"""The CUDA kernels' logic, run on the CPU by the stand-in for CUDA in tests/cuda_on_cpu.

Faults planted in copies of the kernels show that the comparison finds them.
"""

from __future__ import annotations

import platform
import re
from dataclasses import dataclass
from pathlib import Path

import pytest
from native_build import CSRC, TESTS, Fault, compile_objects, link, run
from native_build import missing as missing_compiler

DRIVER = TESTS / "cuda_on_cpu"
OPS = TESTS / "native"

# -O1 compiles faster than -O2 by more than it runs slower.
COMPILE = ["-x", "c++", "-std=c++20", "-O1", "-DGDEXT_BACKEND=cuda", f"-I{DRIVER}", f"-I{OPS}"]
TRAP_EXIT_CODE = 77  # kTrapExitCode in cuda_runtime.h


def missing() -> str | None:
    """Why the driver cannot be built here, or None where it can."""
    if platform.machine() != "x86_64":
        return f"the fibers are written for x86-64, this is {platform.machine()}"
    return missing_compiler()


pytestmark = pytest.mark.skipif(missing() is not None, reason=str(missing()))


@pytest.fixture(scope="module")
def objects(tmp_path_factory) -> list[Path]:
    kernels = sorted((CSRC / "cuda").glob("*.cu"))
    # peak.cu, which the CPU has no twin of, is tested beside main.cpp.
    tests = [OPS / f"test_{kernel.stem}.cpp" for kernel in kernels if kernel.stem != "peak"]
    return compile_objects(
        [*kernels, *tests, *sorted(DRIVER.glob("*.cpp"))],
        [*COMPILE, f"-I{CSRC}"],
        tmp_path_factory.mktemp("cuda_on_cpu"),
    )


@pytest.fixture(scope="module")
def driver(objects, tmp_path_factory) -> Path:
    return link(objects, tmp_path_factory.mktemp("driver") / "cuda_on_cpu")


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("dtype", ["f32", "f64", "bf16", "f16"])
def test_every_op(driver, dtype, seed):
    done = run(driver, dtype, seed)
    last = re.fullmatch(
        rf"{dtype}, seed {seed}: (\d+) numbers compared in (\d+) launches, 0 failures",
        (done.stdout.splitlines() or [""])[-1],
    )
    assert done.returncode == 0 and last, done.stdout + done.stderr
    assert int(last[1]) > 0 and int(last[2]) > 0


def test_a_class_index_out_of_bounds_is_printed_and_traps(driver):
    done = run(driver, "trap")
    assert done.returncode == TRAP_EXIT_CODE
    assert done.stdout == "Target 3 is out of bounds.\n"


@dataclass(frozen=True)
class FaultOf(Fault):
    """`op` must fail, saying `says`."""

    op: str
    says: str = "FAIL {op} "


FAULTS = {
    "no barrier between storing tiles and multiplying them": FaultOf(
        "cuda/gemm.cuh",
        "    b_loader.store(b_tile);\n    __syncthreads();\n",
        "    b_loader.store(b_tile);\n",
        "linear",
    ),
    "no barrier before the result takes the tiles' place": FaultOf(
        "cuda/gemm.cuh",
        "  }\n\n  __syncthreads();\n#pragma unroll\n",
        "  }\n\n#pragma unroll\n",
        "linear",
    ),
    "a tile that ends one product too early": FaultOf(
        "cuda/gemm.cuh",
        "k_ + i * next_k_ < depth_;",
        "k_ + i * next_k_ < depth_ - 1;",
        "linear",
    ),
    "no barrier before the next reduction of a block": FaultOf(
        "cuda/common.cuh",
        "  __syncthreads();  // the next call writes of_warp again\n",
        "",
        "mse",
    ),
    "threads that leave before a barrier": FaultOf(
        "cuda/reduce.cuh",
        "  const double weights = weighted",
        "  if (threadIdx.x != 0) return;\n  const double weights = weighted",
        "mse",
        says="deadlock: of 256 threads 255 have left the kernel",
    ),
    "the sign of cross_entropy's dx": FaultOf(
        "cuda/cross_entropy.cu",
        "(a * std::exp(log_p) - sample.q(c))",
        "(sample.q(c) - a * std::exp(log_p))",
        "cross_entropy",
    ),
    "the sign of the update": FaultOf("common/sgd_rule.h", "p -= lr * d;", "p += lr * d;", "sgd"),
    "a long list's tables laid over one another": FaultOf(
        "cuda/sgd.cu",
        "table.entries + i,",
        "table.entries,",
        "sgd",
        says="",  # it crashes
    ),
    "a chunk counted from the wrong tensor": FaultOf(
        "cuda/sgd_table.cuh",
        "    chunk -= chunks;\n",
        "",
        "sgd",
        says="",  # it crashes
    ),
    "a missing tail": FaultOf("cuda/sgd.cu", "&& j < high;", "&& j + 1 < high;", "sgd"),
    "what lies before a tensor updated too": FaultOf(
        "cuda/sgd.cu", "place.chunk == 0 ? lead : 0,", "0,", "sgd"
    ),
    "chunks that ignore where a tensor begins": FaultOf(
        "cuda/sgd_table.cuh", "(t.n) + lead(t), kChunk)", "(t.n), kChunk)", "sgd"
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_found(name, objects, tmp_path):
    fault = FAULTS[name]
    csrc = fault.plant(CSRC, tmp_path)
    source = csrc / "cuda" / f"{fault.op}.cu"
    kept = [obj for obj in objects if obj.name != f"{source.name}.o"]
    # The faulty object first: the linker takes the first of equal templates.
    faulty = compile_objects([source], [*COMPILE, f"-I{csrc}"], tmp_path)
    driver = link([*faulty, *kept], tmp_path / "cuda_on_cpu")

    done = run(driver, "f32", 1, fault.op)
    assert done.returncode != 0
    assert fault.says.format(op=fault.op) in done.stdout + done.stderr
