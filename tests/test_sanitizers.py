"""The CPU kernels alone, compared with naive loops and watched by the compiler's sanitizers.

tests/native/README.md says how to do the same by hand.
"""

from __future__ import annotations

import os
import platform
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
from native_build import CSRC, TESTS, Fault, compile_objects, link, missing, run

import gdext

pytestmark = pytest.mark.skipif(missing() is not None, reason=str(missing()))

NATIVE = TESTS / "native"
DTYPES = ["f32", "f64", "bf16", "f16"]
# The kernels take three times as long to compile with -O1 as with -O0, and longer than they run.
KERNELS, CHECKS = "-O0", "-O1"
# GDEXT_BF16_SOFTWARE: products of pairs of bfloat16 on processors without the instruction too.
FLAGS = ["-std=c++20", "-g1", "-DGDEXT_BACKEND=cpu", "-DGDEXT_BF16_SOFTWARE", f"-I{NATIVE}"]


X86_64 = {"avx2", "avx512", "avx512bf16"} if platform.machine() == "x86_64" else set()


def without_kernels(isa: str, folder: Path) -> Path:
    """What links in place of csrc/cpu/isa_<isa>.cpp, which takes long to compile."""
    kernels = (
        "Bf16Kernels kernels = {}" if isa == "avx512bf16" else f'KernelTable table = {{"{isa}"}}'
    )
    declared = f"extern const {kernels.partition(' =')[0]};"
    source = folder / f"isa_{isa}.cpp"
    lines = ['#include "cpu/kernels.h"', f"namespace gdext::cpu::{isa} {{", declared]
    source.write_text("\n".join([*lines, f"const {kernels};", "}"]))
    return source


@dataclass(frozen=True)
class FaultOf(Fault):
    """`op` must fail, saying `says`."""

    op: str
    says: str


class Sanitized:
    """The driver of tests/native, compiled with a sanitizer; of x86-64's instruction sets, only
    with those of `isas` if it is given."""

    def __init__(self, flags: list[str], folder: Path, isas: set[str] | None = None):
        self.flags = [*FLAGS, *flags]
        self.folder = folder
        kernels = sorted((CSRC / "cpu").glob("*.cpp"))
        for isa in X86_64 - (X86_64 if isas is None else isas):
            kernels.remove(CSRC / "cpu" / f"isa_{isa}.cpp")
            kernels.append(without_kernels(isa, folder))
        checks = [NATIVE / "cpu_main.cpp", *sorted(NATIVE.glob("test_*.cpp"))]
        self.objects = [
            *compile_objects(kernels, [*self.flags, KERNELS, f"-I{CSRC}"], folder),
            *compile_objects(checks, [*self.flags, CHECKS, f"-I{CSRC}"], folder),
        ]
        self.driver = link(self.objects, folder / "cpu", self.flags)
        self.isas = run(self.driver, "isas").stdout.strip().split(",")

    def check(self, isa: str, dtype: str) -> None:
        done = run(self.driver, dtype, env={"GDEXT_CPU_ISA": isa})
        last = (done.stdout.splitlines() or [""])[-1]
        printed = re.fullmatch(rf"{isa}, {dtype}, seed 1: (\d+) numbers compared, 0 failures", last)
        assert done.returncode == 0 and printed, done.stdout + done.stderr
        assert int(printed[1]) > 0 and done.stderr == ""

    def check_all(self, isas: list[str], dtypes: list[str]) -> None:
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for isa in isas:
                list(pool.map(lambda dtype, isa=isa: self.check(isa, dtype), dtypes))

    def check_fault(self, fault: FaultOf) -> None:
        """Plants it in the scalar kernels, which are the fastest to compile."""
        folder = self.folder / fault.says.replace(" ", "_")
        csrc = fault.plant(CSRC, folder)
        source = csrc / "cpu" / "isa_scalar.cpp"
        faulty = compile_objects([source], [*self.flags, KERNELS, f"-I{csrc}"], folder)
        kept = [obj for obj in self.objects if obj.name != f"{source.name}.o"]
        driver = link([*faulty, *kept], folder / "cpu", self.flags)
        # Each race found costs a report, and one is enough.
        env = {"GDEXT_CPU_ISA": "scalar", "TSAN_OPTIONS": "halt_on_error=1"}
        done = run(driver, "f32", 1, fault.op, env=env)
        assert done.returncode != 0
        assert fault.says in done.stdout + done.stderr

    def check_faults(self, faults: list[FaultOf]) -> None:
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(self.check_fault, faults))


# All that a sanitizer finds is one test, so that pytest-xdist builds its driver in one process.
def test_address_and_undefined_behaviour(tmp_path):
    sanitized = Sanitized(
        ["-fsanitize=address,undefined", "-fno-sanitize=null", "-fno-sanitize-recover=all"],
        tmp_path,
    )
    dtypes = {"scalar": DTYPES, "avx512": DTYPES, "avx512bf16": ["bf16"]}
    assert sanitized.isas[-1] == "scalar"
    for isa in sanitized.isas:
        sanitized.check_all([isa], dtypes.get(isa, ["f32"]))
    beyond_the_guards = FaultOf(
        "cpu/sgd.inl",
        "for_each_lanes<A>(begin, end, [&]",
        "for_each_lanes<A>(begin, end + 17, [&]",
        "sgd",
        "AddressSanitizer: heap-buffer-overflow",
    )
    misaligned = FaultOf(
        "common/arena.h",
        "+ kAlignment - 1) / kAlignment * kAlignment",
        ")",
        "mlp",
        "misaligned address",
    )
    wrong = FaultOf(
        "cpu/mlp.inl", "z[r * P + j] += b[j]", "z[r * P + j] -= b[j]", "mlp", "FAIL mlp "
    )
    sanitized.check_faults([beyond_the_guards, misaligned, wrong])


def test_threads(tmp_path):
    """Races do not depend on the instruction set: the best one's are looked for."""
    best = gdext.build_info()["cpu"]["in_use"].removesuffix("bf16")  # float32 is avx512's there
    sanitized = Sanitized(["-fsanitize=thread"], tmp_path, {best})
    sanitized.check_all([best], ["f32"])
    sanitized.check_faults(
        [
            FaultOf(
                "cpu/mlp.inl",
                "        if (!layer.split) member.barrier();\n",
                "",
                "mlp",
                "ThreadSanitizer: data race",
            )
        ]
    )
