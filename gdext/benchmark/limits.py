"""What the machine can do at most: multiply-adds in registers, and bytes through each cache."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import torch

from gdext import build_info
from gdext.benchmark.process import in_new_process

DTYPES = {"float32": torch.float32, "float64": torch.float64}
SIZES = [2**k for k in range(14, 31)]  # 16 KiB to 1 GiB
COPY_BYTES = 2**29
MATRIX = 1024  # rows and columns


def run(seconds: float, threads: int) -> dict[str, Any]:
    """
    Returns:
        isa: the instruction set in use. fma: of each instruction set that this processor has, each
        dtype, one thread and all: operations per second. bandwidth: of an update p <- p - a g on
        arrays of so many bytes, all threads: bytes read and written per second. copy: the same of
        torch's copy_ between two arrays, together larger than most caches. notes: what
        could not be measured.
    """
    cpu = build_info()["cpu"]
    fma, notes = [], []
    for isa in cpu["compiled"]:
        try:
            fma += in_new_process(fma_peaks, isa, seconds, threads, GDEXT_CPU_ISA=isa)
        except BrokenProcessPool:
            notes.append(f"limits: the process that measured {isa} crashed")
        except RuntimeError as error:
            if "this processor does not have that instruction set" not in str(error):
                raise
    bandwidth = [
        {"bytes": size, "rate": torch.ops.gdext._bandwidth(size, seconds)} for size in SIZES
    ]
    return {
        "isa": cpu["in_use"],
        "fma": fma,
        "bandwidth": bandwidth,
        "copy": {"bytes": COPY_BYTES, "rate": copy_rate(COPY_BYTES, seconds)},
        "notes": notes,
    }


def fma_peaks(isa: str, seconds: float, threads: int) -> list[dict[str, Any]]:
    peaks = []
    for dtype in DTYPES:
        for count in sorted({1, threads}):
            torch.set_num_threads(count)
            rate = torch.ops.gdext._fma_peak(DTYPES[dtype], seconds)
            peaks.append({"isa": isa, "dtype": dtype, "threads": count, "rate": rate})
    return peaks


def arithmetic_rate(precision: str, seconds: float) -> float:
    """Operations per second at most: of float32 multiply-adds in registers, and, for bf16, of
    torch.mm where that is faster, as with instructions for it."""
    fma = float(torch.ops.gdext._fma_peak(torch.float32, seconds))
    return fma if precision == "float32" else max(fma, matrix_rate(torch.bfloat16, seconds))


def matrix_rate(dtype: torch.dtype, seconds: float) -> float:
    """Operations per second of torch.mm on square matrices."""
    a, b = (torch.ones(MATRIX, MATRIX, dtype=dtype) for _ in range(2))
    torch.mm(a, b)
    return 2.0 * MATRIX**3 / _least_seconds(lambda: torch.mm(a, b), seconds)


def copy_rate(size: int, seconds: float) -> float:
    source = torch.ones(size // 8)
    target = torch.zeros(size // 8)
    return size / _least_seconds(lambda: target.copy_(source), seconds)


def _least_seconds(work: Callable[[], object], seconds: float) -> float:
    """Of the runs of `work`, at least one, that `seconds` have time for."""
    start, best = time.perf_counter(), float("inf")
    while True:
        begin = time.perf_counter()
        work()
        end = time.perf_counter()
        best = min(best, end - begin)
        if end - start >= seconds:
            return best
