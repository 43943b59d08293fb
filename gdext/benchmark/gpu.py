"""What a benchmark on a GPU needs to know: which one it is, and what it can do at most."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor

from gdext import build_info
from gdext.benchmark.networks import FLOAT
from gdext.benchmark.precision import PRECISIONS, in_force

SIZES = [2**k for k in range(16, 33, 2)]  # 64 KiB to 4 GiB
COPY_BYTES = 2**31
MATRIX = 8192  # rows and columns
FMA_REPEATS = 4096
LEAST_TRAFFIC = 2**30  # bytes of one launch
QUERY = ("driver_version", "clocks.sm", "clocks.max.sm", "clocks.mem", "power.limit", "pstate")


def missing() -> str | None:
    """Why nothing can be measured on a GPU here, or None where it can."""
    if not torch.cuda.is_available():
        return "PyTorch finds no CUDA device here"
    if not build_info()["cuda"]["compiled"]:
        return "gdext was built without CUDA: build it again with GDEXT_CUDA=1"
    return None


def facts() -> dict[str, Any]:
    """The GPU's name and sizes, the driver, and the clocks as they are now."""
    found = torch.cuda.get_device_properties(0)
    return {
        "name": found.name,
        "compute_capability": f"{found.major}.{found.minor}",
        "multiprocessors": found.multi_processor_count,
        "memory_bytes": found.total_memory,
        "cuda_of_torch": torch.version.cuda,
        "compiled_for": build_info()["cuda"]["archs"],
        **_driver(),
    }


def _driver() -> dict[str, str]:
    command = ["nvidia-smi", f"--query-gpu={','.join(QUERY)}", "--format=csv,noheader", "--id=0"]
    try:
        said = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return {}  # the driver can do without it
    return dict(zip(QUERY, (word.strip() for word in said.stdout.split(",")), strict=False))


def limits(seconds: float) -> dict[str, Any]:
    """
    Returns:
        fma: of float32 and float64 in registers, operations per second. matrix: of torch.matmul in
        tf32, bfloat16 and float16 (all with float32 sums) and in float32 proper: the same.
        bandwidth: of an update p <- p - a g on arrays of so many bytes: bytes read and written per
        second. copy: the same of torch's copy_.
    """
    matrices = {"tf32": ("tf32", torch.float32), "bfloat16": ("bf16", torch.bfloat16),
                "float16": ("float32", torch.float16),
                "float32": ("float32", torch.float32)}  # fmt: skip
    return {
        "gpu": torch.cuda.get_device_name(0),
        "fma": [
            {"dtype": str(dtype).removeprefix("torch."), "rate": fma_rate(dtype, seconds)}
            for dtype in (torch.float32, torch.float64)
        ],
        "matrix": [
            {"kind": kind, "rate": matrix_rate(precision, dtype, seconds)}
            for kind, (precision, dtype) in matrices.items()
        ],
        "bandwidth": [{"bytes": size, "rate": update_rate(size, seconds)} for size in SIZES],
        "copy": {"bytes": COPY_BYTES, "rate": copy_rate(COPY_BYTES, seconds)},
        "notes": [],
    }


def best_rate(start: Callable[[], float], seconds: float) -> float:
    """Of the launches that `start` makes, each of which it says the amount: the fastest's amount
    per second, by the GPU's own clock, after one to warm up."""
    start()
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    until, best = time.perf_counter() + seconds, 0.0
    while True:
        begin.record()
        amount = start()
        end.record()
        end.synchronize()
        best = max(best, amount / (1e-3 * begin.elapsed_time(end)))
        if time.perf_counter() >= until:
            return best


def fma_rate(dtype: torch.dtype, seconds: float) -> float:
    """Operations per second, of multiply-adds in registers on all multiprocessors."""
    out = torch.empty(
        torch.cuda.get_device_properties(0).multi_processor_count * 2048, dtype=dtype, device="cuda"
    )
    return best_rate(lambda: float(torch.ops.gdext._fma_work_(out, FMA_REPEATS)), seconds)


@cache
def _arrays(count: int) -> tuple[Tensor, Tensor]:
    return torch.ones(count, device="cuda"), torch.zeros(count, device="cuda")


def update_rate(size: int, seconds: float) -> float:
    """Bytes read and written per second by an update of two arrays of `size` bytes together."""
    p, g = _arrays(max(256, size // (2 * FLOAT) // 4 * 4))
    repeats = max(1, LEAST_TRAFFIC // (3 * FLOAT * p.numel()))
    try:
        return best_rate(lambda: float(torch.ops.gdext._update_work_(p, g, repeats)), seconds)
    finally:
        if size > 2**26:
            _arrays.cache_clear()


def copy_rate(size: int, seconds: float) -> float:
    """Bytes read and written per second by copy_ between two arrays of `size` bytes together."""
    source, target = _arrays(size // (2 * FLOAT))

    def start() -> float:
        target.copy_(source)
        return float(size)

    try:
        return best_rate(start, seconds)
    finally:
        _arrays.cache_clear()


def arithmetic_rate(precision: str, seconds: float) -> float:
    """Operations per second that products in this precision have at most: of float32 multiply-adds
    in registers (which products of float32 split in tf32 may exceed), of torch.mm in tf32 or
    bfloat16."""
    if precision == "float32":
        return fma_rate(torch.float32, seconds)
    return matrix_rate(precision, PRECISIONS[precision].dtype, seconds)


def matrix_rate(precision: str, dtype: torch.dtype, seconds: float) -> float:
    """Operations per second of torch.mm on square matrices."""
    a, b = (torch.randn(MATRIX, MATRIX, dtype=dtype, device="cuda") for _ in range(2))

    def start() -> float:
        torch.mm(a, b)
        return 2.0 * MATRIX**3

    with in_force(precision):
        return best_rate(start, seconds)
