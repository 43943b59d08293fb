"""The CUDA kernels' logic, run on the CPU by the stand-in for CUDA in tests/cuda_on_cpu.

Faults planted in copies of the kernels show that the comparison finds them.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parent
DRIVER = TESTS / "cuda_on_cpu"
CSRC = TESTS.parent / "csrc"

# -O1 compiles faster than -O2 by more than it runs slower.
COMPILE = ["g++", "-x", "c++", "-std=c++20", "-O1"]
TRAP_EXIT_CODE = 77  # kTrapExitCode in cuda_runtime.h


def missing() -> str | None:
    """Why the driver cannot be built here, or None where it can."""
    if platform.machine() != "x86_64":
        return f"the fibers are written for x86-64, this is {platform.machine()}"
    if not (CSRC / "cuda").is_dir():
        return "the kernels' sources are not here"
    return None if shutil.which("g++") else "g++ is not on PATH"


pytestmark = pytest.mark.skipif(missing() is not None, reason=str(missing()))


def succeed(command: list[object]) -> None:
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def compile_objects(sources: list[Path], csrc: Path, folder: Path) -> list[Path]:
    """The objects of `sources`, which include from `csrc`, in `folder`."""
    objects = [folder / f"{source.name}.o" for source in sources]

    def compile_one(source: Path, obj: Path) -> None:
        succeed([*COMPILE, "-I", DRIVER, "-I", csrc, "-c", source, "-o", obj])

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(compile_one, sources, objects))
    return objects


def link(objects: list[Path], folder: Path) -> Path:
    driver = folder / "cuda_on_cpu"
    succeed(["g++", *objects, "-o", driver])
    return driver


def run(driver: Path, *args: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [driver, *map(str, args)], capture_output=True, text=True, timeout=300, errors="replace"
    )


@pytest.fixture(scope="module")
def objects(tmp_path_factory) -> list[Path]:
    sources = [*sorted((CSRC / "cuda").glob("*.cu")), *sorted(DRIVER.glob("*.cpp"))]
    return compile_objects(sources, CSRC, tmp_path_factory.mktemp("cuda_on_cpu"))


@pytest.fixture(scope="module")
def driver(objects, tmp_path_factory) -> Path:
    return link(objects, tmp_path_factory.mktemp("driver"))


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


@dataclass
class Fault:
    """Replaces `old`, which occurs once in `file`, by `new`; `op` must then fail, saying `says`."""

    file: str
    old: str
    new: str
    op: str
    says: str = "FAIL {op} "


FAULTS = {
    "no barrier between storing tiles and multiplying them": Fault(
        "cuda/gemm.cuh",
        "    b_loader.store(b_tile);\n    __syncthreads();\n",
        "    b_loader.store(b_tile);\n",
        "linear",
    ),
    "no barrier before the result takes the tiles' place": Fault(
        "cuda/gemm.cuh",
        "  }\n\n  __syncthreads();\n#pragma unroll\n",
        "  }\n\n#pragma unroll\n",
        "linear",
    ),
    "a tile that ends one product too early": Fault(
        "cuda/gemm.cuh",
        "k_ + i * next_k_ < depth_;",
        "k_ + i * next_k_ < depth_ - 1;",
        "linear",
    ),
    "no barrier before the next reduction of a block": Fault(
        "cuda/common.cuh",
        "  __syncthreads();  // the next call writes of_warp again\n",
        "",
        "mse",
    ),
    "threads that leave before a barrier": Fault(
        "cuda/reduce.cuh",
        "  const double weights = weighted",
        "  if (threadIdx.x != 0) return;\n  const double weights = weighted",
        "mse",
        says="deadlock: of 256 threads 255 have left the kernel",
    ),
    "the sign of cross_entropy's dx": Fault(
        "cuda/cross_entropy.cu",
        "(a * std::exp(log_p) - sample.q(c))",
        "(sample.q(c) - a * std::exp(log_p))",
        "cross_entropy",
    ),
    "the sign of the update": Fault("common/sgd_rule.h", "p -= lr * d;", "p += lr * d;", "sgd"),
    "one table's tensors forgotten": Fault(
        "cuda/sgd.cu",
        "if (table.count == kTableSize) flush();",
        "if (table.count == kTableSize) table.count = 0, blocks = 0;",
        "sgd",
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_found(name, objects, tmp_path):
    fault = FAULTS[name]
    csrc = tmp_path / "csrc"
    shutil.copytree(CSRC, csrc)
    text = (csrc / fault.file).read_text()
    assert text.count(fault.old) == 1
    (csrc / fault.file).write_text(text.replace(fault.old, fault.new))

    source = csrc / "cuda" / f"{fault.op}.cu"
    kept = [obj for obj in objects if obj.name != f"{source.name}.o"]
    # The faulty object first: the linker takes the first of equal templates.
    driver = link([*compile_objects([source], csrc, tmp_path), *kept], tmp_path)

    done = run(driver, "f32", 1, fault.op)
    assert done.returncode != 0
    assert fault.says.format(op=fault.op) in done.stdout + done.stderr
